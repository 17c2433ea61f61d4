"""The pictures of ``graphformer predict --plot``: inputs with the refined graph of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from graphformer.cli.telling import say
from graphformer.datasets.microstructures.grains import regions
from graphformer.datasets.microstructures.images import read_image
from graphformer.errors import require

_READERS = ("polymer", "protein", "microstructure")


def require_pictures(reader: Any, folder: Path) -> None:
    """Refuse before any prediction what could not be drawn.

    Raises:
        ValueError: graphs without a picture. MissingExtra: matplotlib is not installed.
    """
    if reader not in _READERS:
        raise ValueError(
            f"--plot {str(folder)!r} draws polymers, proteins and microstructures, and MODEL_DIR "
            f"reads {reader or 'other graphs'}; leave it out."
        )
    require("matplotlib.figure", extra="viz", why="--plot")


def draw_inputs(model: Any, table: Any, folder: Path, limit: int) -> None:
    """A PNG file for each graph of a table of predictions, at most ``limit``, in its order."""
    total = sum(len(part.dataset) for part in table.parts)
    if not total:
        return
    folder.mkdir(parents=True, exist_ok=True)
    draw = {"polymer": _polymer, "protein": _protein, "microstructure": _grains}[
        model.featuriser["reader"]
    ]
    used: set[str] = set()
    drawn = 0
    for part in table.parts:
        first = 0
        for place, graph in enumerate(part.dataset):
            if drawn == limit:
                break
            rows = graph.num_nodes if _of_nodes(model) else 1
            values = part.values[first : first + rows]
            first += rows
            draw(model, part, place, graph, values, folder, used)
            drawn += 1
    say(f"{drawn} pictures in {folder}", err=True)
    if total > drawn:
        say(
            f"warning: pictures of the first {drawn} of {total} inputs; --plot-limit {total} draws "
            "all",
            err=True,
        )


def _polymer(
    model: Any, part: Any, _: int, graph: Any, values: list, folder: Path, used: set[str]
) -> None:
    from graphformer.inspect.pictures import plot_polymer

    name = f"{Path(part.files[0]).name}-row{int(graph.row)}"
    title = f"{graph.text}\n{_told(part, values[0])}"
    plot_polymer(model, graph, folder / _free(name, used), title=title)


def _protein(
    model: Any, part: Any, _: int, graph: Any, values: list, folder: Path, used: set[str]
) -> None:
    from graphformer.inspect.pictures import plot_protein

    path, title = folder / _free(graph.name, used), graph.name
    if not _of_nodes(model):
        plot_protein(model, graph, path, title=f"{title}\n{_told(part, values[0])}")
        return
    # of classes the probability of the first one, else the first prediction
    column = 1 if isinstance(values[0][0], str) else 0
    numbers = np.array([row[column] for row in values])
    plot_protein(model, graph, path, predicted=numbers, name=part.columns[column], title=title)


def _grains(
    model: Any, part: Any, place: int, graph: Any, values: list, folder: Path, used: set[str]
) -> None:
    from graphformer.inspect.pictures import plot_grains

    options = model.featuriser["options"]
    labels = read_image(part.dataset.files[place])
    if options["kind"] == "phases":
        labels = regions(labels, periodic=options["periodic"], name=graph.file)
    plot_grains(
        model,
        graph,
        labels,
        folder / _free(graph.file, used),
        spacing=options["spacing"],
        periodic=options["periodic"],
        title=f"{graph.file}\n{_told(part, values[0])}",
    )


def _of_nodes(model: Any) -> bool:
    return any(one.place == "node" for one in model.net.targets.values())


def _told(part: Any, row: list) -> str:
    """The predictions of a row, with their standard deviations where there are some."""
    texts = [f"{one:.4g}" if isinstance(one, float) else str(one) for one in row]
    known = dict(zip(part.columns, texts, strict=True))
    return ", ".join(
        f"{name} {known[name]}" + (f" ± {known[f'{name}_std']}" if f"{name}_std" in known else "")
        for name in part.columns[: part.means]
    )


def _free(name: str, used: set[str]) -> str:
    """The name of a file that no other input has."""
    name = name.strip("/").replace("../", "").replace("/", "_")
    new, number = name, 2
    while new in used:
        new, number = f"{name}-{number}", number + 1
    used.add(new)
    return f"{new}.png"


__all__ = ["draw_inputs", "require_pictures"]
