"""The graph transformer: the laws of graphs, what it is built of, targets and losses, what it
refuses.
"""

import copy
import itertools
import math

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.attention import Reweigh
from graphformer.models import Target
from graphformer.models.graphs.parts import Merge, Refined
from graphformer.models.graphs.targets import target_loss
from graphformer.nn import AddStructure, EdgeList
from graphformer.nn.encodings import encode_nodes, encoding, shortest_path
from graphformer.nn.hierarchy import cluster, coarse_edges, match, number_groups, pool, symmetric
from graphformer.nn.pairs import Structure, candidates, hops

pytestmark = pytest.mark.usefixtures("float64")

NODE_DIM, EDGE_DIM, OUT, HEADS, HIDDEN, LAYERS = 7, 3, 2, 5, 35, 3
EVERYTHING = ("random_walk:5", "laplacian:3", "degree", "distance:4", "shortest_path:3")
# Every option somewhere; expanders depend on how nodes are numbered and have tests of their own.
VARIANTS: dict[str, dict] = {
    "plain": {},
    "sum": {"operator": "sum", "refine": False, "sharpening": False, "normalize": "sigmoid"},
    "pna": {"operator": "pna", "sparsify": gf.Threshold(0.3), "merge": "sum"},
    "mixed": {
        "operator": ["gin", "sum", "pna"],
        "candidates": ["edges", "edges+k_hop:2", "all"],
        "merge": "learned",
    },
    "told": {
        "encodings": EVERYTHING,
        "candidates": "edges+knn:3+self",
        "sparsify": gf.TopK(2),
        "global_dim": 2,
    },
    "restricted": {
        "refine": "restrict",
        "sparsify": {"name": "threshold", "tau": 0.05},
        "candidates": "all",
    },
    "options": {
        "operator": ["gin", "pna", "sum"],
        "operator_options": {
            "gin": {"self_weight": 1.0, "mlp_norm": True, "sparsify": {"name": "top_k", "k": 3}},
            "pna": {
                "aggregators": ["mean", "max"],
                "scalers": ["amplification"],
                "avg_degree": 2.5,
            },
            "sum": {"self_weight": 1.0},
        },
    },
    "groups": {
        "levels": ("group_0", "group_1"),
        "level_candidates": "edges+all",
        "merge": "learned",
    },
    "clusters": {
        "levels": ("cluster", "cluster:2"),
        "candidates": "edges+radius:1.0",
        "encodings": ("distance",),
    },
    "virtual": {"virtual_nodes": 2, "candidates": ["edges", "edges+k_hop:2", "edges"]},
    "virtual and levels": {
        "virtual_nodes": 1,
        "levels": ("group_0",),
        "refine": "restrict",
        "sparsify": gf.TopK(4),
    },
    "updated": {"edge_update": True, "candidates": "edges+k_hop:2", "norm": "batch"},
    "updated levels": {
        "edge_update": True,
        "levels": ("group_0",),
        "refine": "restrict",
        "sparsify": gf.TopK(3),
        "virtual_nodes": 1,
    },
    "trained": {
        "sparsify": Reweigh("relu", 0.05, trainable=True),
        "dropout": 0.3,
        "attention_dropout": 0.2,
        "readout": ("mean",),
    },
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def made(
    variant: str = "plain", target="graph", out_dim: int = OUT, **changes
) -> gf.GraphTransformer:
    options = {
        "hidden_size": HIDDEN,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "edge_hidden": 11,
        **VARIANTS[variant],
        **changes,
    }
    net = gf.GraphTransformer(NODE_DIM, EDGE_DIM, target=target, out_dim=out_dim, **options)
    with torch.no_grad():
        # away from the start, where strengths are 1 and mixtures even
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return net.eval()


def a_graph(nodes: int = 11, edges: int = 29, seed: int = 0) -> Data:
    graph = gf.testing.random_graph(nodes, edges, NODE_DIM, edge_dim=EDGE_DIM, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return Data(
        x=graph.x,
        edge_index=torch.stack((graph.senders, graph.receivers)),
        edge_attr=graph.edge_attr,
        pos=torch.randn(nodes, 3, generator=generator),
        y=torch.randn(1, OUT, generator=generator),
        u=torch.randn(1, 2, generator=generator),
        group_0=torch.arange(nodes) // 2,
        group_1=torch.arange(nodes) // 4,
    )


def graphs() -> list[Data]:
    return [a_graph(), a_graph(5, 7, 1), a_graph(1, 0, 2), a_graph(3, 0, 3)]


def as_model(net: gf.GraphTransformer, whole: Data):
    """``model(x, senders, receivers, batch, edge_attr)``; what else a node has travels in columns
    after its features.
    """

    def model(
        x: Tensor, senders: Tensor, receivers: Tensor, batch: Tensor, edge_attr: Tensor
    ) -> Tensor:
        count = int(batch.max()) + 1
        data = Batch(
            x=x[:, :NODE_DIM],
            pos=x[:, NODE_DIM : NODE_DIM + 3],
            group_0=x[:, NODE_DIM + 3].round().long(),
            group_1=x[:, NODE_DIM + 4].round().long(),
            edge_index=torch.stack((senders, receivers)),
            edge_attr=edge_attr,
            batch=batch,
            u=torch.ones(count, 2),
        )
        return net(data).prediction

    return model


def packed(data: Data) -> gf.testing.GraphSample:
    groups = torch.stack((data.group_0, data.group_1), -1).float()
    return gf.testing.GraphSample(
        torch.cat((data.x, data.pos, groups), -1), *data.edge_index, data.edge_attr
    )


# ---------------------------------------------------------------- the contract


def test_as_the_design_writes_it():
    net = gf.GraphTransformer(
        node_dim=7, edge_dim=3, hidden_size=64, num_layers=3, num_heads=4, target="graph", out_dim=2
    )
    out = net(Batch.from_data_list(graphs()), output_graphs=True)
    assert out.prediction.shape == (4, 2) and out.loss.ndim == 0 and out.loss.requires_grad
    assert len(out.graphs) == 3 and all(
        isinstance(graph, gf.AttentionGraph) and graph.batch_shape == (4,) for graph in out.graphs
    )
    assert net(a_graph()).graphs is None
    assert net(a_graph()).prediction.shape == (1, 2)  # a Data is a batch of one


@pytest.mark.parametrize(("target", "rows"), [("graph", 4), ("node", 20), ("edge", 36)])
@each_variant
def test_rows(variant: str, target: str, rows: int):
    data = Batch.from_data_list(graphs())
    del data.y
    out = made(variant, target)(data, output_graphs=True)
    assert out.prediction.shape == (rows, OUT) and out.loss is None
    levels = 1 + len(VARIANTS[variant].get("levels", ()))
    assert len(out.graphs) == len(out.refined) == LAYERS * levels and len(out.groups) == levels - 1
    sizes = [20, *(int(group.max()) + 1 for group in out.groups)]
    for i, (graph, refined) in enumerate(zip(out.graphs, out.refined, strict=True)):
        assert graph.batch_shape == (HEADS,) and refined.batch_shape == ()
        assert refined.num_nodes == sizes[i % levels]
        virtual = 4 * VARIANTS[variant].get("virtual_nodes", 0) * (i % levels == 0)
        assert graph.num_nodes == refined.num_nodes + virtual


# ---------------------------------------------------------------- the laws


@each_variant
@pytest.mark.parametrize("target", ["graph", "node", "edge"])
def test_renumbering_changes_nothing(variant: str, target: str):
    sample = packed(a_graph())
    model = as_model(made(variant, target), a_graph())
    gf.testing.check_equivariant(
        model,
        sample.x,
        sample.senders,
        sample.receivers,
        edge_attr=sample.edge_attr,
        target=target,
        atol=1e-4,
        rtol=1e-4,
    )


@each_variant
@pytest.mark.parametrize("target", ["graph", "node", "edge"])
def test_graphs_of_a_batch_do_not_see_each_other(variant: str, target: str):
    samples = [packed(data) for data in graphs()]
    gf.testing.check_disjoint(
        as_model(made(variant, target), a_graph()), samples, target=target, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("variant", ["plain", "sum", "pna"])
def test_direction(variant: str):
    senders, receivers = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([1, 2, 3, 3, 4])
    x = torch.cat((torch.randn(6, NODE_DIM), torch.zeros(6, 5)), -1)
    attr = torch.randn(5, EDGE_DIM)
    gf.testing.check_direction(
        as_model(made(variant, "node"), a_graph()), x, senders, receivers, edge_attr=attr
    )


@each_variant
def test_expanders_keep_graphs_apart(variant: str):
    net = made(variant, "node", candidates="edges+expander:4")
    gf.testing.check_disjoint(
        as_model(net, a_graph()), [packed(data) for data in graphs()], atol=1e-4, rtol=1e-4
    )


@each_variant
@pytest.mark.parametrize("target", ["graph", "node", "edge"])
def test_gradients_reach_every_parameter(variant: str, target: str):
    data = Batch.from_data_list([a_graph(23, 101, 1), a_graph(29, 151, 2)])
    rows = {"graph": 2, "node": 52, "edge": 252}[target]
    data.y = torch.randn(rows, OUT)
    net = made(variant, target).train()
    gf.testing.check_gradients(net, loss=lambda net: net(data).loss)


@each_variant
@pytest.mark.parametrize("target", ["graph", "node"])
def test_no_graph_makes_a_nan(variant: str, target: str):
    net = made(variant, target)

    def call(
        net: nn.Module, x: Tensor, senders: Tensor, receivers: Tensor, batch: Tensor
    ) -> Tensor:
        data = Batch(
            x=x,
            edge_index=torch.stack((senders, receivers)),
            edge_attr=torch.ones(len(senders), EDGE_DIM),
            pos=x[:, :3],
            batch=batch,
            u=torch.ones(int(batch.max()) + 1 if len(batch) else 1, 2),
            group_0=torch.arange(len(x)) // 2,
            group_1=torch.arange(len(x)) // 4,
        )
        if len(batch) and len(batch.unique()) > 1:  # groups are those of one graph
            data.group_0 = data.group_1 = torch.zeros(len(x), dtype=torch.long)
        return net(data).prediction

    gf.testing.check_finite(net, gf.testing.hostile_graphs(NODE_DIM), call=call)


@pytest.mark.parametrize("backend", ["pyg", "dgl", "torch_sparse"])
@pytest.mark.parametrize("variant", ["mixed", "groups", "restricted"])
def test_backends_agree(variant: str, backend: str):
    if backend not in gf.backends.available():
        pytest.skip(f"{backend} is not installed")
    net, data = made(variant), Batch.from_data_list(graphs())
    other = copy.deepcopy(net)
    for module in other.modules():
        if isinstance(module, gf.nn.AttentionConv):
            module.backend = backend
    x = data.x.clone().requires_grad_()

    def run(net: nn.Module):
        return lambda x: net(Batch.from_data_list(graphs()).update({"x": x})).prediction

    gf.testing.check_agreement({"torch": run(net), backend: run(other)}, x, atol=1e-4, rtol=1e-4)


@settings(max_examples=25)
@given(st.data())
def test_odd_graphs(data: st.DataObject):
    """Self-loops, equal pairs, isolated nodes, no edges, in one batch with a graph of no nodes."""
    torch.manual_seed(0)
    variant = data.draw(st.sampled_from(["plain", "pna", "mixed", "restricted", "clusters"]))
    parts = []
    for _ in range(data.draw(st.integers(1, 3))):
        nodes = data.draw(st.integers(0, 4))
        end = st.integers(0, max(nodes - 1, 0))
        pairs = data.draw(st.lists(st.tuples(end, end), max_size=7)) if nodes else []
        index = torch.tensor(pairs, dtype=torch.long).view(-1, 2).t()
        x, attr = torch.randn(nodes, NODE_DIM), torch.randn(len(pairs), EDGE_DIM)
        parts.append(
            Data(
                x=x,
                edge_index=index,
                edge_attr=attr,
                pos=torch.randn(nodes, 3),
                y=torch.randn(1, OUT),
                num_nodes=nodes,
            )
        )
    net = made(variant)
    out = net(Batch.from_data_list(parts))
    assert out.prediction.shape == (len(parts), OUT) and bool(out.prediction.isfinite().all())
    out.loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


def test_equal_edges_are_messages_of_their_own():
    data = a_graph()
    twice = data.clone()
    twice.edge_index, twice.edge_attr = (
        data.edge_index.repeat(1, 2),
        torch.cat((data.edge_attr, torch.randn(29, EDGE_DIM))),
    )
    out = made("mixed")(twice, output_graphs=True)
    assert out.graphs[0].num_edges == 2 * 29 * HEADS
    # all pairs, and the second edge of 29 of them
    assert out.graphs[2].num_edges == (110 + 29) * HEADS


# ---------------------------------------------------------------- inputs


def test_categories_are_a_linear_map_of_one_hot_vectors():
    net, data = made(), a_graph()
    data.x = torch.randint(NODE_DIM, (11,))
    hot = data.clone()
    hot.x = F.one_hot(data.x, NODE_DIM).float()
    assert_close(net(data).prediction, net(hot).prediction)
    column = data.clone()
    column.x = data.x.unsqueeze(-1)
    assert_close(net(column).prediction, net(hot).prediction)


def test_columns_of_categories_and_no_features():
    data = a_graph()
    data.x = torch.stack((torch.arange(11) % 5, torch.arange(11) % 2), -1)
    data.edge_attr = torch.arange(29) % 4
    net = gf.GraphTransformer((5, 2), (4,), hidden_size=HIDDEN, num_heads=HEADS, out_dim=OUT)
    assert net(data).prediction.shape == (1, OUT)
    del data.x
    data.num_nodes = 11
    bare = gf.GraphTransformer(
        0, hidden_size=HIDDEN, num_heads=HEADS, out_dim=OUT, encodings=("degree",)
    )
    assert bare(data).prediction.shape == (1, OUT)
    gf.testing.check_gradients(bare, loss=lambda net: net(data).loss)


def test_graph_inputs_change_the_prediction():
    net, data = made("told"), a_graph()
    other = data.clone()
    other.u = data.u + 1
    assert not torch.allclose(net(data).prediction, net(other).prediction)


def test_settings_make_the_same_model_again():
    net = gf.GraphTransformer(
        7,
        3,
        35,
        3,
        5,
        {"a": Target("graph", 2)},
        operator=["gin", "pna", "sum"],
        levels=("cluster",),
        sparsify=gf.TopK(2),
        dropout=0.1,
    )
    again = gf.GraphTransformer(**net.settings)
    again.load_state_dict(net.state_dict())
    assert_close(again.eval()(a_graph()).prediction, net.eval()(a_graph()).prediction)


def test_seeds_of_a_neighbor_loader_alone_count():
    data = a_graph()
    data.y = torch.randn(11, 1)
    data.batch_size, data.input_id = 4, torch.arange(4)
    out = made(target="node", out_dim=1)(data)
    assert_close(out.loss, F.mse_loss(out.prediction[:4], data.y[:4]))


@pytest.mark.parametrize("place", ["node", "graph"])
def test_it_learns(place: str):
    """Which of two communities a node is in; whether a graph has many edges (weights that sum to 1
    do not tell: the degree does).
    """
    from torch_geometric.utils import stochastic_blockmodel_graph

    torch.manual_seed(0)
    y = torch.tensor([0] * 15 + [1] * 15)
    parts = []
    for i in range(12):
        index = stochastic_blockmodel_graph([15, 15], torch.tensor([[0.5, 0.05], [0.05, 0.5]]))
        dense = i % 2 == 0
        index = index if dense or place == "node" else index[:, ::3]
        x = torch.randn(30, 2)
        x[:, 0] += y * 1.5
        parts.append(
            Data(x=x, edge_index=index, y=y if place == "node" else torch.tensor([int(dense)]))
        )
    net = gf.GraphTransformer(
        2, hidden_size=16, num_layers=2, num_heads=2, target=place, task="classification", out_dim=2
    )
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    train, test = Batch.from_data_list(parts[:8]), Batch.from_data_list(parts[8:])
    for _ in range(30):
        optimizer.zero_grad()
        net(train).loss.backward()
        optimizer.step()
    accuracy = (net.eval()(test).prediction.argmax(-1) == test.y).float().mean()
    assert accuracy > 0.9


@pytest.mark.slow
def test_cost_is_linear_in_edges():
    """20,000 nodes: a matrix of all pairs alone would hold 1.6 GB in each of 4 heads."""
    nodes, edges = 20_000, 60_000
    data = Data(
        x=torch.randn(nodes, 3),
        edge_index=torch.randint(nodes, (2, edges)),
        y=torch.randn(nodes, 1),
    )
    net = gf.GraphTransformer(
        3,
        hidden_size=16,
        num_layers=2,
        num_heads=4,
        target="node",
        levels=("cluster",),
        operator=["gin", "pna"],
    )
    net(data).loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


# ---------------------------------------------------------------- targets and losses


def test_regression_losses():
    prediction, y = torch.randn(5, 2, requires_grad=True), torch.randn(5, 2)
    for name, function in (("mse", F.mse_loss), ("mae", F.l1_loss), ("huber", F.huber_loss)):
        assert_close(
            target_loss(prediction, y, Target(out_dim=2, loss=name)), function(prediction, y)
        )
    assert_close(target_loss(prediction, y.flatten(), Target(out_dim=2)), F.mse_loss(prediction, y))


@pytest.mark.float32
def test_classification_losses():
    logits = torch.randn(5, 3)
    classes, labels = torch.tensor([0, 2, 1, 1, 0]), torch.randint(2, (5, 3)).float()
    many = Target(out_dim=3, task="classification")
    assert_close(target_loss(logits, classes, many), F.cross_entropy(logits, classes))
    assert_close(
        target_loss(logits, classes.view(5, 1).float(), many), F.cross_entropy(logits, classes)
    )
    assert_close(
        target_loss(logits, labels, many), F.binary_cross_entropy_with_logits(logits, labels)
    )
    binary = Target(task="classification")
    assert_close(
        target_loss(logits[:, :1], labels[:, 0].long(), binary),
        F.binary_cross_entropy_with_logits(logits[:, 0], labels[:, 0]),
    )


@pytest.mark.float32
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_missing_labels_are_left_out(task: str):
    prediction = torch.randn(5, 2, requires_grad=True)
    y = torch.randint(2, (5, 2)).float()
    missing = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 0], [0, 1]], dtype=torch.bool)
    loss = target_loss(prediction, y.masked_fill(missing, math.nan), Target(out_dim=2, task=task))
    function = F.mse_loss if task == "regression" else F.binary_cross_entropy_with_logits
    assert_close(loss, function(prediction[~missing], y[~missing]))
    (slope,) = torch.autograd.grad(loss, prediction)
    assert bool((slope[missing] == 0).all()) and bool((slope[~missing] != 0).all())


