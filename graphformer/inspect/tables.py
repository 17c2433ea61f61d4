"""Edges and measures of a model's graphs as pandas tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphformer.errors import require
from graphformer.graph import AttentionGraph
from graphformer.inspect.token_scores import token_scores
from graphformer.inspect.value import LayerGraph, ModelGraphs

if TYPE_CHECKING:
    import pandas


def edge_table(graphs: ModelGraphs) -> pandas.DataFrame:
    """See :meth:`ModelGraphs.to_pandas`."""
    pandas = require("pandas", extra="viz", why="a table of edges")
    parts = []
    for number, layer in enumerate(graphs.layers):
        graph = layer.graph
        count = max(graph.num_lanes // max(graph.batch_shape[0], 1), 1)
        lane = graph.sender_lane.cpu().numpy()
        sequence, place = lane // count, lane % count
        heads = np.array(layer.heads if layer.heads else [-1])
        sender = graph.senders.cpu().numpy() % max(graph.num_senders, 1)
        receiver = graph.receivers.cpu().numpy() % max(graph.num_receivers, 1)
        names = [graphs.labels(number, i) for i in range(graphs.batch)]
        columns = {
            "layer": np.full(len(lane), number),
            "name": pandas.Categorical.from_codes(np.zeros(len(lane), int), [layer.name]),
            "kind": pandas.Categorical.from_codes(np.zeros(len(lane), int), [layer.kind]),
            "head": heads[place] if layer.heads else np.full(len(lane), -1),
            "sequence": sequence,
            "sender": sender,
            "receiver": receiver,
            "weight": graph.weight.detach().double().cpu().numpy(),
            "sender_label": _at([own[0] for own in names], sequence, sender),
            "receiver_label": _at([own[1] for own in names], sequence, receiver),
        }
        parts.append(pandas.DataFrame(columns))
    table = pandas.concat(parts, ignore_index=True)
    return table.astype({"name": "category", "kind": "category"})


def _at(names: list[list[str]], sequence: np.ndarray, node: np.ndarray) -> np.ndarray:
    table = np.array([[str(x) for x in row] for row in names], dtype=object)
    return table[sequence, node] if table.size else np.empty(0, dtype=object)


def measure_table(graphs: ModelGraphs) -> pandas.DataFrame:
    r"""A row for each sequence, layer and head (``head`` is -1 where heads are merged).

    Of the kept edges: ``edges``; ``kept``, the mean weight that a receiver kept; ``in_degree`` and
    ``out_degree``, the largest (every mean is ``edges / nodes``); ``distance``, the mean of
    ``|i - j|`` by weight; ``self``, the mean weight at oneself; ``reciprocity``, the share of edges
    that run both ways; ``clustering``, the mean local coefficient of the undirected graph;
    ``depth``, the longest path without self-loops (NaN where there are cycles); ``modularity`` of
    the best partition found by the Louvain method; ``spectral_gap``, ``1 - |lambda_2|`` of the
    random walk along the edges; ``previous_token``, ``duplicate_token``, ``induction``
    (:mod:`graphformer.inspect.token_scores`). Of all weights, where ``streamed=True`` was asked
    for: ``entropy`` (nats, mean), ``sink``, ``mean_distance`` and ``top_sender``, the share of all
    attention that the most attended sender gets.

    Counts of graphs are igraph's and scipy's.
    """
    pandas = require("pandas", extra="viz", why="a table of measures")
    rows = []
    for sequence in range(graphs.batch):
        one = graphs.of_sequence(sequence)
        for number, layer in enumerate(one.layers):
            side = one.nodes[layer.receivers]
            ids = None if side.ids is None or layer.kind == "cross" else side.ids[0]
            scores = _scores(layer, ids)
            for place, head in enumerate(layer.heads or (-1,)):
                rows.append(
                    {
                        "sequence": sequence,
                        "layer": number,
                        "name": layer.name,
                        "kind": layer.kind,
                        "head": head,
                        **counts(layer.graph.lane(place), layer.kind == "cross"),
                        **{name: float(value[place]) for name, value in scores.items()},
                        **_streamed(layer, place),
                    }
                )
    return pandas.DataFrame(rows)


def _scores(layer: LayerGraph, ids: Any) -> dict[str, Any]:
    graph = layer.graph
    if layer.kind == "cross" or graph.num_senders != graph.num_receivers:
        return {}
    return token_scores(graph, ids)


def _streamed(layer: LayerGraph, place: int) -> dict[str, float]:
    if layer.streamed is None:
        return {}
    found = {name: value[0, place].double() for name, value in layer.streamed.items().items()}
    measures: dict[str, float] = {}
    if "entropy" in found:
        measures["entropy"] = float(found["entropy"].mean())
    if "sink" in found:
        measures["sink"] = float(found["sink"])
    if "distance" in found:
        profile = found["distance"]
        steps = torch.arange(len(profile), dtype=profile.dtype, device=profile.device)
        measures["mean_distance"] = float((profile * steps).sum() / profile.sum().clamp(min=1e-12))
    if "sender_mass" in found:
        mass = found["sender_mass"]
        measures["top_sender"] = float(mass.max() / mass.sum().clamp(min=1e-12))
    return measures


def counts(lane: AttentionGraph, cross: bool = False) -> dict[str, float]:
    """The measures of one lane as a graph."""
    senders, receivers = lane.senders.cpu().numpy(), lane.receivers.cpu().numpy()
    weight = lane.weight.detach().double().cpu().numpy()
    nodes = max(lane.num_receivers, 1)
    offset = lane.num_senders - lane.num_receivers
    found = {
        "edges": lane.num_edges,
        "kept": weight.sum() / nodes,
        "in_degree": np.bincount(receivers, minlength=1).max(),
        "out_degree": np.bincount(senders, minlength=1).max(),
    }
    if cross:
        return {name: float(value) for name, value in found.items()}
    loops = senders == receivers + offset
    apart = np.abs(receivers + offset - senders)
    total = weight.sum()
    found["distance"] = (weight * apart).sum() / total if total > 0 else np.nan
    found["self"] = weight[loops].sum() / nodes
    return {name: float(value) for name, value in (found | _shape(lane, ~loops)).items()}


def _shape(lane: AttentionGraph, keep: np.ndarray) -> dict[str, float]:
    """What depends on how the edges between different nodes hang together."""
    igraph = require("igraph", extra="viz", why="measures of graphs")
    offset = lane.num_senders - lane.num_receivers
    ends = np.stack((lane.senders.cpu().numpy(), lane.receivers.cpu().numpy() + offset), 1)[keep]
    weight = lane.weight.detach().double().cpu().numpy()[keep]
    graph = igraph.Graph(n=lane.num_senders, edges=ends, directed=True)
    flat = igraph.Graph(n=lane.num_senders, edges=ends, directed=False)
    flat.es["weight"] = weight
    flat.simplify(combine_edges={"weight": "sum"})
    found = {
        "reciprocity": graph.reciprocity() if len(ends) else np.nan,
        "clustering": flat.transitivity_avglocal_undirected(mode="zero"),
        "depth": _depth(graph),
        "modularity": np.nan,
        "spectral_gap": _gap(lane),
    }
    if len(ends) and weight.min() > 0:
        parts = flat.community_multilevel(weights="weight")
        found["modularity"] = flat.modularity(parts, weights="weight")
    return found


def _depth(graph: Any) -> float:
    """Edges on the longest path of an acyclic graph."""
    if not graph.is_dag():
        return np.nan
    longest = np.zeros(max(graph.vcount(), 1))
    for node in graph.topological_sorting():
        for follower in graph.successors(node):
            longest[follower] = max(longest[follower], longest[node] + 1)
    return longest.max()


def _gap(lane: AttentionGraph) -> float:
    """``1 - |lambda_2|`` of the row-stochastic matrix; NaN where it cannot be computed. Rows
    without edges stay where they are.
    """
    from scipy.sparse import diags_array, eye_array
    from scipy.sparse.linalg import ArpackError, eigs

    size = lane.num_senders
    if size < 4 or lane.num_receivers != size or bool((lane.weight < 0).any()):
        return np.nan
    matrix = lane.detach().renormalize().to(torch.float64).to_scipy().tocsr()
    empty = np.asarray(matrix.sum(1)).reshape(-1) == 0
    matrix = matrix + diags_array(empty.astype(float)) @ eye_array(size)
    if not (lane.senders > lane.receivers).any():  # triangular: the diagonal are the eigenvalues
        values = np.sort(np.abs(matrix.diagonal()))[::-1]
        return float(1 - values[1])
    try:
        values = eigs(matrix, k=2, which="LM", return_eigenvectors=False, v0=np.ones(size))
    except ArpackError:
        return np.nan
    return float(1 - np.sort(np.abs(values))[0])
