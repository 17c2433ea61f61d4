"""attention_graph: every slot and executor against a loop over single pairs, its laws, and what it
refuses.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import graphformer as gf
from graphformer import AttentionGraph, attention_graph
from graphformer.attention import (
    Causal,
    Edges,
    Keep,
    Normalizer,
    Packed,
    Pairs,
    Rule,
    Sigmoid,
    Softmax,
    Threshold,
    TopK,
    Window,
    attend,
)
from graphformer.attention.executors import blocks

NORMALIZERS = {
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    "count": Sigmoid(bias="count"),
    "bias": Sigmoid(-1.0),
    "relu": "relu",
    "identity": "identity",
}
SPARSIFIERS = {
    "none": None,
    "threshold": Threshold(0.2),
    "topk": TopK(2),
    "both": Threshold(0.1) & TopK(3),
    "renormalized": Threshold(0.2, renormalize=True),
}


def inputs(
    batch: int,
    heads: int,
    kv_heads: int,
    queries: int,
    keys: int,
    dim: int = 11,
    dtype: torch.dtype = torch.float64,
):
    return torch.randn(batch, heads, queries, dim, dtype=dtype) * 2, torch.randn(
        batch, kv_heads, keys, dim, dtype=dtype
    )


# ---------------------------------------------------------------- the oracle


def oracle_row(
    scores: list[float], allowed: list[bool], normalize: str, sparsify: str
) -> dict[int, float]:
    """One receiver's edges, sender to weight: no tensor, no mask arithmetic, no batch."""
    senders = [j for j, yes in enumerate(allowed) if yes]
    if normalize == "softmax":
        total = math.fsum(math.exp(scores[j]) for j in senders)
        weight = {j: math.exp(scores[j]) / total for j in senders}
    elif normalize in ("sigmoid", "bias", "count"):
        bias = {"sigmoid": 0.0, "bias": -1.0, "count": -math.log(max(len(senders), 1))}[normalize]
        weight = {j: 1 / (1 + math.exp(-scores[j] - bias)) for j in senders}
    else:
        weight = {j: max(scores[j], 0.0) if normalize == "relu" else scores[j] for j in senders}
    best = sorted(senders, key=lambda j: (-weight[j], j))
    kept = {
        "none": lambda j: True,
        "threshold": lambda j: weight[j] > 0.2,
        "topk": lambda j: j in best[:2],
        "both": lambda j: weight[j] > 0.1 and j in best[:3],
        "renormalized": lambda j: weight[j] > 0.2,
    }[sparsify]
    edges = {j: weight[j] for j in senders if kept(j)}
    if sparsify == "renormalized":
        edges = {j: w / math.fsum(edges.values()) for j, w in edges.items()}
    return edges


def oracle(
    q: Tensor,
    k: Tensor,
    allowed: Callable[[int, int, int, int], bool],
    normalize: str,
    sparsify: str,
    factor: float,
) -> dict:
    """``{(lane, receiver, sender): weight}`` by a loop over every pair; ``allowed(b, h, i, j)``."""
    (batch, heads, queries, dim), (_, kv_heads, keys, _) = q.shape, k.shape
    edges = {}
    for b, h, i in itertools.product(range(batch), range(heads), range(queries)):
        key_head = h // (heads // kv_heads)
        scores = [
            factor
            * math.fsum(float(q[b, h, i, c]) * float(k[b, key_head, j, c]) for c in range(dim))
            for j in range(keys)
        ]
        row = oracle_row(scores, [allowed(b, h, i, j) for j in range(keys)], normalize, sparsify)
        edges |= {(b * heads + h, i, j): w for j, w in row.items()}
    return edges


def as_dict(graph: AttentionGraph) -> dict:
    lane, receiver, sender = (
        graph.sender_lane.tolist(),
        graph.receivers.tolist(),
        graph.senders.tolist(),
    )
    return {
        (a, i - a * graph.num_receivers, j - a * graph.num_senders): w
        for a, i, j, w in zip(lane, receiver, sender, graph.weight.tolist(), strict=True)
    }


@pytest.mark.parametrize("sparsify", SPARSIFIERS)
@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize("queries", [5, 3])
def test_equals_a_loop_over_pairs(normalize: str, sparsify: str, queries: int):
    q, k = inputs(2, 3, 1, queries, 5, dim=2)
    padding = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    graph = attention_graph(
        q,
        k,
        is_causal=True,
        attention_mask=padding,
        normalize=NORMALIZERS[normalize],
        sparsify=SPARSIFIERS[sparsify],
    )

    def allowed(b: int, h: int, i: int, j: int) -> bool:
        return j <= i + 5 - queries and bool(padding[b, j])

    wanted = oracle(q, k, allowed, normalize, sparsify, 1 / math.sqrt(2))
    actual = as_dict(graph)
    assert list(actual) == sorted(wanted)
    assert actual == pytest.approx(wanted, rel=1e-12)
    assert (graph.num_lanes, graph.num_senders, graph.num_receivers, graph.batch_shape) == (
        6,
        5,
        queries,
        (2, 3),
    )


def test_scale_and_sharpening_multiply_the_scores():
    q, k = inputs(2, 3, 3, 5, 5, dim=7)
    for scale, sharpening in [(0.3, 1.0), (None, 2.5), (0.3, 2.5)]:
        wanted = oracle(q, k, lambda *_: True, "softmax", "none", (scale or 7**-0.5) * sharpening)
        assert as_dict(attention_graph(q, k, scale=scale, sharpening=sharpening)) == pytest.approx(
            wanted, rel=1e-12
        )
    by_head = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64)
    graph = attention_graph(q, k, sharpening=by_head.view(3, 1, 1))
    for h in range(3):
        alone = attention_graph(q[:, [h]], k[:, [h]], sharpening=float(by_head[h]))
        assert_close(graph.to_dense()[:, h], alone.to_dense()[:, 0])


