"""merged_graph against matrices: capped scores, sinks, heads apart, trained sparsifiers."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphformer import AttentionGraph
from graphformer.attention import (
    Block,
    NormalizeWeights,
    Pairs,
    Reweigh,
    Sparsifier,
    Threshold,
    TopK,
    merged_graph,
)
from graphformer.attention.build import refined
from graphformer.attention.executors import blocks

PAPER = Reweigh("sigmoid", 0.1, beta=10.0, above=0.6)
CUTS = {
    "threshold": Threshold(0.1),
    "top-k": TopK(3, renormalize=True),
    "paper": PAPER,
    "soft": Reweigh("silu", 0.2),
    "both": Threshold(0.05) & PAPER,
}
MASKS = ("none", "padding", "pairs", "causal", "causal-padding")


def inputs(
    heads: int, kv_heads: int, queries: int, keys: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (2, kv_heads, keys)
    return (
        torch.randn(2, heads, queries, 5, dtype=dtype) * 2,
        torch.randn(*shape, 5, dtype=dtype),
        torch.randn(*shape, 3, dtype=dtype),
    )


def mask_named(name: str, queries: int, keys: int) -> tuple[dict, Tensor]:
    """Arguments of merged_graph, and the same as bool ``[2, 1, queries, keys]``."""
    arguments: dict = {}
    keep = torch.ones(2, 1, queries, keys, dtype=torch.bool)
    if "padding" in name:
        arguments["attention_mask"] = padding = torch.ones(2, keys, dtype=torch.bool)
        # with a causal rule the first rows of the first sequence see nothing
        padding[0, :4] = False
        keep = keep & padding[:, None, None]
    if name == "pairs":
        arguments["attention_mask"] = pairs = torch.rand(2, 1, queries, keys) > 0.4
        pairs[1, :, 2] = False
        keep = pairs
    if "causal" in name:
        arguments["is_causal"] = True
        keep = keep & torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    return arguments, keep


def kept_in_block(sparsify: Sparsifier, weights: Tensor, allowed: Tensor) -> Tensor:
    """What it keeps of matrices ``[B, H or nothing, Nq, Nk]``."""
    shaped = weights if weights.ndim == 4 else weights.view(-1, 1, *weights.shape[-2:])
    every = Pairs.every(len(shaped), shaped.shape[1], *weights.shape[-2:], weights.device)
    pairs = Block(**vars(every), allowed=allowed.expand(weights.shape).reshape(shaped.shape))
    return (sparsify.keep(shaped, pairs) & pairs.allowed).view(weights.shape)


def densely(
    q: Tensor,
    k: Tensor,
    keep: Tensor,
    sparsify: Sparsifier,
    reduce: str | None,
    clamp: float | None,
    softcap: float | None,
    sinks: Tensor | None,
    bias: Tensor | None = None,
) -> tuple[AttentionGraph, Tensor]:
    """The graph and the weights ``[B, H, Nq, Nk]``, from whole matrices."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (
        q.to(wide)
        @ k.to(wide).repeat_interleave(q.shape[1] // k.shape[1], dim=1).mT
        / math.sqrt(q.shape[-1])
    )
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if bias is not None:
        scores = scores + bias.to(wide)
    scores = scores.masked_fill(~keep, -math.inf)
    if sinks is not None:
        scores = torch.cat(
            (sinks.to(wide).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1), scores), -1
        )
    weights = scores.softmax(-1).nan_to_num(0.0)  # a row without any allowed key
    weights = weights if sinks is None else weights[..., 1:]
    merged = (
        weights
        if reduce is None
        else getattr(weights, {"sum": "sum", "mean": "mean", "max": "amax"}[reduce])(1)
    )
    merged = merged if clamp is None else merged.clamp(max=clamp)
    allowed = (keep if reduce is None else keep.squeeze(1)).expand(merged.shape)
    graph = AttentionGraph.from_dense(merged, keep=kept_in_block(sparsify, merged, allowed))
    return refined(sparsify, graph, 1 if reduce is not None else q.shape[1]), weights


