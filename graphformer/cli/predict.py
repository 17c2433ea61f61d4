"""The command ``graphformer predict``; :mod:`graphformer.cli.app` calls it."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

from graphformer.cli.options import refuse_idle
from graphformer.cli.telling import say
from graphformer.errors import require

typer = require("typer", extra="text", why="The command line")

TOLD = 20  # how many unreadable inputs are told one by one


def predict(
    model_dir: Annotated[
        Path, typer.Argument(help="A folder that graphformer train-graphs wrote.")
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            help="What the model reads: label images, CSV files of polymers, PDB, mmCIF or CIF "
            "files, JSON of crystals."
        ),
    ],
    tables: Annotated[
        Path | None,
        typer.Option(help="Images: a folder of <stem>.csv, properties of the grains by 'label'."),
    ] = None,
    smiles_column: Annotated[
        str | None, typer.Option(help="Polymers: their column [default: as in training].")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A CSV file to write [default: print].")
    ] = None,
    max_nodes: Annotated[int, typer.Option(min=1, help="Nodes of a batch.")] = 4096,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A new folder for pictures of the inputs with the model's refined graph.",
        ),
    ] = None,
    plot_limit: Annotated[
        int, typer.Option(min=1, help="With --plot: at most so many pictures.")
    ] = 20,
    bfactors: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Proteins: a new folder for copies of the files with predictions as B factors.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Passes with dropout: means and standard deviations [default: one, without].",
        ),
    ] = None,
    ensemble: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MODEL_DIR",
            help="A further model; again for each: means and standard deviations of all.",
        ),
    ] = None,
) -> None:
    """Predict what is in new files with a trained model: a line an image, a polymer, a crystal or
    a residue, in the unit of the training targets.

    The columns of a CSV are kept as they are. A polymer that cannot be read keeps its line, with an
    empty prediction. What could not be read is told, with the reason.
    """
    from graphformer.cli.predict_pictures import draw_inputs, require_pictures
    from graphformer.training import load_graph_model, prediction_table
    from graphformer.training.saving import write_text

    if output is not None and output.exists():
        raise ValueError(
            f"--output: {str(output)!r} is there already, and nothing is written over; name "
            "another file."
        )
    if output is not None and not output.parent.is_dir():
        raise ValueError(
            f"--output: there is no folder {str(output.parent)!r}; name one that is there."
        )
    places = [file.resolve() for file in files]
    if twice := [file for i, file in enumerate(files) if places[i] in places[:i]]:
        raise ValueError(f"FILES: {str(twice[0])!r} is given twice; name each file once.")
    if plot is None:
        refuse_idle({"plot_limit": "without --plot"})
    for name, folder in (("plot", plot), ("bfactors", bfactors)):
        _require_new(name, folder)
    if plot is not None and bfactors is not None and plot.absolute() == bfactors.absolute():
        raise ValueError(f"--bfactors {str(bfactors)!r} is the folder of --plot; name another one.")
    model = load_graph_model(model_dir)
    reader = model.featuriser.get("reader")
    for name, value, owner in (
        ("tables", tables, "microstructure"),
        ("smiles-column", smiles_column, "polymer"),
    ):
        if value is not None and reader != owner:
            raise ValueError(
                f"--{name} {str(value)!r} is for models of {owner}s, and MODEL_DIR reads "
                f"{reader}s; leave it out."
            )
    if bfactors is not None:
        _check_residues(model, bfactors)
    if plot is not None:
        require_pictures(reader, plot)
    seen = {model_dir.resolve()}
    for folder in ensemble or []:
        if folder.resolve() in seen:
            raise ValueError(
                f"--ensemble {str(folder)!r} is there twice, which would make the standard "
                "deviations too small; name each model once."
            )
        seen.add(folder.resolve())
    others = [load_graph_model(folder) for folder in ensemble or []]
    for one, folder in zip([model, *others], [model_dir, *(ensemble or [])], strict=True):
        if samples and not one.has_dropout:
            raise ValueError(
                f"--samples {samples}: {str(folder)!r} was trained without dropout, so all passes "
                "would agree; leave it out, train with --dropout 0.1, or give further models "
                "(--ensemble)."
            )
    try:
        table = prediction_table(
            model, files, tables, smiles_column, max_nodes, samples=samples or 0, ensemble=others
        )
    except ValueError as error:
        if not (found := re.match(r"ensemble\[(\d+)\]", str(error))):
            raise
        folder = (ensemble or [])[int(found[1])]
        raise ValueError(f"--ensemble {str(folder)!r}{str(error)[found.end() :]}") from None
    for problem in table.problems[:TOLD]:
        say(f"warning: no prediction for {problem}", err=True)
    if len(table.problems) > TOLD:
        say(f"warning: and {len(table.problems) - TOLD} more without a prediction", err=True)
    for note in table.notes[:TOLD]:
        say(f"warning: {note}", err=True)
    if len(table.notes) > TOLD:
        say(f"warning: and {len(table.notes) - TOLD} more in doubt", err=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(
        [
            [f"{value:.6g}" if isinstance(value, float) else value for value in row]
            for row in table.rows
        ]
    )
    if output is None:
        say(text.getvalue().rstrip("\n"), result=True)
    else:
        write_text(output, text.getvalue())
        say(f"{len(table.rows) - table.without} predictions in {output}")
    if plot is not None:
        draw_inputs(model, table, plot, plot_limit)
    if bfactors is not None:
        _write_b_factors(model, table, bfactors)


def _require_new(name: str, folder: Path | None) -> None:
    if folder is None:
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"--{name}: {str(folder)!r} is there already, and nothing is written over; name a new "
            "folder."
        )


def _check_residues(model: Any, folder: Path) -> None:
    """ValueError where no number of a residue can be a B factor."""
    reader = model.featuriser.get("reader")
    if reader != "protein":
        raise ValueError(
            f"--bfactors {str(folder)!r} is for models of proteins, and MODEL_DIR reads {reader}s; "
            "leave it out."
        )
    targets = list(model.net.targets.values())
    if {one.place for one in targets} != {"node"}:
        raise ValueError(
            f"--bfactors {str(folder)!r} is for predictions of residues, and MODEL_DIR predicts "
            "for whole proteins; leave it out."
        )
    if len(targets) > 1 or (targets[0].task != "classification" and targets[0].out_dim > 1):
        raise ValueError(
            f"--bfactors {str(folder)!r} holds one number a residue, and MODEL_DIR predicts "
            "several; write them with --output."
        )


def _write_b_factors(model: Any, table: Any, folder: Path) -> None:
    """A copy of each file that has a prediction; of classes the B factor is their place, from 1."""
    from graphformer.datasets.proteins.b_factors import write_b_factors

    (part,) = table.parts
    classes, files = model.featuriser.get("classes", []), part.dataset.files
    numbers = [
        float(classes.index(row[0]) + 1) if classes else float(row[0]) for row in part.values
    ]
    models: dict[str, dict[int, list[float]]] = {}
    first = 0
    for graph in part.dataset:
        name, number = graph.name, 1
        if name not in files:  # of a further model: a.pdb#2
            name, _, digits = name.rpartition("#")
            number = int(digits)
        models.setdefault(name, {})[number] = numbers[first : first + graph.num_nodes]
        first += graph.num_nodes
    folder.parent.mkdir(parents=True, exist_ok=True)
    # the folder is there once all of its files are
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as partial:
        inside = Path(partial, "files")
        inside.mkdir()
        for name, values in models.items():
            place = Path(name)
            if place.is_absolute() or ".." in place.parts:
                place = Path("_".join(part for part in place.parts if part not in ("/", "..")))
            for told in write_b_factors(files[name], inside / place, values):
                say(f"warning: {name}: {told}", err=True)
        if folder.is_dir():
            folder.rmdir()  # it is empty
        inside.rename(folder)
    meant = (
        ", ".join(f"{k} is {one}" for k, one in enumerate(classes, start=1))
        if classes
        else part.columns[0]
    )
    say(f"{len(models)} files with B factors ({meant}) in {folder}", err=True)
