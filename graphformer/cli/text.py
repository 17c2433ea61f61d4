"""``graphformer train`` and ``graphformer generate``: language models."""

from __future__ import annotations

import hashlib
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import graphformer
from graphformer.cli.options import Config, flag, given, refuse_idle
from graphformer.cli.telling import say, talks
from graphformer.errors import number, require

if TYPE_CHECKING:
    from torch import Tensor


typer = require("typer", extra="text", why="The command line")


def train(
    output: Annotated[
        Path, typer.Option(help="Folder for the model, the tokenizer and the checkpoints.")
    ],
    text_file: Annotated[
        Path | None, typer.Argument(help="A UTF-8 text file to learn from.")
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Learn from Python's own help texts: no file needed.")
    ] = False,
    tokenizer: Annotated[
        str, typer.Option(metavar="char|byte|bpe", help="What a token is.")
    ] = "char",
    vocab_size: Annotated[
        int | None, typer.Option(help="Size of a bpe vocabulary [default: 1024].")
    ] = None,
    operator: Annotated[
        str, typer.Option(help="gin, sum or pna; or one for each layer: gin,sum,pna,gin.")
    ] = "gin",
    hidden_size: Annotated[int, typer.Option(min=1, help="Width of the hidden states.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Number of layers.")] = 4,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads of a layer.")] = 4,
    kv_heads: Annotated[
        int | None, typer.Option(min=1, help="Heads of keys and node features [default: --heads].")
    ] = None,
    intermediate_size: Annotated[
        int | None,
        typer.Option(min=1, help="Width of the feed-forward [default: 53/16 of --hidden-size]."),
    ] = None,
    mlp_ratio: Annotated[
        float, typer.Option(help="Width of an operator's network, relative to a head.")
    ] = 0.5,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Drop edges below this weight [default: keep all]."),
    ] = None,
    chain: Annotated[
        int | None,
        typer.Option(
            min=1, help="Edges from so many tokens before, in every layer [default: none]."
        ),
    ] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens that a prediction sees.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows a step and process.")] = 12,
    steps: Annotated[
        int, typer.Option(min=1, help="Optimizer steps; more of them with --resume go on.")
    ] = 2000,
    learning_rate: Annotated[
        float, typer.Option(help="Highest learning rate; it falls along a cosine.")
    ] = 1e-3,
    min_lr_ratio: Annotated[
        float, typer.Option(help="The part of it that is left at the end; 1 keeps it constant.")
    ] = 0.1,
    warmup_steps: Annotated[
        int | None, typer.Option(help="[default: 100, or a tenth of fewer than 1000 steps].")
    ] = None,
    eval_steps: Annotated[
        int, typer.Option(min=1, help="Steps from one evaluation to the next.")
    ] = 500,
    save_steps: Annotated[
        int, typer.Option(min=1, help="Steps from one checkpoint to the next.")
    ] = 500,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same model.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option(help="Continue the run in --output from its newest complete checkpoint.")
    ] = False,
    config: Config = None,
    report_to: Annotated[
        str, typer.Option(metavar="tensorboard|none", help="Where curves go.")
    ] = "none",
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
) -> None:
    """Train a language model on a text. The last tenth of it is kept for validation.

    The defaults are nanoGPT's setting for a CPU: a character model of 4 layers, 2000 steps of 12
    windows of 64 characters. With several processes: torchrun --nproc-per-node 2 -m graphformer.cli
    train ...
    """
    from graphformer.datasets import embedded_text, read_text, split

    if (text_file is None) != embedded:
        raise ValueError(
            "TEXT_FILE: give either a text file or --embedded"
            + (", not both." if embedded else ".")
        )
    operators = operator.split(",")
    if set(operators) == {"sum"}:
        refuse_idle({"mlp_ratio": "with --operator sum, which has no network of its own"})
    for name, value in (("--learning-rate", learning_rate), ("--mlp-ratio", mlp_ratio)):
        number(name, value, above=0.0)
    number("--min-lr-ratio", min_lr_ratio, least=0.0, most=1.0)
    if chain is not None and chain >= context:
        raise ValueError(
            f"--chain {chain}: with --context {context} a token has at most {context - 1} before it"
        )
    for name, value in (("eval_steps", eval_steps), ("save_steps", save_steps)):
        if name in given() and value > steps:
            warnings.warn(
                f"{flag(name)} {value} has no effect with --steps {steps}: it happens once, at the "
                "end",
                stacklevel=2,
            )
    text = embedded_text() if text_file is None else read_text(text_file)
    import torch
    import transformers

    from graphformer.cli import data_record, record
    from graphformer.datasets import TextDataset, build_tokenizer, encode
    from graphformer.training import train_language_model
    from graphformer.training.run import claim_output_dir

    claim_output_dir(output, resume)  # before any time is spent
    transformers.logging.set_verbosity_error()
    train_text, validation_text = split(text)
    # A character model knows every character of the text; merges are learned from the training part
    # only.
    text_tokenizer = build_tokenizer(
        tokenizer, text if tokenizer == "char" else train_text, vocab_size
    )
    train_set = TextDataset(encode(text_tokenizer, train_text), context)
    validation_set = TextDataset(encode(text_tokenizer, validation_text), context, stride=context)

    transformers.set_seed(seed)
    model = graphformer.GraphformerForCausalLM(
        graphformer.GraphformerConfig(
            vocab_size=len(text_tokenizer),
            hidden_size=hidden_size,
            intermediate_size=intermediate_size or round(hidden_size * 53 / 16),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads or heads,
            operator=operators if len(operators) > 1 else operator,
            mlp_ratio=mlp_ratio,
            threshold=threshold,
            relations=None if chain is None else [graphformer.Chain(chain)],
            max_position_embeddings=context,
        )
    )
    say(
        f"{len(train_set.tokens):,} tokens to learn from, {len(validation_set.tokens):,} to "
        f"validate, vocabulary {len(text_tokenizer)}; {model.num_parameters():,} parameters"
    )
    files = data_record.of_text(
        text_file,
        (train_text, validation_text),
        (len(train_set.tokens), len(validation_set.tokens)),
    )
    with record.recorded(output, resume, files):
        result = train_language_model(
            model,
            train_set,
            validation_set,
            output,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            min_lr_ratio=min_lr_ratio,
            seed=seed,
            eval_steps=eval_steps,
            save_steps=save_steps,
            report_to=report_to,
            resume=resume,
            tokenizer=text_tokenizer,
            bf16=bf16,
            gradient_checkpointing=gradient_checkpointing,
            progress=talks(),
            settings={
                "tokenizer": tokenizer,
                "text": hashlib.sha256(text.encode()).hexdigest()[:16],
            },
        )
    say(
        f"validation loss {result.evaluation.loss_nats_per_token:.4f} nats per token, perplexity "
        f"{result.evaluation.perplexity:.3f}, over {result.evaluation.num_tokens:,} tokens"
    )
    use = (
        f"graphformer generate {shlex.quote(str(output))} "
        f"{shlex.quote(text.strip().splitlines()[0][:40])}"
    )
    record.finish(
        output,
        record.of_language(result),
        result.history,
        title=f"A language model of {'Python help texts' if text_file is None else text_file.name}",
        about=f"Graphformer with {model.num_parameters():,} parameters, operator {operator}.",
        use=use,
    )
    say(f"saved in {output}")
    say(f"next: {use}")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def generate(
    model_dir: Annotated[Path, typer.Argument(help="A folder that graphformer train wrote.")],
    prompt: Annotated[str, typer.Argument(help="The beginning of the text.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write.")] = 200,
    temperature: Annotated[float, typer.Option(help="Below 1: safer; above 1: wilder.")] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Choose among the k most likely tokens.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Choose among the likeliest tokens of this total probability."),
    ] = None,
    num_beams: Annotated[
        int, typer.Option(min=1, help="Search with this many beams in the place of sampling.")
    ] = 1,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most likely token.")] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The same seed writes the same text.")
    ] = 0,
) -> None:
    """Let a trained model continue a prompt."""
    import transformers

    from graphformer.datasets import encode

    number("--temperature", temperature, above=0.0, hint="; use --greedy for the most likely text")
    if greedy and num_beams > 1:
        raise ValueError(
            f"--greedy and --num-beams {num_beams} are two ways to search: give one of them."
        )
    if greedy or num_beams > 1:
        way = "--greedy" if greedy else f"--num-beams {num_beams}"
        refuse_idle(
            dict.fromkeys(
                ("temperature", "top_k", "top_p", "seed"), f"with {way}, which samples nothing"
            )
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"--top-p must be above 0 and at most 1, got {top_p}.")
    if not prompt:
        raise ValueError("PROMPT is empty; give at least one character to start from.")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, tokenizer = open_for_writing(model_dir)
    ids = encode(tokenizer, prompt)[None]
    if top_k is not None and top_k >= model.config.vocab_size:
        warnings.warn(
            f"--top-k {top_k} has no effect: the model knows {model.config.vocab_size} tokens",
            stacklevel=2,
        )
    transformers.set_seed(seed)
    sampling: dict[str, Any] = {"do_sample": False}
    if not greedy and num_beams == 1:
        sampling = {
            "do_sample": True,
            "temperature": temperature,
            "top_k": top_k or 0,
            "top_p": top_p or 1.0,
        }
    try:
        written = _continue(
            model, ids, max_new_tokens, num_beams=num_beams, use_cache=True, **sampling
        )
    except RuntimeError as error:  # of weights so large that probabilities are no numbers
        raise ValueError(
            f"MODEL_DIR: {str(model_dir)!r} writes no text ({error}); train it again with a "
            "smaller learning rate."
        ) from error
    say(str(tokenizer.decode(written[0])), result=True)


