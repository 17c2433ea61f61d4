"""The adapter in models of two stacks, T5 above all: the position bias is in the graph,
cross-attention is left out.
"""

import peft
import pytest
import torch
from torch.testing import assert_close
from transformers import (
    CLIPConfig,
    CLIPModel,
    LongT5Config,
    LongT5ForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

import graphformer as gf
from graphformer.adapters import UnsupportedModel, edges_per_token, scales
from graphformer.adapters.looking import adapted_layers
from graphformer.attention.executors import blocks
from graphformer.frozen import capture
from tests.adapter_models import SEQ2SEQ, feed, make

pytestmark = pytest.mark.usefixtures("float64")

GENERATE = {
    "max_new_tokens": 9,
    "min_new_tokens": 6,
    "output_scores": True,
    "return_dict_in_generate": True,
}


def adapted(name="t5", **settings):
    config = gf.SparseGINConfig(
        **{"task_type": "SEQ_2_SEQ_LM", "hidden_dim": 7, "depth": 2, **settings}
    )
    return peft.get_peft_model(make(name), config).eval()


def shake(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "sparsegin" in key:
                parameter.normal_(std=0.5)
    return model


def tokens(length=11):
    return torch.randint(4, 61, (2, length))


class Ear:
    def __init__(self):
        self.heard = []

    def hear(self, attention):
        self.heard.append(attention)


def listen(model):
    ears = {name: Ear() for name in adapted_layers(model)}
    for name, layer in adapted_layers(model).items():
        capture.listen(layer.place.caller, ears[name])
    return ears


def naive(attention, bias, hidden, keep):
    """min(sum over heads of softmax(q k^T * scaling + bias + mask), 1), from whole matrices; rows
    without a key are 0.
    """
    q, k = (
        part(hidden).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)
        for part in (attention.q, attention.k)
    )
    scores = (q @ k.mT * attention.scaling + bias).masked_fill(~keep, -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0).sum(1).clamp(max=1)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("limit", [1, 100, 2**18])
def test_the_graph_holds_the_position_bias_mask_and_padding(monkeypatch, implementation, limit):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", limit)
    base, hidden = make("t5"), {}
    base.set_attn_implementation(implementation)
    model = peft.get_peft_model(base, gf.SparseGINConfig(hidden_dim=7)).eval()
    ears = listen(model)
    for name, layer in adapted_layers(model).items():
        layer.place.caller.register_forward_pre_hook(
            lambda module, args, name=name: hidden.__setitem__(name, args[0])
        )
    inputs = feed("t5", tokens(), torch.ones(2, 11))
    inputs["decoder_attention_mask"][1, :4] = 0
    with torch.no_grad():
        model(**inputs)
        for stack, mask in (("encoder", "attention_mask"), ("decoder", "decoder_attention_mask")):
            padding = inputs[mask].bool()[:, None, None]
            length = padding.shape[-1]
            keep = padding & (
                torch.ones(length, length, dtype=torch.bool).tril() if stack == "decoder" else True
            )
            bias = getattr(base, stack).block[0].layer[0].SelfAttention.compute_bias(length, length)
            own = {
                name: layer
                for name, layer in adapted_layers(model).items()
                if name.startswith(stack)
            }
            assert len(own) == {"encoder": 3, "decoder": 2}[stack]
            for name, layer in own.items():
                wanted = naive(layer.place.caller, bias, hidden[name], keep)
                without = naive(layer.place.caller, 0 * bias, hidden[name], keep)
                graph = ears[name].heard[0].graph(gf.Threshold(0.0), merged=True, clamp=1.0)
                assert_close(graph.to_dense(), wanted, atol=1e-5, rtol=1e-5)
                assert float((without - wanted).abs().max()) > 0.05


def test_in_decoding_a_new_token_has_the_edges_it_has_in_a_full_pass():
    model, ids = shake(adapted()), tokens()
    inputs = feed("t5", ids)
    with torch.no_grad():
        ears = listen(model)
        model(**inputs, use_cache=False)
        full = {
            name: ear.heard.pop().graph(gf.Threshold(0.0), merged=True, clamp=1.0).to_dense()
            for name, ear in ears.items()
        }
        cache = model(**feed("t5", ids[:, :10]), use_cache=True).past_key_values
        for ear in ears.values():
            ear.heard.clear()
        model(**feed("t5", ids[:, 10:]), past_key_values=cache, use_cache=True)
    for name, ear in ears.items():
        if name.startswith("decoder"):
            last = ear.heard.pop().graph(gf.Threshold(0.0), merged=True, clamp=1.0).to_dense()
            assert_close(last[:, 0], full[name][:, -1], atol=1e-5, rtol=1e-5)


def test_both_stacks_are_adapted_and_cross_attention_is_not():
    model = adapted()
    assert isinstance(model, peft.PeftModelForSeq2SeqLM)
    assert list(adapted_layers(model)) == [
        f"{stack}.block.{i}.layer.0.SelfAttention"
        for stack, count in (("encoder", 3), ("decoder", 2))
        for i in range(count)
    ]
    inputs = feed("t5", tokens())
    shake(model)
    with torch.no_grad():
        seen = [layer.edgeless for layer in adapted_layers(model).values()]
        model(**inputs)
    assert not any(one.warned for one in seen)
    assert set(edges_per_token(model, **inputs)) == set(adapted_layers(model))


def test_lambda_runs_from_start_to_end_in_each_stack():
    values = list(scales(adapted(scale_start=0.1, scale_end=0.5)).values())
    assert values == pytest.approx([0.1, 0.3, 0.5, 0.1, 0.5])


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"target_modules": r"encoder\..*"}, ["encoder.0", "encoder.1", "encoder.2"]),
        ({"exclude_modules": r"encoder\..*"}, ["decoder.0", "decoder.1"]),
        ({"layers_to_transform": [1]}, ["encoder.1", "decoder.1"]),
        ({"layers_to_transform": [2], "layers_pattern": "block"}, ["encoder.2"]),
    ],
)
def test_one_stack_or_some_layers_alone(settings, wanted):
    model = shake(adapted(**settings))
    found = [
        name.replace(".block", "").replace(".layer.0.SelfAttention", "")
        for name in adapted_layers(model)
    ]
    assert found == wanted
    with torch.no_grad():
        model(**feed("t5", tokens()))


