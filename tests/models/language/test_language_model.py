"""The causal language model: the laws, generation, saving, and the standard transformer as one of
its settings.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    EncoderDecoderCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
)
from transformers.cache_utils import DynamicCache, StaticCache

import graphformer as gf
from graphformer.attention.executors import blocks
from graphformer.models import GraphformerModelOutput
from graphformer.models.language.model import CACHE
from graphformer.nn import GINAttention, PNAAttention, SumAttention
from graphformer.testing import (
    check_agreement,
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

VOCAB = 17
IDS = token_ids(VOCAB)  # [2, 11]
MIXED = ["gin", "pna", "sum"]

# Head width 10, key heads 1 or 3 of 3.
KINDS: dict[str, dict[str, Any]] = {
    "gin": {"operator": "gin"},
    "pna": {"operator": "pna"},
    "sum": {"operator": "sum"},
    "mixed": {"operator": MIXED, "num_hidden_layers": 3},
    "gin threshold": {"operator": "gin", "threshold": 0.15},
    "pna threshold": {"operator": "pna", "threshold": 0.15},
    "sum threshold": {"operator": "sum", "threshold": 0.15},
    "mixed threshold": {"operator": MIXED, "num_hidden_layers": 3, "threshold": 0.15},
    "gin grouped": {"operator": "gin", "num_key_value_heads": 1},
    "pna grouped threshold": {"operator": "pna", "num_key_value_heads": 1, "threshold": 0.15},
    "mixed grouped top-k": {
        "operator": MIXED,
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "top_k": 3,
    },
    "gin threshold and top-k, sigmoid": {
        "operator": "gin",
        "normalize": "sigmoid",
        "threshold": 0.4,
        "top_k": 5,
    },
}
every_kind = pytest.mark.parametrize("kind", KINDS)
some_kinds = pytest.mark.parametrize("kind", ["gin", "mixed threshold", "pna grouped threshold"])


def config(kind: str = "gin", **changes: Any) -> gf.GraphformerConfig:
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 30,
        "intermediate_size": 23,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
    }
    return gf.GraphformerConfig(**{**sizes, "initializer_range": 0.3, **KINDS[kind], **changes})


def make(kind: str = "gin", **changes: Any) -> gf.GraphformerForCausalLM:
    """A model whose logits say something about the tokens before them."""
    torch.manual_seed(0)
    return gf.GraphformerForCausalLM(config(kind, **changes)).eval()


def loss_of(model: nn.Module, **options: Any) -> Tensor:
    return model(input_ids=IDS, labels=IDS, **options).loss


# ---------------------------------------------------------------------- laws


@every_kind
def test_causal_and_prefix(kind: str) -> None:
    model = make(kind)
    check_causal(model, IDS, vocab_size=VOCAB, num_positions=3)
    check_prefix(model, IDS)


@every_kind
def test_padding_and_batch_mates(kind: str) -> None:
    model = make(kind)
    check_padding(
        lambda ids, keep: model(ids, attention_mask=keep, position_ids=positions_of(keep)),
        IDS,
        vocab_size=VOCAB,
    )
    check_batch_independence(model, IDS, vocab_size=VOCAB)


@every_kind
@pytest.mark.parametrize("use_cache", [True, False])
def test_packed_texts_do_not_see_each_other(kind: str, use_cache: bool) -> None:
    model = make(kind)
    texts = [IDS[0, :5], IDS[1, :7], IDS[0, 3:]]
    check_packing(
        lambda ids, positions: model(ids, position_ids=positions, use_cache=use_cache), texts
    )
    check_packing(
        lambda ids, positions: model(ids, position_ids=positions, use_cache=use_cache),
        texts,
        alone=model,
    )


@every_kind
def test_cached_decoding_equals_the_full_forward(kind: str) -> None:
    check_cache(make(kind), IDS)


def test_a_step_after_the_cache_needs_no_positions() -> None:
    model = make()
    first = model(IDS[:, :4], use_cache=True)
    second = model(IDS[:, 4:], past_key_values=first.past_key_values)
    got = torch.cat((first.logits, second.logits), dim=1)
    torch.testing.assert_close(got, model(IDS).logits, atol=1e-5, rtol=1e-5)


@every_kind
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    check_gradients(make(kind).train(), loss=loss_of)


@some_kinds
def test_nothing_makes_a_nan(kind: str) -> None:
    one_masked, all_masked = torch.ones_like(IDS), torch.zeros_like(IDS)
    one_masked[0] = 0
    cases = {
        "one token": (IDS[:, :1], torch.ones(2, 1, dtype=torch.long)),
        "one text masked": (IDS, one_masked),
        "all masked": (IDS, all_masked),
        "equal tokens": (torch.zeros_like(IDS), torch.ones_like(IDS)),
    }
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model = make(kind, initializer_range=0.05).to(dtype)
        check_finite(
            model,
            cases,
            call=lambda m, ids, keep: m(ids, attention_mask=keep).logits,
            extreme={"sharpening": (1e3, -1e3, 0.0)},
        )


def test_no_tokens() -> None:
    model = make("mixed threshold")
    assert model(IDS[:, :0]).logits.shape == (2, 0, VOCAB)
    assert model(IDS[:0]).logits.shape == (0, 11, VOCAB)


@pytest.mark.parametrize("kind", ["gin", "sum", "mixed threshold"])
def test_executors_and_backends_agree(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 200)
    model = make(kind).double()

    def variant(executor: str, backend: str) -> Any:
        def call(ids: Tensor) -> Tensor:
            for layer in model.model.layers:
                layer.self_attn.executor, layer.self_attn.backend = executor, backend
            return model(ids).logits

        return call

    variants = {
        f"{e} {b}": variant(e, b)
        for e in ("dense", "auto", "stream")
        for b in gf.backends.available()
    }
    check_agreement(
        {"dense auto": variant("dense", "auto"), "auto": variant("auto", "auto"), **variants},
        [IDS],
        parameters=model,
    )


# ---------------------------------------------------------- the standard transformer is one setting


@pytest.mark.parametrize(("kv_heads", "tied"), [(3, True), (1, False)])
def test_sum_with_llamas_weights_is_llama(kv_heads: int, tied: bool) -> None:
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 30,
        "intermediate_size": 23,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
    }
    shared = {
        **sizes,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": tied,
        "initializer_range": 0.3,
    }
    llama = LlamaForCausalLM(LlamaConfig(**shared)).eval()
    ours = gf.GraphformerForCausalLM(gf.GraphformerConfig(operator="sum", **shared)).eval()
    assert ours.load_state_dict(llama.state_dict(), strict=True)
    keep = (torch.arange(11) >= torch.tensor([[0], [3]])).long()
    for options in ({}, {"attention_mask": keep, "position_ids": positions_of(keep)}):
        got, want = ours(IDS, **options), llama(IDS, **options)
        real = options.get("attention_mask", torch.ones_like(IDS)).bool()
        torch.testing.assert_close(got.logits[real], want.logits[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss_of(ours), loss_of(llama), atol=1e-5, rtol=1e-5)
    assert (
        ours.generate(IDS, max_new_tokens=5, do_sample=False).tolist()
        == llama.generate(IDS, max_new_tokens=5, do_sample=False).tolist()
    )


# ---------------------------------------------------------------------- outputs


def test_loss_is_the_mean_next_token_cross_entropy_in_nats() -> None:
    model = make("mixed")
    labels = IDS.clone()
    labels[0, 4:7] = -100
    out = model(IDS, labels=labels)
    nats = [
        -out.logits[b, n - 1].log_softmax(-1)[IDS[b, n]]
        for b in range(2)
        for n in range(1, 11)
        if labels[b, n] != -100
    ]
    assert len(nats) == 17
    # taken in float32
    torch.testing.assert_close(out.loss.double(), torch.stack(nats).mean(), atol=1e-6, rtol=1e-6)
    uniform = make("mixed")
    nn.init.zeros_(uniform.lm_head.weight)
    assert uniform(IDS, labels=IDS).loss.item() == pytest.approx(math.log(VOCAB))


@every_kind
def test_output_graphs(kind: str) -> None:
    model = make(kind)
    out = model(IDS, output_graphs=True)
    assert model(IDS).graphs is None
    torch.testing.assert_close(out.logits, model(IDS).logits, atol=1e-5, rtol=1e-5)
    assert len(out.graphs) == model.config.num_hidden_layers
    for graph in out.graphs:
        assert isinstance(graph, gf.AttentionGraph)
        assert (
            graph.batch_shape == (2, 3)
            and graph.num_lanes == 6
            and graph.num_senders == graph.num_receivers == 11
        )
        assert (graph.senders <= graph.receivers).all()


@pytest.mark.parametrize("kind", ["gin", "mixed threshold"])
def test_the_first_layers_graph_is_its_softmax(kind: str) -> None:
    model = make(kind)
    keep = (torch.arange(11) >= torch.tensor([[0], [4]])).long()
    graph = model(
        IDS, attention_mask=keep, position_ids=positions_of(keep), output_graphs=True
    ).graphs[0]
    layer = model.model.layers[0]
    x = F.rms_norm(model.model.embed_tokens(IDS), (30,), layer.input_layernorm.weight, 1e-6)
    turn = positions_of(keep)[..., None] * 10000.0 ** (-torch.arange(0, 10, 2) / 10)  # [2, 11, 5]

    def turned(z: Tensor) -> Tensor:
        z = z.unflatten(-1, (3, 10)).transpose(1, 2)
        z = (
            torch.complex(z[..., :5], z[..., 5:])
            * torch.polar(torch.ones_like(turn), turn)[:, None]
        )
        return torch.cat((z.real, z.imag), -1)

    scores = (
        turned(layer.self_attn.q_proj(x))
        @ turned(layer.self_attn.k_proj(x)).transpose(-1, -2)
        / 10**0.5
    )
    allowed = torch.ones(11, 11).tril().bool() & keep.bool()[:, None, None, :]
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0.0)
    kept = (
        weights if model.config.threshold is None else weights * (weights > model.config.threshold)
    )
    torch.testing.assert_close(graph.to_dense(), kept, atol=1e-6, rtol=1e-5)


def test_decoding_returns_graphs_with_one_receiver() -> None:
    model = make("gin threshold")
    cache = model(IDS[:, :10], use_cache=True).past_key_values
    graph = model(IDS[:, 10:], past_key_values=cache, output_graphs=True).graphs[1]
    assert (graph.num_receivers, graph.num_senders) == (1, 11)
    whole = model(IDS, output_graphs=True).graphs[1].to_dense()
    torch.testing.assert_close(graph.to_dense(), whole[:, :, -1:], atol=1e-5, rtol=1e-5)


def test_the_cache_has_two_names() -> None:
    """transformers 5.24 renamed `past_key_values` to `cache`, and generate passes the name that it
    knows.
    """
    model = make("mixed threshold").double()
    want = model(IDS, use_cache=False).logits[:, 6:]
    for name in ("cache", "past_key_values"):
        cache = DynamicCache(config=model.config)
        model(IDS[:, :6], **{name: cache})
        assert cache.get_seq_length() == 6
        torch.testing.assert_close(model(IDS[:, 6:], **{name: cache}).logits, want)
    out = model(IDS, use_cache=True)
    assert out[CACHE].get_seq_length() == out.past_key_values.get_seq_length() == 11
    assert (
        "cache" in model.config.keys_to_ignore_at_inference
        and "past_key_values" in model.config.keys_to_ignore_at_inference
    )
    with pytest.raises(
        ValueError,
        match="give exactly one of cache and past_key_values: they are two names of one argument",
    ):
        model(IDS[:, :1], cache=cache, past_key_values=cache)
    for none in (((torch.zeros(2, 3, 1, 10),) * 2,) * 3, EncoderDecoderCache(cache, cache)):
        with pytest.raises(TypeError, match=r"a transformers cache of one stack.*DynamicCache\(\)"):
            model(IDS[:, :1], past_key_values=none)


def test_nothing_deprecated_is_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of transformers' deprecations are warnings, and some are told to its logger, once."""
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", True)
    logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]
    model = make("gin threshold").double()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        model(IDS, labels=IDS, use_cache=True)
        model.generate(
            IDS,
            attention_mask=torch.ones_like(IDS),
            max_new_tokens=3,
            do_sample=False,
            pad_token_id=0,
        )
        check_cache(model, IDS)
    assert [record.message for record in caplog.records if "deprecated" in record.message] == []


