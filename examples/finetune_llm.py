"""Fine-tune a pre-trained language model with Sparse-GIN: its attention is a sparse graph, on which
a small GIN learns.

    python examples/finetune_llm.py --model path/to/stories260K --text path/to/input.txt
    python examples/finetune_llm.py --model meta-llama/Llama-3.2-3B-Instruct --text my.txt --batch 2
        on a GPU, nothing else changes

Prints the perplexity on the last tenth of the text before and after, the edges a token has in each
layer, and the trained scales. The defaults find both where ``GRAPHFORMER_DATA`` points to (or
beside the repository) and take under three minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import graphformer as gf
from graphformer.adapters import LambdaRecorder, edges_per_token
from graphformer.datasets import TextDataset, encode, read_text, split
from graphformer.training import evaluate

DATA = Path(os.environ.get("GRAPHFORMER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default=str(DATA.parent / "models" / "stories260K"),
        help="a folder or a name on the hub",
    )
    parser.add_argument("--text", type=Path, default=DATA / "tinyshakespeare" / "input.txt")
    parser.add_argument("--hidden-dim", type=int, default=43)
    parser.add_argument("--threshold", type=float, default=0.2)
    parser.add_argument(
        "--rate", type=float, default=4e-3, help="learning rate; large models want less: 2e-4"
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument(
        "--output", type=Path, default=Path("sparse-gin-adapter"), help="where the adapter is saved"
    )
    options = parser.parse_args()
    transformers.set_seed(0)

    tokenizer = AutoTokenizer.from_pretrained(options.model, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(options.model, trust_remote_code=False)
    train_text, validation_text = split(read_text(options.text))
    train = TextDataset(encode(tokenizer, train_text), options.context)
    validation = TextDataset(
        encode(tokenizer, validation_text), options.context, stride=options.context
    )
    before = evaluate(model, validation, batch_size=options.batch)

    config = gf.SparseGINConfig(
        task_type="CAUSAL_LM", hidden_dim=options.hidden_dim, threshold=options.threshold
    )
    model = peft.get_peft_model(model, config)
    model.print_trainable_parameters()
    recorder = LambdaRecorder()
    arguments = TrainingArguments(
        str(options.output),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=options.rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=options.steps // 20,
        weight_decay=0.01,
        logging_steps=max(options.steps // 10, 1),
        save_strategy="no",
        report_to="none",
    )
    Trainer(model, arguments, train_dataset=train, callbacks=[recorder]).train()

    after = evaluate(model, validation, batch_size=options.batch)
    print(
        "\n"
        f"perplexity: {before.perplexity:.2f} before, {after.perplexity:.2f} after {options.steps} "
        "steps"
    )
    sample = torch.stack([validation[i]["input_ids"] for i in range(2)]).to(model.device)
    for (layer, edges), scale in zip(
        edges_per_token(model, input_ids=sample).items(),
        recorder.history["values"][-1],
        strict=True,
    ):
        print(f"{layer}: {edges:.2f} edges a token, lambda {scale:.3f}")
    model.save_pretrained(options.output)
    print(
        f"adapter saved in {options.output}; read it with peft.PeftModel.from_pretrained(base, "
        f"{str(options.output)!r})"
    )


if __name__ == "__main__":
    main()
