"""Reading pre-trained transformers: their own attention runs on, and is watched."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import TransformersKwargs

from graphformer.attention.sparsifiers import Threshold
from graphformer.errors import did_you_mean
from graphformer.frozen.formulas import differentiable_graph
from graphformer.frozen.probe import UnsupportedModel, inner, title
from graphformer.frozen.reading import Call, prove, reading
from graphformer.graph import AttentionGraph
from graphformer.inspect.reading import Wanted
from graphformer.inspect.sequences import padding_cut
from graphformer.inspect.streamed import of_attention
from graphformer.inspect.value import LayerGraph, ModelGraphs, Nodes, padding_of

OPTIONS = ("layers", "heads", "sparsify", "merge", "streamed", "grad", "tokenizer", "tokens")
"""What a caller may have misspelt, beside the model's own arguments."""
EVERY = Threshold(-1.0, signed=True)  # weights of a softmax are above it


def read(
    model: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any], wanted: Wanted
) -> ModelGraphs:
    """Call the model and read its layers."""
    given = bound(model, args, inputs)
    # A cache is of no use after one pass, and with one transformers does not see packed texts.
    if "use_cache" in parameters_of(model) and given.get("past_key_values") is None:
        inputs = {"use_cache": False, **inputs}
    layers: list[LayerGraph] = []
    seen: list[tuple[int, str]] = []
    sides = _Sides(model, given)

    def hear(call: Call) -> None:
        seen.append((len(seen), call.name))  # a layer that is called twice is two
        sides.check(call)
        if not wanted.takes(*seen[-1]):
            return
        if not model.training:  # dropout makes another output of the same weights
            prove(model, call)
        layers.append(_layer(call, sides, wanted))

    with reading(model, hear):
        model(*args, **inputs)
    sides.tell_missing()
    wanted.require(seen)
    used = {side for layer in layers for side in (layer.receivers, layer.senders)}
    nodes = {side: one for side, one in sides.nodes().items() if side in used}
    return ModelGraphs(tuple(layers), nodes, title(model), cut_text(wanted))


def cut_text(wanted: Wanted) -> str:
    """What was cut, for titles."""
    return "every pair" if wanted.sparsify is None else str(wanted.sparsify)


def bound(
    model: nn.Module,
    args: tuple[Any, ...],
    inputs: dict[str, Any],
    options: tuple[str, ...] = OPTIONS,
) -> dict[str, Any]:
    """The call's arguments by name.

    Raises:
        TypeError: one that the model does not read. Many models take any keyword and say nothing.
    """
    known = parameters_of(model)
    for name in inputs:
        if name not in known:
            hint = did_you_mean(name, [*known, *options])
            raise TypeError(f"{type(inner(model)).__name__} reads no argument {name!r}{hint}")
    return dict(zip(known, args, strict=False)) | inputs


def parameters_of(model: nn.Module) -> list[str]:
    """The names of the arguments that a model reads."""
    parameters = inspect.signature(inner(model).forward).parameters
    known = [name for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD]
    if len(known) < len(parameters):  # what transformers' models hand on to each other
        known += [*TransformersKwargs.__annotations__, "use_cache", "return_dict"]
    return [*known, *(["adapter_names"] if hasattr(model, "peft_config") else [])]