def test_output_hidden_states() -> None:
    model = make("mixed")
    out = model(IDS, output_hidden_states=True)
    assert len(out.hidden_states) == 4
    torch.testing.assert_close(out.hidden_states[0], model.model.embed_tokens(IDS))
    torch.testing.assert_close(model.lm_head(out.hidden_states[-1]), out.logits)
    first = model.model.layers[0]
    x = out.hidden_states[0]
    positions = model.model.rotary_emb(x, torch.arange(11)[None])
    h = x + first.self_attn(first.input_layernorm(x), position_embeddings=positions)
    torch.testing.assert_close(
        out.hidden_states[1], h + first.mlp(first.post_attention_layernorm(h))
    )


def test_the_base_model_and_inputs_embeds() -> None:
    model = make("mixed")
    base = model.model(IDS)
    assert isinstance(base, GraphformerModelOutput)
    torch.testing.assert_close(model.lm_head(base.last_hidden_state), model(IDS).logits)
    embeds = model.get_input_embeddings()(IDS)
    torch.testing.assert_close(
        model(inputs_embeds=embeds).logits, model(IDS).logits, atol=0, rtol=0
    )
    logits, *_ = model(IDS, return_dict=False)
    torch.testing.assert_close(logits, model(IDS).logits, atol=0, rtol=0)


