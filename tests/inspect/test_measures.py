"""Measures, flows and ablations against dense transcriptions."""

import math

import numpy as np
import pytest
import torch

import graphformer as gf
from graphformer.inspect import streamed
from graphformer.inspect.token_scores import token_scores
from tests.adapter_models import feed, make

pytestmark = pytest.mark.usefixtures("float64")
pytest.importorskip("pandas")
pytest.importorskip("igraph")


def ids_of(batch=2, length=11):
    torch.manual_seed(3)
    return torch.randint(4, 61, (batch, length))


def dense_measures(weights, receivers, first):
    """[B, H, Nq, Nk] to the four measures, by loops."""
    batch, heads, rows, columns = weights.shape
    weights = weights * receivers[:, None, :, None]
    count = receivers.sum(-1)
    distance = torch.zeros(batch, heads, max(rows, columns))
    for i in range(rows):
        for j in range(columns):
            distance[..., abs(i + columns - rows - j)] += weights[..., i, j]
    sink = torch.stack([weights[b, :, :, int(first[b])].sum(-1) for b in range(batch)])
    return {
        "sender_mass": weights.sum(-2),
        "entropy": -torch.special.xlogy(weights, weights).sum(-1),
        "distance": distance[..., :columns] / count[:, None, None],
        "sink": sink / count[:, None],
    }


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("normalize", ["softmax", "sigmoid"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("elements", [2**18, 37])
def test_streamed_measures_are_the_dense_ones(causal, normalize, padded, elements, monkeypatch):
    monkeypatch.setattr("graphformer.attention.executors.blocks.BLOCK_ELEMENTS", elements)
    q, k = torch.randn(2, 6, 7, 5), torch.randn(2, 3, 11, 5)
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[1, :2] = not padded
    slots = {"is_causal": causal, "attention_mask": mask, "normalize": normalize}
    weights = gf.attention_graph(q, k, **slots).to_dense()
    want = dense_measures(weights, torch.ones(2, 7), mask.int().argmax(-1))
    got = streamed.measure(q, k, **slots).items()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, msg=name)
    for name, function in (
        ("sender_mass", gf.inspect.sender_mass),
        ("entropy", gf.inspect.entropy),
        ("distance", gf.inspect.distance_profile),
        ("sink", gf.inspect.sink_mass),
    ):
        torch.testing.assert_close(function(q, k, **slots), want[name])


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "t5", "bert"])
def test_streamed_measures_of_models_are_those_of_their_weights(name):
    mask = torch.ones(2, 11, dtype=torch.int64)
    mask[0, :3] = 0
    graphs = gf.inspect.graphs(
        make(name), **feed(name, ids_of(), mask), sparsify=None, streamed=True
    )
    for layer in graphs.layers:
        dense = layer.graph.to_dense()
        senders, receivers = graphs.nodes[layer.senders].keep, graphs.nodes[layer.receivers].keep
        want = dense_measures(dense, receivers.to(dense), senders.int().argmax(-1))
        for key, value in layer.streamed.items().items():
            torch.testing.assert_close(value, want[key].to(value), msg=key)
    assert graphs.layers[-1].streamed.sender_mass is not None


