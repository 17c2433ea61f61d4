"""One run of a stack of layers: what the relations between its tokens need to know, and what a
cache keeps of them.

Nothing of it is kept on a module: a run is in a context variable, so several threads may run one
model. Where a layer is checkpointed, its run travels with what computes it again.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import StaticSlidingWindowLayer
from transformers.masking_utils import find_packed_sequence_indices

from graphformer.attention.candidates import Packed
from graphformer.attention.relations import Relation, Tokens
from graphformer.finite import readable
from graphformer.frozen import probe
from graphformer.nn import memory
from graphformer.nn.memory import Memory

WHO = "this adapter keeps what its relations need"
_lock = threading.Lock()


@dataclass(eq=False)
class Stack:
    """A list of layers over one sequence of tokens.

    Attributes:
        title: of the model, for errors. name: of the list.
        model: the whole one. root: the module that gets the ids of the tokens and runs the layers.
        layers: those with linear layers, by name.
        ids: which argument of the root holds the ids; None where tokens have none (images).
        causal: whether no token sees a later one.
        seen_tokens, width: how many tokens the first look had, and how wide the layers' stream is;
            None where it has other tokens than the ids.
    """

    title: str
    name: str
    model: nn.Module
    root: nn.Module
    layers: dict[str, nn.Module]
    ids: str | None
    causal: bool
    seen_tokens: int
    width: int | None
    chains: dict[int, int] = field(default_factory=dict)
    """How many chains an adapter has in this stack, by its number."""
    handles: list[Any] = field(default_factory=list)

    def attach(self) -> None:
        """Watch the runs of this stack."""
        if self.handles:
            return
        self.handles = [
            self.root.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.root.register_forward_hook(self._keep),
            self.root.register_forward_hook(self._end, always_call=True),  # also after an error
        ]
        for layer in self.layers.values():
            self.handles.append(layer.register_forward_pre_hook(_carry_on))

    def detach(self) -> None:
        """The opposite of :meth:`attach`."""
        for handle in self.handles:
            handle.remove()
        self.handles = []
        for layer in self.layers.values():
            function = layer.__dict__.get("_gradient_checkpointing_func")
            if isinstance(function, _Carrying):
                layer._gradient_checkpointing_func = function.function  # type: ignore[assignment]

    def run(self) -> Run | None:
        """The run that this thread is in."""
        return next((run for run in _runs.get() if run.stack is self), None)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(probe.parameters(self.root), args, strict=False)) | kwargs
        others = tuple(run for run in _runs.get() if run.stack is not self)
        _runs.set((*others, Run(self, named)))

    def _keep(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        run = self.run()
        if run is not None and run.kept:
            values = tuple(output.values()) if hasattr(output, "values") else output
            run.keep(values if isinstance(values, Iterable) else ())

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        run = self.run()
        if run is not None:
            run.over = True
            run.kept, run.codes = {}, {}
            _runs.set(tuple(other for other in _runs.get() if other is not run))


_runs: ContextVar[tuple[Run, ...]] = ContextVar("graphformer_adapter_runs", default=())


@dataclass(frozen=True)
class _Carrying:
    """A model's checkpointing function that takes the runs of now to where a layer is computed
    again, in whichever thread.
    """

    function: Callable[..., Any]

    def __call__(self, layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        runs = _runs.get()

        def inside(*args: Any, **kwargs: Any) -> Any:
            token = _runs.set(runs)
            try:
                return layer(*args, **kwargs)
            finally:
                _runs.reset(token)

        return self.function(inside, *args, **kwargs)


def _carry_on(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Before a layer that may be checkpointed."""
    function = layer.__dict__.get("_gradient_checkpointing_func")
    if function is not None and not isinstance(function, _Carrying):
        with _lock:
            layer._gradient_checkpointing_func = _Carrying(function)  # type: ignore[assignment]


