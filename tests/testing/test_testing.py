"""Every law of graphformer.testing rejects layers that break it and accepts plain correct ones."""

from __future__ import annotations

import copy
import pickle
import threading
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.testing import (
    LAWS,
    GraphSample,
    LawViolation,
    check_agreement,
    check_backends_agree,
    check_batch_independence,
    check_cache,
    check_causal,
    check_direction,
    check_disjoint,
    check_equivariant,
    check_executors_agree,
    check_finite,
    check_gradients,
    check_identity,
    check_invariant,
    check_packing,
    check_padding,
    check_prefix,
    check_second_gradient,
    check_threads,
    from_pyg,
    hidden_states,
    hostile_graphs,
    hostile_inputs,
    positions_of,
    random_graph,
    token_ids,
)

HIDDEN = 15


class rejects:
    """The law that must be found broken, and a pattern of its text."""

    def __init__(self, law: int, match: str) -> None:
        self.law, self.raises = law, pytest.raises(LawViolation, match=match)

    def __enter__(self) -> pytest.ExceptionInfo[LawViolation]:
        self.info = self.raises.__enter__()
        return self.info

    def __exit__(self, *error: object) -> bool:
        caught = self.raises.__exit__(*error)
        assert self.info.value.law == self.law
        assert f"law {self.law} ({LAWS[self.law]}) is broken: " in str(self.info.value)
        return bool(caught)


class Attention(nn.Module):
    """Plain causal attention through torch, safe where a row is fully masked."""

    def __init__(self, hidden: int = HIDDEN, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)

    def mask(self, x: Tensor, keep: Tensor | None) -> Tensor:
        batch, length = x.shape[:2]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        if keep is None:
            return causal.expand(batch, 1, length, length)
        # Every token sees itself, so that no row is empty.
        return (causal & keep.bool()[:, None, None, :]) | torch.eye(length, dtype=torch.bool)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(x, keep))
        return x + self.out(mixed.transpose(1, 2).flatten(2))


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    return Attention().eval()


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=17,
        hidden_size=30,
        intermediate_size=35,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        initializer_range=0.2,  # so that a logit says something about the tokens before it
    )
    return LlamaForCausalLM(config).eval()


X = hidden_states(HIDDEN)
IDS = token_ids(17)


# ---------------------------------------------------------------------- 1 causal


def test_causal_accepts_attention_and_llama(attention: Attention, llama: nn.Module) -> None:
    check_causal(attention, X)
    check_causal(llama, IDS, vocab_size=17)
    check_causal(attention, X[:, :1])  # one token
    check_causal(attention.half(), X.half())


def test_causal_rejects_a_layer_that_sees_the_next_token() -> None:
    def leak(x: Tensor) -> Tensor:
        return x + 1e-3 * torch.roll(x, -1, dims=1)

    with rejects(
        1, r"changing token 2 of 11 changed output 1 of sequence \d \(index \(\d, 1, \d+\)\)"
    ) as caught:
        check_causal(leak, X, positions=[2])
    assert caught.value.difference > caught.value.tolerance == pytest.approx(1e-5, rel=5)
    with rejects(1, "changing token 10 of 11"):
        check_causal(lambda x: x + x[:, -1:], X)
    # a mean over the sequence, found at the middle token
    with rejects(1, "changing token 5 of 11 changed output"):
        check_causal(lambda x: x - x.mean(1, keepdim=True), X, positions=[5])


def test_causal_rejects_bidirectional_attention_without_mask(attention: Attention) -> None:
    attention.mask = lambda x, keep: torch.ones(len(x), 1, x.shape[1], x.shape[1], dtype=torch.bool)
    with rejects(
        1,
        r"difference .* > .* \(atol 1e-05 \+ rtol 1e-05 \* \|expected\| of its row\); \d+ of \d+ "
        r"entries differ",
    ):
        check_causal(attention, X)


def test_causal_is_not_passed_by_ignoring_the_input() -> None:
    with rejects(1, "changing token 0 of 11 changed no output at all.*expect_change=False"):
        check_causal(torch.zeros_like, X)
    check_causal(torch.zeros_like, X, expect_change=False)


def test_causal_finds_a_nan_before_the_changed_token(attention: Attention) -> None:
    def poisoned(x: Tensor) -> Tensor:
        return torch.where((x == X).all(), x, torch.full_like(x, torch.nan))

    with rejects(1, "got nan"):
        check_causal(poisoned, X, positions=[5])


def test_causal_says_what_is_wrong_with_its_input(attention: Attention) -> None:
    with pytest.raises(
        ValueError, match=r"hidden states \[B, N, D\] or token ids \[B, N\], got shape \(3, 11\)"
    ):
        check_causal(attention, X[..., 0])
    with pytest.raises(ValueError, match=r"positions must lie in -11..10 .* got \[11\]"):
        check_causal(attention, X, positions=[11])
    with pytest.raises(ValueError, match=r"must return \[B, N, ...\] .* got shape \(3, 15\)"):
        check_causal(lambda x: x.mean(1), X)
    with pytest.raises(ValueError, match="vocabulary of at least 2"):
        check_causal(lambda ids: ids.float(), torch.zeros(2, 7, dtype=torch.long))
    with pytest.raises(TypeError, match="returned dict"):
        check_causal(lambda x: {"a": x}, X)
    with pytest.raises(
        ValueError, match=r"different outputs for the same input twice; call .eval\(\)"
    ):
        check_causal(nn.Dropout(0.5), X)


