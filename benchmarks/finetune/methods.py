"""The methods that are compared: what each trains, and that they are as large as LoRA."""

from __future__ import annotations

import dataclasses
from typing import Any

import peft
from torch import nn
from transformers import PreTrainedModel

import graphformer as gf
from graphformer.adapters.matching import count_trainable, match_parameters

METHODS = {
    "lora": "LoRA, all linear layers",
    "lora-mlp": "LoRA, feed-forward alone",
    "rslora": "rsLoRA, all linear layers",
    "ia3": "IA3",
    "bottlenecks-linear": "bottlenecks, linear",
    "bottlenecks": "bottlenecks, silu",
    "chain": "bottlenecks, silu, and chain",
    "recurrence": "bottlenecks, silu, and recurrence",
    "relations-linear": "bottlenecks, linear, chain and recurrence",
    "relations": "bottlenecks, silu, chain and recurrence",
    "relations-messages": "the same and messages over the model's graph",
    "sparse-gin": "Sparse-GIN, key to query",
    "sparse-gin-self": "Sparse-GIN, self-loops only",
    "sparse-gin-fixed": "Sparse-GIN, key to query, lambda fixed",
    "sparse-gin-small": "Sparse-GIN, key to query, half as wide",
    "full": "all weights",
}
REFERENCE = "lora"
"""What the others are compared with, seed by seed."""

RELATIONS = [gf.Chain(3), gf.Repeats(1), gf.Repeats(1, "mean"), gf.Repeats(2), gf.Repeats(3)]
BOTTLENECKS: dict[str, dict[str, Any]] = {
    "bottlenecks-linear": {"activation": None, "relations": []},
    "bottlenecks": {"relations": []},
    "chain": {"relations": RELATIONS[:1]},
    "recurrence": {"relations": RELATIONS[1:]},
    "relations-linear": {"activation": None, "relations": RELATIONS},
    "relations": {"relations": RELATIONS},
    "relations-messages": {"relations": RELATIONS, "messages": {"threshold": 0.02}},
}
"""What each variant of the second form says beside its ranks."""

THRESHOLD = 0.2
PAPER: dict[str, dict[str, Any]] = {
    "sparse-gin": {},
    "sparse-gin-self": {"direction": "self"},
    "sparse-gin-fixed": {"train_scale": False, "scale_start": 0.25, "scale_end": 0.25},
    "sparse-gin-small": {},
}
"""What each variant of the paper's form says beside its width. The fixed lambda is the mean of
what a trained one starts from, which is 0 in the first layer (where a fixed one never learns
anything) to 0.5 in the last.
"""


def lora(rank: int, **settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.1,
        **{"target_modules": "all-linear", **settings},
    )


def config(method: str, model: PreTrainedModel, rank: int) -> peft.PeftConfig:
    """The adapter of a method, as large as a LoRA of this rank where its size can be chosen."""
    if method == "lora":
        return lora(rank)
    if method == "rslora":
        return lora(rank, use_rslora=True)
    if method == "ia3":
        return peft.IA3Config(task_type="CAUSAL_LM")
    if method == "lora-mlp":
        wide = {"target_modules": ["gate_proj", "up_proj", "down_proj"]}
        wanted = count_trainable(model, lora(rank))
        return lora(round(wanted / count_trainable(model, lora(1, **wide))), **wide)
    if method in BOTTLENECKS:
        base = gf.SparseGINConfig(
            task_type="CAUSAL_LM", form="bottlenecks", dropout=0.1, **BOTTLENECKS[method]
        )
        return match_parameters(model, lora(rank), base, tolerance=0.01)
    base = gf.SparseGINConfig(task_type="CAUSAL_LM", threshold=THRESHOLD, **PAPER[method])
    matched = match_parameters(model, lora(rank), base)
    if method == "sparse-gin-small":
        return dataclasses.replace(matched, hidden_dim=matched.hidden_dim // 2)
    return matched


def wrap(method: str, model: PreTrainedModel, rank: int) -> nn.Module:
    """The model with what this method trains."""
    if method == "full":
        return model
    return peft.get_peft_model(model, config(method, model, rank))
