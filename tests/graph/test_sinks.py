"""Attention sinks of graphs, and weights that leave them."""

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention.candidates import All, Persistent
from graphformer.graph import calibrate_sinks, redirect_sinks, sink_nodes, without_last

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


# ---------------------------------------------------------------------- magnets


def with_magnets(magnets=3):
    """The same maps with senders behind the tokens, which the first rows of a head do not see."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, N, 4), torch.randn(1, 2, N + magnets, 4)
    q[..., 0], k[..., 0] = 1.0, 0.0
    k[:, :, [0, 7, 23], 0] = 12.0
    k[:, :, N:, 0] = 11.0
    keep = torch.cat((torch.ones(N, N).tril(), torch.ones(N, magnets)), 1).bool().repeat(2, 1, 1)
    keep[1, 3:9, N:] = False
    return gf.attention_graph(q, k, attention_mask=keep.unsqueeze(0))


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_magnets_take_what_sinks_lose(beta):
    g = with_magnets()
    w = g.to_dense()[0]
    sinks = sink_nodes(g, 1.5, others=3)
    assert torch.equal(sinks[:, :N], dense_sinks(w[..., :N], 1.5)) and not sinks[:, N:].any()
    assert sinks.any(-1).all()
    got = redirect_sinks(g, 3, beta, 1.5).to_dense()[0]
    for head in range(2):
        for i in range(N):
            row, want = w[head, i], w[head, i].clone()
            freed = (1 - beta) * row[sinks[head]].sum()
            if row[N:].sum() > 0:
                want[sinks[head]] *= beta
                want[N:] += freed * row[N:] / row[N:].sum()
            assert_close(got[head, i], want)
    assert_close(got.sum(-1), w.sum(-1))
    assert_close(redirect_sinks(g, 3, 1.0).weight, g.weight)


@pytest.mark.parametrize("renormalize", [True, False])
def test_a_graph_without_its_magnets(renormalize):
    g = with_magnets()
    left = without_last(g, 3, renormalize=renormalize)
    want = g.to_dense()[..., :N]
    if renormalize:
        want = want / want.sum(-1, keepdim=True)
    assert_close(left.to_dense(), want)
    assert left.num_senders == left.num_receivers == N and left.batch_shape == (1, 2)
    assert_close(without_last(g, 0).to_dense(), g.to_dense())


def test_magnets_of_a_layer():
    layer = gf.nn.SumAttention(12, 4, head=gf.Head(candidates=All() | Persistent(2, sends=False)))
    _, g = layer(torch.randn(2, 9, 12), output_graph=True)
    weight = g.weight.detach().requires_grad_()
    moved = redirect_sinks(g.with_weight(weight), 2, factor=1.0)
    moved.weight.square().sum().backward()
    assert weight.grad.isfinite().all()
    assert_close(moved.in_weight(), torch.ones(72))
    text = without_last(moved, 2, renormalize=True)
    assert text.num_nodes == 9
    with pytest.raises(ValueError, match=r"11 senders and 9 receivers, and 1 others"):
        redirect_sinks(g, 1)
    with pytest.raises(ValueError, match="count=12 are the last senders"):
        without_last(g, 12)
