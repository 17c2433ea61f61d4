"""Pruning of graph transformers, and the smaller one that is left."""

import copy

import pytest
import torch
import transformers
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.attention.candidates import All, Given
from graphformer.attention.sparsifiers import EdgeMask
from graphformer.training import GraphModel, GraphTrainer, Pruner, PruningCallback

pytestmark = pytest.mark.usefixtures("float64")

SIZES = {"hidden_size": 15, "num_layers": 2, "num_heads": 5, "head_dim": 3, "edge_hidden": 7}
KINDS = {
    "gin": {"operator": "gin"},
    "sum cut": {"operator": "sum", "sparsify": gf.Threshold(0.2), "merge": "sum"},
    "pna": {"operator": "pna", "target": "node"},
    "learned merge": {"merge": "learned", "operator": ["gin", "pna"]},
    "levels": {"levels": ("cluster",), "merge": "learned"},
    "restrict": {"refine": "restrict", "sparsify": gf.TopK(2), "candidates": "edges+k_hop:2"},
    "virtual nodes": {"virtual_nodes": 2, "target": "edge"},
    "edges updated": {"edge_update": True, "norm": "batch"},
    "relations": {"relations": gf.EdgeColumns((0, 1))},
    "sigmoid": {"normalize": "sigmoid_per_head", "score": "additive"},
}


def a_graph(nodes, edges, seed, targets=1):
    draw = torch.Generator().manual_seed(seed)
    # no edge twice: which of equal ones is kept, rounding decides
    index = torch.randint(nodes, (2, edges), generator=draw).unique(dim=1)
    edges = index.shape[1]
    return Data(
        x=torch.randn(nodes, 4, generator=draw),
        edge_index=index,
        edge_attr=torch.rand(edges, 2, generator=draw).round(),
        y=torch.randn(targets, generator=draw),
    )


def batch():
    return Batch.from_data_list([a_graph(7, 23, 1), a_graph(5, 11, 2), a_graph(3, 0, 3)])


def make(kind="gin", **more):
    torch.manual_seed(0)
    net = gf.GraphTransformer(4, 2, **{**SIZES, **KINDS[kind], **more})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def train(net, pruner, steps):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    net.train()
    data = batch()
    del data.y
    for step in range(steps):
        pruner.step(step)
        optimizer.zero_grad()
        net(data).prediction.square().sum().backward()
        for name, one in net.named_parameters():
            assert one.grad is None or one.grad.isfinite().all(), name
        assert all(mask.theta.grad is not None for mask in (*pruner.heads, *pruner.widths))
        optimizer.step()
    net.eval()


def size(net):
    return sum(parameter.numel() for parameter in net.parameters())


def without_labels():
    data = batch()
    del data.y
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_pruner_is_the_identity_and_goes_without_a_trace(kind):
    net, data = make(kind), without_labels()
    names, want = list(net.state_dict()), net(data).prediction
    pruner = Pruner(net, heads=0.5, widths=0.4, weights=0.3, steps=5, example=data)
    assert torch.equal(net(data).prediction, want)
    pruner.harden()
    assert not torch.allclose(net(data).prediction, want)
    assert pruner.remove() is net
    assert list(net.state_dict()) == names
    assert torch.equal(net(data).prediction, want)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_model_is_the_masked_one_and_smaller(kind, tmp_path):
    net, data = make(kind), without_labels()
    before = size(net)
    given = {"heads": 0.5, "widths": 0.6, "weights": 0.2}
    pruner = Pruner(net, **given, steps=4, begin=1, example=data[0])
    train(net, pruner, 7)
    assert pruner.sparsity == pytest.approx(
        {"heads": 3 / 5, "widths": 18 / 30, "weights": 0.2}, abs=0.02
    )
    want = net(data, output_graphs=True)
    small = pruner.export()
    found = small(data, output_graphs=True)
    assert_close(found.prediction, want.prediction, rtol=1e-9, atol=1e-10)
    for one, wanted in zip(found.refined, want.refined, strict=True):
        assert_close(one.to_dense(), wanted.to_dense(), rtol=1e-9, atol=1e-10)
    assert size(small) < 0.8 * before
    assert small.settings["num_heads"] == 2 and small.settings["intermediate_size"] == 12
    assert all(one.num_lanes == 2 for one in found.graphs)
    assert not any("parametrizations" in name or "pruning" in name for name in small.state_dict())
    path = tmp_path / "model"
    GraphModel(small).save(path)
    loaded = gf.training.load_graph_model(path).net
    assert_close(loaded.double()(data).prediction, want.prediction, rtol=1e-4, atol=1e-4)


def test_all_blocks_keep_as_many_heads_and_one_at_least():
    net = make("levels")
    pruner = Pruner(net, heads=0.99, widths=0.99, steps=1, example=batch())
    with torch.no_grad():
        pruner.heads[2].theta[3] = 1.0
    pruner.harden()
    assert [int(mask.kept.sum()) for mask in (*pruner.heads, *pruner.widths)] == [1] * 8
    assert pruner.heads[2].kept.tolist() == [False, False, False, True, False]
    small = pruner.export()
    assert small.settings["num_heads"] == 1 and small.settings["intermediate_size"] == 1
    assert_close(small(batch()).prediction, net(batch()).prediction)


def test_edges_by_the_schedule():
    net = make("gin", sparsify={"name": "edge_mask", "distances": False})
    pruner = Pruner(net, edges=0.6, heads=0.4, steps=3, example=batch())
    whole = net(batch(), output_graphs=True).graphs[0].num_edges
    train(net, pruner, 5)
    assert pruner.sparsity["edges"] == pytest.approx(0.6)
    assert all(bool(one.hard) for one in net.modules() if isinstance(one, EdgeMask))
    assert net(batch(), output_graphs=True).graphs[0].num_edges < 0.7 * whole
    small = pruner.export()
    assert_close(small(batch()).prediction, net(batch()).prediction)


