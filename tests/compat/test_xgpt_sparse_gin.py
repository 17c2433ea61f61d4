"""What the paper's own decoder layers with adapters computed on fixed inputs, and what they compute
with edges the right way round.
"""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import Reweigh, Threshold, merged_graph
from graphformer.compat.xgpt import construct_adjacency, read_settings
from graphformer.compat.xgpt.adapter import (
    adapter_state,
    initial_scale,
    place,
    sparse_gin,
    streamed,
)
from graphformer.compat.xgpt.settings import Settings
from graphformer.nn import rotate, self_loops

pytestmark = pytest.mark.usefixtures("float64")

README = {
    "num_layers": 1,
    "hidden_dim": 155,
    "activation": "prelu",
    "dropout": 0.1,
    "lambda_GNN_initial": 0.0,
    "lambda_GNN": 0.5,
    "use_layer_norm": True,
    "rms_norm_eps": 1e-5,
    "gnn_mode": "single",
    "gnn_type": "causal_gin",
    "gnn_logic": "before_MLP",
    "gnn_residual": False,
    "GIN_use_MLP": True,
    "GIN_use_norm": False,
    "GIN_hidden_dim_multiplier": 1,
    "GIN_edge_weight_scaling": True,
    "adj_construction_method": "sum",
    "continuous_transform_alpha": 10.0,
    "threshold": 0.1,
    "zero_below_epsilon_threshold": True,
    "epsilon_threshold": 0.6,
    "remove_self_connections": False,
}
CASES = (
    "i_sparse_gin_layer",
    "i2_sparse_gin_layer_readme155",
    "i3_sparse_gin_layer_samewidth",
    "i4_sparse_gin_2layers_noMLP",
    "i5_after_MLP",
    "i6_parallel",
    "i7_per_head",
    "i8_orig_hidden",
)
HEADS = 4
BACKENDS = ("torch", "pyg", "dgl", "torch_sparse")
Case = tuple[Settings, dict[str, Tensor], dict[str, Tensor]]
each_case = pytest.mark.parametrize(
    "golden", CASES, indirect=True, ids=[case.split("_")[0] for case in CASES]
)


@pytest.fixture
def golden(
    float64: None, golden_dir: Path, recorded: Callable, request: pytest.FixtureRequest
) -> Case:
    """A case's settings, its tensors, and the parameters among them."""
    case = json.loads((golden_dir / "manifest.json").read_text())["cases"][request.param][
        "settings"
    ]
    other = ("base", "layer_idx", "transformer_layers", "trainable_scale_after_init")
    settings = read_settings(
        {**README, **{name: value for name, value in case.items() if name not in other}}
    )
    assert (
        initial_scale(settings, case["layer_idx"], case["transformer_layers"])
        == case["trainable_scale_after_init"]
    )
    stored = recorded(request.param)
    return (
        settings,
        stored,
        {name.removeprefix("w."): value for name, value in stored.items() if name.startswith("w.")},
    )


def queries_and_keys(
    stored: dict[str, Tensor], weights: dict[str, Tensor], normed: Tensor
) -> list[Tensor]:
    """q, k, v of Llama's attention, ``[B, H, L, d]``."""
    parts = [
        F.linear(normed, weights[f"self_attn.{name}_proj.weight"])
        .unflatten(-1, (HEADS, -1))
        .transpose(1, 2)
        for name in "qkv"
    ]
    return [*(rotate(part, stored["in.cos"], stored["in.sin"]) for part in parts[:2]), parts[2]]


