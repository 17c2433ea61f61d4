"""AttentionGraph: what its fields promise, every edit against its dense formula, and the way to
other libraries and back.
"""

import copy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphformer import AttentionGraph

EMPTY_SHAPES = [
    (0, 3, 5, 5),
    (2, 0, 5, 5),
    (2, 3, 0, 0),
    (2, 3, 5, 0),
    (2, 3, 0, 5),
    (2, 3, 5, 5),
    (2, 3, 5, 7),
    (1, 1, 1, 1),
    (0, 2, 2),
    (1, 1),
]


def matrices(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Sparse attention matrices; receiver 1 of every lane has no edges."""
    weights = torch.rand(*shape, dtype=dtype).add(0.01) * (torch.rand(*shape) > 0.4)
    weights[..., 1, :] = 0
    return weights


def same(
    actual: AttentionGraph, wanted: AttentionGraph, *, batch_shape: tuple[int, ...] | None = None
) -> None:
    """Equal edges, weights and sizes; ``batch_shape`` where it is not the wanted graph's own."""
    assert actual.batch_shape == (wanted.batch_shape if batch_shape is None else batch_shape)
    assert torch.equal(actual.senders, wanted.senders) and torch.equal(
        actual.receivers, wanted.receivers
    )
    assert_close(actual.weight, wanted.weight, rtol=0, atol=0)
    assert actual.num_lanes * actual.num_senders == wanted.num_lanes * wanted.num_senders
    assert actual.num_lanes * actual.num_receivers == wanted.num_lanes * wanted.num_receivers


def is_well_formed(graph: AttentionGraph) -> None:
    """The invariants of the class's docstring, read off the edges themselves."""
    assert graph.senders.dtype == graph.receivers.dtype == torch.int64
    pairs = list(zip(graph.receivers.tolist(), graph.senders.tolist(), strict=True))
    assert pairs == sorted(pairs)
    for receiver, sender in pairs:
        assert 0 <= receiver < graph.num_lanes * graph.num_receivers
        assert receiver // graph.num_receivers == sender // graph.num_senders
    assert (
        graph.indptr.shape == (graph.num_lanes * graph.num_receivers + 1,)
        and int(graph.indptr[-1]) == graph.num_edges
    )
    order, starts = graph.by_sender
    assert starts.shape == (graph.num_lanes * graph.num_senders + 1,)
    for i in range(len(graph.indptr) - 1):
        assert (graph.receivers[graph.indptr[i] : graph.indptr[i + 1]] == i).all()
    for j in range(len(starts) - 1):
        assert (graph.senders[order[starts[j] : starts[j + 1]]] == j).all()


# ---------------------------------------------------------------- direction


def one_edge() -> AttentionGraph:
    """Token 0 is attended to by token 2: a message goes from 0 to 2."""
    return AttentionGraph.from_edges(
        torch.tensor([0]), torch.tensor([2]), torch.tensor([0.5]), num_nodes=3
    )


def test_one_edge_in_pyg_sends_from_sender_to_receiver():
    # the plainest MessagePassing: it adds up what the neighbours send
    from torch_geometric.nn import SimpleConv

    graph, x = one_edge(), torch.tensor([[1.0], [10.0], [100.0]])
    assert graph.edge_index.tolist() == [[0], [2]]
    assert SimpleConv("sum")(x, graph.edge_index).tolist() == [[0.0], [0.0], [1.0]]
    assert SimpleConv("sum")(x, graph.to_pyg().edge_index).tolist() == [[0.0], [0.0], [1.0]]


def test_one_edge_in_dgl_sends_from_sender_to_receiver():
    dgl = pytest.importorskip("dgl")
    out = one_edge().to_dgl()
    out.ndata["h"] = torch.tensor([[1.0], [10.0], [100.0]])
    out.update_all(dgl.function.copy_u("h", "m"), dgl.function.sum("m", "out"))
    assert out.ndata["out"].tolist() == [[0.0], [0.0], [1.0]]


def test_one_edge_in_matrices_and_networkx():
    graph = one_edge()
    assert graph.to_dense().nonzero().tolist() == [[2, 0]]  # receivers in rows
    assert graph.to_scipy().toarray()[2, 0] == 0.5
    assert list(pytest.importorskip("networkx").DiGraph(graph.to_networkx()).edges) == [(0, 2)]


# ---------------------------------------------------------------- fields


def test_lanes_are_numbered_batch_times_heads_plus_head():
    weights = torch.zeros(2, 3, 5, 7)
    weights[1, 2, 4, 6] = 0.25
    graph = AttentionGraph.from_dense(weights)
    assert graph.receivers.tolist() == [(1 * 3 + 2) * 5 + 4]
    assert graph.senders.tolist() == [(1 * 3 + 2) * 7 + 6]
    assert graph.sender_lane.tolist() == [5]
    assert (
        graph.num_lanes,
        graph.num_senders,
        graph.num_receivers,
        graph.batch_shape,
        graph.num_edges,
    ) == (6, 7, 5, (2, 3), 1)


def test_edges_are_sorted_by_receiver_then_sender():
    graph = AttentionGraph.from_dense(matrices(2, 3, 5, 7))
    is_well_formed(graph)
    shuffle = torch.randperm(graph.num_edges)
    again = AttentionGraph.from_edges(
        graph.senders[shuffle],
        graph.receivers[shuffle],
        graph.weight[shuffle],
        num_senders=7,
        num_receivers=5,
        batch_shape=(2, 3),
    )
    is_well_formed(again)
    same(again, graph)


def test_num_nodes_needs_equal_sides():
    assert AttentionGraph.from_dense(matrices(5, 5)).num_nodes == 5
    with pytest.raises(ValueError, match="7 senders and 5 receivers per lane"):
        _ = AttentionGraph.from_dense(matrices(5, 7)).num_nodes


def test_degrees_and_weights_of_receivers():
    weights = matrices(2, 3, 5, 7).requires_grad_()
    graph = AttentionGraph.from_dense(weights)
    assert torch.equal(graph.in_degree(), (weights != 0).sum(-1).flatten())
    assert_close(graph.in_weight(), weights.sum(-1).flatten())
    (graph.in_weight() * torch.arange(30)).sum().backward()
    assert torch.equal(weights.grad, (torch.arange(30).view(2, 3, 5, 1) * (weights != 0)).double())


def test_repr():
    assert (
        repr(one_edge())
        == "AttentionGraph(1 edges, batch_shape=(), num_senders=3, num_receivers=3, "
        "torch.float32, cpu)"
    )
    assert repr(AttentionGraph.from_dense(matrices(5, 7).requires_grad_())).endswith(
        "torch.float64, cpu, differentiable)"
    )


def test_fields_that_contradict_each_other_are_refused():
    index = torch.tensor([0])
    with pytest.raises(ValueError, match=r"equally long, got shapes \(1,\), \(1,\) and \(2,\)"):
        AttentionGraph(index, index, torch.ones(2), 1, 3, 3, ())
    with pytest.raises(ValueError, match=r"one-dimensional"):
        AttentionGraph(index[None], index[None], torch.ones(1, 1), 1, 3, 3, ())
    with pytest.raises(ValueError, match=r"batch_shape \(2, 3\) holds 6 lanes, but num_lanes is 5"):
        AttentionGraph(index, index, torch.ones(1), 5, 3, 3, (2, 3))


# ---------------------------------------------------------------- from_edges


def test_from_edges_without_weights_has_ones():
    graph = AttentionGraph.from_edges(
        torch.tensor([1, 0], dtype=torch.int32),
        torch.tensor([0, 1], dtype=torch.int32),
        num_nodes=2,
    )
    assert graph.weight.tolist() == [1.0, 1.0] and graph.senders.dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            dict(num_nodes=None),
            ValueError,
            "number of nodes per lane is missing: give num_nodes, or both",
        ),
        (dict(num_nodes=None, num_senders=3), ValueError, "number of nodes per lane is missing"),
        (dict(num_nodes=None, num_receivers=3), ValueError, "number of nodes per lane is missing"),
        (dict(num_senders=5), ValueError, "num_nodes=3 contradicts num_senders=5"),
        (
            dict(num_receivers=5),
            ValueError,
            "num_nodes=3 contradicts num_senders=None, num_receivers=5",
        ),
        (
            dict(senders=torch.tensor([0, 6])),
            ValueError,
            r"senders must lie in 0\.\.5 \(2 lanes of 3 nodes\), got values from 0 to 6",
        ),
        (
            dict(receivers=torch.tensor([-1, 3])),
            ValueError,
            r"receivers must lie in 0\.\.5 .* from -1 to 3",
        ),
        (
            dict(receivers=torch.tensor([0, 2])),
            ValueError,
            r"edge 1 joins two lanes \(sender 4, receiver 2\)",
        ),
        (
            dict(weight=torch.tensor([float("nan"), 1.0])),
            ValueError,
            "weight holds 1 NaN among 2 edges",
        ),
        (
            dict(weight=torch.tensor([2, 1])),
            TypeError,
            r"weight must be floating point, got torch.int64; convert it with weight.float\(\)",
        ),
        (dict(weight=torch.ones(3)), ValueError, "equally long"),
        (
            dict(senders=torch.tensor([0.0, 4.0])),
            TypeError,
            "senders must hold integers, got torch.float32",
        ),
        (
            dict(receivers=torch.tensor([False, True])),
            TypeError,
            "receivers must hold integers, got torch.bool",
        ),
        (dict(receivers=torch.tensor([0])), ValueError, r"got shapes \(2,\), \(1,\) and \(2,\)"),
    ],
)
def test_from_edges_refuses(change: dict, error: type[Exception], text: str):
    given = (
        dict(
            senders=torch.tensor([0, 4]),
            receivers=torch.tensor([1, 3]),
            weight=torch.ones(2),
            num_nodes=3,
            batch_shape=(2,),
        )
        | change
    )
    with pytest.raises(error, match=text):
        AttentionGraph.from_edges(**given)


