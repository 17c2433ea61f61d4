"""The methods of the field that are one file each: their formulas, and their place in shells."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch_geometric.data import Data

import graphformer as gf
from graphformer.attention.candidates import Clusters
from graphformer.attention.normalizers import SigmoidPerHead
from graphformer.attention.operators import SincOperator
from graphformer.attention.scores import GATv2
from graphformer.attention.updates import GatedHeads
from graphformer.training.graphs.model import GraphModel, load_graph_model

pytestmark = pytest.mark.usefixtures("float64")

HEADS = {
    "sigmoid per head": {"normalize": {"name": "sigmoid_per_head", "bias": -1.0}},
    "gatv2": {"score": {"name": "gatv2"}},
    "pointer": {"score": {"name": "gatv2", "activation": "tanh"}},
    "additive": {"score": "additive"},
    "grid bias": {"score": {"name": "grid_bias", "shape": [1]}},
    "relu by count": {"normalize": {"name": "relu", "by_count": True}},
    "head norm": {"score": "decay", "normalize": "identity", "update": "head_norm"},
    "clusters": {"candidates": {"name": "clusters", "num_clusters": 3}},
    "indexer": {"candidates": {"name": "indexer", "k": 3, "index_heads": 2, "width": 3}},
    "persistent": {
        "candidates": {
            "name": "either",
            "first": {"name": "all"},
            "second": {"name": "persistent", "number": 2},
        }
    },
    "gated heads": {"update": {"name": "gated_heads", "gate": "sigmoid"}},
    "sinc": {"operator": {"name": "sinc"}},
    "sparsemax": {"normalize": "sparsemax", "sparsify": {"name": "threshold", "tau": 0.0}},
    "entmax15": {"normalize": "entmax15"},
    "softmax sink": {"normalize": {"name": "softmax_sink", "sink": 0.5}},
    "fourier": {"normalize": {"name": "fourier", "num_frequencies": 2}},
    "ssmax": {"score": {"name": "ssmax"}},
    "qk norm": {"score": {"name": "qk_norm", "scale": 1.5}},
    "alibi": {"score": {"name": "alibi", "trained": True}},
    "distance bias": {"score": {"name": "distance_bias", "num_buckets": 8, "max_distance": 5}},
    "decay": {"score": "decay", "normalize": "identity"},
    "forgetting": {"score": {"name": "forgetting", "bias": 1.0}},
    "query network": {"score": {"name": "query_network", "width": 5}},
    "learned query": {"score": "learned_query"},
    "random maps": {"score": {"name": "random_maps", "mean": 0.5}},
    "positions": {"score": {"name": "positions", "theta": 100.0}},
    "neighborhood": {"candidates": {"name": "neighborhood", "window": 5, "stride": 2}},
    "first and window": {
        "candidates": {
            "name": "either",
            "first": {"name": "first", "number": 1},
            "second": {"name": "window", "size": 3},
        }
    },
    "multi hop": {"operator": {"name": "multi_hop", "hops": 3}},
    "second order": {"operator": {"name": "multi_hop", "inner": "gin"}},
    "rounds": {
        "operator": {"name": "rounds", "inner": {"name": "gin", "mlp_ratio": 2.0}, "rounds": 3}
    },
    "shared rounds": {"operator": {"name": "rounds", "inner": "pna", "shared": True}},
    "rounds of hops": {"operator": {"name": "rounds", "inner": {"name": "multi_hop", "hops": 3}}},
    "merged heads": {"operator": {"name": "merged_heads", "inner": {"name": "pna"}}},
    "distance scaled": {"normalize": {"name": "distance_scaled", "curve": "exponential"}},
    "regions": {"normalize": {"name": "regions", "window": 3, "regions": 2, "size": 4}},
    "extra edges": {
        "sparsify": {
            "name": "extra_edges",
            "rule": {"name": "window", "size": 2},
            "weight": 0.1,
            "keep": {"name": "threshold", "tau": 0.15},
        }
    },
    "projected self": {"operator": "projected_self"},
    "projected self, gin": {"operator": {"name": "projected_self", "inner": "gin"}},
    "channel gate": {"update": {"name": "channel_gate", "shift": True}},
    "experts": {"update": {"name": "experts", "top": 1}},
    "paired difference": {"update": "paired_difference"},
    "mixture": {"operator": {"name": "mixture", "operators": ["sum", "gin", "sinc"]}},
    "mixture of sums": {"operator": {"name": "mixture", "operators": ["sum", "gin"]}},
    "gine": {"operator": "gine"},
}
REFUSED_ON_EDGES = {
    "persistent": "add persistent senders to a row of tokens",
    "forgetting": "adds up along a row of tokens",
    "query network": "the heads together must be as wide as the layer's input",
    "neighborhood": "counts places from the beginning",
    "first and window": "counts places from the beginning",
}
LOSS_OF_THEIR_OWN = {"indexer": ("query.weight", "key.weight", "gate.weight")}
INDEX = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 2, 2, 5], [1, 2, 3, 4, 5, 6, 0, 5, 5, 5]])


def head(name: str) -> gf.Head:
    return gf.Head.from_spec(HEADS[name])


def stirred(module: torch.nn.Module) -> torch.nn.Module:
    """Parameters that start at 0 or alike say nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def qk() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 3, 7, 5), torch.randn(2, 3, 7, 5)