def layer(
    settings: Settings,
    stored: dict[str, Tensor],
    weights: dict[str, Tensor],
    gin: torch.nn.Module,
    scale: Tensor,
    *,
    published: bool,
    stream: bool = False,
) -> tuple[Tensor, gf.AttentionGraph, Tensor]:
    """The whole decoder layer, in plain torch but for the adapter: its output, the graph, and what
    the adapter returned.
    """
    x, keep = stored["in.x"], stored["in.mask_keep"].bool()
    norm1 = partial(
        F.rms_norm, normalized_shape=(32,), weight=weights["input_layernorm.weight"], eps=1e-6
    )
    norm2 = partial(
        F.rms_norm,
        normalized_shape=(32,),
        weight=weights["post_attention_layernorm.weight"],
        eps=1e-6,
    )
    normed = norm1(x)
    q, k, v = queries_and_keys(stored, weights, normed)
    if stream:
        graph, heads = merged_graph(
            q, k, v, attention_mask=keep, is_causal=True, **streamed(settings)
        )
    else:
        attention = (
            (q @ k.mT / q.shape[-1] ** 0.5)
            .masked_fill(~keep, torch.finfo(torch.float32).min)
            .softmax(-1)
        )
        graph, heads = construct_adjacency(attention, settings, keep), attention @ v
    used = self_loops(graph) if published else graph
    attended = F.linear(heads.transpose(1, 2).flatten(2), weights["self_attn.o_proj.weight"])
    seen = []

    def feed_forward(h: Tensor) -> Tensor:
        gate, up = (F.linear(h, weights[f"mlp.{name}_proj.weight"]) for name in ("gate", "up"))
        return F.linear(F.silu(gate) * up, weights["mlp.down_proj.weight"])

    def adapter(h: Tensor) -> Tensor:
        assert_close(h, stored["out.gnn_in"], atol=1e-5, rtol=1e-5)
        seen.append(h + scale * gin(h, used))
        return seen[0]

    original = normed if settings.use_original_hidden_states else None
    return (
        place(settings.gnn_logic, x, attended, norm2, feed_forward, adapter, original=original),
        graph,
        seen[0],
    )


@each_case
@pytest.mark.parametrize("backend", BACKENDS)
def test_layers(golden: Case, backend: str) -> None:
    if backend in ("dgl", "torch_sparse"):
        pytest.importorskip(backend)
    settings, stored, weights = golden
    gin, scale = sparse_gin(settings, weights, hidden_size=32, num_heads=HEADS, backend=backend)
    for published, suffix in ((True, ""), (False, "_if_edges_transposed")):
        out, graph, after = layer(settings, stored, weights, gin.eval(), scale, published=published)
        assert_close(graph.to_dense(), stored["out.adj"], atol=1e-6, rtol=1e-5)
        assert_close(after, stored[f"out.gnn_out{suffix}"], atol=1e-5, rtol=1e-5)
        assert_close(out, stored[f"out.y{suffix}"], atol=1e-5, rtol=1e-5)
    assert (stored["out.y"] - stored["out.y_if_edges_transposed"]).abs().max() > 1e-3, (
        "the direction makes a difference"
    )