def test_a_copy_has_masks_of_its_own():
    net = make("learned merge")
    pruner = Pruner(net, heads=0.5, widths=0.4, weights=0.2, steps=1, example=batch())
    other = copy.deepcopy(net)
    want = other(batch()).prediction
    pruner.harden()
    assert torch.equal(other(batch()).prediction, want)
    other.load_state_dict(net.state_dict())
    assert_close(other(batch()).prediction, net(batch()).prediction)


def test_in_the_trainer_resumed_and_exported(tmp_path):
    torch.set_default_dtype(torch.float32)
    graphs = [a_graph(6, 14, seed) for seed in range(12)]

    def run(folder, resume=False, stops=None):
        torch.manual_seed(0)
        net = gf.GraphTransformer(4, 2, **SIZES)
        pruner = Pruner(net, heads=0.5, widths=0.4, steps=5, begin=1, example=graphs[0])
        given = {"epochs": 4, "max_nodes": 24, "progress": False}
        trainer = GraphTrainer(net, graphs[:8], graphs[8:], tmp_path / folder, **given)
        trainer.add_callback(PruningCallback(pruner))
        if stops is not None:
            trainer.add_callback(Stops(stops))
        return trainer.fit(resume=resume), pruner, trainer

    result, pruner, trainer = run("whole")
    assert all(bool(mask.hard) for mask in (*pruner.heads, *pruner.widths))  # of the best weights
    assert pruner.sparsity == pytest.approx({"heads": 3 / 5, "widths": 12 / 30})
    assert any("pruned_heads" in line for line in result.history)
    assert result.steps > 6 and trainer.state.best_global_step > 6
    small = pruner.export()
    one = Batch.from_data_list(graphs[:3])
    assert_close(small(one).prediction, result.model.net(one).prediction, rtol=1e-4, atol=1e-4)
    GraphModel(small, result.model.scaling, {}).save(tmp_path / "small")
    loaded = gf.training.load_graph_model(tmp_path / "small")
    assert_close(loaded.predict(graphs), result.model.predict(graphs), rtol=1e-4, atol=1e-4)
    with pytest.warns(UserWarning, match="training ended at step 4, and the schedule.*ends at 6"):
        run("parts", stops=4)
    again, _, _ = run("parts", resume=True)
    for name, want in result.model.net.state_dict().items():
        assert_close(again.model.net.state_dict()[name], want)
    # the best weights of the run are those under masks, and the finished run brings them back
    with pytest.raises(ValueError, match=r"whole.*under the masks of its Pruner.*export\(\)"):
        gf.training.load_graph_model(tmp_path / "whole")
    again, pruner, _ = run("whole", resume=True)
    GraphModel(pruner.export(), again.model.scaling, again.model.featuriser).save(tmp_path / "late")
    late = gf.training.load_graph_model(tmp_path / "late")
    assert_close(late.predict(graphs), loaded.predict(graphs))


@pytest.mark.parametrize("part", ["heads", "widths", "weights"])
def test_a_folder_with_masks_is_refused(part, tmp_path):
    net = make()
    Pruner(net, **{part: 0.5}, steps=1, example=batch())
    GraphModel(net).save(tmp_path)
    with pytest.raises(ValueError, match="holds a model under the masks of its Pruner"):
        gf.training.load_graph_model(tmp_path)


def test_masks_of_edges_are_part_of_the_model(tmp_path):
    net = make(sparsify={"name": "edge_mask", "distances": False})
    pruner = Pruner(net, edges=0.6, steps=3, example=batch())
    train(net, pruner, 5)
    GraphModel(net).save(tmp_path)
    loaded = gf.training.load_graph_model(tmp_path).net.double()
    assert_close(loaded(without_labels()).prediction, net(without_labels()).prediction)


class Stops(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.step


@pytest.mark.parametrize(
    ("given", "more", "text"),
    [
        ({"layers": 0.5}, {}, "layers=0.5: of a GraphTransformer heads, widths, weights, edges"),
        ({"heads": 0.5, "example": None}, {}, "example is missing.*example=train"),
        ({"edges": 0.5}, {}, "head=gf.Head\\(sparsify='edge_mask'\\)"),
        ({"widths": 0.5}, {"feed_forward": "multi_hop", "hidden_size": 20}, "not the gated one"),
        ({"heads": 0.5}, {"head": gf.Head(update="gated_heads")}, "reads several heads at once"),
        (
            {"heads": 0.5},
            {"head": [gf.Head(), gf.Head(score="echo", normalize="identity")]},
            "a layer that reads the heads of another",
        ),
        (
            {"heads": 0.5},
            {"head": gf.Head(features="value_residual")},
            "a layer that reads the heads of another",
        ),
        (
            {"heads": 0.5},
            {"head": gf.Head(candidates=gf.PerHead((Given(), All(), All(), All(), All())))},
            "cannot have fewer heads than it was made with",
        ),
    ],
)
def test_what_cannot_be_pruned_is_refused_and_leaves_no_trace(given, more, text):
    net = make(**more)
    names = list(net.state_dict())
    with pytest.raises(ValueError, match=text):
        Pruner(net, **{"example": batch(), **given}, steps=3)
    assert list(net.state_dict()) == names
    assert not any(one._forward_pre_hooks for one in net.modules())
    assert all(block.merge.counted is None for layer in net.layers for block in layer.blocks)