def test_missing_classes_are_left_out():
    logits, y = torch.randn(4, 3), torch.tensor([0, -1, 2, -100])
    want = F.cross_entropy(logits[[0, 2]], y[[0, 2]])
    target = Target(out_dim=3, task="classification")
    assert_close(target_loss(logits, y, target), want)
    assert_close(target_loss(logits, torch.tensor([0, math.nan, 2, math.nan]), target), want)


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("columns", [1, 3])
def test_no_label_at_all_is_a_loss_of_zero_with_a_gradient(task: str, columns: int):
    net, data = made(target="node", out_dim=3, task=task), a_graph()
    data.y = (
        torch.full((11, columns), math.nan)
        if (task, columns) != ("regression", 1)
        else torch.full((33,), math.nan)
    )
    loss = net(data).loss
    loss.backward()
    assert loss.item() == 0 and all(
        p.grad is None or bool((p.grad == 0).all()) for p in net.parameters()
    )


def test_several_targets():
    targets = {
        "gap": Target("graph", 2),
        "charge": {"place": "node", "loss": "mae", "weight": 0.5},
        "bond": Target("edge", 3, "classification"),
    }
    net, data = made(target=targets, out_dim=1), a_graph()
    data.gap, data.charge, data.bond = torch.randn(1, 2), torch.randn(11), torch.randint(3, (29,))
    out = net(data)
    assert {name: tuple(value.shape) for name, value in out.prediction.items()} == {
        "gap": (1, 2),
        "charge": (11, 1),
        "bond": (29, 3),
    }
    parts = {
        "gap": F.mse_loss(out.prediction["gap"], data.gap),
        "charge": F.l1_loss(out.prediction["charge"][:, 0], data.charge),
        "bond": F.cross_entropy(out.prediction["bond"], data.bond),
    }
    assert_close(out.losses, parts)
    assert_close(out.loss, parts["gap"] + 0.5 * parts["charge"] + parts["bond"])
    del data.gap
    assert set(net(data).losses) == {"charge", "bond"}


