"""Graph layers for PyG and DGL: the formula, the laws of graphs, conventions of both libraries,
what they refuse.
"""

import copy
import importlib.util
import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

import graphformer as gf
from graphformer.nn import AttentionConv, GINAttentionConv, PNAAttentionConv, SumAttentionConv
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("float64")

os.environ.setdefault("DGLBACKEND", "pytorch")

NODES, EDGES, IN, OUT, HEADS, EDGE_DIM = 11, 29, 7, 15, 3, 2
CONVS = {"gin": GINAttentionConv, "pna": PNAAttentionConv, "sum": SumAttentionConv}
each_conv = pytest.mark.parametrize("kind", CONVS)
SPARSIFIERS = {"none": None, "threshold": gf.Threshold(0.3), "top_k": gf.TopK(2)}


def jittered(module: nn.Module) -> nn.Module:
    """Away from the start, where epsilon is 0 and the sharpening 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module


def made(
    kind: str,
    in_channels=IN,
    out_channels: int = OUT,
    heads: int = HEADS,
    edge_dim: int | None = EDGE_DIM,
    **options,
) -> AttentionConv:
    return jittered(CONVS[kind](in_channels, out_channels, heads, edge_dim, **options)).eval()


def a_graph(
    seed: int = 0, nodes: int = NODES, edges: int = EDGES, dtype: torch.dtype | None = None
) -> gf.testing.GraphSample:
    return gf.testing.random_graph(nodes, edges, IN, edge_dim=EDGE_DIM, seed=seed, dtype=dtype)


def edge_index(graph: gf.testing.GraphSample) -> Tensor:
    return torch.stack((graph.senders, graph.receivers))


def naive(
    conv: AttentionConv,
    x: Tensor,
    index: Tensor,
    edge_attr: Tensor | None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The formula, receiver by receiver and head by head, in plain loops. ``mask``: a factor for
    each edge's message.
    """
    d = conv.head_channels
    outs = []
    for i in range(len(x)):
        into = (index[1] == i).nonzero()[:, 0]
        senders = index[0][into]
        reduced: dict[str, list[Tensor]] = {name: [] for name in conv.operator.reductions}
        own = []
        for h in range(conv.heads):
            part = slice(h * d, (h + 1) * d)
            q, k, v = (
                x @ layer.weight[part].t() for layer in (conv.q_proj, conv.k_proj, conv.v_proj)
            )
            own.append(v[i])
            s = (k[senders] @ q[i]) * conv.sharpening / math.sqrt(d)
            messages = v[senders]
            if edge_attr is not None:
                s = s + edge_attr[into] @ conv.edge_bias.weight[h]
                messages = messages + edge_attr[into] @ conv.edge_message[h]
            if bias is not None:
                s = s + bias[into, h]
            w = s.softmax(0)
            if isinstance(conv.sparsify, gf.Threshold):
                keep = w > conv.sparsify.tau
            elif isinstance(conv.sparsify, gf.TopK):
                keep = torch.isin(
                    torch.arange(len(w)), w.topk(min(conv.sparsify.k, len(w))).indices
                )
            else:
                keep = torch.ones(len(w), dtype=torch.bool)
            factor = torch.ones(len(into), 1) if mask is None else mask[into].unsqueeze(-1)
            w, messages, plain = w[keep], (factor * messages)[keep], (factor * v[senders])[keep]
            empty = v.new_zeros(d)
            total = (w.unsqueeze(-1) * messages).sum(0)
            mean_plain = (w.unsqueeze(-1) * plain).sum(0) / w.sum() if len(w) else empty
            variance = (
                (w.unsqueeze(-1) * (plain - mean_plain) ** 2).sum(0) / w.sum() if len(w) else empty
            )
            values = {
                "sum": total,
                "mean": total / w.sum() if len(w) else empty,
                "max": plain.amax(0) if len(w) else empty,
                "min": plain.amin(0) if len(w) else empty,
                "std": torch.where(variance > 1e-10, variance, 0).sqrt(),
                "degree": torch.tensor([float(len(w))]),
            }
            for name in reduced:
                reduced[name].append(values[name])
        stacked = {name: torch.stack(rows).unsqueeze(1) for name, rows in reduced.items()}
        outs.append(conv.operator(torch.stack(own).unsqueeze(1), stacked)[:, 0].flatten())
    out = torch.stack(outs)
    return out if conv.o_proj is None else conv.o_proj(out)


