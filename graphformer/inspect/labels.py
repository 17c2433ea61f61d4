"""Names for nodes: tokens as text, residues, atoms, grains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

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
    """Coordinates, and the text that each graph was made of, where the data have them."""
    pos, keep = getattr(data, "pos", None), nodes.keep
    placed = None
    if isinstance(pos, torch.Tensor) and pos.ndim == 2 and len(pos) == int(keep.sum()):
        placed = pos.new_zeros(*keep.shape, pos.shape[1])
        placed[keep] = pos
    texts = None
    for name, kind in (
        ("smiles", "atom"),
        ("text", "atom"),
        ("name", "residue"),
        ("file", "grain"),
    ):
        value = getattr(data, name, None)
        value = [value] if isinstance(value, str) else value
        if isinstance(value, (list, tuple)) and len(value) == len(keep):
            return replace(nodes, pos=placed, texts=tuple(map(str, value)), kind=kind)
    return replace(nodes, pos=placed, texts=texts)
