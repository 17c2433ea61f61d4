"""Several steps over a graph, merged heads, weights by distance and extra edges: each beside a
direct transcription of its formula, and what they do not take. Their places in the shells are in
test_methods.py.
"""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import EdgeMessages, normalizers, operators, sparsifiers
from graphformer.attention.candidates import Clusters, First, Neighborhood, Window
from tests.attention.test_methods import qk, stirred

pytestmark = pytest.mark.usefixtures("float64")

SIZES = {"num_heads": 3, "num_kv_heads": 3, "dim": 5, "hidden_size": 15}


def dense():
    a = torch.rand(2, 3, 7, 7).tril()
    return a.masked_fill(torch.rand_like(a) < 0.4, 0.0)


def operator(value):
    return stirred(gf.Head(operator=value).for_layer(SIZES).operator)


def over(f, x, a, backend="auto"):
    return f.on_edges(x, x, EdgeMessages(gf.AttentionGraph.from_dense(a), 3, backend))


# ---------------------------------------------------------------------- the formulas


def test_a_second_order_term_in_gin():
    f, x, a = operator({"name": "multi_hop", "inner": "gin"}), torch.randn(2, 3, 7, 5), dense()
    c = f.factors.unsqueeze(-1).unsqueeze(-1)  # [H, 2, 1, 1]
    z = f.inner.eps.view(3, 1, 1) * x + c[:, 0] * (a @ x) + c[:, 1] * (a @ a @ x)
    assert_close(over(f, x, a), f.inner.mlp(z))
    fresh = gf.Head(operator={"name": "multi_hop", "inner": "gin"}).for_layer(SIZES).operator
    assert_close(over(fresh, x, a), fresh.inner(x, {"sum": a @ x}))  # it starts as GIN


@pytest.mark.parametrize("shared", [False, True])
def test_rounds_are_layers_on_one_graph(shared):
    f = operator({"name": "rounds", "inner": {"name": "gin"}, "rounds": 3, "shared": shared})
    x, a = torch.randn(2, 3, 7, 5), dense()
    want = x
    for one in [f.inner] * 3 if shared else [f.inner, *f.more]:
        want = one(want, {"sum": a @ want})
    assert_close(over(f, x, a), want)
    per_round = sum(p.numel() for p in f.inner.parameters())
    assert sum(p.numel() for p in f.parameters()) == per_round * (1 if shared else 3)


def test_rounds_start_with_different_maps_and_one_round_is_the_operator():
    f = gf.Head(operator="rounds").for_layer(SIZES).operator
    assert (f.inner.mlp.weight1 != f.more[0].mlp.weight1).all()
    f.reset_parameters()
    assert (f.inner.mlp.weight1 != f.more[0].mlp.weight1).all() and not f.inner.eps.any()
    one, x, a = operator({"name": "rounds", "rounds": 1}), torch.randn(2, 3, 7, 5), dense()
    assert_close(over(one, x, a), one.inner(x, {"sum": a @ x}))


@pytest.mark.parametrize("inner", ["sum", "gin", "pna"])
def test_merged_heads(inner):
    f, x, a = operator({"name": "merged_heads", "inner": inner}), torch.randn(2, 3, 7, 5), dense()
    p = f.logits.softmax(0)
    assert p.max() > p.min()
    one = (p.view(3, 1, 1) * a).sum(1)
    graph = f.merged(gf.AttentionGraph.from_dense(a))
    assert_close(graph.to_dense(), one)
    assert torch.equal(graph.unweighted().to_dense() > 0, (a > 0).any(1))
    every = gf.AttentionGraph.from_dense(one.unsqueeze(1).expand_as(a))
    messages = EdgeMessages(every, 3)
    assert_close(over(f, x, a), f.inner(x, messages.reductions(x, f.inner.reductions)))


