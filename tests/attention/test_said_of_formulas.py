"""What a class says of its formula holds of that formula alone, and both shells read it alike."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import Operator
from graphformer.attention.candidates import Causal
from graphformer.attention.normalizers import Normalizer, Softmax
from graphformer.attention.pairs import Block, Listed, Pairs
from graphformer.attention.scores import Differential, ScaledDotProduct
from graphformer.attention.sparsifiers import NormalizeWeights, Sparsifier
from graphformer.nn import AttentionConv

B, H, N, D = 2, 3, 11, 5


def qkx() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(B, H, N, D, dtype=torch.float64) for _ in range(3))  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Slanted(ScaledDotProduct):
    """A dot product and a slope, which no kernel of dot products knows."""

    def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
        return super().logits(q, k, pairs) - 0.3 * pairs.distance


@dataclass(frozen=True, eq=False)
class Turned(ScaledDotProduct):
    """Dot products of other queries."""

    def prepare(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return super().prepare(q.flip(-1), k)


@dataclass(frozen=True)
class Halved(Softmax):
    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        return 0.5 * pairs.softmax(scores)


@dataclass(frozen=True)
class NotSelf(Causal):
    def allow(self, pairs: Pairs) -> Tensor:
        return (pairs.sender < pairs.position) | (pairs.position == 0)


@dataclass(frozen=True)
class Below(gf.Threshold):
    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        return weights < self.tau


@pytest.mark.parametrize(
    "slots",
    [
        {"score": Slanted()},
        {"normalize": Halved()},
        {"candidates": NotSelf()},
        {"sparsify": Below(0.1)},
    ],
    ids=["score", "normalizer", "rule", "sparsifier"],
)
def test_a_subclass_with_another_formula_takes_no_fast_path_of_the_old_one(slots):
    q, k, x = qkx()
    found, _ = gf.attention.attend(q, k, x, ("sum",), **slots)
    want, _ = gf.attention.attend(q, k, x, ("sum",), executor="dense", **slots)
    assert_close(found["sum"], want["sum"])
    streamed, _ = gf.attention.attend(q, k, x, ("sum",), executor="stream", **slots)
    assert_close(streamed["sum"], want["sum"])


def test_one_that_says_so_again_takes_it():
    class Same(ScaledDotProduct):
        def logits(self, q: Tensor, k: Tensor, pairs: Block | Listed) -> Tensor:
            return super().logits(q, k, pairs)

        def dots(self, q, k):
            return super().dots(q, k)

    q, k, x = qkx()

    found, _ = gf.attention.attend(q, k, x, ("sum",), score=Same(), executor="flash")
    want, _ = gf.attention.attend(q, k, x, ("sum",), executor="dense")
    assert_close(found["sum"], want["sum"])


def test_other_queries_in_half_precision():
    """A kernel in half precision takes queries as they came; those of this score are others."""
    q, k, x = (one.half() for one in qkx())
    found, _ = gf.attention.attend(q, k, x, ("sum",), score=Turned(), executor="flash")
    want, _ = gf.attention.attend(
        q.float(), k.float(), x.float(), ("sum",), score=Turned(), executor="dense"
    )
    assert_close(found["sum"].float(), want["sum"], atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("score", [ScaledDotProduct(None, 1e5), Differential(0.5, None, 1e5)])
def test_sharpened_queries_beyond_float16_are_computed_in_float32(score):
    q, k, x = qkx()
    if isinstance(score, Differential):
        q, k = torch.cat((q, q.flip(-1)), -1), torch.cat((k, k.flip(-2)), -1)
    q, k, x = q.half(), k.half(), x.half()
    found, _ = gf.attention.attend(q, k, x, ("sum",), score=score, executor="flash")
    want, _ = gf.attention.attend(
        q.float(), k.float(), x.float(), ("sum",), score=score, executor="dense"
    )
    assert bool(found["sum"].isfinite().all())
    assert_close(found["sum"].float(), want["sum"], atol=2e-3, rtol=2e-3)


# -------------------------------------------------------------- one function for both shells


@dataclass(frozen=True)
class LowSenders(Sparsifier):
    """By a number of the pair itself, which the two shells must see alike."""

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        return (pairs.sender < 6).expand(weights.shape)


class Counting(Operator):
    """How many of a receiver's edges weigh more than 0.2."""

    reductions = ("degree@0.2",)

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        return reduced["degree@0.2"].expand(own.shape)


