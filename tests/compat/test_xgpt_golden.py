"""What the paper's own code computed on fixed inputs, on every executor and backend that can run
it.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import Reweigh, TopK
from graphformer.attention.build import refined
from graphformer.attention.sparsifiers import from_spec
from graphformer.attention.sparsifiers.reweigh import CURVES
from graphformer.compat import xgpt
from graphformer.compat.xgpt.weights import attention_state

pytestmark = pytest.mark.usefixtures("float64")

GIN = {
    "use_GNN_from_attention": "LlamaAttentionGIN",
    "attention_GIN_MLP_multiplier": 0.5,
    "use_sharpening": True,
    "attention_GIN_MLP_use_scoring_fnct": False,
    "attention_GIN_MLP_GIN_use_softmax": True,
}
QUIRKS = {
    "d1_pna_softmax": ("own_max",),
    "d2_pna_relu_sharp_softplus": ("own_max",),
    "d3_pna_raw_sharp_softplus": ("own_max",),
    "e1_pna_lm_softmax": ("first_token",),
    "e2_pna_lm_relu_thr": ("first_token",),
    "f2_gin_diff_groupnorm": ("map_norm",),
}
CASES = (
    "a_gin_softmax_sharp1.3_mult0.5",
    "a_pad_gin_right_padded",
    "b_gin_oproj_mult2",
    "b2_gin_sharp_softplus_temp",
    "b3_gin_nosoftmax_relu",
    *list(QUIRKS)[:5],
    "f_gin_diff",
    "f2_gin_diff_groupnorm",
    "g_gin_scoring",
)
FLASH = (
    "a_gin_softmax_sharp1.3_mult0.5",
    "a_pad_gin_right_padded",
    "b_gin_oproj_mult2",
    "f_gin_diff",
)
BACKENDS = ("torch", "pyg", "dgl", "torch_sparse")
WAYS = [("auto", "auto"), *itertools.product(("dense", "stream"), BACKENDS)]


@pytest.fixture
def golden(
    float64: None, golden_dir: Path, recorded: Callable, request: pytest.FixtureRequest
) -> tuple[xgpt.Settings, dict[str, Tensor]]:
    """A case's settings and tensors."""
    case = request.param
    manifest = json.loads((golden_dir / "manifest.json").read_text())["cases"][case]
    given = {
        name: value
        for name, value in manifest["settings"].items()
        if name not in ("cls", "layer_idx", "layers", "vocab")
    }
    kind = manifest["settings"].get("cls", "LlamaAttentionGIN")
    settings = xgpt.read_settings({**GIN, "use_GNN_from_attention": kind, **given})
    return settings, recorded(case)


def weights(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in stored.items()
        if name.startswith(prefix)
    }


def run(
    layer: torch.nn.Module, stored: dict[str, Tensor], x: Tensor, **arguments: object
) -> Tensor:
    mask = stored.get("in.mask_keep")
    turned = (
        {}
        if layer.pairwise is not None
        else {"position_embeddings": (stored["in.cos"], stored["in.sin"])}
    )
    return layer(x, None if mask is None else mask.bool(), **turned, **arguments)


