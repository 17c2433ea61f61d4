"""Effective properties of periodic voxel grids: conduction by finite volumes, tensors and
elasticity by bilinear elements.

The local problem is the same each time. With the mean gradient (or strain) ``e_b`` of unit size
along one component, find the periodic fluctuation ``u_b`` that balances the flux; the effective
tensor is the energy of the pairs,

    C_eff[a, b] = mean over the cell of (e_a + grad u_a) . C (e_b + grad u_b) = <C> - F_a.u_b -
    F_b.u_a + u_a.K u_b,

with ``K`` the assembled operator and ``F`` the loads. Written as an energy it is symmetric, and its
error is of second order in the error of the solver. Lengths cancel: voxels are squares or cubes of
any size. Axis 0 is the first axis of the array.

Source: Milton, The Theory of Composites (Cambridge 2002), chapters 1, 9 and 23.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from graphformer.datasets.store.arrays import plain

_MOST_ITERATIONS = 5000
# The two-point Gauss rule integrates the products of bilinear shape functions' gradients exactly.
_GAUSS = (0.5 - 0.5 / math.sqrt(3), 0.5 + 0.5 / math.sqrt(3))


def effective_conductivity(conductivity: np.ndarray, *, rtol: float = 1e-8) -> np.ndarray:
    """The effective conductivity tensor of a periodic cell.

    A scalar field is solved by finite volumes: the flux through the face between voxels i and j is
    ``2 k_i k_j / (k_i + k_j)`` times the difference of their potentials. Laminates along the axes
    are exact, and the Wiener bounds hold exactly for the discrete result. Fields of tensors (2-D)
    have fluxes across the gradient, which two voxels cannot tell: bilinear elements solve them.

    Args:
        conductivity: ``[n0, n1]`` or ``[n0, n1, n2]``, one positive conductivity a voxel; or
            ``[n0, n1, 2, 2]``, one symmetric positive definite tensor a voxel.
        rtol: relative residual of the conjugate gradients that solve 3-D cells; 2-D cells are
            solved directly.

    Returns:
        float64 ``[d, d]``, symmetric, in the unit of the input.

    Raises:
        ValueError: a shape that is none of these, no voxels, or a value that is not positive and
            finite, with its place.
        RuntimeError: the conjugate gradients did not converge.
    """
    field = _checked(conductivity, "conductivity")
    if field.ndim in (2, 3):
        if not (field > 0).all():
            place = tuple(int(i) for i in np.argwhere(~(field > 0))[0])
            raise ValueError(
                f"conductivity must be positive, got {field[place]} at voxel {place}; give a hole "
                "a small conductivity."
            )
        return _finite_volumes(field, rtol)
    if field.ndim != 4 or field.shape[2:] != (2, 2):
        raise ValueError(
            "conductivity must be [n0, n1], [n0, n1, n2] or [n0, n1, 2, 2], got shape "
            f"{field.shape}."
        )
    _require_definite(field, "conductivity")
    return _bilinear_elements(field, _gradient)


def effective_stiffness(stiffness: np.ndarray) -> np.ndarray:
    """The effective elastic stiffness of a periodic cell in 2-D, by bilinear quadrilaterals with 2
    x 2 Gauss points.

    Args:
        stiffness: ``[n0, n1, 3, 3]``, one symmetric positive definite matrix a voxel in Voigt's
            order (00, 11, 01) with the engineering shear strain; :func:`plane_strain` makes it.

    Returns:
        float64 ``[3, 3]``, symmetric, in the unit of the input. It is an upper estimate:
            displacements are approximated.

    Raises:
        ValueError: another shape, or a matrix that is not symmetric positive definite, with its
            voxel.
    """
    field = _checked(stiffness, "stiffness")
    if field.ndim != 4 or field.shape[2:] != (3, 3):
        raise ValueError(
            f"stiffness must be [n0, n1, 3, 3], got shape {field.shape}; plane_strain(young, "
            "poisson) makes it."
        )
    _require_definite(field, "stiffness")
    return _bilinear_elements(field, _strain)


def plane_strain(young: np.ndarray | float, poisson: np.ndarray | float) -> np.ndarray:
    """Isotropic stiffness in plane strain, ``[..., 3, 3]`` in Voigt's order (00, 11, 01).

    ``lambda = E nu / ((1 + nu)(1 - 2 nu))`` and ``mu = E / (2 (1 + nu))`` give C00 = lambda + 2 mu,
    C01 = lambda, C22 = mu.

    Raises:
        ValueError: a Young's modulus that is not positive, or a Poisson's ratio outside (-1, 0.5).
    """
    young, poisson = np.broadcast_arrays(
        plain("young", young, float), plain("poisson", poisson, float)
    )
    if not ((young > 0) & np.isfinite(young)).all():
        raise ValueError(f"young must be positive, got {young.min()} to {young.max()}.")
    if not ((poisson > -1) & (poisson < 0.5)).all():
        raise ValueError(
            f"poisson must be between -1 and 0.5 (both excluded), got {poisson.min()} to "
            f"{poisson.max()}."
        )
    lame, shear = young * poisson / ((1 + poisson) * (1 - 2 * poisson)), young / (2 * (1 + poisson))
    stiffness = np.zeros((*young.shape, 3, 3))
    stiffness[..., :2, :2] = lame[..., None, None]
    stiffness[..., 0, 0] += 2 * shear
    stiffness[..., 1, 1] += 2 * shear
    stiffness[..., 2, 2] = shear
    return stiffness


def _finite_volumes(field: np.ndarray, rtol: float) -> np.ndarray:
    voxels = np.arange(field.size).reshape(field.shape)
    here = voxels.ravel()
    rows, columns, entries, loads, means = [], [], [], [], []
    for axis in range(field.ndim):
        after, there = np.roll(field, -1, axis), np.roll(voxels, -1, axis).ravel()
        face = 2 * field * after / (field + after)
        flat = face.ravel()
        rows += [here, there, here, there]
        columns += [here, there, there, here]
        entries += [flat, flat, -flat, -flat]
        loads.append((face - np.roll(face, 1, axis)).ravel())
        means.append(face.mean())
    operator = _sparse(rows, columns, entries, field.size)
    load = np.stack(loads, 1)
    # Fill makes a direct solve of cubes slow: 24^3 voxels take more than ten times as long as by
    # conjugate gradients.
    solution = (
        _solve_directly(operator, load)
        if field.ndim == 2
        else _solve_by_fourier(operator, load, field.shape, means, rtol)
    )
    return _energy(operator, load, solution, np.diag(means), field.size)


def _bilinear_elements(
    field: np.ndarray, to_gradient: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Voxels are elements and their corners are nodes. ``to_gradient`` turns the gradients of the
    shape functions into the matrix from nodal values to gradient (conduction) or strain
    (elasticity).
    """
    shape = field.shape[:2]
    nodes = np.arange(math.prod(shape)).reshape(shape)
    # [elements, 4]
    corners = np.stack(
        [np.roll(nodes, (-i, -j), (0, 1)).ravel() for i in (0, 1) for j in (0, 1)], 1
    )
    material = field.reshape(-1, *field.shape[2:])
    stiffness: Any = 0.0
    load: Any = 0.0
    for s in _GAUSS:
        for t in _GAUSS:
            # [2, 4], corners as above
            slopes = np.array([[-(1 - t), -t, 1 - t, t], [-(1 - s), 1 - s, -s, s]])
            matrix = to_gradient(slopes)  # [components, 4 * dofs]
            stiffness = stiffness + 0.25 * np.einsum(
                "ai,eab,bj->eij", matrix, material, matrix, optimize=True
            )
            load = load - 0.25 * np.einsum("ai,eab->eib", matrix, material, optimize=True)
    dofs = matrix.shape[1] // 4
    # [elements, 4 * dofs]
    index = (corners[:, :, None] * dofs + np.arange(dofs)).reshape(len(corners), -1)
    size = nodes.size * dofs
    rows, columns = np.broadcast_arrays(index[:, :, None], index[:, None, :])
    operator = _sparse([rows.ravel()], [columns.ravel()], [stiffness.ravel()], size)
    loads = np.stack(
        [np.bincount(index.ravel(), load[:, :, b].ravel(), size) for b in range(load.shape[2])], 1
    )
    return _energy(
        operator, loads, _solve_directly(operator, loads, dofs), material.mean(0), nodes.size
    )


