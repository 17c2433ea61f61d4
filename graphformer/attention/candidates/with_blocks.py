"""Blocks among the senders of one call: keys, features and the rule on tokens and blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphformer.attention.candidates.among_blocks import Coarsened, OnTokens
from graphformer.attention.candidates.base import Both, Rule
from graphformer.attention.candidates.block_row import Row
from graphformer.attention.candidates.block_tree import Tree, tree_of
from graphformer.attention.candidates.blocks import CoarseRule, coarse_rules
from graphformer.attention.candidates.causal import Causal
from graphformer.attention.candidates.either import Either
from graphformer.attention.candidates.keep import Keep
from graphformer.attention.candidates.packed import Packed
from graphformer.attention.candidates.per_head import PerHead
from graphformer.attention.slot import children


class WithBlocks(NamedTuple):
    """What a causal call of N tokens becomes with M blocks.

    Attributes:
        rule: among tokens and blocks, with the masks of the call.
        k: keys ``[B, Hk, N + M, d]``.
        widened: from what tokens send ``[B, H, N, D]`` to what tokens and blocks do.
    """

    rule: Rule
    k: Tensor
    widened: Callable[[Tensor], Tensor]


def with_blocks(
    rule: Rule,
    k: Tensor,
    x: Tensor,
    num_receivers: int,
    attention_mask: Tensor | None = None,
    block_ids: Tensor | None = None,
) -> WithBlocks:
    """Keys ``[B, Hk, N, d]`` and features ``[B, Hkv, N, D]`` of a causal call, and the blocks of a
    rule.

    Args:
        rule: holds a :class:`CoarseRule`, alone, for some heads (``PerHead``) or beside others
            (``|``).
        attention_mask: ``[B, N]``, 1 for real tokens; others are in no block.
        block_ids: int ``[B, N]``, or ``[B, N, levels]`` for the levels whose size is None, finest
            first: a block begins where the number changes.

    Raises:
        ValueError: rules that say nothing of blocks, a mask of pairs, ``block_ids`` missing or too
            many.
    """
    rule, texts = apart(rule)
    keep = None if attention_mask is None else Keep(attention_mask)
    limits: Rule = Causal()
    for limit, name in ((keep, "attention_mask"), (texts, "candidates=Packed")):
        if limit is not None:
            if isinstance(limit, Keep) and limit.keep.ndim != 2:
                raise ValueError(
                    f"{name} is of pairs, {list(limit.keep.shape)}, and says nothing of blocks: "
                    "give real tokens [B, Nk], or packed texts by their position_ids"
                )
            limit.check(len(k), 0, num_receivers, k.shape[2])
            limits = limits & limit
    row = Row(
        k.shape[0],
        k.shape[2],
        num_receivers,
        k.device,
        None if keep is None else keep.keep,
        None if texts is None else texts.segments,
        block_ids,
    )
    trees: dict[CoarseRule, Tree] = {one: tree_of(row, one.sizes) for one in coarse_rules(rule)}
    shares = [(tree, one.logits(x)) for one, tree in trees.items()]

    def widened(t: Tensor) -> Tensor:
        return torch.cat(
            [t, *(part for tree, logits in shares for part in tree.pooled(t, logits))], 2
        )

    first, places = row.length, [row.places()]
    intervals: dict[CoarseRule, Rule] = {}
    for one, tree in trees.items():
        intervals[one] = tree.intervals(first)
        first += sum(tree.counts)
        places += tree.places()
    standing = torch.cat([one.expand(row.batches, -1) for one in places], 1)
    standing = standing + (first - row.length)  # the last token stands at the end of the row
    extended = Coarsened(extend(rule, intervals, limits, row.length), standing)
    return WithBlocks(extended, widened(k), widened)


def check_blocks(rule: object, score: Any, is_causal: bool, sparsify: object = None) -> None:
    """ValueError where blocks cannot stand among the senders of a layer."""
    if next(coarse_rules(rule), None) is None:
        return
    if not is_causal:
        raise ValueError(
            f"candidates={rule}: blocks are seen once they are finished, and is_causal=False has "
            "no before and after: leave one of them out"
        )
    if score.ordered:
        raise ValueError(
            f"score={score.name!r} adds up along a row of tokens, and candidates={rule} add blocks "
            "to it: take another score, or other candidates"
        )
    if holds_rule(sparsify):
        raise ValueError(
            f"sparsify={sparsify} asks a rule about places of tokens, and candidates={rule} add "
            "senders that are none: leave one of them out"
        )


def holds_rule(value: object) -> bool:
    """Whether a slot value asks a rule of candidates."""
    return any(isinstance(part, Rule) or holds_rule(part) for part in children(value))


def apart(rule: Rule) -> tuple[Rule, Packed | None]:
    """The rule without packed texts, and these."""
    if not isinstance(rule, Both):
        return rule, None
    for texts, other in ((rule.first, rule.second), (rule.second, rule.first)):
        if type(texts) is Packed and next(coarse_rules(other), None) is not None:
            return other, texts
    return rule, None


def extend(rule: Rule, intervals: dict[CoarseRule, Rule], limits: Rule, num_tokens: int) -> Rule:
    """The rule on tokens and blocks."""
    if isinstance(rule, CoarseRule):
        return intervals[rule]
    if next(coarse_rules(rule), None) is None:
        return OnTokens((rule & limits).of_texts(), num_tokens)
    if isinstance(rule, PerHead):
        return PerHead(tuple(extend(one, intervals, limits, num_tokens) for one in rule.rules))
    if isinstance(rule, Either):
        parts = (extend(one, intervals, limits, num_tokens) for one in (rule.first, rule.second))
        return Either(*parts)
    raise ValueError(
        f"{rule} limits tokens and says nothing of blocks: beside Blocks stand Packed texts (&), "
        "further tokens (Blocks(64) | Window(64)) and other heads (PerHead)"
    )
