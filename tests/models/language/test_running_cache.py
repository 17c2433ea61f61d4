"""Decoding with sums in the place of keys: caches of constant size, and when keys are kept."""

import copy
import itertools

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

import graphformer as gf
from graphformer.attention.attend import attend
from graphformer.attention.executors import linear, scan
from graphformer.attention.executors.running import RunningSums
from graphformer.attention.scores import Decay
from graphformer.nn.running_cache import RunningLayer

pytestmark = pytest.mark.usefixtures("float64")

HEADS = {
    "learned_query": gf.Head(score="learned_query"),
    "decay": gf.Head(score="decay", normalize="identity"),
    "identity": gf.Head(normalize="identity"),
}


def make(kind="learned_query", **more):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 23,
        "hidden_size": 18,
        "intermediate_size": 14,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "operator": "sum",
        "initializer_range": 0.4,
    }
    config = gf.GraphformerConfig(**{**sizes, "head": HEADS.get(kind), **more})
    return gf.GraphformerForCausalLM(config).eval()


def tokens(length, batch=2):
    return torch.randint(23, (batch, length), generator=torch.Generator().manual_seed(1))


def by_steps(model, ids, sizes, mask=None, cache=None):
    """Logits of the tokens fed a few at a time, and the cache."""
    found, start = [], 0
    for size in sizes:
        if start >= ids.shape[1]:
            break
        end = min(start + size, ids.shape[1])
        more = {}
        if mask is not None:
            places = (mask.cumsum(-1) - 1).clamp(min=0)[:, start:end]
            more = {"attention_mask": mask[:, :end], "position_ids": places}
        out = model(ids[:, start:end], cache=cache, use_cache=True, **more)
        found.append(out.logits)
        cache, start = out.past_key_values if "past_key_values" in out else out.cache, end
    return torch.cat(found, 1), cache


def holds(cache):
    return [isinstance(one, RunningLayer) and one.sums.held for one in cache.layers]


def size(cache):
    """Bytes of all tensors of a cache."""
    found = 0
    for layer in cache.layers:
        parts = [*(layer.sums.parts or ()), layer.sums.visible, layer.keys, layer.values]
        found += sum(one.numel() * one.element_size() for one in parts if one is not None)
    return found


# ---------------------------------------------------------------------- the executor


def sent(length):
    torch.manual_seed(3)
    shapes = ((2, 6, length, 4), (2, 3, length, 4), (2, 6, length, 5))
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("kind", ["scan", "decay", "dot"])
@pytest.mark.parametrize("sizes", [(1,), (7,), (5, 3, 2)])
@pytest.mark.parametrize("chunk", [3, 64])
def test_sums_continue_where_they_stopped(kind, sizes, chunk, monkeypatch):
    """Outputs and gradients, for blocks and steps of co-prime sizes and with padding."""
    monkeypatch.setattr(scan, "CHUNK", chunk)
    monkeypatch.setattr(linear, "CHUNK", chunk)
    more = {"normalize": "identity"}
    if kind == "scan":
        more = {"score": gf.attention.scores.LearnedQuery(24, 6, 12, 4)}
    elif kind == "decay":
        more["score"] = Decay(6)
    given = sent(23)
    keep = torch.ones(2, 23, dtype=torch.bool)
    keep[1, :4] = False

    def whole():
        return attend(*given, is_causal=True, attention_mask=keep, **more)[0]["sum"]

    def cut():
        past, found, start = RunningSums(), [], 0
        for step in itertools.chain(sizes, itertools.repeat(sizes[-1])):
            end = min(start + step, 23)
            parts = [one[:, :, start:end] for one in given]
            mask = past.of_new(keep[:, :end], (2, end - start))
            out, _ = attend(*parts, is_causal=True, attention_mask=mask, past=past, **more)
            found, start = [*found, out["sum"]], end
            if end == 23:
                assert past.held and past.tokens == 23 and past.why is None
                return torch.cat(found, 2)

    results = []
    for run in (whole, cut):
        out = run()
        read = given[1:] if kind == "scan" else given
        results.append((out, *torch.autograd.grad(out.sin().sum(), read)))
    for one, want in zip(results[1], results[0], strict=True):
        assert_close(one, want, rtol=1e-11, atol=1e-12)


