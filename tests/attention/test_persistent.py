"""Persistent senders: beside a naive twin, and the laws, in causal layers and others."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

import graphformer as gf
from graphformer.attention.candidates import (
    All,
    Blocks,
    Causal,
    Clusters,
    Indexer,
    Packed,
    PerHead,
    Persistent,
    Window,
)
from graphformer.attention.executors import flash
from tests.attention.test_methods import stirred

pytestmark = pytest.mark.usefixtures("float64")

RULES = {
    "alone": Persistent(3),
    "beside all": All() | Persistent(3),
    "a sink": Window(4) | Persistent(1),
    "magnets": All() | Persistent(2, sends=False),
    "blocks": Blocks((3, 2)) | Persistent(2),
    "some heads": PerHead((All() | Persistent(2), Window(3), Persistent(3), Causal())),
    "clusters": Clusters(2) | Persistent(2),
    "indexer": Indexer(3, 2, 3) | Persistent(2),
}
N = 17


def layer_of(rule, operator="gin", **more):
    torch.manual_seed(0)
    kind = {"gin": gf.nn.GINAttention, "sum": gf.nn.SumAttention, "pna": gf.nn.PNAAttention}
    slots = {name: more.pop(name) for name in ("score", "sparsify", "normalize") if name in more}
    head = gf.Head(candidates=rule, **slots)
    return stirred(kind[operator](16, 4, 2, head=head, **more))


def states(length=N, batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, length, 16)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("name", ["alone", "beside all", "a sink", "magnets"])
def test_naive_twin(name, is_causal):
    layer, x = layer_of(RULES[name], "sum", is_causal=is_causal), states().requires_grad_()
    rule = layer.candidates if name == "alone" else layer.candidates.second
    seen = torch.ones(N, N).bool()
    if is_causal:
        seen = seen.tril()
    if name == "a sink":
        seen &= (torch.arange(N).unsqueeze(1) - torch.arange(N)).abs() < 4
    if name == "alone":
        seen &= False
    q, k = layer._heads(layer.q_proj(x)), layer._heads(layer.k_proj(x))
    values = layer._heads(layer.v_proj(x))
    features = torch.zeros_like(rule.keys) if rule.values is None else rule.values
    keys, sent = (
        torch.cat((one, own.expand(2, -1, -1, -1)), 2).repeat_interleave(2, dim=1)
        for one, own in ((k, rule.keys), (values, features))
    )
    logits = q @ keys.mT / 2 * (1.0 if layer.sharpening is None else layer.sharpening)
    mask = torch.cat((seen, torch.ones(N, rule.number).bool()), 1)
    weights = logits.masked_fill(~mask, -torch.inf).softmax(-1)
    want = layer.o_proj((weights @ sent).transpose(1, 2).flatten(2))
    found, graph = layer(x, output_graph=True)
    assert_close(found, want)
    assert_close(layer(x), want)
    assert graph.num_senders == N + rule.number
    assert_close(graph.to_dense(), weights)
    inputs = (x, *layer.parameters())
    direction = torch.randn_like(found)
    mine, theirs = (
        torch.autograd.grad((one * direction).sum(), inputs, allow_unused=True)
        for one in (found, want)
    )
    for one, other in zip(mine, theirs, strict=True):
        assert_close(one, torch.zeros_like(one) if other is None else other)


@pytest.mark.parametrize("name", RULES)
def test_the_laws(name):
    layer, x = layer_of(RULES[name]), states()
    want = layer(x)
    for executor in ("flash", "dense", "stream"):
        layer.executor = executor
        assert_close(layer(x), want)
    layer.executor = "auto"
    gf.testing.check_causal(layer, x)
    gf.testing.check_prefix(layer, x)
    keep = torch.zeros(2, N, dtype=torch.long)
    keep[:, 4:-3] = 1
    assert_close(layer(x, keep)[:, 4:-3], layer(x[:, 4:-3]))
    packed = layer(x, candidates=Packed(torch.arange(N).expand(2, N) // 6))
    assert_close(packed[:, 6:12], layer(x[:, 6:12]))
    own_loss = ("query.weight", "key.weight", "gate.weight")
    ignored = {"indexer": own_loss, "alone": ("k_proj.weight",)}
    gf.testing.check_gradients(layer.train(), x, ignore=ignored.get(name, ()))


@pytest.mark.parametrize("name", RULES)
def test_in_the_language_model(name, tmp_path):
    torch.manual_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=14,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head=gf.Head(candidates=RULES[name]),
    )
    model, ids = stirred(gf.GraphformerForCausalLM(config)), torch.randint(11, (2, 13))
    gf.testing.check_cache(model, ids, prefill=(1, 7), chunks=(1, 4))
    keep = torch.ones_like(ids)
    keep[1, :5] = 0
    given = {"max_new_tokens": 4, "do_sample": False}
    padded = model.generate(ids, attention_mask=keep, **given)
    assert torch.equal(padded[1:, 5:], model.generate(ids[1:, 5:], **given))
    model.save_pretrained(tmp_path)
    loaded = gf.GraphformerForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert_close(loaded(ids).logits, model(ids).logits)
    fresh = gf.GraphformerForCausalLM(config)
    drawn = [one for n, one in fresh.named_parameters() if n.endswith((".keys", ".values"))]
    assert all(one.std() > 0.1 for one in drawn)


@pytest.mark.parametrize("operator", ["multi_hop", {"name": "rounds", "inner": "gin", "rounds": 2}])
def test_further_steps_read_the_same_features(operator):
    head = gf.Head(candidates=All() | Persistent(2), operator=operator)
    layer, x = stirred(gf.nn.SumAttention(16, 4, 2, head=head)), states()
    out, graph = layer(x, output_graph=True)
    gf.testing.check_prefix(layer, x)
    if operator != "multi_hop":
        return
    values = layer._heads(layer.v_proj(x)).repeat_interleave(2, dim=1)
    own = layer.candidates.second.values.expand(2, -1, -1, -1).repeat_interleave(2, dim=1)
    made, step = torch.zeros_like(values), values
    for factor in layer.operator.factors.unbind(1):
        step = graph.to_dense() @ torch.cat((step, own), 2)
        made = made + factor.view(-1, 1, 1) * step
    assert_close(out, layer.o_proj(made.transpose(1, 2).flatten(2)))


def test_they_stand_nowhere():
    """To a score of distances they are as near as can be, wherever the receiver stands."""
    layer = layer_of(All() | Persistent(2), "sum", score="alibi")
    with torch.no_grad():
        layer.candidates.second.keys.zero_()
        layer.q_proj.weight.zero_()
    weights = layer(states(), output_graph=True)[1].to_dense()
    assert_close(
        weights[..., N:], weights.diagonal(dim1=-2, dim2=-1)[..., None].expand(-1, -1, -1, 2)
    )


def test_masks_of_pairs_are_of_tokens():
    layer, x = layer_of(All() | Persistent(2), is_causal=False), states()
    pairs = torch.rand(2, 1, N, N) < 0.3
    _, graph = layer(x, pairs, output_graph=True)
    seen = graph.unweighted().to_dense().bool()
    assert torch.equal(seen[..., :N], pairs.expand(-1, 4, -1, -1)) and seen[..., N:].all()


@pytest.mark.parametrize("rule", [All() | Persistent(3), Persistent(2) | All() | Persistent(1)])
@pytest.mark.parametrize("is_causal", [True, False])
def test_no_mask_of_all_pairs_is_made(rule, is_causal, monkeypatch):
    """The kernel's own triangle, or nothing, limits the rows; a step of decoding needs neither."""
    seen, kernel = [], flash.F.scaled_dot_product_attention

    def watched(q, k, x, **more):
        seen.append((more.get("attn_mask"), more.get("is_causal", False)))
        return kernel(q, k, x, **more)

    monkeypatch.setattr(flash.F, "scaled_dot_product_attention", watched)
    layer, x = layer_of(rule, "sum", is_causal=is_causal, layer_idx=0), states()
    assert "executor flash" in str(gf.explain(layer, x))
    assert seen == [(None, is_causal)]
    layer.executor = "dense"
    want = layer(x)
    layer.executor = "flash"
    assert_close(layer(x), want)
    seen.clear()
    cache, found = DynamicCache(), []
    for part in (x[:, :-1], x[:, -1:]):
        found.append(layer(part, past_key_values=cache))
    assert seen == [(None, is_causal), (None, False)]
    if is_causal:
        assert_close(torch.cat(found, 1), want)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_the_rows_before_the_tokens_do_nothing(dropout):
    """Nor have they a gradient; where all weights are dropped nothing is left."""
    layer, x = layer_of(All() | Persistent(3), "sum", attention_dropout=dropout), states()
    x.requires_grad_()
    out = layer.train()(x)
    assert out.shape == x.shape
    (grad,) = torch.autograd.grad(out[:, :5].sum(), x)
    assert not grad[:, 5:].any() and bool(grad[:, :5].any()) == (dropout == 0)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"candidates='persistent' has keys of 2 x 4 channels"):
        layer_of(Persistent(2), score="differential")(states())
    with pytest.raises(ValueError, match=r"add senders that are none to it: take another score"):
        layer_of(Persistent(2), score="forgetting")
    with pytest.raises(ValueError, match=r"add persistent senders .*virtual_nodes"):
        gf.nn.GINAttentionConv(5, 12, 4, head=gf.Head(candidates=Persistent(2)))
    with pytest.raises(ValueError, match="add senders that are no tokens"):
        gf.attention_graph(*torch.randn(2, 1, 2, 5, 4), candidates=Persistent(2, True, 2, 4))
    with pytest.raises(ValueError, match="block_ids are given"):
        layer_of(Persistent(2))(states(), block_ids=torch.zeros(2, N, dtype=torch.long))
    with pytest.raises(ValueError, match="number"):
        Persistent(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "head",
    [
        {"candidates": {"name": "indexer", "k": 3}},
        {"candidates": Window(3) | Persistent(2), "sparsify": gf.Threshold(0.1)},
    ],
    ids=["indexer", "persistent"],
)
def test_compiled_and_exported(head):
    layer, x = gf.nn.SumAttention(12, 4, head=gf.Head(**head)).eval(), torch.randn(2, 9, 12)
    want = layer(x)
    assert_close(torch.compile(layer, backend="aot_eager")(x), want)
    assert_close(torch.export.export(layer, (x,)).module()(x), want)
