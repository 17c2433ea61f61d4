"""The reference's Sparse-GIN adapter: its network and weights, where it stands in a decoder block,
and its graph without whole maps.

One decoder block with everything read from a checkpoint, ``attention`` and ``graph`` from the
block's own queries and keys:

>>> gin, scale = sparse_gin(settings, state, hidden_size=2048, num_heads=16)
>>> adapter = lambda v: v + scale * gin(v, graph)
>>> out = place(settings.gnn_logic, x, attention, norm2, feed_forward, adapter)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from graphformer.attention.sparsifiers import Threshold
from graphformer.attention.sparsifiers.reweigh import Reweigh
from graphformer.compat.xgpt.settings import Settings
from graphformer.errors import require_known
from graphformer.nn.sparse_gin import SparseGIN

OTHERS = ("self_attn.", "mlp.", "input_layernorm.", "post_attention_layernorm.", "adj_transform.")
"""Parameters of a decoder layer that are not the network's."""

SHARED = re.compile(r"activation\.weight|convs\.\d+\.activation_fn\.weight")
"""Names of the one slope of prelu; a file may hold any of them."""

OF_LAYERS = {
    "epsilon": "eps",
    "linear1.weight": "linear1.weight",
    "linear1.bias": "linear1.bias",
    "linear2.weight": "linear2.weight",
    "linear2.bias": "linear2.bias",
    "transform.weight": "linear1.weight",  # the one map of a layer without an MLP
    "transform.bias": "linear1.bias",
    "norm.weight": "norm_weight",
    "norm.bias": "norm_bias",
}

PROJECTIONS = (
    "input_projection.weight",
    "input_projection.bias",
    "output_projection.weight",
    "output_projection.bias",
)


def sparse_gin(
    settings: Settings,
    state: Mapping[str, Tensor],
    *,
    hidden_size: int,
    num_heads: int,
    backend: str = "auto",
) -> tuple[SparseGIN, Tensor]:
    """The adapter of one decoder layer with the reference's weights, and its trained scale:
    ``h + scale * gin(h, graph)``.

    The network is the reference's; the graph decides what it does. On the
    :func:`graphformer.nn.self_loops` of :func:`construct_adjacency` it gives the reference's
    numbers, on all of its edges what the paper describes.

    Args:
        settings: with ``gnn_mode`` ``"single"`` (lanes ``(B,)``) or ``"per_head"`` (lanes
            ``(B, H)``).
        state: parameters of a decoder layer, those of its attention and feed-forward among them or
            not.
        hidden_size, num_heads: of the model.
        backend: who aggregates.

    Raises:
        ValueError: settings or parameters that cannot be read. RuntimeError: parameters that are
            missing or of another shape.
    """
    _refuse(settings)
    per_head = settings.gnn_mode == "per_head"
    gin = SparseGIN(
        hidden_size,
        settings.hidden_dim,
        settings.num_layers,
        activation=settings.activation.lower(),
        mlp_ratio=settings.GIN_hidden_dim_multiplier if settings.GIN_use_MLP else None,
        hidden_norm=settings.GIN_use_norm and settings.GIN_use_MLP,
        residual=settings.gnn_residual,
        dropout=settings.dropout,
        output_norm=settings.use_layer_norm and not per_head,
        norm_eps=settings.rms_norm_eps,
        weighted=settings.GIN_edge_weight_scaling,
        num_heads=num_heads if per_head else None,
        mix_heads=settings.per_head_ff and per_head,
        backend=backend,
    )
    if "trainable_scale" not in state:
        raise ValueError(
            "there is no parameter 'trainable_scale': these are not the parameters of a decoder "
            "layer with an adapter"
        )
    gin.load_state_dict(adapter_state(state))
    return gin, state["trainable_scale"].detach().clone()