def test_from_edges_keeps_parallel_edges_which_add_up_in_matrices():
    graph = AttentionGraph.from_edges(
        torch.tensor([1, 1]), torch.tensor([0, 0]), torch.tensor([2.0, 3.0]), num_nodes=2
    )
    assert graph.num_edges == 2
    assert graph.to_dense().tolist() == [[0.0, 5.0], [0.0, 0.0]]
    assert graph.to_scipy().toarray().tolist() == [[0.0, 5.0], [0.0, 0.0]]
    pytest.importorskip("networkx")
    assert graph.to_networkx().edges[1, 0]["weight"] == 5.0


# ---------------------------------------------------------------- dense


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 5), (2, 3, 5, 7), (2, 1, 3, 5, 2)])
def test_dense_round_trip_with_gradients(shape: tuple[int, ...]):
    weights = matrices(*shape).requires_grad_()
    graph = AttentionGraph.from_dense(weights)
    assert graph.batch_shape == shape[:-2]
    assert torch.equal(graph.to_dense(), weights)
    slope = torch.randn(shape, dtype=torch.float64)
    (graph.to_dense() * slope).sum().backward()
    assert torch.equal(weights.grad, slope * (weights != 0))


def test_from_dense_with_a_mask_keeps_zero_weights_and_drops_others():
    weights = torch.tensor([[0.0, 0.5], [0.25, 0.0]], requires_grad=True)
    graph = AttentionGraph.from_dense(weights, keep=torch.tensor([[True, False], [True, False]]))
    assert (graph.senders.tolist(), graph.receivers.tolist(), graph.weight.tolist()) == (
        [0, 0],
        [0, 1],
        [0.0, 0.25],
    )
    graph.weight.sum().backward()
    assert weights.grad.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_from_dense_refuses():
    with pytest.raises(
        ValueError, match=r"\[\.\.\., num_receivers, num_senders\], got shape \(3,\)"
    ):
        AttentionGraph.from_dense(torch.ones(3))
    with pytest.raises(TypeError, match=r"floating point, got torch.int64"):
        AttentionGraph.from_dense(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(
        ValueError,
        match=r"keep must be bool of shape \(3, 5\), got torch.float32 of shape \(3, 5\)",
    ):
        AttentionGraph.from_dense(torch.ones(3, 5), keep=torch.ones(3, 5))
    with pytest.raises(
        ValueError, match=r"keep must be bool of shape \(3, 5\), got torch.bool of shape \(5, 3\)"
    ):
        AttentionGraph.from_dense(torch.ones(3, 5), keep=torch.ones(5, 3, dtype=torch.bool))
    broken = torch.tensor([[float("nan"), 1.0]])
    with pytest.raises(ValueError, match="weight holds 1 NaN among 2 edges"):
        AttentionGraph.from_dense(broken)
    assert AttentionGraph.from_dense(broken, keep=~broken.isnan()).weight.tolist() == [1.0]


# ---------------------------------------------------------------- editing


def test_lane_is_one_head_of_one_sequence():
    weights = matrices(2, 3, 5, 7).requires_grad_()
    graph = AttentionGraph.from_dense(weights)
    for b in range(2):
        for h in range(3):
            lane = graph.lane(b * 3 + h)
            is_well_formed(lane)
            assert lane.batch_shape == () and torch.equal(lane.to_dense(), weights[b, h])
    same(graph.lane(-1), graph.lane(5))
    graph.lane(4).weight.sum().backward()
    assert weights.grad[1, 1].any() and not weights.grad[0].any() and not weights.grad[1, 0].any()
    for index in (6, -7):
        with pytest.raises(
            IndexError, match=f"lane {index} does not exist: this graph has 6 lanes"
        ):
            graph.lane(index)


@pytest.mark.parametrize("clamp", [None, 1.0, 0.3])
@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_merge_heads_equals_its_dense_formula(reduce: str, clamp: float | None):
    weights = matrices(2, 3, 5, 7)
    both = [weights.clone().requires_grad_() for _ in range(2)]
    merged = AttentionGraph.from_dense(both[0]).merge_heads(reduce, clamp=clamp)
    is_well_formed(merged)
    dense = {"sum": both[1].sum(1), "mean": both[1].mean(1), "max": both[1].amax(1)}[reduce]
    dense = dense if clamp is None else dense.clamp(max=clamp)
    assert merged.batch_shape == (2,)
    assert merged.num_edges == int((weights != 0).any(1).sum())
    assert_close(merged.to_dense(), dense)
    slope = torch.randn(2, 5, 7, dtype=torch.float64)
    for graph in (merged.to_dense(), dense):
        (graph * slope).sum().backward()
    assert_close(both[0].grad, both[1].grad * (weights != 0))


def test_merge_heads_goes_on_to_a_single_lane_and_no_further():
    graph = AttentionGraph.from_dense(matrices(2, 3, 5, 7)).merge_heads().merge_heads()
    assert graph.batch_shape == () and graph.num_lanes == 1
    with pytest.raises(ValueError, match="merge_heads needs a head axis"):
        graph.merge_heads()


def test_merge_heads_refuses_unknown_names():
    with pytest.raises(ValueError, match="unknown reduce 'min'; known: sum, mean, max"):
        AttentionGraph.from_dense(matrices(2, 3, 5, 7)).merge_heads("min")


def test_renormalize():
    weights = matrices(2, 3, 5, 7).requires_grad_()
    graph = AttentionGraph.from_dense(weights).renormalize()
    total = weights.detach().sum(-1, keepdim=True)
    assert_close(graph.to_dense(), weights.detach() / total.clamp(min=1e-9))
    graph.weight.sum().backward()  # the sum of each row is 1 whatever the weights
    assert_close(weights.grad, torch.zeros_like(weights), atol=1e-12, rtol=0)


def test_renormalize_leaves_a_sum_of_zero_alone():
    weights = torch.tensor([[0.0, 0.0], [1.0, 3.0]], requires_grad=True)
    graph = AttentionGraph.from_dense(
        weights, keep=torch.ones(2, 2, dtype=torch.bool)
    ).renormalize()
    assert graph.weight.tolist() == [0.0, 0.0, 0.25, 0.75]
    graph.weight.square().sum().backward()
    assert torch.isfinite(weights.grad).all()


def test_select():
    graph = AttentionGraph.from_dense(matrices(2, 3, 5, 7))
    keep = graph.weight > 0.5
    chosen = graph.select(keep)
    is_well_formed(chosen)
    assert torch.equal(chosen.to_dense(), graph.to_dense() * (graph.to_dense() > 0.5))
    with pytest.raises(
        ValueError, match=rf"keep must be bool of shape \({graph.num_edges},\), got torch.int64"
    ):
        graph.select(keep.long())
    with pytest.raises(ValueError, match=r"of shape \(3,\)"):
        graph.select(torch.ones(3, dtype=torch.bool))


def test_reverse_is_the_transpose():
    weights = matrices(2, 3, 5, 7).requires_grad_()
    graph = AttentionGraph.from_dense(weights)
    turned = graph.reverse()
    is_well_formed(turned)
    assert torch.equal(turned.to_dense(), weights.mT)
    same(turned.reverse(), graph)
    (turned.weight * 2).sum().backward()
    assert torch.equal(weights.grad, 2.0 * (weights != 0))


def test_unweighted_detach_and_with_weight():
    weights = matrices(2, 3, 5, 7).requires_grad_()
    graph = AttentionGraph.from_dense(weights)
    assert torch.equal(graph.unweighted().to_dense(), (weights != 0).double())
    assert not graph.unweighted().weight.requires_grad
    assert graph.weight.requires_grad and not graph.detach().weight.requires_grad
    assert torch.equal(graph.with_weight(3 * graph.weight).to_dense(), 3 * weights)
    with pytest.raises(ValueError, match="equally long"):
        graph.with_weight(torch.ones(1))


def test_to_changes_the_weights_precision_only():
    graph = AttentionGraph.from_dense(matrices(2, 3, 5, 7).requires_grad_())
    half = graph.to(torch.bfloat16)
    assert half.weight.dtype == torch.bfloat16 and half.weight.requires_grad
    assert half.senders.dtype == torch.int64 and torch.equal(half.receivers, graph.receivers)
    assert graph.to("cpu").device.type == "cpu"
    assert graph.to("meta").senders.device.type == graph.to("meta").receivers.device.type == "meta"


def test_cached_orders_do_not_travel_to_other_edges():
    graph = AttentionGraph.from_dense(matrices(2, 3, 5, 7))
    assert graph.indptr is graph.indptr and graph.by_sender is graph.by_sender
    is_well_formed(graph.select(graph.weight > 0.5))
    is_well_formed(copy.deepcopy(graph))


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_save_and_load(tmp_path, dtype: torch.dtype):
    graph = AttentionGraph.from_dense(matrices(2, 3, 5, 7).to(dtype).requires_grad_())
    graph.save(tmp_path / "graph.safetensors")
    loaded = AttentionGraph.load(tmp_path / "graph.safetensors")
    same(loaded, graph.detach())
    assert loaded.weight.dtype == dtype and (loaded.num_senders, loaded.num_receivers) == (7, 5)


def test_save_a_graph_whose_ends_share_memory(tmp_path):
    loops = torch.arange(3)
    graph = AttentionGraph(loops, loops, torch.ones(3), 1, 3, 3, ())
    graph.save(tmp_path / "graph")
    same(AttentionGraph.load(str(tmp_path / "graph")), graph)


def test_load_refuses_files_of_others(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError,
        match=r"other.safetensors is a safetensors file, but not one that AttentionGraph.save "
        r"wrote",
    ):
        AttentionGraph.load(tmp_path / "other.safetensors")


# ---------------------------------------------------------------- other libraries


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (2, 3, 5, 7)])
def test_scipy_round_trip(shape: tuple[int, ...]):
    weights = matrices(*shape)
    graph = AttentionGraph.from_dense(weights)
    matrix = graph.to_scipy()
    assert_close(torch.from_numpy(matrix.toarray()), torch.block_diag(*weights.flatten(0, 1)))
    assert matrix.has_canonical_format
    same(AttentionGraph.from_scipy(matrix), graph, batch_shape=())
    same(AttentionGraph.from_scipy(matrix.tocsc()), graph, batch_shape=())


