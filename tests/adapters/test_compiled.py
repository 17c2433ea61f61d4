"""Adapters under torch.compile: the numbers and gradients of eager code."""

import peft
import pytest
import torch
import transformers
from torch.testing import assert_close

import graphformer as gf

FORMS = {
    "paper": {"hidden_dim": 8, "init_identity": False},
    "bottlenecks": {"form": "bottlenecks"},
    "bottlenecks alone": {"form": "bottlenecks", "relations": []},
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_compiled_is_eager(form):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    llama = transformers.LlamaConfig(vocab_size=65, num_attention_heads=4, **sizes)
    base = transformers.LlamaForCausalLM(llama).double()
    config = gf.SparseGINConfig(task_type="CAUSAL_LM", **FORMS[form])
    model = peft.get_peft_model(base, config).double().eval()
    trained = [one for one in model.parameters() if one.requires_grad]
    with torch.no_grad():
        for one in trained:
            one += 0.1 * torch.randn_like(one)
    ids = torch.randint(65, (2, 13))
    plain = model(ids, labels=ids)
    with model.disable_adapter():
        without = model(ids, labels=ids)
    assert not torch.equal(plain.loss, without.loss)
    compiled = torch.compile(model, backend="eager")(ids, labels=ids)
    assert_close(compiled.logits, plain.logits)
    assert_close(
        torch.autograd.grad(compiled.loss, trained), torch.autograd.grad(plain.loss, trained)
    )
    torch.compiler.reset()
