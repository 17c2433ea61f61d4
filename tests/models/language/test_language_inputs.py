"""The language model and its config: what is given is used, or refused by name."""

import json
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.errors import StrictDataclassError

import graphformer as gf

SMALL = {
    "vocab_size": 17,
    "hidden_size": 12,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
BATCH, LENGTH = 2, 7


def make(**changes):
    torch.manual_seed(0)
    return gf.GraphformerForCausalLM(gf.GraphformerConfig(**{**SMALL, **changes})).double().eval()


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(17, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------- keywords


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("output_graph", "output_graphs"),
        ("attention_maks", "attention_mask"),
        ("lables", None),
        ("logits_to_kep", None),
        ("candidates", None),
    ],
)
def test_a_misspelt_keyword_is_refused(model, ids, given, meant):
    for one in (model, model.model):
        text = rf"unexpected keyword argument '{given}'" + (
            f"; did you mean '{meant}'" if meant else ""
        )
        with pytest.raises(TypeError, match=text):
            one(ids, **{given: True})


def test_arguments_of_the_whole_model_are_none_of_its_body(model, ids):
    for name in ("labels", "logits_to_keep", "num_items_in_batch"):
        with pytest.raises(TypeError, match=name):
            model.model(ids, **{name: ids})


@pytest.mark.parametrize(
    "options", [{}, {"threshold": 0.2}, {"operator": "pna"}, {"num_key_value_heads": 1}]
)
def test_dense_attentions(ids, options):
    model = make(**options)
    plain = model(ids)
    assert plain.attentions is None and plain.graphs is None
    out = model(ids, output_attentions=True, output_graphs=True)
    assert len(out.attentions) == 2 and torch.equal(
        out.logits, model(ids, output_graphs=True).logits
    )
    for weights, graph in zip(out.attentions, out.graphs, strict=True):
        assert weights.shape == (BATCH, 3, LENGTH, LENGTH) and torch.equal(
            weights, graph.to_dense()
        )
        if "threshold" not in options:
            torch.testing.assert_close(
                weights.sum(-1), torch.ones(BATCH, 3, LENGTH, dtype=torch.float64)
            )
    only = model(ids, output_attentions=True, output_hidden_states=True)
    assert only.graphs is None and len(only.hidden_states) == 3
    as_tuple = model.model(ids, output_attentions=True, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[-1][0], only.attentions[0])
    assert isinstance(model(ids, return_dict=False), tuple)


def test_attentions_by_the_config(ids):
    assert len(make(output_attentions=True)(ids).attentions) == 2
    model = make(output_hidden_states=True, return_dict=False)
    out = model(ids)
    assert isinstance(out, tuple) and any(isinstance(one, tuple) and len(one) == 3 for one in out)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"is_causal": False}, r"is_causal=False: the heads of this model are causal"),
        ({"output_router_logits": True}, "no experts"),
        (
            {"token_type_ids": torch.ones(BATCH, LENGTH, dtype=torch.long)},
            "token_type_ids holds other types than 0",
        ),
        (
            {"cache_position": torch.arange(2, 2 + LENGTH)},
            r"cache_position must be 0\.\.6, .*got \[2, 3, 4, 5, 6, 7, 8\]",
        ),
        ({"cu_seq_lens_q": torch.tensor([0, 3, 7])}, "cu_seq_lens_q is given and no position_ids"),
        ({"max_length_q": 4}, "max_length_q is given and no position_ids"),
        ({"seq_idx": torch.zeros(1, LENGTH)}, "seq_idx is given and no position_ids"),
        (
            {"inputs_embeds": torch.zeros(BATCH, LENGTH, 12).double()},
            "exactly one of input_ids and inputs_embeds",
        ),
        (
            {"labels": torch.zeros(BATCH, LENGTH - 1, dtype=torch.long)},
            r"labels must have the shape of the tokens, \[2, 7\], got \[2, 6\]",
        ),
        (
            {"labels": torch.zeros(LENGTH, BATCH, dtype=torch.long)},
            r"labels must have the shape of the tokens, \[2, 7\], got \[7, 2\]",
        ),
        (
            {"labels": torch.zeros(BATCH, LENGTH, dtype=torch.long), "logits_to_keep": 2},
            "logits_to_keep=2 leaves logits of labels out",
        ),
        ({"ignore_index": 3}, "ignore_index is of the loss"),
        (
            {"position_ids": torch.arange(LENGTH - 1)[None]},
            r"position_ids must have shape \[2 or 1, 7\]",
        ),
        ({"position_ids": torch.arange(LENGTH)}, r"position_ids must have shape \[2 or 1, 7\]"),
        (
            {"attention_mask": torch.ones(BATCH, LENGTH + 1)},
            "attention_mask covers 8 tokens, but there are 7",
        ),
        (
            {"attention_mask": torch.zeros(BATCH + 1, LENGTH)},
            r"attention_mask must have shape \[2, 7\]",
        ),
        (
            {"attention_mask": torch.zeros(BATCH, 1, LENGTH, LENGTH + 2).bool()},
            "attention_mask must have shape",
        ),
    ],
)
def test_what_the_model_does_not_do_is_refused(model, ids, given, text):
    with pytest.raises(ValueError, match=text):
        model(ids, **given)


