"""Pointers: each receiver's distribution beside its formula, and what is refused."""

import pytest
import torch
from torch.autograd import gradcheck

import graphformer as gf

pytestmark = pytest.mark.usefixtures("float64")
N = 7


def some():
    """Edges in no order, two of them parallel, and node 6 with none."""
    senders = torch.tensor([0, 3, 2, 2, 5, 6, 1, 0, 4])
    receivers = torch.tensor([1, 1, 1, 1, 0, 2, 2, 5, 3])
    return torch.randn(9, requires_grad=True), torch.stack((senders, receivers))


def test_weights_are_a_softmax_of_each_receivers_edges():
    logits, ends = some()
    graph = gf.nn.pointer_graph(logits, ends, N)
    want = torch.zeros(N, N)
    for i in range(N):
        mine = ends[1] == i
        for e in mine.nonzero().flatten():
            want[i, ends[0, e]] += logits[e].exp().detach() / logits[mine].exp().sum().detach()
    torch.testing.assert_close(graph.to_dense().view(N, N), want)
    sums = torch.zeros(N).index_add(0, graph.receivers, graph.weight)
    assert sums.tolist() == pytest.approx([1, 1, 1, 1, 0, 1, 0])
    assert graph.num_edges == 9  # parallel edges are alternatives
    assert gradcheck(lambda x: gf.nn.pointer_graph(x, ends, N).weight, (logits,))
    # large scores are as good as small ones
    big = gf.nn.pointer_graph(logits.detach() + 5000, ends, N)
    torch.testing.assert_close(big.weight, graph.weight.detach(), rtol=1e-9, atol=0)


def test_the_loss():
    logits, ends = some()
    chosen = torch.tensor([0, 0, 1, 0, 1, 0, 1, 0, 0]).bool()  # of receivers 1, 0 and 2
    losses = [
        -torch.log(logits[e].exp() / logits[ends[1] == ends[1, e]].exp().sum()) for e in (2, 4, 6)
    ]
    got = gf.nn.pointer_loss(logits, ends, N, chosen)
    torch.testing.assert_close(got, sum(losses) / 3)
    assert gradcheck(lambda x: gf.nn.pointer_loss(x, ends, N, chosen), (logits,))


def test_where_nodes_point():
    logits, ends = some()
    graph = gf.nn.pointer_graph(logits.detach(), ends, N)
    for i, j in enumerate(gf.nn.pointed(graph).tolist()):
        mine = (ends[1] == i).nonzero().flatten()
        assert j == (int(ends[0, mine[logits[mine].argmax()]]) if len(mine) else -1)
    equal = gf.nn.pointer_graph(torch.zeros(9), ends, N)
    assert gf.nn.pointed(equal).tolist() == [5, 0, 1, 4, -1, 0, -1]


def test_what_is_refused():
    logits, ends = some()
    with pytest.raises(ValueError, match=r"logits must be \[9\], one for each edge"):
        gf.nn.pointer_graph(logits[:, None], ends, N)
    chosen = torch.tensor([1, 1, 0, 0, 0, 0, 0, 0, 0]).bool()
    with pytest.raises(ValueError, match="chosen names several edges of node 1, which points"):
        gf.nn.pointer_loss(logits, ends, N, chosen)
    with pytest.raises(ValueError, match="chosen names no edge"):
        gf.nn.pointer_loss(logits, ends, N, torch.zeros(9, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"chosen must be bool \[9\], one an edge, got"):
        gf.nn.pointer_loss(logits, ends, N, chosen.long())
    with pytest.raises(ValueError, match=r"edge_index\[0\] \(senders\) must lie in 0\.\.4"):
        gf.nn.pointer_graph(logits, ends, 5)
    heads = gf.attention_graph(torch.randn(1, 2, 3, 5), torch.randn(1, 2, 3, 5))
    with pytest.raises(ValueError, match=r"graph must have one lane, got 2: take \.lane\(i\)"):
        gf.nn.pointed(heads)


def test_a_network_points(seed):
    """Edges of a GraphTransformer as pointers: permuted nodes, permuted pointers."""
    from torch_geometric.data import Data

    receivers, senders = torch.arange(N).repeat_interleave(N), torch.arange(N).repeat(N)
    x, edge_attr = torch.randn(N, 3), torch.randn(N * N, 2)
    data = Data(x=x, edge_index=torch.stack((senders, receivers)), edge_attr=edge_attr)
    net = gf.GraphTransformer(3, 2, 12, 2, 3, target="edge").eval()
    logits = net(data).prediction.squeeze(-1)
    here = gf.nn.pointed(gf.nn.pointer_graph(logits, data.edge_index, N))
    order = torch.randperm(N)
    new = order.argsort()  # the new number of each node
    moved = Data(x=x[order], edge_index=new[data.edge_index], edge_attr=edge_attr)
    logits = net(moved).prediction.squeeze(-1)
    there = gf.nn.pointed(gf.nn.pointer_graph(logits, moved.edge_index, N))
    assert torch.equal(there, new[here][order])
