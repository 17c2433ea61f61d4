"""Formulas of the field's methods, each beside a direct transcription; their places in the shells
are in test_methods.py.
"""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close
from transformers.models.t5.modeling_t5 import T5Attention

import graphformer as gf
from graphformer.attention import candidates, normalizers, operators, scores, updates
from tests.attention.test_methods import qk, stirred

pytestmark = pytest.mark.usefixtures("float64")


def dots(q, k):
    return q @ k.mT / q.shape[-1] ** 0.5


def weights(**slots):
    return gf.attention_graph(*qk(), **slots).to_dense()


# ---------------------------------------------------------------------- normalizers


def sorted_sparsemax(row):
    """Algorithm 1 of arXiv 1602.02068."""
    z = row.sort(descending=True).values
    total, k = z.cumsum(0), torch.arange(1, len(z) + 1)
    size = int((1 + k * z > total).sum())
    return (row - (total[size - 1] - 1) / size).clamp(min=0)


def sorted_entmax15(row):
    """Algorithm 2 of arXiv 1905.05702."""
    z = (row / 2).sort(descending=True).values
    k = torch.arange(1, len(z) + 1)
    mean = z.cumsum(0) / k
    squares = z.square().cumsum(0) - k * mean.square()
    tau = mean - ((1 - squares) / k).clamp(min=0).sqrt()
    size = int((tau <= z).sum())
    return (row / 2 - tau[size - 1]).clamp(min=0).square()


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 8.0])
def test_normalizers_with_exact_zeros(name, sharpness):
    q, k = qk()
    q = (sharpness * q).requires_grad_()
    made = gf.attention_graph(q, k, normalize=name).to_dense()
    formula = sorted_sparsemax if name == "sparsemax" else sorted_entmax15
    rows = dots(q, k).flatten(0, 2).unbind()
    want = torch.stack([formula(row) for row in rows]).view_as(made)
    assert_close(made, want)
    assert_close(made.sum(-1), torch.ones(made.shape[:-1]))
    direction = torch.randn_like(made)
    found, wanted = (torch.autograd.grad((one * direction).sum(), q)[0] for one in (made, want))
    assert_close(found, wanted)
    if sharpness == 8.0:
        assert (made == 0).any()


def test_one_heavy_pair_has_a_gradient_of_numbers():
    q = torch.tensor([[[[100.0]]]], requires_grad=True)
    k = torch.tensor([[[[1.0], [-1.0], [0.0]]]])
    for name in ("sparsemax", "entmax15"):
        graph = gf.attention_graph(q, k, normalize=name)
        assert_close(graph.to_dense().flatten(), torch.tensor([1.0, 0.0, 0.0]))
        assert torch.autograd.grad(graph.weight.square().sum(), q)[0].isfinite().all()


def test_softmax_with_a_sink():
    normalize = normalizers.SoftmaxSink(3)
    with torch.no_grad():
        normalize.sink.copy_(torch.tensor([-2.0, 0.5, 30.0]))
    exp = dots(*qk()).exp()
    want = exp / (exp.sum(-1, keepdim=True) + normalize.sink.exp().view(3, 1, 1))
    assert_close(weights(normalize=normalize), want)
    off_by_one = normalizers.SoftmaxSink(3, trained=False)
    assert not list(off_by_one.parameters())
    assert_close(weights(normalize=off_by_one), exp / (exp.sum(-1, keepdim=True) + 1))


def test_fourier():
    normalize = stirred(normalizers.Fourier(2, 3))
    s = dots(*qk())
    a, cosine, sine = normalize.constant, normalize.cosine, normalize.sine
    for h, i, j in itertools.product(range(3), range(7), range(7)):
        x = s[1, h, i, j]
        want = a[h] + sum(
            cosine[h, m - 1] * math.cos(m * x) + sine[h, m - 1] * math.sin(m * x) for m in (1, 2)
        )
        assert_close(weights(normalize=normalize)[1, h, i, j], want)


# ---------------------------------------------------------------------- scores


def test_ssmax():
    score = scores.ScalableDot(3, scale=0.7)
    q, k = qk()
    want = torch.zeros(2, 3, 7, 7)
    for i in range(7):
        row = dots(q, k)[:, :, i, : i + 1] * 0.7 * math.log(i + 1)
        want[:, :, i, : i + 1] = row.softmax(-1)
    assert_close(gf.attention_graph(q, k, score=score, is_causal=True).to_dense(), want)


