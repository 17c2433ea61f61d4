"""Arguments of :class:`~graphformer.models.GraphTransformer` that name others: an operator's
options, and levels.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from graphformer.attention.head import Head, refuse_first_alone
from graphformer.errors import require_known
from graphformer.models.graphs.parts import OPERATORS
from graphformer.models.graphs.refined import MERGES
from graphformer.nn.conv_options import OF_THE_EDGE_LIST, ConvOptions


def check_options(
    given: Mapping[str, Mapping[str, Any]] | None, operators: Sequence[str]
) -> Mapping[str, Mapping[str, Any]]:
    """Further arguments by operator; ValueError for an operator that no layer has and for what its
    layer does not take.
    """
    for name, options in (given or {}).items():
        if name not in operators:
            raise ValueError(
                f"operator_options holds {name!r}, and no layer is one: operator is "
                f"{', '.join(dict.fromkeys(operators))}"
            )
        taken = [
            one.name
            for one in inspect.signature(OPERATORS[name]).parameters.values()
            if one.kind is one.KEYWORD_ONLY
        ]
        if "relations" in options:
            raise ValueError(
                f"operator_options[{name!r}] holds relations, which read the data: give them to "
                "the model, relations=..."
            )
        if unread := sorted(set(options) & set(OF_THE_EDGE_LIST)):
            raise ValueError(
                f"operator_options[{name!r}] holds {', '.join(unread)}, which acts while a layer "
                "reads edges; this model makes its own list of pairs: put self-loops into the "
                "data, or candidates='all'"
            )
        taken += [
            option for option in ConvOptions.__annotations__ if option not in OF_THE_EDGE_LIST
        ]
        if unknown := sorted(set(options) - set(taken)):
            raise ValueError(
                f"operator_options[{name!r}] holds {', '.join(unknown)}, which is none of its "
                f"options: {', '.join(taken)}"
            )
    return given or {}


def check_level(name: str) -> str:
    """The text itself, or ValueError."""
    kind, colon, times = name.partition(":")
    if colon and (kind != "cluster" or not times.isdigit() or int(times) < 1):
        raise ValueError(
            f"unknown level {name!r}; give the name of an attribute that holds groups, 'cluster' "
            "or 'cluster:2'"
        )
    return name


def check_refinement(
    levels: Sequence[str], level_candidates: str, refine: bool | str, merge: str
) -> None:
    """ValueError for settings of refined graphs and coarse levels that contradict each other."""
    if not levels and level_candidates != "edges":
        raise ValueError(
            f"level_candidates={level_candidates!r} is for coarse levels: give levels too, or "
            "leave it out"
        )
    if not refine and merge == "learned":
        raise ValueError(
            "merge='learned' is never read: with refine=False no layer starts from a refined graph"
        )
    require_known("merge", merge, MERGES)
    if refine not in (True, False, "restrict"):
        raise ValueError(f"refine must be True, False or 'restrict', got {refine!r}")


def per_layer_heads(
    head: Any, num_layers: int, initial_residual: float | None
) -> list[Head | None]:
    """One head for all layers, or one a layer; in the first one as it is where none was before."""
    given = [head] * num_layers if head is None or isinstance(head, (Head, Mapping)) else head
    if len(given) != num_layers:
        raise ValueError(
            f"head must be one head or one for each of the {num_layers} layers, got {len(given)}"
        )
    heads = [None if one is None else Head.read(one) for one in given]
    refuse_first_alone(heads, initial_residual)
    first, *others = heads
    return [None if first is None else first.in_first_layer(), *others]


def refuse_beside_heads(
    heads: Sequence[Head | None], slots: Mapping[str, tuple[Any, Any]], usual: bool
) -> None:
    """ValueError for what is said of a slot beside the heads.

    Args:
        slots: what was given for each, and what is usual.
        usual: whether nothing was said of the operator.
    """
    if any(one is not None for one in heads) and any(value != no for value, no in slots.values()):
        raise ValueError(
            "head and one of sparsify, normalize, score are given: say it in one place, in the head"
        )
    if not usual and any(one is not None and one.operator is not None for one in heads):
        raise ValueError(
            "the head brings an operator, and operator, operator_options or mlp_ratio say "
            "something of another one: say it in one place, in the head"
        )


def per_layer(name: str, value: str | Sequence[str], num_layers: int) -> list[str]:
    """One text for all layers, or one a layer."""
    values = [value] * num_layers if isinstance(value, str) else list(value)
    if len(values) != num_layers:
        hint = (
            ": candidates that all layers have together are one text, 'edges+k_hop:2'"
            if name == "candidates"
            else ""
        )
        raise ValueError(
            f"{name} must be one text or one for each of the {num_layers} layers, got "
            f"{len(values)}: {values}{hint}"
        )
    return values
