"""The graphs of any model are its own eager attention weights."""

import threading

import pytest
import torch
from torch_geometric.data import Batch, Data

import graphformer as gf
from tests.adapter_models import DECODERS, ENCODERS, REFUSED, SEQ2SEQ, VISION, feed, make

pytestmark = pytest.mark.usefixtures("float64")

ALL = [*DECODERS, *ENCODERS, *VISION]


def ids_of(batch=2, length=11):
    torch.manual_seed(3)
    return torch.randint(4, 61, (batch, length))


def masks(ids):
    left, right = torch.ones_like(ids), torch.ones_like(ids)
    left[0, :3], right[1, 7:] = 0, 0
    return [None, left, right]


def eager(name, inputs):
    """The model's own weights of self- and cross-attention, in the order of the layers."""
    model = make(name)
    model.set_attn_implementation("eager")
    out = model(**inputs, output_attentions=True)
    return in_order(name, out)


def in_order(name, out):
    if name not in SEQ2SEQ:
        return list(out.attentions)
    pairs = zip(out.decoder_attentions, out.cross_attentions, strict=True)
    return [*out.encoder_attentions, *(weights for pair in pairs for weights in pair)]


def keep_of(inputs, name):
    return None if name in VISION else inputs.get("attention_mask")


@pytest.fixture
def softmax_of_its_input(monkeypatch):
    """transformers' eager attention rounds scores to float32 before its softmax, and a score of 200
    loses 1e-5 by that.
    """
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(
        torch.nn.functional, "softmax", lambda x, dim=None, dtype=None: softmax(x, dim)
    )


@pytest.mark.usefixtures("softmax_of_its_input")
@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_graphs_are_the_models_own_weights(name):
    for mask in masks(ids_of()) if name not in VISION else [None]:
        inputs = feed(name, ids_of(), mask)
        model = make(name)
        want = eager(name, inputs)
        implementation = model.config._attn_implementation
        graphs = gf.inspect.graphs(model, **inputs, sparsify=None)
        assert model.config._attn_implementation == implementation
        assert len(graphs) == len(want)
        for layer, weights in zip(graphs.layers, want, strict=True):
            senders = graphs.nodes[layer.senders].keep
            receivers = graphs.nodes[layer.receivers].keep
            real = (receivers[:, :, None] & senders[:, None, :])[:, None]
            got = layer.graph.to_dense()
            want_here = torch.where(real, weights, 0).to(got.dtype)
            # gemma2 is there in float32, and caps its scores
            exact = name != "gemma2" and got.dtype == torch.float64
            assert exact or name == "gemma2"
            torch.testing.assert_close(got, want_here, rtol=0, atol=1e-12 if exact else 1e-5)
            assert layer.graph.batch_shape == weights.shape[:2]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "bert", "t5", "vit", "gpt2"])
def test_cut_graphs_are_the_entries_above_the_threshold(name):
    inputs = feed(name, ids_of(), masks(ids_of())[2] if name != "vit" else None)
    model = make(name)
    full = gf.inspect.graphs(model, **inputs, sparsify=None)
    cut = gf.inspect.graphs(model, **inputs, sparsify=gf.Threshold(0.1))
    merged = gf.inspect.graphs(model, **inputs, sparsify=gf.Threshold(0.1), merge="mean")
    for a, b, c in zip(full, cut, merged, strict=True):
        dense = a.to_dense()
        assert torch.equal(b.to_dense(), torch.where(dense > 0.1, dense, 0))
        torch.testing.assert_close(c.to_dense(), b.to_dense().mean(1))
        assert c.batch_shape == (2,)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "t5", "beit_unscaled", "bert"])
