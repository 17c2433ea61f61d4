"""Relations of texts: their edges beside the definition written as loops, their quick forms beside
their readable ones, what is refused.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import Packed, Relation, Window
from graphformer.attention.relations import Tokens, check, relation_graph
from graphformer.attention.slot import from_spec, spec

RELATIONS = [
    gf.Chain(1),
    gf.Chain(5),
    *(gf.Repeats(n, which) for n in (1, 2, 3) for which in ("last", "mean")),
]
each = pytest.mark.parametrize("relation", RELATIONS, ids=str)


def by_definition(relation: Relation, ids: list[int], see: list[list[bool]]) -> list[set]:
    """For each channel the pairs (sender, receiver), in loops over one row of tokens.

    Args:
        see: ``see[i][j]``: token i may know of token j.
    """
    length = len(ids)
    if isinstance(relation, gf.Chain):
        return [
            {(i - k, i) for i in range(k, length) if see[i][i - k]}
            for k in range(1, relation.k + 1)
        ]
    found = set()
    for i in range(length):
        own = range(i - relation.n + 1, i + 1)
        if own[0] < 0 or not all(see[i][one] for one in own):
            continue
        senders = []
        for earlier in range(relation.n - 1, i):
            run = range(earlier - relation.n + 1, earlier + 1)
            if (
                [ids[one] for one in run] == [ids[one] for one in own]
                and all(see[i][one] for one in run)
                and see[i][earlier + 1]
            ):
                senders.append(earlier + 1)
        found |= {(j, i) for j in (senders[-1:] if relation.which == "last" else senders)}
    return [found]


def drawn_rows(seed: int, length: int, letters: int, limit: str) -> tuple[Tensor, dict, Tensor]:
    """Tokens ``[2, length]``, the arguments that limit who sees whom, and who does."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(letters, (2, length), generator=draw)
    see = torch.ones(2, length, length, dtype=torch.bool).tril()
    given: dict = {}
    if limit in ("left", "right", "holes"):
        keep = torch.ones(2, length, dtype=torch.bool)
        gap = int(torch.randint(length, (1,), generator=draw))
        if limit == "holes":
            keep = torch.rand(2, length, generator=draw) < 0.8
        else:
            keep[1, :gap] = False
            keep = keep.flip(1) if limit == "right" else keep
        given["attention_mask"] = keep.long()
        see &= keep[:, None, :]
    if limit == "packed":
        texts = (torch.rand(2, length, generator=draw) < 0.3).long().cumsum(1)
        given["candidates"] = Packed(texts)
        see &= texts[:, :, None] == texts[:, None, :]
    if limit == "pairs":
        pairs = torch.rand(2, length, length, generator=draw) < 0.8
        given["attention_mask"] = pairs[:, None]
        see &= pairs
    return ids, given, see


LIMITS = ("none", "left", "right", "holes", "packed", "pairs")
any_rows = given(
    seed=st.integers(0, 10**6),
    length=st.integers(1, 19),
    letters=st.integers(1, 4),
    limit=st.sampled_from(LIMITS),
    relation=st.sampled_from(RELATIONS),
)


@settings(max_examples=150, deadline=None)
@any_rows
def test_edges_are_those_of_the_definition(
    seed: int, length: int, letters: int, limit: str, relation: Relation
) -> None:
    ids, given, see = drawn_rows(seed, length, letters, limit)
    tokens = Tokens.read((2, length, length), ids.device, ids, **given)
    edges = relation.edges(tokens)
    assert edges.shape == (relation.channels, 2, length, length)
    for row in range(2):
        wanted = by_definition(relation, ids[row].tolist(), see[row].tolist())
        for channel, pairs in enumerate(wanted):
            i, j = edges[channel, row].nonzero(as_tuple=True)
            assert set(zip(j.tolist(), i.tolist(), strict=True)) == pairs


