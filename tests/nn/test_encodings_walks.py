"""Walks in shells and between pairs: naive twins, numbering, batches, what is stored, and inputs
that are odd.
"""

import math

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.models.graphs.data import read_structure
from graphformer.nn import substructures
from graphformer.nn.encodings import encode_nodes, encoding
from graphformer.nn.pairs import candidates
from graphformer.nn.transforms import AddStructure

nx = pytest.importorskip("networkx")


def data_of(graph: nx.Graph) -> Data:
    ends = (
        torch.tensor([edge for a, b in graph.edges for edge in ((a, b), (b, a))], dtype=torch.int64)
        .reshape(-1, 2)
        .t()
    )
    return Data(edge_index=ends.contiguous(), num_nodes=graph.number_of_nodes())


GRAPHS = {
    "random": nx.gnp_random_graph(17, 0.3, seed=1),
    "sparse": nx.gnp_random_graph(13, 0.12, seed=2),  # with isolated nodes
    "complete": nx.complete_graph(5),
    "rook": nx.line_graph(nx.complete_bipartite_graph(4, 4)),
    "cycle": nx.cycle_graph(7),
}
GRAPHS = {name: nx.convert_node_labels_to_integers(graph) for name, graph in GRAPHS.items()}


def naive_shells(graph: nx.Graph, most: int, steps: int) -> torch.Tensor:
    rows = []
    for node in range(graph.number_of_nodes()):
        far, row = nx.single_source_shortest_path_length(graph, node), []
        for r in range(1, most + 1):
            part = graph.subgraph([other for other, length in far.items() if length == r])
            n = part.number_of_nodes()
            if not n:
                row += [0.0] * (2 * steps)
                continue
            adjacency = torch.tensor(nx.to_numpy_array(part))
            walk = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1)
            back = [torch.linalg.matrix_power(walk, k).diagonal() for k in range(2, steps + 1)]
            row += [math.log1p(n), math.log1p(float(adjacency.sum()) / n)]
            row += [float(one.mean()) for one in back] + [
                float(one.std(unbiased=False)) for one in back
            ]
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(("most", "steps"), [(1, 2), (2, 5), (3, 8)])
def test_shells_are_those_of_the_naive_twin(name: str, most: int, steps: int):
    what = encoding(f"shell_walk:{most}:{steps}")
    got = encode_nodes(read_structure(data_of(GRAPHS[name])), what, training=False)
    assert got.shape == (GRAPHS[name].number_of_nodes(), what.width) and got.dtype == torch.float32
    assert_close(got, naive_shells(GRAPHS[name], most, steps), atol=1e-6, rtol=1e-5)


def test_shells_in_small_blocks(monkeypatch: pytest.MonkeyPatch):
    want = substructures.shell_walk(read_structure(data_of(GRAPHS["random"])), 2, 5)
    monkeypatch.setattr(substructures, "BLOCK", 100)
    assert_close(
        substructures.shell_walk(read_structure(data_of(GRAPHS["random"])), 2, 5),
        want,
        atol=0,
        rtol=0,
    )


def test_shells_tell_two_strongly_regular_graphs_apart():
    """The rook's graph and Shrikhande's have equal numbers of everything that message passing
    counts; neighbours of a node form two triangles in one and a hexagon in the other.
    """
    moves = ((0, 1), (1, 0), (1, 1))
    edges = [
        ((i, j), ((i + a) % 4, (j + b) % 4)) for i in range(4) for j in range(4) for a, b in moves
    ]
    shrikhande = nx.convert_node_labels_to_integers(nx.Graph(edges))
    walks, shells = encoding("random_walk:16"), encoding("shell_walk:1:4")
    pair = [read_structure(data_of(graph)) for graph in (GRAPHS["rook"], shrikhande)]
    assert_close(*(encode_nodes(one, walks, training=False) for one in pair))
    one, two = (encode_nodes(one, shells, training=False) for one in pair)
    # After 3 steps a walk on a triangle is back with probability 1/4, on a hexagon with 0.
    assert_close(one[:, 3], torch.full((16,), 0.25))
    assert_close(two[:, 3], torch.zeros(16))