@pytest.mark.parametrize(
    "how", [{"do_sample": False}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}]
)
@pytest.mark.parametrize("name", SEQ2SEQ)
def test_generation_with_a_cache_equals_generation_without(name, how):
    model = shake(adapted(name))
    inputs = {
        key: value for key, value in feed(name, tokens()).items() if not key.startswith("decoder")
    }
    with_cache, without = (
        model.generate(**inputs, use_cache=cache, **how, **GENERATE) for cache in (True, False)
    )
    assert torch.equal(with_cache.sequences, without.sequences)
    for a, b in zip(with_cache.scores, without.scores, strict=True):
        assert_close(a, b, atol=1e-5, rtol=1e-5)
    with model.disable_adapter():
        plain = model.generate(**inputs, **how, **GENERATE)
    assert not torch.equal(plain.scores[0], with_cache.scores[0])


def test_generation_does_not_see_the_padding_of_the_source():
    model = shake(adapted())
    source = tokens(7)
    padded = torch.cat((torch.zeros(2, 4, dtype=torch.long), source), 1)
    a = model.generate(
        input_ids=source, attention_mask=torch.ones_like(source), do_sample=False, **GENERATE
    )
    b = model.generate(
        input_ids=padded, attention_mask=(padded != 0).long(), do_sample=False, **GENERATE
    )
    assert torch.equal(a.sequences, b.sequences)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_it_learns_under_activation_checkpointing_with_the_same_gradients(name):
    inputs, gradients = feed(name, tokens()), []
    for checkpointing in (False, True):
        model = shake(adapted(name, dropout=0.0))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.get_base_model().train()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.eval()
                for rate in ("dropout", "activation_dropout", "attention_dropout"):
                    if isinstance(getattr(module, rate, None), float):
                        setattr(module, rate, 0.0)
        model(**inputs, labels=inputs["decoder_input_ids"], use_cache=False).loss.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
    assert set(gradients[0]) == set(gradients[1])
    for key, gradient in gradients[0].items():
        assert_close(gradients[1][key], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.float32
def test_a_loss_falls_and_the_saved_adapter_is_read_by_the_auto_class(tmp_path):
    base = make("t5")
    base.save_pretrained(tmp_path / "base")
    model = peft.get_peft_model(
        type(base).from_pretrained(tmp_path / "base"),
        gf.SparseGINConfig(task_type="SEQ_2_SEQ_LM", hidden_dim=7, scale_start=0.2),
    ).train()
    source, target = tokens(), tokens(6)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    losses = []
    for _ in range(25):
        loss = model(input_ids=source, labels=target).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    model.eval().save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        again = peft.AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter").eval()
        assert torch.equal(
            again(input_ids=source, labels=target).logits,
            model(input_ids=source, labels=target).logits,
        )


def test_an_encoder_without_its_decoder():
    torch.manual_seed(0)
    base = T5EncoderModel(
        T5Config(vocab_size=61, d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4)
    ).eval()
    ids = tokens()
    with torch.no_grad():
        wanted = base(input_ids=ids).last_hidden_state
        model = peft.get_peft_model(
            base, gf.SparseGINConfig(task_type="FEATURE_EXTRACTION", hidden_dim=7)
        ).eval()
        assert torch.equal(model(input_ids=ids).last_hidden_state, wanted)
        assert list(scales(model).values()) == [0.0, 0.5]
        assert not torch.equal(shake(model)(input_ids=ids).last_hidden_state, wanted)
        assert torch.equal(model.unload()(input_ids=ids).last_hidden_state, wanted)


def test_it_is_as_large_as_a_lora():
    base = make("t5")
    lora = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=8, target_modules=["q", "v"])
    config = gf.match_parameters(base, lora, tolerance=0.05)
    assert config.task_type == "SEQ_2_SEQ_LM" and config.hidden_dim > 1


