"""The shell that every attention layer shares: projections, positions, cache, graph; the operator
does the rest.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from graphformer import backends
from graphformer.attention import normalizers, sparsifiers
from graphformer.attention.attend import attend
from graphformer.attention.build import EXECUTORS
from graphformer.attention.candidates import Edges, Rule
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.scores import Differential, ScaledDotProduct, Score
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.errors import number, require_known, whole
from graphformer.graph import AttentionGraph
from graphformer.nn.mlp import probability
from graphformer.nn.recompute import in_stretches
from graphformer.nn.rope import rotate
from graphformer.nn.scoring import DifferentialScoring, PairwiseScoring


class Operator(nn.Module):
    """What runs on the graph of each head; base of the operators in this package and of your own.

    ``reductions`` names what it needs from a receiver's senders (see
    :func:`graphformer.attention.attend`).
    """

    reductions: tuple[str, ...]

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        """Combine the reductions, each ``[B, H, Nq, D]``, with the receiver's own features
        ``[B, H, Nq, D]``.
        """
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Parameters as the constructor left them; an operator without any has nothing to do."""


def head_dim(hidden_size: int, num_heads: int, num_kv_heads: int | None) -> tuple[int, int]:
    """The width of a head and the number of key heads, checked."""
    for name, value in (("hidden_size", hidden_size), ("num_heads", num_heads)):
        whole(name, value)
    if hidden_size % num_heads:
        raise ValueError(
            f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}: every head "
            "takes an equal slice"
        )
    kv_heads = num_heads if num_kv_heads is None else whole("num_kv_heads", num_kv_heads, 0)
    if kv_heads < 1 or num_heads % kv_heads:
        raise ValueError(
            f"num_heads {num_heads} is not a multiple of num_kv_heads {kv_heads}: every key head "
            "serves an equal group"
        )
    return hidden_size // num_heads, kv_heads


def sharpening_start(sharpening: bool | float) -> float:
    """Where the factor of the scores starts: 1 for True, 0 (there is none) for False, or the number
    given.
    """
    return (
        float(sharpening)
        if isinstance(sharpening, bool)
        else float(number("sharpening", sharpening, above=0.0, hint="; or False"))
    )


SCORES = ("dot", "differential", "pairwise")


class Options(TypedDict, total=False):
    """Keyword arguments that every attention layer takes.

    Attributes:
        score: ``"dot"``, ``"differential"`` (:class:`DifferentialScoring`) or ``"pairwise"``
            (:class:`PairwiseScoring`).
        score_width: hidden units of a pairwise score; ``hidden_size`` unless given.
        value_projection: node features are a projection of the hidden states instead of their
            slices.
        output_projection: a linear map over the heads' outputs.
        attention_dropout: on the weights.
        layer_idx: place of this layer in a model's cache.
    """

    score: Literal["dot", "differential", "pairwise"]
    score_width: int | None
    value_projection: bool
    output_projection: bool
    attention_dropout: float
    layer_idx: int | None


