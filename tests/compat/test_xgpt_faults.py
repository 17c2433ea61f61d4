"""The faults of the paper's own code, numbered as in docs/coming-from/xgpt.md: what it does, and
beside it what this library does.

Its behaviour comes from a quirk of ``graphformer.compat.xgpt`` where there is one, else from its
formula, written out here. Faults 1 (the adapter's edges) and 8 (coarse graining) have their tests
with those parts.
"""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import NormalizeWeights, Reweigh, TopFraction, TopK
from graphformer.attention.sparsifiers.reweigh import CURVES
from graphformer.compat import xgpt
from graphformer.nn import GINAttention, PNAAttention

SMOOTH = [name for name, curve in CURVES.items() if not curve.cuts]
MODES = [mode for mode in xgpt.MODES if mode != "none"]


def settings(kind: str = "GIN", **changes: object) -> xgpt.Settings:
    return xgpt.read_settings(
        {
            "use_GNN_from_attention": f"LlamaAttention{kind}",
            "attention_GIN_MLP_multiplier": 1,
            **changes,
        }
    )


def layer_with(mode: str, **arguments: object) -> nn.Module:
    given = settings(
        use_sharpening=True,
        attention_GIN_MLP_GIN_threshold_mode=mode,
        attention_GIN_MLP_GIN_threshold_value=0.1,
        attention_GIN_MLP_GIN_top_k_fraction_of_sequence_length=0.4,
    )
    layer = xgpt.attention(given, **{"hidden_size": 35, "num_heads": 5, **arguments}).eval()
    with torch.no_grad():
        layer.q_proj.weight *= 9  # weights of random inputs: some near 1
    return layer


# ----------------------------------------------- 2: a max that is none, and rows without neighbours


def test_fault_2_the_reference_takes_the_own_value_for_the_maximum() -> None:
    x = torch.randn(2, 7, 35)
    for quirks, wanted in ((("own_max",), "own"), ((), "max")):
        layer = xgpt.attention(settings("PNA"), hidden_size=35, num_heads=5, quirks=quirks)
        assert layer.operator.aggregators == ("sum", "mean", wanted, "var")
    # Ours looks at the neighbours: a sender with a huge value changes what a later receiver hears.
    layer = PNAAttention(35, 5, aggregators=("max",), scalers=("identity",), normalize="softmax")
    with torch.no_grad():
        changed = x.clone()
        changed[:, 2] += 5
        assert (layer(changed)[:, 3:] - layer(x)[:, 3:]).abs().amax() > 1e-3
    quirky = xgpt.attention(settings("PNA"), hidden_size=35, num_heads=5, quirks=("own_max",))
    seen = {}
    quirky.operator.mlp.register_forward_hook(
        lambda module, inputs, out: seen.update(stacked=inputs[0])
    )
    quirky(x)
    own = quirky.v_proj(x).view(2, 7, 5, 7).transpose(1, 2)
    assert torch.equal(seen["stacked"][..., 14:21], own)  # the third quarter, its "max"


@pytest.mark.parametrize("kind", ["PNA", "PNA_LM"])
@pytest.mark.parametrize("mode", MODES)
def test_fault_2_rows_without_neighbours(kind: str, mode: str) -> None:
    # the reference's maximum over no neighbour, which makes the network's answer NaN
    nothing = torch.full((5,), -math.inf)
    assert torch.isnan(nn.Linear(5, 3)(nothing)).any()
    given = settings(
        kind, attention_GIN_MLP_GIN_threshold_mode=mode, attention_GIN_MLP_GIN_threshold_value=0.9
    )
    layer = xgpt.attention(given, hidden_size=35, num_heads=5)
    x, keep = torch.randn(2, 7, 35, requires_grad=True), torch.ones(2, 7, dtype=torch.bool)
    keep[0, :3] = False  # fully masked rows too
    out = layer(x, keep)
    out.sum().backward()
    assert torch.isfinite(out).all() and torch.isfinite(x.grad).all()


# ---------------------------------------------------------------------- 3: sharpening and the mask


def test_fault_3_sharpening_after_the_mask_overflows() -> None:
    lowest, scores = torch.finfo(torch.float32).min, torch.randn(7)
    theirs = ((scores + lowest) * 1.3).softmax(-1)  # a fully masked row, as left padding has
    assert torch.isnan(theirs).all()
    layer = GINAttention(35, 5, sharpening=1.3)
    x, keep = torch.randn(2, 7, 35), torch.ones(2, 7, dtype=torch.bool)
    keep[0, :4] = False
    for alpha in (1.3, 100.0):
        nn.init.constant_(layer.sharpening, alpha)
        for executor in ("auto", "dense", "stream"):
            layer.executor = executor
            assert torch.isfinite(layer(x, keep)).all()


# ---------------------------------------------------------------------- 4: padding


@pytest.mark.parametrize("curve", SMOOTH)
def test_fault_4_a_curve_on_the_matrix_gives_weight_to_padding(curve: str) -> None:
    of_zero = CURVES[curve].apply(torch.tensor(-0.1), torch.tensor(0.0), 10.0, 1.0, torch.ones_like)
    assert of_zero != 0  # the weight that the reference gives to a padded token
    layer = GINAttention(35, 5, sparsify=Reweigh(curve, 0.1))
    keep = torch.ones(2, 7, dtype=torch.bool)
    keep[0, :3] = False
    _, graph = layer(torch.randn(2, 7, 35), keep, output_graph=True)
    assert not graph.to_dense()[0, :, :, :3].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_fault_4_padding_changes_nothing(mode: str, side: str) -> None:
    layer = layer_with(mode)
    x, real = torch.randn(2, 7, 35), torch.randn(1, 4, 35)
    keep = torch.ones(2, 7, dtype=torch.bool)
    where = slice(3, None) if side == "left" else slice(0, 4)
    keep[0] = False
    keep[0, where] = True
    x[0, where] = real[0]
    with torch.no_grad():
        assert_close(layer(x, keep)[:1, where], layer(real), atol=1e-6, rtol=1e-5)


