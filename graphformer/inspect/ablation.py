"""What the model loses without a head or without edges: importance by intervention, not by
salience.

A head is cut by taking its output out of its layer's: ``y_h = 0``, or its mean over the tokens
that are real. An edge is cut by taking its message out: ``y_hi -= w_hij v_j``; the other weights
of the row keep their softmax values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graphformer.backends import aggregate
from graphformer.errors import require, require_known, strict_flags
from graphformer.frozen.reading import Call, reading
from graphformer.graph import AttentionGraph
from graphformer.inspect.readers.pretrained import bound
from graphformer.nn.tokens import GraphAttention

if TYPE_CHECKING:
    import pandas

Heads = Sequence[tuple[int | str, int]]
Gate = Callable[[int, str, Tensor], "Tensor | None"]


@contextmanager
def cut(
    model: nn.Module,
    *,
    heads: Heads = (),
    edges: Mapping[int | str, AttentionGraph] | None = None,
    value: str = "zero",
) -> Iterator[None]:
    """The model without these heads and edges, inside and in this thread.

    >>> with gf.inspect.cut(model, heads=[(3, 7)]):
    ...     loss = model(**inputs, labels=labels).loss

    Args:
        heads: layer (number in the order of the pass, or name) and head.
        edges: by layer, edges to be cut, lanes ``(B, H)``: parts of what
            :func:`graphformer.inspect.graphs` returned for the same input, weights included. Of
            pre-trained models alone.
        value: what stands in a head's place: ``"zero"``, or ``"mean"`` over the tokens.

    Raises:
        ValueError: no such layer or head was called; edges of a model of this library.
    """
    require_known("value", value, ("zero", "mean"))
    edges = dict(edges or {})
    if not heads and not edges:
        raise ValueError("nothing is cut: give heads=[(layer, head)] or edges={layer: graph}")
    wanted: dict[int | str, list[int]] = {}
    for layer, head in heads:
        wanted.setdefault(layer, []).append(head)
    met: set[int | str] = set()

    def change(number: int, name: str, out: Tensor) -> Tensor | None:
        numbers: list[int] = []
        for key in (number, name):
            if key in wanted:
                met.add(key)
                numbers += wanted[key]
        if not numbers:
            return None
        if max(numbers) >= out.shape[2] or min(numbers) < 0:
            raise ValueError(f"heads={list(heads)}: {name} has {out.shape[2]} heads, from 0 on")
        there = torch.zeros(out.shape[2], dtype=torch.bool, device=out.device)
        there[numbers] = True
        instead = out.mean(1, keepdim=True) if value == "mean" else torch.zeros_like(out[:, :1])
        return torch.where(there.view(1, 1, -1, 1), instead, out)

    def remove(call: Call, out: Tensor) -> Tensor:
        for key in (call.number, call.name):
            if key in edges:
                met.add(key)
                out = out - _messages(edges[key], call)
        return out

    with _gated(model, change, remove if edges else None):
        yield
    if missing := [key for key in (*wanted, *edges) if key not in met]:
        raise ValueError(f"layers {missing} were not called, so nothing of them was cut")


@strict_flags
def ablate(
    model: nn.Module,
    *,
    heads: Heads | None = None,
    method: str = "cut",
    value: str = "zero",
    loss: Callable[[Any], Tensor] | None = None,
    progress: bool = True,
    **inputs: Any,
) -> pandas.DataFrame:
    r"""The change of the loss when a head is cut, a row for each head: positive where the head
    helps.

    >>> table = gf.inspect.ablate(model, input_ids=ids, labels=ids)
    >>> table.nlargest(10, "change")

    Args:
        heads: which, ``(layer, head)``; None for all.
        method: ``"cut"``, exact, a forward pass for each head; or ``"gradient"``, its first-order
            estimate ``- dL / d xi_h`` with a gate ``xi_h = 1`` at each head's output
            (arXiv 1905.10650), for all heads in one pass forwards and backwards.
        value: as in :func:`cut`; the gradient is that of ``"zero"``.
        loss: from the model's output; ``output.loss`` unless given, which needs ``labels``.
        progress: a bar (tqdm), where the output is a terminal.
        inputs: what the model is called with.

    Raises:
        ValueError: there is no loss, or an argument does not fit. MissingExtra: no pandas.
    """
    pandas = require("pandas", extra="viz", why="a table of ablations")
    require_known("method", method, ("cut", "gradient"))
    bound(model, (), inputs, ("heads", "method", "value", "loss", "progress"))
    if method == "gradient" and value != "zero":
        raise ValueError(f"value={value!r} is not read by method='gradient': use method='cut'")

    def run() -> Tensor:
        out = model(**inputs)
        found = getattr(out, "loss", None) if loss is None else loss(out)
        if not isinstance(found, Tensor) or found.numel() != 1:
            raise ValueError(
                "ablate needs a loss: give labels=..., or loss=lambda output: a scalar tensor"
            )
        return found

    seen: list[tuple[int, str, int]] = []

    def look(number: int, name: str, out: Tensor) -> None:
        if number == len(seen):  # a layer that is called twice is one to be cut
            seen.append((number, name, out.shape[2]))

    with torch.no_grad(), _gated(model, look):
        base = float(run())
    chosen = [
        (number, name, head)
        for number, name, count in seen
        for head in range(count)
        if heads is None or (number, head) in heads or (name, head) in heads
    ]
    if heads is not None and len(chosen) < len(set(heads)):
        raise ValueError(
            f"heads={list(heads)} are not all there: the pass had {len(seen)} layers of "
            f"{sorted({count for _, _, count in seen})} heads"
        )
    if method == "gradient":
        changes = _slopes(model, run, seen)
        rows = [(*one, base + changes[one[0], one[2]], changes[one[0], one[2]]) for one in chosen]
    else:
        from tqdm.auto import tqdm

        rows = []
        for number, name, head in tqdm(chosen, disable=None if progress else True, unit="head"):
            with torch.no_grad(), cut(model, heads=[(number, head)], value=value):
                without = float(run())
            rows.append((number, name, head, without, without - base))
    return pandas.DataFrame(rows, columns=["layer", "name", "head", "loss", "change"])


def _slopes(
    model: nn.Module, run: Callable[[], Tensor], seen: list[tuple[int, str, int]]
) -> dict[tuple[int, int], float]:
    gates: dict[int, Tensor] = {}

    def gate(number: int, name: str, out: Tensor) -> Tensor:
        if number not in gates:
            gates[number] = torch.ones(out.shape[2], device=out.device, requires_grad=True)
        return out * gates[number].to(out.dtype).view(1, 1, -1, 1)

    with torch.enable_grad(), _gated(model, gate):
        grads = torch.autograd.grad(run(), [gates[number] for number, _, _ in seen])
    return {
        (number, head): -float(grad[head])
        for (number, _, count), grad in zip(seen, grads, strict=True)
        for head in range(count)
    }


def _messages(graph: AttentionGraph, call: Call) -> Tensor:
    """``sum w_ij v_j`` over the edges of a graph, ``[B, Nq, H, dv]``."""
    value, query = call.attention.value, call.attention.query
    sizes = (query.shape[:2], query.shape[2], value.shape[2])
    if (graph.batch_shape, graph.num_receivers, graph.num_senders) != sizes:
        raise ValueError(
            f"the edges to cut in {call.name} must have lanes {tuple(sizes[0])}, {sizes[1]} "
            f"receivers and {sizes[2]} senders, got {graph}: read them with all heads, merge=None"
        )
    value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return aggregate(graph, value.to(graph.weight.dtype)).transpose(1, 2).to(value.dtype)


@contextmanager
def _gated(
    model: nn.Module, gate: Gate, remove: Callable[[Call, Tensor], Tensor] | None = None
) -> Iterator[None]:
    """``gate(number, name, heads' output [B, N, H, d])`` may change every layer's output."""
    model = getattr(model, "_orig_mod", model)
    own = {
        layer: name for name, layer in model.named_modules() if isinstance(layer, GraphAttention)
    }
    if own:
        if remove is not None:
            raise ValueError(
                "edges can be cut in pre-trained models; in a model of this library an operator "
                "may not be a sum of messages: cut heads, or give its layers a sparsifier"
            )
        with _hooked(own, gate):
            yield
        return

    def hear(call: Call) -> Tensor | None:
        out = call.attention.output
        if remove is not None:
            out = remove(call, out)
        changed = gate(call.number, call.name, out)
        if changed is None:
            return None if remove is None else out
        return changed

    with reading(model, hear):
        yield


@contextmanager
def _hooked(layers: dict[Any, str], gate: Gate) -> Iterator[None]:
    """The same for layers of this library: before the output map, where there is one."""
    here = threading.get_ident()
    numbers: dict[Any, int] = {}  # in the order of their first call, the same in every pass

    def change(layer: Any, out: Tensor) -> Tensor | None:
        if threading.get_ident() != here:
            return None
        if layer.update.num_outputs(layer.num_heads) != layer.num_heads:
            raise ValueError(
                f"{layers[layer]}: update={layer.update.name!r} makes one output of several heads, "
                "which cannot be cut by themselves"
            )
        heads = out.unflatten(-1, (layer.num_heads, layer.head_dim))
        changed = gate(numbers.setdefault(layer, len(numbers)), layers[layer], heads)
        return None if changed is None else changed.flatten(-2)

    def before(layer: Any) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            changed = change(layer, args[0])
            return None if changed is None else (changed, *args[1:])

        return hook

    def after(layer: Any, args: Any, out: Any) -> Any:
        changed = change(layer, out[0] if isinstance(out, tuple) else out)
        if changed is None:
            return None
        return (changed, *out[1:]) if isinstance(out, tuple) else changed

    with ExitStack() as stack:
        for layer in layers:
            handle = (
                layer.register_forward_hook(after)
                if layer.o_proj is None
                else layer.o_proj.register_forward_pre_hook(before(layer))
            )
            stack.callback(handle.remove)
        yield