def test_qk_norm():
    score = stirred(scores.NormedDot(3))
    q, k = qk()
    q = q.clone()
    q[0, 0, 2] = 0.0  # has no direction
    want = torch.zeros(2, 3, 7, 7)
    for b, h, i, j in itertools.product(range(2), range(3), range(7), range(7)):
        size = (q[b, h, i] @ q[b, h, i]).sqrt() * (k[b, h, j] @ k[b, h, j]).sqrt()
        cosine = q[b, h, i] @ k[b, h, j] / size if size else 0.0
        want[b, h, i, j] = score.scale[h].detach() * 5**0.5 * cosine
    assert_close(gf.attention_graph(q, k, score=score).to_dense(), want.softmax(-1))
    # the length of queries and keys says nothing
    assert_close(gf.attention_graph(7 * q, k / 3, score=score).to_dense(), want.softmax(-1))


def test_qk_norm_of_nothing_has_finite_gradients():
    score, q = scores.NormedDot(2), torch.zeros(1, 2, 3, 5, requires_grad=True)
    gf.attention_graph(q, q, score=score).to_dense().square().sum().backward()
    assert not q.grad.any() and score.scale.grad.isfinite().all()


def test_grid_bias_beside_blocks_with_halos():
    """A bias for each offset on the grid; HaloNet's pairs stand beside it."""
    score, (rows, columns) = stirred(scores.GridBias((4, 6), 3)), (4, 6)
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, 24, 5)
    bias = score.bias.view(3, 2 * rows - 1, 2 * columns - 1)
    want = dots(q, k).clone()
    for i, j in itertools.product(range(24), range(24)):
        down, right = j // columns - i // columns, j % columns - i % columns
        want[:, :, i, j] += bias[:, down + rows - 1, right + columns - 1]
    assert_close(gf.attention_graph(q, k, score=score).to_dense(), want.softmax(-1))
    halo = candidates.Neighborhood(4, 2, shape=(rows, columns))
    seen = torch.zeros(24, 24, dtype=torch.bool)
    for i, j in itertools.product(range(24), range(24)):
        near = [(i // columns, j // columns), (i % columns, j % columns)]
        seen[i, j] = all(-1 <= other - own // 2 * 2 <= 2 for own, other in near)
    found = gf.attention_graph(q, k, score=score, candidates=halo).to_dense()
    assert_close(found, want.masked_fill(~seen, -torch.inf).softmax(-1))
    with pytest.raises(ValueError, match=r"has 24 places, and there are 7 senders: give the shape"):
        gf.attention_graph(*qk(), score=score)
    with pytest.raises(ValueError, match="shape is empty"):
        scores.GridBias(())


def test_grid_bias_of_several_grids_in_one_batch():
    conv = stirred(
        gf.nn.SumAttentionConv(5, 12, 3, head=gf.Head(score={"name": "grid_bias", "shape": [2, 3]}))
    )
    x, ends = torch.randn(12, 5), torch.tensor([[0, 1, 2, 3, 4, 5], [4, 4, 1, 0, 0, 2]])
    both = conv(x, torch.cat((ends, ends + 6), 1))
    assert_close(both, torch.cat((conv(x[:6], ends), conv(x[6:], ends))))


def test_the_score_of_pointer_networks():
    score, (q, k) = scores.GATv2(3, 5, activation="tanh"), qk()
    pairs = (q.unsqueeze(3) + k.unsqueeze(2)).tanh()
    want = torch.einsum("bhijd,hd->bhij", pairs, score.vector).softmax(-1)
    assert_close(weights(score=score), want)
    with pytest.raises(ValueError, match="unknown activation 'relu'"):
        scores.GATv2(3, 5, activation="relu")


def test_relu_by_count():
    q, k = qk()
    want = dots(q, k).relu().tril() / torch.arange(1, 8).view(7, 1)
    graph = gf.attention_graph(q, k, normalize=normalizers.ReLU(by_count=True), is_causal=True)
    assert_close(graph.to_dense(), want)


def test_alibi():
    score, place = scores.ALiBi(4), torch.arange(7)
    assert_close(score.slopes, torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256]))
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 4, 7, 5)
    far = (place[:, None] - place).abs()
    want = (dots(q, k) - score.slopes.view(4, 1, 1) * far).softmax(-1)
    assert_close(gf.attention_graph(q, k, score=score).to_dense(), want)