# ---------------------------------------------------------------------- 2 padding, batch, packing


def test_padding_accepts_attention_and_llama(attention: Attention, llama: nn.Module) -> None:
    check_padding(attention, X)
    check_padding(attention, X, lengths=[1, 7, 5], padding=1)
    check_padding(
        lambda ids, keep: llama(
            input_ids=ids, attention_mask=keep, position_ids=positions_of(keep)
        ),
        IDS,
        vocab_size=17,
    )


def test_padding_rejects_a_layer_that_ignores_the_mask(attention: Attention) -> None:
    with rejects(
        2, r"left padding to 14 places changed the output of real token \d+ of \d+ in sequence \d"
    ):
        check_padding(lambda x, keep: attention(x), X)
    # causal: what follows is not seen anyway
    check_padding(lambda x, keep: attention(x), X, sides=["right"])


def test_padding_rejects_a_mask_on_the_scores_only() -> None:
    def mean(x: Tensor, keep: Tensor) -> Tensor:  # sums real tokens, divides by all places
        return x + (x * keep[..., None]).sum(1, keepdim=True) / x.shape[1]

    with rejects(2, "padding to 14 places"):
        check_padding(mean, X)


def test_padding_says_what_is_wrong_with_its_input(attention: Attention) -> None:
    with pytest.raises(ValueError, match=r"lengths must be 3 numbers .* in 1..11, got \[0, 1, 2\]"):
        check_padding(attention, X, lengths=[0, 1, 2])
    with pytest.raises(ValueError, match=r"sides must be among 'left' and 'right', got \['up'\]"):
        check_padding(attention, X, sides=["up"])


def test_batch_independence_accepts_attention_and_rejects_normalising_over_the_batch(
    attention: Attention,
) -> None:
    check_batch_independence(attention, X)

    def batch_norm(x: Tensor) -> Tensor:
        return (x - x.mean((0, 1))) / x.std((0, 1))

    with rejects(2, r"running it alone changed the output of sequence 0 at index \(\d+, \d+\)"):
        check_batch_independence(batch_norm, X)
    with rejects(2, "running it alone"):
        check_batch_independence(
            nn.Sequential(nn.Flatten(0, 1), nn.BatchNorm1d(HIDDEN), nn.Unflatten(0, (-1, 11))), X
        )

    def rolled(x: Tensor) -> Tensor:  # hidden by running alone: only a batch of more than one leaks
        return x + x.roll(1, 0) * (len(x) > 1) if len(x) > 1 and not torch.equal(x, X) else x

    with rejects(2, "changing its batch mates changed the output of sequence 0"):
        check_batch_independence(rolled, X)
    with pytest.raises(ValueError, match="at least 2 sequences"):
        check_batch_independence(attention, X[:1])


def test_packing_accepts_llama_and_rejects_a_model_that_ignores_positions(llama: nn.Module) -> None:
    sequences = [token_ids(17, batch=1, length=n, seed=n)[0] for n in (3, 7, 5)]

    def packed(ids: Tensor, position_ids: Tensor) -> Tensor:
        return llama(input_ids=ids, position_ids=position_ids, use_cache=False).logits

    check_packing(packed, sequences)
    check_packing(packed, sequences, alone=lambda ids: llama(input_ids=ids).logits)
    with rejects(
        2, r"packing changed the output of token \d+ of 7 in sequence 1 \(packed as number 2 of 3\)"
    ):
        check_packing(lambda ids, position_ids: llama(input_ids=ids).logits, sequences)
    with pytest.raises(ValueError, match="at least 2 sequences, got 1"):
        check_packing(packed, sequences[:1])


# ---------------------------------------------------------------------- 3 prefix


def test_prefix_accepts_attention_and_llama(attention: Attention, llama: nn.Module) -> None:
    check_prefix(attention, X)
    check_prefix(llama, IDS, lengths=[3])


def test_prefix_rejects_a_layer_that_divides_by_the_length() -> None:
    def causal_but_long(x: Tensor) -> Tensor:
        return x.cumsum(1) / x.shape[1]

    check_causal(causal_but_long, X)  # which the causal law cannot see
    with rejects(
        3,
        r"output 0 of sequence \d \(index .*\) of 11 tokens is not that of the first 1 tokens "
        r"alone",
    ):
        check_prefix(causal_but_long, X)
    with pytest.raises(ValueError, match=r"prefixes 1..11 .*, got \[0\]"):
        check_prefix(causal_but_long, X, lengths=[0])


# ---------------------------------------------------------------------- 4 cache