def test_scipy_of_other_precisions():
    import numpy as np
    from scipy.sparse import coo_array

    assert AttentionGraph.from_dense(matrices(5, 7).bfloat16()).to_scipy().dtype == np.float32
    counts = AttentionGraph.from_scipy(coo_array(np.array([[0, 3], [1, 0]])))
    assert counts.to_dense().tolist() == [[0.0, 3.0], [1.0, 0.0]]
    explicit = coo_array((np.array([0.0]), (np.array([1]), np.array([0]))), shape=(2, 3))
    assert AttentionGraph.from_scipy(explicit).num_edges == 1


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (2, 3, 5, 7)])
def test_networkx_round_trip(shape: tuple[int, ...]):
    pytest.importorskip("networkx")
    graph = AttentionGraph.from_dense(matrices(*shape, dtype=torch.float32))
    out = graph.to_networkx()
    assert out.number_of_edges() == graph.num_edges
    assert out.number_of_nodes() == 6 * (5 if shape[-1] == 5 else 12)
    same(AttentionGraph.from_networkx(out), graph, batch_shape=())


def test_networkx_graphs_of_others():
    networkx = pytest.importorskip("networkx")
    path = AttentionGraph.from_networkx(networkx.path_graph(["a", "b", "c"]))
    assert path.to_dense().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]  # undirected: both ways
    directed = networkx.DiGraph([("a", "b", {"length": 0.5})])
    assert AttentionGraph.from_networkx(directed, weight="length").to_dense().tolist() == [
        [0.0, 0.0],
        [0.5, 0.0],
    ]


