"""Graphs of one data set that are not alike, labels that cannot be used, columns without labels:
nothing is left out without a word.
"""

import math

import pytest
import torch
from torch_geometric.data import Data

import graphformer as gf
from graphformer.training import GraphModel, GraphTrainer, Scaling
from graphformer.training.graphs.batches import collate_graphs


def make(number=6, place="graph"):
    drawn = torch.Generator().manual_seed(0)
    graphs = []
    for i in range(number):
        nodes = 3 + i % 3
        rows = nodes if place == "node" else 1
        graphs.append(
            Data(
                x=torch.randn(nodes, 5, generator=drawn),
                edge_index=torch.randint(nodes, (2, 7), generator=drawn),
                y=torch.rand(rows, 2, generator=drawn) + 1,
            )
        )
    return graphs


def model(place="graph", scaling=None, **changes):
    torch.manual_seed(0)
    net = gf.GraphTransformer(
        node_dim=5, hidden_size=6, num_layers=1, num_heads=2, target=place, out_dim=2, **changes
    )
    return GraphModel(net, scaling or Scaling())


def trainer(folder, train, validation=None, **changes):
    options = {"epochs": 1, "progress": False, **changes}
    return GraphTrainer(model().net, train, validation, folder, **options)


@pytest.mark.parametrize("lacks", [0, 2])
@pytest.mark.parametrize("name", ["y", "val_mask"])
def test_a_batch_does_not_lose_labels_and_masks_that_one_graph_lacks(lacks, name):
    graphs = make(place="node")
    for graph in graphs:
        graph.val_mask = torch.arange(graph.num_nodes) == 0
    del graphs[lacks][name]
    with pytest.raises(ValueError, match=rf"data\.{name} is in some graphs of a batch and not in"):
        model("node").evaluate(graphs)


def test_what_is_not_read_may_be_in_some_graphs():
    graphs = make()
    plain = model().predict(graphs)
    graphs[0].note = torch.ones(1)
    graphs[3].other = "a name"
    del graphs[2].y  # a prediction does not read it
    torch.testing.assert_close(model().predict(graphs), plain)
    assert "note" not in collate_graphs(graphs)["data"]


def test_widths_that_differ_are_told():
    graphs = make()
    graphs[1].x = torch.randn(graphs[1].num_nodes, 4)
    with pytest.raises(ValueError, match=r"do not fit into one batch .*must have the same widths"):
        model().predict(graphs)


def test_a_batch_without_labels_cannot_be_trained_on(tmp_path):
    graphs = make()
    del graphs[3].y
    with pytest.raises(ValueError, match=r"a batch of train_dataset has no data\.y at all"):
        trainer(tmp_path / "run", graphs, max_nodes=3).fit()


@pytest.mark.parametrize(
    ("train", "validation", "text"),
    [
        ([1, 2], None, "train_dataset must hold PyG Data, got int as graph 0"),
        (iter([]), None, "train_dataset must be a data set or a list of PyG Data, got list_iter"),
        (make(), {1}, "eval_dataset must be a data set or a list of PyG Data, got set"),
    ],
)
def test_what_is_no_data_set(tmp_path, train, validation, text):
    with pytest.raises(TypeError, match=text):
        trainer(tmp_path / "run", train, validation)


def test_an_empty_validation_set_is_named(tmp_path):
    with pytest.raises(ValueError, match="eval_dataset is empty"):
        trainer(tmp_path / "run", make(), [])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.inf, r"data\.y of graph 4 is infinite"),
        (-1.0, r"target_scaling='log' needs positive labels, and data\.y of graph 4 has -1"),
    ],
)
def test_labels_of_an_evaluation_are_not_left_out(value, text):
    """The logarithm of a negative label is NaN, which would count as missing."""
    graphs = make()
    scaling = Scaling.fit(model().net, graphs, "log")
    assert math.isfinite(model(scaling=scaling).evaluate(graphs)["loss"])
    graphs[4].y[0, 1] = value
    with pytest.raises(ValueError, match=text):
        model(scaling=scaling).evaluate(graphs)


def test_a_column_without_labels_is_told():
    graphs = make()
    for graph in graphs:
        graph.y[:, 1] = math.nan
    with pytest.warns(UserWarning, match=r"no label in column 1 of data\.y: what is predicted"):
        Scaling.fit(model().net, graphs)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_inputs_that_are_not_finite_are_named_and_no_divergence(tmp_path, value):
    graphs = make()
    graphs[3].x[0, 0] = value
    with pytest.raises(ValueError, match=r"^data\.x of graph 3 holds NaN or infinite values"):
        trainer(tmp_path / "run", graphs).fit()


def test_the_seed_decides_whatever_runs_between_making_and_fitting(tmp_path):
    results = []
    for name in ("a", "b"):
        net, graphs = model(dropout=0.3).net, make()
        one = GraphTrainer(net, graphs, None, tmp_path / name, epochs=2, progress=False, seed=3)
        torch.rand(len(results))  # as another trainer would draw
        one.fit()
        results.append(one.predict(graphs))
    assert torch.equal(*results)