class ToyLM(nn.Module):
    """Logits from the mean of all embeddings so far, plus a position embedding. ``fault`` breaks
    its cache.
    """

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fault, self.tokens, self.places = fault, nn.Embedding(17, 7), nn.Embedding(50, 7)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Tensor | None = None,
        use_cache: bool = False,
    ) -> types.SimpleNamespace:
        past = 0 if past_key_values is None else past_key_values.shape[1]
        if self.fault == "first" and past:  # keeps its size, loses what the first token was
            past_key_values = torch.cat(
                (torch.zeros_like(past_key_values[:, :1]), past_key_values[:, 1:]), 1
            )
        if self.fault == "position 0" or position_ids is None:
            position_ids = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        x = self.tokens(input_ids) + self.places(position_ids)
        seen = x if past_key_values is None else torch.cat((past_key_values, x), 1)
        keep = torch.ones(seen.shape[:2]) if attention_mask is None else attention_mask.float()
        if self.fault == "mask" and past:
            keep = torch.ones_like(keep)
        total = (seen * keep[..., None]).cumsum(1) / keep.cumsum(1).clamp(min=1)[..., None]
        # a chunk on a cache sees all of itself
        if self.fault == "chunk" and past and input_ids.shape[1] > 1:
            total = total[:, -1:].expand_as(total)
        if self.fault == "forgets":
            seen = seen[:, -4:]
        if self.fault == "twice" and past:
            seen = torch.cat((past_key_values, past_key_values, x), 1)
        cache = seen if use_cache and self.fault != "no cache" else None
        logits = total[:, past:] if self.fault != "shape" or not past else total
        return types.SimpleNamespace(logits=logits, past_key_values=cache)


def test_cache_accepts_llama_and_a_toy(llama: nn.Module) -> None:
    check_cache(llama, IDS)
    check_cache(
        llama,
        IDS,
        attention_mask=torch.tensor([[1] * 11, [0] * 4 + [1] * 7]),
        prefill=[5],
        chunks=[2],
    )
    check_cache(ToyLM(), IDS)


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        (
            "position 0",
            r"logits of token 1 of 11 in sequence \d differ .* a prefill of 1, then call 1 of 1 "
            r"tokens each",
        ),
        ("chunk", r"a prefill of 1, then call 1 of 3 tokens each \(cache of 1\)"),
        ("mask", r"\(cache of \d+, padded batch\)"),
        (
            "twice",
            r"logits of token 2 of 11 in sequence \d differ .* a prefill of 1, then call 2 of 1 "
            r"tokens each",
        ),
        ("first", r"logits of token 1 of 11 in sequence"),
        (
            "forgets",
            r"logits of token 5 of 11 in sequence \d differ .* a prefill of 1, then call 5 of 1 "
            r"tokens each",
        ),
        ("shape", "1 tokens on a cache of 1 gave logits of shape"),
    ],
)
def test_cache_rejects_a_faulty_cache(fault: str, match: str) -> None:
    with rejects(4, match):
        check_cache(ToyLM(fault), IDS)


def test_cache_rejects_a_model_that_drops_its_past(llama: nn.Module) -> None:
    def no_past(
        input_ids: Tensor,
        past_key_values: object = None,
        position_ids: object = None,
        **rest: object,
    ) -> object:
        return llama(input_ids=input_ids, position_ids=position_ids, use_cache=True)

    with rejects(4, "logits of token 1 of 11"):
        check_cache(no_past, IDS, left_padding=0)


def test_cache_says_what_is_wrong_with_its_input() -> None:
    with pytest.raises(TypeError, match="returned neither cache nor past_key_values"):
        check_cache(ToyLM("no cache"), IDS)
    with pytest.raises(TypeError, match="must return logits, got Tensor"):
        check_cache(lambda input_ids, use_cache: input_ids.float(), IDS)
    with pytest.raises(ValueError, match=r"must be \[B, N\] with N >= 2"):
        check_cache(ToyLM(), IDS[:, :1])
    with pytest.raises(ValueError, match=r"prefill must lie in 1..10 .* got \[11\]"):
        check_cache(ToyLM(), IDS, prefill=[11])
    with pytest.raises(ValueError, match="attention_mask must have the shape of input_ids"):
        check_cache(ToyLM(), IDS, attention_mask=torch.ones(1, 11))


# ---------------------------------------------------------------------- 5 agreement


