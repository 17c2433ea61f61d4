"""The linear layers of a model, which of them read one input, and which tokens that input is of:
found by watching short forward passes, so there is no table of architectures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graphformer.adapters.bottlenecks.runs import Stack
from graphformer.frozen import probe, steps
from graphformer.frozen.probe import UnsupportedModel


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer inside a list of layers.

    Attributes:
        path, module: its name and itself.
        within: its name seen from its layer, ``"self_attn.q_proj"``.
        layer: name of the layer; stack: of which stack.
        input: a number; those of a layer with one number read the same tensor.
        own_tokens: whether that tensor holds a row for each token of the stack.
        in_features, out_features: its widths.
    """

    path: str
    module: nn.Module
    within: str
    layer: str
    stack: Stack
    input: int
    own_tokens: bool
    in_features: int
    out_features: int

    @property
    def name(self) -> str:
        """Its path, or that of the layer of another adapter (LoRA) that wraps it: what configs name
        and PEFT walks over.
        """
        return self.path.removesuffix(".base_layer")


@dataclass
class _Seen:
    """What one pass showed: of linear layers what they got, of layers what they gave, of modules
    which of them got the ids.
    """

    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    results: dict[str, Tensor | None] = field(default_factory=dict)
    ids: dict[str, tuple[str, Tensor]] = field(default_factory=dict)


def examine(model: nn.Module) -> list[Linear]:
    """The linear layers of a model, in its order; nothing stays on it.

    Raises:
        UnsupportedModel: there are none in a list of layers, or nothing is known to feed it.
    """
    with probe.quiet(model), torch.no_grad():
        seen = _watch(model)
    paths = list(seen.inputs)
    if not paths:
        raise UnsupportedModel(
            f"{probe.title(model)} has no linear layer in a list of layers: bottlenecks cannot "
            "stand there"
        )
    modules, stacks = dict(model.named_modules()), {}
    found: list[Linear] = []
    for path in paths:
        layer, within = _split(path, modules)
        name = layer.rpartition(".")[0]
        if name not in stacks:
            stacks[name] = _stack(model, name, modules, seen)
        stack = stacks[name]
        inputs = seen.inputs[path]
        features = inputs[0].shape[-1]
        # a layer that is run again and again (ALBERT) reads an input each time
        number = next(
            (
                one.input
                for one in found
                if one.layer == layer and seen.inputs[one.path][0] is inputs[0]
            ),
            len(found),
        )
        tokens = stack.seen_tokens
        own = bool(tokens) and all(x.numel() == tokens * features for x in inputs)
        found.append(
            Linear(
                path,
                modules[path],
                within.removesuffix(".base_layer"),
                layer,
                stack,
                number,
                own,
                features,
                seen.outputs[path],
            )
        )
    return found


def candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers inside lists of layers, but those that adapters are made of."""
    modules = dict(model.named_modules())
    inside: list[str] = []
    for path, module in modules.items():
        if any(path.startswith(f"{other}.") for other in inside):
            # of a layer that PEFT has wrapped, the layer itself
            owner = next(other for other in reversed(inside) if path.startswith(f"{other}."))
            if path != f"{owner}.base_layer":
                continue
        if isinstance(module, BaseTunerLayer):
            inside.append(path)
        elif is_linear(module) and _split(path, modules) != ("", ""):
            yield path, module


def is_linear(module: nn.Module) -> bool:
    """``nn.Linear``, GPT-2's ``Conv1D``, or a quantized layer that says its widths as they do."""
    if isinstance(module, (nn.Linear, Conv1D)):
        return True
    widths = [getattr(module, name, None) for name in ("in_features", "out_features")]
    return all(isinstance(width, int) for width in widths) and not list(module.children())


def _split(path: str, modules: dict[str, nn.Module]) -> tuple[str, str]:
    """The outermost member of a list of modules that holds a path, and the rest of the path."""
    parts = path.split(".")
    for i in range(1, len(parts) - 1):
        if isinstance(modules.get(".".join(parts[:i])), nn.ModuleList):
            return ".".join(parts[: i + 1]), ".".join(parts[i + 1 :])
    return "", ""


def _stack(model: nn.Module, name: str, modules: dict[str, nn.Module], seen: _Seen) -> Stack:
    """Who runs a list of layers, over which tokens, and whether they see later ones."""
    above = [path for path in seen.ids if path == "" or name.startswith(f"{path}.")]
    layers = {path: modules[path] for path in seen.results if path.rpartition(".")[0] == name}
    title = probe.title(model)
    if not above:
        return Stack(title, name, model, probe.body(model), layers, None, False, 0, None)
    root = max(above, key=len)
    argument, ids = seen.ids[root]
    last = list(layers)[-1]
    with probe.quiet(model), torch.no_grad():
        again = _watch(model, argument_of=(root, argument), linears=False)
    before, after = seen.results[last], again.results[last]
    causal, width = False, None
    if before is not None and after is not None and before.shape[:-1] == ids.shape:
        causal = _unmoved(before, after)
        width = before.shape[-1]
    return Stack(title, name, model, modules[root], layers, argument, causal, ids.numel(), width)


def _unmoved(before: Tensor, after: Tensor) -> bool:
    """Whether all tokens but the last, which was changed, have what they had. In half precision
    rounding may differ where another token goes to another expert.
    """
    moved = (after.double() - before.double()).abs().mean((0, 2))
    exact = before.dtype in (torch.float32, torch.float64)
    return bool(moved[:-1].max() <= (1e-5 if exact else 1e-2) * moved[-1])


def _watch(
    model: nn.Module, argument_of: tuple[str, str] | None = None, linears: bool = True
) -> _Seen:
    """One pass. ``argument_of``: change the last token of what this module gets as ids."""
    seen, handles = _Seen(), []
    modules = dict(model.named_modules())

    def of_linear(path: str) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
        ) -> None:
            x = steps.stream_in(args, kwargs)
            if x is not None and isinstance(out, Tensor):
                seen.inputs.setdefault(path, []).append(x)
                seen.outputs[path] = out.shape[-1]

        return hook

    def of_layer(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            seen.results[path] = steps.stream_out(out)

        return hook

    def of_module(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            named = dict(zip(probe.parameters(module), args, strict=False)) | kwargs
            for name, value in named.items():
                if name.endswith("input_ids") and isinstance(value, Tensor):
                    seen.ids[path] = (name, value)
                    if argument_of == (path, name):
                        changed = value.clone()
                        changed[:, -1] = value[:, 0]
                        return (), {**named, name: changed}
            return None

        return hook

    for path, module in candidates(model):
        layer, _ = _split(path, modules)
        if linears:
            handles.append(module.register_forward_hook(of_linear(path), with_kwargs=True))
        if layer not in seen.results:
            seen.results[layer] = None
            handles.append(modules[layer].register_forward_hook(of_layer(layer)))
    for path, module in modules.items():
        if list(module.children()) and not isinstance(module, nn.ModuleList):
            handles.append(module.register_forward_pre_hook(of_module(path), with_kwargs=True))
    try:
        probe.run(model)
    finally:
        for handle in handles:
            handle.remove()
    # in the model's order, which hooks are not called in
    order = [path for path, _ in candidates(model) if path in seen.inputs]
    seen.inputs = {path: seen.inputs[path] for path in order}
    return seen
