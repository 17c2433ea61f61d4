"""Edges by a trained mask."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.attention.pairs import Block, Listed
from graphformer.attention.sparsifiers.base import Sparsifier
from graphformer.errors import number, strict_flags, whole

MILLION = 1_000_000


class EdgeMask(nn.Module, Sparsifier, name="edge_mask"):
    r"""A share of each row's edges, chosen by a trained mask of features of the pair.

    .. math::
        m_{ij} = a_h \log w_{ij} - c_h \log(1 + |i - j|) + b_h, \qquad
        z_{ij} = \sigma\big((\log u_{ij} - \log(1 - u_{ij}) + m_{ij}) / T\big)

    A row of n candidates keeps the ``ceil((1 - sparsity) n)`` of largest m, at least one. While it
    trains, what is kept has the weight :math:`w_{ij} z_{ij}`, the relaxed Bernoulli variable with
    logits m (binary concrete, arXiv 1611.00712), which is how a, b and c learn; else its own weight
    :math:`w_{ij}`, and the mask is hard. The mask of input graphs is one of the four of the pruning
    framework GTSP (arXiv 2312.05479); :class:`graphformer.training.Pruner` has the others, and
    raises ``sparsity`` by its schedule.

    :math:`u_{ij}` is a function of the pair's numbers and the buffer ``draw``, so executors agree
    and a step that is computed twice is the same. A Pruner draws anew in each step; where
    ``draw`` is 0, u is 1/2.

    Args:
        sparsity: share of a row's candidates that is cut at first; then the buffer
            ``millionths``, which :meth:`set_sparsity` sets, and which is saved with the model.
        temperature: T.
        distances: whether :math:`|i - j|` is read, which only the tokens of a text have.
        num_heads: H; None: those of the layer.
    """

    reweighs = True
    millionths: Tensor
    draw: Tensor
    hard: Tensor

    @strict_flags
    def __init__(
        self,
        sparsity: float = 0.5,
        temperature: float = 0.5,
        *,
        distances: bool = True,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= number("sparsity", sparsity) < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")
        self.temperature = number("temperature", temperature, above=0.0)
        self.initial_sparsity = float(sparsity)
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        whole("num_heads", num_heads)
        self.slope = nn.Parameter(torch.ones(num_heads))
        self.shift = nn.Parameter(torch.zeros(num_heads))
        self.nearness = nn.Parameter(torch.zeros(num_heads)) if distances else None
        # whole, so that it stays exact in a model of half precision
        self.register_buffer("millionths", torch.zeros((), dtype=torch.int64))
        self.register_buffer("draw", torch.zeros((), dtype=torch.int64))
        self.register_buffer("hard", torch.zeros((), dtype=torch.bool))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.ones_(self.slope)
        # a row's largest weights are near 1, and so is their mask
        nn.init.constant_(self.shift, 4.0)
        if self.nearness is not None:
            nn.init.zeros_(self.nearness)
        self.set_sparsity(self.initial_sparsity)
        self.draw.zero_()
        self.hard.zero_()

    def set_sparsity(self, share: float) -> None:
        """The share of a row's candidates that is cut from now on, to a millionth."""
        self.millionths.fill_(round(share * MILLION))

    def logits(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        """m, of the weights' shape."""
        tiny = torch.finfo(weights.dtype).tiny
        found = pairs.of_head(self.slope) * weights.abs().clamp(min=tiny).log()
        found = found + pairs.of_head(self.shift)
        if self.nearness is not None:
            found = found - pairs.of_head(self.nearness) * pairs.distance.abs().log1p()
        return found.to(weights.dtype)

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        with torch.no_grad():
            cut = torch.div(pairs.count() * self.millionths, MILLION, rounding_mode="floor")
            left = (pairs.count() - cut).clamp(min=1)
            return pairs.highest(self.logits(weights, pairs), left)

    def refine(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        if not self.training:
            return weights
        logits = self.logits(weights, pairs)
        noise = self.noise(pairs).to(logits.dtype)
        relaxed = ((noise + logits) / self.temperature).sigmoid()
        return torch.where(self.hard, weights, weights * relaxed)

    def noise(self, pairs: Block | Listed) -> Tensor:
        """``log u - log(1 - u)`` of pairs; 0 where nothing was drawn."""
        mixed = self.draw.expand(pairs.shape)
        for one in (pairs.sequence, pairs.head, pairs.position, pairs.sender):
            mixed = _mixed(mixed * 31 + one)
        u = (mixed.bitwise_and(2**24 - 1).double() + 0.5) / 2**24
        return torch.where(self.draw == 0, torch.zeros_like(u), torch.logit(u))

    def extra_repr(self) -> str:
        return f"sparsity={self.initial_sparsity}, temperature={self.temperature}"


def _mixed(x: Tensor) -> Tensor:
    """Bits of int64 stirred (the finalizer of MurmurHash3); products wrap around."""
    x = (x ^ (x >> 33)) * -0x00AE502812AA7333
    x = (x ^ (x >> 33)) * -0x3B314601E57A13AD
    return x ^ (x >> 33)
