"""Arrays that callers give: masks, generators and values out of range, which numpy takes without a
word.
"""

import math

import numpy as np
import pytest

from graphformer.datasets import (
    Crystal,
    effective_conductivity,
    electrostatic_energy,
    grain_graph,
    periodic_neighbors,
    plane_strain,
    regions,
    voronoi_cells,
)
from graphformer.datasets.microstructures.grains import region_graph
from graphformer.datasets.store.keyed import targets_of

LABELS = np.array([[1, 1, 2], [1, 3, 2], [3, 3, 2]])
HIDDEN = np.ma.masked_array(LABELS, mask=LABELS == 2)
CELL, POS = np.eye(3) * 5, np.array([[0.0, 0, 0], [2.5, 2.5, 2.5]])
PARTLY = np.ma.masked_array(POS, mask=POS == 2.5)
MASKED = {
    "labels": lambda: grain_graph(HIDDEN),
    "properties": lambda: grain_graph(LABELS, np.ma.masked_array(np.ones((3, 1)), mask=[[1]] * 3)),
    "phases": lambda: regions(HIDDEN),
    "phases of a graph": lambda: region_graph(HIDDEN, (1, 2, 3)),
    "conductivity": lambda: effective_conductivity(np.ma.masked_array(np.ones((4, 4)), np.eye(4))),
    "young": lambda: plane_strain(np.ma.masked_array([1.0, 2.0], [0, 1]), 0.3),
    "seeds": lambda: voronoi_cells(np.ma.masked_array([[0.1, 0.2]], [[1, 0]]), 4),
    "fractional": lambda: Crystal(CELL, PARTLY / 5, ("Na", "Cl")),
    "pos": lambda: periodic_neighbors(CELL, PARTLY, 4.0),
    "charges": lambda: electrostatic_energy(CELL, POS, np.ma.masked_array([1.0, -1], [1, 0])),
}


@pytest.mark.parametrize("name", MASKED)
def test_hidden_values_are_not_counted_in(name):
    with pytest.raises(ValueError, match=f"{name.split()[0]} is a masked array that hides"):
        MASKED[name]()


def test_a_mask_that_hides_nothing_is_no_matter():
    shown = np.ma.masked_array(LABELS, mask=np.zeros_like(LABELS))
    assert grain_graph(shown).num_nodes == 3


def test_a_generator_of_ignored_labels_is_not_used_up():
    assert grain_graph(LABELS, ignore=(one for one in (2, 3))).grain.tolist() == [1]
    graph = region_graph(LABELS, (1, 2, 3), ignore=iter([2]))
    assert graph.num_nodes == 2


@pytest.mark.parametrize("ignore", [3, "3", None, [2.5], ["3"]])
def test_ignored_labels_are_a_sequence_of_whole_numbers(ignore):
    for call in (lambda: grain_graph(LABELS, ignore=ignore),):
        with pytest.raises(TypeError, match="ignore must be"):
            call()


@pytest.mark.parametrize(
    ("value", "kind"),
    [(math.nan, ValueError), (math.inf, ValueError), (1e300, ValueError), (1 + 2j, TypeError)],
)
def test_properties_are_numbers_that_a_model_can_read(value, kind):
    with pytest.raises(kind, match="properties must be"):
        grain_graph(LABELS, np.full((3, 1), value))


@pytest.mark.parametrize("spacing", [1e-30, 1e30])
def test_a_unit_in_which_float32_holds_no_size_is_refused(spacing):
    with pytest.raises(ValueError, match="give spacing in another unit"):
        grain_graph(LABELS, spacing=spacing)


def test_conductivities_are_real():
    with pytest.raises(ValueError, match="conductivity must be real numbers"):
        effective_conductivity(np.full((4, 4), 1 + 2j))


def test_seeds_are_points_of_the_cell():
    for seeds in (np.zeros((0, 2)), np.zeros(3), [[1.2, 0.5]], [[math.nan, 0.5]]):
        with pytest.raises(ValueError, match="seeds must be points"):
            voronoi_cells(seeds, 4)
    with pytest.raises(ValueError, match="resolution must be at least 1"):
        voronoi_cells([[0.1, 0.2]], 0)


@pytest.mark.parametrize("value", [1e300, 10**40, math.inf, "abc", 1 + 2j])
def test_targets_of_a_mapping_are_numbers_that_float32_holds(value, tmp_path):
    with pytest.raises(ValueError, match=r"targets: .a\.npy. has"):
        targets_of({"a.npy": value}, [tmp_path / "a.npy"], missing=True)


def test_a_masked_target_is_not_read(tmp_path):
    value = np.ma.masked_array([1.0, 2.0], [0, 1])
    with pytest.raises(ValueError, match="is a masked array"):
        targets_of({"a.npy": value}, [tmp_path / "a.npy"], missing=True)
