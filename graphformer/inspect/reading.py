"""graphs: the exact attention graphs of any transformer, read in one pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphformer.attention import Threshold
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.attention.sparsifiers import check as check_sparsifier
from graphformer.errors import require_flag, require_known, strict_flags, whole
from graphformer.inspect.value import ModelGraphs


@dataclass(frozen=True, eq=False)
class Wanted:
    """What of a pass is read.

    Attributes:
        layers: numbers in the order of the pass, or names; None for all.
        heads: numbers; None for all.
        sparsify: the rule that keeps edges, on the weights as the model has them; None: all.
        merge: how heads are merged after they were cut; None keeps them apart.
        streamed: whether the measures of all weights are read too.
        grad: whether weights are differentiable in the model's parameters.
    """

    layers: tuple[int | str, ...] | None
    heads: tuple[int, ...] | None
    sparsify: Sparsifier | None
    merge: str | None
    streamed: bool
    grad: bool

    def takes(self, number: int, name: str) -> bool:
        """Whether a layer is wanted."""
        return self.layers is None or number in self.layers or name in self.layers

    def require(self, seen: Sequence[tuple[int, str]]) -> None:
        """ValueError for layers asked for that the pass did not have."""
        numbers, names = zip(*seen, strict=True) if seen else ((), ())
        missing = [one for one in self.layers or () if one not in (*numbers, *names)]
        if missing:
            raise ValueError(
                f"layers={missing}: the pass had {len(seen)} layers, numbered from 0: "
                + ", ".join(names)
            )

    def heads_of(self, count: int, name: str) -> list[int]:
        """The numbers of the heads to read, of ``count``."""
        if self.heads is None:
            return list(range(count))
        for head in self.heads:
            if head >= count:
                raise ValueError(f"heads={list(self.heads)}: {name} has {count} heads, from 0 on")
        return list(self.heads)


@strict_flags
def graphs(
    model: nn.Module,
    *args: Any,
    layers: int | str | Sequence[int | str] | None = None,
    heads: int | Sequence[int] | None = None,
    sparsify: Sparsifier | None = Threshold(0.02),  # noqa: B008
    merge: str | None = None,
    streamed: bool = False,
    grad: bool = False,
    tokenizer: Any = None,
    tokens: Sequence[str] | Sequence[Sequence[str]] | None = None,
    **inputs: Any,
) -> ModelGraphs:
    r"""The attention graph of every head of every layer, exact, from one call of the model.

    .. math::
        w_{hi\cdot} = \mathrm{softmax}_j(s_{hij}), \qquad
        E_h = \{(j \to i) : \mathrm{sparsify}(w_{hi\cdot})_j\}

    The scores are the model's own, with its rotary positions, soft caps, biases, sinks, windows and
    masks. No N x N matrix is held: a softmax row has fewer than ``1 / tau`` entries above ``tau``,
    so ``Threshold(0.02)`` keeps at most 50 edges a row. The model's weights, configuration and
    attention implementation are left as they were, and every call is checked: its last receivers'
    weights times the values must be the model's output.

    >>> inputs = tokenizer("The cat sat on the mat", return_tensors="pt")
    >>> graphs = gf.inspect.graphs(model, **inputs, tokenizer=tokenizer)
    >>> graphs[3, 7].to_networkx()

    Args:
        model: a transformers model whose attention the adapters can read (encoders, decoders, both
            stacks of T5 and BART with their cross-attention, vision transformers), one with PEFT
            adapters, a model of this library, or a :class:`~graphformer.GraphTransformer`.
        args, inputs: what the model is called with: ``input_ids``, ``attention_mask``, a batch of
            graphs. Nodes that an ``attention_mask`` ``[B, N]`` calls padding have no edges.
        layers: numbers in the order in which the layers run, from 0, or their modules' names.
        heads: numbers, from 0.
        sparsify: which weights stay as edges; ``None`` keeps every pair (memory N x N).
        merge: ``"sum"``, ``"mean"`` or ``"max"`` over heads, each of which is cut first.
        streamed: also measure all weights, cut or not (:mod:`graphformer.inspect.streamed`).
        grad: weights that are differentiable in the model's parameters; without, nothing of the
            pass is kept for autograd.
        tokenizer: turns ``input_ids`` into labels.
        tokens: the labels themselves, one a node: a list, or a list for each sequence.

    Raises:
        UnsupportedModel: the attention of this architecture cannot be read (a ValueError).
        NotImplementedError: the model runs flash or flex attention; load it with
            ``attn_implementation="sdpa"``.
        ValueError, TypeError: an argument that does not fit.
    """
    require_flag("streamed", streamed)
    require_flag("grad", grad)
    if merge is not None:
        require_known("merge", merge, ("sum", "mean", "max"))
    if tokenizer is not None and tokens is not None:
        raise ValueError("tokenizer and tokens are given: labels come from one of them")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, got {type(model).__name__}")
    wanted = Wanted(
        _layers(layers),
        _heads(heads),
        check_sparsifier(sparsify),
        merge,
        streamed,
        grad,
    )
    model = getattr(model, "_orig_mod", model)  # of torch.compile, which cannot be looked into
    with torch.set_grad_enabled(grad):
        found = _reader(model)(model, args, inputs, wanted)
    return _labelled(found, tokenizer, tokens)


def _reader(model: nn.Module) -> Any:
    """Who reads this model."""
    from graphformer.nn.tokens import GraphAttention

    if is_network(model):
        from graphformer.inspect.readers.networks import read
    elif any(isinstance(module, GraphAttention) for module in model.modules()):
        from graphformer.inspect.readers.layers import read
    else:
        from graphformer.inspect.readers.pretrained import read
    return read


def is_network(model: nn.Module) -> bool:
    """Whether it is a GraphTransformer. Who has made one has imported its module, which takes long
    and is of no use to others.
    """
    home = sys.modules.get("graphformer.models.graphs.transformer")
    return home is not None and isinstance(model, home.GraphTransformer)


def _layers(layers: Any) -> tuple[int | str, ...] | None:
    if layers is None:
        return None
    chosen = [layers] if isinstance(layers, (int, str)) else list(layers)
    for one in chosen:
        if not isinstance(one, str):
            whole("layers", one, 0)
    if not chosen:
        raise ValueError("layers=[] asks for no layer: leave it out for all")
    return tuple(chosen)


def _heads(heads: Any) -> tuple[int, ...] | None:
    if heads is None:
        return None
    chosen = [heads] if isinstance(heads, int) else list(heads)
    for one in chosen:
        whole("heads", one, 0)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"heads={chosen} must name at least one head, and each once")
    return tuple(chosen)


def _labelled(found: ModelGraphs, tokenizer: Any, tokens: Any) -> ModelGraphs:
    from graphformer.inspect.labels import from_tokenizer, given

    if tokenizer is not None:
        return from_tokenizer(found, tokenizer)
    return found if tokens is None else given(found, tokens)
