"""Secondary structure from sequences: the published set, its parts and its masks."""

import zipfile
from pathlib import Path

import pytest
import torch
from torch_geometric.utils import is_undirected

from graphformer.datasets import ProteinSecondaryStructure, RawFile
from graphformer.datasets.proteins.protein import (
    AMINO_ACIDS,
    STATES,
    encode_amino_acids,
    sequence_edges,
)
from graphformer.datasets.store.download import sha256


@pytest.fixture(scope="module")
def flip(data_dir: Path) -> ProteinSecondaryStructure:
    folder = data_dir / "flip-secondary-structure"
    if not folder.is_dir():
        pytest.skip("the files of FLIP are not here")
    return ProteinSecondaryStructure(None, raw=folder)


@pytest.mark.slow
def test_flip_is_what_was_published(flip):
    assert len(flip) == 11_156 and flip.skipped == [] and flip.x.shape == (2_845_094, 1)
    parts = flip.standard_split()
    assert [len(part) for part in parts] == [9712, 1080, 364] and [
        set(part.part.tolist()) for part in parts
    ] == [{0}, {1}, {2}]
    assert flip.y.isnan().sum() == 186_876  # zeros of the mask
    assert flip.notes == ["residues that are none of the 20 amino acids count as X: O (1), U (10)"]
    counts = flip.x.flatten().bincount(minlength=21)
    assert counts[AMINO_ACIDS.index("A")] == 229_044 and counts[-1] == 166 + 10 + 1  # X, U and O


@pytest.mark.slow
def test_flip_graphs(flip):
    data = flip[0]
    assert data.name == "1es5-A" and "".join(AMINO_ACIDS[i] for i in data.x[:8, 0]) == "VTKPTIAA"
    assert (
        data.y[:2].isnan().all()
        and "".join(STATES[int(i)] for i in data.y[2:18]) == "CCCCCCCEEEEEECCC"
    )
    assert (
        data.validate()
        and data.num_edges == 2 * (data.num_nodes - 1)
        and is_undirected(data.edge_index)
    )
    backward = data.edge_attr[:, 0] == 0  # from the residue before
    assert (data.edge_index[0] - data.edge_index[1] == torch.where(backward, -1, 1)).all()


def test_windows():
    edges, category = sequence_edges(4, 2)
    offsets = torch.tensor([-2, -1, 1, 2])
    assert (edges[0] - edges[1] == offsets[category[:, 0]]).all() and edges.shape == (2, 10)
    assert edges[1].tolist() == sorted(edges[1].tolist()) and sequence_edges(1, 3)[0].shape == (
        2,
        0,
    )
    with pytest.raises(ValueError, match="window must be 1 or more, got 0"):
        ProteinSecondaryStructure(None, 0)


def test_proteins_that_do_not_fit_are_named(tmp_path, monkeypatch):
    files = {
        "sequences": ">a\nACU\n>b\nGG\n>c\nWW\n>d\nKK\n",
        "sampled": ">a SET=train VALIDATION=False\n"
        "HEC\n"
        ">b SET=test VALIDATION=False\n"
        "H\n"
        ">c SET=train VALIDATION=True\n"
        "CC\n",
        "mask": ">a\n110\n>b\n11\n>c\n11\n>d\n11\n",
    }
    with zipfile.ZipFile(tmp_path / "splits.zip", "w") as archive:
        for name, text in files.items():
            archive.writestr(f"splits/{name}.fasta", text)
    monkeypatch.setattr(
        ProteinSecondaryStructure,
        "raw_files",
        (RawFile("splits.zip", sha256(tmp_path / "splits.zip")),),
    )
    with pytest.warns(
        UserWarning,
        match="2 left out, 2 kept .b: 2 residues, 1 labels and 2 of the mask.*; d: 2 residues, 0 "
        "labels",
    ):
        made = ProteinSecondaryStructure(None, raw=tmp_path)
    assert made[0].x.flatten().tolist() == [0, 1, 20] and [
        len(part) for part in made.standard_split()
    ] == [1, 1, 0]
    torch.testing.assert_close(made[0].y, torch.tensor([0, 1, torch.nan]), equal_nan=True)


def test_every_sequence_of_the_file_is_a_graph_or_named(tmp_path, monkeypatch):
    files = {
        "sequences": ">a x > y\nac\nu\n>b\nG-\n>a\nWW\n>c\nBZJ\n>d\nK*\n",
        "sampled": ">a SET=train\nHEC\n>b\nHH\n>c SET=test\nCCC\n>d\nHH\n>e\nH\n",
        "mask": ">a\n111\n>b\n11\n>c\n101\n>d\n11\n",
    }
    with zipfile.ZipFile(tmp_path / "splits.zip", "w") as archive:
        for name, text in files.items():
            archive.writestr(f"splits/{name}.fasta", text)
    monkeypatch.setattr(
        ProteinSecondaryStructure,
        "raw_files",
        (RawFile("splits.zip", sha256(tmp_path / "splits.zip")),),
    )
    with pytest.warns(UserWarning, match="4 left out, 2 kept"):
        made = ProteinSecondaryStructure(None, raw=tmp_path)
    assert [data.name for data in made] == ["a", "c"] and made[0].x.flatten().tolist() == [0, 1, 20]
    told = {text.split(":")[0]: text for text in made.skipped}
    assert (
        set(told) == {"a", "b", "d", "e"}
        and "twice" in told["a"]
        and "without a sequence" in told["e"]
    )
    assert "- in the sequence" in told["b"] and "* in the sequence" in told["d"]
    assert made.notes == [
        "residues that are none of the 20 amino acids count as X: B (1), J (1), U (1), Z (1)"
    ]


def test_letters_that_become_x_are_told():
    with pytest.warns(UserWarning, match="B, U is none of the 20 amino acids and becomes X"):
        assert encode_amino_acids("acBU").tolist() == [0, 1, 20, 20]
    with pytest.raises(ValueError, match="sequence: '-' is no residue"):
        encode_amino_acids("AC-")