@pytest.mark.parametrize("curve", ["power", "exponential"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_distance_scaled(curve, is_causal):
    f = stirred(normalizers.DistanceScaled("softmax", curve, 0.4, 3))
    q, k = qk()
    want = gf.attention_graph(q, k, is_causal=is_causal).to_dense()
    for h, i, j in itertools.product(range(3), range(7), range(7)):
        r, n = f.rate[h].item(), abs(i - j)
        want[:, h, i, j] *= (
            (1 + n) ** -r if curve == "power" else math.exp(-n * math.log1p(math.exp(r)))
        )
    assert_close(gf.attention_graph(q, k, is_causal=is_causal, normalize=f).to_dense(), want)


def test_distance_scaled_starts_as_its_inner_one():
    q, k = qk()
    want = gf.attention_graph(q, k, normalize="sigmoid").to_dense()
    fresh = normalizers.DistanceScaled("sigmoid", num_heads=3)
    assert_close(gf.attention_graph(q, k, normalize=fresh).to_dense(), want)


@pytest.mark.parametrize("trained", [True, False])
def test_extra_edges(trained):
    keep = gf.Threshold(0.25)
    f = sparsifiers.ExtraEdges(
        Neighborhood(3, dilation=4) | Window(2), 0.3, keep, trained=trained, num_heads=3
    )
    if trained:
        stirred(f)
    assert len(list(f.parameters())) == trained and len(f.state_dict()) == 1
    q, k = qk()
    w = gf.attention_graph(q, k, is_causal=True).to_dense()
    i, j = torch.arange(7)[:, None], torch.arange(7)
    extra = ((i - j == 4) | ((i - j).abs() < 2)) & (j <= i)
    stays = extra | (w > 0.25)
    want = torch.where(stays, w, 0.0) + f.weight.detach().view(3, 1, 1) * extra
    graph = gf.attention_graph(q, k, is_causal=True, sparsify=f)
    assert torch.equal(graph.unweighted().to_dense().bool(), stays)
    assert_close(graph.to_dense(), want)
    assert (w[~extra.expand_as(w)] <= 0.25).any() and (w[extra.expand_as(w)] <= 0.25).any()


def test_extra_edges_beside_weights_that_are_renormalized():
    f = sparsifiers.ExtraEdges(Window(2), 0.2, gf.TopK(2, renormalize=True), num_heads=3)
    q, k = qk()
    alone = sparsifiers.ExtraEdges(Window(2), 0.0, gf.TopK(2), num_heads=3)
    plain = gf.attention_graph(q, k, sparsify=alone).to_dense()
    near = (torch.arange(7)[:, None] - torch.arange(7)).abs() < 2
    want = plain / plain.sum(-1, keepdim=True) + 0.2 * near
    assert_close(gf.attention_graph(q, k, sparsify=f).to_dense(), want)


# ---------------------------------------------------------------------- laws


@pytest.mark.parametrize(
    "value",
    [
        normalizers.DistanceScaled(rate=0.4),
        normalizers.DistanceScaled("sigmoid", "exponential"),
        normalizers.DistanceScaled("softmax_sink", rate=-0.3),
        sparsifiers.ExtraEdges(Window(2), 0.3, gf.Threshold(0.2)),
        sparsifiers.ExtraEdges(
            Neighborhood(3, dilation=2) | Window(2), 0.3, gf.TopK(2), trained=False
        ),
        sparsifiers.ExtraEdges(Window(3), -0.2),
    ],
    ids=str,
)
def test_law_of_slots(value):
    gf.testing.check_slot(value)


OPERATORS = {
    "second order": {"name": "multi_hop", "inner": "gin"},
    "rounds": {"name": "rounds", "inner": "pna", "rounds": 3},
    "shared": {"name": "rounds", "inner": {"name": "multi_hop", "hops": 3}, "shared": True},
    "merged": {"name": "merged_heads", "inner": "gin"},
}


@pytest.mark.parametrize("name", OPERATORS)
def test_backends_agree_in_gradients(name):
    f = operator(OPERATORS[name])
    x, a = torch.randn(2, 3, 7, 5, requires_grad=True), dense().requires_grad_()
    direction, found = torch.randn(2, 3, 7, 5), {}
    for backend in gf.backends.available():
        out = over(f, x, a, backend)
        leaves = [x, a, *f.parameters()]
        found[backend] = out, *torch.autograd.grad((out * direction).sum(), leaves)
    for values in found.values():
        for value, want in zip(values, found["torch"], strict=True):
            assert_close(value, want)


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "rounds"])
def test_gradients(name):
    f = operator(OPERATORS[name])
    graph = gf.AttentionGraph.from_dense(dense()[:1, :, :4, :4])
    x, weight = torch.randn(1, 3, 4, 5, requires_grad=True), graph.weight.requires_grad_()

    def call(x, weight):
        return f.on_edges(x, x, EdgeMessages(graph.with_weight(weight), 3))

    assert torch.autograd.gradcheck(call, (x, weight))


