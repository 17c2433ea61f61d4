"""Ways of fine-tuning the same small pre-trained model, at the same number of trainable parameters.

``stories260K`` (a Llama of 260K parameters, trained on children's stories) learns (a) question and
answer texts of gsm8k and (b) the plays of tinyshakespeare, by LoRA and its relatives, by both forms
of this library's adapter with and without their parts, and with all weights. All but IA3, the
network of half the width and all weights have equal numbers of trainable parameters (within 2 %).
The learning rate of each is chosen on validation from the same grid, with a seed that is not used
again: rates are tried from the middle outwards, until the best has a worse one on both sides, or
the grid ends. Then every method trains with each of five seeds and is tested on text that nothing
was chosen by. Of gsm8k 300 problems validate and 400 of its test problems test.

    python -m benchmarks.finetune                        both texts, some hours on one core;
                                                         benchmarks/results/finetune-*.json
    python -m benchmarks.finetune --texts gsm8k          one of them (two processes can share the
                                                         work)
    python -m benchmarks.finetune --texts gsm8k --methods relations --seeds 1
                                                         one row of the table, one seed
    python -m benchmarks.finetune --examples 64          few examples of the text, drawn by the
                                                         seed; the best weights of the curve count
    python -m benchmarks.finetune --rank 1               adapters as large as a LoRA of this rank
    python -m benchmarks.finetune --model FOLDER --steps 100 --batch 2 --windows 64 --seeds 3
                                                         another model, such as what
                                                         benchmarks.smollm2 makes
    python -m benchmarks.finetune --cost                 time and memory of a training step, Llama
                                                         with hidden size 512 and 8 layers
    python -m benchmarks.finetune --quick                a few steps of three methods, random model,
                                                         embedded text: does it run?
    python -m benchmarks.finetune --show                 the tables of the last results
    python -m benchmarks.finetune --plot                 and their curves, docs/finetune-*.png
    python -m benchmarks.finetune --docs                 the tables of docs/adapters.md
    python -m benchmarks.finetune --peft FOLDER          the same in the form of PEFT's comparison

AdamW, weight decay 0.01, clip 1, 20 steps of warm-up and then a constant learning rate, 400 steps
of 4 windows of 256 tokens; dropout 0.1 in every adapter. A seed draws the adapter's weights, its
dropout and the order of the windows. Runs that a result file of the same settings holds are not
repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import transformers

from benchmarks import measure, report
from benchmarks.finetune import cost, docs, peft_form, show
from benchmarks.finetune.data import TEXTS
from benchmarks.finetune.methods import METHODS
from benchmarks.finetune.study import GRID, LARGE_GRID, USUAL_RANK, result_name, study


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
    made.add_argument("--methods", nargs="+", choices=list(METHODS), help="all unless given")
    made.add_argument("--model", type=Path, help="folder of another model than stories260K")
    made.add_argument("--rank", type=int, default=USUAL_RANK, help="of LoRA [default: 8]")
    made.add_argument("--examples", type=int, help="train on so many of the text's examples")
    made.add_argument("--windows", type=int, help="that validate and that test [default: all]")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--steps", type=int, default=400)
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--cost", action="store_true", help="measure the cost of a step instead")
    made.add_argument("--repetitions", type=int, default=7, help="of the cost's measurement")
    made.add_argument(
        "--quick",
        action="store_true",
        help="a few steps of a random model on the embedded text; writes no result file",
    )
    made.add_argument(
        "--show", action="store_true", help="print the last results and train nothing"
    )
    made.add_argument("--plot", action="store_true", help="draw the last results")
    made.add_argument("--docs", action="store_true", help="write them into docs/adapters.md")
    made.add_argument("--peft", type=Path, help="write the last results in PEFT's form there")
    made.add_argument(
        "--results", type=Path, default=report.RESULTS, help="folder of the result files"
    )
    made.add_argument("--case", help=argparse.SUPPRESS)
    return made


def main() -> None:
    options = parser().parse_args()
    for name in ("rank", "examples", "windows", "seeds", "steps", "batch", "repetitions"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser().error(f"--{name} {value}: at least 1 is needed")
    if options.quick and options.model is not None:
        parser().error(f"--model {options.model}: --quick has a model of its own, leave one out")
    if options.model is not None and not options.model.is_dir():
        parser().error(f"--model {options.model}: there is no such folder")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.case:
        what = json.loads(options.case)
        step = cost.cost_step(what["method"], tuple(what["sizes"]))
        step()
        measure.answer(step)
    elif options.docs:
        print(docs.write(options.results))
    elif options.show or options.plot or options.peft:
        stored(options)
    else:
        train(options)


def stored(options: argparse.Namespace) -> None:
    """Tables, figures and files of what was measured."""
    files = {name: options.results / f"{result_name(name, options)}.json" for name in options.texts}
    contents = {
        name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()
    }
    if not contents:
        parser().error(f"there is no {' and no '.join(file.name for file in files.values())} yet")
    if options.plot:
        show.plot(contents, report.RESULTS.parents[1] / "docs")
    for name, content in contents.items():
        print(f"{name}:\n\n{show.table(content)}\n")
        if options.peft:
            peft_form.write(files[name].stem, content, options.peft)
    if (file := options.results / "finetune-cost.json").is_file():
        print(cost.cost_table(json.loads(file.read_text())))


def train(options: argparse.Namespace) -> None:
    options.grid = GRID if options.model is None else LARGE_GRID
    if options.quick:
        options.seeds, options.steps, options.grid = 1, 4, GRID[1:3]
        options.texts = options.texts[:1]
        options.methods = options.methods or ["lora", "relations", "sparse-gin"]
    options.methods = options.methods or list(METHODS)
    folder = None if options.quick else options.results
    if options.cost or options.quick:
        found = cost.cost(options.quick, 2 if options.quick else options.repetitions)
        if folder is not None:
            report.save("finetune-cost", found, folder)
        print(cost.cost_table(found), end="\n\n")
        if options.cost:
            return
    for name in options.texts:
        print(f"{name}:\n\n{show.table(study(name, options, folder))}\n")


if __name__ == "__main__":
    main()
