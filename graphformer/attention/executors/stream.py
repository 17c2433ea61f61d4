"""The stream executor: the slots on blocks of whole rows, so that no N x N matrix is ever held.
Memory is O(N * d + block + edges). Where a rule can list its few senders, lists stand in the place
of blocks (:mod:`graphformer.attention.executors.listed`).

Exact, because every slot acts on one row at a time. Softmax weights, the usual case, have a
gradient of their own: with un-renormalised weights ``w_e = p_ij`` and upstream gradient ``g_e``,

    dL/ds_ij = [edge] w_e g_e + p_ij d_i,   d_i = - sum over the edges of row i of w_e g_e.

The first term lives on the edges. The second is dense, but needs no matrix: ``dQ += d_i (P K)_i``
and ``dK += P^T (d * Q)``, again in blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graphformer import finite
from graphformer.attention.executors import blocks, dense, edges, listed
from graphformer.attention.executors.blocks import Stretch
from graphformer.attention.pairs import Block
from graphformer.attention.problem import UNKNOWN_NUMBER, Problem
from graphformer.autograd import Function
from graphformer.backends.sums import Ends, SumToSenders, WeightedSum
from graphformer.graph import AttentionGraph
from graphformer.recomputing import recomputed


def build(problem: Problem) -> AttentionGraph:
    """By softmax's own gradient where it is softmax, otherwise by recomputing each block."""
    if 0 in problem.sizes:
        return dense.build(problem)
    if finite.batched(problem.q, problem.k):
        raise ValueError(UNKNOWN_NUMBER)
    lists = listed.of(problem)
    if lists is not None:
        return as_graph(problem, listed.find(problem, lists))
    if not problem.is_softmax:
        return as_graph(problem, _recomputed(problem))
    if (
        problem.sparsify is not None
        and problem.sparsify.renormalize
        and not problem.sparsify.reweighs
    ):
        # Renormalised weights are the softmax over the kept edges alone: their gradient needs no
        # block.
        return edges.weigh(
            problem,
            as_graph(
                problem,
                find(problem, problem.q.detach().contiguous(), problem.k.detach().contiguous()),
            ),
        )
    derived: dict[str, Any] = {}
    return as_graph(
        problem,
        SoftmaxEdges.apply(problem.q.contiguous(), problem.k.contiguous(), problem, derived),
        derived,
    )


def as_graph(
    problem: Problem, found: tuple[Tensor, Tensor, Tensor], derived: dict[str, Any] | None = None
) -> AttentionGraph:
    """Senders, receivers and weights of all lanes as a graph; ``derived`` is what the backward pass
    shares with it.
    """
    batch, heads, num_receivers, num_senders = problem.sizes
    senders, receivers, weight = found
    derived = {} if derived is None else derived
    return AttentionGraph(
        senders,
        receivers,
        weight,
        batch * heads,
        num_senders,
        num_receivers,
        (batch, heads),
        derived,
    )


