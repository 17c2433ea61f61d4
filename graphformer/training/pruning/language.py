"""Language models, to be pruned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphformer.models.language import GraphformerConfig, GraphformerForCausalLM
from graphformer.training.pruning.kinds import Kind, Left, Site

BY_LAYER = ("operator", "head", "feed_forward")
PROBE = 11
"""Tokens of the text on which two models are compared."""


class Language(Kind):
    """A :class:`~graphformer.GraphformerForCausalLM`; the layers of a smaller one may have
    different numbers of heads.
    """

    parts = ("heads", "layers", "widths", "weights", "edges")
    even = False

    def __init__(self, model: GraphformerForCausalLM, example: Any = None) -> None:
        super().__init__(model, example)
        if example is not None:
            raise ValueError(
                "example is for graph models: a language model is compared on random tokens; leave "
                "it out"
            )
        self.sites = []
        for i, block in enumerate(model.model.layers):
            layer: Any = block.self_attn
            prefix, width = f"model.layers.{i}.", layer.num_heads * layer.head_dim
            found = layer, block.mlp, layer.num_heads, layer.num_kv_heads, width
            self.sites.append(Site(f"layer {i}", prefix, block, *found))

    @property
    def precision(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    def check(self, targets: dict[str, float]) -> None:
        super().check(targets)
        reading = [one.name for one in self.sites if one.attention.score_slot.previous]
        if targets["layers"] and reading:
            raise ValueError(
                f"layers: {reading[0]} reads the graph of the layer before, which may be cut: "
                "prune heads or weights"
            )

    def smaller(self, depths: Sequence[int], heads: Left, widths: Left) -> GraphformerForCausalLM:
        config = smaller_config(self.model.config, depths, heads, widths)
        return GraphformerForCausalLM(config).to(device=self.device, dtype=self.precision)

    def finished(self, small: GraphformerForCausalLM) -> None:
        small.tie_weights()
        small.generation_config = copy.deepcopy(self.model.generation_config)

    def answers(self, model: GraphformerForCausalLM) -> list[Tensor]:
        """Logits of a text of random tokens."""
        length = min(PROBE, model.config.max_position_embeddings)
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(model.config.vocab_size, (1, length), generator=draw).to(model.device)
        given = {"block_ids": torch.arange(length, device=model.device)[None] // 3}
        more: dict[str, Any] = given if model.model.reads_block_ids else {}
        return [model(ids, **more).logits]


def smaller_config(
    config: GraphformerConfig, depths: Sequence[int], heads: Left, widths: Left
) -> GraphformerConfig:
    """The config of the layers, heads and hidden units that are left."""
    plain: dict[str, Any] = copy.deepcopy(config).to_dict()
    for name in BY_LAYER:
        if isinstance(plain[name], (list, tuple)):
            plain[name] = [plain[name][i] for i in depths]
    numbers = [config.layer_num_heads[i] for i in depths]
    kv_numbers = [config.layer_num_key_value_heads[i] for i in depths]
    for i, one in enumerate(heads):
        if one is not None:
            group = numbers[i] // kv_numbers[i]
            kv_numbers[i], numbers[i] = len(one), group * len(one)
    plain |= {
        "num_hidden_layers": len(depths),
        "num_attention_heads": _one_or_all(numbers),
        "num_key_value_heads": _one_or_all(kv_numbers),
        "head_dim": config.head_dim,
    }
    if widths[0] is not None:
        plain["intermediate_size"] = len(widths[0])
    return GraphformerConfig(**plain)


def _one_or_all(numbers: list[int]) -> int | list[int]:
    return numbers[0] if len(set(numbers)) == 1 else numbers