def test_edges_to_be_judged():
    """PyG's RandomLinkSplit names them; labels follow them."""
    net, data = made(target="edge", out_dim=1, task="classification"), a_graph()
    data.edge_label_index, data.edge_label = (
        torch.tensor([[0, 3, 5], [1, 4, 5]]),
        torch.tensor([1.0, 0.0, 1.0]),
    )
    out = net(data)
    assert out.prediction.shape == (3, 1)
    assert_close(
        out.loss, F.binary_cross_entropy_with_logits(out.prediction[:, 0], data.edge_label)
    )
    data.edge_label_index = torch.tensor([[0], [11]])
    with pytest.raises(ValueError, match=r"edge_label_index\[1\] \(receivers\) must lie in 0..10"):
        net(data)


# ---------------------------------------------------------------- the refined graph


def test_the_refined_graph_is_that_of_the_heads():
    data = a_graph()
    for merge in ("mean", "sum"):
        net = made(sparsify=gf.Threshold(0.3), merge=merge)
        out = net(data, output_graphs=True)
        for heads, refined in zip(out.graphs, out.refined, strict=True):
            assert_close(refined.to_dense(), heads.merge_heads(merge, clamp=1.0).to_dense())


def test_a_learned_merge_is_a_convex_combination():
    torch.manual_seed(0)
    edges = EdgeList.sort(torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), 3, 3)
    merge = Merge("learned", 2)
    weight = torch.rand(6)
    with torch.no_grad():
        merge.mix += torch.tensor([1.0, -0.5])
    first, second = merge.mix.softmax(0)
    assert_close(
        merge(edges, edges.edges_as_senders(2, weight)).weight,
        first * weight[:3] + second * weight[3:],
    )
    keep = torch.tensor([True, False, True, False, False, True])
    refined = merge(edges, edges.edges_as_senders(2, weight).select(keep))
    assert refined.kept.tolist() == [True, False, True]
    assert_close(
        refined.weight,
        torch.stack((first * weight[0], first * 0, first * weight[2] + second * weight[5])),
    )


