"""Retrieve and read: the pairs of its dense mask, in texts and in graphs."""

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.attention.candidates import Clusters, RetrieveAndRead, Window
from graphformer.models.graphs.data import read_structure
from graphformer.nn.pairs import candidates
from tests.attention.test_methods import stirred

pytestmark = pytest.mark.usefixtures("float64")

N = 11


def mask_of(query, inside):
    """Bool ``[N, N]``, receivers in rows, pair by pair."""
    seen = torch.zeros(len(query), len(query), dtype=torch.bool)
    for i in range(len(query)):
        for j in range(len(query)):
            if query[i] != query[j]:
                seen[i, j] = True
            elif not query[i]:
                seen[i, j] = inside(i, j)
    return seen


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("size", [None, 2])
def test_a_text_beside_its_dense_mask(size, is_causal):
    torch.manual_seed(0)
    layer = stirred(gf.nn.GINAttention(12, 4, 2, is_causal=is_causal))
    x, query = torch.randn(3, N, 12), torch.rand(3, N) < 0.4
    rule = RetrieveAndRead(query, *(() if size is None else (Window(size),)))
    dense = torch.stack(
        [mask_of(one.tolist(), lambda i, j: size is None or abs(i - j) < size) for one in query]
    )
    want = layer(x, dense.unsqueeze(1))
    for executor in ("auto", "dense", "stream"):
        layer.executor = executor
        found, graph = layer(x, candidates=rule, output_graph=True)
        assert_close(found, want)
    seen = dense.tril() if is_causal else dense
    assert torch.equal(
        graph.unweighted().to_dense().bool(), seen.unsqueeze(1).expand(-1, 4, -1, -1)
    )
    # padding changes nothing, and 0 and 1 say the same
    keep = torch.ones(3, N + 3).long()
    keep[:, :3] = 0
    wide = torch.cat((torch.zeros(3, 3).long(), query.long()), 1)
    padded = layer(
        torch.cat((torch.randn(3, 3, 12), x), 1),
        keep,
        candidates=RetrieveAndRead(wide, rule.inside),
    )
    assert_close(padded[:, 3:], want)


def test_inside_the_context_any_rule():
    torch.manual_seed(0)
    q, query = torch.randn(2, 3, N, 4), torch.rand(2, N) < 0.3
    inside = Clusters(2, num_heads=3, dim=4)
    every = gf.attention_graph(q, q, candidates=inside).unweighted().to_dense().bool()
    found = gf.attention_graph(q, q, candidates=RetrieveAndRead(query, inside))
    want = torch.stack(
        [
            torch.stack(
                [
                    mask_of(query[b].tolist(), lambda i, j, b=b, h=h: every[b, h, i, j])
                    for h in range(3)
                ]
            )
            for b in range(2)
        ]
    )
    assert torch.equal(found.unweighted().to_dense().bool(), want)


def a_graph(nodes, edges, seed):
    torch.manual_seed(seed)
    return Data(
        x=torch.randn(nodes, 4),
        edge_index=torch.randint(nodes, (2, edges)).unique(dim=1),
        is_query=torch.rand(nodes) < 0.3,
    )


def test_a_graph_beside_its_dense_mask():
    graphs = [a_graph(7, 20, 1), a_graph(1, 1, 2), a_graph(9, 30, 3)]
    batch = Batch.from_data_list(graphs)
    edges, given = candidates(read_structure(batch), "retrieve")
    found = torch.zeros(17, 17, dtype=torch.bool)
    found[edges.receivers, edges.senders] = True
    parts = []
    for one in graphs:
        pairs = set(map(tuple, one.edge_index.t().tolist()))
        parts.append(mask_of(one.is_query.tolist(), lambda i, j, pairs=pairs: (j, i) in pairs))
    assert torch.equal(found, torch.block_diag(*parts))
    assert int(found.sum()) == edges.num_edges
    known = set(map(tuple, batch.edge_index.t().tolist()))
    ends = zip(edges.senders.tolist(), edges.receivers.tolist(), strict=True)
    assert (given >= 0).tolist() == [pair in known for pair in ends]


def test_in_the_graph_transformer():
    torch.manual_seed(0)
    net = gf.GraphTransformer(
        4, hidden_size=12, num_layers=2, num_heads=3, target="node", candidates="retrieve"
    ).eval()
    graphs = [a_graph(7, 20, 1), a_graph(9, 30, 3)]
    alone = torch.cat([net(one).prediction for one in graphs])
    assert_close(net(Batch.from_data_list(graphs)).prediction, alone)
    order = torch.randperm(7)
    data = graphs[0]
    turned = Data(
        x=data.x[order], edge_index=order.argsort()[data.edge_index], is_query=data.is_query[order]
    )
    assert_close(net(turned).prediction, net(data).prediction[order])


def test_what_cannot_be_is_refused():
    x, query = torch.randn(1, N, 12), torch.zeros(1, N)
    layer = gf.nn.GINAttention(12, 4)
    with pytest.raises(ValueError, match=r"is_query must have shape \[1, 11\]"):
        layer(x, candidates=RetrieveAndRead(query[:, 1:]))
    with pytest.raises(TypeError, match="is_query must hold 1"):
        RetrieveAndRead(query + 2)
    with pytest.raises(ValueError, match=r"GraphTransformer\(candidates='retrieve'\)"):
        gf.nn.GINAttentionConv(5, 12, 4, head=gf.Head(candidates=RetrieveAndRead(query)))(
            torch.randn(3, 5), torch.zeros(2, 1).long()
        )
    net = gf.GraphTransformer(4, hidden_size=12, num_heads=3, candidates="retrieve")
    data = a_graph(7, 20, 1)
    data.is_query = data.is_query.long()
    with pytest.raises(ValueError, match=r"data\.is_query must be a bool for each of the 7 nodes"):
        net(data)
    del data.is_query
    with pytest.raises(ValueError, match=r"data\.is_query is missing"):
        net(data)
    with pytest.warns(UserWarning, match="candidates='retrieve' reads it"):
        gf.GraphTransformer(4, hidden_size=12, num_heads=3)(a_graph(7, 20, 1))