# ---------------------------------------------------------------------- the formulas


def test_sigmoid_with_a_bias_per_head():
    q, k = qk()
    normalize = SigmoidPerHead(3)
    with torch.no_grad():
        normalize.bias.copy_(torch.tensor([-2.0, 0.5, 1.0]))
    found = gf.attention_graph(q, k, normalize=normalize).to_dense()
    want = (q @ k.mT / 5**0.5 + normalize.bias.view(3, 1, 1)).sigmoid()
    assert_close(found, want)


def test_gatv2():
    q, k = qk()
    score = GATv2(3, 5)
    found = gf.attention_graph(q, k, score=score).to_dense()
    pairs = F.leaky_relu(q.unsqueeze(3) + k.unsqueeze(2), 0.2)
    want = torch.einsum("bhijd,hd->bhij", pairs, score.vector).softmax(-1)
    assert_close(found, want)


def test_clusters_and_how_they_move():
    q, k = qk()
    rule = Clusters(4, 0.9, num_heads=3, dim=5)
    before = rule.centroids.clone()
    units = [t / t.norm(dim=-1, keepdim=True) for t in (q, k)]
    labels = [
        torch.einsum("bhnd,hcd->bhnc", t, before / before.norm(dim=-1, keepdim=True)).argmax(-1)
        for t in units
    ]
    graph = gf.attention_graph(q, k, candidates=rule)
    want = labels[0].unsqueeze(-1) == labels[1].unsqueeze(-2)
    assert torch.equal(graph.unweighted().to_dense().bool(), want)
    assert torch.equal(rule.centroids, before)  # only training moves them
    gf.attention.attend(q, k, q, candidates=rule, training=True)
    for h in range(3):
        for c in range(4):
            members = [t[:, h][label[:, h] == c] for t, label in zip(units, labels, strict=True)]
            joined = torch.cat(members)
            mean = joined.mean(0) if len(joined) else before[h, c]
            moved = 0.9 * before[h, c] + 0.1 * mean if len(joined) else before[h, c]
            assert_close(rule.centroids[h, c], moved)


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_gated_heads(gate: str):
    update = GatedHeads(gate, 12, 3)
    out, hidden = torch.randn(2, 3, 7, 4), torch.randn(2, 7, 12)
    assert_close(update.of_heads(out, hidden), out)  # equal gates change nothing
    stirred(update)
    logits = hidden @ update.linear.weight.T + update.linear.bias
    gates = 3 * logits.softmax(-1) if gate == "softmax" else 2 * logits.sigmoid()
    want = torch.stack([out[:, h] * gates[..., h : h + 1] for h in range(3)], 1)
    assert_close(update.of_heads(out, hidden), want)


