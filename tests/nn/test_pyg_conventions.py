"""What users of PyG's MessagePassing, TransformerConv and GATConv expect of a layer on edges,
adapted to ours.

Three lists: expectations of a convolution, each for the three layers; a module's general contract,
which PyG's TransformerConv is held to beside ours; and the meaning of what PyG has no like of
(weights that are cut, the values of ``adj_t``).
"""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.data import Data, HeteroData
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import (
    HeteroConv,
    MessagePassing,
    Sequential,
    TransformerConv,
    summary,
    to_hetero,
)
from torch_geometric.utils import (
    add_self_loops,
    remove_self_loops,
    to_edge_index,
    to_torch_coo_tensor,
    to_torch_csc_tensor,
    to_torch_csr_tensor,
    trim_to_layer,
)

import graphformer as gf
from graphformer.nn import GINAttentionConv, SumAttentionConv
from tests.nn.test_conv import (
    CONVS,
    EDGES,
    HEADS,
    IN,
    NODES,
    OUT,
    a_graph,
    edge_index,
    jittered,
    made,
)

try:
    from torch_sparse import SparseTensor
except ImportError:
    SparseTensor = None

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse (CSR|CSC) tensor support", "ignore:.*jittable. is deprecated"
)

each_conv = pytest.mark.parametrize("kind", CONVS)
GRAPH = a_graph(dtype=torch.float64)
X, INDEX, ATTR = GRAPH.x, edge_index(GRAPH), GRAPH.edge_attr
ADJ_ORDER = torch.argsort(INDEX[1] * NODES + INDEX[0])  # receivers in rows, senders ascending


def conv64(kind: str, *arguments, **options) -> MessagePassing:
    return made(kind, *arguments, **options).double()


def sparse(layout: str, values: Tensor | None = None, size: tuple[int, int] = (NODES, NODES)):
    """adj_t of the graph; values in the order of the edges."""
    rows = INDEX.flip(0)
    if layout == "SparseTensor":
        if SparseTensor is None:
            pytest.skip("torch-sparse is not installed")
        return SparseTensor(row=rows[0], col=rows[1], value=values, sparse_sizes=size)
    makers = {"coo": to_torch_coo_tensor, "csr": to_torch_csr_tensor, "csc": to_torch_csc_tensor}
    return makers[layout](rows, values, size=size)


# ---------------------------------------------------------------- 33 expectations of a convolution

EXPECTATIONS: dict[str, Callable[[str], None]] = {}


def expected(check: Callable[[str], None]) -> Callable[[str], None]:
    EXPECTATIONS[check.__name__] = check
    return check


@expected
def a_tensor_and_a_pair_of_it_are_the_same(kind: str) -> None:
    conv = conv64(kind)
    assert_close(conv((X, X), INDEX, ATTR), conv(X, INDEX, ATTR))


@expected
def weights_are_returned_in_the_order_of_the_edges(kind: str) -> None:
    conv = conv64(kind)
    want = conv(X, INDEX, ATTR)
    out, (index, alpha) = conv(X, INDEX, ATTR, return_attention_weights=True)
    assert index is INDEX and alpha.shape == (EDGES, HEADS)
    assert_close(out, want)
    into = torch.zeros(NODES, HEADS, dtype=alpha.dtype).index_add(0, INDEX[1], alpha)
    assert_close(into[into > 0], torch.ones_like(into[into > 0]))
    order = torch.randperm(EDGES)
    _, (_, shuffled) = conv(X, INDEX[:, order], ATTR[order], return_attention_weights=True)
    assert_close(shuffled, alpha[order])


@expected
def weights_that_are_not_asked_for_are_not_returned(kind: str) -> None:
    for value in (None, False):
        assert isinstance(conv64(kind)(X, INDEX, ATTR, return_attention_weights=value), Tensor)


@expected
def weights_carry_gradients(kind: str) -> None:
    conv = conv64(kind)
    _, (_, alpha) = conv(X, INDEX, ATTR, return_attention_weights=True)
    alpha.square().sum().backward()
    assert float(conv.q_proj.weight.grad.abs().sum()) > 0


@expected
def weights_of_a_sparse_matrix_stand_in_it(kind: str) -> None:
    conv = conv64(kind, edge_dim=None)
    _, (_, alpha) = conv(X, INDEX, return_attention_weights=True)
    for layout in ("coo", "csr", "csc"):
        adj = sparse(layout)
        _out, (weighted, values) = conv(X, adj, return_attention_weights=True)
        assert weighted.layout == adj.layout and values.shape == (EDGES, HEADS)
        rows, stored = to_edge_index(weighted)
        want = torch.zeros(NODES, NODES, HEADS, dtype=alpha.dtype).index_put(
            (INDEX[1], INDEX[0]), alpha
        )
        assert_close(torch.zeros_like(want).index_put((rows[0], rows[1]), stored), want)


@expected
def weights_of_a_sparse_tensor_stand_in_it(kind: str) -> None:
    conv = conv64(kind, edge_dim=None)
    _, (_, alpha) = conv(X, INDEX, return_attention_weights=True)
    _out, adj = conv(X, sparse("SparseTensor"), return_attention_weights=True)
    assert isinstance(adj, SparseTensor)
    row, col, value = adj.coo()
    assert_close(value, alpha[ADJ_ORDER])
    assert torch.equal(torch.stack((col, row)), INDEX[:, ADJ_ORDER])


@expected
def a_sparse_matrix_is_its_edges(kind: str) -> None:
    conv = conv64(kind, edge_dim=None)
    want = conv(X, INDEX)
    for layout in ("coo", "csr", "csc", "SparseTensor"):
        assert_close(conv(X, sparse(layout)), want)