def test_walks_between_pairs_are_powers():
    graph = nx.gnp_random_graph(11, 0.3, seed=3, directed=True)
    ends = torch.tensor(list(graph.edges)).t()
    structure = read_structure(Data(edge_index=ends, num_nodes=11))
    edges, _ = candidates(structure, "all+self")
    got = encoding("relative_walk:4").compute(structure, edges)
    adjacency = torch.zeros(11, 11, dtype=torch.float64)
    adjacency[ends[0], ends[1]] = 1
    step = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1)
    powers = torch.stack([torch.linalg.matrix_power(step, k) for k in range(1, 5)], -1)
    assert got.shape == (121, 4)
    assert_close(got, powers[edges.senders, edges.receivers].float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_other_numbering_permutes(name: str):
    data, order = data_of(GRAPHS[name]), torch.randperm(GRAPHS[name].number_of_nodes())
    other = Data(edge_index=order[data.edge_index].flip(1), num_nodes=data.num_nodes)
    one, two = read_structure(data), read_structure(other)
    what = encoding("shell_walk:2:6")
    assert_close(
        encode_nodes(two, what, False)[order], encode_nodes(one, what, False), atol=1e-7, rtol=1e-6
    )
    what = encoding("relative_walk:5")
    (before, _), (after, _) = candidates(one, "all"), candidates(two, "all")
    dense = torch.zeros(2, data.num_nodes, data.num_nodes, 5)
    dense[0, before.senders, before.receivers] = what.compute(one, before)
    dense[1, after.senders, after.receivers] = what.compute(two, after)
    assert_close(dense[1][order][:, order], dense[0], atol=1e-7, rtol=1e-6)


def test_a_batch_is_its_graphs():
    parts = [
        data_of(graph)
        for graph in (
            GRAPHS["random"],
            nx.empty_graph(3),
            GRAPHS["rook"],
            nx.empty_graph(1),
            GRAPHS["sparse"],
        )
    ]
    whole = read_structure(Batch.from_data_list(parts))
    what = encoding("shell_walk:3:5")
    assert_close(
        encode_nodes(whole, what, False),
        torch.cat([encode_nodes(read_structure(one), what, False) for one in parts]),
    )
    what = encoding("relative_walk:3")
    alone = [what.compute(one, candidates(one, "all")[0]) for one in map(read_structure, parts)]
    assert_close(what.compute(whole, candidates(whole, "all")[0]), torch.cat(alone))


def test_direction_loops_and_repeated_edges_change_no_shell():
    data = data_of(GRAPHS["random"])
    once = data.edge_index[:, data.edge_index[0] < data.edge_index[1]]
    loops = torch.arange(5).repeat(2, 1)
    odd = Data(edge_index=torch.cat((once, loops, once[:, :7]), 1), num_nodes=17)
    assert_close(
        substructures.shell_walk(read_structure(odd), 2, 4),
        substructures.shell_walk(read_structure(data), 2, 4),
    )


@pytest.mark.parametrize("nodes", [0, 1, 4])
def test_graphs_without_edges(nodes: int):
    structure = read_structure(
        Data(edge_index=torch.zeros(2, 0, dtype=torch.int64), num_nodes=nodes)
    )
    assert_close(encode_nodes(structure, encoding("shell_walk:2:3"), False), torch.zeros(nodes, 12))
    edges, _ = candidates(structure, "all")
    assert_close(
        encoding("relative_walk:2").compute(structure, edges), torch.zeros(nodes * (nodes - 1), 2)
    )


def test_the_model_takes_them_made_or_stored():
    settings = {"hidden_size": 8, "num_heads": 2, "num_layers": 2, "candidates": "edges+k_hop:2"}
    net = gf.GraphTransformer(0, encodings=("shell_walk:2:4", "relative_walk:3"), **settings)
    parts = [data_of(GRAPHS[name]) for name in ("random", "sparse")]
    stored = Batch.from_data_list(
        [AddStructure(("shell_walk:2:4", "relative_walk:3"))(one.clone()) for one in parts]
    )
    assert stored.encoding_shell_walk_2_4.shape == (30, 16)
    assert_close(net(stored).prediction, net(Batch.from_data_list(parts)).prediction)


@pytest.mark.parametrize(
    "spec",
    [
        "shell_walk",
        "shell_walk:2",
        "shell_walk:2:1",
        "shell_walk:0:4",
        "shell_walk:2:4:5",
        "relative_walk",
        "relative_walk:0",
    ],
)
def test_encodings_that_are_none(spec: str):
    with pytest.raises(
        ValueError, match=f"unknown encoding '{spec}'; known: .*shell_walk:2:8.*relative_walk:8"
    ):
        encoding(spec)
