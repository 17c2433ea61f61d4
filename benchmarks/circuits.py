"""Do codes of a sparse autoencoder find the heads of a circuit? A statement of arXiv 2405.12522.

The circuit is what the graphs say: heads whose weights go to the token after an earlier copy
(induction), the token before, or an earlier copy itself. The task is to go on with a text that is
repeated: 10 texts of random tokens end in the middle of their second time, 10 others have no
repetition. A head is found if its codes agree on the first and not on the second. Measured as the
area under the curve: with what probability a head of the circuit has a higher number than another
head; 0.5 is chance. ``means`` has no autoencoder: how far apart the means of both kinds of outputs
are.

    python -m benchmarks.circuits FOLDER     SmolLM2-135M (benchmarks.smollm2 makes the folder)
    python -m benchmarks.circuits --quick    a small random model: does it run? Writes no result
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import graphformer as gf
from benchmarks import report
from graphformer.inspect.circuits import head_outputs

KINDS = ("induction", "previous_token", "duplicate_token")
NUMBERS = ("score", "overlap", "unique", "means")
LEAST = 0.3
"""Mean weight of a head of the circuit."""


def texts(vocab: int, number: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Repeated ones, cut off behind a token of the second time; and ones without repetition."""
    torch.manual_seed(seed)
    repeated, others = [], []
    for _ in range(number):
        ids = 5 + torch.randperm(vocab - 5)[:20]
        start = ids.new_ones(1)
        repeated.append(torch.cat((start, ids[:12], ids[:8])))
        others.append(torch.cat((start, ids)))
    return repeated, others


def weights(model: nn.Module, examples: list[Tensor]) -> Tensor:
    """The mean token scores of each head ``[heads, kinds]``, in the order of the layers."""
    rows = []
    for ids in examples:
        graphs = gf.inspect.graphs(model, input_ids=ids[None], sparsify=gf.Threshold(0.01))
        scores = [gf.inspect.token_scores(one.graph, ids) for one in graphs.layers]
        rows.append(torch.cat([torch.stack([one[kind] for kind in KINDS], 1) for one in scores]))
    return torch.stack(rows).mean(0)


def apart(positive: Tensor, negative: Tensor) -> Tensor:
    """Of each head, how far apart the means of its outputs are, over their spread: no code."""
    between = (positive.mean(0) - negative.mean(0)).square().sum(-1)
    return between / (positive.var(0) + negative.var(0)).sum(-1).clamp(min=1e-12)


def area(values: Any, chosen: Any) -> float:
    """Under the curve: the share of pairs of a chosen and another one that stand in order."""
    ranks, count = rankdata(values), int(sum(chosen))
    total = sum(rank for rank, one in zip(ranks, chosen, strict=True) if one)
    others = len(ranks) - count
    return float(total - count * (count + 1) / 2) / (count * others)


def run(model: nn.Module, seeds: int, number: int = 10) -> dict[str, Any]:
    vocab, runs = model.config.vocab_size, []
    for seed in range(seeds):
        repeated, others = texts(vocab, number, seed)
        held_out = [torch.cat((ids[:13], ids[1:13])) for ids in texts(vocab, 5, 1000 + seed)[0]]
        truth = weights(model, held_out)
        table = gf.inspect.circuit(model, repeated, others, seed=seed)
        outputs = head_outputs(model, [*repeated, *others], -1)[1]
        table["means"] = apart(outputs[:number], outputs[number:]).tolist()
        found = {}
        for place, kind in enumerate(KINDS):
            chosen = (truth[:, place] > LEAST).tolist()
            if 0 < sum(chosen) < len(chosen):
                areas = {name: area(table[name], chosen) for name in NUMBERS}
                found[kind] = {"heads": sum(chosen), **areas}
        runs.append({"seed": seed, "heads": len(table), "found": found})
        print(runs[-1], flush=True)
    settings = {"examples": number, "least": LEAST, "seeds": seeds}
    return {"environment": report.environment(), "settings": settings, "runs": runs}


def table(content: dict[str, Any]) -> str:
    rows = []
    for kind in KINDS:
        found = [one["found"][kind] for one in content["runs"] if kind in one["found"]]
        if found:
            heads = ", ".join(str(one["heads"]) for one in found)
            areas = [", ".join(f"{one[name]:.2f}" for one in found) for name in NUMBERS]
            rows.append([kind, heads, *areas])
    return report.table(["circuit", "heads", *NUMBERS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="of a model of transformers")
    parser.add_argument("--quick", action="store_true", help="short; writes no result file")
    parser.add_argument("--seeds", type=int, default=3, help="draws of texts and autoencoder")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder of the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        torch.manual_seed(0)
        sizes = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 4}
        config = LlamaConfig(vocab_size=64, num_hidden_layers=2, initializer_range=0.5, **sizes)
        content = run(LlamaForCausalLM(config).eval(), 1, 5)
    elif options.folder is None:
        parser.error("give the folder of a model, or --quick")
    else:
        model = AutoModelForCausalLM.from_pretrained(
            options.folder, dtype=torch.float32, trust_remote_code=False
        ).eval()
        content = run(model, options.seeds)
        report.save("circuits", content, options.results)
    print(f"\n{table(content)}")


if __name__ == "__main__":
    main()
