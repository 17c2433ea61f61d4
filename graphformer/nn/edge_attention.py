"""Attention on a list of edges: scores, weights and reductions, with a backend or, while a compiler
traces, in plain torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter, is_lazy

from graphformer import backends
from graphformer.attention.attend import dropped, reduce
from graphformer.attention.candidates import Among
from graphformer.attention.executors.edges import kept
from graphformer.attention.executors.plans import Plan, witness
from graphformer.attention.features import Features
from graphformer.attention.operators import EdgeMessages
from graphformer.attention.pairs import Listed
from graphformer.attention.problem import pose
from graphformer.attention.relations import GraphEdges, TypedEdges, check
from graphformer.attention.relations.base import RelationsLike, refuse_unusable
from graphformer.attention.scores import Score
from graphformer.attention.updates import Update
from graphformer.attention.watching import tell_edges
from graphformer.backends import base
from graphformer.finite import require_finite
from graphformer.graph import AttentionGraph
from graphformer.nn import conv_inputs
from graphformer.nn.added_loops import GivenList
from graphformer.nn.edge_list import EdgeList
from graphformer.nn.edge_masks import GivenEdges
from graphformer.nn.graph_inputs import numberless
from graphformer.nn.maps import mapped
from graphformer.nn.message_layer import MessageLayer
from graphformer.nn.relation_messages import RelationMessages
from graphformer.nn.shell import Shell

WHOLE_NODES = 8192
"""On more nodes the operator's intermediates (PNA's are 18 times as wide as its input) are made
again in the backward pass.
"""


def exact(value: Tensor) -> AbstractContextManager[object]:
    """No autocast on this tensor's device; ``meta`` knows none."""
    return nullcontext() if value.is_meta else torch.autocast(value.device.type, enabled=False)