def check(q: Tensor, k: Tensor, v: Tensor, mask: str, cut: Sparsifier, **options) -> None:
    arguments, keep = mask_named(mask, q.shape[2], k.shape[2])
    settings = {"reduce": "sum", "clamp": 1.0, "softcap": None, "sinks": None, **options}
    wanted, weights = densely(q, k, keep, cut, **settings)
    graph, out = merged_graph(q, k, v, sparsify=cut, **settings, **arguments)
    assert graph.batch_shape == wanted.batch_shape and (graph.num_receivers, graph.num_senders) == (
        q.shape[2],
        k.shape[2],
    )
    assert torch.equal(graph.edge_index, wanted.edge_index)
    assert_close(graph.weight, wanted.weight)
    exact = weights @ v.to(weights.dtype).repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    assert_close(out, exact.to(v.dtype))


SIZES = [
    (mask, *sizes)
    for mask in MASKS
    for sizes in [(11, 11), (3, 11), (7, 5)]
    if sizes[0] <= sizes[1] or "causal" not in mask
]


@pytest.mark.parametrize(("mask", "queries", "keys"), SIZES)
@pytest.mark.parametrize(
    ("cut", "limit"),
    [
        # blocks of one entry take longest, and one cut stands for all
        pytest.param(cut, limit, marks=pytest.mark.long if limit == 1 and i else ())
        for i, cut in enumerate(CUTS)
        for limit in (1, 3 * 6 * 11, 10**6)
    ],
)
def test_capped_scores_and_sinks(
    monkeypatch, cut: str, mask: str, queries: int, keys: int, limit: int
):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", limit)
    for heads, kv_heads in [(6, 2), (1, 1)]:
        q, k, v = inputs(heads, kv_heads, queries, keys)
        sinks = torch.randn(heads, dtype=torch.float64)
        for reduce in ("sum", "mean", "max", None):
            for softcap, given in [(1.5, None), (None, sinks), (0.7, sinks)]:
                check(q, k, v, mask, CUTS[cut], reduce=reduce, softcap=softcap, sinks=given)


@pytest.mark.parametrize("reduce", ["sum", None])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.usefixtures("small_blocks")
def test_half_precision(dtype: torch.dtype, reduce: str | None):
    q, k, v = inputs(6, 2, 11, 11, dtype)
    check(
        q,
        k,
        v,
        "causal-padding",
        PAPER,
        reduce=reduce,
        softcap=3.0,
        sinks=torch.randn(6, dtype=dtype),
    )


def test_a_sink_far_below_or_above_everything():
    q, k, v = inputs(6, 2, 7, 7)
    for mask in MASKS:
        for far in (-math.inf, -1e30, 1e30):
            check(
                q,
                k,
                v,
                mask,
                Threshold(0.1),
                reduce=None,
                sinks=torch.full((6,), far, dtype=torch.float64),
            )
    plain, _ = merged_graph(q, k, sparsify=Threshold(0.1))
    none, _ = merged_graph(q, k, sparsify=Threshold(0.1), sinks=torch.full((6,), -math.inf))
    assert_close(none.to_dense(), plain.to_dense())
    everything, out = merged_graph(q, k, v, sparsify=Threshold(0.1), sinks=torch.full((6,), 1e30))
    assert everything.num_edges == 0 and (out == 0).all()


def test_a_wide_cap_changes_nothing():
    q, k, v = inputs(6, 2, 7, 7)
    plain, out = merged_graph(q, k, v, sparsify=PAPER)
    capped, same = merged_graph(q, k, v, sparsify=PAPER, softcap=1e6)
    assert_close(capped.to_dense(), plain.to_dense())
    assert_close(same, out)


@pytest.mark.usefixtures("small_blocks")
def test_heads_apart_are_the_heads_of_attention_graph():
    from graphformer import attention_graph

    q, k, _ = inputs(6, 2, 13, 13)
    graph, nothing = merged_graph(q, k, sparsify=Threshold(0.2), reduce=None, is_causal=True)
    wanted = attention_graph(q, k, sparsify=Threshold(0.2), is_causal=True)
    assert nothing is None and graph.batch_shape == (2, 6)
    assert torch.equal(graph.edge_index, wanted.edge_index)
    assert_close(graph.weight, wanted.weight)