# ---------------------------------------------------------------- the formula


@each_conv
@pytest.mark.parametrize("sparsify", SPARSIFIERS)
def test_formula(kind: str, sparsify: str):
    conv, graph = made(kind, sparsify=SPARSIFIERS[sparsify]), a_graph()
    assert_close(
        conv(graph.x, edge_index(graph), graph.edge_attr),
        naive(conv, graph.x, edge_index(graph), graph.edge_attr),
    )


@each_conv
def test_formula_with_bias_output_map_and_no_edge_features(kind: str):
    conv, graph = made(kind, edge_dim=None, head_channels=2, out_channels=5), a_graph(1)
    bias = torch.randn(EDGES, HEADS)
    assert_close(
        conv(graph.x, edge_index(graph), edge_bias=bias),
        naive(conv, graph.x, edge_index(graph), None, bias),
    )
    one = bias[:, 0]
    assert_close(
        conv(graph.x, edge_index(graph), edge_bias=one),
        naive(conv, graph.x, edge_index(graph), None, one[:, None].expand(-1, HEADS)),
    )


def test_gin_by_hand():
    """One head, one edge: its weight is 1, so out = MLP((1 + eps) v_i + v_j + W_e a)."""
    conv = made("gin", heads=1, out_channels=3)
    x, attr = torch.randn(2, IN), torch.randn(1, EDGE_DIM)
    out = conv(x, torch.tensor([[0], [1]]), attr)
    v = x @ conv.v_proj.weight.t()
    mlp = lambda z: conv.operator.mlp(z.view(1, 1, -1)).view(-1)  # noqa: E731
    assert_close(
        out[1], mlp((1 + conv.operator.eps) * v[1] + v[0] + attr[0] @ conv.edge_message[0])
    )
    assert_close(out[0], mlp((1 + conv.operator.eps) * v[0]))


def test_the_features_of_an_only_edge_are_seen():
    conv = made("gin")
    x, index = torch.randn(2, IN), torch.tensor([[0], [1]])
    assert not torch.allclose(
        conv(x, index, torch.zeros(1, EDGE_DIM))[1], conv(x, index, torch.ones(1, EDGE_DIM))[1]
    )