@pytest.mark.parametrize("golden", CASES, indirect=True, ids=[case.split("_")[0] for case in CASES])
@pytest.mark.parametrize(("executor", "backend"), WAYS, ids=["-".join(way) for way in WAYS])
@pytest.mark.usefixtures("small_blocks")
def test_attention_layers(
    golden: tuple, executor: str, backend: str, request: pytest.FixtureRequest
) -> None:
    if backend in ("dgl", "torch_sparse"):
        pytest.importorskip(backend)
    settings, stored = golden
    case = request.node.callspec.params["golden"]
    sizes = {"hidden_size": 32, "num_heads": 4, "layer_idx": 1, "quirks": QUIRKS.get(case, ())}
    layer = xgpt.load_attention(
        settings, weights(stored, "w."), executor=executor, backend=backend, **sizes
    ).eval()
    x = stored["in.x"].requires_grad_()
    out = run(layer, stored, x)
    assert_close(out, stored["out.y"], atol=1e-5, rtol=1e-5)
    if executor == "auto":
        assert (gf.explain(layer, x.detach())[0].plan.executor == "flash") == (case in FLASH)
    if "grad.in.x" not in stored:
        return
    (out * stored["in.r"]).sum().backward()
    assert_close(x.grad, stored["grad.in.x"], atol=1e-5, rtol=1e-5)
    wanted = attention_state(settings, weights(stored, "grad.w."), layer_idx=1)
    # the loader divided by the temperature; a gradient goes the other way
    if "sharpening" in wanted:
        wanted["sharpening"] = (
            wanted["sharpening"] * settings.attention_GIN_MLP_GIN_softmax_temperature**2
        )
    assert wanted.keys() == dict(layer.named_parameters()).keys() or case.startswith(("e", "d"))
    for name, value in wanted.items():
        name = (
            name
            if name in dict(layer.named_parameters())
            else name.replace("operator.", "operator.operator.")
        )
        assert_close(
            layer.get_parameter(name).grad,
            value,
            atol=1e-5,
            rtol=1e-5,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("golden", [case for case in CASES if case[0] in "abfg"], indirect=True)
def test_the_graph_is_the_adjacency(golden: tuple, request: pytest.FixtureRequest) -> None:
    settings, stored = golden
    quirks = QUIRKS.get(request.node.callspec.params["golden"], ())
    layer = xgpt.load_attention(
        settings, weights(stored, "w."), hidden_size=32, num_heads=4, layer_idx=1, quirks=quirks
    ).eval()
    _, graph = run(layer, stored, stored["in.x"], output_graph=True)
    assert_close(graph.to_dense(), stored["out.adj_used"], atol=1e-6, rtol=1e-5)
    assert (graph.senders % 12 <= graph.receivers % 12).all()


# ---------------------------------------------------------------------- threshold modes


@pytest.fixture
def modes(float64: None, recorded: Callable) -> dict[str, Tensor]:
    return recorded("c_threshold_modes")


def sparsifier(mode: str, kind: str, **changes: object) -> gf.attention.Sparsifier | None:
    """As golden case c used it: tau 0.2, beta 7, step 0.5, a fraction of 0.4."""
    base = {
        "use_GNN_from_attention": f"LlamaAttention{kind}",
        "attention_GIN_MLP_GIN_threshold_mode": mode,
    }
    settings = xgpt.read_settings(
        {
            **base,
            "attention_GIN_MLP_GIN_sharp_softplus_beta": 7.0,
            "attention_GIN_MLP_GIN_binary_scale": 0.5,
        }
    )
    spec = xgpt.sparsifier_spec(settings)
    return None if spec is None else from_spec({**spec, **changes}, num_heads=4)


def reweighed(attention: Tensor, by: gf.attention.Sparsifier | None) -> gf.AttentionGraph:
    keep = torch.ones(12, 12, dtype=torch.bool).tril().expand(attention.shape)
    graph = gf.AttentionGraph.from_dense(attention, keep=keep)
    return (
        graph
        if by is None
        else refined(
            by, graph.select(by.keep(graph.weight.detach(), gf.attention.Listed.of(graph, 4))), 4
        )
    )


@pytest.mark.parametrize("mode", [mode for mode in xgpt.MODES if "top" not in mode])
def test_threshold_modes(modes: dict[str, Tensor], mode: str) -> None:
    for kind, name in (("GIN", "gin"), ("PNA", "pna"), ("PNA_LM", "pna_lm")):
        if f"out.{name}.{mode}" in modes:
            assert_close(
                reweighed(modes["in.adj"], sparsifier(mode, kind)).to_dense(),
                modes[f"out.{name}.{mode}"],
                atol=1e-6,
                rtol=1e-5,
            )


@pytest.mark.parametrize(
    "mode", [mode for mode in xgpt.MODES if "top" not in mode and mode not in ("none", "binary")]
)
def test_gradients_of_threshold_modes(modes: dict[str, Tensor], mode: str) -> None:
    """Without the straight-through steps, which the reference does not have."""
    plain = sparsifier(mode, "GIN", trainable=True)
    steps = {"straight_through": False} if "straight_through" in CURVES[plain.curve].reads else {}
    by = sparsifier(mode, "GIN", trainable=True, **steps)
    attention = modes["in.adj"].requires_grad_()
    total = (reweighed(attention, by).to_dense() * modes["in.r"]).sum()
    found = (
        torch.autograd.grad(total, [attention, by.tau], allow_unused=True)
        if total.requires_grad
        else (None, None)
    )
    for got, name in zip(found, ("adj", "threshold"), strict=True):
        want = modes[f"grad.gin.{mode}.{name}"]
        assert_close(
            torch.zeros_like(want) if got is None else got.view_as(want), want, atol=1e-5, rtol=1e-5
        )


def test_top_k_of_a_fixed_number(modes: dict[str, Tensor]) -> None:
    """The reference's number was 0.4 of 12 tokens."""
    graph = reweighed(modes["in.adj"], Reweigh("binary", 0.0, keep=TopK(4)))
    assert torch.equal(graph.to_dense(), modes["out.gin.top_k"])


def test_scaled_top_k(modes: dict[str, Tensor]) -> None:
    assert torch.equal(
        reweighed(modes["in.adj"], xgpt.ScaledTopK(0.4)).to_dense(),
        modes["out.gin.scaled_topk_causal_4d_thr0"],
    )
    # With a threshold the reference fills up with edges below it, as chance has it; those above it
    # are the same.
    ours, theirs = (
        reweighed(modes["in.adj"], xgpt.ScaledTopK(0.4, 0.2)).to_dense(),
        modes["out.gin.scaled_topk_causal_4d"],
    )
    above = modes["in.adj"] >= 0.2
    assert torch.equal(ours[above], theirs[above]) and torch.equal(ours.sum(-1), theirs.sum(-1))


# ---------------------------------------------------------------------- a whole model

LLAMA = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
}
MODEL = ["k_gin_model_2layers"]