def test_the_next_layer_starts_from_it():
    """Without a strength the refined graph says nothing; with one, weights move towards the edges
    that it holds.
    """
    data = a_graph()
    net = made(num_layers=2)
    with torch.no_grad():
        net.layers[1].blocks[0].prior.fill_(0.0)
        without = net(data, output_graphs=True)
        net.layers[1].blocks[0].prior.fill_(1e4)
        strong = net(data, output_graphs=True)
    assert_close(without.graphs[0].weight, strong.graphs[0].weight)
    refined, weight = without.refined[0].to_dense(), strong.graphs[1].merge_heads("mean").to_dense()
    several = (refined > 0).sum(-1) > 1
    assert torch.equal(refined.argmax(-1)[several], weight.argmax(-1)[several])


def test_restricted_layers_only_lose_edges():
    out = made("restricted", num_layers=5, sparsify=gf.TopK(1))(
        Batch.from_data_list(graphs()), output_graphs=True
    )
    edges = [{(int(s), int(r)) for s, r in graph.edge_index.t()} for graph in out.refined]
    assert all(later <= earlier for earlier, later in itertools.pairwise(edges))
    assert len(edges[-1]) < len(edges[0]) < 11 * 10 + 5 * 4 + 3 * 2


def test_weights_on_another_list_of_candidates():
    """Of equal pairs each keeps its own weight, and each is dropped by itself."""
    ends = torch.tensor([[0, 0, 1, 2], [1, 1, 2, 0]])
    known = structure(Data(edge_index=ends, num_nodes=3))
    old, _ = candidates(known, "edges")  # 2>0, 0>1 twice, 1>2
    weight = torch.tensor([0.5, 0.1, 0.2, 0.0])
    refined = Refined(old, weight, torch.tensor([True, False, True, False]))
    new, number = candidates(known, "edges+all")
    on = dict(zip(number.tolist(), refined.on(new).tolist(), strict=True))
    assert {k: w for k, w in on.items() if k >= 0} == {
        int(k): pytest.approx(float(w)) for k, w in zip(old.order, weight, strict=True)
    }
    assert on[-1] == 0 and new.num_edges == 7
    assert torch.isin(new.identity, refined.dropped()).nonzero().flatten().tolist() == [
        int(i) for i in range(7) if number[i] in old.order[~refined.kept]
    ]
    assert refined.on(old) is refined.weight


