"""BREC: what is read, shuffled copies, and the protocol that compares embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from graphformer.datasets import BREC
from graphformer.datasets.brec import from_graph6


@pytest.fixture(scope="module")
def brec(data_dir: Path) -> BREC:
    if not (data_dir / "brec").is_dir():
        pytest.skip("the files of BREC are not here")
    return BREC(None, raw=data_dir / "brec", log=False)


# ---------------------------------------------------------------- graph6


def test_graph6_by_hand():
    edges, nodes = from_graph6("DQc")  # the example of the format's description: 0-2, 0-4, 1-3, 3-4
    assert nodes == 5
    assert {(a, b) for a, b in edges.t().tolist() if a < b} == {(0, 2), (0, 4), (1, 3), (3, 4)}
    assert edges.shape == (2, 8) and edges.dtype == torch.int64


@pytest.mark.parametrize("nodes", [0, 1, 2, 13, 62, 63, 130])
def test_graph6_reads_what_networkx_writes(nodes: int):
    nx = pytest.importorskip("networkx")
    graph = nx.gnp_random_graph(nodes, 0.3, seed=nodes)
    edges, found = from_graph6(nx.to_graph6_bytes(graph).decode())
    assert found == nodes
    assert {(a, b) for a, b in edges.t().tolist() if a < b} == {
        tuple(sorted(edge)) for edge in graph.edges
    }
    assert edges.shape[1] == 2 * graph.number_of_edges()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a graph in graph6"),
        ("D c", "not a graph in graph6"),
        ("DQ", "5 nodes need 2 characters after the first 1, got 1"),
    ],
)
def test_graph6_that_is_none(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        from_graph6(text)


# ---------------------------------------------------------------- the data


def test_pairs_in_the_official_order(brec: BREC):
    assert len(brec) == 800
    assert [part.stop for part in brec.categories.values()] == [60, 110, 160, 260, 360, 380, 400]
    assert [brec.category(part.start) for part in brec.categories.values()] == list(brec.categories)
    assert [brec.category(part.stop - 1) for part in brec.categories.values()] == list(
        brec.categories
    )
    sizes = {
        name: (min(brec[2 * i].num_nodes for i in part), max(brec[2 * i].num_nodes for i in part))
        for name, part in brec.categories.items()
    }
    assert (
        sizes["basic"] == (10, 10)
        and sizes["strongly_regular"] == (16, 35)
        and sizes["cfi"] == (18, 198)
    )
    assert sizes["four_vertex"] == (63, 63) and sizes["distance_regular"] == (30, 63)


def test_partners_have_equal_degrees_and_regular_ones_are_regular(brec: BREC):
    for pair in range(400):
        one, two = brec.pair(pair)
        degrees = [
            torch.bincount(g.edge_index[0], minlength=g.num_nodes).sort().values for g in (one, two)
        ]
        assert torch.equal(*degrees), pair  # a round of message passing does not tell them apart
        if brec.category(pair) in (
            "regular",
            "strongly_regular",
            "four_vertex",
            "distance_regular",
        ):
            assert degrees[0][0] == degrees[0][-1]
        assert bool((one.edge_index[0] != one.edge_index[1]).all())


def test_copies_are_the_same_graph(brec: BREC):
    for graph in (0, 231, 541):
        data = brec[graph]
        copies = brec.relabelled(graph, 3, seed=5)
        spectra = []
        for one in [data, *copies]:
            adjacency = np.zeros((one.num_nodes, one.num_nodes))
            adjacency[tuple(one.edge_index.numpy())] = 1
            spectra.append(np.linalg.eigvalsh(adjacency))
        assert np.abs(np.array(spectra) - spectra[0]).max() < 1e-9
        assert not torch.equal(copies[0].edge_index, copies[1].edge_index)
        assert torch.equal(copies[2].edge_index, brec.relabelled(graph, 3, seed=5)[2].edge_index)
        assert not torch.equal(
            copies[0].edge_index, brec.relabelled(graph, 1, seed=6)[0].edge_index
        )


def test_pairs_that_are_none(brec: BREC):
    with pytest.raises(IndexError, match="there are pairs 0 to 399, not 400"):
        brec.pair(400)
    with pytest.raises(IndexError, match="this part has 10"):
        brec[:10].pair(0)


def test_it_is_kept_on_disk(tmp_path: Path, data_dir: Path, brec: BREC):
    made = BREC(tmp_path, raw=data_dir / "brec", log=False)
    again = BREC(tmp_path, raw=tmp_path / "nowhere", log=False)
    assert made.cache_path.is_file()
    for graph in (0, 799):
        assert (
            torch.equal(again[graph].edge_index, brec[graph].edge_index)
            and again[graph].num_nodes == brec[graph].num_nodes
        )


# ---------------------------------------------------------------- the protocol

rpc = pytest.importorskip(
    "benchmarks.graphs.rpc", reason="benchmarks/ is not part of an installed package"
)


def alternating(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    return torch.stack((one, two), 1).flatten(0, 1)


def test_statistic_is_hotellings():
    one, two = torch.randn(32, 16), torch.randn(32, 16) + 0.5
    difference = (one - two).double().numpy()
    mean, inverse = difference.mean(0), np.linalg.inv(np.cov(difference.T) + 1e-7 * np.eye(16))
    assert rpc.statistic(alternating(one, two)) == pytest.approx(mean @ inverse @ mean)
    assert rpc.statistic(alternating(one, two), None) == pytest.approx(
        mean @ inverse @ mean, rel=1e-3
    )


def test_statistic_counts_what_is_more_than_noise():
    base, noise = torch.randn(1, 16), 1e-6 * torch.randn(64, 16)
    assert rpc.statistic(base + noise) < 1
    apart = noise.clone()
    apart[0::2, 0] += 0.01
    assert rpc.statistic(base + apart) > rpc.THRESHOLD
    # One rounding error that all copies share is no difference.
    exact = base.repeat(64, 1)
    exact[0::2] = torch.nextafter(exact[0::2], torch.tensor(9.0))
    assert rpc.statistic(exact) < 1
    assert rpc.statistic(base.repeat(64, 1)) == 0


def test_verdict_needs_reliability():
    found = {"apart": 1e6, "equal": 1.0, "apart_pinv": 1e6, "equal_pinv": 100.0}
    assert rpc.verdict(found) == (True, True)
    assert rpc.verdict(found, "_pinv") == (False, False)
    assert rpc.verdict({"apart": 70.0, "equal": 1.0}) == (False, True)


@pytest.mark.parametrize(
    ("name", "pair", "expected"),
    [("gine", 0, False), ("gin", 0, True), ("gin", 155, True), ("gin-walks", 155, False)],
)
def test_networks_tell_apart_what_their_encodings_allow(
    brec: BREC, name: str, pair: int, expected: bool
):
    from benchmarks.graphs.brec import CONTENDERS, TRAINING

    contender = CONTENDERS[name]
    what = rpc.prepare(brec, pair, contender.encodings, seed=3)
    assert len(what.parts) == 8 and what.both.num_graphs == what.same.num_graphs == 64
    found = rpc.compare(contender.make, what, seed=3, **TRAINING)
    assert rpc.verdict(found) == (expected, True), found