@each_conv
def test_gradcheck(kind: str):
    conv = made(kind, out_channels=6, heads=2).double()
    graph = a_graph(nodes=5, edges=7, dtype=torch.float64)
    index = edge_index(graph)
    leaves = (
        graph.x.requires_grad_(),
        graph.edge_attr.requires_grad_(),
        torch.randn(7, 2, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(lambda x, a, b: conv(x, index, a, edge_bias=b), leaves)
    names, parameters = zip(*conv.named_parameters(), strict=True)

    def call(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(
            conv, given, (graph.x.detach(), index, graph.edge_attr.detach())
        )

    assert torch.autograd.gradcheck(
        call, tuple(p.detach().clone().requires_grad_() for p in parameters), fast_mode=True
    )


def test_equal_pairs_are_messages_of_their_own():
    """Two bonds between the same atoms: each has its features, its weight, and its place in the
    softmax.
    """
    conv, graph = made("gin", sparsify=gf.TopK(3)), a_graph()
    index = edge_index(graph)
    twice, attr = (
        torch.cat((index, index), 1),
        torch.cat((graph.edge_attr, torch.randn(EDGES, EDGE_DIM))),
    )
    out, heads = conv(graph.x, twice, attr, output_graph=True)
    assert_close(out, naive(conv, graph.x, twice, attr))
    assert int(heads.in_degree().max()) == 3
    same = made("gin")  # equal edges share a weight between them, so the sum is that of one of them
    assert_close(
        same(graph.x, twice, graph.edge_attr.repeat(2, 1)), same(graph.x, index, graph.edge_attr)
    )


def test_the_graph_that_is_returned():
    conv, graph = made("gin", sparsify=gf.Threshold(0.3)), a_graph()
    _, heads = conv(graph.x, edge_index(graph), graph.edge_attr, output_graph=True)
    assert heads.batch_shape == (HEADS,) and heads.num_nodes == NODES and heads.weight.requires_grad
    assert bool((heads.weight > 0.3).all()) and heads.num_edges < HEADS * EDGES
    given = {(int(s), int(r)) for s, r in edge_index(graph).t()}
    for h in range(HEADS):
        assert {(int(s), int(r)) for s, r in heads.lane(h).edge_index.t()} <= given
    checked = gf.AttentionGraph.from_edges(
        heads.senders, heads.receivers, heads.weight, num_nodes=NODES, batch_shape=(HEADS,)
    )
    assert torch.equal(checked.senders, heads.senders) and torch.equal(
        checked.receivers, heads.receivers
    )


def test_what_is_shifted_is_what_would_be_derived():
    graph = a_graph()
    lanes = gf.nn.EdgeList.sort(graph.senders, graph.receivers, NODES, NODES).heads(HEADS)
    again = gf.AttentionGraph.from_edges(
        lanes.senders, lanes.receivers, num_nodes=NODES, batch_shape=(HEADS,)
    )
    for name in ("senders", "receivers", "indptr"):
        assert torch.equal(getattr(lanes, name), getattr(again, name))
    assert torch.equal(lanes.in_degree(), again.in_degree())
    for got, want in zip(lanes.by_sender, again.by_sender, strict=True):
        assert torch.equal(got, want)


def test_rows_that_all_heads_share():
    graph = a_graph()
    edges = gf.nn.EdgeList.sort(graph.senders, graph.receivers, NODES, NODES)
    rows = edges.rows(HEADS)
    fresh = gf.AttentionGraph(
        rows.senders, rows.receivers, rows.weight, 1, edges.num_edges, HEADS * NODES, ()
    )
    assert rows.senders.tolist() == list(range(edges.num_edges)) * HEADS
    assert torch.equal(rows.receivers, edges.heads(HEADS).receivers)
    assert torch.equal(rows.indptr, fresh.indptr) and torch.equal(
        rows.in_degree(), fresh.in_degree()
    )
    assert all(
        torch.equal(got, want) for got, want in zip(rows.by_sender, fresh.by_sender, strict=True)
    )


@pytest.mark.float32
@pytest.mark.parametrize("trainable", [True, False])
def test_reweigh(trainable: bool):
    from graphformer.attention import NormalizeWeights, Reweigh

    conv, graph = made("gin", sparsify=Reweigh("relu", 0.2, trainable=trainable)), a_graph()
    _, heads = conv(graph.x, edge_index(graph), graph.edge_attr, output_graph=True)
    assert 0 < heads.num_edges < HEADS * EDGES
    gf.testing.check_gradients(conv, graph.x, edge_index(graph), graph.edge_attr)
    # drops edges after it changed their weights
    cut = made("gin", sparsify=NormalizeWeights(HEADS, then=gf.Threshold(0.1)))
    out, heads = cut(graph.x, edge_index(graph), graph.edge_attr, output_graph=True)
    assert bool((heads.weight > 0.1).all()) and bool(out.isfinite().all())


@pytest.mark.parametrize("normalize", ["softmax", "sigmoid", "relu", "identity"])
def test_normalizers_and_renormalizing(normalize: str):
    conv, graph = (
        made("gin", normalize=normalize, sparsify=gf.Threshold(0.05, renormalize=True)),
        a_graph(),
    )
    out, heads = conv(graph.x, edge_index(graph), graph.edge_attr, output_graph=True)
    assert bool(out.isfinite().all())
    total = heads.in_weight()[heads.in_degree() > 0]
    assert_close(total, torch.ones_like(total))


def test_dropout_only_while_training():
    conv, graph = made("sum", dropout=0.5), a_graph()
    call = lambda: conv(graph.x, edge_index(graph), graph.edge_attr)  # noqa: E731
    assert_close(call(), call(), rtol=0, atol=0)
    conv.train()
    assert not torch.allclose(call(), call())


@pytest.mark.float32
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype):
    conv, graph = made("gin"), a_graph()
    want = conv(graph.x, edge_index(graph), graph.edge_attr)
    got = copy.deepcopy(conv).to(dtype)(
        graph.x.to(dtype), edge_index(graph), graph.edge_attr.to(dtype)
    )
    assert got.dtype == dtype
    assert_close(got.float(), want, atol=0.1, rtol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(
            conv(graph.x, edge_index(graph), graph.edge_attr).float(), want, atol=0.1, rtol=0.1
        )


# ---------------------------------------------------------------- the laws


@each_conv
@pytest.mark.parametrize("sparsify", SPARSIFIERS)
def test_equivariant(kind: str, sparsify: str):
    conv, graph = made(kind, sparsify=SPARSIFIERS[sparsify]), a_graph()
    gf.testing.check_equivariant(
        gf.testing.from_pyg(conv),
        graph.x,
        graph.senders,
        graph.receivers,
        edge_attr=graph.edge_attr,
    )


@each_conv
def test_disjoint(kind: str):
    graphs = [a_graph(0), a_graph(1, 5, 7), a_graph(2, 1, 0), a_graph(3, 3, 0)]
    gf.testing.check_disjoint(gf.testing.from_pyg(made(kind), pass_batch=True), graphs)


@each_conv
def test_direction(kind: str):
    senders, receivers = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([1, 2, 3, 3, 4])
    x, attr = torch.randn(6, IN), torch.randn(5, EDGE_DIM)
    conv = made(kind)
    gf.testing.check_direction(gf.testing.from_pyg(conv), x, senders, receivers, edge_attr=attr)


@each_conv
@pytest.mark.parametrize("backend", ["pyg", "dgl", "torch_sparse"])
@pytest.mark.parametrize("sparsify", SPARSIFIERS)
def test_backends_agree(kind: str, backend: str, sparsify: str):
    if backend not in gf.backends.available():
        pytest.skip(f"{backend} is not installed")
    conv, graph = made(kind, sparsify=SPARSIFIERS[sparsify]), a_graph()
    other = copy.deepcopy(conv)
    other.backend = backend
    inputs = (graph.x.requires_grad_(), edge_index(graph), graph.edge_attr.requires_grad_())
    gf.testing.check_agreement({"torch": conv, backend: other}, inputs)


@each_conv
def test_gradients_reach_every_parameter(kind: str):
    graph = a_graph()
    conv = made(kind, (IN, 5), head_channels=2)
    gf.testing.check_gradients(
        conv, (graph.x, torch.randn(NODES, 5)), edge_index(graph), graph.edge_attr
    )


@each_conv
def test_no_graph_makes_a_nan(kind: str):
    conv = made(kind, edge_dim=None, sparsify=gf.Threshold(0.4))
    gf.testing.check_finite(
        conv,
        gf.testing.hostile_graphs(IN),
        call=lambda m, x, s, r, batch: m(x, torch.stack((s, r)), batch=batch),
    )


@settings(max_examples=40)
@given(st.data())
def test_odd_graphs(data: st.DataObject):
    """Self-loops, equal pairs, isolated nodes, no edges: the formula holds and gradients are
    finite.
    """
    nodes = data.draw(st.integers(1, 5))
    pairs = data.draw(
        st.lists(st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)), max_size=9)
    )
    kind, sparsify = (
        data.draw(st.sampled_from(list(CONVS))),
        data.draw(st.sampled_from([None, gf.Threshold(0.3)])),
    )
    torch.manual_seed(0)
    conv = made(kind, sparsify=sparsify)
    index = torch.tensor(pairs, dtype=torch.long).view(-1, 2).t()
    x, attr = (
        torch.randn(nodes, IN, requires_grad=True),
        torch.randn(len(pairs), EDGE_DIM, requires_grad=True),
    )
    out = conv(x, index, attr)
    assert_close(out, naive(conv, x, index, attr), atol=1e-5, rtol=1e-4)
    out.sum().backward()
    assert bool(x.grad.isfinite().all())


# ---------------------------------------------------------------- PyG's conventions


@each_conv
def test_bipartite(kind: str):
    """Receivers first among the senders, as NeighborLoader's blocks have them: the same as the
    whole graph restricted to these edges.
    """
    conv, graph = made(kind), a_graph()
    few = graph.receivers < 4
    index, attr = edge_index(graph)[:, few], graph.edge_attr[few]
    got = conv((graph.x, graph.x[:4]), index, attr)
    assert got.shape == (4, OUT)
    assert_close(got, conv(graph.x, index, attr)[:4])


def test_bipartite_widths():
    conv = made("gin", (IN, 5))
    out = conv(
        (torch.randn(6, IN), torch.randn(3, 5)),
        torch.tensor([[0, 5, 5], [2, 0, 2]]),
        torch.randn(3, EDGE_DIM),
    )
    assert out.shape == (3, OUT)
    assert conv.self_proj is not None and made("gin").self_proj is None


@pytest.mark.parametrize("in_channels", [-1, (-1, -1)])
def test_lazy_widths(in_channels):
    graph = a_graph()
    conv = GINAttentionConv(in_channels, OUT, HEADS, EDGE_DIM)
    x = graph.x if in_channels == -1 else (graph.x, torch.randn(NODES, 5))
    assert conv(x, edge_index(graph), graph.edge_attr).shape == (NODES, OUT)
    assert conv.q_proj.in_features == (IN if in_channels == -1 else 5)
    conv.reset_parameters()
    other = torch.randn(NODES, IN + 4)  # the first call has decided
    name = r"x" if in_channels == -1 else r"x\[0\] \(senders\)"
    with pytest.raises(ValueError, match=rf"^{name} must be \[nodes, {IN}\], got shape"):
        conv(other if in_channels == -1 else (other, x[1]), edge_index(graph), graph.edge_attr)


def test_one_lazy_width_for_two():
    graph = a_graph()
    with pytest.raises(ValueError, match=r"share their maps.* in_channels=\(-1, -1\)"):
        GINAttentionConv(-1, OUT)((graph.x, torch.randn(NODES, 5)), edge_index(graph))


def test_sequential_with_batch_norm():
    from torch_geometric.nn import Sequential

    graph = a_graph()
    model = Sequential(
        "x, edge_index, edge_attr",
        [
            (GINAttentionConv(IN, 16, heads=4, edge_dim=EDGE_DIM), "x, edge_index, edge_attr -> x"),
            nn.ReLU(),
            nn.BatchNorm1d(16),
            (PNAAttentionConv(16, 5), "x, edge_index -> x"),
        ],
    )
    assert model(graph.x, edge_index(graph), graph.edge_attr).shape == (NODES, 5)
    gf.testing.check_gradients(
        model, graph.x, edge_index(graph), graph.edge_attr, ignore=("edge_message",)
    )


def test_as_the_conv_of_gps():
    from torch_geometric.nn import GPSConv

    graph = a_graph()
    model = GPSConv(
        12, GINAttentionConv(12, 12, heads=3, edge_dim=EDGE_DIM), heads=3, norm="layer_norm"
    )
    batch = torch.tensor([0] * 6 + [1] * 5)
    within = batch[graph.senders] == batch[graph.receivers]
    x, index, attr = torch.randn(NODES, 12), edge_index(graph)[:, within], graph.edge_attr[within]
    assert model(x, index, batch, edge_attr=attr).shape == (NODES, 12)
    gf.testing.check_gradients(
        model, loss=lambda m: (m(x, index, batch, edge_attr=attr) ** 2).sum()
    )
    model.reset_parameters()


@pytest.mark.filterwarnings("ignore:There exist node types")
def test_hetero_conv():
    from torch_geometric.nn import HeteroConv

    convs = {
        ("a", "to", "b"): GINAttentionConv((IN, 5), OUT, HEADS),
        ("b", "to", "b"): SumAttentionConv(5, OUT, HEADS),
    }
    x = {"a": torch.randn(4, IN), "b": torch.randn(3, 5)}
    edges = {
        ("a", "to", "b"): torch.tensor([[0, 3], [2, 1]]),
        ("b", "to", "b"): torch.tensor([[0], [1]]),
    }
    assert HeteroConv(convs)(x, edges)["b"].shape == (3, OUT)


@pytest.mark.filterwarnings("ignore:Using 'NeighborSampler' without")
def test_neighbor_loader():
    """A stock mini-batch loop; where no sampler is installed, the batch it would make is made by
    hand.
    """
    from torch_geometric.data import Data
    from torch_geometric.loader import NeighborLoader

    graph, conv = a_graph(), made("gin")
    data = Data(
        x=graph.x, edge_index=edge_index(graph), edge_attr=graph.edge_attr, n_id=torch.arange(NODES)
    )
    loader = NeighborLoader(data, num_neighbors=[-1], batch_size=3, input_nodes=torch.arange(NODES))
    try:
        batches = list(loader)
    except ImportError:
        pytest.skip(
            "NeighborLoader needs pyg-lib or torch-sparse; test_bipartite makes its batch by hand"
        )
    whole = conv(graph.x, edge_index(graph), graph.edge_attr)
    for batch in batches:
        out = conv((batch.x, batch.x[: batch.batch_size]), batch.edge_index, batch.edge_attr)
        assert_close(out, whole[batch.n_id[: batch.batch_size]])


@pytest.mark.filterwarnings("ignore:Sparse")
def test_adj_t():
    """A sparse matrix has receivers in rows."""
    graph, conv = a_graph(), made("gin", edge_dim=None)
    want = conv(graph.x, edge_index(graph))
    adj = torch.sparse_coo_tensor(
        torch.stack((graph.receivers, graph.senders)), torch.ones(EDGES), (NODES, NODES)
    )
    assert_close(conv(graph.x, adj), want)
    assert_close(conv(graph.x, adj.to_sparse_csr()), want)
    torch_sparse = pytest.importorskip("torch_sparse")
    assert_close(
        conv(
            graph.x,
            torch_sparse.SparseTensor(
                row=graph.receivers, col=graph.senders, sparse_sizes=(NODES, NODES)
            ),
        ),
        want,
    )


def test_edge_weights_of_one_number():
    """Scripts that pass ``edge_weight`` pass one number an edge."""
    graph, conv = a_graph(), made("gin", edge_dim=1)
    weight = torch.rand(EDGES)
    assert_close(
        conv(graph.x, edge_index(graph), weight),
        conv(graph.x, edge_index(graph), weight.unsqueeze(-1)),
    )


def test_state_dict_and_reset():
    torch.manual_seed(1)
    conv = GINAttentionConv(IN, OUT, HEADS, EDGE_DIM, sharpening=0.7)
    before = {name: value.clone() for name, value in conv.state_dict().items()}
    jittered(conv)
    torch.manual_seed(1)
    conv.reset_parameters()
    assert conv.sharpening.item() == pytest.approx(0.7) and bool((conv.operator.eps == 0).all())
    for name, value in conv.state_dict().items():
        assert value.shape == before[name].shape and float(value.abs().max()) <= max(
            1.0, float(before[name].abs().max()) * 1.5
        )
    other = GINAttentionConv(IN, OUT, HEADS, EDGE_DIM)
    other.load_state_dict(conv.state_dict())
    graph = a_graph()
    assert_close(
        other(graph.x, edge_index(graph), graph.edge_attr),
        conv(graph.x, edge_index(graph), graph.edge_attr),
    )


def test_repr():
    assert (
        repr(GINAttentionConv(7, 32, heads=4, edge_dim=3))
        == "GINAttentionConv(7, 32, heads=4, edge_dim=3)"
    )
    assert repr(PNAAttentionConv((7, 5), 32, sparsify=gf.TopK(3))).startswith(
        "PNAAttentionConv((7, 5), 32, heads=1, sparsify=TopK(k=3"
    )


# ---------------------------------------------------------------- DGL's conventions


@each_conv
def test_dgl_graph(kind: str):
    dgl = pytest.importorskip("dgl")
    conv, graph = made(kind), a_graph()
    g = dgl.graph((graph.senders, graph.receivers), num_nodes=NODES)
    want = conv(graph.x, edge_index(graph), graph.edge_attr)
    assert_close(conv(g, graph.x, graph.edge_attr), want)
    gcsr = g.formats(["csc"])  # another order of storage, the same edge numbers
    assert_close(conv(gcsr, graph.x, graph.edge_attr), want)


def test_dgl_block():
    dgl = pytest.importorskip("dgl")
    conv, graph = made("gin"), a_graph()
    block = dgl.to_block(
        dgl.in_subgraph(dgl.graph((graph.senders, graph.receivers), num_nodes=NODES), [2, 7]),
        [2, 7],
    )
    feat, attr = graph.x[block.srcdata[dgl.NID]], torch.randn(block.num_edges(), EDGE_DIM)
    out = conv(block, feat, attr)
    assert out.shape == (2, OUT)
    assert_close(out, conv(block, (feat, feat[:2]), attr))


def test_dgl_mistakes():
    dgl = pytest.importorskip("dgl")
    conv = made("gin", edge_dim=None)
    with pytest.raises(ValueError, match="2 types of edges; give one of them"):
        conv(
            dgl.heterograph({("a", "x", "a"): ([0], [1]), ("a", "y", "a"): ([0], [1])}),
            torch.randn(2, IN),
        )
    with pytest.raises(ValueError, match=r"feat has \[3, 3\] rows"):
        conv(dgl.graph(([0], [1])), torch.randn(3, IN))
    with pytest.raises(ValueError, match="second argument is its node features"):
        conv(dgl.graph(([0], [1])), None)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"out_channels": 7, "heads": 3},
            "out_channels 7 is not a multiple of heads 3.*give head_channels",
        ),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"edge_dim": 0}, "edge_dim must be at least 1, got 0"),
        ({"in_channels": 0}, "in_channels must be at least 1, or -1"),
        ({"dropout": 1.5}, "dropout must be a probability"),
        ({"backend": "jax"}, "unknown backend 'jax'"),
        ({"normalize": "hardmax"}, "unknown normalizer 'hardmax'"),
        ({"mlp_ratio": 0.01}, "mlp_ratio 0.01 leaves no hidden unit"),
    ],
)
def test_constructor_mistakes(options: dict, text: str):
    with pytest.raises(ValueError, match=text):
        GINAttentionConv(**{"in_channels": IN, "out_channels": OUT, **options})


