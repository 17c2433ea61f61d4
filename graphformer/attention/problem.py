"""One call's question, checked: what an executor gets to answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer import finite
from graphformer.attention import candidates as candidate_rules
from graphformer.attention import normalizers, sparsifiers
from graphformer.attention.candidates import All, Causal, Edges, Keep, Rule
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.pairs import Block, Listed, Pairs
from graphformer.attention.scores import Score
from graphformer.attention.sizes import require_sizes
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.graph import AttentionGraph

UNKNOWN_NUMBER = (
    "torch.func.vmap cannot run here: which edges there are is in the data, so samples have "
    "unequal numbers of them. Give the samples as the batch of one call (of graphs, PyG's Batch), "
    "or loop over them: torch.stack([f(x) for x in samples]). Where nothing is cut "
    "(sparsify=None), vmap runs over layers on given edges, with executor='dense', and with "
    "executor='flash' where the operator needs only sums"
)


@dataclass(frozen=True, eq=False)
class Problem:
    """The four slots filled in and checked against each other.

    Attributes:
        q: prepared queries ``[B, H, Nq, d]``; of a dot product, with scale and sharpening folded
            in.
        k: prepared keys ``[B, Hkv, Nk, d]``.
        rule: which pairs may be scored.
        edges: explicit candidate edges, where given; the rule holds on top of them.
        score, normalize, sparsify: the slots.
    """

    q: Tensor
    k: Tensor
    rule: Rule
    edges: Edges | None
    score: Score
    normalize: Normalizer
    sparsify: Sparsifier | None

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Sequences, heads, receivers, senders."""
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.k.shape[2]

    @property
    def is_softmax(self) -> bool:
        """Whether weights are one softmax of plain dot products: then executors have gradients of
        their own.
        """
        dots = self.score.dots(self.q, self.k)
        return self.normalize.is_softmax and dots is not None and len(dots) == 1

    def allowed(self) -> Tensor:
        """Bool, broadcastable to ``[B, H, Nq, Nk]``."""
        return self.rule.allow(Pairs.every(*self.sizes, self.q.device))

    def pairs(self) -> Block:
        """All pairs, as one block."""
        every = Pairs.every(*self.sizes, self.q.device)
        return Block(**vars(every), allowed=self.rule.allow(every))

    def weights(
        self,
        pairs: Block | Listed,
        q: Tensor | None = None,
        k: Tensor | None = None,
        bias: Tensor | None = None,
        check: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Score and normalizer on pairs; 0 where a pair is no candidate.

        Args:
            q, k: other tensors in the places of the problem's own.
            bias: added to the logits. check: is shown the logits.
        """
        pairs = self.rule.placed(pairs)
        maps = self.score.maps(self.q if q is None else q, self.k if k is None else k, pairs)
        if bias is not None:
            maps = tuple(logits + bias for logits in maps)
        if check is not None:
            for logits in maps:
                check(logits)
        weights = [pairs.only(self.normalize.weights(logits, pairs)) for logits in maps]
        return self.score.combine(weights, pairs)

    def keep(self, weights: Tensor, pairs: Block | Listed) -> Tensor:
        """What the sparsifier keeps of the pairs, bool; it reads places as the score does."""
        assert self.sparsify is not None
        return self.sparsify.keep(weights, self.rule.placed(pairs))

    def simplest(self, executor: str, zeros_count: bool) -> Problem:
        """The problem as a softmax among fewer pairs, where its normalizer is one.

        Args:
            executor: as it was named; ``"dense"`` runs every formula as it stands.
            zeros_count: whether pairs of weight 0 are anything to whoever asks.
        """
        bound = None if self.sparsify is None else self.sparsify.bound
        cut = bound is not None and bound >= 0
        if executor == "dense" or not (cut or (self.sparsify is None and not zeros_count)):
            return self
        return self.normalize.as_softmax(self) or self

    def require_finite(self, *, cuts: bool = False) -> None:
        """Scores that are NaN or infinite, or may become so, are refused where numbers can be read:
        see :mod:`graphformer.finite`.

        Args:
            cuts: edges are built, so that their number is waited for anyway, and a NaN could be
                lost.
        """
        if not (self.q.numel() and self.k.numel() and finite.readable(self.q, self.k, cuts=cuts)):
            return
        # NaN comes through aminmax, in a tenth of the time of isfinite. All four numbers at once:
        # an accelerator is waited for once.
        ends = torch.stack([*self.q.detach().aminmax(), *self.k.detach().aminmax()]).tolist()
        reaches = max(-ends[0], ends[1]), max(-ends[2], ends[3])
        names = ("q (times scale and sharpening)", "k")
        for name, value, reach in zip(names, (self.q, self.k), reaches, strict=True):
            if not math.isfinite(reach):
                count = int((~torch.isfinite(value.detach())).sum())
                raise finite.NotFinite(
                    f"the scores are not finite: {name} holds {count} NaN or infinite values among "
                    f"{value.numel()}; look for a diverged training step, an overflow in half "
                    "precision or uninitialised memory"
                )
        if self.q.shape[-1] * reaches[0] * reaches[1] > torch.finfo(self.q.dtype).max:
            raise finite.NotFinite(
                f"the scores can overflow {self.q.dtype}: q (times scale and sharpening) reaches "
                f"{reaches[0]:.3g} and k {reaches[1]:.3g}; look for a diverged training step"
            )


def pose(
    q: Tensor,
    k: Tensor,
    *,
    candidates: Rule | Edges | AttentionGraph | str | None = None,
    attention_mask: Tensor | None = None,
    is_causal: bool = False,
    score: Score,
    normalize: str | Normalizer = "softmax",
    sparsify: Sparsifier | None = None,
    training: bool = False,
) -> Problem:
    """Check every argument against the others and fold the score's factors into q."""
    for name, value in (("q", q), ("k", k)):
        if value.ndim != 4:
            raise ValueError(
                f"{name} must be [batch, heads, length, head_dim], got shape {tuple(value.shape)}"
            )
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {value.dtype}")
    batch, _, num_receivers, dim = q.shape
    if k.shape[0] != batch or k.shape[3] != dim:
        raise ValueError(
            f"q and k must share batch and head_dim, got q {tuple(q.shape)} and k {tuple(k.shape)}"
        )
    if dim == 0:
        raise ValueError("q and k have head_dim 0: there is nothing to score")
    if q.dtype != k.dtype or q.device != k.device:
        raise ValueError(
            f"q and k must have one dtype and device, got {q.dtype} on {q.device} and {k.dtype} on "
            f"{k.device}"
        )
    heads = score.heads(q)
    if k.shape[1] == 0 or heads % k.shape[1]:
        raise ValueError(
            f"the {heads} query heads must be a multiple of the key heads, got {k.shape[1]}"
        )
    if isinstance(candidates, AttentionGraph):
        fits = (candidates.num_receivers, candidates.num_senders) == (num_receivers, k.shape[2])
        if not fits or candidates.batch_shape not in ((), (batch,), (batch, heads)):
            raise ValueError(
                f"candidates from a graph must have {k.shape[2]} senders, {num_receivers} "
                f"receivers, and one lane, {batch} (one a sequence) or {batch} x {heads} (one a "
                f"head), got {candidates}"
            )
    resolved = candidate_rules.resolve(candidates)
    edges, rule = (resolved, All()) if isinstance(resolved, Edges) else (None, resolved)
    if is_causal:
        rule = rule & Causal()
    if attention_mask is not None:
        rule = rule & Keep(attention_mask)
    normalize, sparsify = normalizers.resolve(normalize), sparsifiers.check(sparsify)
    if not torch.compiler.is_compiling():  # a tracer knows no arguments of constructors
        for slot in (score, normalize, sparsify, resolved):
            require_sizes(slot)
    rule.check(batch, heads, num_receivers, k.shape[2])
    rule = rule.of_texts().of_call(q, k, training)
    if rule.chooses:
        rule = rule.among(All())
    prepared_q, prepared_k = score.prepare(q, k)
    return Problem(
        prepared_q,
        prepared_k,
        rule,
        edges,
        score,
        normalize,
        sparsify,
    )
