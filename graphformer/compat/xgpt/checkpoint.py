"""A checkpoint of the reference with an adapter, read onto the model that it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphformer.compat.xgpt.adapter import adapter_state as network_state
from graphformer.compat.xgpt.adapter import streamed
from graphformer.compat.xgpt.settings import Settings

if TYPE_CHECKING:
    import peft
    from transformers import PreTrainedModel

    from graphformer.adapters import SparseGINConfig

PLACEMENTS = {"before_MLP": "before_mlp", "after_MLP": "after_mlp"}
OF_ADAPTER = re.compile(
    r"(?:model\.)?layers\.(\d+)\.((?:trainable_scale|gnn_norm|gnns?|ff_layer)(?:\..+)?)"
)


def adapter_config(settings: Settings, *, direction: str = "self") -> SparseGINConfig:
    """The adapter that these settings describe.

    Args:
        direction: ``"self"``, as the reference runs it, or ``"key_to_query"``, as its paper
            describes it.

    Raises:
        ValueError: settings that :class:`graphformer.SparseGINConfig` has no word for (the text
            says which; :func:`sparse_gin` and :func:`place` compute a single block with them).
    """
    from graphformer.adapters import SparseGINConfig

    graph = streamed(settings)
    for name, wanted in (
        ("GIN_edge_weight_scaling", True),
        ("rms_norm_eps", 1e-5),
        ("use_original_hidden_states", False),
    ):
        if getattr(settings, name) != wanted:
            raise ValueError(
                f"{name}={getattr(settings, name)} is not an adapter's: only {wanted}; see "
                "xgpt.sparse_gin and xgpt.place"
            )
    if settings.gnn_logic not in PLACEMENTS:
        raise ValueError(
            f"gnn_logic={settings.gnn_logic!r} is not an adapter's: only {', '.join(PLACEMENTS)}; "
            "see xgpt.place"
        )
    if settings.per_head_ff:
        raise ValueError("per_head_ff=True is not an adapter's; see xgpt.sparse_gin")
    if graph["reduce"] == "mean":
        raise ValueError(
            "adj_construction_method='mean' is not an adapter's: only 'sum'; see "
            "gf.attention.merged_graph"
        )
    cut, beta = settings.epsilon_threshold, settings.continuous_transform_alpha
    curve = {
        "name": "reweigh",
        "curve": "sigmoid",
        "tau": settings.threshold,
        "beta": beta,
        "above": cut,
    }
    per_head = settings.gnn_mode == "per_head"
    return SparseGINConfig(
        task_type="CAUSAL_LM",
        hidden_dim=settings.hidden_dim,
        depth=settings.num_layers,
        threshold=curve if beta > 0 else cut,
        direction=direction,
        graph="per_head" if per_head else "merged",
        clamp=None if per_head else 1.0,
        scale_start=settings.lambda_GNN
        if settings.lambda_GNN_initial is None
        else settings.lambda_GNN_initial,
        scale_end=settings.lambda_GNN,
        init_identity=False,
        activation=settings.activation.lower(),
        mlp_ratio=settings.GIN_hidden_dim_multiplier if settings.GIN_use_MLP else None,
        hidden_norm=settings.GIN_use_norm and settings.GIN_use_MLP,
        residual=settings.gnn_residual,
        dropout=settings.dropout,
        output_norm=settings.use_layer_norm and not per_head,
        placement=PLACEMENTS[settings.gnn_logic],
    )


@torch.no_grad()
def load_adapter(
    model: PreTrainedModel,
    settings: Settings,
    state: Mapping[str, Tensor],
    *,
    direction: str = "self",
    adapter_name: str = "default",
) -> peft.PeftModel:
    """``peft.get_peft_model`` with the weights of the reference's adapter, ready to run and to be
    saved by PEFT.

    Args:
        model: the model that the adapter was trained on, before any adapter. Its weights are not
            read from ``state``.
        settings: see :func:`read_settings`.
        state: the state dict of the reference's whole model, or the part with its adapter.
        direction: see :func:`adapter_config`. The weights of published checkpoints were trained
            with ``"self"``.

    Raises:
        ValueError: settings or parameters that cannot be read, or layers without an adapter in
            ``state``.
    """
    import peft

    from graphformer.adapters.looking import adapted_layers

    config = adapter_config(settings, direction=direction)
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if match := OF_ADAPTER.fullmatch(name):
            found.setdefault(int(match[1]), {})[match[2]] = value
    count = model.config.get_text_config().num_hidden_layers
    if sorted(found) != list(range(count)):
        raise ValueError(
            f"state has adapters in the layers {sorted(found)}, and the model has {count} layers: "
            "this is not its checkpoint"
        )
    wrapped = peft.get_peft_model(model, config, adapter_name=adapter_name)
    for layer in adapted_layers(wrapped).values():
        own = found[layer.place.position]
        layer.sparsegin_gnn[adapter_name].load_state_dict(network_state(own))
        layer.sparsegin_scale[adapter_name].copy_(own["trainable_scale"].reshape(1))
    return wrapped
