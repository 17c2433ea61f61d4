"""Windows, blocks and halos along one, two or three axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.attention.candidates.base import Rule
from graphformer.attention.pairs import Pairs
from graphformer.errors import whole

Axes = int | Sequence[int]


@dataclass(frozen=True)
class Neighborhood(Rule, name="neighborhood"):
    r"""Generalized neighbourhood attention (arXiv 2504.16922, section 3).

    Along each axis receivers stand in groups of ``stride``, and all of a group see the ``window``
    positions, every ``dilation``-th one, around their group's centre:

    .. math::
        t_j = \lfloor t_i / s \rfloor s + \lfloor s / 2 \rfloor
              + (m - \lfloor w / 2 \rfloor)\, \delta, \qquad m = 0, \dots, w - 1,

    on every axis at once. Stride 1 is a sliding window (NAT), dilation its sparse form (DiNAT),
    ``stride = window`` is attention in blocks (Swin without its shift), and ``stride=b,
    window=b + 2h`` is HaloNet's block with a halo (arXiv 2103.12731). Windows are cut at borders
    and not shifted, so that no row depends on the total length.

    Attributes:
        window, stride, dilation: one number, or one an axis.
        shape: sizes of two or more axes, of which tokens are the row-major order; None: one axis of
            any length.
    """

    same_heads = True
    window: Axes
    stride: Axes = 1
    dilation: Axes = 1
    shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        shape = None if self.shape is None else tuple(whole("shape", one) for one in self.shape)
        object.__setattr__(self, "shape", shape)
        axes = 1 if shape is None else len(shape)
        for name in ("window", "stride", "dilation"):
            value = getattr(self, name)
            given = (value,) * axes if isinstance(value, int) else tuple(value)
            if len(given) != axes:
                raise ValueError(
                    f"{name}={value} has {len(given)} numbers and there are {axes} axes: "
                    f"shape={self.shape}"
                )
            for one in given:
                whole(name, one)
            object.__setattr__(self, name, value if isinstance(value, int) else given)

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        """Groups count from the beginning; with a ``shape`` there are places for all, and no
        padding.
        """
        return self.shape is None and self._each("stride") != (1,)

    def _each(self, name: str) -> tuple[int, ...]:
        value = getattr(self, name)
        axes = 1 if self.shape is None else len(self.shape)
        return (value,) * axes if isinstance(value, int) else tuple(value)

    def _strides(self) -> tuple[int, ...]:
        """How many tokens lie between neighbours along each axis."""
        shape = self.shape or (1,)
        return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))

    def allow(self, pairs: Pairs) -> Tensor:
        allowed = torch.ones((), dtype=torch.bool, device=pairs.sender.device)
        settings = zip(
            self._strides(),
            *(self._each(name) for name in ("window", "stride", "dilation")),
            strict=True,
        )
        for axis, (step, window, stride, dilation) in enumerate(settings):
            own, other = (self._along(axis, step, one) for one in (pairs.position, pairs.sender))
            group = torch.div(own, stride, rounding_mode="floor")
            offset = other - (group * stride + stride // 2 - window // 2 * dilation)
            inside = (offset >= 0) & (offset < window * dilation) & (offset % dilation == 0)
            allowed = allowed & inside
        return allowed

    def _along(self, axis: int, step: int, place: Tensor) -> Tensor:
        if self.shape is None:
            return place
        return torch.div(place, step, rounding_mode="floor") % self.shape[axis]

    def check(self, batch: int, heads: int, num_receivers: int, num_senders: int) -> None:
        if self.shape is not None and math.prod(self.shape) != num_senders:
            raise ValueError(
                f"shape={tuple(self.shape)} has {math.prod(self.shape)} places, and there are "
                f"{num_senders} senders"
            )

    def reach(self, rows: range, num_receivers: int, num_senders: int) -> range:
        """Bounded by the first axis, along which rows follow each other."""
        step = self._strides()[0]
        window, stride, dilation = (self._each(one)[0] for one in ("window", "stride", "dilation"))
        behind = num_senders - num_receivers
        first, last = ((row + behind) // step // stride for row in (rows.start, rows.stop - 1))
        shift = stride // 2 - window // 2 * dilation
        start = max(0, (first * stride + shift) * step)
        stop = (last * stride + shift + (window - 1) * dilation + 1) * step
        start = min(start, num_senders)
        return range(start, max(start, min(num_senders, stop)))