def test_a_large_logit_among_past_or_new_tokens():
    """Nothing overflows, and what it outweighs is 0, not NaN."""
    logits, x = torch.zeros(1, 1, 9), torch.randn(1, 1, 9, 3)
    for place in (2, 7):
        logits.zero_()[..., place] = 2000.0
        want, _ = scan.running_softmax(logits, x)
        first, state = scan.running_softmax(logits[..., :4], x[:, :, :4])
        rest, _ = scan.running_softmax(logits[..., 4:], x[:, :, 4:], state)
        assert_close(torch.cat((first, rest), 2), want)
        assert_close(want[0, 0, 8], x[0, 0, place])


# ---------------------------------------------------------------------- the model


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("sizes", [[1] * 19, [7] * 3, [11, 2, 5, 1]], ids=str)
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_cached_decoding_is_the_whole_forward(kind, sizes, padded, monkeypatch):
    monkeypatch.setattr(scan, "CHUNK", 5)
    monkeypatch.setattr(linear, "CHUNK", 5)
    model, ids, mask = make(kind), tokens(19), None
    if padded:
        mask = torch.ones_like(ids)
        mask[1, :8] = 0
    more = {}
    if padded:
        more = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    want = model(ids, use_cache=False, **more).logits
    found, cache = by_steps(model, ids, sizes, mask)
    assert holds(cache) == [True, True] and cache.get_seq_length() == 19
    real = torch.ones_like(ids).bool() if mask is None else mask.bool()
    assert_close(found[real], want[real], rtol=1e-10, atol=1e-11)
    kept, plain = by_steps(model, ids, sizes, mask, DynamicCache())
    assert plain.layers[0].keys.shape[2] == 19
    assert_close(kept[real], want[real], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("more", [{"num_key_value_heads": 1}, {"operator": "gin"}], ids=str)
@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_the_law_of_the_cache(kind, more):
    gf.testing.check_cache(make(kind, **more), tokens(7), prefill=(1, 4))


@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_its_size_does_not_grow(kind):
    model = make(kind)
    _, short = by_steps(model, tokens(5), [5])
    _, long = by_steps(model, tokens(409), [100] * 5)
    assert size(short) == size(long) > 0
    _, keys = by_steps(model, tokens(409), [100] * 5, cache=DynamicCache())
    assert 4 * size(long) < sum(one.keys.nbytes + one.values.nbytes for one in keys.layers)


def test_gradients_pass_through_the_sums():
    model, ids = make(), tokens(13)
    results = []
    for sizes in ([13], [4] * 4):
        model.zero_grad()
        by_steps(model, ids, sizes)[0].sin().sum().backward()
        results.append({name: one.grad.clone() for name, one in model.named_parameters()})
    for name, one in results[1].items():
        assert_close(one, results[0][name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 5}])
def test_generate_holds_sums_and_says_the_same(kind, more):
    model, ids = make(kind), tokens(7)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    found = []
    for cache in ({}, {"past_key_values": DynamicCache()}, {"use_cache": False}):
        torch.manual_seed(0)
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=6,
            return_dict_in_generate=True,
            pad_token_id=0,
            **more,
            **cache,
        )
        found.append(out.sequences)
        if not cache:
            assert holds(out.past_key_values) == [True, True]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@torch.no_grad()