@pytest.mark.parametrize(("buckets", "most"), [(32, 128), (8, 20), (12, 7)])
def test_buckets_are_those_of_t5(buckets, most):
    score, distance = scores.DistanceBias(buckets, most, num_heads=3), torch.arange(-300, 301)
    theirs = T5Attention._relative_position_bucket(
        -distance, bidirectional=True, num_buckets=buckets, max_distance=most
    )
    assert torch.equal(score.bucket(distance), theirs)


def test_distance_bias():
    score = stirred(scores.DistanceBias(8, 5, num_heads=3))
    want = dots(*qk())
    for i, j in itertools.product(range(7), range(7)):
        want[:, :, i, j] += score.bias[:, int(score.bucket(torch.tensor(i - j)))].detach()
    assert_close(weights(score=score), want.softmax(-1))


def test_decay():
    score = scores.Decay(3)
    assert_close(score.rate, 1 - torch.tensor([1 / 32, 1 / 64, 1 / 128]))
    place = torch.arange(7)
    rate = score.rate.view(3, 1, 1) ** (place[:, None] - place).clamp(min=0)
    want = (dots(*qk()) * rate).tril()
    assert_close(weights(score=score, normalize="identity", is_causal=True), want)


@pytest.mark.parametrize("normalize", ["softmax", "sigmoid"])
@pytest.mark.parametrize("executor", ["auto", "flash", "stream"])
def test_forgetting(normalize, executor):
    if executor == "flash" and normalize == "sigmoid":
        pytest.skip("flash is softmax")
    head = gf.Head(score={"name": "forgetting", "bias": 1.0}, normalize=normalize)
    layer = stirred(gf.nn.SumAttention(12, 4, 2, head=head))
    layer.executor = executor
    x = torch.randn(2, 9, 12)
    gate = layer.score_slot.gate
    log = torch.nn.functional.logsigmoid(x @ gate.weight.T + gate.bias)  # [B, N, Hkv]
    total = log.cumsum(1).mT.repeat_interleave(2, 1)
    q = layer.q_proj(x).view(2, 9, 4, 3).transpose(1, 2)
    k = layer.k_proj(x).view(2, 9, 2, 3).transpose(1, 2).repeat_interleave(2, 1)
    v = layer.v_proj(x).view(2, 9, 2, 3).transpose(1, 2).repeat_interleave(2, 1)
    s = q @ k.mT / 3**0.5 + total.unsqueeze(3) - total.unsqueeze(2)
    s = s.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf)
    w = s.softmax(-1) if normalize == "softmax" else s.sigmoid()
    want = layer.o_proj((w @ v).transpose(1, 2).flatten(2))
    assert_close(layer(x), want)


def test_query_network_learned_query_and_random_maps():
    torch.manual_seed(0)
    x = torch.randn(2, 7, 15)

    def heads(t):
        return t.unflatten(-1, (3, 5)).transpose(1, 2)

    def made(score):
        return score.of_hidden(x, x, torch.empty(0), torch.empty(0), heads)

    network = stirred(scores.QueryNetwork(15, 15))
    q, k = made(network)
    inner, outer, key = (one.weight for one in (network.inner, network.outer, network.key))
    want = x + torch.nn.functional.silu(x @ inner.T) @ outer.T
    assert_close(q, heads(want))
    assert_close(k, heads(x @ key.T))
    usual = 2 * 15 * 15
    assert abs(sum(p.numel() for p in network.parameters()) - usual) <= 15 * 2

    learned = stirred(scores.LearnedQuery(15, 3, 15, 5))
    graph = gf.attention_graph(*made(learned), score=learned)
    want = torch.einsum("hd,bhjd->bhj", learned.query, heads(x @ learned.key.weight.T)) / 5**0.5
    assert_close(graph.to_dense(), want.softmax(-1).unsqueeze(2).expand(2, 3, 7, 7))

    drawn = scores.RandomMaps(2.0, 15, 15, 15)
    graph = gf.attention_graph(*made(drawn), score=drawn)
    want = dots(heads(x @ drawn.maps_q), heads(x @ drawn.maps_k)).softmax(-1)
    assert_close(graph.to_dense(), want)
    assert not list(drawn.parameters()) and len(drawn.state_dict()) == 2


# ---------------------------------------------------------------------- candidates


def allowed(rule, queries, keys=None):
    keys = keys or queries
    q, k = torch.randn(1, 1, queries, 3), torch.randn(1, 1, keys, 3)
    stream = gf.attention_graph(q, k, candidates=rule, executor="stream")
    dense = gf.attention_graph(q, k, candidates=rule, executor="dense")
    assert torch.equal(stream.edge_index, dense.edge_index)
    return dense.unweighted().to_dense()[0, 0].bool()