def _continue(model: Any, ids: Tensor, max_new_tokens: int, **options: Any) -> Tensor:
    """``model.generate``, in pieces that fit into the context the model was trained with: beyond
    it, the text decays.

    Each piece but the first sees the last half of a context, and writes the other half.
    """
    import torch

    context = model.config.max_position_embeddings
    while max_new_tokens > 0:
        seen = ids if ids.shape[1] < context else ids[:, -max(context // 2, 1) :]
        new = min(max_new_tokens, max(context - seen.shape[1], 1))
        written = model.generate(
            seen, attention_mask=torch.ones_like(seen), max_new_tokens=new, **options
        )
        ids = torch.cat([ids, written[:, seen.shape[1] :]], dim=1)
        if written.shape[1] - seen.shape[1] < new:  # the model has written an end
            break
        max_new_tokens -= new
    return ids


def open_for_writing(folder: Path) -> tuple[Any, Any]:
    """A model of ours, whose faults are told file by file, or any other that writes."""
    from graphformer.cli.opening import ADAPTER, open_causal, refuse_graphs
    from graphformer.training import load_language_model

    refuse_graphs(folder)
    config = folder / "config.json"
    foreign = (folder / ADAPTER).is_file() or (
        config.is_file() and '"graphformer"' not in config.read_text(errors="replace")
    )
    return open_causal(folder) if foreign else load_language_model(folder)
