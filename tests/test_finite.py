"""NaN and infinite hidden states: one answer, whatever the executor; and no number is read where
that would be waited for.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import graphformer as gf
from graphformer import finite
from graphformer.attention.attend import attend
from graphformer.nn import (
    GINAttention,
    GINAttentionConv,
    PNAAttention,
    PNAAttentionConv,
    SumAttention,
    SumAttentionConv,
)

OPERATORS = {"gin": GINAttention, "sum": SumAttention, "pna": PNAAttention}
EXECUTORS = ["auto", "flash", "dense", "stream", "edges"]


def layer(kind: str, executor: str, **options: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A layer, and the candidates that its executor needs."""
    if kind == "pna" and executor == "flash":
        pytest.skip("PNA's maxima need edges")
    ends = torch.arange(7).repeat(7), torch.arange(7).repeat_interleave(7)
    return OPERATORS[kind](15, 5, executor=executor, **options), {
        "candidates": gf.Edges(*ends)
    } if executor == "edges" else {}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", OPERATORS)
def test_hidden_states_that_are_not_finite(kind: str, executor: str, value: float) -> None:
    module, arguments = layer(kind, executor)
    x = torch.randn(2, 7, 15)
    assert module(x, **arguments).isfinite().all()
    x[1, 3, 4] = value
    with pytest.raises(
        ValueError,
        match=r"(the scores are not finite: .*|the features x) holds? \d+ NaN or infinite values "
        r"among \d+",
    ):
        module(x, **arguments)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_features_that_are_not_finite(executor: str) -> None:
    """Queries and keys are in order: a weight of 0 times NaN would be NaN to one executor and no
    edge to another.
    """
    q, k, x = torch.randn(3, 2, 5, 7, 3)
    x[0, 0, 6, 0] = torch.nan
    ends = torch.arange(7).repeat(7), torch.arange(7).repeat_interleave(7)
    arguments: dict[str, Any] = {"candidates": gf.Edges(*ends)} if executor == "edges" else {}
    with pytest.raises(ValueError, match="the features x hold 1 NaN or infinite values among 210"):
        attend(q, k, x, executor=executor, is_causal=True, **arguments)


@pytest.mark.parametrize("executor", ["flash", "dense", "stream"])
def test_scores_that_overflow(executor: str) -> None:
    """An infinite score may have weight 0 or NaN, as its row says; none is asked."""
    q, k, x = torch.randn(3, 2, 5, 7, 3)
    with pytest.raises(
        ValueError, match=r"the scores can overflow torch.float32: q .* reaches .* and k "
    ):
        attend(q * 1e20, k * 1e20, x, executor=executor)


def test_a_finite_sum_is_not_asked_for() -> None:
    """Finite numbers whose sum is infinite are finite, in half precision too."""
    for dtype, number in ((torch.float32, 3e38), (torch.float16, 6e4), (torch.bfloat16, 3e38)):
        finite.require_finite(torch.full((11,), number, dtype=dtype), "x holds", "look")
        with pytest.raises(ValueError, match="x holds 2 NaN or infinite values among 3; look"):
            finite.require_finite(
                torch.tensor([torch.inf, -torch.inf, 1.0], dtype=dtype), "x holds", "look"
            )


@pytest.mark.parametrize("operator", ["sum", "gin"])
def test_a_language_model_says_so(operator: str) -> None:
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=10,
        intermediate_size=7,
        num_hidden_layers=2,
        num_attention_heads=5,
        operator=operator,
    )
    model = gf.GraphformerForCausalLM(config)
    x = torch.randn(2, 7, 10)
    assert model(inputs_embeds=x).logits.isfinite().all()
    x[1, 3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"not finite|the features x hold"):
        model(inputs_embeds=x)


class Reads(TorchDispatchMode):
    """Collects what would wait for an accelerator."""

    waiting = ("_local_scalar_dense", "nonzero", "equal", "item")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.overloadpacket.__name__ in self.waiting:
            self.found.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are on another device, as far as this library's checks can tell."""
    monkeypatch.setattr(finite, "on_host", lambda value: False)


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("kind", ["gin", "sum"])
def test_flash_reads_no_number_of_an_accelerator(kind: str) -> None:
    module, x = OPERATORS[kind](15, 5), torch.randn(2, 7, 15, requires_grad=True)
    with Reads() as reads:
        module(x).sum().backward()
    assert reads.found == []


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("kind", ["gin", "sum"])
def test_nan_goes_through_where_nothing_is_read(kind: str) -> None:
    module, x = OPERATORS[kind](15, 5), torch.randn(2, 7, 15)
    x[1, 3] = torch.nan
    out = module(x)
    assert out[0].isfinite().all() and out[1, 3:].isnan().all()
    with (
        finite.checked_everywhere(),
        pytest.raises(ValueError, match=r"not finite|the features x hold"),
    ):
        module(x)
    assert module(x).isnan().any()


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("executor", ["dense", "stream"])
def test_edges_that_are_cut_never_lose_a_nan(executor: str) -> None:
    q, k, x = torch.randn(3, 2, 5, 7, 3)
    q[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="the scores are not finite: q"):
        attend(q, k, x, sparsify=gf.Threshold(0.1), executor=executor)


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("kind", [GINAttentionConv, PNAAttentionConv, SumAttentionConv])
def test_given_edges_read_no_number_of_features(kind: Callable[..., Any]) -> None:
    """The edges themselves are looked at once; a pass with other features and the same sorted edges
    reads nothing.
    """
    from graphformer.nn.edge_list import EdgeList

    conv, x = kind(15, 10, heads=5, edge_dim=3), torch.randn(7, 15)
    edges, attr = EdgeList.sort(*torch.randint(7, (2, 23)), 7, 7), torch.randn(23, 3)
    conv.attend(x, x, edges, attr)
    with Reads() as reads:
        conv.attend(x, x, edges, attr)
    assert reads.found == []
    x[int(edges.senders[0])] = torch.nan
    out, *_ = conv.attend(x, x, edges, attr)
    assert out[int(edges.receivers[0])].isnan().all()


def test_given_edges_that_are_cut_never_lose_a_nan(accelerator: None) -> None:
    conv = GINAttentionConv(15, 10, heads=5, sparsify=gf.Threshold(0.1))
    x = torch.randn(7, 15)
    x[3] = torch.nan
    with pytest.raises(ValueError, match=r"the scores are not finite: they hold \d+ NaN"):
        conv(x, torch.stack((torch.arange(7), torch.arange(7).roll(1))))


def test_compiled_code_lets_nan_through_or_raises() -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 7, 15)
    x[1, 3] = torch.nan
    whole = torch.compile(GINAttention(15, 5), backend="aot_eager", fullgraph=True)
    assert whole(x)[1, 3:].isnan().all()
    cut = torch.compile(
        GINAttention(15, 5, sparsify=gf.Threshold(0.1)), backend="aot_eager", fullgraph=True
    )
    with pytest.raises(ValueError, match="the scores are not finite"):
        cut(x)

    def check(value: Tensor) -> Tensor:
        finite.require_finite(value, "x holds", "look closer", cuts=True)
        return value * 2

    asked = torch.compile(check, backend="aot_eager", fullgraph=True)
    assert torch.equal(asked(torch.ones(3)), torch.full((3,), 2.0))
    with pytest.raises(RuntimeError, match="x holds NaN or infinite values; look closer"):
        asked(torch.tensor([1.0, torch.nan, 0.0]))
    torch._dynamo.reset()


def test_an_exported_layer_has_no_check_in_its_way() -> None:
    layer, x = GINAttention(15, 5), torch.randn(2, 7, 15)
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), layer(x))
