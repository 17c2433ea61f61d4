"""Names for nodes: tokens as text, residues, atoms, grains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from graphformer.datasets.crystals.elements import SYMBOLS
from graphformer.inspect.value import ModelGraphs, Nodes


def from_tokenizer(graphs: ModelGraphs, tokenizer: Any) -> ModelGraphs:
    """Labels of every side whose token ids are known.

    Raises:
        ValueError: of no side they are.
    """
    made = {
        side: one
        if one.ids is None
        else replace(one, labels=tuple(tuple(pieces(tokenizer, row)) for row in one.ids.tolist()))
        for side, one in graphs.nodes.items()
    }
    if all(one.ids is None for one in graphs.nodes.values()):
        raise ValueError(
            "tokenizer is given, and the call has no input_ids for all nodes of the graphs: give "
            "the labels themselves with tokens=[...]"
        )
    return replace(graphs, nodes=made)


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token as text. A piece of a character that takes several tokens stays as the tokenizer
    writes it.
    """
    found = []
    for number, token in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
        text = str(token)
        if "\u2581" in text:  # sentencepiece's space
            text = text.replace("\u2581", " ")
        else:
            decoded = tokenizer.decode([number])
            text = decoded if decoded and "\ufffd" not in decoded else text
        found.append(text)
    return found


def given(graphs: ModelGraphs, tokens: Sequence[Any]) -> ModelGraphs:
    """Labels that the user gives, for the first side.

    Raises:
        ValueError: their number is not that of the nodes.
    """
    side, nodes = next(iter(graphs.nodes.items()))
    rows = [list(tokens)] if not tokens or isinstance(tokens[0], str) else list(map(list, tokens))
    if len(rows) != graphs.batch:
        raise ValueError(
            f"tokens must be a list of labels for each of the {graphs.batch} sequences, got "
            f"{len(rows)}"
        )
    made = []
    for i, (row, keep) in enumerate(zip(rows, nodes.keep, strict=True)):
        real = int(keep.sum())
        if len(row) not in (nodes.count, real):
            raise ValueError(
                f"tokens[{i}] must have a label for each of the {real} nodes, got {len(row)}"
            )
        if len(row) == real < nodes.count:
            names = iter(row)
            row = [next(names) if here else "" for here in keep.tolist()]
        made.append(tuple(map(str, row)))
    return replace(graphs, nodes={**graphs.nodes, side: replace(nodes, labels=tuple(made))})


def of_data(nodes: Nodes, data: Any) -> Nodes:
    """Coordinates, the text that each graph was made of, and names of its nodes, where the data
    have them.

    Of this library's proteins a residue is its letter and its number in the file, ``K42``
    (``A:K42`` where there are several chains, ``K42A`` with an insertion code); of molecules and
    crystals an atom is its symbol; of images a grain is its label in the image and its number of
    pixels.
    """
    pos, keep = getattr(data, "pos", None), nodes.keep
    placed = None
    if isinstance(pos, torch.Tensor) and pos.ndim == 2 and len(pos) == int(keep.sum()):
        placed = pos.new_zeros(*keep.shape, pos.shape[1])
        placed[keep] = pos
    nodes = replace(nodes, pos=placed)
    crystal = getattr(data, "atomic_number", None) is not None
    for name, kind in (
        ("smiles", "atom"),
        ("text", "atom"),
        ("formula" if crystal else "name", "atom" if crystal else "residue"),
        ("file", "grain"),
    ):
        texts = _texts(data, name, len(keep))
        if texts is not None:
            nodes = replace(nodes, texts=texts, kind=kind)
            break
    if nodes.texts is None and isinstance(getattr(data, "grain", None), torch.Tensor):
        nodes = replace(nodes, kind="grain")
    named = {"atom": _atoms, "residue": _residues, "grain": _grains}.get(nodes.kind)
    rows = None if named is None else named(data, nodes)
    if rows is None:
        return nodes
    padded = tuple((*row, *[""] * (nodes.count - len(row))) for row in rows)
    return replace(nodes, labels=padded)


def names_of_nodes(data: Any) -> list[str] | None:
    """What :func:`of_data` calls the nodes of one graph; None where it knows no names."""
    keep = torch.ones(1, data.num_nodes, dtype=torch.bool)
    labels = of_data(Nodes(keep, kind="node"), data).labels
    return None if labels is None else list(labels[0])