def test_an_unknown_measure_and_explicit_edges_are_refused():
    q = torch.randn(1, 1, 3, 2)
    with pytest.raises(ValueError, match="unknown measure 'variance'"):
        streamed.measure(q, q, ["variance"])
    edges = gf.Edges(torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(TypeError, match="not explicit edges"):
        gf.inspect.sender_mass(q, q, candidates=edges)


def test_token_scores_by_loops():
    ids = torch.tensor([5, 7, 5, 5, 9, 7, 9, 5])
    weights = torch.rand(3, 8, 8).tril()
    got = token_scores(gf.AttentionGraph.from_dense(weights), ids)
    previous, duplicate, induction = [], [], []
    for i in range(8):
        if i:
            previous.append(weights[:, i, i - 1])
        copies = [j for j in range(i) if ids[j] == ids[i]]
        after = [j + 1 for j in copies if j + 1 < i]
        if copies:
            duplicate.append(weights[:, i, copies].sum(-1))
        if after:
            induction.append(weights[:, i, after].sum(-1))
    for name, rows in (
        ("previous_token", previous),
        ("duplicate_token", duplicate),
        ("induction", induction),
    ):
        torch.testing.assert_close(got[name], torch.stack(rows).mean(0), msg=name)


def test_an_induction_head_is_found():
    """A head that looks at what followed the earlier copy scores 1."""
    half = torch.randperm(50)[:20]
    ids = torch.cat((half, half))
    weights = torch.zeros(2, 40, 40)
    for i in range(20, 40):
        weights[0, i, i - 19] = 1
        weights[1, i, i - 20] = 1
    weights[:, torch.arange(20), torch.arange(20)] = 1
    got = token_scores(gf.AttentionGraph.from_dense(weights), ids)
    # the last repeated token's follower is the token itself
    assert float(got["induction"][0]) >= 19 / 20 and float(got["duplicate_token"][1]) == 1
    assert float(got["induction"][1]) == 0 == float(got["duplicate_token"][0])


def test_measures_are_those_of_networkx():
    networkx = pytest.importorskip("networkx")
    graphs = gf.inspect.graphs(
        make("bert"), **feed("bert", ids_of()), sparsify=gf.Threshold(0.12), streamed=True
    )
    table = graphs.measures()
    assert len(table) == 2 * 3 * 4
    for row in table.itertuples():
        graph = graphs.of_sequence(row.sequence)[row.layer, row.head].lane(0)
        edges = [
            (s, r) for s, r in zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True)
        ]
        net = networkx.DiGraph()
        net.add_nodes_from(range(graph.num_nodes))
        net.add_edges_from((s, r) for s, r in edges if s != r)
        assert row.edges == len(edges)
        assert row.reciprocity == pytest.approx(networkx.overall_reciprocity(net))
        assert row.clustering == pytest.approx(networkx.average_clustering(net.to_undirected()))
        assert row.out_degree == max(np.bincount([s for s, _ in edges]))
        matrix = graph.renormalize().to_dense()
        matrix[matrix.sum(1) == 0] = torch.eye(graph.num_nodes)[matrix.sum(1) == 0]
        values = torch.linalg.eigvals(matrix).abs().sort(descending=True).values
        assert row.spectral_gap == pytest.approx(float(1 - values[1]), abs=1e-6)
    causal = gf.inspect.graphs(make("llama"), input_ids=ids_of(), sparsify=gf.Threshold(0.12))
    for row in causal.measures().itertuples():
        graph = causal.of_sequence(row.sequence)[row.layer, row.head].lane(0)
        net = networkx.DiGraph()
        net.add_nodes_from(range(graph.num_nodes))
        pairs = zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True)
        net.add_edges_from((s, r) for s, r in pairs if s != r)
        assert row.depth == networkx.dag_longest_path_length(net)


def test_tables_name_tokens():
    inputs = feed("t5", ids_of())
    graphs = gf.inspect.graphs(make("t5"), **inputs, tokens=[list("abcdefg")] * 2)
    table = graphs.to_pandas()
    assert len(table) == sum(graph.num_edges for graph in graphs)
    row = table[table.kind == "cross"].iloc[0]
    assert row.sender_label == "abcdefg"[row.sender]
    assert graphs.cross[0].to_dense()[row.sequence, row["head"], row.receiver, row.sender] == (
        pytest.approx(row.weight)
    )


def test_rollout_and_flow_by_hand():
    graphs = gf.inspect.graphs(make("bert"), **feed("bert", ids_of()), sparsify=None)
    total = torch.eye(11)
    for graph in graphs:
        mixed = 0.5 * graph.to_dense()[1].mean(0) + 0.5 * torch.eye(11)
        total = mixed / mixed.sum(-1, keepdim=True) @ total
    got = gf.inspect.rollout(graphs, sequence=1)
    torch.testing.assert_close(got.to_dense(), total)
    networkx = pytest.importorskip("networkx")
    net = networkx.DiGraph()
    for number, graph in enumerate(graphs):
        mixed = 0.5 * graph.to_dense()[1].mean(0) + 0.5 * torch.eye(11)
        for i in range(11):
            for j in range(11):
                net.add_edge((number, j), (number + 1, i), capacity=float(mixed[i, j]))
    want = [networkx.maximum_flow_value(net, (0, j), (3, 4)) for j in range(11)]
    np.testing.assert_allclose(gf.inspect.flow(graphs, 4, sequence=1), want, atol=1e-9)
    with pytest.raises(IndexError, match="receiver 11"):
        gf.inspect.flow(graphs, 11)
    both = gf.inspect.graphs(make("t5"), **feed("t5", ids_of()))
    with pytest.raises(ValueError, match=r"graphs\.encoder"):
        gf.inspect.rollout(both)
    assert gf.inspect.rollout(both.encoder, min_weight=0.01).num_edges > 0


