"""Laws 6 and 7: numbering nodes means nothing, and messages go only along edges.

A graph model is called as ``model(x, senders, receivers, batch)``, and with ``edge_attr`` as a
fifth argument where there is one:

- ``x``: floating ``[num_nodes, D]``
- ``senders``, ``receivers``: int64 ``[E]``; a message goes from sender to receiver
- ``batch``: int64 ``[num_nodes]``, ascending: the graph each node belongs to
- ``edge_attr``: floating ``[E, K]``

It returns a row a node, an edge or a graph; ``target`` says which. :func:`from_pyg` adapts modules
of PyG's convention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphformer.errors import strict_flags, whole
from graphformer.testing.common import differs, normal, require_equal, run, run_steadily, violation

_TARGETS = ("node", "edge", "graph")


@dataclasses.dataclass(frozen=True)
class GraphSample:
    """One graph: ``x`` ``[N, D]``, ``senders`` and ``receivers`` int64 ``[E]``, ``edge_attr``
    ``[E, K]`` or None.
    """

    x: Tensor
    senders: Tensor
    receivers: Tensor
    edge_attr: Tensor | None = None

    def to(self, device: torch.device | str) -> GraphSample:
        """The same graph on another device."""
        edge_attr = None if self.edge_attr is None else self.edge_attr.to(device)
        return GraphSample(
            self.x.to(device), self.senders.to(device), self.receivers.to(device), edge_attr
        )


def random_graph(
    num_nodes: int,
    num_edges: int,
    node_dim: int,
    *,
    edge_dim: int | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> GraphSample:
    """A graph of ``num_edges`` different directed edges without self-loops, from a seed."""
    pairs = num_nodes * (num_nodes - 1)
    if num_edges > pairs:
        raise ValueError(
            f"{num_nodes} nodes have at most {pairs} directed edges, asked for {num_edges}"
        )
    pair = torch.randperm(pairs, generator=torch.Generator().manual_seed(seed))[:num_edges]
    senders, other = pair // max(num_nodes - 1, 1), pair % max(num_nodes - 1, 1)
    receivers = other + (other >= senders).long()
    edge_attr = None if edge_dim is None else normal((num_edges, edge_dim), dtype, seed=seed + 1)
    return GraphSample(
        normal((num_nodes, node_dim), dtype, seed=seed), senders, receivers, edge_attr
    )


@strict_flags
def from_pyg(module: Callable[..., Any], *, pass_batch: bool = False) -> Callable[..., Any]:
    """A module of PyG's convention, ``module(x, edge_index, edge_attr=..., batch=...)``, as a graph
    model for the laws.

    ``edge_attr`` is passed where the graph has one, ``batch`` where ``pass_batch`` is true.
    """

    def model(
        x: Tensor,
        senders: Tensor,
        receivers: Tensor,
        batch: Tensor,
        edge_attr: Tensor | None = None,
    ) -> Any:
        options = {} if edge_attr is None else {"edge_attr": edge_attr}
        if pass_batch:
            options["batch"] = batch
        return module(x, torch.stack((senders, receivers)), **options)

    return model


@strict_flags
def check_equivariant(
    model: Callable[..., Any],
    x: Tensor,
    senders: Tensor,
    receivers: Tensor,
    *,
    batch: Tensor | None = None,
    edge_attr: Tensor | None = None,
    target: str = "node",
    shuffle_edges: bool = True,
    num_permutations: int = 3,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> None:
    """Law 6: renumbering the nodes, and shuffling the list of edges, renumbers the outputs and
    changes nothing else.

    Args:
        model: ``model(x, senders, receivers, batch)``, see the head of this file.
        x, senders, receivers, batch, edge_attr: the graph; one graph where ``batch`` is left out.
            Nodes keep to their graph.
        target: ``node`` or ``edge`` outputs; :func:`check_invariant` is for ``graph``.
        shuffle_edges: shuffle the list of edges too.
        num_permutations: how many renumberings to try.

    Raises:
        LawViolation: an output depends on how nodes or edges are numbered.
    """
    if target not in _TARGETS:
        raise ValueError(f"unknown target {target!r}; known: {', '.join(_TARGETS)}")
    batch = torch.zeros(len(x), dtype=torch.long, device=x.device) if batch is None else batch
    want = _output(run_steadily, model, target, x, senders, receivers, batch, edge_attr)
    generator = torch.Generator().manual_seed(seed)
    for trial in range(whole("num_permutations", num_permutations)):
        # order[new] = old, and nodes stay within their graph, because models may rely on batch
        # being ascending.
        order = torch.randperm(len(x), generator=generator).to(x.device)
        order = order[torch.argsort(batch[order], stable=True)]
        new_number = torch.argsort(order)
        edges = (
            torch.randperm(len(senders), generator=generator).to(x.device)
            if shuffle_edges
            else torch.arange(len(senders), device=x.device)
        )
        ends = new_number[senders[edges]], new_number[receivers[edges]]
        attributes = None if edge_attr is None else edge_attr[edges]
        got = _output(run, model, target, x[order], *ends, batch, attributes)
        rows = {"node": order, "edge": edges, "graph": torch.arange(len(want), device=x.device)}[
            target
        ]

        def text(index: tuple[int, ...], rows: Tensor = rows, trial: int = trial) -> str:
            where = (
                f"of {target} {int(rows[index[0]])} (index {index} after renumbering)"
                if index
                else f"of each {target}"
            )
            return f"permutation {trial + 1} of {num_permutations} changed the output {where}"

        require_equal(6, got, want[rows], text, atol=atol, rtol=rtol)


def check_invariant(
    model: Callable[..., Any], x: Tensor, senders: Tensor, receivers: Tensor, **options: Any
) -> None:
    """Law 6 for outputs a graph: renumbering the nodes changes nothing. Options as in
    :func:`check_equivariant`.
    """
    check_equivariant(model, x, senders, receivers, target="graph", **options)


def check_disjoint(
    model: Callable[..., Any],
    graphs: Sequence[GraphSample],
    *,
    target: str = "node",
    atol: float | None = None,
    rtol: float | None = None,
) -> None:
    """Law 7: disjoint graphs in one batch do not see each other; each gives what it gives alone.

    Args:
        model: ``model(x, senders, receivers, batch)``, see the head of this file.
        graphs: at least two, best of different sizes and one of them a single node without edges.
        target: whether the output has a row a ``node``, an ``edge`` or a ``graph``.

    Raises:
        LawViolation: a graph's output depends on the others in the batch.
    """
    if target not in _TARGETS:
        raise ValueError(f"unknown target {target!r}; known: {', '.join(_TARGETS)}")
    if len(graphs) < 2:
        raise ValueError(f"disjoint graphs need at least 2 graphs, got {len(graphs)}")
    if len({g.edge_attr is None for g in graphs}) > 1:
        raise ValueError("either every graph has edge_attr or none has")
    device = graphs[0].x.device

    def joined(order: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        chosen = [graphs[i] for i in order]
        first = [sum(len(g.x) for g in chosen[:i]) for i in range(len(chosen))]
        attributes = [g.edge_attr for g in chosen if g.edge_attr is not None]
        return (
            torch.cat([g.x for g in chosen]),
            torch.cat([g.senders + start for g, start in zip(chosen, first, strict=True)]),
            torch.cat([g.receivers + start for g, start in zip(chosen, first, strict=True)]),
            torch.cat([torch.full((len(g.x),), i, device=device) for i, g in enumerate(chosen)]),
            torch.cat(attributes) if attributes else None,
        )

    def outputs(order: Sequence[int], steadily: bool) -> list[Tensor]:
        rows = _output(run_steadily if steadily else run, model, target, *joined(order))
        sizes = {
            "node": [len(graphs[i].x) for i in order],
            "edge": [len(graphs[i].senders) for i in order],
            "graph": [1] * len(order),
        }[target]
        return list(rows.split(sizes))

    alone = [outputs([i], steadily=True)[0] for i in range(len(graphs))]
    for order in (list(range(len(graphs))), list(range(len(graphs)))[::-1]):
        for place, (i, got) in enumerate(zip(order, outputs(order, steadily=False), strict=True)):

            def text(index: tuple[int, ...], i: int = i, place: int = place) -> str:
                where = f", {target} {index[0]} (index {index})" if index else ""
                placed = f"batched as number {place + 1} of {len(graphs)}"
                return f"the others in the batch changed the output of graph {i}{where}, {placed}"

            require_equal(7, got, alone[i], text, atol=atol, rtol=rtol)


@strict_flags
def check_direction(
    model: Callable[..., Any],
    x: Tensor,
    senders: Tensor,
    receivers: Tensor,
    *,
    edge_attr: Tensor | None = None,
    expect_change: bool = True,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> None:
    """Law 7 within one graph: changing node ``j`` changes only ``j`` and what a path from sender to
    receiver reaches.

    A model that passes messages the wrong way round is equivariant and keeps disjoint graphs apart,
    and fails here. Not for models that pool over the whole graph.

    Args:
        model: ``model(x, senders, receivers, batch)`` with a row a node, see the head of this file.
        x, senders, receivers, edge_attr: one graph. Best without cycles: in a cycle everything may
            see everything.
        expect_change: also require that some direct receiver of ``j`` changes, where ``j`` has one.

    Raises:
        LawViolation: a node changed that no path from ``j`` reaches, or no receiver of ``j``
            changed.
    """
    nodes = len(x)
    batch = torch.zeros(nodes, dtype=torch.long, device=x.device)
    step = torch.eye(nodes, dtype=torch.float32)
    step[senders.cpu(), receivers.cpu()] = 1
    reached = torch.eye(nodes, dtype=torch.bool)  # reached[j, i]: a path leads from j to i
    for _ in range(nodes):
        reached = reached.float() @ step > 0
    if bool(reached.all()):
        raise ValueError(
            "every node reaches every other in this graph, so direction cannot be tested; use a "
            "graph without cycles"
        )
    others = senders, receivers, batch, edge_attr
    want = _output(run_steadily, model, "node", x, *others)
    changes = normal(x.shape, x.dtype, x.device, seed=seed)
    silent = []
    for j in range(nodes):
        changed = x.clone()
        changed[j] += changes[j]
        got = _output(run, model, "node", changed, *others)
        unreached = (~reached[j]).nonzero()[:, 0].to(x.device)

        def text(index: tuple[int, ...], j: int = j, unreached: Tensor = unreached) -> str:
            where = f"node {int(unreached[index[0]])}" if index else "nodes"
            rule = f"which no path from {j} reaches (messages go from sender to receiver)"
            return f"changing node {j} changed the output of {where}, {rule}"

        require_equal(7, got[unreached], want[unreached], text, atol=atol, rtol=rtol)
        direct = receivers[(senders == j) & (receivers != j)].unique()
        if len(direct) and not differs(got[direct], want[direct], atol=atol, rtol=rtol):
            silent.append(f"changing node {j} changed none of its receivers {direct.tolist()}")
    if expect_change and silent:
        raise violation(7, f"{silent[0]}: no message goes from sender to receiver")


def _output(
    call: Callable[..., Tensor],
    model: Callable[..., Any],
    target: str,
    x: Tensor,
    senders: Tensor,
    receivers: Tensor,
    batch: Tensor,
    edge_attr: Tensor | None,
) -> Tensor:
    """What the model makes of a graph, a row for each ``target``."""
    graph = (x, senders, receivers, batch)
    output = call(model, *(graph if edge_attr is None else (*graph, edge_attr)))
    expected = {
        "node": len(x),
        "edge": len(senders),
        "graph": int(batch.max()) + 1 if len(batch) else 0,
    }[target]
    if not output.ndim or len(output) != expected:
        raise ValueError(
            f"the model must return one row for each {target}, {expected} rows, got shape "
            f"{tuple(output.shape)}; is target={target!r} right?"
        )
    return output
