"""Adapters of equal size, for fair comparisons."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import peft
from transformers import PreTrainedModel

from graphformer.adapters.bottlenecks import linears, plan, ranks
from graphformer.adapters.config import SparseGINConfig
from graphformer.adapters.forms import BOTTLENECKS


def count_trainable(model: PreTrainedModel, config: peft.PeftConfig) -> int:
    """Trainable parameters of ``peft.get_peft_model(model, config)``; the adapter is taken off
    again, and the model is as it was.
    """
    if getattr(model, "peft_config", None) is not None:
        raise ValueError(
            f"model has an adapter already ({', '.join(model.peft_config)}): give the base model"
        )
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    wrapped = peft.get_peft_model(model, copy.deepcopy(config))
    try:
        return sum(
            parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad
        )
    finally:
        wrapped.unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])


def match_parameters(
    model: PreTrainedModel,
    like: peft.PeftConfig,
    config: SparseGINConfig | None = None,
    *,
    tolerance: float = 0.02,
) -> SparseGINConfig:
    """An adapter with as many trainable parameters as another adapter has on this model: of the
    paper's form by its ``hidden_dim``, of bottlenecks by their ``rank`` and ``rank_pattern``.

    >>> lora = peft.LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
    >>> gf.match_parameters(model, lora)

    Args:
        model: the base model, before any adapter.
        like: the other adapter's config.
        config: the config whose ``hidden_dim``, or ranks, are chosen; the default one unless given.
        tolerance: largest relative difference.

    Raises:
        ValueError: no whole ``hidden_dim``, or no ranks, come that close (the text says how close,
            and what to change).
    """
    wanted = count_trainable(model, like)
    config = SparseGINConfig(task_type=like.task_type) if config is None else config
    if config.form == BOTTLENECKS:
        return _with_ranks(model, config, wanted, tolerance)

    def size(hidden_dim: int) -> int:
        return count_trainable(
            model, dataclasses.replace(copy.deepcopy(config), hidden_dim=hidden_dim)
        )

    # A polynomial of second degree in the width, but for rounding in mlp_ratio, and for the width
    # of the stream itself: there the projections fall away, so it is left out.
    hidden = model.config.get_text_config().hidden_size
    samples = [width for width in (8, 16, 24, 32) if width != hidden][:3]
    square, linear, constant = np.polyfit(samples, [size(width) for width in samples], 2)
    roots = np.roots([square, linear, constant - wanted])
    guess = max(1, round(float(roots.real.max())))
    nearby = [width for width in range(max(1, guess - 2), guess + 3) if width != hidden]
    best = min(nearby, key=lambda width: abs(size(width) - wanted))
    if abs(size(best) - wanted) > tolerance * wanted:
        raise ValueError(
            f"no hidden_dim gives {wanted:,} parameters within {tolerance:.0%}: the nearest, "
            f"{best}, gives {size(best):,}; change the other adapter's size, depth or mlp_ratio, "
            "or give a larger tolerance"
        )
    return dataclasses.replace(copy.deepcopy(config), hidden_dim=best)


def _with_ranks(
    model: PreTrainedModel, config: SparseGINConfig, wanted: int, tolerance: float
) -> SparseGINConfig:
    """The config with ranks for each kind of bottleneck."""
    if config.rank_pattern:
        raise ValueError(
            f"rank_pattern={config.rank_pattern} is what match_parameters chooses: leave it out"
        )
    least = dataclasses.replace(copy.deepcopy(config), rank=1)
    made = plan.make(copy.deepcopy(least), model, linears.examine(model))
    kinds = ranks.kinds(made)
    rest = count_trainable(model, least) - sum(kind.cost for kind in kinds)
    found = ranks.choose(kinds, wanted - rest)
    got = rest + sum(kind.cost * rank for kind, rank in zip(kinds, found, strict=True))
    if abs(got - wanted) > tolerance * wanted:
        raise ValueError(
            f"no ranks give {wanted:,} parameters within {tolerance:.0%}: the nearest give "
            f"{got:,}, of which {rest:,} are no bottleneck's; change the other adapter's size, "
            "relations or messages, or give a larger tolerance"
        )
    usual = max(set(found), key=lambda rank: (found.count(rank), rank))
    pattern = {kind.name: rank for kind, rank in zip(kinds, found, strict=True) if rank != usual}
    return dataclasses.replace(copy.deepcopy(config), rank=usual, rank_pattern=pattern or None)
