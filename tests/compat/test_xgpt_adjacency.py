"""The graph of xgpt's adapter: against recorded outputs of its code, against loops over pairs, its
gradients, and what it refuses.
"""

import json
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import graphformer as gf
from graphformer import AttentionGraph
from graphformer.compat.xgpt.adjacency import LearnedMerge, construct_adjacency, distance_weights
from graphformer.compat.xgpt.settings import Settings

BATCH, HEADS, LENGTH = 2, 3, 11
ADAPTER = {
    "gnn_mode": "single",
    "gnn_type": "causal_gin",
    "continuous_transform_alpha": 10.0,
    "threshold": 0.1,
    "epsilon_threshold": 0.6,
}
README = Settings(**ADAPTER)
RAW = Settings(
    **ADAPTER | {"continuous_transform_alpha": 0.0, "zero_below_epsilon_threshold": False}
)


def attention(dtype: torch.dtype = torch.float64, spread: float = 2.0) -> Tensor:
    scores = spread * torch.randn(BATCH, HEADS, LENGTH, LENGTH, dtype=dtype)
    return scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -math.inf).softmax(-1)


def padded(last: int = 3) -> Tensor:
    """Keys that may be attended to: causal, and the first sequence ends ``last`` tokens early."""
    keep = torch.ones(BATCH, 1, LENGTH, LENGTH).tril().bool()
    keep[0, :, :, LENGTH - last :] = False
    return keep


# ---------------------------------------------------------------- recorded outputs


def test_recorded_outputs(float64, golden_dir, recorded):
    case = json.loads((golden_dir / "manifest.json").read_text())["cases"]["h_construct_adjacency"][
        "settings"
    ]
    data = recorded("h_construct_adjacency")
    keep, given = data["in.mask_keep"].bool(), data["in.attn"]
    prefix = "w.adj_transform."
    weights = {
        name.removeprefix(prefix): value for name, value in data.items() if name.startswith(prefix)
    }
    outputs = {
        name.removeprefix("out."): value for name, value in data.items() if name.startswith("out.")
    }
    assert len(outputs) == 17 and outputs.keys() == case.keys()
    for name, expected in outputs.items():
        settings = Settings(**ADAPTER | case[name])
        transform = None
        if settings.adj_construction_method == "learnable_aggregate":
            transform = LearnedMerge(
                4, settings.adj_transform_hidden_dim, settings.learnable_aggregate_activation
            ).eval()
            transform.load_state_dict(weights)
        graph = construct_adjacency(given, settings, keep, transform)
        assert_close(
            graph.to_dense(),
            expected,
            atol=1e-6,
            rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )
        assert graph.num_edges == int((expected != 0).sum()), name
        assert graph.batch_shape == ((2, 4) if settings.gnn_mode == "per_head" else (2,)), name


# ---------------------------------------------------------------- what the graph is


def test_readme_settings_are_merged_heads():
    weights, keep = attention(), padded()
    graph = construct_adjacency(weights, README, keep)
    heads = AttentionGraph.from_dense(weights, keep=keep.expand(weights.shape))
    merged = heads.merge_heads("sum", clamp=1.0)
    w = (10 * (merged.weight - 0.1)).sigmoid()
    expected = merged.with_weight(w).select(w > 0.6)
    assert 0 < expected.num_edges < merged.num_edges
    assert torch.equal(graph.edge_index, expected.edge_index)
    assert_close(graph.weight, expected.weight)
    # The cut in terms of the merged weights, as the page gives it.
    assert torch.equal(
        graph.edge_index, merged.select(merged.weight > 0.1 + math.log(1.5) / 10).edge_index
    )


def test_the_streamed_graph_has_the_same_edges():
    q, k = 2 * torch.randn(BATCH, HEADS, LENGTH, 5), torch.randn(BATCH, HEADS, LENGTH, 5)
    weights = gf.attention_graph(q, k, is_causal=True).to_dense()
    streamed, _ = gf.attention.merged_graph(
        q, k, sparsify=gf.Threshold(0.1 + math.log(1.5) / 10), is_causal=True
    )
    assert torch.equal(construct_adjacency(weights, README).edge_index, streamed.edge_index)


def test_edges_run_from_key_to_query():
    weights = torch.zeros(1, 1, 5, 5)
    weights[0, 0, 3, 1] = 0.9  # query 3 attends to key 1
    graph = construct_adjacency(weights, RAW)
    assert (graph.senders.tolist(), graph.receivers.tolist()) == ([1], [3])


