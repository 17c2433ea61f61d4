"""Law 11: a slot value is one formula."""

from __future__ import annotations

from typing import Any

import torch

from graphformer.attention.build import attention_graph
from graphformer.attention.normalizers import Normalizer
from graphformer.attention.scores import Score
from graphformer.attention.slot import KINDS, Slot, from_spec, spec
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.graph import AttentionGraph
from graphformer.testing.common import require_equal, violation

SIZES = {"num_heads": 3, "num_kv_heads": 3, "dim": 5, "hidden_size": 15, "kv_size": 15}


def check_slot(value: Slot, *, seed: int = 0) -> None:
    """Whether a score, normalizer or sparsifier is one formula, in float64 on random graphs.

    - Block form = list form: the graph by ``executor="dense"`` and ``"stream"`` equals that of the
      same candidates as an edge list.
    - Row-local and prefix: the first receivers of a causal graph, given alone, have the edges and
      weights that they have in the whole.
    - Saved = loaded: a value whose class has a name equals the value of its plain form (parameters
      are copied; their start may be random).

    Args:
        value: sizes that it leaves out are taken for 3 heads of width 5.

    Raises:
        LawViolation: the value breaks one of them. TypeError: a value of another slot.
    """
    argument = next((name for name, base in BASES.items() if isinstance(value, base)), None)
    if argument is None:
        raise TypeError(
            f"check_slot takes a score, a normalizer or a sparsifier, got {type(value).__name__}"
        )
    value = value.for_layer(SIZES)
    _double(value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        q, k = torch.randn(2, 2, 3, 11, 5, dtype=torch.float64)
    given: dict[str, Any] = {argument: value}
    whole = attention_graph(q, k, is_causal=True, executor="dense", **given)
    pairs = attention_graph(q, k, is_causal=True)
    forms = {
        "the stream executor": attention_graph(q, k, is_causal=True, executor="stream", **given),
        "the list form": attention_graph(q, k, candidates=pairs, **given),
    }
    for name, found in forms.items():
        _same(found, whole, f"{name} and the block form")
    for length in (1, 7):
        part = attention_graph(q[:, :, :length], k[:, :, :length], is_causal=True, **given)
        _same(part, _prefix(whole, length), f"the first {length} rows alone and in the whole")
    if value.name is not None and KINDS[value.slot].get(value.name) is type(value):
        loaded = from_spec(value.slot, spec(value), **SIZES)
        _double(loaded)
        if isinstance(value, torch.nn.Module) and isinstance(loaded, torch.nn.Module):
            loaded.load_state_dict(value.state_dict())
        again = attention_graph(
            q, k, is_causal=True, executor="dense", **{**given, argument: loaded}
        )
        _same(again, whole, "the value of its plain form and the value")


BASES: dict[str, Any] = {"score": Score, "normalize": Normalizer, "sparsify": Sparsifier}


def _double(value: Any) -> None:
    if isinstance(value, torch.nn.Module):
        value.double()


def _prefix(graph: AttentionGraph, length: int) -> AttentionGraph:
    """The first nodes of every lane."""
    dense, kept = graph.to_dense(), graph.unweighted().to_dense().bool()
    part = (..., slice(length), slice(length))
    return AttentionGraph.from_dense(dense[part], keep=kept[part])


def _same(found: AttentionGraph, want: AttentionGraph, what: str) -> None:
    if found.edge_index.shape != want.edge_index.shape or not torch.equal(
        found.edge_index, want.edge_index
    ):
        raise violation(11, f"{what} have different edges: {found.num_edges} and {want.num_edges}")
    require_equal(11, found.weight.detach(), want.weight.detach(), lambda _: f"{what}: the weights")