def test_every_layer_has_a_threshold_of_its_own():
    net = made("trained")
    taus = [block.conv.sparsify.tau for layer in net.layers for block in layer.blocks]
    assert len({id(tau) for tau in taus}) == LAYERS


# ---------------------------------------------------------------- candidates


def structure(data: Data | Batch) -> Structure:
    from graphformer.models.graphs.data import read_structure

    return read_structure(data)


def pairs_of(edges: EdgeList) -> list[tuple[int, int]]:
    return list(zip(edges.senders.tolist(), edges.receivers.tolist(), strict=True))


def test_hops_are_shortest_paths():
    data = a_graph(13, 23)
    graph = nx.DiGraph(data.edge_index.t().tolist())
    lengths = {
        (s, r): d
        for s, of in nx.all_pairs_shortest_path_length(graph)
        for r, d in of.items()
        if s != r
    }
    for most in (1, 2, 3, 12):
        keys, steps = hops(*data.edge_index, 13, most, "")
        assert {(int(k) % 13, int(k) // 13): int(d) for k, d in zip(keys, steps, strict=True)} == {
            p: d for p, d in lengths.items() if d <= most
        }
    edges, given = candidates(structure(data), "k_hop:2")
    assert (
        set(pairs_of(edges)) == {p for p, d in lengths.items() if d <= 2}
        and int((given >= 0).sum()) == 23
    )


def test_nearest_neighbours_send():
    data = Batch.from_data_list(graphs())
    edges, _ = candidates(structure(data), "knn:3")
    want = set()
    for first, size in ((0, 11), (11, 5), (16, 1), (17, 3)):
        pos = data.pos[first : first + size]
        far = torch.cdist(pos, pos).fill_diagonal_(math.inf)
        near = far.topk(min(3, size - 1), largest=False).indices
        want |= {(first + int(j), first + i) for i in range(size) for j in near[i]}
    assert set(pairs_of(edges)) == want
    ties = Data(
        x=torch.zeros(5, 1), pos=torch.zeros(5, 2), edge_index=torch.zeros(2, 0, dtype=torch.long)
    )
    edges, _ = candidates(structure(ties), "knn:2")  # all in one place: the lowest others
    assert sorted(pairs_of(edges)) == sorted(
        [(1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (1, 2), (0, 3), (1, 3), (0, 4), (1, 4)]
    )


def test_radius_all_and_self():
    data = Batch.from_data_list(graphs())
    far = torch.cdist(data.pos, data.pos)
    together = data.batch[:, None] == data.batch
    other = ~torch.eye(20, dtype=torch.bool)
    for spec, mask in (
        ("radius:1.5", (far < 1.5) & together & other),
        ("all", together & other),
        ("self", ~other),
        ("all+self", together),
    ):
        edges, given = candidates(structure(data), spec)
        assert sorted(pairs_of(edges)) == sorted((int(s), int(r)) for r, s in mask.nonzero())
        assert_close(
            data.edge_index[:, given[given >= 0]],
            torch.stack((edges.senders, edges.receivers))[:, given >= 0],
        )


def test_expanders():
    data = Data(x=torch.zeros(50, 1), edge_index=torch.zeros(2, 0, dtype=torch.long))
    edges, given = candidates(structure(data), "expander:4")
    assert bool((given == -1).all()) and edges.num_edges <= 200
    assert {(r, s) for s, r in pairs_of(edges)} == set(pairs_of(edges))
    assert nx.diameter(nx.Graph(pairs_of(edges))) <= 6
    again, _ = candidates(structure(Batch.from_data_list([data, data])), "expander:4")
    assert set(pairs_of(again)) == set(pairs_of(edges)) | {
        (s + 50, r + 50) for s, r in pairs_of(edges)
    }


def test_given_edges_keep_their_features_in_a_union():
    data = Data(
        x=torch.zeros(3, 1),
        edge_index=torch.tensor([[0, 0, 1, 2], [1, 1, 1, 0]]),
        pos=torch.tensor([[0.0], [1.0], [3.0]]),
    )
    edges, given = candidates(structure(data), "edges+all")
    assert pairs_of(edges) == [(1, 0), (2, 0), (0, 1), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2)]
    assert given.tolist() == [-1, 3, 0, 1, 2, -1, -1, -1]
    edges, given = candidates(structure(data), "knn:1")  # only what is near: 2 > 0 is not
    assert pairs_of(edges) == [(1, 0), (0, 1), (0, 1), (1, 2)] and given.tolist() == [-1, 0, 1, -1]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("edge", "unknown candidates 'edge'; known: edges, k_hop:2"),
        ("edges+knn", "knn takes a positive whole number, as in knn:4"),
        ("knn:2.5", "knn takes a positive whole number"),
        ("k_hop:0", "k_hop takes a positive whole number"),
        ("all:3", "all takes no number"),
    ],
)
def test_candidates_that_are_none(spec: str, text: str):
    with pytest.raises(ValueError, match=text):
        made(candidates=spec)


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch):
    from graphformer.nn import pairs

    monkeypatch.setattr(pairs, "PAIR_LIMIT", 100)
    with pytest.raises(
        ValueError, match="'all' make 121 pairs in this batch, more than 100: take smaller batches"
    ):
        made(candidates="all")(a_graph())