@expected
def features_in_a_sparse_matrix_are_edge_attr(kind: str) -> None:
    conv = conv64(kind)
    want = conv(X, INDEX, ATTR)
    for layout in ("coo", "csr", "csc", "SparseTensor"):
        assert_close(conv(X, sparse(layout, ATTR)), want)
    one = conv64(kind, edge_dim=1)
    for layout in ("coo", "csr", "csc", "SparseTensor"):
        assert_close(one(X, sparse(layout, ATTR[:, 0])), one(X, INDEX, ATTR[:, :1]))


@expected
def values_in_a_sparse_matrix_are_edge_weight(kind: str) -> None:
    conv, weight = conv64(kind, edge_dim=None), torch.rand(EDGES, dtype=torch.float64)
    want = conv(X, INDEX, edge_weight=weight)
    for layout in ("coo", "csr", "csc", "SparseTensor"):
        assert_close(conv(X, sparse(layout, weight)), want)
    both, attr = conv64(kind), ATTR[ADJ_ORDER]
    assert_close(both(X, sparse("csr", weight), attr), both(X, INDEX, ATTR, edge_weight=weight))


@expected
def an_edge_index_is_its_edges(kind: str) -> None:
    conv = conv64(kind)
    wrapped = EdgeIndex(INDEX, sparse_size=(NODES, NODES))
    assert_close(conv(X, wrapped, ATTR), conv(X, INDEX, ATTR))
    ordered, order = wrapped.sort_by("col")
    assert_close(conv(X, ordered, ATTR[order]), conv(X, INDEX, ATTR))
    assert conv(X, wrapped, ATTR, return_attention_weights=True)[1][0] is wrapped


@expected
def a_bipartite_graph(kind: str) -> None:
    conv, few = conv64(kind, (IN, 5)), INDEX[1] < 4
    receivers = torch.randn(4, 5, dtype=torch.float64)
    out, (_, alpha) = conv(
        (X, receivers), INDEX[:, few], ATTR[few], return_attention_weights=True, size=(NODES, 4)
    )
    assert out.shape == (4, OUT) and alpha.shape == (int(few.sum()), HEADS)


@expected
def receivers_without_features(kind: str) -> None:
    """Zeros in their place: uniform weights, unless edge features say otherwise."""
    conv = conv64(kind, (IN, 5), edge_dim=None)
    out, (_, alpha) = conv((X, None), INDEX, size=(NODES, NODES + 2), return_attention_weights=True)
    assert out.shape == (NODES + 2, OUT)
    assert_close(out, conv((X, torch.zeros(NODES + 2, 5, dtype=torch.float64)), INDEX))
    assert_close(
        alpha,
        (1 / torch.bincount(INDEX[1], minlength=NODES)[INDEX[1]].double())
        .unsqueeze(-1)
        .expand(-1, HEADS),
    )
    assert conv((X, None), INDEX).shape == (NODES, OUT)  # as PyG: as many receivers as senders


@expected
def a_size_that_agrees_and_one_that_does_not(kind: str) -> None:
    conv = conv64(kind)
    assert_close(conv(X, INDEX, ATTR, size=(NODES, NODES)), conv(X, INDEX, ATTR))
    for size in ((NODES + 1, NODES), (NODES, NODES - 1)):
        with pytest.raises(ValueError, match=r"size says .* but there are features of 11"):
            conv(X, INDEX, ATTR, size=size)


@expected
def heads_beside_each_other_and_their_mean(kind: str) -> None:
    beside = conv64(kind, out_channels=5 * HEADS)
    mean = type(beside)(IN, 5, HEADS, 2, concat=False).double().eval()
    assert mean.out_channels == 5 and mean.head_channels == 5
    mean.load_state_dict(beside.state_dict())
    assert_close(mean(X, INDEX, ATTR), beside(X, INDEX, ATTR).view(NODES, HEADS, 5).mean(1))


@expected
def widths_are_taken_from_the_first_call(kind: str) -> None:
    torch.manual_seed(3)
    for channels, x in ((-1, X), ((-1, -1), X), ((-1, -1), (X, X[:, :3]))):
        conv = CONVS[kind](channels, OUT, HEADS, -1).double()
        assert conv(x, INDEX, ATTR).shape == (NODES, OUT)
        assert conv.edge_message.shape == (HEADS, ATTR.shape[1], OUT // HEADS)
        assert not any(nn.parameter.is_lazy(one) for one in conv.parameters())
    lazy = CONVS[kind](-1, OUT, HEADS, -1)
    assert lazy((X.float(), None), INDEX, ATTR.float()).shape == (NODES, OUT)


@expected
def a_layer_that_waits_is_copied_and_saved(kind: str) -> None:
    lazy = CONVS[kind]((-1, -1), OUT, HEADS, -1).double()
    ready = CONVS[kind]((IN, IN), OUT, HEADS, 2).double().eval()
    for one in (copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))):
        one.double()  # torch's own lazy parameters forget their precision when they are pickled
        one.load_state_dict(lazy.state_dict())  # nothing yet
        one.load_state_dict(ready.state_dict())
        assert_close(one.eval()((X, X), INDEX, ATTR), ready((X, X), INDEX, ATTR))