def test_a_weight_keeps_its_value_when_other_edges_are_dropped():
    q, k = inputs(2, 3, 3, 5, 7)
    full, cut = attention_graph(q, k).to_dense(), attention_graph(q, k, sparsify=Threshold(0.2))
    assert torch.equal(cut.to_dense(), full * (full > 0.2))
    assert_close(
        attention_graph(q, k, sparsify=Threshold(0.2, renormalize=True)).to_dense(),
        cut.renormalize().to_dense(),
    )


# ---------------------------------------------------------------- executors


@dataclass(frozen=True)
class Case:
    """One setting of the batch: shapes, and a padding mask or none."""

    heads: int
    kv_heads: int
    queries: int
    keys: int
    padding: str
    causal: bool

    def mask(self) -> Tensor | None:
        keep = torch.ones(2, self.keys, dtype=torch.bool)
        if self.padding == "none":
            return None
        if self.padding == "left":
            keep[0, :2] = False
        elif self.padding == "right":
            keep[0, -2:] = False
        elif self.padding == "everything":
            keep[0] = False
        else:
            keep = torch.rand(2, 1, self.queries, self.keys) > 0.4
        return keep


CASES = [
    Case(*shape, padding, causal)
    for shape in [(3, 3, 5, 5), (6, 2, 3, 7), (2, 1, 1, 5)]
    for padding in ("none", "left", "right", "everything", "pairs")
    for causal in (False, True)
]


def every_pair(queries: int, keys: int) -> Edges:
    """All pairs as explicit candidates, in no order."""
    pairs = torch.cartesian_prod(torch.arange(keys), torch.arange(queries))[
        torch.randperm(keys * queries)
    ]
    return Edges(*pairs.T)


def run(
    executor: str, q: Tensor, k: Tensor, alpha: Tensor, **settings
) -> tuple[AttentionGraph, list[Tensor]]:
    """The graph, and the gradients of q, k and sharpening for a slope that depends on the edge."""
    leaves = [value.detach().clone().requires_grad_() for value in (q, k, alpha)]
    candidates = every_pair(q.shape[2], k.shape[2]) if executor == "edges" else None
    graph = attention_graph(
        leaves[0],
        leaves[1],
        sharpening=leaves[2],
        executor=executor,
        candidates=candidates,
        **settings,
    )
    slope = torch.sin(graph.senders + 2.0 * graph.receivers)
    grads = torch.autograd.grad((graph.weight * slope).sum(), leaves, allow_unused=True)
    return graph, [
        torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)
    ]


@pytest.mark.parametrize("sparsify", SPARSIFIERS)
@pytest.mark.parametrize("normalize", NORMALIZERS)
def test_executors_agree(monkeypatch, normalize: str, sparsify: str):
    for case in CASES:
        q, k = inputs(2, case.heads, case.kv_heads, case.queries, case.keys, dim=3)
        alpha = torch.rand(case.heads, 1, 1, dtype=torch.float64) + 0.5
        setting = dict(
            is_causal=case.causal,
            attention_mask=case.mask(),
            normalize=NORMALIZERS[normalize],
            sparsify=SPARSIFIERS[sparsify],
        )
        # two rows a block: several blocks, and the last one is cut short
        monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 2 * 2 * case.heads * case.keys)
        wanted, wanted_grads = run("dense", q, k, alpha, **setting)
        for executor in ("stream", "edges"):
            graph, grads = run(executor, q, k, alpha, **setting)
            assert torch.equal(graph.edge_index, wanted.edge_index), (executor, case)
            assert (
                graph.batch_shape == wanted.batch_shape and graph.num_senders == wanted.num_senders
            )
            told = f"{executor}, {case}: "
            assert_close(graph.weight, wanted.weight, msg=lambda text: told + text)  # noqa: B023
            for grad, other in zip(grads, wanted_grads, strict=True):
                assert torch.isfinite(grad).all()
                assert_close(grad, other, msg=lambda text: f"gradient, {executor}, {case}: {text}")  # noqa: B023


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_flash_agrees_without_edges(reduce: str):
    for case in CASES:
        q, k = inputs(2, case.heads, case.kv_heads, case.queries, case.keys, dim=3)
        x = torch.randn(2, case.kv_heads, case.keys, 7, dtype=torch.float64)
        mask, results = case.mask(), []
        for executor in ("flash", "dense"):
            leaves = [
                value.clone().requires_grad_()
                for value in (q, k, x, torch.tensor(1.5, dtype=torch.float64))
            ]
            setting = dict(sharpening=leaves[3], is_causal=case.causal, attention_mask=mask)
            reduced, graph = attend(*leaves[:3], (reduce,), executor=executor, **setting)
            assert graph is None
            results.append(
                (reduced[reduce], *torch.autograd.grad(reduced[reduce].square().sum(), leaves))
            )
        for flash, dense in zip(*results, strict=True):
            assert_close(flash, dense, msg=lambda text: f"{case}: {text}")  # noqa: B023


