"""What the layers of this package are measured against: plain attention, and the materialised forms
of published code.

The naive forms take over the parameters of a layer of this package, so that both compute the same
numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphformer as gf


class PlainAttention(nn.Module):
    """Causal multi-head attention on torch's own kernel: the neutral baseline."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class NaiveLayer(nn.Module):
    """The whole softmax matrix, then head after head."""

    def __init__(self, layer: gf.nn.GINAttention | gf.nn.PNAAttention) -> None:
        super().__init__()
        self.layer = layer
        mlp = layer.operator.mlp
        self.mlps = nn.ModuleList()
        for head in range(layer.num_heads):
            width, hidden = mlp.weight1.shape[1:]
            bias = mlp.bias1 is not None
            first, second = (
                nn.Linear(width, hidden, bias),
                nn.Linear(hidden, mlp.weight2.shape[2], bias),
            )
            norm = nn.Identity() if mlp.norm is None else nn.RMSNorm(hidden, mlp.eps)
            with torch.no_grad():
                first.weight.copy_(mlp.weight1[head].T)
                second.weight.copy_(mlp.weight2[head].T)
                if bias:
                    first.bias.copy_(mlp.bias1[head, 0])
                    second.bias.copy_(mlp.bias2[head, 0])
            self.mlps.append(nn.Sequential(first, norm, nn.SiLU(), second))

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax weights ``[B, H, N, N]`` and what is kept of them."""
        q, k = (
            p(x).unflatten(-1, (self.layer.num_heads, -1)).transpose(1, 2)
            for p in (self.layer.q_proj, self.layer.k_proj)
        )
        scores = q @ k.transpose(-1, -2) / self.layer.head_dim**0.5 * self.layer.sharpening
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        keep = (
            allowed.expand_as(weights)
            if self.layer.sparsify is None
            else weights > self.layer.sparsify.tau
        )
        return weights * keep, keep


class NaiveGIN(NaiveLayer):
    """``MLP_h(eps_h x_i + sum_j A_ij x_j)``."""

    def forward(self, x: Tensor) -> Tensor:
        weights, _ = self.weights(x)
        features = x.unflatten(-1, (self.layer.num_heads, -1)).transpose(1, 2)
        heads = []
        for head, mlp in enumerate(self.mlps):
            own = features[:, head]
            heads.append(mlp(self.layer.operator.eps[head] * own + weights[:, head] @ own))
        return torch.cat(heads, dim=-1)


class NaivePNA(NaiveLayer):
    """Values expanded over the queries, ``[B, N, N, d]`` a head, and reduced over the senders."""

    def forward(self, x: Tensor) -> Tensor:
        weights, keep = self.weights(x)
        values = self.layer.v_proj(x).unflatten(-1, (self.layer.num_heads, -1)).transpose(1, 2)
        heads = []
        for head, mlp in enumerate(self.mlps):
            w, kept = weights[:, head].unsqueeze(-1), keep[:, head].unsqueeze(-1)
            # [B, receivers, senders, d]
            v = values[:, head].unsqueeze(1).expand(-1, x.shape[1], -1, -1)
            degree = kept.sum(2)
            total = w.sum(2).masked_fill(degree == 0, 1.0)
            added = (w * v).sum(2)
            mean = added / total
            var = (w * (v - mean.unsqueeze(2)) ** 2).sum(2) / total
            std = torch.where(var > 1e-10, torch.where(var > 1e-10, var, 1.0).sqrt(), 0.0)
            largest = v.masked_fill(~kept, -torch.inf).amax(2).masked_fill(degree == 0, 0.0)
            smallest = v.masked_fill(~kept, torch.inf).amin(2).masked_fill(degree == 0, 0.0)
            stacked = torch.cat((added, mean, largest, smallest, std), -1)
            up = (degree + 1).log() / self.layer.operator.delta
            down = up.masked_fill(degree == 0, 1.0).reciprocal().masked_fill(degree == 0, 0.0)
            heads.append(mlp(torch.cat((stacked, stacked * up, stacked * down), -1)))
        return self.layer.o_proj(torch.cat(heads, dim=-1))
