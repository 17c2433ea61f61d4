"""What all parts of an adapter have in common, wherever they stand in a model."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from graphformer.adapters import calls
from graphformer.adapters.calls import BASE

_numbers = itertools.count()


def new_number() -> int:
    """Names an adapter in caches: one that was deleted and made again under its name is another."""
    return next(_numbers)


class AdapterPart(nn.Module, BaseTunerLayer):
    """A part of a frozen module whose output it changes, called by a hook."""

    settings: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.settings = {}
        self._disable_adapters = False
        self.merged_adapters = []
        self.frozen_peft_weight_names = {}

    def attach(self) -> None:
        """Become a part of the module whose output is to be changed."""
        raise NotImplementedError

    def detach(self) -> None:
        """The opposite of :meth:`attach`."""
        raise NotImplementedError

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False

    def runs(self) -> bool:
        """Whether an adapter of this part may take part."""
        if self.disable_adapters:
            return False
        return calls.rows() is not None or any(
            name in self.settings for name in self.active_adapters
        )

    def running(self, batch: int, device: torch.device) -> list[tuple[str, Tensor | None]]:
        """The adapters that take part, and the rows of the batch that each is for, bool ``[B]``;
        None for all.
        """
        if self.disable_adapters:
            return []
        asked = calls.rows()
        if asked is None:
            return [(name, None) for name in self.active_adapters if name in self.settings]
        names = asked.of(batch)
        return [
            (name, torch.tensor([other == name for other in names], device=device))
            for name in dict.fromkeys(names)
            if name != BASE and name in self.settings
        ]


def exact(parameter: Tensor) -> tuple[torch.device, torch.dtype]:
    """Where a parameter is, and its precision, but never less than float32: half precision or a
    quantized base is too coarse to train in.
    """
    kind = parameter.dtype if parameter.is_floating_point() else torch.float32
    return parameter.device, torch.promote_types(kind, torch.float32)