def test_tokens_of_a_wrong_shape(model, ids):
    with pytest.raises(ValueError, match=r"input_ids must be \[batch, length\], got shape \[7\]"):
        model(ids[0])
    with pytest.raises(
        ValueError, match=r"inputs_embeds must be \[batch, length, 12\], got shape \[2, 7, 11\]"
    ):
        model(inputs_embeds=torch.zeros(2, 7, 11).double())


def test_what_says_what_is_so_anyway_changes_nothing(model, ids):
    plain = model(ids).logits
    for given in (
        {"is_causal": True},
        {"token_type_ids": torch.zeros_like(ids)},
        {"cache_position": torch.arange(LENGTH)},
        {"output_router_logits": False},
        {"output_attentions": False, "output_hidden_states": None, "return_dict": True},
        {"cu_seq_lens_q": None, "max_length_q": None},
    ):
        assert torch.equal(model(ids, **given).logits, plain)


def test_packed_texts_as_collators_give_them(model):
    """DataCollatorWithFlattening: position_ids, and on request the arguments of kernels for packed
    texts.
    """
    texts = [[3, 1, 4, 1], [5, 9, 2, 6, 5]]
    collate = transformers.DataCollatorWithFlattening(
        return_flash_attn_kwargs=True, return_seq_idx=True
    )
    batch = collate([{"input_ids": one, "labels": one} for one in texts])
    alone = [model(torch.tensor([one])).logits[0] for one in texts]
    out = model(**batch)
    torch.testing.assert_close(out.logits[0], torch.cat(alone))
    # A mask that hides nothing says nothing, and one that hides tokens cannot keep texts apart as
    # well.
    mask = torch.ones_like(batch["input_ids"])
    torch.testing.assert_close(model(**batch, attention_mask=mask).logits, out.logits)
    mask[0, -1] = 0
    with pytest.raises(
        ValueError, match="position_ids start again among the tokens that attention_mask keeps"
    ):
        model(**batch, attention_mask=mask)
    with pytest.raises(
        ValueError, match="cu_seq_lens_q tells of 1 packed texts, position_ids of 2"
    ):
        model(**{**batch, "cu_seq_lens_q": torch.tensor([0, 9])})


def test_padding_with_its_positions_is_no_packing(model, ids):
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)  # as generate makes them
    out = model(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(out[0, 3:], model(ids[:1, 3:]).logits[0])


def test_the_loss_takes_what_the_trainer_gives(model, ids):
    logits = model(ids).logits
    each = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    ).item()
    assert model(ids, labels=ids).loss.item() == pytest.approx(
        each / (BATCH * (LENGTH - 1)), rel=1e-6
    )
    assert model(ids, labels=ids, num_items_in_batch=5).loss.item() == pytest.approx(
        each / 5, rel=1e-6
    )
    shifted = F.pad(ids[:, 1:], (0, 1), value=-100)
    assert model(ids, shift_labels=shifted).loss.item() == pytest.approx(
        model(ids, labels=ids).loss.item(), rel=1e-6
    )
    nothing = torch.full_like(ids, -100)
    nothing[:, 0] = 3  # the first token is predicted by none
    with pytest.warns(UserWarning, match="labels hold no token to predict .* the loss is NaN"):
        assert math.isnan(model(ids, labels=nothing).loss.item())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # one part of a larger batch
        assert model(ids, labels=nothing, num_items_in_batch=3).loss == 0


