"""Rules on places: behind padding and in packed texts a text gets what it gets alone."""

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention.candidates import (
    Blocks,
    CausalBlocks,
    Clusters,
    First,
    Neighborhood,
    Packed,
    PerHead,
    PrefixLM,
    SharedQuestion,
    Window,
)

pytestmark = pytest.mark.usefixtures("float64")

RULES = {
    "first": First(2),
    "sinks": First(2) | Window(3),
    "prefix": PrefixLM(3),
    "blocks": CausalBlocks(3),
    "groups": Neighborhood(5, 3),
    "heads": PerHead((First(2), Window(4), First(1) | Window(2))),
    "both": CausalBlocks(4) & Window(5),
    "places and clusters": First(2) | Clusters(2),
    "coarse": First(2) | Blocks(2),
}


@pytest.fixture(params=RULES)
def layer(request):
    torch.manual_seed(0)
    return lambda **more: gf.nn.GINAttention(
        15, 3, head=gf.Head(candidates=RULES[request.param]), **more
    ).eval()


@pytest.mark.parametrize("executor", ["auto", "dense", "stream"])
@pytest.mark.parametrize("is_causal", [True, False])
def test_padding_and_packing_change_nothing(layer, executor, is_causal, request):
    if request.node.callspec.params["layer"] == "coarse" and not is_causal:
        pytest.skip("blocks are of causal layers")
    layer = layer(is_causal=is_causal, executor=executor)
    x, y, noise = torch.randn(1, 7, 15), torch.randn(1, 5, 15), torch.randn(1, 4, 15)
    want = layer(x)
    mask = torch.tensor([[0] * 4 + [1] * 7, [1] * 11])
    both = torch.cat((torch.cat((noise, x), 1), torch.randn(1, 11, 15)))
    assert_close(layer(both, mask)[:1, 4:], want)
    assert_close(layer(both, mask)[1:], layer(both[1:]))
    packed = layer(torch.cat((y, x), 1), candidates=Packed(torch.tensor([[3] * 5 + [1] * 7])))
    assert_close(packed, torch.cat((layer(y), want), 1))


@pytest.mark.slow
def test_padding_in_compiled_code(layer):
    layer = layer()
    x = torch.randn(2, 11, 15)
    mask = torch.tensor([[0] * 4 + [1] * 7, [1] * 11])
    assert_close(torch.compile(layer, backend="aot_eager")(x, mask), layer(x, mask))


def test_in_a_language_model():
    """Left padding, packed texts and a cache together."""
    torch.manual_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=12,
        intermediate_size=14,
        num_hidden_layers=2,
        num_attention_heads=2,
        head=gf.Head(candidates=First(2) | Window(3)),
    )
    model = gf.GraphformerForCausalLM(config).double().eval()
    ids = torch.randint(1, 11, (1, 8))
    gf.testing.check_cache(model, ids)
    left = torch.cat((torch.zeros(1, 3, dtype=torch.long), ids), 1)
    mask = torch.tensor([[0] * 3 + [1] * 8])
    assert_close(model(left, attention_mask=mask).logits[:, 3:], model(ids).logits)
    new = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(
        model.generate(left, attention_mask=mask, **new)[:, 11:], model.generate(ids, **new)[:, 8:]
    )
    places = torch.cat((torch.arange(4), torch.arange(8)))[None]
    packed = model(torch.cat((ids[:, :4], ids), 1), position_ids=places).logits
    assert_close(packed, torch.cat((model(ids[:, :4]).logits, model(ids).logits), 1))


def test_a_shared_question_stands_at_the_beginning():
    """Answers count from the question, which they see."""
    segments = torch.tensor([[0, 0, 0, 1, 1, 2, 2]])
    layer = gf.nn.SumAttention(15, 3, head=gf.Head(candidates=First(2))).eval()
    x = torch.randn(1, 7, 15)
    assert_close(layer(x, candidates=SharedQuestion(segments)), layer(x))


def test_senders_alone_on_the_kernel():
    """A mask without an axis of receivers."""
    q = torch.randn(1, 2, 5, 4)
    got = gf.attention.attend(q, q, q, candidates=First(2), executor="flash")[0]["sum"]
    assert_close(got, (q @ q[:, :, :2].mT / 2).softmax(-1) @ q[:, :, :2])
