"""The drawing of a molecule, on which its edges are shown."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from graphformer.inspect.labels import atoms_of
from graphformer.inspect.report.packing import buffer

WIDTH, HEIGHT = 640, 420


def drawing(smiles: str, count: int) -> dict[str, Any]:
    """The picture and where its atoms are, in parts of its width and height: ``svg`` and
    ``places``; or ``note``, why there is none.

    The nodes are the atoms of the SMILES, or those that are no ends ``*`` of a repeat unit.
    """
    try:
        from rdkit.Chem import rdDepictor
        from rdkit.Chem.Draw import rdMolDraw2D
    except ModuleNotFoundError:
        return {"note": "No drawing of the molecule: rdkit is not installed (extra polymer)."}
    molecule, atoms = atoms_of(smiles, count)
    if molecule is None:
        return {"note": f"No drawing of the molecule: rdkit cannot read {smiles!r}."}
    if len(atoms) != count:
        return {
            "note": f"No drawing of the molecule: {smiles!r} has {len(atoms)} atoms, and the graph "
            f"{count} nodes."
        }
    rdDepictor.Compute2DCoords(molecule)
    canvas = rdMolDraw2D.MolDraw2DSVG(WIDTH, HEIGHT)
    options: Any = canvas.drawOptions()
    options.clearBackground, options.padding = False, 0.1
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, molecule)
    canvas.FinishDrawing()
    places = [canvas.GetDrawCoords(i) for i in atoms]
    parts = np.array([(place.x / WIDTH, place.y / HEIGHT) for place in places])
    return {
        "svg": base64.b64encode(canvas.GetDrawingText().encode()).decode("ascii"),
        "symbols": [molecule.GetAtomWithIdx(i).GetSymbol() for i in atoms],
        "places": buffer(parts.reshape(-1, 2), "f4"),
    }
