"""Reading models of this library over tokens: the slots of every layer once more, with a further
cut.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from graphformer.attention.build import build, refined
from graphformer.attention.candidates import Coarsened
from graphformer.attention.pairs import Listed
from graphformer.attention.problem import Problem
from graphformer.attention.watching import watching
from graphformer.graph import AttentionGraph
from graphformer.graph.lanes import some_lanes
from graphformer.inspect.readers.pretrained import bound, cut_text, finished
from graphformer.inspect.reading import Wanted
from graphformer.inspect.sequences import padding_cut
from graphformer.inspect.streamed import MEASURES, Streamed, of_problem
from graphformer.inspect.value import LayerGraph, ModelGraphs, Nodes, padding_of
from graphformer.nn.tokens import GraphAttention


def read(
    model: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any], wanted: Wanted
) -> ModelGraphs:
    """Call the model and read its layers. A layer's own sparsifier holds; ``wanted.sparsify`` cuts
    what it kept.
    """
    given = bound(model, args, inputs)
    mask = given.get("attention_mask")
    mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
    names = {layer: name for name, layer in model.named_modules()}
    here, running = threading.get_ident(), []
    seen: list[tuple[int, str]] = []
    layers: list[LayerGraph] = []

    def enter(layer: nn.Module, *_: Any) -> None:
        if threading.get_ident() == here:
            running.append(names[layer])

    def leave(layer: nn.Module, *_: Any) -> None:
        if threading.get_ident() == here:
            running.pop()

    def see(problem: Problem, x: Tensor) -> None:
        if not running:
            return
        name = running[-1]
        seen.append((len(seen), name))
        if wanted.takes(*seen[-1]):
            layers.append(_layer(name, problem, x, mask, wanted))

    attentions = [layer for layer in names if isinstance(layer, GraphAttention)]
    handles = [layer.register_forward_pre_hook(enter) for layer in attentions]
    handles += [layer.register_forward_hook(leave, always_call=True) for layer in attentions]
    try:
        with watching(see):
            model(*args, **inputs)
    finally:
        for handle in handles:
            handle.remove()
    wanted.require(seen)
    graph = layers[0].graph
    batch, count = graph.batch_shape[0], graph.num_senders
    keep = padding_of(mask, batch, count, graph.device)
    ids = given.get("input_ids")
    fits = isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape[1] == count
    nodes = {"tokens": Nodes(keep, ids=ids if fits else None)}
    return ModelGraphs(tuple(layers), nodes, type(model).__name__, cut_text(wanted))


def _layer(
    name: str, problem: Problem, x: Tensor, mask: Tensor | None, wanted: Wanted
) -> LayerGraph:
    if isinstance(problem.rule, Coarsened):
        raise ValueError(
            f"{name} has blocks or persistent senders, and what is measured and drawn here is "
            "tokens: take model(..., output_graphs=True).graphs, whose first senders are the tokens"
        )
    batch, count, num_receivers, num_senders = problem.sizes
    heads = wanted.heads_of(count, name)
    graph = cut(build(problem), wanted) if problem.edges is not None else _built(problem, wanted)
    senders = padding_of(mask, batch, num_senders, graph.device)
    receivers = padding_of(mask, batch, num_receivers, graph.device)
    graph = padding_cut(graph, senders, receivers)
    norm = x.detach().norm(dim=-1).repeat_interleave(count // x.shape[1], dim=1)
    streamed = None
    if wanted.streamed and problem.edges is None:
        streamed = of_problem(
            problem, MEASURES, receivers=receivers, first=senders.int().argmax(-1)
        )
    if wanted.heads is not None:
        lanes = [sequence * count + head for sequence in range(batch) for head in heads]
        graph, norm = some_lanes(graph, lanes, (batch, len(heads))), norm[:, heads]
        if streamed is not None:
            streamed = Streamed(**{key: value[:, heads] for key, value in streamed.items().items()})
    return finished(name, False, graph, "tokens", "tokens", heads, norm, streamed, wanted)


def _built(problem: Problem, wanted: Wanted) -> AttentionGraph:
    """The layer's graph, cut in the pass that finds its edges where one rule can say both."""
    own, more = problem.sparsify, wanted.sparsify
    if own is None and more is not None:
        return build(replace(problem, sparsify=more))
    return cut(build(problem), wanted)


def cut(graph: AttentionGraph, wanted: Wanted) -> AttentionGraph:
    """What is kept of a graph whose edges are there already, lanes ``(B, H)`` or ``(H,)``."""
    if wanted.sparsify is None:
        return graph
    heads = graph.batch_shape[-1]
    graph = graph.select(wanted.sparsify.keep(graph.weight.detach(), Listed.of(graph, heads)))
    return refined(wanted.sparsify, graph, heads)
