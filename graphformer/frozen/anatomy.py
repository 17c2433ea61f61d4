"""Where in a model's layers an adapter can stand, found by watching one short forward pass.

No table of architectures: what is needed is the place where ``h = residual + attention`` comes into
being, and a pass shows it. Such a place is one of two kinds:

- *branch*: the output ``y`` of a module (the attention, or a norm after it) is added to a residual
  ``x`` by the layer. Where ``y`` is replaced by ``y + f(x + y)`` the layer's own addition gives
  ``h + f(h)``.
- *stream*: a module adds the residual itself and returns ``h``; it is replaced by ``h + f(h)``.

The pass also proves that the model's attention can be read: its output is what it was, and the
graph's weights times the values are it. Cross-attention has no graph over one sequence: it is
passed over.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.frozen import capture, probe, steps
from graphformer.frozen.capture import Attention
from graphformer.frozen.probe import TOKENS, UnsupportedModel
from graphformer.frozen.steps import Found, Step


@dataclass(frozen=True)
class Place:
    """Where an adapter stands in one layer.

    Attributes:
        attention: name of the layer's attention module, which ``target_modules`` is compared with.
        layer: the layer, in whose run all of the others are called.
        name, module: the module whose output is changed.
        caller: the module that calls the attention function.
        residual: the module whose input is the residual that the layer adds to that output; None
            where it is already added.
        position, count: which of how many layers of its stack; an encoder and a decoder are two.
        order: which of all the model's layers.
        hidden_size, num_heads: of the layer's stream and attention.
    """

    attention: str
    layer: nn.Module
    name: str
    module: nn.Module
    caller: nn.Module
    residual: nn.Module | None
    position: int
    count: int
    order: int
    hidden_size: int
    num_heads: int


@dataclass(frozen=True)
class FrozenLayer:
    """What was found in one layer: the places by their name in a config; None where there is
    none.
    """

    attention: str
    places: dict[str, Place | None]


@dataclass
class _Watch:
    """What a pass showed."""

    steps: dict[str, list[Step]] = field(default_factory=dict)  # by layer
    results: dict[str, Tensor | None] = field(default_factory=dict)  # by layer
    calls: dict[str, list[Attention]] = field(default_factory=dict)  # by attention module


class _Ear:
    def __init__(self, calls: list[Attention]) -> None:
        self.calls = calls

    def hear(self, attention: Attention) -> None:
        self.calls.append(attention)


def examine(model: nn.Module) -> list[FrozenLayer]:
    """The layers of a model and where an adapter can stand in them. Its attention must have been
    switched to ``capture``'s functions.

    Raises:
        UnsupportedModel: there is no such layer, or the model's attention cannot be read. The text
            names the architecture.
    """
    title = probe.title(model)
    with probe.quiet(model), torch.no_grad():
        capture.switch_off(model)
        try:
            before = probe.run(model)
        finally:
            capture.switch_on(model)
        watch, after = _watched(model)
    if not watch.calls:
        raise UnsupportedModel(
            f"Sparse-GIN cannot read the attention of {title}: it does not call transformers' "
            "AttentionInterface. Architectures known to be like that: falcon, gptj, gpt_neo, "
            "bloom, deberta_v2"
        )
    if not steps.same(before, after, loose=True):
        raise UnsupportedModel(
            f"Sparse-GIN cannot read the attention of {title}: under the observed attention "
            "function its output is another"
        )
    modules, found = dict(model.named_modules()), []
    for caller, calls in watch.calls.items():
        if any(call.query.shape[2] != call.key.shape[2] for call in calls):
            continue  # cross-attention, or queries that are no tokens: no graph over one sequence
        _prove(title, caller, calls)
        spot = _spot(caller, watch)
        if spot is not None:
            found.append((spot, caller, _stack(spot.layer, modules)))
    if not found:
        raise UnsupportedModel(
            f"Sparse-GIN found no list of layers in {title} whose attention it could read"
        )
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        _warn_of_silent_stacks(
            title,
            {_stack(layer, modules) for layer in watch.steps} - {stack for _, _, stack in found},
        )
    layers = []
    for order, (spot, caller, stack) in enumerate(found):
        stacks = [other for _, _, other in found]
        query = watch.calls[caller][0].query
        common = {
            "attention": spot.attention,
            "layer": modules[spot.layer],
            "caller": modules[caller],
            "num_heads": query.shape[1],
        }
        common |= {
            "position": stacks[:order].count(stack),
            "count": stacks.count(stack),
            "order": order,
        }
        places = {
            name: _make(spot.layer, place, query.shape[2], common)
            for name, place in spot.places.items()
        }
        layers.append(FrozenLayer(spot.attention, places))
    return layers


def require_place(model: nn.Module, layer: FrozenLayer, placement: str) -> Place:
    """The place of that name, or an error that says why there is none."""
    place = layer.places[placement]
    if place is not None:
        return place
    title = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    others = " or ".join(
        f"placement={name!r}" for name, there in layer.places.items() if there is not None
    )
    raise UnsupportedModel(
        f"{layer.attention} of this {title!r} model {_LACKING[placement]}, so Sparse-GIN with "
        f"placement={placement!r} cannot stand there; "
        + (f"use {others}" if others else "it has no other place either")
    )


_LACKING = {
    "before_mlp": "has no point where residual + attention exists before the feed-forward block "
    "(attention and feed-forward run side by side on the same residual, or one of "
    "the two is scaled before they are added)",
    "after_mlp": "is in a layer without a module whose output, with its residual, is the layer's "
    "output",
    "beside_mlp": "is in a layer whose output is not residual + attention + feed-forward "
    "(its feed-forward block does not run side by side with its attention)",
}


@dataclass(frozen=True)
class _Spot:
    """One attention module's layer, and the places in it."""

    layer: str
    attention: str
    places: dict[str, Found | None]


