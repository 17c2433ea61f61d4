r"""Attention on the edges of a given graph, for the pipelines of PyG and DGL;
:mod:`graphformer.nn.conv` adds the operators.

Data flow, with :math:`H` heads of width :math:`d`::

    x_src, x_dst --> q (receivers), k, v (senders), own (receivers)           [H, N, d] each
    edges        --> EdgeList: sorted once, the same for all heads            E
    s_e = sharpening <q_i, k_j> / sqrt(d) + W_bias edge_attr_e + edge_bias_e  [H * E]
        --> normalize over each receiver's edges --> sparsify --> times edge_weight
        --> AttentionGraph, lanes (H,)
        --> the operator's reductions by a backend, sum and mean of v_j + W_h edge_attr_e
        --> operator with the receiver's own features
        --> heads beside each other, or their mean [--> output map]

Time and memory are linear in the edges; nothing of size N x N or E x d is made.

While a compiler traces (``torch.compile``, ``torch.export``, ONNX), and on tensors without numbers
(``meta``, fake ones), the same is computed from a message for each edge in plain torch. A dropped
edge has weight 0 there, so no shape depends on numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from graphformer import backends
from graphformer.attention.head import Head, head_of
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.operators import Operator
from graphformer.attention.relations import GraphEdges, TypedEdges
from graphformer.attention.relations.base import RelationsLike
from graphformer.attention.scores import Score
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.errors import strict_flags
from graphformer.graph import AttentionGraph
from graphformer.nn import conv_inputs
from graphformer.nn.added_loops import GivenList, check_fill
from graphformer.nn.conv_options import check_head, check_sizes, refuse_others
from graphformer.nn.edge_attention import EdgeAttention
from graphformer.nn.edge_list import EdgeList
from graphformer.nn.edge_masks import GivenEdges
from graphformer.nn.graph_inputs import numberless
from graphformer.nn.maps import linear
from graphformer.nn.mlp import probability
from graphformer.nn.returned_weights import returned

Channels = int | tuple[int, int]


class AttentionConv(EdgeAttention):
    r"""Base of the graph layers: projections, scores on the given edges, edge features, the heads'
    graph. The operator does the rest.

    .. math::
        s^h_e = \alpha \langle q^h_i, k^h_j \rangle / \sqrt{d} + b_h^\top a_e, \qquad
        w^h_{e} = \omega_e\, \mathrm{normalize}_{e \to i}(s^h_e), \qquad
        m^h_i = \sum_{e = (j \to i)} w^h_e \,(W_v x_j + W_e a_e)^h

    (``score="additive"``: another :math:`s^h_e`, see
    :class:`~graphformer.nn.conv_options.ConvOptions`) for an edge :math:`e` from
    sender :math:`j` to receiver :math:`i` with features :math:`a_e` and weight
    :math:`\omega_e` (``edge_weight``, 1 where none is given). Features act twice:
    they bias the score, and they are part of the message. Without the second a receiver with
    one edge would not see its features, for its softmax weight is 1. Reductions other than sum
    and mean (max, min, std) look at :math:`W_v x_j` alone.

    To ``to_hetero``, ``summary`` and the explainers it is one of PyG's MessagePassing layers, hooks
    and masks included (:class:`~graphformer.nn.message_layer.MessageLayer`).

    Args:
        operator: what runs on each head's graph, with sizes from the layer; or what makes it
            from the number of heads and the width of one.
        in_channels: width of x; a pair (senders, receivers) where they differ: then receivers have
            a projection of their own; -1: taken from the first call.
        out_channels: width of the output, **all heads together**: each head makes ``out_channels /
            heads`` channels, and they stand side by side. So it is ``heads * out_channels`` of
            PyG's ``TransformerConv`` and ``GATConv``, whose argument is the width of one head. With
            ``concat=False`` both mean the same: each head is ``out_channels`` wide, and the output
            is their mean.
        heads: heads; each is one graph.
        edge_dim: width of ``edge_attr``; -1: taken from the first call.

    The other arguments: :class:`~graphformer.nn.conv_options.ConvOptions`.

    Raises:
        ValueError: sizes that do not fit, an unknown name. TypeError: an unknown argument.
            MissingExtra: a backend that is not installed.
    """

    @strict_flags
    def __init__(
        self,
        operator: Operator | Callable[[int, int], Operator],
        in_channels: Channels,
        out_channels: int,
        heads: int,
        edge_dim: int | None,
        *,
        sparsify: Sparsifier | None = None,
        normalize: str | Normalizer = "softmax",
        sharpening: bool | float = True,
        dropout: float = 0.0,
        backend: str = "auto",
        head_channels: int | None = None,
        concat: bool = True,
        residual: bool = False,
        bias: bool | None = None,
        add_self_loops: bool = False,
        fill_value: float | Tensor | str = "mean",
        flow: str = "source_to_target",
        aggr: str | None = None,
        node_dim: int = -2,
        decomposed_layers: int = 1,
        head: Head | Mapping[str, Any] | None = None,
        score: str | Score = "dot",
        relations: RelationsLike = (),
        **others: Any,
    ) -> None:
        refuse_others(aggr, node_dim, decomposed_layers, flow, others)
        check_sizes(out_channels, heads, head_channels, edge_dim, concat)
        super().__init__(aggr=None, flow=flow, node_dim=0)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.heads, self.edge_dim, self.concat = heads, edge_dim, concat
        self.head_channels = head_channels or (out_channels // heads if concat else out_channels)
        self.add_self_loops = add_self_loops
        self.fill_value = check_fill(fill_value, add_self_loops)
        if not isinstance(operator, Operator) and callable(operator):
            operator = operator(heads, self.head_channels)
        given = {"sparsify": sparsify, "normalize": normalize, "score": score}
        made = head_of(
            head, given, {"sparsify": None, "normalize": "softmax", "score": "dot"}
        ).with_defaults(operator=operator)
        backends.get(backend)  # an unknown or missing one is reported here, not in the first step
        self.backend, self.dropout = backend, probability("dropout", dropout)
        pair = (in_channels, in_channels) if isinstance(in_channels, int) else tuple(in_channels)
        from_senders, from_receivers = pair[::-1] if flow == "target_to_source" else pair
        self.channels: Channels = (
            in_channels if isinstance(in_channels, int) else (from_senders, from_receivers)
        )
        width = heads * self.head_channels
        sizes = {
            "num_heads": heads,
            "num_kv_heads": heads,
            "dim": self.head_channels,
            "hidden_size": from_receivers,
            "sender_size": from_senders,
            "query_size": width,
            "kv_size": width,
            "layer_idx": None,
            "edge_dim": edge_dim,
        }
        made = check_head(made, from_receivers, from_senders, head_channels, heads, concat)
        # The operator is made in its turn below: parameters are drawn in the order of old seeds.
        what, made = made.operator, dataclasses.replace(made, operator=None).for_layer(sizes)
        self._hold(made)
        self.features, self.update_slot = made.features, made.update
        self._hold_score(made)
        self._hold_queries(made.score, from_receivers, from_senders, width, width)
        glorot = made.score.glorot_values
        self.v_proj = linear(from_senders, width, glorot=glorot)
        self.self_proj = (
            None if isinstance(in_channels, int) else linear(from_receivers, width, glorot=glorot)
        )
        self.edge_bias = None
        if edge_dim is not None and made.score.biased:
            self.edge_bias = linear(edge_dim, heads, "edge_dim")
        self.edge_message: UninitializedParameter | nn.Parameter | None = None
        if edge_dim is not None and not what.reads_edges:
            shape = (heads, edge_dim, self.head_channels)
            waits = edge_dim == -1
            self.edge_message = (
                UninitializedParameter() if waits else nn.Parameter(torch.empty(shape))
            )
        elif edge_dim is not None and not (made.score.biased or what.reads_edge_attr):
            raise ValueError(
                f"edge_dim={edge_dim}: neither score={made.score.name!r} nor "
                f"operator={what.name!r} reads features of edges: leave it out, or take another of "
                "the two"
            )
        self.operator = what.for_layer(sizes)
        outputs = made.update.num_outputs(heads) if concat else 1
        merged = outputs * self.head_channels
        self.o_proj = (
            None
            if head_channels is None
            else nn.Linear(merged, out_channels, bias=bias is not False)
        )
        self.res = linear(from_receivers, out_channels) if residual else None
        self.bias = (
            nn.Parameter(torch.zeros(out_channels)) if bias and self.o_proj is None else None
        )
        self._hold_sharpening(sharpening)
        self._reset_edge_message()
        self._hold_relations(relations, heads, self.head_channels)

    def reset_own_parameters(self) -> None:
        super().reset_own_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self._reset_edge_message()

    @strict_flags
    def forward(
        self,
        x: Any,
        edge_index: Any,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        edge_weight: Tensor | None = None,
        edge_bias: Tensor | None = None,
        size: tuple[int, int] | None = None,
        return_attention_weights: bool | None = None,
        output_graph: bool = False,
        previous: AttentionGraph | None = None,
        edge_type: Tensor | None = None,
        first: Tensor | None = None,
        output_features: bool = False,
    ) -> Any:
        """``conv(x, edge_index, edge_attr)`` in PyG's convention, ``conv(graph, feat, edge_feat)``
        in DGL's.

        Args:
            x: ``[N, in_channels]`` (also a sparse matrix of torch), or a pair ``(x_senders,
                x_receivers)`` of a bipartite graph (PyG's NeighborLoader). ``(x_senders, None)``:
                receivers have no features, which counts as a vector of zeros: weights come from
                edge features alone, and without those are equal. ``[B, N, in_channels]``: one
                graph with B sets of features. Or a ``DGLGraph`` (a block too) with one type of
                edges.
            edge_index: ``[2, E]``: senders, then receivers; an ``EdgeIndex``; or PyG's ``adj_t`` (a
                sparse matrix with receivers in rows, of torch or torch-sparse), whose values are
                ``edge_attr`` where ``edge_dim`` asks for it, else ``edge_weight``. With a DGLGraph,
                its node features. Edges that occur twice are two messages, each with its own
                weight.
            edge_attr: ``[E, edge_dim]``, or ``[E]`` where ``edge_dim`` is 1. Needed where
                ``edge_dim`` was given.
            batch: ``[N]``, the graph of each node. Edges keep graphs apart, so it changes nothing;
                an edge between two graphs is an error.
            edge_weight: ``[E]``, which multiplies the weight that attention gives to the edge's
                message, as ``edge_weight`` multiplies messages in PyG's GCNConv and attention in
                DGL's GATConv. Scores and ``sparsify`` do not see it. An edge of weight 0 sends no
                message; to take it out of the softmax of the others as well, leave it out.
            edge_bias: ``[E, heads]`` or ``[E]``, added to the scores: a prior of your own on the
                edges.
            size: numbers of nodes in the order of the rows of ``edge_index``. Only needed for
                ``(x_senders, None)``, which has as many receivers as senders without; elsewhere it
                must agree with the features.
            return_attention_weights: also return what PyG's GATConv does: ``(edge_index, alpha)``
                with ``alpha`` ``[E, heads]`` in the order of the edges (``[B, E, heads]`` of a
                static graph), before dropout and times ``edge_weight``; 0 where ``sparsify``
                dropped the edge from a head. With ``add_self_loops``, ``edge_index`` is the one
                with self-loops. Of a ``SparseTensor``, the same with ``alpha`` as its values; of a
                sparse matrix of torch, the pair of such a matrix and ``alpha``.
            output_graph: also return the heads' graph, as the last.
            previous: the graph of the layer before, lanes ``(heads,)``, for a score that reads it.
            edge_type: int ``[E]``, the type of each edge, for a relation that reads it. Messages of
                relations are multiplied by ``edge_weight`` too.
            first: what the senders send in the first layer, for features that read it.
            output_features: also return what the senders send ``[1, heads, N, d]`` (of B sets of
                features ``B N`` in the place of ``N``), after all else.

        Returns:
            ``[N, out_channels]`` (receivers), and the :class:`~graphformer.AttentionGraph` with
            lanes ``(heads,)`` if asked for. A node that no edge reaches gets what the operator
            makes of its own features and of 0.

        Raises:
            ValueError: shapes, edges out of range, NaN features, edge features missing or not
                expected.
            TypeError: an argument of the wrong kind.
        """
        if edge_bias is not None and not self.score_slot.biased:
            raise ValueError(
                f"edge_bias is added to scores, and score={self.score_slot.name!r} takes its "
                "logits as they are: leave it out"
            )
        channels = conv_inputs.widths(self.channels, self.v_proj, self.self_proj)
        graph, x_src, x_dst, num_senders, num_receivers = conv_inputs.graph_and_nodes(
            x, edge_index, batch, size, channels, self.flow
        )
        batches = x_src.shape[0] if x_src.ndim == 3 else None
        edge_attr, edge_weight = conv_inputs.stored_values(
            graph.value, graph.source, edge_attr, edge_weight, self.edge_dim
        )
        num_edges = graph.senders.shape[0]
        factors = conv_inputs.edge_factors(edge_weight, num_edges)
        ends = graph.senders.long(), graph.receivers.long()
        typed = self.typed(GraphEdges(*ends, edge_type, edge_attr, factors))
        if self.edge_dim is None and self.relations is not None and self.relations.reads_edge_attr:
            edge_attr = None
        edges = GivenList(
            *ends,
            self._edge_features(edge_attr, num_edges),
            conv_inputs.edge_scores_bias(edge_bias, num_edges, self.heads),
            factors,
        )
        static = numberless(x_src) and previous is None
        loops = min(num_senders, num_receivers) if self.add_self_loops else 0
        if self.add_self_loops:
            edges = edges.with_self_loops(loops, num_receivers, self.fill_value, static)
        listed, total = edges, edges.num_edges
        if batches is not None:
            x_src, x_dst = x_src.flatten(0, 1), None if x_dst is None else x_dst.flatten(0, 1)
            edges, loops = edges.repeated(batches, num_senders, num_receivers), 0
            typed = tuple(one.repeated(batches, num_senders, num_receivers) for one in typed)
            num_senders, num_receivers = batches * num_senders, batches * num_receivers
        heads_graph = None
        if static and not output_graph and self._traceable():
            out, alpha, sent = self._traced(x_src, x_dst, num_receivers, edges, typed, first)
        else:
            if static and not torch.compiler.is_dynamo_compiling():
                raise ValueError(
                    f"{self} cannot be exported, or run on tensors without numbers: which edges "
                    "there are is in the numbers with output_graph=True, with a sparsifier that "
                    "changes the weights it keeps (Reweigh, NormalizeWeights), and with "
                    f"backend={self.backend!r} if that is dgl or torch_sparse. torch.compile takes "
                    "such a layer with a break in the graph"
                )
            weights = bool(return_attention_weights)
            out, heads_graph, alpha, sent = self._listed(
                *(x_src, x_dst, num_receivers, edges, loops, weights, previous, typed, first)
            )
        if batches is not None:
            out = out.view(batches, -1, self.out_channels)
        answer: list[Any] = [out]
        if return_attention_weights:
            alpha = alpha if batches is None else alpha.view(batches, total, self.heads)
            looped = listed if self.add_self_loops else None
            answer.append(returned(graph, looped, alpha, self.flow))
        if output_graph:
            answer.append(heads_graph)
        if output_features:
            answer.append(sent)
        return answer[0] if len(answer) == 1 else tuple(answer)

    @torch.compiler.disable  # how many edges there are is in the data
    def _listed(
        self,
        x_src: Tensor,
        x_dst: Tensor | None,
        num_receivers: int,
        edges: GivenList,
        loops: int,
        weights: bool,
        previous: AttentionGraph | None = None,
        typed: Sequence[TypedEdges] = (),
        first: Tensor | None = None,
    ) -> tuple[Tensor, AttentionGraph, Tensor | None, Tensor]:
        """Output, the heads' graph, if asked for the weights ``[E, heads]`` in the order of the
        edges, and what is sent.
        """
        ends = (edges.senders, edges.receivers)
        listed = EdgeList.sort(*ends, x_src.shape[0], num_receivers)
        order, rows = listed.order, ends[::-1] if self.flow == "target_to_source" else ends
        given, edges = GivenEdges(order, torch.stack(rows), loops), edges.select(order)
        out, graph, kept, sent = self.attend(
            x_src,
            x_dst,
            listed,
            edges.attr,
            edges.bias,
            given,
            edge_weight=edges.weight,
            previous=previous,
            typed=typed,
            first=first,
        )
        alpha = self._rows(kept, order, len(order))[0] if weights else None
        return out, graph, alpha, sent

    def __repr__(self) -> str:
        options = [f"heads={self.heads}"]
        if self.edge_dim is not None:
            options.append(f"edge_dim={self.edge_dim}")
        if self.o_proj is not None:
            options.append(f"head_channels={self.head_channels}")
        if self.sparsify is not None:
            options.append(f"sparsify={self.sparsify}")
        options += [f"{name}={value}" for name, value, usual in self._switches() if value != usual]
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, {', '.join(options)})"
        )

    def _switches(self) -> list[tuple[str, Any, Any]]:
        return [
            ("score", self.score_slot.name, "dot"),
            ("concat", self.concat, True),
            ("residual", self.res is not None, False),
            ("add_self_loops", self.add_self_loops, False),
            ("flow", self.flow, "source_to_target"),
        ]
