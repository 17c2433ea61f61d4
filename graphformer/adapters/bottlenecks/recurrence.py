"""Messages over the recurrence edges of a text, added to the stream after a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from graphformer.adapters.bottlenecks.runs import Stack
from graphformer.adapters.part import AdapterPart, exact
from graphformer.attention.relations import Relation
from graphformer.frozen.steps import stream_out

if TYPE_CHECKING:
    from graphformer.adapters.config import SparseGINConfig

NAME = "recurrence"
"""What it is called in the layer that it is a part of."""


@dataclass(eq=False)
class RecurrenceSettings:
    """What a layer needs to know of an adapter.

    Attributes:
        number: names the adapter in caches.
        relations: those that read the ids of tokens, in the order of their weights.
    """

    config: SparseGINConfig
    number: int
    relations: tuple[Relation, ...]


class RecurrenceLayer(AdapterPart):
    r"""``h_i -> h_i + sum_R s_R * m^R_i`` after one layer, ``m^R_i`` the sum or mean over ``R``'s
    edges of the frozen embeddings ``RMSNorm(e_j)`` and ``s [R, d]`` trained from 0.

    Args:
        stack: of which it is a layer. path: the layer's name.
    """

    adapter_layer_names = ("sparsegin_recurrence",)
    other_param_names = ("settings",)

    def __init__(self, stack: Stack, path: str) -> None:
        super().__init__()
        self.sparsegin_recurrence = nn.ParameterDict()
        self.stack, self.path = stack, path

    @property
    def layer(self) -> nn.Module:
        return self.stack.layers[self.path]

    def attach(self) -> None:
        self.train(self.layer.training)
        self.layer.add_module(NAME, self)
        # first, so that whoever else watches the layer sees what it gives
        self.handle = self.layer.register_forward_hook(self._change, prepend=True)

    def detach(self) -> None:
        delattr(self.layer, NAME)
        self.handle.remove()

    def get_base_layer(self) -> nn.Module:
        return self.layer

    def update_layer(
        self,
        adapter_name: str,
        config: SparseGINConfig,
        number: int,
        relations: Sequence[Relation],
    ) -> None:
        """Add an adapter, at the start of its training."""
        assert self.stack.width is not None
        device, dtype = exact(next(self.layer.parameters()))
        weight = torch.zeros(sum(one.channels for one in relations), self.stack.width)
        if not weight.is_meta:
            weight = weight.to(device, dtype)
        self.sparsegin_recurrence[adapter_name] = nn.Parameter(weight)
        self.settings[adapter_name] = RecurrenceSettings(config, number, tuple(relations))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Nothing: what adds messages is refused before."""

    def unmerge(self) -> None:
        """Nothing."""

    def _change(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return getattr(module, NAME)(output) if self.runs() else output

    def forward(self, output: Any) -> Any:
        """The layer's output, with the adapters' messages added."""
        h = stream_out(output)
        run = self.stack.run()
        if h is None or run is None:
            raise RuntimeError(
                f"{self.path} ran outside of {type(self.stack.root).__name__}, and the relations "
                "after it need to know the tokens: call the whole model"
            )
        for name, rows in self.running(run.size[0], h.device):
            own, weight = self.settings[name], self.sparsegin_recurrence[name]
            run.require_seen(own.number, name, rows)
            run.remember(own.number, name, rows, None, None)
            found = [message for one in own.relations for message in run.messages(one)]
            total = found[0].to(weight) * weight[0]
            for message, one in zip(found[1:], weight[1:], strict=True):
                total = total + message.to(weight) * one
            if rows is not None:
                total = torch.where(rows[:, None, None], total, 0)
            h = h + total.to(h.dtype)
        return (h, *output[1:]) if isinstance(output, tuple) else h
