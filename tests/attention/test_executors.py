"""The parts of the executors: blocks of rows, the streamed gradient, merged heads, sampled scores,
operators run in stretches.
"""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import graphformer as gf
from graphformer import AttentionGraph, attention_graph
from graphformer.attention import (
    All,
    Block,
    Causal,
    Edges,
    Keep,
    Listed,
    Packed,
    Pairs,
    Rule,
    Threshold,
    TopK,
    Window,
    merged_graph,
)
from graphformer.attention.executors import blocks
from graphformer.attention.problem import Problem, pose
from graphformer.attention.scores import ScaledDotProduct
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.nn import GINAttention, PNAAttention, recompute


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return out


def inputs(
    batch: int,
    heads: int,
    kv_heads: int,
    queries: int,
    keys: int,
    dim: int = 5,
    dtype: torch.dtype = torch.float64,
):
    return torch.randn(batch, heads, queries, dim, dtype=dtype) * 2, torch.randn(
        batch, kv_heads, keys, dim, dtype=dtype
    )


def posed(q: Tensor, k: Tensor, **slots) -> Problem:
    return pose(q, k, score=ScaledDotProduct(), **slots)


# ---------------------------------------------------------------- blocks


class Parity(Rule):
    """A rule of a user's own, without bounds; it looks at the head."""

    def allow(self, pairs: Pairs) -> Tensor:
        return (pairs.sender + pairs.receiver + pairs.head) % 3 != 0


def make_rule(name: str, batch: int, heads: int, queries: int, keys: int) -> Rule:
    return {
        "all": lambda: All(),
        "causal": lambda: Causal(),
        "window": lambda: Window(3),
        "both": lambda: Causal() & Window(2),
        "packed": lambda: Packed(torch.randint(0, 3, (batch, keys))),
        "packed-causal": lambda: (
            Packed(torch.arange(keys).div(3, rounding_mode="floor").expand(batch, keys)) & Causal()
        ),
        "keep": lambda: Keep(torch.rand(batch, keys) > 0.3),
        "keep-pairs": lambda: Keep(torch.rand(batch, 1, queries, keys) > 0.3) & Causal(),
        "user": lambda: Parity(),
        "user-causal": lambda: Parity() & Causal() & Window(4),
    }[name]()


RULES = [
    "all",
    "causal",
    "window",
    "both",
    "packed",
    "packed-causal",
    "keep",
    "keep-pairs",
    "user",
    "user-causal",
]


def answer(rule: Rule, b: int, h: int, i: int, j: int, queries: int, keys: int) -> bool:
    """The rule's answer on one pair alone."""
    one = [torch.tensor([n]) for n in (b, h, i, j)]
    return bool(rule.allow(Pairs(*one, queries, keys)))


sizes = dict(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    queries=st.integers(1, 7),
    more_keys=st.integers(0, 4),
    name=st.sampled_from(RULES),
)