def test_rows_are_reordered_repeated_and_chosen():
    model, ids = make(), tokens(9)
    _, cache = by_steps(model, ids, [9])
    next_ids = torch.tensor([[3], [4]])
    want = model(torch.cat((ids, next_ids), 1)).logits[:, -1:]

    def after(change, rows):
        other = copy.deepcopy(cache)
        change(other)
        return model(next_ids[rows], cache=other, use_cache=True).logits

    swapped = after(lambda one: one.reorder_cache(torch.tensor([1, 0])), [1, 0])
    assert_close(swapped, want[[1, 0]])
    twice = after(lambda one: one.batch_repeat_interleave(2), [0, 0, 1, 1])
    assert_close(twice, want[[0, 0, 1, 1]])
    second = after(lambda one: one.batch_select_indices(torch.tensor([1])), [1])
    assert_close(second, want[[1]])
    cache.reset()
    assert cache.get_seq_length() == 0
    assert_close(model(ids, cache=cache, use_cache=True).logits, model(ids).logits)


def test_nothing_can_be_taken_back():
    model, ids = make(), tokens(9)
    _, cache = by_steps(model, ids, [9])
    cache.crop(0)
    assert not cache.is_croppable
    with pytest.raises(
        ValueError, match=r"crop\(-2\): the cache holds sums over 9 tokens.*Dynamic"
    ):
        cache.crop(-2)
    with pytest.raises(ValueError, match="tokens may be taken back, as assisted decoding does"):
        cache.activate_past_recording()
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    want = model.generate(ids[:1], **options)
    # assisted decoding says before it begins that it takes tokens back
    assert torch.equal(model.generate(ids[:1], prompt_lookup_num_tokens=2, **options), want)


def test_half_precision_sums_in_single():
    model = make().to(torch.bfloat16)
    _, cache = by_steps(model, tokens(9), [5, 1, 3])
    assert {part.dtype for one in cache.layers for part in one.sums.parts} == {torch.float32}


def test_saved_and_loaded(tmp_path):
    model, ids = make(), tokens(9)
    want, _ = by_steps(model, ids, [4, 1, 4])
    model.save_pretrained(tmp_path)
    loaded = gf.GraphformerForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    found, cache = by_steps(loaded, ids, [4, 1, 4])
    assert holds(cache) == [True, True]
    assert torch.equal(found, want)


# ---------------------------------------------------------------------- when keys are kept


@pytest.mark.parametrize(
    ("head", "more", "call", "why"),
    [
        ("learned_query", {}, {"output_graphs": True}, "the graph itself was asked for"),
        ("learned_query", {"relations": [gf.Chain(2)]}, {}, "relations send what past tokens sent"),
        ("learned_query", {"executor": "dense"}, {}, "executor='dense' was named"),
        ("learned_query", {"backend": "torch"}, {}, "a backend aggregates edges"),
        ("threshold", {}, {}, "cuts edges"),
        ("window", {}, {}, "the candidates are not all tokens up to the receiver"),
        ("multi_hop", {}, {}, "operator='multi_hop' reads edges"),
        ("persistent", {}, {}, "the candidates add senders that are no tokens"),
    ],
)
def test_keys_are_kept_by_a_rule_that_is_told(head, more, call, why):
    alone = {"score": "learned_query"}
    heads = {
        "threshold": gf.Head(**alone, sparsify=gf.Threshold(0.01)),
        "window": gf.Head(**alone, candidates=gf.attention.candidates.Window(3)),
        "multi_hop": gf.Head(**alone, operator="multi_hop"),
        "persistent": gf.Head(
            normalize="identity",
            candidates=gf.attention.candidates.All() | gf.attention.candidates.Persistent(2),
        ),
    }
    if head in heads:
        more = {"head": heads[head], "operator": "gin", **more}
    model, ids = make(head, **more), tokens(9)
    out = model(ids[:, :6], use_cache=True, **call)
    cache = out.past_key_values
    assert holds(cache) == [False, False]
    assert {one.sums.why is not None for one in cache.layers} == {True}
    assert why in cache.layers[0].sums.why
    assert cache.layers[0].keys.shape[2] == 6
    with torch.no_grad():
        again = model(ids[:, :6], use_cache=True, **call).past_key_values
    told = str(gf.explain(model, ids[:, 6:], cache=again, **call))
    assert "the cache keeps all keys (" in told and why in told
    rest = model(ids[:, 6:], cache=cache, **call).logits
    assert_close(torch.cat((out.logits, rest), 1), model(ids, use_cache=False, **call).logits)
    cache.crop(-2)
    assert cache.get_seq_length() == 7