@expected
def edge_weight_multiplies_messages(kind: str) -> None:
    """As in GCNConv: where the operator is a sum, twice the weight is twice the message; 1 changes
    nothing, 0 sends nothing.
    """
    conv, weight = conv64(kind, self_weight=0.0), torch.rand(EDGES, dtype=torch.float64)
    ones = torch.ones(EDGES, dtype=torch.float64)
    assert_close(conv(X, INDEX, ATTR, edge_weight=ones), conv(X, INDEX, ATTR))
    nothing = conv(X, INDEX, ATTR, edge_weight=0 * ones)
    assert_close(nothing, conv(X, INDEX[:, :0], ATTR[:0]))
    out, (_, alpha) = conv(X, INDEX, ATTR, edge_weight=weight, return_attention_weights=True)
    _, (_, plain) = conv(X, INDEX, ATTR, return_attention_weights=True)
    assert_close(alpha, plain * weight.unsqueeze(-1))
    if kind == "sum":
        assert_close(conv(X, INDEX, ATTR, edge_weight=2 * weight), 2 * out)
    leaf = weight.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w: conv(X, INDEX, ATTR, edge_weight=w), leaf, fast_mode=True
    )
    assert_close(conv(X, INDEX, ATTR, edge_weight=weight[:, None]), out)


@expected
def an_edge_of_weight_zero_is_no_neighbour(kind: str) -> None:
    """Also where reductions look at senders without their weights: nothing of the sender
    arrives.
    """
    conv, weight = (
        conv64(kind, edge_dim=None, normalize="sigmoid"),
        torch.ones(EDGES, dtype=torch.float64),
    )
    weight[::3] = 0
    assert_close(conv(X, INDEX, edge_weight=weight), conv(X, INDEX[:, weight > 0]))


@expected
def self_loops_are_added_as_in_gat_conv(kind: str) -> None:
    index = torch.cat((INDEX, torch.tensor([[2, 2, 5], [2, 2, 5]])), 1)  # some are there already
    attr = torch.cat((ATTR, torch.randn(3, 2, dtype=torch.float64)))
    for fill in (0.7, "mean", "add", "max", "min", "mul", torch.tensor([0.3, -2.0])):
        conv = conv64(kind, add_self_loops=True, fill_value=fill)
        plain = conv64(kind)
        plain.load_state_dict(conv.state_dict())
        bare, features = remove_self_loops(index, attr)
        value = fill.double() if isinstance(fill, Tensor) else fill
        want_index, want_attr = add_self_loops(bare, features, value, NODES)
        out, (found, alpha) = conv(X, index, attr, return_attention_weights=True)
        assert torch.equal(found, want_index) and len(alpha) == EDGES + NODES
        assert_close(out, plain(X, want_index, want_attr))


@expected
def self_loops_of_sparse_and_bipartite_graphs(kind: str) -> None:
    conv = conv64(kind, edge_dim=None, add_self_loops=True)
    want, (found, alpha) = conv(X, INDEX, return_attention_weights=True)
    for layout in ("csr", "SparseTensor"):
        assert_close(conv(X, sparse(layout)), want)
    if SparseTensor is not None:
        _, adj = conv(X, sparse("SparseTensor"), return_attention_weights=True)
        order = torch.argsort(found[1] * NODES + found[0])
        assert_close(adj.coo()[2], alpha[order])
    few = INDEX[1] < 4
    assert_close(conv((X, X[:4]), INDEX[:, few]), want[:4])  # of the nodes on both sides


@expected
def residual_and_bias(kind: str) -> None:
    conv = conv64(kind, (IN, IN), residual=True, bias=True)
    plain = conv64(kind, (IN, IN))
    plain.load_state_dict(
        {
            name: value
            for name, value in conv.state_dict().items()
            if name not in ("res.weight", "bias")
        }
    )
    assert_close(
        conv((X, X), INDEX, ATTR), plain((X, X), INDEX, ATTR) + X @ conv.res.weight.t() + conv.bias
    )
    fresh = CONVS[kind](IN, OUT, HEADS, bias=True)
    assert bool((fresh.bias == 0).all()) and CONVS[kind](IN, OUT, HEADS).bias is None
    assert CONVS[kind](IN, OUT, head_channels=3, bias=False).o_proj.bias is None


@expected
def messages_may_flow_the_other_way(kind: str) -> None:
    conv = conv64(kind, (IN, 5))
    back = CONVS[kind]((5, IN), OUT, HEADS, 2, flow="target_to_source").double().eval()
    back.load_state_dict(conv.state_dict())
    few = INDEX[1] < 4
    receivers = torch.randn(4, 5, dtype=torch.float64)
    want, (_, alpha) = conv((X, receivers), INDEX[:, few], ATTR[few], return_attention_weights=True)
    turned = INDEX[:, few].flip(0)
    got, (index, weights) = back(
        (receivers, X), turned, ATTR[few], size=(4, NODES), return_attention_weights=True
    )
    assert index is turned
    assert_close(got, want)
    assert_close(weights, alpha)
    with pytest.raises(
        ValueError, match=r"flow='target_to_source' cannot be had with .*adj_t\.t\(\)"
    ):
        back((receivers, X), sparse("csr"))


@expected
def static_graphs(kind: str) -> None:
    """One graph with several sets of features, ``[B, N, F]``."""
    conv = conv64(kind, add_self_loops=True)
    x = torch.randn(2, NODES, IN, dtype=torch.float64)
    out, (_, alpha) = conv(x, INDEX, ATTR, return_attention_weights=True)
    assert out.shape == (2, NODES, OUT) and alpha.shape == (2, EDGES + NODES, HEADS)
    for one, rows, weights in zip(x, out, alpha, strict=True):
        want, (_, part) = conv(one, INDEX, ATTR, return_attention_weights=True)
        assert_close(rows, want)
        assert_close(weights, part)