@pytest.mark.parametrize("executor", ["dense", "stream", "edges"])
@pytest.mark.parametrize("normalize", NORMALIZERS)
def test_gradcheck(monkeypatch, executor: str, normalize: str):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 2 * 2 * 5)
    q, k = inputs(1, 2, 1, 3, 5, dim=2)
    mask = torch.tensor([[True, True, True, False, True]])
    candidates = every_pair(3, 5) if executor == "edges" else None

    def weights(q: Tensor, k: Tensor, alpha: Tensor) -> Tensor:
        setting = dict(
            is_causal=True, attention_mask=mask, normalize=NORMALIZERS[normalize], sparsify=TopK(2)
        )
        return attention_graph(
            q, k, sharpening=alpha, candidates=candidates, executor=executor, **setting
        ).weight

    alpha = torch.tensor(1.3, dtype=torch.float64)
    assert torch.autograd.gradcheck(weights, [value.requires_grad_() for value in (q, k, alpha)])


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(0, 2),
    kv_heads=st.integers(1, 2),
    group=st.integers(0, 2),
    queries=st.integers(0, 4),
    more_keys=st.integers(0, 3),
    dim=st.integers(1, 3),
    normalize=st.sampled_from(sorted(NORMALIZERS)),
    sparsify=st.sampled_from(sorted(SPARSIFIERS)),
    causal=st.booleans(),
)
def test_odd_shapes(
    seed, batch, kv_heads, group, queries, more_keys, dim, normalize, sparsify, causal
):
    torch.manual_seed(seed)
    heads, keys = kv_heads * group, queries + more_keys
    q, k = inputs(batch, heads, kv_heads, queries, keys, dim)
    alpha = torch.tensor(1.5, dtype=torch.float64)
    setting = dict(
        is_causal=causal, normalize=NORMALIZERS[normalize], sparsify=SPARSIFIERS[sparsify]
    )
    setting["attention_mask"] = torch.rand(batch, keys) > 0.3
    wanted, wanted_grads = run("dense", q, k, alpha, **setting)
    assert wanted.to_dense().shape == (batch, heads, queries, keys)
    for executor in ("stream", "edges"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "BLOCK_ELEMENTS", max(1, batch * heads * keys))  # one row a block
            graph, grads = run(executor, q, k, alpha, **setting)
        assert torch.equal(graph.edge_index, wanted.edge_index)
        assert_close(graph.weight, wanted.weight)
        for grad, other in zip(grads, wanted_grads, strict=True):
            assert_close(grad, other)


def test_auto_chooses_by_size_and_candidates(monkeypatch):
    from graphformer.attention import build

    q, k = inputs(2, 3, 3, 5, 5)
    ran = []
    for name, function in list(build.EXECUTORS.items()):
        monkeypatch.setitem(
            build.EXECUTORS,
            name,
            lambda problem, name=name, function=function: ran.append(name) or function(problem),
        )
    attention_graph(q, k)
    attention_graph(q, k, candidates=every_pair(5, 5))
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 2 * 3 * 5 * 4)
    attention_graph(q, k)
    assert ran == ["dense", "edges", "stream"]


# ---------------------------------------------------------------- memory


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


def test_stream_never_holds_all_pairs(monkeypatch):
    length, block = 4096, 2**18
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", block)
    q, k = (torch.randn(1, 1, length, 8).mul(2).requires_grad_() for _ in range(2))
    with Largest() as forward:
        graph = attention_graph(q, k, sparsify=Threshold(0.05), is_causal=True)
    with Largest() as backward:
        graph.weight.sum().backward()
    # Scores of one block, or the ends of every edge. There are at most N / tau edges; all pairs
    # would be 64 blocks.
    assert graph.num_edges > length
    assert block <= forward.numel <= max(block, 3 * graph.num_edges) < length**2 / 16
    assert block <= backward.numel <= max(block, 3 * graph.num_edges)
    assert torch.isfinite(q.grad).all() and q.grad.any()


def test_stream_keeps_no_scores_for_the_backward_pass(monkeypatch):
    """Blocks that are each kept until the backward pass would add up to all pairs."""
    length = 1024
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 2**15)
    q, k = (torch.randn(1, 1, length, 8).mul(4).requires_grad_() for _ in range(2))
    kept: dict[str, int] = {}
    for executor in ("stream", "dense"):
        storages: dict[int, int] = {}

        def pack(value: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            graph = attention_graph(q, k, sparsify=Threshold(0.1), executor=executor)
        kept[executor] = sum(storages.values()) // 4  # float32
    assert (
        kept["stream"]
        <= 4 * (graph.num_edges + q.numel() + k.numel())
        < length**2 / 8
        < length**2
        <= kept["dense"]
    )


def test_the_memory_test_would_notice_a_dense_matrix():
    q = torch.randn(1, 1, 256, 8)
    with Largest() as seen:
        attention_graph(q, q, sparsify=Threshold(0.05), executor="dense")
    assert seen.numel == 256**2


def test_edges_cost_what_their_number_says():
    length = 4096
    ring = Edges(torch.arange(length), (torch.arange(length) + 1) % length)
    q = torch.randn(1, 1, length, 8, requires_grad=True)
    with Largest() as seen:
        attention_graph(q, q, candidates=ring).weight.sum().backward()
    assert seen.numel <= length * 8


# ---------------------------------------------------------------- sparsifiers


@pytest.mark.parametrize("tau", [0.5, 0.2, 0.1, 0.03])
def test_a_row_keeps_fewer_than_one_over_tau_edges(tau: float):
    q, k = inputs(2, 3, 3, 61, 61, dim=2, dtype=torch.float32)
    for sharpening in (0.0, 0.1, 1.0, 10.0):
        for executor, candidates in (("dense", None), ("edges", every_pair(61, 61))):
            setting = dict(
                sharpening=sharpening, is_causal=True, executor=executor, candidates=candidates
            )
            degree = attention_graph(q, k, sparsify=Threshold(tau), **setting).in_degree()
            assert int(degree.max()) < 1 / tau


def test_threshold_is_strict():
    """Four equal keys weigh exactly 1/4 each."""
    q = torch.ones(1, 1, 4, 2)
    for executor, candidates in (("dense", None), ("stream", None), ("edges", every_pair(4, 4))):
        assert (
            attention_graph(
                q, q, sparsify=Threshold(0.25), executor=executor, candidates=candidates
            ).num_edges
            == 0
        )
        assert (
            attention_graph(
                q, q, sparsify=Threshold(0.2499), executor=executor, candidates=candidates
            ).num_edges
            == 16
        )


def test_topk_keeps_k_of_any_length():
    for keys in (1, 2, 3, 5, 11):
        q, k = inputs(2, 3, 3, 5, keys)
        graph = attention_graph(q, k, sparsify=TopK(3))
        assert (graph.in_degree() == min(3, keys)).all()
        full = attention_graph(q, k).to_dense()
        assert_close(graph.in_weight(), full.topk(min(3, keys)).values.sum(-1).flatten())


def test_topk_takes_the_earlier_of_equal_senders():
    q = torch.ones(1, 1, 5, 2)
    for executor, candidates in (("dense", None), ("stream", None), ("edges", every_pair(5, 5))):
        graph = attention_graph(q, q, sparsify=TopK(2), executor=executor, candidates=candidates)
        assert graph.senders.tolist() == [0, 1] * 5


def test_topk_never_takes_what_is_not_allowed():
    """Negative weights lie below the 0 of masked pairs, and must win all the same."""
    q, k = -torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2)
    for executor, candidates in (("dense", None), ("edges", every_pair(3, 3))):
        graph = attention_graph(
            q,
            k,
            is_causal=True,
            normalize="identity",
            sparsify=TopK(2),
            executor=executor,
            candidates=candidates,
        )
        assert graph.edge_index.tolist() == [[0, 0, 1, 0, 1], [0, 1, 1, 2, 2]]


