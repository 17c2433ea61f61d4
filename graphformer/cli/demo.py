"""``graphformer demo``: from an embedded text to a page of graphs, in about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import graphformer as gf
from graphformer.cli.telling import say
from graphformer.errors import require

typer = require("typer", extra="text", why="The command line")

CONTEXT, SEEN = 64, 60


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the model and the page.")] = Path(
        "graphformer-demo"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 300,
) -> None:
    """Train a small model whose heads are graphs on Python's own help texts, let it write, and look
    at its graphs: nothing is fetched, and no file is needed.
    """
    import torch
    import transformers

    from graphformer.datasets import TextDataset, build_tokenizer, embedded_text, encode, split
    from graphformer.training import train_language_model
    from graphformer.training.run import claim_output_dir

    claim_output_dir(output, resume=False)
    transformers.logging.set_verbosity_error()
    text = embedded_text()
    train_text, validation_text = split(text)
    tokenizer = build_tokenizer("char", text, None)
    parts = [encode(tokenizer, part) for part in (train_text, validation_text)]
    transformers.set_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=318,
        num_hidden_layers=3,
        num_attention_heads=4,
        operator="gin",
        max_position_embeddings=CONTEXT,
    )
    model: Any = gf.GraphformerForCausalLM(config)
    say(f"a GIN transformer of {model.num_parameters():,} parameters learns {len(text):,} letters")
    result = train_language_model(
        model,
        TextDataset(parts[0], CONTEXT),
        TextDataset(parts[1], CONTEXT, stride=CONTEXT),
        output,
        steps=steps,
        batch_size=12,
        eval_steps=steps,
        save_steps=steps,
        tokenizer=tokenizer,
    )
    say(f"validation perplexity {result.evaluation.perplexity:.2f} a letter")
    ids = encode(tokenizer, validation_text[:SEEN])[None]
    written = model.generate(
        ids[:, :20], attention_mask=torch.ones_like(ids[:, :20]), max_new_tokens=40, do_sample=False
    )
    say(f"it writes: {tokenizer.decode(written[0])!r}")
    graphs = gf.inspect.graphs(model, input_ids=ids, tokenizer=tokenizer)
    page = output / "graphs.html"
    graphs.report(page)
    say(f"{graphs}")
    say(f"open {page} in a browser: the graph of every head")
