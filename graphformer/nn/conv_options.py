"""The arguments that all layers on edges share, and the errors for those of PyG's layers that mean
something else here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from torch import Tensor

from graphformer.attention.candidates import CoarseRule, Edges, added_rules
from graphformer.attention.features import Projection
from graphformer.attention.head import Head
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.relations.base import RelationsLike
from graphformer.attention.scores import Score
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.attention.updates import Concat
from graphformer.errors import whole


class ConvOptions(TypedDict, total=False):
    """Keyword arguments that every layer on edges takes. Their defaults:
    :class:`~graphformer.nn.AttentionConv`.

    Attributes:
        head: a :class:`~graphformer.Head` in the place of ``score``, ``normalize`` and
            ``sparsify``; it may bring an operator and an update too.
        sparsify: ``None``, ``gf.Threshold(tau)``, ``gf.TopK(k)``,
            :class:`~graphformer.attention.Reweigh` (also with a trained tau). Of equal weights TopK
            keeps the lower sender, so ties depend on how nodes are numbered.
        normalize: ``"softmax"``, ``"sigmoid"``, ``"relu"``, ``"identity"`` or a normalizer; over
            the edges into a receiver.
        score: ``"dot"``: queries times keys. ``"additive"``: the score of GATConv,
            ``LeakyReLU(<a, W_v x_i> + <b, W_v x_j>)`` with slope 0.2, and the values' weights start
            as GATConv's. It has no queries and keys, and a receiver without features adds 0.
            ``"differential"``, ``"pairwise"``, or a :class:`~graphformer.attention.Score`.
        sharpening: a trainable alpha that starts at 1 (or at the number given), or ``False``.
        dropout: on the weights.
        backend: ``"torch"``, ``"pyg"``, ``"dgl"``, ``"torch_sparse"`` or ``"auto"`` (torch); never
            changes the answer.
        head_channels: width of a head where it is not what ``out_channels`` asks for; a linear map
            from the heads to the output follows.
        concat: True: heads stand side by side. False: the mean over the heads, and each head is
            ``out_channels`` wide.
        residual: add a trained linear map of the receivers' input to the output, as PyG's GATConv
            does.
        bias: add a trained vector to the output, which starts at 0. Left out: the output map that
            ``head_channels`` asks for has one, and a layer without that map has none.
        add_self_loops: first take away the self-loops that the edges hold, then add one for every
            node that is sender and receiver, as PyG's GATConv does. A node then attends to itself;
            the operator's own ``self_weight`` is another thing.
        fill_value: features of these self-loops: a number, ``[edge_dim]``, or ``"mean"``,
            ``"add"``, ``"min"``, ``"max"``, ``"mul"`` of the other edges into the node. Their
            ``edge_weight`` is 1, their ``edge_bias`` 0.
        flow: ``"source_to_target"``: messages go from ``edge_index[0]`` to ``edge_index[1]``.
            ``"target_to_source"``: the other way; pairs (``x``, ``size``, ``in_channels``) keep to
            the order of the rows of ``edge_index``.
        relations: typed edges whose messages are added beside attention's, with trained weights
            that start at 0: ``gf.EdgeTypes(4)``, ``gf.EdgeColumns((0, 1))``, ``gf.Neighbours()``,
            or several (:mod:`graphformer.attention.relations`). They are the edges as they were
            given, whatever ``sparsify`` and ``add_self_loops`` do.
        aggr, node_dim, decomposed_layers: PyG's; what :func:`refuse_others` says.
    """

    head: Head | Mapping[str, Any] | None
    score: str | Score
    sparsify: Sparsifier | None
    normalize: str | Normalizer
    sharpening: bool | float
    dropout: float
    backend: str
    head_channels: int | None
    concat: bool
    residual: bool
    bias: bool | None
    add_self_loops: bool
    fill_value: float | Tensor | str
    flow: Literal["source_to_target", "target_to_source"]
    relations: RelationsLike
    aggr: str | None
    node_dim: int
    decomposed_layers: int


OF_THE_EDGE_LIST = ("add_self_loops", "fill_value", "flow", "aggr", "node_dim", "decomposed_layers")
"""Options that act while edges are read: nothing for a model that makes its own list of edges."""

ELSEWHERE = {
    "root_weight": "a node's own features have the factor self_weight; root_weight=False is "
    "self_weight=0.0",
    "beta": "a gate between a node and its neighbours is not part of this layer; residual=True "
    "adds a trained map of the input",
    "negative_slope": "scores are dot products, without a LeakyReLU; that of "
    "score='additive' has the slope 0.2",
    "share_weights": "queries, keys and values have maps of their own",
    "eps": "GIN's epsilon starts at 0, one a head; self_weight is what it is added to",
    "train_eps": "epsilon is GIN's alone: GINAttentionConv(train_eps=False)",
    "nn": "the operator brings its own MLP, mlp_ratio as wide as a head",
    "deg": "PNA's reference degree is trained; avg_degree is where it starts",
    "aggr_kwargs": "the reductions are the operator's; PNAAttentionConv(aggregators=...) chooses "
    "them",
    "improved": "self-loops are add_self_loops=True",
    "cached": "nothing of the graph is kept from call to call",
}


def check_sizes(
    out_channels: int, heads: int, head_channels: int | None, edge_dim: int | None, concat: bool
) -> None:
    """ValueError or TypeError for sizes of a layer that are none, or do not fit each other."""
    whole("out_channels", out_channels)
    whole("heads", heads)
    if head_channels is not None:
        whole("head_channels", head_channels)
    if edge_dim is not None and edge_dim != -1:
        whole("edge_dim", edge_dim)
    if head_channels is None and concat and out_channels % heads:
        raise ValueError(
            f"out_channels {out_channels} is not a multiple of heads {heads}: every head makes an "
            "equal part of the output. Choose another number of heads, give head_channels: then a "
            "linear map makes the output from the heads, or concat=False: then every head is "
            "out_channels wide and the output is their mean"
        )


def check_head(
    head: Head,
    from_receivers: int,
    from_senders: int,
    head_channels: int | None,
    heads: int,
    concat: bool,
) -> Head:
    """The head with its features and update; what cannot stand in a layer on edges is refused."""
    if isinstance(head.candidates, Edges):
        raise ValueError(
            "candidates of a layer on given edges are a rule among them; the edges themselves "
            "are edge_index"
        )
    added = next(added_rules(head.candidates), None)
    if added is not None and not isinstance(added, CoarseRule):
        raise ValueError(
            f"candidates={head.candidates} add persistent senders to a row of tokens: take it in "
            "layers on tokens; in a graph they are nodes, GraphTransformer(virtual_nodes=...)"
        )
    if added is not None:
        raise ValueError(
            f"candidates={head.candidates} add blocks of a row of tokens to the senders, and the "
            "nodes of a graph have no order: take it in layers on tokens; coarse levels of a graph "
            "are GraphTransformer(levels=...)"
        )
    features = Projection() if head.features is None else head.features
    update = Concat() if head.update is None else head.update
    if features.changes or not features.projects:
        raise ValueError(
            f"features={features.name!r}: a layer on edges sends a projection of x; leave it out"
        )
    if head.score.ordered:
        raise ValueError(
            f"score={head.score.name!r} adds up along a row of tokens, and the nodes of a graph "
            "have no order: take another score in layers on edges"
        )
    if head.candidates is not None and head.candidates.absolute:
        raise ValueError(
            f"candidates={head.candidates.name!r} counts places from the beginning, and the nodes "
            "of a graph have no places, in a batch of graphs least of all: give edge_index the "
            "pairs that are meant"
        )
    for slot in (head.score, update):
        if slot.reads_hidden and -1 in (from_receivers, from_senders):
            raise ValueError(
                f"{slot.slot}={slot.name!r} needs in_channels; -1 takes them from the first call"
            )
    if concat and update.num_outputs(heads) != heads and head_channels is None:
        raise ValueError(
            f"update={update.name!r} makes fewer outputs than there are heads: give head_channels, "
            "the width of a head, and an output map follows"
        )
    if update.maps and head_channels is None:
        raise ValueError(
            "update with an output map: give head_channels, the width of a head, and the map "
            "follows"
        )
    return dataclasses.replace(head, features=features, update=update)


def refuse_others(
    aggr: str | None, node_dim: int, decomposed_layers: int, flow: str, others: dict[str, Any]
) -> None:
    """Errors for arguments of PyG's layers that these have no use for.

    Raises:
        TypeError: an unknown argument.
        ValueError: ``aggr`` is another than the operator's sum, ``node_dim`` another than -2,
            ``decomposed_layers`` more than 1.
    """
    for name in others:
        hint = (
            f": {ELSEWHERE[name]}"
            if name in ELSEWHERE
            else f"; known: {', '.join(ConvOptions.__annotations__)}"
        )
        raise TypeError(f"unexpected argument {name!r}{hint}")
    if aggr not in (None, "add", "sum"):
        raise ValueError(
            f"aggr={aggr!r}: the operator decides how messages are reduced (GIN and Sum sum them); "
            "PNAAttentionConv(aggregators=(...)) takes mean, max, min, var, std and more"
        )
    if node_dim != -2:
        raise ValueError(
            f"node_dim={node_dim}: nodes are the last axis but one, of x [N, channels] and of "
            "static graphs [B, N, channels]"
        )
    if decomposed_layers != 1:
        raise ValueError(
            f"decomposed_layers={decomposed_layers}: scores are dot products or sums over all "
            "channels, which cannot be cut into parts"
        )
    if flow not in ("source_to_target", "target_to_source"):
        raise ValueError(f"flow must be 'source_to_target' or 'target_to_source', got {flow!r}")