def test_pyg_round_trip():
    from torch_geometric.data import Data

    graph = AttentionGraph.from_dense(matrices(2, 3, 5, 5).requires_grad_())
    data = graph.to_pyg()
    assert (
        isinstance(data, Data)
        and data.num_nodes == 30
        and torch.equal(data.batch, torch.arange(6).repeat_interleave(5))
    )
    assert data.validate() and data.edge_weight.requires_grad
    same(AttentionGraph.from_pyg(data), graph)


def test_pyg_round_trip_where_the_sides_differ():
    from torch_geometric.data import HeteroData

    graph = AttentionGraph.from_dense(matrices(2, 3, 5, 7).requires_grad_())
    data = graph.to_pyg()
    assert isinstance(data, HeteroData) and (
        data["sender"].num_nodes,
        data["receiver"].num_nodes,
    ) == (42, 30)
    same(AttentionGraph.from_pyg(data), graph)


def test_pyg_graphs_of_others():
    from torch_geometric.data import Batch, Data, HeteroData

    plain = AttentionGraph.from_pyg(Data(edge_index=torch.tensor([[2, 0], [1, 1]]), num_nodes=3))
    assert plain.to_dense().tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0]]
    graph = AttentionGraph.from_dense(matrices(2, 3, 5, 5))
    both = AttentionGraph.from_pyg(Batch.from_data_list([graph.to_pyg(), graph.to_pyg()]))
    assert both.batch_shape == () and both.num_nodes == 60
    assert_close(
        both.to_dense(),
        torch.block_diag(*graph.to_dense().flatten(0, 1), *graph.to_dense().flatten(0, 1)),
    )
    with pytest.raises(
        ValueError, match="this Data has no edge_index; for a graph without edges give an empty one"
    ):
        AttentionGraph.from_pyg(Data(x=torch.ones(3, 1)))
    with pytest.raises(
        ValueError, match=r"HeteroData must have the edge type \('sender', 'to', 'receiver'\)"
    ):
        AttentionGraph.from_pyg(HeteroData())


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (2, 3, 5, 7)])
def test_dgl_round_trip(shape: tuple[int, ...]):
    pytest.importorskip("dgl")
    graph = AttentionGraph.from_dense(matrices(*shape).requires_grad_())
    out = graph.to_dgl()
    assert out.batch_size == 6 and out.edata["w"].requires_grad
    assert torch.equal(out.batch_num_edges(), torch.bincount(graph.sender_lane, minlength=6))
    same(AttentionGraph.from_dgl(out), graph, batch_shape=(6,))


