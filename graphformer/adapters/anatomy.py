"""Where in a model's layers an adapter can stand, found by watching one forward pass of a few tokens.

No table of architectures: what is needed is the place where ``h = residual + attention`` comes into being, and a pass shows it. Such a
place is one of two kinds:

- *branch*: the output ``y`` of a module (the attention, or a norm after it) is added to a residual ``x`` by the layer. Where ``y`` is
  replaced by ``y + f(x + y)`` the layer's own addition gives ``h + f(h)``.
- *stream*: a module adds the residual itself and returns ``h``; it is replaced by ``h + f(h)``.

The pass also proves that the model's attention can be read: its output is what it was, and the graph's weights times the values are it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.adapters import capture
from graphformer.adapters.capture import Attention
from graphformer.attention.sparsifiers import Threshold

TOKENS = 4


class UnsupportedModel(ValueError):
    """An architecture that the adapter cannot stand in."""


@dataclass(frozen=True)
class Place:
    """Where an adapter stands in one layer.

    Attributes:
        attention: name of the layer's attention module, which ``target_modules`` is compared with.
        name, module: the module whose output is changed.
        caller: the module that calls the attention function.
        residual: the module whose input is the residual that the layer adds to that output; None where it is already added.
        position, count: which of how many layers.
        hidden_size, num_heads: of the layer's stream and attention.
    """

    attention: str
    name: str
    module: nn.Module
    caller: nn.Module
    residual: nn.Module | None
    position: int
    count: int
    hidden_size: int
    num_heads: int


@dataclass(frozen=True)
class Layer:
    """What was found in one layer: the places by their name in a config; None where there is none."""

    attention: str
    places: dict[str, Place | None]


def stream_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The hidden states among a module's arguments."""
    for value in (*args[:1], kwargs.get("hidden_states"), *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (2, 3):  # OPT folds sequences into one axis
            return value
    return None


def stream_out(output: Any) -> Tensor | None:
    """The hidden states that a module returns, alone or first in a tuple."""
    if isinstance(output, tuple) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


@dataclass
class _Step:
    """One call of a module that is a child of a layer."""

    name: str
    module: nn.Module
    into: Tensor | None
    out: Tensor | None


@dataclass
class _Watch:
    """What a pass showed."""

    steps: dict[str, list[_Step]] = field(default_factory=dict)  # by layer
    results: dict[str, Tensor | None] = field(default_factory=dict)  # by layer
    calls: dict[str, list[Attention]] = field(default_factory=dict)  # by attention module


class _Ear:
    def __init__(self, calls: list[Attention]) -> None:
        self.calls = calls

    def hear(self, attention: Attention) -> None:
        self.calls.append(attention)


def examine(model: nn.Module) -> list[Layer]:
    """The layers of a model and where an adapter can stand in them. Its attention must have been switched to ``capture``'s functions.

    Raises:
        UnsupportedModel: there is no such layer, or the model's attention cannot be read. The text names the architecture.
    """
    title = f"{type(_inner(model)).__name__} (model type {getattr(getattr(model, 'config', None), 'model_type', 'unknown')!r})"
    body = _body(model)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False) or (hasattr(body, "encoder") and hasattr(body, "decoder")):
        raise UnsupportedModel(f"Sparse-GIN adapts decoders and encoders, not encoder-decoder models, and got {title}")
    with _quiet(model), torch.no_grad():
        capture.switch_off(model)
        try:
            before = _run(model)
        finally:
            capture.switch_on(model)
        watch, after = _watched(model)
    if not watch.calls:
        raise UnsupportedModel(
            f"Sparse-GIN cannot read the attention of {title}: it does not call transformers' AttentionInterface. "
            "Architectures known to be like that: falcon, gptj, gpt_neo, bloom, deberta_v2"
        )
    if not _same(before, after, loose=True):
        raise UnsupportedModel(
            f"Sparse-GIN cannot read the attention of {title}: under the observed attention function its output is another"
        )
    for name, calls in watch.calls.items():
        _prove(title, name, calls)
    found = [(layer, name) for name in watch.calls for layer in [_layer_of(name, watch)] if layer is not None]
    modules = dict(model.named_modules())
    layers = []
    for position, (layer, caller) in enumerate(found):
        steps = watch.steps[layer]
        child = caller.removeprefix(layer + ".").split(".")[0]
        index = next(i for i, step in enumerate(steps) if step.name == child)
        call = watch.calls[caller][0]
        common = {"attention": f"{layer}.{child}", "caller": modules[caller], "position": position, "count": len(found)}
        common |= {"num_heads": call.query.shape[1]}
        nested = caller != f"{layer}.{child}"
        layers.append(
            Layer(
                f"{layer}.{child}",
                {
                    "before_mlp": _make(layer, _before_mlp(steps, index, nested), common),
                    "after_mlp": _make(layer, _after_mlp(steps, index, watch.results[layer]), common),
                },
            )
        )
    if not layers:
        raise UnsupportedModel(f"Sparse-GIN found no list of layers in {title} whose attention it could read")
    return layers