@pytest.mark.parametrize("name", OPERATORS)
def test_no_edge_makes_a_nan(name):
    f, x = operator(OPERATORS[name]), torch.randn(2, 3, 7, 5)
    assert over(f, x, torch.zeros(2, 3, 7, 7)).isfinite().all()


@pytest.mark.parametrize("slot", ["normalize", "sparsify"])
def test_gradients_of_weights(slot):
    value = {
        "normalize": normalizers.DistanceScaled("sigmoid", rate=0.3, num_heads=3),
        "sparsify": sparsifiers.ExtraEdges(Window(2), 0.3, gf.TopK(2), num_heads=3),
    }[slot]
    (parameter,) = value.parameters()
    q, k = (t[:1, :, :4].clone().requires_grad_() for t in qk())
    name = "rate" if slot == "normalize" else "weight"

    def call(q, k, given):
        del value._parameters[name]
        setattr(value, name, given)
        out = gf.attention_graph(q, k, is_causal=True, **{slot: value}).weight
        delattr(value, name)
        value.register_parameter(name, parameter)
        return out

    start = parameter.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(call, (q, k, start))


@pytest.mark.parametrize("name", OPERATORS)
def test_padding_changes_nothing(name):
    layer = stirred(gf.nn.GINAttention(12, 4, 2, head=gf.Head(operator=OPERATORS[name])))
    x = torch.randn(2, 7, 12)
    want, mask = layer(x), torch.ones(2, 10, dtype=torch.long)
    mask[:, :3] = 0
    left = torch.cat((torch.randn(2, 3, 12), x), 1)
    assert_close(layer(left, mask)[:, 3:], want)
    right = torch.cat((x, torch.randn(2, 3, 12)), 1)
    assert_close(layer(right, mask.flip(1))[:, :7], want)


def test_a_layer_alone_decodes_with_a_cache():
    from transformers.cache_utils import DynamicCache

    head = gf.Head(operator=OPERATORS["shared"], sparsify=gf.Threshold(0.05))
    layer = stirred(gf.nn.GINAttention(12, 4, 2, head=head, layer_idx=0))
    x, cache = torch.randn(2, 9, 12), DynamicCache()
    parts = [layer(one, past_key_values=cache) for one in x.split((4, 1, 3, 1), 1)]
    assert_close(torch.cat(parts, 1), layer(x))
    cache.crop(-2)
    assert_close(layer(x[:, 7:], past_key_values=cache), layer(x)[:, 7:])


def test_rounds_of_a_preset_are_those_of_the_operator():
    given = {"hidden_size": 12, "num_heads": 4, "mlp_ratio": 2.0}
    torch.manual_seed(4)
    layer = gf.nn.GINAttention(**given, rounds=3, mlp_norm=False)
    inner = {"name": "gin", "mlp_ratio": 2.0, "norm": False}
    head = gf.Head(operator={"name": "rounds", "rounds": 3, "inner": inner})
    torch.manual_seed(4)
    other = gf.nn.GINAttention(12, 4, head=head)
    x = torch.randn(2, 7, 12)
    assert_close(layer(x), other(x))
    shared = gf.nn.GINAttention(**given, rounds=3, shared_rounds=True)
    assert len(list(shared.parameters())) < len(list(layer.parameters()))
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=12,
        intermediate_size=14,
        num_hidden_layers=1,
        num_attention_heads=2,
        operator_options={"gin": {"rounds": 2}},
    )
    model = stirred(gf.GraphformerForCausalLM(config))
    assert model.model.layers[0].self_attn.operator.rounds == 2
    gf.testing.check_cache(model, torch.randint(0, 11, (2, 9)))