def test_half_precision():
    base, inputs = make("t5").to(torch.bfloat16), feed("t5", tokens())
    with torch.no_grad():
        wanted = base(**inputs).logits
        model = peft.get_peft_model(base, gf.SparseGINConfig(hidden_dim=7)).eval()
        assert torch.equal(model(**inputs).logits, wanted)
        assert shake(model)(**inputs).logits.isfinite().all()


def test_a_model_that_needs_more_than_it_can_be_fed_is_refused_by_name():
    vision = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 8,
        "patch_size": 4,
    }
    text = {**vision, "vocab_size": 61, "max_position_embeddings": 16}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    with pytest.raises(UnsupportedModel, match=r"CLIPModel.*no token embeddings"):
        peft.get_peft_model(clip, gf.SparseGINConfig())

    def fail(input_ids):
        raise ValueError("pixels are missing")

    base = make("t5")
    base.forward = fail
    with pytest.raises(
        UnsupportedModel,
        match=r"T5ForConditionalGeneration.*pass on input_ids alone failed: pixels are missing",
    ):
        peft.get_peft_model(base, gf.SparseGINConfig())


def test_a_stack_whose_attention_cannot_be_read_is_named():
    """LongT5's encoder has an attention of its own; its decoder has T5's."""
    sizes = {
        "vocab_size": 61,
        "d_model": 24,
        "d_kv": 6,
        "d_ff": 40,
        "num_layers": 2,
        "num_heads": 4,
        "local_radius": 3,
    }
    base = LongT5ForConditionalGeneration(LongT5Config(**sizes, decoder_start_token_id=0))
    with pytest.warns(
        UserWarning,
        match=r"cannot read the attention of encoder\.block in LongT5ForConditionalGeneration",
    ):
        model = peft.get_peft_model(base, gf.SparseGINConfig(hidden_dim=7)).eval()
    assert {name.split(".")[0] for name in adapted_layers(model)} == {"decoder"}
