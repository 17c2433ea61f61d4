"""What a backend must provide, and every reduction built once on top of it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from graphformer import finite
from graphformer.autograd import Function
from graphformer.backends.sums import part, sum_to_receivers, sum_to_senders, widen
from graphformer.backends.torch import TorchBackend
from graphformer.graph import AttentionGraph

REDUCTIONS = ("sum", "mean", "max", "min", "var", "std", "max_norm", "min_norm")
"""What :func:`aggregate` can reduce with; the last two take ``@`` and a least weight."""

SMALLEST_VARIANCE = 1e-10
"""A variance below this counts as 0 in ``std``: the slope of the square root there would only
amplify rounding.
"""


@runtime_checkable
class Backend(Protocol):
    """Primitives over the edges of a graph. ``x`` is ``[senders, D]``, results are
    ``[receivers, D]``.

    ``weighted_sum`` and ``weighted_deviation`` are differentiable in all their tensors, any number
    of times. ``largest`` needs no gradient: that is defined once, in :class:`Extremum`, so that
    ties are shared in the same way everywhere; it may return anything for a receiver without edges.
    """

    name: str

    def check(self, graph: AttentionGraph, x: Tensor) -> None:
        """Raise where the installed build cannot run on this device."""

    def weighted_sum(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        """``out_i = sum_e w_e x_j``."""

    def weighted_deviation(self, graph: AttentionGraph, x: Tensor, center: Tensor) -> Tensor:
        """``out_i = sum_e |w_e| (sign(w_e) x_j - center_i)^2``, with ``center`` ``[receivers,
        D]``.
        """

    def largest(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        """``out_i = max_e x_j``, unweighted."""


class Extremum(Function):
    """The maximum over a receiver's senders. Equal maxima share the gradient evenly, which keeps it
    permutation equivariant.
    """

    @staticmethod
    def forward(x: Tensor, graph: AttentionGraph, backend: Backend) -> Tensor:
        return backend.largest(graph, x).masked_fill((graph.in_degree() == 0).unsqueeze(-1), 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.graph, _ = inputs
        ctx.save_for_backward(x, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, out = ctx.saved_tensors
        graph = ctx.graph
        # [E, D]
        attained = (x.index_select(0, graph.senders) == out.index_select(0, graph.receivers)).to(
            grad.dtype
        )
        ties = sum_to_receivers(graph, attained).clamp(min=1)
        return (
            sum_to_senders(graph, attained * (grad / ties).index_select(0, graph.receivers)),
            None,
            None,
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, graph: AttentionGraph, backend: Backend
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        return part(Extremum.apply(widen(x, in_dims[0], size), graph, backend), size), 1


def split(name: str) -> tuple[str, float | None]:
    """A reduction's name and the weight that its edges must exceed: ``"max_norm@0.2"`` is
    ``("max_norm", 0.2)``.
    """
    kind, at, bound = name.partition("@")
    if kind not in REDUCTIONS or (at and kind not in ("max_norm", "min_norm")):
        raise ValueError(
            f"unknown reduce {name!r}; known: {', '.join(REDUCTIONS)}, and max_norm@tau, "
            "min_norm@tau"
        )
    try:
        return kind, float(bound) if at else None
    except ValueError:
        raise ValueError(
            f"reduce {name!r} needs a number after the @, as in max_norm@0.2"
        ) from None


def largest_of(backend: Backend) -> Backend:
    """Whose ``largest`` runs: plain torch's under ``torch.func``, which can transform no kernel of
    another library.

    Maxima are not rounded, so it gives the same numbers.
    """
    return TorchBackend() if finite.transformed() else backend


def by_norm(
    backend: Backend, graph: AttentionGraph, x: Tensor, sign: float, above: float | None
) -> Tensor:
    """The features of the sender whose Euclidean norm is largest (sign 1) or smallest (-1); the
    mean of equal ones.
    """
    if above is not None:
        graph = graph.select(graph.weight.detach() > above)
    norm = sign * x.detach().norm(dim=-1)
    backend = backend if graph.num_edges else TorchBackend()  # as in aggregate
    best = largest_of(backend).largest(graph, norm.unsqueeze(-1)).squeeze(-1)
    attained = (norm[graph.senders] == best[graph.receivers]).to(x.dtype)
    return backend.weighted_sum(graph.with_weight(attained).renormalize(), x)


def divisor(graph: AttentionGraph) -> Tensor:
    """What mean, var and std divide by, ``[receivers, 1]``: the summed absolute weights, or 1 where
    they are all 0.
    """
    total = graph.in_weight(absolute=True).unsqueeze(-1)
    return torch.where(total == 0, torch.ones_like(total), total)


def standard_deviation(var: Tensor) -> Tensor:
    """The square root of a variance, and 0, without a gradient, of one that is rounding."""
    positive = var > SMALLEST_VARIANCE
    root = torch.where(positive, var, torch.ones_like(var)).sqrt()
    return torch.where(positive, root, torch.zeros_like(var))


def reduce(
    backend: Backend, graph: AttentionGraph, x: Tensor, names: tuple[str, ...]
) -> dict[str, Tensor]:
    """Reductions of flat features ``[num_lanes * num_senders, D]`` by a backend's primitives; what
    several need is computed once.
    """
    out: dict[str, Tensor] = {}
    if {"sum", "mean", "var", "std"} & set(names):
        out["sum"] = backend.weighted_sum(graph, x)
    if {"mean", "var", "std"} & set(names):
        total = divisor(graph)
        out["mean"] = out["sum"] / total
        if {"var", "std"} & set(names):
            # Two passes: E[x^2] - E[x]^2 would cancel where the variance is small.
            out["var"] = var = (backend.weighted_deviation(graph, x, out["mean"]) / total).clamp(
                min=0.0
            )
            out["std"] = standard_deviation(var)
    if "max" in names:
        out["max"] = Extremum.apply(x, graph, largest_of(backend))
    if "min" in names:
        out["min"] = -Extremum.apply(-x, graph, largest_of(backend))
    for name in names:
        kind, above = split(name)
        if kind in ("max_norm", "min_norm"):
            out[name] = by_norm(backend, graph, x, 1.0 if kind == "max_norm" else -1.0, above)
    return {name: out[name] for name in names}


def aggregate(
    graph: AttentionGraph, x: Tensor, names: tuple[str, ...], backend: Backend
) -> dict[str, Tensor]:
    """See :func:`graphformer.aggregate`, which resolves the backend's name; here for several
    reductions at once.
    """
    for name in names:
        split(name)
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}; convert it with x.float()")
    flat = (graph.num_lanes * graph.num_senders,)
    shaped = (*graph.batch_shape, graph.num_senders)
    if x.ndim < 2 or x.shape[:-1] not in (flat, shaped):
        raise ValueError(
            f"x must be [{flat[0]}, D] or [{', '.join(map(str, shaped))}, D] (lanes and senders of "
            f"this graph), got shape {tuple(x.shape)}"
        )
    if x.device != graph.device:
        raise ValueError(
            f"x is on {x.device} but the graph is on {graph.device}; move one of them with .to(...)"
        )
    backend.check(graph, x)
    if graph.num_edges == 0 or x.shape[-1] == 0:
        # there is nothing to add up, and kernels of other libraries fail on tensors of no elements
        backend = TorchBackend()
    # Half precision is accumulated in float32 by every backend alike.
    dtype = torch.promote_types(torch.promote_types(x.dtype, graph.weight.dtype), torch.float32)
    work = graph if graph.weight.dtype == dtype else graph.with_weight(graph.weight.to(dtype))
    with torch.autocast(x.device.type, enabled=False):
        reduced = reduce(backend, work, x.reshape(flat[0], x.shape[-1]).to(dtype), names)
    rows = (
        (graph.num_lanes * graph.num_receivers,)
        if x.shape[:-1] == flat
        else (*graph.batch_shape, graph.num_receivers)
    )
    return {name: value.to(x.dtype).reshape(*rows, x.shape[-1]) for name, value in reduced.items()}
