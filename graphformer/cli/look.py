"""``graphformer inspect``: the attention graphs of a model, without a line of Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import graphformer as gf
from graphformer.cli.options import refuse_idle, require_file_place
from graphformer.cli.telling import say
from graphformer.errors import number, require

if TYPE_CHECKING:
    import torch


typer = require("typer", extra="text", why="The command line")

WRITERS = (".html", ".csv", ".safetensors", ".png", ".svg", ".pdf")


def inspect(
    model_dir: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A folder of a transformers model, or of ours.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="report.html (a page), edges.csv (a table of edges), measures.csv with "
            "--measures, graphs.safetensors, or a picture of one head (.png, .svg, .pdf).",
        ),
    ],
    text: Annotated[str | None, typer.Option(help="The text that the model reads.")] = None,
    file: Annotated[Path | None, typer.Option(help="A UTF-8 file with that text.")] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that are read of --file, from its beginning.")
    ] = 512,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Edges above this weight are kept.")
    ] = 0.02,
    layers: Annotated[
        str | None, typer.Option(metavar="N,...", help="Only these layers, from 0 [default: all].")
    ] = None,
    heads: Annotated[
        str | None, typer.Option(metavar="N,...", help="Only these heads, from 0 [default: all].")
    ] = None,
    measures: Annotated[
        bool, typer.Option("--measures", help="A CSV of measures, a row a head.")
    ] = False,
    ablation: Annotated[
        bool,
        typer.Option("--ablation", help="A page: the loss that each head saves, to first order."),
    ] = False,
) -> None:
    """The exact attention graph of every head, from one pass over a text."""
    from graphformer.datasets import read_text

    if (text is None) == (file is None):
        raise ValueError(
            "give the text with --text or a file with --file"
            + (", not both" if text is not None else "")
        )
    if output.suffix not in WRITERS:
        raise ValueError(
            f"--output {str(output)!r} ends in none of {', '.join(WRITERS)}: the ending says what "
            "is written"
        )
    if output.suffix != ".csv":
        refuse_idle({"measures": f"with --output {output.name}: it makes a .csv"})
    if output.suffix != ".html":
        refuse_idle({"ablation": f"with --output {output.name}: it is for a page, .html"})
    if file is None:
        refuse_idle({"max_tokens": "with --text: it is for --file"})
    require_file_place("--output", output)
    number("--threshold", threshold, least=0.0, most=1.0)
    chosen: dict[str, Any] = {
        name: value
        for name, value in (
            ("layers", _numbers("--layers", layers)),
            ("heads", _numbers("--heads", heads)),
        )
        if value is not None
    }
    shown = read_text(file) if file is not None else text
    import transformers

    from graphformer.cli.opening import open_model

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, tokenizer = open_model(model_dir)
    ids = tokenizer(shown, return_tensors="pt").input_ids
    if ids.shape[1] == 0:
        given = f"--file {str(file)!r}" if text is None else f"--text {text!r}"
        raise ValueError(f"{given} has no tokens that the model knows; give another text")
    if file is not None and ids.shape[1] > max_tokens:
        say(f"the first {max_tokens:,} of {ids.shape[1]:,} tokens (--max-tokens)")
        ids = ids[:, :max_tokens]
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and ids.shape[1] > room:
        raise ValueError(
            f"the text has {ids.shape[1]:,} tokens and the model reads at most {room:,}: give less "
            "of it, or --file with --max-tokens"
        )
    found = gf.inspect.graphs(
        model,
        input_ids=ids,
        sparsify=gf.Threshold(threshold),
        tokenizer=tokenizer,
        streamed=output.suffix in (".csv", ".html"),
        **chosen,
    )
    write(found, output, measures=measures, losses=_losses(model, ids) if ablation else None)
    say(f"{found}")
    say(f"saved in {output}")


def write(
    found: Any, output: Path, *, measures: bool, losses: dict[tuple[str, int], float] | None
) -> None:
    """In the form that the ending says."""
    from graphformer.training.saving import write_text

    if output.suffix == ".html":
        table = found.measures()
        names = table.columns.difference(["sequence", "layer", "name", "kind", "head"], sort=False)
        rows = {
            (row["name"], int(row["head"])): {name: float(row[name]) for name in names}
            for _, row in table.iterrows()
        }
        found.report(output, measures=rows, **({} if losses is None else {"ablation": losses}))
    elif output.suffix == ".csv":
        table = found.measures() if measures else found.to_pandas()
        write_text(output, table.to_csv(index=False))
    elif output.suffix == ".safetensors":
        found.save(output)
    else:
        if len(found) != 1 or len(found.layers[0].heads) != 1:
            raise ValueError(
                f"--output {output.name} is a picture of one head: say which with --layers N "
                "--heads N"
            )
        found.plot(0, found.layers[0].heads[0]).savefig(output)


def _losses(model: Any, ids: torch.Tensor) -> dict[tuple[str, int], float]:
    if not model.can_generate():
        raise ValueError("--ablation needs a causal language model, whose loss is that of the text")
    table = gf.inspect.ablate(model, input_ids=ids, labels=ids, method="gradient")
    return {(row["name"], int(row["head"])): float(row["change"]) for _, row in table.iterrows()}


def _numbers(name: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise ValueError(f"{name} must be whole numbers, as in 0,3,7; got {text!r}")
    return [int(part) for part in parts]
