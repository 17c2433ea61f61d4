"""Which labels of a PyG ``Data`` or ``Batch`` count: its masks, and the seeds of its neighbour
loaders.

==================== ===============================================================================
the data hold        labels that count
==================== ===============================================================================
no mask              all
``train_mask``       those it marks, where the network is in training mode
``val_mask``         those it marks, in evaluation mode; ``test_mask`` where there is no
                     ``val_mask``
``n_id``, seeds      of NeighborLoader: the seeds, the first ``batch_size`` nodes; while training
                     only those that ``train_mask`` marks
==================== ===============================================================================

``mask=`` says otherwise: the name of any mask in the data, a bool tensor, or ``"all"``. Masks are
bool, one entry for each row of a target.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MASKS = ("train_mask", "val_mask", "test_mask")

Mask = str | Tensor | None


def masked_place(places: Iterable[str]) -> str:
    """What masks speak of: nodes where nodes are a target, else edges, else graphs."""
    held = set(places)
    return next(place for place in ("node", "edge", "graph") if place in held)


def held_masks(data: Any) -> list[str]:
    """The names of the masks that the data hold."""
    return [name for name in MASKS if data.get(name) is not None]


def num_rows(data: Any, place: str) -> int:
    """How many nodes, edges (the pairs that are asked for, where they are) or graphs there are."""
    if place == "node":
        return int(data.num_nodes)
    if place == "edge":
        asked = data.get("edge_label_index")
        return int(data.num_edges if asked is None else asked.shape[1])
    batch, ptr = data.get("batch"), data.get("ptr")
    if ptr is not None:
        return len(ptr) - 1
    return 1 if batch is None or not len(batch) else int(batch.max()) + 1


def num_seeds(data: Any) -> int | None:
    """How many seeds a batch of NeighborLoader starts with; None for other data."""
    seeds = (
        data.get("batch_size")
        if data.get("input_id") is not None or data.get("n_id") is not None
        else None
    )
    return None if seeds is None else int(seeds)


def counted(
    data: Any, place: str, rows: int, *, training: bool, mask: Mask = None
) -> Tensor | None:
    """Bool ``[rows]``, which rows of a target's labels count; None for all.

    Raises:
        ValueError: a mask that the data do not hold, one of several splits, or one that does not
            fit the target; ``train_mask`` missing while training on data with other masks.
        TypeError: a mask that is not bool.
    """
    seeds = num_seeds(data)
    if seeds is not None and place == "edge" and data.get("edge_label_index") is None:
        raise ValueError(
            f"this batch holds {seeds} seed nodes of NeighborLoader, and the target is of edges: "
            "which of them count is not known; take LinkNeighborLoader, which samples edges"
        )
    keep = (
        _asked(data, place, rows, mask)
        if mask is not None
        else _by_mode(data, place, rows, training, seeds)
    )
    if seeds is not None and place == "node":
        is_seed = torch.arange(rows) < seeds
        keep = is_seed if keep is None else keep & is_seed.to(keep.device)
    return keep


def without_uncounted(y: Tensor, keep: Tensor | None, width: int, classes: bool) -> Tensor:
    """Labels of ``len(keep)`` rows, those that do not count turned into missing ones: NaN, of
    classes -1.
    """
    if keep is None or bool(keep.all()):
        return y
    if y.numel() not in (len(keep), len(keep) * width):
        return y  # told where the labels meet the predictions
    if not y.is_floating_point():
        y = y.long() if classes else y.double()
    keep = keep.to(y.device)
    each = keep if y.numel() == len(keep) else keep.repeat_interleave(width)
    return torch.where(each.reshape(y.shape), y, -1 if not y.is_floating_point() else torch.nan)


def undecided(data: Any, *, training: bool, mask: Mask = None) -> str:
    """Why it is not known which labels count in this mode, with the remedy; empty where it is
    known.
    """
    held = held_masks(data)
    wanted = ("train_mask",) if training else ("val_mask", "test_mask")
    if (
        mask is not None
        or not held
        or set(wanted) & set(held)
        or (num_seeds(data) is not None and not training)
    ):
        return ""
    return (
        f"the data hold {', '.join(held)} and no {' or '.join(wanted)}, so which labels count in "
        f"{'training' if training else 'evaluation'} mode is not known; say so: mask={held[0]!r}, "
        "or mask='all'"
    )


def _asked(data: Any, place: str, rows: int, mask: Mask) -> Tensor | None:
    if isinstance(mask, Tensor):
        return _checked("mask", mask, place, rows)
    if not isinstance(mask, str):
        raise TypeError(
            f"mask must be 'all', the name of a mask of the data or a bool tensor, got {mask!r}"
        )
    if mask == "all":
        return None
    value = data.get(mask)
    if value is None:
        raise ValueError(
            f"mask={mask!r}: the data hold no such mask, but "
            f"{', '.join(held_masks(data)) or 'none at all'}; or mask='all'"
        )
    return _checked(f"data.{mask}", value, place, rows)


def _by_mode(data: Any, place: str, rows: int, training: bool, seeds: int | None) -> Tensor | None:
    if why := undecided(data, training=training):
        raise ValueError(why)
    held = held_masks(data)
    if not held or (seeds is not None and not training):
        return None
    name = next(
        name
        for name in (("train_mask",) if training else ("val_mask", "test_mask"))
        if name in held
    )
    return _checked(f"data.{name}", data[name], place, rows)


def _checked(name: str, value: Any, place: str, rows: int) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype != torch.bool:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"{name} must be a bool tensor, got {kind}; a mask of 0 and 1 becomes one with "
            f".bool(), numbers of {place}s with torch_geometric.utils.index_to_mask"
        )
    if value.ndim == 2 and value.shape[1] == 1:
        value = value[:, 0]
    if value.ndim == 2 and len(value) == rows:
        raise ValueError(
            f"{name} holds {value.shape[1]} splits, {list(value.shape)}; choose one: {name} = "
            f"{name}[:, 0], and so for the other masks"
        )
    if value.shape != (rows,):
        raise ValueError(
            f"{name} must be [{rows}], one entry for each {place} that the target has a row for, "
            f"got shape {list(value.shape)}; leave it out of the data, or give mask='all'"
        )
    if rows and not bool(value.any()):
        warnings.warn(f"{name} is false everywhere: no label counts in this loss", stacklevel=2)
    return value
