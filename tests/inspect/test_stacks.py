"""Models with an encoder and a decoder: which stack a layer is in is the model's word, and a stack
that did not run is told.
"""

import warnings

import pytest
import torch

import graphformer as gf
from tests.adapter_models import feed, make

NAMES = ["t5", "bart", "umt5"]


def ids(count=7):
    torch.manual_seed(1)
    return torch.randint(4, 61, (2, count))


def sides(found):
    return [(layer.kind, layer.receivers, layer.senders) for layer in found.layers]


@pytest.mark.parametrize("name", NAMES)
def test_both_stacks_and_no_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = gf.inspect.graphs(make(name), **feed(name, ids()))
    kinds = sides(found)
    assert ("self", "encoder", "encoder") in kinds and ("self", "decoder", "decoder") in kinds
    assert ("cross", "decoder", "encoder") in kinds and set(found.nodes) == {"encoder", "decoder"}


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_that_ran_alone_is_told(name):
    model, inputs = make(name), feed(name, ids())
    with torch.no_grad():
        outputs = model.get_encoder()(inputs["input_ids"])
    inputs = {k: v for k, v in inputs.items() if k != "input_ids"}
    with pytest.warns(
        UserWarning,
        match=r"no attention of the encoder of \w+.* ran, and the graphs are those of the other "
        r"stack alone: encoder_outputs is given, which stands in its place; call the model with "
        r"input_ids to have both",
    ):
        found = gf.inspect.graphs(model, encoder_outputs=outputs, **inputs)
    assert {receivers for _, receivers, _ in sides(found)} == {"decoder"}


@pytest.mark.parametrize("name", NAMES)
def test_a_stack_that_is_the_model_is_one_text(name):
    model, inputs = make(name), feed(name, ids())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        read = {k: inputs[k] for k in ("input_ids", "attention_mask")}
        of_encoder = gf.inspect.graphs(model.get_encoder(), **read)
    whole = gf.inspect.graphs(model, **inputs)
    count = len(of_encoder)
    assert count == sum(side == ("self", "encoder", "encoder") for side in sides(whole))
    for a, b in zip(of_encoder, whole[:count], strict=True):
        torch.testing.assert_close(a.to_dense(), b.to_dense())
    assert len(of_encoder.nodes) == 1


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_a_decoder_alone_has_tokens_and_their_context(name):
    """Its layers are called ``layers.0.self_attn``: no name says that this is a decoder."""
    model, decoded = make(name), ids(5)
    states = torch.randn(2, 7, model.config.d_model)
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    inputs = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    found = gf.inspect.graphs(model.get_decoder(), input_ids=decoded, **inputs)
    assert set(sides(found)) == {("self", "tokens", "tokens"), ("cross", "tokens", "context")}
    assert torch.equal(found.nodes["tokens"].ids, decoded)
    assert torch.equal(found.nodes["context"].keep, mask.bool())
    for layer in found.layers:
        if layer.kind == "self":  # causal
            assert bool((layer.graph.senders % 5 <= layer.graph.receivers % 5).all())
