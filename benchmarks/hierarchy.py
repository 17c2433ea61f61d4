"""What blocks among the senders cost, and what they lose, beside plain causal attention.

*cost*: one layer of width 256 with 4 heads, forward and backward, batch 1, against the same layer
with plain causal attention on torch's kernel; blocks of the square root of n tokens, of the cube
root on two levels. CPU time, one thread, the least of interleaved rounds, and its exponent in n.

*text*: models of equal size on tinyshakespeare, characters, context 1,024: 3 layers of width 128
with 4 heads, the same windows in the same order, one seed, few steps; validation on the last tenth.

    python -m benchmarks.hierarchy            a quarter of an hour; results/hierarchy.json
    python -m benchmarks.hierarchy --sections text    only this; the other's results are kept
    python -m benchmarks.hierarchy --quick    short: does it run? Writes no result file
    python -m benchmarks.hierarchy --docs     the stored results into docs/methods.md
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

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
from graphformer.training import train_language_model

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
SEED = 0
SECTIONS = ("cost", "text")


def heads(blocks: int) -> dict[str, Any]:
    """The candidates of each contender by name; None is plain causal attention."""
    one = {"name": "blocks", "sizes": [blocks]}
    near = {"name": "window", "size": blocks}
    return {
        "plain": None,
        "Blocks(B)": one,
        "Blocks(B) | Window(B)": {"name": "either", "first": one, "second": near},
    }


def contenders(length: int) -> dict[str, Any]:
    cube = round(length ** (1 / 3))
    two = {"name": "blocks", "sizes": [cube, cube]}
    return heads(math.isqrt(length)) | {"Blocks((C, C))": two}


def head_of(candidates: Any) -> dict[str, Any]:
    return {} if candidates is None else {"head": gf.Head.from_spec({"candidates": candidates})}


def layer_step(candidates: Any, length: int) -> measure.Step:
    torch.manual_seed(SEED)
    layer = gf.nn.SumAttention(256, 4, **head_of(candidates))
    x = torch.randn(1, length, 256, requires_grad=True)

    def step() -> None:
        layer(x).square().mean().backward()

    return step


def cost(lengths: list[int], rounds: int) -> list[dict[str, Any]]:
    rows = []
    for length in lengths:
        found = contenders(length)
        steps = {name: layer_step(one, length) for name, one in found.items()}
        for name, times in measure.cpu_times(steps, rounds).items():
            rows.append({"n": length, "name": name, "candidates": found[name], "seconds": times})
            print(f"n={length} {name}: {measure.seconds(min(times))}", flush=True)
    return rows


def trained(
    name: str, candidates: Any, text: str, settings: dict[str, Any]
) -> tuple[dict[str, Any], measure.Step]:
    """Losses of a model after training, and a training step of it."""
    context, batch = settings["context"], settings["batch_size"]
    tokenizer = build_tokenizer("char", text)
    parts = [encode(tokenizer, part) for part in split(text)]
    train = TextDataset(parts[0], context)
    validation = TextDataset(parts[1], context, stride=context)
    transformers.set_seed(SEED)
    model = gf.GraphformerForCausalLM(
        gf.GraphformerConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=3,
            num_attention_heads=4,
            operator="sum",
            max_position_embeddings=context,
            **head_of(candidates),
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        result = train_language_model(
            model,
            train,
            validation,
            folder,
            steps=settings["steps"],
            batch_size=batch,
            eval_batch_size=batch,
            warmup_steps=settings["steps"] // 10,
            learning_rate=settings["learning_rate"],
            seed=SEED,
            eval_steps=settings["steps"],
            save_steps=settings["steps"],
            save_total_limit=1,
            progress=False,
        )
        spent = time.process_time() - start
    loss = result.evaluation.loss_nats_per_token
    print(f"{name}: {loss:.4f} nats, {spent:.0f} CPU s", flush=True)
    ids = parts[0][: batch * context].view(batch, context)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()

    return {
        "name": name,
        "candidates": candidates,
        "parameters": model.num_parameters(),
        "validation_loss": loss,
        "perplexity": math.exp(loss),
        "train_loss": result.train_loss,
        "cpu_seconds": spent,
    }, step


def language(text: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    found = heads(settings["blocks"])
    runs, steps = [], {}
    for name, one in found.items():
        row, steps[name] = trained(name, one, text, settings)
        runs.append(row)
    for row, times in zip(runs, measure.cpu_times(steps, settings["rounds"]).values(), strict=True):
        row["step_seconds"] = times
    return runs


def escaped(name: str) -> str:
    """Inside a table."""
    return f"`{name}`".replace("|", "\\|")


def tables(content: dict[str, Any]) -> str:
    """Those of the sections that were run."""
    made = {"cost": cost_table, "text": text_table}
    return "\n\n".join(made[name](content[name]["runs"]) for name in SECTIONS if name in content)


def cost_table(rows: list[dict[str, Any]]) -> str:
    lengths = sorted({one["n"] for one in rows})
    least = {(one["n"], one["name"]): min(one["seconds"]) for one in rows}
    body = []
    for name in dict.fromkeys(one["name"] for one in rows):
        times = [least[n, name] for n in lengths]
        cells = [
            measure.seconds(one) + ("" if name == "plain" else f" ({one / least[n, 'plain']:.2f})")
            for n, one in zip(lengths, times, strict=True)
        ]
        exponent = measure.slope([float(n) for n in lengths], times)
        body.append([escaped(name), *cells, f"{exponent:.2f}"])
    header = [f"n = {one:,} (over plain)" for one in lengths]
    return report.table(["candidates", *header, "exponent"], body)


def text_table(runs: list[dict[str, Any]]) -> str:
    body = [
        [
            escaped(one["name"]),
            f"{one['perplexity']:.3f}",
            f"{one['validation_loss']:.4f}",
            measure.seconds(min(one["step_seconds"])),
        ]
        for one in runs
    ]
    header = ["candidates", "validation perplexity", "nats", "forward + backward of a batch"]
    return report.table(header, body)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short; writes no result file")
    parser.add_argument("--docs", action="store_true", help=f"write {PAGE.name}, run nothing")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--steps", type=int, default=120, help="of training [default: 120]")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder of the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if options.docs:
        content = json.loads((options.results / "hierarchy.json").read_text())
        page = PAGE.read_text()
        PAGE.write_text(report.filled(page, "hierarchy", {"": tables(content)}))
        return
    of_cost: dict[str, Any] = {"seed": SEED, "lengths": [1024, 4096, 16384], "rounds": 3}
    of_text: dict[str, Any] = {
        "seed": SEED,
        "rounds": 3,
        "context": 1024,
        "blocks": 32,
        "batch_size": 2,
        "steps": options.steps,
        "learning_rate": 2e-3,
        "text": "embedded" if options.quick else "tinyshakespeare/input.txt",
    }
    if options.quick:
        of_cost |= {"lengths": [64, 512], "rounds": 1}
        of_text |= {"rounds": 1, "context": 64, "blocks": 8, "steps": 2}
        text = embedded_text()[:20_000]
    else:
        text = read_text(report.data_dir() / "tinyshakespeare" / "input.txt")
    content: dict[str, Any] = {}
    for section in options.sections:
        settings = of_cost if section == "cost" else of_text
        runs = (
            cost(of_cost["lengths"], of_cost["rounds"])
            if section == "cost"
            else language(text, of_text)
        )
        found = {"environment": report.environment(), "settings": settings, "runs": runs}
        path = options.results / "hierarchy.json"
        if not options.quick and path.is_file():  # another section's, or this one's before
            content = json.loads(path.read_text())
        content[section] = found
        if not options.quick:
            report.save("hierarchy", content, options.results)
    print(f"\n{tables(content)}")


if __name__ == "__main__":
    main()