def test_logits_to_keep() -> None:
    model = make()
    whole = model(IDS).logits
    torch.testing.assert_close(model(IDS, logits_to_keep=3).logits, whole[:, -3:])
    torch.testing.assert_close(
        model(IDS, logits_to_keep=torch.tensor([1, 4])).logits, whole[:, [1, 4]]
    )


def test_allowed_pairs_as_a_mask() -> None:
    """A 4D mask that says what padding says, and one that cuts a text in two."""
    model = make("mixed threshold")
    keep = (torch.arange(11) >= torch.tensor([[0], [4]])).long()
    pairs = keep.bool()[:, None, None, :].expand(2, 1, 11, 11)
    padded = model(IDS, attention_mask=keep).logits
    torch.testing.assert_close(
        model(IDS, attention_mask=pairs).logits[keep.bool()],
        padded[keep.bool()],
        atol=1e-5,
        rtol=1e-5,
    )
    half = torch.arange(11) >= 6
    cut = (half[:, None] == half[None, :]).expand(1, 1, 11, 11)
    changed = IDS.clone()
    changed[:, :6] = (changed[:, :6] + 1) % VOCAB
    first, second = (model(ids, attention_mask=cut).logits[:, 6:] for ids in (IDS, changed))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------- generation


def greedy(model: nn.Module, ids: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        ids = torch.cat((ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)), dim=1)
    return ids