def test_sparsify_is_no_number():
    with pytest.raises(TypeError, match=r"write sparsify=gf.Threshold\(0.2\)"):
        GINAttentionConv(IN, OUT, sparsify=0.2)


X, INDEX, ATTR = torch.randn(5, IN), torch.tensor([[0, 1], [1, 4]]), torch.randn(2, EDGE_DIM)


@pytest.mark.parametrize(
    ("inputs", "error", "text"),
    [
        (
            (X, INDEX),
            ValueError,
            "edge_attr is missing: this layer was constructed with edge_dim=2",
        ),
        ((X, INDEX, ATTR[:, :1]), ValueError, r"edge_attr must be \[2, 2\]"),
        ((X, INDEX, ATTR.long()), TypeError, "edge_attr must be floating point"),
        ((X, INDEX, ATTR * math.nan), ValueError, "edge_attr holds 4 NaN"),
        (
            (X[:4], INDEX, ATTR),
            ValueError,
            r"edge_index\[1\] \(receivers\) must lie in 0..3, got values from 1 to 4",
        ),
        (
            (X, -INDEX, ATTR),
            ValueError,
            r"edge_index\[0\] \(senders\) must lie in 0..4, got values from -1 to 0",
        ),
        ((X, INDEX.float(), ATTR), TypeError, "edge_index must hold integers"),
        ((X, INDEX.t()[:1], ATTR), ValueError, r"edge_index must be \[2, edges\]"),
        ((X, [[0], [1]], ATTR), TypeError, "edge_index must be a"),
        ((X[:, :3], INDEX, ATTR), ValueError, r"x must be \[nodes, 7\], got shape \[5, 3\]"),
        (
            (X.long(), INDEX, ATTR),
            TypeError,
            "x must be a floating point tensor, got torch.int64; embed",
        ),
        (
            (X.masked_fill(X > 0, math.nan), INDEX, ATTR),
            ValueError,
            "x holds .* NaN or infinite values among 35",
        ),
        (((None, X), INDEX, ATTR), ValueError, "bipartite x must be"),
        (
            (X, INDEX, ATTR, torch.tensor([0, 0, 0, 0, 1])),
            ValueError,
            "edge 1 joins two graphs of the batch",
        ),
        ((X, INDEX, ATTR, torch.tensor([0])), ValueError, r"batch must be \[5\]"),
    ],
)
def test_input_mistakes(inputs: tuple, error: type[Exception], text: str):
    with pytest.raises(error, match=text):
        made("gin")(*inputs)


def test_edge_features_that_nobody_reads():
    with pytest.raises(ValueError, match="given to a layer without edge_dim"):
        made("gin", edge_dim=None)(X, INDEX, ATTR)
    with pytest.raises(ValueError, match=r"edge_bias must be \[2\] or \[2, 3\]"):
        made("gin")(X, INDEX, ATTR, edge_bias=torch.randn(3))


@pytest.mark.float32
def test_a_diverged_layer_says_so():
    conv = made("gin")
    with torch.no_grad():
        conv.q_proj.weight.fill_(math.inf)
    with pytest.raises(ValueError, match="the scores are not finite"):
        conv(X, INDEX, ATTR)


# ---------------------------------------------------------------- stock scripts


@pytest.mark.parametrize("name", ["pyg_node_classification", "dgl_node_classification"])
def test_stock_scripts_with_one_line_changed(name: str, capsys: pytest.CaptureFixture[str]):
    if name.startswith("dgl"):
        pytest.importorskip("dgl")
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert path.read_text().count("graphformer") == 1
    accuracy, majority = script.main(epochs=40)
    assert accuracy > majority + 0.3
    assert "epoch  40" in capsys.readouterr().out
