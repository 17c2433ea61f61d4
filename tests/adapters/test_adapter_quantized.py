"""The adapter on bases in 8 and 4 bits, where bitsandbytes is installed and has kernels for this
machine.
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

import graphformer as gf

peft = pytest.importorskip("peft")
pytest.importorskip("bitsandbytes")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_base(bits: int, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantization, device_map="cpu"
    )
    ids = torch.randint(0, 64, (2, 11))
    with torch.no_grad():
        wanted = base(ids).logits
    model = peft.get_peft_model(
        base, gf.SparseGINConfig(task_type="CAUSAL_LM", hidden_dim=7, scale_start=0.1)
    ).eval()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, wanted)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, 1e-2), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and all(p.dtype == torch.float32 for p in trained)
    with torch.no_grad():
        after = model(ids).logits
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, wanted)
    model.save_pretrained(tmp_path / "adapter")
    if bits == 4:
        # on CPUs bitsandbytes changes 4-bit weights whenever a state dict is asked for: nothing can
        # be compared after that
        return
    with torch.no_grad():
        assert torch.equal(model.unload()(ids).logits, wanted)
        again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert torch.equal(again(ids).logits, after)
