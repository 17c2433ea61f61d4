"""Weights that still stand under the masks of pruning: no model without a Pruner means them."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = re.compile(
    r"(^|\.)(pruning\.(heads|layers|widths)\.\d+|parametrizations\.weight\.\d+)\.kept$"
)


def refuse_masks(where: object, names: Iterable[str]) -> None:
    """ValueError where some of the names of a file's tensors are those of a
    :class:`~graphformer.training.Pruner`'s masks: the weights beside them are of heads, layers and
    connections that are cut, and would be there again.

    Args:
        where: what the message calls the file or folder.
    """
    found = sorted(name for name in names if MASK.search(name))
    if found:
        raise ValueError(
            f"{str(where)!r} holds a model under the masks of its Pruner ({found[0]} and "
            f"{len(found) - 1} more), and what they cut would be back without them: save "
            "pruner.export() instead, at the end of the script that trained it (resumed, a "
            "finished run brings model and masks back), and open that"
        )
