"""The adapter in encoders of images: no tokens, no mask, no padding; graphs over patches."""

import peft
import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTForMaskedImageModeling,
    ViTModel,
)

import graphformer as gf
from graphformer.adapters import UnsupportedModel, edges_per_token, scales
from graphformer.adapters.looking import adapted_layers
from graphformer.frozen import probe
from tests.adapter_models import IMAGE, PATCH, VISION, feed, make

pytestmark = pytest.mark.usefixtures("float64")


def pixels():
    return feed("vit", torch.randint(4, 61, (2, 9)))


def shake(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "sparsegin" in key:
                parameter.normal_(std=0.5)
    return model


@pytest.mark.parametrize(
    "make_base",
    [
        lambda: ViTModel(ViTConfig(**IMAGE)),
        lambda: ViTModel(ViTConfig(**IMAGE), add_pooling_layer=False),
        lambda: Dinov2Model(Dinov2Config(**{**IMAGE, "image_size": 7 * PATCH})),
        lambda: DINOv3ViTModel(DINOv3ViTConfig(**{**IMAGE, "hidden_size": 32})),
        lambda: CLIPVisionModel(CLIPVisionConfig(**IMAGE)),
    ],
    ids=["vit", "vit without a pooler", "dinov2", "dinov3", "clip_vision_model"],
)
def test_models_without_a_head(make_base):
    torch.manual_seed(0)
    base, inputs = make_base().eval(), pixels()
    with torch.no_grad():
        wanted = base(**inputs).last_hidden_state
        model = peft.get_peft_model(base, gf.SparseGINConfig(hidden_dim=7)).eval()
        assert torch.equal(model(**inputs).last_hidden_state, wanted)
        assert float((shake(model)(**inputs).last_hidden_state - wanted).abs().max()) > 1e-3
        assert torch.equal(model.unload()(**inputs).last_hidden_state, wanted)


def test_a_classifier_learns_with_its_head_and_is_saved(tmp_path):
    config = gf.SparseGINConfig(hidden_dim=7, scale_start=0.2, modules_to_save=["classifier"])
    model, inputs, labels = (
        peft.get_peft_model(make("vit"), config).train(),
        pixels(),
        torch.tensor([1, 3]),
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    model.eval().save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(**inputs).logits
        again = peft.PeftModel.from_pretrained(make("vit"), tmp_path, adapter_name="other").eval()
        assert torch.equal(again(**inputs).logits, wanted)


@pytest.mark.parametrize("name", VISION)
def test_one_adapter_a_layer_and_a_graph_over_patches(name):
    base = make(name)
    model = shake(peft.get_peft_model(base, gf.SparseGINConfig(hidden_dim=7, threshold=0.1)).eval())
    assert len(scales(model)) == 3 and list(
        scales(peft.get_peft_model(make(name), gf.SparseGINConfig())).values()
    ) == [0, 0.25, 0.5]
    assert all(0 < edges <= 11 for edges in edges_per_token(model, **pixels()).values())


def test_a_vit_in_two_sizes_of_images():
    """Positions are interpolated by the model; the graph has as many tokens as the image has
    patches.
    """
    model = shake(peft.get_peft_model(make("vit"), gf.SparseGINConfig(hidden_dim=7)).eval())
    with torch.no_grad():
        assert (
            model(torch.randn(2, 3, 4 * PATCH, 4 * PATCH), interpolate_pos_encoding=True)
            .logits.isfinite()
            .all()
        )


def test_masked_images():
    torch.manual_seed(0)
    base = ViTForMaskedImageModeling(ViTConfig(**IMAGE, encoder_stride=PATCH)).eval()
    inputs = {**pixels(), "bool_masked_pos": torch.arange(9).expand(2, 9) % 2 == 0}
    with torch.no_grad():
        wanted = base(**inputs).reconstruction
        assert torch.equal(
            peft.get_peft_model(base, gf.SparseGINConfig(hidden_dim=7))
            .eval()(**inputs)
            .reconstruction,
            wanted,
        )


def test_half_precision_and_dropout_shared_by_attention_and_feed_forward():
    """ViT calls one dropout after both: the adapter does not follow it, and trains."""
    base, inputs = make("vit").to(torch.bfloat16), pixels()
    with torch.no_grad():
        wanted = base(**inputs).logits
        model = peft.get_peft_model(base, gf.SparseGINConfig(hidden_dim=7, scale_start=0.2)).eval()
        assert torch.equal(model(**inputs).logits, wanted)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    shake(model).train()(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_the_first_look_leaves_no_trace():
    """Neither in the random numbers nor in the modes."""
    base = make("vit").train()
    base.vit.layers[0].eval()
    modes, state = [module.training for module in base.modules()], torch.get_rng_state()
    with probe.quiet(base), torch.no_grad():
        first, second = probe.run(base), probe.run(base)
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in base.modules()] == modes


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("num_channels", None, "num_channels=None"),
        ("image_size", None, "image_size=None.*such as 224"),
    ],
)
def test_a_config_that_does_not_say_what_an_image_is(key, value, text):
    base = make("vit")
    base.config.__dict__[key] = value
    with pytest.raises(UnsupportedModel, match=rf"ViTForImageClassification.*{text}"):
        peft.get_peft_model(base, gf.SparseGINConfig())


def test_images_of_two_sides():
    base = make("vit")
    base.config.__dict__["image_size"] = (3 * PATCH, 3 * PATCH)
    assert probe.INPUTS["pixel_values"](base)["pixel_values"].shape == (1, 3, 12, 12)


def test_a_graph_over_other_tokens_than_the_streams_is_an_error():
    """Windows, whose tokens have another order: a reshape alone would mix them up."""
    model = peft.get_peft_model(make("vit"), gf.SparseGINConfig(hidden_dim=7))
    layer = next(iter(adapted_layers(model).values()))
    graph = gf.AttentionGraph.from_dense(torch.eye(5).expand(4, 5, 5))
    with pytest.raises(
        RuntimeError, match=r"4 sequences of 5 tokens, and the layer's stream is \[2, 10, 24\]"
    ):
        layer._message("default", torch.zeros(2, 10, 24), graph, None, None)