class EdgeAttention(Shell, MessageLayer):
    """What :class:`~graphformer.nn.AttentionConv` computes once its input is read; the formulas
    stand there.

    Attributes:
        self_proj: map of receivers, where it is not that of senders.
        edge_bias, edge_message: what edge features add to the scores, and to the messages.
        res, bias: beside the heads' outputs, and added last.
        relations: messages over typed edges, where there are any.
    """

    channels: int | tuple[int, int]
    v_proj: nn.Linear
    self_proj: nn.Linear | None
    edge_bias: nn.Linear | None
    res: nn.Linear | None
    bias: nn.Parameter | None
    relations: RelationMessages | None
    edge_dim: int | None
    edge_message: UninitializedParameter | nn.Parameter | None
    backend: str
    dropout: float

    @torch.compiler.disable
    def attend(
        self,
        x_src: Tensor,
        x_dst: Tensor | None,
        edges: EdgeList,
        edge_attr: Tensor | None = None,
        edge_bias: Tensor | None = None,
        given: GivenEdges | None = None,
        *,
        edge_weight: Tensor | None = None,
        previous: AttentionGraph | None = None,
        typed: Sequence[TypedEdges] = (),
        first: Tensor | None = None,
    ) -> tuple[Tensor, AttentionGraph, AttentionGraph, Tensor]:
        """The layer on a sorted edge list; what belongs to edges in the list's order. PyG's
        explainers see the edges that are ``given``. ``typed``: those of each relation. ``first``:
        what senders send in the first layer ``[1, H, N, d]``, for features that read it.

        Returns:
            The output, the heads' graph, the same graph with edges in the place of senders
            (:meth:`EdgeList.edges_as_senders`), and what the senders send ``[1, H, N, d]``.
        """
        num_receivers = edges.num_receivers
        values, own, q, k = self._nodes(x_src, x_dst, num_receivers, first)
        among = None
        if given is not None and self.candidates is not None and bool((given.number < 0).any()):
            among = edges.select(given.number >= 0).heads(self.heads)
        every = Listed.of(edges.heads(self.heads), self.heads)
        pairs, weight = self._weigh(q, k, every, edge_attr, edge_bias, edge_weight, previous, among)
        kept, ends = edges.edges_as_senders(self.heads, weight, pairs.numbers), pairs.graph
        # They hold some whole numbers for each weight, which nothing below reads.
        del every, pairs
        messages = given is not None and self.messages_wanted()
        by = "torch" if messages or self.backend == "auto" else self.backend
        witness(
            Plan(
                "edges",
                by,
                "only the given edges are scored"
                + ", and somebody looks at their messages" * messages,
            ),
            self,
        )
        dropout = self.dropout if self.training else 0.0
        if messages:
            self._refuse_edges()
            assert given is not None
            kept, reduced = self._propagated(values[0], kept, edges, edge_attr, given, dropout)
            graph = ends.with_weight(kept.weight)
            out = self._related(self._operated(own, reduced), values, typed)
            return self._finished(out, x_dst), graph, kept, values
        graph = ends.with_weight(weight)
        weighted = dropped(graph, dropout)
        if self.operator.reads_edges:
            rows = None if edge_attr is None else edge_attr[kept.senders % max(edges.num_edges, 1)]
            seen = EdgeMessages(weighted, self.heads, self.backend, rows)
            out = self.operator.on_edges(own, values, seen)
            return self._finished(self._related(out, values, typed), x_dst), graph, kept, values
        reduced = reduce(graph, weighted, values[0], self.operator.reductions, self.backend)
        if edge_attr is not None:
            self._add_messages(reduced, weighted, kept.senders, edges, edge_attr)
        out = self._related(self._operated(own, reduced), values, typed)
        return self._finished(out, x_dst), graph, kept, values

    # ------------------------------------------------------------------ before and after the graph

    def _heads(self, x: Tensor) -> Tensor:
        """``[N, H * d]``, also of a batch of one, to ``[1, H, N, d]``."""
        heads = x.unflatten(-1, (self.heads, self.head_channels)).transpose(-3, -2)
        return heads if heads.ndim == 4 else heads.unsqueeze(0)

    def _own(self, receivers: Tensor, senders: Tensor, values: Tensor) -> Tensor:
        if receivers is senders and self.self_proj is None:
            return values
        return self._heads(mapped(self.self_proj or self.v_proj, receivers))

    def _hidden(self, slot: Features | Score | Update, x: Tensor | None) -> Any:
        """A batch of one; sparse features that are not read stay as they are."""
        if x is None and slot.reads_hidden:
            raise ValueError(
                f"{slot.slot}={slot.name!r} reads the features of receivers, and there are none: "
                "give (x_senders, x_receivers)"
            )
        if x is not None and x.layout != torch.strided and slot.reads_hidden:
            x = x.to_dense()
        return x if x is None or x.layout != torch.strided else x.unsqueeze(0)

    def _nodes(
        self,
        x_src: Tensor,
        x_dst: Tensor | None,
        num_receivers: int,
        first: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of :meth:`_projected`; where receivers have no features, scores read zeros."""
        if x_dst is None and self.score_slot.reads_hidden:
            width = self.channels if isinstance(self.channels, int) else self.channels[1]
            x_dst = torch.zeros(num_receivers, width, dtype=x_src.dtype, device=x_src.device)
        return self._projected(x_dst, x_src, self._heads, num_receivers, first)

    def _operated(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        """From reductions ``[H, N, d]``."""
        reduced = {name: value.unsqueeze(0) for name, value in reduced.items()}
        if numberless(own) or own.shape[2] <= WHOLE_NODES:
            return self.operator(own, reduced)
        return super()._operated(own, reduced)

    def _finished(self, out: Tensor, x_dst: Tensor | None) -> Tensor:
        """The output ``[N, out_channels]`` from that of the heads ``[1, H, N, d]``."""
        out = self._joined(out, x_dst).squeeze(0)
        if self.res is not None and x_dst is not None:
            out = out + mapped(self.res, x_dst)
        return out if self.bias is None else out + self.bias

    # ------------------------------------------------------------------ relations

    def _hold_relations(self, relations: RelationsLike, heads: int, dim: int) -> None:
        found = check(relations)
        refuse_unusable(found, ("edges",), "a layer on edges")
        self.relations = RelationMessages(found, heads, dim) if found else None

    def typed(self, given: GraphEdges) -> tuple[TypedEdges, ...]:
        """The edges of each relation of this layer."""
        found = () if self.relations is None else self.relations.relations
        read = {name for one in found for name in one.attributes}
        if given.types is not None and "edge_type" not in read:
            raise ValueError(
                "edge_type is given, and no relation of this layer reads it: leave it out, or give "
                "the layer relations=gf.EdgeTypes(num_types)"
            )
        return tuple(one.typed(given) for one in found)

    def _related(self, out: Tensor, values: Tensor, typed: Sequence[TypedEdges]) -> Tensor:
        """The heads' outputs ``[1, H, N, d]`` and messages of relations."""
        if self.relations is None:
            return out
        if self.explain:
            raise ValueError(
                "an explainer masks the messages of attention, and those of relations stand beside "
                "them: explain a model without relations"
            )
        return out + self.relations.on_edges(values, typed, out.shape[2])

    def _refuse_edges(self) -> None:
        if self.operator.reads_edges:
            raise ValueError(
                f"operator={self.operator.name!r} reads edges one by one, and no messages are made "
                "that an explainer, a hook of messages or a message of your own could act on: take "
                "them away, or an operator as 'gin', 'pna' or 'sum'"
            )

    def _reset_edge_message(self) -> None:
        if self.edge_message is not None and not is_lazy(self.edge_message):
            bound = 1 / math.sqrt(self.edge_message.shape[1])
            nn.init.uniform_(self.edge_message, -bound, bound)

    def _edge_features(self, edge_attr: Tensor | None, num_edges: int) -> Tensor | None:
        message = self.edge_message
        waits = isinstance(message, UninitializedParameter)
        width = None if message is None or waits else message.shape[1]
        edge_attr = conv_inputs.edge_features(edge_attr, num_edges, self.edge_dim, width)
        if isinstance(message, UninitializedParameter) and edge_attr is not None:
            message.materialize((self.heads, edge_attr.shape[1], self.head_channels))
            self._reset_edge_message()
            if self.edge_bias is not None:
                self.edge_bias(edge_attr[:0])  # its weight is used, not the module
        return edge_attr

    # ------------------------------------------------------------------ scores, weights, reductions

    def _bias(self, edge_attr: Tensor | None, edge_bias: Tensor | None) -> Tensor | None:
        """What edges add to the logits ``[H * E]``; None where nothing."""
        total: Tensor | None = None
        if edge_attr is not None and self.edge_bias is not None:
            dtype = torch.promote_types(edge_attr.dtype, torch.float32)
            total = F.linear(edge_attr.to(dtype), self.edge_bias.weight.to(dtype))
        if edge_bias is not None:
            edge_bias = edge_bias.to(torch.promote_types(edge_bias.dtype, torch.float32))
            total = edge_bias if total is None else total + edge_bias
        return None if total is None else total.t().reshape(-1)

    def _finite(self, logits: Tensor) -> None:
        require_finite(
            logits,
            "the scores are not finite: they hold",
            "look for a diverged training step, an overflow in half precision, or NaN in "
            "edge_attr or edge_bias",
            cuts=self.sparsify is not None,
        )

    def _weigh(
        self,
        q: Tensor,
        k: Tensor,
        pairs: Listed,
        edge_attr: Tensor | None,
        edge_bias: Tensor | None,
        edge_weight: Tensor | None,
        previous: AttentionGraph | None = None,
        given: AttentionGraph | None = None,
    ) -> tuple[Listed, Tensor]:
        """The slots on edges, which are the same for all heads: those that stay, and their weights;
        from queries and keys ``[1, H, N, d]``.
        """
        # Scores decide which edges exist: autocast would take the decision in half precision.
        with exact(q):
            score = self._score(previous)
            rule, limit = self.candidates, score.candidates()
            rule = None if rule is None else rule.on_edges(given)
            if limit is not None:
                rule = Among(limit) if rule is None else rule & Among(limit)
            problem = pose(
                q,
                k,
                candidates=rule,
                score=score,
                normalize=self.normalize,
                sparsify=self.sparsify,
                training=self.training,
            )
            bias = self._bias(edge_attr, edge_bias)
            if not torch.compiler.is_compiling():
                tell_edges(problem, pairs, bias)
            pairs, weight = kept(problem, pairs, bias, self._finite)
            if edge_weight is None:
                return pairs, weight
            factor = edge_weight.to(weight.dtype).repeat(self.heads)
            factor = factor if pairs.numbers is None else factor[pairs.numbers]
            weight = weight * factor
            # Sums do not notice an edge of weight 0; a maximum, a spread and a degree would.
            if not set(self.operator.reductions) <= {"sum", "mean"}:
                pairs, weight = pairs.cut(factor.detach() != 0, weight)
            return pairs, weight

    def _add_messages(
        self,
        reduced: dict[str, Tensor],
        graph: AttentionGraph,
        numbers: Tensor,
        edges: EdgeList,
        edge_attr: Tensor,
    ) -> None:
        """What edge features add to sums and means ``[H, N, d]``. ``numbers``: edge ``e`` of head
        ``h`` is ``h * E + e``.
        """
        names = {"sum", "mean"} & set(reduced)
        if self.edge_message is None or not names:
            return
        # A map is linear, so features are summed before it: [H, N, edge_dim] instead of [H, E, d].
        rows, dtype = edges.rows(self.heads), reduced[min(names)].dtype
        if graph.num_edges == rows.num_edges:
            carried = rows.with_weight(graph.weight)
        else:
            ends, sizes = (
                (rows.senders[numbers], graph.receivers),
                (rows.num_senders, rows.num_receivers),
            )
            carried = AttentionGraph.of_sorted(ends, graph.weight, sizes)
        backend = backends.get(self.backend)
        summed = base.aggregate(carried, edge_attr.to(dtype), ("sum",), backend)["sum"]
        message = summed.view(self.heads, -1, edge_attr.shape[-1]) @ self.edge_message.to(dtype)
        if "sum" in reduced:
            reduced["sum"] = reduced["sum"] + message
        if "mean" in reduced:
            total = base.divisor(graph).view(self.heads, -1, 1)
            reduced["mean"] = reduced["mean"] + message / total.to(dtype)

    # ------------------------------------------------------------------ where a compiler traces

    def _traceable(self) -> bool:
        """Whether it can be computed without a shape that numbers decide."""
        return self.backend in ("auto", "torch", "pyg") and not self.operator.reads_edges

    def _traced(
        self,
        x_src: Tensor,
        x_dst: Tensor | None,
        num_receivers: int,
        edges: GivenList,
        typed: Sequence[TypedEdges] = (),
        first: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output, weights ``[E, heads]`` and what is sent ``[1, H, N, d]``: no edge is sorted or
        left out, and dropped ones have weight 0.
        """
        values, own, q, k = self._nodes(x_src, x_dst, num_receivers, first)
        back = None
        if self.sparsify is not None and (
            self.sparsify.bound is None or self.sparsify.then is not None
        ):  # of equal weights the earlier sender is kept
            order = torch.argsort(edges.senders, stable=True)
            order = order[torch.argsort(edges.receivers[order], stable=True)]
            edges, back = edges.select(order), torch.argsort(order)
        senders, receivers = edges.senders, edges.receivers
        pairs = Listed.of_fixed_length(
            senders, receivers, self.heads, x_src.shape[0], num_receivers
        )
        if edges.there is not None:
            (pairs,) = pairs.cut(edges.there.repeat(self.heads))
        pairs, weight = self._weigh(q, k, pairs, edges.attr, edges.bias, edges.weight)
        keep = pairs.there
        assert keep is not None
        alpha, keep = (
            self.edge_update(weight.view(self.heads, -1).t()),
            keep.view(self.heads, -1).t(),
        )
        weight = F.dropout(alpha, self.dropout, self.training)
        inputs = self.message(
            values[0].transpose(0, 1).index_select(0, senders), edges.attr, weight
        )
        if self.explain:
            raise ValueError(
                "an explainer's mask has no place in a model that is compiled; explain the model "
                "itself"
            )
        out = self.aggregate(inputs, receivers, num_receivers, weight, keep)
        out = self.update(out)  # type: ignore[operator]
        out = self._operated(own, self._split(out, alpha, keep, receivers))
        out = self._related(out, values, typed)
        return self._finished(out, x_dst), alpha if back is None else alpha[back], values
