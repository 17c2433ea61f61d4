"""Ways of fine-tuning the same small pre-trained model, at the same number of trainable parameters.

``stories260K`` (a Llama of 260K parameters, trained on children's stories) learns (a) question and
answer texts of gsm8k and (b) the plays of tinyshakespeare, by LoRA and its relatives, by both forms
of this library's adapter with and without their parts, and with all weights. All but IA3 and all
weights have equal numbers of trainable parameters (within 2 %). The learning rate of each is chosen
on validation from the same grid, with a seed that is not used again: rates are tried from the
middle outwards, until the best has a worse one on both sides, or the grid ends. Then every method
trains with each of five seeds and is tested on text that nothing was chosen by. Of gsm8k 300
problems validate and 400 of its test problems test.

    python -m benchmarks.finetune                        both texts, some hours on one core;
                                                         benchmarks/results/finetune-*.json
    python -m benchmarks.finetune --texts gsm8k          one of them (two processes can share the
                                                         work)
    python -m benchmarks.finetune --texts gsm8k --methods relations --seeds 1
                                                         one row of the table, one seed
    python -m benchmarks.finetune --model FOLDER --steps 60 --batch 2
                                                         another model, such as what
                                                         benchmarks.smollm2 makes
    python -m benchmarks.finetune --cost                 time and memory of a training step, Llama
                                                         with hidden size 512 and 8 layers
    python -m benchmarks.finetune --quick                a few steps of three methods, random model,
                                                         embedded text: does it run?
    python -m benchmarks.finetune --show                 the tables of the last results
    python -m benchmarks.finetune --plot                 and their curves, docs/finetune-*.png

AdamW, weight decay 0.01, clip 1, 20 steps of warm-up and then a constant learning rate, 400 steps
of 4 windows of 256 tokens; dropout 0.1 in every adapter. A seed draws the adapter's weights, its
dropout and the order of the windows. Runs that a result file of the same settings holds are not
repeated.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

import graphformer as gf
from benchmarks import measure, report
from graphformer.adapters.looking import LambdaRecorder
from graphformer.adapters.matching import count_trainable, match_parameters
from graphformer.datasets import GSM8K, TextDataset, embedded_text
from graphformer.training import evaluate

GRID = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
GRID_SEED = 100
TEXTS = ("gsm8k", "tinyshakespeare")
METHODS = {
    "lora": "LoRA, r = 8, all linear layers",
    "lora-mlp": "LoRA, feed-forward alone",
    "rslora": "rsLoRA, r = 8, all linear layers",
    "ia3": "IA3",
    "bottlenecks-linear": "bottlenecks, linear",
    "bottlenecks": "bottlenecks, silu",
    "chain": "bottlenecks, silu, and chain",
    "recurrence": "bottlenecks, silu, and recurrence",
    "relations-linear": "bottlenecks, linear, chain and recurrence",
    "relations": "bottlenecks, silu, chain and recurrence",
    "relations-messages": "the same and messages over the model's graph",
    "sparse-gin": "Sparse-GIN, key to query",
    "sparse-gin-self": "Sparse-GIN, self-loops only",
    "full": "all weights",
}
REFERENCE = "lora"
"""What the others are compared with, seed by seed."""

RELATIONS = [gf.Chain(3), gf.Repeats(1), gf.Repeats(1, "mean"), gf.Repeats(2), gf.Repeats(3)]
BOTTLENECKS: dict[str, dict[str, Any]] = {
    "bottlenecks-linear": {"activation": None, "relations": []},
    "bottlenecks": {"relations": []},
    "chain": {"relations": RELATIONS[:1]},
    "recurrence": {"relations": RELATIONS[1:]},
    "relations-linear": {"activation": None, "relations": RELATIONS},
    "relations": {"relations": RELATIONS},
    "relations-messages": {"relations": RELATIONS, "messages": {"threshold": 0.02}},
}
"""What each variant of the second form says beside its ranks."""


def lora(rank: int = 8, **settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.1,
        **{"target_modules": "all-linear", **settings},
    )


def config(method: str, model: PreTrainedModel) -> peft.PeftConfig:
    """The adapter of a method, as large as LoRA where its size can be chosen."""
    if method == "lora":
        return lora()
    if method == "rslora":
        return lora(use_rslora=True)
    if method == "ia3":
        return peft.IA3Config(task_type="CAUSAL_LM")
    if method == "lora-mlp":
        wide = {"target_modules": ["gate_proj", "up_proj", "down_proj"]}
        wanted = count_trainable(model, lora())
        return lora(round(wanted / count_trainable(model, lora(1, **wide))), **wide)
    if method in BOTTLENECKS:
        base = gf.SparseGINConfig(
            task_type="CAUSAL_LM", form="bottlenecks", dropout=0.1, **BOTTLENECKS[method]
        )
        return match_parameters(model, lora(), base, tolerance=0.01)
    direction = "self" if method.endswith("self") else "key_to_query"
    base = gf.SparseGINConfig(task_type="CAUSAL_LM", threshold=0.2, direction=direction)
    return match_parameters(model, lora(), base)


def wrap(method: str, model: PreTrainedModel) -> nn.Module:
    """The model with what this method trains."""
    if method == "full":
        return model
    return peft.get_peft_model(model, config(method, model))


# ------------------------------------------------------------------ texts


def stories260k() -> Path:
    """The folder of the pre-trained model: beside the data sets."""
    folder = (
        Path(os.environ.get("GRAPHFORMER_MODELS", report.data_dir().parent / "models"))
        / "stories260K"
    )
    if not folder.is_dir():
        raise SystemExit(
            f"error: no model at {folder}; set GRAPHFORMER_MODELS to the folder that holds "
            "stories260K"
        )
    return folder


def parts(name: str, quick: bool) -> tuple[str, str, str]:
    """Texts to train, validate (the choice of the learning rate) and test on."""
    if quick:
        text = embedded_text()[:60_000]
        return text[:40_000], text[40_000:50_000], text[50_000:]
    if name == "tinyshakespeare":
        text = (report.data_dir() / name / "input.txt").read_text()
        return (
            text[: len(text) * 8 // 10],
            text[len(text) * 8 // 10 : len(text) * 9 // 10],
            text[len(text) * 9 // 10 :],
        )
    train, test = (GSM8K(split=part, raw=report.data_dir() / name) for part in ("train", "test"))
    cut = len(train) * 9 // 10
    validation = "".join(map(train.text, range(cut, cut + 300)))
    return "".join(map(train.text, range(cut))), validation, "".join(map(test.text, range(400)))


def tokens(tokenizer: Any, text: str) -> Tensor:
    lines = text.splitlines(keepends=True)
    ids = [i for line in tokenizer(lines, add_special_tokens=False)["input_ids"] for i in line]
    return torch.tensor(ids, dtype=torch.int64)


# ------------------------------------------------------------------ training


def train(
    model: nn.Module,
    data: dict[str, TextDataset],
    rate: float,
    seed: int,
    steps: int,
    batch: int,
    final: str,
) -> dict[str, Any]:
    """Train a wrapped model; its validation curve, and its loss on the part ``final``."""
    curve: list[tuple[int, float]] = [(0, evaluate(model, data["glimpse"]).loss_nats_per_token)]

    class Curve(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % max(steps // 8, 1) == 0:
                curve.append(
                    (state.global_step, evaluate(model, data["glimpse"]).loss_nats_per_token)
                )

    recorder = LambdaRecorder(every=max(steps // 20, 1))
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=steps // 20,
            weight_decay=0.01,
            max_grad_norm=1.0,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        )
        trainer = transformers.Trainer(
            model, arguments, train_dataset=data["train"], callbacks=[Curve(), recorder]
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    seconds = time.process_time() - start
    loss = evaluate(model, data[final]).loss_nats_per_token
    said = getattr(model, "peft_config", {}).get("default")
    return {
        "seed": seed,
        "rate": rate,
        "loss": loss,
        "ranks": [getattr(said, name, None) for name in ("rank", "rank_pattern")],
        "curve": curve,
        "lambda": recorder.history,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "cpu_seconds": round(seconds, 1),
    }


def study(name: str, options: argparse.Namespace, folder: Path | None) -> dict[str, Any]:
    """All runs of one text; after each the result file is whole."""
    if options.quick:
        tokenizer, fresh = random_model()
    else:
        home = options.model or stories260k()
        tokenizer = AutoTokenizer.from_pretrained(home, trust_remote_code=False)

        def fresh() -> PreTrainedModel:
            return AutoModelForCausalLM.from_pretrained(home, trust_remote_code=False)

    context = 32 if options.quick else 256
    texts = dict(
        zip(
            ("train", "validation", "test"),
            (tokens(tokenizer, text) for text in parts(name, options.quick)),
            strict=True,
        )
    )
    data = {
        part: TextDataset(ids, context, stride=1 if part == "train" else context)
        for part, ids in texts.items()
    }
    data["glimpse"] = TextDataset(texts["validation"][: 40 * context + 1], context, stride=context)
    settings = {
        "text": name,
        "tokens": {part: len(ids) for part, ids in texts.items()},
        "context": context,
        "steps": options.steps,
        "batch": options.batch,
        "grid": list(options.grid),
        "threshold": 0.2,
    }
    content: dict[str, Any] = {**report.environment(), "settings": settings, "grid": {}, "runs": {}}
    if options.model is not None:
        settings["model"] = options.model.name
    stem = result_name(name, options.model)
    target = None if folder is None else folder / f"{stem}.json"
    if target is not None and target.is_file():
        before = json.loads(target.read_text())
        if before["settings"] == settings:
            content.update({key: before[key] for key in ("grid", "runs", "untrained")})
    if "untrained" not in content:
        content["untrained"] = {
            part: evaluate(fresh(), data[part]).loss_nats_per_token
            for part in ("validation", "test")
        }

    def once(method: str, rate: float, seed: int, final: str, done: list[dict[str, Any]]) -> None:
        if any(run["seed"] == seed and run["rate"] == rate for run in done):
            return
        transformers.set_seed(seed)
        result = train(wrap(method, fresh()), data, rate, seed, options.steps, options.batch, final)
        done.append(result)
        print(
            f"{name} {method} rate {rate:g} seed {seed}: {final} {result['loss']:.4f} in "
            f"{result['cpu_seconds']:.0f} s",
            flush=True,
        )
        if folder is not None:
            report.save(stem, content, folder)

    for method in options.methods:
        done = content["grid"].setdefault(method, [])
        while (rate := untried(options.grid, done)) is not None:
            once(method, rate, GRID_SEED, "validation", done)
    for seed in range(options.seeds):
        for method in options.methods:
            once(
                method,
                chosen(content, method),
                seed,
                "test",
                content["runs"].setdefault(method, []),
            )
    return content


def result_name(text: str, model: Path | None) -> str:
    return f"finetune-{text}" if model is None else f"finetune-{model.name}-{text}"


def untried(grid: tuple[float, ...], done: list[dict[str, Any]]) -> float | None:
    """The next learning rate to try: the middle one, then the neighbours of the best so far; None
    where both are known, or the grid ends there.
    """
    losses = {run["rate"]: run["loss"] for run in done}
    if not losses:
        return grid[len(grid) // 2]
    best = grid.index(min(losses, key=lambda rate: losses[rate]))
    near = [grid[i] for i in (best - 1, best + 1) if 0 <= i < len(grid)]
    return next((rate for rate in near if rate not in losses), None)


def chosen(content: dict[str, Any], method: str) -> float:
    """The learning rate of the lowest validation loss."""
    return min(content["grid"][method], key=lambda run: run["loss"])["rate"]


def random_model() -> tuple[Any, Callable[[], PreTrainedModel]]:
    """A small Llama with random weights and a tokenizer of characters."""
    from graphformer.datasets import build_tokenizer

    tokenizer = build_tokenizer("char", embedded_text())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    return tokenizer, lambda: copy.deepcopy(model)


# ------------------------------------------------------------------ the cost of a step


def cost_step(method: str, sizes: tuple[int, int, int]) -> measure.Step:
    """One training step (forward and backward) of a Llama with random weights."""
    hidden, layers, length = sizes
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 8 * 8,
        num_hidden_layers=layers,
        num_attention_heads=8,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    base = LlamaForCausalLM(config)
    with torch.no_grad():
        # scores of a standard deviation near 3, as a trained model's are: random ones are all near
        # 0
        for layer in base.model.layers:
            layer.self_attn.q_proj.weight *= 12
    model = wrap(method, base).train()
    ids = torch.randint(0, 512, (1, length))
    leaves = [p for p in model.parameters() if p.requires_grad]
    return lambda: torch.autograd.grad(
        model(input_ids=ids, labels=ids, use_cache=False).loss, leaves, allow_unused=True
    )


def cost(quick: bool, repetitions: int) -> dict[str, Any]:
    sizes = (64, 2, 64) if quick else (512, 8, 512)
    methods = ("lora", "bottlenecks", "relations", "sparse-gin", "sparse-gin-self")
    times = measure.cpu_times(
        {method: cost_step(method, sizes) for method in methods},
        repetitions,
        0 if quick else measure.SHORTEST,
    )
    cases = [] if quick else [{"method": method, "sizes": sizes} for method in methods]
    found = measure.in_children("benchmarks.finetune", cases, together=1)
    rows = {}
    for i, method in enumerate(methods):
        rows[method] = {"seconds": times[method], "bytes": found[i]["bytes"] if found else None}
    return {
        **report.environment(),
        "sizes": dict(zip(("hidden", "layers", "length"), sizes, strict=True)),
        "rows": rows,
    }


def cost_table(content: dict[str, Any]) -> str:
    rows, base = [], content["rows"]["lora"]
    for method, row in content["rows"].items():
        cells = [
            measure.times_as_much(measure.ratio(row, base, what)) for what in ("seconds", "bytes")
        ]
        if method == "lora":
            cells = [
                measure.seconds(statistics.median(row["seconds"])),
                measure.mebibytes(row["bytes"]) if row["bytes"] else "-",
            ]
        rows.append([METHODS[method], *cells])
    sizes = content["sizes"]
    what = (
        f"step of a Llama, hidden {sizes['hidden']}, {sizes['layers']} layers, length "
        f"{sizes['length']}"
    )
    return report.table([what, "time", "memory"], rows)


# ------------------------------------------------------------------ showing results


def table(content: dict[str, Any]) -> str:
    """Test loss of each method, and its difference to LoRA's with the same seeds."""
    runs = content["runs"]
    rows = [["untrained", "0", "", "", f"{content['untrained']['test']:.4f}", "", "", ""]]
    base = {run["seed"]: run["loss"] for run in runs.get(REFERENCE, [])}
    for method in (name for name in METHODS if runs.get(name)):
        done = runs[method]
        losses = [run["loss"] for run in done]
        mean, half = report.interval(losses)
        difference, error = report.interval(
            [run["loss"] - base[run["seed"]] for run in done if run["seed"] in base]
            or [float("nan")]
        )
        rate = chosen(content, method)
        edge = (
            " (edge of the grid)"
            if rate in (content["settings"]["grid"][0], content["settings"]["grid"][-1])
            else ""
        )
        if untried(tuple(content["settings"]["grid"]), content["grid"][method]) is not None:
            edge = " (grid not finished)"
        rows.append(
            [
                METHODS[method],
                f"{done[0]['trainable']:,}",
                f"{rate:g}{edge}",
                str(len(done)),
                with_bounds(f"{mean:.4f}", half),
                f"{np.exp(mean):.2f}",
                f"{statistics.stdev(losses):.4f}" if len(losses) > 1 else "-",
                "" if method == REFERENCE else with_bounds(f"{difference:+.4f}", error),
            ]
        )
    header = [
        "",
        "trainable",
        "rate",
        "seeds",
        "test loss, nats a token (95 %)",
        "perplexity",
        "sd",
        "minus LoRA (paired, 95 %)",
    ]
    return report.table(header, rows)


