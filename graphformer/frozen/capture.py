"""Reading the attention graph of a frozen model in the place where it computes its attention.

transformers looks the attention function up by the name in the model's config. Two names are
registered here, one for each function that the model may have had; the function of that name calls
that very function with the very mask that it would have got, and then shows queries and keys to
whoever listens at that module (an adapter, for as long as it stands there) and to whoever watches
this pass (:func:`watched`, in this thread alone).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from graphformer.attention import merged_graph
from graphformer.attention.sparsifiers import Sparsifier, Threshold
from graphformer.graph import AttentionGraph

# Neither "flash" nor "/" in a name: transformers would take it for a kernel's.
NAMES = {"sdpa": "graphformer_sdpa", "eager": "graphformer_eager"}
LISTENERS = "_graphformer_listeners"
"""The attribute of an attention module that holds who wants to see its queries and keys, a
tuple.
"""


@dataclass(frozen=True)
class Attention:
    """One call of a model's attention function.

    Attributes:
        query: ``[B, H, Nq, d]``, after rotary positions. key: ``[B, Hkv, Nk, d]``, after the cache
            was updated.
        value: ``[B, Hkv, Nk, dv]``. output: ``[B, Nq, H, dv]``, what the model's own function made
            of them.
        allowed: bool ``[B, 1, Nq, Nk]``, or None.
        causal: whether, without ``allowed``, keys after the query are forbidden.
        scale, softcap, sinks, bias: as in :func:`graphformer.attention.merged_graph`; ``bias`` is
            what the model adds to its scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    allowed: Tensor | None
    causal: bool
    scale: float | None
    softcap: float | None
    sinks: Tensor | None
    bias: Tensor | None = None

    def select(self, rows: Tensor) -> Attention:
        """That of some rows of the batch (int64)."""
        batch = self.query.shape[0]

        def part(x: Tensor) -> Tensor:
            return x if x.shape[0] == 1 < batch else x[rows]  # one for all

        bias = None if self.bias is None else part(self.bias)
        allowed = None if self.allowed is None else part(self.allowed)
        own = {name: getattr(self, name)[rows] for name in ("query", "key", "value", "output")}
        return replace(self, **own, allowed=allowed, bias=bias)

    def detach(self) -> Attention:
        """The same cut off from autograd."""
        tensors = {
            name: value.detach()
            for name in ("query", "key", "value", "output", "bias", "sinks")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **tensors)

    def of_heads(self, heads: list[int]) -> Attention:
        """That of some query heads, each with the key head that serves it."""
        group = self.query.shape[1] // self.key.shape[1]
        shared = [head // group for head in heads]
        bias, sinks = self.bias, self.sinks
        return replace(
            self,
            query=self.query[:, heads],
            key=self.key[:, shared],
            value=self.value[:, shared],
            output=self.output[:, :, heads],
            bias=bias if bias is None or bias.shape[1] == 1 else bias[:, heads],
            sinks=None if sinks is None else sinks[heads],
        )

    def of_receivers(self, rows: slice) -> Attention:
        """That of some receivers alone."""
        allowed, bias = self.allowed, self.bias
        return replace(
            self,
            query=self.query[:, :, rows],
            output=self.output[:, rows],
            allowed=None if allowed is None else allowed[:, :, rows],
            bias=None if bias is None else bias[:, :, rows],
        )

    def made_again(self) -> Tensor:
        """The output as the graph's weights, with no edge cut, times the values have it,
        ``[B, Nq, H, dv]``: computed in float32 where the model's own precision is lower.
        """
        weights = self.graph(Threshold(0.0), merged=False, clamp=None).to_dense()
        group = self.query.shape[1] // self.value.shape[1]
        values = self.value.repeat_interleave(group, dim=1).to(weights.dtype)
        return (weights @ values).transpose(1, 2).to(self.output.dtype)

    def graph(self, sparsify: Sparsifier, *, merged: bool, clamp: float | None) -> AttentionGraph:
        """The graph of its weights, with lanes ``(B,)`` if merged and ``(B, H)`` otherwise. It has
        no gradient.
        """
        graph, _ = merged_graph(
            self.query,
            self.key,
            sparsify=sparsify,
            reduce="sum" if merged else None,
            clamp=clamp if merged else None,
            attention_mask=self.allowed,
            is_causal=self.causal,
            scale=self.scale,
            softcap=self.softcap,
            sinks=self.sinks,
            bias=self.bias,
        )
        return graph


class Listener(Protocol):
    """Whoever wants to see an attention module's calls."""

    def hear(self, attention: Attention) -> None: ...


class Watcher(Protocol):
    """Whoever watches a pass (:func:`watched`)."""

    def see(self, module: nn.Module, attention: Attention) -> Tensor | None:
        """A call of an attention module, undetached; what is returned takes the place of its output
        ``[B, Nq, H, dv]``.
        """
        ...


_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("graphformer_watchers", default=())
_lock = threading.Lock()


def listen(module: nn.Module, listener: Listener) -> None:
    """Show ``listener`` every call of this attention module, in whichever thread."""
    with _lock:  # replaced, never changed: other threads may be in the middle of the old one
        module.__dict__[LISTENERS] = (*module.__dict__.get(LISTENERS, ()), listener)


def ignore(module: nn.Module, listener: Listener) -> None:
    """The opposite of :func:`listen`."""
    with _lock:
        left = tuple(other for other in module.__dict__.get(LISTENERS, ()) if other is not listener)
        if left:
            module.__dict__[LISTENERS] = left
        else:
            module.__dict__.pop(LISTENERS, None)


def own_function(module: nn.Module, previous: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function that ``module`` would have called under the implementation
    ``previous``.
    """
    for cls in type(module).__mro__:
        home: Any = sys.modules.get(cls.__module__)
        if previous == "eager" and hasattr(home, "eager_attention_forward"):
            # each model has its own: soft caps and sinks are in there
            return home.eager_attention_forward
        if previous != "eager" and hasattr(home, "ALL_ATTENTION_FUNCTIONS"):
            # a model may have changed its copy of the table
            return home.ALL_ATTENTION_FUNCTIONS[previous]
    if previous == "eager":
        raise NotImplementedError(
            f"{type(module).__name__} has no eager_attention_forward in its module: its attention "
            "cannot be read"
        )
    return ALL_ATTENTION_FUNCTIONS[previous]


def _function(previous: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        out = own_function(module, previous)(module, query, key, value, attention_mask, **kwargs)
        listeners, watchers = module.__dict__.get(LISTENERS, ()), _watchers.get()
        if listeners or watchers:
            seen = _seen(module, query, key, value, out[0], attention_mask, previous, kwargs)
            heard = seen.detach()
            for listener in listeners:
                listener.hear(heard)
            for watcher in watchers:
                changed = watcher.see(module, seen)
                out = out if changed is None else (changed, *out[1:])
        return out

    return attention


def _seen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    mask: Tensor | None,
    previous: str,
    kwargs: dict[str, Any],
) -> Attention:
    bias = kwargs.get("position_bias")
    length, causal = query.shape[2], False
    if mask is None and previous == "sdpa":
        # What transformers' sdpa function makes of a missing mask, the unfilled end of a fixed-size
        # cache included.
        said = kwargs.get("is_causal")
        causal = length > 1 and bool(getattr(module, "is_causal", True) if said is None else said)
        if causal and key.shape[2] > length:
            key, value = key[:, :, :length], value[:, :, :length]
    if bias is not None:
        bias = bias[..., : key.shape[2]]
    allowed = None
    if mask is not None:
        mask = mask[..., : key.shape[2]]
        allowed = mask
        if mask.dtype != torch.bool:
            allowed = mask > torch.finfo(mask.dtype).min / 2
            added = mask.masked_fill(~allowed, 0)
            # relative positions, as BEiT adds them, or a mask of the caller's own
            if added.requires_grad or bool(added.any()):
                bias = added if bias is None else bias + added
        allowed = allowed.expand(query.shape[0], -1, length, -1)
    if bias is not None:
        bias = bias.expand(-1, -1, length, key.shape[2])
    said = {
        name: kwargs.get(key)
        for name, key in (("scale", "scaling"), ("softcap", "softcap"), ("sinks", "s_aux"))
    }
    return Attention(query, key, value, output, allowed, causal, **said, bias=bias)


for _previous, _name in NAMES.items():
    AttentionInterface.register(_name, _function(_previous))
    AttentionMaskInterface.register(_name, ALL_MASK_ATTENTION_FUNCTIONS[_previous])


def _configs(model: nn.Module) -> Iterator[PreTrainedConfig]:
    """Each config of the model and its parts, once."""
    known = set()
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig) and id(config) not in known:
            known.add(id(config))
            yield config


def switch_on(model: nn.Module) -> None:
    """Let the model's attention modules call the functions of this file.

    Raises:
        NotImplementedError: the model runs an implementation other than sdpa or eager.
    """
    configs = list(_configs(model))
    for config in configs:
        if config._attn_implementation not in (*NAMES, *NAMES.values(), None):
            raise NotImplementedError(
                "the attention graph can be read beside sdpa and eager attention, and this model "
                f"runs {config._attn_implementation!r}: load it with attn_implementation='sdpa'"
            )
    for config in configs:
        config._attn_implementation_internal = NAMES.get(
            config._attn_implementation, config._attn_implementation
        )


def switch_off(model: nn.Module) -> None:
    """Give the model back the implementation it had."""
    before = {name: previous for previous, name in NAMES.items()}
    for config in _configs(model):
        config._attn_implementation_internal = before.get(
            config._attn_implementation, config._attn_implementation
        )


def is_on(module: nn.Module) -> bool:
    """Whether this attention module calls the functions of this file."""
    return getattr(getattr(module, "config", None), "_attn_implementation", None) in NAMES.values()


_uses: dict[int, tuple[int, str | None]] = {}
"""How many passes are watched that need a config switched, and what it said before; by its id."""


@contextmanager
def watched(model: nn.Module, watcher: Watcher) -> Iterator[None]:
    """Show ``watcher`` every attention call of the model that this thread makes inside.

    Nothing of it is kept on the model but the name of its attention function, which is given back
    once the last pass that needs it is over.

    Raises:
        NotImplementedError: as :func:`switch_on`.
    """
    configs = list(_configs(model))
    with _lock:
        before = [config._attn_implementation for config in configs]
        switch_on(model)
        for config, name in zip(configs, before, strict=True):
            count, first = _uses.get(id(config), (0, name))
            _uses[id(config)] = (count + 1, first)
    token = _watchers.set((*_watchers.get(), watcher))
    try:
        yield
    finally:
        _watchers.reset(token)
        with _lock:
            for config in configs:
                count, first = _uses.pop(id(config))
                if count > 1:
                    _uses[id(config)] = (count - 1, first)
                else:
                    config._attn_implementation_internal = first