def test_value_weighting():
    graphs = gf.inspect.graphs(make("llama"), input_ids=ids_of(), sparsify=None)
    got = graphs.value_weighted()
    norm = graphs.layers[1].value_norm
    torch.testing.assert_close(got[1].to_dense(), graphs[1].to_dense() * norm[:, :, None])


def by_hand(name, inputs, layer, head):
    """The loss without a head: its columns of the output map are 0."""
    model = make(name)
    attention = dict(model.named_modules())[layer]
    width = model.config.hidden_size // model.config.num_attention_heads
    own = slice(head * width, (head + 1) * width)
    with torch.no_grad():
        attention.o_proj.weight[:, own] = 0
        return float(model(**inputs).loss)


def test_ablation_is_what_a_zeroed_output_map_gives():
    ids = ids_of()
    inputs = {"input_ids": ids, "labels": ids}
    model = make("llama")
    table = gf.inspect.ablate(model, **inputs, progress=False)
    assert len(table) == 12
    for row in table.itertuples():
        assert row.loss == pytest.approx(by_hand("llama", inputs, row.name, row.head), abs=1e-9)
    some = gf.inspect.ablate(model, **inputs, heads=[(1, 2)], progress=False, value="mean")
    assert len(some) == 1 and some.loss.item() != pytest.approx(
        table[(table.layer == 1) & (table["head"] == 2)].loss.item()
    )


def test_the_gradient_of_a_gate_is_the_first_order_change():
    ids, step = ids_of(), 2e-2  # norms compute in float32, so no smaller one

    def loss(out):
        return torch.nn.functional.cross_entropy(
            out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        )

    slopes = gf.inspect.ablate(make("llama"), input_ids=ids, method="gradient", loss=loss)
    found = []
    for factor in (1 - step, 1 + step):
        model = make("llama")
        with torch.no_grad():
            model.model.layers[1].self_attn.o_proj.weight[:, 12:18] *= factor
            found.append(float(loss(model(input_ids=ids))))
    own = slopes[(slopes.layer == 1) & (slopes["head"] == 2)].change.item()
    assert own == pytest.approx((found[0] - found[1]) / (2 * step), rel=2e-2)


def test_cut_edges_take_their_messages_out():
    ids = ids_of()
    model = make("llama")
    graphs = gf.inspect.graphs(model, input_ids=ids, sparsify=None)
    heads = graphs[1].sender_lane % 4
    with torch.no_grad():
        with gf.inspect.cut(model, heads=[(1, 2)]):
            want = model(input_ids=ids).logits
        with gf.inspect.cut(model, edges={1: graphs[1].select(heads == 2)}):
            got = model(input_ids=ids).logits
        with gf.inspect.cut(model, edges={1: graphs[1].select(graphs[1].weight < 0)}):
            same = model(input_ids=ids).logits
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(same, model(input_ids=ids).logits)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("operator", ["sum", "gin"])
def test_ablation_of_models_of_this_library(operator):
    torch.manual_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        operator=operator,
    )
    model, ids = gf.GraphformerForCausalLM(config).eval(), ids_of()
    table = gf.inspect.ablate(model, input_ids=ids, labels=ids, progress=False)
    assert len(table) == 8 and float(table.change.abs().max()) > 0
    slopes = gf.inspect.ablate(model, input_ids=ids, labels=ids, method="gradient")
    assert np.isfinite(slopes.change).all()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("own", [False, True])
def test_a_head_stays_cut_in_every_pass(own):
    model, ids = make("llama"), ids_of()
    if own:
        sizes = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40}
        config = gf.GraphformerConfig(**sizes, num_hidden_layers=3, num_attention_heads=4)
        model = gf.GraphformerForCausalLM(config).eval()
    with torch.no_grad(), gf.inspect.cut(model, heads=[(1, 2)]):
        first, second = (model(input_ids=ids).logits for _ in range(2))
    assert torch.equal(first, second)
    assert float((first - model(input_ids=ids).logits).detach().abs().max()) > 0