@expected
def sparse_node_features(kind: str) -> None:
    conv = conv64(kind, residual=True)
    words = X * (X > 0.5)
    for x in (words.to_sparse(), words.to_sparse_csr()):
        assert_close(conv(x, INDEX, ATTR), conv(words, INDEX, ATTR))
    for score in ("additive", "differential", "pairwise"):  # of queries, keys or hidden states
        conv = conv64(kind, score=score)
        for x in (words.to_sparse(), words.to_sparse_csr()):
            assert_close(conv(x, INDEX, ATTR), conv(words, INDEX, ATTR))
    lazy = CONVS[kind](-1, OUT, HEADS).double()
    assert lazy(words.to_sparse(), INDEX).shape == (NODES, OUT)


@expected
def every_hook_is_called(kind: str) -> None:
    conv, called = conv64(kind, dropout=0.0), []
    want = conv(X, INDEX, ATTR)
    handles = []
    for place in ("propagate", "message", "aggregate", "edge_update"):
        for when in ("_forward_pre", "_forward"):
            name = f"{place}{when}"
            register = getattr(conv, f"register_{name}_hook")
            handles.append(
                register(lambda module, inputs, *out, name=name: called.append((name, inputs[-1])))
            )
    assert_close(conv(X, INDEX, ATTR), want)
    names = [name for name, _ in called]
    order = ("edge_update", "propagate", "message", "aggregate")
    before = [f"{one}_forward_pre" for one in order]
    after = ("aggregate_forward", "propagate_forward")
    assert names == [
        before[0],
        "edge_update_forward",
        before[1],
        before[2],
        "message_forward",
        before[3],
        *after,
    ]
    message = dict(called)["message_forward"]
    assert message["alpha"].shape == (EDGES, HEADS) and message["value_j"].shape == (
        EDGES,
        HEADS,
        OUT // HEADS,
    )
    for handle in handles:
        handle.remove()
    conv(X, INDEX, ATTR)
    assert len(called) == 8


@expected
def hooks_change_what_they_return(kind: str) -> None:
    conv = conv64(kind)
    want = conv(X, INDEX, ATTR)
    halved = conv(X, INDEX, ATTR, edge_weight=torch.full((EDGES,), 0.5, dtype=torch.float64))
    handle = conv.register_edge_update_forward_hook(lambda module, inputs, alpha: alpha / 2)
    out, (_, alpha) = conv(X, INDEX, ATTR, return_attention_weights=True)
    assert_close(out, halved)
    assert float(alpha.detach().max()) <= 0.5
    handle.remove()
    handle = conv.register_propagate_forward_hook(lambda module, inputs, out: 0 * out)
    assert not torch.allclose(conv(X, INDEX, ATTR), want)
    handle.remove()
    handle = conv.register_propagate_forward_pre_hook(
        lambda module, inputs: (
            inputs[0],
            inputs[1],
            {**inputs[2], "alpha": inputs[2]["alpha"] / 2},
        )
    )
    assert_close(conv(X, INDEX, ATTR), halved)
    handle.remove()
    assert_close(conv(X, INDEX, ATTR), want)


@expected
def hooks_that_would_never_be_called_are_refused(kind: str) -> None:
    for name in (
        "register_message_and_aggregate_forward_pre_hook",
        "register_message_and_aggregate_forward_hook",
    ):
        with pytest.raises(
            ValueError, match="has no message_and_aggregate, so such a hook would never be called"
        ):
            getattr(conv64(kind), name)(lambda *inputs: None)


@expected
def a_message_of_a_subclass_is_called(kind: str) -> None:
    class Halved(CONVS[kind]):
        def message(self, value_j: Tensor, edge_attr: Tensor, alpha: Tensor) -> Tensor:
            return super().message(value_j, edge_attr, alpha / 2)

    conv = conv64(kind)
    half = Halved(IN, OUT, HEADS, 2).double().eval()
    half.load_state_dict(conv.state_dict())
    weight = torch.full((EDGES,), 0.5, dtype=torch.float64)
    if kind != "pna":  # its mean divides by the weights, of which a message knows nothing
        assert_close(half(X, INDEX, ATTR), conv(X, INDEX, ATTR, edge_weight=weight))
    assert not torch.allclose(half(X, INDEX, ATTR), conv(X, INDEX, ATTR))

    class Weighed(CONVS[kind]):
        def edge_update(self, alpha: Tensor) -> Tensor:
            return alpha / 2

    weighed = Weighed(IN, OUT, HEADS, 2).double().eval()
    weighed.load_state_dict(conv.state_dict())
    want = conv(X, INDEX, ATTR, edge_weight=weight)
    assert_close(weighed(X, INDEX, ATTR), want)
    program = torch.export.export(weighed, (X, INDEX, ATTR), strict=False)  # compilers see it too
    assert_close(program.module()(X, INDEX, ATTR), want)


@expected
def no_edges_isolated_nodes_loops_and_equal_edges(kind: str) -> None:
    conv = conv64(kind)
    assert conv(X, INDEX[:, :0], ATTR[:0]).isfinite().all()
    assert conv(X[:0], INDEX[:, :0], ATTR[:0]).shape == (0, OUT)
    _out, (_, alpha) = conv(X, INDEX[:, :0], ATTR[:0], return_attention_weights=True)
    assert alpha.shape == (0, HEADS)
    twice, attr = torch.cat((INDEX, INDEX), 1), torch.cat((ATTR, ATTR))
    _, (_, alpha) = conv(X, INDEX, ATTR, return_attention_weights=True)
    _, (_, shared) = conv(X, twice, attr, return_attention_weights=True)
    assert_close(shared, torch.cat((alpha, alpha)) / 2)