@pytest.mark.parametrize(
    ("window", "stride", "dilation"),
    [(3, 1, 1), (5, 1, 2), (4, 4, 1), (8, 4, 1), (5, 2, 3), (1, 1, 1)],
)
@pytest.mark.parametrize("shape", [None, (5, 7), (3, 4, 5)])
def test_neighborhood(window, stride, dilation, shape):
    sizes = shape or (23,)
    places = list(itertools.product(*map(range, sizes)))

    def sees(own, other):
        centre = own // stride * stride + stride // 2
        return other in [centre + (m - window // 2) * dilation for m in range(window)]

    want = torch.tensor([[all(map(sees, own, other)) for other in places] for own in places])
    rule = candidates.Neighborhood(window, stride, dilation, shape)
    assert torch.equal(allowed(rule, len(places)), want)
    assert torch.equal(allowed(rule, 4, len(places)), want[-4:])  # the last ones, with a cache


def test_neighborhood_is_the_window_and_the_blocks():
    assert torch.equal(allowed(candidates.Neighborhood(7), 20), allowed(candidates.Window(4), 20))
    block = torch.arange(20) // 5
    assert torch.equal(allowed(candidates.Neighborhood(5, 5), 20), block[:, None] == block)
    halo = allowed(candidates.Neighborhood(9, 5), 20)
    place = torch.arange(20)
    assert torch.equal(halo, (place >= block[:, None] * 5 - 2) & (place < block[:, None] * 5 + 7))


def test_neighborhood_says_what_does_not_fit():
    with pytest.raises(ValueError, match=r"window=\(3, 3\) has 2 numbers and there are 1 axes"):
        candidates.Neighborhood((3, 3))
    with pytest.raises(ValueError, match="has 35 places, and there are 34 senders"):
        allowed(candidates.Neighborhood(3, shape=(5, 7)), 34)


def test_masks_by_name():
    i, j = torch.arange(11)[:, None], torch.arange(11)
    wanted = {
        candidates.First(3): j < 3,
        candidates.PrefixLM(4): (j < 4) | (j <= i),
        candidates.CausalBlocks(4): j // 4 <= i // 4,
        candidates.First(2) | candidates.Window(3): (j < 2) | ((i - j).abs() < 3),
        (candidates.First(2) | candidates.Window(3)) & candidates.Causal(): (
            ((j < 2) | ((i - j).abs() < 3)) & (j <= i)
        ),
    }
    for rule, want in wanted.items():
        assert torch.equal(allowed(rule, 11), want.expand(11, 11)), rule
        assert torch.equal(allowed(rule, 3, 11), want.expand(11, 11)[-3:]), rule
    segments = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3]])
    rule = candidates.SharedQuestion(segments) & candidates.Causal()
    want = ((segments[0] == 0) | (segments[0][:, None] == segments[0])) & (j <= i)
    assert torch.equal(allowed(rule, 11), want)


# ---------------------------------------------------------------------- operators and updates


def test_multi_hop_is_a_polynomial_of_the_matrix():
    operator = stirred(operators.MultiHopOperator(3, num_heads=3))
    dense = torch.rand(2, 3, 7, 7).tril()
    x = torch.randn(2, 3, 7, 5)
    found = operator.on_edges(
        x, x, gf.attention.EdgeMessages(gf.AttentionGraph.from_dense(dense), 3)
    )
    powers = [torch.linalg.matrix_power(dense, k) @ x for k in (1, 2, 3)]
    want = sum(c.view(3, 1, 1) * one for c, one in zip(operator.factors.T, powers, strict=True))
    assert_close(found, want)


def test_projected_self():
    operator = stirred(operators.ProjectedSelfOperator(3))
    own, y = torch.randn(2, 3, 7, 5), torch.randn(2, 3, 7, 5)
    own[0, 0, 0] = 0.0  # what sends nothing has no direction
    found = operator(own, {"sum": y})
    for b, h, i in itertools.product(range(2), range(3), range(7)):
        v, out = own[b, h, i], y[b, h, i]
        along = (out @ v) / (v @ v) * v if v.any() else torch.zeros(5)
        assert_close(found[b, h, i], out - operator.amount[h].tanh() * along)


