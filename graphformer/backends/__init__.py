"""Who runs the aggregation: torch, PyG, DGL or torch-sparse. The choice never changes the
answer.
"""

from __future__ import annotations

import importlib
from functools import cache

from torch import Tensor

from graphformer.backends import base
from graphformer.backends.base import REDUCTIONS, Backend
from graphformer.errors import MissingExtra
from graphformer.graph import AttentionGraph

__all__ = ["REDUCTIONS", "Backend", "aggregate", "available", "get"]

_CLASSES = {
    "torch": "TorchBackend",
    "pyg": "PyGBackend",
    "dgl": "DGLBackend",
    "torch_sparse": "TorchSparseBackend",
}


NAMES = tuple(_CLASSES)
"""All that there are, installed or not."""


@cache
def _load(name: str) -> Backend:
    return getattr(importlib.import_module(f"graphformer.backends.{name}"), _CLASSES[name])()


def get(name: str = "auto") -> Backend:
    """A backend by name; ``"auto"`` is torch.

    Raises:
        ValueError: no such backend (the known ones are listed).
        MissingExtra: its package is not installed (the extra is named).
        RuntimeError: its package is installed but cannot be imported here (the reason is given).
    """
    if name == "auto":
        name = "torch"
    if name not in _CLASSES:
        raise ValueError(
            f"unknown backend {name!r}; known: auto, {', '.join(_CLASSES)}; installed here: "
            f"{', '.join(available())}"
        )
    try:
        return _load(name)
    except MissingExtra:
        raise
    except (ImportError, OSError) as error:
        raise RuntimeError(
            f"backend {name!r} is installed but cannot be imported: {error}"
        ) from error


def available() -> tuple[str, ...]:
    """Names of the backends that can be used here; each one's package is imported to find out."""
    names = []
    for name in _CLASSES:
        try:
            _load(name)
        except (ImportError, OSError):
            continue
        names.append(name)
    return tuple(names)


def aggregate(
    graph: AttentionGraph, x: Tensor, reduce: str = "sum", *, backend: str = "auto"
) -> Tensor:
    r"""Messages along the edges, reduced at each receiver.

    ======== =====================================================================================
    sum      :math:`\sum_j w_{ij} x_j`
    mean     :math:`\sum_j w_{ij} x_j / \sum_j |w_{ij}|`
    var      :math:`\sum_j |w_{ij}| (\mathrm{sign}(w_{ij}) x_j - \mathrm{mean}_i)^2
             / \sum_j |w_{ij}|`
    std      the square root of var (0 where var is below 1e-10)
    max, min over the kept senders, unweighted; equal ones share the gradient
    max_norm the features of the sender of largest Euclidean norm; ``max_norm@0.2``: among edges of
             weight above 0.2
    min_norm the same with the smallest norm
    ======== =====================================================================================

    An edge of negative weight sends ``-x_j`` with the weight's size: mean and var are then those of
    a weighted sample, and lie within the range of its messages also where the weights cancel (a
    difference of two maps, scores as they are). Divided by their own sum they would have no bound.

    A receiver without edges, or whose weights are all 0, gets 0. Use ``graph.unweighted()`` for the
    unweighted reductions.

    Args:
        graph: the edges and their weights.
        x: sender features ``[num_lanes * num_senders, D]`` or ``[*batch_shape, num_senders, D]``.
        reduce: one of the names above.
        backend: ``"torch"``, ``"pyg"``, ``"dgl"``, ``"torch_sparse"`` or ``"auto"`` (torch).

    Returns:
        Receiver features in the layout of x. Half precision is accumulated in float32 and returned
        in x's precision.

    Raises:
        ValueError: an unknown name, or a shape or device that does not fit.
        MissingExtra: the backend is not installed.
        RuntimeError: the backend's build cannot run on this device.
    """
    return base.aggregate(graph, x, (reduce,), get(backend))[reduce]
