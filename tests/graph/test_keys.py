"""Edges in order, also where a key of receiver and sender would wrap round 64 bits; and what
compiled code keeps alive.
"""

import gc

import pytest
import torch

import graphformer as gf
from graphformer.attention.executors import travel
from graphformer.graph.keys import order_of, pair_keys, split_keys, unique_pairs
from graphformer.nn.edge_list import EdgeList
from graphformer.nn.hierarchy import number_groups, symmetric
from graphformer.nn.pairs import hops

NODES = 4_000_000_007  # squared, more than 2^63


@pytest.mark.parametrize("rows", [11, NODES])
def test_pairs_are_sorted_whatever_their_numbers(rows: int) -> None:
    torch.manual_seed(0)
    first, second = torch.randint(rows, (2, 501))
    first[7], second[7] = first[3], second[3]
    wanted = sorted(range(501), key=lambda i: (int(first[i]), int(second[i]), i))
    assert order_of(first, second, rows, rows).tolist() == wanted
    one, other, place = unique_pairs(first, second, rows, rows)
    pairs = list(zip(one.tolist(), other.tolist(), strict=True))
    assert pairs == sorted(set(zip(first.tolist(), second.tolist(), strict=True)))
    assert torch.equal(one[place], first) and torch.equal(other[place], second)


def test_graphs_of_more_nodes_than_a_key_holds() -> None:
    senders, receivers = (
        torch.tensor([5, NODES - 1, 3, NODES - 2]),
        torch.tensor([NODES - 1, 2, NODES - 1, NODES - 5]),
    )
    graph = gf.AttentionGraph.from_edges(senders, receivers, num_nodes=NODES)
    assert graph.receivers.tolist() == [2, NODES - 5, NODES - 1, NODES - 1]
    assert graph.senders.tolist() == [NODES - 1, NODES - 2, 3, 5]
    edges = EdgeList.sort(senders, receivers, NODES, NODES)
    assert edges.order.tolist() == [1, 3, 2, 0]
    two = gf.AttentionGraph.from_edges(
        torch.cat((senders, senders + NODES)),
        torch.cat((receivers, receivers + NODES)),
        num_nodes=NODES,
        batch_shape=(2,),
    )
    merged = two.merge_heads("sum")
    assert torch.equal(merged.senders, graph.senders) and torch.equal(
        merged.receivers, graph.receivers
    )
    assert merged.weight.tolist() == [2.0] * 4


def test_groups_of_any_number_stay_with_their_graph() -> None:
    """Numbers of groups are a user's own: times the number of graphs they may exceed 64 bits."""
    group, graph = (
        torch.tensor([2**62, 1, 2**63 - 1, 2**62, 1, 1]),
        torch.tensor([0, 0, 2, 3, 3, 3]),
    )
    parent, of_graph = number_groups(group, graph)
    assert parent.tolist() == [1, 0, 2, 4, 3, 3] and of_graph.tolist() == [0, 0, 2, 3, 3]
    assert [len(one) for one in number_groups(group[:0], graph[:0])] == [0, 0]


def test_pairs_of_more_nodes_than_a_key_holds() -> None:
    """What makes pairs sorts them all the same; what looks them up refuses, and names the size."""
    senders, receivers = (
        torch.tensor([5, NODES - 1, NODES - 1, 3]),
        torch.tensor([NODES - 1, 5, 2, 3]),
    )
    edges = EdgeList.sort(senders, receivers, NODES, NODES)
    a, b, weight = symmetric(edges, torch.ones(4))
    assert a.tolist() == [2, 5] and b.tolist() == [NODES - 1] * 2 and weight.tolist() == [1.0, 2.0]
    for look in (lambda: edges.keys, lambda: hops(senders, receivers, NODES, 2, "k_hop:2")):
        with pytest.raises(
            ValueError,
            match=r"pairs of 4,000,000,007 and 4,000,000,007 nodes .* about 3,037,000,499 nodes",
        ):
            look()


@pytest.mark.parametrize("rows", [11, NODES])
def test_keys_are_pairs(rows: int) -> None:
    first, second = torch.randint(rows, (2, 101))
    if rows == NODES:
        first = first % 11  # rows times columns fit
    back = split_keys(pair_keys(first, second, 11, rows), rows)
    assert torch.equal(back[0], first) and torch.equal(back[1], second)


def test_compiled_code_keeps_no_value_alive() -> None:
    """2,000 values, each known to compiled code by a number, in a loop: none is kept."""

    class Own:
        """A class that has no text."""

    gc.collect()
    before = len(travel._values)
    for _ in range(2000):
        value = Own()
        number = travel.place(value, id(value))
        assert travel.place(value, id(value)) == number
    text = f'{{"own": {number}}}'
    assert travel.unpack(text, []) is value
    del value
    gc.collect()
    assert len(travel._values) <= before
    with pytest.raises(
        RuntimeError, match="refers to a rule, normalizer or sparsifier that is gone"
    ):
        travel.unpack(text, [])
