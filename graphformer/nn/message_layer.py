"""What PyG expects of a MessagePassing layer, on layers that make no messages unless someone asks
for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import Parameter
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter, is_lazy
from torch_geometric.nn import MessagePassing
from torch_geometric.typing import OptPairTensor, OptTensor

from graphformer.attention.attend import is_degree, summed
from graphformer.attention.operators import Operator
from graphformer.graph import AttentionGraph
from graphformer.nn.edge_list import EdgeList
from graphformer.nn.edge_masks import GivenEdges
from graphformer.nn.messages import reduce_messages

OVERRIDABLE = ("message", "aggregate", "update", "edge_update", "explain_message")
"""Methods of PyG's that a subclass may replace."""


def _flat(hook: Callable[..., Tensor], module: nn.Module, inputs: Any, messages: Tensor) -> Tensor:
    """A hook of PyG's on messages without an axis for heads."""
    return hook(module, inputs, messages.flatten(1)).view_as(messages)


class MessageLayer(MessagePassing):
    r"""PyG's ``propagate`` in attention's words: ``message`` weighs, ``aggregate`` makes the
    operator's reductions, hooks and masks apply.

    The layer itself never needs it: sums over edges are made without messages. It goes this way, to
        the same numbers, where somebody looks
    at messages: with hooks, with an explainer's mask, with a ``message`` or ``aggregate`` of a
        subclass, and where a compiler traces. Then
    torch adds them up, whatever the backend.

    Hooks get what PyG's layers hand them. Of messages: ``value_j`` ``[E, heads, d]``, ``edge_attr``
    and the weights ``alpha`` ``[E, heads]``, 0 where a head has dropped an edge, and as the result
    ``alpha * (value_j + W_e edge_attr)``, with ``value_j`` itself behind it ``[E, heads, 2 d]``
    where the operator has reductions that look at it without its weight (max, std).
    ``edge_updater`` hooks get ``alpha`` and may return another. Edges are in the order in which
    they were given.
    """

    operator: Operator
    heads: int
    head_channels: int
    edge_message: UninitializedParameter | nn.Parameter | None
    flow: str

    def messages_wanted(self) -> bool:
        """Whether somebody looks at messages."""
        hooks = (
            self._propagate_forward_pre_hooks,
            self._propagate_forward_hooks,
            self._message_forward_pre_hooks,
            self._message_forward_hooks,
            self._aggregate_forward_pre_hooks,
            self._aggregate_forward_hooks,
            self._edge_update_forward_pre_hooks,
            self._edge_update_forward_hooks,
        )
        own = any(
            getattr(type(self), name) is not getattr(MessageLayer, name) for name in OVERRIDABLE
        )
        return bool(self.explain) or own or any(hooks)

    propagate = MessagePassing.__dict__.get("_orig_propagate", MessagePassing.propagate)

    def _set_jittable_templates(self, raise_on_error: bool = False) -> None:
        """Nothing: PyG's own ``propagate`` stays.

        PyG writes a faster one for a class when its first layer is made. It knows no mask of an
        explainer, and a class inherits that of its parent, or keeps it where two threads make
        their first layer at once: masks would have no effect.
        """

    @property
    def summed(self) -> tuple[str, ...]:
        """The operator's reductions; a degree is none."""
        return summed(self.operator.reductions)

    def _collect(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What PyG hands to ``message`` and the others, which is a class where there is nothing."""
        found: dict[str, Any] = super()._collect(*args, **kwargs)
        missing = sorted(name for name, value in found.items() if value is Parameter.empty)
        if missing:
            raise ValueError(
                f"a message, or an explain_message, asks for {', '.join(missing)}, and messages of "
                f"{type(self).__name__} have value_j [E, heads, channels], edge_attr and alpha: "
                "take those. GraphMaskExplainer reads x_i and x_j; GNNExplainer does not"
            )
        return found

    def register_message_forward_hook(self, hook: Callable[..., Any]) -> Any:
        """As PyG's. Weights that ``to_hetero_with_bases`` has for types of edges get messages
        ``[E, channels]``; it would take heads for edges.
        """
        place = "torch_geometric.nn.to_hetero_with_bases_transformer"
        bases = getattr(hook, "__module__", None) == place
        return super().register_message_forward_hook(partial(_flat, hook) if bases else hook)

    def message(self, value_j: Tensor, edge_attr: OptTensor, alpha: Tensor) -> Tensor:
        """See the class."""
        whole = value_j
        if edge_attr is not None and self.edge_message is not None:
            mapped = torch.einsum(
                "ea,had->ehd", edge_attr.to(value_j.dtype), self.edge_message.to(value_j.dtype)
            )
            whole = value_j + mapped
        weighted = alpha.to(value_j.dtype).unsqueeze(-1) * whole
        plain = set(self.summed) - {"sum", "mean"}
        return torch.cat((weighted, value_j), -1) if plain else weighted

    def aggregate(
        self, inputs: Tensor, index: Tensor, dim_size: int | None, alpha: Tensor, keep: Tensor
    ) -> Tensor:
        """The operator's reductions beside each other: ``[receivers, heads, reductions * d]``."""
        width = self.head_channels
        wanted = width if set(self.summed) <= {"sum", "mean"} else 2 * width
        if inputs.shape != (index.shape[0], self.heads, wanted):
            raise ValueError(
                f"messages of {type(self).__name__} are [{index.shape[0]}, {self.heads}, "
                f"{wanted}], but a message or a hook made {list(inputs.shape)}"
            )
        messages, plain = (
            inputs[..., :width],
            inputs[..., width:] if inputs.shape[-1] > width else None,
        )
        assert dim_size is not None
        reduced = reduce_messages(messages, plain, alpha, keep, index, dim_size, self.summed)
        return (
            torch.cat([reduced[name] for name in self.summed], -1)
            if reduced
            else inputs.new_zeros(dim_size, self.heads, 0)
        )

    def edge_update(self, alpha: Tensor) -> Tensor:
        """The weights as they are; hooks of ``edge_updater`` may change them."""
        return alpha

    def explain_message(self, inputs: Tensor, given_edges: int) -> Tensor:
        """Messages times the mask that an explainer set; edges that were not given (self-loops that
        were added, candidates) keep theirs.
        """
        mask = self._edge_mask
        if (
            mask is not None
            and getattr(self, "add_self_loops", False)
            and self._loop_mask is not None
        ):
            mask = mask[self._loop_mask]
        if mask is None or mask.shape != (given_edges,):
            found = "none was set" if mask is None else f"its shape is {list(mask.shape)}"
            raise ValueError(
                f"{type(self).__name__}.explain is True, so its edge mask must be [{given_edges}], "
                f"a number an edge; {found}. Take an explainer that sets masks, as GNNExplainer "
                "does, or set explain to None"
            )
        mask = mask.sigmoid() if self._apply_sigmoid else mask
        mask = torch.cat((mask, mask.new_ones(inputs.shape[0] - given_edges)))
        return inputs * mask.to(inputs.dtype).view(-1, 1, 1)

    # ------------------------------------------------------------------ from the layer and back

    def _rows(self, kept: AttentionGraph, place: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Weights ``[size, H]`` and which of them are kept; ``place``: the row of each edge of the
        list.
        """
        numbers = place[kept.senders % max(len(place), 1)] * self.heads + torch.div(
            kept.senders, max(len(place), 1), rounding_mode="floor"
        )
        alpha = kept.weight.new_zeros(size * self.heads).index_put((numbers,), kept.weight)
        keep = torch.zeros_like(alpha, dtype=torch.bool).index_fill(0, numbers, True)
        return alpha.view(size, self.heads), keep.view(size, self.heads)

    def _propagated(
        self,
        values: Tensor,
        kept: AttentionGraph,
        edges: EdgeList,
        edge_attr: Tensor | None,
        given: GivenEdges,
        dropout: float,
    ) -> tuple[AttentionGraph, dict[str, Tensor]]:
        """The kept edges with their weights, which a hook may have changed, and the reductions, by
        PyG's ``propagate``.
        """
        swapped = self.flow == "target_to_source"
        edge_index, place = (
            given.rows(edges.receivers, edges.senders)
            if swapped
            else given.rows(edges.senders, edges.receivers)
        )
        alpha, keep = self._rows(kept, place, edge_index.shape[1])
        if edge_attr is not None:
            edge_attr = edge_attr.new_zeros(len(alpha), edge_attr.shape[1]).index_put(
                (place,), edge_attr
            )
        # edge_updater_type: (alpha: Tensor)
        alpha = self.edge_updater(edge_index, alpha=alpha)
        width = max(edges.num_edges, 1)
        kept = kept.with_weight(
            alpha[
                place[kept.senders % width], torch.div(kept.senders, width, rounding_mode="floor")
            ]
        )
        weight = F.dropout(alpha, dropout) if dropout else alpha
        value = values.transpose(0, 1)
        pair: OptPairTensor = (None, value) if swapped else (value, None)
        size = (
            (edges.num_receivers, edges.num_senders)
            if swapped
            else (edges.num_senders, edges.num_receivers)
        )
        known = given.total - given.loops
        # propagate_type: (value: OptPairTensor, edge_attr: OptTensor, alpha: Tensor, keep: Tensor,
        # given_edges: int)
        out = self.propagate(
            edge_index,
            value=pair,
            edge_attr=edge_attr,
            alpha=weight,
            keep=keep,
            given_edges=known,
            size=size,
        )
        return kept, self._split(out, alpha, keep, edge_index[0 if swapped else 1])

    def _split(
        self, out: Tensor, alpha: Tensor, keep: Tensor, receivers: Tensor
    ) -> dict[str, Tensor]:
        """What ``aggregate`` put beside each other, as reductions ``[H, N, d]``; and degrees."""
        names = self.summed
        parts = out.transpose(0, 1).split(self.head_channels, -1) if names else ()
        reduced = dict(zip(names, parts, strict=True))
        for name in self.operator.reductions:
            if is_degree(name):
                bound = name.partition("@")[2]
                counted = keep & (alpha.detach() > float(bound)) if bound else keep
                degree = out.new_zeros(out.shape[0], self.heads)
                degree = degree.index_add(0, receivers, counted.to(out.dtype))
                reduced[name] = degree.t().unsqueeze(-1)
        return reduced

    # ------------------------------------------------------------------ what cannot be

    @property
    def decomposed_layers(self) -> int:
        return 1

    @decomposed_layers.setter
    def decomposed_layers(self, value: int) -> None:
        if value != 1:
            raise ValueError(
                f"decomposed_layers={value}: scores are dot products or sums over all channels, "
                "which cannot be cut into parts"
            )

    def _no_fused_hook(self, hook: Callable[..., Any]) -> NoReturn:
        raise ValueError(
            f"{type(self).__name__} has no message_and_aggregate, so such a hook would never be "
            "called; register a message or an aggregate hook"
        )

    register_message_and_aggregate_forward_pre_hook = _no_fused_hook
    register_message_and_aggregate_forward_hook = _no_fused_hook

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"{type(self).__name__} cannot be compiled by torch.jit.script, which knows neither "
            "its operators nor its slots; use torch.compile(fullgraph=True), torch.export.export "
            "or torch.onnx.export(dynamo=True)"
        )

    # ------------------------------------------------------------------ a parameter that waits for
    # the width of edge_attr

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        waiting = (
            self.edge_message if isinstance(self.edge_message, UninitializedParameter) else None
        )
        if waiting is not None:
            self._parameters["edge_message"] = None  # torch's own code cannot detach it
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if waiting is not None:
            self._parameters["edge_message"] = waiting
            destination[f"{prefix}edge_message"] = waiting

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        stored = state_dict.get(f"{prefix}edge_message")
        waiting = self.edge_message
        if isinstance(waiting, UninitializedParameter) and stored is not None:
            if is_lazy(stored):
                state_dict = {
                    name: value
                    for name, value in state_dict.items()
                    if name != f"{prefix}edge_message"
                }
                self._parameters["edge_message"] = None
                super()._load_from_state_dict(state_dict, prefix, *arguments)
                self._parameters["edge_message"] = waiting
                return
            waiting.materialize(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
