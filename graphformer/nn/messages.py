"""A message for each edge and head, and the operators' reductions of them, in plain torch.

The layers on edges make no messages: a backend sums values by index and weight. Messages are made
    where something asks for them (PyG's hooks
and explainers, a ``message`` of your own) and where a compiler traces: these formulas are made of
operations that every tracer knows, and no tensor's shape depends on numbers. An edge that a head
has dropped stays in its place with weight 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphformer.backends.base import split, standard_deviation
from graphformer.graph.counts import magnitude


def reduce_messages(
    messages: Tensor,
    plain: Tensor | None,
    weight: Tensor,
    keep: Tensor,
    receivers: Tensor,
    num_receivers: int,
    names: tuple[str, ...],
) -> dict[str, Tensor]:
    """The reductions of :func:`graphformer.aggregate` by name, each ``[num_receivers, H, d]``.

    Args:
        messages: ``[E, H, d]``, weighted: their sum is ``sum``, and ``mean`` divides it by the
            weights.
        plain: ``[E, H, d]``, senders' values without weight, which the other reductions look at;
            needed where there are any.
        weight: ``[E, H]``, 0 where a head dropped the edge.
        keep: bool ``[E, H]``, false where a head dropped the edge.
        receivers: int64 ``[E]``.
        names: reductions; ``degree`` is none.
    """
    half = messages.dtype
    # half precision is accumulated in float32
    dtype = torch.promote_types(torch.promote_types(half, weight.dtype), torch.float32)
    messages, weight = messages.to(dtype), weight.to(dtype)
    plain = None if plain is None else plain.to(dtype)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(num_receivers, *values.shape[1:]).index_add(0, receivers, values)

    def largest(values: Tensor, among: Tensor) -> Tensor:
        """The maximum over the edges that are ``among``; 0 where there is none."""
        index = receivers.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
        low = torch.full_like(values, -math.inf)
        best = values.new_zeros(num_receivers, *values.shape[1:]).scatter_reduce(
            0, index, torch.where(among, values, low), "amax", include_self=False
        )
        return torch.where(best == -math.inf, torch.zeros_like(best), best)

    out: dict[str, Tensor] = {}
    kinds = {name: split(name) for name in names}
    wanted = {kind for kind, _ in kinds.values()}
    if "sum" in wanted or "mean" in wanted:
        out["sum"] = total(messages)
    if wanted & {"mean", "var", "std"}:
        size, signs = magnitude(weight), torch.where(weight < 0, -1.0, 1.0).to(dtype).unsqueeze(-1)
        all_weight = total(size).unsqueeze(-1)
        safe = torch.where(all_weight == 0, torch.ones_like(all_weight), all_weight)
    if "mean" in wanted:
        out["mean"] = out["sum"] / safe
    if wanted - {"sum", "mean"}:
        assert plain is not None
        if wanted & {"var", "std"}:
            center = total(weight.unsqueeze(-1) * plain) / safe
            deviation = signs * plain - center.index_select(0, receivers)
            out["var"] = var = (total(size.unsqueeze(-1) * deviation.square()) / safe).clamp(
                min=0.0
            )
            out["std"] = standard_deviation(var)
        if "max" in wanted:
            out["max"] = largest(plain, keep.unsqueeze(-1))
        if "min" in wanted:
            out["min"] = -largest(-plain, keep.unsqueeze(-1))
        for name, (kind, above) in kinds.items():
            if kind in ("max_norm", "min_norm"):
                norm = plain.detach().norm(dim=-1) * (1.0 if kind == "max_norm" else -1.0)
                among = keep if above is None else keep & (weight.detach() > above)
                best = largest(norm, among).index_select(0, receivers)
                attained = ((norm == best) & among).to(dtype)
                out[name] = total(attained.unsqueeze(-1) * plain) / total(attained).clamp(
                    min=1.0
                ).unsqueeze(-1)
    return {name: out[name].to(half) for name in names}
