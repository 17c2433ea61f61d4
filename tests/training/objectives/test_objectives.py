"""Each objective beside its formula written out, its gradient, and what it refuses."""

import math

import pytest
import torch
from torch.autograd import gradcheck

import graphformer as gf
from graphformer.training import (
    TypedSubgraphs,
    cluster_refinement,
    cumulative_influence,
    edge_contrast,
    graph_distillation,
    node_discrimination,
    sharpened,
    soft_assignments,
    subgraph_discrimination,
    swapped_nodes,
    typed_subgraphs,
)

pytestmark = pytest.mark.usefixtures("float64")
N = 11


def a_graph(edges=23):
    """Weighted, directed, with a parallel edge, a loop, and a node that nobody sends to."""
    senders, receivers = torch.randint(N - 1, (2, edges))
    senders = torch.cat((senders, torch.tensor([2, 2, 5, N - 1])))
    receivers = torch.cat((receivers, torch.tensor([3, 3, 5, 0])))
    weight = torch.rand(len(senders)) + 0.1
    sizes = {"num_senders": N, "num_receivers": N}
    return gf.AttentionGraph.from_edges(senders, receivers, weight, **sizes)


# --- contrast


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_influence_is_the_sum_of_powers(hops):
    graph = a_graph()
    step = graph.to_dense()[0] if graph.to_dense().ndim == 3 else graph.to_dense()
    step = step / step.sum(1, keepdim=True).clamp(min=1e-300)
    total, power = torch.zeros(N, N), torch.eye(N)
    for _ in range(hops):
        power = power @ step
        total += power
    total.fill_diagonal_(0)
    total = total / total.sum(1, keepdim=True).clamp(min=1e-300)
    got = cumulative_influence(graph, hops)
    torch.testing.assert_close(got.to_dense().view(N, N), total)
    assert not bool((got.senders == got.receivers).any())
    assert got.num_edges == int((total > 0).sum())


def contrast_by_loops(x, gamma, tau):
    x = x / x.norm(dim=1, keepdim=True)
    losses = []
    for i in range(N):
        if not float(gamma[i].sum()):
            continue
        others = [k for k in range(N) if k != i]
        top = sum(gamma[i, j] * torch.exp(x[i] @ x[j] / tau) for j in others)
        losses.append(-torch.log(top / sum(torch.exp(x[i] @ x[k] / tau) for k in others)))
    return torch.stack(losses).mean()


def test_contrast_on_edges():
    positives = cumulative_influence(a_graph(), 2)
    x = torch.randn(N, 3, requires_grad=True)
    gamma = positives.to_dense().view(N, N)
    torch.testing.assert_close(
        edge_contrast(x, positives, 0.3), contrast_by_loops(x, gamma, 0.3), rtol=1e-12, atol=0
    )
    assert gradcheck(lambda x: edge_contrast(x, positives, 0.3), (x,))
    # far scores do not overflow
    assert math.isfinite(float(edge_contrast(100 * x.detach(), positives, 0.01, unit=False)))


def test_contrast_refuses():
    graph = a_graph()
    x = torch.randn(N, 3)
    with pytest.raises(ValueError, match="positives joins a node to itself"):
        edge_contrast(x, graph)
    positives = cumulative_influence(graph)
    with pytest.raises(ValueError, match=rf"x must be \[{N}, D\], a row a node of positives, got"):
        edge_contrast(x[1:], positives)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        edge_contrast(x, positives, 0)
    with pytest.raises(ValueError, match="hops must be at least 1, got 0"):
        cumulative_influence(graph, 0)
    two = gf.attention_graph(torch.randn(1, 2, N, 3), torch.randn(1, 2, N, 3))
    with pytest.raises(ValueError, match="graph must be one lane over one set of nodes, got 2 lan"):
        edge_contrast(x, two)
    empty = cumulative_influence(gf.AttentionGraph.from_dense(torch.eye(N)))
    assert empty.num_edges == 0
    with pytest.raises(ValueError, match="positives has no edge"):
        edge_contrast(x, empty)


# --- clusters