def test_sinc():
    operator, weights = stirred(SincOperator(3, 5)), torch.rand(2, 3, 7, 7).tril()
    graph = gf.AttentionGraph.from_dense(weights)
    own, x = torch.randn(2, 3, 7, 5), torch.randn(2, 3, 7, 5)
    found = operator.on_edges(own, x, gf.attention.EdgeMessages(graph, 3))
    query, key, neighbours, outer = operator.maps
    inner = own @ query + weights @ (x @ neighbours) + operator.bias
    messages = F.silu(inner.unsqueeze(3) + (x @ key).unsqueeze(2)) @ outer.unsqueeze(1)
    assert_close(found, (weights.unsqueeze(-1) * messages).sum(3))


# ---------------------------------------------------------------------- in every shell


@pytest.mark.parametrize("name", HEADS)
def test_in_the_layer_of_tokens(name: str):
    layer = stirred(gf.nn.GINAttention(12, 4, 2, head=head(name)))
    x = torch.randn(2, 11, 12)
    want = layer(x)
    for executor in ("dense", "stream"):
        layer.executor = executor
        for backend in ("torch", "pyg", "torch_sparse"):
            if backend in gf.backends.available():
                layer.backend = backend
                assert_close(layer(x), want)
    layer.executor = layer.backend = "auto"
    gf.testing.check_causal(layer, x)
    gf.testing.check_prefix(layer, x)
    gf.testing.check_gradients(layer.train(), x, ignore=LOSS_OF_THEIR_OWN.get(name, ()))


@pytest.mark.parametrize("name", HEADS)
def test_in_the_layer_of_edges(name: str):
    if name in REFUSED_ON_EDGES:
        with pytest.raises(ValueError, match=REFUSED_ON_EDGES[name]):
            gf.nn.GINAttentionConv(5, 12, 4, edge_dim=2, head=head(name))
        return
    conv = stirred(gf.nn.GINAttentionConv(5, 12, 4, edge_dim=2, head=head(name)))
    x, attr = torch.randn(7, 5), torch.randn(10, 2)
    want = conv(x, INDEX, attr)
    for backend in ("pyg", "torch_sparse"):
        if backend in gf.backends.available():
            conv.backend = backend
            assert_close(conv(x, INDEX, attr), want)
    conv.backend = "auto"
    out, graph = conv(x, INDEX, attr, output_graph=True)
    assert_close(out, want)
    assert graph.num_lanes == 4
    want.square().sum().backward()
    without = {name for name, p in conv.named_parameters() if p.grad is None}
    assert without == {f"candidates.{one}" for one in LOSS_OF_THEIR_OWN.get(name, ())}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_in_the_language_model(name: str, tmp_path):
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=12,
        intermediate_size=14,
        num_hidden_layers=2,
        num_attention_heads=2,
        head=head(name),
    )
    model = stirred(gf.GraphformerForCausalLM(config))
    ids = torch.randint(0, 11, (2, 9))
    model.save_pretrained(tmp_path)
    loaded = gf.GraphformerForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert loaded.config.head == config.head == head(name).spec()
    assert_close(loaded(ids).logits, model(ids).logits)
    gf.testing.check_cache(model, ids)
    first, second = (block.self_attn for block in model.model.layers)
    shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    assert not shared


@pytest.mark.parametrize("name", HEADS)
def test_in_the_graph_transformer(name: str, tmp_path):
    if name in REFUSED_ON_EDGES and name != "query network":
        with pytest.raises(ValueError, match=REFUSED_ON_EDGES[name]):
            gf.GraphTransformer(5, 2, 12, num_layers=1, num_heads=2, head=head(name))
        return
    net = stirred(
        gf.GraphTransformer(5, 2, 12, num_layers=2, num_heads=2, target="node", head=head(name))
    )
    data = Data(x=torch.randn(7, 5), edge_index=INDEX, edge_attr=torch.randn(10, 2))
    GraphModel(net).save(tmp_path)
    loaded = load_graph_model(tmp_path).net.double()
    assert_close(loaded(data).prediction, net(data).prediction)


