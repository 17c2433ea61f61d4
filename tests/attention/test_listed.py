"""Edges of rules that list their senders: those of the dense twin, and no block of all pairs."""

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention.candidates import (
    All,
    Blocks,
    Causal,
    Clusters,
    First,
    Packed,
    PerHead,
    SharedQuestion,
    Window,
)
from graphformer.attention.executors import blocks, listed
from tests.attention.test_blocks import layer_of

pytestmark = pytest.mark.usefixtures("float64")

RULES = {
    "blocks": Blocks(4),
    "levels": Blocks((3, 2)),
    "clusters": Clusters(5),
    "window": Window(3),
    "first or window": First(2) | Window(3),
    "blocks or window": Blocks((3, 2)) | Window(4),
    "clusters or first": Clusters(6) | First(1),
    "kinds of heads": PerHead((Blocks(4), Window(3), Clusters(5), First(3) | Clusters(7))),
    "local and all": PerHead((Window(2), All(), Window(2), Causal())),
}
CUTS = {
    "all": {},
    "threshold": {"sparsify": gf.Threshold(0.1)},
    "renormalized": {"sparsify": gf.Threshold(0.1, renormalize=True)},
    "best": {"sparsify": gf.TopK(2), "score": "alibi"},
    "each channel": {"sparsify": gf.TopK(3), "score": "gatv2", "normalize": "sigmoid"},
    "difference": {"sparsify": gf.Threshold(0.02), "score": "differential"},
}
N = 37


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Lists wherever there are some, of a few rows each."""
    monkeypatch.setattr(listed, "WORTH", 0)
    monkeypatch.setattr(listed, "LIMIT", 401)


@pytest.fixture
def without_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "walk", lambda *given: pytest.fail("a block of all pairs"))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", RULES)
def test_as_the_dense_twin(name, cut, without_blocks):
    layer = layer_of(RULES[name], **CUTS[cut])
    torch.manual_seed(1)
    x = torch.randn(2, N, 16, requires_grad=True)
    keep = torch.arange(N) >= torch.tensor([[0], [5]])
    if "first" in name or name == "kinds of heads":
        keep = torch.ones_like(keep)  # what counts places is listed where texts begin with the row
    direction, found = torch.randn(2, N, 16), []
    for executor in ("stream", "dense"):
        layer.executor = executor
        out, graph = layer(x, keep, output_graph=True)
        grads = torch.autograd.grad(
            (out * direction).sum(), (x, *layer.parameters()), allow_unused=True
        )
        found.append((graph, out, [one for one in grads if one is not None]))
    (graph, *rest), (other, *wanted) = found
    assert torch.equal(graph.edge_index, other.edge_index)
    assert_close(graph.weight, other.weight)
    assert_close(rest, wanted)


def test_second_derivatives():
    layer = layer_of(Blocks((3, 2)), sparsify=gf.Threshold(0.05))
    layer.executor, x = "stream", torch.randn(1, 11, 16, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, x, fast_mode=True)


@pytest.mark.parametrize("rule", [Packed(torch.arange(N).expand(2, N) // 11), Causal()])
def test_limits_of_the_call(rule, without_blocks):
    layer, x = layer_of(Window(5), sparsify=gf.TopK(2)), torch.randn(2, N, 16)
    layer.executor = "dense"
    want = layer(x, candidates=rule)
    layer.executor = "stream"
    assert_close(layer(x, candidates=rule), want)


def test_every_row_once_whatever_the_limit(monkeypatch):
    q = torch.randn(3, 2, 7, 4)
    problem = gf.attention.problem.pose(
        q, q, candidates=Window(3), score=gf.attention.ScaledDotProduct()
    )
    lists = problem.rule.listed(problem.sizes, q.device)
    for limit in (1, 5, 31, 70, 10_000):
        monkeypatch.setattr(listed, "LIMIT", limit)
        parts = list(listed.walk(problem, lists))
        seen = [(lane, row) for lanes, rows in parts for lane in lanes for row in rows]
        assert seen == [(lane, row) for lane in range(6) for row in range(7)]
        number = [len(lists.of(*part, 2)[0]) for part in parts]
        assert all(
            one <= limit or len(part[1]) == 1 for one, part in zip(number, parts, strict=True)
        )
    assert len(parts) == 1


def test_taken_only_where_it_pays(monkeypatch):
    """A window's blocks are as narrow as its lists; the blocks of far tokens are not."""
    monkeypatch.setattr(listed, "WORTH", 8)
    x = torch.randn(1, 1, 600, 4)

    def lists(rule):
        return listed.of(
            gf.attention.problem.pose(
                x, x, candidates=rule, score=gf.attention.ScaledDotProduct(), is_causal=True
            )
        )

    assert lists(Window(200)) is None and lists(All()) is None
    assert lists(Window(4)) is not None
    assert lists(SharedQuestion(torch.zeros(1, 600, dtype=torch.long))) is None