class OffInOneGradient(torch.autograd.Function):
    """The identity, with one entry of its gradient off by 1e-3."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient.view(-1)[7] += 1e-3
        return gradient


def test_agreement_accepts_two_ways_of_attention(attention: Attention) -> None:
    def by_hand(x: Tensor) -> Tensor:
        q, k, v = attention.qkv(x).unflatten(-1, (3, 3, -1)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2)) / 5**0.5
        scores = scores.masked_fill(~attention.mask(x, None), -torch.inf)
        return x + attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    x = X.clone().requires_grad_()
    check_agreement({"sdpa": attention, "by hand": by_hand}, x, parameters=attention)
    # a generator
    check_agreement({"sdpa": attention, "by hand": by_hand}, [x], parameters=attention.parameters())
    # parameters by name
    check_agreement({"sdpa": attention, "copy": copy.deepcopy(attention)}, {"x": X})
    check_agreement({"sdpa": attention, "by hand": by_hand}, X, gradients=False)
    assert x.grad is None and attention.qkv.weight.grad is None


def test_agreement_rejects_an_output_and_a_gradient_that_are_off(attention: Attention) -> None:
    x = X.clone().requires_grad_()
    with rejects(5, r"'fast' and 'slow' differ in the output at index \(\d, \d+, \d+\)"):
        check_agreement(
            {"slow": attention, "fast": lambda x: attention(x) + 1e-3}, x, parameters=attention
        )
    with rejects(
        5,
        r"'fast' and 'slow' differ in the gradient of input 0 at index \(0, 0, 7\).*difference "
        r"0.001",
    ) as caught:
        check_agreement(
            {"slow": attention, "fast": lambda x: attention(OffInOneGradient.apply(x))},
            x,
            parameters=attention,
        )
    assert caught.value.difference == pytest.approx(1e-3, rel=0.01)

    def off_at_a_parameter(x: Tensor) -> Tensor:
        weights = {"out.bias": OffInOneGradient.apply(attention.out.bias)}
        return torch.func.functional_call(attention, weights, (x,))

    with rejects(5, r"gradient of parameter 'out.bias' at index \(7,\)"):
        check_agreement({"slow": attention, "fast": off_at_a_parameter}, x, parameters=attention)


def test_agreement_rejects_a_missing_gradient_and_other_shapes(attention: Attention) -> None:
    x = X.clone().requires_grad_()
    with rejects(5, "gradient of input 0: 'cut' has none, the other's reaches"):
        check_agreement(
            {"whole": attention, "cut": lambda x: attention(x.detach())}, x, parameters=attention
        )
    with rejects(5, r"the output: the shape is \(3, 11, 14\), expected \(3, 11, 15\)"):
        check_agreement(
            {"whole": attention, "cut": lambda x: attention(x)[..., 1:]}, x, parameters=attention
        )
    with rejects(5, r"differ in the output\[1\]"):
        check_agreement({"a": lambda x: (x, x), "b": lambda x: (x, -x)}, x)
    with rejects(5, "got nan"):
        check_agreement(
            {"a": torch.sqrt, "b": lambda x: torch.sqrt(-x)}, x.detach().abs(), gradients=False
        )
    with rejects(5, "expected inf"):
        check_agreement({"a": lambda x: x / 0, "b": lambda x: x}, x.detach().abs(), gradients=False)


def test_agreement_rejects_messages_sent_backwards() -> None:
    graph = random_graph(7, 11, HIDDEN)

    def aggregate(x: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        return torch.zeros_like(x).index_add(0, receivers, x[senders])

    x = graph.x.requires_grad_()
    with rejects(5, "'reversed' and 'right' differ in the output"):
        check_agreement(
            {
                "right": lambda x: aggregate(x, graph.senders, graph.receivers),
                "reversed": lambda x: aggregate(x, graph.receivers, graph.senders),
            },
            x,
        )


def test_agreement_of_backends_and_executors() -> None:
    x = X.clone().requires_grad_()

    def make(name: str, x: Tensor) -> Tensor:
        return x * 2 if name in ("torch", "dense") else x + x + (1e-3 if name == "bad" else 0)

    check_backends_agree(make, x, backends=["torch", "pyg"])
    check_executors_agree(make, x)
    with rejects(5, "'bad' and 'torch'"):
        check_backends_agree(make, x, backends=["torch", "pyg", "bad"])
    with rejects(5, "'bad' and 'dense'"):
        check_executors_agree(make, x, executors=["dense", "bad"])
    check_backends_agree(make, x, backends=["torch", "bad"], atol=1e-2)


def test_agreement_says_what_is_wrong_with_its_input(attention: Attention) -> None:
    with pytest.raises(ValueError, match="at least 2 variants"):
        check_agreement({"a": attention}, X)
    with pytest.raises(ValueError, match="no gradient reaches any input or parameter of 'a'"):
        check_agreement({"a": lambda x: x, "b": lambda x: x}, X)
    with pytest.raises(ValueError, match=r"only 'b' has \[\], only 'a' has .*go to parameters="):
        check_agreement({"a": attention, "b": lambda x: attention(x)}, X)
    with pytest.raises(TypeError, match="returned NoneType, which holds no floating tensors"):
        check_agreement({"a": lambda x: None, "b": lambda x: None}, X)


# ---------------------------------------------------------------------- 6, 7 graphs


def gcn() -> nn.Module:
    from torch_geometric.nn import GCNConv

    torch.manual_seed(0)
    return GCNConv(5, 3).eval()


GRAPHS = [
    random_graph(7, 13, 5, seed=1),
    random_graph(1, 0, 5, seed=2),
    random_graph(3, 0, 5, seed=3),
    random_graph(5, 11, 5, seed=4),
]
G = GRAPHS[0]
CHAIN = GraphSample(
    hidden_states(5, batch=1, length=5)[0], torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3])
)


def pooled(x: Tensor, senders: Tensor, receivers: Tensor, batch: Tensor) -> Tensor:
    """Per graph: the sum over nodes of a non-linear function of each node and its senders.
    ``[num_graphs, D]``
    """
    mixed = x + torch.zeros_like(x).index_add(0, receivers, x[senders])
    return torch.zeros(int(batch.max()) + 1, x.shape[1]).index_add(0, batch, mixed.tanh())


def test_graph_laws_accept_gcn_gine_and_pooling() -> None:
    from torch_geometric.nn import GINEConv

    conv = from_pyg(gcn())
    check_equivariant(conv, G.x, G.senders, G.receivers)
    check_disjoint(conv, GRAPHS)
    check_direction(conv, CHAIN.x, CHAIN.senders, CHAIN.receivers)
    check_invariant(pooled, G.x, G.senders, G.receivers)
    check_disjoint(pooled, GRAPHS, target="graph")

    torch.manual_seed(0)
    edged = [random_graph(n, e, 5, edge_dim=2, seed=n) for n, e in ((7, 13), (2, 1), (5, 3))]
    gine = from_pyg(GINEConv(nn.Linear(5, 3), edge_dim=2).eval())
    g = edged[0]
    check_equivariant(gine, g.x, g.senders, g.receivers, edge_attr=g.edge_attr)
    check_disjoint(gine, edged)

    def edge_output(x: Tensor, s: Tensor, r: Tensor, batch: Tensor, edge_attr: Tensor) -> Tensor:
        return torch.cat((x[s] - 2 * x[r], edge_attr), -1)

    check_equivariant(
        edge_output, g.x, g.senders, g.receivers, edge_attr=g.edge_attr, target="edge"
    )
    check_disjoint(edge_output, edged, target="edge")


def test_equivariance_with_a_batch_keeps_nodes_in_their_graph() -> None:
    from torch_geometric.nn import GraphNorm

    norm = GraphNorm(5)
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    model = from_pyg(lambda x, edge_index, batch: norm(x, batch), pass_batch=True)
    check_equivariant(model, G.x, G.senders, G.receivers, batch=batch)


def test_equivariance_rejects_what_depends_on_the_numbering() -> None:
    def numbered(x: Tensor, s: Tensor, r: Tensor, batch: Tensor) -> Tensor:
        return x + torch.arange(len(x))[:, None] * 1e-2

    with rejects(
        6,
        r"permutation 1 of 3 changed the output of node \d \(index \(\d, \d\) after renumbering\)",
    ):
        check_equivariant(numbered, G.x, G.senders, G.receivers)

    def last_edge_wins(x: Tensor, s: Tensor, r: Tensor, batch: Tensor) -> Tensor:
        out = x.clone()
        for sender, receiver in zip(s.tolist(), r.tolist(), strict=True):
            out[receiver] = x[sender]
        return out

    with rejects(6, "changed the output of node"):
        check_equivariant(last_edge_wins, G.x, G.senders, G.receivers)
    with rejects(6, "changed the output of graph 0"):
        check_invariant(lambda x, s, r, batch: x[:1], G.x, G.senders, G.receivers)
    with rejects(6, "changed the output of edge"):
        check_equivariant(
            lambda x, s, r, batch: x[s] + s[:, None], G.x, G.senders, G.receivers, target="edge"
        )


def test_disjoint_rejects_what_sees_other_graphs() -> None:
    with rejects(
        7,
        r"the others in the batch changed the output of graph 0, node \d \(index .*\), batched as "
        r"number 1 of 4",
    ):
        check_disjoint(lambda x, s, r, batch: x - x.mean(0), GRAPHS)
    with rejects(7, "graph 0, node 6"):  # a message to the node of the next number
        check_disjoint(
            lambda x, s, r, batch: x + torch.cat((x[1:], torch.zeros_like(x[:1]))), GRAPHS
        )
    with rejects(7, r"graph 1, graph 0 \(index"):
        check_disjoint(
            lambda x, s, r, batch: pooled(x, s, r, batch).cumsum(0), GRAPHS, target="graph"
        )
    with rejects(7, "graph 1, node 0"):
        check_disjoint(from_pyg(gcn_offset()), GRAPHS)


def gcn_offset() -> nn.Module:
    """A layer that forgets to shift the edges of later graphs, seen as a message from node 0."""

    class Offset(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return x + (torch.arange(len(x)) > 6)[:, None] * x[:1]

    return Offset()


def test_direction_rejects_reversed_edges_and_no_messages() -> None:
    conv = gcn()

    def backwards(x: Tensor, s: Tensor, r: Tensor, batch: Tensor) -> Tensor:
        return conv(x, torch.stack((r, s)))

    # which the other graph laws cannot see
    check_equivariant(backwards, CHAIN.x, CHAIN.senders, CHAIN.receivers)
    with rejects(7, "changing node 1 changed the output of node 0, which no path from 1 reaches"):
        check_direction(backwards, CHAIN.x, CHAIN.senders, CHAIN.receivers)
    with rejects(7, r"changing node 0 changed none of its receivers \[1\]: no message goes"):
        check_direction(lambda x, s, r, batch: x, CHAIN.x, CHAIN.senders, CHAIN.receivers)
    check_direction(
        lambda x, s, r, batch: x, CHAIN.x, CHAIN.senders, CHAIN.receivers, expect_change=False
    )
    with pytest.raises(ValueError, match="every node reaches every other"):
        check_direction(backwards, CHAIN.x[:2], torch.tensor([0, 1]), torch.tensor([1, 0]))


def test_graph_laws_say_what_is_wrong_with_their_input() -> None:
    with pytest.raises(ValueError, match="unknown target 'row'; known: node, edge, graph"):
        check_equivariant(pooled, G.x, G.senders, G.receivers, target="row")
    with pytest.raises(
        ValueError,
        match=r"one row for each node, 7 rows, got shape \(1, 5\); is target='node' right",
    ):
        check_equivariant(pooled, G.x, G.senders, G.receivers)
    with pytest.raises(ValueError, match="at least 2 graphs"):
        check_disjoint(pooled, GRAPHS[:1])
    with pytest.raises(ValueError, match="either every graph has edge_attr or none has"):
        check_disjoint(pooled, [G, random_graph(5, 3, 5, edge_dim=2)])
    with pytest.raises(ValueError, match="3 nodes have at most 6 directed edges, asked for 7"):
        random_graph(3, 7, 5)


def test_random_graphs_have_different_edges_and_no_loops() -> None:
    g = random_graph(5, 20, 3)
    assert len({*zip(g.senders.tolist(), g.receivers.tolist(), strict=True)}) == 20
    assert not bool((g.senders == g.receivers).any())
    assert torch.equal(g.x, random_graph(5, 20, 3).x)


# ---------------------------------------------------------------------- 8 identity


def test_identity_accepts_a_zero_adapter_and_rejects_one_that_is_off_by_little(
    attention: Attention,
) -> None:
    adapter = nn.Linear(HIDDEN, HIDDEN)
    nn.init.zeros_(adapter.weight)
    nn.init.zeros_(adapter.bias)

    def adapted(x: Tensor) -> Tensor:
        return attention(x) + adapter(x)

    check_identity(adapted, attention, X)
    check_identity(adapted, attention(X), X)  # the outputs the base gave
    nn.init.constant_(adapter.bias, 1e-6)
    with rejects(
        8, r"the adapter changes output at index \(\d, \d+, \d+\).* > 0 \(atol 0"
    ) as caught:
        check_identity(adapted, attention, X)
    assert caught.value.difference == pytest.approx(1e-6, rel=0.5)
    check_identity(adapted, attention, X, atol=1e-5)
    with pytest.raises(ValueError, match="cannot be compared"):
        check_identity(lambda x: (x, x), attention, X)


def test_identity_of_a_transformers_model(llama: nn.Module) -> None:
    check_identity(llama, copy.deepcopy(llama), input_ids=IDS)
    other = copy.deepcopy(llama)
    other.lm_head.weight.data[3] += 1e-3
    with rejects(8, r"the adapter changes output\['logits'\] at index \(\d, \d+, 3\)"):
        check_identity(other, llama, input_ids=IDS)


# ---------------------------------------------------------------------- 9 gradients


class Faulty(nn.Module):
    """Three parameters: one used, one that ``fault`` treats."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.good, self.bad = nn.Parameter(torch.ones(HIDDEN)), nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        bad = {
            "": self.bad,
            "unused": 1,
            "detached": self.bad.detach(),
            "zero": 1 + 0 * self.bad,
            "nan": torch.where(x > 0, torch.sqrt(torch.zeros_like(x) * self.bad), self.bad),
        }[self.fault]
        return x * self.good * bad


