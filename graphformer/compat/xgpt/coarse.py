"""The reference's coarse-grained attention, as it is: what was measured of it can be checked, and
its weights can be read one layer at a time.

It is not a layer of this library, because what is wrong with it is not separable from what it
computes (docs/coming-from/xgpt.md, fault 8). Whole models with it are refused.

- :class:`CoarseAttention`: each latent should see its group of tokens, and each token the latent of
  its group. The mask of tokens is cut to latents by its corner, so that latent ``i`` gets the rows
  and columns of token ``i``; without a mask a token sees the later ones of its group.
- :class:`InterpolatedAttention`: the latents' attention should be stretched over the tokens. One
  corner of it is taken, a single weight that is 1, so what is mixed in is a triangle of ones, and
  no parameter of a latent reaches the output.

Masks are added in float32, as in the reference: at -1e9 a score is lost in rounding, and a row that
sees nothing is uniform. Outputs are those of evaluation; attention's dropout is not here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.compat.xgpt.settings import COARSE_ATTENTIONS, Settings
from graphformer.errors import require_known, whole

MASKED = -1e9
OF_LATENTS = ("input_pos_emb", "latent_pos_emb", "latent_array", "decoder_queries")


class CrossAttention(nn.Module):
    """Multi-head attention with an output map, ``[B, Nq, D]`` and ``[B, Nk, D]`` to
    ``[B, Nq, D]``.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q, self.to_k, self.to_v = (
            nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(3)
        )
        self.to_out = nn.Linear(hidden_size, hidden_size)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def weights(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        """Softmax with an additive mask, ``[B, H, Nq, Nk]``."""
        q, k = self.heads(self.to_q(query)), self.heads(self.to_k(key))
        scores = (q @ k.mT * q.shape[-1] ** -0.5).float() + mask
        return scores.softmax(-1).to(q.dtype)

    def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        return self.of_weights(self.weights(query, key, mask), key)

    def of_weights(self, weights: Tensor, value: Tensor) -> Tensor:
        out = weights @ self.heads(self.to_v(value))
        return self.to_out(out.transpose(1, 2).flatten(2))


class LatentLayer(nn.Module):
    """A transformer block on the latents."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = CrossAttention(hidden_size, num_heads)
        self.norm1, self.norm2 = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        wide = 4 * hidden_size
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, wide), nn.GELU(), nn.Linear(wide, hidden_size)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x), self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class CoarseLevel(nn.Module):
    """One level of latents: tokens to latents, latents among themselves, latents to tokens."""

    def __init__(self, hidden_size: int, num_heads: int, latents: int, layers: int, longest: int):
        super().__init__()
        self.latents, self.longest = latents, longest
        for name, length in zip(OF_LATENTS, (longest, latents, latents, longest), strict=True):
            value = torch.randn(1, length, hidden_size) / hidden_size**0.5
            self.register_parameter(name, nn.Parameter(value))
        self.input_to_latent = CrossAttention(hidden_size, num_heads)
        self.latent_transformer = nn.ModuleList(
            LatentLayer(hidden_size, num_heads) for _ in range(layers)
        )
        self.latent_to_output = CrossAttention(hidden_size, num_heads)
        self.norm1, self.norm2 = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.final_norm = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, _ = x.shape
        token = torch.arange(length, device=x.device)
        group = token // (self.longest // self.latents)
        apart = group != torch.arange(self.latents, device=x.device).unsqueeze(-1)
        apart = apart.float() * MASKED  # [latents, N]
        x = x + 2 * self.input_pos_emb[:, :length]  # type: ignore[index]
        start = (self.latent_array + self.latent_pos_emb).expand(batch, -1, -1)  # type: ignore[operator]
        z = self.input_to_latent(
            self.norm1(start), self.norm2(x), apart + corner(mask, self.latents, length)
        )
        later = torch.full((self.latents, self.latents), MASKED, device=x.device).triu(1)
        for layer in self.latent_transformer:
            z = layer(z, later)
        queries = self.decoder_queries[:, :length].expand(batch, -1, -1)  # type: ignore[index]
        mask = apart.mT + corner(mask, length, self.latents)
        return self.latent_to_output(queries, self.final_norm(z), mask)


def corner(mask: Tensor | None, rows: int, columns: int) -> Tensor | float:
    """The upper left corner of a mask of tokens, -1e9 where it ends: what the reference takes for a
    mask between latents and tokens.
    """
    if mask is None:
        return 0.0
    cut = mask[..., :rows, :columns]
    more = (0, columns - cut.shape[-1], 0, rows - cut.shape[-2])
    return F.pad(cut, more, value=MASKED)


def check_sizes(hidden_size: int, num_heads: int) -> None:
    whole("hidden_size", hidden_size)
    whole("num_heads", num_heads)


class CoarseAttention(nn.Module):
    """``CG_Attention``: ``sum_l (x + P_l level_l(x))``.

    Args:
        hidden_size, num_heads: of the model.
        settings: ``num_latents_list``, ``num_latent_layers``, ``max_position_embeddings``.

    Shape: ``[B, N, hidden_size]`` to the same, N at most ``max_position_embeddings``.
    """

    def __init__(self, settings: Settings, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        check_sizes(hidden_size, num_heads)
        sizes = settings.num_latent_layers, settings.max_position_embeddings
        self.longest = settings.max_position_embeddings
        self.perceiver_layers = nn.ModuleList(
            CoarseLevel(hidden_size, num_heads, latents, *sizes)
            for latents in settings.num_latents_list
        )
        self.level_projections = nn.ModuleList(
            nn.Linear(hidden_size, hidden_size) for _ in settings.num_latents_list
        )

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """``keep``: bool ``[B or 1, 1, N, N]``, true where a query may attend to a key."""
        if x.shape[1] > self.longest:
            raise ValueError(
                f"x has {x.shape[1]} tokens, and max_position_embeddings is {self.longest}"
            )
        mask = None
        if keep is not None:
            mask = (~keep).float() * torch.finfo(torch.float32).min
        levels = zip(self.perceiver_layers, self.level_projections, strict=True)
        return sum((x + project(level(x, mask)) for level, project in levels), torch.zeros_like(x))


class InterpolatedLevel(nn.Module):
    """What is left of a level: causal attention, mixed with a triangle of ones."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.mix_weights = nn.Parameter(torch.ones(1))
        self.sequence_self_attention = CrossAttention(hidden_size, num_heads)
        self.norm1, self.final_norm = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        x, length = self.norm1(x), x.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        later = (~before).float() * MASKED
        ones = (before if keep is None else before & keep).to(x.dtype)
        weights, mix = ones, self.mix_weights
        if mix > 0:
            own = self.sequence_self_attention.weights(x, x, later)
            weights = mix * own + (1 - mix) * ones
            weights = (weights / (weights.sum(-1, keepdim=True) + 1e-9)).tril()
        return self.final_norm(self.sequence_self_attention.of_weights(weights, x))


class InterpolatedAttention(nn.Module):
    """``CG_Attention_Interpolate``: ``x + sum_l (x + P_l level_l(x))``. Arguments as
    :class:`CoarseAttention`.
    """

    def __init__(self, settings: Settings, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        check_sizes(hidden_size, num_heads)
        self.perceiver_layers = nn.ModuleList(
            InterpolatedLevel(hidden_size, num_heads) for _ in settings.num_latents_list
        )
        self.level_projections = nn.ModuleList(
            nn.Linear(hidden_size, hidden_size) if settings.use_projection else nn.Identity()
            for _ in settings.num_latents_list
        )

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """As of :class:`CoarseAttention`."""
        levels = zip(self.perceiver_layers, self.level_projections, strict=True)
        return sum((x + project(level(x, keep)) for level, project in levels), x)


UNREAD = (*OF_LATENTS, "input_to_latent.", "latent_transformer.", "norm2.")
"""Parameters of the interpolating variant that no output depends on."""


def load_coarse_attention(
    settings: Settings, state: Mapping[str, Tensor], *, hidden_size: int, num_heads: int
) -> CoarseAttention | InterpolatedAttention:
    """One of the reference's two coarse-grained attentions with its weights, in evaluation mode.

    Raises:
        ValueError: settings of another attention. RuntimeError: parameters that are missing, of
            another shape, or of an unknown name.
    """
    kind = settings.use_GNN_from_attention
    require_known("use_GNN_from_attention", kind, COARSE_ATTENTIONS)
    if kind == "CG_Attention":
        layer: CoarseAttention | InterpolatedAttention
        layer = CoarseAttention(settings, hidden_size, num_heads)
        read = dict(state)
    else:
        layer = InterpolatedAttention(settings, hidden_size, num_heads)
        read = {
            name: value
            for name, value in state.items()
            if not name.partition("perceiver_layers.")[2].partition(".")[2].startswith(UNREAD)
        }
    layer.load_state_dict(read)
    return layer.eval()