@settings(max_examples=60)
@given(**sizes, limit=st.integers(1, 200), whole=st.booleans())
def test_blocks_cover_every_allowed_pair_once_in_receiver_order(
    seed, batch, kv_heads, group, queries, more_keys, name, limit, whole
):
    torch.manual_seed(seed)
    heads, keys = kv_heads * group, queries + more_keys
    rule = make_rule(name, batch, heads, queries, keys)
    problem = posed(*inputs(batch, heads, kv_heads, queries, keys), candidates=rule)
    together = heads if whole else 1
    seen: list[tuple[int, int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ELEMENTS", limit)
        for block in blocks.walk(problem, together):
            assert len(block.lanes) % together == 0 and block.lanes.start % together == 0
            for piece in block.within(blocks.block_elements(keys)):
                # a row is never cut, however long it is
                assert len(piece.lanes) * len(piece.rows) * len(piece.columns) <= max(limit, keys)
                assert piece.rows == block.rows and piece.columns == block.columns
            allowed = blocks.allowed(problem, block)
            assert allowed.shape == (len(block.lanes), len(block.rows), len(block.columns))
            for lane, row, column in allowed.nonzero().tolist():
                seen.append(
                    (block.lanes.start + lane, block.rows.start + row, block.columns.start + column)
                )
    wanted = [
        (b * heads + h, i, j)
        for b, h, i, j in itertools.product(range(batch), range(heads), range(queries), range(keys))
        if answer(rule, b, h, i, j, queries, keys)
    ]
    assert sorted(seen) == wanted
    if not whole:
        assert seen == wanted


@settings(max_examples=60)
@given(**sizes)
def test_bounds_of_rules_are_never_wrong(seed, batch, kv_heads, group, queries, more_keys, name):
    torch.manual_seed(seed)
    heads, keys = kv_heads * group, queries + more_keys
    rule = make_rule(name, batch, heads, queries, keys)
    allowed = rule.allow(Pairs.every(batch, heads, queries, keys, torch.device("cpu"))).expand(
        batch, heads, queries, keys
    )
    for start, stop in itertools.combinations(range(queries + 1), 2):
        reach, free = (
            set(bound(range(start, stop), queries, keys)) for bound in (rule.reach, rule.free)
        )
        rows = allowed[:, :, start:stop]
        assert set(rows.nonzero()[:, 3].tolist()) <= reach <= set(range(keys))
        for sender in free:
            assert rows[..., sender].all()


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 65, 1000, 1003])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_hits_are_the_nonzero(size: int, share: float):
    keep = torch.rand(size) < share
    assert torch.equal(blocks.hits(keep), keep.nonzero().squeeze(1))
    for shape in [(1, size), (size, 1)] + ([(7, size // 7)] if size % 7 == 0 else []):
        assert torch.equal(blocks.hits(keep.view(shape)), keep.nonzero().squeeze(1))
    table = torch.rand(size + 1, 2) < share
    for part in (table[1:, 1], table.view(-1)[1:]):  # a part of another tensor
        assert torch.equal(blocks.hits(part), part.nonzero().squeeze(1))


# ---------------------------------------------------------------- the streamed gradient

CUTS = {
    "none": None,
    "threshold": Threshold(0.15),
    "negative-threshold": Threshold(-1.0, signed=True),
    "topk": TopK(3),
    "both": Threshold(0.1) & TopK(2),
    "renormalized": Threshold(0.15, renormalize=True),
    "renormalized-topk": TopK(2, renormalize=True),
}
PADDING = torch.tensor([[1] * 11, [0] * 3 + [1] * 8])
SETTINGS: dict[str, tuple[tuple[int, int, int, int], dict]] = {
    "square": ((3, 3, 11, 11), {}),
    "causal": ((3, 3, 11, 11), {"is_causal": True}),
    "grouped": ((6, 2, 11, 11), {"is_causal": True, "attention_mask": PADDING}),
    "rectangular": ((4, 1, 5, 11), {"is_causal": True, "attention_mask": PADDING}),
    "packed": (
        (2, 2, 11, 11),
        {"candidates": Packed(torch.arange(22).view(2, 11) // 4), "is_causal": True},
    ),
    "empty-rows": ((3, 1, 11, 11), {"attention_mask": torch.zeros(2, 11), "is_causal": True}),
    "user": ((2, 1, 7, 11), {"candidates": Parity()}),
}


def losses(
    executor: str, q: Tensor, k: Tensor, alpha: Tensor, sparsify: Sparsifier | None, setting: dict
):
    """Edges, weights and the gradients of q, k and sharpening."""
    leaves = [value.detach().clone().requires_grad_() for value in (q, k, alpha)]
    graph = attention_graph(
        leaves[0], leaves[1], sharpening=leaves[2], executor=executor, sparsify=sparsify, **setting
    )
    slope = torch.sin(graph.senders + 2.0 * graph.receivers)
    grads = torch.autograd.grad((graph.weight * slope.to(graph.weight.dtype)).sum(), leaves)
    return graph, [graph.weight.detach(), *grads]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("case", SETTINGS)
def test_streamed_gradient_is_as_exact_as_the_dense_one(
    monkeypatch, case: str, cut: str, dtype: torch.dtype
):
    """The error against float64 is bounded by what the dense twin itself loses in the same
    precision.
    """
    (heads, kv_heads, queries, keys), setting = SETTINGS[case]
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 3 * keys)
    q, k = (value.to(dtype) for value in inputs(2, heads, kv_heads, queries, keys))
    alpha = torch.tensor(1.3, dtype=torch.promote_types(dtype, torch.float32))
    exact, wanted = losses("dense", q.double(), k.double(), alpha.double(), CUTS[cut], setting)
    dense, dense_values = losses("dense", q, k, alpha, CUTS[cut], setting)
    stream, stream_values = losses("stream", q, k, alpha, CUTS[cut], setting)
    assert torch.equal(stream.edge_index, dense.edge_index) and torch.equal(
        dense.edge_index, exact.edge_index
    )
    # The sharpening's gradient is a sum over all of q's, in which terms cancel.
    summed = (q.double() * wanted[1]).abs().sum().view(1)
    for got, other, want, terms in zip(
        stream_values, dense_values, wanted, (*wanted[:3], summed), strict=True
    ):
        assert got.dtype == other.dtype and got.shape == want.shape
        if want.numel():
            rounding = 16 * torch.finfo(got.dtype).eps * terms.abs().max().clamp(min=1e-3)
            assert (got - want).abs().max() <= 2 * (other - want).abs().max() + rounding


@pytest.mark.parametrize("cut", CUTS)
def test_gradcheck_of_the_stream(monkeypatch, cut: str):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 2 * 5)
    q, k = inputs(2, 2, 1, 3, 5, dim=2)
    mask = torch.tensor([[True, True, True, False, True], [False, False, False, False, True]])

    def weights(q: Tensor, k: Tensor, alpha: Tensor) -> Tensor:
        setting = dict(is_causal=True, attention_mask=mask, sparsify=CUTS[cut], executor="stream")
        return attention_graph(q, k, sharpening=alpha, **setting).weight

    alpha = torch.tensor([[[1.3]], [[0.7]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(weights, [value.requires_grad_() for value in (q, k, alpha)])


@pytest.mark.parametrize("cut", ["threshold", "renormalized", "topk"])
def test_two_backward_passes(monkeypatch, cut: str):
    """What the first pass shares or writes must not change the second."""
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 40)
    q, k = (value.requires_grad_() for value in inputs(2, 6, 2, 11, 11))
    graph = attention_graph(q, k, sparsify=CUTS[cut], is_causal=True, executor="stream")
    loss = graph.weight.square().sum()
    first = torch.autograd.grad(loss, (q, k), retain_graph=True)
    second = torch.autograd.grad(loss, (q, k), retain_graph=True)
    half = torch.autograd.grad(0.5 * loss, (q, k))
    for one, two, three in zip(first, second, half, strict=True):
        assert torch.equal(one, two)
        assert_close(0.5 * one, three)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("needed", [(True, False), (False, True), (False, False)])
def test_gradients_only_where_they_are_needed(monkeypatch, needed: tuple[bool, bool]):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 40)
    leaves = [
        value.requires_grad_(need)
        for value, need in zip(inputs(2, 6, 2, 11, 11), needed, strict=True)
    ]
    graph = attention_graph(*leaves, sparsify=Threshold(0.15), is_causal=True, executor="stream")
    assert graph.weight.requires_grad == any(needed)
    assert not graph.senders.requires_grad
    if any(needed):
        graph.weight.square().sum().backward()
        other = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        attention_graph(
            *other, sparsify=Threshold(0.15), is_causal=True, executor="dense"
        ).weight.square().sum().backward()
        for leaf, twin, need in zip(leaves, other, needed, strict=True):
            assert (leaf.grad is not None) == need
            if need:
                assert_close(leaf.grad, twin.grad)
    with torch.no_grad():
        assert not attention_graph(
            *leaves, sparsify=Threshold(0.15), executor="stream"
        ).weight.requires_grad


@pytest.mark.parametrize("executor", ["dense", "stream"])
def test_autocast_does_not_move_edges(monkeypatch, executor: str):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 40)
    q, k = inputs(2, 3, 3, 11, 11, dtype=torch.float32)
    runs = []
    for on in (False, True):
        leaves = [value.clone().requires_grad_() for value in (q, k)]
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            graph = attention_graph(
                *leaves, sparsify=Threshold(0.1), is_causal=True, executor=executor
            )
            loss = graph.weight.square().sum()
        runs.append((graph, torch.autograd.grad(loss, leaves)))
    (plain, grads), (cast, cast_grads) = runs
    assert torch.equal(plain.edge_index, cast.edge_index) and torch.equal(plain.weight, cast.weight)
    assert cast.weight.dtype == torch.float32
    for one, other in zip(grads, cast_grads, strict=True):
        assert_close(one, other)


def test_backward_inside_autocast(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 40)
    q, k = (value.requires_grad_() for value in inputs(2, 3, 3, 11, 11, dtype=torch.float32))
    loss = attention_graph(q, k, sparsify=Threshold(0.1), executor="stream").weight.square().sum()
    wanted = torch.autograd.grad(loss, (q, k), retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(loss, (q, k))
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == torch.float32
        assert_close(one, other)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "sparsify",
    [Threshold(0.05), Threshold(0.05, renormalize=True), TopK(4), TopK(4, renormalize=True)],
    ids=str,
)
def test_no_tensor_of_all_pairs(monkeypatch, sparsify: Sparsifier):
    length, block = 2048, 2**16
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", block)
    q, k = (torch.randn(1, 1, length, 8).mul(2).requires_grad_() for _ in range(2))
    with Largest() as seen:
        graph = attention_graph(q, k, sparsify=sparsify, is_causal=True)
        graph.weight.square().sum().backward()
    assert length < graph.num_edges
    assert seen.numel <= max(block, 8 * graph.num_edges) < length**2 / 8


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_merged_graph_holds_no_tensor_of_all_pairs(monkeypatch, reduce: str):
    length, block = 2048, 2**16
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", block)
    q, k, v = (torch.randn(1, heads, length, 8).mul(2) for heads in (2, 1, 1))
    with Largest() as seen:
        graph, _ = merged_graph(q, k, v, sparsify=Threshold(0.1), reduce=reduce, is_causal=True)
    assert length < graph.num_edges
    assert seen.numel <= max(block, 3 * graph.num_edges) < length**2 / 8


# ---------------------------------------------------------------- merged heads


def merge_densely(
    q: Tensor, k: Tensor, sparsify: Sparsifier, reduce: str, clamp: float | None, setting: dict
) -> Tensor:
    """The formula on matrices, ``[B, Nq, Nk]``."""
    full = attention_graph(q, k, executor="dense", **setting)
    weights = getattr(full.to_dense(), {"sum": "sum", "mean": "mean", "max": "amax"}[reduce])(1)
    allowed = full.unweighted().to_dense().bool().any(1)
    if clamp is not None:
        weights = weights.clamp(max=clamp)
    every = Pairs.every(len(weights), 1, *weights.shape[-2:], weights.device)
    pairs = Block(**vars(every), allowed=allowed.unsqueeze(1))
    kept = weights * (sparsify.keep(weights.unsqueeze(1), pairs).squeeze(1) & allowed)
    if sparsify.renormalize:
        kept = kept / kept.sum(-1, keepdim=True).clamp(min=1e-300)
    return kept


@pytest.mark.parametrize("limit", [1, 2 * 11, 3 * 6 * 11, 10**6])
@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize(
    "cut", ["threshold", "negative-threshold", "topk", "both", "renormalized", "renormalized-topk"]
)
def test_merged_graph_equals_the_matrices(monkeypatch, cut: str, case: str, limit: int):
    (heads, kv_heads, queries, keys), setting = SETTINGS[case]
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", limit)
    q, k = inputs(2, heads, kv_heads, queries, keys)
    v = torch.randn(2, kv_heads, keys, 7, dtype=torch.float64)
    for reduce, clamp in [("sum", 1.0), ("sum", None), ("mean", 0.2), ("max", None), ("max", 0.3)]:
        graph, out = merged_graph(
            q, k, v, sparsify=CUTS[cut], reduce=reduce, clamp=clamp, **setting
        )
        assert (graph.batch_shape, graph.num_receivers, graph.num_senders) == ((2,), queries, keys)
        order = graph.receivers * 10**6 + graph.senders
        assert (order.diff() > 0).all(), "edges are sorted, and none comes twice"
        assert_close(graph.to_dense(), merge_densely(q, k, CUTS[cut], reduce, clamp, setting))
        full = attention_graph(q, k, executor="dense", **setting).to_dense()
        assert_close(out, full @ v.repeat_interleave(heads // kv_heads, dim=1))
        alone, nothing = merged_graph(
            q, k, sparsify=CUTS[cut], reduce=reduce, clamp=clamp, **setting
        )
        assert (
            nothing is None
            and torch.equal(alone.edge_index, graph.edge_index)
            and torch.equal(alone.weight, graph.weight)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merged_output_is_sdpa(monkeypatch, dtype: torch.dtype):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 200)
    q, k = (value.to(dtype) for value in inputs(2, 6, 2, 11, 11))
    v = torch.randn(2, 2, 11, 7).to(dtype)
    graph, out = merged_graph(q, k, v, sparsify=Threshold(0.2), is_causal=True)
    exact = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=True, enable_gqa=True
    )
    sdpa = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert out.dtype == dtype and graph.weight.dtype == torch.float32
    unit = torch.finfo(dtype).eps
    assert (out - exact).abs().max() <= 2 * (sdpa - exact).abs().max() + unit * exact.abs().max()


def test_merged_graph_under_autocast_and_with_gradients_around():
    q, k = (value.requires_grad_() for value in inputs(2, 6, 2, 11, 11, dtype=torch.float32))
    wanted, out = merged_graph(q, k, k, sparsify=Threshold(0.2))
    assert not wanted.weight.requires_grad and not out.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        graph, cast = merged_graph(q, k, k, sparsify=Threshold(0.2))
    assert torch.equal(graph.edge_index, wanted.edge_index) and torch.equal(
        graph.weight, wanted.weight
    )
    assert torch.equal(cast, out)


def test_merged_graph_is_attention_graph_merged_where_nothing_is_cut_before():
    q, k = inputs(2, 6, 2, 11, 11)
    graph, _ = merged_graph(q, k, sparsify=Threshold(0.2), is_causal=True)
    full = attention_graph(q, k, is_causal=True).merge_heads("sum", clamp=1.0)
    assert torch.equal(graph.edge_index, full.select(full.weight > 0.2).edge_index)
    assert_close(graph.weight, full.select(full.weight > 0.2).weight)


@pytest.mark.parametrize(("batch", "queries", "keys"), [(0, 5, 5), (2, 0, 5), (2, 0, 0), (1, 1, 1)])
def test_merged_graph_of_next_to_nothing(batch: int, queries: int, keys: int):
    q, k = inputs(batch, 6, 2, queries, keys)
    graph, out = merged_graph(q, k, k, sparsify=Threshold(0.2), is_causal=True)
    assert graph.to_dense().shape == (batch, queries, keys)
    assert out.shape == (batch, 6, queries, 5) and torch.isfinite(out).all()
    assert graph.num_edges == (1 if batch * queries else 0)


def test_merged_graph_refuses():
    q, k = inputs(2, 6, 2, 11, 11)
    cut = Threshold(0.2)
    with pytest.raises(ValueError, match="unknown reduce 'min'; known: sum, mean, max"):
        merged_graph(q, k, sparsify=cut, reduce="min")
    edges = Edges(torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(
        TypeError,
        match="merged_graph takes rules, not explicit Edges; build the graph with attention_graph",
    ):
        merged_graph(q, k, sparsify=cut, candidates=edges)
    with pytest.raises(TypeError, match="merged_graph takes rules"):
        merged_graph(
            q,
            k,
            sparsify=cut,
            candidates=AttentionGraph.from_edges(
                *torch.zeros(2, 1, dtype=torch.int64), num_nodes=11
            ),
        )
    for shape in [(2, 6, 11, 7), (2, 2, 10, 7), (2, 11, 7), (1, 2, 11, 7)]:
        with pytest.raises(
            ValueError,
            match=r"v must be \[batch, key heads, keys, D\] like k \(2, 2, 11, 5\), got shape",
        ):
            merged_graph(q, k, torch.zeros(shape), sparsify=cut)
    with pytest.raises(TypeError, match=r"write sparsify=gf.Threshold\(0.2\)"):
        merged_graph(q, k, sparsify=0.2)
    q[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="the scores are not finite"):
        merged_graph(q, k, sparsify=cut)


# ---------------------------------------------------------------- explicit edges


def random_edges(number: int, batch: int, queries: int, keys: int, ragged: bool) -> Edges:
    ends = torch.randint(keys, (number,)), torch.randint(queries, (number,))
    return Edges(*ends, sequence=torch.randint(batch, (number,)) if ragged else None)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_dot_products_of_a_list(kv_heads: int):
    q, k = (value.requires_grad_() for value in inputs(2, 6, kv_heads, 3, 5, dim=3))
    graph = random_edges(7, 2, 3, 5, ragged=True).lanes(2, 6, 3, 5)
    scores = (q @ k.repeat_interleave(6 // kv_heads, 1).mT).flatten(0, 2)
    wanted = scores[graph.receivers, graph.senders % 5]
    assert_close(Listed.of(graph, q.shape[1]).dot(q, k), wanted)
    assert torch.autograd.gradcheck(lambda q, k: Listed.of(graph, q.shape[1]).dot(q, k), (q, k))


def test_edges_need_memory_linear_in_their_number():
    batch, heads, length, dim, number = 1, 2, 2048, 8, 5000
    q = torch.randn(batch, heads, length, dim, requires_grad=True)
    k = torch.randn(batch, 1, length, dim, requires_grad=True)
    x = torch.randn(batch, heads, length, dim, requires_grad=True)
    edges = random_edges(number, batch, length, length, ragged=False)
    with Largest() as seen:
        graph = attention_graph(q, k, candidates=edges, is_causal=True, sparsify=Threshold(0.01))
        gf.aggregate(graph, x).square().sum().backward()
    assert seen.numel <= heads * number * dim < length**2 / 8
    assert all(torch.isfinite(value.grad).all() for value in (q, k, x))


@pytest.mark.parametrize("cut", ["none", "threshold", "both", "renormalized"])
def test_ragged_batches(cut: str):
    """Every sequence with its own edges equals the sequences one by one."""
    q, k = inputs(3, 6, 2, 7, 7)
    edges = random_edges(40, 3, 7, 7, ragged=True)
    # one has none
    edges = Edges(
        *(value[edges.sequence != 1] for value in (edges.senders, edges.receivers, edges.sequence))
    )
    leaves = [value.clone().requires_grad_() for value in (q, k)]
    graph = attention_graph(*leaves, candidates=edges, sparsify=CUTS[cut])
    grads = torch.autograd.grad(graph.weight.square().sum(), leaves)
    for b in range(3):
        mine = edges.sequence == b
        alone = [value[b : b + 1].clone().requires_grad_() for value in (q, k)]
        one = attention_graph(
            *alone, candidates=Edges(edges.senders[mine], edges.receivers[mine]), sparsify=CUTS[cut]
        )
        assert_close(graph.to_dense()[b], one.to_dense()[0])
        for grad, want in zip(
            grads,
            torch.autograd.grad(one.weight.square().sum(), alone, allow_unused=True),
            strict=True,
        ):
            assert_close(
                grad[b : b + 1], torch.zeros_like(grad[b : b + 1]) if want is None else want
            )
    assert int(graph.in_degree().view(3, -1)[1].sum()) == 0


# ---------------------------------------------------------------- operators in stretches


def operator(kind: str, dropout: float = 0.0) -> nn.Module:
    layer = GINAttention(42, 6, mlp_dropout=dropout) if kind == "gin" else PNAAttention(42, 6)
    if kind == "pna":
        layer.operator.mlp.dropout = dropout
    for parameter in layer.operator.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return layer.operator


def operands(
    module: nn.Module, batch: int = 3, length: int = 11
) -> tuple[Tensor, dict[str, Tensor]]:
    reduced = {
        name: torch.randn(batch, 6, length, 7) for name in module.reductions if name != "degree"
    }
    if "degree" in module.reductions:
        reduced["degree"] = torch.randint(0, 4, (batch, 6, length, 1)).float()
    return torch.randn(batch, 6, length, 7), reduced


def through(
    run: Callable[..., Tensor], module: nn.Module, own: Tensor, reduced: dict[str, Tensor]
) -> list[Tensor]:
    """Output and the gradients of features, reductions and parameters."""
    leaves = [
        own.clone().requires_grad_(),
        *(value.clone().requires_grad_() for value in reduced.values()),
    ]
    out = run(leaves[0], dict(zip(reduced, leaves[1:], strict=True)))
    slope = torch.linspace(-1, 1, out.numel()).view(out.shape)
    grads = torch.autograd.grad(
        (out * slope).sum(), [*leaves, *module.parameters()], allow_unused=True
    )
    return [out.detach(), *(torch.zeros(()) if grad is None else grad for grad in grads)]


@pytest.mark.parametrize("cast", [False, True])
# fewer than the batch, two tokens and four tokens a sequence, everything
@pytest.mark.parametrize("chunk", [1, 6, 12, 1000])
@pytest.mark.parametrize("kind", ["gin", "pna"])
def test_stretches_equal_the_plain_operator(monkeypatch, kind: str, chunk: int, cast: bool):
    module = operator(kind)
    own, reduced = operands(module)
    monkeypatch.setattr(recompute, "CHUNK_TOKENS", chunk)
    exact = copy.deepcopy(module).double()
    wanted = through(
        exact, exact, own.double(), {name: value.double() for name, value in reduced.items()}
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        plain = through(module, module, own, reduced)
        got = through(
            lambda own, reduced: recompute.in_stretches(module, own, reduced), module, own, reduced
        )
    for one, other, want in zip(got, plain, wanted, strict=True):
        assert one.dtype == other.dtype
        if cast:  # gradients of parameters are added up in another order
            assert (one - want).abs().max() <= 3 * (other - want).abs().max() + 1e-6
        else:
            assert_close(one, other)


@pytest.mark.parametrize("kind", ["gin", "pna"])
def test_dropout_draws_the_same_mask_again(monkeypatch, kind: str):
    module = operator(kind, dropout=0.5).train()
    own, reduced = operands(module)
    monkeypatch.setattr(recompute, "CHUNK_TOKENS", 6)

    def by_hand(own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        """The same stretches with nothing made again."""
        pieces = zip(
            own.split(2, dim=2), *(value.split(2, dim=2) for value in reduced.values()), strict=True
        )
        return torch.cat(
            [module(piece, dict(zip(reduced, values, strict=True))) for piece, *values in pieces],
            dim=2,
        )

    torch.manual_seed(7)
    wanted = through(by_hand, module, own, reduced)
    torch.manual_seed(7)
    got = through(
        lambda own, reduced: recompute.in_stretches(module, own, reduced), module, own, reduced
    )
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other)
    torch.manual_seed(8)
    assert not torch.equal(through(by_hand, module, own, reduced)[0], got[0])


@pytest.mark.parametrize("kind", ["gin", "pna"])
def test_when_the_operator_is_called_once(monkeypatch, kind: str):
    module = operator(kind)
    own, reduced = operands(module)
    lengths = []
    module.register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[2]))
    monkeypatch.setattr(recompute, "CHUNK_TOKENS", 12)
    with torch.no_grad():
        recompute.in_stretches(module, own, reduced)
    assert lengths == [11]
    lengths.clear()
    out = recompute.in_stretches(module, own, reduced)
    assert lengths == [4, 4, 3]
    out.sum().backward()
    assert lengths == [4, 4, 3, 3, 4, 4], "once more in the backward pass"


def test_stretches_keep_no_hidden_layer(monkeypatch):
    module = operator("gin")
    own, reduced = operands(module, batch=1, length=64)
    kept: dict[int, int] = {}
    for chunk in (8, 64):
        monkeypatch.setattr(recompute, "CHUNK_TOKENS", chunk)
        storages: dict[int, int] = {}

        def pack(value: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            recompute.in_stretches(module, own.clone().requires_grad_(), reduced)
        kept[chunk] = sum(storages.values())
    assert kept[8] == own.nbytes + reduced["sum"].nbytes < kept[64]


@pytest.mark.parametrize("kind", ["gin", "pna"])
def test_layers_in_stretches(monkeypatch, kind: str):
    """A whole layer, with dropout off: the chunk never changes outputs or gradients."""
    make = {"gin": GINAttention, "pna": PNAAttention}[kind]
    layer, x = make(42, 6, 2, sparsify=Threshold(0.1)), torch.randn(2, 11, 42)
    results = []
    for chunk in (1, 4, 1000):
        monkeypatch.setattr(recompute, "CHUNK_TOKENS", chunk)
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        results.append([out, *torch.autograd.grad(out.square().sum(), [leaf, *layer.parameters()])])
    for values in zip(*results, strict=True):
        for value in values[1:]:
            assert_close(value, values[0])


# ---------------------------------------------------------------- what is derived from edges


def test_orders_are_derived_once_and_shared(monkeypatch):
    q, k = (value.requires_grad_() for value in inputs(2, 3, 3, 11, 11))
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 50)
    graph = attention_graph(q, k, sparsify=Threshold(0.1), executor="stream")
    orders = graph.indptr, *graph.by_sender, graph.in_degree()
    for other in (
        graph.with_weight(graph.weight.exp()),
        graph.detach(),
        graph.unweighted(),
        graph.renormalize(),
        graph.to(torch.float32),
    ):
        for mine, theirs in zip(
            orders, (other.indptr, *other.by_sender, other.in_degree()), strict=True
        ):
            assert mine is theirs
    calls = []
    argsort = Tensor.argsort
    monkeypatch.setattr(
        Tensor, "argsort", lambda *args, **kwargs: calls.append(1) or argsort(*args, **kwargs)
    )
    x = torch.randn(2, 3, 11, 5, dtype=torch.float64, requires_grad=True)
    sum(gf.aggregate(graph, x, reduce).sum() for reduce in ("sum", "mean", "max", "std")).backward()
    assert not calls, "aggregation and the scores' gradient use the graph's own order"


def test_orders_are_not_shared_by_other_edges():
    q, k = inputs(2, 3, 3, 11, 11)
    graph = attention_graph(q, k, sparsify=Threshold(0.1))
    orders = graph.indptr, *graph.by_sender, graph.in_degree()
    keep = torch.arange(graph.num_edges) % 2 == 0
    for other in (graph.select(keep), graph.lane(1), graph.reverse(), graph.merge_heads("sum")):
        fresh = AttentionGraph.from_edges(
            other.senders,
            other.receivers,
            other.weight,
            num_senders=other.num_senders,
            num_receivers=other.num_receivers,
            batch_shape=other.batch_shape,
        )
        assert torch.equal(other.indptr, fresh.indptr) and torch.equal(
            other.in_degree(), fresh.in_degree()
        )
        assert all(
            torch.equal(*pair) for pair in zip(other.by_sender, fresh.by_sender, strict=True)
        )
        assert all(
            mine is not theirs
            for mine, theirs in zip(
                orders, (other.indptr, *other.by_sender, other.in_degree()), strict=True
            )
        )


def test_orders_move_with_their_graph():
    q, k = inputs(2, 3, 3, 11, 11)
    graph = attention_graph(q, k, sparsify=Threshold(0.1))
    assert graph.indptr.device.type == "cpu"
    moved = graph.to("meta")
    assert moved.senders.device.type == moved.weight.device.type == "meta"
    assert not moved._derived