@pytest.mark.parametrize("sparsify", SPARSIFIERS)
@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize("executor", ["dense", "stream", "edges"])
def test_prefix(executor: str, normalize: str, sparsify: str):
    """The graph of a prefix is the part of the full graph that lies in it."""
    q, k = inputs(2, 3, 3, 7, 7)
    setting = dict(
        is_causal=True,
        normalize=NORMALIZERS[normalize],
        sparsify=SPARSIFIERS[sparsify],
        executor=executor,
    )

    def graph(n: int) -> Tensor:
        candidates = every_pair(n, n) if executor == "edges" else None
        return attention_graph(
            q[:, :, :n], k[:, :, :n], candidates=candidates, **setting
        ).to_dense()

    for n in (1, 2, 5):
        assert_close(graph(n), graph(7)[..., :n, :n])


def test_sigmoid_with_the_count_as_bias_does_not_see_padding():
    q, k = inputs(2, 3, 3, 5, 5)
    longer_q, longer_k = (
        torch.cat((q, torch.randn(2, 3, 6, 11)), 2),
        torch.cat((k, torch.randn(2, 3, 6, 11)), 2),
    )
    mask = torch.arange(11).expand(2, 11) < 5
    padded = attention_graph(
        longer_q, longer_k, attention_mask=mask, normalize=Sigmoid(bias="count")
    ).to_dense()
    assert_close(
        padded[..., :5, :5], attention_graph(q, k, normalize=Sigmoid(bias="count")).to_dense()
    )
    # a row of equal scores 0 weighs about 1, however long it is
    flat = attention_graph(0 * longer_q, longer_k, normalize=Sigmoid(bias="count"))
    assert_close(flat.weight, torch.full_like(flat.weight, 1 / 12))


@pytest.mark.parametrize("sparsify", SPARSIFIERS)
@pytest.mark.parametrize("normalize", NORMALIZERS)
def test_decoding_gives_the_last_row(normalize: str, sparsify: str):
    q, k = inputs(2, 6, 2, 7, 7)
    mask = torch.tensor([[1] * 7, [0] * 2 + [1] * 5])
    setting = dict(
        is_causal=True,
        attention_mask=mask,
        normalize=NORMALIZERS[normalize],
        sparsify=SPARSIFIERS[sparsify],
    )
    full = attention_graph(q, k, **setting).to_dense()
    for new in (1, 3):
        step = attention_graph(q[:, :, -new:], k, **setting)
        assert (step.num_receivers, step.num_senders) == (new, 7)
        assert_close(step.to_dense(), full[:, :, -new:])


# ---------------------------------------------------------------- candidates


def pattern(graph: AttentionGraph) -> Tensor:
    """Which pairs are edges, ``[B, H, Nq, Nk]``."""
    return graph.unweighted().to_dense().bool()


def test_named_candidates():
    q, k = inputs(2, 3, 3, 3, 5)
    assert (
        pattern(attention_graph(q, k)).all()
        and pattern(attention_graph(q, k, candidates="all")).all()
    )
    causal = torch.ones(3, 5, dtype=torch.bool).tril(2)  # the last query sees the last key
    for graph in (
        attention_graph(q, k, candidates="causal"),
        attention_graph(q, k, is_causal=True),
        attention_graph(q, k, candidates=Causal()),
    ):
        assert torch.equal(pattern(graph), causal.expand(2, 3, 3, 5))


@pytest.mark.parametrize("queries", [7, 2])
def test_window(queries: int):
    q, k = inputs(2, 3, 3, queries, 7)
    position, sender = torch.arange(7 - queries, 7)[:, None], torch.arange(7)
    near = (position - sender).abs() <= 2
    assert torch.equal(
        pattern(attention_graph(q, k, candidates=Window(3))), near.expand(2, 3, queries, 7)
    )
    behind = near & (sender <= position)
    for graph in (
        attention_graph(q, k, candidates=Causal() & Window(3)),
        attention_graph(q, k, candidates=Window(3), is_causal=True),
    ):
        assert torch.equal(pattern(graph), behind.expand(2, 3, queries, 7))