def test_a_layer_that_is_called_twice_is_one_to_be_cut():
    import transformers

    sizes = {"vocab_size": 61, "hidden_size": 24, "embedding_size": 12, "intermediate_size": 40}
    config = transformers.AlbertConfig(**sizes, num_hidden_layers=3, num_attention_heads=4)
    torch.manual_seed(0)
    model, ids = transformers.AlbertForMaskedLM(config).eval(), ids_of()
    assert len(gf.inspect.graphs(model, input_ids=ids)) == 3

    def loss(out):
        return out.logits.square().mean()

    slopes = gf.inspect.ablate(model, input_ids=ids, loss=loss, method="gradient")
    assert len(slopes) == 4
    (maps,) = [p for name, p in model.named_parameters() if name.endswith("attention.dense.weight")]
    step, found = 1e-4, []
    for factor in (1 - step, 1 + step):
        with torch.no_grad():
            kept = maps[:, 6:12].clone()
            maps[:, 6:12] *= factor
            found.append(float(loss(model(input_ids=ids))))
            maps[:, 6:12] = kept
    want = (found[0] - found[1]) / (2 * step)
    assert float(slopes.change[1]) == pytest.approx(want, rel=1e-4)


def test_wrong_ablations_are_said():
    model, ids = make("llama"), ids_of()
    for options, text in (
        ({"heads": [(9, 0)]}, "not all there"),
        ({"method": "random"}, "unknown method 'random'"),
        ({"value": "median"}, "unknown value 'median'"),
        ({"method": "gradient", "value": "mean"}, "method='cut'"),
    ):
        with pytest.raises(ValueError, match=text):
            gf.inspect.ablate(model, input_ids=ids, labels=ids, progress=False, **options)
    with pytest.raises(ValueError, match="labels="):
        gf.inspect.ablate(model, input_ids=ids)
    with pytest.raises(ValueError, match="nothing is cut"), gf.inspect.cut(model):
        pass
    with pytest.raises(ValueError, match="were not called"), gf.inspect.cut(model, heads=[(9, 0)]):
        model(input_ids=ids)


def test_collect_and_compare():
    batches = [{"input_ids": ids_of(2, 7), "labels": ids_of(2, 7)}, {"input_ids": ids_of(1, 11)}]
    table = gf.inspect.collect(make("llama"), batches, progress=False)
    assert len(table) == 12 and int(table["entropy"]["count"].iloc[0]) == 3
    alone = gf.inspect.graphs(make("llama"), input_ids=ids_of(1, 11), streamed=True).measures()
    first = gf.inspect.graphs(make("llama"), input_ids=ids_of(2, 7), streamed=True).measures()
    own = [*first[(first.layer == 1) & (first["head"] == 2)].entropy]
    own += [*alone[(alone.layer == 1) & (alone["head"] == 2)].entropy]
    assert table["entropy"]["mean"].loc[(1, "model.layers.1.self_attn", "self", 2)] == (
        pytest.approx(np.mean(own))
    )
    with pytest.raises(ValueError, match="no batches"):
        gf.inspect.collect(make("llama"), [], progress=False)
    graphs = gf.inspect.graphs(make("llama"), input_ids=ids_of())
    other = make("llama")
    with torch.no_grad():
        other.model.layers[1].self_attn.q_proj.weight[:6] += 1
    found = gf.inspect.compare(graphs, gf.inspect.graphs(other, input_ids=ids_of()))
    same = found[found.layer == 0]
    assert (same.overlap == 1).all() and np.allclose(same.cosine, 1)
    assert (same.total_variation == 0).all()
    changed = found[(found.layer == 1) & (found["head"] == 0)]
    assert float(changed.total_variation.iloc[0]) > 0.01
    with pytest.raises(ValueError, match="differs in heads"):
        gf.inspect.compare(graphs, gf.inspect.graphs(other, input_ids=ids_of(1, 5)))


def test_parameters():
    config = gf.GraphformerConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        operator="gin",
    )
    table = gf.inspect.parameters(gf.GraphformerForCausalLM(config))
    assert set(table.parameter) == {"alpha", "eps"} and len(table) == 4
    assert math.isclose(table[table.parameter == "alpha"].value.iloc[0], 1.0)
    with pytest.raises(ValueError, match="none of"):
        gf.inspect.parameters(torch.nn.Linear(2, 2))
