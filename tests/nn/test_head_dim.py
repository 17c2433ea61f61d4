"""The width of a head as a setting of its own, in layers on tokens and on edges."""

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Data

import graphformer as gf

pytestmark = pytest.mark.usefixtures("float64")

HIDDEN, HEADS, WIDTH = 35, 3, 7
FREE = {"value_projection": True, "output_projection": True, "head_dim": WIDTH}
SCORES = ["dot", "differential", "pairwise", "additive", "gatv2", "learned_query", "random_maps"]
SCORES += ["alibi", "ssmax", "distance_bias", "forgetting", "decay"]
OPERATORS = ["sum", "gin", "pna", "sinc", "gine", "multi_hop", "projected_self", "merged_heads"]
UPDATES = ["gated_heads", "channel_gate", {"name": "experts", "experts": 3}]


def hidden(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 11, HIDDEN, generator=torch.Generator().manual_seed(seed))


def agree(layer: gf.nn.GraphAttention) -> None:
    """Executors and backends, outputs and gradients."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    x = hidden().requires_grad_()
    layer.eval()
    want = layer(x)
    wanted = torch.autograd.grad(want.square().sum(), [x, *layer.parameters()])
    for executor in ("dense", "stream"):
        for backend in ("torch", "pyg", "torch_sparse"):
            if backend not in gf.backends.available():
                continue
            layer.executor, layer.backend = executor, backend
            found = layer(x)
            assert_close(found, want)
            got = torch.autograd.grad(found.square().sum(), [x, *layer.parameters()])
            assert_close(got, wanted)
    layer.executor = layer.backend = "auto"
    gf.testing.check_causal(layer, x.detach())
    gf.testing.check_prefix(layer, x.detach())
    gf.testing.check_gradients(layer.train(), x.detach())


def test_attention_written_out():
    torch.manual_seed(0)
    layer, x = gf.nn.SumAttention(HIDDEN, HEADS, head_dim=WIDTH, executor="flash"), hidden()
    q, k, v = (
        m(x).view(2, 11, HEADS, WIDTH).transpose(1, 2)
        for m in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    mask = torch.full((11, 11), -torch.inf).triu(1)
    weights = (q @ k.mT / WIDTH**0.5 + mask).softmax(-1)
    want = (weights @ v).transpose(1, 2).flatten(2) @ layer.o_proj.weight.T
    assert_close(layer(x), want)
    _, graph = gf.nn.SumAttention(HIDDEN, HEADS, head_dim=WIDTH)(x, output_graph=True)
    assert graph.batch_shape == (2, HEADS)


def test_all_pairs_given_as_edges():
    layer, x = gf.nn.SumAttention(HIDDEN, HEADS, head_dim=WIDTH, is_causal=False), hidden()[:1]
    pairs = torch.cartesian_prod(torch.arange(11), torch.arange(11)).T
    edges = gf.attention.Edges(*pairs)
    assert_close(layer(x, candidates=edges), layer(x))


@pytest.mark.parametrize("operator", ["sum", "gin", "pna"])
@pytest.mark.parametrize("kv_heads", [3, 1])
def test_presets(operator: str, kv_heads: int):
    torch.manual_seed(0)
    kinds = {"sum": gf.nn.SumAttention, "gin": gf.nn.GINAttention, "pna": gf.nn.PNAAttention}
    layer = kinds[operator](HIDDEN, HEADS, kv_heads, sparsify=gf.Threshold(0.05), **FREE)
    assert layer.o_proj.weight.shape == (HIDDEN, HEADS * WIDTH)
    assert layer.k_proj.weight.shape == (kv_heads * WIDTH, HIDDEN)
    agree(layer)


@pytest.mark.parametrize("score", SCORES)
def test_scores(score: str):
    torch.manual_seed(0)
    normalize = "identity" if score == "decay" else "softmax"
    width = 8 if score == "differential" else WIDTH
    head = gf.Head(score=score, normalize=normalize)
    agree(gf.nn.SumAttention(HIDDEN, HEADS, head=head, head_dim=width))


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators(operator: str):
    torch.manual_seed(0)
    agree(gf.nn.SumAttention(HIDDEN, HEADS, head=gf.Head(operator=operator), head_dim=WIDTH))


@pytest.mark.parametrize("update", UPDATES, ids=str)
def test_updates(update):
    torch.manual_seed(0)
    plain = {"name": update} if isinstance(update, str) else update
    head = gf.Head(update={**plain, "maps": True})
    agree(gf.nn.SumAttention(HIDDEN, HEADS, head=head, head_dim=WIDTH))


def test_left_out_it_is_what_it_was():
    """Parameters, their order and the random numbers that they take."""
    for kind in (gf.nn.SumAttention, gf.nn.GINAttention, gf.nn.PNAAttention):
        torch.manual_seed(3)
        old = kind(hidden_size=35, num_heads=5, num_kv_heads=1)
        torch.manual_seed(3)
        new = kind(hidden_size=35, num_heads=5, num_kv_heads=1, head_dim=7)
        assert list(old.state_dict()) == list(new.state_dict())
        for one, other in zip(old.parameters(), new.parameters(), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(old(hidden()), new(hidden()))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, r"features='slice' sends slices .* num_heads 3 times head_dim 7 is 21, not hidden_si"),
        ({"value_projection": True}, r"update='concat' has no output map, and 3 outputs .* are 21"),
        (
            {"head": gf.Head(features="projection", update="gated_heads")},
            "update='gated_heads' has no output map",
        ),
        ({"head_dim": 0}, "head_dim must be"),
    ],
)
def test_what_cannot_hold_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        gf.nn.GINAttention(HIDDEN, HEADS, **{"head_dim": WIDTH, **arguments})


def test_a_query_that_is_the_hidden_state_itself_is_refused():
    with pytest.raises(ValueError, match="they have 21, the input 35"):
        gf.nn.SumAttention(HIDDEN, HEADS, head=gf.Head(score="query_network"), head_dim=WIDTH)


def test_sizes_that_do_not_divide_name_the_remedy():
    with pytest.raises(ValueError, match="or give the width of a head, head_dim"):
        gf.nn.SumAttention(HIDDEN, HEADS)


@pytest.mark.parametrize("operator", ["sum", "gin", "pna"])
def test_in_the_graph_transformer(operator: str):
    torch.manual_seed(0)
    sizes = {"hidden_size": 11, "num_layers": 2, "num_heads": 3}
    net = gf.GraphTransformer(5, 2, **sizes, operator=operator, target="node", head_dim=7).eval()
    conv = net.layers[0].blocks[0].conv
    assert conv.head_channels == 7 and conv.o_proj.weight.shape == (11, 21)
    index = torch.randint(13, (2, 40))
    data = Data(x=torch.randn(13, 5), edge_index=index, edge_attr=torch.randn(40, 2))
    want = net(data).prediction
    order = torch.randperm(13)
    place = order.argsort()
    moved = Data(x=data.x[order], edge_index=place[index], edge_attr=data.edge_attr)
    assert_close(net(moved).prediction, want[order])
    again = gf.GraphTransformer(**net.settings).eval()
    again.load_state_dict(net.state_dict())
    assert_close(again(data).prediction, want)
    for backend in ("pyg", "torch_sparse"):
        if backend in gf.backends.available():
            other = gf.GraphTransformer(**{**net.settings, "backend": backend}).eval()
            other.load_state_dict(net.state_dict())
            assert_close(other(data).prediction, want)


def test_a_graph_transformer_without_it_is_what_it_was():
    def made(**more):
        torch.manual_seed(5)
        return gf.GraphTransformer(5, hidden_size=12, num_layers=2, num_heads=3, **more)

    for one, other in zip(made().parameters(), made(head_dim=4).parameters(), strict=True):
        assert torch.equal(one, other)
