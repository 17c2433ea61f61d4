"""``graphformer evaluate``: how well a language model predicts a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from graphformer.cli.options import given, require_file_place
from graphformer.cli.telling import say
from graphformer.errors import require

typer = require("typer", extra="text", why="The command line")


def evaluate(
    model_dir: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A folder of a causal language model.")
    ],
    text_file: Annotated[Path, typer.Argument(help="A UTF-8 text file.")],
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a window [default: what the model reads].")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows at a time.")] = 8,
    output: Annotated[Path | None, typer.Option(help="A file for the figures, as JSON.")] = None,
) -> None:
    """Loss in nats a token and perplexity of a model on a text, in windows that do not overlap."""
    from graphformer.datasets import read_text

    text = read_text(text_file)
    if output is not None:
        require_file_place("--output", output)
    import transformers

    from graphformer.cli.opening import open_causal
    from graphformer.datasets import TextDataset
    from graphformer.training import evaluate as measure
    from graphformer.training.saving import write_text

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, tokenizer = open_causal(model_dir)
    if not model.can_generate():
        raise ValueError(
            f"MODEL: {model_dir} holds a {type(model).__name__}, which predicts no text"
        )
    room = getattr(model.config, "max_position_embeddings", None) or 1024
    if "context" in given() and context is not None and context > room:
        raise ValueError(f"--context {context}: the model reads at most {room} tokens")
    ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]
    window = min(context or min(room, 1024), len(ids) - 1)
    if window < 1:
        raise ValueError(
            f"TEXT_FILE: {text_file} has {len(ids)} tokens; there is nothing to predict"
        )
    found = measure(model, TextDataset(ids, window, stride=window), batch_size)
    say(
        f"loss {found.loss_nats_per_token:.4f} nats per token, perplexity {found.perplexity:.3f}, "
        f"over {found.num_tokens:,} tokens in windows of {window}",
        result=True,
    )
    if output is not None:
        figures = {
            "loss_nats_per_token": found.loss_nats_per_token,
            "perplexity": found.perplexity,
            "num_tokens": found.num_tokens,
            "context": window,
            "model": str(model_dir),
            "text": str(text_file),
        }
        write_text(output, json.dumps(figures, indent=1) + "\n")
        say(f"saved in {output}")