@every_kind
def test_greedy_generation_is_the_argmax_loop(kind: str) -> None:
    model = make(kind)
    want = greedy(model, IDS[:, :3], 9)
    for use_cache in (True, False):
        got = model.generate(IDS[:, :3], max_new_tokens=9, do_sample=False, use_cache=use_cache)
        assert got.tolist() == want.tolist()


@every_kind
def test_a_left_padded_batch_continues_as_each_text_alone(kind: str) -> None:
    model = make(kind, pad_token_id=0)
    keep = (torch.arange(5) >= torch.tensor([[0], [3]])).long()
    ids = torch.where(keep.bool(), IDS[:, :5].clamp(min=1), 0)
    got = model.generate(ids, attention_mask=keep, max_new_tokens=7, do_sample=False)[:, 5:]
    for b, start in enumerate((0, 3)):
        alone = model.generate(ids[b : b + 1, start:], max_new_tokens=7, do_sample=False)
        assert got[b].tolist() == alone[0, 5 - start :].tolist()


@some_kinds
def test_beam_search(kind: str) -> None:
    """Two beams over two steps, against the best of all pairs that two beams can reach."""
    model = make(kind)
    prompt = IDS[:1, :3]
    got = model.generate(prompt, max_new_tokens=2, num_beams=2, do_sample=False)
    first = model(prompt).logits[0, -1].log_softmax(-1).topk(2)
    best = max(
        (
            ((p + q).item(), [int(i), int(j)])
            for p, i in zip(*first, strict=True)
            for j, q in enumerate(after(model, prompt, i))
        ),
        key=lambda pair: pair[0],
    )
    assert got[0, 3:].tolist() == best[1]
    many = {
        use_cache: model.generate(
            IDS[:, :3], max_new_tokens=6, num_beams=3, do_sample=False, use_cache=use_cache
        )
        for use_cache in (True, False)
    }
    assert many[True].tolist() == many[False].tolist()


def after(model: nn.Module, prompt: Tensor, token: Tensor) -> Tensor:
    return model(torch.cat((prompt, token.view(1, 1)), dim=1)).logits[0, -1].log_softmax(-1)


