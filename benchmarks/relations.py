"""What relations are worth and what they cost, beside the same model without.

A small language model on tinyshakespeare (2 layers, 64 wide, context 64, 300 steps of 12 windows,
else as in benchmarks.language), sum and GIN, with and without ``Chain(3)``, ``Repeats(1)`` and
``Repeats(2, "mean")``; polymers with and without their bonds; and the time of one training step,
also of heads of several kinds in one layer.

    python -m benchmarks.relations              benchmarks/results/relations.json; some minutes
    python -m benchmarks.relations --quick      a few steps on made data; writes no result file
    python -m benchmarks.relations --show       the tables of the stored results

A seed draws the weights and the order of what is seen, the same with relations and without. What
a result file of the same settings holds already (costs, texts, polymers) is not repeated. Times
are CPU seconds of one thread, the least of interleaved rounds, as ratios to the model without.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import graphformer as gf
from benchmarks import language, measure, report
from benchmarks.graphs.studies import polymer_dft
from benchmarks.store import refuse_others
from graphformer.attention import All, Window
from graphformer.datasets import (
    TextDataset,
    build_tokenizer,
    edge_relations,
    embedded_text,
    encode,
    polymer_graph,
    read_text,
    split,
)
from graphformer.datasets.polymers.features import EDGE_NAMES, NODE_NAMES
from graphformer.training import GraphTrainer
from graphformer.training.graphs.metrics import regression_metrics

TEXT = (gf.Chain(3), gf.Repeats(1), gf.Repeats(2, "mean"))
KNOWN = edge_relations(EDGE_NAMES)
BONDS = (KNOWN["bonds"], KNOWN["periodic"])
OPERATORS = ("sum", "gin")
VALIDATION = 20_000
"""Characters of the validation text that are read, from its beginning."""
SIZES = {"hidden_size": 64, "num_layers": 4, "num_heads": 4, "normalize": "sigmoid"}
POLYMERS = (
    *("*CC*", "*CC(C)*", "*CC(*)c1ccccc1", "*CCO*", "*C=C*", "*CC(C)(C)*", "*CC(*)C#N", "*CC(*)Cl"),
    *("*c1ccc(*)cc1", "*CCCCO*", "*CC(F)(F)*", "*OC(=O)CC*"),
)


# ---------------------------------------------------------------------- what they are worth


def texts(quick: bool, seeds: int, steps: int, context: int = 64) -> Iterator[dict[str, Any]]:
    """Validation loss of each operator and seed, with and without."""
    path = None if quick else report.data_dir() / "tinyshakespeare" / "input.txt"
    text = embedded_text()[:20_000] if path is None else read_text(path)
    tokenizer = build_tokenizer("char", text)
    first, last = (encode(tokenizer, part) for part in split(text))
    last = last[:VALIDATION]
    train, validation = TextDataset(first, context), TextDataset(last, context, stride=context)
    for seed in range(seeds):
        for operator in OPERATORS:
            for relations in (None, TEXT):
                config = gf.GraphformerConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=64,
                    intermediate_size=172,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    operator=operator,
                    relations=relations,
                    max_position_embeddings=context,
                )
                done = language.run(config, train, validation, steps, seed)
                kept = {name: done[name] for name in ("seed", "parameters", "validation_loss")}
                yield {"operator": operator, "relations": relations is not None, **kept}


def made_polymers() -> tuple[list[Any], list[Any], list[Any]]:
    graphs = [polymer_graph(one) for one in POLYMERS]
    for one in graphs:
        one.y = torch.tensor([[float(one.num_nodes)]])
    return graphs[:8], graphs[8:10], graphs[10:]


def polymers(quick: bool, folds: int, epochs: int) -> Iterator[dict[str, Any]]:
    """Test error of each fold, with and without bonds, of networks that read ``edge_attr`` anyway
    and of networks that do not.
    """
    study = polymer_dft("Egb", "", "", epochs)
    for fold in range(folds):
        if quick:
            train, valid, test = made_polymers()
        else:
            cut = study.parts(fold, False)
            train, valid, test = cut.train, cut.valid, next(iter(cut.tests.values()))
        for reads in (True, False):
            for relations in ((), BONDS):
                transformers.set_seed(fold)
                dims = (len(NODE_NAMES), len(EDGE_NAMES) if reads else None)
                net = gf.GraphTransformer(*dims, operator="sum", relations=relations, **SIZES)
                net.told.add("edge_attr")  # left out on purpose
                options = {"epochs": epochs, "max_nodes": 1024, "learning_rate": 2e-3}
                with tempfile.TemporaryDirectory() as folder:
                    trainer = GraphTrainer(
                        *(net, train, valid, Path(folder) / "run"),
                        **(options | {"seed": fold, "eval_epochs": 1, "progress": False}),
                    )
                    model = trainer.fit().model
                labels = torch.cat([test[i].y for i in range(len(test))])
                error = regression_metrics(model.predict(test), labels)["rmse"]
                row = {"fold": fold, "edge_attr": reads, "relations": bool(relations)}
                yield row | {"rmse": error}


# ---------------------------------------------------------------------- what they cost


def trained(module: nn.Module, call: Any) -> None:
    call(module).backward()
    for one in module.parameters():
        one.grad = None


def text_step(relations: Any, batch: int, length: int) -> measure.Step:
    torch.manual_seed(0)
    config = language.base_config(65, length).to_dict()
    model = gf.GraphformerForCausalLM(
        gf.GraphformerConfig(**{**config, "operator": "sum", "relations": relations})
    )
    ids = torch.randint(65, (batch, length))
    return partial(trained, model, lambda one: one(ids, labels=ids).loss)


def heads_step(candidates: Any, sparsify: Any, length: int) -> measure.Step:
    torch.manual_seed(0)
    head = gf.Head(candidates=candidates, sparsify=sparsify)
    layer = gf.nn.SumAttention(256, 4, head=head)
    x = torch.randn(1, length, 256)
    return partial(trained, layer, lambda one: one(x).sum())


def edges_step(relations: Any, nodes: int) -> measure.Step:
    torch.manual_seed(0)
    conv = gf.nn.SumAttentionConv(64, 64, 4, relations=relations)
    x, index = torch.randn(nodes, 64), torch.randint(nodes, (2, 4 * nodes))
    more = {"edge_type": torch.randint(4, (4 * nodes,))} if relations else {}
    return partial(trained, conv, lambda one: one(x, index, **more).sum())


def costs(quick: bool, rounds: int) -> Iterator[dict[str, Any]]:
    """CPU seconds of a training step, by what and with what; the first of each is the one
    without.
    """
    kinds = {
        "without": None,
        "Chain(3)": [gf.Chain(3)],
        "Repeats(1)": [gf.Repeats(1)],
        'Repeats(1, "mean")': [gf.Repeats(1, "mean")],
        "all of TEXT": TEXT,
    }
    length, nodes, window = (64, 100, 8) if quick else (2048, 10_000, 128)
    mixed = gf.PerHead((Window(window), All()), counts=(2, 2))
    heads = {"all": All(), "Window": Window(window), "half each": mixed}
    places: dict[str, dict[str, measure.Step]] = {
        "language model, 12 x 64 tokens": {
            name: text_step(one, 12, 64) for name, one in kinds.items()
        },
        f"language model, 1 x {length} tokens": {
            name: text_step(one, 1, length) for name, one in kinds.items()
        },
        f"layer on {nodes:,} nodes, {4 * nodes:,} edges": {
            "without": edges_step((), nodes),
            "EdgeTypes(4)": edges_step(gf.EdgeTypes(4), nodes),
        },
        f"heads of several kinds, flash, {length} tokens": {
            name: heads_step(one, None, length) for name, one in heads.items()
        },
        f"heads of several kinds, stream, {length} tokens": {
            name: heads_step(one, gf.Threshold(0.05), length) for name, one in heads.items()
        },
    }
    for place, steps in places.items():
        for name, times in measure.cpu_times(steps, rounds).items():
            yield {"place": place, "with": name, "seconds": min(times)}


# ---------------------------------------------------------------------- tables


def tables(content: dict[str, Any]) -> str:
    def both(rows: list[dict[str, Any]], value: str, **chosen: Any) -> list[str]:
        rows = [one for one in rows if all(one[name] == is_ for name, is_ in chosen.items())]
        without = [one[value] for one in rows if not one["relations"]]
        within = [one[value] for one in rows if one["relations"]]
        paired = [b - a for a, b in zip(without, within, strict=True)]
        mean, half = report.interval(paired)
        numbers = [f"{report.interval(part)[0]:.4f}" for part in (without, within)]
        spread = f" ± {half:.4f}" if len(paired) > 1 else ""
        return [*numbers, f"{mean:+.4f}{spread}", str(len(paired))]

    text, graphs, cost = (content[name] for name in ("texts", "polymers", "costs"))
    header = ["without", "with", "difference (95 % of several)", "runs"]
    parts = [
        report.table(
            ["validation loss, nats", *header],
            [[one, *both(text, "validation_loss", operator=one)] for one in OPERATORS],
        ),
        report.table(
            ["test RMSE, eV", *header],
            [
                [name, *both(graphs, "rmse", edge_attr=reads)]
                for name, reads in (("edge_attr is read", True), ("edge_attr is not read", False))
            ],
        ),
    ]
    base = {}
    for one in cost:
        base.setdefault(one["place"], one["seconds"])
    rows = []
    for one in cost:
        ratio = measure.times_as_much(one["seconds"] / base[one["place"]])
        rows.append([one["place"], one["with"], measure.seconds(one["seconds"]), ratio])
    parts.append(report.table(["a training step of", "with", "time", "ratio"], rows))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short; writes no result file")
    parser.add_argument("--show", action="store_true", help="print the stored results, run nothing")
    parser.add_argument("--seeds", type=int, default=1, help="of the text")
    parser.add_argument("--folds", type=int, default=1, help="of the polymers")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="folder of the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if options.show:
        print(tables(json.loads((options.results / "relations.json").read_text())))
        return
    quick = options.quick
    steps, epochs, rounds = (4, 1, 1) if quick else (300, 10, 3)
    seeds, folds = (1, 1) if quick else (options.seeds, options.folds)
    settings = {"seeds": seeds, "folds": folds, "steps": steps, "epochs": epochs, "rounds": rounds}
    settings |= {
        "context": 64,
        "validation": VALIDATION,
        "text": "tinyshakespeare",
        "polymers": "polymer-dft Egb",
    }
    settings |= {"relations": [gf.attention.slot.spec(one) for one in (*TEXT, *BONDS)]}
    content = {"environment": report.environment(), "settings": settings}
    path = options.results / "relations.json"
    if path.is_file() and not quick:
        content = json.loads(path.read_text())
        refuse_others(path, content["settings"], settings)
    sections = {
        "costs": partial(costs, quick, rounds),
        "texts": partial(texts, quick, seeds, steps),
        "polymers": partial(polymers, quick, folds, epochs),
    }
    for name, section in sections.items():
        if name in content and content.get("unfinished") != name:
            continue
        content |= {name: [], "unfinished": name}
        for row in section():
            print(*row.values(), flush=True)
            content[name].append(row)
            if not quick:
                report.save("relations", content, options.results)
    content.pop("unfinished", None)
    if not quick:
        report.save("relations", content, options.results)
    print(f"\n{tables(content)}")


if __name__ == "__main__":
    main()