@pytest.mark.float32
@pytest.mark.parametrize(
    "head",
    [
        {"normalize": {"name": "distance_scaled", "curve": "exponential"}},
        {
            "sparsify": {
                "name": "extra_edges",
                "rule": {"name": "window", "size": 2},
                "weight": 0.1,
                "keep": {"name": "top_k", "k": 2},
                "trained": False,
            }
        },
        pytest.param(
            {"operator": {"name": "rounds", "inner": {"name": "gin", "mlp_ratio": 2.0}}},
            marks=pytest.mark.long,
        ),
        pytest.param({"operator": "merged_heads"}, marks=pytest.mark.long),
    ],
    ids=["distance scaled", "extra edges", "rounds", "merged heads"],
)
def test_compiled(head):
    layer = stirred(gf.nn.GINAttention(12, 4, 2, head=gf.Head.from_spec(head)))
    x = torch.randn(2, 7, 12, requires_grad=True)
    want = layer(x)
    (slope,) = torch.autograd.grad(want.square().sum(), x)
    found = torch.compile(layer, backend="aot_eager")(x)
    assert_close(found, want, atol=1e-5, rtol=1e-4)
    (other,) = torch.autograd.grad(found.square().sum(), x)
    assert_close(other, slope, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: operators.MultiHopOperator(2, 3, "pna"), "'pna' needs more than a sum.*rounds"),
        (lambda: operators.MultiHopOperator(2, 3, "sinc"), "'sinc' needs more than a sum"),
        (lambda: operators.MergedHeadsOperator("sinc"), "reads the edges of each head"),
        (
            lambda: operators.MergedHeadsOperator(
                operators.PNAOperator(aggregators=("max_norm@0.1",))
            ),
            "reads max_norm@0.1 of a head: take 'sum'",
        ),
        (lambda: operators.RoundsOperator("gin", 0), "rounds must be"),
        (lambda: operators.RoundsOperator("jin"), "unknown operator 'jin'"),
        (lambda: gf.nn.GINAttention(12, 4, shared_rounds=True), "is of several rounds"),
        (lambda: gf.nn.GINAttention(12, 4, rounds=2, head=gf.Head(operator="gin")), "rounds=2"),
        (lambda: normalizers.DistanceScaled(curve="linear"), "unknown curve 'linear'"),
        (lambda: sparsifiers.ExtraEdges(Clusters(3)), "'clusters' decides by queries and keys"),
        (lambda: sparsifiers.ExtraEdges(First(1) | Clusters(3)), "'clusters' decides by queries"),
        (lambda: sparsifiers.ExtraEdges(First(1) | Window(2)), "'either' counts places from the"),
        (
            lambda: sparsifiers.ExtraEdges(
                Window(2), keep=gf.attention.NormalizeWeights(then=gf.TopK(1))
            ),
            "leave its then out",
        ),
        (
            lambda: gf.TopK(3) & sparsifiers.ExtraEdges(Window(2)),
            "& would cut the edges that Extra",
        ),
    ],
)
def test_what_is_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_lists_of_edges_are_candidates():
    with pytest.raises(TypeError, match="lists of edges belong into candidates"):
        sparsifiers.ExtraEdges(gf.attention.Edges(*torch.tensor([[0, 1], [1, 2]])))


def test_a_further_step_needs_one_set_of_nodes():
    conv = gf.nn.GINAttentionConv((5, 6), 12, 3, head=gf.Head(operator="rounds"))
    x = torch.randn(7, 5), torch.randn(4, 6)
    ends = torch.tensor([[0, 6, 5], [1, 2, 3]])
    with pytest.raises(ValueError, match=r"4 receivers and 7 senders.*one set of nodes"):
        conv(x, ends)
