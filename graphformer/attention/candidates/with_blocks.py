"""Senders that are no tokens, blocks and persistent ones, in one call: keys, features and rule."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphformer.attention.candidates.among_blocks import Coarsened, OnTokens
from graphformer.attention.candidates.base import All, Both, Rule
from graphformer.attention.candidates.block_row import Row
from graphformer.attention.candidates.block_tree import tree_of
from graphformer.attention.candidates.blocks import (
    AddedRule,
    added_rules,
    coarse_rules,
)
from graphformer.attention.candidates.causal import Causal
from graphformer.attention.candidates.either import Either
from graphformer.attention.candidates.keep import Keep
from graphformer.attention.candidates.packed import Packed
from graphformer.attention.candidates.per_head import PerHead
from graphformer.attention.candidates.persistent import Added, Persistent
from graphformer.attention.slot import children


class WithBlocks(NamedTuple):
    """What a call of N tokens becomes with M senders more.

    Attributes:
        rule: among all of them, with the masks of the call.
        k: keys ``[B, Hk, N + M, d]``.
        widened: from what tokens send ``[B, H, N, D]`` to what all of them do.
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
    is_causal: bool = True,
) -> WithBlocks:
    """Keys ``[B, Hk, N, d]`` and features ``[B, Hkv, N, D]`` of a call, and the senders that a rule
    adds to its tokens.

    Args:
        rule: holds a :class:`CoarseRule` or a :class:`Persistent`, alone, for some heads
            (``PerHead``) or beside others (``|``).
        attention_mask: ``[B, N]``, 1 for real tokens; others are in no block. Without blocks also
            of pairs of tokens.
        block_ids: int ``[B, N]``, or ``[B, N, levels]`` for the levels whose size is None, finest
            first: a block begins where the number changes.

    Raises:
        ValueError: rules that say nothing of blocks, a mask of pairs, ``block_ids`` missing or too
            many.
    """
    coarse = next(coarse_rules(rule), None) is not None
    rule, others = apart(rule)
    keep = None if attention_mask is None else Keep(attention_mask)
    limits: Rule = Causal() if is_causal else All()
    for limit, name in ((keep, "attention_mask"), (others, "candidates=Packed")):
        if limit is not None:
            if coarse and isinstance(limit, Keep) and limit.keep.ndim != 2:
                raise ValueError(
                    f"{name} is of pairs, {list(limit.keep.shape)}, and says nothing of blocks: "
                    "give real tokens [B, Nk], or packed texts by their position_ids"
                )
            # blocks know the heads of no limit beside them
            limit.check(len(k), 0 if coarse else x.shape[1], num_receivers, k.shape[2])
            limits = limits & limit
    row = Row(
        k.shape[0],
        k.shape[2],
        num_receivers,
        k.device,
        keep.keep if coarse and keep is not None else None,
        others.segments if coarse and isinstance(others, Packed) else None,
        block_ids,
    )
    if not coarse:
        row.given(0)  # which refuses what no block reads
    trees = {one: tree_of(row, one.sizes) for one in coarse_rules(rule)}
    shares = [(tree, one.logits(x)) for one, tree in trees.items()]
    extra = [one for one in added_rules(rule) if isinstance(one, Persistent)]

    def widened(t: Tensor, keys: bool = False) -> Tensor:
        parts = [part for tree, logits in shares for part in tree.pooled(t, logits)]
        parts += [one.of_keys(t) if keys else one.of_features(t) for one in extra]
        return torch.cat([t, *parts], 2)

    first, places = row.length, [row.places()]
    made: dict[AddedRule, Rule] = {}
    for one, tree in trees.items():
        made[one] = tree.intervals(first)
        first += sum(tree.counts)
        places += tree.places()
    stand = torch.cat([one.expand(row.batches, -1) for one in places], 1)
    for added in extra:
        made[added] = Added(first, added.number)
        first += added.number
    stand = stand + (first - row.length)  # the last token stands at the end of the row
    nowhere = stand.new_full((len(stand), sum(one.number for one in extra)), -1)
    extended = Coarsened(extend(rule, made, limits, row.length), torch.cat((stand, nowhere), 1))
    return WithBlocks(extended, widened(k, True), widened)


def check_blocks(rule: object, score: Any, is_causal: bool, sparsify: object = None) -> None:
    """ValueError where the senders that a rule adds cannot stand among those of a layer."""
    if next(added_rules(rule), None) is None:
        return
    if not is_causal and next(coarse_rules(rule), None) is not None:
        raise ValueError(
            f"candidates={rule}: blocks are seen once they are finished, and is_causal=False has "
            "no before and after: leave one of them out"
        )
    if score.ordered:
        raise ValueError(
            f"score={score.name!r} adds up along a row of tokens, and candidates={rule} add "
            "senders that are none to it: take another score, or other candidates"
        )
    if holds_rule(sparsify):
        raise ValueError(
            f"sparsify={sparsify} asks a rule about places of tokens, and candidates={rule} add "
            "senders that are none: leave one of them out"
        )


def holds_rule(value: object) -> bool:
    """Whether a slot value asks a rule of candidates."""
    return any(isinstance(part, Rule) or holds_rule(part) for part in children(value))


def apart(rule: Rule) -> tuple[Rule, Rule | None]:
    """The rule without packed texts, and these; without blocks, whatever else limits tokens."""
    if not isinstance(rule, Both):
        return rule, None
    for limit, other in ((rule.first, rule.second), (rule.second, rule.first)):
        if next(added_rules(limit), None) is not None:
            continue
        if type(limit) is Packed or next(coarse_rules(other), None) is None:
            return other, limit
    return rule, None


def extend(rule: Rule, made: dict[AddedRule, Rule], limits: Rule, num_tokens: int) -> Rule:
    """The rule on tokens and what is added to them."""
    if isinstance(rule, AddedRule):
        return made[rule]
    if next(added_rules(rule), None) is None:
        return OnTokens((rule & limits).of_texts(), num_tokens)
    if isinstance(rule, PerHead):
        return PerHead(tuple(extend(one, made, limits, num_tokens) for one in rule.rules))
    if isinstance(rule, Either):
        parts = (extend(one, made, limits, num_tokens) for one in (rule.first, rule.second))
        return Either(*parts)
    raise ValueError(
        f"{rule} limits tokens and says nothing of blocks: beside Blocks stand Packed texts (&), "
        "further tokens (Blocks(64) | Window(64)) and other heads (PerHead)"
    )


def steps_with_blocks(
    past: Callable[[Hashable, Tensor, int], Tensor] | None,
    widened: Callable[[Tensor], Tensor],
    num_tokens: int,
) -> Callable[[Hashable, Tensor, int], Tensor]:
    """What all senders have of a step, blocks among them: the means of their tokens."""

    def steps(step: Hashable, own: Tensor, num_senders: int) -> Tensor:
        return widened(own if past is None else past(step, own, num_tokens))

    return steps
