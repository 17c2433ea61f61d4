"""The second form of the adapter: its formula and the laws, on every architecture."""

from __future__ import annotations

import inspect
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

import graphformer as gf
from graphformer.adapters import UnsupportedModel
from graphformer.testing import check_threads
from tests.adapter_models import (
    DECODERS,
    ENCODERS,
    PARALLEL,
    REFUSED,
    SEQ2SEQ,
    VISION,
    assert_rows_close,
    feed,
    make,
)

pytestmark = pytest.mark.usefixtures("float64")

# those that show no graph have linear layers all the same
NO_GRAPH = ("falcon", "gptj", "gpt_neo", "bloom", "deberta-v2", "beit", "swin")
IMAGES = (*VISION, "beit", "swin")
ALL = [*DECODERS, *ENCODERS, *VISION, *NO_GRAPH]


def tokens(batch: int = 2, length: int = 11) -> Tensor:
    """Few different ones, so that they are repeated."""
    return torch.randint(4, 9, (batch, length))


def given(name: str, ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    if name == "swin":
        return {
            "pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        }
    return feed("vit" if name == "beit" else name, ids, mask)


def adapted(name: str, base: nn.Module | None = None, **settings: Any) -> Any:
    base = make(name) if base is None else base
    config = gf.SparseGINConfig(**{"form": "bottlenecks", "rank": 3, "dropout": 0.0, **settings})
    return peft.get_peft_model(base, config).eval()


def shake(model: Any) -> Any:
    """As if it had been trained."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sparsegin_" in name:
                parameter.normal_(std=0.3)
    return model


@torch.no_grad()
def logits(model: nn.Module, **inputs: Any) -> Tensor:
    return model(**inputs).logits


def left_padding(ids: Tensor) -> Tensor:
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return mask


@pytest.mark.parametrize("name", ALL)
def test_a_fresh_one_is_the_identity_and_unload_restores(name: str) -> None:
    base, ids = make(name), tokens()
    inputs = given(name, ids, None if name in IMAGES else left_padding(ids))
    before = logits(base, **inputs)
    names = list(base.state_dict())
    model = adapted(name, base)
    assert torch.equal(logits(model, **inputs), before)
    assert float((logits(shake(model), **inputs) - before).abs().max()) > 1e-3
    again = model.unload()
    assert torch.equal(logits(again, **inputs), before) and list(again.state_dict()) == names
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in again.modules())


def by_hand(model: Any, ids: Tensor) -> Tensor:
    """The model's logits with the adapter computed token by token, from its parameters."""
    base, plan = model.get_base_model(), model.base_model.sparsegin_plan
    own = dict(base.named_parameters())
    config, handles = model.peft_config["default"], []
    embedded = base.get_input_embeddings().weight[ids]
    sent = embedded / (embedded.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def add(path: str, first: str, steps: int, both: bool) -> Any:
        down = own[f"{first}.bottleneck.sparsegin_down.default"]
        up = own[f"{path}.bottleneck.sparsegin_up.default"]
        chain = own.get(f"{first}.bottleneck.sparsegin_chain.default")

        def hook(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
            u = args[0] @ down.T
            rows = []
            for i in range(u.shape[1]):
                code = u[:, i]
                for k in range(1, steps + 1):
                    if i - k >= 0:
                        code = code + chain[k - 1] * u[:, i - k]
                    if both and i + k < u.shape[1]:
                        code = code + chain[steps + k - 1] * u[:, i + k]
                rows.append(code if config.activation is None else F.silu(code))
            return y + config.scaling * torch.stack(rows, 1) @ up.T

        return hook

    def after(path: str) -> Any:
        weight = own[f"{path}.recurrence.sparsegin_recurrence.default"]

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            h = (output[0] if isinstance(output, tuple) else output).clone()
            for b, i in ((b, i) for b in range(ids.shape[0]) for i in range(ids.shape[1])):
                for channel, (n, mean) in enumerate(
                    ((1, False), (1, True), (2, False), (3, False))
                ):
                    found = [
                        j + 1
                        for j in range(n - 1, i)
                        if torch.equal(ids[b, j - n + 1 : j + 1], ids[b, i - n + 1 : i + 1])
                        and i >= n - 1
                    ]
                    if found:
                        message = sent[b, found].mean(0) if mean else sent[b, found[-1]]
                        h[b, i] = h[b, i] + weight[channel] * message
            return (h, *output[1:]) if isinstance(output, tuple) else h

        return hook

    modules = dict(base.named_modules())
    with torch.no_grad(), model.disable_adapter():
        for group in plan.groups:
            for one in group.members:
                both = not one.stack.causal
                hook = add(one.path, group.members[0].path, group.steps, both)
                handles.append(modules[one.path].register_forward_hook(hook))
        for path in {one.layer for group in plan.groups for one in group.members}:
            if plan.recurrence:
                handles.append(modules[path].register_forward_hook(after(path)))
        try:
            return base(input_ids=ids).logits
        finally:
            for handle in handles:
                handle.remove()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {}),
        ("llama", {"activation": None, "scaling": 0.7}),
        ("gpt2", {}),
        ("falcon", {}),
        ("bert", {}),
        ("bert", {"relations": []}),
    ],
)
def test_it_is_the_formula(name: str, settings: dict[str, Any]) -> None:
    model, ids = shake(adapted(name, **settings)), tokens()
    assert_rows_close(logits(model, input_ids=ids), by_hand(model, ids))


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2", "phi", "t5", "bert", "vit"])
def test_training_touches_it_alone_and_reaches_every_parameter(name: str) -> None:
    model = adapted(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = tokens()
    for _ in range(2):  # at the first step only the zeros get a gradient
        optimizer.zero_grad()
        loss = model(**feed(name, ids), labels=ids[:, 0] % 5 if name in VISION else ids).loss
        loss.backward()
        optimizer.step()
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in trained.values())
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert moved == trained.keys() and all("sparsegin_" in key for key in moved)


def test_what_is_adapted_where_experts_are() -> None:
    """Experts are one parameter of three axes, not linear layers; attention has its bottlenecks."""
    for name in ("mixtral", "gpt_oss"):
        keys = {one.within for one in adapted(name).base_model.sparsegin_linears}
        assert keys == {f"self_attn.{part}_proj" for part in "qkvo"}
    with pytest.raises(
        ValueError, match="target_modules names 'experts', which is no linear layer"
    ):
        adapted("mixtral", target_modules=["experts", "q_proj"])


def positions(model: Any, mask: Tensor) -> dict[str, Tensor]:
    if model.config.model_type in ("roberta", "esm"):
        return {}
    takes = "position_ids" in inspect.signature(model.get_base_model().forward).parameters
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if takes else {}


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_padding_changes_nothing(name: str) -> None:
    model, ids = shake(adapted(name)), tokens()
    want = logits(model, **feed(name, ids))
    for side in ("left", "right"):
        padding = torch.full((2, 4), 1 if name in ("roberta", "esm") else 0)
        padded = torch.cat((padding, ids) if side == "left" else (ids, padding), 1)
        real = slice(4, None) if side == "left" else slice(0, 11)
        mask = torch.zeros_like(padded)
        mask[:, real] = 1
        at = positions(model, mask)
        if side == "left" and name in ("distilbert", "bart") and not at:
            continue  # its positions count padding
        assert_rows_close(logits(model, **feed(name, padded, mask), **at)[:, real], want)


@pytest.mark.parametrize("name", [*DECODERS, "falcon", "gptj", "bloom"])
def test_cached_decoding_equals_the_full_forward_and_no_token_sees_a_later_one(name: str) -> None:
    model, ids = shake(adapted(name)), tokens()
    mask = left_padding(ids)
    at = positions(model, mask)
    full = logits(model, **feed(name, ids, mask), **at, use_cache=False)
    other = ids.clone()
    other[:, 6] = 30
    changed = logits(model, **feed(name, other, mask), **at, use_cache=False)
    assert torch.equal(changed[1, :6], full[1, :6]) and not torch.equal(changed[1, 7], full[1, 7])
    cache, parts = None, []
    for start, stop in [(0, 4), (4, 5), (5, 7), (7, 8), (8, 9), (9, 10), (10, 11)]:
        now = {key: value[:, start:stop] for key, value in at.items()}
        inputs = feed(name, ids[:, start:stop], mask[:, :stop])
        with torch.no_grad():
            out = model(**inputs, past_key_values=cache, use_cache=True, **now)
        cache = out.past_key_values
        parts.append(out.logits)
    real = mask.bool()
    assert_rows_close(torch.cat(parts, 1)[real], full[real])


GENERATE = {"max_new_tokens": 9, "min_new_tokens": 9, "pad_token_id": 0, "do_sample": False}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("llama", {"num_beams": 3}),
        ("mistral", {"num_beams": 2, "num_return_sequences": 2}),
        ("gpt2", {}),
        ("t5", {"num_beams": 2}),
    ],
)
def test_generating_with_a_cache_gives_what_it_gives_without(
    name: str, how: dict[str, Any]
) -> None:
    model, ids = shake(adapted(name)), tokens(2, 7)
    inputs = {"input_ids": ids, "attention_mask": left_padding(ids), **how, **GENERATE}
    assert torch.equal(
        model.generate(**inputs, use_cache=True), model.generate(**inputs, use_cache=False)
    )