@pytest.mark.parametrize("numbers", [[1, 1, 1, 2, 2, 2, 2], [2] * LENGTH, [0.5] * LENGTH])
def test_a_mask_of_other_numbers_hides_nothing_and_is_refused_all_the_same(model, ids, numbers):
    mask = torch.tensor([numbers] * BATCH)
    with pytest.raises(ValueError, match=r"must hold 1 .* packed texts as candidates=Packed"):
        model(ids, attention_mask=mask)


@pytest.mark.parametrize(
    ("tokens", "kind", "text"),
    [
        ([[1, 17, -1]], ValueError, r"input_ids holds -1, 17, and the vocabulary has 0\.\.16"),
        ([[1.0, 2.0]], TypeError, "input_ids must be int64 or int32, got torch.float"),
        ([[True]], TypeError, "input_ids must be int64 or int32, got torch.bool"),
    ],
)
def test_tokens_that_there_are_not(model, tokens, kind, text):
    with pytest.raises(kind, match=text):
        model(torch.tensor(tokens))


@pytest.mark.parametrize(
    ("labels", "kind", "text"),
    [
        (
            [[1, 17, -100]],
            ValueError,
            r"labels holds 17, and the vocabulary has 0\.\.16.*; -100 is",
        ),
        ([[1, -1, 2]], ValueError, "labels holds -1, "),
        ([[1.0, 2.0, 3.0]], TypeError, "labels must be int64, got torch.float"),
    ],
)
def test_labels_that_there_are_not(model, labels, kind, text):
    with pytest.raises(kind, match=text):
        model(torch.tensor([[1, 2, 3]]), labels=torch.tensor(labels))
    if kind is ValueError:
        with pytest.raises(kind, match=f"shift_{text}"):
            model(torch.tensor([[1, 2, 3]]), shift_labels=torch.tensor(labels))


def test_label_smoothing_of_the_trainer_predicts_the_next_token(ids, tmp_path):
    model = make().float()
    settings = transformers.TrainingArguments(
        str(tmp_path), label_smoothing_factor=0.1, use_cpu=True, report_to="none"
    )
    loss = transformers.Trainer(model, settings).compute_loss(
        model, {"input_ids": ids, "labels": ids}
    )
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    # of the uniform distribution too
    want = F.cross_entropy(logits, ids[:, 1:].flatten(), label_smoothing=0.1)
    torch.testing.assert_close(loss, want)


def test_generating_with_what_transformers_passes(model, ids):
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    for options in (
        {},
        {"num_beams": 2},
        {"use_cache": False},
        {"cache_implementation": "static", "max_length": None},
    ):
        out = model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False, **options)
        assert out.shape == (BATCH, LENGTH + 3)
    out = model.generate(
        ids,
        max_new_tokens=2,
        do_sample=False,
        output_attentions=True,
        return_dict_in_generate=True,
        output_hidden_states=True,
    )
    assert out.attentions[0][0].shape == (BATCH, 3, LENGTH, LENGTH) and out.attentions[1][
        0
    ].shape == (BATCH, 3, 1, LENGTH + 1)
    with pytest.raises(ValueError, match="atention_mask"):
        model.generate(ids, atention_mask=mask, max_new_tokens=2)


def test_positions_do_not_reach_a_score_that_knows_none(ids):
    layer = gf.nn.GINAttention(12, 3, score="pairwise")
    cos, sin = gf.nn.rotary_embeddings(torch.arange(LENGTH)[None], 4)
    with pytest.raises(ValueError, match="position_embeddings are not read by score='pairwise'"):
        layer(torch.zeros(1, LENGTH, 12), position_embeddings=(cos, sin))
    assert make(score="pairwise")(ids).logits.isfinite().all()