@expected
def any_integers_any_strides(kind: str) -> None:
    conv = conv64(kind)
    want = conv(X, INDEX, ATTR)
    strided = INDEX.t().contiguous().t()
    assert not strided.is_contiguous()
    for index in (
        INDEX.int(),
        INDEX.to(torch.int16),
        strided,
        INDEX.repeat_interleave(2, 1)[:, ::2],
    ):
        assert_close(conv(X, index, ATTR), want)
    assert_close(conv(X.t().contiguous().t(), INDEX, ATTR.t().contiguous().t()), want)


@expected
def half_precision(kind: str) -> None:
    conv = made(kind)
    want = conv(X.float(), INDEX, ATTR.float())
    for dtype in (torch.float16, torch.bfloat16):
        out, (_, _alpha) = copy.deepcopy(conv).to(dtype)(
            X.to(dtype), INDEX, ATTR.to(dtype), return_attention_weights=True
        )
        assert out.dtype == dtype
        assert float((out.float() - want).abs().max() / want.abs().max()) < 0.1


@expected
def layers_of_a_neighbour_batch_are_trimmed(kind: str) -> None:
    """trim_to_layer narrows features and edges from layer to layer, as NeighborLoader's batches
    allow.
    """
    conv, second = conv64(kind), conv64(kind, OUT)
    order = torch.argsort((INDEX[1] >= 4).long(), stable=True)  # edges into the seeds first
    index, attr = INDEX[:, order], ATTR[order]
    into = int((INDEX[1] < 4).sum())
    hidden = conv(X, index, attr)
    want = second(hidden, index, attr)[:4]
    x, index, attr = trim_to_layer(1, [4, NODES - 4, 0], [into, EDGES - into], hidden, index, attr)
    assert_close(second(x, index, attr)[:4], want)


@expected
def part_of_sequential_hetero_and_summary(kind: str) -> None:
    graph = a_graph()
    model = Sequential(
        "x, edge_index",
        [(CONVS[kind](IN, 16, 4), "x, edge_index -> x"), nn.ReLU(), CONVS[kind](16, 5)],
    )
    # Sequential's own: the last layer got no edges
    with pytest.raises((TypeError, KeyError)):
        model(graph.x)
    model = Sequential(
        "x, edge_index",
        [
            (CONVS[kind](IN, 16, 4), "x, edge_index -> x"),
            (CONVS[kind](16, 5), "x, edge_index -> x"),
        ],
    )
    assert model(graph.x, INDEX).shape == (NODES, 5)
    assert type(model[0]).__name__ in summary(model, graph.x, INDEX)
    types = [("a", "to", "b"), ("b", "back", "a")]
    x = {"a": torch.randn(7, 3), "b": torch.randn(5, 4)}
    edges = {types[0]: torch.tensor([[0, 6], [4, 1]]), types[1]: torch.tensor([[4, 1], [0, 6]])}
    attr = {kind: torch.randn(2, 2) for kind in types}
    by_type = HeteroConv({one: CONVS[kind]((-1, -1), 6, 2, -1) for one in types})
    assert by_type(x, edges, attr)["b"].shape == (5, 6)
    weight = {kind: torch.rand(2) for kind in types}
    assert by_type(x, edges, attr, edge_weight_dict=weight)["a"].shape == (7, 6)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = CONVS[kind]((-1, -1), 6, 2)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.conv(x, edge_index)

    assert to_hetero(Net(), (["a", "b"], types))(x, edges)["a"].shape == (7, 6)


@each_conv
@pytest.mark.parametrize("name", EXPECTATIONS)
def test_expectation(name: str, kind: str):
    torch.manual_seed(0)
    EXPECTATIONS[name](kind)


def test_there_are_as_many_expectations_as_said():
    assert len(EXPECTATIONS) * len(CONVS) >= 98


# ------------------------------------------------- a module's contract, PyG's own layer beside ours

CONTRACT: dict[str, Callable[[Callable[..., nn.Module]], None]] = {}
MAKERS: dict[str, Callable[..., nn.Module]] = {
    "pyg": lambda *channels, heads=1, edge_dim=None, **options: TransformerConv(
        *channels, heads=heads, edge_dim=edge_dim, **options
    ),
    **{
        name: lambda inputs, width, heads=1, edge_dim=None, conv=conv, **options: conv(
            inputs, heads * width, heads, edge_dim, **options
        )
        for name, conv in CONVS.items()
    },
}
XF, AF = X.float(), ATTR.float()


def contract(
    check: Callable[[Callable[..., nn.Module]], None],
) -> Callable[[Callable[..., nn.Module]], None]:
    CONTRACT[check.__name__] = check
    return check


def usual(make: Callable[..., nn.Module]) -> nn.Module:
    return make(IN, 5, heads=HEADS, edge_dim=2)


@contract
def it_is_a_message_passing_layer(make) -> None:
    assert isinstance(usual(make), MessagePassing)


@contract
def its_repr_names_class_widths_and_heads(make) -> None:
    text = repr(usual(make))
    assert text.startswith(type(usual(make)).__name__) and "heads=3" in text and "7" in text


@contract
def it_keeps_its_arguments_as_attributes(make) -> None:
    conv = usual(make)
    assert (conv.in_channels, conv.heads, conv.edge_dim, conv.concat, conv.flow) == (
        IN,
        HEADS,
        2,
        True,
        "source_to_target",
    )