def find(problem: Problem, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Senders, receivers and softmax weights of the kept edges, in one pass; no gradient."""
    room, parts = blocks.Room(problem), []
    for block in blocks.walk(problem):
        weights = blocks.softmax_weights(problem, q, k, block, room)
        index = blocks.hits(kept(problem, weights, room, partial(blocks.pairs_of, problem, block)))
        parts.append((*ends(problem, block.lanes.start, block, index), weights.flatten()[index]))
    senders, receivers, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    return senders, receivers, weight


class SoftmaxEdges(Function):
    """Senders, receivers and softmax weights of the kept edges, with exact gradients to q and k."""

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, problem: Problem, derived: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return find(problem, q, k)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        q, k, ctx.problem, ctx.derived = inputs
        senders, receivers, _ = output
        ctx.mark_non_differentiable(senders, receivers)
        ctx.save_for_backward(q, k, *output)

    @staticmethod
    def backward(
        ctx: Any, _senders: Tensor, _receivers: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        problem = ctx.problem
        q, k, senders, receivers, weight = ctx.saved_tensors
        if torch._C._functorch.is_legacy_batchedtensor(grad):
            raise RuntimeError(
                "executor='stream' cannot take many gradients at once in the old way "
                "(vectorize=True of torch.autograd.functional, is_grads_batched): use "
                "torch.func.jacrev, vectorize=False, or executor='dense'"
            )
        # as in the forward pass, also where backward() is called inside autocast
        with torch.autocast(q.device.type, enabled=False):
            if torch.is_grad_enabled() or finite.transformed():
                dq, dk = recorded_gradients(
                    problem,
                    q,
                    k,
                    as_graph(problem, (senders, receivers, weight.detach()), ctx.derived),
                    grad,
                )
            else:
                pull = weight * grad  # dL/ds on the edges, the first term
                dq, dk = gradients(
                    problem, q, k, as_graph(problem, (senders, receivers, pull), ctx.derived)
                )
        return dq, sum_groups(dk, k), None, None


def gradients(
    problem: Problem, q: Tensor, k: Tensor, pull: AttentionGraph
) -> tuple[Tensor, Tensor]:
    """To q, and to the keys of every lane ``[B, H, Nk, d]``; ``pull`` has the gradients of the
    edges' scores, first term, as weights.
    """
    batch, heads, num_receivers, num_senders = problem.sizes
    dq = WeightedSum.apply(k.flatten(0, 2), pull.weight, Ends.of(pull, heads // k.shape[1])).view(
        q.shape
    )
    dk = SumToSenders.apply(q.flatten(0, 2), pull.weight, Ends.of(pull)).view(
        batch, heads, num_senders, -1
    )
    # The second term: the weights once more, block by block.
    slope = -pull.in_weight().view(batch * heads, num_receivers, 1)  # d_i
    steered = q.flatten(0, 1) * slope
    lane_dq, lane_dk, room = dq.flatten(0, 1), dk.flatten(0, 1), blocks.Room(problem)
    for block in blocks.walk(problem):
        weights = blocks.softmax_weights(problem, q, k, block, room)
        lanes, rows, columns = (
            slice(part.start, part.stop) for part in (block.lanes, block.rows, block.columns)
        )
        lane_dq[lanes, rows] += slope[lanes, rows] * torch.bmm(
            weights, blocks.lane_keys(k, block, heads)
        )
        lane_dk[lanes, columns].baddbmm_(weights.transpose(1, 2), steered[lanes, rows])
    return dq, dk


def recorded_gradients(
    problem: Problem, q: Tensor, k: Tensor, graph: AttentionGraph, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """The same as formulas that autograd and ``torch.func`` follow, for second derivatives: the
    softmax's own gradient, block by block.
    """
    _, heads, num_receivers, num_senders = problem.sizes
    lane_dq: list[list[Tensor]] = [[] for _ in range(graph.num_lanes)]
    dk = torch.zeros_like(q[..., :1, :].expand(-1, -1, num_senders, -1)).flatten(0, 1)
    indptr = graph.indptr
    for block in blocks.walk(problem):
        size = (len(block.lanes), len(block.rows), len(block.columns))
        first = block.lanes.start * num_receivers + block.rows.start
        # rows of several lanes are all their rows
        last = (block.lanes.stop - 1) * num_receivers + block.rows.stop
        own = slice(int(indptr[first]), int(indptr[last]))
        column = graph.senders[own] % num_senders - block.columns.start
        place = (graph.receivers[own] - first) * size[2] + column
        pull = grad.new_zeros(size).flatten().index_add(0, place, grad[own]).view(size)
        own_q, own_k = blocks.lane_queries(q, block), blocks.lane_keys(k, block, heads)
        weights = blocks.masked_softmax(
            own_q @ own_k.transpose(1, 2), blocks.allowed(problem, block)
        )
        pull = weights * (pull - (weights * pull).sum(-1, keepdim=True))
        dq = pull @ own_k
        for i, lane in enumerate(block.lanes):
            lane_dq[lane].append(dq[i])
        lanes = torch.arange(block.lanes.start, block.lanes.stop, device=q.device)
        columns = torch.arange(block.columns.start, block.columns.stop, device=q.device)
        places = (lanes.unsqueeze(1) * num_senders + columns).flatten()
        dk = (
            dk.flatten(0, 1)
            .index_add(0, places, (pull.transpose(1, 2) @ own_q).flatten(0, 1))
            .view(dk.shape)
        )
    return torch.stack([torch.cat(rows) for rows in lane_dq]).view(q.shape), dk.view(
        *q.shape[:2], num_senders, q.shape[3]
    )


def sum_groups(dk: Tensor, k: Tensor) -> Tensor:
    """Gradients of every lane's keys ``[B, H, Nk, d]``, summed over the heads that share them: k's
    shape.
    """
    heads, kv_heads = dk.shape[1], k.shape[1]
    return dk if heads == kv_heads else dk.unflatten(1, (kv_heads, heads // kv_heads)).sum(2)


def kept(
    problem: Problem, weights: Tensor, room: blocks.Room, pairs: Callable[[], Block]
) -> Tensor:
    """Bool ``[lanes, rows, columns]``: the edges of a block. Its pairs are asked only where weight
    0 does not already say it.
    """
    bound = None if problem.sparsify is None else problem.sparsify.bound
    if bound is not None and bound >= 0:
        return torch.gt(weights, bound, out=room.marks[: weights.numel()].view(weights.shape))
    own = pairs()
    keep = own.allowed
    if problem.sparsify is not None:
        keep = keep & problem.keep(weights.view(keep.shape), own)
    return keep.reshape(weights.shape)


def ends(problem: Problem, first_lane: int, block: Stretch, index: Tensor) -> tuple[Tensor, Tensor]:
    """Global senders and receivers of flat indices into ``[lanes, rows, columns]``, the lanes
    counted from ``first_lane``.
    """
    _, _, num_receivers, num_senders = problem.sizes
    width, rows = max(len(block.columns), 1), len(block.rows)
    row = torch.div(index, width, rounding_mode="floor")
    column = index - row * width + block.columns.start
    lane = torch.div(row, rows, rounding_mode="floor")
    row = row - lane * rows + block.rows.start
    lane = lane + first_lane
    return column + lane * num_senders, row + lane * num_receivers


def _recomputed(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Any score and normalizer: the dense formulas on each block, which is made again in the
    backward pass.
    """
    batch, heads, num_receivers, _ = problem.sizes
    lanes: list[list[tuple[Tensor, ...]]] = [[] for _ in range(batch * heads)]
    for block in blocks.walk(problem, heads, problem.score.cost):
        found = recomputed(_block_edges, problem, problem.q, problem.k, block)
        if len(block.rows) == num_receivers:
            lanes[block.lanes.start].append(found)
            continue
        # Rows of all heads: in the order of their receivers once every head's are beside each
        # other.
        lane_of = torch.div(found[1], num_receivers, rounding_mode="floor")
        sizes = torch.bincount(lane_of, minlength=len(lanes)).tolist()
        for lane, piece in enumerate(zip(*(value.split(sizes) for value in found), strict=True)):
            lanes[lane].append(piece)
    parts = zip(*itertools.chain(*lanes), strict=True)
    senders, receivers, weight = (torch.cat(part) for part in parts)
    return senders, receivers, weight


def _block_edges(
    problem: Problem, q: Tensor, k: Tensor, block: Stretch
) -> tuple[Tensor, Tensor, Tensor]:
    """The edges of a block of all the heads of some sequences."""
    pairs = blocks.pairs_of(problem, block)
    weights = problem.weights(pairs, q, k)
    keep = pairs.allowed
    if problem.sparsify is not None:
        keep = keep & problem.keep(weights.detach(), pairs)
    index = blocks.hits(keep)
    return *ends(problem, block.lanes.start, block, index), weights.flatten()[index]