# ---------------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"hiden_size": 3}, TypeError, "unknown setting 'hiden_size'; did you mean 'hidden_size'"),
        ({"num_layers": 3}, TypeError, "unknown setting 'num_layers'"),
        ({"temperature": 0.5}, TypeError, "'temperature', which is a setting of generation"),
        ({"tie_word_embedings": False}, TypeError, "did you mean 'tie_word_embeddings'"),
        (
            {"model_type": "llama"},
            ValueError,
            "model_type='llama': this is the config of 'graphformer'",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_thta": 3.0}},
            ValueError,
            "unknown 'rope_thta'; did you mean 'rope_theta'",
        ),
        (
            {"rope_theta": -1.0},
            ValueError,
            r"rope_parameters\['rope_theta'\] must be above 0, got -1",
        ),
        (
            {"rope_theta": 5.0, "rope_parameters": {"rope_type": "default", "rope_theta": 6.0}},
            ValueError,
            "rope_theta=5.0 contradicts",
        ),
        ({"mlp_ratio": -1.0}, ValueError, "mlp_ratio must be above 0, got -1"),
        ({"mlp_ratio": math.nan}, ValueError, "mlp_ratio must be a finite number above 0, got nan"),
        (
            {"threshold": -3},
            ValueError,
            "threshold must be at least 0, got -3; None keeps all edges",
        ),
        ({"threshold": math.nan}, ValueError, "threshold must be a finite number"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
        (
            {"hidden_dropout": 1.5},
            ValueError,
            "hidden_dropout must be a probability in 0..1, got 1.5",
        ),
        ({"attention_dropout": -0.1}, ValueError, "attention_dropout must be a probability"),
        ({"rms_norm_eps": -1.0}, ValueError, "rms_norm_eps must be at least 0"),
        ({"initializer_range": math.inf}, ValueError, "initializer_range must be a finite number"),
        ({"num_hidden_layers": 0}, ValueError, "num_hidden_layers must be at least 1, got 0"),
        ({"vocab_size": -1}, ValueError, "vocab_size must be at least 1"),
        ({"score": "cosine"}, ValueError, "unknown score 'cosine'"),
        (
            {"score": {"pairwise": 3, "dot": 2}},
            ValueError,
            "score must hold one name and its width",
        ),
        ({"normalize": "sofmax"}, ValueError, "unknown normalizer 'sofmax'"),
        ({"executor": "fast"}, ValueError, "unknown executor 'fast'"),
        ({"backend": "jax"}, ValueError, "unknown backend 'jax'"),
        ({"operator": ["gin"]}, ValueError, "operator names 1 layers, but num_hidden_layers is 2"),
        ({"vocab_size": "4"}, StrictDataclassError, "vocab_size"),
        ({"vocab_size": True}, StrictDataclassError, "vocab_size"),
        ({"sharpening": 1}, StrictDataclassError, "sharpening"),
    ],
)
def test_settings_that_there_are_not_or_out_of_range(given, error, text):
    with pytest.raises(error, match=text):
        gf.GraphformerConfig(**{**SMALL, **given})


def test_rope_theta_in_its_former_place_counts():
    assert gf.GraphformerConfig(**SMALL, rope_theta=77.0).rope_parameters["rope_theta"] == 77.0
    scaled = gf.GraphformerConfig(
        **SMALL, rope_theta=5.0, rope_scaling={"rope_type": "linear", "factor": 2.0}
    )
    assert scaled.rope_parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}


def test_edges_of_a_row_are_no_tokens_to_sample_from(tmp_path):
    model = make(top_k=2)
    assert model.generation_config.top_k == transformers.GenerationConfig().top_k
    model.save_pretrained(tmp_path)
    again = gf.GraphformerForCausalLM.from_pretrained(tmp_path)
    assert (
        again.config.top_k == 2
        and again.generation_config.top_k == transformers.GenerationConfig().top_k
    )


def test_a_file_of_another_version_loads_and_its_unknown_settings_are_told(tmp_path):
    gf.GraphformerConfig(**SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    held = json.loads(path.read_text())
    former = {
        "torchscript": False,
        "temperature": 0.5,
        "torch_dtype": "float32",
        "pruned_heads": {},
        "_attn_implementation_autoset": True,
    }
    path.write_text(json.dumps(held | former))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert transformers.AutoConfig.from_pretrained(tmp_path).to_dict()["hidden_size"] == 12
    path.write_text(
        json.dumps(held | {"newer": 3, "rope_parameters": {"rope_theta": 5.0, "odd": 1}})
    )
    with pytest.warns(UserWarning) as told:
        config = transformers.AutoConfig.from_pretrained(tmp_path)
    texts = " ".join(str(one.message) for one in told)
    assert (
        "newer is no setting of this version" in texts
        and "unknown 'odd'" in texts
        and not hasattr(config, "newer")
    )
    with pytest.raises(TypeError, match="newer"):  # a user's own word is no file
        gf.GraphformerConfig(**SMALL, newer=3)