def test_the_cut_comes_before_the_edges(monkeypatch):
    """No list of all candidates on the way to the paper's graph, and no mask of all heads."""
    q, k, _ = inputs(6, 2, 64, 64, torch.float32)
    seen: list[int] = []
    refine = Reweigh.refine
    monkeypatch.setattr(
        Reweigh,
        "refine",
        lambda self, weights, pairs: seen.append(len(weights)) or refine(self, weights, pairs),
    )
    monkeypatch.setattr(
        blocks, "allowed", lambda *_: pytest.fail("weights above the cut are allowed anyway")
    )
    graph, _ = merged_graph(
        q, k, sparsify=Reweigh("sigmoid", 0.1, beta=10.0, above=0.6), is_causal=True
    )
    assert seen == [graph.num_edges] and graph.num_edges < 64 * 65 / 2
    assert (
        float(graph.weight.min()) > 0.6 and float(graph.weight.max()) <= torch.tensor(9.0).sigmoid()
    )


@pytest.mark.parametrize("reduce", ["sum", None])
def test_a_trained_sparsifier_gets_its_gradient(reduce: str | None):
    q, k, v = (value.requires_grad_() for value in inputs(6, 2, 11, 11))
    cut = Reweigh("sigmoid", 0.1, beta=10.0, above=0.6, trainable=True).double()
    graph, out = merged_graph(q, k, v, sparsify=cut, reduce=reduce, is_causal=True)
    grad = torch.randn_like(graph.weight)
    graph.weight.backward(grad)
    assert_close(cut.tau.grad, -(10.0 * graph.weight * (1 - graph.weight) * grad).sum().detach())
    assert q.grad is None and k.grad is None and not out.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        again, _ = merged_graph(q, k, v, sparsify=cut, reduce=reduce, is_causal=True)
    assert torch.equal(again.weight, graph.weight)
    assert not merged_graph(q, k, sparsify=PAPER, reduce=reduce)[0].weight.requires_grad


@pytest.mark.parametrize("reduce", ["sum", None])
def test_next_to_nothing(reduce: str | None):
    for batch, queries, keys in [(0, 5, 5), (2, 0, 5), (2, 0, 0), (1, 1, 1)]:
        q, k = torch.randn(batch, 6, queries, 5), torch.randn(batch, 2, keys, 5)
        graph, out = merged_graph(
            q,
            k,
            k,
            sparsify=PAPER,
            reduce=reduce,
            softcap=2.0,
            sinks=torch.full((6,), -9.0),
            is_causal=True,
        )
        lanes = (batch,) if reduce else (batch, 6)
        assert graph.to_dense().shape == (*lanes, queries, keys) and out.shape == (
            batch,
            6,
            queries,
            5,
        )


def test_refuses():
    q, k, _ = inputs(6, 2, 7, 7)
    with pytest.raises(ValueError, match="softcap must be a positive number, got 0"):
        merged_graph(q, k, sparsify=PAPER, softcap=0.0)
    for sinks in (torch.zeros(2), torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64)):
        with pytest.raises(
            ValueError,
            match=r"sinks must be floating point of shape \(6,\), one a query head, on cpu; got",
        ):
            merged_graph(q, k, sparsify=PAPER, sinks=sinks)
    with pytest.raises(ValueError, match="sinks hold 1 NaN"):
        merged_graph(q, k, sparsify=PAPER, sinks=torch.tensor([0, 0, torch.nan, 0, 0, 0]))
    with pytest.raises(ValueError, match="unknown reduce 'none'; known: sum, mean, max, None"):
        merged_graph(q, k, sparsify=PAPER, reduce="none")


# ---------------------------------------------------------------- the cut of a reweighing


@pytest.mark.parametrize("trainable", [False, True])
def test_above_is_a_cut_of_the_new_weights(trainable: bool):
    weights = torch.rand(7, 11, dtype=torch.float64)
    cut = Reweigh("sigmoid", 0.1, beta=10.0, above=0.6, trainable=trainable).double()
    assert torch.equal(
        kept_in_block(cut, weights, torch.tensor(True)), (10 * (weights - 0.1)).sigmoid() > 0.6
    )
    assert cut.bound == pytest.approx(0.1 + math.log(1.5) / 10)
    assert "above=0.6" in repr(cut)
    if trainable:
        with torch.no_grad():
            cut.tau.fill_(0.5)
        assert cut.bound == pytest.approx(0.5 + math.log(1.5) / 10)