def test_assignments_and_their_target():
    x, centres = torch.randn(N, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    nu = 2.5
    q = torch.tensor(
        [[float((1 + ((a - b) ** 2).sum() / nu) ** (-(nu + 1) / 2)) for b in centres] for a in x]
    )
    q = q / q.sum(1, keepdim=True)
    got = soft_assignments(x, centres, nu)
    torch.testing.assert_close(got, q)
    p = torch.tensor([[float(q[i, k] ** 2 / q[:, k].sum()) for k in range(5)] for i in range(N)])
    p = p / p.sum(1, keepdim=True)
    torch.testing.assert_close(sharpened(got), p)
    assert not sharpened(got).requires_grad
    want = sum(p[i, k] * torch.log(p[i, k] / q[i, k]) for i in range(N) for k in range(5)) / N
    torch.testing.assert_close(cluster_refinement(got), want)
    assert gradcheck(lambda x, c: cluster_refinement(soft_assignments(x, c, nu), p), (x, centres))
    assert float(cluster_refinement(p, p).abs()) < 1e-15
    with pytest.raises(ValueError, match=r"q and target must be \[N, K\], got \[11, 5\] and"):
        cluster_refinement(q, p[:, 1:])
    with pytest.raises(ValueError, match=r"x must be \[N, D\] and centres \[K, D\]"):
        soft_assignments(x, centres[:, 1:])


# --- distillation


def two_heads(causal=True, sparsify=None, seed=0):
    torch.manual_seed(seed)
    q, k = torch.randn(2, 3, 7, 5), torch.randn(2, 3, 7, 5)
    return gf.attention_graph(q, k, is_causal=causal, sparsify=sparsify)


def test_distillation_is_the_divergence_of_dense_rows():
    teacher, student = two_heads(seed=1), two_heads(seed=2)
    t, s = teacher.to_dense(), student.to_dense()
    want = torch.where(t > 0, t * (t.log() - s.log()), 0).sum(-1).mean()
    torch.testing.assert_close(graph_distillation(teacher, student), want)
    assert float(graph_distillation(teacher, two_heads(seed=1)).abs()) < 1e-13


def test_distillation_of_a_cut_teacher_has_a_rest():
    teacher, student = two_heads(sparsify=gf.Threshold(0.2), seed=1), two_heads(seed=2)
    t, s = teacher.to_dense().reshape(-1, 7), student.to_dense().reshape(-1, 7)
    losses = []
    for row, own in zip(t, s, strict=True):
        if not float(row.sum()):
            continue
        kept = row > 0
        loss = (row[kept] * (row[kept] / own[kept]).log()).sum()
        r, q = 1 - row.sum(), 1 - own[kept].sum()
        losses.append(loss + (r * (r / q).log() if float(r) > 1e-12 else 0))
    got = graph_distillation(teacher, student)
    torch.testing.assert_close(got, torch.stack(losses).mean())
    whole = graph_distillation(two_heads(seed=1), student)
    assert 0 < float(got) < float(whole)  # what is one outcome cannot differ inside


def test_distillation_has_the_students_gradient():
    teacher = two_heads(sparsify=gf.TopK(2), seed=1)
    q, k = (torch.randn(2, 3, 7, 5, requires_grad=True) for _ in range(2))

    def loss(q, k):
        return graph_distillation(teacher, gf.attention_graph(q, k, is_causal=True))

    assert gradcheck(loss, (q, k))


def test_distillation_refuses():
    teacher, student = two_heads(), two_heads(sparsify=gf.TopK(1), seed=2)
    with pytest.raises(ValueError, match=r"student lacks \d+ of the teacher's 168 edges, where"):
        graph_distillation(teacher, student)
    with pytest.raises(ValueError, match="must have the same lanes, senders and receivers, got"):
        graph_distillation(teacher, teacher.lane(0))
    parallel = a_graph()
    with pytest.raises(ValueError, match="teacher has parallel edges"):
        graph_distillation(parallel, parallel)
    heavy = gf.AttentionGraph.from_dense(torch.rand(5, 5) + 1)
    with pytest.raises(ValueError, match="teacher has rows whose weights sum to"):
        graph_distillation(heavy, heavy)


# --- typed negatives


def typed():
    """Papers (0), authors (1) and venues (2): each paper has authors and one venue."""
    papers, authors, venues = 6, 5, 3
    kinds = torch.tensor([0] * papers + [1] * authors + [2] * venues)
    edges = [(papers + a, p) for p in range(papers) for a in {p % authors, (2 * p + 1) % authors}]
    edges += [(p, papers + authors + p % venues) for p in range(papers)]
    senders, receivers = torch.tensor(edges).t()
    return senders, receivers, kinds


def test_subgraphs_have_a_node_of_each_type_and_hold_together():
    senders, receivers, kinds = typed()
    joined = {*zip(senders.tolist(), receivers.tolist(), strict=True)}
    joined |= {(b, a) for a, b in joined}
    generator = torch.Generator().manual_seed(0)
    found = typed_subgraphs(senders, receivers, kinds, torch.arange(len(kinds)), generator)
    assert found.nodes.shape == (14, 3)
    for anchor, (row, parent) in enumerate(zip(*map(torch.Tensor.tolist, found), strict=True)):
        assert [int(kinds[one]) for one in row] == [0, 1, 2] and anchor in row
        for t in range(3):
            assert parent[t] != t or row[t] == anchor
            assert parent[t] == t or (row[t], row[parent[t]]) in joined
    # an anchor without neighbours has no subgraph
    alone = torch.cat((kinds, torch.tensor([0])))
    assert len(typed_subgraphs(senders, receivers, alone, torch.tensor([14, 0])).nodes) == 1


def test_negatives_lack_an_edge_and_differ_in_one_node():
    senders, receivers, kinds = typed()
    joined = {*zip(senders.tolist(), receivers.tolist(), strict=True)}
    joined |= {(b, a) for a, b in joined}
    generator = torch.Generator().manual_seed(1)
    found = typed_subgraphs(senders, receivers, kinds, torch.arange(14), generator)
    made = swapped_nodes(found, senders, receivers, kinds, generator)
    assert len(made.nodes) == 14 and len(set(made.column.tolist())) == 3
    for row, column, of in zip(*map(torch.Tensor.tolist, made), strict=True):
        whole, parent = found.nodes[of].tolist(), found.parents[of].tolist()
        assert [t for t in range(3) if row[t] != whole[t]] == [column]
        assert kinds[row[column]] == column
        held = [(t, parent[t]) for t in range(3) if parent[t] != t]
        assert any((row[a], row[b]) not in joined for a, b in held)
    # where every node of a type is joined to all, there is no negative
    full = torch.tensor([0, 0, 1, 1]), torch.tensor([2, 3, 2, 3])
    kinds = torch.tensor([0, 0, 1, 1])
    none = swapped_nodes(typed_subgraphs(*full, kinds, torch.arange(4)), *full, kinds)
    assert none.nodes.shape == (0, 2)


def test_discrimination():
    positive, negative = (torch.randn(k, requires_grad=True) for k in (3, 5))
    want = [torch.log(1 + torch.exp(-s)) for s in positive]
    want += [torch.log(1 + torch.exp(s)) for s in negative]
    torch.testing.assert_close(subgraph_discrimination(positive, negative), sum(want) / 8)
    assert gradcheck(subgraph_discrimination, (positive, negative))
    logits, column = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 2, 1, 1, 0])
    rows = [-torch.log(logits[m, c].exp() / logits[m].exp().sum()) for m, c in enumerate(column)]
    torch.testing.assert_close(node_discrimination(logits, column), sum(rows) / 5)
    assert gradcheck(lambda one: node_discrimination(one, column), (logits,))
    with pytest.raises(ValueError, match=r"negative must be logits \[S\] of at least one"):
        subgraph_discrimination(positive, negative[:0])
    with pytest.raises(ValueError, match=r"logits must be \[M, T\] and column \[M\]"):
        node_discrimination(logits, column[1:])
    with pytest.raises(ValueError, match="node_type must number the types from 0"):
        typed_subgraphs(*torch.zeros(2, 1).long(), torch.tensor([0, 2]), torch.tensor([0]))