def adapter_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the network, as :class:`graphformer.nn.SparseGIN` names it, from the parameters
    of a decoder layer.

    Raises:
        ValueError: a parameter of an unknown name.
    """
    out: dict[str, Tensor] = {}
    heads: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        if name == "gnn_norm.weight":
            out["norm.weight"] = value
        elif name.startswith("ff_layer."):
            out[name.replace("ff_layer.", "mix.", 1)] = value
        elif match := re.fullmatch(r"gnn\.(.+)|gnns\.(\d+)\.(.+)", name):
            own = _renamed(match[1] or match[3], name)
            # Linear maps are kept as [in, out], and everything has one axis of heads before it.
            heads.setdefault(own, {})[int(match[2] or 0)] = value.T if value.ndim == 2 else value
        elif name != "trainable_scale" and not name.startswith(OTHERS):
            raise ValueError(
                f"parameter {name!r} cannot be read: no decoder layer of the reference has it"
            )
    for name, values in heads.items():
        # [H, in, out] or [H, n]
        stacked = torch.stack([values[head] for head in range(len(values))])
        single = name == "slope" or name.endswith(".eps")
        out[name] = (
            stacked.flatten() if single else stacked if stacked.ndim == 3 else stacked.unsqueeze(1)
        )
    return out


def _renamed(name: str, whole: str) -> str:
    if SHARED.fullmatch(name):
        return "slope"
    if name in PROJECTIONS:
        return name
    if (match := re.fullmatch(r"convs\.(\d+)\.(.+)", name)) and match[2] in OF_LAYERS:
        return f"layers.{match[1]}.{OF_LAYERS[match[2]]}"
    raise ValueError(f"parameter {whole!r} cannot be read: no network of type causal_gin has it")


def _refuse(settings: Settings) -> None:
    """Raise ValueError for adapters that cannot be read."""
    if settings.gnn_mode == "none":
        raise ValueError("gnn_mode is 'none': these settings have no adapter")
    if settings.gnn_type != "causal_gin":
        raise ValueError(
            f"gnn_type={settings.gnn_type!r} cannot be read: its graph has no edge in the "
            "reference; only causal_gin"
        )
    if settings.add_rope:
        raise ValueError(
            "add_rope=True cannot be read: the reference fails with it unless there is one head"
        )
    if settings.norm_to_hidden_states:
        raise ValueError(
            "norm_to_hidden_states=True cannot be read: it shows a token the future and the other "
            "sequences of its batch"
        )


def initial_scale(settings: Settings, layer_idx: int, num_hidden_layers: int) -> float:
    """What the scale of a layer starts at: from ``lambda_GNN_initial`` in the first to
    ``lambda_GNN`` in the last, linear between.
    """
    last = settings.lambda_GNN
    first = last if settings.lambda_GNN_initial is None else settings.lambda_GNN_initial
    return first + (last - first) * layer_idx / max(num_hidden_layers - 1, 1)


def place(
    logic: str,
    x: Tensor,
    attended: Tensor,
    norm2: Callable[[Tensor], Tensor],
    feed_forward: Callable[[Tensor], Tensor],
    adapter: Callable[[Tensor], Tensor],
    *,
    original: Tensor | None = None,
) -> Tensor:
    """The output of a decoder block, with the adapter where ``gnn_logic`` puts it.

    Args:
        logic: ``"before_MLP"``, ``"after_MLP"`` or ``"parallel_GNN_MLP"``. The last one norms the
            block's output, and with it the residual stream, once more.
        x: the block's input.
        attended: the attention's output.
        norm2: the norm before the feed-forward.
        feed_forward, adapter: ``adapter(v)`` is ``v + scale * gin(v, graph)``.
        original: with ``use_original_hidden_states`` the normed input of the attention. It takes
            the place of ``x + attended``, whose attention output is dropped; x comes back in
            ``"before_MLP"`` only.
    """
    require_known("logic", logic, ("before_MLP", "after_MLP", "parallel_GNN_MLP"))
    h = x + attended if original is None else original
    if logic == "before_MLP":
        h = adapter(h) if original is None else adapter(h) + x
        return h + feed_forward(norm2(h))
    if logic == "after_MLP":
        return adapter(h + feed_forward(norm2(h)))
    normed = norm2(h)
    return norm2(h + feed_forward(normed) + adapter(normed))


def streamed(settings: Settings) -> dict[str, Any]:
    """Arguments for :func:`graphformer.attention.merged_graph`: the graph of
    :func:`construct_adjacency` without a map of all pairs.

    >>> graph, out = gf.attention.merged_graph(q, k, v, is_causal=True, **streamed(settings))

    A pair that is masked is no edge, also where ``epsilon_threshold`` is so low that the reference
    makes it one.

    Raises:
        ValueError: settings that need whole maps, or leave every pair an edge.
    """
    _refuse(settings)
    per_head = settings.gnn_mode == "per_head"
    for name, wanted in (
        ("use_distance_scaling", False),
        ("zero_below_epsilon_threshold", True),
        ("remove_self_connections", False),
    ):
        if getattr(settings, name) != wanted:
            raise ValueError(f"{name}={not wanted} has no streamed graph: use construct_adjacency")
    method = settings.adj_construction_method
    if method not in ("sum", "mean"):
        raise ValueError(
            f"adj_construction_method={method!r} has no streamed graph: use construct_adjacency"
        )
    beta, cut = settings.continuous_transform_alpha, settings.epsilon_threshold
    sparsify = (
        Reweigh("sigmoid", settings.threshold, beta=beta, above=cut)
        if beta > 0
        else Threshold(cut, signed=True)
    )
    return {
        "sparsify": sparsify,
        "reduce": None if per_head else method,
        "clamp": 1.0 if method == "sum" and not per_head else None,
    }