@contract
def state_dict_loads_strictly(make) -> None:
    first, second = usual(make), usual(make)
    assert not second.load_state_dict(first.state_dict()).missing_keys
    assert_close(second(XF, INDEX, AF), first(XF, INDEX, AF))


@contract
def state_dict_loads_by_assignment(make) -> None:
    first = usual(make)
    second = usual(make).to("meta")
    second.load_state_dict(first.state_dict(), assign=True)
    assert_close(second(XF, INDEX, AF), first(XF, INDEX, AF))


@contract
def it_is_made_on_meta(make) -> None:
    with torch.device("meta"):
        conv = usual(make)
    assert all(one.is_meta for one in conv.parameters())
    conv = conv.to_empty(device="cpu")
    conv.reset_parameters()
    assert conv(XF, INDEX, AF).isfinite().all()


@contract
def it_tells_shapes_on_meta(make) -> None:
    conv = usual(make).to("meta")
    assert conv(XF.to("meta"), INDEX.to("meta"), AF.to("meta")).shape == (NODES, 15)


@contract
def reset_draws_anew_from_the_seed(make) -> None:
    conv = usual(make)
    torch.manual_seed(1)
    conv.reset_parameters()
    before = copy.deepcopy(conv.state_dict())
    jittered(conv)
    torch.manual_seed(1)
    conv.reset_parameters()
    assert all(torch.equal(value, before[name]) for name, value in conv.state_dict().items())


@contract
def it_is_copied(make) -> None:
    conv = usual(make)
    other = copy.deepcopy(conv)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    assert not torch.equal(next(conv.parameters()), next(other.parameters()))


@contract
def it_is_pickled(make) -> None:
    conv = usual(make)
    assert_close(pickle.loads(pickle.dumps(conv))(XF, INDEX, AF), conv(XF, INDEX, AF))


@contract
def it_is_saved_whole(make) -> None:
    conv, file = usual(make), io.BytesIO()
    torch.save(conv, file)
    file.seek(0)
    assert_close(torch.load(file, weights_only=False)(XF, INDEX, AF), conv(XF, INDEX, AF))


@contract
def every_parameter_has_a_gradient(make) -> None:
    conv = usual(make)
    conv(XF, INDEX, AF).square().sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in conv.parameters())


@contract
def parameters_move_and_cast(make) -> None:
    assert usual(make).double()(X, INDEX, ATTR).dtype == torch.float64
    assert usual(make).bfloat16()(X.bfloat16(), INDEX, ATTR.bfloat16()).dtype == torch.bfloat16


@contract
def it_runs_under_autocast(make) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert usual(make)(XF, INDEX, AF).isfinite().all()


@contract
def it_runs_without_gradients(make) -> None:
    with torch.inference_mode():
        assert not usual(make)(XF, INDEX, AF).requires_grad


@contract
def its_inputs_are_left_alone(make) -> None:
    x, index, attr = XF.clone(), INDEX.clone(), AF.clone()
    usual(make)(x, index, attr)
    assert torch.equal(x, XF) and torch.equal(index, INDEX) and torch.equal(attr, AF)


@contract
def it_is_deterministic_in_eval(make) -> None:
    conv = make(IN, 5, heads=HEADS, edge_dim=2, dropout=0.5).eval()
    assert torch.equal(conv(XF, INDEX, AF), conv(XF, INDEX, AF))


@contract
def it_drops_while_training(make) -> None:
    conv = make(IN, 5, heads=HEADS, edge_dim=2, dropout=0.5).train()
    assert not torch.allclose(conv(XF, INDEX, AF), conv(XF, INDEX, AF))


@contract
def numbering_means_nothing(make) -> None:
    conv, order = usual(make).double(), torch.randperm(NODES)
    place = torch.argsort(order)
    assert_close(conv(X[order], place[INDEX], ATTR), conv(X, INDEX, ATTR)[order])


@contract
def the_order_of_edges_means_nothing(make) -> None:
    conv, order = usual(make).double(), torch.randperm(EDGES)
    assert_close(conv(X, INDEX[:, order], ATTR[order]), conv(X, INDEX, ATTR))


@contract
def a_batch_is_its_graphs(make) -> None:
    conv = usual(make).double()
    out = conv(torch.cat((X, X)), torch.cat((INDEX, INDEX + NODES), 1), torch.cat((ATTR, ATTR)))
    assert_close(out, conv(X, INDEX, ATTR).repeat(2, 1))


@contract
def it_takes_no_edges(make) -> None:
    assert usual(make)(XF, INDEX[:, :0], AF[:0]).shape == (NODES, 15)


@contract
def it_takes_keywords(make) -> None:
    conv = usual(make)
    assert_close(conv(x=XF, edge_index=INDEX, edge_attr=AF), conv(XF, INDEX, AF))


@contract
def widths_are_lazy(make) -> None:
    conv = make((-1, -1), 5, heads=HEADS, edge_dim=-1)
    assert conv((XF, XF[:, :3]), INDEX, AF).shape == (NODES, 15)


@contract
def a_lazy_one_takes_weights(make) -> None:
    ready, lazy = (
        make((IN, IN), 5, heads=HEADS, edge_dim=2),
        make((-1, -1), 5, heads=HEADS, edge_dim=-1),
    )
    lazy.load_state_dict(ready.state_dict())
    assert_close(lazy(XF, INDEX, AF), ready(XF, INDEX, AF))


@contract
def forward_hooks_are_called(make) -> None:
    conv, seen = usual(make), []
    conv.register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    conv(XF, INDEX, AF)
    assert seen == [(NODES, 15)]


