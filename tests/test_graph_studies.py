"""Peers, variants, searched settings and encodings of the graph benchmarks."""

import json

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

pytest.importorskip("benchmarks", reason="benchmarks/ is not part of an installed package")

import graphformer as gf
from benchmarks.graphs import load, page, peers, search, studies, study, variants
from benchmarks.graphs.classic import GatedGCN
from benchmarks.graphs.conduction import Conduction
from graphformer.datasets import PolycrystalDataset

SIZES = {"hidden_size": 12, "num_layers": 3, "num_heads": 3, "edge_hidden": 5}


def a_graph(nodes=11, edges=29, seed=0):
    torch.manual_seed(seed)
    index = torch.randint(nodes, (2, edges))
    x, attr = torch.randn(nodes, 4), torch.randn(edges, 2)
    return Data(x=x, edge_index=index, edge_attr=attr, y=torch.randn(1, 1))


def peer(body, **more):
    torch.manual_seed(0)
    return peers.Peer(body, 4, 2, **{**SIZES, **more})


each_body = pytest.mark.parametrize("body", peers.BODIES)


# ---------------------------------------------------------------- peers


@each_body
@pytest.mark.usefixtures("float64")
def test_numbering_and_batch_mates_change_nothing(body):
    graphs = [a_graph(), a_graph(5, 7, 1), a_graph(1, 0, 2)]
    net = peer(body)
    net.train()(Batch.from_data_list(graphs))  # norms have seen something
    net.eval()
    found = net(Batch.from_data_list(graphs)).prediction
    assert found.shape == (3, 1)
    for one, graph in zip(found, graphs, strict=True):
        order = torch.randperm(graph.num_nodes)
        place, edges = torch.argsort(order), torch.randperm(graph.num_edges)
        other = Data(
            x=graph.x[order],
            edge_index=place[graph.edge_index[:, edges]],
            edge_attr=graph.edge_attr[edges],
        )
        assert_close(net(other).prediction[0], one)


@each_body
def test_gradients_reach_edge_features_and_every_parameter(body):
    data = Batch.from_data_list([a_graph(23, 101, 1), a_graph(29, 151, 2)])
    data.edge_attr.requires_grad_()
    net = peer(body).train()
    net(data).loss.backward()
    assert data.edge_attr.grad.abs().sum(-1).gt(0).all()
    without = {name for name, one in net.named_parameters() if one.grad is None}
    assert not without and all(one.grad.isfinite().all() for one in net.parameters())


@each_body
def test_dropout_is_of_training_alone(body):
    data = Batch.from_data_list([a_graph(), a_graph(seed=1)])
    net = peer(body, dropout=0.5)
    net.train()
    assert not torch.equal(net(data).prediction, net(data).prediction)
    net.eval()
    assert torch.equal(net(data).prediction, net(data).prediction)
    still = peer(body).train()
    assert torch.equal(still(data).prediction, still(data).prediction)


@pytest.mark.usefixtures("float64")
def test_gated_gcn_beside_its_formula():
    layer, graph = GatedGCN(3), a_graph(5, 9)
    x, e = torch.randn(5, 3), torch.randn(9, 3)
    nodes, edges = layer(x, graph.edge_index, e)
    above, below = torch.zeros(5, 3), torch.zeros(5, 3)
    for number, (j, i) in enumerate(graph.edge_index.t().tolist()):
        new = layer.edge(e[number]) + layer.receiver(x[i]) + layer.sender(x[j])
        assert_close(edges[number], new)
        above[i] += new.sigmoid() * layer.value(x[j])
        below[i] += new.sigmoid()
    assert_close(nodes, layer.own(x) + above / (below + 1e-6))


def test_the_stream_of_edges_reaches_the_nodes():
    """An edge hears of its sender's sender in the first layer, and tells its receiver in the second
    by its gate: the norms of edges have a part in the answer.
    """
    net, data = peer("gatedgcn-plus").eval(), a_graph()
    before = net(data).prediction
    with torch.no_grad():
        net.layers[0].edge_norm.module.bias += 3.0
    assert not torch.allclose(net(data).prediction, before)
    assert net.layers[-1].edge_norm is None


def test_a_peer_without_edge_features_is_refused():
    with pytest.raises(ValueError, match="edge_dim=None: peers read edge features; give edge_dim"):
        peers.Peer("gin-plus", 4, None)
    with pytest.raises(ValueError, match="unknown body 'gcn'"):
        peers.Peer("gcn", 4, 2)