def test_weights_are_differentiable_in_the_models_parameters(name):
    """Against the gradient of the model's own eager weights."""
    inputs = feed(name, ids_of())
    found = []
    for read in (True, False):
        model = make(name)
        if read:
            graphs = gf.inspect.graphs(model, **inputs, sparsify=None, grad=True)
            weights = [graph.to_dense() for graph in graphs]
            real = [
                graphs.nodes[layer.receivers].keep[:, None, :, None]
                & graphs.nodes[layer.senders].keep[:, None, None]
                for layer in graphs.layers
            ]
        else:
            model.set_attn_implementation("eager")
            out = model(**inputs, output_attentions=True)
            weights = in_order(name, out)
        torch.manual_seed(5)
        random = [torch.randn(w.shape).to(w.dtype) for w in weights]
        loss = sum((w * r * m).sum() for w, r, m in zip(weights, random, real, strict=True))
        loss.backward()
        found.append(
            {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        )
    assert found[0].keys() == found[1].keys() and found[0]
    for key, got in found[0].items():
        worst = float((got - found[1][key]).abs().max())
        scale = max(float(got.abs().max()) for got in found[1].values())
        assert worst <= (1e-3 if got.dtype == torch.float32 else 1e-6) * scale, key


def test_without_grad_nothing_is_kept_for_autograd():
    graphs = gf.inspect.graphs(make("llama"), input_ids=ids_of())
    assert not any(graph.weight.requires_grad for graph in graphs)


def test_layers_and_heads_are_chosen_by_number_and_name():
    model, ids = make("llama"), ids_of()
    full = gf.inspect.graphs(model, input_ids=ids, sparsify=None)
    some = gf.inspect.graphs(model, input_ids=ids, sparsify=None, layers=[2, 0], heads=[3, 1])
    assert some.names == [full.names[0], full.names[2]]
    assert torch.equal(some[1].to_dense(), full[2].to_dense()[:, [3, 1]])
    assert torch.equal(some[0, 3].to_dense(), full[0, 3].to_dense())
    assert torch.equal(full[1, -1].to_dense(), full[1].to_dense()[:, 3])
    named = gf.inspect.graphs(model, input_ids=ids, sparsify=None, layers=full.names[1])
    assert torch.equal(named[full.names[1]].to_dense(), full[1].to_dense())
    assert full[1:].names == full.names[1:]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layers": 7}, r"layers=\[7\]: the pass had 3 layers"),
        ({"layers": "model.layers.9"}, "the pass had 3 layers"),
        ({"layers": -1}, "layers must be at least 0"),
        ({"layers": []}, "asks for no layer"),
        ({"heads": 4}, "has 4 heads"),
        ({"heads": [1, 1]}, "each once"),
        ({"merge": "median"}, "unknown merge 'median'"),
        ({"sparsify": 0.1}, r"gf.Threshold\(0.1\)"),
        ({"grad": "no"}, "grad must be True or False"),
        ({"tokens": ["a"]}, "2 sequences"),
        ({"tokens": [["a"], ["b"]]}, r"tokens\[0\] must have a label for each of the 11"),
        ({"layer": 3}, "layer"),
    ],
)
def test_what_does_not_fit_is_said(options, text):
    with pytest.raises((ValueError, TypeError), match=text):
        gf.inspect.graphs(make("llama"), input_ids=ids_of(), **options)


def test_wrong_keys_are_said():
    graphs = gf.inspect.graphs(make("llama"), input_ids=ids_of(), heads=[1, 3])
    for key, text in (
        (3, "3 layers"),
        ((0, 0), r"heads: \[1, 3\]"),
        ("model.layers.0.self_atn", "did you mean 'model.layers.0.self_attn'"),
        ((0, 1, 2), "3 indices"),
    ):
        with pytest.raises(LookupError, match=text):
            graphs[key]


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in ("beit", "wav2vec2")])
def test_models_whose_attention_cannot_be_read_are_refused(name):
    model = make(name)
    inputs = {"pixel_values": torch.randn(2, 3, 16, 16)} if name == "swin" else feed(name, ids_of())
    with pytest.raises(gf.adapters.UnsupportedModel, match="cannot be read"):
        gf.inspect.graphs(model, **inputs)
    assert "graphformer" not in str(model.config._attn_implementation)


