"""What the attention of a pre-trained model is called with in one pass: names, kinds, and a proof
that it was read right.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.frozen import capture, steps
from graphformer.frozen.capture import Attention
from graphformer.frozen.probe import UnsupportedModel, title

OTHER_TEXT = ("key_value_states", "encoder_hidden_states", "cross_attention_states")
"""Arguments by which transformers' attention modules get the other text of cross-attention."""
PROVED = 4  # receivers whose output is compared in each call

Hear = Callable[["Call"], "Tensor | None"]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a model's attention.

    Attributes:
        number: which of the model's attention modules, in the order of their first call; the same
            in every pass.
        name: of the module.
        cross: whether keys come from another text than queries.
        attention: what it was called with, not cut off from autograd.
    """

    number: int
    name: str
    cross: bool
    attention: Attention


@dataclass(eq=False)
class _Reader:
    model: nn.Module
    names: dict[nn.Module, str]
    hear: Hear
    thread: int = field(default_factory=threading.get_ident)
    other: dict[nn.Module, bool] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a module that may attend to another text."""
        if threading.get_ident() != self.thread:  # a call that this pass does not make
            return
        given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        self.other[module] = any(given.get(name) is not None for name in OTHER_TEXT)

    def see(self, module: nn.Module, attention: Attention) -> Tensor | None:
        name = self.names.get(module)
        if name is None:  # of another model, called inside this one
            return None
        number = self.numbers.setdefault(name, len(self.numbers))
        return self.hear(Call(number, name, self.other.get(module, False), attention))


@contextmanager
def reading(model: nn.Module, hear: Hear) -> Iterator[None]:
    """Call ``hear`` for each attention call of the model that this thread makes inside; a tensor
    that it returns takes the place of the output.

    Raises:
        NotImplementedError: another attention implementation than sdpa or eager.
        UnsupportedModel: the pass showed no attention that can be read.
    """
    names = {module: name for name, module in model.named_modules()}
    reader = _Reader(model, names, hear)
    handles = [
        module.register_forward_pre_hook(reader.enter, with_kwargs=True)
        for module in names
        if set(OTHER_TEXT) & set(inspect.signature(module.forward).parameters)
    ]
    try:
        with capture.watched(model, reader):
            yield
    finally:
        for handle in handles:
            handle.remove()
    if not reader.numbers:
        raise UnsupportedModel(
            f"the attention of {title(model)} cannot be read: it does not call transformers' "
            "AttentionInterface. Architectures known to be like that: falcon, gptj, gpt_neo, "
            "bloom, deberta_v2"
        )


@torch.no_grad()
def prove(model: nn.Module, call: Call) -> None:
    """That the weights of some receivers times the values are the model's own output.

    Raises:
        UnsupportedModel: they are not, so that any graph of them would be another one.
    """
    own = call.attention.detach().of_receivers(slice(-PROVED, None))
    out = own.made_again()
    # A row of padding may be anything.
    real = torch.ones(out.shape[:2], dtype=torch.bool, device=out.device)
    if own.allowed is not None:
        real = own.allowed.any(-1).any(1)
    if not steps.same(out[real], own.output[real], loose=True):
        raise UnsupportedModel(
            f"the attention of {title(model)} cannot be read: the softmax of {call.name}'s queries "
            "and keys, times its values, is not its output"
        )