# ---------------------------------------------------------------- a small study


@pytest.fixture(scope="module")
def grains():
    return PolycrystalDataset(
        None, 8, (4, 6), resolution=8, law="two-phase", contrast=100.0, log=False
    )


def tiny(grains, **more):
    network = {"node_dim": 6, "edge_dim": 2, "hidden_size": 8, "num_layers": 2, "num_heads": 2}
    options = {
        "name": "tiny",
        "title": "",
        "parts": lambda repeat, quick: study.Parts(grains, grains, {"test": grains}),
        "network": network,
        "training": {"epochs": 1, "max_nodes": 40, "learning_rate": 0.01},
        "columns": ("rmse",),
        "more": variants.variants(network),
        "repeats": 2,
    }
    return study.Study(**{**options, **more})


@pytest.mark.slow
def test_every_row_of_a_study_trains_and_is_shown(grains):
    one = tiny(grains)
    found = study.run(one, one.contenders, [0], False, None)
    text = study.table(one, found)
    for name in one.contenders:
        assert f"| {study.NAMES[name]} |" in text


@pytest.mark.parametrize("name", studies.STUDIES)
def test_settings_of_every_row_are_plain_and_make_the_network_again(name):
    one = studies.STUDIES[name]()
    for row in one.contenders:
        assert row in study.NAMES
        plain = json.loads(json.dumps(one.settings(row)))
        assert plain["hidden_size" if row != "cnn" else "side"]
        if row in variants.variants(one.network):
            with torch.device("meta"):
                again, made = gf.GraphTransformer(**plain), one.build(row)
            assert again.state_dict().keys() == made.state_dict().keys()


def test_half_the_heads_are_on_edges_and_half_on_all_pairs(grains):
    net = tiny(grains).build("sum-local-global").eval()
    graph = net(grains[0], output_graphs=True).graphs[0]
    edges = {tuple(pair) for pair in grains[0].edge_index.t().tolist()}
    local, everywhere = (
        set(zip(one.senders.tolist(), one.receivers.tolist(), strict=True))
        for one in (graph.lane(0), graph.lane(1))
    )
    count = grains[0].num_nodes
    assert local == edges and len(everywhere) == count * (count - 1)


def test_seeds_of_a_fold_are_one_difference(grains):
    """Two folds with two seeds each: a fold's seeds share a test part."""

    def runs(model, values):
        made = [{"model": model, "tests": {"test": {"rmse": value}}} for value in values]
        return [one | {"repeat": repeat} for repeat, one in enumerate(made)]

    found = {"runs": [*runs("sum", [1.0, 2.0, 3.0, 5.0]), *runs("gin", [0.5, 1.0, 2.0, 3.0])]}
    folds, seeds = tiny(grains, folds=2), tiny(grains)
    assert study.pair(folds, found, "sum", "gin") == [0.75, 1.5]
    assert study.pair(seeds, found, "sum", "gin") == [0.5, 1.0, 1.0, 2.0]


def test_repeats_beyond_the_folds_are_the_folds_again(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "CACHE", tmp_path)
    monkeypatch.setenv("GRAPHFORMER_DATA", str(data_dir))
    one = studies.STUDIES["polymer-dft-ei"]()
    first, again = one.parts(1, False), one.parts(6, False)
    names = [[graph.text for graph in made.tests["test"]] for made in (first, again)]
    assert names[0] == names[1]
    assert [graph.text for graph in first.valid] != [graph.text for graph in again.valid]


def test_runs_of_another_process_stay(grains, tmp_path):
    one = tiny(grains)
    before = study.run(one, ["gine"], [0], False, tmp_path)
    path = tmp_path / "graphs-tiny.json"
    other = json.loads(json.dumps(before["runs"][0])) | {"model": "gps"}
    study.keep({**before, "runs": []}, other, {"machine": "another"}, path)
    stored = json.loads(path.read_text())
    assert [run["model"] for run in stored["runs"]] == ["gine", "gps"]
    assert {"machine": "another"} in stored["environments"]


# ---------------------------------------------------------------- searched settings


def untouchable(model, test):
    raise AssertionError("a test part was looked at in a search")


def searched(grains, tmp_path, monkeypatch, **more):
    monkeypatch.setattr(search, "RATES", (0.001, 0.01))
    return search.Search(tiny(grains, **more), tmp_path)