@dataclass(eq=False)
class Run:
    """One run of a stack.

    Attributes:
        named: the root's arguments.
        codes: the codes that linear layers of one input share, until the last of them has them.
        kept: what a cache is to keep, of each adapter: rows, and by the number of the chain its
            last codes.
        there, made: what :meth:`neighbours` and :meth:`messages` have found.
        over: whether the run has ended, and its layers are only computed again.
    """

    stack: Stack
    named: dict[str, Any]
    codes: dict[Any, Any] = field(default_factory=dict)
    there: dict[int, tuple[Tensor | None, ...]] = field(default_factory=dict)
    made: dict[Relation, tuple[Tensor, ...]] = field(default_factory=dict)
    kept: dict[int, tuple[str, Tensor | None, dict[int, Tensor]]] = field(default_factory=dict)
    over: bool = False

    def __post_init__(self) -> None:
        self.cache = None
        if self.stack.causal:
            self.cache = memory.find_cache((), self.named)
        self.past = 0 if self.cache is None else int(self.cache.get_seq_length())

    # ------------------------------------------------------------------ tokens

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """Rows and new tokens of a row."""
        for name in (self.stack.ids or "", "inputs_embeds"):
            value = self.named.get(name)
            if isinstance(value, Tensor):
                return value.shape[0], value.shape[1]
        return next(len(value) for value in self.named.values() if isinstance(value, Tensor)), 0

    @functools.cached_property
    def tokens(self) -> Tokens:
        """Which token sees which, without their ids."""
        batch, new = self.size
        mask = self._mask()
        packed = None
        at = self.named.get("position_ids")
        if mask is None and self.cache is None and isinstance(at, Tensor) and at.ndim == 2:
            # as transformers tells packed texts apart
            packed = find_packed_sequence_indices(at.expand(batch, -1))
        if mask is not None:
            mask = _allowed(mask)[..., : self.past + new]  # a static cache has empty places behind
            if readable(mask) and bool(mask.all()):
                mask = None
        device = next(value for value in self.named.values() if isinstance(value, Tensor)).device
        sizes = (batch, new, self.past + new)
        rule = None if packed is None else Packed(packed)
        return Tokens.read(sizes, device, None, mask, rule)

    def _mask(self) -> Any:
        """``attention_mask``; of the masks by kind of layer that ``generate`` makes for a static
        cache, the one without windows, for relations reach beyond those.
        """
        mask = self.named.get("attention_mask")
        if isinstance(mask, Mapping) and "full_attention" in mask:
            return mask["full_attention"]
        windows = [
            layer.max_cache_len
            for layer in getattr(self.cache, "layers", ())
            if isinstance(layer, StaticSlidingWindowLayer)
        ]
        if windows and (isinstance(mask, Mapping) or getattr(mask, "ndim", 2) == 4):
            total = self.past + self.size[1]
            if total > min(windows):
                raise NotImplementedError(
                    f"a static cache keeps {min(windows)} tokens of a sliding window, and its "
                    f"attention_mask those alone: relations of an adapter reach all {total}. "
                    "Generate with cache_implementation='dynamic', or with use_cache=False"
                )
            if isinstance(mask, Mapping):
                return next(iter(mask.values()))
        return mask

    @functools.cached_property
    def ids(self) -> Tensor:
        """int64 ``[B, Nk]``, cached ones included."""
        ids = self.named.get(self.stack.ids or "")
        if ids is None:
            raise ValueError(
                "inputs_embeds are given, and this adapter's relations compare tokens: give "
                "input_ids, or make the adapter with relations=[gf.Chain(3)]"
            )
        if not self.past:
            return ids
        kept = self._memory(IDS, "ids")
        return torch.cat((kept.parts[0][..., 0].to(ids.device), ids), 1)

    def neighbours(self, k: int) -> tuple[Tensor | None, ...]:
        """For each of ``k`` distances, whether a token has such a neighbour that it sees, bool
        ``[B or 1, N]``; those before, and where later tokens are seen those behind. None where only
        an end of the row limits them.
        """
        tokens = self.tokens
        if tokens.real is None and tokens.texts is None and tokens.pairs is None:
            return (None,) * (k if self.stack.causal else 2 * k)
        if k not in self.there:
            found = [tokens.before(steps)[1] for steps in range(1, k + 1)]
            if not self.stack.causal:
                found += [behind(tokens, steps) for steps in range(1, k + 1)]
            self.there[k] = tuple(found)
        return self.there[k]

    @torch.no_grad()
    def messages(self, relation: Relation) -> tuple[Tensor, ...]:
        """What the tokens get over each channel of a relation, ``[B, N, d]``; made once."""
        if relation not in self.made:
            tokens, sent = replace(self.tokens, ids=self.ids), self._sent[:, None]
            self.made[relation] = tuple(
                link.messages(sent)[:, 0] for link in relation.links(tokens)
            )
        return self.made[relation]

    @functools.cached_property
    def _sent(self) -> Tensor:
        """RMS-normalised frozen embeddings of all tokens, ``[B, Nk, d]``, at least float32."""
        weight = embeddings(self.stack.model).weight
        found = F.embedding(self.ids.to(weight.device), weight.detach())
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        return found * (found.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    # ------------------------------------------------------------------ cache

    def past_codes(
        self, number: int, name: str, chain: int, k: int, rows: Tensor | None
    ) -> Tensor | None:
        """The last ``k`` codes that an adapter's chain made before these tokens, ``[B, k, r]`` or
        fewer; None at the start.

        Args:
            rows: bool ``[B]``, the rows that the adapter is for; None for all.
        """
        if not self.past:
            return None
        kept = self._memory(number, name, rows)
        wanted = min(k, self.past)
        part = kept.parts[chain] if chain < len(kept.parts) else None
        if part is None or part.shape[-2] < wanted:
            raise RuntimeError(
                f"the cache was cropped to {self.past} tokens, further back than adapter {name!r} "
                "remembers the chains of its bottlenecks: start with a new cache"
            )
        return part[..., part.shape[-2] - wanted :, :]

    def require_seen(self, number: int, name: str, rows: Tensor | None) -> None:
        """That the tokens in the cache are those that an adapter saw."""
        if self.past:
            self._memory(number, name, rows)

    def remember(
        self, number: int, name: str, rows: Tensor | None, chain: int | None, codes: Tensor | None
    ) -> None:
        """What the cache is to keep when the run has ended."""
        if self.over or not self.stack.causal:
            return
        _, _, chains = self.kept.setdefault(number, (name, rows, {}))
        if chain is not None and codes is not None:
            chains[chain] = codes

    def _memory(self, key: Any, name: str, rows: Tensor | None = None) -> Memory:
        assert self.cache is not None
        layer = memory.remembering(self.cache, 0, WHO, static=True)
        found = layer.memories.get((Run, key))
        whom = "this adapter's relations" if key == IDS else f"adapter {name!r}"
        if found is None or found.seen != self.past:
            knows = "none of them" if found is None else f"{found.seen}"
            raise RuntimeError(
                f"the cache holds {self.past} tokens and {whom} saw {knows}: the active adapter "
                "was changed, or disabled, after the cache was filled. Start with a new cache"
            )
        if found.rows is not None and not bool(
            (found.rows if rows is None else found.rows[rows.to(found.rows.device)]).all()
        ):
            raise RuntimeError(
                f"{whom} did not see the cached tokens of some rows that it is now for: "
                "adapter_names was changed after the cache was filled. Start with a new cache"
            )
        return found

    def keep(self, output: Iterable[Any]) -> None:
        """Give the cache what is to be kept, once all layers have run."""
        cache = self.cache
        if cache is None:
            cache = memory.find_cache(tuple(output), {})
        if cache is None or not cache.layers or not cache.get_seq_length():
            return
        layer = memory.remembering(cache, 0, WHO, static=True)
        seen = int(cache.get_seq_length())
        for number, (_, rows, chains) in self.kept.items():
            count = self.stack.chains.get(number, 0)
            batch = self.size[0]
            nothing = torch.zeros(batch, 0, 1)
            parts = [chains.get(chain, nothing) for chain in range(count)]
            layer.memories[(Run, number)] = Memory(parts, seen, rows, own_length=True)
        if "ids" in self.__dict__:
            layer.memories[(Run, IDS)] = Memory([self.ids[..., None]], seen, None, own_length=True)


IDS = "ids"


def embeddings(model: nn.Module) -> nn.Embedding:
    """The token embeddings as the model had them, trained copies and adapters left aside."""
    found = probe.inner(model).get_input_embeddings()
    while not isinstance(found, nn.Embedding):
        inside = getattr(found, "original_module", None) or getattr(found, "base_layer", None)
        if inside is None:
            raise TypeError(
                f"relations read the token embeddings, and those of {probe.title(model)} are a "
                f"{type(found).__name__}, not nn.Embedding"
            )
        found = inside
    return found


def behind(tokens: Tokens, steps: int) -> Tensor:
    """As :meth:`Tokens.before`, of the token that many places later, in a stack that sees it."""
    length = tokens.num_senders
    place = tokens.places + steps
    there, place = (place < length).unsqueeze(0), place.clamp(max=max(length - 1, 0))
    if tokens.real is not None:
        there = there & tokens.real[:, place]
    if tokens.texts is not None:
        there = there & (tokens.texts[:, place] == tokens.texts)
    if tokens.pairs is not None:
        there = there & tokens.pairs[:, tokens.places, place]
    return there


def _allowed(mask: Any) -> Tensor:
    """A bool mask of tokens ``[B, Nk]`` or pairs ``[B or 1, 1, N, Nk]``, of what a model takes."""
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            "relations of an adapter read attention_mask of tokens [B, N] or of pairs "
            f"[B, 1, N, N], got {shape}"
        )
    if mask.ndim == 2:
        return mask.bool()
    allowed = mask if mask.dtype == torch.bool else mask > _lowest(mask)
    if mask.shape[1] == 1 or bool((allowed == allowed[:, :1]).all()):
        return allowed[:, :1]
    raise ValueError(
        "attention_mask keeps other pairs apart in each head, which relations of an adapter "
        "cannot follow: give one mask for all heads, [B, 1, N, N]"
    )


def _lowest(mask: Tensor) -> float:
    if not mask.is_floating_point():
        return 0.5  # 1 for pairs that may see each other
    return torch.finfo(mask.dtype).min / 2
