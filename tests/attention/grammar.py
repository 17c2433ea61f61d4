"""A grammar of heads: one value for each slot, drawn from all that are registered."""

from __future__ import annotations

import random
from typing import Any

import graphformer as gf

WINDOW = {"name": "window", "size": 4}
LOCAL = {"name": "either", "first": {"name": "first", "number": 1}, "second": WINDOW}
THRESHOLD = {"name": "threshold", "tau": 0.12}
TOP = {"name": "top_k", "k": 3}

SLOTS: dict[str, list[Any]] = {
    "candidates": [
        None,
        "all",
        "causal",
        WINDOW,
        LOCAL,
        {"name": "first", "number": 2},
        {"name": "prefix_lm", "number": 3},
        {"name": "causal_blocks", "size": 3},
        {"name": "clusters", "num_clusters": 2},
        {"name": "indexer", "k": 4, "index_heads": 2, "width": 3},
        {"name": "either", "first": LOCAL, "second": {"name": "persistent", "number": 2}},
        {"name": "blocks", "sizes": [3, 2]},
        {"name": "weighed_blocks", "sizes": 4},
        {"name": "neighborhood", "window": 5, "stride": 2},
        {"name": "both", "first": WINDOW, "second": {"name": "causal_blocks", "size": 5}},
        {"name": "per_head", "rules": [WINDOW, {"name": "all"}, WINDOW]},
    ],
    "score": [
        "dot",
        "additive",
        "alibi",
        "decay",
        "differential",
        {"name": "distance_bias", "num_buckets": 8, "max_distance": 6},
        {"name": "forgetting", "bias": 1.0},
        "gatv2",
        {"name": "grid_bias", "shape": [1]},
        "learned_query",
        "pairwise",
        "positions",
        {"name": "per_head", "scores": [{"name": "dot"}, {"name": "gatv2"}, {"name": "dot"}]},
        "qk_norm",
        {"name": "query_network", "width": 5},
        {"name": "random_maps", "mean": 0.5},
        "ssmax",
    ],
    "normalize": [
        "softmax",
        "softmax",
        "entmax15",
        "sparsemax",
        {"name": "fourier", "num_frequencies": 2},
        "identity",
        "relu",
        "sigmoid",
        {"name": "sigmoid_per_head", "bias": -1.0},
        {"name": "softmax_sink", "sink": 0.5},
        {"name": "distance_scaled", "inner": "softmax", "rate": 0.2},
        {"name": "regions", "window": 3, "regions": 2, "size": 4},
    ],
    "sparsify": [
        None,
        None,
        THRESHOLD,
        {**THRESHOLD, "renormalize": True},
        TOP,
        {"name": "both", "first": THRESHOLD, "second": TOP},
        {"name": "top_fraction", "fraction": 0.5},
        {"name": "normalize_weights"},
        {"name": "edge_mask", "sparsity": 0.4},
        {"name": "extra_edges", "rule": {"name": "window", "size": 2}, "keep": TOP},
        {"name": "reweigh", "curve": "silu", "tau": 0.1},
    ],
    "features": [None, "slice", "projection"],
    "operator": [
        "gin",
        "sum",
        "pna",
        {"name": "multi_hop", "hops": 2},
        "projected_self",
        "sinc",
        {"name": "own_added", "inner": {"name": "gin"}},
        {"name": "own_scaled", "inner": {"name": "gin"}, "self_weight": 0.5},
        {"name": "rounds", "inner": "gin"},
        {"name": "merged_heads", "inner": "sum"},
        {"name": "mixture", "operators": ["sum", "gin", "sinc"]},
        {"name": "mixture", "operators": ["pna", "gin"]},
        "gine",
    ],
    "update": [
        None,
        "concat",
        "output_map",
        {"name": "gated_heads", "maps": True},
        {"name": "channel_gate", "shift": True},
        {"name": "experts", "experts": 3, "top": 2},
        "head_norm",
    ],
}
"""What may stand in each slot, as plain forms; None leaves it to the layer."""

ELSEWHERE = {
    "candidates": {
        "edges": "a list of pairs for one length",
        "mask": "a tensor for one length",
        "given": "the edges of the data, in a graph of more candidates",
        "packed": "segments of one batch",
        "shared_question": "segments of one batch",
        "retrieve_and_read": "the query of one batch",
    },
    "score": {"echo": "reads the graph of the layer before"},
    "features": {"value_residual": "reads what the first layer sends"},
    "update": {"paired_difference": "an even number of heads, and these have three"},
}
"""Registered values that no head alone can hold, and why."""

READS_DISTANCES = {
    "alibi",
    "causal",
    "decay",
    "distance_bias",
    "distance_scaled",
    "edge_mask",
    "extra_edges",
    "indexer",
    "positions",
    "regions",
    "window",
}
"""What sees the numbers of nodes: how far they are apart, or, of equal indices, which is lower."""

ON_TOKENS_ALONE = {
    "blocks",
    "causal_blocks",
    "first",
    "forgetting",
    "neighborhood",
    "persistent",
    "prefix_lm",
    "query_network",
    "slice",
    "weighed_blocks",
}
"""What a layer on edges refuses."""


def draw(seed: int, on_edges: bool = False) -> gf.Head:
    """A head; the same for the same seed."""
    dice = random.Random(seed)
    plain = {}
    for slot, values in SLOTS.items():
        fits = [one for one in values if not (on_edges and names(one) & ON_TOKENS_ALONE)]
        plain[slot] = dice.choice(fits)
    return gf.Head.from_spec({slot: one for slot, one in plain.items() if one is not None})


def names(value: Any) -> set[str]:
    """The registered names in a plain form, also those inside others."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        inner = [one for key, one in value.items() if key != "name"]
        return {value["name"]}.union(*map(names, inner))
    return set().union(*map(names, value)) if isinstance(value, list) else set()