class GraphAttention(nn.Module):
    """Hidden states in, hidden states out; an operator runs on the graph of each head. Base of the
    layers in this package.

    The sharpening parameter ``[1]`` starts at 1 and multiplies the scores before masking. Without a
    value projection the node features of head ``h`` are the ``h``-th slice of the hidden states, as
    in the paper.

    Under ``torch.compile`` a layer is one graph (``fullgraph=True``), also where it builds edges:
    that is one operator, whose backward pass builds them again. A break remains around the edges
    with ``output_graph=True``, with another score than the dot product, where a normalizer or
    sparsifier is trained, and where a rule, normalizer or sparsifier is made inside the compiled
    function.
    """

    def __init__(
        self,
        operator: Operator,
        *,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None,
        sharpening: bool | float,
        sparsify: Sparsifier | None,
        normalize: str | Normalizer,
        is_causal: bool,
        backend: str,
        executor: str,
        score: str = "dot",
        score_width: int | None = None,
        value_projection: bool = False,
        output_projection: bool = False,
        attention_dropout: float = 0.0,
        layer_idx: int | None = None,
    ) -> None:
        super().__init__()
        self.head_dim, self.num_kv_heads = head_dim(hidden_size, num_heads, num_kv_heads)
        self.hidden_size, self.num_heads, self.is_causal = hidden_size, num_heads, is_causal
        self.normalize, self.sparsify = normalizers.resolve(normalize), sparsifiers.check(sparsify)
        backends.get(backend)  # an unknown or missing one is reported here, not in the first step
        if executor not in (known := ("auto", "flash", *EXECUTORS)):
            raise ValueError(f"unknown executor {executor!r}; known: {', '.join(known)}")
        if executor == "flash" and backend != "auto":
            raise ValueError(
                f"executor='flash' builds no edges, and backend={backend!r} aggregates edges: give "
                "one of them"
            )
        if layer_idx is not None:
            whole("layer_idx", layer_idx, 0)
        self.backend, self.executor, self.layer_idx = backend, executor, layer_idx
        self.attention_dropout = probability("attention_dropout", attention_dropout)
        require_known("score", score, SCORES)
        if score_width is not None and score != "pairwise":
            raise ValueError(
                f"score_width={score_width} is for score='pairwise', but score is {score!r}"
            )
        kv_size = self.num_kv_heads * self.head_dim
        self.operator: Operator = operator
        dot = score != "pairwise"
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False) if dot else None
        self.k_proj = nn.Linear(hidden_size, kv_size, bias=False) if dot else None
        self.differential = (
            DifferentialScoring(hidden_size, kv_size, layer_idx)
            if score == "differential"
            else None
        )
        width = hidden_size if score_width is None else score_width
        self.pairwise = None if dot else PairwiseScoring(hidden_size, num_heads, width)
        self.v_proj = nn.Linear(hidden_size, kv_size, bias=False) if value_projection else None
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False) if output_projection else None
        self.initial_sharpening = sharpening_start(sharpening)
        if not dot and not isinstance(sharpening, bool):
            raise ValueError(
                f"sharpening={sharpening} is for scores that are dot products; score='pairwise' "
                "has a scale of its own"
            )
        # A network that judges pairs has a scale of its own.
        self.sharpening = (
            nn.Parameter(torch.full((1,), self.initial_sharpening)) if sharpening and dot else None
        )

    def reset_parameters(self) -> None:
        """Every parameter as the constructor left it (linear maps drawn anew)."""
        for module in self.children():
            if hasattr(module, "reset_parameters"):  # a sparsifier of a user's own may have none
                module.reset_parameters()  # type: ignore[operator]
        if self.sharpening is not None:
            nn.init.constant_(self.sharpening, self.initial_sharpening)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        candidates: Rule | Edges | AttentionGraph | str | None = None,
        past_key_values: Any = None,
        output_graph: bool = False,
    ) -> Tensor | tuple[Tensor, AttentionGraph]:
        """
        Args:
            hidden_states: ``[B, N, hidden_size]``.
            attention_mask: true or 1 for real tokens ``[B, Nk]``, or for allowed pairs
                ``[B, 1, N, Nk]``; ``Nk`` counts cached tokens too.
            position_embeddings: ``cos`` and ``sin`` of these N tokens, each
                ``[B or 1, N, head_dim]``.
            candidates: further limits on the pairs, as in :func:`graphformer.attention_graph`.
            past_key_values: a transformers ``Cache``; keys go in after RoPE, node features in the
                place of values.
            output_graph: also return the heads' graph.

        Returns:
            ``[B, N, hidden_size]``, and the :class:`~graphformer.AttentionGraph` with lanes
            ``(B, H)`` if asked for.
        """
        if hidden_states.ndim != 3 or hidden_states.shape[-1] != self.hidden_size:
            raise ValueError(
                f"hidden_states must be [batch, length, {self.hidden_size}], got shape "
                f"{tuple(hidden_states.shape)}"
            )
        batch, length, _ = hidden_states.shape
        q, k = self._queries_and_keys(hidden_states, position_embeddings)
        own = self._heads(hidden_states if self.v_proj is None else self.v_proj(hidden_states))
        features = own
        if past_key_values is not None:
            if self.layer_idx is None:
                raise ValueError(
                    "past_key_values needs layer_idx, this layer's place in the cache: give it to "
                    "the constructor"
                )
            filled = past_key_values.get_seq_length(self.layer_idx) + length
            k, features = past_key_values.update(k, own, self.layer_idx)
            # a static cache hands out its empty places too
            k, features = k[:, :, :filled], features[:, :, :filled]
        reduced, graph = attend(
            q,
            k,
            features,
            self.operator.reductions,
            candidates=candidates,
            attention_mask=attention_mask,
            is_causal=self.is_causal,
            score=self._score(),
            normalize=self.normalize,
            sparsify=self.sparsify,
            dropout=self.attention_dropout if self.training else 0.0,
            executor=self.executor,
            backend=self.backend,
            output_graph=output_graph,
        )
        if own.shape[1] != self.num_heads:
            own = own.repeat_interleave(self.num_heads // own.shape[1], dim=1)
        out = (
            in_stretches(self.operator, own, reduced)
            .transpose(1, 2)
            .reshape(batch, length, self.hidden_size)
        )
        if self.o_proj is not None:
            out = self.o_proj(out)
        if graph is None:
            return out
        return out, graph

    def _queries_and_keys(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """What the score takes: one pair of projections, two beside each other (differential), or a
        pairwise network's two halves.
        """
        if self.pairwise is not None:
            if position_embeddings is not None:
                raise ValueError(
                    "position_embeddings are not read by score='pairwise', which knows no "
                    "positions: leave them out"
                )
            return self.pairwise(hidden_states)
        assert self.q_proj is not None and self.k_proj is not None
        pairs = [(self.q_proj, self.k_proj)]
        if self.differential is not None:
            pairs.append((self.differential.q_proj, self.differential.k_proj))
        projected = [
            [self._heads(projection(hidden_states)) for projection in pair] for pair in pairs
        ]
        if position_embeddings is not None:
            projected = [[rotate(x, *position_embeddings) for x in pair] for pair in projected]
        if len(projected) == 1:
            return projected[0][0], projected[0][1]
        first, second = projected
        return torch.cat((first[0], second[0]), -1), torch.cat((first[1], second[1]), -1)

    def _score(self) -> Score:
        if self.pairwise is not None:
            return self.pairwise.score()
        sharpening: Tensor | float = 1.0 if self.sharpening is None else self.sharpening
        if self.differential is not None:
            return Differential(self.differential.amount, None, sharpening)
        return ScaledDotProduct(None, sharpening)

    def _heads(self, x: Tensor) -> Tensor:
        """``[B, N, heads * head_dim]`` to ``[B, heads, N, head_dim]``."""
        return x.view(x.shape[0], x.shape[1], x.shape[2] // self.head_dim, self.head_dim).transpose(
            1, 2
        )

    def extra_repr(self) -> str:
        return (
            f"hidden_size={self.hidden_size}, num_heads={self.num_heads}, "
            f"num_kv_heads={self.num_kv_heads}, is_causal={self.is_causal}, "
            f"normalize={self.normalize}, sparsify={self.sparsify}, executor={self.executor!r}, "
            f"backend={self.backend!r}"
        )
