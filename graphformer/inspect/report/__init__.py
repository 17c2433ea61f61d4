"""One HTML page with every head of a model: a file of its own, which needs no network."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import tempfile
import warnings
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphformer.errors import did_you_mean, whole
from graphformer.inspect.report.content import content
from graphformer.inspect.report.given import ablation_of, measures_of
from graphformer.inspect.report.packing import kept_edges

if TYPE_CHECKING:
    from graphformer.inspect.value import ModelGraphs

LIMIT = 3_000_000
"""Edges that a page holds without ``max_edges``: at 4 bytes an edge, in base64, about 16 MB."""

OPTIONS = ("title", "max_edges", "measures", "ablation")


def write(graphs: ModelGraphs, path: str | os.PathLike[str], **options: Any) -> None:
    """Write the page to ``path``.

    The page shows every head of every layer as a small matrix. An opened head is seen as text, as
    arcs (as two rows where senders and receivers are different texts), as a matrix, at the nodes'
    coordinates, on the drawing of a molecule (needs rdkit), or on an image's patches. It has a
    slider for the least weight, the heaviest k of a row, a search over labels, and saves what is
    seen as PNG, CSV and GraphML. Padding is left out, and nodes are numbered without it.

    Weights are stored in 16 bits between the least and the greatest of their head, so that they are
    off by at most ``(greatest - least) / 131070``. An edge takes 4 bytes (in base64, 5.4).

    >>> graphs.report("page.html", measures=graphs.measures())
    >>> graphs.report("page.html", ablation={(0, 3): 0.12})

    Args:
        graphs: of :func:`graphformer.inspect.graphs`.
        path: of the file; one that is there is replaced, once the page is complete.
        title: of the page; the model's name when left out.
        max_edges: at most so many edges a head and sequence, the heaviest; the page says where
            edges were left out. Without it a page of more than 3 million edges is refused.
        measures: by ``(layer, head)``, a dictionary of numbers that is shown beside the head; a
            layer is its number or its name, and ``head`` is None where heads are merged. Or the
            table of ``graphs.measures()``, of which the means over sequences are shown.
        ablation: by ``(layer, head)``, one number that is shown as a bar beside the head, such as
            the loss that leaving it out costs. Or the table of
            :func:`graphformer.inspect.ablate`, of which ``change`` is shown.

    Raises:
        TypeError: an option that does not exist, or one of the wrong type.
        ValueError: no layers, too many edges, a weight or coordinate that is not finite, or
            ``measures`` and ``ablation`` of a head that is not here.
        OSError: the folder of ``path`` does not exist, or ``path`` is a folder.
    """
    for name in options:
        if name not in OPTIONS:
            raise TypeError(
                f"report has no option {name!r}{did_you_mean(name, OPTIONS)}; options: "
                + ", ".join(OPTIONS)
            )
    title = options.get("title")
    if title is not None and not isinstance(title, str):
        raise TypeError(f"title must be a text, got {title!r} ({type(title).__name__})")
    max_edges = options.get("max_edges")
    if max_edges is not None:
        whole("max_edges", max_edges)
    target = _target(path)
    if not graphs.layers:
        raise ValueError("there are no layers to show: graphs holds none (see graphs.names)")
    measures = measures_of(options.get("measures"), graphs)
    ablation = ablation_of(options.get("ablation"), graphs)
    _refuse_too_many(graphs, max_edges)
    page = content(
        graphs,
        title or graphs.model or "Attention graphs",
        max_edges,
        measures,
        ablation,
    )
    _write_whole(target, _filled(page))


def _target(path: Any) -> Path:
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"path={str(target)!r} is a folder: name a file in it, page.html")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"path={str(target)!r}: the folder {str(target.parent)!r} does not exist; make it first"
        )
    return target


def _refuse_too_many(graphs: ModelGraphs, max_edges: int | None) -> None:
    kept = kept_edges(graphs, max_edges)
    if not kept:
        warnings.warn(
            f"no layer has an edge (sparsify was {graphs.cut or 'not recorded'}): the page shows "
            "none",
            UserWarning,
            stacklevel=3,
        )
    if max_edges is None and kept > LIMIT:
        heads = sum(layer.graph.num_lanes for layer in graphs.layers)
        raise ValueError(
            f"the page would hold {kept:,} edges, about {kept * 16 / 3e6:.0f} MB, and more than "
            f"{LIMIT:,} are too many for a browser. max_edges={LIMIT // heads} keeps that many of "
            "the heaviest of each head; or read fewer layers, or with a greater "
            "sparsify=gf.Threshold(tau)"
        )


def _filled(page: dict[str, Any]) -> str:
    """The template with style, script and data in it."""
    files = importlib.resources.files(__package__)
    read = {name: files.joinpath(name).read_text("utf-8") for name in FILES}
    # Only ASCII, and no sign that could end the script element or begin another.
    data = json.dumps(page, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    parts = {
        "title": escape(page["title"].replace("\0", "\ufffd")),
        "style": read["page.css"],
        "script": "\n".join(read[name] for name in FILES if name.endswith(".js")),
        "data": data,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read["page.html"])


FILES = ("page.html", "page.css", "data.js", "scene.js", "views.js", "overview.js", "page.js")


def _write_whole(target: Path, text: str) -> None:
    """The file complete or not at all."""
    encoded = text.encode("utf-8", "replace")
    handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(encoded)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(draft, 0o666 & ~mask)  # mkstemp's files are the owner's alone
        os.replace(draft, target)
    except BaseException:
        os.unlink(draft)
        raise
