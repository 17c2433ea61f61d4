"""Secondary structure of proteins from their sequence: the NetSurfP-2.0 set with NEW364 as its
test, as in the benchmark FLIP.
"""

from __future__ import annotations

import re
import string
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphformer.datasets.store.cache import GraphDataset
from graphformer.datasets.store.download import RawFile
from graphformer.errors import strict_flags

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWYX"
"""The letter of each category of ``x``. X stands for all others (U and O too)."""

STATES = "HEC"
"""The letter of each class: helix, strand, coil."""

_SPLITS = RawFile(
    "splits.zip",
    "2e9bbbfd18a055bcac7edd4e059a6bf4bb35ca3ad8f8fa4fc3106422652a4726",
    "https://raw.githubusercontent.com/J-SNACKKB/FLIP/62cace8735f5610e2743cf06ce0f944b37fffaa6/splits/secondary_structure/splits.zip",
)
_PARTS = {"train": 0, "valid": 1, "test": 2}


class ProteinSecondaryStructure(GraphDataset):
    """11,156 proteins with a class for each residue: helix, strand or coil.

    A graph is a protein and a node a residue, in order. Residue i receives from residues i - window
    to i + window.

    - ``x``: int64 ``[N, 1]``, the amino acid as a place in ``AMINO_ACIDS``
      (``GraphTransformer(node_dim=21)``).
    - ``edge_attr``: int64 ``[E, 1]``, how far the sender is from the receiver: category 0 is
      ``-window`` (before it), then ``-window + 1`` and so on without 0 up to ``window``, so there
      are ``2 * window`` of them (``edge_dim=2 * window``).
    - ``y``: float32 ``[N]``, the class as a place in ``STATES``; NaN where the file's mask is 0:
      residues without coordinates, which are not scored. The losses and metrics of this library
      leave NaN out.
    - ``name``: PDB entry and chain; ``part``: 0 training, 1 validation, 2 test.

    Args:
        root: folder of the cache and of downloads; None keeps the graphs in memory alone.
        window: how far edges reach along the sequence; 1 is the backbone alone. The set has
            ``2 * window * 2.8`` million edges of 24 bytes.
        raw: folder that holds the raw file. See
            :class:`~graphformer.datasets.store.cache.GraphDataset` for where it is sought.
        transform, pre_transform, pre_filter, log, force_reload: as in PyG.

    Raises:
        ValueError: a window below 1, or a raw file that is damaged.
        DownloadError: the raw file is nowhere and cannot be downloaded.

    Proteins whose sequence, labels and mask do not fit together, names that come twice, and labels
    without a sequence are left out, named in ``skipped``; the published file has none. Letters that
    become X are counted in ``notes``: of the published file U (10) and O (1).

    Source: Klausen et al., NetSurfP-2.0, Proteins 87 (2019) 520; Dallago et al., FLIP, NeurIPS
    2021; data AFL-3.0. The file has 9,712 proteins for training, 1,080 for validation and 364 for
    the test (NEW364; FLIP's text says 648).
    """

    version: ClassVar[int] = 2
    raw_files: ClassVar[tuple[RawFile, ...]] = (_SPLITS,)
    data_folder: ClassVar[str] = "flip-secondary-structure"
    target_names: tuple[str, ...] = tuple(STATES)

    @strict_flags
    def __init__(
        self,
        root: str | Path | None,
        window: int = 1,
        *,
        raw: str | Path | None = None,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        pre_filter: Callable | None = None,
        log: bool = True,
        force_reload: bool = False,
    ):
        if window < 1:
            raise ValueError(f"window must be 1 or more, got {window}.")
        self.window = window
        hooks: dict[str, Any] = {
            "transform": transform,
            "pre_transform": pre_transform,
            "pre_filter": pre_filter,
        }
        super().__init__(
            root, {"window": window}, raw=raw, log=log, force_reload=force_reload, **hooks
        )

    def standard_split(self) -> tuple[GraphDataset, GraphDataset, GraphDataset]:
        """Training, validation and test as published."""
        part = torch.as_tensor(self._data["part"]).reshape(-1)[
            torch.as_tensor(list(self.indices()))
        ]
        train, valid, test = (self.index_select(part == number) for number in _PARTS.values())
        return train, valid, test

    def build(self) -> Iterator[Data]:
        """A graph a protein, in the order of the file."""
        with zipfile.ZipFile(self.raw_path(_SPLITS.name)) as archive:
            names = ("sequences", "sampled", "mask")
            texts = [archive.read(f"splits/{name}.fasta").decode("utf-8-sig") for name in names]
            (sequences, twice), (labels, _), (masks, _) = map(_read_fasta, texts)
        for name in twice:
            self.skip(f"{name}: the file has this name twice; only the first is read")
        for name in dict.fromkeys(
            name for part in (labels, masks) for name in part if name not in sequences
        ):
            self.skip(f"{name}: labels or a mask without a sequence")
        unknown: Counter[str] = Counter()
        for name, (_, written) in self.progress(sequences.items(), len(sequences)):
            sequence = written.upper()
            tags, label = labels.get(name, ("", ""))
            mask = masks.get(name, ("", ""))[1]
            if (
                not len(sequence) == len(label) == len(mask) > 0
                or not set(label) <= set(STATES)
                or not set(mask) <= set("01")
            ):
                self.skip(
                    f"{name}: {len(sequence)} residues, {len(label)} labels and {len(mask)} of the "
                    "mask, or other letters in them"
                )
                continue
            if strange := sorted(set(sequence) - set(string.ascii_uppercase)):
                self.skip(f"{name}: {' '.join(strange)} in the sequence is no residue")
                continue
            unknown.update(letter for letter in sequence if letter not in AMINO_ACIDS)
            part = (
                "test" if "SET=test" in tags else "valid" if "VALIDATION=True" in tags else "train"
            )
            y = np.where(_codes(mask, "01") == 1, _codes(label, STATES), np.nan).astype(np.float32)
            edges, distance = sequence_edges(len(sequence), self.window)
            x = torch.from_numpy(_codes(sequence, AMINO_ACIDS))[:, None]
            yield Data(
                x=x,
                edge_index=edges,
                edge_attr=distance,
                y=torch.from_numpy(y),
                name=name,
                part=_PARTS[part],
            )
        if unknown:
            counts = ", ".join(f"{letter} ({times})" for letter, times in sorted(unknown.items()))
            self.note(f"residues that are none of the 20 amino acids count as X: {counts}")