@pytest.mark.parametrize("queries", [7, 2])
def test_packed_texts_do_not_see_each_other(queries: int):
    q, k = inputs(2, 3, 3, queries, 7)
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [5, 5, 9, 9, 9, 9, 2]])
    graph = attention_graph(q, k, candidates=Packed(segments))
    wanted = segments[:, -queries:, None] == segments[:, None, :]
    assert torch.equal(pattern(graph), wanted[:, None].expand(2, 3, queries, 7))
    if queries == 7:  # the second text of the first row, alone
        alone = attention_graph(q[:1, :, 3:], k[:1, :, 3:]).to_dense()
        assert_close(graph.to_dense()[:1, :, 3:, 3:], alone)


@pytest.mark.parametrize("shape", [(2, 7), (2, 1, 5, 7), (1, 3, 5, 7), (2, 3, 5, 7), (1, 1, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_masks_of_every_shape(shape: tuple[int, ...], dtype: torch.dtype):
    q, k = inputs(2, 3, 3, 5, 7)
    mask = torch.rand(shape) > 0.4
    wanted = (mask[:, None, None] if mask.ndim == 2 else mask).expand(2, 3, 5, 7)
    for graph in (
        attention_graph(q, k, attention_mask=mask.to(dtype)),
        attention_graph(q, k, candidates=Keep(mask.to(dtype))),
    ):
        assert torch.equal(pattern(graph), wanted)
    edges = attention_graph(q, k, attention_mask=mask.to(dtype), candidates=every_pair(5, 7))
    assert torch.equal(pattern(edges), wanted)


def test_padding_as_floating_point_ones_and_zeros():
    q, k = inputs(2, 3, 3, 5, 7)
    mask = (torch.rand(2, 7) > 0.4).float()
    assert torch.equal(
        pattern(attention_graph(q, k, attention_mask=mask)),
        mask.bool()[:, None, None].expand(2, 3, 5, 7),
    )


def test_edges_shared_by_all_sequences():
    q, k = inputs(2, 3, 1, 5, 7)
    # 6 -> 4 twice
    senders, receivers = torch.tensor([6, 0, 6, 2, 6]), torch.tensor([4, 0, 0, 4, 4])
    graph = attention_graph(q, k, candidates=gf.Edges(senders, receivers))
    wanted = torch.zeros(5, 7, dtype=torch.bool)
    wanted[receivers, senders] = True
    assert torch.equal(pattern(graph), wanted.expand(2, 3, 5, 7)) and graph.num_edges == 6 * 4
    assert_close(
        graph.to_dense(), attention_graph(q, k, candidates=Keep(wanted[None, None])).to_dense()
    )


def test_edges_of_each_sequence():
    q, k = inputs(2, 3, 1, 5, 7)
    edges = gf.Edges(
        torch.tensor([6, 0, 2, 2], dtype=torch.int32),
        torch.tensor([4, 0, 4, 4]),
        sequence=torch.tensor([1, 0, 1, 1]),
    )
    wanted = torch.zeros(2, 5, 7, dtype=torch.bool)
    wanted[1, 4, 6] = wanted[0, 0, 0] = wanted[1, 4, 2] = True
    assert torch.equal(
        pattern(attention_graph(q, k, candidates=edges)), wanted[:, None].expand(2, 3, 5, 7)
    )


def test_no_edges_at_all():
    q, k = inputs(2, 3, 1, 5, 7)
    none = torch.empty(0, dtype=torch.long)
    graph = attention_graph(
        q.requires_grad_(), k, candidates=gf.Edges(none, none), sparsify=TopK(2)
    )
    assert graph.num_edges == 0 and graph.batch_shape == (2, 3)
    graph.weight.sum().backward()
    assert not q.grad.any()


def test_a_graph_as_candidates():
    q, k = inputs(2, 3, 3, 5, 5)
    first = attention_graph(q, k, sparsify=Threshold(0.2)).merge_heads("sum")
    # each sequence has its own edges, all heads the same
    graph = attention_graph(q.flip(2), k, candidates=first)
    assert torch.equal(pattern(graph), pattern(first)[:, None].expand(2, 3, 5, 5))
    assert not torch.equal(pattern(first)[0], pattern(first)[1])
    shared = first.lane(0)
    assert torch.equal(
        pattern(attention_graph(q, k, candidates=shared)), pattern(shared).expand(2, 3, 5, 5)
    )


def test_a_rule_of_ones_own():
    class EvenHeadsLookFarther(Rule):
        def allow(self, pairs: Pairs) -> Tensor:
            reach = torch.where(pairs.head % 2 == 0, 3, 1)
            return (pairs.position - pairs.sender <= reach) & (
                pairs.sequence * 0 + pairs.sender <= pairs.position
            )

    q, k = inputs(2, 3, 3, 5, 7)
    distance = torch.arange(2, 7)[:, None] - torch.arange(7)
    wanted = torch.stack([(distance >= 0) & (distance <= reach) for reach in (3, 1, 3)]).expand(
        2, 3, 5, 7
    )
    assert torch.equal(pattern(attention_graph(q, k, candidates=EvenHeadsLookFarther())), wanted)
    both = attention_graph(q, k, candidates=EvenHeadsLookFarther() & Window(2))
    assert torch.equal(pattern(both), wanted & (distance <= 1))


def test_the_graph_of_every_head_can_be_the_candidates_of_the_next_layer():
    q, k = inputs(2, 3, 3, 5, 5)
    first = attention_graph(q, k, is_causal=True, sparsify=TopK(2))
    assert first.batch_shape == (2, 3)
    second = attention_graph(k, q, candidates=first)
    assert torch.equal(second.edge_index, first.edge_index)
    kept = first.unweighted().to_dense().bool()
    assert_close(
        second.to_dense(), attention_graph(k, q, candidates=Keep(kept), executor="dense").to_dense()
    )


def test_a_normalizer_of_ones_own():
    class Squares(Normalizer):
        def weights(self, scores: Tensor, pairs: Pairs) -> Tensor:
            return scores.square()

    q, k = inputs(2, 3, 3, 5, 7)
    wanted = attention_graph(q, k, normalize="identity").weight.square()
    assert_close(attention_graph(q, k, normalize=Squares()).weight, wanted)
    assert_close(
        attention_graph(q, k, normalize=Squares(), candidates=every_pair(5, 7)).weight, wanted
    )


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("executor", ["dense", "stream", "edges"])
@pytest.mark.parametrize("alpha", [-1e4, 0.0, 1e4])
def test_sharpening_comes_before_the_mask(executor: str, alpha: float):
    """alpha times a mask of large negative numbers would open it (alpha < 0), make NaN (0 * inf),
    or overflow.
    """
    q, k = (value.float().requires_grad_() for value in inputs(2, 3, 3, 5, 5))
    mask = torch.tensor([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0]])
    sharpening = torch.tensor(alpha, requires_grad=True)
    candidates = every_pair(5, 5) if executor == "edges" else None
    graph = attention_graph(
        q,
        k,
        sharpening=sharpening,
        attention_mask=mask,
        is_causal=True,
        executor=executor,
        candidates=candidates,
    )
    wanted = (mask[:, None, None].bool() & torch.ones(5, 5, dtype=torch.bool).tril()).expand(
        2, 3, 5, 5
    )
    assert torch.equal(pattern(graph), wanted)
    assert torch.isfinite(graph.weight).all()
    assert_close(graph.in_weight(), wanted.any(-1).flatten().float())
    graph.weight.square().sum().backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in (q, k, sharpening))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["q", "k"])