def test_prompt_lookup_crops_what_the_cache_keeps() -> None:
    model, ids = shake(adapted("llama")), tokens(1, 5).repeat(1, 3)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **GENERATE}
    looked = model.generate(**inputs, prompt_lookup_num_tokens=3)
    assert torch.equal(looked, model.generate(**inputs))


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_what_is_done_to_a_cache_is_done_to_what_it_keeps(name: str) -> None:
    model, ids = shake(adapted(name)), tokens(2, 9)
    want = logits(model, input_ids=ids, use_cache=False)

    def filled(count: int) -> DynamicCache:
        cache = DynamicCache(config=model.config)
        logits(model, input_ids=ids[:, :count], past_key_values=cache)
        return cache

    cache = filled(5)
    cache.reorder_cache(torch.tensor([1, 0]))
    got = logits(model, input_ids=ids[[1, 0], 5:], past_key_values=cache)
    assert_rows_close(got, want[[1, 0], 5:])
    cache = filled(5)
    cache.batch_repeat_interleave(2)
    got = logits(model, input_ids=ids[:, 5:].repeat_interleave(2, 0), past_key_values=cache)
    assert_rows_close(got, want[:, 5:].repeat_interleave(2, 0))
    if name == "llama":
        cache = filled(8)
        cache.crop(-2)
        assert_rows_close(logits(model, input_ids=ids[:, 6:], past_key_values=cache), want[:, 6:])
        cache = filled(7)
        logits(model, input_ids=ids[:, 7:8], past_key_values=cache)
        cache.crop(-5)  # the step kept the codes of four tokens, and five are gone
        with pytest.raises(RuntimeError, match="was cropped to 3 tokens, further back than"):
            logits(model, input_ids=ids[:, 3:], past_key_values=cache)


