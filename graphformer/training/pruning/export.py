"""The smaller model that is left of a masked one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graphformer.models.language import GraphformerConfig, GraphformerForCausalLM
from graphformer.training.pruning.masks import ConcreteMask

BY_LAYER = ("operator", "head", "feed_forward")
PROBE = 11
"""Tokens of the text on which the two models are compared."""


def exported(
    model: GraphformerForCausalLM,
    heads: Sequence[ConcreteMask],
    layers: Sequence[ConcreteMask],
) -> GraphformerForCausalLM:
    """A new model without the heads and layers that are cut; weights are baked in."""
    count = len(model.model.layers)
    depths = [i for i in range(count) if not layers or bool(layers[i].kept)]
    kept: list[Tensor | None] = [
        heads[i].kept.nonzero().flatten() if heads else None for i in depths
    ]
    config = smaller(model.config, depths, kept)
    try:
        small = GraphformerForCausalLM(config).to(device=model.device, dtype=model.dtype)
    except ValueError as error:
        raise of_its_slots(error) from error
    held = baked(model)
    state = {}
    for name, one in small.state_dict().items():
        old, numbers = name, None
        if name.startswith("model.layers."):
            place, rest = name.removeprefix("model.layers.").split(".", 1)
            old, numbers = f"model.layers.{depths[int(place)]}.{rest}", kept[int(place)]
        state[name] = chosen(old, held[old], one.shape, numbers, model, old)
    small.load_state_dict(state)
    small.tie_weights()
    small.generation_config = copy.deepcopy(model.generation_config)
    small.eval()
    compare(model, small)
    return small


def smaller(
    config: GraphformerConfig, depths: list[int], kept: Sequence[Tensor | None]
) -> GraphformerConfig:
    """The config of the layers and heads that are left."""
    plain: dict[str, Any] = copy.deepcopy(config).to_dict()
    for name in BY_LAYER:
        if isinstance(plain[name], (list, tuple)):
            plain[name] = [plain[name][i] for i in depths]
    numbers = [config.layer_num_heads[i] for i in depths]
    kv_numbers = [config.layer_num_key_value_heads[i] for i in depths]
    for i, one in enumerate(kept):
        if one is not None:
            group = numbers[i] // kv_numbers[i]
            kv_numbers[i], numbers[i] = len(one), group * len(one)
    plain |= {
        "num_hidden_layers": len(depths),
        "num_attention_heads": _one_or_all(numbers),
        "num_key_value_heads": _one_or_all(kv_numbers),
        "head_dim": config.head_dim,
    }
    return GraphformerConfig(**plain)


def _one_or_all(numbers: list[int]) -> int | list[int]:
    return numbers[0] if len(set(numbers)) == 1 else numbers


def baked(model: GraphformerForCausalLM) -> dict[str, Tensor]:
    """Every tensor under the name that a model without masks has, weights times their masks."""
    found = dict(model.state_dict())
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            with torch.no_grad():
                mask: Any = module.parametrizations.weight[0]
                weight: Any = module.parametrizations.weight.original
                found[f"{name}.weight"] = weight * mask.kept.to(weight.dtype)
    return found


def chosen(
    name: str,
    old: Tensor,
    shape: torch.Size,
    numbers: Tensor | None,
    model: nn.Module,
    where: str,
) -> Tensor:
    """The part of a tensor that belongs to the key heads ``numbers``: along a dimension that has
    become shorter, each of them has an equal stretch.
    """
    if numbers is not None:
        units = _units(model, where)
        for axis, (size, wanted) in enumerate(zip(old.shape, shape, strict=True)):
            if size == wanted:
                continue
            if size % units or wanted != size // units * len(numbers):
                raise ValueError(
                    f"{name} {list(old.shape)} has no equal part for each of {units} heads: prune "
                    "layers or weights of such a model"
                )
            old = (
                old.unflatten(axis, (units, -1)).index_select(axis, numbers).flatten(axis, axis + 1)
            )
    return old.detach().clone()


def _units(model: Any, where: str) -> int:
    place = where.removeprefix("model.layers.").split(".", 1)[0]
    return model.model.layers[int(place)].self_attn.num_kv_heads


def compare(model: GraphformerForCausalLM, small: GraphformerForCausalLM) -> None:
    """ValueError where the smaller model is another function than the masked one.

    In float64 on a text of random tokens, each model in its own precision's weights.
    """
    whole = copy.deepcopy(model).double().eval()
    other = copy.deepcopy(small).double().eval()
    length = min(PROBE, model.config.max_position_embeddings)
    ids = torch.randint(
        model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0)
    ).to(model.device)
    given = {"block_ids": torch.arange(length, device=model.device)[None] // 3}
    more: dict[str, Any] = given if model.model.reads_block_ids else {}
    with torch.no_grad():
        want = whole(ids, **more).logits
        try:
            found = other(ids, **more).logits
        except ValueError as error:
            raise of_its_slots(error) from error
    off = float((want - found).abs().max())
    if not off <= 1e-9 * max(float(want.abs().max()), 1.0):
        raise ValueError(
            "without the heads that are cut the model is another one (logits differ by "
            f"{off:.2g}): a slot reads several heads at once, such as operator='merged_heads' or "
            "update='gated_heads', or a feed-forward over the heads' graphs. Prune layers or "
            "weights of such a model"
        )


def of_its_slots(error: ValueError) -> ValueError:
    """Slots that are made for one number of heads."""
    return ValueError(
        f"a layer of this model cannot have fewer heads than it was made with ({error}): prune "
        "layers or weights of it"
    )