def require_place(model: nn.Module, layer: Layer, placement: str) -> Place:
    """The place of that name, or an error that says why there is none."""
    place = layer.places[placement]
    if place is not None:
        return place
    title = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if placement == "before_mlp":
        raise UnsupportedModel(
            f"{layer.attention} of this {title!r} model has no point where residual + attention exists before the feed-forward block "
            "(attention and feed-forward run side by side, or the residual is scaled), "
            "so Sparse-GIN with placement='before_mlp' cannot stand there"
        )
    raise UnsupportedModel(
        f"the layer of {layer.attention} in this {title!r} model has no module whose output, with its residual, is the layer's output: "
        "use placement='before_mlp'"
    )


# ---------------------------------------------------------------------- the search

_Found = tuple[_Step, "_Step | None"]  # whose output is changed, and the step whose input is its residual


def _before_mlp(steps: list[_Step], attention: int, nested: bool) -> _Found | None:
    own = steps[attention]
    normed = [step for step in steps[attention + 1 :] if _same(step.into, own.out)]
    for changed in (*reversed(normed), own):  # the last one: a module that drops out its input may come after the attention
        later = steps[steps.index(changed) + 1 :]
        for residual in steps[: attention + 1]:
            if any(_same(_sum(residual.into, changed.out), step.into) for step in later):
                return changed, residual
    if nested and normed:  # the attention function is called inside a module that also adds the residual
        return own, None
    return None


def _after_mlp(steps: list[_Step], attention: int, result: Tensor | None) -> _Found | None:
    later = steps[attention + 1 :]
    for changed in reversed(later):
        if _same(changed.out, result):
            return changed, None
        for residual in later[: later.index(changed) + 1]:
            if _same(_sum(residual.into, changed.out), result):
                return changed, residual
    return None


def _make(layer: str, found: _Found | None, common: dict[str, Any]) -> Place | None:
    if found is None or found[0].out is None:
        return None
    changed, residual = found
    assert changed.out is not None
    return Place(
        name=f"{layer}.{changed.name}",
        module=changed.module,
        residual=None if residual is None else residual.module,
        hidden_size=changed.out.shape[-1],
        **common,
    )