@pytest.mark.parametrize(
    "kind",
    ["gin", "sum threshold", "mixed threshold", "pna grouped threshold", "mixed grouped top-k"],
)
def test_a_static_cache_gives_the_same_text(kind: str) -> None:
    """GIN without a value projection has node features of every head beside fewer key heads."""
    model = make(kind, pad_token_id=0)
    keep = (torch.arange(5) >= torch.tensor([[0], [3]])).long()
    ids = torch.where(keep.bool(), IDS[:, :5].clamp(min=1), 0)
    options = {"attention_mask": keep, "max_new_tokens": 7, "do_sample": False}
    for how in ({}, {"prefill_chunk_size": 2}):
        got = model.generate(ids, cache_implementation="static", **how, **options)
        assert got.tolist() == model.generate(ids, **options).tolist()
    cache = StaticCache(config=model.config, max_cache_len=19)
    parts = [model(part, past_key_values=cache).logits for part in IDS.split((4, 1, 6), dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(IDS).logits, atol=1e-5, rtol=1e-5)


def test_assisted_generation_gives_the_greedy_text() -> None:
    model, assistant = make("gin threshold"), make("sum")
    got = model.generate(IDS[:1, :3], max_new_tokens=9, do_sample=False, assistant_model=assistant)
    assert got.tolist() == greedy(model, IDS[:1, :3], 9).tolist()


def test_sampling_follows_the_seed() -> None:
    model = make("mixed")

    def sample(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return model.generate(
            IDS[:, :3], max_new_tokens=12, do_sample=True, temperature=2.0
        ).tolist()

    assert sample(1) == sample(1) != sample(2)


@some_kinds
def test_prompt_lookup_gives_the_greedy_text(kind: str) -> None:
    model = make(kind)
    prompt = IDS[:1, :5].repeat(1, 3)
    got = model.generate(prompt, max_new_tokens=9, do_sample=False, prompt_lookup_num_tokens=3)
    assert got.tolist() == greedy(model, prompt, 9).tolist()


def test_continuous_batching_is_refused_before_anything_runs() -> None:
    model = make()
    for attempt in (
        lambda: model.generate_batch(inputs=[[1, 2, 3], [4, 5]]),
        lambda: model.init_continuous_batching(),
        lambda: model.continuous_batching_context_manager().__enter__(),
    ):
        with pytest.raises(
            NotImplementedError,
            match=r"no continuous batching \(generate_batch.*Pad the prompts on the left and call "
            r"generate",
        ):
            attempt()


def test_generation_stops() -> None:
    model = make()
    prompt = IDS[:1, :3]
    assert model.generate(prompt, max_length=8, do_sample=False).shape == (1, 8)
    text = greedy(model, prompt, 8)[0, 3:].tolist()
    stop = text[4]
    got = model.generate(
        prompt, max_new_tokens=8, do_sample=False, eos_token_id=stop, pad_token_id=0
    )[0, 3:].tolist()
    assert got == text[: text.index(stop) + 1]


# ---------------------------------------------------------------------- saving and loading


@pytest.mark.float32
@every_kind
def test_save_and_load_is_bit_equal(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    loaded, info = gf.GraphformerForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    state = loaded.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert not loaded.training


@pytest.mark.float32
@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_stay_tied_and_untied_ones_untied(tied: bool, tmp_path: Path) -> None:
    model = make(tie_word_embeddings=tied)
    if not tied:
        assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in file.keys()) is not tied  # noqa: SIM118 (not a dict)
        assert "model.embed_tokens.weight" in file.keys()  # noqa: SIM118
    loaded = gf.GraphformerForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.tie_word_embeddings is tied
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


@pytest.mark.float32
def test_auto_classes(tmp_path: Path) -> None:
    model = make("mixed")
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is gf.GraphformerConfig
    assert type(AutoModel.from_config(model.config)) is gf.GraphformerModel
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is gf.GraphformerForCausalLM
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is gf.GraphformerModel
    assert torch.equal(base(IDS).last_hidden_state, model.model(IDS).last_hidden_state)


@pytest.mark.float32
def test_sharded_save(tmp_path: Path) -> None:
    model = make("mixed")
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    shards = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(shards.values())) > 2
    assert torch.equal(
        gf.GraphformerForCausalLM.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits
    )


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Exception, match="not fully covered"):
        gf.GraphformerForCausalLM.from_pretrained(tmp_path)


def test_deepcopy_and_pickle() -> None:
    model = make("mixed threshold")
    want = model(IDS).logits
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(IDS).logits, want)
        assert other.lm_head.weight is other.model.embed_tokens.weight
        assert other.lm_head.weight is not model.lm_head.weight


