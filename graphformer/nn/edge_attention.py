"""Attention on a list of edges: scores, weights and reductions, with a backend or, while a compiler
traces, in plain torch.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer import backends
from graphformer.attention import sparsifiers
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.plans import Plan, witness
from graphformer.attention.sampled import sampled_scores
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.backends import base
from graphformer.backends.torch import magnitude
from graphformer.finite import batched, require_finite
from graphformer.graph import AttentionGraph
from graphformer.nn import conv_inputs
from graphformer.nn.added_loops import Edges
from graphformer.nn.edge_list import EdgeList
from graphformer.nn.edge_masks import GivenEdges
from graphformer.nn.edge_scores import AdditiveScore
from graphformer.nn.graph_inputs import numberless
from graphformer.nn.message_layer import MessageLayer
from graphformer.nn.recompute import in_stretches

WHOLE_NODES = 8192
"""On more nodes the operator's intermediates (PNA's are 18 times as wide as its input) are made
again in the backward pass.
"""


def exact(value: Tensor) -> AbstractContextManager[object]:
    """No autocast on this tensor's device; ``meta`` knows none."""
    return nullcontext() if value.is_meta else torch.autocast(value.device.type, enabled=False)


class EdgeAttention(MessageLayer):
    """What :class:`~graphformer.nn.AttentionConv` computes once its input is read; the formulas
    stand there.

    Attributes:
        q_proj, k_proj, v_proj, self_proj: maps of receivers, senders, senders, receivers (None:
            values serve).
        additive: what makes scores in the place of q_proj and k_proj.
        edge_bias, edge_message: what edge features add to the scores, and to the messages.
        o_proj, res, bias: on the heads' outputs, beside them, and added last.
    """

    q_proj: nn.Linear | None
    k_proj: nn.Linear | None
    additive: AdditiveScore | None
    v_proj: nn.Linear
    self_proj: nn.Linear | None
    edge_bias: nn.Linear | None
    o_proj: nn.Linear | None
    res: nn.Linear | None
    bias: nn.Parameter | None
    sharpening: nn.Parameter | None
    normalize: Normalizer
    sparsify: Sparsifier | None
    backend: str
    dropout: float
    concat: bool

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
    ) -> tuple[Tensor, AttentionGraph, AttentionGraph]:
        """The layer on a sorted edge list; what belongs to edges in the list's order. PyG's
        explainers see the edges that are ``given``.

        Returns:
            The output, the heads' graph, and the same graph with edges in the place of senders
            (:meth:`EdgeList.edges_as_senders`).
        """
        num_receivers = edges.num_receivers
        values, own, q, k = self._projected(x_src, x_dst, num_receivers)
        kept = self._weigh(q, k, edges, edge_attr, edge_bias, edge_weight)
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
            assert given is not None
            kept, reduced = self._propagated(values, kept, edges, edge_attr, given, dropout)
        every = edges.heads(self.heads)
        if kept.num_edges == every.num_edges:
            graph = every.with_weight(kept.weight)  # shares what was derived from the edges
        else:
            graph = AttentionGraph(
                every.senders[kept.senders],
                kept.receivers,
                kept.weight,
                self.heads,
                edges.num_senders,
                num_receivers,
                (self.heads,),
            )
        if not messages:
            weighted = graph.with_weight(F.dropout(graph.weight, dropout)) if dropout else graph
            reduced = self._reduce(weighted, values, kept.senders, edges, edge_attr)
        return self._operated(own, reduced, x_dst), graph, kept

    def _projected(
        self, x_src: Tensor, x_dst: Tensor | None, num_receivers: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values, own features, queries and keys, each ``[H, N, d]``; of additive scores what
        stands for the last two, ``[H, N, 1]``.
        """
        values = self._heads(conv_inputs.apply(self.v_proj, x_src))
        if x_dst is None:
            own = values.new_zeros(self.heads, num_receivers, self.head_channels)
        else:
            shared = x_src is x_dst and self.self_proj is None
            own = (
                values
                if shared
                else self._heads(conv_inputs.apply(self.self_proj or self.v_proj, x_dst))
            )
        if self.additive is not None:
            return values, own, *self.additive.halves(own, values)
        assert self.q_proj is not None and self.k_proj is not None
        k = self._heads(conv_inputs.apply(self.k_proj, x_src))
        return (
            values,
            own,
            own if x_dst is None else self._heads(conv_inputs.apply(self.q_proj, x_dst)),
            k,
        )

    def _operated(self, own: Tensor, reduced: dict[str, Tensor], x_dst: Tensor | None) -> Tensor:
        """The operator on reductions ``[H, N, d]``, and what makes the output of its heads."""
        num_receivers = own.shape[1]
        if numberless(own) or num_receivers <= WHOLE_NODES:
            out = self.operator(own, reduced)
        else:
            out = in_stretches(
                self.operator,
                own.unsqueeze(0),
                {name: value.unsqueeze(0) for name, value in reduced.items()},
            ).squeeze(0)
        out = out.transpose(0, 1).flatten(1) if self.concat else out.mean(0)
        out = out if self.o_proj is None else self.o_proj(out)
        if self.res is not None and x_dst is not None:
            out = out + conv_inputs.apply(self.res, x_dst)
        return out if self.bias is None else out + self.bias

    # ------------------------------------------------------------------ scores, weights, reductions

    def _biased(self, scores: Tensor, edge_attr: Tensor | None, edge_bias: Tensor | None) -> Tensor:
        """Scores ``[H * E]`` with what edges add to them."""
        if edge_attr is not None:
            assert self.edge_bias is not None
            edge_attr = F.linear(edge_attr.to(scores.dtype), self.edge_bias.weight.to(scores.dtype))
        for bias in (edge_attr, edge_bias):
            if bias is not None:
                scores = scores + bias.to(scores.dtype).t().reshape(-1)  # [E, H] to [H * E]
        return scores

    def _scaled(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys in the precision of scores, with the factors of a dot product where one
        is taken.
        """
        dtype = torch.promote_types(q.dtype, torch.float32)
        if self.additive is not None:
            return q.to(dtype), k.to(dtype)
        factor = 1.0 if self.sharpening is None else self.sharpening.to(dtype)
        return q.to(dtype) * (factor / math.sqrt(self.head_channels)), k.to(dtype)

    def _added(self, q: Tensor, k: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
        """Additive scores ``[H * E]``, times the sharpening."""
        scores = AdditiveScore.on_edges(q, k, receivers, senders)
        return scores if self.sharpening is None else scores * self.sharpening.to(scores.dtype)

    def _weigh(
        self,
        q: Tensor,
        k: Tensor,
        edges: EdgeList,
        edge_attr: Tensor | None,
        edge_bias: Tensor | None,
        edge_weight: Tensor | None,
    ) -> AttentionGraph:
        """Scores, weights and the kept edges: lanes ``(H,)`` with edges in the place of senders."""
        # Scores decide which edges exist: autocast would take the decision in half precision.
        with exact(q):
            q, k = self._scaled(q, k)
            every = edges.heads(self.heads)
            if self.additive is None:
                scores = sampled_scores(q.unsqueeze(0), k.unsqueeze(0), every)
            else:
                scores = self._added(q, k, edges.receivers, edges.senders)
            scores = self._biased(scores, edge_attr, edge_bias)
            require_finite(
                scores,
                "the scores are not finite: they hold",
                "look for a diverged training step, an overflow in half precision, or NaN in "
                "edge_attr or edge_bias",
                cuts=self.sparsify is not None,
            )
            weight = self.normalize.edges(
                scores, every.receivers, every.num_lanes * every.num_receivers
            )
            graph = edges.edges_as_senders(self.heads, weight)
            if self.sparsify is not None:
                keep = self.sparsify.edges(
                    weight.detach(), graph.receivers, graph.num_lanes * graph.num_receivers
                )
                if batched(keep):
                    raise ValueError(
                        "torch.func.vmap cannot run over nodes or parameters of a layer that cuts "
                        "edges: which ones remain is in the data. Give the samples as a batch "
                        "(PyG's Batch), loop over them, or set sparsify=None"
                    )
                graph = self.sparsify.refine(graph.select(keep))
            if edge_weight is None:
                return graph
            factor = edge_weight.to(graph.weight.dtype)[graph.senders % max(edges.num_edges, 1)]
            graph = graph.with_weight(graph.weight * factor)
            # Sums do not notice an edge of weight 0; a maximum, a spread and a degree would.
            return (
                graph
                if set(self.operator.reductions) <= {"sum", "mean"}
                else graph.select(factor.detach() != 0)
            )

    def _reduce(
        self,
        graph: AttentionGraph,
        values: Tensor,
        numbers: Tensor,
        edges: EdgeList,
        edge_attr: Tensor | None,
    ) -> dict[str, Tensor]:
        """The operator's reductions ``[H, N, d]``. ``numbers``: edge ``e`` of head ``h`` is
        ``h * E + e``.
        """
        backend = backends.get(self.backend)
        names = self.summed
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
            carried = AttentionGraph(
                rows.senders[numbers],
                graph.receivers,
                graph.weight,
                1,
                rows.num_senders,
                rows.num_receivers,
                (),
            )
        summed = base.aggregate(carried, edge_attr.to(values.dtype), ("sum",), backend)["sum"]
        message = summed.view(self.heads, -1, edge_attr.shape[-1]) @ self.edge_message.to(
            values.dtype
        )
        if "sum" in reduced:
            reduced["sum"] = reduced["sum"] + message
        if "mean" in reduced:
            reduced["mean"] = reduced["mean"] + message / base.divisor(graph).view(
                self.heads, -1, 1
            ).to(values.dtype)
        return reduced

    # ------------------------------------------------------------------ where a compiler traces

    def _traceable(self) -> bool:
        """Whether it can be computed without a shape that numbers decide."""
        return self.backend in ("auto", "torch", "pyg") and sparsifiers.elementwise(self.sparsify)

    def _traced(
        self, x_src: Tensor, x_dst: Tensor | None, num_receivers: int, edges: Edges
    ) -> tuple[Tensor, Tensor]:
        """Output and weights ``[E, heads]``: no edge is sorted or left out, and dropped ones have
        weight 0.
        """
        values, own, q, k = self._projected(x_src, x_dst, num_receivers)
        back = None
        # of equal weights the earlier sender is kept
        if self.sparsify is not None and self.sparsify.bound is None:
            order = torch.argsort(edges.senders, stable=True)
            order = order[torch.argsort(edges.receivers[order], stable=True)]
            edges, back = edges.select(order), torch.argsort(order)
        senders, receivers, lanes = edges.senders, edges.receivers, self.heads * num_receivers
        with exact(q):
            q, k = self._scaled(q, k)
            if self.additive is None:
                scores = (
                    (q.index_select(1, receivers) * k.index_select(1, senders)).sum(-1).reshape(-1)
                )
            else:
                scores = self._added(q, k, receivers, senders)
            scores = self._biased(scores, edges.attr, edges.bias)
            lane = torch.arange(self.heads, device=receivers.device).unsqueeze(-1)
            rows = (receivers + num_receivers * lane).reshape(-1)
            keep = (
                torch.ones_like(scores, dtype=torch.bool)
                if edges.there is None
                else edges.there.repeat(self.heads)
            )
            # such an edge is sent to a receiver of its own, where no other sees it
            if edges.there is not None:
                rows = torch.where(keep, rows, lanes)
            weight = self.normalize.edges(scores, rows, lanes + 1)
            if self.sparsify is not None:
                keep = keep & self.sparsify.edges(weight.detach(), rows, lanes + 1)
            weight = torch.where(keep, weight, torch.zeros_like(weight))
            if self.sparsify is not None and self.sparsify.renormalize:
                total = (
                    weight.new_zeros(lanes + 1)
                    .index_add(0, rows, magnitude(weight))
                    .index_select(0, rows)
                )
                weight = torch.where(
                    total == 0,
                    torch.zeros_like(weight),
                    weight / torch.where(total == 0, torch.ones_like(total), total),
                )
            if edges.weight is not None:
                factor = edges.weight.to(weight.dtype).repeat(self.heads)
                weight, keep = weight * factor, keep & (factor != 0)
        alpha, keep = (
            self.edge_update(weight.view(self.heads, -1).t()),
            keep.view(self.heads, -1).t(),
        )
        dropped = F.dropout(alpha, self.dropout, self.training)
        inputs = self.message(values.transpose(0, 1).index_select(0, senders), edges.attr, dropped)
        if self.explain:
            raise ValueError(
                "an explainer's mask has no place in a model that is compiled; explain the model "
                "itself"
            )
        out = self.update(self.aggregate(inputs, receivers, num_receivers, dropped, keep))
        out = self._operated(own, self._split(out, keep, receivers), x_dst)
        return out, alpha if back is None else alpha[back]

    def _heads(self, x: Tensor) -> Tensor:
        """``[N, H * d]`` to ``[H, N, d]``."""
        return x.unflatten(-1, (self.heads, self.head_channels)).transpose(0, 1)