@pytest.mark.parametrize(
    "value",
    [
        SigmoidPerHead(bias=-1.0),
        GATv2(),
        gf.Threshold(0.1) & gf.TopK(3),
        gf.attention.TopFraction(0.4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_law_of_slots(value):
    gf.testing.check_slot(value)


def test_sizes_reach_values_inside_others_and_trained_ones_keep_what_they_learned():
    scores = gf.attention.PerHeadScore((GATv2(), gf.attention.ScaledDotProduct()) * 2)
    rules = gf.attention.PerHead((Clusters(3), gf.attention.All()) * 2)
    layer = gf.nn.GINAttention(12, 4, head=gf.Head(score=scores, candidates=rules))
    assert layer(torch.randn(2, 7, 12)).shape == (2, 7, 12)
    assert any("vector" in name for name, _ in layer.named_parameters())
    trained = GATv2(4, 3)
    with torch.no_grad():
        trained.vector.fill_(0.7)
    held = gf.nn.GINAttention(12, 4, head=gf.Head(score=trained)).score_slot
    assert held is not trained and float(held.vector.min()) == pytest.approx(0.7)


def test_what_a_value_would_not_read_is_refused():
    with pytest.raises(ValueError, match="has a scale of its own: leave it out"):
        gf.nn.GINAttentionConv(5, 12, 4, score="gatv2", sharpening=2.0)
    with pytest.raises(TypeError, match=r"curve must be one of .* got Threshold.*is keep="):
        gf.attention.Reweigh(gf.Threshold(0.1))
    with pytest.raises(ValueError, match="leave its then out"):
        gf.attention.Reweigh("relu", keep=gf.attention.NormalizeWeights(2, then=gf.TopK(1)))


class LooksAtTheLength(gf.attention.Normalizer):
    def weights(self, scores, pairs):
        return scores.sigmoid() / pairs.num_senders


class AnotherOnLists(gf.attention.Sparsifier):
    def keep(self, weights, pairs):
        return weights > (0.1 if isinstance(pairs, gf.attention.Block) else 0.2)


@pytest.mark.parametrize(
    ("value", "text"),
    [(LooksAtTheLength(), "rows alone and in the whole"), (AnotherOnLists(), "the list form")],
)
def test_law_of_slots_rejects(value, text):
    with pytest.raises(gf.testing.LawViolation, match=text):
        gf.testing.check_slot(value)


# ---------------------------------------------------------------------- the layer before


ECHO = gf.Head(score="echo", normalize="identity")


def test_echo_with_shared_values() -> None:
    """Fewer heads send than there are graphs: each value serves its group."""
    layer = gf.nn.SumAttention(
        12, 4, 2, head=gf.Head(score="echo", normalize="identity", features="projection")
    )
    x = torch.randn(3, 7, 12)
    _, graph = gf.nn.SumAttention(12, 4)(x, output_graph=True)
    got = layer(x, previous=graph)
    values = layer.v_proj(x).unflatten(2, (2, 3)).transpose(1, 2).repeat_interleave(2, 1)
    mixed = (graph.to_dense() @ values).transpose(1, 2).flatten(2)
    assert_close(got, mixed if layer.o_proj is None else layer.o_proj(mixed))


def test_a_layer_takes_the_weights_of_the_layer_before():
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=12,
        intermediate_size=14,
        num_hidden_layers=3,
        num_attention_heads=2,
        head=[gf.Head(sparsify=gf.TopK(3)), ECHO, ECHO],
    )
    model, ids = gf.GraphformerForCausalLM(config).eval(), torch.randint(0, 11, (2, 9))
    first, second, third = model(ids, output_graphs=True).graphs
    assert torch.equal(first.edge_index, third.edge_index)
    assert_close(second.weight, first.weight)
    assert_close(third.weight, first.weight)
    assert not any("layers.1.self_attn.q_proj" in name for name, _ in model.named_parameters())
    gf.testing.check_cache(model, ids)


def test_in_graphs_too_and_the_first_layer_has_none_before_it():
    data = Data(x=torch.randn(7, 5), edge_index=INDEX)
    net = gf.GraphTransformer(5, hidden_size=12, num_layers=2, num_heads=2, head=[gf.Head(), ECHO])
    first, second = net.eval()(data, output_graphs=True).graphs
    assert_close(second.weight, first.weight)
    with pytest.raises(ValueError, match="takes the graph of the layer before"):
        gf.nn.SumAttentionConv(5, 12, 2, head=ECHO)(data.x, INDEX)
    with pytest.raises(ValueError, match="reads no graph of the layer before"):
        gf.nn.GINAttention(12, 2)(torch.randn(1, 3, 12), previous=first)