def sequence_edges(length: int, window: int) -> tuple[Tensor, Tensor]:
    """Edges in both directions between the places of a sequence that are at most ``window`` apart,
    by receiver and sender.

    Returns:
        ``edge_index`` ``[2, E]`` and the category of each edge, int64 ``[E, 1]``: see
            :class:`ProteinSecondaryStructure`.
    """
    offsets = torch.tensor([step for step in range(-window, window + 1) if step])
    senders = torch.arange(length)[:, None] + offsets
    receivers = torch.arange(length)[:, None].expand_as(senders)
    inside = (senders >= 0) & (senders < length)
    category = torch.arange(2 * window).expand_as(senders)
    return torch.stack([senders[inside], receivers[inside]]), category[inside][:, None]


def encode_amino_acids(sequence: str) -> Tensor:
    """A sequence of one-letter codes as places in ``AMINO_ACIDS``, int64 ``[N]``. Other letters
    become X, with a warning.

    Raises:
        ValueError: signs that are no letters, such as gaps.
    """
    sequence = sequence.upper()
    if strange := sorted(set(sequence) - set(string.ascii_uppercase)):
        raise ValueError(f"sequence: {' '.join(map(repr, strange))} is no residue; take it out.")
    if unknown := sorted(set(sequence) - set(AMINO_ACIDS)):
        warnings.warn(
            f"encode_amino_acids: {', '.join(unknown)} is none of the 20 amino acids and becomes X",
            stacklevel=2,
        )
    return torch.from_numpy(_codes(sequence, AMINO_ACIDS))


def _codes(text: str, alphabet: str) -> np.ndarray:
    """The place of each letter in an alphabet, int64; the last one for letters that are not in
    it.
    """
    table = np.full(256, len(alphabet) - 1, dtype=np.int64)
    table[np.frombuffer(alphabet.encode(), dtype=np.uint8)] = np.arange(len(alphabet))
    return table[np.frombuffer(text.encode("latin-1", "replace"), dtype=np.uint8)]


def _read_fasta(text: str) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """By name, what stands behind the name in the header, and the letters; and the names that come
    again.
    """
    entries: dict[str, tuple[str, str]] = {}
    twice: list[str] = []
    for entry in re.split(r"(?:^|[\r\n]+)>", text)[1:]:
        header, *letters = re.split(r"[\r\n]+", entry)
        name, _, tags = header.strip().partition(" ")
        if name in entries:
            twice.append(name)
        else:
            entries[name] = (tags, "".join("".join(letters).split()))
    return entries, twice