def test_packed_texts_stay_apart():
    ids = ids_of(1, 12)
    positions = torch.cat((torch.arange(5), torch.arange(7)))[None]
    model = make("llama")
    graph = gf.inspect.graphs(model, input_ids=ids, position_ids=positions, sparsify=None)[1]
    alone = gf.inspect.graphs(model, input_ids=ids[:, :5], sparsify=None)[1]
    dense = graph.to_dense()
    assert float(dense[:, :, 5:, :5].abs().max()) == 0
    torch.testing.assert_close(dense[:, :, :5, :5], alone.to_dense())


def test_an_adapted_model_and_one_in_training_are_read():
    import peft

    model = peft.get_peft_model(make("llama"), gf.SparseGINConfig(hidden_dim=7)).eval()
    want = gf.inspect.graphs(make("llama"), input_ids=ids_of(), sparsify=None)
    got = gf.inspect.graphs(model, input_ids=ids_of(), sparsify=None)
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a.to_dense(), b.to_dense())
    # still heard by its adapter
    model(input_ids=ids_of())
    lora = peft.get_peft_model(make("llama"), peft.LoraConfig(target_modules=["q_proj"])).train()
    assert len(gf.inspect.graphs(lora, input_ids=ids_of())) == 3 and lora.training


def test_two_threads_read_one_model():
    model = make("llama")
    texts = [ids_of(1, 9), ids_of(1, 9).flip(1)]
    want = [gf.inspect.graphs(model, input_ids=ids, sparsify=None) for ids in texts]
    wrong = []

    def read(number):
        for _ in range(20):
            got = gf.inspect.graphs(model, input_ids=texts[number], sparsify=None)
            same = len(got) == 3 and all(
                torch.equal(a.weight, b.weight) for a, b in zip(got, want[number], strict=True)
            )
            if not same:
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("operator", ["sum", "gin", "pna"])
@pytest.mark.parametrize("threshold", [None, 0.05])
def test_models_of_this_library(operator, threshold):
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40}
    config = gf.GraphformerConfig(
        **sizes,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        operator=operator,
        threshold=threshold,
    )
    model, ids = gf.GraphformerForCausalLM(config).eval(), ids_of()
    mask = masks(ids)[1]
    want = model(input_ids=ids, attention_mask=mask, output_graphs=True).graphs
    got = gf.inspect.graphs(
        model, input_ids=ids, attention_mask=mask, sparsify=gf.Threshold(0.1), streamed=True
    )
    real = (mask[:, :, None] & mask[:, None, :]).bool()[:, None]
    for a, b in zip(want, got, strict=True):
        dense = a.to_dense() * real
        torch.testing.assert_close(b.to_dense(), torch.where(dense > 0.1, dense, 0))
    assert got.names == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    if threshold is None:
        mass = (want[0].to_dense() * real).sum(-2)
        torch.testing.assert_close(got.layers[0].streamed.sender_mass, mass)
    grads = gf.inspect.graphs(model, input_ids=ids, grad=True)
    grads[0].weight.sum().backward()
    assert float(model.model.layers[0].self_attn.q_proj.weight.grad.abs().max()) > 0


def test_graph_networks():
    torch.manual_seed(0)
    data = []
    for count in (5, 3, 7):
        edges = torch.randint(0, count, (2, 3 * count))
        data.append(
            Data(x=torch.randn(count, 7), edge_index=edges, edge_attr=torch.randn(3 * count, 3))
        )
    net = gf.GraphTransformer(
        node_dim=7, edge_dim=3, hidden_size=16, num_layers=2, num_heads=4, target="graph", out_dim=2
    ).eval()
    graphs = gf.inspect.graphs(net, Batch.from_data_list(data), sparsify=None)
    assert graphs[0].batch_shape == (3, 4) and graphs.nodes["nodes"].keep.sum(1).tolist() == [
        5,
        3,
        7,
    ]
    for i, one in enumerate(data):
        alone = gf.inspect.graphs(net, Batch.from_data_list([one]), sparsify=None)
        own = graphs.of_sequence(i)
        for a, b in zip(alone, own, strict=True):
            torch.testing.assert_close(a.to_dense(), b.to_dense())