def test_a_cache_that_another_adapter_filled_is_refused() -> None:
    model, ids = shake(adapted("llama")), tokens(2, 9)
    model.add_adapter("y", gf.SparseGINConfig(form="bottlenecks", relations=["chain"]))
    for how in ("disabled", "y"):
        cache = DynamicCache(config=model.config)
        if how == "disabled":
            with model.disable_adapter():
                logits(model, input_ids=ids[:, :5], past_key_values=cache)
        else:
            logits(model, input_ids=ids[:, :5], past_key_values=cache)
            model.set_adapter("y")
        with pytest.raises(RuntimeError, match=r"holds 5 tokens and adapter '.*' saw none of them"):
            logits(model, input_ids=ids[:, 5:], past_key_values=cache)


@pytest.mark.parametrize("relations", [["chain"], [gf.Chain(3), gf.Repeats(2)]], ids=str)
def test_a_cache_of_fixed_length_gives_the_same_text(relations) -> None:
    model, ids = shake(adapted("llama", relations=relations)), tokens(2, 9)
    mask = left_padding(ids)
    found = [
        model.generate(input_ids=ids, attention_mask=mask, **{**GENERATE, **how})
        for how in (
            {},
            {"cache_implementation": "static", "disable_compile": True},
            {"use_cache": False},
        )
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


STATIC = {"cache_implementation": "static", "disable_compile": True}


def test_a_cache_of_fixed_length_in_a_model_with_windows_in_some_layers() -> None:
    """There ``generate`` gives a mask for each kind of layer in the place of one."""
    model, ids = shake(adapted("gemma3_text")), tokens(2, 9)
    inputs = {"input_ids": ids, "attention_mask": left_padding(ids), **GENERATE}
    assert torch.equal(model.generate(**inputs, **STATIC), model.generate(**inputs))


def test_a_cache_of_fixed_length_that_forgets_what_relations_reach_is_refused() -> None:
    model, ids = shake(adapted("mistral")), tokens(2, 9)
    for mask in (left_padding(ids), torch.ones_like(ids)):
        with pytest.raises(NotImplementedError, match=r"5 tokens of a sliding.*cache_implementati"):
            model.generate(input_ids=ids, attention_mask=mask, **GENERATE, **STATIC)
    base = make("mistral")
    base.config.sliding_window = 18  # as many as the text will have
    model = shake(adapted("mistral", base))
    inputs = {"input_ids": ids, "attention_mask": left_padding(ids), **GENERATE}
    assert torch.equal(model.generate(**inputs, **STATIC), model.generate(**inputs))


def test_packed_texts_and_masks_of_pairs_keep_texts_apart() -> None:
    model, a, b = shake(adapted("llama")), tokens(1, 5), tokens(1, 7)
    both, at = torch.cat((a, b), 1), torch.cat((torch.arange(5), torch.arange(7)))[None]
    want = torch.cat((logits(model, input_ids=a), logits(model, input_ids=b)), 1)
    got = logits(model, input_ids=both, position_ids=at, use_cache=False)
    assert_rows_close(got, want)
    text = (torch.arange(12) >= 5).long()
    pairs = (text[:, None] == text) & torch.ones(12, 12).tril().bool()
    for mask in (pairs[None, None], torch.where(pairs, 0.0, -torch.inf)[None, None]):
        got = logits(model, input_ids=both, position_ids=at, attention_mask=mask, use_cache=False)
        assert_rows_close(got, want)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_activation_checkpointing_changes_no_gradient(name: str, reentrant: bool) -> None:
    ids, gradients = tokens(), []
    mask = left_padding(ids)
    for checkpointing in (False, True):
        model = shake(adapted(name)).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        # two runs, so that the layers of the first are computed again after the second
        total = sum(
            model(input_ids=one, attention_mask=mask, labels=one).loss for one in (ids, ids.flip(1))
        )
        total.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(gradients[0][key], gradients[1][key]) for key in gradients[0])


