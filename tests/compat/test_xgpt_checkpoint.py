"""A checkpoint of the paper's own code with an adapter, read onto its model through PEFT."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from graphformer.compat import xgpt

pytestmark = pytest.mark.usefixtures("float64")

peft = pytest.importorskip("peft")

README = {
    **{
        "num_layers": 1,
        "activation": "prelu",
        "dropout": 0.1,
        "lambda_GNN_initial": 0.0,
        "lambda_GNN": 0.5,
        "use_layer_norm": True,
    },
    **{
        "rms_norm_eps": 1e-5,
        "hidden_dim": 155,
        "gnn_type": "causal_gin",
        "gnn_mode": "single",
        "GIN_use_MLP": True,
    },
    **{
        "GIN_hidden_dim_multiplier": 1,
        "adj_construction_method": "sum",
        "continuous_transform_alpha": 10.0,
        "threshold": 0.1,
    },
    **{
        "epsilon_threshold": 0.6,
        "zero_below_epsilon_threshold": True,
        "remove_self_connections": False,
        "GIN_use_norm": False,
    },
    **{"GIN_edge_weight_scaling": True, "gnn_residual": False, "gnn_logic": "before_MLP"},
}
CASES = (
    "i_sparse_gin_layer",
    "i2_sparse_gin_layer_readme155",
    "i3_sparse_gin_layer_samewidth",
    "i5_after_MLP",
)


def read(
    golden_dir: Path, recorded: Callable, case: str
) -> tuple[xgpt.Settings, dict[str, Tensor]]:
    given = json.loads((golden_dir / "manifest.json").read_text())["cases"][case]["settings"]
    known = {
        name: value
        for name, value in given.items()
        if name in {field.name for field in dataclasses.fields(xgpt.Settings)}
    }
    settings = xgpt.read_settings({**README, **known})
    return settings, recorded(case)


def llama(stored: dict[str, Tensor], layers: int = 1) -> LlamaForCausalLM:
    """A model whose every block has the recorded weights."""
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        rms_norm_eps=1e-6,
    )
    model = LlamaForCausalLM(config).eval()
    own = {
        name.removeprefix("w."): value for name, value in stored.items() if name.startswith("w.")
    }
    for layer in model.model.layers:
        missing, _ = layer.load_state_dict(own, strict=False)
        assert not missing
    return model


def state(stored: dict[str, Tensor], layers: int = 1) -> dict[str, Tensor]:
    return {
        f"model.layers.{i}.{name[2:]}": value
        for i in range(layers)
        for name, value in stored.items()
        if name.startswith("w.")
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("direction", "wanted"), [("self", "out.y"), ("key_to_query", "out.y_if_edges_transposed")]
)
def test_a_block_with_its_adapter(
    golden_dir: Path, recorded: Callable, case: str, direction: str, wanted: str
) -> None:
    settings, stored = read(golden_dir, recorded, case)
    model = xgpt.load_adapter(llama(stored), settings, state(stored), direction=direction)
    seen: list[Tensor] = []
    model.get_base_model().model.layers[0].register_forward_hook(
        lambda module, inputs, out: seen.append(out)
    )
    real = stored["in.mask_keep"][:, 0, -1].bool()
    with torch.no_grad():
        model.get_base_model().model(
            inputs_embeds=stored["in.x"], attention_mask=real.long(), use_cache=False
        )
    assert_close(seen[0][real], stored[wanted][real], atol=1e-5, rtol=1e-5)


@pytest.mark.float32
def test_it_is_saved_and_read_by_peft(golden_dir: Path, recorded: Callable, tmp_path: Path) -> None:
    settings, stored = read(golden_dir, recorded, CASES[0])
    model = xgpt.load_adapter(
        llama(stored, 2), settings, state(stored, 2), direction="key_to_query"
    ).eval()
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(llama(stored, 2), tmp_path).eval()
    for module in (again.get_base_model(), model.get_base_model()):
        module.lm_head.weight = module.model.embed_tokens.weight = torch.nn.Parameter(
            torch.ones(11, 32).cumsum(0) / 11
        )
    ids = torch.arange(2 * 7).view(2, 7) % 11
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"gnn_logic": "parallel_GNN_MLP"},
            "gnn_logic='parallel_GNN_MLP' is not an adapter's: only before_MLP, after_MLP",
        ),
        (
            {"use_original_hidden_states": True},
            "use_original_hidden_states=True is not an adapter's",
        ),
        (
            {"GIN_edge_weight_scaling": False},
            "GIN_edge_weight_scaling=False is not an adapter's: only True",
        ),
        (
            {"adj_construction_method": "mean"},
            "adj_construction_method='mean' is not an adapter's: only 'sum'",
        ),
        ({"gnn_mode": "per_head", "per_head_ff": True}, "per_head_ff=True is not an adapter's"),
        ({"gnn_mode": "none"}, "these settings have no adapter"),
        ({"use_distance_scaling": True}, "use_distance_scaling=True has no streamed graph"),
    ],
)
def test_what_no_adapter_is(changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        xgpt.adapter_config(xgpt.read_settings({**README, **changes}))


def test_another_models_checkpoint(golden_dir: Path, recorded: Callable) -> None:
    settings, stored = read(golden_dir, recorded, CASES[0])
    with pytest.raises(
        ValueError, match=r"adapters in the layers \[0, 1, 2\], and the model has 2 layers"
    ):
        xgpt.load_adapter(llama(stored, 2), settings, state(stored, 3))


def test_per_head(golden_dir: Path, recorded: Callable) -> None:
    """Without the layer that mixes heads, which an adapter does not have."""
    settings, stored = read(golden_dir, recorded, "i7_per_head")
    settings = dataclasses.replace(settings, per_head_ff=False)
    weights = {name: value for name, value in state(stored).items() if ".ff_layer." not in name}
    model = xgpt.load_adapter(llama(stored), settings, weights)
    assert (
        model.peft_config["default"].graph == "per_head"
        and model.peft_config["default"].clamp is None
    )
    with torch.no_grad():
        assert torch.isfinite(model(torch.arange(7)[None]).logits).all()
