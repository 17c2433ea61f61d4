"""Language models of equal size and different operators, trained on the same text with the same
seeds.

nanoGPT's setting for a CPU: 4 layers, 4 heads, 128 wide, context 64, batch 12, 2000 steps, learning
rate 1e-3 with 100 steps of warm-up and a cosine to 1e-4, AdamW (0.9, 0.99), weight decay 0.1, clip
1, no dropout; characters; the last tenth of the text validates, all of it.

    python -m benchmarks.language                 tinyshakespeare from GRAPHFORMER_DATA, 5 seeds
    python -m benchmarks.language --quick         a few steps on the embedded text: does it run?

A seed draws the weights and the order of the windows; the operators see the same windows. Runs that
a result file of the same settings already holds are not repeated, so an interrupted benchmark goes
on where it stopped; a file of other settings is refused (``--results`` names another folder).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers

import graphformer as gf
from benchmarks import report
from benchmarks.store import alone, refuse_others
from graphformer.datasets import (
    TextDataset,
    build_tokenizer,
    embedded_text,
    encode,
    read_text,
    split,
)
from graphformer.training import train_language_model

VARIANTS: dict[str, dict[str, Any]] = {
    "sum": {"operator": "sum"},
    "gin": {"operator": "gin"},
    "pna": {"operator": "pna", "threshold": 0.1},
    "gin+chain": {"operator": "gin", "relations": [gf.Chain(3)]},
    "sum+chain": {"operator": "sum", "relations": [gf.Chain(3)]},
}
"""PNA is cut at 0.1: with all pairs as edges a step takes four times as long, and sum and mean are
the same number. Chain: edges from the three tokens before.
"""

PUBLISHED = {"nanoGPT, the same setting (LayerNorm, learned positions, GELU)": 1.88}


def base_config(vocab_size: int, context: int) -> gf.GraphformerConfig:
    """The GIN model; every other variant is matched to its number of parameters."""
    return gf.GraphformerConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=424,
        num_hidden_layers=4,
        num_attention_heads=4,
        operator="gin",
        mlp_ratio=0.5,
        sharpening=True,
        max_position_embeddings=context,
    )


def run(
    config: gf.GraphformerConfig, train: TextDataset, validation: TextDataset, steps: int, seed: int
) -> dict[str, Any]:
    """Train one model; its losses, size and time."""
    transformers.set_seed(seed)
    model = gf.GraphformerForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = train_language_model(
            model,
            train,
            validation,
            folder,
            steps=steps,
            batch_size=12,
            eval_batch_size=64,
            seed=seed,
            eval_steps=max(steps // 8, 1),
            save_steps=steps,
            save_total_limit=1,
            progress=False,
        )
        seconds = time.perf_counter() - start
    curve = [
        (entry["step"], entry["eval_loss"]) for entry in result.history if "eval_loss" in entry
    ]
    return {
        "seed": seed,
        "parameters": model.num_parameters(),
        "intermediate_size": config.intermediate_size,
        "validation_loss": result.evaluation.loss_nats_per_token,
        "validation_tokens": result.evaluation.num_tokens,
        "best_validation_loss": min(loss for _, loss in curve),
        "train_loss": result.train_loss,
        "curve": curve,
        "seconds": round(seconds, 1),
        "sharpening": [
            round(float(p.detach()), 4)
            for n, p in model.named_parameters()
            if n.endswith("sharpening")
        ],
    }


def stored(settings: dict[str, Any], target: Path | None) -> dict[str, Any]:
    """What the file holds; ends the program where that is of other settings."""
    if target is not None and target.is_file():
        before: dict[str, Any] = json.loads(target.read_text())
        refuse_others(target, before["settings"], settings)
        return before
    return {"environments": [], "settings": settings, "published": PUBLISHED, "runs": {}}


def keep(
    content: dict[str, Any],
    name: str,
    result: dict[str, Any],
    here: dict[str, Any],
    target: Path | None,
) -> dict[str, Any]:
    """The content with one more run, in the file too, beside what another process has added."""
    with nullcontext() if target is None else alone(target):
        if target is not None:
            content = stored(content["settings"], target)
        content["runs"].setdefault(name, []).append(result)
        if here not in content["environments"]:
            content["environments"].append(here)
        if target is not None:
            report.save(target.stem, content, target.parent)
    return content


def summary(runs: dict[str, list[dict[str, Any]]], names: Sequence[str] | None = None) -> str:
    """The table: loss of each variant, or of these, and its paired difference to the standard
    transformer.
    """
    rows = []
    standard = {r["seed"]: r["validation_loss"] for r in runs.get("sum", [])}
    for name in names or runs:
        done = runs[name]
        losses = [r["validation_loss"] for r in done]
        paired = [r["validation_loss"] - standard[r["seed"]] for r in done if r["seed"] in standard]
        rows.append(
            [
                name
                + (
                    f" (threshold {VARIANTS[name]['threshold']})"
                    if "threshold" in VARIANTS[name]
                    else ""
                ),
                f"{done[0]['parameters']:,}",
                str(len(done)),
                _interval(losses, ".4f"),
                f"{statistics.stdev(losses):.4f}" if len(losses) > 1 else "",
                _interval(paired, "+.4f") if name != "sum" else "",
            ]
        )
    header = [
        "operator",
        "parameters",
        "seeds",
        "validation loss, nats (95 %)",
        "sd",
        "minus sum (paired, 95 %)",
    ]
    return report.table(header, rows)


def _interval(values: list[float], form: str) -> str:
    """The mean and the half-width of its interval, of which one value has none."""
    if not values:
        return ""
    mean, half = report.interval(values)
    return f"{mean:{form}}" + (f" ± {half:.4f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--text", type=Path, help="a text file [default: tinyshakespeare of the data folder]"
    )
    parser.add_argument("--operators", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few steps on the embedded text; writes no result file",
    )
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder of the file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()

    if options.quick:
        text, source = embedded_text()[:60_000], "embedded"
        options.seeds, options.steps = min(options.seeds, 2), min(options.steps, 20)
    else:
        path = options.text or report.data_dir() / "tinyshakespeare" / "input.txt"
        text, source = read_text(path), path.parent.name + "/" + path.name
    tokenizer = build_tokenizer("char", text)
    train_text, validation_text = split(text)
    train = TextDataset(encode(tokenizer, train_text), options.context)
    validation = TextDataset(
        encode(tokenizer, validation_text), options.context, stride=options.context
    )
    base = base_config(len(tokenizer), options.context)
    configs = {name: gf.parameter_matched(base, **VARIANTS[name]) for name in options.operators}

    settings = {
        "text": source,
        "characters": len(text),
        "vocabulary": len(tokenizer),
        "steps": options.steps,
        "context": options.context,
    }
    here = report.environment()
    target = None if options.quick else options.results / "language.json"
    content = stored(settings, target)
    for seed in range(options.seeds):
        for name, config in configs.items():
            if any(r["seed"] == seed for r in content["runs"].get(name, [])):
                continue
            result = run(config, train, validation, options.steps, seed)
            print(
                f"{name} seed {seed}: {result['validation_loss']:.4f} nats in "
                f"{result['seconds']:.0f} s",
                flush=True,
            )
            content = keep(content, name, result, here, target)
    print()
    print(summary(content["runs"], options.operators))
    for what, loss in PUBLISHED.items():
        print(f"published: {what}: {loss} nats on tinyshakespeare")


if __name__ == "__main__":
    main()
