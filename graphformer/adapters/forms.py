"""The two forms of an adapter: which arguments of a config are whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PAPER, BOTTLENECKS = "paper", "bottlenecks"


@dataclass(frozen=True)
class Form:
    """What one form has of its own.

    Attributes:
        version: of its settings and weights when they are saved.
        own: its arguments; foreign: those of the other form, ``other``.
        defaults: of its own arguments and of shared ones, where they differ from the dataclass's.
    """

    version: int
    own: tuple[str, ...]
    foreign: tuple[str, ...]
    other: str
    defaults: dict[str, Any]


_OF_PAPER = (
    "hidden_dim",
    "depth",
    "threshold",
    "direction",
    "graph",
    "clamp",
    "scale_start",
    "scale_end",
    "train_scale",
    "init_identity",
    "mlp_ratio",
    "hidden_norm",
    "residual",
    "output_norm",
    "self_weight",
    "input_norm",
    "placement",
)
_OF_BOTTLENECKS = ("rank", "rank_pattern", "scaling", "relations", "messages")

FORMS = {
    PAPER: Form(1, _OF_PAPER, _OF_BOTTLENECKS, BOTTLENECKS, {}),
    BOTTLENECKS: Form(
        2,
        _OF_BOTTLENECKS,
        _OF_PAPER,
        PAPER,
        {"rank": 8, "scaling": 2.0, "activation": "silu", "format_version": 2},
    ),
}

MESSAGES = {
    "graph": "per_head",
    "hidden_dim": 4,
    "self_weight": 1.0,
    "output_norm": False,
    "scale_start": 1.0,
    "scale_end": 1.0,
    "train_scale": False,
}
"""What ``messages`` beside bottlenecks have other than the paper's form."""