def _spot(caller: str, watch: _Watch) -> _Spot | None:
    """The innermost layer around an attention module in which its output meets the residual;
    without any, the innermost.

    T5 has lists in lists: one for the layers, and in each of them one of attention and
    feed-forward.
    """
    spots = []
    for layer in sorted(watch.steps, key=len, reverse=True):
        own = watch.steps[layer]
        index = next(
            (i for i, step in enumerate(own) if f"{caller}.".startswith(f"{layer}.{step.name}.")),
            None,
        )
        if index is None:
            continue
        part = f"{layer}.{own[index].name}"
        places = {
            "before_mlp": steps.before_mlp(own, index, nested=part != caller),
            "after_mlp": steps.after_mlp(own, index, watch.results[layer]),
            "beside_mlp": steps.beside_mlp(own, index, watch.results[layer]),
        }
        if places["before_mlp"] is not None:
            # where they run one after the other the three add up to the result as well
            places["beside_mlp"] = None
        # part of a list: its number is no name to be chosen by
        named = not part.rpartition(".")[2].isdigit()
        spots.append(_Spot(layer, part if named else caller, places))
    return next(
        (spot for spot in spots if spot.places["before_mlp"] or spot.places["beside_mlp"]),
        spots[0] if spots else None,
    )


def _stack(layer: str, modules: dict[str, nn.Module]) -> str:
    """The outermost list around a layer."""
    parts = layer.split(".")
    names = (".".join(parts[:end]) for end in range(1, len(parts)))
    return next((name for name in names if isinstance(modules.get(name), nn.ModuleList)), "")


def _warn_of_silent_stacks(title: str, stacks: set[str]) -> None:
    if stacks:
        warnings.warn(
            f"Sparse-GIN cannot read the attention of {', '.join(sorted(stacks))} in {title}, "
            "which does not call transformers' AttentionInterface: these layers get no adapter, "
            "the other stack does",
            stacklevel=2,
        )


def _make(layer: str, found: Found | None, tokens: int, common: dict[str, Any]) -> Place | None:
    if found is None or found[0].out is None:
        return None
    changed, residual = found
    assert changed.out is not None
    # the layer's stream has other tokens than its attention
    if changed.out.shape[:-1].numel() != tokens:
        return None
    return Place(
        name=f"{layer}.{changed.name}",
        module=changed.module,
        residual=None if residual is None else residual.module,
        hidden_size=changed.out.shape[-1],
        **common,
    )


def _prove(title: str, name: str, calls: list[Attention]) -> None:
    """That the graph's weights, with no edge cut, times the values give the model's attention
    output; and that it is over one sequence.
    """
    for call in calls:
        if call.query.shape[0] != 1:
            raise UnsupportedModel(
                f"Sparse-GIN cannot read the attention of {title}: {name} made "
                f"{call.query.shape[0]} sequences of one (windows), whose tokens are in another "
                "order than the layer's"
            )
        if not call.causal:  # an image may have a thousand tokens, and a few rows prove as much
            call = call.of_receivers(slice(0, TOKENS))
        if not steps.same(call.made_again(), call.output, loose=True):
            raise UnsupportedModel(
                f"Sparse-GIN cannot read the attention of {title}: the softmax of {name}'s queries "
                "and keys is not its attention"
            )


def _watched(model: nn.Module) -> tuple[_Watch, Tensor]:
    """A pass with hooks on what each member of a list of modules calls, and ears at all modules."""
    watch, handles, ears = _Watch(), [], []

    def hook(layer: str, name: str) -> Any:
        def after(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            step = Step(name, module, steps.stream_in(args, kwargs), steps.stream_out(output))
            watch.steps.setdefault(layer, []).append(step)

        return after

    def result(layer: str) -> Any:
        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            watch.results[layer] = steps.stream_out(output)

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
                handles += [
                    child.register_forward_hook(hook(path, key), with_kwargs=True)
                    for key, child in _called(layer)
                ]
    try:
        out = probe.run(model)
    finally:
        for handle in handles:
            handle.remove()
        for _, module, ear in ears:
            capture.ignore(module, ear)
    watch.calls = {name: ear.calls for name, _, ear in ears if ear.calls}
    return watch, out


def _called(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that a layer calls: its children, and of lists, which are not called, theirs."""
    called = []
    for name, child in layer.named_children():
        inside = child.named_children() if isinstance(child, nn.ModuleList) else ()
        called += [(f"{name}.{number}", part) for number, part in inside] or [(name, child)]
    return called
