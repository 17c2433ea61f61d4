"""The trained numbers that this library's layers and adapters add, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from graphformer.errors import require

if TYPE_CHECKING:
    import pandas

NAMES = {
    "sharpening": "alpha",
    "eps": "eps",
    "sparsegin_scale": "lambda",
    "amount": "amount",
    "tau": "tau",
    "delta": "delta",
}


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
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        own = next((part for part in reversed(parts) if part in NAMES), None)
        if own is None or parameter.ndim > 1:
            continue
        value: Tensor = parameter.detach().double().flatten()
        rows.append(
            {
                "parameter": NAMES[own],
                "layer": ".".join(parts[: parts.index(own)]),
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