def oracle(weights: Tensor, settings: Settings, keep: Tensor) -> Tensor:
    """Pair by pair, in python numbers."""
    lanes = HEADS if settings.gnn_mode == "per_head" else 1
    out = torch.zeros(BATCH, lanes, LENGTH, LENGTH, dtype=torch.float64)
    strength = settings.distance_weight_strength
    scale = {
        "power": lambda n: (n * strength + 1) ** strength,
        "exp": lambda n: math.exp(n * strength),
        "sigmoid": lambda n: 1 / (1 + math.exp(-n * strength)),
        "linear": lambda n: n * strength,
    }[settings.distance_scaling_method]
    largest = max(scale(n) for n in range(LENGTH))
    for b in range(BATCH):
        for lane in range(lanes):
            for i in range(LENGTH):
                for j in range(LENGTH):
                    heads = [
                        float(weights[b, h, i, j]) for h in ([lane] if lanes > 1 else range(HEADS))
                    ]
                    if settings.adj_construction_method == "threshold_any":
                        a = max(
                            1
                            / (1 + math.exp(-(w - settings.threshold) / settings.threshold_any_tau))
                            for w in heads
                        )
                    elif settings.adj_construction_method == "mean" or lanes > 1:
                        a = sum(heads) / len(heads)
                    else:
                        a = min(sum(heads), 1.0)
                    if settings.use_distance_scaling:
                        a *= scale(abs(i - j)) / largest
                    a = a if keep[b, 0, i, j] else 0.0
                    if settings.continuous_transform_alpha > 0:
                        a = 1 / (
                            1
                            + math.exp(
                                -settings.continuous_transform_alpha * (a - settings.threshold)
                            )
                        )
                    if settings.zero_below_epsilon_threshold and not a > settings.epsilon_threshold:
                        a = 0.0
                    if settings.remove_self_connections and i == j:
                        a = 0.0
                    if settings.enforce_causality and j > i:
                        a = 0.0
                    out[b, lane, i, j] = a
    return out if lanes > 1 else out.squeeze(1)


@pytest.mark.parametrize("mode", ["single", "per_head"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"adj_construction_method": "mean", "remove_self_connections": True},
        {
            "adj_construction_method": "threshold_any",
            "threshold_any_tau": 0.3,
            "epsilon_threshold": 0.98,
        },
        {"enforce_causality": False, "zero_below_epsilon_threshold": False},
        {"continuous_transform_alpha": 0.0, "epsilon_threshold": 0.2},
        {
            "use_distance_scaling": True,
            "distance_scaling_method": "linear",
            "distance_weight_strength": 0.7,
        },
        {
            "use_distance_scaling": True,
            "distance_scaling_method": "power",
            "distance_weight_strength": 1.5,
        },
        {
            "use_distance_scaling": True,
            "distance_scaling_method": "exp",
            "distance_weight_strength": 0.3,
        },
        {
            "use_distance_scaling": True,
            "distance_scaling_method": "exp",
            "distance_weight_strength": -0.3,
        },
        {
            "use_distance_scaling": True,
            "distance_scaling_method": "sigmoid",
            "distance_weight_strength": 0.3,
        },
    ],
)
def test_against_a_loop_over_pairs(mode: str, change: dict[str, object]):
    settings = Settings(**ADAPTER | {"gnn_mode": mode} | change)
    weights, keep = attention(), padded()
    graph = construct_adjacency(weights, settings, keep)
    expected = oracle(weights, settings, keep)
    assert graph.num_edges == int((expected != 0).sum())
    # Distance weights are float32, as xgpt's are.
    assert_close(
        graph.to_dense(), expected, atol=1e-6 if settings.use_distance_scaling else 1e-12, rtol=0
    )


def test_learned_merge_against_a_loop():
    transform = LearnedMerge(HEADS, 7).eval()
    weights = attention(torch.float32)
    first, second = transform.mlp[0], transform.mlp[3]
    logits = torch.stack(
        [
            second(first(weights[b, :, i, j]).relu())
            for b in range(BATCH)
            for i in range(LENGTH)
            for j in range(LENGTH)
        ]
    ).view(BATCH, LENGTH, LENGTH)
    assert_close(transform(weights), logits.softmax(-1))
    transform.activation = "sigmoid"
    assert_close(transform(weights), logits.sigmoid())
    assert set(transform.state_dict()) == {
        "mlp.0.weight",
        "mlp.0.bias",
        "mlp.3.weight",
        "mlp.3.bias",
    }


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("mode", ["single", "per_head"])
@pytest.mark.parametrize("method", ["sum", "mean", "threshold_any"])
def test_gradients(mode: str, method: str):
    settings = Settings(
        **ADAPTER
        | {
            "gnn_mode": mode,
            "adj_construction_method": method,
            "use_distance_scaling": True,
            "epsilon_threshold": 0.3,
        }
    )
    weights, keep = attention().requires_grad_(), padded()
    size = construct_adjacency(weights, settings, keep).num_edges
    factor = torch.randn(size, dtype=weights.dtype)

    def total(value: Tensor) -> Tensor:
        return construct_adjacency(value, settings, keep).weight @ factor

    (grad,) = torch.autograd.grad(total(weights), weights)
    direction, step = torch.randn_like(weights), 1e-6
    # every head gives the first token 1: the largest of equal ones has no slope
    direction[:, :, 0] = 0
    with torch.no_grad():
        slope = (total(weights + step * direction) - total(weights - step * direction)) / (2 * step)
    assert float(slope.abs()) > 1e-3
    assert_close((grad * direction).sum(), slope, rtol=1e-4, atol=1e-6)
    assert not grad.masked_select(~keep.expand_as(grad)).any()