def test_projected_self_inside_another_operator():
    """GIN on the sum without what lies along the node's own features."""
    operator = stirred(operators.ProjectedSelfOperator(3, inner=operators.GINOperator(3, 5)))
    own, y = torch.randn(2, 3, 7, 5), torch.randn(2, 3, 7, 5)
    along = (y * own).sum(-1, keepdim=True) / own.square().sum(-1, keepdim=True) * own
    rest = y - operator.amount.tanh().view(3, 1, 1) * along
    assert_close(operator(own, {"sum": y}), operator.inner(own, {"sum": rest}))
    with pytest.raises(ValueError, match="'pna' needs more than a sum"):
        operators.ProjectedSelfOperator(inner="pna")


def test_channel_gate():
    update, hidden = updates.ChannelGate(True, 11, 12), torch.randn(2, 7, 11)
    out = torch.randn(2, 3, 7, 4)
    assert_close(update.of_heads(out, hidden), out)  # it starts as nothing
    stirred(update)
    flat = out.transpose(1, 2).flatten(2)
    want = 2 * (hidden @ update.gate.weight.T + update.gate.bias).sigmoid() * flat
    want = want + hidden @ update.shift.weight.T + update.shift.bias
    assert_close(update.of_heads(out, hidden).transpose(1, 2).flatten(2), want)


def test_head_norm():
    update = stirred(updates.HeadNorm(num_heads=3, dim=4))
    out = torch.randn(2, 3, 7, 4)
    out[0, 1, 2] = 0.0  # a node that hears of nobody
    want = torch.zeros_like(out)
    for b, h, i in itertools.product(range(2), range(3), range(7)):
        size = (out[b, h, i].square().mean() + 1e-6).sqrt()
        want[b, h, i] = update.weight[h].detach() * out[b, h, i] / size
    assert_close(update.of_heads(out, torch.randn(2, 7, 12)), want)
    layer = gf.nn.SumAttention(12, 3, head=gf.Head(normalize="identity", update="head_norm"))
    x = torch.randn(2, 7, 12)
    for parameter in (layer.q_proj.weight, layer.k_proj.weight):
        parameter.data *= 10
    assert layer(x).square().mean() < 1.1  # however large the sums are


