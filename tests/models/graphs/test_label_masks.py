"""Masks of graphs choose the labels that count, in training, evaluation and batches; what else the
data hold is read or told.
"""

import copy
import math
import warnings

import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import NeighborLoader
from torch_geometric.transforms import ToSparseTensor

import graphformer as gf
from graphformer.models import Target
from graphformer.training import GraphModel, GraphTrainer, Scaling, cross_validate

NODES, EDGES = 23, 70


def make_data(seed=0, classes=0, **more):
    random = torch.Generator().manual_seed(seed)
    y = (
        torch.randint(classes, (NODES,), generator=random)
        if classes
        else torch.randn(NODES, generator=random)
    )
    part = torch.randperm(NODES, generator=random)
    masks = {}
    for name, rows in (("train", part[:11]), ("val", part[11:16]), ("test", part[16:])):
        masks[f"{name}_mask"] = torch.zeros(NODES, dtype=torch.bool)
        masks[f"{name}_mask"][rows] = True
    x, edge_index = (
        torch.randn(NODES, 5, generator=random),
        torch.randint(NODES, (2, EDGES), generator=random),
    )
    return Data(x=x, edge_index=edge_index, y=y, **masks, **more)


def make_net(target="node", **more):
    torch.manual_seed(0)
    return gf.GraphTransformer(
        5, hidden_size=6, num_layers=1, num_heads=2, target=target, **more
    ).double()


def loss(net, data, **options):
    data = copy.copy(data)
    data.x = data.x.double()
    return net(data, **options).loss.item()


def of_rows(net, data, rows):
    """The loss over these rows, written out."""
    prediction = net(Data(x=data.x.double(), edge_index=data.edge_index)).prediction[rows]
    if net.targets["y"].task == "classification":
        return float(torch.nn.functional.cross_entropy(prediction, data.y[rows]))
    return float((prediction.squeeze(-1) - data.y[rows]).square().mean())


@pytest.mark.parametrize("classes", [0, 3])
def test_each_mode_reads_its_mask(classes):
    options = {"task": "classification", "out_dim": classes} if classes else {}
    net, data = make_net(**options), make_data(classes=classes)
    assert loss(net.train(), data) == pytest.approx(of_rows(net, data, data.train_mask), rel=1e-9)
    assert loss(net.eval(), data) == pytest.approx(of_rows(net, data, data.val_mask), rel=1e-9)
    assert loss(net, data, mask="test_mask") == pytest.approx(
        of_rows(net, data, data.test_mask), rel=1e-9
    )
    assert loss(net, data, mask="all") == pytest.approx(of_rows(net, data, slice(None)), rel=1e-9)
    assert loss(net, data, mask=data.train_mask | data.val_mask) == pytest.approx(
        of_rows(net, data, ~data.test_mask), rel=1e-9
    )
    del data.val_mask
    assert loss(net, data) == pytest.approx(of_rows(net, data, data.test_mask), rel=1e-9)


@pytest.mark.parametrize("task", ["regression", "classes", "several"])
def test_labels_outside_of_the_mask_change_nothing(task):
    options = {
        "regression": {},
        "classes": {"task": "classification", "out_dim": 3},
        "several": {"task": "classification", "out_dim": 2},
    }
    net, data = make_net(**options[task]).train(), make_data(classes=3 if task == "classes" else 0)
    if task == "several":
        data.y = (torch.randn(NODES, 2) > 0).float()
    before, gradient = loss(net, data), None
    for wrong in (math.nan, math.inf, -1e30, 999.0):
        changed = data.clone()
        if task == "classes" and not math.isfinite(wrong):
            continue
        changed.y[~data.train_mask] = (
            int(wrong) if task == "classes" and wrong > 0 else (-7 if task == "classes" else wrong)
        )
        net.zero_grad()
        changed.x = changed.x.double()
        out = net(changed).loss
        out.backward()
        found = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        assert float(out) == before and bool(found.isfinite().all())
        gradient = found if gradient is None else gradient
        assert torch.equal(found, gradient)


def test_masks_go_through_batching():
    net, parts = make_net().train(), [make_data(seed) for seed in range(3)]
    batch = Batch.from_data_list(parts)
    counts = [int(one.train_mask.sum()) for one in parts]
    parts[1].train_mask[:] = False
    with pytest.warns(UserWarning, match=r"data\.train_mask is false everywhere: no label counts"):
        assert loss(net, parts[1]) == 0
    expected = sum(
        of_rows(net, one, make_data(seed).train_mask) * count
        for seed, (one, count) in enumerate(zip(parts, counts, strict=True))
    )
    assert loss(net, batch) == pytest.approx(expected / sum(counts), rel=1e-9)
    some = Batch.from_data_list(parts)  # one of the graphs has no training nodes
    expected = (
        of_rows(net, parts[0], parts[0].train_mask) + of_rows(net, parts[2], parts[2].train_mask)
    ) / 2
    assert loss(net, some) == pytest.approx(expected, rel=1e-9)