def test_dgl_unbatches_into_lanes():
    dgl = pytest.importorskip("dgl")
    graph = AttentionGraph.from_dense(matrices(2, 3, 5, 5))
    lanes = dgl.unbatch(graph.to_dgl())
    for i, lane in enumerate(lanes):
        same(AttentionGraph.from_dgl(lane), graph.lane(i))
    same(AttentionGraph.from_dgl(dgl.batch(lanes)), graph, batch_shape=(6,))


def test_dgl_graphs_of_others():
    dgl = pytest.importorskip("dgl")
    small, large = dgl.graph(([0], [1]), num_nodes=2), dgl.graph(([2], [0]), num_nodes=3)
    joined = AttentionGraph.from_dgl(dgl.batch([small, large]))  # of unequal size: one lane
    assert joined.batch_shape == () and joined.num_nodes == 5
    assert joined.edge_index.tolist() == [[0, 4], [1, 2]]
    words = dgl.heterograph(
        {("word", "in", "text"): (torch.tensor([3]), torch.tensor([1]))},
        num_nodes_dict={"word": 5, "text": 2},
    )
    assert AttentionGraph.from_dgl(words).to_dense().nonzero().tolist() == [[1, 3]]


# ---------------------------------------------------------------- empty graphs


@pytest.mark.parametrize("shape", EMPTY_SHAPES)
def test_graphs_without_edges_go_through_everything(shape: tuple[int, ...], tmp_path):
    graph = AttentionGraph.from_dense(torch.zeros(shape, requires_grad=True))
    is_well_formed(graph)
    assert graph.num_edges == 0 and graph.batch_shape == shape[:-2]
    assert torch.equal(graph.to_dense(), torch.zeros(shape))
    assert graph.reverse().to_dense().shape == (*shape[:-2], shape[-1], shape[-2])
    for edited in (
        graph.renormalize(),
        graph.unweighted(),
        graph.detach(),
        graph.to(torch.float64),
        graph.select(graph.weight > 0),
    ):
        is_well_formed(edited)
        assert (edited.batch_shape, edited.num_senders, edited.num_receivers) == (
            shape[:-2],
            shape[-1],
            shape[-2],
        )
    if graph.batch_shape:
        for reduce in ("sum", "mean", "max"):
            assert graph.merge_heads(reduce, clamp=1.0).to_dense().shape == (
                *shape[:-3],
                *shape[-2:],
            )
    if graph.num_lanes:
        assert graph.lane(0).to_dense().shape == shape[-2:]
    assert graph.in_weight().shape == graph.in_degree().shape == (graph.num_lanes * shape[-2],)
    graph.save(tmp_path / "graph")
    assert AttentionGraph.load(tmp_path / "graph").to_dense().shape == shape
    assert "0 edges" in repr(graph)