@pytest.mark.float32
@pytest.mark.parametrize("name", ["llama", "mixtral", "bert"])
def test_a_base_in_bfloat16_has_an_adapter_in_float32(name: str) -> None:
    base, ids = make(name).to(torch.bfloat16), tokens()
    before = logits(base, input_ids=ids)
    model = adapted(name, base)
    assert torch.equal(logits(model, input_ids=ids), before)
    assert len(model.peft_config["default"].relations) == (1 if name == "bert" else 5)
    kinds = {p.dtype for key, p in model.named_parameters() if "sparsegin_" in key}
    assert kinds == {torch.float32}
    assert logits(shake(model), input_ids=ids).dtype == torch.bfloat16


# ---------------------------------------------------------------------- rows and threads


def three(name: str) -> Any:
    """Adapters of both forms on one model."""
    model = adapted(name)
    model.add_adapter("y", gf.SparseGINConfig(hidden_dim=5, threshold=0.1))
    linear = {"activation": None, "relations": [], "target_modules": ["q_proj"]}
    model.add_adapter("z", gf.SparseGINConfig(form="bottlenecks", rank=2, **linear))
    return shake(model)


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_each_row_gets_its_own_adapter(name: str) -> None:
    """OPT folds the texts into one axis."""
    model, ids = three(name), tokens(4, 7)
    mask = left_padding(ids)
    names = ["z", "__base__", "default", "y"]
    got = logits(model, input_ids=ids, attention_mask=mask, adapter_names=names)
    inputs = {"input_ids": ids, "attention_mask": mask, **GENERATE}
    written = model.generate(**inputs, adapter_names=names)
    for row, one in enumerate(names):
        if one != "__base__":
            model.set_adapter(one)
        with model.disable_adapter() if one == "__base__" else torch.no_grad():
            want = logits(model, input_ids=ids, attention_mask=mask)
            alone = model.generate(**inputs)
        assert_rows_close(got[row], want[row])
        assert torch.equal(written[row], alone[row])
    cache = DynamicCache(config=model.config)
    logits(model, input_ids=ids[:, :5], past_key_values=cache, adapter_names=names)
    with pytest.raises(RuntimeError, match="did not see the cached tokens of some rows"):
        later = ["default", "__base__", "default", "y"]
        logits(model, input_ids=ids[:, 5:], past_key_values=cache, adapter_names=later)


