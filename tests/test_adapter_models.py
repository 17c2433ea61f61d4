"""The adapter's laws on every architecture it stands in, and the refusals of those where it cannot."""

import inspect

import peft
import pytest
import torch
from adapter_models import DECODERS, ENCODERS, REFUSED, make

import graphformer as gf
from graphformer.adapters import UnsupportedModel

BOTH = [*DECODERS, *ENCODERS]


def tokens(batch=2, length=11):
    return torch.randint(4, 61, (batch, length))


def positions(model, mask):
    """Positions that do not count padding, where a model takes them and does not make such itself."""
    if model.config.model_type in ("roberta", "esm"):
        return {}
    takes = "position_ids" in inspect.signature(model.get_base_model().forward).parameters
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if takes else {}


def adapted(name, base=None, **settings):
    base = make(name) if base is None else base
    return peft.get_peft_model(base, gf.SparseGINConfig(**{"hidden_dim": 7, **settings})).eval()


def shake(model):
    """As if it had been trained: every adapter parameter at random."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sparsegin" in name:
                parameter.normal_(std=0.5)
    return model


@pytest.mark.parametrize("placement", ["before_mlp", "after_mlp"])
@pytest.mark.parametrize("name", BOTH)
def test_step_zero_is_the_identity_and_unload_restores(name, placement):
    base, ids = make(name), tokens()
    implementation = base.config._attn_implementation
    left, right = torch.ones_like(ids), torch.ones_like(ids)
    left[0, :3], right[1, 7:] = 0, 0
    inputs = [{"input_ids": ids}, {"input_ids": ids, "attention_mask": left}, {"input_ids": ids, "attention_mask": right}]
    with torch.no_grad():
        before = [base(**x).logits for x in inputs]
        model = adapted(name, base, placement=placement)
        assert [float((model(**x).logits - y).abs().max()) for x, y in zip(inputs, before, strict=True)] == [0, 0, 0]
        shake(model)
        assert min(float((model(**x).logits - y).abs().max()) for x, y in zip(inputs, before, strict=True)) > 1e-3
        again = model.unload()
        assert [float((again(**x).logits - y).abs().max()) for x, y in zip(inputs, before, strict=True)] == [0, 0, 0]
    assert again.config._attn_implementation == implementation
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in again.modules())


@pytest.mark.parametrize("name", BOTH)
def test_training_touches_the_adapter_alone(name):
    model = adapted(name, scale_start=0.25).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = tokens()
    for step in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        if step:  # at the first step all gradients but those of the zeros that make it the identity are 0
            without = [
                key for key, p in model.named_parameters() if p.requires_grad and (p.grad is None or not bool(p.grad.isfinite().all()))
            ]
            assert without == []
        optimizer.step()
        optimizer.zero_grad()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved and all("sparsegin" in key for key in moved)
    assert {key for key, p in model.named_parameters() if p.requires_grad} == moved


@pytest.mark.parametrize("name", DECODERS)
def test_causal(name):
    model, ids = shake(adapted(name, depth=2)), tokens()
    other = ids.clone()
    other[:, 6] = (ids[:, 6] - 4 + 17) % 57 + 4
    with torch.no_grad():
        a, b = model(input_ids=ids).logits, model(input_ids=other).logits
    assert float((a - b)[:, :6].abs().max()) == 0
    assert float((a - b)[:, 7:].abs().max()) > 0


@pytest.mark.parametrize("name", BOTH)
def test_messages_go_from_key_to_query_and_with_direction_self_nowhere(name):
    """What reaches token i from token j, beside what the frozen model passes on: the network run again with token j's features changed."""
    for direction in ("key_to_query", "self"):
        model, seen = shake(adapted(name, direction=direction, threshold=0.1)), []
        gnn = next(module for key, module in model.named_modules() if key.endswith("sparsegin_gnn.default"))
        handle = gnn.register_forward_hook(lambda module, args, out, seen=seen: seen.append(args))
        with torch.no_grad():
            model(input_ids=tokens(), use_cache=False) if name in DECODERS else model(input_ids=tokens())
            handle.remove()
            h, graph = seen[0][:2]
            other = h.clone()
            other[:, 4] += 1
            changed = (gnn(h, graph) - gnn(other, graph)).abs().amax(dim=(0, 2)) > 0
        if direction == "self":
            assert changed.nonzero().flatten().tolist() == [4]
        else:
            assert changed[5:].any()
            assert bool(changed[:4].any()) == (name in ENCODERS)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", BOTH)
def test_padding_changes_nothing(name, side):
    model, ids = shake(adapted(name, depth=2)), tokens(3)
    width, real = 4, slice(4, None) if side == "left" else slice(0, 11)
    padding = torch.full((3, width), 1 if name in ("roberta", "esm") else 0)
    padded = torch.cat((padding, ids) if side == "left" else (ids, padding), 1)
    mask = torch.zeros_like(padded)
    mask[:, real] = 1
    if side == "left" and name == "distilbert" and not positions(model, mask):
        pytest.skip("its positions count padding")
    with torch.no_grad():
        want = model(input_ids=ids).logits
        out = model(input_ids=padded, attention_mask=mask, **positions(model, mask)).logits
    torch.testing.assert_close(out[:, real], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_cached_decoding_equals_the_full_forward(name):
    model, ids = shake(adapted(name, depth=2)), tokens()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    at = positions(model, mask)
    with torch.no_grad():
        full = model(input_ids=ids, attention_mask=mask, **at, use_cache=False).logits
        cache, parts = None, []
        for start, stop in [(0, 4), (4, 5), (5, 7), (7, 8), (8, 9), (9, 10), (10, 11)]:
            now = {key: value[:, start:stop] for key, value in at.items()}
            out = model(input_ids=ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache, use_cache=True, **now)
            cache = out.past_key_values
            parts.append(out.logits)
    real = mask.bool()
    torch.testing.assert_close(torch.cat(parts, 1)[real], full[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BOTH)
def test_saved_and_loaded_under_another_name_it_is_the_same(name, tmp_path):
    model, ids = shake(adapted(name, depth=2)), tokens()
    with torch.no_grad():
        want = model(input_ids=ids).logits
        model.save_pretrained(tmp_path)
        again = peft.PeftModel.from_pretrained(make(name), tmp_path, adapter_name="other").eval()
        assert torch.equal(again(input_ids=ids).logits, want)


@pytest.mark.parametrize("name", REFUSED)
def test_other_architectures_are_refused_by_name_and_left_alone(name):
    base = make(name)
    implementation = base.config._attn_implementation
    with pytest.raises(UnsupportedModel, match=name):
        adapted(name, base)
    assert base.config._attn_implementation == implementation
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in base.modules())
    assert not any("_graphformer" in key for module in base.modules() for key in vars(module))


def test_gpt_neox_with_blocks_one_after_the_other_is_adapted():
    import transformers as tf

    sizes = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**sizes, use_parallel_residual=False)).eval()
    ids = tokens()
    with torch.no_grad():
        want = base(input_ids=ids).logits
        assert torch.equal(adapted("gpt_neox", base)(input_ids=ids).logits, want)