# ---------------------------------------------------------------- encodings


def test_random_walks_return():
    data = Batch.from_data_list(graphs())
    got = encode_nodes(structure(data), encoding("random_walk:4"), training=False)
    adjacency = torch.zeros(20, 20)
    adjacency[data.edge_index[0], data.edge_index[1]] = 1
    step = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1)
    assert_close(
        got, torch.stack([torch.linalg.matrix_power(step, k).diagonal() for k in range(1, 5)], -1)
    )


def test_laplacian_modes_of_a_path():
    """Eigenvalues of a path's normalized Laplacian are 1 - cos(pi k / (n - 1)), its modes
    sqrt(degree) cos(pi k i / (n - 1)).
    """
    n = 6
    index = torch.tensor([[i for i in range(n - 1)], [i + 1 for i in range(n - 1)]])
    data = Data(x=torch.zeros(n, 1), edge_index=index)  # one direction is enough
    for flip in ("", ":flip"):
        got = encode_nodes(structure(data), encoding(f"laplacian:3{flip}"), training=False)
        for k in (1, 2, 3):
            mode = (
                torch.cos(math.pi * k * torch.arange(n) / (n - 1))
                * torch.tensor([1.0, 2, 2, 2, 2, 1]).sqrt()
            )
            mode = mode / mode.square().mean().sqrt()
            assert_close(got[:, k - 1].abs(), mode.abs(), atol=1e-5, rtol=1e-4)
            assert_close(got[:, 3 + k - 1], torch.full((n,), 1 - math.cos(math.pi * k / (n - 1))))
    assert float(got[:, 0].min()) < 0  # with signs


@pytest.mark.parametrize(
    "graph",
    [
        nx.cycle_graph(7),
        nx.complete_graph(5),
        nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3)),
        nx.star_graph(5),
    ],
)
def test_amplitudes_do_not_depend_on_numbering_where_modes_share_an_eigenvalue(graph: nx.Graph):
    index = torch.tensor(list(graph.edges)).t()
    n = graph.number_of_nodes()
    order = torch.randperm(n)
    spec = encoding("laplacian:4")
    one = encode_nodes(structure(Data(x=torch.zeros(n, 1), edge_index=index)), spec, training=False)
    two = encode_nodes(
        structure(Data(x=torch.zeros(n, 1), edge_index=order[index])), spec, training=False
    )
    assert_close(two[order], one, atol=1e-4, rtol=1e-4)


def test_large_graphs_have_the_modes_of_small_ones(monkeypatch: pytest.MonkeyPatch):
    from graphformer.nn import encodings

    data = a_graph(40, 200)
    want = encode_nodes(structure(data), encoding("laplacian:3"), training=False)
    monkeypatch.setattr(encodings, "DENSE_NODES", 10)
    assert_close(
        encode_nodes(structure(data), encoding("laplacian:3"), training=False),
        want,
        atol=1e-4,
        rtol=1e-3,
    )


def test_signs_flip_in_training_graph_by_graph():
    data = structure(Batch.from_data_list([a_graph(), a_graph()]))
    spec = encoding("laplacian:3:flip")
    still = encode_nodes(data, spec, training=False)
    seen = set()
    for _ in range(30):
        flipped = encode_nodes(data, spec, training=True)
        assert_close(flipped[:, 3:], still[:, 3:])
        ratio = (flipped / still)[:, :3]
        assert_close(ratio.abs(), torch.ones_like(ratio))
        assert bool((ratio[:11] == ratio[0]).all()) and bool((ratio[11:] == ratio[11]).all())
        seen.add(tuple(ratio[[0, 11]].flatten().tolist()))
    assert len(seen) > 10


@pytest.mark.float32
def test_degree_distance_and_shortest_path():
    data = structure(
        Data(
            x=torch.zeros(4, 1),
            edge_index=torch.tensor([[0, 1, 2], [1, 2, 1]]),
            pos=torch.tensor([[0.0], [3.0], [3.0], [9.0]]),
        )
    )
    assert_close(
        encode_nodes(data, encoding("degree"), False),
        torch.tensor([[0.0, 1], [2, 1], [1, 1], [0, 0]]).log1p(),
    )
    edges, _ = candidates(data, "all")
    steps = shortest_path(data, edges, 2).argmax(-1)
    found = dict(zip(pairs_of(edges), steps.tolist(), strict=True))
    assert (
        found[0, 1] == 0
        and found[0, 2] == 1
        and found[1, 2] == 0
        and found[2, 0] == 2
        and found[3, 0] == 2
    )
    pos = data.pos.clone().requires_grad_()
    near = encoding("distance:6").compute(
        Structure(data.senders, data.receivers, data.graph, 1, pos), edges
    )
    assert near.shape == (12, 16)
    centres = torch.linspace(0, 6, 16)
    assert_close(near[pairs_of(edges).index((0, 1))], (-(((3 - centres) / 0.4) ** 2) / 2).exp())
    near.sum().backward()
    assert bool(pos.grad.isfinite().all())


@pytest.mark.parametrize(
    "spec",
    [
        "random_walk",
        "random_walk:0",
        "laplacian:3:abs",
        "degrees",
        "distance:-1",
        "shortest_path:x",
        "degree:2",
    ],
)
def test_encodings_that_are_none(spec: str):
    with pytest.raises(ValueError, match=f"unknown encoding '{spec}'; known: random_walk:16"):
        made(encodings=(spec,))


