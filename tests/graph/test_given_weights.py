"""Weights of edges that other libraries' graphs bring: read as they are, or told."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from graphformer import AttentionGraph

RING = torch.tensor([[0, 1, 2], [1, 2, 0]])
NUMBERS = torch.tensor([0.1, 0.2, 0.3])


@pytest.fixture(autouse=True)
def each_warning_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_misspelt_name_of_networkx_is_refused_and_lacking_weights_are_told():
    nx = pytest.importorskip("networkx")
    graph = nx.DiGraph()
    graph.add_edge("a", "b", weight=2.0)
    with pytest.raises(ValueError, match=r"no such name .* did you mean 'weight'"):
        AttentionGraph.from_networkx(graph, weight="wieght")
    graph.add_edge("b", "c")
    with pytest.warns(UserWarning, match="1 of 2 edges have no 'weight' and weigh 1"):
        assert AttentionGraph.from_networkx(graph).weight.tolist() == [2.0, 1.0]
    other = nx.DiGraph()
    other.add_edge(0, 1, cost=5, colour="red")
    with pytest.warns(UserWarning, match="is not read: cost; .* give weight='cost'"):
        AttentionGraph.from_networkx(other)
    assert AttentionGraph.from_networkx(other, weight="cost").weight.tolist() == [5.0]
    assert AttentionGraph.from_networkx(nx.path_graph(3)).weight.tolist() == [1.0] * 4


def test_edges_of_two_sides_lead_from_senders_to_receivers():
    nx = pytest.importorskip("networkx")
    nodes, pair = [("sender", 0), ("sender", 1), ("receiver", 0)], (("sender", 1), ("receiver", 0))
    graph = nx.Graph()
    graph.add_nodes_from(nodes)
    graph.add_edge(*pair, weight=0.5)
    read = AttentionGraph.from_networkx(graph)  # an undirected one has one direction here
    assert read.edge_index.tolist() == [[1], [0]] and read.weight.tolist() == [0.5]
    turned = nx.DiGraph()
    turned.add_nodes_from(nodes)
    turned.add_edge(*pair[::-1], weight=0.5)
    for wrong in (turned, nx.Graph([(nodes[0], nodes[1])])):
        with pytest.raises(ValueError, match="does not lead from a sender to a receiver"):
            AttentionGraph.from_networkx(wrong)


@pytest.mark.parametrize(
    ("name", "shape"), [("edge_attr", 3), ("edge_attr", (3, 1)), ("weight", 3)]
)
def test_numbers_of_pyg_under_another_name_are_told(name, shape):
    data = pytest.importorskip("torch_geometric.data").Data(edge_index=RING, num_nodes=3)
    data[name] = NUMBERS.reshape(shape)
    with pytest.warns(UserWarning, match=f"no 'edge_weight', so all edges weigh 1, .*'{name}'"):
        AttentionGraph.from_pyg(data)
    data.edge_weight = NUMBERS
    assert len(AttentionGraph.from_pyg(data).weight.unique()) == 3


def test_features_of_edges_are_no_weights_and_not_told():
    data = pytest.importorskip("torch_geometric.data").Data(edge_index=RING, num_nodes=3)
    data.edge_attr = torch.ones(3, 4)
    assert AttentionGraph.from_pyg(data).weight.tolist() == [1.0] * 3


@pytest.mark.parametrize("gone", [(0, 1), (0, 1, 2)])
def test_lanes_of_which_nodes_were_taken_out_are_refused(gone):
    pytest.importorskip("torch_geometric")
    none = torch.empty(0, dtype=torch.long)
    data = AttentionGraph.from_edges(none, none, num_nodes=5, batch_shape=(2,)).to_pyg()
    kept = torch.ones(10, dtype=torch.bool)
    kept[list(gone)] = False
    part = data.subgraph(kept)
    with pytest.raises(ValueError, match="2 lanes of equal size, and batch has"):
        AttentionGraph.from_pyg(part)
    del part.batch_shape
    assert AttentionGraph.from_pyg(part).num_nodes == 10 - len(gone)
    assert AttentionGraph.from_pyg(data).batch_shape == (2,)


def test_a_misspelt_name_of_dgl_is_refused_and_another_one_told():
    dgl = pytest.importorskip("dgl")
    graph = dgl.graph(([0, 1, 2], [1, 2, 0]))
    graph.edata["alpha"] = NUMBERS
    with pytest.raises(ValueError, match=r"no such name in edata; it has alpha"):
        AttentionGraph.from_dgl(graph, weight="alhpa")
    with pytest.warns(UserWarning, match="edata has no 'w', so all edges weigh 1, .*'alpha'"):
        AttentionGraph.from_dgl(graph)
    assert len(AttentionGraph.from_dgl(graph, weight="alpha").weight.unique()) == 3
    two = dgl.heterograph({("a", "x", "b"): ([0], [0]), ("b", "y", "a"): ([0], [0])})
    with pytest.raises(ValueError, match="has 2 types of edges"):
        AttentionGraph.from_dgl(two)


def test_weights_that_torch_would_change_are_refused():
    with pytest.raises(TypeError, match="weights are real"):
        AttentionGraph.from_scipy(sp.csr_array(np.eye(2) * (1 + 2j)))
    with pytest.raises(ValueError, match="whole numbers up to 16777217"):
        AttentionGraph.from_scipy(sp.csr_array(np.array([[2**24 + 1]])))
    assert AttentionGraph.from_scipy(sp.csr_array(np.array([[2**24]]))).weight.item() == 2**24
    graph = AttentionGraph.from_dense(torch.rand(3, 3) + 0.1)
    with pytest.raises(TypeError, match="weights are floating point numbers"):
        graph.to(torch.int32)
    assert graph.to(torch.float16).weight.dtype == torch.float16