def test_widths_have_equal_parameters(grains):
    one = tiny(grains, network=tiny(grains).network | {"hidden_size": 32})
    budget = search.parameters(one, "sum")
    assert search.width(one, "sum") == 32
    for name in search.BODIES:
        wide = search.width(one, name)
        found = [
            abs(
                search.parameters(search.with_settings(one, hidden_size=wide + step), name) - budget
            )
            for step in (-2, 0, 2)
        ]
        assert wide % 2 == 0 and found[1] == min(found) and found[1] < 0.1 * budget


@pytest.mark.slow
def test_tries_are_equal_never_tested_and_not_repeated(grains, tmp_path, monkeypatch):
    bodies = ["gine", "sum"]
    one = searched(grains, tmp_path, monkeypatch, measure=untouchable)
    with pytest.raises(AssertionError, match="a test part"):
        one.all(bodies, [0])  # all tries are done by then, and the first test is what fails
    runs = list(one.store.content["runs"].values())
    tried = {
        name: sorted(
            (run["rate"], one.store.content["settings"][run["settings"]]["network"]["dropout"])
            for run in runs
            if run["row"] == f"{name} try"
        )
        for name in bodies
    }
    assert len(runs) == 8 and tried["gine"] == tried["sum"] and len(set(tried["sum"])) == 4
    assert all("tests" not in run and run["seed_weights"] == search.SEED for run in runs)
    done = []
    real = search.train
    monkeypatch.setattr(search, "train", lambda *args: done.append(args[1]) or real(*args))
    again = searched(grains, tmp_path, monkeypatch)
    again.all(bodies, [0, 1])
    assert sorted(done) == [0, 0, 1, 1]  # no try again: what is stored stands
    text = search.table(again)
    assert "| GINEConv (PyG) |" in text and "4 tries a body" in text
    best = min(
        (run for run in runs if run["row"] == "sum try"),
        key=search.loss,
    )
    settings = again.store.content["settings"][best["settings"]]
    assert again.chosen("sum", 0) == (best["rate"], settings["network"]["dropout"])
    assert set(again.tested("sum")) == {0, 1}


@pytest.mark.slow
def test_folds_are_searched_one_by_one(grains, tmp_path, monkeypatch):
    asked = []

    def parts(repeat, quick):
        asked.append(repeat)
        return study.Parts(grains, grains, {"test": grains})

    one = searched(grains, tmp_path, monkeypatch, parts=parts, folds=3)
    one.all(["gine"], [2])
    assert asked == [2]
    seeds = tiny(grains, parts=parts)
    other = search.Search(seeds, tmp_path / "seeds")
    other.all(["gine"], [0])
    assert asked == [2, search.SEED, 0]


def test_a_try_that_diverges_is_the_worst(grains, tmp_path, monkeypatch):
    one = searched(grains, tmp_path, monkeypatch)

    def train(make, seed, parts, training, measure):
        if training["learning_rate"] == 0.01:
            raise ValueError("learning_rate=0.01: training has diverged")
        return {"curve": [[1, 0.5]], "seconds": 1.0}

    monkeypatch.setattr(search, "train", train)
    for rate, dropout in one.tries:
        one.run("gine", rate, dropout, search.SEED, search.SEED)
    assert one.chosen("gine", 0) == (0.001, 0.0) and one.chosen("sum", 0) is None
    with pytest.raises(ValueError, match="diverged"):
        one.run("gine", 0.01, 0.0, 0, 0)