def _layer(call: Call, sides: _Sides, wanted: Wanted) -> LayerGraph:
    attention = call.attention if wanted.grad else call.attention.detach()
    heads = wanted.heads_of(attention.query.shape[1], call.name)
    if wanted.heads is not None:
        attention = attention.of_heads(heads)
    sparsify = EVERY if wanted.sparsify is None else wanted.sparsify
    if wanted.grad:
        graph = differentiable_graph(attention, sparsify)
    else:
        graph = attention.graph(sparsify, merged=False, clamp=None)
    receivers, senders = sides.of(call)
    keep = sides.keep(receivers, attention.query.shape[2])
    graph = padding_cut(graph, sides.keep(senders, attention.key.shape[2]), keep)
    norm = attention.value.detach().norm(dim=-1)
    norm = norm.repeat_interleave(graph.batch_shape[1] // norm.shape[1], dim=1)
    streamed = None
    if wanted.streamed:
        measures = ("sender_mass", "entropy", "distance", "sink")
        streamed = of_attention(
            attention,
            [name for name in measures if not (call.cross and name == "distance")],
            receivers=keep,
            first=sides.keep(senders, attention.key.shape[2]).int().argmax(-1),
        )
    return finished(call.name, call.cross, graph, receivers, senders, heads, norm, streamed, wanted)


def finished(
    name: str,
    cross: bool,
    graph: AttentionGraph,
    receivers: str,
    senders: str,
    heads: list[int],
    norm: Tensor | None,
    streamed: Any,
    wanted: Wanted,
) -> LayerGraph:
    """A layer's graph with its heads merged, where that is wanted."""
    merged = wanted.merge is not None
    return LayerGraph(
        name,
        "cross" if cross else "self",
        graph.merge_heads(wanted.merge) if wanted.merge is not None else graph,
        receivers,
        senders,
        () if merged else tuple(heads),
        None if merged else norm,
        streamed,
    )


class _Sides:
    """The texts of a pass: ``"tokens"``, or ``"encoder"`` and ``"decoder"`` of a model with both
    stacks; ``"image"``.
    """

    def __init__(self, model: nn.Module, given: dict[str, Any]) -> None:
        self.model, self.given = model, given
        self.stacks = _stacks(model)
        config = getattr(inner(model), "config", None)
        one_stack = bool(getattr(config, "is_encoder_decoder", False)) and not self.stacks
        reads_another = "encoder_hidden_states" in parameters_of(model)
        self.alone = "encoder" if one_stack and not reads_another else "tokens"
        self.image = isinstance(given.get("pixel_values"), Tensor)
        length = getattr(given.get("past_key_values"), "get_seq_length", None)
        self.past = None if length is None else int(length())
        self.counts: dict[str, tuple[int, int, torch.device]] = {}
        self.ran: set[str] = set()

    def of(self, call: Call) -> tuple[str, str]:
        """The sides of receivers and senders."""
        if not self.stacks:
            side = "image" if self.image else self.alone
            return side, "context" if call.cross else side
        if call.cross:
            return "decoder", "encoder"
        side = self.stacks.get(call.name, "encoder")
        return side, side

    def tell_missing(self) -> None:
        """Warn of a stack none of whose layers ran: the graphs are without it."""
        for side in sorted(set(self.stacks.values()) - set(self.ran)):
            how = (
                "encoder_outputs is given, which stands in its place; call the model with input_ids"
                if self.given.get("encoder_outputs") is not None
                else "call the whole model, with input_ids and decoder_input_ids"
            )
            warnings.warn(
                f"no attention of the {side} of {title(self.model)} ran, and the graphs are those "
                f"of the other stack alone: {how} to have both",
                stacklevel=6,
            )

    def check(self, call: Call) -> None:
        """Note the sizes.

        Raises:
            UnsupportedModel: a layer folds windows into sequences, or pools its tokens.
            ValueError: a cache has let go of tokens, so that senders are not the first ones.
        """
        if not call.cross:
            self.ran.add(self.of(call)[0])
        batch, _, num_receivers, _ = call.attention.query.shape
        num_senders = call.attention.key.shape[2]
        receivers, senders = self.of(call)
        if self.past is not None and not call.cross and num_senders < self.past + num_receivers:
            raise ValueError(
                f"past_key_values has let go of tokens: {call.name} sees {num_senders} of "
                f"{self.past + num_receivers}, as caches of sliding windows keep the last ones, "
                "and its senders would be numbered from another token. Fill and give "
                "past_key_values=DynamicCache(), without config, which keeps all"
            )
        if not call.cross:  # keys of a cache count too
            num_receivers = max(num_receivers, num_senders)
        for side, count in ((receivers, num_receivers), (senders, num_senders)):
            known = self.counts.setdefault(side, (batch, count, call.attention.query.device))
            if known[0] != batch or (known[1] != count and not (call.cross and side == receivers)):
                grows = "; past_key_values=DynamicCache() keeps the same for all"
                raise UnsupportedModel(
                    f"the attention of {title(self.model)} cannot be read as graphs over one "
                    f"sequence: {call.name} has {batch} sequences of {count} {side}, another layer "
                    f"{known[0]} of {known[1]} (windows, or pooled tokens){grows * bool(self.past)}"
                )

    def keep(self, side: str, count: int) -> Tensor:
        """Bool ``[B, count]``: the last nodes of a side that are real."""
        batch, _, device = self.counts[side]
        names = {
            "decoder": "decoder_attention_mask",
            "context": "encoder_attention_mask",
            "image": "",
        }
        mask = self.given.get(names.get(side, "attention_mask"))
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            return padding_of(None, batch, count, device)
        if mask.shape[1] < count and self.given.get("past_key_values") is not None:
            raise ValueError(
                f"attention_mask has {mask.shape[1]} columns, and with past_key_values there are "
                f"{count} keys: give a mask of all keys, or a cache that grows (DynamicCache)"
            )
        if mask.shape[1] < count:  # what a prompt of vectors puts in front
            ones = mask.new_ones(batch, count - mask.shape[1])
            mask = torch.cat((ones, mask), 1)
        return padding_of(mask.expand(batch, -1), batch, count, device)

    def nodes(self) -> dict[str, Nodes]:
        """What stands at the nodes of each side."""
        found = {}
        for side, (_, count, _) in self.counts.items():
            ids = self.given.get(
                {"decoder": "decoder_input_ids", "context": "", "image": ""}.get(side, "input_ids")
            )
            fits = isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape[1] == count
            keep = self.keep(side, count)
            if side == "image":
                found[side] = patches(keep, self.given["pixel_values"], self.model)
            else:
                found[side] = Nodes(keep, ids=ids if fits else None)
        return found


def _stacks(model: nn.Module) -> dict[str, str]:
    """Of a model with an encoder and a decoder: which of them each module is in, by its name. Empty
    where it is one of them alone, or neither.
    """
    whole = inner(model)
    if not getattr(getattr(whole, "config", None), "is_encoder_decoder", False):
        return {}
    found = {"encoder": whole.get_encoder(), "decoder": whole.get_decoder()}
    if found["encoder"] is found["decoder"] or whole in found.values():
        return {}
    side = {id(module): name for name, stack in found.items() for module in stack.modules()}
    return {name: side[id(module)] for name, module in model.named_modules() if id(module) in side}


def patches(keep: Tensor, pixels: Tensor, model: nn.Module) -> Nodes:
    """An image's patches, row by row after the special tokens."""
    config = getattr(inner(model), "config", None)
    config = getattr(config, "vision_config", config)
    size = getattr(config, "patch_size", None)
    count = keep.shape[1]
    if not isinstance(size, int) or pixels.ndim != 4:
        return Nodes(keep, kind="patch")
    rows, columns = pixels.shape[-2] // size, pixels.shape[-1] // size
    special = count - rows * columns
    if special < 0:
        return Nodes(keep, kind="patch")
    first = ["[CLS]", *(f"[{i}]" for i in range(1, special))][:special]
    labels = (*first, *(f"{i},{j}" for i in range(rows) for j in range(columns)))
    return Nodes(keep, labels=(labels,) * len(keep), kind="patch", grid=(rows, columns))
