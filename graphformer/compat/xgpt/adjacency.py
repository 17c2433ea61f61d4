"""The graph of xgpt's adapter: the attention map of all heads, merged, reweighed and cut.

It works on whole ``[B, H, L, L]`` maps, because its purpose is to give the published numbers. To
build a graph of merged heads without such a map use :func:`graphformer.attention.merged_graph`,
which runs over blocks of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphformer.compat.xgpt.settings import Settings
from graphformer.errors import require_known
from graphformer.graph import AttentionGraph
from graphformer.nn.mlp import probability


class LearnedMerge(nn.Module):
    r"""A network that merges the heads' weights of each pair
    (``adj_construction_method="learnable_aggregate"``).

    .. math::
        a_{ij} = \mathrm{act}\big(w_2 \cdot \mathrm{ReLU}(W_1 (A_{1ij}, \dots, A_{Hij}) + b_1)
        + b_2\big)

    with the sigmoid, or a softmax over all L senders of the row. That softmax counts later tokens
    and padding; they are cut afterwards, and what is left is not scaled up again.

    Its state dict has xgpt's names, without their prefix ``adj_transform.``:
    ``mlp.0.weight [hidden_dim, H]``, ``mlp.0.bias [hidden_dim]``, ``mlp.3.weight [1, hidden_dim]``,
    ``mlp.3.bias [1]``.

    Args:
        num_heads: heads H.
        hidden_dim: ``Settings.adj_transform_hidden_dim``.
        activation: ``Settings.learnable_aggregate_activation``, ``"softmax"`` or ``"sigmoid"``.
        dropout: between the two maps, in training; fixed in xgpt.

    Shape: ``[B, H, L, L]`` to ``[B, L, L]``.
    """

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int = 128,
        activation: str = "softmax",
        *,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("num_heads", num_heads), ("hidden_dim", hidden_dim)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        require_known("activation", activation, ("softmax", "sigmoid"))
        self.num_heads, self.activation = num_heads, activation
        drop = nn.Dropout(probability("dropout", dropout))
        self.mlp = nn.Sequential(
            nn.Linear(num_heads, hidden_dim), nn.ReLU(), drop, nn.Linear(hidden_dim, 1)
        )

    def forward(self, attention: Tensor) -> Tensor:
        if attention.ndim != 4 or attention.shape[1] != self.num_heads:
            raise ValueError(
                f"attention must be [batch, {self.num_heads} heads, length, length], got shape "
                f"{tuple(attention.shape)}"
            )
        merged = self.mlp(attention.movedim(1, -1)).squeeze(-1)
        return merged.softmax(-1) if self.activation == "softmax" else merged.sigmoid()

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, activation={self.activation!r}"


def construct_adjacency(
    attention: Tensor,
    settings: Settings,
    keep: Tensor | None = None,
    transform: LearnedMerge | None = None,
) -> AttentionGraph:
    r"""The graph that the adapter of xgpt runs on.

    The steps, in this order:

    1. Heads are merged: ``sum``, :math:`\min(\sum_h A_h, 1)`; ``mean``; ``threshold_any``,
       :math:`\max_h \sigma((A_h - \mathrm{threshold}) / \tau)`; ``learnable_aggregate``, a
       :class:`LearnedMerge`. With ``gnn_mode="per_head"`` they are not: ``sum`` and ``mean`` take
       each as it is, ``threshold_any`` its sigmoid.
    2. With ``use_distance_scaling``, times a weight of the distance (see :func:`distance_weights`).
    3. Pairs outside ``keep`` become 0.
    4. With ``continuous_transform_alpha`` above 0,
       :math:`a \mapsto \sigma(\alpha (a - \mathrm{threshold}))`, the zeros of step 3 included.
    5. With ``zero_below_epsilon_threshold``, 0 unless ``a > epsilon_threshold``.
    6. With ``remove_self_connections``, 0 on the diagonal; with ``enforce_causality``, 0 for
       senders after their receiver.

    What is not 0 is an edge, from key (sender) to query (receiver). xgpt turns its edges round and
    then drops all but the self-loops (docs/coming-from/xgpt.md, fault 1): what it runs on is
    ``graph.select(graph.senders == graph.receivers)``.

    Args:
        attention: weights ``[B, H, L, L]``, queries in rows.
        settings: with ``gnn_mode`` ``"single"`` or ``"per_head"``.
        keep: bool ``[B, 1, L, L]``, true where a query may attend to a key.
        transform: for ``learnable_aggregate``, and only there.

    Returns:
        Lanes ``(B,)``, or ``(B, H)`` with ``per_head``. Weights are differentiable in attention.

    Raises:
        ValueError: ``gnn_mode`` is ``"none"``, a shape does not fit, a NaN in attention, a
            transform that is missing or of no use, distance weights that are not finite.
    """
    if settings.gnn_mode == "none":
        raise ValueError(
            "gnn_mode is 'none': these settings have no adapter, so no graph either; set "
            "gnn_mode='single' or 'per_head'"
        )
    if attention.ndim != 4 or attention.shape[-1] != attention.shape[-2]:
        raise ValueError(
            f"attention must be [batch, heads, length, length], got shape {tuple(attention.shape)}"
        )
    if not attention.is_floating_point():
        raise TypeError(
            f"attention must be floating point, got {attention.dtype}; convert it with "
            "attention.float()"
        )
    if bool(attention.detach().isnan().any()):
        raise ValueError(
            "attention holds NaN; a softmax over a row without any allowed key gives it, and such "
            "rows should be 0"
        )
    batch, _, length, _ = attention.shape
    if keep is not None and (keep.shape != (batch, 1, length, length) or keep.dtype != torch.bool):
        raise ValueError(
            f"keep must be bool of shape {(batch, 1, length, length)}, got {keep.dtype} of shape "
            f"{tuple(keep.shape)}"
        )

    per_head = settings.gnn_mode == "per_head"
    weights = _merge(attention, settings, transform)
    if settings.use_distance_scaling:
        weights = weights * distance_weights(length, settings, device=weights.device).to(
            weights.dtype
        )
    if keep is not None:
        weights = weights.masked_fill(~(keep if per_head else keep.squeeze(1)), 0.0)
    if settings.continuous_transform_alpha > 0:
        weights = (settings.continuous_transform_alpha * (weights - settings.threshold)).sigmoid()
    if settings.zero_below_epsilon_threshold:
        weights = weights.masked_fill(weights <= settings.epsilon_threshold, 0.0)
    if settings.remove_self_connections:
        weights = weights.masked_fill(
            torch.eye(length, dtype=torch.bool, device=weights.device), 0.0
        )
    if settings.enforce_causality:
        weights = weights.tril()
    return AttentionGraph.from_dense(weights)


def _merge(attention: Tensor, settings: Settings, transform: LearnedMerge | None) -> Tensor:
    """``[B, H, L, L]`` to ``[B, L, L]``, or to one map a head."""
    method = settings.adj_construction_method
    if (transform is not None) != (method == "learnable_aggregate"):
        raise ValueError(
            "adj_construction_method='learnable_aggregate' needs a transform: "
            "LearnedMerge(num_heads, settings.adj_transform_hidden_dim, "
            "settings.learnable_aggregate_activation)"
            if transform is None
            else f"adj_construction_method={method!r} has no use for a transform: leave it out, "
            "or set 'learnable_aggregate'"
        )
    if transform is not None:
        return transform(attention)
    if method == "threshold_any":
        soft = ((attention - settings.threshold) / settings.threshold_any_tau).sigmoid()
        return soft if settings.gnn_mode == "per_head" else soft.amax(1)
    if settings.gnn_mode == "per_head":
        return attention
    return attention.mean(1) if method == "mean" else attention.sum(1).clamp(max=1.0)


def distance_weights(
    length: int, settings: Settings, device: torch.device | str | None = None
) -> Tensor:
    r"""``[L, L]``: a function of :math:`D_{ij} = s |i - j|` over its largest value, with s
    ``distance_weight_strength``.

    ``power``, :math:`(D + 1)^s`; ``exp``, :math:`e^D`; ``sigmoid``, :math:`\sigma(D)`; ``linear``,
    :math:`D`. With a positive strength distant pairs weigh most, and what a pair weighs depends on
    the total length.
    """
    strength, method = settings.distance_weight_strength, settings.distance_scaling_method
    place = torch.arange(length, device=device, dtype=torch.float32)
    distance = (place - place.unsqueeze(1)).abs() * strength
    if length == 0:
        return distance
    if method == "exp":
        return (distance - distance.max()).exp()  # the same ratio, and no overflow
    scaled = {
        "power": (distance + 1) ** strength,
        "sigmoid": distance.sigmoid(),
        "linear": distance,
    }[method]
    largest = scaled.max()
    # one token at distance 0 of itself weighs 0 in linear
    scaled = scaled if largest == 0 else scaled / largest
    if not bool(scaled.isfinite().all()):
        raise ValueError(
            f"distance_scaling_method={method!r} with distance_weight_strength={strength} is not "
            f"finite at length {length}: take a strength of 0 to 1, or 'exp' or 'sigmoid', which "
            "take any"
        )
    return scaled