def test_the_learned_merge_is_trained():
    settings = Settings(
        **ADAPTER
        | {"adj_construction_method": "learnable_aggregate", "zero_below_epsilon_threshold": False}
    )
    transform = LearnedMerge(HEADS, 7)
    weights = attention(torch.float32).requires_grad_()
    graph = construct_adjacency(weights, settings, padded(), transform)
    (graph.weight * torch.randn_like(graph.weight)).sum().backward()
    assert weights.grad is not None and weights.grad.abs().sum() > 0
    for name, value in transform.named_parameters():
        # a softmax has no use for a shift
        assert value.grad is not None and (value.grad.abs().sum() > 0 or name == "mlp.3.bias"), name


# ---------------------------------------------------------------- edges of the definition


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_precision_is_kept(dtype: torch.dtype):
    settings = Settings(**ADAPTER | {"use_distance_scaling": True})
    assert construct_adjacency(attention().to(dtype), settings, padded()).weight.dtype == dtype


@pytest.mark.parametrize("method", ["power", "exp", "sigmoid", "linear"])
def test_short_and_empty_sequences(method: str):
    settings = Settings(
        **ADAPTER | {"use_distance_scaling": True, "distance_scaling_method": method}
    )
    for length, expected in ((0, 0), (1, 0 if method == "linear" else BATCH)):
        graph = construct_adjacency(torch.ones(BATCH, HEADS, length, length), settings)
        assert (graph.num_edges, graph.num_nodes) == (expected, length)


def test_exponential_distances_do_not_overflow():
    settings = Settings(distance_scaling_method="exp")  # e^200 is no float32
    weights = distance_weights(201, settings)
    assert weights.isfinite().all()
    assert_close(weights[0, -3:], torch.tensor([math.exp(-2), math.exp(-1), 1.0]))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "call", "told"),
    [
        ({"gnn_mode": "none"}, {}, "gnn_mode is 'none'.*set gnn_mode='single' or 'per_head'"),
        (
            {},
            {"attention": torch.ones(2, 11, 11)},
            r"must be \[batch, heads, length, length\], got shape \(2, 11, 11\)",
        ),
        ({}, {"attention": torch.ones(2, 3, 1, 11)}, r"got shape \(2, 3, 1, 11\)"),
        ({}, {"attention": torch.full((2, 3, 11, 11), math.nan)}, "attention holds NaN"),
        (
            {},
            {"keep": torch.ones(2, 11, 11).bool()},
            r"keep must be bool of shape \(2, 1, 11, 11\), got torch.bool of shape \(2, 11, 11\)",
        ),
        ({}, {"keep": torch.ones(2, 1, 11, 11)}, "keep must be bool.*got torch.float32"),
        ({}, {"transform": LearnedMerge(3, 7)}, "'sum' has no use for a transform"),
        (
            {"adj_construction_method": "learnable_aggregate"},
            {},
            r"needs a transform: LearnedMerge\(num_heads",
        ),
        (
            {"adj_construction_method": "learnable_aggregate"},
            {"transform": LearnedMerge(5, 7)},
            "must be .batch, 5 heads",
        ),
        (
            {"use_distance_scaling": True, "distance_weight_strength": 200.0},
            {},
            "'power' with distance_weight_strength=200.0 is not finite",
        ),
        (
            {"use_distance_scaling": True, "distance_weight_strength": -1.0},
            {},
            "is not finite at length 11",
        ),
    ],
)
def test_what_is_refused(change: dict[str, object], call: dict[str, Tensor], told: str):
    settings = Settings(**ADAPTER | change)
    with pytest.raises(ValueError, match=told):
        construct_adjacency(**{"attention": attention(torch.float32), "settings": settings} | call)


def test_other_refusals():
    with pytest.raises(TypeError, match=r"attention must be floating point, got torch\.int64"):
        construct_adjacency(torch.ones(2, 3, 11, 11, dtype=torch.int64), README)
    with pytest.raises(
        ValueError, match="'learnable_aggregate' merges the heads, but gnn_mode='per_head'"
    ):
        Settings(
            **ADAPTER | {"gnn_mode": "per_head", "adj_construction_method": "learnable_aggregate"}
        )
    with pytest.raises(ValueError, match="unknown activation 'relu'; known: softmax, sigmoid"):
        LearnedMerge(3, 7, "relu")
    with pytest.raises(ValueError, match="hidden_dim must be at least 1, got 0"):
        LearnedMerge(3, 0)