def test_resize_token_embeddings() -> None:
    model = make()
    want = model(IDS).logits
    model.resize_token_embeddings(VOCAB + 5)
    assert model.config.vocab_size == model.lm_head.out_features == VOCAB + 5
    assert model.lm_head.weight is model.model.embed_tokens.weight
    torch.testing.assert_close(model(IDS).logits[..., :VOCAB], want)
    assert loss_of(model).isfinite()


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["gin", "pna threshold", "mixed threshold"])
@pytest.mark.parametrize("executor", ["auto", "stream"])
@pytest.mark.parametrize("output_graphs", [True, False])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(
    kind: str,
    executor: str,
    output_graphs: bool,
    use_reentrant: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 200)
    model = make(kind, executor=executor).train()

    def gradients() -> tuple[dict[str, Tensor], tuple[gf.AttentionGraph, ...] | None]:
        model.zero_grad()
        out = model(IDS, labels=IDS, output_graphs=output_graphs, use_cache=False)
        out.loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}, out.graphs

    want, graphs = gradients()
    # its name before
    enable = (
        getattr(model, "activation_checkpointing_enable", None)
        or model.gradient_checkpointing_enable
    )
    enable({"use_reentrant": use_reentrant})
    runs = []
    first = model.model.layers[0].input_layernorm.register_forward_hook(lambda *_: runs.append(1))
    got, again = gradients()
    first.remove()
    assert len(runs) == 2  # it was recomputed
    for name, gradient in want.items():
        assert torch.equal(got[name], gradient), name
    if output_graphs:
        assert len(again) == len(graphs) == model.config.num_hidden_layers
        for mine, theirs in zip(again, graphs, strict=True):
            assert torch.equal(mine.to_dense(), theirs.to_dense())


def test_dropout_acts_in_training_only() -> None:
    for name in ("hidden_dropout", "attention_dropout"):
        model, plain = make("mixed", **{name: 0.5}), make("mixed")
        assert torch.equal(model(IDS).logits, plain(IDS).logits), name
        model.train()
        assert (model(IDS).logits - model(IDS).logits).abs().max() > 1e-3, name


def test_hidden_dropout_falls_on_attention_and_on_the_feed_forward() -> None:
    for kept in ("attention", "feed-forward"):
        model = make(hidden_dropout=0.5).train()
        for block in model.model.layers:
            (block if kept == "feed-forward" else block.mlp).dropout = 0.0
        assert (model(IDS).logits - model(IDS).logits).abs().max() > 1e-3, kept


@some_kinds
def test_a_few_steps_learn(kind: str) -> None:
    model = make(kind, initializer_range=0.05).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = loss_of(model).item()
    for _ in range(25):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert loss_of(model).item() < before / 2


@pytest.mark.parametrize("kind", ["gin", "pna", "mixed threshold", "gin grouped"])
def test_bfloat16(kind: str) -> None:
    # With fresh weights of 0.3 the logits are of the order of 10; with 0.05 half precision is not
    # the main thing.
    model = make(kind, initializer_range=0.05)
    half = copy.deepcopy(model).to(torch.bfloat16)
    model.load_state_dict(half.state_dict())
    logits = half(IDS).logits
    assert logits.dtype == torch.bfloat16
    want = model(IDS).logits
    assert (logits - want).abs().median() < 0.02 * want.std()
    check_gradients(half.train(), loss=loss_of)
    text = half.eval().generate(IDS[:, :3], max_new_tokens=6, do_sample=False)
    assert text.shape == (2, 9) and text.max() < VOCAB