def a_list() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(N, 7, dtype=torch.float64), torch.randint(N, (2, 41))


def test_a_second_sparsifier_sees_the_senders():
    """It saw edges in the place of senders."""
    x, index = a_list()
    index = torch.unique(index, dim=1)
    sparsify = NormalizeWeights(4, then=LowSenders())
    conv = gf.nn.SumAttentionConv(7, 15, H, sparsify=sparsify).double().eval()
    _, graph = conv(x, index, output_graph=True)
    assert graph.num_edges and int((graph.senders % N).max()) < 6
    whole = gf.nn.SumAttentionConv(7, 15, H, sparsify=NormalizeWeights(4)).double().eval()
    _, other = whole(x, index, output_graph=True)
    assert graph.num_edges == int((other.senders % N < 6).sum())


@pytest.mark.parametrize("seen", [False, True], ids=["plain", "hooked"])
def test_degrees_count_edges_and_not_what_dropout_left(seen: bool):
    x, index = a_list()
    conv = AttentionConv(Counting(), 7, 15, H, None, dropout=0.5).double()
    if seen:
        conv.register_message_forward_hook(lambda module, inputs, out: None)
    torch.manual_seed(0)
    out = conv.train()(x, index)
    assert_close(out, conv.eval()(x, index))
    assert bool(out.any())


def test_degrees_of_token_layers_alike():
    layer = gf.nn.GraphAttention(Counting(), hidden_size=15, num_heads=3, attention_dropout=0.5)
    assert isinstance(layer, nn.Module)
    x = torch.randn(2, 7, 15)
    assert_close(layer.train()(x), layer.eval()(x))


def test_normalizers_of_ones_own_are_no_softmax():
    assert not Normalizer.is_softmax and Softmax.is_softmax and not Halved.is_softmax


# ---------------------------------------------------- what a class tells by writing a method


class Wide(ScaledDotProduct):
    """Queries that see the hidden states themselves."""

    def of_hidden(self, receivers, senders, q, k, split):
        return q + receivers.sum(), k


class HiddenReader:
    def of_hidden(self, receivers, senders, q, k, split):
        return q + receivers.sum(), k


class ByAnother(HiddenReader, ScaledDotProduct):
    """The same by a class that is no score."""


class QuietAgain(Wide):
    reads_hidden = False

    def of_hidden(self, receivers, senders, q, k, split):
        return q, k


class Untouched(Wide):
    pass


def test_a_score_that_writes_of_hidden_reads_hidden_states():
    assert not ScaledDotProduct.reads_hidden and not QuietAgain.reads_hidden
    assert Wide.reads_hidden and ByAnother.reads_hidden and Untouched.reads_hidden
    assert Differential.alone and not ScaledDotProduct.alone


def test_what_a_class_says_holds_also_where_the_formula_comes_from_another_class():
    class Slope:
        def logits(self, q, k, pairs):
            return ScaledDotProduct.logits(self, q, k, pairs) - 0.3 * pairs.distance  # type: ignore[arg-type]

    class Mixed(Slope, ScaledDotProduct):
        pass

    q, k, x = qkx()
    found, _ = gf.attention.attend(q, k, x, ("sum",), score=Mixed())
    want, _ = gf.attention.attend(q, k, x, ("sum",), score=Slanted(), executor="dense")
    assert_close(found["sum"], want["sum"])


@pytest.mark.parametrize("score", ["differential", "pairwise"])
def test_scores_read_zeros_where_receivers_have_no_features(score: str):
    torch.manual_seed(2)
    conv = gf.nn.SumAttentionConv((7, 5), 15, H, score=score).double()
    x, index = torch.randn(N, 7, dtype=torch.float64), torch.randint(N, (2, 41))
    zeros = torch.zeros(N, 5, dtype=torch.float64)
    assert_close(conv((x, None), index, size=(N, N)), conv((x, zeros), index))


def test_a_gate_needs_the_width_of_what_it_reads():
    with pytest.raises(ValueError, match=r"update='gated_heads' needs in_channels; -1 takes them"):
        gf.nn.SumAttentionConv(-1, 15, H, head=gf.Head(update="gated_heads"))
