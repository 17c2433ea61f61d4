"""Rules whose rows reach few senders: flash runs stretch by stretch, and no mask of all pairs is
made.
"""

import itertools

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention.candidates import (
    Causal,
    Either,
    First,
    Keep,
    Neighborhood,
    Packed,
    Window,
)
from graphformer.attention.executors import flash
from graphformer.attention.pairs import Pairs
from graphformer.attention.problem import Problem

pytestmark = pytest.mark.usefixtures("float64")

N = 67
RULES = {
    "window": Window(5),
    "causal window": Window(5) & Causal(),
    "halo": Neighborhood(7, 3),
    "plane": Neighborhood(3, shape=(N, 1)),
    "padded": Window(5) & Keep(torch.arange(N).expand(2, N) < torch.tensor([[N], [N - 9]])),
    "sinks": (First(2) | Window(5)) & Causal(),
    "sinks on both sides": First(3) | Window(4),
    "two of both": (First(9) | Window(3)) & (First(5) | Window(9)),
    "packed": Window(4) & Packed(torch.arange(N).expand(2, N) // 11),
}


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    monkeypatch.setattr(flash, "ROWS", 11)


def qkx(queries=N):
    torch.manual_seed(0)
    return [torch.randn(2, 4, n, 3, requires_grad=True) for n in (queries, N, N)]


def summed(rule, q, k, x, **given):
    return gf.attention.attend(q, k, x, candidates=rule, **given)[0]["sum"]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("queries", [N, 40])
def test_stretches_are_the_whole(name, queries, monkeypatch):
    rule, (q, k, x) = RULES[name], qkx(queries)
    want = summed(rule, q, k, x, executor="dense")
    monkeypatch.setattr(Problem, "allowed", lambda self: pytest.fail("a mask of all pairs"))
    found = summed(rule, q, k, x, executor="flash")
    assert_close(found, want)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), (q, k, x)),
        torch.autograd.grad(want.square().sum(), (q, k, x)),
        strict=True,
    ):
        assert_close(one, other)
    with torch.no_grad():
        assert_close(summed(rule, q, k, x, executor="flash"), want)


def test_reaches_of_combined_rules_hold_what_they_allow():
    rows = range(20, 31)
    for rule in RULES.values():
        parts = rule.reaches(rows, N, N)
        assert all(one.stop <= other.start for one, other in itertools.pairwise(parts))
        places = torch.cat([torch.arange(one.start, one.stop) for one in parts])
        every = Pairs.every(2, 4, N, N, torch.device("cpu"))
        allowed = rule.allow(every).expand(*every.shape)[:, :, rows.start : rows.stop]
        outside = torch.ones(N, dtype=torch.bool).index_fill(0, places, False)
        assert not allowed[..., outside].any()
    sinks = (First(2) | Window(5)) & Causal()
    assert sinks.reaches(rows, N, N) == [range(2), range(16, 31)]


def test_second_gradients_and_grouped_keys():
    q, k, x = (one[:1, :, :23].detach() for one in qkx())
    k, x = k[:, :2], x.requires_grad_()

    def run(q, k):
        return summed(Window(3), q, k, x[:, :4], executor="flash")

    inputs = q.requires_grad_(), k.requires_grad_()
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("rule", [Causal(), Window(40), First(40) | Window(3)])
def test_wide_rules_run_at_once(rule):
    q, k, _ = qkx()
    with torch.no_grad():
        problem = gf.attention.problem.pose(
            q, k, candidates=rule, score=gf.attention.ScaledDotProduct()
        )
    assert flash.narrow(problem) is None


def test_a_row_that_sees_nothing_gets_nothing():
    q, k, x = qkx()
    keep = torch.ones(2, N, dtype=torch.bool)
    keep[1, 20:40] = False
    found = summed(Window(3) & Keep(keep), q, k, x, executor="flash")
    assert_close(found, summed(Window(3) & Keep(keep), q, k, x, executor="dense"))
    assert torch.equal(found[1, :, 25], torch.zeros(4, 3))


def test_a_rule_of_ones_own_does_not_inherit_what_its_base_reaches():
    class Wider(Either):
        def allow(self, pairs):
            return super().allow(pairs) | (pairs.sender == 40)

    class Further(Either):
        def reach(self, rows, num_receivers, num_senders):
            return range(num_senders)

    for kind in (Wider, Further):
        rule = kind(First(2), Window(3))
        assert rule.reaches(range(5), N, N) == [range(N)]
        q, k, x = qkx()
        with torch.no_grad():
            found = summed(rule, q, k, x, executor="flash")
            assert_close(found, summed(rule, q, k, x, executor="dense"))
