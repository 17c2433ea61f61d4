"""Additive scores are those of PyG's GATConv, and GIN's epsilon can stay where it starts."""

import pytest
import torch
from torch_geometric.nn import GATConv
from torch_geometric.nn.inits import glorot

from graphformer.nn import GINAttentionConv, GINOperator, PNAAttentionConv, SumAttentionConv

NODES, IN, OTHER, HEADS, WIDTH, EDGES = 7, 5, 3, 3, 2, 23
OUT = HEADS * WIDTH
GAT = {
    "score": "additive",
    "sharpening": False,
    "bias": True,
    "self_weight": 0.0,
    "add_self_loops": True,
}


@pytest.fixture
def edges():
    torch.manual_seed(0)
    return torch.randint(0, NODES, (2, EDGES))


def pair(channels=IN, **options):
    """The two layers with the same parameters, which are not those of the start."""
    torch.manual_seed(1)
    theirs = GATConv(channels, WIDTH, heads=HEADS, **options).double()
    ours = SumAttentionConv(channels, OUT, HEADS, **{**GAT, **options}).double()
    torch.nn.init.normal_(theirs.bias)
    with torch.no_grad():
        if isinstance(channels, int):
            ours.v_proj.weight.copy_(theirs.lin.weight)
        else:
            ours.v_proj.weight.copy_(theirs.lin_src.weight)
            ours.self_proj.weight.copy_(theirs.lin_dst.weight)
        ours.additive.sender.copy_(theirs.att_src[0])
        ours.additive.receiver.copy_(theirs.att_dst[0])
        ours.bias.copy_(theirs.bias)
    return ours, theirs


def compare(ours, theirs, x, edges):
    x = x if isinstance(x, tuple) else (x,)
    found = []
    for conv in (ours, theirs):
        given = tuple(one.clone().requires_grad_() for one in x)
        out, (_, alpha) = conv(
            given if len(given) > 1 else given[0], edges, return_attention_weights=True
        )
        conv.zero_grad()
        out.pow(3).sum().backward()
        found.append((out, alpha, [one.grad for one in given]))
    (out, alpha, grads), (their_out, their_alpha, their_grads) = found
    torch.testing.assert_close(out, their_out)
    torch.testing.assert_close(alpha, their_alpha)
    torch.testing.assert_close(grads, their_grads)
    torch.testing.assert_close(ours.additive.sender.grad, theirs.att_src.grad[0])
    torch.testing.assert_close(ours.additive.receiver.grad, theirs.att_dst.grad[0])


def test_plain_attention_with_additive_scores_is_gatconv(edges):
    compare(*pair(), torch.randn(NODES, IN, dtype=torch.float64), edges)


def test_trained_from_the_same_start_with_the_same_dropout_it_stays_gatconv():
    """Masks of one head, over edges sorted by receiver, are drawn alike."""
    torch.manual_seed(4)
    loops = torch.arange(NODES).repeat(2, 1)
    edges = torch.cat((torch.randint(0, NODES, (2, EDGES)), loops), 1)
    edges = edges[:, torch.argsort(edges[0] + NODES * edges[1], stable=True)]
    x, y = torch.randn(NODES, IN, dtype=torch.float64), torch.arange(NODES) % WIDTH
    theirs = GATConv(IN, WIDTH, dropout=0.6, add_self_loops=False).double()
    ours = SumAttentionConv(IN, WIDTH, **{**GAT, "add_self_loops": False}, dropout=0.6).double()
    with torch.no_grad():
        ours.v_proj.weight.copy_(theirs.lin.weight)
        ours.additive.sender.copy_(theirs.att_src[0])
        ours.additive.receiver.copy_(theirs.att_dst[0])
    start = ours.v_proj.weight.detach().clone()
    losses = []
    for conv in (ours, theirs):
        torch.manual_seed(5)
        optimizer = torch.optim.Adam(conv.parameters(), 0.01, weight_decay=5e-4)
        found = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(conv(x, edges), y)
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        losses.append(torch.stack(found))
    torch.testing.assert_close(*losses, rtol=1e-9, atol=0)
    assert losses[0].diff().abs().min() > 0 and not torch.allclose(ours.v_proj.weight, start)
    torch.testing.assert_close(ours.v_proj.weight, theirs.lin.weight, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-7, atol=1e-9)


def test_also_from_senders_of_another_width():
    ours, theirs = pair((IN, OTHER), add_self_loops=False)
    edges = torch.stack((torch.randint(0, NODES, (EDGES,)), torch.randint(0, 11, (EDGES,))))
    x = torch.randn(NODES, IN, dtype=torch.float64), torch.randn(11, OTHER, dtype=torch.float64)
    compare(ours, theirs, x, edges)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [SumAttentionConv, GINAttentionConv, PNAAttentionConv])