# ----------------------------------------------------- 5: cache, grouped queries, saving, precision

SPECS = {
    mode: xgpt.sparsifier_spec(settings(attention_GIN_MLP_GIN_threshold_mode=mode))
    for mode in MODES
}
SIZES = {
    "vocab_size": 11,
    "hidden_size": 24,
    "intermediate_size": 35,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
}


def model(mode: str, **changes: object) -> gf.GraphformerForCausalLM:
    settings = {
        **SIZES,
        "num_key_value_heads": 2,
        "threshold": SPECS[mode],
        "value_projection": True,
        **changes,
    }
    return gf.GraphformerForCausalLM(gf.GraphformerConfig(**settings)).eval()


@pytest.mark.parametrize("mode", MODES)
def test_fault_5_every_mode_generates_with_a_cache_and_grouped_queries(mode: str) -> None:
    network, prompt = model(mode), torch.randint(0, 11, (2, 5))
    wanted = network.generate(prompt, max_new_tokens=6, do_sample=False, use_cache=False)
    assert torch.equal(
        network.generate(prompt, max_new_tokens=6, do_sample=False, use_cache=True), wanted
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fault_5_every_mode_runs_in_half_precision(mode: str, dtype: torch.dtype) -> None:
    network, ids = model(mode).to(dtype), torch.randint(0, 11, (2, 7))
    out = network(ids, labels=ids)  # and without an attention mask, where the reference crashes
    out.loss.backward()
    assert out.logits.dtype == dtype and torch.isfinite(out.logits).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("score", ["differential", "pairwise"])
def test_fault_5_saving_and_tied_embeddings(score: str, tmp_path: Path) -> None:
    network = model("relu", score=score, num_key_value_heads=6)
    assert network.lm_head.weight is network.model.embed_tokens.weight
    network.save_pretrained(tmp_path)
    again = gf.GraphformerForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, 11, (2, 7))
    assert torch.equal(again(ids).logits, network(ids).logits)
    assert again.lm_head.weight is again.model.embed_tokens.weight


# ----------------------------------------------------------- 6: the future, batch mates, the length


def future_leak(layer: nn.Module) -> float:
    x = torch.randn(2, 7, 35)
    changed = x.clone()
    changed[:, 5:] += 1
    with torch.no_grad():
        return (layer(changed)[:, :5] - layer(x)[:, :5]).abs().amax().item()


def test_fault_6_group_norm_over_the_map_sees_the_future() -> None:
    given = settings(
        use_differential_attention=True,
        use_differential_attention_group_norm=True,
        use_sharpening=True,
    )
    leaks = []
    for quirks in (("map_norm",), ()):
        layer = xgpt.attention(given, hidden_size=35, num_heads=5, quirks=quirks).eval()
        assert isinstance(layer.sparsify, NormalizeWeights)
        leaks.append(future_leak(layer))
    assert leaks[0] > 1e-3 and leaks[1] < 1e-6


def test_fault_6_top_k_of_the_length_is_another_answer_for_a_prefix() -> None:
    layer, x = layer_with("top_k"), torch.randn(2, 11, 35)

    def prefix_error() -> float:
        with torch.no_grad():
            return (layer(x)[:, :6] - layer(x[:, :6])).abs().amax().item()

    assert prefix_error() < 1e-5
    # the reference's number, for the text and for its prefix
    whole, part = TopK(max(1, int(11 * 0.4))), TopK(max(1, int(6 * 0.4)))
    layer.sparsify = Reweigh("binary", 0.0, keep=whole)
    with torch.no_grad():
        long = layer(x)[:, :6]
        layer.sparsify = Reweigh("binary", 0.0, keep=part)
        assert (long - layer(x[:, :6])).abs().amax() > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_fault_6_no_mode_sees_the_future_or_batch_mates(mode: str) -> None:
    layer = layer_with(mode)
    assert future_leak(layer) < 1e-5
    gf.testing.check_prefix(layer, torch.randn(2, 7, 35))
    x = torch.randn(3, 7, 35)
    with torch.no_grad():
        assert_close(layer(x)[:1], layer(x[:1]), atol=1e-6, rtol=1e-5)


# ---------------------------------------------------------------------- 7: gradients


def query_gradient(sparsify: gf.attention.Sparsifier) -> Tensor:
    layer = GINAttention(35, 5, sparsify=sparsify)
    layer(torch.randn(2, 7, 35)).square().sum().backward()
    grad = layer.q_proj.weight.grad
    return torch.zeros(()) if grad is None else grad


@pytest.mark.parametrize(
    "keep", [None, TopK(3), TopFraction(0.4)], ids=["binary", "top_k", "scaled_top_k"]
)
def test_fault_7_binary_weights_teach_the_queries_nothing(
    keep: gf.attention.Sparsifier | None,
) -> None:
    tau = 0.1 if keep is None else 0.0
    assert not query_gradient(Reweigh("binary", tau, keep=keep, straight_through=False)).any()
    assert query_gradient(Reweigh("binary", tau, keep=keep)).any()


# ---------------------------------------------------------------------- 9: size and noise


def test_fault_9_few_settings_and_no_printing(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(dataclasses.fields(xgpt.Settings)) > 50
    own = [name for name in gf.GraphformerConfig.__annotations__ if not name.startswith("_")]
    assert len(own) <= 34
    network = model("sharp_softplus", score="differential")
    network(torch.randint(0, 11, (2, 7)))
    assert capsys.readouterr() == ("", "")
