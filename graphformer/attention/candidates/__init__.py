"""Slot 1, candidates: which pairs of sender and receiver may be scored at all. One method, one
file.

A rule is a boolean formula on index tensors that broadcast against each other (like FlexAttention's
``mask_mod``). One formula serves blocks of rows and lists of edges alike. Rules combine with ``&``
and ``|``. A rule may look at a pair's positions, never at the total length, so that a prefix gives
the answers of the full sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphformer.attention.candidates.among_blocks import Coarsened
from graphformer.attention.candidates.base import All, Both, Rule, overlap
from graphformer.attention.candidates.blocks import (
    AddedRule,
    Blocks,
    CoarseRule,
    WeighedBlocks,
    added_rules,
    coarse_rules,
)
from graphformer.attention.candidates.causal import Causal
from graphformer.attention.candidates.clusters import Clusters
from graphformer.attention.candidates.edges import Among, Edges
from graphformer.attention.candidates.either import Either
from graphformer.attention.candidates.given import Given
from graphformer.attention.candidates.indexer import Indexer
from graphformer.attention.candidates.keep import Keep
from graphformer.attention.candidates.masks import CausalBlocks, First, PrefixLM, SharedQuestion
from graphformer.attention.candidates.neighborhood import Neighborhood
from graphformer.attention.candidates.packed import Packed
from graphformer.attention.candidates.per_head import PerHead
from graphformer.attention.candidates.persistent import Persistent
from graphformer.attention.candidates.retrieve import RetrieveAndRead
from graphformer.attention.candidates.window import Window
from graphformer.attention.candidates.with_blocks import with_blocks
from graphformer.attention.pairs import Pairs
from graphformer.attention.slot import KINDS, from_spec
from graphformer.graph import AttentionGraph

__all__ = [
    "AddedRule",
    "All",
    "Among",
    "Blocks",
    "Both",
    "Causal",
    "CausalBlocks",
    "Clusters",
    "CoarseRule",
    "Coarsened",
    "Edges",
    "Either",
    "First",
    "Given",
    "Indexer",
    "Keep",
    "Neighborhood",
    "Packed",
    "Pairs",
    "PerHead",
    "Persistent",
    "PrefixLM",
    "RetrieveAndRead",
    "Rule",
    "SharedQuestion",
    "WeighedBlocks",
    "Window",
    "added_rules",
    "coarse_rules",
    "overlap",
    "resolve",
    "with_blocks",
]


EVERY_PAIR = All()


def resolve(value: Rule | Edges | AttentionGraph | str | Mapping[str, Any] | None) -> Rule | Edges:
    """A rule or edges from what a user may pass; ``None`` is every pair."""
    if value is None:
        return EVERY_PAIR
    if isinstance(value, AttentionGraph):
        return Edges.from_graph(value)
    if isinstance(value, str) and value not in KINDS["candidates"]:
        raise ValueError(
            f"unknown candidates {value!r}; known: {', '.join(KINDS['candidates'])}, a Rule, Edges "
            "or an AttentionGraph"
        )
    if isinstance(value, (str, Mapping)):
        return from_spec("candidates", value)
    if not isinstance(value, (Rule, Edges)):
        raise TypeError(
            "candidates must be a name, a Rule, Edges or an AttentionGraph, got "
            f"{type(value).__name__}"
        )
    return value
