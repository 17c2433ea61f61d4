"""One run: the same loop for every row."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import graphformer as gf
from benchmarks.paper.data import Batch, Texts
from benchmarks.paper.settings import Scale
from benchmarks.paper.starts import STARTS
from graphformer.training import evaluate


def run(
    config: gf.GraphformerConfig,
    texts: Texts,
    scale: Scale,
    rate: float,
    seeds: tuple[int, int],
    start: str | None = None,
) -> dict[str, Any]:
    """Train a model and evaluate it in the end of each round, in nats a token.

    Args:
        seeds: of the weights, and of the order of the data (and of dropout). Rows of the same
            second seed see the same batches.
        start: how the initial weights are changed.
    """
    weights, data = seeds
    transformers.set_seed(weights)
    model = gf.GraphformerForCausalLM(config)
    if start is not None:
        STARTS[start](model)
    transformers.set_seed(data)  # dropout: rows draw different numbers of weights before it
    optimizer = torch.optim.AdamW(
        _groups(model, scale.weight_decay), lr=rate, betas=scale.betas, foreach=True
    )
    order = texts.order(data, scale.batch, scale.steps)
    curve: list[dict[str, float]] = []
    alphas: list[list[float]] = [_sharpening(model)]
    seconds, step, flops = 0.0, 0, None
    for number in range(1, scale.rounds + 1):
        batches = next(order)
        total = len(batches) * scale.rounds
        if flops is None:
            flops = step_flops(model, batches[0])
        model.train()
        began = time.process_time()
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = rate * _factor(step, total, scale)
            loss = model(**batch, use_cache=False).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), scale.clip)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
        seconds += time.process_time() - began
        parts = {"train": texts.seen, "validation": texts.validation, "test": texts.test}
        found = {part: evaluate(model, one, 64).loss_nats_per_token for part, one in parts.items()}
        if not math.isfinite(found["validation"]):
            raise ValueError(f"rate {rate:g}: the loss is no longer finite in round {number}")
        curve.append({"round": number, "step": step, **{k: round(v, 6) for k, v in found.items()}})
        alphas.append(_sharpening(model))
    return {
        "parameters": model.num_parameters(),
        "curve": curve,
        "sharpening": alphas if alphas[0] else None,
        "cpu_seconds_per_step": round(seconds / step, 5),
        "flops_per_step": flops,
    }


def step_flops(model: nn.Module, batch: Batch) -> int:
    """Multiplications and additions of the matrix products of a forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        model(**batch, use_cache=False).loss.backward()
    model.zero_grad()
    return counter.get_total_flops()


def _factor(step: int, total: int, scale: Scale) -> float:
    """The part of the rate at a step: it rises linearly, then stays or falls to a tenth."""
    if step < scale.warmup:
        return (step + 1) / (scale.warmup + 1)
    if scale.schedule == "constant":
        return 1.0
    done = (step - scale.warmup) / max(total - scale.warmup, 1)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay of all that has two dimensions or more, vectors of heads ``[H, 1, d]`` too."""
    matrices = [one for one in model.parameters() if one.ndim > 1]
    others = [one for one in model.parameters() if one.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _sharpening(model: nn.Module) -> list[float]:
    """The trained sharpening of each layer."""
    return [
        round(float(value.detach()), 4)
        for name, value in model.named_parameters()
        if name.endswith("sharpening")
    ]
