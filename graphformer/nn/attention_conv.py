r"""Attention on the edges of a given graph, for the pipelines of PyG and DGL; :mod:`graphformer.nn.conv` adds the operators.

Data flow, with :math:`H` heads of width :math:`d`::

    x_src, x_dst --> q (receivers), k, v (senders), own (receivers)             [H, N, d] each
    edges        --> EdgeList: sorted once, the same for all heads               E
    s_e = sharpening <q_i, k_j> / sqrt(d) + W_bias edge_attr_e + edge_bias_e     on the given edges only, [H * E]
        --> normalize over each receiver's edges --> sparsify --> AttentionGraph, lanes (H,)
        --> the operator's reductions by a backend, sum and mean of v_j + W_h edge_attr_e
        --> operator with the receiver's own features --> heads beside each other [--> output map]

Time and memory are linear in the edges; nothing of size N x N or E x d is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from graphformer import backends
from graphformer.attention import normalizers, sparsifiers
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.plans import Plan, witness
from graphformer.attention.sampled import SampledScores
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.backends import base
from graphformer.finite import require_finite
from graphformer.graph import AttentionGraph
from graphformer.nn.attention import Operator
from graphformer.nn.edge_list import EdgeList
from graphformer.nn.edge_masks import GivenEdges
from graphformer.nn.graph_inputs import dgl_ends, dgl_features, ends, is_dgl, refuse_crossing, refuse_nan
from graphformer.nn.mlp import probability
from graphformer.nn.recompute import in_stretches

WHOLE_NODES = 8192
"""On more nodes the operator's intermediates (PNA's are 18 times as wide as its input) are made again in the backward pass."""

Channels = int | tuple[int, int]


class AttentionConv(MessagePassing):
    r"""Base of the graph layers: projections, scores on the given edges, edge features, the heads' graph. The operator does the rest.

    .. math::
        s^h_e = \alpha \langle q^h_i, k^h_j \rangle / \sqrt{d} + b_h^\top a_e, \qquad
        w^h_{e} = \mathrm{normalize}_{e \to i}(s^h_e), \qquad
        m^h_i = \sum_{e = (j \to i)} w^h_e \,(W_v x_j + W_e a_e)^h

    for an edge :math:`e` from sender :math:`j` to receiver :math:`i` with features :math:`a_e`. These act twice: they bias the score, and
    they are part of the message. Without the second a receiver with one edge would not see its features, for its softmax weight is 1.
    Reductions other than sum and mean (max, min, std) look at :math:`W_v x_j` alone.

    To ``to_hetero``, ``summary`` and the explainers it is one of PyG's MessagePassing layers: edge masks multiply the messages
    (GNNExplainer, PGExplainer), AttentionExplainer gets :math:`w`. But ``propagate`` is not called, and ``message`` not overridden.

    Args:
        operator: makes the operator from the number of heads and the width of one.
        in_channels: width of x; a pair (senders, receivers) where they differ: then receivers have a projection of their own; -1: taken
            from the first call.
        out_channels: width of the output, all heads together: ``heads * head_channels``, side by side.
        head_channels: width of one head. Left out, it is ``out_channels / heads``; given, a linear map follows that mixes the heads.
        self_weight: the weight of a receiver's own features, see the operator. 0 where the edges hold self-loops.

    The other arguments: :class:`GINAttentionConv`.
    """

    def __init__(
        self,
        operator: Callable[[int, int], Operator],
        in_channels: Channels,
        out_channels: int,
        heads: int,
        edge_dim: int | None,
        *,
        sparsify: Sparsifier | None,
        normalize: str | Normalizer,
        sharpening: bool | float,
        dropout: float,
        backend: str,
        head_channels: int | None,
    ) -> None:
        super().__init__(aggr=None)
        for name, value in (("out_channels", out_channels), ("heads", heads), ("head_channels", head_channels), ("edge_dim", edge_dim)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if head_channels is None and out_channels % heads:
            raise ValueError(
                f"out_channels {out_channels} is not a multiple of heads {heads}: every head makes an equal part of the output. "
                "Choose another number of heads, or give head_channels: then a linear map makes the output from the heads"
            )
        self.in_channels, self.out_channels, self.heads, self.edge_dim = in_channels, out_channels, heads, edge_dim
        self.head_channels = out_channels // heads if head_channels is None else head_channels
        self.normalize, self.sparsify = normalizers.resolve(normalize), sparsifiers.check(sparsify)
        backends.get(backend)  # an unknown or missing one is reported here, not in the first step
        self.backend, self.dropout = backend, probability("dropout", dropout)
        from_senders, from_receivers = (in_channels, in_channels) if isinstance(in_channels, int) else in_channels
        width = heads * self.head_channels
        self.q_proj = linear(from_receivers, width)
        self.k_proj = linear(from_senders, width)
        self.v_proj = linear(from_senders, width)
        self.self_proj = None if isinstance(in_channels, int) else linear(from_receivers, width)
        self.edge_bias = None if edge_dim is None else nn.Linear(edge_dim, heads, bias=False)
        self.edge_message = None if edge_dim is None else nn.Parameter(torch.empty(heads, edge_dim, self.head_channels))
        self.operator = operator(heads, self.head_channels)
        self.o_proj = None if head_channels is None else nn.Linear(width, out_channels)
        self.initial_sharpening = float(sharpening)
        self.sharpening = nn.Parameter(torch.full((1,), self.initial_sharpening)) if sharpening else None
        self._reset_edge_message()

    def reset_parameters(self) -> None:
        """Every parameter as the constructor left it (linear maps drawn anew)."""
        for module in self.children():
            if hasattr(module, "reset_parameters"):  # a sparsifier of a user's own may have none
                module.reset_parameters()
        if self.sharpening is not None:
            nn.init.constant_(self.sharpening, self.initial_sharpening)
        self._reset_edge_message()

    def _reset_edge_message(self) -> None:
        if self.edge_message is not None:
            bound = 1 / math.sqrt(self.edge_message.shape[1])
            nn.init.uniform_(self.edge_message, -bound, bound)

    def forward(
        self,
        x: Any,
        edge_index: Any,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        edge_bias: Tensor | None = None,
        output_graph: bool = False,
    ) -> Tensor | tuple[Tensor, AttentionGraph]:
        """``conv(x, edge_index, edge_attr)`` in PyG's convention, ``conv(graph, feat, edge_feat)`` in DGL's.

        Args:
            x: ``[N, in_channels]``, or a pair ``(x_senders, x_receivers)`` of a bipartite graph (PyG's NeighborLoader). Or a ``DGLGraph``
                (a block too) with one type of edges.
            edge_index: ``[2, E]``: senders, then receivers, or PyG's ``adj_t`` (a sparse matrix with receivers in rows). With a
                DGLGraph, its node features. Edges that occur twice are two messages, each with its own weight.
            edge_attr: ``[E, edge_dim]``, or ``[E]`` where ``edge_dim`` is 1. Needed where ``edge_dim`` was given.
            batch: ``[N]``, the graph of each node. Edges keep graphs apart, so it changes nothing; an edge between two graphs is an error.
            edge_bias: ``[E, heads]`` or ``[E]``, added to the scores: a prior of your own on the edges.
            output_graph: also return the heads' graph.

        Returns:
            ``[N, out_channels]`` (receivers), and the :class:`~graphformer.AttentionGraph` with lanes ``(heads,)`` if asked for. A node
            that no edge reaches gets what the operator makes of its own features and of 0.

        Raises:
            ValueError: shapes, edges out of range, NaN features, edge features missing or not expected.
            TypeError: an argument of the wrong kind.
        """
        if is_dgl(x):
            x, (senders, receivers) = dgl_features(x, edge_index), dgl_ends(x)
        else:
            senders, receivers = ends(edge_index)
        x_src, x_dst = self._features(x)
        edges = EdgeList.sort(senders, receivers, len(x_src), len(x_dst))
        if batch is not None:
            refuse_crossing(batch, senders, receivers, len(x_src), len(x_dst))
        edge_attr = self._edge_features(edge_attr, edges.num_edges)
        if edge_attr is not None:
            edge_attr = edge_attr[edges.order]
        if edge_bias is not None:
            edge_bias = self._bias(edge_bias, edges.num_edges)[edges.order]
        out, graph, _ = self.attend(x_src, x_dst, edges, edge_attr, edge_bias, GivenEdges(edges.order, edges.num_edges))
        return (out, graph) if output_graph else out

    @torch.compiler.disable  # how many edges there are is in the data
    def attend(
        self,
        x_src: Tensor,
        x_dst: Tensor,
        edges: EdgeList,
        edge_attr: Tensor | None = None,
        edge_bias: Tensor | None = None,
        given: GivenEdges | None = None,
    ) -> tuple[Tensor, AttentionGraph, AttentionGraph]:
        """The layer on a sorted edge list; edge features and bias in the list's order. PyG's explainers see the edges that are ``given``.

        Returns:
            The output, the heads' graph, and the same graph with edges in the place of senders (:meth:`EdgeList.edges_as_senders`).
        """
        witness(Plan("edges", "torch" if self.backend == "auto" else self.backend, "only the given edges are scored"), self)
        shared = x_src is x_dst and self.self_proj is None
        values = self._heads(self.v_proj(x_src))
        own = values if shared else self._heads((self.v_proj if self.self_proj is None else self.self_proj)(x_dst))
        kept = self._weigh(self._heads(self.q_proj(x_dst)), self._heads(self.k_proj(x_src)), edges, edge_attr, edge_bias)
        every = edges.heads(self.heads)
        if kept.num_edges == every.num_edges:
            graph = every.with_weight(kept.weight)  # shares what was derived from the edges
        else:
            graph = AttentionGraph(
                every.senders[kept.senders], kept.receivers, kept.weight, self.heads, len(x_src), len(x_dst), (self.heads,)
            )
        dropout = self.dropout if self.training else 0.0
        weighted = graph.with_weight(F.dropout(graph.weight, dropout)) if dropout else graph
        if given is not None:
            given.tell(self, kept)
            mask = given.mask(self)
            if mask is not None:  # only now there is a message for each edge: its mask times value and features
                weighted, factor = kept.with_weight(weighted.weight), mask.to(values.dtype).unsqueeze(-1)
                values, edge_attr = values[:, edges.senders] * factor, None if edge_attr is None else edge_attr * factor
        reduced = self._reduce(weighted, values, kept.senders, edges, edge_attr)
        if len(x_dst) <= WHOLE_NODES:
            out = self.operator(own, reduced)
        else:
            out = in_stretches(self.operator, own.unsqueeze(0), {name: value.unsqueeze(0) for name, value in reduced.items()}).squeeze(0)
        out = out.transpose(0, 1).reshape(len(x_dst), self.heads * self.head_channels)
        return out if self.o_proj is None else self.o_proj(out), graph, kept

    def _weigh(self, q: Tensor, k: Tensor, edges: EdgeList, edge_attr: Tensor | None, edge_bias: Tensor | None) -> AttentionGraph:
        """Scores, weights and the kept edges: lanes ``(H,)`` with edges in the place of senders."""
        # Scores decide which edges exist: autocast would take the decision in half precision.
        with torch.autocast(q.device.type, enabled=False):
            dtype = torch.promote_types(q.dtype, torch.float32)
            factor = 1.0 if self.sharpening is None else self.sharpening.to(dtype)
            q, k = q.to(dtype) * (factor / math.sqrt(self.head_channels)), k.to(dtype)
            every = edges.heads(self.heads)
            scores = SampledScores.apply(q.unsqueeze(0), k.unsqueeze(0), every)
            for bias in (None if edge_attr is None else self._attribute_bias(edge_attr.to(dtype)), edge_bias):
                if bias is not None:
                    scores = scores + bias.to(dtype).t().reshape(-1)  # [E, H] to [H * E]
            require_finite(
                scores,
                "the scores are not finite: they hold",
                "look for a diverged training step, an overflow in half precision, or NaN in edge_attr or edge_bias",
                cuts=self.sparsify is not None,
            )
            weight = self.normalize.edges(scores, every.receivers, every.num_lanes * every.num_receivers)
            graph = edges.edges_as_senders(self.heads, weight)
            if self.sparsify is None:
                return graph
            keep = self.sparsify.edges(weight.detach(), graph.receivers, graph.num_lanes * graph.num_receivers)
            return self.sparsify.refine(graph.select(keep))

    def _attribute_bias(self, edge_attr: Tensor) -> Tensor:
        assert self.edge_bias is not None
        return F.linear(edge_attr, self.edge_bias.weight.to(edge_attr.dtype))

    def _reduce(
        self, graph: AttentionGraph, values: Tensor, numbers: Tensor, edges: EdgeList, edge_attr: Tensor | None
    ) -> dict[str, Tensor]:
        """The operator's reductions ``[H, N, d]``. ``numbers``: edge ``e`` of head ``h`` is ``h * E + e``."""
        backend = backends.get(self.backend)
        names = tuple(name for name in self.operator.reductions if name != "degree")
        reduced = base.aggregate(graph, values, names, backend)
        if "degree" in self.operator.reductions:
            reduced["degree"] = graph.in_degree().view(self.heads, -1, 1).to(values.dtype)
        if edge_attr is None or self.edge_message is None or not {"sum", "mean"} & set(names):
            return reduced
        # A map is linear, so features are summed before it: [H, N, edge_dim] instead of [H, E, d].
        rows = edges.rows(self.heads)
        if graph.num_edges == rows.num_edges:
            carried = rows.with_weight(graph.weight)
        else:
            carried = AttentionGraph(rows.senders[numbers], graph.receivers, graph.weight, 1, rows.num_senders, rows.num_receivers, ())
        summed = base.aggregate(carried, edge_attr.to(values.dtype), ("sum",), backend)["sum"]
        message = summed.view(self.heads, -1, edge_attr.shape[-1]) @ self.edge_message.to(values.dtype)
        if "sum" in reduced:
            reduced["sum"] = reduced["sum"] + message
        if "mean" in reduced:
            total = graph.in_weight().view(self.heads, -1, 1).to(values.dtype)
            reduced["mean"] = reduced["mean"] + message / torch.where(total == 0, torch.ones_like(total), total)
        return reduced

    def _heads(self, x: Tensor) -> Tensor:
        """``[N, H * d]`` to ``[H, N, d]``."""
        return x.view(len(x), self.heads, self.head_channels).transpose(0, 1)

    # ------------------------------------------------------------------ what a user may give

    def _features(self, x: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Features of senders and receivers, checked."""
        if isinstance(x, (tuple, list)):
            if len(x) != 2 or x[1] is None:
                raise ValueError("a bipartite x must be (x_senders, x_receivers), both of them: receivers make the queries")
            x_src, x_dst = x
        else:
            x_src = x_dst = x
        given = (self.in_channels, self.in_channels) if isinstance(self.in_channels, int) else self.in_channels
        names = ("x", "x") if x_src is x_dst else ("x[0] (senders)", "x[1] (receivers)")
        for name, value, width in zip(names, (x_src, x_dst), given, strict=True):
            if not isinstance(value, Tensor) or not value.is_floating_point():
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name} must be a floating point tensor, got {kind}; embed categories first, or convert with .float()")
            if value.ndim != 2 or (width != -1 and value.shape[1] != width):
                raise ValueError(f"{name} must be [nodes, {'channels' if width == -1 else width}], got shape {list(value.shape)}")
            refuse_nan(name, value)
            if x_src is x_dst:
                break
        return x_src, x_dst

    def _edge_features(self, edge_attr: Tensor | None, num_edges: int) -> Tensor | None:
        if self.edge_dim is None:
            if edge_attr is not None:
                raise ValueError(f"edge_attr {list(edge_attr.shape)} was given to a layer without edge_dim; construct it with edge_dim=...")
            return None
        if edge_attr is None:
            raise ValueError(f"edge_attr is missing: this layer was constructed with edge_dim={self.edge_dim}")
        if edge_attr.ndim == 1 and self.edge_dim == 1:
            edge_attr = edge_attr.unsqueeze(-1)
        if tuple(edge_attr.shape) != (num_edges, self.edge_dim):
            raise ValueError(f"edge_attr must be [{num_edges}, {self.edge_dim}] (edges, edge_dim), got shape {list(edge_attr.shape)}")
        if not edge_attr.is_floating_point():
            raise TypeError(f"edge_attr must be floating point, got {edge_attr.dtype}; embed categories first, or convert with .float()")
        refuse_nan("edge_attr", edge_attr)
        return edge_attr

    def _bias(self, edge_bias: Tensor, num_edges: int) -> Tensor:
        if edge_bias.ndim == 1:
            edge_bias = edge_bias.unsqueeze(-1)
        if edge_bias.ndim != 2 or len(edge_bias) != num_edges or edge_bias.shape[1] not in (1, self.heads):
            raise ValueError(f"edge_bias must be [{num_edges}] or [{num_edges}, {self.heads}], got shape {list(edge_bias.shape)}")
        return edge_bias.expand(-1, self.heads)

    def __repr__(self) -> str:
        options = [f"heads={self.heads}"]
        if self.edge_dim is not None:
            options.append(f"edge_dim={self.edge_dim}")
        if self.o_proj is not None:
            options.append(f"head_channels={self.head_channels}")
        if self.sparsify is not None:
            options.append(f"sparsify={self.sparsify}")
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, {', '.join(options)})"


def linear(in_features: int, out_features: int) -> nn.Linear:
    """A map without bias; -1 takes its width from the first call."""
    if in_features == -1:
        return nn.LazyLinear(out_features, bias=False)
    if in_features < 1:
        raise ValueError(f"in_channels must be at least 1, or -1 to take it from the first call; got {in_features}")
    return nn.Linear(in_features, out_features, bias=False)
