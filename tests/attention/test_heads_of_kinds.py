"""Heads of several kinds in one layer: windows beside causal heads in texts, the data's edges
beside all pairs in graphs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.attention import All, Given, Packed, ScaledDotProduct, Window
from graphformer.attention.candidates import First
from graphformer.attention.executors.flash import head_groups
from graphformer.attention.problem import pose
from graphformer.attention.slot import from_spec, spec
from graphformer.testing import check_cache, check_causal, check_padding, check_prefix, positions_of

pytestmark = pytest.mark.usefixtures("float64")

LOCAL = gf.PerHead((Window(3), All()), counts=(2, 2))
MIXED = gf.PerHead((Window(3), All(), Window(3), First(2) | Window(2)))


def test_counts_are_a_short_spelling() -> None:
    long = gf.PerHead((Window(3), Window(3), All(), All()))
    assert long == LOCAL and spec(long) == spec(LOCAL)
    assert from_spec("candidates", spec(LOCAL)) == LOCAL
    plain = {"name": "per_head", "rules": [{"name": "window", "size": 3}, {"name": "all"}]}
    assert from_spec("candidates", {**plain, "counts": [2, 2]}) == LOCAL
    with pytest.raises(ValueError, match=r"holds 2 rules and counts \[4\]: give a number of heads"):
        gf.PerHead((Window(3), All()), counts=(4,))
    with pytest.raises(ValueError, match="counts must be at least 0, got -1"):
        gf.PerHead((Window(3), All()), counts=(5, -1))
    with pytest.raises(ValueError, match=r"PerHead holds 4 rules, but there are 3 heads"):
        gf.nn.SumAttention(30, 3, head=gf.Head(candidates=LOCAL))(torch.randn(1, 5, 30))


def limits() -> dict[str, dict[str, Any]]:
    keep = torch.ones(2, 13, dtype=torch.bool)
    keep[1, :5] = False
    texts = torch.tensor([[0] * 6 + [1] * 7]).expand(2, -1)
    heads = torch.rand(2, 4, 13, 13) < 0.7
    return {
        "none": {},
        "padded": {"attention_mask": keep},
        "packed": {"candidates": Packed(texts)},
        "pairs of each head": {"attention_mask": heads},
    }


@pytest.mark.parametrize("rule", [LOCAL, MIXED], ids=["halves", "in turns"])
@pytest.mark.parametrize("limit", limits())
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("is_causal", [True, False])
def test_executors_agree(rule: gf.PerHead, limit: str, kv_heads: int, is_causal: bool) -> None:
    x, given, found = torch.randn(2, 13, 20), limits()[limit], {}
    for executor in ("dense", "flash", "stream"):
        torch.manual_seed(0)
        layer = gf.nn.SumAttention(
            20, 4, kv_heads, head=gf.Head(candidates=rule), executor=executor, is_causal=is_causal
        )
        out = layer(x, **given)
        weights = list(layer.parameters())
        found[executor] = out, *torch.autograd.grad(out.square().sum(), weights)
    for executor in ("flash", "stream"):
        for one, other in zip(found[executor], found["dense"], strict=True):
            assert_close(one, other)


@pytest.mark.parametrize(
    ("rule", "kinds"),
    [
        (LOCAL, [[0, 1], [2, 3]]),
        (MIXED, [[0, 2], [1], [3]]),
        (gf.PerHead((All(),), counts=(4,)), None),
        (Window(3), None),
    ],
)
def test_flash_takes_heads_of_a_kind_together(rule: Any, kinds: Any) -> None:
    """Each kind by its own kernel: causal heads by torch's, windows stretch by stretch."""
    q, k = torch.randn(2, 2, 4, 13, 5)
    problem = pose(q, k, candidates=rule, is_causal=True, score=ScaledDotProduct())
    groups = head_groups(problem)
    assert (None if groups is None else [heads for _, heads in groups]) == kinds
    if groups is not None:
        assert any(rule.causal for rule, _ in groups if rule != groups[0][0])


def model(**changes: Any) -> gf.GraphformerForCausalLM:
    torch.manual_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=17,
        hidden_size=40,
        intermediate_size=23,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        head=gf.Head(candidates=LOCAL),
        **changes,
    )
    return gf.GraphformerForCausalLM(config).eval()


@pytest.mark.parametrize("operator", ["sum", "gin"])
def test_laws_of_a_text(operator: str) -> None:
    made = model(operator=operator)
    ids = gf.testing.token_ids(17)
    check_causal(made, ids, vocab_size=17, num_positions=3)
    check_prefix(made, ids)
    check_cache(made, ids)
    check_padding(
        lambda ids, keep: made(ids, attention_mask=keep, position_ids=positions_of(keep)),
        ids,
        vocab_size=17,
    )
    graph = made(ids, output_graphs=True).graphs[0].to_dense()
    reach = [int((graph[0, head, 10] > 0).sum()) for head in range(4)]
    assert reach == [3, 3, 11, 11]
    assert gf.GraphformerConfig(**made.config.to_dict()).layer_heads[0].candidates == LOCAL


# ---------------------------------------------------------------------- graphs


def a_graph(nodes: int = 7, seed: int = 0) -> Data:
    draw = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(nodes, 5, generator=draw),
        edge_index=torch.randint(nodes, (2, 2 * nodes), generator=draw).unique(dim=1),
    )


def net(rule: Any, **changes: Any) -> gf.GraphTransformer:
    torch.manual_seed(0)
    sizes = {"hidden_size": 20, "num_layers": 2, "num_heads": 4, "target": "node"}
    options = {"operator": "sum", "candidates": "edges+all", **changes}
    return gf.GraphTransformer(5, **sizes, head=gf.Head(candidates=rule), **options).eval()


def pairs_of(graph: gf.AttentionGraph) -> set[tuple[int, int]]:
    return set(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True))


def test_heads_on_the_edges_beside_heads_on_all_pairs() -> None:
    data = Batch.from_data_list([a_graph(7), a_graph(3, seed=1)])
    graphs = net(gf.PerHead((Given(), All()), counts=(2, 2)))(data, output_graphs=True).graphs
    edges = set(zip(*data.edge_index.tolist(), strict=True))
    same = data.batch[:, None] == data.batch
    every = set(zip(*(same & ~torch.eye(10, dtype=torch.bool)).nonzero().t().tolist(), strict=True))
    for graph in graphs:
        assert [pairs_of(graph.lane(head)) for head in range(4)] == [edges] * 2 + [
            every | edges
        ] * 2


def test_numbering_nodes_means_nothing() -> None:
    data, order = a_graph(), torch.randperm(7)
    other = Data(x=data.x[order], edge_index=torch.argsort(order)[data.edge_index])
    made = net(gf.PerHead((Given(), All()), counts=(1, 3)))
    assert_close(made(other).prediction, made(data).prediction[order])


def test_all_that_a_layer_on_edges_is_given_are_edges() -> None:
    data = a_graph()
    torch.manual_seed(0)
    plain = gf.nn.GINAttentionConv(5, 12, 3)
    torch.manual_seed(0)
    layer = gf.nn.GINAttentionConv(5, 12, 3, head=gf.Head(candidates=Given()))
    assert_close(layer(data.x, data.edge_index), plain(data.x, data.edge_index))


def test_a_text_has_no_given_edges() -> None:
    layer = gf.nn.SumAttention(20, 4, head=gf.Head(candidates=Given()))
    with pytest.raises(
        ValueError, match=r"candidates 'given' are the edges of a graph.*\(Window\)"
    ):
        layer(torch.randn(1, 5, 20))
