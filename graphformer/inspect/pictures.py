"""Pictures of polymers, proteins and microstructures with the refined graph of a trained model over
them: what each atom, residue or grain listens to in the last layer.

Weights are drawn relative to an equal share: 1 is ``1 / n`` of what a node with ``n`` senders
receives.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from graphformer.errors import require, strict_flags
from graphformer.inspect.labels import names_of_nodes
from graphformer.inspect.picture_parts import (
    draw_lines,
    new_figure,
    refined_graph,
    shares,
    titled,
    written,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch_geometric.data import Data

    from graphformer.graph import AttentionGraph
    from graphformer.training import GraphModel

_NUMBERED = 60  # grains up to which each has its label beside it
_ACROSS = 260  # dots of the longer side of a label image, at least


def plot_polymer(
    model: GraphModel,
    data: Data,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """A polymer of :func:`~graphformer.datasets.polymer_graph` as rdkit lays it out, see
    :func:`draw_polymer`; ``title``: its text, unless given. Written to ``path`` where given.

    Raises:
        MissingExtra: matplotlib or rdkit is not installed.
    """
    size = max(4.6, min(1.6 + 0.35 * data.num_nodes**0.8, 12.0))
    figure = new_figure(size, 0.75 * size)
    axes = figure.add_subplot()
    draw_polymer(axes, data.text, refined_graph(model, data))
    titled(axes, data.text if title is None else title, int(11 * size))
    figure.supxlabel(
        "blue, the refined graph: from an atom towards what it listens to;\n"
        "full width: 4 x an equal share",
        fontsize=7,
    )
    return written(figure, path)


def draw_polymer(axes: Axes, text: str, graph: AttentionGraph) -> None:
    """The structure of a repeat unit or of monomers as rdkit lays it out, bonds grey (dotted: to
    the next unit), and half-lines from receivers towards senders, into the open where the sender is
    in the next unit of the chain. Full width: 4 times an equal share.

    Raises:
        ValueError: a graph with another number of nodes than the text has atoms.
        MissingExtra: rdkit is not installed.
    """
    from graphformer.datasets.polymers.parse import parse, split_extension

    chem = require("rdkit.Chem", extra="polymer", why="a picture of a polymer")
    layout = require("rdkit.Chem.rdDepictor", extra="polymer", why="a picture of a polymer")
    polymer, fields, _ = split_extension(text)
    molecule = parse(polymer.split("|")[0].strip(), repr(text), fields)
    layout.Compute2DCoords(molecule)
    place, hops = molecule.GetConformer().GetPositions()[:, :2], chem.GetDistanceMatrix(molecule)
    symbol = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    ends = [i for i, name in enumerate(symbol) if name == "*"]
    atoms = [i for i, name in enumerate(symbol) if name != "*"]  # the nodes, in this order
    if len(atoms) != graph.num_receivers:
        raise ValueError(
            f"graph has {graph.num_receivers} nodes, and {text!r} has {len(atoms)} atoms; give the "
            "graph of this polymer."
        )
    for bond in molecule.GetBonds():
        ends_of = [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]
        axes.plot(
            *place[ends_of].T,
            color="#b0b0b0",
            lw=1.2 + 1.6 * (bond.GetBondTypeAsDouble() - 1),
            ls=":" if set(ends_of) & set(ends) else "-",
            zorder=1,
        )
    joints = None
    if len(ends) == 2 and "|" not in polymer:  # a repeat unit: its chain goes on at both ends
        first, last = (
            molecule.GetAtomWithIdx(end).GetNeighbors()[0].GetIdx() for end in (ends[0], ends[1])
        )
        joints = (ends[0], ends[1], first, last)
    lines: list[tuple[np.ndarray, np.ndarray]] = []
    times: dict[tuple[int, int], int] = {}
    for pair in zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True):
        sender, receiver = atoms[pair[0]], atoms[pair[1]]
        goal = place[sender]
        if joints is not None:
            head, tail, first, last = joints
            images = [  # of the sender: bonds to it, and where it is
                (hops[receiver, sender], place[sender]),
                (
                    hops[receiver, tail] + hops[first, sender],
                    place[sender] + place[tail] - place[first],
                ),
                (
                    hops[receiver, head] + hops[last, sender],
                    place[sender] + place[head] - place[last],
                ),
            ]
            # the second edge of a pair is through the chain
            times[pair] = times.get(pair, int(sender == receiver)) + 1
            goal = sorted(images, key=lambda image: image[0])[min(times[pair], 3) - 1][1]
        lines.append((place[receiver], (place[receiver] + goal) / 2))
    draw_lines(axes, lines, np.clip(shares(graph) / 4, 0, 1), widest=6.2, zorder=2)
    for i, name in enumerate(symbol):
        axes.text(
            place[i, 0],
            place[i, 1],
            name,
            ha="center",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "circle,pad=0.15", "fc": "w", "ec": "w"},
        )
    axes.set_aspect("equal")
    axes.margins(0.12)
    axes.set_axis_off()


def plot_protein(
    model: GraphModel,
    data: Data,
    path: str | os.PathLike[str] | None = None,
    *,
    predicted: Any = None,
    true: Any = None,
    name: str = "predicted",
    title: str | None = None,
) -> Figure:
    """A graph of residues as a contact map and as the trace of its CA atoms, with the refined graph
    over both, and ``predicted`` ``[N]`` along the chain, beside ``true`` ``[N]`` where given.

    Args:
        predicted, true: a number a residue. name: what it is. title: the file, unless given.

    Raises:
        ValueError: numbers that do not fit the residues, or ``true`` without ``predicted``.
        MissingExtra: matplotlib is not installed.
    """
    values = {"predicted": predicted, "true": true}
    for one, given in values.items():
        if given is not None and np.shape(given) != (data.num_nodes,):
            raise ValueError(
                f"{one} must hold a number for each of {data.num_nodes} residues, got the shape "
                f"{list(np.shape(given))}."
            )
    if true is not None and predicted is None:
        raise ValueError("true stands beside predicted; give both.")
    graph = refined_graph(model, data)
    figure = new_figure(11.0, 5.6 if predicted is None else 7.4)
    rows = "AB" if predicted is None else "AB;CC"
    panels = figure.subplot_mosaic(
        rows, height_ratios=(2.8,) if predicted is None else (2.8, 1), width_ratios=(1.05, 1)
    )
    shown = draw_contacts(panels["A"], data, graph)
    figure.colorbar(shown, ax=panels["A"], label="1: an equal share", shrink=0.8)
    dots = draw_trace(panels["B"], data, graph, predicted)
    if predicted is not None:
        figure.colorbar(dots, ax=panels["B"], label=name, shrink=0.8)
        profile = panels["C"]
        if true is not None:
            profile.plot(np.asarray(true), color="#888888", label="true")
        profile.plot(np.asarray(predicted), color="#c03020", label="predicted")
        profile.set(ylabel=name, xlim=(-0.5, data.num_nodes - 0.5))
        name_residues(profile, data, most=14)
        if true is not None:
            profile.legend(frameon=False, ncols=2)
    figure.suptitle(str(data.name) if title is None else title, fontsize=11, parse_math=False)
    return written(figure, path)


def name_residues(axes: Axes, data: Data, most: int, both: bool = False) -> None:
    """At most so many residues by their names along an axis, or along both."""
    names = names_of_nodes(data)
    told = "residue" if names is not None else "residue, by its place in the file"
    axes.set(xlabel=told, **({"ylabel": told} if both else {}))
    if names is None:
        return
    places = range(0, len(names), -(-len(names) // most))
    shown = [names[place] for place in places]
    axes.set_xticks(places, shown, fontsize=7)
    if both:
        axes.set_yticks(places, shown, fontsize=7)


def draw_contacts(axes: Axes, data: Data, graph: AttentionGraph) -> Any:
    """Residue by residue: above the diagonal the refined graph, the mean of both directions of each
    pair; below it the contacts that the model was given, darker the nearer. Returns what a colour
    bar needs for the part above.
    """
    size = data.num_nodes
    total, count = np.zeros((size, size)), np.zeros((size, size))
    senders, receivers = graph.senders.cpu().numpy(), graph.receivers.cpu().numpy()
    low, high = np.minimum(senders, receivers), np.maximum(senders, receivers)
    apart = low != high
    share = shares(graph)
    np.add.at(total, (low[apart], high[apart]), share[apart])
    np.add.at(count, (low[apart], high[apart]), 1)
    above = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    below = np.full((size, size), np.nan)
    ends = data.edge_index.cpu().numpy()
    pos = data.pos.cpu().numpy()
    distance = np.linalg.norm(pos[ends[0]] - pos[ends[1]], axis=1)
    below[ends.max(0), ends.min(0)] = distance
    axes.imshow(below, cmap="Greys_r", vmin=0, vmax=1.6 * distance.max(initial=1.0))
    top = float(np.quantile(share, 0.99)) if len(share) else 1.0
    shown = axes.imshow(above, cmap="YlGnBu", vmin=0, vmax=top, interpolation="nearest")
    axes.plot((-0.5, size - 0.5), (-0.5, size - 0.5), color="#9a9a9a", lw=0.6)
    name_residues(axes, data, most=7, both=True)
    axes.set_title("Above: the refined graph.  Below: the contacts", fontsize=10)
    return shown


def draw_trace(axes: Axes, data: Data, graph: AttentionGraph, values: Any = None) -> Any:
    """CA atoms in the plane in which the structure is widest, chains grey, with the strongest
    twentieth of the edges that join residues more than two places apart; ``values`` ``[N]`` colour
    the atoms. Returns what a colour bar needs.
    """
    pos = data.pos.cpu().numpy() - data.pos.cpu().numpy().mean(0)
    pos = pos @ np.linalg.svd(pos, full_matrices=False)[2].T[:, :2]
    for chain in data.group_1.unique():
        axes.plot(*pos[(data.group_1 == chain).numpy()].T, color="#c4c4c4", lw=2.5, zorder=1)
    senders, receivers, share = graph.senders.numpy(), graph.receivers.numpy(), shares(graph)
    far = np.abs(senders - receivers) > 2
    if far.any():
        strong = far & (share > np.quantile(share[far], 0.95))
        lines = np.stack((pos[receivers[strong]], pos[senders[strong]]), 1)
        draw_lines(axes, lines, np.clip(share[strong] / 4, 0, 1), widest=4.8, zorder=2)
    colour: Any = "#f3d9a0" if values is None else np.asarray(values)
    cmap = None if values is None else "YlOrRd"
    rim: dict[str, Any] = {"edgecolors": "#555555", "linewidths": 0.5}
    dots = axes.scatter(pos[:, 0], pos[:, 1], 40, c=colour, cmap=cmap, zorder=3, **rim)
    axes.set_aspect("equal")
    axes.set_title(
        "CA atoms; blue: the strongest twentieth of edges\nover more than two places of the chain",
        fontsize=10,
    )
    axes.set_axis_off()
    return dots


@strict_flags
def plot_grains(
    model: GraphModel,
    data: Data,
    labels: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    spacing: Any = 1.0,
    periodic: bool = False,
    values: Any = None,
    title: str | None = None,
) -> Figure:
    """A label image with the refined graph over it, see :func:`draw_grains`; ``title``: the file,
    unless given. Of a volume the middle slice is shown, and the centres as seen along the first
    axis.

    Raises:
        ValueError: labels that are no image, lack a grain of the graph or have it elsewhere.
        MissingExtra: matplotlib is not installed.
    """
    labels = np.asarray(labels)
    high, wide = labels.shape[-2:]
    figure = new_figure(6.4 * min(1.0, 1.6 * wide / high), 0.6 + 6.4 * min(1.6, high / wide))
    axes = figure.add_subplot()
    graph = refined_graph(model, data)
    draw_grains(axes, data, graph, labels, spacing=spacing, periodic=periodic, values=values)
    titled(axes, str(data.file) if title is None else title, 90)
    return written(figure, path)


def draw_grains(
    axes: Axes,
    data: Data,
    graph: AttentionGraph,
    labels: Any,
    *,
    spacing: Any = 1.0,
    periodic: bool = False,
    values: Any = None,
) -> None:
    """Grains with their boundaries, and the refined graph between their centres: the half of a line
    at a grain is what that grain receives from the other one, of full width at 3 times an equal
    share. In a periodic cell lines leave on one side and enter on the other.

    Args:
        labels: the image, as the graph was made of it. spacing, periodic: likewise.
        values: ``[N]``, by which the grains are coloured; else neighbours only differ.
    """
    labels = np.asarray(labels)
    if labels.ndim not in (2, 3):
        raise ValueError(f"labels must be an image or a volume, got the shape {labels.shape}.")
    grains = data.grain.cpu().numpy()
    if lacking := np.setdiff1d(grains, labels).tolist():
        raise ValueError(f"labels lack grain {lacking[0]} of the graph; give the image of it.")
    step = np.broadcast_to(np.asarray(spacing, dtype=float), labels.ndim)
    cell = step * labels.shape
    pos = data.pos.cpu().numpy()
    _require_places(pos, labels, grains, step, spacing)
    image = labels if labels.ndim == 2 else labels[len(labels) // 2]
    times = max(1, -(-_ACROSS // max(image.shape)))
    fine = image.repeat(times, 0).repeat(times, 1)
    known = np.isin(fine, grains)
    at = np.searchsorted(np.sort(grains), np.where(known, fine, grains.min()))
    by_label = np.argsort(grains)
    numbers = np.arange(len(grains)) * 7 % 12 if values is None else np.asarray(values)
    # pale, so that lines can be seen on every grain
    top = 12.0 if values is None else 2.2 * numbers.max() - 1.2 * numbers.min()
    colour = np.where(known, numbers[by_label][at].astype(float), np.nan)
    down, right = fine != np.roll(fine, -1, 0), fine != np.roll(fine, -1, 1)
    if not periodic:
        down[-1], right[:, -1] = False, False
    extent = (0, cell[-1], cell[-2], 0)
    axes.imshow(
        colour,
        cmap="Pastel1" if values is None else "Oranges",
        vmin=float(numbers.min()),
        vmax=float(top),
        interpolation="nearest",
        extent=extent,
        alpha=0.55,
    )
    inked = np.zeros((*fine.shape, 4))
    inked[down | right] = (0.55, 0.55, 0.55, 1)
    axes.imshow(inked, interpolation="nearest", extent=extent)
    senders, receivers = graph.senders.cpu().numpy(), graph.receivers.cpu().numpy()
    between = pos[senders] - pos[receivers]
    if periodic:
        between = between - cell * np.rint(between / cell)  # to the nearest of its images
    lines = np.stack((pos[receivers], pos[receivers] + between / 2), 1)[..., :-3:-1]
    draw_lines(axes, lines, np.clip(shares(graph) / 3, 0, 1), widest=4.8, zorder=2)
    axes.scatter(pos[:, -1], pos[:, -2], s=14, color="#222222", zorder=3)
    if len(grains) <= _NUMBERED:
        for label, place in zip(grains.tolist(), pos, strict=True):
            axes.annotate(
                str(label), place[:-3:-1], (3, 3), textcoords="offset points", fontsize=7, zorder=4
            )
    axes.set(xlim=(0, cell[-1]), ylim=(cell[-2], 0))
    axes.set_axis_off()


def _require_places(
    pos: np.ndarray, labels: np.ndarray, grains: np.ndarray, step: np.ndarray, spacing: Any
) -> None:
    """ValueError where the graph's centres are not those of the grains, seen in this spacing.

    A grain that goes on at the other side of a periodic image has its centre elsewhere, and so has
    a phase of many parts, so most of them decide.
    """
    from scipy.ndimage import center_of_mass

    found = np.array(center_of_mass(np.ones(labels.shape), labels, grains)) + 0.5
    cell = step * labels.shape
    off = np.abs(pos - found * step) / cell
    off = np.minimum(off, np.abs(1 - off)).max(1)
    if np.median(off) > 0.25:
        worst = int(off.argmax())
        there, here = (np.round(one, 3).tolist() for one in (pos[worst], found[worst] * step))
        raise ValueError(
            f"spacing={spacing}: the graph has grain {grains[worst]} at {there}, and labels have "
            f"it at {here}; give the spacing that the graph was made with (1 / resolution for a "
            "PolycrystalDataset)"
        )


__all__ = [
    "draw_contacts",
    "draw_grains",
    "draw_polymer",
    "draw_trace",
    "plot_grains",
    "plot_polymer",
    "plot_protein",
    "refined_graph",
    "shares",
]
