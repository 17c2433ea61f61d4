"""What pruning costs and saves: a small language model before, and what is left of it.

A model of plain attention on tinyshakespeare (characters, context 64) is trained, then half of its
heads and a quarter of its layers are cut by trained masks while it goes on, and what is left is
exported. Beside it: the same model trained as many steps more; the same share cut at once; and a
model of the exported one's shape from new weights, trained all steps.

    python -m benchmarks.pruning            benchmarks/results/pruning.json; some minutes
    python -m benchmarks.pruning --quick    a few steps on made data; writes no result file
    python -m benchmarks.pruning --show     the tables of the stored result

Times: one forward of one text without gradients, CPU seconds of one thread, the least of
interleaved rounds. One seed.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch

import graphformer as gf
from benchmarks import measure, report
from graphformer.datasets import (
    TextDataset,
    build_tokenizer,
    embedded_text,
    encode,
    read_text,
    split,
)
from graphformer.training import Pruner

SHARES = {"heads": 0.5, "layers": 0.25}
VALIDATION = 20_000
"""Characters of the validation text that are read, from its beginning."""


class Text:
    """Batches of a text, and the loss on what comes after it."""

    def __init__(self, quick: bool, context: int) -> None:
        path = None if quick else report.data_dir() / "tinyshakespeare" / "input.txt"
        text = embedded_text()[:20_000] if path is None else read_text(path)
        self.tokenizer = build_tokenizer("char", text)
        first, last = (encode(self.tokenizer, part) for part in split(text))
        self.train = TextDataset(first, context)
        self.last = TextDataset(last[:VALIDATION], context, stride=context)

    def batch(self, size: int, draw: torch.Generator) -> torch.Tensor:
        places = torch.randint(len(self.train), (size,), generator=draw)
        return torch.stack([torch.as_tensor(self.train[int(i)]["input_ids"]) for i in places])

    @torch.no_grad()
    def loss(self, model: gf.GraphformerForCausalLM) -> float:
        """Nats a character, the mean over windows of equal length."""
        model.eval()
        found = []
        for i in range(len(self.last)):
            ids = torch.as_tensor(self.last[i]["input_ids"])[None]
            if ids.shape[1] == len(self.last[0]["input_ids"]):
                found.append(float(model(ids, labels=ids).loss))
        return sum(found) / len(found)


def config(text: Text, context: int) -> gf.GraphformerConfig:
    return gf.GraphformerConfig(
        vocab_size=len(text.tokenizer),
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=4,
        num_attention_heads=8,
        operator="sum",
        max_position_embeddings=context,
    )


def train(
    model: gf.GraphformerForCausalLM,
    text: Text,
    steps: int,
    batch: int,
    seed: int,
    pruner: Pruner | None = None,
) -> None:
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1)
    model.train()
    for step in range(steps):
        if pruner is not None:
            pruner.step(step)
        ids = text.batch(batch, draw)
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def parameters(model: torch.nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def row(name: str, steps: int, model: gf.GraphformerForCausalLM, text: Text) -> dict[str, Any]:
    found = {
        "model": name,
        "steps": steps,
        "layers": model.config.num_hidden_layers,
        "heads": list(model.config.layer_num_heads),
        "parameters": parameters(model),
        "validation_loss": text.loss(model),
    }
    print(found, flush=True)
    return found


def run(quick: bool, before: int, after: int, context: int, batch: int) -> dict[str, Any]:
    text = Text(quick, context)
    torch.manual_seed(0)
    dense = gf.GraphformerForCausalLM(config(text, context))
    train(dense, text, before, batch, 0)
    rows = [row("dense", before, dense, text)]

    at_once = Pruner(copy.deepcopy(dense), **SHARES, steps=1)
    at_once.harden()
    rows.append(row("cut at once", before, at_once.export(), text))

    longer = copy.deepcopy(dense)
    train(longer, text, after, batch, 1)
    rows.append(row("dense", before + after, longer, text))

    masked = copy.deepcopy(dense)
    schedule = {"begin": after // 10, "steps": after // 2}
    pruner = Pruner(masked, **SHARES, **schedule)
    train(masked, text, after, batch, 1, pruner)
    small = pruner.export()
    rows.append(row("pruned", before + after, small, text))

    torch.manual_seed(0)
    scratch = gf.GraphformerForCausalLM(small.config)
    train(scratch, text, before + after, batch, 0)
    rows.append(row("its shape from new weights", before + after, scratch, text))

    times = []
    for length in (32,) if quick else (64, 512, 2048):
        ids = torch.randint(len(text.tokenizer), (1, length))
        steps = {}
        for name, model in (("dense", dense), ("masked", masked), ("pruned", small)):
            steps[name] = lambda model=model, ids=ids: forward(model, ids)
        least = {
            name: min(one) for name, one in measure.cpu_times(steps, 1 if quick else 7).items()
        }
        times.append({"length": length, "seconds": least})
        print(times[-1], flush=True)
    settings = {"shares": SHARES, **schedule, "context": context, "batch": batch, "seed": 0}
    found = {"settings": settings, "runs": rows, "times": times}
    return {"environment": report.environment(), **found}


@torch.no_grad()
def forward(model: gf.GraphformerForCausalLM, ids: torch.Tensor) -> None:
    model(ids, use_cache=False)


def tables(content: dict[str, Any]) -> str:
    rows = [
        [
            one["model"],
            str(one["steps"]),
            str(one["layers"]),
            ", ".join(map(str, one["heads"])),
            f"{one['parameters']:,}",
            f"{one['validation_loss']:.3f}",
        ]
        for one in content["runs"]
    ]
    header = ["model", "steps", "layers", "heads by layer", "parameters", "nats"]
    timed = [
        [
            f"{one['length']:,}",
            measure.seconds(one["seconds"]["dense"]),
            measure.seconds(one["seconds"]["pruned"]),
            f"{one['seconds']['pruned'] / one['seconds']['dense']:.2f}",
        ]
        for one in content["times"]
    ]
    second = report.table(["tokens", "dense", "pruned", "pruned / dense"], timed)
    return f"{report.table(header, rows)}\n\n{second}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short; writes no result file")
    parser.add_argument("--show", action="store_true", help="the stored result, run nothing")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder of the file")
    options = parser.parse_args()
    if options.show:
        print(tables(json.loads((options.results / "pruning.json").read_text())))
        return
    torch.set_num_threads(1)
    content = run(True, 4, 10, 32, 2) if options.quick else run(False, 300, 200, 64, 8)
    if not options.quick:
        report.save("pruning", content, options.results)
    print(f"\n{tables(content)}")


if __name__ == "__main__":
    main()