def test_the_plan_says_that_sums_are_kept():
    model = make()
    told = str(gf.explain(model, tokens(9)))
    assert told.count("the cache keeps sums over past tokens in the place of their keys") == 2
    assert "the cache" not in str(gf.explain(model, tokens(9), use_cache=False))
    assert "the cache" not in str(gf.explain(make("plain"), tokens(9)))


def test_layers_of_both_kinds_stand_together():
    model = make(head=[HEADS["learned_query"], gf.Head()])
    ids = tokens(11)
    found, cache = by_steps(model, ids, [4, 3, 1, 1, 2])
    assert holds(cache) == [True, False]
    assert_close(found, model(ids).logits)


def test_what_needs_keys_that_are_gone_is_refused():
    model, ids = make(), tokens(9)
    pairs = torch.ones(2, 1, 2, 9, dtype=torch.bool)
    pairs[..., 3] = False
    hidden = torch.ones(2, 9, dtype=torch.long)
    hidden[0, 4] = 0
    for more, why in [
        ({"output_graphs": True}, "sums over 7 tokens and not their keys.*graph itself was asked"),
        ({"attention_mask": pairs}, r"attention_mask must be \[2, 9\].*masks of pairs need"),
        ({"attention_mask": hidden}, "hides other ones of the 7 cached tokens"),
    ]:
        _, cache = by_steps(model, ids[:, :7], [7])
        with pytest.raises(ValueError, match=why):
            model(ids[:, 7:], cache=cache, **more)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    _, cache = by_steps(model, ids[:, :7], [7], mask[:, :7])
    with pytest.raises(ValueError, match="hides other ones of the 7 cached tokens"):
        model(ids[:, 7:], cache=cache)
    _, cache = by_steps(model, ids[:, :7], [7])
    with pytest.raises(ValueError, match="who watches the layers reads them"):
        gf.inspect.graphs(model, input_ids=ids[:, 7:], past_key_values=cache)


@pytest.mark.parametrize(("was", "now"), [({5}, {3, 4}), ({1, 6}, {2, 5}), ({2, 7}, {3, 6})])
def test_masks_with_equal_sums_of_places_are_told_apart(was, now):
    """Places or their squares of the tokens that were seen, counted from 1, have equal sums."""

    def mask(seen, length):
        return torch.tensor([[int(i + 1 in seen) for i in range(7)] + [1] * (length - 7)])

    model, ids = make(), tokens(9)[:1]
    _, cache = by_steps(model, ids[:, :7], [7], mask(was, 7))
    with pytest.raises(ValueError, match="hides other ones of the 7 cached tokens"):
        model(ids[:, 7:], attention_mask=mask(now, 9), cache=cache)
    _, cache = by_steps(model, ids[:, :7], [7], mask(was, 7))
    model(ids[:, 7:], attention_mask=mask(was, 9), cache=cache)


def test_an_index_loss_or_a_picture_beside_a_new_cache_keeps_keys():
    model, ids = make(), tokens(9)
    graphs = gf.inspect.graphs(model, input_ids=ids, use_cache=True)
    assert graphs[0].num_senders == 9


@pytest.mark.slow
def test_compiled_steps():
    model, ids = make(), tokens(9)
    want = model(ids).logits
    step = torch.compile(model, backend="eager", fullgraph=True)
    _, cache = by_steps(model, ids[:, :6], [6])
    for place in range(6, 9):
        found = step(ids[:, place : place + 1], cache=cache, use_cache=True).logits
        assert_close(found[:, 0], want[:, place])