def test_scores_that_are_not_finite_are_refused(which: str, value: float):
    q, k = inputs(2, 3, 3, 5, 7)
    {"q": q, "k": k}[which][0, 1, 2, 3] = value
    name = {"q": r"q \(times scale and sharpening\)", "k": "k"}[which]
    with pytest.raises(
        ValueError,
        match=rf"the scores are not finite: {name} holds 1 NaN or infinite values among \d+; look "
        r"for",
    ):
        attention_graph(q, k, sparsify=Threshold(0.1))


def test_a_sharpening_that_is_not_finite_is_refused():
    q, k = inputs(2, 3, 3, 5, 7)
    with pytest.raises(ValueError, match="the scores are not finite: q"):
        attention_graph(q, k, sharpening=torch.tensor(math.nan))


def test_scores_that_overflow_are_refused():
    """Finite queries and keys whose products are not: infinity minus infinity is NaN, and NaN drops
    edges without a word.
    """
    q, k = inputs(2, 3, 3, 5, 7, dtype=torch.float32)
    with pytest.raises(
        ValueError,
        match=r"the scores can overflow torch.float32: q .* reaches .* and k .*; look for",
    ):
        attention_graph(q * 1e20, k * 1e20, sparsify=Threshold(0.1))
    # sharp, but fine
    assert attention_graph(q * 1e15, k * 1e15, sparsify=Threshold(0.1)).num_edges == 2 * 3 * 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(dtype: torch.dtype):
    q, k = inputs(2, 3, 1, 11, 11, dtype=torch.float32)
    half_q, half_k = q.to(dtype).requires_grad_(), k.to(dtype).requires_grad_()
    graph = attention_graph(half_q, half_k, sparsify=Threshold(0.1), is_causal=True)
    rounded = attention_graph(
        half_q.float(), half_k.float(), sparsify=Threshold(0.1), is_causal=True
    )
    assert graph.weight.dtype == torch.float32
    assert torch.equal(graph.edge_index, rounded.edge_index) and torch.equal(
        graph.weight, rounded.weight
    )
    # The only loss is that of rounding the inputs. A score is a sum of d products, each off by two
    # roundings, and a softmax weight is off by at most twice the error of the scores.
    scores = (half_q.abs().float() @ half_k.abs().float().mT).detach().amax() / math.sqrt(11)
    bound = float(4 * scores * torch.finfo(dtype).eps)
    exact = attention_graph(q, k, is_causal=True).to_dense()
    assert_close(
        attention_graph(half_q, half_k, is_causal=True).to_dense(), exact, rtol=bound, atol=bound
    )
    assert bound < 1
    graph.weight.sum().backward()
    assert half_q.grad.dtype == half_k.grad.dtype == dtype and torch.isfinite(half_q.grad).all()


