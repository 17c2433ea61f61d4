"""Heads by the codes of their outputs: formulas, a planted circuit, what is refused."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.testing import assert_close

import graphformer as gf
from graphformer.inspect.circuits import SparseAutoencoder, codes_of, overlaps

PLANTED = (1, 4, 5)
NUMBERS = ("overlap", "others", "score", "unique")


def test_the_autoencoder_written_out():
    torch.manual_seed(0)
    coder, x = SparseAutoencoder(5, 7), torch.randn(11, 5)
    z = F.relu(x @ coder.encoder.weight.T + coder.encoder.bias)
    columns = coder.decoder.weight / coder.decoder.weight.norm(dim=0)
    again, codes = coder(x)
    assert_close(codes, z)
    assert_close(again, z @ columns.T + coder.decoder.bias)
    before = (x - again).square().sum(-1).mean() + 0.1 * z.sum(-1).mean()
    after = coder.fit(x, sparsity=0.1, steps=200, lr=1e-2)
    assert after < 0.5 * float(before)


def test_more_sparsity_leaves_fewer_codes():
    x, active = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), []
    for sparsity in (0.0, 1.0):
        torch.manual_seed(0)
        coder = SparseAutoencoder(5, 16)
        coder.fit(x, sparsity=sparsity, steps=300, lr=1e-2)
        active.append(float((coder.encode(x) > 0).float().mean()))
    assert active[1] < 0.7 * active[0]


def test_overlaps_by_hand():
    positive = torch.tensor([[3, 0, 1], [3, 1, 1], [2, 2, 1], [3, 3, -1]])
    negative = torch.tensor([[1, 0, 1], [3, 1, 1]])
    found = overlaps(positive, negative)
    assert found["overlap"].tolist() == [0.75, 0.25, 0.75]
    assert found["others"].tolist() == [0.5, 0.5, 1.0]
    assert found["score"].tolist() == [0.25, -0.25, -0.25]
    assert found["unique"].tolist() == [0.25, 0.5, 0.25]


@pytest.mark.parametrize("number", [5, 10])
def test_a_planted_circuit_is_found(number: int):
    """Of eight heads three send one vector where the task is done and another elsewhere; all send
    noise besides.
    """
    torch.manual_seed(0)
    outputs = torch.randn(2 * number, 8, 12)
    for head in PLANTED:
        one, other = 8 * F.normalize(torch.randn(2, 12), dim=-1)
        outputs[:number, head] += one
        outputs[number:, head] += other
    codes = codes_of(outputs)
    assert torch.equal(codes, codes_of(outputs))
    score = overlaps(codes[:number], codes[number:])["score"]
    assert sorted(score.topk(3).indices.tolist()) == list(PLANTED)
    others = [head for head in range(8) if head not in PLANTED]
    assert score[list(PLANTED)].min() > score[others].max()


def test_in_a_model_and_in_one_of_this_library():
    """A head that says whether the last token came before: keys and queries are the embedding."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=12,
        intermediate_size=14,
        num_hidden_layers=2,
        num_attention_heads=3,
    )
    own = gf.GraphformerConfig(
        vocab_size=31,
        hidden_size=12,
        intermediate_size=14,
        num_hidden_layers=2,
        num_attention_heads=3,
    )
    positive = [torch.randint(5, 31, (length,)) for length in (5, 7, 6)]
    negative = [torch.randint(5, 31, (length,)) for length in (4, 9)]
    for model in (transformers.LlamaForCausalLM(config), gf.GraphformerForCausalLM(own)):
        found = gf.inspect.circuit(model.eval(), positive, negative, features=8, steps=20)
        assert found.columns.tolist() == ["layer", "name", "head", *NUMBERS]
        assert found[["layer", "head"]].to_numpy().tolist() == [
            [layer, head] for layer in range(2) for head in range(3)
        ]
        assert found["overlap"].between(1 / 3, 1).all() and found["others"].between(0, 1).all()
        assert_close(found["score"].to_numpy(), (found["overlap"] - found["others"]).to_numpy())


def testhead_outputs_are_those_of_the_heads_at_the_place():
    from graphformer.inspect.circuits import head_outputs

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=12,
        intermediate_size=14,
        num_hidden_layers=1,
        num_attention_heads=3,
    )
    model, ids = transformers.LlamaForCausalLM(config).eval(), torch.randint(31, (7,))
    names, found = head_outputs(model, [ids, ids[:5]], 3)
    graph = gf.inspect.graphs(model, input_ids=ids[None], sparsify=None)[0]
    layer = model.model.layers[0]
    hidden = layer.input_layernorm(model.model.embed_tokens(ids))
    values = layer.self_attn.v_proj(hidden).view(7, 3, 4).transpose(0, 1)
    want = (graph.to_dense()[0] @ values)[:, 3]
    assert_close(found[0], want)
    assert_close(found[1], want)  # what comes later changes nothing
    assert [one[2] for one in names] == [0, 1, 2]


def test_refusals():
    model, ids = torch.nn.Linear(2, 2), torch.arange(5)
    with pytest.raises(ValueError, match="negative holds 1 examples: give at least two"):
        gf.inspect.circuit(model, [ids, ids], [ids])
    with pytest.raises(ValueError, match="has no place -6"):
        gf.inspect.circuit(model, [ids, ids], [ids, ids], place=-6)
    with pytest.raises(ValueError, match="sparsity must be"):
        gf.inspect.circuit(model, [ids, ids], [ids, ids], sparsity=-1.0)


@pytest.mark.parametrize(("name", "value"), [("sparsity", -0.1), ("steps", 0), ("lr", 0.0)])
def test_what_training_cannot_mean_is_refused(name: str, value: float) -> None:
    wanted = {"sparsity": 0.1, "steps": 2, "lr": 1e-2, name: value}
    with pytest.raises(ValueError, match=f"{name} must be"):
        SparseAutoencoder(3, 5).fit(torch.randn(7, 3), **wanted)