@pytest.mark.slow
@pytest.mark.float32
@pytest.mark.parametrize("kind", ["gin", "pna", "mixed threshold", "gin grouped"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_autocast(kind: str, dtype: torch.dtype) -> None:
    model = make(kind, initializer_range=0.05).train()
    with torch.autocast("cpu", dtype):
        out = model(IDS, labels=IDS)
        graphs = model(IDS, output_graphs=True).graphs
    assert all(graph.weight.dtype == torch.float32 for graph in graphs)
    assert out.loss.item() == pytest.approx(loss_of(model).item(), rel=0.01)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.autocast("cpu", dtype):
        check_cache(model.eval(), IDS, atol=0.05, rtol=0.05)


# ---------------------------------------------------------------------- fresh weights and the twin


def test_fresh_weights() -> None:
    model = gf.GraphformerForCausalLM(config("mixed", hidden_size=150, initializer_range=0.02))
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        if name.endswith(("eps", "bias1", "bias2")):
            assert (value == 0).all(), name
        elif name.endswith(("sharpening", "layernorm.weight", "norm", "norm.weight")):
            assert (value == 1).all(), name
        elif name.endswith("delta"):
            assert value.item() == pytest.approx(math.log(9)), name
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.1), name
            assert abs(value.mean().item()) < 0.003, name


@pytest.mark.parametrize("operator", ["sum", "gin", "pna", MIXED])
@pytest.mark.parametrize("source", ["gin", "sum", "pna"])
def test_the_twin_has_as_many_parameters(source: str, operator: str | list[str]) -> None:
    original = config(
        source,
        vocab_size=65,
        hidden_size=70,
        intermediate_size=211,
        num_attention_heads=5,
        num_hidden_layers=3,
    )
    twin = gf.parameter_matched(original, operator)
    target = gf.count_parameters(original)
    assert abs(gf.count_parameters(twin) - target) <= 0.002 * target
    assert twin.operator == operator and twin.hidden_size == original.hidden_size
    smaller, larger = (dataclasses.replace(twin) for _ in range(2))
    smaller.intermediate_size, larger.intermediate_size = (
        twin.intermediate_size - 1,
        twin.intermediate_size + 1,
    )
    best = abs(gf.count_parameters(twin) - target)
    assert best <= abs(gf.count_parameters(smaller) - target) and best <= abs(
        gf.count_parameters(larger) - target
    )


def test_the_twin_of_the_sizes_in_use_is_within_a_tenth_of_a_percent() -> None:
    original = gf.GraphformerConfig(
        vocab_size=65,
        hidden_size=128,
        intermediate_size=424,
        num_hidden_layers=4,
        num_attention_heads=4,
        operator="gin",
    )
    target = gf.count_parameters(original)
    for operator in ("sum", "pna"):
        twin = gf.parameter_matched(original, operator)
        assert abs(gf.count_parameters(twin) - target) < 0.001 * target


@pytest.mark.parametrize("tied", [True, False])
@every_kind
def test_parameters_are_counted_as_the_model_has_them(kind: str, tied: bool) -> None:
    model = make(kind, tie_word_embeddings=tied)
    want = sum(p.numel() for p in model.parameters())
    assert gf.count_parameters(model.config) == want == model.num_parameters()


def test_a_twin_that_cannot_be_matched_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"operator 'pna' cannot match [\d,]+ parameters: without a feed-forward it already "
        r"has",
    ):
        gf.parameter_matched(config("gin", intermediate_size=1, mlp_ratio=1), "pna")


def test_parameter_matched_takes_changes() -> None:
    twin = gf.parameter_matched(config("gin"), "gin", mlp_ratio=1.0)
    assert twin.mlp_ratio == 1.0 and twin.intermediate_size < 23


# ---------------------------------------------------------------------- configuration


def test_config_round_trip_through_json(tmp_path: Path) -> None:
    original = config(
        "mixed",
        threshold=0.2,
        top_k=4,
        operator_options={"pna": {"aggregators": ["sum", "max"], "scalers": ["identity"]}},
        score="differential",
        mlp_ratio=2,
        executor="stream",
        backend="torch",
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        eos_token_id=[2, 3],
    )
    original.save_pretrained(tmp_path)
    loaded = gf.GraphformerConfig.from_pretrained(tmp_path)
    for other in (
        loaded,
        gf.GraphformerConfig(**json.loads(original.to_json_string())),
        copy.deepcopy(original),
    ):
        assert other.layer_operators == ("gin", "pna", "sum")
        for field in own_fields():
            want, got = getattr(original, field), getattr(other, field)
            assert list(got) == list(want) if isinstance(want, tuple | list) else got == want, field
    torch.manual_seed(0)
    first = gf.GraphformerForCausalLM(original).eval()
    second = gf.GraphformerForCausalLM(loaded).eval()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(IDS).logits, second(IDS).logits)


def own_fields() -> list[str]:
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return [f.name for f in dataclasses.fields(gf.GraphformerConfig) if f.name not in inherited]


def test_the_config_stays_small() -> None:
    annotated = [name for name in gf.GraphformerConfig.__annotations__ if not name.startswith("_")]
    assert 20 < len(annotated) <= 34


def test_every_setting_reaches_the_layers() -> None:
    model = make(
        "mixed",
        num_key_value_heads=1,
        threshold=0.2,
        top_k=4,
        mlp_ratio=0.7,
        normalize="sigmoid",
        sharpening=False,
        value_projection=True,
        output_projection=False,
        operator_options={"pna": {"aggregators": ["max"], "scalers": ["attenuation"]}},
        attention_dropout=0.1,
        hidden_dropout=0.2,
        backend="pyg",
        executor="dense",
        rms_norm_eps=1e-3,
    )
    gin, pna, plain = (layer.self_attn for layer in model.model.layers)
    assert (type(gin), type(pna), type(plain)) == (GINAttention, PNAAttention, SumAttention)
    for i, layer in enumerate((gin, pna, plain)):
        assert str(layer.sparsify) == str(gf.Threshold(0.2) & gf.TopK(4))
        assert (layer.num_kv_heads, layer.backend, layer.executor, layer.layer_idx) == (
            1,
            "pyg",
            "dense",
            i,
        )
        assert type(layer.normalize).__name__ == "Sigmoid" and layer.attention_dropout == 0.1
        assert layer.v_proj is not None and layer.o_proj is None and layer.sharpening is None
    assert gin.operator.mlp.weight1.shape == (3, 10, 7)
    assert pna.operator.aggregators == ("max",) and pna.operator.scalers == ("attenuation",)
    block = model.model.layers[0]
    assert (
        block.dropout == block.mlp.dropout == 0.2
        and block.input_layernorm.eps == model.model.norm.eps == 1e-3
    )


