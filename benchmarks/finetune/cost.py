"""What a training step costs."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import measure, report
from benchmarks.finetune.methods import METHODS, wrap

RANK = 8
"""Of the LoRA that all are as large as."""


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
    model = wrap(method, base, RANK).train()
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
