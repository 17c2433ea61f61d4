"""CIF whose atoms are not those that the file tells of: each is left out or told."""

import json
import warnings

import pytest

pytest.importorskip("gemmi")
from graphformer.datasets.crystals.cif import read_cif
from graphformer.datasets.crystals.pymatgen_json import read_json
from tests.datasets.crystals import structures
from tests.datasets.crystals.test_structures import ROCK_SALT

NAME = "_symmetry_space_group_name_H-M 'F m -3 m'\n"


def symmetry(*operations):
    lines = ["loop_", "_space_group_symop_operation_xyz", *(f"'{one}'" for one in operations)]
    return ROCK_SALT.replace(NAME, "\n".join([*lines, ""]))


@pytest.mark.parametrize("operations", [("-x,-y,-z",), ("x,y,z", "-y,x-y,z")])
def test_operations_that_are_no_group_are_refused(operations):
    """gemmi reads such a list and applies none of it."""
    (reason,) = read_cif(symmetry(*operations))
    assert "its symmetry cannot be read" in reason and "incomplete" in reason


@pytest.mark.parametrize("operations", [("-x,-y,-z+1/4", "x,y,z"), ("x+1/2,y,z", "x,y,z")])
def test_operations_of_no_known_group_are_expanded_in_any_order(operations):
    (crystal,) = read_cif(symmetry(*operations))
    assert len(crystal.elements) == 4


def test_a_share_that_is_no_number_is_not_taken_for_1():
    (reason,) = read_cif(ROCK_SALT.replace("0 0 0 1", "0 0 0 full"))
    assert reason == "atom 1 has the occupancy full, no number"
    assert not isinstance(read_cif(ROCK_SALT.replace("0 0 0 1", "0 0 0 ?"))[0], str)


DOUBTS = {
    "cell": (ROCK_SALT.replace("_b 5.64", "_b 6.64"), "its cell does not have its symmetry"),
    "origin": (
        ROCK_SALT.replace("F m -3 m", "F d -3 m"),
        "F d -3 m has two origins and the file does not say which; F d -3 m:2 is taken",
    ),
    "hydrogens": (
        ROCK_SALT.replace("_occupancy\n", "_occupancy\n_atom_site_attached_hydrogens\n")
        .replace("0 0 0 1", "0 0 0 1 2")
        .replace("0.5 1.0", "0.5 1.0 0"),
        "2 hydrogens are attached to sites, have no place and are not read",
    ),
    "modulated": (
        ROCK_SALT.replace("loop_", "_cell_modulation_dimension 1\nloop_"),
        "it is modulated, and the average structure is read",
    ),
    "formula": (
        ROCK_SALT.replace("loop_", "_chemical_formula_sum 'Na1 Cl1 O2'\nloop_"),
        "its formula is Na1 Cl1 O2, and its atoms are ClNa",
    ),
    "units": (
        ROCK_SALT.replace("loop_", "_chemical_formula_sum 'Cl Na'\n_cell_formula_units_Z 8\nloop_"),
        "its cell has 8 units of its formula Cl Na, and its atoms are 4",
    ),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_what_the_file_tells_of_other_atoms_is_told(name):
    text, told = DOUBTS[name]
    assert read_cif(text).notes == [told]


@pytest.mark.parametrize(
    "more",
    [
        "_chemical_formula_sum 'Cl1 Na1'\n_cell_formula_units_Z 4\n",
        "_chemical_formula_sum 'Cl2 Na2'\n",
        "_chemical_formula_sum '?'\n",
        "_chemical_formula_sum 'Na Cl, x(H2 O)'\n",
    ],
)
def test_a_file_that_agrees_with_its_atoms_has_no_doubts(more):
    assert not read_cif(ROCK_SALT.replace("loop_", f"{more}loop_")).notes


@pytest.mark.parametrize("name", ["F d -3 m:1", "F d -3 m:2"])
def test_a_named_origin_is_no_doubt(name):
    assert not read_cif(ROCK_SALT.replace("F m -3 m", name)).notes


def test_json_names_that_come_twice_numbers_too_large_and_other_species():
    text = json.dumps(structures.rock_salt().as_dict())
    with pytest.raises(Exception, match="'sites' is there twice in one object"):
        read_json(text[:-1] + ', "sites": []}')
    with pytest.raises(Exception, match="cannot be read as JSON"):
        read_json("[" * 100_000)
    one = structures.rock_salt().as_dict()
    one["sites"][0]["abc"] = [10**400, 0, 0]
    (reason,) = read_json(json.dumps(one))
    assert "too large" in reason
    one = structures.rock_salt().as_dict()
    one["sites"][0]["species"][0]["spin"] = 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_json(json.dumps(one)).notes == ["not read: spin of species"]


def test_what_a_structure_holds_beside_the_known_is_told():
    one = structures.rock_salt().as_dict()
    one["magnetic_ordering"] = "FM"
    assert read_json(json.dumps(one)).notes == ["not read: magnetic_ordering of the structure"]