def test_gradients_accept_attention_and_llama(attention: Attention, llama: nn.Module) -> None:
    # A bias on the keys moves every score of a row alike, so softmax gives it no gradient but
    # rounding.
    check_gradients(attention, X)
    check_gradients(llama, loss=lambda model: model(input_ids=IDS, labels=IDS).loss)
    assert all(p.grad is None for p in llama.parameters())
    check_gradients(Faulty(), X)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("unused", "bad: no gradient"),
        ("detached", "bad: no gradient"),
        ("zero", "bad: the gradient is 0 everywhere"),
        ("nan", "bad: 15 of 15 entries are not finite, first at index \\(0,\\)"),
    ],
)
def test_gradients_reject_missing_zero_and_nan(fault: str, text: str) -> None:
    with rejects(9, f"1 of 2 parameters are at fault: {text}$"):
        check_gradients(Faulty(fault), X)
    check_gradients(Faulty(fault), X, ignore=["bad"])
    if fault == "zero":
        check_gradients(Faulty(fault), X, nonzero=False)


def test_gradients_leave_grad_alone_and_say_what_is_wrong() -> None:
    module = Faulty()
    module.good.grad = torch.full((HIDDEN,), 3.0)
    check_gradients(module, X)
    assert bool((module.good.grad == 3).all()) and module.bad.grad is None
    with rejects(9, "no output depends on a parameter"):
        check_gradients(module, loss=lambda m: m(X).detach().sum())
    with pytest.raises(ValueError, match=r"give either the inputs .* or loss="):
        check_gradients(module)
    with pytest.raises(
        ValueError,
        match="ignore names 'alpha', but no parameter's name ends so; there are: good, bad",
    ):
        check_gradients(module, X, ignore=["alpha"])
    with pytest.raises(ValueError, match="no parameter of the module requires grad"):
        check_gradients(Faulty().requires_grad_(False), X)