@contract
def functional_call_replaces_parameters(make) -> None:
    conv, other = usual(make), usual(make)
    out = torch.func.functional_call(conv, dict(other.named_parameters()), (XF, INDEX, AF))
    assert_close(out, other(XF, INDEX, AF))
    assert not torch.allclose(out, conv(XF, INDEX, AF))


@contract
def its_names_are_those_of_its_state(make) -> None:
    conv = usual(make)
    assert set(dict(conv.named_parameters())) == set(conv.state_dict())


@contract
def weights_are_returned(make) -> None:
    _out, (index, alpha) = usual(make)(XF, INDEX, AF, return_attention_weights=True)
    assert torch.equal(index, INDEX) and alpha.shape == (EDGES, HEADS)


@contract
def data_parallel_holds_it(make) -> None:
    conv = usual(make)
    assert_close(nn.DataParallel(conv)(XF, INDEX, AF), conv(XF, INDEX, AF))


@contract
def weight_norm_and_pruning_apply(make) -> None:
    from torch.nn.utils import parametrizations, prune

    conv = usual(make)
    maps = [
        one
        for one in conv.modules()
        if isinstance(one, nn.Linear) or type(one).__name__ == "Linear"
    ]
    parametrizations.weight_norm(maps[0])
    prune.l1_unstructured(maps[1], "weight", 0.5)
    assert conv(XF, INDEX, AF).isfinite().all()


@contract
def it_is_averaged(make) -> None:
    conv = usual(make)
    average = torch.optim.swa_utils.AveragedModel(conv)
    average.update_parameters(conv)
    assert_close(average(XF, INDEX, AF), conv(XF, INDEX, AF))


@contract
def it_is_compiled(make) -> None:
    torch._dynamo.reset()
    conv = usual(make).double()
    run = torch.compile(conv, fullgraph=True, dynamic=True, backend="eager")
    assert_close(run(X, INDEX, ATTR), conv(X, INDEX, ATTR))


@contract
def edges_out_of_range_are_told(make) -> None:
    with pytest.raises((ValueError, IndexError), match=r"(?i)edge_index"):
        usual(make)(XF, INDEX + 1, AF)


@contract
def a_wrong_width_is_told(make) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        usual(make)(XF[:, :3], INDEX, AF)


@contract
def sparse_features_are_taken(make) -> None:
    conv = usual(make)
    assert_close(conv(XF.to_sparse(), INDEX, AF), conv(XF, INDEX, AF))


@each_conv
@pytest.mark.parametrize("name", CONTRACT)
def test_contract(name: str, kind: str):
    torch.manual_seed(0)
    CONTRACT[name](MAKERS[kind])


@pytest.mark.parametrize("name", CONTRACT)
def test_contract_of_pygs_own_layer(name: str):
    """PyG's layer holds the same list: it was not made for ours."""
    torch.manual_seed(0)
    CONTRACT[name](MAKERS["pyg"])


# ---------------------------------------------------------------- what is refused, and what it says


@each_conv
def test_jit_script_says_what_to_use(kind: str):
    with pytest.raises(
        RuntimeError, match=r"cannot be compiled by torch.jit.script.*torch.export.export"
    ):
        torch.jit.script(made(kind))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"aggr": "mean"}, ValueError, "aggr='mean': the operator decides"),
        ({"node_dim": 0}, ValueError, "node_dim=0: nodes are the last axis but one"),
        ({"decomposed_layers": 2}, ValueError, "decomposed_layers=2: scores are dot products"),
        ({"flow": "sideways"}, ValueError, "flow must be 'source_to_target' or"),
        (
            {"fill_value": "median", "add_self_loops": True},
            ValueError,
            "unknown fill_value 'median'; known: add, mean",
        ),
        ({"fill_value": None, "add_self_loops": True}, TypeError, "fill_value must be a number"),
        (
            {"root_weight": False},
            TypeError,
            "unexpected argument 'root_weight': .* self_weight=0.0",
        ),
        ({"beta": True}, TypeError, "unexpected argument 'beta'"),
        ({"negative_slope": 0.1}, TypeError, "without a LeakyReLU"),
        (
            {"sparsfy": None},
            TypeError,
            "unexpected argument 'sparsfy'; known: head",
        ),
    ],
)
def test_options_of_other_layers(options: dict, error: type[Exception], text: str):
    with pytest.raises(error, match=text):
        GINAttentionConv(IN, OUT, HEADS, **options)


def test_options_that_mean_the_usual_are_taken():
    conv = SumAttentionConv(
        IN, OUT, HEADS, aggr="add", node_dim=-2, decomposed_layers=1, flow="source_to_target"
    )
    with pytest.raises(ValueError, match="decomposed_layers=2"):
        conv.decomposed_layers = 2


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((X, INDEX, ATTR), {"size": NODES}, TypeError, "size must be a pair"),
        (
            (X, INDEX, ATTR),
            {"edge_weight": torch.ones(3)},
            ValueError,
            r"edge_weight must be \[29\], .* got shape \[3\]",
        ),
        (
            (X, INDEX, ATTR),
            {"edge_weight": torch.ones(EDGES).long()},
            TypeError,
            "edge_weight must be a floating point tensor",
        ),
        (
            (X, INDEX, ATTR),
            {"edge_weight": torch.full((EDGES,), torch.nan)},
            ValueError,
            "edge_weight holds 29 NaN",
        ),
        (
            (X, INDEX.to("meta"), ATTR),
            {},
            ValueError,
            "edge_index is on meta and the features on cpu",
        ),
        (((X, X[None]), INDEX, ATTR), {}, ValueError, "x must be two tensors"),
        (
            (X, EdgeIndex(INDEX, sparse_size=(NODES, 20)), ATTR),
            {},
            ValueError,
            "EdgeIndex says 20 receivers",
        ),
        (
            (X, to_torch_csr_tensor(INDEX.flip(0), size=(20, NODES)), ATTR),
            {},
            ValueError,
            "the matrix or EdgeIndex says 20 receivers",
        ),
    ],
)
def test_arguments_that_do_not_fit(
    arguments: tuple, options: dict, error: type[Exception], text: str
):
    with pytest.raises(error, match=text):
        conv64("gin")(*arguments, **options)


