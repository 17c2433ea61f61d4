"""GIN on edges with its MLPs as residual branches: the form that stands in the place of GATConv."""

import pytest
import torch

import graphformer as gf
from graphformer.nn import GINAttentionConv, SumAttentionConv

NODES, IN, HEADS, WIDTH = 7, 5, 3, 2
OUT = HEADS * WIDTH
FORM = {"self_weight": 0.0, "add_self_loops": True, "mlp_ratio": 1.0, "mlp_norm": False}
RESIDUAL = {**FORM, "mlp_residual": True}


@pytest.fixture
def edges():
    torch.manual_seed(0)
    return torch.randint(0, NODES, (2, 23))


def gin(*sizes, **options):
    torch.manual_seed(1)
    return GINAttentionConv(*(sizes or (IN, OUT, HEADS)), **{**RESIDUAL, **options}).double()


def test_mlp_residual_adds_the_sum_itself(edges):
    x = torch.randn(NODES, IN, dtype=torch.float64)
    plain = SumAttentionConv(IN, OUT, HEADS, self_weight=0.0, add_self_loops=True).double()
    conv = gin()
    conv.load_state_dict({**conv.state_dict(), **plain.state_dict()})
    z = plain(x, edges).view(NODES, HEADS, WIDTH).transpose(0, 1)
    expected = (z + conv.operator.mlp(z)).transpose(0, 1).reshape(NODES, OUT)
    torch.testing.assert_close(conv(x, edges), expected)
    assert not torch.allclose(conv(x, edges), plain(x, edges))


def test_dropout_acts_on_the_branch_and_not_on_the_way_around():
    conv = gin(dropout=0.5).train()
    z = torch.ones(HEADS, 1000, WIDTH, dtype=torch.float64)
    out = conv.operator(torch.zeros_like(z), {"sum": z})
    branch = conv.operator.mlp(z)
    untouched, doubled = torch.isclose(out, z), torch.isclose(out, z + 2 * branch)
    assert (untouched | doubled).all() and 0.4 < untouched.double().mean() < 0.6
    got = conv.eval().operator(torch.zeros_like(z), {"sum": z})
    torch.testing.assert_close(got, z + branch)
    former = GINAttentionConv(IN, OUT, HEADS, dropout=0.5)
    assert former.operator.dropout == former.operator.mlp.dropout == 0.0


@pytest.mark.parametrize("options", [{}, {"mlp_norm": True}])
def test_gradcheck(options, edges):
    conv = gin(2, 4, 2, **options)
    x = torch.randn(NODES, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *_: conv(x, edges), (x, *conv.parameters()), fast_mode=True
    )


def test_equivariant_and_backends_agree(edges):
    x = torch.randn(NODES, IN, dtype=torch.float64)
    conv, order = gin(), torch.randperm(NODES)
    place = torch.empty_like(order)
    place[order] = torch.arange(NODES)
    torch.testing.assert_close(conv(x[order], place[edges]), conv(x, edges)[order])
    for backend in gf.backends.available():
        torch.testing.assert_close(gin(backend=backend)(x, edges), conv(x, edges))
