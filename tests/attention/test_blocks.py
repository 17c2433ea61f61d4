"""Blocks among the senders: beside a naive twin, and the laws, with any number of levels."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention.candidates import (
    Blocks,
    Clusters,
    First,
    Packed,
    PerHead,
    SharedQuestion,
    WeighedBlocks,
    Window,
)
from graphformer.attention.executors import flash
from graphformer.attention.problem import Problem
from graphformer.models.language.outputs import CACHE
from tests.attention.test_methods import stirred

pytestmark = pytest.mark.usefixtures("float64")

RULES = {
    "one level": Blocks(4),
    "two levels": Blocks((3, 2)),
    "three levels": Blocks((2, 2, 2)),
    "weighed": WeighedBlocks((3, 2)),
    "sinks": Blocks(5) | First(2),
    "window": Blocks((3, 2)) | Window(4),
    "per head": PerHead((Blocks(3), Window(4), Blocks(3), WeighedBlocks((2, 3)))),
    "clusters beside": PerHead((Blocks(3), Blocks(3), Clusters(2), Clusters(2))),
}
LEVELS = ["one level", "two levels", "three levels", "weighed"]
# First counts the tokens of a row, also padding and other texts
OF_A_TEXT = [name for name in RULES if name != "sinks"]
N = 29


def layer_of(rule, operator="gin", **slots):
    torch.manual_seed(0)
    kind = {"gin": gf.nn.GINAttention, "sum": gf.nn.SumAttention, "pna": gf.nn.PNAAttention}
    return stirred(kind[operator](16, 4, 2, head=gf.Head(candidates=rule, **slots)))


def states(length=N, batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, length, 16)


def model_of(rule, more=None, **settings):
    torch.manual_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=settings.pop("intermediate_size", 14),
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head=gf.Head(candidates=rule, **(more or {})),
        **settings,
    )
    return stirred(gf.GraphformerForCausalLM(config))


# ---------------------------------------------------------------------- the formula


def parts_of(sizes, t, ids=None):
    """The tokens and the blocks that token t sees, each as the list of its tokens."""
    if ids is not None:  # one level of any lengths
        starts = [j for j in range(t + 1) if j == 0 or ids[j] != ids[j - 1]]
        ends = [*starts[1:], t + 1]
        *finished, own = [list(range(*one)) for one in zip(starts, ends, strict=True)]
        return [[j] for j in own] + finished
    widths = [math.prod(sizes[: level + 1]) for level in range(len(sizes))]
    seen = [[j] for j in range(t // widths[0] * widths[0], t + 1)]
    for level, width in enumerate(widths):
        above = t // widths[level + 1] * widths[level + 1] if level + 1 < len(widths) else 0
        seen += [list(range(c, c + width)) for c in range(above, t // width * width, width)]
    return seen


def twin(q, k, x, sizes, ids=None, vector=None):
    """Plain attention of each token over the parts' mean keys and mean features."""
    out = torch.zeros(*q.shape[:3], x.shape[-1])
    k, x = (one.repeat_interleave(q.shape[1] // one.shape[1], dim=1) for one in (k, x))
    for b, h, t in itertools.product(*map(range, q.shape[:3])):
        means = []
        for part in parts_of(sizes, t, None if ids is None else ids[b].tolist()):
            share = torch.full((len(part),), 1 / len(part))
            if vector is not None:
                group = q.shape[1] // len(vector)
                first = h // group * group
                shared = x[b, first : first + group, part].mean(0)
                share = (shared @ vector[h // group]).softmax(0)
            means.append((share @ k[b, h, part], share @ x[b, h, part]))
        keys, features = (torch.stack(one) for one in zip(*means, strict=True))
        out[b, h, t] = (keys @ q[b, h, t] / q.shape[-1] ** 0.5).softmax(0) @ features
    return out


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("operator", ["gin", "sum"])
def test_naive_twin(name, operator):
    rule, x = RULES[name], states()
    layer = layer_of(rule, operator)
    rule, x = layer.candidates, x.requires_grad_()
    values = layer._heads(x if layer.v_proj is None else layer.v_proj(x))
    q, k = layer._heads(layer.q_proj(x)), layer._heads(layer.k_proj(x))
    if layer.sharpening is not None:
        q = q * layer.sharpening
    vector = getattr(rule, "vector", None)
    summed = twin(q, k, values, rule.sizes, vector=vector)
    own = values.repeat_interleave(4 // values.shape[1], dim=1)
    want = layer._joined(layer._operated(own, {"sum": summed}), x)
    found = layer(x)
    assert_close(found, want)
    inputs = (x, *layer.parameters())
    direction = torch.randn_like(found)
    for one, other in zip(
        torch.autograd.grad((found * direction).sum(), inputs),
        torch.autograd.grad((want * direction).sum(), inputs),
        strict=True,
    ):
        assert_close(one, other)


@pytest.mark.parametrize("name", LEVELS)
def test_each_earlier_token_is_there_once(name):
    rule = RULES[name]
    for t in range(N):
        assert sorted(itertools.chain(*parts_of(rule.sizes, t))) == list(range(t + 1))
    _, graph = layer_of(rule)(states(), output_graph=True)
    assert graph.batch_shape == (2, 4) and graph.num_receivers == N
    seen = graph.unweighted().to_dense()[0, 0].sum(-1)
    assert seen.tolist() == [len(parts_of(rule.sizes, t)) for t in range(N)]
    assert_close(graph.to_dense().sum(-1), torch.ones(2, 4, N))


def test_the_graph_has_tokens_first_and_then_blocks():
    layer, x = layer_of(Blocks((3, 2)), "sum"), states()
    out, graph = layer(x, output_graph=True)
    values = layer._heads(layer.v_proj(x))
    fine = values[:, :, :27].unflatten(2, (9, 3)).mean(3)
    coarse = values[:, :, :24].unflatten(2, (4, 6)).mean(3)
    senders = torch.cat((values, fine, coarse), 2).repeat_interleave(2, dim=1)
    assert graph.num_senders == senders.shape[2]
    assert_close(layer.o_proj((graph.to_dense() @ senders).transpose(1, 2).flatten(2)), out)


@pytest.mark.parametrize("size", [1, 29, 30, 1000, (29, 2), (1, 1)])
@pytest.mark.parametrize("operator", ["gin", "sum"])
def test_blocks_of_one_token_or_of_all_are_plain_causal_attention(size, operator):
    assert_close(layer_of(Blocks(size), operator)(states()), layer_of(None, operator)(states()))


# ---------------------------------------------------------------------- the laws


@pytest.mark.parametrize("name", RULES)
def test_executors_agree_and_the_laws_hold(name):
    layer, x = layer_of(RULES[name]), states()
    want = layer(x)
    for executor in ("flash", "dense", "stream"):
        layer.executor = executor
        assert_close(layer(x), want)
    layer.executor = "auto"
    gf.testing.check_causal(layer, x)
    gf.testing.check_prefix(layer, x)
    gf.testing.check_gradients(layer.train(), x)


@pytest.mark.parametrize("name", RULES)
def test_no_gradient_to_what_comes_later(name):
    layer, x = layer_of(RULES[name]), states(17).requires_grad_()
    out = layer(x)
    for t in range(17):
        (grad,) = torch.autograd.grad(out[:, t].sum(), x, retain_graph=True)
        assert not grad[:, t + 1 :].any()
        assert name == "clusters beside" or grad[:, : t + 1].any(-1).all()


@pytest.mark.parametrize("name", OF_A_TEXT)
@pytest.mark.parametrize("slots", [{}, {"sparsify": gf.Threshold(0.05)}], ids=["all", "cut"])
def test_padding_changes_nothing(name, slots):
    layer, x = layer_of(RULES[name], **slots), states()
    want = layer(x[:, 5:-3])
    keep = torch.zeros(2, N, dtype=torch.long)
    keep[:, 5:-3] = 1
    assert_close(layer(x, keep)[:, 5:-3], want)
    _, graph = layer(x, keep, output_graph=True)
    assert not (torch.isin(graph.senders % graph.num_senders, torch.arange(5))).any()


@pytest.mark.parametrize("name", OF_A_TEXT)
def test_packed_texts_do_not_see_each_other(name):
    layer, x = layer_of(RULES[name]), states()
    found = layer(x, candidates=Packed(torch.arange(N).expand(2, N) // 11))
    for first in (0, 11, 22):
        assert_close(found[:, first : first + 11], layer(x[:, first : first + 11]))


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_in_the_language_model(name, tmp_path):
    model, ids = model_of(RULES[name]), torch.randint(11, (2, 19))
    gf.testing.check_cache(model, ids, prefill=(1, 11), chunks=(1, 4))
    given = {"max_new_tokens": 7, "do_sample": False}
    text = model.generate(ids, **given)
    assert torch.equal(text, model.generate(ids, use_cache=False, **given))
    keep = torch.ones_like(ids)
    keep[1, :5] = 0
    if name in OF_A_TEXT:
        padded = model.generate(ids, attention_mask=keep, **given)
        assert torch.equal(padded[1:, 5:], model.generate(ids[1:, 5:], **given))
    model.save_pretrained(tmp_path)
    loaded = gf.GraphformerForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert loaded.config.head == gf.Head(candidates=RULES[name]).spec()
    assert_close(loaded(ids).logits, model(ids).logits)
    model.train()(ids, labels=ids).loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.model.layers[0].parameters())


@pytest.mark.parametrize("name", ["two levels", "weighed", "window"])
@pytest.mark.parametrize("padded", [False, True])
def test_gradcheck(name, padded):
    layer, x = layer_of(RULES[name], score="alibi"), states(11, 1).requires_grad_()
    keep = torch.arange(11).unsqueeze(0) > 2 if padded else None
    assert torch.autograd.gradcheck(lambda x: layer(x, keep), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, keep), x, fast_mode=True)


@pytest.mark.parametrize("operator", ["pna", "gin"])
@pytest.mark.parametrize("score", ["dot", "differential", "pairwise", "gatv2"])
def test_slots_compose(operator, score):
    layer, x = layer_of(RULES["weighed"], operator, score=score, sparsify=gf.TopK(3)), states(17)
    out, graph = layer(x, output_graph=True)
    assert int(graph.in_degree().max()) <= 3 * (2 if score == "differential" else 1)
    for executor in ("dense", "stream"):
        layer.executor = executor
        assert_close(layer(x), out)
    gf.testing.check_prefix(layer, x)


OPERATORS = ["multi_hop", "sinc", {"name": "rounds", "inner": "gin", "rounds": 2}, "merged_heads"]


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_that_read_edges_and_take_steps(operator):
    model = model_of(RULES["weighed"], more={"operator": operator})
    layer, x = model.model.layers[0].self_attn, states(17)
    gf.testing.check_prefix(layer, x)
    gf.testing.check_causal(layer, x)
    gf.testing.check_cache(model, torch.randint(11, (2, 13)), prefill=(1, 7), chunks=(2,))


def test_the_second_step_reads_the_means_of_the_first():
    x = states()
    head = gf.Head(candidates=Blocks((3, 2)), operator={"name": "multi_hop", "hops": 2})
    layer = stirred(gf.nn.SumAttention(16, 4, 2, head=head))
    out, graph = layer(x, output_graph=True)
    values = layer._heads(layer.v_proj(x)).repeat_interleave(2, dim=1)
    made, step = torch.zeros_like(values), values
    for factor in layer.operator.factors.unbind(1):
        fine = step[:, :, :27].unflatten(2, (9, 3)).mean(3)
        coarse = step[:, :, :24].unflatten(2, (4, 6)).mean(3)
        step = graph.to_dense() @ torch.cat((step, fine, coarse), 2)
        made = made + factor.view(-1, 1, 1) * step
    assert_close(out, layer.o_proj(made.transpose(1, 2).flatten(2)))


def test_relations_stay_among_tokens():
    x, head = states(), gf.Head(candidates=Blocks((3, 2)))
    layer = stirred(gf.nn.SumAttention(16, 4, 2, head=head, relations=[gf.Chain(2)]))
    found, values = layer(x), layer._heads(layer.v_proj(x))
    sent = layer.relations(values, layer._links((2, N, N), x.device, None, None, None))
    layer.relations = None
    assert_close(found, layer(x) + layer.o_proj(sent.transpose(1, 2).flatten(2)))
    model = model_of(Blocks((3, 2)), relations=[gf.Chain(2)])
    gf.testing.check_cache(model, torch.randint(11, (2, 13)), prefill=(7,), chunks=(2,))


def test_a_block_stands_at_its_last_token():
    layer = layer_of(Blocks((3, 2)), score={"name": "alibi"})
    seen = {}

    class Spy(type(layer.score_slot)):
        def logits(self, q, k, pairs):
            seen["distance"] = pairs.distance.expand(pairs.shape)
            return super().logits(q, k, pairs)

    layer.executor, x = "dense", states(13)
    layer.score_slot.__class__ = Spy
    layer(x)
    last = torch.tensor([*range(13), 2, 5, 8, 11, 5, 11])
    want = torch.arange(13).unsqueeze(1) - last
    assert torch.equal(seen["distance"][0, 0], want)


# ---------------------------------------------------------------------- blocks of any lengths


IDS = torch.tensor([[0] * 3 + [1] + [2] * 5 + [3] * 2 + [9] * 18, [4] + [5] * 11 + [4] * 17])


def test_given_blocks_beside_the_twin():
    layer, x = layer_of(Blocks(None), "sum"), states()
    found = layer(x, block_ids=IDS)
    values = layer._heads(layer.v_proj(x))
    q, k = layer._heads(layer.q_proj(x)), layer._heads(layer.k_proj(x))
    want = layer.o_proj(twin(q, k, values, (None,), IDS).transpose(1, 2).flatten(2))
    assert_close(found, want)
    # numbers say where blocks begin, and nothing else
    assert torch.equal(layer(x, block_ids=7 - IDS), found)
    for n in (3, 4, 12, 20):
        assert_close(layer(x[:, :n], block_ids=IDS[:, :n]), found[:, :n])


@pytest.mark.parametrize("sizes", [(None,), (None, 2), (4, None), (None, None)])
@pytest.mark.parametrize("kind", [Blocks, WeighedBlocks])
def test_given_blocks_and_levels(sizes, kind):
    sentences = torch.arange(N).expand(2, N) // 13
    ids = torch.stack((IDS, sentences), -1) if sizes == (None, None) else IDS
    layer, x = layer_of(kind(sizes)), states().requires_grad_()
    found = layer(x, block_ids=ids)
    keep = torch.cat((torch.zeros(2, 3), torch.ones(2, N), torch.zeros(2, 2)), 1).long()
    wider = torch.randn(2, N + 5, 16)
    wider[:, 3:-2] = x.detach()
    more = torch.cat((torch.full_like(ids[:, :3], 77), ids, torch.full_like(ids[:, :2], 78)), 1)
    assert_close(layer(wider, keep, block_ids=more)[:, 3:-2], found)
    for t in range(0, N, 5):
        assert_close(layer(x[:, : t + 1], block_ids=ids[:, : t + 1]), found[:, : t + 1])
        (grad,) = torch.autograd.grad(found[:, t].sum(), x, retain_graph=True)
        assert not grad[:, t + 1 :].any() and grad[:, : t + 1].any(-1).all()


def test_fixed_sizes_may_be_given_too():
    x, ids = states(), torch.arange(N).expand(2, N)
    want = layer_of(Blocks((3, 2)))(x)
    assert_close(layer_of(Blocks((None, 2)))(x, block_ids=ids // 3), want)
    both = torch.stack((ids // 3, ids // 6), -1)
    assert_close(layer_of(Blocks((None, None)))(x, block_ids=both), want)
    # a block inside another ends where that ends
    assert_close(
        layer_of(Blocks((4, None)))(x, block_ids=ids // 2)[:, :4],
        layer_of(Blocks((2, 1)))(x)[:, :4],
    )


def test_given_blocks_in_the_language_model():
    model, ids = model_of(Blocks(None)), torch.randint(11, (2, N))
    want = model(ids, block_ids=IDS).logits
    cache = None
    for start, stop in ((0, 11), (11, 12), (12, 20), (20, N)):
        given = {"block_ids": IDS[:, :stop], CACHE: cache}
        made = model(ids[:, start:stop], use_cache=True, **given)
        cache = made[CACHE]
        assert_close(made.logits, want[:, start:stop])
    with pytest.raises(ValueError, match=r"cannot know where the blocks of new tokens"):
        model.generate(ids, block_ids=IDS, max_new_tokens=2)
    with pytest.raises(ValueError, match=r"sizes=None: .* model\(\.\.\., block_ids=ids\)"):
        model(ids)
    with pytest.raises(ValueError, match="no layer has blocks without a size"):
        model_of(Blocks(4))(ids, block_ids=IDS)


# ---------------------------------------------------------------------- cost


@pytest.mark.parametrize("rule", [Blocks(8), Blocks((4, 4)), Blocks(8) | Window(8)])
def test_no_matrix_of_all_pairs(rule, monkeypatch):
    monkeypatch.setattr(flash, "ROWS", 16)
    monkeypatch.setattr(Problem, "allowed", lambda self: pytest.fail("a mask of all pairs"))
    seen = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def counted(q, k, x, **given):
        seen.append(q.shape[2] * k.shape[2])
        return kernel(q, k, x, **given)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    layer, x = layer_of(rule, "sum"), states(128, 1)
    with torch.no_grad():
        layer(x)
    # a stretch of 16 rows sees its own tokens, two blocks of tokens more, and blocks
    assert sum(seen) <= 128 * (16 + 16 + 128 // 8)


CUT = {"sparsify": gf.Threshold(0.1)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("two levels", {}),
        ("window", CUT),
        *(
            pytest.param(*one, marks=pytest.mark.long)
            for one in (
                ("two levels", CUT),
                ("window", {}),
                ("weighed", {}),
                ("weighed", CUT),
                ("per head", {}),
                ("per head", CUT),
            )
        ),
    ],
)
def test_compiled_as_one_graph(name, slots):
    torch._dynamo.reset()
    layer, x = layer_of(RULES[name], **slots), states(13).requires_grad_()
    keep = torch.arange(13).expand(2, 13) > torch.tensor([[-1], [3]])
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for mask in (None, keep):
        found, want = compiled(x, mask), layer(x, mask)
        assert_close(found, want)
        grads = [torch.autograd.grad(one.square().sum(), x)[0] for one in (found, want)]
        assert_close(*grads)


# ---------------------------------------------------------------------- what is refused


def test_what_has_no_blocks_is_refused():
    head = gf.Head(candidates=Blocks(4))
    with pytest.raises(ValueError, match=r"Blocks\(sizes=\(4,\)\) add blocks .* GraphTransformer"):
        gf.nn.GINAttentionConv(5, 12, 4, head=head)
    with pytest.raises(ValueError, match="the nodes of a graph have no order"):
        gf.GraphTransformer(5, 2, 12, num_layers=1, num_heads=2, head=head)
    q = torch.randn(1, 2, 5, 3)
    for rule in (Blocks(4), PerHead((Blocks(4), Window(3)))):
        with pytest.raises(ValueError, match=r"candidates='blocks' add .* give them to GINAtt"):
            gf.attention_graph(q, q, candidates=rule, is_causal=True)
    with pytest.raises(ValueError, match=r"is_causal=False has no before and after"):
        gf.nn.GINAttention(16, 4, is_causal=False, head=head)
    with pytest.raises(ValueError, match=r"score='forgetting' adds up along a row"):
        layer_of(Blocks(4), score="forgetting")
    extra = gf.attention.sparsifiers.ExtraEdges(Window(3), keep=gf.Threshold(0.1))
    with pytest.raises(ValueError, match=r"asks a rule about places of tokens, and candidates="):
        layer_of(Blocks(4), sparsify=extra)
    with pytest.raises(ValueError, match=r"feed_forward='halfway' sends messages over the heads"):
        model_of(Blocks(4), feed_forward="halfway", intermediate_size=16)
    with pytest.raises(ValueError, match=r"output_graphs=True\)\.graphs"):
        gf.inspect.graphs(model_of(Blocks(4)), input_ids=torch.randint(11, (1, 9)))


def test_what_does_not_fit_is_refused():
    layer, x = layer_of(Blocks(4)), states()
    with pytest.raises(ValueError, match=r"attention_mask is of pairs, \[1, 1, 29, 29\]"):
        layer(x, torch.ones(1, 1, N, N, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"attention_mask must have shape \[2, 29\]"):
        layer(x, torch.ones(2, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="says nothing of blocks: beside Blocks stand"):
        layer(x, candidates=Window(3))
    with pytest.raises(ValueError, match="says nothing of blocks: beside Blocks stand"):
        layer(x, candidates=SharedQuestion(torch.zeros(2, N, dtype=torch.long)))
    with pytest.raises(ValueError, match=r"no size of Blocks is None"):
        layer(x, block_ids=IDS)
    with pytest.raises(ValueError, match="the layer has no blocks"):
        layer_of(None)(x, block_ids=IDS)
    given = layer_of(Blocks(None))
    with pytest.raises(ValueError, match=r"block_ids must have shape \[2, 29\] .* got \[2, 28\]"):
        given(x, block_ids=IDS[:, 1:])
    with pytest.raises(TypeError, match="block_ids must hold integers"):
        given(x, block_ids=IDS.double())
    with pytest.raises(ValueError, match=r"shape \[2, 29, 2\] .* levels with sizes=None"):
        layer_of(Blocks((None, None)))(x, block_ids=IDS)
    with pytest.raises(ValueError, match="sizes is empty"):
        Blocks(())
    for wrong in (0, -3):
        with pytest.raises(ValueError, match="sizes"):
            Blocks(wrong)
    with pytest.raises(TypeError, match="sizes"):
        Blocks((4, 2.5))
