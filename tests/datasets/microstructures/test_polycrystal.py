"""Homogenization against exact results, bounds and refinement; polycrystals that depend on their
seed and index alone.
"""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from torch_geometric.utils import is_undirected

from graphformer.datasets import (
    PolycrystalDataset,
    effective_conductivity,
    effective_stiffness,
    plane_strain,
    voronoi_cells,
)

LAYERS = np.array([1.0, 7.0, 0.3])
QUARTER_TURN = np.array([[0.0, -1.0], [1.0, 0.0]])


def as_tensors(field: np.ndarray) -> np.ndarray:
    return field[..., None, None] * np.eye(2)


def lognormal(shape: tuple[int, ...], seed: int = 0, sigma: float = 1.0) -> np.ndarray:
    return np.exp(sigma * np.random.default_rng(seed).standard_normal(shape))


def layered(values: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Layers normal to an axis, each of two voxels."""
    along = [1] * len(shape)
    along[axis] = -1
    values = np.repeat(values, 2, axis=0)
    return np.broadcast_to(
        values.reshape(*along, *values.shape[1:]),
        (*(n if a != axis else len(values) for a, n in enumerate(shape)), *values.shape[1:]),
    )


# --- exact results


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 7), (1, 5), (3, 5, 2), (1, 1, 1)])
def test_a_uniform_cell_is_its_material(shape):
    np.testing.assert_allclose(
        effective_conductivity(np.full(shape, 3.7)), 3.7 * np.eye(len(shape)), atol=1e-12
    )


def test_a_uniform_cell_of_tensors_is_its_tensor():
    tensor = np.array([[3.0, 0.7], [0.7, 2.0]])
    np.testing.assert_allclose(
        effective_conductivity(np.broadcast_to(tensor, (5, 7, 2, 2))), tensor, atol=1e-12
    )


@pytest.mark.parametrize(
    ("shape", "axis"), [((0, 5), 0), ((5, 0), 1), ((0, 3, 2), 0), ((5, 0, 2), 1), ((5, 3, 0), 2)]
)
def test_laminates_are_exact(shape, axis):
    """Across the layers the harmonic mean, along them the arithmetic mean."""
    expected = np.full(len(shape), LAYERS.mean())
    expected[axis] = 1 / (1 / LAYERS).mean()
    np.testing.assert_allclose(
        effective_conductivity(layered(LAYERS, shape, axis)), np.diag(expected), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_laminates_of_tensors_are_exact(axis):
    shape = (5, 5)
    expected = np.full(2, LAYERS.mean())
    expected[axis] = 1 / (1 / LAYERS).mean()
    np.testing.assert_allclose(
        effective_conductivity(as_tensors(layered(LAYERS, shape, axis))),
        np.diag(expected),
        atol=1e-10,
    )


def test_laminates_of_turned_grains_are_exact():
    """Layers normal to axis 0 with tensors k: K00 = 1/<1/k00>, K01 = <k01/k00> K00, K11 = <k11 -
    k01^2/k00> + <k01/k00>^2 K00.
    """
    angles = np.array([0.3, 1.1, 2.5])
    axis = np.stack([np.cos(angles), np.sin(angles)], 1)
    k = LAYERS[:, None, None] * (0.2 * np.eye(2) + axis[:, :, None] * axis[:, None, :])
    k00 = 1 / (1 / k[:, 0, 0]).mean()
    tilt = (k[:, 0, 1] / k[:, 0, 0]).mean()
    k11 = (k[:, 1, 1] - k[:, 0, 1] ** 2 / k[:, 0, 0]).mean() + tilt**2 * k00
    expected = [[k00, tilt * k00], [tilt * k00, k11]]
    np.testing.assert_allclose(effective_conductivity(layered(k, (0, 3), 0)), expected, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_elastic_laminates_are_exact(axis):
    """Backus: C00 = 1/<1/M>, C01 = <l/M> C00, C11 = <4 m (l + m)/M> + <l/M>^2 C00, C22 = 1/<1/m>,
    with M = l + 2 m.
    """
    layers = plane_strain(np.array([1.0, 10.0, 4.0]), np.array([0.3, 0.2, 0.4]))
    big, lame, shear = layers[:, 0, 0], layers[:, 0, 1], layers[:, 2, 2]
    across = 1 / (1 / big).mean()
    mixed = (lame / big).mean() * across
    along = (4 * shear * (lame + shear) / big).mean() + (lame / big).mean() ** 2 * across
    expected = np.array([[across, mixed, 0], [mixed, along, 0], [0, 0, 1 / (1 / shear).mean()]])
    if axis == 1:
        expected = expected[np.ix_([1, 0, 2], [1, 0, 2])]
    np.testing.assert_allclose(
        effective_stiffness(layered(layers, (3, 3), axis)), expected, atol=1e-10
    )


def test_hill_one_shear_modulus():
    """With one shear modulus the plane bulk modulus follows 1/(K + mu) = <1/(K_i + mu)> for any
    geometry: the error goes with the mesh.
    """
    bulk, shear = lognormal((4, 4), 1), 0.8
    exact = 1 / (1 / (bulk + shear)).mean() - shear
    errors = []
    for n in (2, 4, 8):
        k = np.kron(bulk, np.ones((n, n)))
        field = np.zeros((*k.shape, 3, 3))
        field[..., 0, 0] = field[..., 1, 1] = k + shear
        field[..., 0, 1] = field[..., 1, 0] = k - shear
        field[..., 2, 2] = shear
        c = effective_stiffness(field)
        errors.append((c[0, 0] + c[1, 1] + 2 * c[0, 1]) / 4 - exact)
    assert 0 < errors[2] < 0.6 * errors[1] < 0.36 * errors[0] < 0.1 * exact


# --- bounds and symmetries


@hypothesis.given(
    st.integers(0, 10**6), st.sampled_from([(2, 3), (5, 7), (2, 5, 3)]), st.floats(0.1, 3.0)
)
@hypothesis.settings(max_examples=25)
def test_wiener_bounds_hold_for_every_cell(seed, shape, sigma):
    field = lognormal(shape, seed, sigma)
    effective = effective_conductivity(field)
    np.testing.assert_array_equal(effective, effective.T)
    values = np.linalg.eigvalsh(effective)
    assert 1 / (1 / field).mean() <= values[0] * (1 + 1e-10) and values[-1] <= field.mean() * (
        1 + 1e-10
    )


@hypothesis.given(st.integers(0, 10**6), st.sampled_from([(2, 3), (5, 7)]))
@hypothesis.settings(max_examples=15)
def test_voigt_and_reuss_bounds_hold_for_every_cell(seed, shape):
    field = plane_strain(lognormal(shape, seed), 0.45 * np.random.default_rng(seed).random(shape))
    effective = effective_stiffness(field)
    np.testing.assert_array_equal(effective, effective.T)
    voigt = field.mean((0, 1))
    reuss = np.linalg.inv(np.linalg.inv(field).mean((0, 1)))
    assert (
        np.linalg.eigvalsh(voigt - effective)[0] > -1e-9
        and np.linalg.eigvalsh(effective - reuss)[0] > -1e-9
    )


def hashin_shtrikman(low: float, high: float, fraction: float, dim: int) -> tuple[float, float]:
    """Of two phases in an isotropic (or cubic) medium; ``fraction`` of ``high``."""
    lower = low + fraction / (1 / (high - low) + (1 - fraction) / (dim * low))
    upper = high + (1 - fraction) / (1 / (low - high) + fraction / (dim * high))
    return lower, upper


@pytest.mark.parametrize(("dim", "size"), [(2, 32), (3, 12)])
@pytest.mark.parametrize("inside", [50.0, 0.02])
def test_hashin_shtrikman_bounds_hold_for_square_and_cubic_arrays(dim, size, inside):
    """A cell that a quarter turn leaves as it is has an isotropic tensor, and the bounds hold for
    it.
    """
    field = np.ones([size] * dim)
    field[(slice(size // 4, 3 * size // 4),) * dim] = inside
    effective = effective_conductivity(field)
    np.testing.assert_allclose(effective, effective[0, 0] * np.eye(dim), atol=1e-7)
    fraction = 0.5**dim
    low, high = sorted([1.0, inside])
    lower, upper = hashin_shtrikman(low, high, fraction if inside > 1 else 1 - fraction, dim)
    # The bounds are of the continuum; finite volumes may lie below them by what the mesh costs.
    assert lower * 0.99 <= effective[0, 0] <= upper


def test_hashin_shtrikman_bounds_hold_for_polycrystals():
    """Single cells are not isotropic; their mean over seeds is."""
    found, lower, upper = [], [], []
    for index in range(12):
        rng = np.random.default_rng(index)
        labels = voronoi_cells(rng.random((60, 2)), 48)
        field = np.where(rng.random(60) < 0.5, 10.0, 1.0)[labels]
        found.append(np.trace(effective_conductivity(field)) / 2)
        low, high = hashin_shtrikman(1.0, 10.0, (field == 10).mean(), 2)
        lower.append(low)
        upper.append(high)
    assert np.mean(lower) < np.mean(found) < np.mean(upper)


@pytest.mark.parametrize("kind", ["scalar", "tensor"])
def test_a_quarter_turn_swaps_the_axes(kind):
    field = lognormal((5, 7))
    if kind == "scalar":
        before, after = effective_conductivity(field), effective_conductivity(np.rot90(field))
    else:
        spin = np.random.default_rng(1).random((5, 7, 2, 2))
        tensors = as_tensors(field) + spin @ np.swapaxes(spin, -1, -2)
        turned = QUARTER_TURN @ np.rot90(tensors) @ QUARTER_TURN.T
        before, after = effective_conductivity(tensors), effective_conductivity(turned)
    np.testing.assert_allclose(after, QUARTER_TURN @ before @ QUARTER_TURN.T, atol=1e-12)


def test_a_quarter_turn_swaps_the_axes_of_the_stiffness():
    young = lognormal((5, 7))
    before, after = (
        effective_stiffness(plane_strain(young, 0.3)),
        effective_stiffness(plane_strain(np.rot90(young), 0.3)),
    )
    turn = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    np.testing.assert_allclose(after, turn @ before @ turn.T, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 3)])
def test_shifts_copies_and_units_change_nothing(shape):
    field = lognormal(shape)
    expected = effective_conductivity(field)
    np.testing.assert_allclose(
        effective_conductivity(np.roll(field, 2, axis=1)), expected, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(
        effective_conductivity(np.tile(field, [2] + [1] * (len(shape) - 1))),
        expected,
        rtol=1e-9,
        atol=1e-12,
    )
    np.testing.assert_allclose(
        effective_conductivity(1e6 * field), 1e6 * expected, rtol=1e-9, atol=1e-6
    )


def test_cubes_agree_with_plates():
    """A volume that is the same along one axis conducts like its section: conjugate gradients agree
    with the direct solution.
    """
    field = lognormal((7, 5))
    volume = np.repeat(field[:, :, None], 3, axis=2)
    effective = effective_conductivity(volume)
    np.testing.assert_allclose(
        effective[:2, :2], effective_conductivity(field), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(effective[2], [0, 0, field.mean()], rtol=1e-12, atol=1e-12)


# --- refinement


def orders(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


def test_smooth_fields_converge_at_second_order():
    def solve(n: int) -> np.ndarray:
        x, y = np.meshgrid(*[(np.arange(n) + 0.5) / n * 2 * np.pi] * 2, indexing="ij")
        return effective_conductivity(np.exp(np.sin(x) * np.cos(y) + 0.3 * np.cos(2 * x + y)))

    fine = solve(128)
    assert min(orders([np.abs(solve(n) - fine).max() for n in (8, 16, 32)])) > 1.9


def test_grains_converge_at_about_first_order():
    """Corners where four grains meet are singular, the more so the higher the contrast."""
    coarse = lognormal((5, 5), 3, sigma=0.5)
    values = [effective_conductivity(np.kron(coarse, np.ones((n, n)))) for n in (1, 2, 4, 8, 32)]
    found = orders([np.abs(value - values[-1]).max() for value in values[:-1]])
    assert min(found) > 0.9, found


def test_the_two_schemes_close_in_on_one_value():
    coarse = lognormal((5, 5), 3)
    gaps = []
    for n in (1, 4, 16):
        field = np.kron(coarse, np.ones((n, n)))
        gaps.append(
            np.abs(effective_conductivity(as_tensors(field)) - effective_conductivity(field)).max()
        )
    assert gaps[2] < 0.4 * gaps[1] < 0.16 * gaps[0]


def test_checkerboard_approaches_dykhne():
    """sqrt(k1 k2), from below by finite volumes and from above by elements. Fields at the corners
    are singular, so the order is below 1.
    """
    cells = np.array([[1.0, 10.0], [10.0, 1.0]])
    below, above = [], []
    for n in (4, 8, 16, 32):
        field = np.kron(cells, np.ones((n, n)))
        below.append(1 - effective_conductivity(field)[0, 0] / math.sqrt(10))
        above.append(effective_conductivity(as_tensors(field))[0, 0] / math.sqrt(10) - 1)
    assert 0 < below[3] < 0.05 and 0 < above[3] < 0.05
    assert all(b < 0.65 * a for errors in (below, above) for a, b in itertools.pairwise(errors))


# --- bad input


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (np.ones(5), "must have two axes or more"),
        (np.ones((3, 0)), "at least one voxel"),
        (np.ones((2, 3, 5, 7)), r"must be \[n0, n1\], \[n0, n1, n2\] or \[n0, n1, 2, 2\]"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), r"must be positive, got 0.0 at voxel \(1, 0\)"),
        (np.array([[1.0, np.nan]]), r"must be finite, got nan at \(0, 1\)"),
        (
            np.broadcast_to(np.array([[1.0, 2.0], [2.0, 1.0]]), (3, 5, 2, 2)),
            r"symmetric positive definite, got .* at voxel \(0, 0\)",
        ),
    ],
)
def test_bad_conductivities_are_named(field, message):
    with pytest.raises(ValueError, match=message):
        effective_conductivity(field)


def test_bad_stiffnesses_are_named():
    with pytest.raises(ValueError, match="plane_strain"):
        effective_stiffness(np.ones((3, 5)))
    with pytest.raises(ValueError, match="poisson must be between -1 and"):
        plane_strain(1.0, 0.5)
    with pytest.raises(ValueError, match="young must be positive"):
        plane_strain(0.0, 0.3)


# --- polycrystals


def dataset(**settings) -> PolycrystalDataset:
    return PolycrystalDataset(
        None, **({"num_graphs": 3, "num_grains": (5, 11), "resolution": 16} | settings)
    )


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a.keys())  # noqa: SIM118 - Data iterates over pairs


def test_voronoi_cells_are_periodic():
    """The nearest seed, by the definition, with all images of the seeds."""
    seeds, n = np.random.default_rng(0).random((7, 2)), 11
    images = np.array([[a, b] for a in (-1, 0, 1) for b in (-1, 0, 1)])
    centres = (np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1) + 0.5) / n
    distance = np.linalg.norm(centres[:, :, None, None] - seeds[:, None] - images, axis=-1).min(-1)
    np.testing.assert_array_equal(voronoi_cells(seeds, n), distance.argmin(-1))
    np.testing.assert_array_equal(
        voronoi_cells((seeds + np.array([3 / n, 0])) % 1, n),
        np.roll(voronoi_cells(seeds, n), 3, axis=0),
    )


SETTINGS = [
    {},
    {"law": "two-phase", "contrast": 50.0},
    {"dim": 3, "resolution": 7},
    {"anisotropy": 5.0, "target": "tensor"},
    {"property": "stiffness"},
    {"property": "stiffness", "target": "tensor"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_graph_depends_on_its_seed_and_index_alone(settings):
    short, long = dataset(**settings), dataset(num_graphs=5, **settings)
    assert all(same(a, b) for a, b in zip(short, long, strict=False))
    other = dataset(seed=1, **settings)
    assert not any(
        a.num_nodes == b.num_nodes and torch.equal(a.x, b.x)
        for a, b in zip(short, other, strict=True)
    )


@pytest.mark.parametrize("settings", SETTINGS)
def test_features_have_names_and_graphs_go_both_ways(settings):
    made = dataset(**settings)
    for number, data in enumerate(made):
        assert (
            data.validate()
            and is_undirected(data.edge_index)
            and not data.has_self_loops()
            and data.is_coalesced()
        )
        assert data.x.shape == (data.num_nodes, len(made.node_names)) and data.edge_attr.shape == (
            data.num_edges,
            len(made.edge_names),
        )
        assert data.y.shape == (1, len(made.target_names))
        assert all(torch.isfinite(data[name]).all() for name in ("x", "edge_attr", "y", "pos"))
        # sizes are in units of the mean grain
        torch.testing.assert_close(data.x[:, 0].mean(), torch.tensor(1.0))
        assert made.image(number).labels.max() + 1 == data.num_nodes


def test_the_target_is_the_effective_property_of_the_picture():
    made = dataset(target="tensor")
    image = made.image(1)
    field = np.exp(image.properties[:, 0])[image.labels]
    k = effective_conductivity(field)
    np.testing.assert_allclose(made[1].y[0].numpy(), [k[0, 0], k[1, 1], k[0, 1]], rtol=1e-6)
    np.testing.assert_allclose(dataset()[1].y.item(), np.trace(k) / 2, rtol=1e-6)
    np.testing.assert_allclose(
        made[1].x[:, made.node_names.index("log_conductivity")].numpy(),
        image.properties[:, 0],
        rtol=1e-6,
    )


def test_material_and_resolution_share_the_grains():
    a, b, c = (
        dataset().image(0),
        dataset(property="stiffness").image(0),
        dataset(resolution=48).image(0),
    )
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.properties[:, 0], b.properties[:, 0])
    np.testing.assert_array_equal(c.labels[1::3, 1::3], a.labels)


def test_isotropic_targets_do_not_see_the_axes():
    """Bulk and shear modulus of the isotropic part are the same after a quarter turn."""
    made = dataset(property="stiffness")
    c = made.image(0).effective
    turned = c[np.ix_([1, 0, 2], [1, 0, 2])]
    expected = [
        (turned[0, 0] + turned[1, 1] + 2 * turned[0, 1]) / 4,
        (turned[0, 0] + turned[1, 1] - 2 * turned[0, 1] + 4 * turned[2, 2]) / 8,
    ]
    np.testing.assert_allclose(made[0].y[0].numpy(), expected, rtol=1e-6)


def test_anisotropic_grains_have_the_drawn_mean():
    """Along and across the axis: value * sqrt(a) and value / sqrt(a). In the mean over angles the
    cell is nearly isotropic.
    """
    made = dataset(num_graphs=1, num_grains=1, anisotropy=9.0, target="tensor")
    value = math.exp(made[0].x[0, made.node_names.index("log_conductivity")])
    tensor = made.image(0).effective
    np.testing.assert_allclose(np.linalg.eigvalsh(tensor), [value / 3, value * 3], rtol=1e-5)
    double = made[0].x[0, -2:]
    np.testing.assert_allclose(
        double.numpy(),
        [
            (tensor[0, 0] - tensor[1, 1]) / (value * (3 - 1 / 3)),
            2 * tensor[0, 1] / (value * (3 - 1 / 3)),
        ],
        rtol=1e-4,
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_one_grain_is_a_graph_of_one_node(dim):
    data = dataset(num_graphs=1, num_grains=1, dim=dim, resolution=5)[0]
    assert (
        data.num_nodes == 1 and data.edge_index.shape == (2, 0) and data.edge_attr.shape == (0, 2)
    )
    torch.testing.assert_close(data.y[0, 0], data.x[0, -1].exp())


def test_seeds_without_a_voxel_are_no_grains():
    data = dataset(num_graphs=1, num_grains=40, resolution=7)[0]
    assert 1 < data.num_nodes < 40 and data.grain.tolist() == list(range(data.num_nodes))


@pytest.mark.slow  # each worker imports torch
def test_workers_change_nothing():
    assert all(same(a, b) for a, b in zip(dataset(), dataset(workers=2), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"property": "strength"}, "unknown property 'strength'; known: conductivity, stiffness"),
        ({"law": "normal"}, "unknown law"),
        ({"target": "max"}, "unknown target"),
        ({"dim": 4}, "dim must be 2 or 3, got 4"),
        ({"num_graphs": 0}, "num_graphs must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"num_grains": (7, 5)}, "num_grains must be 1 or more and at most 5, got 7"),
        ({"num_grains": 300}, "num_grains must be 300 or more and at most 256, got 300"),
        ({"resolution": 0}, "resolution must be 1 or more"),
        ({"contrast": -2.0}, "contrast must be positive"),
        ({"sigma": float("nan")}, "sigma must be 0 or more"),
        ({"fraction": 1.5}, "fraction must be between 0 and 1"),
        ({"dim": 3, "property": "stiffness"}, "property='stiffness' is solved in 2-D only"),
        ({"dim": 3, "anisotropy": 2.0}, "anisotropy=2.0 is solved in 2-D only"),
        ({"property": "stiffness", "anisotropy": 2.0}, "anisotropy=2.0 is for conductivity"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        dataset(**settings)