# ---------------------------------------------------------------------- law 14


class Cube(torch.autograd.Function):
    """x^3; the first gradients of its faulty children are right, and their gradients are not."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x**3

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 3 * x**2 * grad


class OnceCube(Cube):
    backward = staticmethod(torch.autograd.function.once_differentiable(Cube.backward))


class CutCube(Cube):
    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 3 * x.detach() ** 2 * grad


class RoundedCube(Cube):
    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 3 * x**2 * grad * (1.001 if torch.is_grad_enabled() else 1.0)


class RefusedCube(Cube):
    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("no second derivative: choose executor='dense'")
        return Cube.backward(ctx, grad)


class Cubed(nn.Module):
    """``weight * cube(x W) + x W``: the gradient also passes beside the function."""

    def __init__(self, cube: type[Cube]) -> None:
        super().__init__()
        self.cube, self.inner = cube, nn.Linear(HIDDEN, 7, bias=False, dtype=torch.float64)
        self.weight = nn.Parameter(torch.linspace(0.5, 2, 7, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x)
        return self.weight * self.cube.apply(hidden) + hidden


def test_second_gradients_accept_attention_and_a_function_of_ones_own(attention: Attention) -> None:
    # torch's fast kernels have no second derivative
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        check_second_gradient(copy.deepcopy(attention).double(), X.double())
    check_second_gradient(Cubed(Cube), X.double())
    check_second_gradient(lambda x: x.sin(), X.double())
    check_second_gradient(lambda x: x @ x.new_ones(HIDDEN, 3), X.double())


@pytest.mark.parametrize("cube", [OnceCube, CutCube])
def test_second_gradients_reject_a_part_of_the_answer(cube: type[Cube]) -> None:
    layer = Cubed(cube)
    check_gradients(layer, X.double())
    with rejects(
        14,
        r"input 0: the derivative of the gradient along a random direction is .*, finite "
        r"differences say",
    ):
        check_second_gradient(layer, X.double())
    with rejects(14, "finite differences say"):
        check_second_gradient(lambda x: cube.apply(x), X.double())


def test_second_gradients_reject_a_first_gradient_that_changes() -> None:
    with rejects(14, "the gradient at input 0 is another one with create_graph=True"):
        check_second_gradient(Cubed(RoundedCube), X.double())


def test_second_gradients_let_a_refusal_through_and_leave_tensors_alone() -> None:
    with pytest.raises(RuntimeError, match="no second derivative: choose executor='dense'"):
        check_second_gradient(Cubed(RefusedCube), X.double())
    layer = Cubed(Cube)
    before, x = copy.deepcopy(layer.state_dict()), X.double()
    check_second_gradient(layer, x)
    assert all(
        torch.equal(value, before[name]) for name, value in layer.state_dict().items()
    ) and torch.equal(x, X.double())
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_second_gradients_say_what_is_wrong_with_their_input() -> None:
    with pytest.raises(
        ValueError, match=r"input 0 is torch.float32, and finite differences need float64"
    ):
        check_second_gradient(lambda x: x.sin(), X)
    with pytest.raises(ValueError, match="nothing to differentiate"):
        check_second_gradient(lambda x: x, IDS)
    with rejects(14, "no output depends on an input"):
        check_second_gradient(lambda x: x.detach(), X.double())


# ---------------------------------------------------------------------- 10 finite


class Softmax(nn.Module):
    """Attention written by hand. ``safe`` leaves a fully masked row at 0; without it the row is
    NaN.
    """

    def __init__(self, safe: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.safe, self.alpha, self.q = (
            safe,
            nn.Parameter(torch.ones(())),
            nn.Linear(HIDDEN, HIDDEN),
        )

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        seen = keep.bool()[:, None, :] & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        scores = (self.q(x) @ x.transpose(1, 2)) * self.alpha / HIDDEN**0.5
        if not self.safe:
            return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ x
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        return (scores.softmax(-1) * seen.any(-1, keepdim=True)) @ x


def test_finite_accepts_safe_attention(attention: Attention) -> None:
    check_finite(attention, hostile_inputs(HIDDEN))
    check_finite(
        Softmax(safe=True), hostile_inputs(HIDDEN), call=lambda layer, x, keep: layer(x, keep=keep)
    )
    check_finite(
        Softmax(safe=True),
        hostile_inputs(HIDDEN, dtypes=[torch.float32]),
        extreme={"alpha": (1e-3, 0, -5, 50)},
    )
    check_finite(attention, X)
    check_finite(attention, (X, torch.ones(3, 11)))
    assert all(p.dtype == torch.float32 and p.grad is None for p in attention.parameters())


def test_finite_rejects_a_softmax_over_a_fully_masked_row() -> None:
    everything = hostile_inputs(HIDDEN, dtypes=[torch.float32])
    masked = {name: everything[name] for name in everything if "one sequence fully masked" in name}
    with rejects(
        10,
        r"case 'one sequence fully masked, float32': output holds 105 of 315 numbers that are not "
        r"finite, first nan at index \(2, 0, 0\)",
    ):
        check_finite(Softmax(safe=False), masked)
    with rejects(10, "case 'left padding, float32'"):  # where padding sees only padding
        check_finite(Softmax(safe=False), everything)


def test_finite_rejects_a_nan_gradient_behind_a_finite_output() -> None:
    def norm(x: Tensor, keep: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)).square().mean(1).sqrt()

    cases = hostile_inputs(HIDDEN, dtypes=[torch.float32])
    with rejects(10, r"case 'one token, float32': the gradient of input 0 holds \d+ of 45 numbers"):
        check_finite(norm, cases)
    check_finite(norm, cases, gradients=False)


def test_finite_rejects_an_extreme_parameter() -> None:
    class Power(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            weight = x.abs() ** self.alpha
            return weight / weight.sum(-1, keepdim=True)

    case = {"plain": (X, torch.ones(3, 11))}
    check_finite(Power(), case)
    with rejects(10, "case 'plain, alpha = 500': output holds"):
        check_finite(Power(), case, extreme={"alpha": (0.5, 500)})
    with pytest.raises(
        ValueError, match="extreme names 'beta', but no parameter's name ends so; there are: alpha"
    ):
        check_finite(Power(), case, extreme={"beta": (1,)})
    with pytest.raises(TypeError, match="case 'plain': the module returned no floating tensor"):
        check_finite(lambda x, keep: None, case)


def test_finite_over_graphs() -> None:
    check_finite(
        gcn(), hostile_graphs(5), call=lambda conv, x, s, r, batch: conv(x, torch.stack((s, r)))
    )

    def mean(x: Tensor, s: Tensor, r: Tensor, batch: Tensor) -> Tensor:
        total = torch.zeros_like(x).index_add(0, r, x[s])
        return total / torch.bincount(r, minlength=len(x))[:, None]

    with rejects(10, "case 'one node': output holds 5 of 5 numbers"):
        check_finite(mean, hostile_graphs(5))


# ---------------------------------------------------------------------- 13 threads


def meeting(meet: threading.Barrier) -> None:
    """Wait for the other thread; not where a check calls a layer in its own."""
    if threading.current_thread() is not threading.main_thread():
        meet.wait(60)


class Keeps(nn.Module):
    """Adds its input twice, the second time from where it keeps it: that of whichever thread came
    last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.meet = threading.Barrier(2)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        meeting(self.meet)
        out = x + self.kept if self.kept.shape == x.shape else x + self.kept.sum()
        meeting(self.meet)
        return out