@pytest.mark.parametrize("library", ["scipy", "networkx", "pyg", "dgl"])
@pytest.mark.parametrize("shape", EMPTY_SHAPES)
def test_graphs_without_edges_in_other_libraries(shape: tuple[int, ...], library: str):
    pytest.importorskip({"pyg": "torch_geometric"}.get(library, library))
    graph = AttentionGraph.from_dense(torch.zeros(shape))
    again = getattr(AttentionGraph, f"from_{library}")(getattr(graph, f"to_{library}")())
    assert again.num_edges == 0
    assert again.num_lanes * again.num_senders == graph.num_lanes * graph.num_senders
    assert again.num_lanes * again.num_receivers == graph.num_lanes * graph.num_receivers
    if library == "pyg":
        assert again.batch_shape == graph.batch_shape


def test_a_single_node_with_a_loop():
    graph = AttentionGraph.from_dense(torch.full((1, 1), 0.5))
    assert graph.edge_index.tolist() == [[0], [0]] and graph.renormalize().weight.tolist() == [1.0]
    for library in ("scipy", "pyg"):
        same(getattr(AttentionGraph, f"from_{library}")(getattr(graph, f"to_{library}")()), graph)


@pytest.mark.gpu
def test_to_cuda_and_back():
    graph = AttentionGraph.from_dense(matrices(2, 3, 5, 7))
    there = graph.to("cuda")
    assert there.senders.is_cuda and there.receivers.is_cuda and there.weight.is_cuda
    same(there.merge_heads("sum", clamp=1.0).to("cpu"), graph.merge_heads("sum", clamp=1.0))
    same(there.to("cpu"), graph)