@settings(max_examples=150, deadline=None)
@any_rows
def test_quick_forms_send_what_the_edges_say(
    seed: int, length: int, letters: int, limit: str, relation: Relation
) -> None:
    ids, given, _ = drawn_rows(seed, length, letters, limit)
    x = torch.randn(2, 3, length, 5, dtype=torch.float64)
    for receivers in {length, (length + 1) // 2, 1}:
        part = dict(given)
        if limit == "pairs":
            part["attention_mask"] = given["attention_mask"][:, :, -receivers:]
        tokens = Tokens.read((2, receivers, length), ids.device, ids, **part)
        for edges, link in zip(relation.edges(tokens), relation.links(tokens), strict=True):
            weight = edges.double().unsqueeze(1)
            if relation.averages:
                weight = weight / weight.sum(-1, keepdim=True).clamp(min=1)
            assert_close(link.messages(x), weight @ x, rtol=1e-12, atol=1e-12)


@each
def test_a_prefix_gets_the_same_bits(relation: Relation) -> None:
    ids = torch.randint(3, (2, 37), generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 37, 5)
    whole = relation.links(Tokens.read((2, 37, 37), ids.device, ids))
    for length in (1, 7, 20):
        part = relation.links(Tokens.read((2, length, length), ids.device, ids[:, :length]))
        for one, other in zip(part, whole, strict=True):
            assert torch.equal(one.messages(x[:, :, :length]), other.messages(x)[:, :, :length])


@each
def test_gradients(relation: Relation) -> None:
    ids = torch.randint(2, (2, 11), generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 1, 11, 2, dtype=torch.float64, requires_grad=True)
    for link in relation.links(Tokens.read((2, 11, 11), ids.device, ids)):
        assert torch.autograd.gradcheck(link.messages, (x,))


@each
@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (1, 1)])
def test_nothing_to_send(relation: Relation, shape: tuple[int, int]) -> None:
    batch, length = shape
    ids, x = torch.zeros(shape, dtype=torch.int64), torch.randn(batch, 3, length, 5)
    for link in relation.links(Tokens.read((batch, length, length), ids.device, ids)):
        assert link.messages(x).shape == x.shape
        assert not link.messages(x).any()


@each
def test_what_padding_holds_reaches_nobody(relation: Relation) -> None:
    ids, keep = torch.zeros(1, 9, dtype=torch.int64), torch.ones(1, 9, dtype=torch.bool)
    keep[0, :4] = False
    x = torch.randn(1, 3, 9, 5)
    x[:, :, :4] = torch.nan
    for receivers in (9, 1):
        tokens = Tokens.read((1, receivers, 9), ids.device, ids, keep)
        for link in relation.links(tokens):
            assert link.messages(x)[:, :, -min(receivers, 5) :].isfinite().all()


def test_means_in_half_precision_are_means() -> None:
    """3,000 equal tokens: a sum of ones in float16 stops at 2,048."""
    ids, x = torch.zeros(1, 3000, dtype=torch.int64), torch.ones(1, 1, 3000, 1).half()
    (link,) = gf.Repeats(1, "mean").links(Tokens.read((1, 3000, 3000), ids.device, ids))
    assert_close(link.messages(x)[0, 0, 1:, 0], torch.ones(2999).half())


def test_large_ids_are_told_apart() -> None:
    """Whatever a hash would make of them."""
    ids = torch.tensor([[2**62, 5, 2**62 + 1, 7, 2**62, -1, 2**31, 0]])
    graph = relation_graph(gf.Repeats(1), ids)
    assert (graph.senders.tolist(), graph.receivers.tolist()) == ([1], [4])


def test_the_graph_of_a_relation() -> None:
    ids = torch.tensor([[0, 1, 0, 1, 0]])
    graph = relation_graph(gf.Repeats(1, "mean"), ids)
    assert graph.batch_shape == (1, 1)
    pairs = list(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True))
    assert sorted(pairs) == [(1, 2), (1, 4), (2, 3), (3, 4)]
    assert_close(graph.weight.sum(), torch.tensor(3.0))
    assert relation_graph(gf.Chain(3), ids).batch_shape == (1, 3)


@each
def test_the_plain_form_is_inverse(relation: Relation) -> None:
    assert from_spec("relation", spec(relation)) == relation
    assert check([spec(relation)]) == check(relation) == (relation,)


def test_wrong_relations_are_refused_by_name() -> None:
    for wrong, text in (
        (lambda: gf.Chain(0), "k must be at least 1, got 0"),
        (lambda: gf.Repeats(0), "n must be at least 1, got 0"),
        (lambda: gf.Repeats(1, "first"), r"unknown which 'first'; known: last, mean"),
        (lambda: check("chian"), r"unknown relation 'chian'.*did you mean 'chain'"),
        (lambda: check([gf.Chain(3), {"name": "chain"}]), "twice: once is enough"),
    ):
        with pytest.raises(ValueError, match=text):
            wrong()
    with pytest.raises(TypeError, match="relation must be a Relation, a name or a list of them"):
        check([3])


def test_limits_that_relations_cannot_follow_are_refused() -> None:
    ids = torch.zeros(2, 7, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"candidates=Window of a call.*give attention_mask of pa"):
        Tokens.read((2, 7, 7), ids.device, ids, None, Window(3))
    with pytest.raises(ValueError, match=r"input_ids must be \[2, 8\].*got \[2, 7\]"):
        Tokens.read((2, 3, 8), ids.device, ids)
    both = Packed(torch.tensor([[0, 0, 1, 1, 1, 1, 1]])) & Packed(
        torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    )
    graph = relation_graph(gf.Chain(1), ids[:1], candidates=both)
    assert graph.receivers.tolist() == [1, 3, 5, 6]