@pytest.mark.parametrize("sharpening", [False, 0.7])
def test_a_traced_layer_and_hooks_see_the_same_scores(layer, sharpening, edges):
    torch.manual_seed(2)
    conv = layer(IN, OUT, HEADS, score="additive", sharpening=sharpening).double().eval()
    x = torch.randn(NODES, IN, dtype=torch.float64)
    out = conv(x, edges)
    traced = torch.export.export(conv, (x, edges)).module()
    torch.testing.assert_close(traced(x, edges), out)
    conv.register_message_forward_hook(lambda *_: None)
    torch.testing.assert_close(conv(x, edges), out)


def test_sharpening_multiplies_additive_scores_before_what_edges_add(edges):
    conv = SumAttentionConv(IN, OUT, HEADS, score="additive", sharpening=0.5).double()
    x, bias = (
        torch.randn(NODES, IN, dtype=torch.float64),
        torch.randn(EDGES, HEADS, dtype=torch.float64),
    )
    alpha = conv(x, edges, edge_bias=bias, return_attention_weights=True)[1][1]
    v = conv.v_proj(x).view(NODES, HEADS, WIDTH)
    raw = (v * conv.additive.receiver).sum(-1)[edges[1]] + (v * conv.additive.sender).sum(-1)[
        edges[0]
    ]
    scores = 0.5 * torch.where(raw < 0, 0.2 * raw, raw) + bias
    for node in range(NODES):
        into = edges[1] == node
        torch.testing.assert_close(alpha[into], scores[into].softmax(0))


def test_every_parameter_has_a_gradient_and_reset_draws_all_anew(edges):
    conv = SumAttentionConv(IN, OUT, HEADS, 2, **{**GAT, "sharpening": True})
    conv(torch.randn(NODES, IN), edges, torch.randn(EDGES, 2)).pow(2).sum().backward()
    assert all(
        one.grad is not None and one.grad.isfinite().all() and one.grad.any()
        for one in conv.parameters()
    )
    former = {name: one.clone() for name, one in conv.state_dict().items()}
    assert not {"q_proj.weight", "k_proj.weight"} & set(former)
    conv.reset_parameters()
    same = {name for name, one in conv.state_dict().items() if torch.equal(one, former[name])}
    assert same == {"sharpening", "bias"}


def test_scores_start_as_gatconv_starts_them():
    torch.manual_seed(6)
    score = SumAttentionConv(IN, OUT, HEADS, **GAT).additive
    torch.manual_seed(7)
    score.reset_parameters()
    torch.manual_seed(7)
    for one in (score.receiver, score.sender):
        glorot(theirs := torch.empty(1, HEADS, WIDTH))
        assert torch.equal(one, theirs[0])


@pytest.mark.parametrize("channels", [300, -1])
def test_values_start_as_gatconv_starts_them(channels):
    torch.manual_seed(3)
    conv = SumAttentionConv(channels, 20, 4, **GAT)
    conv(torch.rand(NODES, 300), torch.zeros(2, 1, dtype=torch.long))
    bound = (6 / (300 + 20)) ** 0.5
    assert 0.97 * bound < conv.v_proj.weight.abs().max() <= bound
    conv.reset_parameters()
    assert 0.97 * bound < conv.v_proj.weight.abs().max() <= bound


def test_a_receiver_without_features_adds_nothing():
    conv = SumAttentionConv((IN, OTHER), OUT, HEADS, score="additive", sharpening=False).double()
    x, edges = (
        torch.randn(NODES, IN, dtype=torch.float64),
        torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]]),
    )
    out, (_, alpha) = conv((x, None), edges, size=(NODES, 2), return_attention_weights=True)
    v = conv.v_proj(x).view(NODES, HEADS, WIDTH)
    scores = torch.nn.functional.leaky_relu((v * conv.additive.sender).sum(-1), 0.2)
    torch.testing.assert_close(alpha[:2], scores[:2].softmax(0))
    assert out.shape == (2, OUT)


def test_an_unknown_score_is_refused_and_repr_shows_it():
    with pytest.raises(
        ValueError, match=r"unknown score 'gat'; known: additive, .*differential, .*dot"
    ):
        SumAttentionConv(IN, OUT, HEADS, score="gat")
    assert (
        repr(SumAttentionConv(IN, OUT, HEADS, score="additive"))
        == "SumAttentionConv(5, 6, heads=3, score=additive)"
    )


def test_epsilon_that_is_not_trained_stays_at_its_start_and_in_the_state_dict(edges):
    trained, fixed = (GINAttentionConv(IN, OUT, HEADS, train_eps=one) for one in (True, False))
    assert "operator.eps" in dict(trained.named_parameters()) and "operator.eps" not in dict(
        fixed.named_parameters()
    )
    with torch.no_grad():
        trained.operator.eps.fill_(0.3)
    fixed.load_state_dict(trained.state_dict())
    x = torch.randn(NODES, IN)
    torch.testing.assert_close(fixed(x, edges), trained(x, edges))
    fixed.reset_parameters()
    assert not fixed.operator.eps.any() and not torch.allclose(fixed(x, edges), trained(x, edges))
    assert "train_eps=False" in repr(GINOperator(2, 3, 1.0, train_eps=False))
    with pytest.raises(TypeError, match="unexpected argument 'train_eps': epsilon is GIN's alone"):
        SumAttentionConv(IN, OUT, train_eps=False)