def test_splits_must_be_chosen():
    net, data = make_net().train(), make_data()
    data.train_mask = torch.stack([data.train_mask, ~data.train_mask], 1)
    with pytest.raises(
        ValueError,
        match=r"data\.train_mask holds 2 splits, \[23, 2\]; choose one: data\.train_mask = "
        r"data\.train_mask\[:, 0\]",
    ):
        loss(net, data)
    assert loss(net, data, mask=data.train_mask[:, 1]) == pytest.approx(
        of_rows(net, data, data.train_mask[:, 1]), rel=1e-9
    )
    data.train_mask = data.train_mask[:, :1]  # one split is a choice
    assert loss(net, data) == pytest.approx(of_rows(net, data, make_data().train_mask), rel=1e-9)


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        (
            torch.arange(5),
            TypeError,
            r"data\.train_mask must be a bool tensor, got torch\.int64; .*index_to_mask",
        ),
        ([True] * NODES, TypeError, r"data\.train_mask must be a bool tensor, got list"),
        (
            torch.ones(7, dtype=torch.bool),
            ValueError,
            r"data\.train_mask must be \[23\], one entry for each node .*got shape \[7\]",
        ),
    ],
)
def test_masks_that_do_not_fit(mask, error, text):
    data = make_data()
    data.train_mask = mask
    with pytest.raises(error, match=text):
        loss(make_net().train(), data)


def test_masks_that_are_asked_for_and_not_there():
    net, data = make_net(), make_data()
    with pytest.raises(
        ValueError,
        match="mask='holdout': the data hold no such mask, but train_mask, val_mask, test_mask",
    ):
        loss(net, data, mask="holdout")
    with pytest.raises(
        TypeError,
        match="mask must be 'all', the name of a mask of the data or a bool tensor, got 3",
    ):
        loss(net, data, mask=3)
    del data.val_mask, data.test_mask
    with pytest.warns(
        UserWarning,
        match="there is no loss: the data hold train_mask and no val_mask or "
        "test_mask.*mask='train_mask'",
    ):
        assert net.eval()(Data(**{**data.to_dict(), "x": data.x.double()})).loss is None
    assert loss(net, data, mask="train_mask") == pytest.approx(
        of_rows(net, data, data.train_mask), rel=1e-9
    )
    data.test_mask = data.train_mask
    del data.train_mask
    with pytest.raises(
        ValueError,
        match="the data hold test_mask and no train_mask, so which labels count in training mode "
        "is not known",
    ):
        loss(net.train(), data)


def test_masks_of_edges_and_of_graphs():
    data, net = make_data(), make_net("edge").train()
    data.y = torch.randn(EDGES)
    with pytest.raises(
        ValueError, match=r"data\.train_mask must be \[70\], one entry for each edge"
    ):
        loss(net, data)
    data.train_mask = torch.arange(EDGES) < 13
    assert loss(net, data) == pytest.approx(of_rows(net, data, data.train_mask), rel=1e-9)

    net, data = make_net("graph").train(), make_data()
    data.y = torch.randn(1)
    with pytest.raises(
        ValueError,
        match=r"data\.train_mask must be \[1\], one entry for each graph.*leave it out of the "
        r"data, or give",
    ):
        loss(net, data)
    parts = []
    for seed, used in enumerate([True, False, True]):
        parts.append(make_data(seed))
        parts[-1].y, parts[-1].train_mask = torch.randn(1), torch.tensor([used])
    both = [of_rows(net, one, slice(None)) for one in (parts[0], parts[2])]
    assert loss(net, Batch.from_data_list(parts)) == pytest.approx(sum(both) / 2, rel=1e-9)