@pytest.mark.parametrize("golden", MODEL, indirect=True)
@pytest.mark.parametrize(("executor", "backend"), WAYS, ids=["-".join(way) for way in WAYS])
def test_a_model_gives_its_logits_and_loss(golden: tuple, executor: str, backend: str) -> None:
    if backend in ("dgl", "torch_sparse"):
        pytest.importorskip(backend)
    settings, stored = golden
    model = xgpt.load_model(settings, LLAMA, weights(stored, "w."))
    for layer in model.model.layers:
        layer.self_attn.executor, layer.self_attn.backend = executor, backend
    with torch.no_grad():
        out = model(
            input_ids=stored["in.ids"], attention_mask=stored["in.pad"], labels=stored["in.labels"]
        )
    real = stored["in.pad"].bool()
    assert_close(out.logits[real], stored["out.logits"][real], atol=1e-5, rtol=1e-5)
    # transformers takes the loss in float32
    assert_close(out.loss.double(), stored["out.loss"], atol=1e-5, rtol=1e-5)


@pytest.mark.float32
@pytest.mark.parametrize("golden", MODEL, indirect=True)
def test_a_model_generates_with_a_cache_and_is_saved(golden: tuple, tmp_path: Path) -> None:
    settings, stored = golden
    model = xgpt.load_model(settings, LLAMA, weights(stored, "w."))
    prompt = stored["in.ids"][:, :5]
    cached = model.generate(
        prompt, max_new_tokens=7, do_sample=False, use_cache=True, pad_token_id=0
    )
    assert torch.equal(
        cached,
        model.generate(prompt, max_new_tokens=7, do_sample=False, use_cache=False, pad_token_id=0),
    )
    assert cached.shape == (2, 12)
    model.save_pretrained(tmp_path)
    again = gf.GraphformerForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(stored["in.ids"]).logits, model(stored["in.ids"]).logits)


