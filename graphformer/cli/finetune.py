"""``graphformer finetune``: a pre-trained model learns a text, by an adapter."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Annotated, Any

import graphformer as gf
from graphformer.cli.options import Config, refuse_idle
from graphformer.cli.telling import say, talks
from graphformer.errors import number, require, require_known

METHODS = ("lora", "bottlenecks", "sparse-gin")

typer = require("typer", extra="text", why="The command line")


def finetune(
    model_dir: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A folder of a causal language model.")
    ],
    text_file: Annotated[Path, typer.Argument(help="A UTF-8 text file to learn from.")],
    output: Annotated[Path, typer.Option(help="Folder for the adapter and the checkpoints.")],
    method: Annotated[str, typer.Option(metavar="|".join(METHODS), help="The adapter.")] = "lora",
    rank: Annotated[int, typer.Option(min=1, help="LoRA, bottlenecks: rank of the update.")] = 8,
    hidden_dim: Annotated[int, typer.Option(min=1, help="Sparse-GIN: width.")] = 16,
    threshold: Annotated[
        float, typer.Option(min=0, help="Sparse-GIN: edges of the merged graph above it.")
    ] = 0.2,
    context: Annotated[int, typer.Option(min=1, help="Tokens that a prediction sees.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows a step and process.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 200,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    eval_steps: Annotated[int, typer.Option(min=1, help="Steps between evaluations.")] = 100,
    save_steps: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the run.")] = 0,
    resume: Annotated[
        bool, typer.Option(help="Continue the run in --output from its newest checkpoint.")
    ] = False,
    config: Config = None,
) -> None:
    """Fine-tune a pre-trained model on a text by an adapter; the model's own weights stay. The last
    tenth of the text is kept for validation.
    """
    from graphformer.datasets import read_text, split

    require_known("--method", method, METHODS)
    idle = ("rank",) if method == "sparse-gin" else ("hidden_dim", "threshold")
    refuse_idle(dict.fromkeys(idle, f"with --method {method}"))
    number("--learning-rate", learning_rate, above=0.0)
    text = read_text(text_file)
    peft = require("peft", extra="adapters", why="Fine-tuning")
    import transformers

    from graphformer.cli import data_record, record
    from graphformer.cli.opening import open_causal
    from graphformer.datasets import TextDataset
    from graphformer.training import evaluate, train_language_model
    from graphformer.training.run import claim_output_dir

    claim_output_dir(output, resume)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, tokenizer = open_causal(model_dir)
    if not model.can_generate():
        raise ValueError(
            f"MODEL: {model_dir} holds a {type(model).__name__}, which predicts no text"
        )
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and context > room:
        raise ValueError(f"--context {context}: the model reads at most {room} tokens")
    parts = [
        tokenizer(part, return_tensors="pt", verbose=False).input_ids[0] for part in split(text)
    ]
    for name, part in zip(("training", "validation"), parts, strict=True):
        if len(part) <= context:
            raise ValueError(
                f"--context {context}: the {name} part of {text_file} has only {len(part)} tokens; "
                "give a smaller --context or a longer text"
            )
    train_set = TextDataset(parts[0], context)
    validation_set = TextDataset(parts[1], context, stride=context)
    before = evaluate(model, validation_set, batch_size)
    transformers.set_seed(seed)
    model = peft.get_peft_model(model, _config(peft, method, rank, hidden_dim, threshold))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(
        f"{len(train_set.tokens):,} tokens to learn from, {len(validation_set.tokens):,} to "
        f"validate; {trained:,} parameters are trained; validation loss before "
        f"{before.loss_nats_per_token:.4f} nats per token"
    )
    counts = (len(train_set.tokens), len(validation_set.tokens))
    files = data_record.of_text(text_file, split(text), counts)
    with record.recorded(output, resume, files):
        result = train_language_model(
            model,
            train_set,
            validation_set,
            output,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=0.0,
            seed=seed,
            eval_steps=eval_steps,
            save_steps=save_steps,
            resume=resume,
            tokenizer=tokenizer,
            progress=talks(),
            settings={
                "base": str(model_dir),
                "text": hashlib.sha256(text.encode()).hexdigest()[:16],
                "method": method,
                **({"hidden_dim": hidden_dim} if method == "sparse-gin" else {"rank": rank}),
            },
        )
    say(
        f"validation loss {result.evaluation.loss_nats_per_token:.4f} nats per token (before "
        f"{before.loss_nats_per_token:.4f}), perplexity {result.evaluation.perplexity:.3f}"
    )
    use = f"graphformer generate {shlex.quote(str(output))} 'Once upon a time'"
    record.finish(
        output,
        {**record.of_language(result), "loss_before": before.loss_nats_per_token},
        result.history,
        title=f"{model_dir.name} fine-tuned on {text_file.name}",
        about=f"{method}, {trained:,} trained parameters on top of {model_dir}.",
        use=use,
    )
    say(f"saved in {output}")
    say(f"next: {use}")


def _config(peft: Any, method: str, rank: int, hidden_dim: int, threshold: float) -> Any:
    if method == "lora":
        return peft.LoraConfig(
            task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear"
        )
    if method == "bottlenecks":
        return gf.SparseGINConfig(task_type="CAUSAL_LM", form="bottlenecks", rank=rank)
    return gf.SparseGINConfig(task_type="CAUSAL_LM", hidden_dim=hidden_dim, threshold=threshold)
