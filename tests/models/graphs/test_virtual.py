"""Virtual nodes of a graph: beside pairs written out one by one, and what they carry."""

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.nn import EdgeList

pytestmark = pytest.mark.usefixtures("float64")

SIZES = {"hidden_size": 12, "num_layers": 3, "num_heads": 3, "edge_hidden": 5}


def made(**more):
    torch.manual_seed(0)
    net = gf.GraphTransformer(4, 2, target="node", **{**SIZES, **more}).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def a_graph(nodes, edges, seed):
    torch.manual_seed(seed)
    index = torch.randint(nodes, (2, edges))
    return Data(x=torch.randn(nodes, 4), edge_index=index, edge_attr=torch.randn(edges, 2))


def test_beside_pairs_written_out():
    graphs = [a_graph(5, 11, 1), a_graph(3, 7, 2)]
    batch, number = Batch.from_data_list(graphs), 2
    net = made(virtual_nodes=number, refine=False)
    found = net(batch, output_graphs=True)
    level = net.embed(batch)
    own, features, _ = net._pairs(level, 0, "edges")
    ends = own.senders.tolist(), own.receivers.tolist()
    pairs = list(zip(*ends, features, strict=True))
    for node, graph in enumerate(batch.batch.tolist()):
        for one in range(number):
            virtual = 8 + number * graph + one
            pairs += [(node, virtual, net.virtual.pair), (virtual, node, net.virtual.pair)]
    senders, receivers = (torch.tensor([one[end] for one in pairs]) for end in (0, 1))
    edges = EdgeList.sort(senders, receivers, 12, 12)
    features = torch.stack([one[2] for one in pairs])[edges.order]
    h = torch.cat((level.h, net.virtual.nodes, net.virtual.nodes))
    for layer, seen in zip(net.layers, found.graphs, strict=True):
        h, graph, *_ = layer.blocks[0](h, edges, features, None, None)
        assert_close(seen.to_dense(), graph.to_dense())
    assert_close(found.prediction, net.heads["y"](net.node_norm(h[:8])))
    assert all(one.num_senders == one.num_receivers == 8 for one in found.refined)


def test_two_steps_from_anywhere_to_anywhere():
    """Without edges a node hears of another through the virtual nodes, after two layers, and of no
    node of another graph.
    """
    none = torch.zeros(2, 0, dtype=torch.long)
    graphs = [
        Data(x=torch.randn(n, 4), edge_index=none, edge_attr=torch.zeros(0, 2)) for n in (4, 3)
    ]
    for layers, number, heard in ((1, 1, False), (2, 1, True), (3, 0, False)):
        batch = Batch.from_data_list(graphs)
        batch.x.requires_grad_()
        net = made(num_layers=layers, virtual_nodes=number)
        (grad,) = torch.autograd.grad(net(batch).prediction[0].sum(), batch.x)
        assert grad[0].any() and bool(grad[1:4].any(-1).all()) == heard
        assert not grad[4:].any()


def test_what_is_told():
    with pytest.raises(ValueError, match="virtual_nodes"):
        made(virtual_nodes=-1)
    net = made(virtual_nodes=2)
    again = gf.GraphTransformer(**net.settings)
    assert {n: p.shape for n, p in again.named_parameters()} == {
        n: p.shape for n, p in net.named_parameters()
    }
    assert not any("virtual" in name for name, _ in made().named_parameters())