@pytest.mark.float32
@pytest.mark.parametrize("golden", MODEL, indirect=True)
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_folder_of_the_reference(golden: tuple, tmp_path: Path, kind: str) -> None:
    settings, stored = golden
    state = weights(stored, "w.")
    if kind == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        from safetensors.torch import save_file

        # One of the two names of each shared tensor is missing, as safetensors leaves it.
        save_file(
            {n: v.contiguous() for n, v in state.items() if "normlayer" not in n},
            tmp_path / "model.safetensors",
        )
    (tmp_path / "config.json").write_text(
        json.dumps({**LLAMA, "gnn_config": dataclasses.asdict(settings)})
    )
    model = xgpt.load_folder(tmp_path)
    with torch.no_grad():
        logits = model(stored["in.ids"], attention_mask=stored["in.pad"]).logits
    real = stored["in.pad"].bool()
    assert_close(logits[real], stored["out.logits"][real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("golden", MODEL, indirect=True)
def test_one_decoder_layer(golden: tuple) -> None:
    settings, stored = golden
    whole = xgpt.load_model(settings, LLAMA, weights(stored, "w."))
    layer = xgpt.load_decoder_layer(
        settings, LLAMA, weights(stored, "w.model.layers.1."), layer_idx=1
    )
    for name, value in layer.state_dict().items():
        assert torch.equal(value, whole.model.layers[1].state_dict()[name]), name


# ------------------------------------------------------ settings that the golden files do not reach


@pytest.mark.parametrize("golden", ["b2_gin_sharp_softplus_temp"], indirect=True)
def test_a_temperature_without_sharpening_goes_into_the_queries(golden: tuple) -> None:
    settings, stored = golden
    sizes = {"hidden_size": 32, "num_heads": 4, "layer_idx": 1}
    cold = dataclasses.replace(settings, use_sharpening=False)
    state = {
        name: value
        for name, value in weights(stored, "w.").items()
        if not name.startswith("sharpening")
    }
    sharp = xgpt.load_attention(
        dataclasses.replace(settings, initial_sharpening_value=1.0),
        {**state, "sharpening_parameters.0": torch.tensor(1.0)},
        **sizes,
    )
    plain = xgpt.load_attention(cold, state, **sizes)
    assert plain.sharpening is None
    assert_close(
        run(plain.eval(), stored, stored["in.x"]), run(sharp.eval(), stored, stored["in.x"])
    )
    torch.manual_seed(5)
    hot = xgpt.attention(
        dataclasses.replace(cold, attention_GIN_MLP_GIN_softmax_temperature=1.0), **sizes
    )
    torch.manual_seed(5)
    assert_close(xgpt.attention(cold, **sizes).q_proj.weight, hot.q_proj.weight / 0.8)


@pytest.mark.parametrize("mode", ["none", "top_k", "scaled_topk_causal_4d"])
def test_a_trained_threshold_that_no_mode_uses(mode: str) -> None:
    given = xgpt.read_settings(
        {
            **GIN,
            "attention_GIN_MLP_GIN_threshold_mode": mode,
            "attention_GIN_MLP_GIN_learnable_threshold": True,
        }
    )
    assert "sparsify.tau" not in attention_state(given, {"threshold.0": torch.tensor(0.3)})


def test_what_cannot_be_read() -> None:
    base = xgpt.read_settings(GIN)
    for changes, fields, text in (
        (
            {"gnn_mode": "single", "gnn_type": "causal_gin"},
            {},
            "gnn_mode='single' is a Sparse-GIN adapter on the model",
        ),
        ({"MLP_type": "no_MLP"}, {}, "MLP_type='no_MLP' cannot be read"),
        (
            {"use_GNN_from_attention": "CG_Attention"},
            {},
            r"'CG_Attention' \(coarse graining\) cannot be read",
        ),
        (
            {
                "use_GNN_from_attention": "LlamaAttentionPNA_LM",
                "attention_GIN_MLP_GIN_learnable_threshold": True,
            },
            {},
            "read the layers one by one",
        ),
        ({}, {"attention_bias": True}, "attention_bias=True cannot be read: this model has False"),
    ):
        with pytest.raises(ValueError, match=text):
            xgpt.config(dataclasses.replace(base, **changes), {**LLAMA, **fields})
    with pytest.raises(ValueError, match="the quirk 'first_token' is for single layers"):
        xgpt.config(base, LLAMA, quirks=("first_token",))
    with pytest.raises(ValueError, match=r"unknown quirks \['max'\]; known: 'own_max'"):
        xgpt.attention(base, hidden_size=32, num_heads=4, quirks=("max",))
    with pytest.raises(
        ValueError, match=r"'q_proj.bias' cannot be read: biases of projections are not supported"
    ):
        attention_state(base, {"q_proj.bias": torch.zeros(32)})
    with pytest.raises(
        ValueError, match=r"'w_proj' cannot be read: no attention layer of the reference has it"
    ):
        attention_state(base, {"w_proj": torch.zeros(32)})


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        xgpt.load_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match="has no gnn_config, so it is not a model of the reference"
    ):
        xgpt.load_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "gnn_config": GIN}))
    with pytest.raises(ValueError, match="holds neither"):
        xgpt.load_folder(tmp_path)