@pytest.mark.parametrize(
    "value",
    [
        normalizers.Sparsemax(),
        normalizers.Entmax15(),
        normalizers.SoftmaxSink(sink=0.3),
        normalizers.Fourier(2),
        scores.ScalableDot(),
        scores.ALiBi(),
        scores.DistanceBias(8, 5),
        scores.GATv2(activation="tanh"),
        scores.GridBias((1,)),
        normalizers.ReLU(by_count=True),
        scores.Decay(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_law_of_slots(value):
    gf.testing.check_slot(value)


@pytest.mark.parametrize(
    ("slots", "told"),
    [
        ({"score": scores.ALiBi()}, "score='alibi' waits for num_heads"),
        ({"score": scores.GATv2()}, "score='gatv2' waits for num_heads, dim"),
        ({"score": scores.Forgetting()}, "score='forgetting' waits for hidden_size"),
        ({"score": scores.QueryNetwork()}, "score='query_network' waits for hidden_size"),
        ({"normalize": "softmax_sink"}, "normalize='softmax_sink' waits for num_heads"),
        ({"candidates": {"name": "clusters", "num_clusters": 3}}, "candidates='clusters' waits"),
    ],
)
def test_a_value_that_waits_for_a_layer_says_so(slots, told):
    with pytest.raises(ValueError, match=told):
        gf.attention_graph(*qk(), **slots)


def test_forgetting_and_shared_questions_know_where_queries_stand():
    q, k = torch.randn(1, 2, 7, 5), torch.randn(1, 2, 4, 5)
    score = scores.Forgetting(10, 2)
    with pytest.raises(ValueError, match="got 7 queries and 4 keys"):
        gf.attention_graph(q, k, score=score)
    rule = candidates.SharedQuestion(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="got 7 queries and 4 keys"):
        gf.attention_graph(q, k, candidates=rule)


# ---------------------------------------------------------------------- mixtures and messages


def test_mixture_of_operators():
    layer = stirred(
        gf.nn.SumAttention(
            12, 3, head=gf.Head(operator={"name": "mixture", "operators": ["sum", "gin", "sinc"]})
        )
    )
    x, mixture = torch.randn(2, 7, 12), layer.operator
    shares, want = mixture.logits.softmax(0), 0
    assert mixture.reads_edges and mixture.chosen() is mixture.operators[int(shares.argmax())]
    for share, one in zip(shares, mixture.operators, strict=True):
        layer.operator = one
        want = want + share * layer(x)
    layer.operator = mixture
    assert_close(layer(x), want)
    for given, text in [(("sum",), "two or more"), ("sum", "two or more")]:
        with pytest.raises(ValueError, match=text):
            operators.MixtureOperator(given)


@pytest.mark.parametrize("edge_dim", [None, 2])
def test_messages_of_gine(edge_dim):
    layer = stirred(
        gf.nn.SumAttentionConv(5, 12, 3, edge_dim=edge_dim, head=gf.Head(operator="gine"))
    )
    x, ends = torch.randn(7, 5), torch.tensor([[0, 1, 2, 3, 4, 2], [1, 2, 3, 3, 3, 5]])
    attr = None if edge_dim is None else torch.randn(6, 2)
    out, (_, weight) = layer(x, ends, attr, return_attention_weights=True)
    values = layer.v_proj(x).view(7, 3, 4)
    messages = values[ends[0]]
    if attr is not None:
        messages = messages + torch.einsum("ec,hcd->ehd", attr, layer.operator.edge_map)
    want = torch.zeros(7, 3, 4).index_add(0, ends[1], weight.unsqueeze(-1) * messages.relu())
    assert_close(out, want.flatten(1))
    assert torch.autograd.gradcheck(lambda x: layer(x, ends, attr), x.requires_grad_())


def test_features_of_edges_that_nobody_reads_are_refused():
    head = {"score": "echo", "normalize": "identity"}
    with pytest.raises(ValueError, match="edge_dim=2: neither score='echo' nor operator='sinc'"):
        gf.nn.SumAttentionConv(5, 12, 3, edge_dim=2, head=gf.Head(operator="sinc", **head))
    for reads in (
        "gine",
        {"name": "mixture", "operators": ["sum", "gine"]},
        {"name": "rounds", "inner": "gine"},
    ):
        gf.nn.SumAttentionConv(5, 12, 3, edge_dim=2, head=gf.Head(operator=reads, **head))
    with pytest.raises(ValueError, match="edge_dim=-1: operator='gine' has a map of that width"):
        gf.nn.SumAttentionConv(5, 12, 3, edge_dim=-1, head=gf.Head(operator="gine"))


@pytest.mark.parametrize("top", [None, 1, 2])
def test_experts(top):
    update = stirred(updates.Experts(3, top, hidden_size=8, num_heads=6))
    out, hidden = torch.randn(2, 6, 5, 4), torch.randn(2, 5, 8)
    gates = update.linear(hidden).softmax(-1)
    least = gates.sort(-1, descending=True).values[..., (top or 3) - 1, None]
    gates = torch.where(gates >= least, gates, 0.0)
    want = torch.stack([3 * gates[..., h // 2, None] * out[:, h] for h in range(6)], 1)
    assert_close(update.of_heads(out, hidden), want)
    for given, text in [
        ({"experts": 4, "hidden_size": 8, "num_heads": 6}, "does not divide num_heads=6"),
        ({"experts": 2, "top": 3}, "top=3: there are 2 experts"),
    ]:
        with pytest.raises(ValueError, match=text):
            updates.Experts(**given)


def test_paired_difference_is_differential_attention_of_shared_keys():
    layer = gf.nn.SumAttention(
        16, 4, 2, head=gf.Head(update="paired_difference", features="projection")
    )
    layer = stirred(layer)
    x = torch.randn(2, 9, 16)
    split = lambda t: t.unflatten(-1, (-1, 4)).transpose(1, 2)  # noqa: E731
    q, k, v = (split(one(x)) for one in (layer.q_proj, layer.k_proj, layer.v_proj))
    k, v = (one.repeat_interleave(2, 1) for one in (k, v))
    mask = torch.ones(9, 9).tril().bool()
    s = (q @ k.mT / 2).masked_fill(~mask, -torch.inf)
    a = s.softmax(-1)
    amount = layer.update.linear(x).sigmoid().transpose(1, 2).unsqueeze(-1)
    want = (a - amount * a[:, [1, 0, 3, 2]]) @ v
    assert_close(layer(x), want.transpose(1, 2).flatten(2))
    with pytest.raises(ValueError, match="num_heads is 3: give an even number"):
        gf.nn.SumAttention(15, 3, head=gf.Head(update="paired_difference"))
