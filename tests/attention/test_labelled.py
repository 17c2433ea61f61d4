"""Clusters run group by group, and give what a mask of all pairs gives."""

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import attend
from graphformer.attention.candidates import Causal, Clusters, Window
from graphformer.attention.candidates.clusters import SameCluster
from graphformer.attention.executors import labelled

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def calls(monkeypatch):
    """How often groups were taken, with any number of receivers."""
    monkeypatch.setattr(labelled, "FEWEST", 1)
    found, by_group = [], labelled.by_group
    monkeypatch.setattr(
        labelled, "by_group", lambda *given: found.append(given) or by_group(*given)
    )
    return found


def inputs(batch=2, heads=3, kv_heads=3, receivers=13, senders=13):
    torch.manual_seed(0)
    sizes = ((heads, receivers, 4), (kv_heads, senders, 4), (heads, senders, 5))
    return [torch.randn(batch, *size, requires_grad=True) for size in sizes]


RULES = {
    "alone": lambda rule: rule,
    "causal": lambda rule: rule & Causal(),
    "in a window": lambda rule: Window(5) & rule,
}


@pytest.mark.parametrize("how", RULES)
@pytest.mark.parametrize("mask", [None, [[0] * 3 + [1] * 10, [1] * 12 + [0]]])
def test_equals_the_other_executors(calls, how, mask):
    """Outputs, gradients and second derivatives; a label that no sender has, and one that no
    receiver has.
    """
    labels = torch.randint(0, 4, (2, 2, 3, 13))
    rule = RULES[how](SameCluster(labels[0] + (labels[0] == 2), labels[1] + (labels[1] == 1)))
    more = {} if mask is None else {"attention_mask": torch.tensor(mask)}
    found = []
    for executor in ("dense", "flash"):
        given = inputs()
        out = attend(*given, candidates=rule, executor=executor, **more)[0]["sum"]
        grads = torch.autograd.grad(out.sin().sum(), given, create_graph=True)
        second = torch.autograd.grad(sum(one.square().sum() for one in grads), given)
        found.append((out, *grads, *second))
    assert calls
    for one, want in zip(found[1], found[0], strict=True):
        assert_close(one, want)


def test_shared_keys_and_a_cache(calls):
    torch.manual_seed(0)
    rule = Clusters(4, num_heads=6, dim=4)
    q, k, x = inputs(heads=6, kv_heads=2, receivers=5, senders=17)
    got, want = (
        attend(q, k, x, candidates=rule, is_causal=True, executor=name)[0]["sum"]
        for name in ("flash", "dense")
    )
    assert_close(got, want)
    assert calls


def test_most_pairs_of_one_label_are_left_to_the_mask(calls):
    labels = torch.zeros(2, 3, 13, dtype=torch.long)
    attend(*inputs(), candidates=SameCluster(labels, labels), executor="flash")
    assert not calls


@pytest.mark.parametrize("empty", [{"batch": 0}, {"senders": 0}])
def test_nothing_to_look_at(calls, empty):
    q, k, x = inputs(**empty)
    labels = (torch.zeros(*one.shape[:3], dtype=torch.long) for one in (q, k))
    out = attend(q, k, x, candidates=SameCluster(*labels))[0]["sum"]
    assert out.shape == (*q.shape[:3], 5) and not out.any() and not calls


def test_a_layer(calls):
    layer = gf.nn.SumAttention(12, 3, head=gf.Head(candidates=Clusters(5))).eval()
    x = torch.randn(2, 40, 12)
    got = layer(x)
    layer.executor = "stream"
    assert_close(got, layer(x))
    assert calls
    gf.testing.check_prefix(layer, x)


def test_half_precision_keeps_its_kind(calls):
    q, k, x = (one.detach().bfloat16() for one in inputs(senders=40, receivers=40))
    labels = torch.randint(0, 6, (2, 3, 40))
    rule = SameCluster(labels, labels)
    got, want = (
        attend(q, k, x, candidates=rule, executor=name)[0]["sum"] for name in ("flash", "dense")
    )
    assert got.dtype == torch.bfloat16 and calls
    assert (got - want).float().abs().max() < 0.05 * want.float().abs().max()