def test_masks_of_nodes_beside_a_target_of_graphs():
    net = make_net({"charge": Target("node"), "gap": Target("graph")}).train()
    data = make_data()
    data.charge, data.gap = data.y, torch.ones(1)
    del data.y
    with pytest.warns(
        UserWarning,
        match="train_mask, val_mask, test_mask chooses among nodes: labels of the target 'gap', of "
        "graphs, all count",
    ):
        before = loss(net, data)
    data.charge = torch.where(data.train_mask, data.charge, 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        assert loss(net, data) == before


def test_seeds_of_neighbour_loaders():
    net, data = make_net(), make_data()
    data.x = data.x.double()
    for training, name in ((True, "train_mask"), (False, "test_mask")):
        net.train(training)
        for batch in NeighborLoader(data, [-1], batch_size=4, input_nodes=data[name]):
            seeds = torch.arange(batch.num_nodes) < batch.batch_size
            assert float(net(batch).loss) == pytest.approx(of_rows(net, batch, seeds), rel=1e-9)
    # While training, a seed that is no training node does not count.
    batch = next(iter(NeighborLoader(data, [-1], batch_size=NODES, input_nodes=None)))
    assert float(net.train()(batch).loss) == pytest.approx(
        of_rows(net, batch, batch.train_mask), rel=1e-9
    )
    batch.y = torch.randn(batch.num_edges)
    with pytest.raises(
        ValueError,
        match=r"23 seed nodes of NeighborLoader, and the target is of edges.*take "
        r"LinkNeighborLoader",
    ):
        make_net("edge").train()(batch)


def test_encodings_of_a_sampled_part_are_told():
    data = make_data()
    net = gf.GraphTransformer(5, target="node", hidden_size=6, num_heads=2, encodings=("degree",))
    stored = gf.nn.AddStructure(encodings=["degree"])(copy.copy(data))
    whole = net.eval()(stored, mask="all").prediction
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="encodings")
        batch = next(iter(NeighborLoader(stored, [-1] * 9, batch_size=4, input_nodes=None)))
        found = net(batch, mask="all").prediction[:4]
    torch.testing.assert_close(found, whole[batch.n_id[:4]])
    batch = next(iter(NeighborLoader(data, [1], batch_size=4, input_nodes=None)))
    with pytest.warns(
        UserWarning, match=r"encodings=\['degree'\] are made of the part .*AddStruct"
    ):
        net(batch)


@pytest.mark.slow
def test_training_and_evaluation_on_one_graph(tmp_path):
    """Labels outside of train_mask decide neither weights nor scaling; metrics are those of the
    mask that is named.
    """
    results = []
    for other in (0.0, 50.0, math.nan):
        data, net = make_data(), make_net().float()
        data.y[data.test_mask] += other
        trainer = GraphTrainer(net, [data], [data], tmp_path / str(other), epochs=3, progress=False)
        results.append((trainer.fit(), [p.detach().clone() for p in net.parameters()]))
        assert trainer.graph_model.scaling.means["y"] == pytest.approx(
            [float(data.y[data.train_mask].mean())]
        )
    for result, weights in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(weights, results[0][1], strict=True))
        assert result.metrics == results[0][0].metrics
    model, data = results[0][0].model, make_data()
    prediction = model.predict([data])
    for name in ("train_mask", "val_mask", "test_mask"):
        found = model.evaluate([data], mask=name)
        assert found["mae"] == pytest.approx(
            float((prediction.squeeze(-1) - data.y)[data[name]].abs().mean()), rel=1e-5
        )
    assert model.evaluate([data])["mae"] == model.evaluate([data], mask="val_mask")["mae"]
    data.val_mask[:] = False
    with (
        pytest.raises(ValueError, match="no label counts in this evaluation"),
        pytest.warns(UserWarning, match="false everywhere"),
    ):
        model.evaluate([data])


def test_training_needs_labels_that_count(tmp_path):
    net, data = make_net().float(), make_data()
    data.train_mask[:] = False
    with (
        pytest.raises(ValueError, match="train_mask marks none of them"),
        pytest.warns(UserWarning, match="false everywhere"),
    ):
        Scaling.fit(net, [data])
    data = make_data()
    only = data.clone()
    del only.val_mask, only.test_mask
    with pytest.raises(
        ValueError, match="eval_dataset: the data hold train_mask and no val_mask or test_mask"
    ):
        GraphTrainer(net, [data], [only], tmp_path, epochs=1)
    with pytest.raises(
        ValueError, match="the graphs hold test_mask, train_mask, val_mask: folds divide the graphs"
    ):
        cross_validate(make_net, [data] * 5, tmp_path, 5)
    with pytest.raises(ValueError, match=r"ignore_keys=\['a'\] has no use here"):
        GraphTrainer(net, [data], [data], tmp_path, epochs=1).evaluate(ignore_keys=["a"])


# --------------------------------------------------------------------- attributes that are not read