@pytest.mark.parametrize("executor", ["dense", "stream", "edges"])
def test_autocast_does_not_change_the_edges(monkeypatch, executor: str):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 2 * 3 * 11 * 4)
    q, k = inputs(2, 3, 3, 11, 11, dtype=torch.float32)
    candidates = every_pair(11, 11) if executor == "edges" else None
    grads = []
    graphs = []
    for enabled in (False, True):
        leaves = [value.clone().requires_grad_() for value in (q, k)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            graphs.append(
                attention_graph(
                    *leaves, sparsify=Threshold(0.1), executor=executor, candidates=candidates
                )
            )
        grads.append(torch.autograd.grad(graphs[-1].weight.square().sum(), leaves))
    assert torch.equal(graphs[0].edge_index, graphs[1].edge_index) and torch.equal(
        graphs[0].weight, graphs[1].weight
    )
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("executor", ["dense", "stream", "edges"])
def test_queries_and_keys_that_are_not_contiguous(monkeypatch, executor: str):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 2 * 6 * 7 * 2)
    # as a layer makes them: [B, N, H, d]
    q = torch.randn(2, 5, 6, 11, dtype=torch.float64).transpose(1, 2)
    k = torch.randn(2, 2, 11, 7, dtype=torch.float64).mT
    assert not q.is_contiguous() and not k.is_contiguous()
    setting = dict(
        executor=executor,
        candidates=every_pair(5, 7) if executor == "edges" else None,
        sparsify=TopK(3),
    )
    graph, wanted = (
        attention_graph(q, k, **setting),
        attention_graph(q.contiguous(), k.contiguous(), **setting),
    )
    assert torch.equal(graph.edge_index, wanted.edge_index)
    assert_close(graph.weight, wanted.weight)


def test_without_gradients():
    q, k = inputs(2, 3, 3, 5, 7)
    with torch.no_grad():
        graph = attention_graph(q.requires_grad_(), k)
    assert not graph.weight.requires_grad
    assert attention_graph(q, k).weight.requires_grad


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            dict(q=torch.rand(3, 5, 11)),
            ValueError,
            r"q must be \[batch, heads, length, head_dim\], got shape \(3, 5, 11\)",
        ),
        (
            dict(k=torch.rand(3, 5, 11)),
            ValueError,
            r"k must be \[batch, heads, length, head_dim\], got shape \(3, 5, 11\)",
        ),
        (
            dict(k=torch.rand(7, 3, 5, 11)),
            ValueError,
            r"must share batch and head_dim, got q \(2, 3, 5, 11\) and k \(7, 3, 5, 11\)",
        ),
        (dict(k=torch.rand(2, 3, 5, 7)), ValueError, "must share batch and head_dim"),
        (
            dict(q=torch.rand(2, 3, 5, 0), k=torch.rand(2, 3, 5, 0)),
            ValueError,
            "head_dim 0: there is nothing to score",
        ),
        (
            dict(k=torch.rand(2, 2, 5, 11)),
            ValueError,
            "the 3 query heads must be a multiple of the key heads, got 2",
        ),
        (
            dict(k=torch.rand(2, 0, 5, 11)),
            ValueError,
            "the 3 query heads must be a multiple of the key heads, got 0",
        ),
        (
            dict(q=torch.ones(2, 3, 5, 11, dtype=torch.int64)),
            TypeError,
            "q must be floating point, got torch.int64",
        ),
        (
            dict(k=torch.rand(2, 3, 5, 11).double()),
            ValueError,
            "one dtype and device, got torch.float32 on cpu and torch.float64 on cpu",
        ),
        (
            dict(k=torch.rand(2, 3, 5, 11, device="meta")),
            ValueError,
            "one dtype and device, got torch.float32 on cpu and .* on meta",
        ),
        (
            dict(normalize="softplus"),
            ValueError,
            "unknown normalizer 'softplus'; known: .*identity, .*relu, sigmoid",
        ),
        (
            dict(normalize=torch.softmax),
            TypeError,
            "normalize must be a name or a Normalizer, got builtin",
        ),
        (
            dict(executor="fast"),
            ValueError,
            "unknown executor 'fast'; known: auto, flash, linear, dense, stream, edges",
        ),
        (
            dict(executor="flash"),
            ValueError,
            "executor='flash' builds no edges, so it cannot return a graph; use 'stream'",
        ),
        (
            dict(executor="edges"),
            ValueError,
            "executor='edges' does not fit these candidates: 'edges' is for explicit candidate "
            "edges",
        ),
        (
            dict(executor="dense", candidates=every_pair(5, 5)),
            ValueError,
            "executor='dense' does not fit these candidates",
        ),
        (
            dict(candidates="band"),
            ValueError,
            "unknown candidates 'band'; known: .*, a Rule, Edges or an AttentionGraph",
        ),
        (
            dict(candidates=torch.ones(5, 5)),
            TypeError,
            "candidates must be a name, a Rule, Edges or an AttentionGraph, got Tensor",
        ),
        (dict(sparsify=0.1), TypeError, r"got the number 0.1; write sparsify=gf.Threshold\(0.1\)"),
        (
            dict(sparsify="topk"),
            ValueError,
            "unknown sparsifier 'topk'; known: .*top_k; did you mean 'top_k'",
        ),
        (
            dict(attention_mask=torch.ones(5)),
            ValueError,
            r"attention_mask must be \[B, Nk\] or \[B, 1, Nq, Nk\], got shape \(5,\)",
        ),
        (
            dict(attention_mask=torch.ones(2, 7)),
            ValueError,
            r"attention_mask must have shape \[2, 5\] \(batch, keys\), got \[2, 7\]",
        ),
        (
            dict(attention_mask=torch.ones(1, 5)),
            ValueError,
            r"attention_mask must have shape \[2, 5\]",
        ),
        (
            dict(attention_mask=torch.ones(2, 1, 5, 7).bool()),
            ValueError,
            r"must have shape \[2 or 1, 3 or 1, 5, 5\] \(batch, heads, queries, keys\)",
        ),
        (
            dict(attention_mask=torch.ones(2, 2, 5, 5).bool()),
            ValueError,
            r"must have shape \[2 or 1, 3 or 1, 5, 5\]",
        ),
        (
            dict(attention_mask=torch.zeros(2, 1, 5, 5)),
            ValueError,
            "must be boolean or integer, got floating point values; .* mask == 0",
        ),
        (
            dict(attention_mask=torch.full((2, 5), -1e9)),
            ValueError,
            "holds other values; turn an additive mask into a boolean one with mask == 0",
        ),
        (
            dict(attention_mask=torch.tensor([[1, 1, 2, 2, 2]] * 2)),
            ValueError,
            r"numbers of packed texts as candidates=Packed\(segments\)",
        ),
        (
            dict(candidates=Packed(torch.zeros(2, 7))),
            ValueError,
            r"segments must have shape \[2, 5\] \(batch, keys\), got \[2, 7\]",
        ),
        (
            dict(q=torch.rand(2, 3, 7, 11), is_causal=True),
            ValueError,
            "at least as many keys as queries, got 7 queries and 5 keys: the last query",
        ),
        (
            dict(q=torch.rand(2, 3, 7, 11), candidates=Window(2) & Causal()),
            ValueError,
            "at least as many keys as queries",
        ),
        (
            dict(q=torch.rand(2, 3, 7, 11), candidates=Packed(torch.zeros(2, 5))),
            ValueError,
            "packed texts need at least as many keys as queries",
        ),
        (
            dict(candidates=AttentionGraph.from_dense(torch.ones(7, 7))),
            ValueError,
            "must have 5 senders, 5 receivers, and one lane, 2",
        ),
        (
            dict(candidates=AttentionGraph.from_dense(torch.ones(3, 5, 5))),
            ValueError,
            r"got AttentionGraph\(75 edges, batch_shape=\(3,\)",
        ),
    ],
)
def test_refuses(change: dict, error: type[Exception], text: str):
    given = dict(q=torch.rand(2, 3, 5, 11), k=torch.rand(2, 3, 5, 11)) | change
    with pytest.raises(error, match=text):
        attention_graph(given.pop("q"), given.pop("k"), **given)


