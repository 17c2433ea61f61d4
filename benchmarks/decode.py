"""Greedy decoding of language models of equal size and different operators: tokens a second, with
and without a cache.

Hidden size 256, 4 layers, 4 heads, vocabulary 512, random weights (queries scaled so that scores
have a standard deviation of about 3), batch 1, one thread; CPU time, medians of interleaved
repetitions. "A token" is a decoding step after the prompt: the time of ``generate`` for 65 tokens
minus that for 1, over 64.

    python -m benchmarks.decode              prompt of 1,000 tokens; growth from 256 to 4,096;
                                             benchmarks/results/decode.json
    python -m benchmarks.decode --only sums  caches of sums beside caches of keys, to 32,768 tokens;
                                             the others stay as stored
    python -m benchmarks.decode --quick      short prompts: does it run?
    python -m benchmarks.decode --show       the tables of the last results
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import graphformer as gf
from benchmarks import measure, report

SEED, VOCABULARY = 0, 512
VARIANTS: dict[str, dict[str, Any]] = {
    "sum": {"operator": "sum"},
    "gin": {"operator": "gin"},
    "gin, threshold 0.05": {"operator": "gin", "threshold": 0.05},
    "pna, threshold 0.05": {"operator": "pna", "threshold": 0.05},
}
FULL = {
    "prompt": 1000,
    "tokens": 64,
    "tokens_without_cache": 4,
    "contexts": [256, 512, 1024, 2048, 4096],
    "long": [1024, 8192, 32768],
}
QUICK = {"prompt": 20, "tokens": 4, "tokens_without_cache": 2, "contexts": [16, 32], "long": [16]}
SUMS: dict[str, tuple[gf.Head | None, bool]] = {
    "plain attention, keys": (None, True),
    "learned query, sums": (gf.Head(score="learned_query"), False),
    "learned query, keys": (gf.Head(score="learned_query"), True),
    "decay, sums": (gf.Head(score="decay", normalize="identity"), False),
    "decay, keys": (gf.Head(score="decay", normalize="identity"), True),
}
"""Heads that need no past keys, and whether the cache keeps them all the same."""


def make_models() -> dict[str, gf.GraphformerForCausalLM]:
    """All with the parameters of the GIN model, give or take one unit of the feed-forward width."""
    base = gf.GraphformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        operator="gin",
        max_position_embeddings=8192,
    )
    models = {}
    for name, changes in VARIANTS.items():
        transformers.set_seed(SEED)
        models[name] = gf.GraphformerForCausalLM(gf.parameter_matched(base, **changes)).eval()
        with torch.no_grad():
            for layer in models[name].model.layers:
                # initial scores have a standard deviation of 0.1
                layer.self_attn.q_proj.weight *= 30
    return models


def prompt_of(length: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(SEED))


def generating(
    model: gf.GraphformerForCausalLM, prompt: torch.Tensor, tokens: int, use_cache: bool
) -> measure.Step:
    mask = torch.ones_like(prompt)
    return lambda: model.generate(
        prompt,
        attention_mask=mask,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        use_cache=use_cache,
    )


def decoding(
    models: dict[str, Any], sizes: dict[str, Any], repetitions: int
) -> list[dict[str, Any]]:
    """Seconds of prefill (with the first token), of a token after it, and of a token without a
    cache.
    """
    prompt, more, few = prompt_of(sizes["prompt"]), sizes["tokens"], sizes["tokens_without_cache"]
    steps = {}
    for name, model in models.items():
        steps[name, "one"] = generating(model, prompt, 1, True)
        steps[name, "all"] = generating(model, prompt, 1 + more, True)
        steps[name, "plain"] = generating(model, prompt, few, False)
    times = measure.cpu_times(steps, repetitions, 0)
    rows = []
    for name, model in models.items():
        one, every = times[name, "one"], times[name, "all"]
        rows.append(
            {
                "model": name,
                "parameters": model.num_parameters(),
                "prefill": one,
                "all": every,
                "token": [(b - a) / more for a, b in zip(one, every, strict=True)],
                "token_without_cache": [t / few for t in times[name, "plain"]],
            }
        )
    return rows


@torch.no_grad()
def growth(models: dict[str, Any], sizes: dict[str, Any], repetitions: int) -> list[dict[str, Any]]:
    """Seconds of one more token at several lengths of the context: the cache is cut back after
    each.
    """
    rows = []
    for context in sizes["contexts"]:
        caches = {
            name: model(prompt_of(context), use_cache=True).past_key_values
            for name, model in models.items()
        }
        found: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(repetitions + 1):
            for name, model in models.items():
                start = time.process_time()
                for token in prompt_of(sizes["tokens"])[0]:
                    model(token.view(1, 1), past_key_values=caches[name], use_cache=True)
                found[name].append((time.process_time() - start) / sizes["tokens"])
                caches[name].crop(-sizes["tokens"])
        # the first warms up
        rows += [
            {"model": name, "context": context, "token": values[1:]}
            for name, values in found.items()
        ]
    return rows


def python_calls(step: measure.Step) -> int:
    """Calls of functions that are written in Python."""
    found = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal found
        found += event == "call"

    sys.setprofile(count)
    try:
        step()
    finally:
        sys.setprofile(None)
    return found


def held(cache: Any) -> int:
    """Bytes that a cache keeps of past tokens."""
    total = 0
    for layer in cache.layers:
        sums = getattr(layer, "sums", None)
        parts = sums.parts if sums is not None and sums.held else (layer.keys, layer.values)
        total += sum(part.numel() * part.element_size() for part in parts)
    return total


@torch.no_grad()
def sums(sizes: dict[str, Any], repetitions: int) -> list[dict[str, Any]]:
    """Seconds of one more token, Python calls of it and bytes of the cache, where it holds sums and
    where it holds keys. Each repetition decodes from a copy of the filled cache.
    """
    models = {}
    for name, (head, _) in SUMS.items():
        transformers.set_seed(SEED)
        config = gf.GraphformerConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            operator="sum",
            max_position_embeddings=2 * max(sizes["long"]),
            **({} if head is None else {"head": head}),
        )
        models[name] = gf.GraphformerForCausalLM(config).eval()
    rows = []
    for context in sizes["long"]:
        filled: dict[str, Any] = {}
        for name, model in models.items():
            given = {"past_key_values": transformers.DynamicCache()} if SUMS[name][1] else {}
            out = model(prompt_of(context), use_cache=True, logits_to_keep=1, **given)
            filled[name] = out.past_key_values
        found: dict[str, list[float]] = {name: [] for name in models}
        calls: dict[str, int] = {}

        def decode(model: Any, cache: Any) -> None:
            for token in prompt_of(sizes["tokens"])[0]:
                model(token.view(1, 1), past_key_values=cache, use_cache=True)

        for _ in range(repetitions + 1):
            for name, model in models.items():
                cache = copy.deepcopy(filled[name])
                start = time.process_time()
                decode(model, cache)
                found[name].append((time.process_time() - start) / sizes["tokens"])
        for name, model in models.items():
            cache = copy.deepcopy(filled[name])
            calls[name] = python_calls(partial(decode, model, cache)) // sizes["tokens"]
        rows += [  # the first warms up
            {
                "model": name,
                "context": context,
                "token": found[name][1:],
                "python_calls": calls[name],
                "bytes": held(filled[name]),
            }
            for name in models
        ]
    return rows


def show_sums(rows: list[dict[str, Any]]) -> str:
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    lines = []
    for name in SUMS:
        own = [row for row in rows if row["model"] == name]
        spent = [measure.seconds(statistics.median(row["token"])) for row in own]
        sizes = [measure.mebibytes(own[place]["bytes"]) for place in (0, -1)]
        lines.append([name, *spent, str(own[-1]["python_calls"]), *sizes])
    places = [f"a token at {one:,}" for one in contexts]
    last = [f"cache at {one:,}" for one in (contexts[0], contexts[-1])]
    return report.table(["heads, cache", *places, "Python calls", *last], lines)


def line(rows: list[dict[str, Any]], model: str) -> tuple[float, float, float]:
    """Fixed seconds of a token, seconds for each key, and the share of the variance that this
    straight line explains.
    """
    keys = np.array([r["context"] for r in rows if r["model"] == model], float)
    spent = np.array([statistics.median(r["token"]) for r in rows if r["model"] == model])
    rise, fixed = np.polyfit(keys, spent, 1)
    return float(fixed), float(rise), float(np.corrcoef(keys, spent)[0, 1] ** 2)


def show(content: dict[str, Any]) -> str:
    """Decoding, growth, the goal."""
    rows = content["decoding"]
    middle = [
        {
            key: statistics.median(r[key])
            for key in ("prefill", "all", "token", "token_without_cache")
        }
        for r in rows
    ]
    lines = [
        [
            row["model"],
            f"{row['parameters']:,}",
            measure.seconds(m["prefill"]),
            f"{1 / m['token']:.0f}",
            f"{middle[0]['token'] / m['token']:.2f}x",
            f"{middle[0]['all'] / m['all']:.2f}x",
            f"{1 / m['token_without_cache']:.1f}",
        ]
        for row, m in zip(rows, middle, strict=True)
    ]
    header = [
        "model",
        "parameters",
        "prefill",
        "tokens/s",
        "relative to sum",
        "prefill and tokens, relative",
        "tokens/s without cache",
    ]
    parts = [report.table(header, lines)]
    contexts = list(dict.fromkeys(r["context"] for r in content["growth"]))
    lines = []
    for name in VARIANTS:
        spent = [
            measure.seconds(statistics.median(r["token"]))
            for r in content["growth"]
            if r["model"] == name
        ]
        fixed, rise, explained = line(content["growth"], name)
        lines.append(
            [name, *spent, f"{fixed * 1e3:.2f} ms + {rise * 1e9:.0f} ns a key", f"{explained:.3f}"]
        )
    parts.append(
        report.table(
            ["time of a token at context", *map(str, contexts), "straight line", "R²"], lines
        )
    )
    value = middle[0]["token"] / middle[1]["token"]
    aim = [
        "tokens per second, gin / sum",
        ">= 0.85x",
        f"{value:.2f}x",
        measure.verdict(value, 0.85, at_least=True),
    ]
    parts.append(report.table(["goal", "bound", "measured", ""], [aim]))
    if content.get("sums"):
        parts.append(show_sums(content["sums"]["rows"]))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="short prompts; writes no result file")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the result file [default: benchmarks/results, with --quick none]",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the last results and measure nothing"
    )
    parser.add_argument("--only", choices=["sums"], help="this part, beside the stored others")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    folder = options.output or (None if options.quick else report.RESULTS)
    if options.show:
        return print(show(json.loads(((folder or report.RESULTS) / "decode.json").read_text())))
    sizes = QUICK if options.quick else FULL
    content: dict[str, Any] = {}
    if options.only is None:
        models = make_models()
        content = {
            **report.environment(),
            "seed": SEED,
            "settings": {**sizes, "repetitions": options.repetitions},
        }
        content["decoding"] = decoding(models, sizes, options.repetitions)
        content["growth"] = growth(models, sizes, options.repetitions)
    elif not options.quick:
        content = json.loads(((folder or report.RESULTS) / "decode.json").read_text())
    rows = sums(sizes, options.repetitions)
    given = {"contexts": sizes["long"], "tokens": sizes["tokens"]}
    content["sums"] = {"environment": report.environment(), "settings": given, "rows": rows}
    if options.only and options.quick:
        return print(show_sums(rows))
    if folder:
        report.save("decode", content, folder)
    print(show(content))


if __name__ == "__main__":
    main()