@pytest.mark.parametrize(
    ("name", "shape", "hint"),
    [
        ("edge_weight", (EDGES,), "make it a column of data.edge_attr"),
        ("edge_attr", (EDGES, 3), "edge_dim=3 reads it"),
        ("node_weight", (NODES,), "make it a column of data.x"),
        ("edge_type", (EDGES,), "edge_attr"),
        ("node_type", (NODES,), "data.x"),
        ("pos", (NODES, 3), "edges+knn:8"),
        ("z", (NODES,), "number of elements"),
        ("face", (3, 5), "FaceToEdge"),
        ("u", (1, 4), "global_dim=4"),
        ("node_norm", (NODES,), "NeighborLoader"),
        ("root_n_id", (3,), "NeighborLoader"),
        ("edge_label_index", (2, 3), "targets of edges"),
        ("encoding_random_walk_8", (NODES, 8), "another setting of encodings or candidates"),
    ],
)
def test_an_attribute_that_is_not_read_is_told_once(name, shape, hint):
    net, data = make_net().eval(), make_data(**{name: torch.ones(shape)})
    data.name, data.row, data.grain, data.original_id = (
        "a name",
        3,
        torch.arange(NODES),
        torch.arange(NODES),
    )  # a user's own: no word
    with pytest.warns(UserWarning) as told:
        loss(net, data)
    (one,) = told
    assert str(one.message).startswith(
        f"data.{name} is not read by this GraphTransformer"
    ) and hint in str(one.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(net, data)


def test_an_attribute_that_is_read_is_not_told():
    random = torch.Generator().manual_seed(3)
    data = make_data(
        edge_attr=torch.randn(EDGES, 3, generator=random),
        u=torch.ones(1, 2),
        pos=torch.randn(NODES, 3, generator=random),
    )
    data.edge_weight, data.node_weight, data.group_0 = (
        data.edge_attr[:, 1],
        data.x[:, 4],
        torch.arange(NODES) // 4,
    )
    data = gf.nn.AddStructure(("random_walk:4",), "k_hop:2")(data)
    torch.manual_seed(0)
    options = {
        "edge_dim": 3,
        "global_dim": 2,
        "levels": ("group_0",),
        "encodings": ("random_walk:4",),
        "candidates": "edges+k_hop:2+knn:3",
    }
    net = gf.GraphTransformer(5, hidden_size=6, num_layers=1, num_heads=2, target="node", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(data)
    data.edge_weight = data.edge_weight + 1  # no column any more
    other = gf.GraphTransformer(
        5, hidden_size=6, num_layers=1, num_heads=2, target="node", **options
    )
    with pytest.warns(UserWarning, match=r"data\.edge_weight is not read"):
        other(data)


def test_a_mask_of_another_name_is_told_and_can_be_named():
    net, data = make_net().train(), make_data(labelled_mask=torch.arange(NODES) < 5)
    with pytest.warns(UserWarning, match=r"data\.labelled_mask is not read.*mask='labelled_mask'"):
        loss(net, data)
    assert loss(net, data, mask="labelled_mask") == pytest.approx(
        of_rows(net, data, slice(5)), rel=1e-9
    )


def test_edges_in_another_form_are_refused():
    data = make_data()
    sparse = ToSparseTensor(remove_edge_index=True)(data.clone())
    with pytest.raises(
        ValueError, match=r"data\.adj_t is given and no data\.edge_index, which is what is read"
    ):
        make_net()(sparse)
    kinds = HeteroData()
    kinds["a"].x = torch.randn(3, 5)
    with pytest.raises(TypeError, match="one type of nodes, got HeteroData"):
        make_net()(kinds)


@pytest.mark.parametrize(
    ("y", "options", "error", "text"),
    [
        (
            torch.zeros(3, NODES),
            {"out_dim": 3},
            ValueError,
            r"data\.y must hold 23 x 3 numbers .*got shape \[3, 23\]",
        ),  # turned round
        (
            torch.full((NODES,), 1.5),
            {"out_dim": 3, "task": "classification"},
            ValueError,
            r"data\.y must hold classes, whole numbers, got 1\.5",
        ),
        (
            torch.full((NODES,), 0.5),
            {"task": "classification"},
            ValueError,
            r"data\.y must hold 0 and 1 \(out_dim=1\), got 0\.5",
        ),
        (
            torch.zeros(NODES, dtype=torch.complex64),
            {},
            TypeError,
            r"data\.y must be a tensor of real numbers, got torch\.complex64",
        ),
        (["a"] * NODES, {}, TypeError, r"data\.y must be a tensor of real numbers, got list"),
    ],
)
def test_labels_of_a_wrong_kind(y, options, error, text):
    data = make_data()
    data.y = y
    with pytest.raises(error, match=text):
        loss(make_net(**options), data, mask="all")


def test_a_saved_model_tells_nothing_twice():
    """Inputs are scaled on their way to the net: a weight that repeats a column of x must be found
    in x as it is.
    """
    data = make_data()
    data.node_weight = data.x[:, 2]
    scaling = Scaling.fit(net := make_net().float(), [data])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GraphModel(net, scaling).predict([data])
