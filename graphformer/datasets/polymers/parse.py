"""From the text of a SMILES to rdkit's molecule: what is not used is refused, with the reason."""

from __future__ import annotations

import re
from typing import Any

from graphformer.datasets.store.tables import is_number
from graphformer.errors import require

# of a dummy: any atom, an R group, a point of attachment
_LABEL = re.compile(r"(star_e|_R\d+|_AP\d+|\*|)", re.IGNORECASE)
# Fields of CXSMILES that are used (radicals) or say nothing about the structure (coordinates).
_FIELD = re.compile(r"(\^\d:\d+(,\d+)*|\([^)]*\)),?")
_EXTENDED = re.compile(r"(\S+)\s+\|(.*)\|\s*([^|]*)", re.DOTALL)


def split_extension(text: str) -> tuple[str, str, str]:
    """A SMILES, the fields of its CXSMILES extension (between bars, after a space) and a name;
    ``""`` where there is none.

    Bars without a space, or with a number in them, are those of a copolymer and stay with the
    SMILES.
    """
    text = text.strip()
    if (found := _EXTENDED.fullmatch(text)) and not is_number(found[2].split("|")[0]):
        return found[1], found[2].strip(), found[3].strip()
    smiles, *more = text.split(None, 1) or [""]
    return (text, "", "") if "|" in text else (smiles, "", "".join(more))


def parse(smiles: str, quoted: str, fields: str = "") -> Any:
    """rdkit's molecule, sanitized; its dummies carry different isotopes, so that an atom between
    two of them can be a stereo centre.

    Args:
        smiles: the text.
        quoted: what errors call it.
        fields: a CXSMILES extension. Labels of dummies and radicals are read; coordinates say
            nothing about the structure.

    Raises:
        ValueError: text that is no SMILES, a reaction, another field of CXSMILES, a configuration
            that is no tetrahedron, or a dummy that has a charge or hydrogens.
        MissingExtra: rdkit is not installed.
    """
    chem = require("rdkit.Chem", extra="polymer", why="a graph of a SMILES")
    block = require("rdkit.rdBase", extra="polymer", why="a graph of a SMILES").BlockLogs
    if ">" in smiles.replace("->", ""):
        raise ValueError(f"{quoted} is a reaction; give the polymer alone")
    if "{" in smiles:
        raise ValueError(
            f"{quoted} is BigSMILES by its braces, which is not read; write a repeat unit with two "
            "ends *"
        )
    options = chem.SmilesParserParams()
    options.sanitize = options.removeHs = False
    options.allowCXSMILES, options.parseName = bool(fields), False
    with block():
        raw = chem.MolFromSmiles(f"{smiles} |{fields}|" if fields else smiles, options)
        if raw is None:
            what = (
                "is no CXSMILES: what is between the bars does not parse"
                if fields
                else "is no SMILES: it does not parse"
            )
            raise ValueError(f"{quoted} {what}")
        if fields:
            _refuse_fields(raw, quoted, fields)
        kinds = (
            chem.ChiralType.CHI_UNSPECIFIED,
            chem.ChiralType.CHI_TETRAHEDRAL_CW,
            chem.ChiralType.CHI_TETRAHEDRAL_CCW,
        )
        if strange := [atom for atom in raw.GetAtoms() if atom.GetChiralTag() not in kinds]:
            kind = str(strange[0].GetChiralTag()).removeprefix("CHI_").lower()
            raise ValueError(
                f"{quoted}: the configuration {kind} of {strange[0].GetSymbol()} is no feature of "
                "a graph; write it without"
            )
        for number, dummy in enumerate(
            (atom for atom in raw.GetAtoms() if not atom.GetAtomicNum()), start=1
        ):
            if dummy.GetFormalCharge() or dummy.GetNumExplicitHs():
                dummy.UpdatePropertyCache(strict=False)  # else rdkit cannot write it
                raise ValueError(
                    f"{quoted}: an end * has no charge and no hydrogens, and {dummy.GetSmarts()} "
                    "has"
                )
            dummy.SetIsotope(number)
        try:
            molecule = chem.RemoveHs(raw)
            chem.AssignStereochemistry(molecule, cleanIt=True, force=True)
        except ValueError as error:
            raise ValueError(f"{quoted} is no SMILES: {error}") from None
    for bond in molecule.GetBonds():
        bond.SetBondDir(chem.BondDir.NONE)  # the double bonds have it all
    return molecule


def _refuse_fields(raw: Any, quoted: str, fields: str) -> None:
    labels = re.findall(r"\$([^$]*)\$", fields)
    rest = _FIELD.sub("", re.sub(r"\$[^$]*\$,?", "", fields)).strip(", ")
    atoms = list(raw.GetAtoms())
    for atom, label in (
        (a, part) for text in labels for a, part in zip(atoms, text.split(";"), strict=False)
    ):
        if label and (atom.GetAtomicNum() or not _LABEL.fullmatch(label)):
            raise ValueError(
                f"{quoted}: the label {label!r} of CXSMILES is not read; known: star_e, _R1, _AP1, "
                "of an end *"
            )
    if rest:
        raise ValueError(
            f"{quoted}: {rest!r} of CXSMILES is not read; known are labels of the ends "
            "($star_e;;_R1$), radicals (^1:2) and coordinates; write the polymer without it"
        )