def _sum(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    if x is None or y is None or x.shape[-1] != y.shape[-1] or x.numel() != y.numel():
        return None
    return x.reshape(y.shape) + y


def _same(x: Tensor | None, y: Tensor | None, loose: bool = False) -> bool:
    if x is None or y is None or x.shape[-1] != y.shape[-1] or x.numel() != y.numel():
        return False
    x = x.reshape(y.shape)
    if torch.equal(x, y):
        return True
    exact = x.dtype in (torch.float32, torch.float64)
    tolerance = (5e-3 if exact else 3e-2) if loose else (1e-5 if exact else 0)  # products may run in TF32; one sum is the same sum
    return bool((x.double() - y.double()).abs().max() <= tolerance * y.double().abs().max())


def _prove(title: str, name: str, calls: list[Attention]) -> None:
    """That the graph's weights, with no edge cut, times the values give the model's attention output."""
    for call in calls:
        # Computed in float32 where the model's own precision is lower, so the tolerance is that of the model.
        weights = call.graph(Threshold(-1.0), merged=False, clamp=None).to_dense()
        values = call.value.repeat_interleave(call.query.shape[1] // call.value.shape[1], dim=1).to(weights.dtype)
        out = (weights @ values).transpose(1, 2)
        if not _same(out.to(call.output.dtype), call.output, loose=True):
            raise UnsupportedModel(
                f"Sparse-GIN cannot read the attention of {title}: the softmax of {name}'s queries and keys is not its attention"
            )


# ---------------------------------------------------------------------- the pass


def _inner(model: nn.Module) -> nn.Module:
    """The transformers model inside PEFT's wrappers."""
    get = getattr(model, "get_base_model", None)
    return get() if callable(get) else model


def _body(model: nn.Module) -> nn.Module:
    """The transformers model without its head."""
    inner = _inner(model)
    prefix = getattr(inner, "base_model_prefix", "")
    return getattr(inner, prefix, inner) if prefix else inner


def _run(model: nn.Module) -> Tensor:
    inner: Any = _inner(model)
    body = _body(model)
    embeddings: Any = inner.get_input_embeddings() if hasattr(inner, "get_input_embeddings") else None
    if not isinstance(getattr(embeddings, "weight", None), Tensor):
        raise UnsupportedModel(f"Sparse-GIN adapts transformers models over tokens, and {type(inner).__name__} has no token embeddings")
    config = getattr(inner, "config", None)
    special = {getattr(config, f"{kind}_token_id", None) for kind in ("pad", "mask", "bos", "eos") if config is not None}
    special = {token for token in special if isinstance(token, int)}
    tokens = [token for token in range(embeddings.weight.shape[0]) if token not in special][:TOKENS]
    options = {"use_cache": False} if "use_cache" in inspect.signature(body.forward).parameters else {}
    try:
        out = body(input_ids=torch.tensor([tokens], device=embeddings.weight.device), **options)
    except (KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise UnsupportedModel(
            f"Sparse-GIN cannot read the attention of {type(inner).__name__}, whose pass on input_ids alone failed: {error}"
        ) from error
    return out[0]


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, each module put back into its own afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _watched(model: nn.Module) -> tuple[_Watch, Tensor]:
    """A pass with hooks on the children of everything that is in a list of modules, and ears at all modules."""
    watch, handles, ears = _Watch(), [], []

    def hook(layer: str, name: str) -> Any:
        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            step = _Step(name, module, stream_in(args, kwargs), stream_out(output))
            watch.steps.setdefault(layer, []).append(step)

        return after

    def result(layer: str) -> Any:
        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            watch.results[layer] = stream_out(output)

        return after

    for name, module in model.named_modules():
        calls: list[Attention] = []
        ear = _Ear(calls)
        capture.listen(module, ear)
        ears.append((name, module, ear))
        if isinstance(module, nn.ModuleList):
            for number, layer in module.named_children():
                path = f"{name}.{number}"
                handles.append(layer.register_forward_hook(result(path)))
                handles += [child.register_forward_hook(hook(path, key), with_kwargs=True) for key, child in layer.named_children()]
    try:
        out = _run(model)
    finally:
        for handle in handles:
            handle.remove()
        for _, module, ear in ears:
            capture.ignore(module, ear)
    watch.calls = {name: ear.calls for name, _, ear in ears if ear.calls}
    return watch, out


def _layer_of(caller: str, watch: _Watch) -> str | None:
    """The innermost layer around an attention module."""
    around = [layer for layer in watch.steps if caller.startswith(layer + ".")]
    return max(around, key=len, default=None)
