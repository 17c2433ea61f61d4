r"""GraphTransformer: a hierarchical transformer over graphs that refines its graph from layer to
layer. Reads top to bottom.

The figure 13 of arXiv 2501.02393, as a data flow::

    Data / Batch --> x, edge_attr, pos, u
        --> nodes h [N, hidden] = features + encodings + graph inputs
    candidates of each layer (given edges, k-hop, kNN, expander, all pairs)
        --> pairs [E] and their features [E, edge_hidden]

    in every layer, at every level, finest first:
        scores <q_i, k_j>, biased by the pair's features and the refined graph of the layer before
            --> normalize --> sparsify --> the heads' graphs
            --> GIN / PNA / sum --> h, feed-forward --> h
        the heads' graphs merged --> the refined graph that the next layer starts from
        after the first layer: groups (given, or clusters of the refined graph)
            --> the nodes and edges of the next level
        members --> their group (up), before a level's own layer
        group --> its members (down), when all levels are done

    nodes, pairs of nodes, or a readout of all levels
        --> targets --> predictions, and a loss that leaves missing labels out

A batch is one disjoint graph: nothing is padded, and cost is linear in the candidate pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from graphformer.attention import sparsifiers
from graphformer.attention.feed_forwards import FeedForward
from graphformer.attention.head import Head
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.relations import check as check_relations
from graphformer.attention.relations.base import RelationsLike, refuse_unusable
from graphformer.attention.scores import Score
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.errors import number, require_known, strict_flags, whole
from graphformer.models.graphs.base import GraphNetwork, GraphTransformerOutput
from graphformer.models.graphs.data import Level, Pairs, typed_edges
from graphformer.models.graphs.edge_update import EdgeUpdate, check_edge_update
from graphformer.models.graphs.features import PairFeatures
from graphformer.models.graphs.label_masks import Mask
from graphformer.models.graphs.levels import coarser
from graphformer.models.graphs.options import (
    check_level,
    check_options,
    check_refinement,
    per_layer,
    per_layer_heads,
    refuse_beside_heads,
)
from graphformer.models.graphs.parts import OPERATORS, Block, Layer
from graphformer.models.graphs.stack import stack
from graphformer.models.graphs.targets import Target
from graphformer.models.graphs.virtual import through, virtual_of
from graphformer.nn.edge_masks import GivenEdges
from graphformer.nn.mlp import probability
from graphformer.nn.pairs import candidates, check_spec, stored_name
from graphformer.nn.widths import width_of_head


class GraphTransformer(GraphNetwork):
    r"""A transformer over graphs: PyG ``Data`` or ``Batch`` in, predictions for graphs, nodes or
    edges out.

    >>> sizes = dict(hidden_size=64, num_layers=3, num_heads=4)
    >>> net = gf.GraphTransformer(node_dim=7, edge_dim=3, target="graph", out_dim=2, **sizes)
    >>> out = net(batch)  # out.prediction [num_graphs, 2], out.loss where batch.y is there

    Input: ``x``, ``edge_index``, and where they are asked for ``edge_attr``, ``pos``, ``u`` (graph
    inputs, ``[num_graphs, global_dim]``) and groups. Labels: ``y``, or for several targets the
    attribute of each one's name; NaN is a missing label. Edge targets are predicted for
    ``edge_label_index`` with labels ``edge_label`` where the data hold them (PyG's
    RandomLinkSplit), else for the given edges. Masks choose the labels that count in the loss:
    ``train_mask`` in training mode, ``val_mask`` or ``test_mask`` in evaluation mode; in batches of
    NeighborLoader it is the seed nodes (:mod:`graphformer.models.graphs.label_masks`). Attributes
    that mean something in PyG and are not read (``edge_weight``, ``pos``, ``z``, ...) are told in a
    warning, each once.

    Args:
        node_dim: channels of x; or the number of categories, where x holds one integer a node; or a
            sequence: categories of each integer column; or 0: nodes have no features.
        edge_dim: the same of ``edge_attr``; None leaves it unread.
        hidden_size: width of a node; a multiple of ``num_heads`` unless ``head_dim``, the width of
            a head, is given.
        num_layers: layers.
        num_heads: heads; each is one graph.
        target: ``"graph"``, ``"node"``, ``"edge"``; or several by name: ``{"gap": Target("graph"),
            "charge": Target("node")}``, whose predictions and labels then go by these names.
        out_dim, task, loss: see :class:`~graphformer.models.Target`; of the one target.
        operator: ``"gin"``, ``"pna"`` or ``"sum"`` (plain attention); a sequence: one a layer.
        operator_options: further arguments of an operator's layer
            (:class:`~graphformer.nn.GINAttentionConv` and the others): ``{"pna": {"aggregators":
            ["mean", "max"], "scalers": ["identity"]}}``. Here GIN is made with ``self_weight`` 0,
            for blocks are residual, and without ``mlp_norm``; ``{"gin": {"self_weight": 1.0,
            "mlp_norm": True}}`` is the layer as it comes.
        candidates: which pairs are scored, see :mod:`graphformer.nn.pairs`: ``"edges"``,
            ``"edges+k_hop:2"``, ``"edges+knn:8"``, ``"edges+expander:4"``, ``"all"``; a sequence:
            one a layer.
        encodings: what nodes and pairs are told about the graph, see
            :mod:`graphformer.nn.encodings`: ``("random_walk:16", "laplacian:8", "degree",
            "distance:10", "shortest_path:4")``. Weights that sum to 1 do not tell how many
            neighbours there are, so the degree is told unless something else is asked for.
        sparsify: ``None``, ``gf.Threshold(tau)``, ``gf.TopK(k)`` or another, or its dictionary
            (``{"name": "threshold", "tau": 0.1}``). One with parameters is copied for every layer.
        normalize: ``"softmax"``: the weights of a receiver sum to 1, so each head takes a mean.
            ``"sigmoid"``: every edge has a weight of its own, each head takes a sum, as GIN does
            (arXiv 1810.00826), and knows how many neighbours there are. Or another normalizer.
        score: as in the layers on edges.
        head: a :class:`~graphformer.Head` in the place of ``sparsify``, ``normalize`` and
            ``score``, which may bring an operator and an update too; a sequence: one a layer. Each
            layer and level has parameters of its own.
        relations: typed edges of the data whose messages are added beside attention's in every
            layer, at the finest level: ``gf.EdgeTypes(4)`` (``data.edge_type``),
            ``gf.EdgeColumns((0, 1))`` (columns of ``data.edge_attr``), ``gf.Neighbours()``; those
            of the data sets by name: ``gf.datasets.edge_relations(dataset.edge_names)["bonds"]``.
        merge: the heads' graphs to the refined graph: ``"mean"``, ``"sum"`` (at most 1) or
            ``"learned"``, a convex combination. What no later layer reads (the last layer's) is
            merged by the mean.
        refine: True: the refined graph biases the scores of the next layer. ``"restrict"``:
            moreover a candidate that no head kept is no candidate of the next layer. False: layers
            are independent.
        levels: coarser levels, each made of the one before: the name of an attribute that gives the
            group of every node of ``data`` (``("group_0", "group_1")``, nested; numbered from 0 in
            each graph, PyG's batching needs no ``__inc__`` for them), or ``"cluster"``: matched
            pairs of the first layer's refined graph; ``"cluster:2"``: matched twice, clusters of up
            to 4.
        level_candidates: candidates at the coarse levels, where ``edges`` are those that some head
            kept between different groups.
        edge_hidden: width of the features of a pair.
        global_dim: width of ``u``, which every node and the readout see.
        readout: of graph targets, over all levels: some of ``mean``, ``max``, ``sum`` (compressed
            to a logarithm).
        mlp_ratio: hidden width of a head's MLP over the head's width.
        sharpening: a trainable factor of the scores in each layer.
        dropout: on what blocks add and in heads. ``attention_dropout``: on weights.
        feed_forward: ``"gated"``, or a name, dictionary or value of
            :mod:`graphformer.attention.feed_forwards` that sends messages over the heads' graphs.
        intermediate_size: its hidden units; twice ``hidden_size`` unless given.
        initial_residual: layers after the first take ``a h + b h^(0)``, see
            :class:`~graphformer.nn.InitialResidual`; None: they take ``h``.
        backend: who aggregates; never changes the answer.
        virtual_nodes: so many nodes more for each graph at the finest level, see
            :class:`~graphformer.models.graphs.virtual.VirtualNodes`. They are the last nodes of
            the heads' graphs; the refined graph, coarser levels and targets are of nodes alone.
        edge_update: after each layer but the last the features of pairs are updated from both
            ends, see :class:`~graphformer.models.graphs.edge_update.EdgeUpdate`. All layers have
            the same candidates then. Targets of edges read the features that were given.
        norm: in the blocks, of nodes: ``"layer"``, or ``"batch"``, which keeps how large a node is
            beside others, as GRIT has it for sums and degrees (arXiv 2305.17589). Training then
            depends on the batch; a lone node is normalized by what was learned before.

    ``settings`` holds the arguments: ``GraphTransformer(**net.settings)`` is the same model with
    new weights.

    Raises:
        ValueError: an argument or an input that does not fit; the text names it, its value and the
            remedy.

    Source: arXiv 2501.02393, sections 2.1, 2.2 and figure 13.
    """

    def __init__(
        self,
        node_dim: int | Sequence[int],
        edge_dim: int | Sequence[int] | None = None,
        hidden_size: int = 64,
        num_layers: int = 3,
        num_heads: int = 4,
        target: str | Target | Mapping[str, Any] = "graph",
        out_dim: int = 1,
        task: str = "regression",
        *,
        loss: str = "mse",
        operator: str | Sequence[str] = "gin",
        operator_options: Mapping[str, Mapping[str, Any]] | None = None,
        candidates: str | Sequence[str] = "edges",
        encodings: Sequence[str] = ("degree",),
        sparsify: Sparsifier | Mapping[str, Any] | None = None,
        normalize: str | Normalizer | Mapping[str, Any] = "softmax",
        score: str | Score | Mapping[str, Any] = "dot",
        head: Head | Mapping[str, Any] | Sequence[Head | Mapping[str, Any]] | None = None,
        relations: RelationsLike = (),
        merge: str = "mean",
        refine: bool | str = True,
        levels: Sequence[str] = (),
        level_candidates: str = "edges",
        edge_hidden: int = 16,
        global_dim: int = 0,
        readout: Sequence[str] = ("mean", "max", "sum"),
        mlp_ratio: float = 1.0,
        sharpening: bool | float = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        feed_forward: str | FeedForward | Mapping[str, Any] = "gated",
        initial_residual: float | None = None,
        backend: str = "auto",
        head_dim: int | None = None,
        virtual_nodes: int = 0,
        edge_update: bool = False,
        norm: str = "layer",
        intermediate_size: int | None = None,
    ) -> None:
        settings = {
            name: one for name, one in locals().items() if name not in ("self", "__class__")
        }
        width_of_head(hidden_size, num_heads, None, head_dim)
        whole("num_layers", num_layers)
        number("mlp_ratio", mlp_ratio, above=0.0)
        probability("attention_dropout", attention_dropout)
        check_refinement(levels, level_candidates, refine, merge)
        operators = per_layer("operator", operator, num_layers)
        for one in operators:
            require_known("operator", one, OPERATORS)
        options = check_options(operator_options, operators)
        levels = [check_level(name) for name in ([levels] if isinstance(levels, str) else levels)]
        super().__init__(
            node_dim,
            edge_dim,
            hidden_size,
            target,
            out_dim,
            task,
            loss=loss,
            encodings=encodings,
            edge_hidden=edge_hidden,
            global_dim=global_dim,
            readout=readout,
            dropout=dropout,
            num_levels=len(levels) + 1,
        )
        self.settings, self.levels, self.refine = settings, levels, refine
        self.candidates = [
            check_spec(spec) for spec in per_layer("candidates", candidates, num_layers)
        ]
        self.level_candidates = check_spec(level_candidates)

        # Level 0 has features of pairs where something describes them; above it, there is always
        # the number of edges that became one.
        kinds = any(spec != "edges" for spec in self.candidates)
        described_pairs = edge_dim is not None or kinds or bool(self.pair_encodings)
        self.pair_features = nn.ModuleList([PairFeatures(edge_hidden, kinds, self.pair_encodings)])
        self.merged_edges = nn.ModuleList()
        for depth in range(len(self.levels)):
            self.pair_features.append(
                PairFeatures(edge_hidden, self.level_candidates != "edges", self.pair_encodings)
            )
            self.merged_edges.append(
                nn.Linear(edge_hidden * (described_pairs or depth > 0) + 1, edge_hidden)
            )

        heads = per_layer_heads(head, num_layers, initial_residual)
        refuse_beside_heads(
            heads,
            {
                "sparsify": (sparsify, None),
                "normalize": (normalize, "softmax"),
                "score": (score, "dot"),
            },
            (operator, operator_options, mlp_ratio) == ("gin", None, 1.0),
        )
        shared: dict[str, Any] = {
            "sparsify": sparsifiers.check(sparsify),
            "normalize": normalize,
            "score": score,
            "sharpening": sharpening,
            "dropout": attention_dropout,
            "backend": backend,
            "head_channels": hidden_size // num_heads if head_dim is None else head_dim,
        }
        width = edge_hidden if described_pairs else None
        self.virtual = virtual_of(virtual_nodes, hidden_size, width)
        self.relations = check_relations(relations)
        refuse_unusable(self.relations, ("edges",), "a graph transformer")
        check_edge_update(edge_update, self.candidates, described_pairs)
        edge_widths, shared = (width, edge_hidden), shared | {"mlp_ratio": mlp_ratio}
        depths = len(self.levels) + 1
        self.layers = stack(
            settings, operators, heads, options, shared, self.relations, depths, edge_widths
        )

    def reads(self) -> set[str]:
        """As of every network over graphs, and what candidates and levels read."""
        parts = {
            part for spec in (*self.candidates, self.level_candidates) for part in spec.split("+")
        }
        groups = {name for name in self.levels if name.partition(":")[0] != "cluster"}
        pos = (
            {"pos"} if any(part.partition(":")[0] in ("knn", "radius") for part in parts) else set()
        )
        pos |= {"is_query"} if "retrieve" in parts else set()
        typed = {name for one in self.relations for name in one.attributes}
        stored = {stored_name("candidates", part) for part in parts}
        return super().reads() | groups | pos | stored | typed

    # ------------------------------------------------------------------ forward

    @strict_flags
    def forward(
        self, data: Any, *, output_graphs: bool = False, mask: Mask = None
    ) -> GraphTransformerOutput:
        """
        Args:
            data: PyG ``Data`` or ``Batch``.
            output_graphs: also return the graphs of every layer and level, and the groups.
            mask: which labels count in the loss: the name of a mask of the data, a bool tensor with
                an entry for each row of the predictions, or ``"all"``. Unless given, ``train_mask``
                in training mode, and in evaluation mode ``val_mask``, or ``test_mask`` where there
                is no ``val_mask``; all labels of data without masks.
        """
        levels = [self.embed(data)]
        typed = typed_edges(data, levels[0].structure, self.relations)
        graphs: list[Any] = []
        refined: list[Any] = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            for depth, block in enumerate(layer.blocks):
                if depth == len(levels):
                    levels.append(self._coarser(levels, data))
                level = levels[depth]
                assert isinstance(block, Block)
                if depth:
                    assert level.parent is not None
                    level.h = level.h + layer.up[depth - 1](
                        levels[depth - 1].h, level.parent, level.structure.num_nodes
                    )
                spec = self.level_candidates if depth else self.candidates[i]
                pairs = self._pairs(level, depth, spec)
                pairs, known = level.without_dropped(pairs), level.refined
                prior = None if known is None or not self.refine else known.on(pairs[0])
                through(
                    block, level, pairs, prior, *((None, ()) if depth else (self.virtual, typed))
                )
                if layer.edges is not None:
                    update = layer.edges[depth]
                    assert isinstance(update, EdgeUpdate)
                    update.of(level, spec)
                if self.refine == "restrict":
                    level.drop()
                if output_graphs and level.refined is not None:
                    graphs.append(level.graph)
                    refined.append(level.refined.graph())
            for depth in range(len(levels) - 1, 0, -1):
                parent = levels[depth].parent
                levels[depth - 1].h = levels[depth - 1].h + layer.down[depth - 1](
                    levels[depth].h, parent
                )
        out = self.answer(levels, data, mask)
        if output_graphs:
            out.graphs, out.refined = tuple(graphs), tuple(refined)
            out.groups = tuple(level.parent for level in levels[1:] if level.parent is not None)
        return out

    # ------------------------------------------------------------------ levels

    def _coarser(self, levels: list[Level], data: Any) -> Level:
        """The next level: groups that were given, or clusters of the refined graph of the level
        below.
        """
        below, depth = levels[-1], len(levels) - 1
        assert below.refined is not None
        features = below.features_of(below.refined.edges)
        return coarser(levels, self.levels[depth], data, features, self.merged_edges[depth])

    def _pairs(self, level: Level, depth: int, spec: str) -> Pairs:
        """The candidates of that name, their features, and which edges of the data they are; made
        once.
        """
        if spec not in level.pairs:
            edges, number = candidates(level.structure, spec)
            features = self.pair_features[depth](
                level.structure, edges, number, level.edge_features
            )
            ends = torch.stack((level.structure.senders, level.structure.receivers))
            level.pairs[spec] = edges, features, None if depth else GivenEdges(number, ends)
        return level.pairs[spec]

    def extra_repr(self) -> str:
        return (
            f"candidates={self.candidates}, levels={self.levels}, refine={self.refine}, "
            f"targets={self.targets}"
        )
