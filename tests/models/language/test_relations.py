"""Relations in layers on tokens and in the language model: the laws, the cache, saving, compiling,
what is refused.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.cache_utils import DynamicCache, StaticCache

import graphformer as gf
from graphformer.attention import Packed
from graphformer.nn import GINAttention, PNAAttention, RelationMessages, SumAttention
from graphformer.testing import (
    check_batch_independence,
    check_cache,
    check_causal,
    check_finite,
    check_gradients,
    check_packing,
    check_padding,
    check_prefix,
    positions_of,
    token_ids,
)

pytestmark = pytest.mark.usefixtures("float64")

VOCAB = 5
IDS = token_ids(VOCAB)  # [2, 11]
SEVERAL = (gf.Chain(3), gf.Repeats(1), gf.Repeats(2, "mean"), gf.Repeats(1, "mean"))
KINDS: dict[str, dict[str, Any]] = {
    "sum": {"operator": "sum"},
    "gin": {"operator": "gin"},
    "pna grouped threshold": {"operator": "pna", "num_key_value_heads": 1, "threshold": 0.15},
    "sum grouped": {"operator": "sum", "num_key_value_heads": 1},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str = "gin", relations: Any = SEVERAL, drawn: bool = True) -> Any:
    """A model whose relations say something, unless they are left as they start."""
    torch.manual_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=VOCAB,
        hidden_size=30,
        intermediate_size=23,
        num_hidden_layers=2,
        num_attention_heads=3,
        initializer_range=0.3,
        relations=relations,
        **KINDS[kind],
    )
    model = gf.GraphformerForCausalLM(config).eval()
    if drawn:
        drawn_weights(model)
    return model


def drawn_weights(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, RelationMessages):
            nn.init.normal_(module.weight)


# ---------------------------------------------------------------------- what a relation adds


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fresh_model_is_the_model_without(kind: str, dtype: torch.dtype) -> None:
    plain, fresh = make(kind, None).to(dtype), make(kind, drawn=False).to(dtype)
    before = plain.state_dict()
    after = fresh.state_dict()
    added = set(after) - set(before)
    assert {name.split("self_attn.")[1] for name in added} == {"relations.weight"}
    assert [name for name in after if name not in added] == list(before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(fresh(IDS).logits, plain(IDS).logits)
    drawn_weights(fresh)
    assert (fresh(IDS).logits - plain(IDS).logits).abs().max() > 0.01


def test_a_chain_is_a_causal_convolution_of_what_the_heads_send() -> None:
    torch.manual_seed(0)
    layer = SumAttention(30, 3, 1, relations=gf.Chain(3))
    plain = SumAttention(30, 3, 1)
    plain.load_state_dict(layer.state_dict(), strict=False)
    drawn_weights(layer)
    x = torch.randn(2, 11, 30)
    sent = layer.v_proj(x).repeat(1, 1, 3)  # one key head for all three
    padded = torch.nn.functional.pad(sent.transpose(1, 2), (3, 0))
    kernel = torch.cat((layer.relations.weight.flip(0), torch.zeros(1, 1, 30))).permute(2, 1, 0)
    moved = torch.nn.functional.conv1d(padded, kernel, groups=30).transpose(1, 2)
    want = plain(x) + torch.nn.functional.linear(moved, layer.o_proj.weight)
    assert_close(layer(x), want)


def test_gin_gets_messages_after_its_mlp() -> None:
    layer = GINAttention(30, 3, relations=[gf.Repeats(1)])
    plain = GINAttention(30, 3)
    plain.load_state_dict(layer.state_dict(), strict=False)
    drawn_weights(layer)
    x = torch.randn(1, 4, 30)
    out = layer(x, input_ids=torch.tensor([[0, 1, 0, 2]]))
    want = plain(x)
    want[:, 2] += layer.relations.weight[0] * x[:, 1]
    assert_close(out, want)


# ---------------------------------------------------------------------- laws


@pytest.mark.slow
@every_kind
def test_laws(kind: str) -> None:
    model = make(kind)
    check_causal(model, IDS, vocab_size=VOCAB, num_positions=3)
    check_prefix(model, IDS)
    check_batch_independence(model, IDS, vocab_size=VOCAB)
    check_padding(
        lambda ids, keep: model(ids, attention_mask=keep, position_ids=positions_of(keep)),
        IDS,
        vocab_size=VOCAB,
    )
    texts = [IDS[0, :5], IDS[1, :7], IDS[0, 3:]]
    check_packing(lambda ids, positions: model(ids, position_ids=positions), texts, alone=model)
    check_cache(model, IDS)


def test_a_mask_of_pairs_holds_for_relations_too() -> None:
    model = make("sum")
    texts = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2]]).expand(2, -1)
    pairs = (texts[:, None, :, None] == texts[:, None, None, :]).expand(2, 1, 11, 11)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2]])
    got = model(IDS, attention_mask=pairs, position_ids=positions).logits
    assert_close(got, model(IDS, position_ids=positions).logits)
    layer = SumAttention(30, 3, relations=SEVERAL)
    drawn_weights(layer)
    x = torch.randn(2, 11, 30)
    got = layer(x, candidates=Packed(texts), input_ids=IDS)
    assert_close(got, layer(x, pairs, input_ids=IDS))
    assert not torch.equal(got, layer(x, input_ids=IDS))


@every_kind
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    check_gradients(make(kind, drawn=False).train(), loss=lambda m: m(IDS, labels=IDS).loss)


def test_nothing_makes_a_nan() -> None:
    cases = {
        "one token": (IDS[:, :1], torch.ones(2, 1, dtype=torch.long)),
        "all masked": (IDS, torch.zeros_like(IDS)),
        "equal tokens": (torch.zeros_like(IDS), torch.ones_like(IDS)),
    }
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model = make("sum").to(dtype)
        check_finite(model, cases, call=lambda m, ids, keep: m(ids, attention_mask=keep).logits)


def test_checkpointed_training_gives_the_same_gradients() -> None:
    found = []
    for asked in (False, True):
        model = make("gin").train()
        if asked:
            model.gradient_checkpointing_enable()
        model(IDS, labels=IDS).loss.backward()
        found.append([one.grad for one in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert_close(one, other)


# ---------------------------------------------------------------------- cache


def padded_prompt() -> tuple[Tensor, Tensor]:
    keep = (torch.arange(6) >= torch.tensor([[0], [3]])).long()
    return torch.where(keep.bool(), IDS[:, :6].clamp(min=1), 0), keep


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_beams": 3},
        {"num_return_sequences": 2, "num_beams": 2},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=str,
)
def test_generated_text_is_that_without_a_cache(how: dict[str, Any]) -> None:
    model = make("sum grouped")
    ids, keep = padded_prompt()
    if "prompt_lookup_num_tokens" in how:  # one text at a time
        ids, keep = IDS[:1], torch.ones_like(IDS[:1])
    options = {"attention_mask": keep, "max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
    got = model.generate(ids, **options, **how)
    plain = {name: value for name, value in how.items() if name.startswith("num_")}
    assert got.tolist() == model.generate(ids, **options, **plain, use_cache=False).tolist()


@pytest.mark.parametrize("parts", [(4, 1, 6), (1,) * 11, (10, 1)])
def test_a_cache_in_chunks(parts: tuple[int, ...]) -> None:
    model = make("gin")
    want = model(IDS, use_cache=False).logits
    for cache in (
        DynamicCache(),
        DynamicCache(config=model.config),
        StaticCache(config=model.config, max_cache_len=19),
    ):
        got = [model(part, past_key_values=cache).logits for part in IDS.split(parts, dim=1)]
        assert_close(torch.cat(got, 1), want)


def test_a_long_text_in_steps() -> None:
    """Few receivers are compared with all tokens, many are sorted: both are the same edges."""
    model = make("sum")
    ids = torch.randint(VOCAB, (2, 100), generator=torch.Generator().manual_seed(0))
    cache = DynamicCache()
    got = [model(part, past_key_values=cache).logits for part in ids.split((60, 1, 3, 36), 1)]
    assert_close(torch.cat(got, 1), model(ids).logits)


def test_a_cache_is_reordered_cropped_and_repeated_with_its_tokens() -> None:
    model = make("sum")
    rest = IDS[:, 7:]
    with torch.no_grad():  # so that it can be copied
        cache = model(IDS[:, :7], use_cache=True).past_key_values
    for change, rows in (
        (lambda one: one.reorder_cache(torch.tensor([1, 1])), torch.tensor([1, 1])),
        (lambda one: one.batch_repeat_interleave(2), torch.tensor([0, 0, 1, 1])),
        (lambda one: one.batch_select_indices(torch.tensor([1])), torch.tensor([1])),
    ):
        changed = copy.deepcopy(cache)
        change(changed)
        got = model(rest[rows], past_key_values=changed).logits
        assert_close(got, model(IDS[rows]).logits[:, 7:])
    cache.crop(-3)
    assert_close(model(IDS[:, 4:], past_key_values=cache).logits, model(IDS).logits[:, 4:])
    cache.reset()
    assert_close(model(IDS, past_key_values=cache).logits, model(IDS).logits)


# ---------------------------------------------------------------------- saved, compiled, refused


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = make("gin")
    assert model.config.relations == [
        {"name": "chain"},
        {"name": "repeats"},
        {"name": "repeats", "n": 2, "which": "mean"},
        {"name": "repeats", "which": "mean"},
    ]
    model.save_pretrained(tmp_path)
    again = gf.GraphformerForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.text_relations == SEVERAL
    assert_close(again(IDS).logits, model(IDS).logits)
    one = gf.GraphformerConfig(relations="repeats")
    assert one.text_relations == (gf.Repeats(1),)
    assert gf.GraphformerConfig(relations=gf.Chain(2)).relations == {"name": "chain", "k": 2}


def test_a_checkpoint_without_relations_starts_them_at_zero(tmp_path: Path) -> None:
    plain = make("gin", None)
    plain.save_pretrained(tmp_path)
    again = gf.GraphformerForCausalLM.from_pretrained(tmp_path, relations=[gf.Chain(2)]).eval()
    assert_close(again(IDS).logits, plain(IDS).logits)
    assert not again.model.layers[0].self_attn.relations.weight.any()


def test_reset_parameters_starts_anew() -> None:
    layer = GINAttention(30, 3, relations=SEVERAL)
    drawn_weights(layer)
    layer.reset_parameters()
    assert not layer.relations.weight.any()
    assert "Repeats(n=2, which='mean')" in repr(layer)


@pytest.mark.slow
def test_a_compiled_model_gives_the_same() -> None:
    model = make("sum", [gf.Chain(2), gf.Repeats(1), gf.Repeats(2, "mean")])
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    keep = torch.ones_like(IDS)
    keep[1, :4] = 0
    got, want = (
        torch.autograd.grad(one(IDS, keep, labels=IDS).loss, list(model.parameters()))
        for one in (compiled, model)
    )
    for one, other in zip(got, want, strict=True):
        assert_close(one, other)


def test_a_twin_has_the_relations_too() -> None:
    twin = gf.parameter_matched(make("gin").config, "sum")
    assert twin.text_relations == SEVERAL


def test_the_operators_alone_take_them() -> None:
    x = torch.randn(2, 11, 30)
    for kind in (GINAttention, PNAAttention, SumAttention):
        layer = kind(30, 3, relations=[gf.Chain(2), gf.Repeats(1)])
        drawn_weights(layer)
        check_prefix(lambda part, layer=layer: layer(part, input_ids=IDS[:, : part.shape[1]]), x)


def test_what_is_missing_or_not_read_is_refused_by_name() -> None:
    x, embeds = torch.randn(2, 11, 30), torch.randn(2, 11, 30)
    with pytest.raises(ValueError, match=r"relation 'repeats' reads input_ids, which are missing"):
        SumAttention(30, 3, relations="repeats")(x)
    for relations in ((), "chain"):
        with pytest.raises(ValueError, match="input_ids are given, and no relation of this layer"):
            SumAttention(30, 3, relations=relations)(x, input_ids=IDS)
    with pytest.raises(ValueError, match=r"inputs_embeds are given.*'repeats' reads input_ids"):
        make("sum")(inputs_embeds=embeds)
    model = make("sum", "repeats")
    cache = make("sum", "chain")(IDS, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"holds 11 tokens and the ids of 0.*fill the cache by"):
        model(IDS, past_key_values=cache)
    assert make("sum", "chain")(inputs_embeds=embeds).logits.shape == (2, 11, VOCAB)
    with pytest.raises(ValueError, match=r"unknown relation 'repeat'.*did you mean 'repeats'"):
        gf.GraphformerConfig(relations=["repeat"])
    with pytest.raises(ValueError, match=r"'edge_types' reads the edges of a graph, which a langu"):
        gf.GraphformerConfig(relations=gf.EdgeTypes(3))
    with pytest.raises(ValueError, match=r"a layer on tokens has not.*take Chain or Repeats"):
        SumAttention(30, 3, relations=gf.Neighbours())
    with pytest.raises(ValueError, match=r"operator_options\['gin'\] holds relations"):
        gf.GraphformerConfig(operator_options={"gin": {"relations": "chain"}})