def test_what_is_stored_is_what_would_be_made():
    encodings, spec = (
        ("random_walk:4", "laplacian:3", "degree", "distance"),
        "edges+k_hop:2+knn:3+radius:1.5+expander:2",
    )
    transform = AddStructure(encodings, spec)
    assert "random_walk:4" in repr(transform) and "radius:1.5" in repr(transform)
    net = made(encodings=encodings, candidates=spec)
    stored = Batch.from_data_list([transform(data) for data in graphs()])
    assert (
        stored.candidates_radius_1_5_index.max() > 11
        and stored.encoding_random_walk_4.shape == (20, 4)
    )
    assert_close(
        net(stored).prediction, net(Batch.from_data_list(graphs())).prediction, atol=1e-5, rtol=1e-4
    )
    stored.encoding_laplacian_3 = stored.encoding_laplacian_3[:, :2]
    with pytest.raises(
        ValueError, match=r"stored encoding 'laplacian:3' must be \[20, 6\], got \[20, 2\]"
    ):
        net(stored)


# ---------------------------------------------------------------- hierarchy


def test_pool_is_a_loop_over_groups():
    x, group = (
        torch.randn(11, 5, dtype=torch.float64, requires_grad=True),
        torch.tensor([0, 3, 3, 0, 1, 5, 5, 5, 1, 0, 3]),
    )
    for how in ("sum", "mean", "max"):
        got = pool(x, group, 7, how)
        for g in range(7):
            rows = x[group == g]
            want = (
                torch.zeros(5, dtype=torch.float64)
                if not len(rows)
                else rows.amax(0)
                if how == "max"
                else getattr(rows, how)(0)
            )
            assert_close(got[g], want)
        assert torch.autograd.gradcheck(lambda x, how=how: pool(x, group, 7, how), x)


def test_given_groups():
    data = Batch.from_data_list(graphs())
    out = made("groups")(data, output_graphs=True)
    assert out.groups[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 6, 7, 7, 8, 9, 10, 10, 11]
    assert out.groups[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6]
    raised = data.clone()  # a Data class whose __inc__ renumbers groups gives the same
    raised.group_0 = data.group_0 + 100 * data.batch
    raised.group_1 = data.group_1 + 7 * data.batch
    again = made("groups")
    assert_close(again(raised).prediction, again(data).prediction)


def test_coarse_edges_by_hand():
    edges = EdgeList.sort(torch.tensor([0, 1, 2, 3, 3, 0]), torch.tensor([1, 2, 3, 0, 1, 2]), 4, 4)
    parent = torch.tensor([0, 0, 1, 1])
    senders, receivers, into = coarse_edges(edges, torch.ones(6, dtype=torch.bool), parent, 2)
    assert list(zip(senders.tolist(), receivers.tolist(), strict=True)) == [(1, 0), (0, 1)]
    assert {(pair, int(c)) for pair, c in zip(pairs_of(edges), into, strict=True)} == {
        ((0, 1), -1), ((1, 2), 1), ((2, 3), -1), ((3, 0), 0), ((3, 1), 0), ((0, 2), 1)
    }  # fmt: skip
    kept = torch.tensor([p != (1, 2) and p != (0, 2) for p in pairs_of(edges)])
    assert len(coarse_edges(edges, kept, parent, 2)[0]) == 1


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(0, 20))
def test_matching(seed: int, nodes: int, edges: int):
    """A matching; maximal; greedy by weight gives the same one, for that is what joining the
    heaviest everywhere does.
    """
    torch.manual_seed(seed)
    senders, receivers = torch.randint(nodes, (edges,)), torch.randint(nodes, (edges,))
    listed = EdgeList.sort(senders, receivers, nodes, nodes)
    a, b, weight = symmetric(listed, torch.rand(edges) + 0.01)
    partner = match(a, b, weight, nodes)
    assert torch.equal(partner[partner], torch.arange(nodes))
    greedy = list(range(nodes))
    for e in weight.argsort(descending=True).tolist():
        i, j = int(a[e]), int(b[e])
        if greedy[i] == i and greedy[j] == j:
            greedy[i], greedy[j] = j, i
    assert partner.tolist() == greedy


def test_equal_weights_are_matched_in_order():
    a, b = torch.arange(6), torch.arange(1, 7)  # a path of 7 nodes
    assert match(a, b, torch.ones(6), 7).tolist() == [1, 0, 3, 2, 5, 4, 6]
    # an edge of no weight joins nothing
    assert match(a, b, torch.zeros(6), 7).tolist() == list(range(7))


def test_clusters():
    """Two pairs of strong pairs: one matching finds the pairs, two find the fours."""
    pairs = {
        (0, 1): 5.0,
        (2, 3): 4.0,
        (4, 5): 6.0,
        (6, 7): 5.0,
        (1, 2): 1.0,
        (5, 6): 1.1,
        (3, 4): 0.2,
    }
    ends = torch.tensor(list(pairs)).t()
    edges = EdgeList.sort(ends[0], ends[1], 9, 9)
    weight = torch.tensor(list(pairs.values()))[edges.order]
    assert cluster(edges, weight, 1).tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8]
    assert cluster(edges, weight, 2).tolist() == [0, 0, 0, 0, 4, 4, 4, 4, 8]
    assert cluster(edges, weight, 3).tolist() == [0] * 8 + [8]


