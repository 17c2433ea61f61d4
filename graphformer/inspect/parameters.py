"""The trained numbers that this library's layers and adapters add, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from graphformer.errors import require
from graphformer.training.parameters import NAMES, own_numbers

if TYPE_CHECKING:
    import pandas


def parameters(model: nn.Module) -> pandas.DataFrame:
    """``alpha`` (sharpening), ``eps`` (GIN's own features), ``lambda`` (an adapter's scale),
    ``amount`` (differential attention's second map), ``tau`` (a trained threshold) and ``delta``
    (PNA's mean degree) of every layer that has one: a row a parameter, its mean where it is one a
    head.

    Raises:
        ValueError: the model has none. MissingExtra: pandas is not installed.
    """
    pandas = require("pandas", extra="viz", why="a table of parameters")
    rows = []
    for name, layer, parameter in own_numbers(model):
        value: Tensor = parameter.detach().double().flatten()
        rows.append(
            {
                "parameter": name,
                "layer": layer,
                "value": float(value.mean()),
                "least": float(value.min()),
                "most": float(value.max()),
                "count": value.numel(),
                "trained": parameter.requires_grad,
            }
        )
    if not rows:
        raise ValueError(f"{type(model).__name__} has none of {', '.join(NAMES.values())}")
    return pandas.DataFrame(rows)
