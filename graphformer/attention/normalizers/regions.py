"""Weights of a window from what the row thinks of coarse regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from graphformer.attention.normalizers import region_means
from graphformer.attention.normalizers.base import Normalizer
from graphformer.attention.pairs import Block, Listed
from graphformer.errors import whole

if TYPE_CHECKING:
    from graphformer.attention.problem import Problem


class Regions(nn.Module, Normalizer, name="regions"):
    r"""Context-mixing dynamic kernels (OverLoCK's ContMix, arXiv 2502.20087, section 3.3): a
    receiver's affinities with coarse regions make the weights of the nodes around it.

    .. math::
        a_{ir} = \frac{1}{|R_r(i)|} \sum_{j \in R_r(i)} s_{ij}, \qquad
        w_{ij} = \mathrm{softmax}_{c}\Big(b_{hc} + \sum_r a_{ir} W_{hrc}\Big)_{c(i, j)}

    With dot products for scores :math:`a_{ir}` is the one with the mean key of a region, which is
    what runs among all senders up to the receiver (of a text, in a window, packed or padded) or of
    an image (:mod:`~graphformer.attention.normalizers.region_means`); :meth:`weights` is what holds
    for any candidates, and scores every pair.
    ``c(i, j)`` is the sender's place in the receiver's window. Pairs outside it have weight 0; put
    ``sparsify=gf.Threshold(0.0)`` beside it where they should be no edges.

    In a text, region r of a token are the senders ``r * size .. (r + 1) * size - 1`` places behind
    it, the window those less than ``window`` behind: whatever comes later changes nothing, and
    ``candidates={"name": "window", "size": regions * size}`` leaves out what is in no region. Of an
    image, whose pixels stand row by row (``is_causal=False``), regions are a grid of
    ``regions x regions`` cells, the window the ``window x window`` pixels around the receiver.

    Args:
        window: senders of a text, an odd side of an image's window.
        regions: how many; of an image along each side.
        size: tokens of a region; of texts alone.
        shape: rows and columns of the image; None: a text.
        num_heads: H; None: those of the layer.
    """

    def __init__(
        self,
        window: int = 7,
        regions: int = 4,
        size: int | None = None,
        shape: tuple[int, int] | None = None,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.window, self.regions = whole("window", window), whole("regions", regions)
        if shape is not None and size is not None:
            raise ValueError(
                f"size={size} is of a text's regions, and shape={shape} makes those of an image: "
                "give one of them"
            )
        if shape is not None and not window % 2:
            raise ValueError(f"window={window} has no middle: give an odd side for images")
        self.size = window if size is None else whole("size", size)
        self.shape = None if shape is None else tuple(whole("shape", one) for one in shape)
        if num_heads is None:
            return  # for_layer makes it anew, with the layer's heads
        power = 1 if shape is None else 2
        sizes = whole("num_heads", num_heads), self.regions**power, self.window**power
        self.map = nn.Parameter(torch.empty(sizes))
        self.bias = nn.Parameter(torch.empty(sizes[0], sizes[2]))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.normal_(self.map, std=self.map.shape[1] ** -0.5)
        nn.init.zeros_(self.bias)

    def _places(self, pairs: Block | Listed) -> tuple[Tensor, Tensor, Tensor]:
        """A pair's region, its place in the window, and whether it is in there."""
        if self.shape is None:
            behind = pairs.distance
            region = torch.where(behind < 0, -1, behind // self.size)
            return region, behind.clamp(0, self.window - 1), (behind >= 0) & (behind < self.window)
        rows, columns = self.shape
        if pairs.num_senders != rows * columns:
            raise ValueError(
                f"shape={self.shape} is an image of {rows * columns} pixels, and there are "
                f"{pairs.num_senders} senders: give the shape of the images"
            )
        half, position = self.window // 2, pairs.position
        down = pairs.sender // columns - position // columns + half
        right = pairs.sender % columns - position % columns + half
        inside = (down >= 0) & (down < self.window) & (right >= 0) & (right < self.window)
        return (
            self.cell(pairs.sender),
            (down * self.window + right).clamp(0, self.window**2 - 1),
            inside,
        )

    def cell(self, pixel: Tensor) -> Tensor:
        """The region that a pixel of an image lies in."""
        assert self.shape is not None
        rows, columns = self.shape
        row = pixel // columns * self.regions // rows
        return row * self.regions + pixel % columns * self.regions // columns

    def as_softmax(self, problem: Problem) -> Problem | None:
        return region_means.as_softmax(self, problem)

    def weights(self, scores: Tensor, pairs: Block | Listed) -> Tensor:
        region, place, inside = self._places(pairs)
        logits = self.bias.to(scores.dtype)[pairs.head, place]
        for number in range(self.map.shape[1]):
            here = (region == number).to(scores.dtype).expand_as(scores)
            mean = pairs.sum(scores * here) / pairs.sum(here).clamp(min=1)
            logits = logits + mean * self.map[:, number].to(scores.dtype)[pairs.head, place]
        lowest = torch.finfo(scores.dtype).min
        top = pairs.max(torch.where(inside, logits.detach(), lowest))
        # pairs that are no candidates may lie above
        exp = torch.where(inside, (logits - top).clamp(max=0), -torch.inf).exp()
        total = pairs.sum(exp)
        return exp / torch.where(total > 0, total, torch.ones_like(total))

    def extra_repr(self) -> str:
        return f"window={self.window}, regions={self.regions}, size={self.size}, shape={self.shape}"