def _gradient(slopes: np.ndarray) -> np.ndarray:
    return slopes


def _strain(slopes: np.ndarray) -> np.ndarray:
    matrix = np.zeros((3, 8))
    matrix[0, 0::2], matrix[1, 1::2] = slopes
    matrix[2, 0::2], matrix[2, 1::2] = slopes[1], slopes[0]
    return matrix


def _sparse(
    rows: list[np.ndarray], columns: list[np.ndarray], entries: list[np.ndarray], size: int
) -> sp.csc_array:
    # Parallel entries add up: with two voxels along an axis, both faces lie between the same two.
    return sp.coo_array(
        (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))), (size, size)
    ).tocsc()


def _energy(
    operator: sp.csc_array, loads: np.ndarray, solution: np.ndarray, mean: np.ndarray, voxels: int
) -> np.ndarray:
    cross = loads.T @ solution
    energy = mean + (solution.T @ (operator @ solution) - cross - cross.T) / voxels
    return (energy + energy.T) / 2


def _solve_directly(operator: sp.csc_array, loads: np.ndarray, dofs: int = 1) -> np.ndarray:
    """Solutions are free up to a constant: the first node is held at zero."""
    solution = np.zeros_like(loads)
    if operator.shape[0] > dofs:
        # Minimum degree on A + A^T is the ordering for symmetric patterns; a positive definite
        # matrix needs no other pivots.
        free = operator[dofs:, dofs:].tocsc()
        factors = splu(
            free, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        solution[dofs:] = factors.solve(loads[dofs:])
    return solution


def _solve_by_fourier(
    operator: sp.csc_array,
    loads: np.ndarray,
    shape: tuple[int, ...],
    means: list[float],
    rtol: float,
) -> np.ndarray:
    """Conjugate gradients, preconditioned by the uniform medium, which the Fourier transform
    inverts. The number of iterations grows with the square root of the contrast and not with the
    number of voxels.
    """
    symbol: Any = 0.0
    for axis, size in enumerate(shape):
        waves = 2 - 2 * np.cos(2 * np.pi * np.arange(size) / size)
        symbol = symbol + means[axis] * waves.reshape(
            [-1 if a == axis else 1 for a in range(len(shape))]
        )
    symbol = symbol[..., : shape[-1] // 2 + 1]
    symbol[(0,) * len(shape)] = np.inf  # the constant, which the gradient does not see

    def precondition(residual: np.ndarray) -> np.ndarray:
        return scipy.fft.irfftn(scipy.fft.rfftn(residual.reshape(shape)) / symbol, s=shape).ravel()

    rows = operator.tocsr()
    return np.stack([_conjugate_gradients(rows, load, precondition, rtol) for load in loads.T], 1)


def _conjugate_gradients(
    operator: sp.csr_array, load: np.ndarray, precondition: Callable, rtol: float
) -> np.ndarray:
    """scipy's own takes dot products from BLAS, whose threads cost many times the work on vectors
    of this size.
    """
    solution, residual, search = np.zeros_like(load), load.copy(), np.zeros_like(load)
    noise = np.finfo(float).eps * abs(operator).max()  # a load of rounding errors alone is no load
    goal, before = max(rtol**2 * _dot(load, load), noise**2 * len(load)), 1.0
    for _ in range(_MOST_ITERATIONS):
        if _dot(residual, residual) <= goal:
            return solution
        corrected = precondition(residual)
        now = _dot(residual, corrected)
        search = corrected + now / before * search
        pushed = operator @ search
        stride, before = now / _dot(search, pushed), now
        solution += stride * search
        residual -= stride * pushed
    raise RuntimeError(
        f"the conduction problem did not converge in {_MOST_ITERATIONS} iterations; lower the "
        f"contrast or raise rtol ({rtol})."
    )


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.einsum("i,i->", a, b))


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    if np.iscomplexobj(values):
        raise ValueError(f"{name} must be real numbers, got {np.asarray(values).dtype}.")
    field = plain(name, values, float)
    if field.ndim < 2 or field.size == 0:
        raise ValueError(
            f"{name} must have two axes or more and at least one voxel, got shape {field.shape}."
        )
    if not np.isfinite(field).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(field))[0])
        raise ValueError(f"{name} must be finite, got {field[place]} at {place}.")
    return field


def _require_definite(field: np.ndarray, name: str) -> None:
    symmetric = np.isclose(field, np.swapaxes(field, -1, -2)).all((-1, -2))
    definite = symmetric & (np.linalg.eigvalsh(field)[..., 0] > 0)
    if not definite.all():
        place = tuple(int(i) for i in np.argwhere(~definite)[0])
        raise ValueError(
            f"{name} must be symmetric positive definite, got {field[place].tolist()} at voxel "
            f"{place}."
        )
