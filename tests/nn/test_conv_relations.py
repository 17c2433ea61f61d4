"""Relations in layers on edges and in GraphTransformer: R-GCN with diagonal weights written out,
the laws of graphs, the data's columns, what is refused.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.attention.relations import Relation
from graphformer.nn import GINAttentionConv, PNAAttentionConv, RelationMessages, SumAttentionConv
from graphformer.training.graphs import GraphModel, Scaling, load_graph_model

pytestmark = pytest.mark.usefixtures("float64")

NODES, EDGES, WIDTH, TYPES = 11, 31, 7, 3
CONVS = {"gin": GINAttentionConv, "pna": PNAAttentionConv, "sum": SumAttentionConv}
each_conv = pytest.mark.parametrize("kind", CONVS)
SEVERAL = (
    gf.EdgeTypes(TYPES),
    gf.EdgeTypes(TYPES, "sum"),
    gf.EdgeColumns((3, 1)),
    gf.Neighbours("sum"),
)


def drawn(module: Any) -> Any:
    for one in module.modules():
        if isinstance(one, RelationMessages):
            nn.init.normal_(one.weight)
    return module


def a_graph(seed: int = 0, nodes: int = NODES, edges: int = EDGES) -> Data:
    """Edges may occur twice and be loops; two columns of ``edge_attr`` mark types."""
    draw = torch.Generator().manual_seed(seed)
    marks = torch.rand(edges, 2, generator=draw) < 0.6
    numbers = torch.randn(edges, 2, generator=draw)
    return Data(
        x=torch.randn(nodes, WIDTH, generator=draw),
        edge_index=torch.randint(nodes, (2, edges), generator=draw),
        edge_type=torch.randint(TYPES, (edges,), generator=draw),
        edge_attr=torch.stack((numbers[:, 0], marks[:, 0], numbers[:, 1], marks[:, 1]), 1).double(),
        y=torch.randn(1, 2, generator=draw),
    )


def kinds_of(relation: Relation, data: Data) -> list[Tensor]:
    """For each channel, which edges it has."""
    if isinstance(relation, gf.EdgeTypes):
        return [data.edge_type == kind for kind in range(relation.num_types)]
    if isinstance(relation, gf.EdgeColumns):
        return [data.edge_attr[:, column] == 1 for column in relation.columns]
    return [torch.ones(data.num_edges, dtype=torch.bool)]


def transcribed(messages: RelationMessages, sent: Tensor, data: Data, factor: Tensor) -> Tensor:
    """``sum_r theta_r * (mean or sum over N_r(i))``, node by node."""
    out = torch.zeros(data.num_nodes, sent.shape[1])
    weights = iter(messages.weight[:, 0])
    for relation in messages.relations:
        for mask in kinds_of(relation, data):
            theta = next(weights)
            for i in range(data.num_nodes):
                into = (mask & (data.edge_index[1] == i) & (factor != 0)).nonzero()[:, 0]
                if len(into):
                    found = (factor[into, None] * sent[data.edge_index[0][into]]).sum(0)
                    out[i] += theta * (found / len(into) if relation.averages else found)
    return out


def call(conv: Any, data: Data, **more: Any) -> Any:
    return conv(data.x, data.edge_index, data.edge_attr, edge_type=data.edge_type, **more)


# ---------------------------------------------------------------------- layers


@each_conv
def test_a_fresh_layer_is_the_layer_without(kind: str) -> None:
    data = a_graph()
    torch.manual_seed(1)
    plain = CONVS[kind](WIDTH, 15, 3, 4)
    torch.manual_seed(1)
    conv = CONVS[kind](WIDTH, 15, 3, 4, relations=SEVERAL)
    want = plain(data.x, data.edge_index, data.edge_attr)
    assert torch.equal(call(conv, data), want)
    assert list(conv.state_dict())[:-1] == list(plain.state_dict())
    assert (call(drawn(conv), data) - want).abs().max() > 0.1


@each_conv
@pytest.mark.parametrize("weighted", [False, True])
def test_messages_are_those_of_r_gcn_with_diagonal_weights(kind: str, weighted: bool) -> None:
    data = a_graph()
    conv = CONVS[kind](WIDTH, 15, 3, 4, relations=SEVERAL)
    factor = torch.ones(EDGES)
    if weighted:
        factor = torch.rand(EDGES)
        factor[::4] = 0
    more = {"edge_weight": factor} if weighted else {}
    before = call(conv, data, **more)
    want = before + transcribed(drawn(conv).relations, conv.v_proj(data.x), data, factor)
    assert_close(call(conv, data, **more), want)


def test_several_sets_of_features_and_two_kinds_of_nodes() -> None:
    data = a_graph()
    conv = drawn(SumAttentionConv(WIDTH, 15, 3, relations=SEVERAL))
    x = torch.randn(2, NODES, WIDTH)
    alone = [conv(one, data.edge_index, data.edge_attr, edge_type=data.edge_type) for one in x]
    together = conv(x, data.edge_index, data.edge_attr, edge_type=data.edge_type)
    assert_close(together, torch.stack(alone))
    two = drawn(SumAttentionConv((WIDTH, WIDTH), 15, 3, relations=gf.Neighbours("sum")))
    index = torch.tensor([[0, 5, 2], [1, 1, 0]])
    pair = torch.randn(NODES, WIDTH), torch.randn(2, WIDTH)
    sent = two.v_proj(pair[0])
    without = SumAttentionConv((WIDTH, WIDTH), 15, 3)
    without.load_state_dict(two.state_dict(), strict=False)
    want = without(pair, index) + two.relations.weight[0] * torch.stack(
        (sent[2], sent[0] + sent[5])
    )
    assert_close(two(pair, index), want)


def test_self_loops_that_a_layer_adds_have_no_type() -> None:
    data = a_graph()
    conv = SumAttentionConv(WIDTH, 15, 3, 4, relations=SEVERAL, add_self_loops=True)
    before = call(conv, data)
    sent = conv.v_proj(data.x)
    added = transcribed(drawn(conv).relations, sent, data, torch.ones(EDGES))
    assert_close(call(conv, data), before + added)


@each_conv
def test_gradients(kind: str) -> None:
    data = a_graph()
    conv = drawn(CONVS[kind](WIDTH, 15, 3, 4, relations=SEVERAL, sparsify=gf.Threshold(0.1)))
    fresh = CONVS[kind](WIDTH, 15, 3, 4, relations=SEVERAL)
    gf.testing.check_gradients(fresh, loss=lambda layer: call(layer, data).square().sum())
    typed = conv.typed(
        gf.attention.relations.GraphEdges(*data.edge_index, data.edge_type, data.edge_attr)
    )
    x = torch.randn(1, 3, NODES, 5, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: conv.relations.on_edges(x, typed, NODES), (x,))


@each_conv
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_empty_graphs_and_half_precision(kind: str, dtype: torch.dtype) -> None:
    conv = drawn(CONVS[kind](WIDTH, 15, 3, 4, relations=SEVERAL)).to(dtype)
    for nodes, edges in ((0, 0), (3, 0), (NODES, EDGES)):
        data = a_graph(nodes=max(nodes, 1), edges=edges)
        x = data.x[:nodes].to(dtype)
        out = conv(x, data.edge_index, data.edge_attr.to(dtype), edge_type=data.edge_type)
        assert out.shape == (nodes, 15) and out.dtype == dtype and out.isfinite().all()


@pytest.mark.slow
def test_a_compiled_layer_gives_the_same() -> None:
    data = a_graph()
    conv = drawn(SumAttentionConv(WIDTH, 15, 3, 4, relations=SEVERAL))
    torch.compiler.reset()
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    assert_close(call(compiled, data), call(conv, data))


@pytest.mark.skipif(importlib.util.find_spec("dgl") is None, reason="DGL is not installed")
def test_a_dgl_graph() -> None:
    dgl = pytest.importorskip("dgl")
    data = a_graph()
    conv = drawn(SumAttentionConv(WIDTH, 15, 3, 4, relations=SEVERAL))
    graph = dgl.graph(tuple(data.edge_index), num_nodes=NODES)
    got = conv(graph, data.x, data.edge_attr, edge_type=data.edge_type)
    assert_close(got, call(conv, data))


def test_what_does_not_fit_is_refused_by_name() -> None:
    data = a_graph()
    conv = SumAttentionConv(WIDTH, 15, 3, relations=gf.EdgeTypes(TYPES))
    for kind, error, text in (
        (None, ValueError, r"relation 'edge_types' reads edge_type.*set data\.edge_type"),
        (data.edge_type.double(), TypeError, "edge_type must hold integers, got torch.float64"),
        (data.edge_type[1:], ValueError, r"edge_type must be \[31\].*got shape \[30\]"),
        (data.edge_type + 1, ValueError, r"holds 1 to 3, and EdgeTypes\(3\) has weights for 0 to"),
    ):
        with pytest.raises(error, match=text):
            conv(data.x, data.edge_index, edge_type=kind)
    with pytest.raises(ValueError, match="edge_type is given, and no relation of this layer reads"):
        SumAttentionConv(WIDTH, 15, 3)(data.x, data.edge_index, edge_type=data.edge_type)
    columns = SumAttentionConv(WIDTH, 15, 3, relations=gf.EdgeColumns((0,)))
    with pytest.raises(ValueError, match=r"column 0 of edge_attr must be 1 for the edges of a typ"):
        columns(data.x, data.edge_index, data.edge_attr)
    with pytest.raises(ValueError, match="'edge_columns' reads edge_attr, which is missing"):
        columns(data.x, data.edge_index)
    columns = SumAttentionConv(WIDTH, 15, 3, relations=gf.EdgeColumns((1, 4)))
    with pytest.raises(ValueError, match="reads column 4 of edge_attr, which has 4"):
        columns(data.x, data.edge_index, data.edge_attr)
    for wrong in (gf.Chain(2), gf.Repeats(1)):
        with pytest.raises(ValueError, match=r"a layer on edges has not; the nodes of a graph hav"):
            SumAttentionConv(WIDTH, 15, 3, relations=wrong)
    for columns in ((), (1, 1)):
        with pytest.raises(ValueError, match="columns must be different ones, at least one"):
            gf.EdgeColumns(columns)
    conv = SumAttentionConv(WIDTH, 15, 3, relations=gf.Neighbours())
    conv.explain = True
    conv._edge_mask = torch.ones(EDGES)
    with pytest.raises(ValueError, match="explain a model without relations"):
        conv(data.x, data.edge_index)


# ---------------------------------------------------------------------- GraphTransformer


def net(target: str = "graph", relations: Any = SEVERAL, **changes: Any) -> gf.GraphTransformer:
    torch.manual_seed(0)
    sizes = {"hidden_size": 15, "num_layers": 2, "num_heads": 3, "target": target, "out_dim": 2}
    made = gf.GraphTransformer(WIDTH, 4, **{**sizes, **changes}, relations=relations)
    return drawn(made).eval()


def test_a_fresh_network_is_the_network_without() -> None:
    data = a_graph()
    plain = net(relations=())
    fresh = net()
    for module in fresh.modules():
        if isinstance(module, RelationMessages):
            module.reset_parameters()
    del data.edge_type
    want = plain(data).prediction
    data.edge_type = a_graph().edge_type
    assert torch.equal(fresh(data).prediction, want)


@pytest.mark.parametrize("candidates", ["edges", "edges+k_hop:2", "all"])
def test_numbering_nodes_means_nothing(candidates: str) -> None:
    data, order = a_graph(), torch.randperm(NODES)
    shuffled = data.clone()
    shuffled.x, turn = data.x[order], torch.randperm(EDGES)
    place = torch.argsort(order)
    shuffled.edge_index = place[data.edge_index][:, turn]
    shuffled.edge_attr, shuffled.edge_type = data.edge_attr[turn], data.edge_type[turn]
    model = net("node", candidates=candidates)
    data.y = shuffled.y = None
    assert_close(model(shuffled).prediction, model(data).prediction[order])


def test_graphs_of_a_batch_do_not_see_each_other() -> None:
    model, graphs = net(), [a_graph(seed, nodes, 23) for seed, nodes in ((0, 5), (1, 11), (2, 2))]
    together = model(Batch.from_data_list(graphs)).prediction
    assert_close(together, torch.cat([model(one).prediction for one in graphs]))


def test_levels_above_the_finest_have_no_relations() -> None:
    data = a_graph()
    data.group_0 = torch.arange(NODES) // 3
    model = net(levels=("group_0",))
    assert [block.conv.relations is None for block in model.layers[0].blocks] == [False, True]
    model(data).loss.backward()
    assert all(layer.blocks[0].conv.relations.weight.grad.any() for layer in model.layers)


def test_missing_types_are_refused_and_unread_ones_told() -> None:
    data = a_graph()
    with pytest.warns(UserWarning, match=r"edge_type is not read.*relations=gf\.EdgeTypes"):
        net(relations=gf.Neighbours())(data)
    del data.edge_type
    with pytest.raises(ValueError, match=r"'edge_types' reads edge_type.*set data\.edge_type"):
        net()(data)
    with pytest.raises(ValueError, match="'repeats' reads input_ids, which a graph transformer"):
        net(relations=gf.Repeats(1))
    with pytest.raises(ValueError, match=r"operator_options\['gin'\] holds relations"):
        net(operator_options={"gin": {"relations": gf.Neighbours()}})


def test_columns_of_types_are_not_scaled_and_the_model_is_saved(tmp_path: Path) -> None:
    graphs = [a_graph(seed) for seed in range(4)]
    for one in graphs:
        one.edge_attr[:, 1] = 1  # scaled, a column of ones would be one of zeros
    model = net()
    scaling = Scaling.fit(model, graphs)
    scaled = scaling.inputs(graphs[0]).edge_attr
    assert torch.equal(scaled[:, [1, 3]], graphs[0].edge_attr[:, [1, 3]])
    assert not torch.equal(scaled[:, [0, 2]], graphs[0].edge_attr[:, [0, 2]])
    GraphModel(model, scaling).save(tmp_path / "model")
    again = load_graph_model(tmp_path / "model").net
    assert again.relations == SEVERAL
    model = model.float()
    data = graphs[0].apply(lambda one: one.float() if one.is_floating_point() else one)
    assert_close(again.float()(data).prediction, model(data).prediction)


def test_data_sets_name_their_relations() -> None:
    from graphformer.datasets.microstructures.grains import feature_names
    from graphformer.datasets.polymers.features import EDGE_NAMES
    from graphformer.datasets.proteins.residue_graph import EDGE_NAMES as RESIDUES

    assert gf.datasets.edge_relations(EDGE_NAMES) == {
        "bonds": gf.EdgeColumns((0, 1, 2, 3)),
        "periodic": gf.EdgeColumns((6,)),
    }
    found = gf.datasets.edge_relations(RESIDUES)
    assert {name: one.columns for name, one in found.items()} == {
        "contacts": (1,),
        "sequence": (2, 3),
        "peptide_bonds": (4,),
    }
    assert gf.datasets.edge_relations(feature_names(2).edge) == {"boundaries": gf.Neighbours()}
    assert gf.datasets.edge_relations(["weight"]) == {}
