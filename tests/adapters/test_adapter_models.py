"""The adapter's laws on every architecture it stands in, and the refusals of those where it
cannot.
"""

import inspect

import peft
import pytest
import torch

import graphformer as gf
from graphformer.adapters import UnsupportedModel
from graphformer.adapters.looking import adapted_layers
from graphformer.frozen import capture
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

TEXT = [*DECODERS, *ENCODERS]
ALL = [*TEXT, *VISION]
PLACES = [
    (name, place)
    for name in ALL
    for place in (["beside_mlp"] if name in PARALLEL else ["before_mlp", "after_mlp"])
]


def tokens(batch=2, length=11):
    return torch.randint(4, 61, (batch, length))


def positions(model, mask):
    """Positions that do not count padding, where a model takes them and does not make such
    itself.
    """
    if model.config.model_type in ("roberta", "esm"):
        return {}
    takes = "position_ids" in inspect.signature(model.get_base_model().forward).parameters
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if takes else {}


def adapted(name, base=None, **settings):
    base = make(name) if base is None else base
    placement = "beside_mlp" if name in PARALLEL else "before_mlp"
    return peft.get_peft_model(
        base, gf.SparseGINConfig(**{"hidden_dim": 7, "placement": placement, **settings})
    ).eval()


def shake(model):
    """As if it had been trained: every adapter parameter at random."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sparsegin" in name:
                parameter.normal_(std=0.5)
    return model


@pytest.mark.parametrize(("name", "placement"), PLACES)
def test_step_zero_is_the_identity_and_unload_restores(name, placement):
    base, ids = make(name), tokens()
    implementation = base.config._attn_implementation
    left, right = torch.ones_like(ids), torch.ones_like(ids)
    left[0, :3], right[1, 7:] = 0, 0
    inputs = [feed(name, ids, mask) for mask in ([None] if name in VISION else [None, left, right])]
    with torch.no_grad():
        before = [base(**x).logits for x in inputs]
        model = adapted(name, base, placement=placement)
        assert [
            float((model(**x).logits - y).abs().max()) for x, y in zip(inputs, before, strict=True)
        ] == [0] * len(inputs)
        shake(model)
        assert (
            min(
                float((model(**x).logits - y).abs().max())
                for x, y in zip(inputs, before, strict=True)
            )
            > 1e-3
        )
        again = model.unload()
        assert [
            float((again(**x).logits - y).abs().max()) for x, y in zip(inputs, before, strict=True)
        ] == [0] * len(inputs)
    assert again.config._attn_implementation == implementation
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in again.modules())


@pytest.mark.parametrize("name", ALL)
def test_training_touches_the_adapter_alone(name):
    model = adapted(name, scale_start=0.25).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = tokens()
    for step in range(3):
        loss = model(**feed(name, ids), labels=ids[:, 0] % 5 if name in VISION else ids).loss
        loss.backward()
        # at the first step all gradients but those of the zeros that make it the identity are 0
        if step:
            without = [
                key
                for key, p in model.named_parameters()
                if p.requires_grad and (p.grad is None or not bool(p.grad.isfinite().all()))
            ]
            assert without == []
        optimizer.step()
        optimizer.zero_grad()
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert moved and all("sparsegin" in key for key in moved)
    assert {key for key, p in model.named_parameters() if p.requires_grad} == moved


@pytest.mark.parametrize("name", DECODERS)
def test_causal(name):
    model, ids = shake(adapted(name, depth=2)), tokens()
    other = ids.clone()
    other[:, 6] = (ids[:, 6] - 4 + 17) % 57 + 4
    with torch.no_grad():
        a, b = model(**feed(name, ids)).logits, model(**feed(name, other)).logits
    assert float((a - b)[:, :6].abs().max()) == 0
    assert float((a - b)[:, 7:].abs().max()) > 0


@pytest.mark.parametrize("name", ALL)
def test_messages_go_from_key_to_query_and_with_direction_self_nowhere(name):
    """What reaches token i from token j, beside what the frozen model passes on: the network run
    again with token j's features changed.
    """
    for direction in ("key_to_query", "self"):
        model, seen = shake(adapted(name, direction=direction, threshold=0.1)), []
        # both in the decoder of two
        gnns = [
            module for key, module in model.named_modules() if key.endswith("sparsegin_gnn.default")
        ][-2:]
        handles = [
            gnn.register_forward_hook(
                lambda module, args, out, seen=seen: seen.append((module, *args[:2]))
            )
            for gnn in gnns
        ]
        changed = torch.zeros(1, dtype=torch.bool)
        with torch.no_grad():
            model(**feed(name, tokens()), **({"use_cache": False} if name in DECODERS else {}))
            for handle in handles:
                handle.remove()
            for gnn, h, graph in seen:
                other = h.clone()
                other[:, 4] += 1
                changed = changed | ((gnn(h, graph) - gnn(other, graph)).abs().amax(dim=(0, 2)) > 0)
        if direction == "self":
            assert changed.nonzero().flatten().tolist() == [4]
        else:
            assert changed[5:].any()
            assert bool(changed[:4].any()) == (name not in DECODERS)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", TEXT)
def test_padding_changes_nothing(name, side):
    model, ids = shake(adapted(name, depth=2)), tokens(3)
    width, real = 4, slice(4, None) if side == "left" else slice(0, 11)
    padding = torch.full((3, width), 1 if name in ("roberta", "esm") else 0)
    padded = torch.cat((padding, ids) if side == "left" else (ids, padding), 1)
    mask = torch.zeros_like(padded)
    mask[:, real] = 1
    if side == "left" and name in ("distilbert", "bart") and not positions(model, mask):
        pytest.skip("its positions count padding")
    with torch.no_grad():
        want = model(**feed(name, ids)).logits
        out = model(**feed(name, padded, mask), **positions(model, mask)).logits
    assert_rows_close(out[:, real], want)


@pytest.mark.parametrize("name", DECODERS)
def test_cached_decoding_equals_the_full_forward(name):
    model, ids = shake(adapted(name, depth=2)), tokens()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    at = positions(model, mask)
    with torch.no_grad():
        full = model(**feed(name, ids, mask), **at, use_cache=False).logits
        cache, parts = None, []
        for start, stop in [(0, 4), (4, 5), (5, 7), (7, 8), (8, 9), (9, 10), (10, 11)]:
            now = {key: value[:, start:stop] for key, value in at.items()}
            out = model(
                **feed(name, ids[:, start:stop], mask[:, :stop]),
                past_key_values=cache,
                use_cache=True,
                **now,
            )
            cache = out.past_key_values
            parts.append(out.logits)
    real = mask.bool()
    assert_rows_close(torch.cat(parts, 1)[real], full[real])


@pytest.mark.parametrize("name", ALL)
def test_saved_and_loaded_under_another_name_it_is_the_same(name, tmp_path):
    model, ids = shake(adapted(name, depth=2)), tokens()
    with torch.no_grad():
        want = model(**feed(name, ids)).logits
        model.save_pretrained(tmp_path)
        again = peft.PeftModel.from_pretrained(make(name), tmp_path, adapter_name="other").eval()
        assert torch.equal(again(**feed(name, ids)).logits, want)


@pytest.mark.parametrize("name", REFUSED)
def test_other_architectures_are_refused_by_name_and_left_alone(name):
    base = make(name)
    implementation = base.config._attn_implementation
    with pytest.raises(UnsupportedModel, match=name):
        adapted(name, base)
    assert base.config._attn_implementation == implementation
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in base.modules())
    assert not any("_graphformer" in key for module in base.modules() for key in vars(module))


@pytest.mark.parametrize("name", PARALLEL)
def test_in_a_parallel_block_the_message_joins_the_layers_output(name):
    """out = residual + attention + mlp + f(residual + attention), and the two other places do not
    exist.
    """
    for placement in ("before_mlp", "after_mlp"):
        with pytest.raises(
            UnsupportedModel, match=r"side by side.*'beside_mlp'|whose output, with.*'beside_mlp'"
        ):
            adapted(name, placement=placement)
    with pytest.raises(
        UnsupportedModel, match=r"beside_mlp.*cannot stand there; use placement='before_mlp'"
    ):
        adapted("llama", placement="beside_mlp")
    model, seen, ids = shake(adapted(name, layers_to_transform=[0])), {}, tokens()
    layer = next(module for key, module in model.named_modules() if key.endswith("layers.0"))
    attention = layer.attention if hasattr(layer, "attention") else layer.self_attn
    gnn = next(
        module for key, module in model.named_modules() if key.endswith("sparsegin_gnn.default")
    )
    scale = next(value for key, value in model.named_parameters() if "sparsegin_scale" in key)
    attention.register_forward_hook(
        lambda module, args, out: seen.setdefault("attention", []).append(out[0])
    )
    gnn.register_forward_hook(
        lambda module, args, out: seen.setdefault("gnn", []).append((args[0], out))
    )
    layer.register_forward_hook(
        lambda module, args, out: seen.setdefault("layer", []).append(
            (args[0], out[0] if type(out) is tuple else out)
        )
    )
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
        with model.disable_adapter():
            model(input_ids=ids, use_cache=False)
    (residual, out), (_, plain) = seen["layer"]
    h, message = seen["gnn"][0]
    message = message[0] if isinstance(message, tuple) else message
    torch.testing.assert_close(h, residual + seen["attention"][1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out, plain + scale * message, atol=1e-5, rtol=1e-5)


class Ear:
    def __init__(self):
        self.heard = []

    def hear(self, attention):
        self.heard.append(attention)


@pytest.mark.parametrize("name", ALL)
def test_the_graph_is_that_of_the_models_own_attention_weights(name):
    """min(sum over heads, 1) of the weights that the model's eager attention returns, cut; biases,
    windows and sinks included.
    """
    base, ids = make(name), tokens()
    base.set_attn_implementation("eager")
    with torch.no_grad():
        out = base(**feed(name, ids), output_attentions=True)
    stacks = (
        [out.encoder_attentions, out.decoder_attentions] if name in SEQ2SEQ else [out.attentions]
    )
    wanted = [weights for stack in stacks for weights in stack]
    model, ears = adapted(name), []
    for layer in adapted_layers(model).values():
        ears.append(Ear())
        capture.listen(layer.place.caller, ears[-1])
    with torch.no_grad():
        model(**feed(name, ids))
    assert len(ears) == len(wanted) > 0
    for ear, weights in zip(ears, wanted, strict=True):
        merged = weights.sum(1).clamp(max=1)
        graph = ear.heard[0].graph(gf.Threshold(0.05), merged=True, clamp=1.0)
        # Rotations, norms and softmax are float32 in some models, whatever they are made in.
        torch.testing.assert_close(graph.to_dense(), merged * (merged > 0.05), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_mask_that_adds_to_the_scores_is_in_the_graph(implementation):
    """A float mask of the caller's own is more than allowed and forbidden."""
    base, ids = make("bert"), tokens()
    base.set_attn_implementation("eager")
    mask = torch.randn(2, 1, 11, 11) * 2
    mask[0, :, :, 8:] = torch.finfo(torch.float32).min
    with torch.no_grad():
        wanted = base(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
        base.set_attn_implementation(implementation)
        model, ear = adapted("bert", base), Ear()
        capture.listen(next(iter(adapted_layers(model).values())).place.caller, ear)
        model(input_ids=ids, attention_mask=mask)
    graph = ear.heard[0].graph(gf.Threshold(0.0), merged=True, clamp=1.0)
    torch.testing.assert_close(
        graph.to_dense(), wanted[0].sum(1).clamp(max=1), atol=1e-5, rtol=1e-5
    )
