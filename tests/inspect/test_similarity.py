"""Which layers look alike, and a model whose layers share a graph."""

import pytest
import torch
import transformers
from torch.testing import assert_close

import graphformer as gf

pytestmark = pytest.mark.usefixtures("float64")


def model(layers=4, **more):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=12,
        intermediate_size=14,
        num_hidden_layers=layers,
        num_attention_heads=3,
        initializer_range=1.0,  # maps that are far from uniform
        **more,
    )
    return transformers.LlamaForCausalLM(config).double().eval()


@pytest.mark.parametrize("sparsify", [None, gf.Threshold(0.15)])
def test_against_the_matrices(sparsify):
    ids = torch.randint(31, (2, 9))
    graphs = gf.inspect.graphs(model(), input_ids=ids, sparsify=sparsify)
    maps = torch.stack([one.to_dense() for one in graphs]).flatten(-2)  # [layers, B, H, N * N]
    unit = torch.nn.functional.normalize(maps, dim=-1)
    want = torch.einsum("lbhx,mbhx->lm", unit, unit) / 6
    assert_close(gf.inspect.similarity(graphs), want)
    assert want[0, 1] < 0.999


def test_layers_that_are_copies_can_share():
    """Three layers of equal weights that add nothing to the stream look at the same."""
    llama = model()
    for layer in llama.model.layers[1:3]:
        layer.load_state_dict(llama.model.layers[0].state_dict())
    with torch.no_grad():
        for layer in llama.model.layers[:3]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        llama.model.layers[3].self_attn.q_proj.weight.mul_(50)
    graphs = gf.inspect.graphs(llama, input_ids=torch.randint(31, (1, 17)), sparsify=None)
    assert_close(gf.inspect.similarity(graphs)[:3, :3], torch.ones(3, 3))
    assert gf.inspect.shareable_layers(graphs) == [(0, 1, 2)]
    assert gf.inspect.shareable_layers(graphs, least=-1.0) == [(0, 1, 2, 3)]


def test_what_cannot_be_compared():
    config = transformers.T5Config(
        vocab_size=31, d_model=12, d_kv=4, d_ff=14, num_layers=1, num_heads=3
    )
    t5 = transformers.T5ForConditionalGeneration(config).double().eval()
    ids = torch.randint(31, (1, 7))
    graphs = gf.inspect.graphs(t5, input_ids=ids, decoder_input_ids=ids[:, :4])
    with pytest.raises(ValueError, match="graphs of several shapes"):
        gf.inspect.similarity(graphs)