@pytest.mark.parametrize(
    ("cut", "bound"),
    [
        (Threshold(0.2), 0.2),
        (Threshold(-0.2, signed=True), -0.2),
        (TopK(2), None),
        (Threshold(0.2) & Threshold(0.3), 0.3),
        (Threshold(0.2) & TopK(2), None),
        (Reweigh("relu", 0.3), 0.3),
        (Reweigh("silu", 0.3), None),
        (Reweigh("silu", 0.3, keep=Threshold(0.1)), 0.1),
        (Reweigh("relu", 0.3, keep=Threshold(0.4)), 0.4),
        (Reweigh("relu", 0.3, keep=TopK(2)), None),
        (NormalizeWeights(2), None),
    ],
    ids=str,
)
def test_bounds(cut: Sparsifier, bound: float | None):
    assert cut.bound == (None if bound is None else pytest.approx(bound))
    if bound is not None:
        weights = torch.rand(5, 7) - 0.3
        assert torch.equal(kept_in_block(cut, weights, torch.tensor(True)), weights > bound)


def test_above_refuses():
    for arguments in (
        {"curve": "silu", "above": 0.6},
        {"curve": "sigmoid", "above": 1.0},
        {"curve": "sigmoid", "above": 0.6, "beta": -1.0},
    ):
        with pytest.raises(ValueError, match="above is for the rising sigmoid, and lies in"):
            Reweigh(**arguments)


@pytest.mark.parametrize("limit", [1, 11 * 11, 3 * 6 * 11, 10**6])
@pytest.mark.parametrize(("mask", "queries", "keys"), SIZES)
def test_a_bias_on_the_scores(monkeypatch, mask: str, queries: int, keys: int, limit: int):
    """One for all, or one a sequence, a head or both; and one that is a view of no stride."""
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", limit)
    for heads, kv_heads in [(6, 2), (1, 1)]:
        q, k, v = inputs(heads, kv_heads, queries, keys)
        for shape in {(1, 1), (1, heads), (2, 1), (2, heads)}:
            bias = torch.randn(*shape, queries, keys, dtype=torch.float64) * 2
            for reduce in ("sum", "mean", "max", None):
                check(q, k, v, mask, Threshold(0.1), reduce=reduce, bias=bias)
            check(
                q,
                k,
                v,
                mask,
                PAPER,
                softcap=1.5,
                sinks=torch.randn(heads, dtype=torch.float64),
                bias=bias,
            )
        row = torch.randn(1, heads, 1, keys, dtype=torch.float64).expand(-1, -1, queries, -1)
        check(q, k, v, mask, TopK(3), bias=row)
        check(q.float(), k.float(), v.float(), mask, Threshold(0.1), bias=row.half())


def test_a_bias_is_not_repeated_over_sequences(monkeypatch):
    """Nothing as large as scores of all sequences is made."""
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 2**10)
    q, k, _ = inputs(2, 2, 64, 64)
    bias, made = torch.randn(1, 2, 64, 64, dtype=torch.float64), []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.is_floating_point():
                made.append(out.untyped_storage().nbytes() // out.element_size())
            return out

    with Watch():
        merged_graph(q, k, sparsify=Threshold(0.5), bias=bias)
    assert max(made) <= max(bias.numel(), 2 * 2 * 64 * 5 * 2)


def test_what_a_bias_may_be():
    q, k, _ = inputs(6, 2, 7, 7)
    for wrong in (
        torch.zeros(7, 7),
        torch.zeros(3, 6, 7, 7),
        torch.zeros(1, 2, 7, 7),
        torch.zeros(1, 6, 7, 1),
        torch.zeros(1, 6, 7, 7).long(),
    ):
        with pytest.raises(
            ValueError, match=r"bias must be floating point of shape \[1 or 2, 1 or 6, 7, 7\]"
        ):
            merged_graph(q, k, sparsify=PAPER, bias=wrong)
    for value in (math.nan, -math.inf):
        with pytest.raises(ValueError, match=r"bias must be finite.*attention_mask"):
            merged_graph(q, k, sparsify=PAPER, bias=torch.full((1, 1, 7, 7), value))
    lowest = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    lowest[..., 2] = torch.finfo(torch.float64).min
    assert not (merged_graph(q, k, sparsify=Threshold(0.0), bias=lowest)[0].senders % 7 == 2).any()