class Forgets(Keeps):
    """Takes its input from where it keeps it, and leaves nothing there."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        meeting(self.meet)
        with self.lock:
            kept, self.kept = self.kept, None
        meeting(self.meet)
        return kept * 2

    lock = threading.Lock()


class SquareOfTheLast(torch.autograd.Function):
    """The square. Its backward pass takes the input from where the class keeps it: its output is
    right, its gradient that of another.
    """

    meet = threading.Barrier(2)
    kept: Tensor

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.square()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        gradient = gradient * 2 * SquareOfTheLast.kept.mean()
        meeting(SquareOfTheLast.meet)
        return gradient


def square_of_the_last(x: Tensor) -> Tensor:
    SquareOfTheLast.kept = x.detach()
    meeting(SquareOfTheLast.meet)
    return SquareOfTheLast.apply(x)


THREADS = [
    hidden_states(HIDDEN, batch=batch, length=length, seed=length)
    for batch, length in ((3, 11), (1, 7))
]


def test_threads_accepts_attention_and_llama(attention: Attention, llama: nn.Module) -> None:
    check_threads(attention, THREADS, calls=40)
    check_threads(llama, [{"input_ids": IDS}, {"input_ids": IDS[:1, :5]}], calls=16)
    check_threads(attention, [(X,), (X[:2], torch.ones(2, 11))], calls=16)
    check_threads(
        lambda ids: llama.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0),
        [IDS, IDS[:1]],
        calls=8,
        gradients=False,
    )
    assert all(parameter.grad is None for parameter in attention.parameters())


def test_threads_rejects_a_layer_that_keeps_its_input() -> None:
    same = [THREADS[0], THREADS[0] + 1]
    for inputs in (same, THREADS):
        with rejects(
            13,
            r"call \d of 4 in 2 threads \(input [01]\) has another output at index \(\d, \d+, "
            r"\d+\) than one thread",
        ):
            check_threads(Keeps(), inputs, threads=2, calls=4, gradients=False)


def test_threads_rejects_a_layer_that_loses_its_input() -> None:
    with rejects(
        13,
        r"2 of 4 calls in 2 threads raised an error that one thread does not raise, first call \d "
        r"\(input [01]\): TypeError",
    ) as caught:
        check_threads(Forgets(), THREADS, threads=2, calls=4, gradients=False)
    assert isinstance(caught.value.__cause__, TypeError)


def test_threads_rejects_a_backward_pass_that_keeps_its_input() -> None:
    inputs = [THREADS[0], THREADS[0] + 1]
    # its outputs are right
    check_threads(square_of_the_last, inputs, threads=2, calls=4, gradients=False)
    with rejects(13, r"call \d of 4 in 2 threads \(input [01]\) has another gradient 0 at index"):
        check_threads(square_of_the_last, inputs, threads=2, calls=4)


def test_threads_says_what_is_wrong_with_its_input(attention: Attention) -> None:
    for inputs in ([X], [X, X.clone()], []):
        with pytest.raises(
            ValueError,
            match=r"at least two whose answers differ, got \d: a mix-up would not be seen",
        ):
            check_threads(attention, inputs, calls=8)
    with pytest.raises(
        ValueError,
        match="threads must be at least 2 and calls at least as many, got threads=1 and calls=500",
    ):
        check_threads(attention, THREADS, threads=1)
    with pytest.raises(ValueError, match="got threads=8 and calls=7"):
        check_threads(attention, THREADS, calls=7)
    with pytest.raises(ValueError, match="gives different outputs for the same input twice"):
        check_threads(nn.Dropout(0.5), THREADS)
    with pytest.raises(ValueError, match=r"the output has no gradient.*give gradients=False"):
        check_threads(lambda x: x.detach(), THREADS)


# ---------------------------------------------------------------------- shared


def test_a_violation_is_an_assertion_and_travels_between_processes() -> None:
    with pytest.raises(AssertionError) as caught:
        check_causal(lambda x: x + x[:, -1:], X)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.law, again.difference, str(again)) == (
        1,
        caught.value.difference,
        str(caught.value),
    )


def test_inputs_come_from_their_seed() -> None:
    assert torch.equal(hidden_states(5), hidden_states(5)) and hidden_states(5).shape == (3, 11, 5)
    assert not torch.equal(hidden_states(5), hidden_states(5, seed=1))
    assert token_ids(17).shape == (2, 11) and int(token_ids(17).max()) < 17
    assert positions_of(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])).tolist() == [
        [0, 0, 0, 1],
        [0, 1, 2, 2],
    ]