@pytest.mark.parametrize(
    ("edges", "error", "text"),
    [
        (
            lambda: Edges(torch.tensor([7]), torch.tensor([0])),
            ValueError,
            r"candidate senders must lie in 0\.\.6, got values from 7 to 7",
        ),
        (
            lambda: Edges(torch.tensor([6]), torch.tensor([5])),
            ValueError,
            r"candidate receivers must lie in 0\.\.4, got values from 5 to 5",
        ),
        (
            lambda: Edges(torch.tensor([-1]), torch.tensor([0])),
            ValueError,
            "candidate senders must lie in",
        ),
        (
            lambda: Edges(*torch.zeros(3, 1).long()[:2], sequence=torch.tensor([2])),
            ValueError,
            r"sequence must lie in 0\.\.1, got values from 2 to 2",
        ),
        (
            lambda: Edges(torch.tensor([0.0]), torch.tensor([0])),
            TypeError,
            "candidate senders must hold integers, got torch.float32",
        ),
        (
            lambda: Edges(torch.tensor([0]), torch.tensor([True])),
            TypeError,
            "candidate receivers must hold integers, got torch.bool",
        ),
        (
            lambda: Edges(torch.tensor([0, 1]), torch.tensor([0])),
            ValueError,
            r"receivers must be .* as long as senders, got shape \(1,\) beside \(2,\)",
        ),
        (
            lambda: Edges(*torch.zeros(2, 3).long(), sequence=torch.tensor([0])),
            ValueError,
            "candidate sequence must be one-dimensional and as long",
        ),
        (
            lambda: Edges(*torch.zeros(2, 3, 3).long()),
            ValueError,
            "candidate senders must be one-dimensional",
        ),
    ],
)
def test_edges_refuse(edges: Callable[[], Edges], error: type[Exception], text: str):
    with pytest.raises(error, match=text):
        attention_graph(*inputs(2, 3, 3, 5, 7), candidates=edges())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Threshold(math.nan), "tau must be a finite number at least 0, got nan"),
        (lambda: Threshold(math.inf), "tau must be a finite number at least 0, got inf"),
        (lambda: TopK(0), "k must be a positive integer .* got 0"),
        (
            lambda: TopK(True),
            r"k must be a positive integer \(edges per row, independent of the length\), got True",
        ),
        (lambda: Window(0), "a window must hold at least the token itself, got size=0"),
    ],
)
def test_values_refuse(make: Callable[[], object], text: str):
    with pytest.raises(ValueError, match=text):
        make()


def test_slots_are_values():
    """Equal settings are equal and can be keys: configurations and caches rely on it."""
    assert Threshold(0.1) == Threshold(0.1) != Threshold(0.2) and Softmax() == Softmax()
    assert (
        len(
            {
                Threshold(0.1),
                Threshold(0.1),
                TopK(3),
                Threshold(0.1) & TopK(3),
                Threshold(0.1) & TopK(3),
            }
        )
        == 3
    )


@pytest.mark.gpu
@pytest.mark.parametrize("executor", ["dense", "stream", "edges"])
def test_cuda_equals_cpu(executor: str):
    q, k = inputs(2, 6, 2, 5, 7)
    mask = torch.tensor([[1] * 7, [0] * 2 + [1] * 5])
    candidates = every_pair(5, 7) if executor == "edges" else None
    there = Edges(candidates.senders.cuda(), candidates.receivers.cuda()) if candidates else None
    setting = dict(is_causal=True, sparsify=Threshold(0.1), executor=executor)
    graph = attention_graph(
        q.cuda(), k.cuda(), attention_mask=mask.cuda(), candidates=there, **setting
    ).to("cpu")
    wanted = attention_graph(q, k, attention_mask=mask, candidates=candidates, **setting)
    assert torch.equal(graph.edge_index, wanted.edge_index)
    assert_close(graph.weight, wanted.weight)
