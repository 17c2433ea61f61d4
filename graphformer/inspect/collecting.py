"""Measures of every head over a data set, and how two models differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from graphformer.errors import require, strict_flags
from graphformer.inspect.reading import graphs as read
from graphformer.inspect.reading import is_network
from graphformer.inspect.value import ModelGraphs

if TYPE_CHECKING:
    import pandas


@strict_flags
def collect(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    progress: bool = True,
    device: torch.device | str | None = None,
    **options: Any,
) -> pandas.DataFrame:
    """The measures of every head over a data set: mean, standard deviation and number of
    sequences, a row for each layer and head.

    >>> table = gf.inspect.collect(model, DataLoader(texts, batch_size=4, collate_fn=collate))
    >>> table["induction"]["mean"].nlargest(5)

    Args:
        loader: batches: what the model is called with, a mapping of keywords (``labels`` are left
            out), a tensor of ids, or a PyG batch.
        progress: a bar (tqdm), where the output is a terminal.
        device: where tensors of a batch are moved to.
        options: of :func:`graphformer.inspect.graphs`; ``streamed`` is True unless given, for
            models over tokens.

    Raises:
        ValueError: the loader is empty. MissingExtra: pandas or igraph is not installed.
    """
    pandas = require("pandas", extra="viz", why="a table of measures")
    from tqdm.auto import tqdm

    options.setdefault("streamed", not is_network(model))
    tables = []
    for batch in tqdm(loader, disable=None if progress else True, unit="batch"):
        args, inputs = _call(batch, device)
        tables.append(read(model, *args, **inputs, **options).measures())
    if not tables:
        raise ValueError("loader has no batches: there is nothing to collect")
    table = pandas.concat(tables, ignore_index=True).drop(columns="sequence")
    return table.groupby(["layer", "name", "kind", "head"], sort=True).agg(["mean", "std", "count"])


def _call(batch: Any, device: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Mapping):
        given = {name: value for name, value in batch.items() if name != "labels"}
        moved = {
            name: value.to(device) if device is not None and hasattr(value, "to") else value
            for name, value in given.items()
        }
        return (), moved
    if device is not None and hasattr(batch, "to"):
        batch = batch.to(device)
    return (batch,), {}


def compare(first: ModelGraphs, second: ModelGraphs) -> pandas.DataFrame:
    r"""How far the graphs of two models (checkpoints, before and after fine-tuning) are apart on
    one input: a row for each layer and head.

    ``overlap``: edges in both over edges in either (Jaccard); ``cosine`` of the weights as vectors
    over all pairs; ``total_variation``: half the sum of ``|w - w'|`` over the receivers.

    Raises:
        ValueError: they differ in layers, heads or nodes. MissingExtra: pandas is not installed.
    """
    pandas = require("pandas", extra="viz", why="a table of differences")
    if len(first) != len(second):
        raise ValueError(f"the models have {len(first)} and {len(second)} layers")
    rows = []
    for number, (a, b) in enumerate(zip(first.layers, second.layers, strict=True)):
        shapes = [
            (x.heads, x.graph.batch_shape, x.graph.num_senders, x.graph.num_receivers)
            for x in (a, b)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"layer {number} differs in heads, sequences or nodes: {shapes[0]} and {shapes[1]}"
            )
        count = max(len(a.heads), 1)
        found = _apart(a.graph, b.graph)
        lane = torch.arange(a.graph.num_lanes)
        for place, head in enumerate(a.heads or (-1,)):
            own = lane % count == place
            overlap, cosine, variation = (value[own].mean().item() for value in found)
            rows.append(
                {
                    "layer": number,
                    "name": a.name,
                    "kind": a.kind,
                    "head": head,
                    "overlap": overlap,
                    "cosine": cosine,
                    "total_variation": variation,
                }
            )
    return pandas.DataFrame(rows)


def _apart(a: Any, b: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Overlap, cosine and total variation of each lane."""
    from graphformer.graph.keys import unique_pairs

    sizes = (a.num_lanes * a.num_receivers, a.num_lanes * a.num_senders)
    receivers, senders = torch.cat((a.receivers, b.receivers)), torch.cat((a.senders, b.senders))
    receivers, senders, edge = unique_pairs(receivers, senders, *sizes)
    weights = []
    for graph, own in ((a, edge[: a.num_edges]), (b, edge[a.num_edges :])):
        weight = torch.zeros(len(senders), dtype=torch.float64)
        weights.append(weight.index_add(0, own.cpu(), graph.weight.detach().double().cpu()))
    there = torch.zeros(len(senders)).index_add(0, edge.cpu(), torch.ones(len(edge)))
    lane = (senders // max(a.num_senders, 1)).cpu()

    def per_lane(value: torch.Tensor) -> torch.Tensor:
        return torch.zeros(a.num_lanes, dtype=torch.float64).index_add(0, lane, value.double())

    one, other = weights
    edges = per_lane(torch.ones_like(one))
    overlap = torch.where(edges > 0, per_lane(there > 1) / edges.clamp(min=1), 1.0)
    norm = (per_lane(one.square()) * per_lane(other.square())).sqrt()
    cosine = torch.where(norm > 0, per_lane(one * other) / norm.clamp(min=1e-300), torch.nan)
    return overlap, cosine, per_lane((one - other).abs()) / 2 / max(a.num_receivers, 1)