def test_two_threads_generate_what_one_does() -> None:
    model = shake(adapted("llama"))

    def write(ids: Tensor) -> Tensor:
        return model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **{**GENERATE, "max_new_tokens": 3, "min_new_tokens": 3},
        )

    check_threads(write, [tokens(1, 5), tokens(2, 7)], threads=2, calls=8, gradients=False)


# ---------------------------------------------------------------------- messages, merging, models


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_neox_parallel", "t5"])
def test_messages_over_the_models_own_graph_are_a_part_of_it(name: str) -> None:
    base, ids = make(name), tokens()
    before = logits(base, **feed(name, ids))
    wide = {"placement": "beside_mlp"} if name in PARALLEL else {}
    model = adapted(name, base, messages={"threshold": 0.05, **wide})
    assert torch.equal(logits(model, **feed(name, ids)), before)
    gnn = next(one for key, one in model.named_modules() if key.endswith("sparsegin_gnn.default"))
    assert gnn.norm is None and gnn.layers[0].self_weight == 1
    full = logits(shake(model), **feed(name, ids), use_cache=False)
    with torch.no_grad():
        first = model(**feed(name, ids[:, :6]), use_cache=True)
        second = model(
            **feed(name, ids[:, 6:], torch.ones_like(ids))
            if name in SEQ2SEQ
            else {"input_ids": ids[:, 6:]},
            past_key_values=first.past_key_values,
        )
    assert_rows_close(torch.cat((first.logits, second.logits), 1), full)
    assert torch.equal(logits(model.unload(), **feed(name, ids)), before)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi", "bert", "vit"])
def test_what_is_linear_can_be_merged(name: str) -> None:
    linear = {"activation": None, "relations": []}
    model, inputs = shake(adapted(name, **linear)), feed(name, tokens())
    want, names = logits(model, **inputs), list(make(name).state_dict())
    model.merge_adapter()
    assert_rows_close(logits(model, **inputs), want)
    assert model.get_model_status().merged_adapters == ["default"]
    model.unmerge_adapter()
    assert_rows_close(logits(model, **inputs), want)
    merged = model.merge_and_unload(safe_merge=True)
    assert_rows_close(logits(merged, **inputs), want)
    assert list(merged.state_dict()) == names
    assert any(isinstance(module, Conv1D) for module in merged.modules()) == (name == "gpt2")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"relations": []}, "activation='silu' is not linear"),
        ({"activation": None, "relations": ["chain"]}, "relations=Chain.* carry what other tokens"),
        ({"activation": None, "relations": [], "messages": {}}, "messages depend on the attention"),
    ],
)
def test_what_is_not_linear_is_not_merged(settings: dict[str, Any], reason: str) -> None:
    model, ids = shake(adapted("llama", **settings)), tokens()
    want = logits(model, input_ids=ids)
    remedy = r".*train one with activation=None, relations=\[\] and messages=None"
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match=reason + remedy):
            merge()
    assert torch.equal(logits(model, input_ids=ids), want)


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("wav2vec2", {}, "adapts models over input_ids or pixel_values.*takes input_values"),
        (
            "vit",
            {"relations": ["chain"]},
            "are between the tokens of a text.*give relations=\\[\\]",
        ),
        ("bert", {"relations": ["repeats"]}, "every token of BertForMaskedLM .* sees later ones"),
        ("falcon", {"messages": {}}, "does not call transformers' AttentionInterface"),
        ("phi", {"messages": {}}, "side by side.*use placement='beside_mlp'"),
    ],
)
def test_models_that_cannot_have_it_are_refused_and_left_alone(
    name: str, settings: dict[str, Any], text: str
) -> None:
    base = make(name)
    names, implementation = list(dict(base.named_modules())), base.config._attn_implementation
    with pytest.raises(UnsupportedModel, match=text):
        adapted(name, base, **settings)
    assert list(dict(base.named_modules())) == names
    assert base.config._attn_implementation == implementation
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in base.modules())


def test_every_refused_architecture_of_the_papers_form_is_known_here() -> None:
    assert {*NO_GRAPH, "wav2vec2"} == set(REFUSED)
