"""From label images to graphs: nodes are grains, edges join grains that touch.

Plain numpy and scipy, because the usual region measures know no periodic images: a grain cut by the
edge of a periodic cell is one grain here, with one size and one shape.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch_geometric.data import Data

from graphformer.datasets.store.arrays import columns as checked_columns
from graphformer.datasets.store.arrays import labels as checked_labels
from graphformer.datasets.store.arrays import plain
from graphformer.datasets.store.tables import some
from graphformer.errors import strict_flags


class Names(NamedTuple):
    """The columns of ``x`` and of ``edge_attr``."""

    node: tuple[str, ...]
    edge: tuple[str, ...]


def feature_names(dim: int, *, directions: bool = False) -> Names:
    """The columns that :func:`grain_graph` gives to ``x`` (before ``properties``) and to
    ``edge_attr``.
    """
    axes = ("major_axis", "minor_axis") if dim == 2 else ("major_axis", "middle_axis", "minor_axis")
    pairs = [f"shape_{a}{b}" for a, b in itertools.combinations_with_replacement(range(dim), 2)]
    return Names(
        ("size", *axes, "eccentricity", "extent", *(pairs if directions else ())),
        ("boundary", "distance", *([f"direction_{a}" for a in range(dim)] if directions else ())),
    )


@strict_flags
def grain_graph(
    labels: np.ndarray,
    properties: np.ndarray | None = None,
    *,
    periodic: bool = False,
    spacing: float | Sequence[float] = 1.0,
    relative: bool = False,
    directions: bool = False,
    ignore: Sequence[int] = (),
    y: Any = None,
    name: str = "labels",
) -> Data:
    """The graph of the grains of a label image ``[n0, n1]`` or of a voxel volume ``[n0, n1, n2]``.

    Grains are the distinct labels, in ascending order. Two that share a face of a voxel are joined
    in both directions. With the covariance ``C`` of a grain's points (voxels have a width: each
    axis adds ``spacing^2 / 12``) and its eigenvalues ``l``:

    - ``x``: size (area or volume); axis lengths ``2 sqrt((d + 2) l)`` of the ellipse or ellipsoid
      with the same ``C``, longest first; eccentricity ``sqrt(1 - l_min / l_max)``; extent (size /
      size of the bounding box); with ``directions`` the entries of ``C / trace C`` above its
      diagonal and on it; then ``properties``.
    - ``edge_attr``: boundary ``sqrt(sum_a A_a^2)`` from the area ``A_a`` of the shared faces across
      each axis (exact for flat boundaries in any direction; counted faces are up to sqrt(d) too
      many); distance between the centres; with ``directions`` the unit vector from the sender's to
      the receiver's centre.
    - ``pos``: the centres, in the unit of ``spacing``; ``grain``: the labels;
      ``voxels``: how many points each has.

    Nothing in ``x`` and ``edge_attr`` tells where a grain is, and new labels give the same graph in
    another order of nodes.

    Args:
        labels: integers.
        properties: ``[N, P]`` more columns for ``x``, a row a grain in ascending order of labels.
        periodic: the image continues on its other side.
        spacing: edge of a voxel, one number or one an axis.
        relative: lengths in units of the mean grain's edge ``(total size / N)^(1/d)``: for
            properties without a length of their own, such as conductivity, so that images with more
            grains look like those with fewer.
        directions: add what tells directions in the frame of the image; targets that are tensors
            need it.
        ignore: labels that are no grains (holes, points that were not indexed); one that the
            image does not hold is named in a warning.
        y: kept as ``y``.
        name: what errors call the image.

    Raises:
        TypeError: labels that are no integers, ``ignore`` that is no sequence of them, properties
            that are no real numbers.
        ValueError: no voxels, a shape that is neither 2-D nor 3-D, nothing left beside ``ignore``,
            properties of another length or not finite, a spacing with which float32 does not hold
            the sizes, or a masked array that hides values: masks are not read.
    """
    labels, ignore = _checked(labels, name), checked_labels("ignore", ignore)
    dim = labels.ndim
    if np.shape(spacing) not in ((), (1,), (dim,)):
        raise ValueError(f"spacing must be one number or {dim}, one an axis, got {spacing}.")
    step = np.broadcast_to(plain("spacing", spacing, float), (dim,))
    if not (step > 0).all() or not np.isfinite(step).all():
        raise ValueError(f"spacing must be positive, got {spacing}.")
    grains, index = np.unique(labels, return_inverse=True)
    tell_absent(ignore, grains, name)
    kept = ~np.isin(grains, ignore)
    if not kept.any():
        raise ValueError(f"{name}: no grain is left beside the ignored labels {ignore}.")
    number = np.where(kept, np.cumsum(kept) - 1, -1)  # grains are numbered without the ignored ones
    index = number[index.reshape(labels.shape)]
    grains = grains[kept]
    if properties is not None and (np.ndim(properties) != 2 or len(properties) != len(grains)):
        raise ValueError(
            f"properties must be [{len(grains)}, P], a row a grain, got shape "
            f"{np.shape(properties)}."
        )
    properties = None if properties is None else checked_columns("properties", properties)

    voxels, centre, covariance, extent = _measure(index, len(grains), step, periodic)
    unit = (voxels.sum() * step.prod() / len(grains)) ** (1 / dim) if relative else 1.0
    spread = np.linalg.eigvalsh(covariance)[:, ::-1]  # longest first
    axes = 2 * np.sqrt((dim + 2) * spread)
    columns = [
        voxels * step.prod() / unit**dim,
        *(axes.T / unit),
        np.sqrt(np.clip(1 - spread[:, -1] / spread[:, 0], 0, 1)),
        extent,
    ]
    if directions:
        trace = np.trace(covariance, axis1=1, axis2=2)
        columns += [
            covariance[:, a, b] / trace
            for a, b in itertools.combinations_with_replacement(range(dim), 2)
        ]
    x = np.stack(columns, 1)
    x = x if properties is None else np.concatenate([x, properties], 1)
    with np.errstate(over="ignore"):
        single = x.astype(np.float32)
    if not np.isfinite(single).all() or not (single[:, 0] > 0).all():
        raise ValueError(
            f"{name}: with spacing={spacing} a grain has the size {columns[0].max():.3g}, and "
            "float32 does not hold that; give spacing in another unit."
        )

    senders, receivers, boundary = _boundaries(index, len(grains), step, periodic)
    between = centre[receivers] - centre[senders]
    if periodic:
        cell = step * labels.shape
        between -= np.rint(between / cell) * cell
    distance = np.linalg.norm(between, axis=1)
    edges = [boundary / unit ** (dim - 1), distance / unit]
    if directions:
        edges += list((between / np.maximum(distance, 1e-12)[:, None]).T)
    return Data(
        x=torch.from_numpy(single),
        edge_index=torch.from_numpy(np.stack([senders, receivers])),
        edge_attr=torch.from_numpy(np.stack(edges, 1)).float(),
        pos=torch.from_numpy(centre).float(),
        grain=torch.from_numpy(grains.astype(np.int64)),
        voxels=torch.from_numpy(np.asarray(voxels).astype(np.int64)),
        **({} if y is None else {"y": y}),
    )


@strict_flags
def regions(phases: np.ndarray, *, periodic: bool = False, name: str = "phases") -> np.ndarray:
    """The connected regions of a map of phases, as labels from 0 in the order of their first
    voxels. Voxels are connected by faces.

    Raises:
        TypeError: phases that are neither integers nor booleans.
        ValueError: no voxels, or a shape that is neither 2-D nor 3-D.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    phases = plain(name, phases)
    phases = _checked(phases.astype(np.uint8) if phases.dtype.kind == "b" else phases, name)
    voxels = np.arange(phases.size).reshape(phases.shape)
    pairs = [
        (a[same], b[same])
        for axis in range(phases.ndim)
        for a, b, same in [_same(voxels, phases, axis, periodic)]
    ]
    rows, columns = np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])
    joined = coo_array(
        (np.ones(len(rows), dtype=np.int8), (rows, columns)), (phases.size, phases.size)
    )
    labels = connected_components(joined, directed=False)[1]
    _, first = np.unique(labels, return_index=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[labels].reshape(phases.shape)


@strict_flags
def region_graph(
    phases: np.ndarray,
    values: Sequence[int],
    *,
    periodic: bool = False,
    ignore: Sequence[int] = (),
    name: str = "phases",
    **options: Any,
) -> Data:
    """The graph of the connected regions of a map of phases: :func:`grain_graph` with one more
    column of ``x`` a phase, 1 for the region's own.

    Args:
        phases: ``[n0, n1]`` or ``[n0, n1, n2]``, integers or booleans.
        values: the phases there can be, the same for all images of a data set.
        periodic: the image continues on its other side.
        ignore: phases whose regions are no nodes (holes); one that the image does not hold is
            named in a warning.
        name: what errors call the image.
        options: the other arguments of :func:`grain_graph`.

    Raises:
        ValueError: a value that is none of ``values``.
    """
    phases, ignore = plain(name, phases), checked_labels("ignore", ignore)
    found = np.unique(phases)
    if len(strange := np.setdiff1d(found, values)):
        shown = ", ".join(map(str, found[:8].tolist())) + (", ..." if len(found) > 8 else "")
        raise ValueError(
            f"{name} has the value {strange[0]}, which is none of the phases {tuple(values)}; it "
            f"holds {shown}. Give phases=(...)."
        )
    labels = regions(phases, periodic=periodic, name=name)
    _, first = np.unique(labels, return_index=True)
    own = phases.ravel()[first]
    one_hot = (own[:, None] == np.asarray(values)).astype(float)
    tell_absent(ignore, found, name)
    left_out = np.isin(own, ignore)
    if left_out.all():
        raise ValueError(f"{name}: no region is left beside the ignored phases {ignore}.")
    options["ignore"] = np.flatnonzero(left_out).tolist()
    return grain_graph(labels, one_hot[~left_out], periodic=periodic, name=name, **options)


def tell_absent(ignore: Sequence[int], found: np.ndarray, name: str) -> None:
    """A warning that names what is ignored and not there."""
    if lacking := sorted(set(ignore) - set(found.tolist())):
        warnings.warn(
            f"ignore={tuple(ignore)}: {name} does not hold {some(lacking)}, so nothing was left "
            "out for it",
            stacklevel=3,
        )


def _checked(labels: np.ndarray, name: str) -> np.ndarray:
    labels = plain(name, labels)
    if labels.ndim not in (2, 3) or labels.size == 0:
        raise ValueError(
            f"{name} must be an image [n0, n1] or a volume [n0, n1, n2] with at least one voxel, "
            f"got shape {labels.shape}."
        )
    if labels.dtype.kind == "b":
        raise TypeError(
            f"{name} holds booleans, which are a map of two phases: use kind='phases', or number "
            "its grains with regions(...)."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(
            f"{name} must hold integers, one label a grain, got {labels.dtype}; if its values are "
            "whole numbers, convert it with np.rint(labels).astype(int), and segment a grey image "
            "first."
        )
    if labels.dtype == np.uint64 and labels.max() > np.iinfo(np.int64).max:
        raise ValueError(
            f"{name} has the label {labels.max()}, which int64 cannot hold; number the grains anew "
            "with np.unique(labels, return_inverse=True)[1].reshape(labels.shape)."
        )
    return labels


def _same(
    voxels: np.ndarray, values: np.ndarray, axis: int, periodic: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of voxels that share a face across an axis, and whether their values are equal."""
    if periodic:
        after = np.roll(np.arange(values.shape[axis]), -1)
        first, second = np.arange(values.shape[axis]), after
    else:
        first, second = np.arange(values.shape[axis] - 1), np.arange(1, values.shape[axis])
    a, b = (np.take(voxels, part, axis).ravel() for part in (first, second))
    flat = values.ravel()
    return a, b, flat[a] == flat[b]


def _measure(
    index: np.ndarray, number: int, step: np.ndarray, periodic: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Voxels, centre ``[N, d]``, covariance ``[N, d, d]`` and the part of the bounding box that is
    filled, of each grain.
    """
    dim = index.ndim
    flat = index.ravel()
    inside = flat >= 0
    # stable: a grain's voxels stay in their order, whatever its label is
    order = np.argsort(flat[inside], kind="stable")
    grain = flat[inside][order]
    voxels = np.bincount(grain, minlength=number)
    starts = np.cumsum(voxels) - voxels
    places = [c.astype(float) for c in np.unravel_index(np.nonzero(inside)[0][order], index.shape)]
    centre, box = np.empty((number, dim)), np.ones(number)
    for axis, size in enumerate(index.shape):
        origin = np.zeros(number)
        if periodic:
            # The mean on a circle, so that a grain cut by the edge of the cell is put together
            # again. A grain that goes all the way round has none; any origin will do.
            turn = 2 * np.pi * places[axis] / size
            east, north = (
                np.add.reduceat(np.cos(turn), starts),
                np.add.reduceat(np.sin(turn), starts),
            )
            origin = np.where(
                np.hypot(east, north) > 1e-9 * voxels,
                np.arctan2(north, east) * size / (2 * np.pi),
                0.0,
            )
            places[axis] = (places[axis] - origin[grain] + size / 2) % size - size / 2
        mean = np.add.reduceat(places[axis], starts) / voxels
        box *= (
            np.rint(
                np.maximum.reduceat(places[axis], starts)
                - np.minimum.reduceat(places[axis], starts)
            )
            + 1
        )
        places[axis] = (places[axis] - mean[grain]) * step[axis]
        centre[:, axis] = (mean + origin + 0.5) * step[axis]
        if periodic:
            centre[:, axis] %= size * step[axis]
    covariance = np.empty((number, dim, dim))
    for a, b in itertools.combinations_with_replacement(range(dim), 2):
        covariance[:, a, b] = covariance[:, b, a] = (
            np.add.reduceat(places[a] * places[b], starts) / voxels
        )
    covariance += np.diag(step**2 / 12)
    return voxels, centre, covariance, voxels / box


def _boundaries(
    index: np.ndarray, number: int, step: np.ndarray, periodic: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Senders, receivers and boundary of each edge, in PyG's order (by sender, then by
    receiver).
    """
    flat = index.ravel()
    voxels = np.arange(index.size).reshape(index.shape)
    keys, squares = [], []
    for axis in range(index.ndim):
        a, b, same = _same(voxels, index, axis, periodic)
        touching = ~same & (flat[a] >= 0) & (flat[b] >= 0)
        one, other = flat[a[touching]], flat[b[touching]]
        key, faces = np.unique(
            np.minimum(one, other) * number + np.maximum(one, other), return_counts=True
        )
        keys.append(key)
        squares.append((faces * math.prod(np.delete(step, axis))) ** 2)
    pairs, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    boundary = np.sqrt(np.bincount(inverse, np.concatenate(squares), len(pairs)))
    senders, receivers = (
        np.concatenate([pairs // number, pairs % number]),
        np.concatenate([pairs % number, pairs // number]),
    )
    order = np.lexsort((receivers, senders))
    return senders[order], receivers[order], np.tile(boundary, 2)[order]
