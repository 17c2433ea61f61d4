"""Self-loops for layers on edges, as PyG's GATConv adds them: those that are there make way for one
a node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from graphformer.errors import number
from graphformer.graph.keys import numbers_of

PARTS = ("attr", "bias", "weight", "there")
FILLS = ("add", "mean", "min", "max", "mul")


def check_fill(value: float | Tensor | str, add_self_loops: bool) -> float | Tensor | str:
    """The value itself, or an error that says what there is, or that there are no self-loops."""
    if isinstance(value, int | float):
        number("fill_value", value)
    if not add_self_loops and not (isinstance(value, str) and value == "mean"):
        raise ValueError(
            f"fill_value={value} is the features of self-loops, and add_self_loops is False: give "
            "both, or neither"
        )
    if isinstance(value, str):
        if value not in FILLS:
            raise ValueError(
                f"unknown fill_value {value!r}; known: {', '.join(FILLS)}, a number, or a tensor "
                "[edge_dim]"
            )
    elif not isinstance(value, (int, float, Tensor)):
        raise TypeError(
            f"fill_value must be a number, a tensor [edge_dim] or one of {', '.join(FILLS)}, got "
            f"{type(value).__name__}"
        )
    return value


@dataclass(frozen=True)
class GivenList:
    """Edges in the order in which they were given, and what belongs to each.

    Attributes:
        senders, receivers: integer ``[E]``.
        attr: features ``[E, D]``.
        bias: ``[E, heads]``, added to the scores.
        weight: ``[E]``, a factor of the messages.
        there: bool ``[E]``: false for an edge that is none. Only while a compiler traces, which
            knows no tensor of a length that numbers decide.
    """

    senders: Tensor
    receivers: Tensor
    attr: Tensor | None = None
    bias: Tensor | None = None
    weight: Tensor | None = None
    there: Tensor | None = None

    @property
    def num_edges(self) -> int:
        return self.senders.shape[0]

    def select(self, keep: Tensor) -> GivenList:
        """The edges for which ``keep`` (bool ``[E]``), or those with the numbers ``keep`` in this
        order.
        """
        keep = numbers_of(keep)
        picked = {name: value[keep] for name in PARTS if (value := getattr(self, name)) is not None}
        return GivenList(self.senders[keep], self.receivers[keep], **picked)

    def repeated(self, times: int, num_senders: int, num_receivers: int) -> GivenList:
        """The same edges in ``times`` copies of the graph, whose nodes are numbered on."""
        copy = torch.arange(times, device=self.senders.device).unsqueeze(-1)
        shared = {
            name: value.repeat(times, *[1] * (value.ndim - 1))
            for name in PARTS
            if (value := getattr(self, name)) is not None
        }
        return GivenList(
            (self.senders + num_senders * copy).flatten(),
            (self.receivers + num_receivers * copy).flatten(),
            **shared,
        )

    def with_self_loops(
        self, num_nodes: int, num_receivers: int, fill: float | Tensor | str, static: bool
    ) -> GivenList:
        """A self-loop for each of the first ``num_nodes`` in the place of those that were there; it
        stands behind the other edges.

        Args:
            fill: features of a self-loop: a number, ``[D]``, or a reduction of the features of the
                other edges into the node.
            static: leave the old self-loops where they are and say in ``there`` that they are none.
        """
        other = self.senders != self.receivers
        if not static:
            return self.select(other)._append(num_nodes, num_receivers, fill, None)
        return self._append(num_nodes, num_receivers, fill, other)

    def _append(
        self, num_nodes: int, num_receivers: int, fill: float | Tensor | str, there: Tensor | None
    ) -> GivenList:
        loop = torch.arange(num_nodes, device=self.senders.device, dtype=self.senders.dtype)
        out = replace(
            self,
            senders=torch.cat((self.senders, loop)),
            receivers=torch.cat((self.receivers, loop)),
        )
        if self.attr is not None:
            out = replace(
                out,
                attr=torch.cat((self.attr, self._filled(num_nodes, num_receivers, fill, there))),
            )
        if self.bias is not None:
            out = replace(
                out, bias=torch.cat((self.bias, self.bias.new_zeros(num_nodes, self.bias.shape[1])))
            )
        if self.weight is not None:
            out = replace(out, weight=torch.cat((self.weight, self.weight.new_ones(num_nodes))))
        return (
            out
            if there is None
            else replace(out, there=torch.cat((there, there.new_ones(num_nodes))))
        )

    def _filled(
        self, num_nodes: int, num_receivers: int, fill: float | Tensor | str, there: Tensor | None
    ) -> Tensor:
        assert self.attr is not None
        if isinstance(fill, str):
            # Edges that are none go to a receiver behind the last one.
            receivers = (
                self.receivers
                if there is None
                else torch.where(there, self.receivers, num_receivers)
            )
            return scatter(self.attr, receivers.long(), 0, num_receivers + 1, fill)[:num_nodes]
        width = self.attr.shape[1]
        value = torch.as_tensor(fill, dtype=self.attr.dtype, device=self.attr.device)
        if value.ndim > 1 or value.numel() not in (1, width):
            raise ValueError(
                f"fill_value must be a number or [{width}] (edge_dim), got shape "
                f"{list(value.shape)}"
            )
        return value.expand(num_nodes, width)