def test_groups_of_two_graphs_stay_apart():
    parent, graph = number_groups(
        torch.tensor([4, 0, 4, 0, 0, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
    )
    assert parent.tolist() == [1, 0, 1, 2, 2, 3] and graph.tolist() == [0, 0, 1, 1]


def test_levels_carry_messages_further_than_edges():
    """On a path of 16 nodes one layer of edges reaches one node; groups of 8 reach the other end of
    the group.
    """
    index = torch.stack((torch.arange(15), torch.arange(1, 16)))
    data = Data(
        x=torch.randn(16, NODE_DIM),
        edge_index=index,
        edge_attr=torch.zeros(15, EDGE_DIM),
        group=torch.arange(16) // 8,
    )
    changed = data.clone()
    changed.x = data.x.clone()
    changed.x[7] += 1
    for levels, seen in (((), {7, 8}), (("group",), set(range(16)))):
        net = made(target="node", num_layers=1, levels=levels)
        moved = (net(changed).prediction - net(data).prediction).abs().amax(-1) > 1e-6
        assert set(moved.nonzero()[:, 0].tolist()) == seen


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"hidden_size": 36}, "hidden_size 36 is not a multiple of num_heads 5"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"operator": "gcn"}, "unknown operator 'gcn'; known: gin, pna, sum"),
        ({"operator": ["gin"]}, "operator must be one text or one for each of the 3 layers, got 1"),
        (
            {"operator_options": {"pna": {}}},
            "operator_options holds 'pna', and no layer is one: operator is gin",
        ),
        (
            {"operator_options": {"gin": {"width": 3}}},
            r"operator_options\['gin'\] holds width, which is none of its options: mlp_ratio, "
            r".*sparsify, normalize",
        ),
        (
            {"candidates": ["edges", "k_hop:2"]},
            "one for each of the 3 layers.*are one text, 'edges.k_hop:2'",
        ),
        ({"merge": "max"}, "unknown merge 'max'; known: mean, sum, learned"),
        ({"refine": "no"}, "refine must be True, False or 'restrict', got 'no'"),
        ({"levels": ("cluster:x",)}, "unknown level 'cluster:x'"),
        ({"readout": ("median",)}, "unknown readout 'median'"),
        ({"readout": ()}, "readout is empty"),
        ({"target": "atom"}, "unknown target 'atom'; known: graph, node, edge"),
        ({"target": {}}, "target is an empty dictionary"),
        ({"task": "ranking"}, "unknown task 'ranking'"),
        ({"loss": "rmse"}, "unknown loss 'rmse'"),
        ({"out_dim": 0}, "out_dim must be at least 1"),
        ({"dropout": 2.0}, "dropout must be a probability"),
        ({"global_dim": -1}, "global_dim must be at least 0"),
        ({"backend": "jax"}, "unknown backend 'jax'"),
        ({"norm": "group"}, "unknown norm 'group'; known: layer, batch"),
        ({"edge_update": True, "num_layers": 1}, "edge_update=True is never read: with num_lay"),
        (
            {"edge_update": True, "candidates": ["edges", "all", "edges"]},
            "edge_update=True hands features .* candidates=.*'all'.* give one text for all",
        ),
    ],
)
def test_constructor_mistakes(options: dict, text: str):
    with pytest.raises(ValueError, match=text):
        made(**options)


@pytest.mark.parametrize("dim", [-1, (3, 0), ()])
def test_feature_widths_that_are_none(dim):
    with pytest.raises(ValueError, match="node_dim must be a positive number"):
        gf.GraphTransformer(dim)


def without(name: str) -> Data:
    data = a_graph()
    del data[name]
    return data


def with_(**changes) -> Data:
    data = a_graph()
    for name, value in changes.items():
        data[name] = value
    return data


@pytest.mark.parametrize(
    ("variant", "data", "text"),
    [
        (
            "plain",
            without("edge_attr"),
            "data.edge_attr is missing: the model was made with edge_dim=3",
        ),
        (
            "plain",
            with_(edge_index=torch.tensor([[0], [11]])),
            r"data.edge_index\[1\] \(receivers\) must lie in 0..10, got values from 11 to 11",
        ),
        ("plain", with_(edge_index=torch.zeros(3, 1)), r"data.edge_index must be \[2, edges\]"),
        (
            "plain",
            with_(x=torch.full((11, NODE_DIM), math.nan)),
            "data.x holds 77 NaN or infinite values among 77",
        ),
        (
            "plain",
            with_(x=torch.zeros(11, 3)),
            r"data.x must be \[11, 7\] \(node_dim=7\), got shape \[11, 3\]",
        ),
        (
            "plain",
            with_(x=torch.full((11,), 7)),
            r"data.x, column 0, must hold categories in 0..6 \(node_dim=7\), got 7 to 7",
        ),
        ("plain", with_(edge_attr=torch.zeros(28, 3)), "data.edge_attr must have 29 rows"),
        (
            "plain",
            with_(y=torch.zeros(3)),
            r"data.y must hold 1 x 2 numbers \(graphs x out_dim\), got shape \[3\]",
        ),
        ("plain", with_(batch=torch.tensor([1] * 6 + [0] * 5)), "data.batch must be .* ascending"),
        ("plain", with_(batch=torch.tensor([0] * 6 + [1] * 5)), "joins two graphs of the batch"),
        ("told", without("pos"), "needs the positions of nodes: data.pos is missing"),
        ("told", with_(pos=torch.full((11, 3), math.inf)), "data.pos holds 33 NaN or infinite"),
        ("told", without("u"), "data.u is missing: the model was made with global_dim=2"),
        ("told", with_(u=torch.zeros(3)), r"data.u must be \[1, 2\]"),
        ("groups", without("group_1"), "data.group_1 is missing"),
        (
            "groups",
            with_(group_0=torch.zeros(4, dtype=torch.long)),
            "data.group_0 must hold an integer for each of the 11 nodes",
        ),
        (
            "groups",
            with_(group_0=torch.full((11,), -1)),
            "data.group_0 must hold groups from 0, got -1",
        ),
        (
            "groups",
            with_(group_1=torch.arange(11)),
            "data.group_1 cuts through a group of the level below: its node 0 has members in "
            "groups 0 and 1",
        ),
    ],
)
def test_data_mistakes(variant: str, data: Data, text: str):
    with pytest.raises(ValueError, match=text):
        made(variant)(data)


def test_more_data_mistakes():
    with pytest.raises(TypeError, match="data must be a PyG Data or Batch"):
        made()(torch.zeros(3))
    with pytest.raises(TypeError, match=r"data\.edge_index must hold integers"):
        made()(with_(edge_index=torch.zeros(2, 1)))
    with pytest.raises(ValueError, match=r"data.y must hold classes in 0..1, got 2; set out_dim"):
        made(target="node", task="classification")(with_(y=torch.arange(11) % 3))
    with pytest.raises(ValueError, match=r"data.y must hold 0 and 1 \(out_dim=1\), got 2"):
        made(target="node", out_dim=1, task="classification")(with_(y=torch.arange(11) % 3))
