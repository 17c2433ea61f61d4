"""Attention sinks of graphs, and weights that leave them."""

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.graph import calibrate_sinks, sink_nodes

pytestmark = pytest.mark.usefixtures("float64")
N = 40


def graph(sinks=(0, 7, 23)):
    """Causal maps of two heads, in which some tokens get far more than their part."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, N, 4), torch.randn(1, 2, N, 4)
    q[..., 0], k[..., 0] = 1.0, 0.0
    k[:, :, list(sinks), 0] = 12.0
    return gf.attention_graph(q, k, is_causal=True)


def dense_sinks(w, factor):
    nodes = w.shape[-1]
    part = w.sum(-2) / (nodes - torch.arange(nodes))
    found = part > factor / nodes
    found[..., 0] = False
    return found


@pytest.mark.parametrize("factor", [5.0, 1.5])
def test_against_the_formula(factor):
    g = graph()
    w = g.to_dense()[0]
    sinks = sink_nodes(g, factor)
    assert torch.equal(sinks, dense_sinks(w, factor))
    assert sinks[:, [7, 23]].all() and not sinks[:, 0].any()
    got = calibrate_sinks(g, 0.4, factor).to_dense()[0]
    for head in range(2):
        for i in range(N):
            row, mask = w[head, i], sinks[head] & (torch.arange(N) <= i)
            others = row[~mask].sum()
            want = torch.where(mask, 0.4 * row, row * (others + 0.6 * row[mask].sum()) / others)
            assert_close(got[head, i], want if others > 0 else row)
    assert_close(got.sum(-1), w.sum(-1))


def test_nothing_changes_at_1_and_rows_of_sinks_alone_stay():
    g = graph()
    assert_close(calibrate_sinks(g, 1.0).weight, g.weight)
    alone = g.select(g.senders % N == 7)
    assert_close(calibrate_sinks(alone, 0.0).weight, alone.weight)


def test_gradients_and_what_does_not_fit():
    g = graph()
    weight = g.weight.clone().requires_grad_()
    calibrate_sinks(g.with_weight(weight)).weight.square().sum().backward()
    assert weight.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"beta must be .* at most 1(\.0)?, got 2"):
        calibrate_sinks(g, 2)
    q, k = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    with pytest.raises(ValueError, match="5 senders and 3 receivers"):
        sink_nodes(gf.attention_graph(q, k))