def test_saved_is_loaded(tmp_path):
    for inputs, model in (
        (feed("t5", ids_of(), masks(ids_of())[1]), make("t5")),
        ({"pixel_values": torch.randn(2, 3, 12, 12)}, make("vit")),
    ):
        graphs = gf.inspect.graphs(model, **inputs, streamed=True)
        graphs.save(tmp_path / "graphs.safetensors")
        again = gf.inspect.ModelGraphs.load(tmp_path / "graphs.safetensors")
        assert str(again) == str(graphs) and again.tokens == graphs.tokens
        assert again.names == graphs.names
        for a, b in zip(graphs.layers, again.layers, strict=True):
            assert torch.equal(a.graph.weight, b.graph.weight) and a.heads == b.heads
            assert torch.equal(a.graph.edge_index, b.graph.edge_index)
            assert torch.equal(a.value_norm, b.value_norm)
            for key, value in a.streamed.items().items():
                assert torch.equal(value, b.streamed.items()[key])
    graphs[0].save(tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match=r"ModelGraphs\.save wrote"):
        gf.inspect.ModelGraphs.load(tmp_path / "one.safetensors")


def test_sequences_without_padding_are_those_alone():
    ids = ids_of()
    model, mask = make("bert"), masks(ids)[2]
    graphs = gf.inspect.graphs(
        model, input_ids=ids, attention_mask=mask, sparsify=None, streamed=True
    )
    alone = gf.inspect.graphs(model, input_ids=ids[1:, :7], sparsify=None, streamed=True)
    own = graphs.of_sequence(1)
    for a, b in zip(alone.layers, own.layers, strict=True):
        torch.testing.assert_close(a.graph.to_dense(), b.graph.to_dense())
        torch.testing.assert_close(a.value_norm, b.value_norm)
        for name in ("sender_mass", "entropy", "sink"):
            torch.testing.assert_close(a.streamed.items()[name], b.streamed.items()[name])
    with pytest.raises(IndexError, match="sequence 2 does not exist"):
        graphs.of_sequence(2)


def test_new_tokens_after_a_cache_are_the_last_rows_and_a_short_mask_is_refused():
    import transformers

    model, ids = make("llama"), ids_of()
    whole = gf.inspect.graphs(model, input_ids=ids, sparsify=None)
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=ids[:, :7], past_key_values=cache, use_cache=True)
    graphs = gf.inspect.graphs(
        model, input_ids=ids[:, 7:], past_key_values=cache, use_cache=True, sparsify=None
    )
    for a, b in zip(whole, graphs, strict=True):
        torch.testing.assert_close(b.to_dense(), a.to_dense()[:, :, 7:])
    fixed = transformers.StaticCache(config=model.config, max_cache_len=20)
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[0, 0] = 0
    with pytest.raises(ValueError, match=r"attention_mask has 7 columns.*20 keys"):
        gf.inspect.graphs(
            model, input_ids=ids[:, :7], attention_mask=mask, past_key_values=fixed, use_cache=True
        )


def test_a_cache_that_has_let_go_of_tokens_is_refused():
    """Its senders would be called 0, 1, ... and be others."""
    import transformers
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4}
    model, ids = MistralForCausalLM(MistralConfig(**sizes, **heads)).eval(), ids_of()
    for cache in (
        transformers.DynamicCache(config=model.config),
        transformers.StaticCache(config=model.config, max_cache_len=20),
    ):
        with torch.no_grad():
            model(input_ids=ids[:, :7], past_key_values=cache)
        with pytest.raises(ValueError, match=r"past_key_values has let go.*DynamicCache\(\)"):
            gf.inspect.graphs(model, input_ids=ids[:, 7:], past_key_values=cache)
    whole = gf.inspect.graphs(model, input_ids=ids, sparsify=None)
    cache = transformers.DynamicCache()
    with torch.no_grad():
        model(input_ids=ids[:, :7], past_key_values=cache)
    graphs = gf.inspect.graphs(model, input_ids=ids[:, 7:], past_key_values=cache, sparsify=None)
    for a, b in zip(whole, graphs, strict=True):
        torch.testing.assert_close(b.to_dense(), a.to_dense()[:, :, 7:])