@pytest.mark.slow
def test_search_from_the_command_line(monkeypatch, capsys, tmp_path):
    from benchmarks.graphs.__main__ import main

    monkeypatch.setattr(load, "CACHE", tmp_path / "cache")
    start = ["graphs", "polycrystals", "--search", "--results", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*start, "--quick", "--models", "gin-plus", "gatedgcn-plus"])
    main()
    out = capsys.readouterr().out
    assert "| GIN+ (on PyG's GINEConv) |" in out and "2 tries a body" in out
    assert not list(tmp_path.glob("**/*.json"))
    monkeypatch.setattr("sys.argv", [*start, "--first", "1000"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "seed 1000 is that of the search alone" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--repeats", "0"), ("--first", "-1")])
def test_there_are_no_repeats_before_the_first(words, monkeypatch, capsys, tmp_path):
    from benchmarks.graphs.__main__ import main

    monkeypatch.setattr(
        "sys.argv", ["graphs", "polymer-dft-ei", *words, "--results", str(tmp_path)]
    )
    with pytest.raises(SystemExit, match="2"):
        main()
    assert " ".join(words) in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("peer", "way"),
    [([0.80, 0.82, 0.78], "ahead"), ([0.89, 0.95, 0.86], "level"), ([0.99, 0.98, 0.97], "behind")],
)
def test_where_plain_attention_stands(tmp_path, peer, way):
    def runs(model, values):
        tests = [{"10 to 30 grains": {"r2": value}} for value in values]
        return [{"model": model, "repeat": i, "tests": one} for i, one in enumerate(tests)]

    best, other = runs("gps", peer), runs("gine", [0.5, 0.5, 0.5])
    more = runs("gatedgcn-plus", [1.0, 1.0])  # as many repeats are wanted
    found = {"runs": [*runs("sum", [0.9, 0.91, 0.89]), *best, *other, *more]}
    (tmp_path / "graphs-polycrystals.json").write_text(json.dumps(found))
    assert study.best_peer(studies.STUDIES["polycrystals"](), found) == "gps"
    standings = page.standings(tmp_path)
    assert {name: [name == way] for name in standings} == {
        name: [bool(studied)] for name, studied in standings.items()
    }


def test_the_page_shows_what_is_stored():
    text = page.PAGE.read_text()
    assert len(page.PLACE.findall(text)) >= len(list(page.report.RESULTS.glob("graphs-*.json")))
    assert page.filled(text) == text


# ---------------------------------------------------------------- what conducts


def network(pairs, conductance, nodes):
    """Grains of conductivity 1 whose contacts have these conductances: boundaries at distance 1."""
    ends = torch.tensor([*pairs, *[(j, i) for i, j in pairs]]).t()
    boundary = torch.tensor(conductance).repeat(2)
    return Data(
        x=torch.zeros(nodes, 6),
        edge_index=ends,
        edge_attr=torch.stack((boundary, torch.ones_like(boundary)), 1),
    )


def test_series_and_parallel():
    chain = network([(0, 1), (1, 2)], [2.0, 5.0], 3)
    whole, found = Conduction().resistances(chain, Conduction().contacts(chain))
    assert_close(found[0, 2], torch.tensor(1 / 2 + 1 / 5).double())
    assert_close(whole, torch.tensor([2.0, 7.0, 5.0]).double())
    told = Conduction()(chain)
    assert_close(told.edge_attr[:, 3], torch.ones(4))  # there is no way round
    ring = network([(0, 1), (1, 2), (2, 0)], [1.0, 1.0, 1.0], 3)
    told = Conduction()(ring)
    assert_close(told.edge_attr[:, 3], torch.full((6,), 2 / 3))
    assert_close(told.x[:, 7], torch.full((3,), 2 / 3).log())


def test_contacts_are_two_halves_in_series(grains):
    graph = grains[0]
    j, i = graph.edge_index[:, 3].tolist()
    boundary, distance = graph.edge_attr[3].double()
    k = graph.x[:, 5].double().exp()
    expected = boundary / (distance / 2 / k[i] + distance / 2 / k[j])
    assert_close(Conduction().contacts(graph)[3], expected)


def test_conduction_of_polycrystals(grains):
    """Foster's theorem: the contacts' parts of their own currents sum to one less than there are
    grains; and grains in another order are told the same.
    """
    for graph in grains:
        told = Conduction()(graph)
        assert told.x.shape[1] == 8 and told.edge_attr.shape[1] == 4
        assert_close(told.edge_attr[:, 3].sum() / 2, torch.tensor(graph.num_nodes - 1.0))
        order = torch.randperm(graph.num_nodes)
        other = graph.clone()
        other.x, other.edge_index = graph.x[order], torch.argsort(order)[graph.edge_index]
        again = Conduction()(other)
        assert_close(again.x, told.x[order], rtol=1e-4, atol=1e-4)
        assert_close(again.edge_attr, told.edge_attr, rtol=1e-4, atol=1e-4)


def test_grains_that_no_current_joins():
    apart = network([(0, 1), (2, 3)], [1.0, 1.0], 4)
    with pytest.raises(ValueError, match="the grains are 2 pieces, between which no current"):
        Conduction()(apart)
    with pytest.raises(ValueError, match="a single grain has no contacts"):
        Conduction()(Data(x=torch.zeros(1, 6), edge_index=torch.zeros(2, 0, dtype=torch.long)))