def test_a_network_learns_to_tell_subgraphs_from_negatives():
    """Both questions on a graph of types, from node vectors that are trained."""
    senders, receivers, kinds = typed()
    generator = torch.Generator().manual_seed(2)
    nodes = torch.nn.Embedding(14, 12)
    ask = torch.nn.Sequential(torch.nn.Linear(36, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.Adam([*nodes.parameters(), *ask.parameters()], 0.02)

    def answers(rows):
        return ask(nodes(rows).flatten(1))

    for _ in range(150):
        found = typed_subgraphs(senders, receivers, kinds, torch.arange(14), generator)
        made = swapped_nodes(found, senders, receivers, kinds, generator)
        yes, no = answers(found.nodes), answers(made.nodes)
        loss = subgraph_discrimination(yes[:, 0], no[:, 0])
        loss = loss + node_discrimination(no[:, 1:], made.column)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = typed_subgraphs(senders, receivers, kinds, torch.arange(14), generator)
    made = swapped_nodes(found, senders, receivers, kinds, generator)
    right = [*(answers(found.nodes)[:, 0] > 0).tolist(), *(answers(made.nodes)[:, 0] < 0).tolist()]
    assert sum(right) / len(right) > 0.85


def test_parents_are_columns():
    """A value of one's own is taken as it is."""
    one = TypedSubgraphs(torch.tensor([[0, 2]]), torch.tensor([[0, 0]]))
    kinds = torch.tensor([0, 0, 1, 1])
    made = swapped_nodes(one, torch.tensor([0, 1]), torch.tensor([2, 3]), kinds)
    assert made.nodes.tolist() in ([[1, 2]], [[0, 3]])
