"""The reference's three feed-forwards with messages, under the names of its classes.

Its decoder layer cannot build them (a name is not defined there), so no setting asks for them and
no published model has one; the classes work by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from graphformer.attention.feed_forwards import (
    FeedForward,
    HalfwayFeedForward,
    MultiAggregateFeedForward,
    MultiHopFeedForward,
)
from graphformer.attention.operators import EdgeMessages
from graphformer.errors import require_known

FEED_FORWARDS = (
    "LlamaMLP_HalfwayGIN",
    "LlamaMLP_MultiHop",
    "LlamaMLP_HalfwayGIN_MultiAggregation",
)
"""The reference's feed-forwards with messages, by the names of its classes."""
QUIRK = "own_max"
"""The fault that can be asked for: the maximum is the token's own value, as of the reference's
PNA.
"""

RENAMED = {
    "aggregator_mlp.0.weight": "combine1.weight",
    "aggregator_mlp.2.weight": "combine2.weight",
    **{f"{name}_proj.weight": f"{name}_proj.weight" for name in ("gate", "up", "down")},
}
OF_HEADS = {
    "epsilons": "eps",
    "alphas": "alpha",
    "attn_query_projs": "attention_q.weight",
    "attn_key_projs": "attention_k.weight",
    **{f"head_{name}_projs": f"{name}.weight" for name in ("gate", "up", "down")},
}


class _OwnMax(MultiAggregateFeedForward):
    """The maximum as the reference takes it."""

    def reduced(self, own: Tensor, senders: Tensor, edges: EdgeMessages) -> dict[str, Tensor]:
        found = super().reduced(own, senders, edges)
        return found | {"max": own}


def load_feed_forward(
    kind: str,
    state: Mapping[str, Tensor],
    *,
    hidden_size: int,
    intermediate_size: int,
    num_heads: int,
    quirks: Collection[str] = (),
) -> FeedForward:
    """One of the reference's feed-forwards with its weights; call it with hidden states and the
    heads' graph.

    Args:
        kind: the name of its class, one of :data:`FEED_FORWARDS`.
        state: its parameters.
        quirks: ``"own_max"`` for ``LlamaMLP_HalfwayGIN_MultiAggregation``: the token's own value
            in the place of the maximum over the senders.

    Raises:
        ValueError: an unknown name or parameter, or a quirk of another feed-forward. RuntimeError:
            parameters that are missing or of another shape.
    """
    require_known("feed-forward", kind, FEED_FORWARDS)
    known = (QUIRK,) if kind.endswith("MultiAggregation") else ()
    if unread := sorted(set(quirks) - set(known)):
        raise ValueError(f"unknown quirks {unread} of {kind}; known: {', '.join(known) or 'none'}")
    sizes = (hidden_size, intermediate_size, num_heads)
    made: FeedForward
    if kind == "LlamaMLP_HalfwayGIN":
        made = HalfwayFeedForward(1.0, *sizes)
    elif kind == "LlamaMLP_MultiHop":
        made = MultiHopFeedForward((1.0, 0.5, 0.1), *sizes)
    else:
        several = _OwnMax if quirks else MultiAggregateFeedForward
        made = several(("sum", "max", "attention"), *sizes)
    made.load_state_dict(feed_forward_state(state))
    return made


def feed_forward_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict under this library's names.

    Raises:
        ValueError: a parameter that none of the three has.
    """
    out: dict[str, Tensor] = {}
    heads: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        if name in RENAMED:
            out[RENAMED[name]] = value
        elif match := re.fullmatch(r"alphas_(\d)\.(\d+)", name):  # by hop, then by head
            heads.setdefault(f"factors {match[1]}", {})[int(match[2])] = value
        elif (match := re.fullmatch(r"(\w+)\.(\d+)(\.weight)?", name)) and match[1] in OF_HEADS:
            own = value.T if value.ndim == 2 else value
            heads.setdefault(OF_HEADS[match[1]], {})[int(match[2])] = own
        else:
            raise ValueError(
                f"parameter {name!r} cannot be read: no feed-forward of the reference has it, or "
                "it is a bias, which is not supported"
            )
    stacked = {n: torch.stack([v[h] for h in range(len(v))]) for n, v in heads.items()}
    hops = sorted(name for name in stacked if name.startswith("factors "))
    if hops:
        out["factors"] = torch.stack([stacked.pop(name) for name in hops], dim=1)
    return out | stacked
