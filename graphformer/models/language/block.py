"""A block of the language model: attention, then a feed-forward, each behind a norm."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from graphformer.attention.candidates import Rule
from graphformer.attention.feed_forwards import feed_forward_for
from graphformer.attention.operators import EdgeMessages
from graphformer.attention.relations import Links
from graphformer.graph import AttentionGraph
from graphformer.models.language.attention import make_attention
from graphformer.models.language.configuration import GraphformerConfig
from graphformer.models.language.outputs import one_cache
from graphformer.nn.initial_residual import InitialResidual
from graphformer.nn.memory import Steps
from graphformer.uncompiled import exporting


class GraphformerRMSNorm(nn.RMSNorm):
    """``x / sqrt(mean(x^2) + eps) * weight``, the mean square taken in float32."""

    def forward(self, x: Tensor) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.rms_norm(exact, self.normalized_shape, None, self.eps).to(x.dtype) * self.weight


class GraphformerDecoderLayer(GradientCheckpointingLayer):
    """``h = x + attention(norm(x))``, then ``h + feed_forward(norm(h))``; in layers after the first
    x may be mixed with what the first one was given (``initial_residual``).
    """

    def __init__(self, config: GraphformerConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = make_attention(config, layer_idx)
        self.mlp = feed_forward_for(
            config.layer_feed_forwards[layer_idx],
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.layer_num_heads[layer_idx],
            dropout=config.hidden_dropout,
        )
        if self.mlp.reads_graph and self.self_attn.has_blocks:
            raise ValueError(
                f"feed_forward={self.mlp.name!r} sends messages over the heads' graph, and "
                f"candidates={self.self_attn.candidates} add senders that are no tokens: take "
                "another of one of them in this layer"
            )
        self.input_layernorm = GraphformerRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = GraphformerRMSNorm(
            config.hidden_size, eps=config.rms_norm_eps
        )
        self.dropout = config.hidden_dropout
        self.next_reads = False  # whether the next layer reads this one's graph
        self.later_read = False  # whether later layers read what this one's heads send
        self.initial_residual = None
        if layer_idx and config.initial_residual is not None:
            self.initial_residual = InitialResidual(config.initial_residual)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        first: Tensor | None = None,
        start: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        candidates: Rule | None = None,
        past_key_values: Cache | None = None,
        output_graphs: bool = False,
        cache: Cache | None = None,
        previous: AttentionGraph | None = None,
        links: tuple[Links, ...] | None = None,
        block_ids: Tensor | None = None,
    ) -> Any:
        """``first``, what the first layer's heads sent, and ``start``, what it was given: both
        positional, for that is how gradients pass through a checkpoint.
        """
        layer = self.self_attn
        score = layer.score_slot
        cache = one_cache(cache, past_key_values)
        with_graph = output_graphs or self.next_reads or self.mlp.reads_graph
        if self.mlp.reads_graph and exporting():
            raise ValueError(
                f"feed_forward={self.mlp.name!r} reads edges and cannot be exported: how many "
                "there are is in the data"
            )
        if self.initial_residual is not None and start is not None:
            hidden_states = self.initial_residual(hidden_states, start)
        attended = layer(
            self.input_layernorm(hidden_states),
            attention_mask,
            # else it knows no positions
            position_embeddings=position_embeddings if score.projects else None,
            candidates=candidates,
            past_key_values=cache,
            output_graph=with_graph,
            previous=previous if score.previous else None,
            links=links,
            block_ids=block_ids if layer.reads_block_ids else None,
            first=first if layer.features.reads_first else None,
            output_features=self.later_read,
        )
        graph = sent = None
        if self.later_read:
            *attended, sent = attended
            attended = attended if with_graph else attended[0]
        if with_graph:
            attended, graph = attended  # transformers' output recorder picks it up too
        hidden_states = hidden_states + F.dropout(attended, self.dropout, self.training)
        normed = self.post_attention_layernorm(hidden_states)
        hidden_states = hidden_states + (
            self._over(graph, normed, cache) if self.mlp.reads_graph else self.mlp(normed)
        )
        answer = (
            hidden_states,
            *(graph,) * self.next_reads,
            *(sent,) * self.later_read,
        )
        return answer if len(answer) > 1 else hidden_states

    def _over(self, graph: AttentionGraph | None, normed: Tensor, cache: Cache | None) -> Tensor:
        """A feed-forward with messages over the heads' graph; a cache keeps what past tokens
        sent.
        """
        assert graph is not None
        layer, past = self.self_attn, None
        if cache is not None:
            assert layer.layer_idx is not None
            past = Steps(cache, layer.layer_idx, f"feed_forward={self.mlp.name!r}")
        edges = EdgeMessages(graph, layer.num_heads, layer.backend, past=past)
        return self.mlp(normed, edges)


def for_rotary(config: GraphformerConfig) -> GraphformerConfig:
    """The config as rotary embeddings read it: one number of heads, of which they take nothing but
    the width of one.
    """
    if isinstance(config.num_attention_heads, int):
        return config
    one = copy.deepcopy(config)
    one.num_attention_heads = one.num_key_value_heads = 1
    return one