@pytest.mark.parametrize("layout", ["csr", "SparseTensor"])
def test_values_of_a_matrix_that_have_no_use(layout: str):
    weight = torch.rand(EDGES, dtype=torch.float64)
    adj = sparse(layout, weight)
    with pytest.raises(ValueError, match="edge_weight was given, and the matrix stores values too"):
        conv64("gin", edge_dim=None)(X, adj, edge_weight=weight)
    with pytest.raises(ValueError, match="features of edges: construct the layer with edge_dim=2"):
        conv64("gin", edge_dim=None)(X, sparse(layout, ATTR))
    with pytest.raises(ValueError, match="edge_attr was given, and the matrix stores values"):
        conv64("gin")(X, sparse(layout, ATTR), ATTR)
    conv = conv64("gin", edge_dim=None)  # torch stores ones where nothing was given
    assert_close(
        conv(X, sparse("csr"), edge_weight=weight[ADJ_ORDER]), conv(X, INDEX, edge_weight=weight)
    )


# ---------------------------------------------------------------- what PyG has no like of


@each_conv
@pytest.mark.parametrize("sparsify", [gf.Threshold(0.3), gf.TopK(2)])
def test_edges_that_are_cut_have_weight_zero(kind: str, sparsify):
    conv = conv64(kind, sparsify=sparsify)
    out, (_, alpha), heads = conv(X, INDEX, ATTR, return_attention_weights=True, output_graph=True)
    assert int((alpha == 0).sum()) == HEADS * EDGES - heads.num_edges > 0
    dense = heads.to_dense()
    assert_close(alpha, dense[:, INDEX[1], INDEX[0]].t())
    assert_close(conv(X, INDEX, ATTR), out)


@pytest.mark.parametrize("kind", ["gin", "sum"])
def test_an_explainers_mask_beside_self_loops(kind: str):
    """The mask is one of the given edges; loops that were added keep their messages, as PyG has
    it.
    """
    conv, mask = conv64(kind, add_self_loops=True), torch.rand(EDGES + 3, dtype=torch.float64)
    index = torch.cat((INDEX, torch.tensor([[2, 2, 5], [2, 2, 5]])), 1)
    attr = torch.cat((ATTR, torch.randn(3, 2, dtype=torch.float64)))
    want = conv(X, index, attr, edge_weight=mask)
    set_masks(conv, mask, index, apply_sigmoid=False)
    assert_close(conv(X, index, attr), want)
    clear_masks(conv)
    assert not torch.allclose(conv(X, index, attr), want)


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "SparseTensor"])
def test_a_graph_from_data_with_adj_t(layout: str):
    weight = torch.rand(EDGES)
    want = gf.AttentionGraph.from_pyg(Data(edge_index=INDEX, edge_weight=weight, num_nodes=NODES))
    got = gf.AttentionGraph.from_pyg(Data(adj_t=sparse(layout, weight), num_nodes=NODES))
    assert torch.equal(got.edge_index, want.edge_index) and torch.equal(got.weight, want.weight)
    indexed = gf.AttentionGraph.from_pyg(
        Data(edge_index=EdgeIndex(INDEX), edge_weight=weight[:, None], num_nodes=NODES)
    )
    assert torch.equal(indexed.weight, want.weight) and type(indexed.senders) is Tensor


def test_data_that_are_no_graph():
    with pytest.raises(ValueError, match="this Data has no edge_index"):
        gf.AttentionGraph.from_pyg(Data(num_nodes=3))
    with pytest.raises(ValueError, match=r"edge weights must be \[29\], .* got shape \[29, 2\]"):
        gf.AttentionGraph.from_pyg(Data(adj_t=sparse("csr", ATTR), num_nodes=NODES))
    other = HeteroData()
    for kind in (("sender", "to", "receiver"), ("sender", "also", "receiver")):
        other[kind].edge_index = torch.zeros(2, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="and no other"):
        gf.AttentionGraph.from_pyg(other)


@pytest.mark.parametrize(
    "imports", ["torch, graphformer", "graphformer, torch", "torch, graphformer.nn"]
)
def test_a_saved_graph_is_loaded_by_a_fresh_process(imports: str, tmp_path, interpreter):
    """torch.load takes graphs under weights_only, its default: they hold tensors and numbers."""
    graph = gf.AttentionGraph.from_edges(INDEX[0], INDEX[1], torch.rand(EDGES), num_nodes=NODES)
    assert graph.indptr.shape == (NODES + 1,)  # with what was derived from it
    file = tmp_path / "graph.pt"
    torch.save({"graph": graph, "plain": [1]}, file)
    script = (
        f"import {imports}\n"
        f"graph = torch.load({str(file)!r})['graph']\n"
        "print(graph.num_edges, float(graph.weight.sum()))"
    )
    edges, total = interpreter(script).split()
    assert int(edges) == EDGES and float(total) == pytest.approx(
        float(graph.weight.sum()), rel=1e-6
    )