@each_case
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients(golden: Case, backend: str) -> None:
    """Those that were recorded, of the published direction."""
    if backend in ("dgl", "torch_sparse"):
        pytest.importorskip(backend)
    settings, stored, weights = golden
    gin, scale = sparse_gin(settings, weights, hidden_size=32, num_heads=HEADS, backend=backend)
    leaves = {
        name: value.requires_grad_()
        for name, value in weights.items()
        if name.startswith(("self_attn.", "input_", "post_"))
    }
    leaves |= {f"gin.{name}": value for name, value in gin.named_parameters()}
    leaves |= {"x": stored["in.x"].requires_grad_(), "trainable_scale": scale.requires_grad_()}
    out, _, _ = layer(settings, stored, weights | leaves, gin.eval(), scale, published=True)
    (out * stored["in.r"]).sum().backward()
    recorded = {
        name.removeprefix("grad.w."): value
        for name, value in stored.items()
        if name.startswith("grad.w.")
    }
    wanted = {name: value for name, value in recorded.items() if name in leaves} | {
        "x": stored["grad.in.x"]
    }
    wanted |= {f"gin.{name}": value for name, value in adapter_state(recorded).items()}
    assert len(wanted) >= 8 and wanted.keys() <= leaves.keys()
    for name, value in wanted.items():
        assert_close(
            leaves[name].grad,
            value,
            atol=1e-5,
            rtol=1e-5,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@each_case
@pytest.mark.usefixtures("small_blocks")
def test_streaming_gives_the_same_layers(golden: Case) -> None:
    """Every recorded case has the graph of the published README, which needs no map of all
    pairs.
    """
    settings, stored, weights = golden
    gin, scale = sparse_gin(settings, weights, hidden_size=32, num_heads=HEADS)
    for published, suffix in ((True, ""), (False, "_if_edges_transposed")):
        out, graph, after = layer(
            settings, stored, weights, gin.eval(), scale, published=published, stream=True
        )
        assert_close(graph.to_dense(), stored["out.adj"], atol=1e-6, rtol=1e-5)
        assert_close(after, stored[f"out.gnn_out{suffix}"], atol=1e-5, rtol=1e-5)
        assert_close(out, stored[f"out.y{suffix}"], atol=1e-5, rtol=1e-5)


# -------------------------------------------- the messages that the published adapter does not pass


@pytest.mark.parametrize("golden", CASES[:1], indirect=True)
def test_the_published_direction_passes_no_message(golden: Case) -> None:
    settings, stored, weights = golden
    gin, _ = sparse_gin(settings, weights, hidden_size=32, num_heads=HEADS)
    graph = gf.AttentionGraph.from_dense(stored["out.adj"])
    alone = self_loops(graph)
    assert (graph.num_edges, alone.num_edges) == (150, 21), (
        "three tokens are padding, also to themselves"
    )
    h = stored["out.gnn_in"].clone()
    before = {name: gin.eval()(h, used) for name, used in (("published", alone), ("paper", graph))}
    h[:, 3] += 1
    moved = {
        name: (gin(h, used) - before[name]).abs().amax(-1) > 0
        for name, used in (("published", alone), ("paper", graph))
    }
    assert moved["published"].sum() == 2 and moved["published"][:, 3].all()
    assert moved["paper"].sum() > 2 and not moved["paper"][:, :3].any(), (
        "later tokens hear of it, earlier ones do not"
    )


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("golden", [CASES[3], CASES[6]], indirect=True)
def test_either_name_of_the_shared_slope(golden: Case) -> None:
    settings, _, weights = golden
    whole, _ = sparse_gin(settings, weights, hidden_size=32, num_heads=HEADS)
    for left_out in ("activation_fn.weight", ".activation.weight"):
        fewer = {name: value for name, value in weights.items() if not name.endswith(left_out)}
        assert len(fewer) < len(weights)
        again, scale = sparse_gin(settings, fewer, hidden_size=32, num_heads=HEADS)
        assert all(
            torch.equal(value, again.state_dict()[name])
            for name, value in whole.state_dict().items()
        )
        assert torch.equal(scale, weights["trainable_scale"])
    bare = {
        name: value
        for name, value in weights.items()
        if name.startswith(("gnn", "ff_layer", "trainable_scale"))
    }
    assert (
        sparse_gin(settings, bare, hidden_size=32, num_heads=HEADS)[0].state_dict().keys()
        == whole.state_dict().keys()
    )


@pytest.mark.parametrize("golden", CASES[:1], indirect=True)
def test_reading_refuses(golden: Case) -> None:
    settings, _, weights = golden
    read = partial(sparse_gin, hidden_size=32, num_heads=HEADS)
    changes: list[tuple[dict, str]] = [
        ({"gnn_mode": "none"}, "gnn_mode is 'none': these settings have no adapter"),
        ({"gnn_type": "causal_recombination"}, "gnn_type='causal_recombination' cannot be read"),
        ({"add_rope": True}, "add_rope=True cannot be read"),
        (
            {"norm_to_hidden_states": True},
            "norm_to_hidden_states=True cannot be read: it shows a token the future",
        ),
    ]
    for change, text in changes:
        with pytest.raises(ValueError, match=text):
            read(dataclasses.replace(settings, **change), weights)
    with pytest.raises(
        ValueError,
        match=r"parameter 'gnn\.convs\.0\.att' cannot be read: no network of type causal_gin has "
        r"it",
    ):
        read(settings, weights | {"gnn.convs.0.att": torch.zeros(3)})
    with pytest.raises(
        ValueError,
        match=r"parameter 'lora\.A' cannot be read: no decoder layer of the reference has it",
    ):
        read(settings, weights | {"lora.A": torch.zeros(3)})
    with pytest.raises(ValueError, match="there is no parameter 'trainable_scale'"):
        read(
            settings, {name: value for name, value in weights.items() if name != "trainable_scale"}
        )
    with pytest.raises(RuntimeError, match="slope"):
        read(settings, {name: value for name, value in weights.items() if "activation" not in name})


def test_initial_scale() -> None:
    ramp = Settings(lambda_GNN_initial=0.0, lambda_GNN=0.5)
    assert [initial_scale(ramp, layer, 3) for layer in range(3)] == [0.0, 0.25, 0.5]
    assert initial_scale(ramp, 0, 1) == 0.0
    assert [initial_scale(Settings(lambda_GNN=0.5), layer, 3) for layer in range(3)] == [0.5] * 3


def test_place_refuses() -> None:
    with pytest.raises(
        ValueError, match="unknown logic 'inside'; known: before_MLP, after_MLP, parallel_GNN_MLP"
    ):
        place("inside", *torch.zeros(2, 1), abs, abs, abs)


def test_what_can_be_streamed() -> None:
    settings = read_settings(README)
    one = streamed(settings)
    assert isinstance(one["sparsify"], Reweigh) and (one["reduce"], one["clamp"]) == ("sum", 1.0)
    assert one["sparsify"].bound == pytest.approx(0.14054651)
    change = partial(dataclasses.replace, settings)
    assert streamed(change(gnn_mode="per_head"))["reduce"] is None
    assert (
        streamed(change(adj_construction_method="mean"))["reduce"],
        streamed(change(adj_construction_method="mean"))["clamp"],
    ) == (
        "mean",
        None,
    )
    assert streamed(change(continuous_transform_alpha=0.0))["sparsify"] == Threshold(
        0.6, signed=True
    )
    whole: list[tuple[dict, str]] = [
        (
            {"use_distance_scaling": True},
            "use_distance_scaling=True has no streamed graph: use construct_adjacency",
        ),
        (
            {"zero_below_epsilon_threshold": False},
            "zero_below_epsilon_threshold=False has no streamed graph",
        ),
        ({"remove_self_connections": True}, "remove_self_connections=True has no streamed graph"),
        (
            {"adj_construction_method": "threshold_any"},
            "adj_construction_method='threshold_any' has no streamed graph",
        ),
        ({"gnn_mode": "none"}, "gnn_mode is 'none'"),
    ]
    for given, text in whole:
        with pytest.raises(ValueError, match=text):
            streamed(change(**given))


@pytest.mark.parametrize("mode", ["single", "per_head"])
@pytest.mark.parametrize("method", ["sum", "mean"])
@pytest.mark.parametrize("alpha", [0.0, 7.0])
@pytest.mark.usefixtures("small_blocks")
def test_streamed_graphs_are_the_constructed_ones(mode: str, method: str, alpha: float) -> None:
    cut = {"threshold": 0.05, "epsilon_threshold": 0.6 if alpha else 0.1}
    change = {
        "gnn_mode": mode,
        "adj_construction_method": method,
        "continuous_transform_alpha": alpha,
    }
    settings = read_settings({**README, **change, **cut})
    q, k = torch.randn(2, 5, 13, 7) * 2, torch.randn(2, 5, 13, 7)
    keep = torch.ones(13, 13, dtype=torch.bool).tril().expand(2, 1, 13, 13)
    attention = (q @ k.mT / 7**0.5).masked_fill(~keep, -torch.inf).softmax(-1)
    wanted = construct_adjacency(attention, settings, keep)
    graph, _ = merged_graph(q, k, is_causal=True, **streamed(settings))
    assert 0 < graph.num_edges < int(keep.sum()) * (1 if mode == "single" else 5), "some are cut"
    assert graph.batch_shape == wanted.batch_shape and torch.equal(
        graph.edge_index, wanted.edge_index
    )
    assert_close(graph.weight, wanted.weight)