def with_bounds(value: str, half: float) -> str:
    """A mean and its interval; one seed has none."""
    return value if half != half else f"{value} ± {half:.4f}"


def plot(contents: dict[str, dict[str, Any]], folder: Path) -> None:
    """Validation curves (mean and range over seeds), and lambda over training."""
    from matplotlib.figure import Figure

    colours = {
        "lora": "#777777",
        "bottlenecks": "#b08bd0",
        "relations": "#7a2f9d",
        "sparse-gin": "#1f5fa8",
        "sparse-gin-self": "#2a9d8f",
        "full": "#d1691b",
    }
    for name, content in contents.items():
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for method in colours:
            runs = content["runs"].get(method)
            if not runs:
                continue
            steps = [step for step, _ in runs[0]["curve"]][1:]
            losses = np.array([[loss for _, loss in run["curve"]][1:] for run in runs])
            left.plot(
                steps,
                losses.mean(0),
                color=colours[method],
                marker="o",
                markersize=3,
                label=METHODS[method],
            )
            left.fill_between(
                steps, losses.min(0), losses.max(0), color=colours[method], alpha=0.15, linewidth=0
            )
        left.set(
            xlabel="step", ylabel="validation loss, nats a token (start of the text)", title=name
        )
        left.legend(frameon=False, fontsize=8)
        history = content["runs"]["sparse-gin"][0]["lambda"]
        layers = len(history["values"][0])
        for layer in range(layers):
            shade = 0.75 - 0.7 * layer / max(layers - 1, 1)
            right.plot(
                history["steps"],
                [values[layer] for values in history["values"]],
                color=str(shade),
                label=f"layer {layer}",
            )
        right.set(
            xlabel="step", ylabel="lambda", title="lambda of each layer (key to query, seed 0)"
        )
        right.legend(frameon=False, fontsize=8)
        for ax in (left, right):
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(True, color="#dddddd", linewidth=0.6)
        figure.savefig(folder / f"finetune-{name}.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="all unless given")
    parser.add_argument("--model", type=Path, help="folder of another model than stories260K")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--cost", action="store_true", help="measure the cost of a step instead")
    parser.add_argument("--repetitions", type=int, default=7, help="of the cost's measurement")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few steps of a random model on the embedded text; writes no result file",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the last results and train nothing"
    )
    parser.add_argument(
        "--plot", action="store_true", help="draw the last results and train nothing"
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.case:
        what = json.loads(options.case)
        step = cost_step(what["method"], tuple(what["sizes"]))
        step()
        return measure.answer(step)
    options.grid = GRID
    if options.show or options.plot:
        files = {
            name: report.RESULTS / f"{result_name(name, options.model)}.json"
            for name in options.texts
        }
        contents = {
            name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()
        }
        if options.plot:
            plot(contents, report.RESULTS.parents[1] / "docs")
        for name, content in contents.items():
            print(f"{name}:\n\n{table(content)}\n")
        if (file := report.RESULTS / "finetune-cost.json").is_file():
            print(cost_table(json.loads(file.read_text())))
        return None
    if options.quick:
        options.seeds, options.steps, options.grid = 1, 4, GRID[1:3]
        options.texts = options.texts[:1]
        options.methods = options.methods or ["lora", "relations", "sparse-gin"]
    options.methods = options.methods or list(METHODS)
    folder = None if options.quick else report.RESULTS
    if options.cost or options.quick:
        found = cost(options.quick, 2 if options.quick else options.repetitions)
        if folder is not None:
            report.save("finetune-cost", found, folder)
        print(cost_table(found), end="\n\n")
        if options.cost:
            return None
    for name in options.texts:
        print(f"{name}:\n\n{table(study(name, options, folder))}\n")
    return None


if __name__ == "__main__":
    main()