def _texts(data: Any, name: str, graphs: int) -> tuple[str, ...] | None:
    """A text a graph."""
    value = getattr(data, name, None)
    value = [value] if isinstance(value, str) else value
    if isinstance(value, (list, tuple)) and len(value) == graphs:
        return tuple(map(str, value))
    return None


def _numbers(data: Any, name: str, nodes: Nodes) -> list[list[int]] | None:
    """A whole number a node, graph by graph."""
    value = getattr(data, name, None)
    counts = nodes.keep.sum(1).tolist()
    if not isinstance(value, torch.Tensor) or value.ndim != 1 or len(value) != sum(counts):
        return None
    return [part.tolist() for part in value.long().split(counts)]


def _residues(data: Any, nodes: Nodes) -> list[list[str]] | None:
    from graphformer.datasets.proteins.residue_graph import split_names

    graphs, numbers = len(nodes.keep), _numbers(data, "residue", nodes)
    letters = _texts(data, "sequence", graphs)
    if numbers is None or letters is None:
        return None
    places = _numbers(data, "group_1", nodes)
    chains, codes = _texts(data, "chains", graphs), _texts(data, "insertion", graphs)
    rows = []
    for i, (one, residues) in enumerate(zip(numbers, letters, strict=True)):
        if len(residues) != len(one):
            return None
        row = [f"{letter}{number}" for letter, number in zip(residues, one, strict=True)]
        if codes is not None and len(inserted := split_names(codes[i])) == len(row):
            row = [name + code for name, code in zip(row, inserted, strict=True)]
        known = [] if chains is None else split_names(chains[i])
        if len(known) > 1 and places is not None:
            first = min(places[i])  # a batch may count the groups of all its graphs
            row = [f"{known[p - first]}:{name}" for p, name in zip(places[i], row, strict=True)]
        rows.append(row)
    return rows


def _atoms(data: Any, nodes: Nodes) -> list[list[str]] | None:
    """Symbols; those of a text that rdkit cannot read, or that has other atoms, are not known."""
    numbers = _numbers(data, "atomic_number", nodes)
    if numbers is not None and all(0 < number <= len(SYMBOLS) for row in numbers for number in row):
        return [[SYMBOLS[number - 1] for number in row] for row in numbers]
    try:
        from rdkit import Chem
    except ModuleNotFoundError:  # the page says it, too
        return None
    numbers = _numbers(data, "z", nodes)
    if numbers is not None:
        symbol = Chem.GetPeriodicTable().GetElementSymbol
        return [[symbol(number) for number in row] for row in numbers]
    rows = []
    for text, count in zip(nodes.texts or (), nodes.keep.sum(1).tolist(), strict=True):
        molecule, atoms = atoms_of(text, count)
        if len(atoms) != count:
            return None
        rows.append([molecule.GetAtomWithIdx(i).GetSymbol() for i in atoms])
    return rows


def atoms_of(text: str, count: int) -> tuple[Any, list[int]]:
    """A molecule, None where rdkit cannot read it, and the numbers of its atoms that are nodes of
    a graph of ``count``: all of them, or else those that are no ends ``*`` of a repeat unit. A
    copolymer is its monomers.
    """
    from rdkit import Chem, rdBase

    from graphformer.datasets.polymers.parse import split_extension

    with rdBase.BlockLogs():  # whoever asks says what cannot be read
        molecule = Chem.MolFromSmiles(split_extension(text)[0].split("|")[0])
    if molecule is None:
        return None, []
    atoms = [atom.GetIdx() for atom in molecule.GetAtoms()]
    if len(atoms) != count:
        atoms = [i for i in atoms if molecule.GetAtomWithIdx(i).GetAtomicNum()]
    return molecule, atoms


def _grains(data: Any, nodes: Nodes) -> list[list[str]] | None:
    grains, sizes = _numbers(data, "grain", nodes), _numbers(data, "voxels", nodes)
    if grains is None:
        return None
    if sizes is None:
        return [[f"grain {label}" for label in row] for row in grains]
    return [
        [f"grain {label}, {size:,} px" for label, size in zip(row, many, strict=True)]
        for row, many in zip(grains, sizes, strict=True)
    ]