def test_projections_by_habit_of_the_operator() -> None:
    gin, pna, plain = (layer.self_attn for layer in make("mixed").model.layers)
    assert gin.v_proj is None and gin.o_proj is None and gin.sharpening is not None
    assert pna.v_proj is not None and pna.o_proj is not None and pna.sharpening is not None
    assert plain.v_proj is not None and plain.o_proj is not None and plain.sharpening is None


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"operator": "gat"}, "unknown operator 'gat'; known: sum, gin, pna"),
        ({"operator": ["gin", "gcn"]}, "unknown operator 'gcn'; known: sum, gin, pna"),
        (
            {"operator": MIXED},
            "operator names 3 layers, but num_hidden_layers is 2; give one name, or one for each "
            "layer",
        ),
        (
            {"num_attention_heads": 4},
            "hidden_size 30 must be num_attention_heads 4 times an even head width",
        ),
        (
            {"num_attention_heads": 2},
            "hidden_size 30 must be num_attention_heads 2 times an even head width",
        ),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1, got 0"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        (
            {"num_key_value_heads": 2},
            "num_attention_heads 3 is not a multiple of num_key_value_heads 2",
        ),
    ],
)
def test_the_config_refuses(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        config(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": "0.2"},
        {"hidden_size": 30.0},
        {"sharpening": "yes"},
        {"operator": 3},
        {"top_k": 2.5},
    ],
)
def test_a_setting_of_the_wrong_type_is_refused(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(StrictDataclassFieldValidationError, match=f"field '{name}'"):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"backend": "jax"}, "unknown backend 'jax'"),
        ({"executor": "fast"}, "unknown executor 'fast'"),
        ({"normalize": "entmax"}, "unknown normalizer 'entmax'"),
        (
            {"operator": "pna", "operator_options": {"pna": {"aggregators": ["median"]}}},
            "unknown aggregators",
        ),
        (
            {"operator_options": {"gin": {"mlp_ratios": 1}}},
            r"operator_options\['gin'\] holds what GINAttention does not take: .*'mlp_ratios'",
        ),
        ({"mlp_ratio": 0.05}, "mlp_ratio 0.05 leaves no hidden unit"),
        ({"hidden_dropout": 1.5}, "dropout must be a probability in 0..1, got 1.5"),
        ({"attention_dropout": -0.1}, "attention_dropout must be a probability in 0..1, got -0.1"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
    ],
)
def test_the_model_refuses(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(**changes)


def test_calls_that_do_not_fit_are_refused() -> None:
    model = make()
    for both in ({}, {"input_ids": IDS, "inputs_embeds": torch.zeros(2, 11, 30)}):
        with pytest.raises(ValueError, match="give exactly one of input_ids and inputs_embeds"):
            model(**both)
    for wrong in (torch.ones(2, 12), torch.ones(2, 10)):
        with pytest.raises(
            ValueError,
            match=rf"attention_mask covers {wrong.shape[1]} tokens, but there are 11 \(cached ones "
            r"included\)",
        ):
            model(IDS, attention_mask=wrong)
    cache = DynamicCache()
    model(IDS, past_key_values=cache)
    with pytest.raises(
        ValueError,
        match=r"attention_mask covers 1 tokens, but there are 12 \(cached ones included\)",
    ):
        model(IDS[:, :1], attention_mask=torch.ones(2, 1), past_key_values=cache)
    with pytest.raises(
        ValueError,
        match=r"attention_mask must have shape \[2 or 1, 3 or 1, 11, 11\].*got \[2, 1, 11, 10\]",
    ):
        model(IDS, attention_mask=torch.zeros(2, 1, 11, 10, dtype=torch.bool))
    for wrong in (torch.arange(12)[None], torch.arange(11), torch.zeros(3, 11)):
        with pytest.raises(
            ValueError, match=r"position_ids must have shape \[2 or 1, 11\] \(batch, length\), got"
        ):
            model(IDS, position_ids=wrong)
    with pytest.raises(ValueError, match=r"input_ids holds 17, .*, and the vocabulary has 0\.\.16"):
        model(IDS + VOCAB)
