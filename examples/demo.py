"""The main job in a few minutes: a GIN transformer and its parameter-matched standard transformer
on the text that Python brings.

Trains both, prints both validation losses, lets the GIN model write, and draws the graph of one of
its heads.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
import transformers

import graphformer as gf
from graphformer.datasets import TextDataset, build_tokenizer, embedded_text, encode, split
from graphformer.inspect import plot_head
from graphformer.training import train_language_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo"),
        help="an own folder of this demo; it is written anew",
    )
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    # a model this small gains little from a second core, and loses much where that core is busy
    torch.set_num_threads(1)
    marker = options.output / "written-by-the-demo"  # an interrupted demo left it too
    if options.output.exists():
        if any(options.output.iterdir()) and not marker.exists():
            raise SystemExit(
                f"error: --output {options.output} holds other files; name a folder that the demo "
                "may write anew"
            )
        shutil.rmtree(options.output)
    options.output.mkdir(parents=True)
    marker.touch()

    print(
        "A GIN transformer and a standard transformer of the same size learn the help texts of "
        "Python, a character at a time."
    )
    text = embedded_text()
    tokenizer = build_tokenizer("char", text)
    train_text, validation_text = split(text)
    train = TextDataset(encode(tokenizer, train_text), options.context)
    validation = TextDataset(
        encode(tokenizer, validation_text), options.context, stride=options.context
    )
    gin = gf.GraphformerConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=424,
        num_hidden_layers=4,
        num_attention_heads=4,
        operator="gin",
        max_position_embeddings=options.context,
    )
    losses = {}
    models = {}
    for name, config in (("gin", gin), ("standard", gf.parameter_matched(gin, operator="sum"))):
        transformers.set_seed(0)
        model = gf.GraphformerForCausalLM(config)
        print(f"\n{name}: {model.num_parameters():,} parameters, {options.steps} steps")
        result = train_language_model(
            model,
            train,
            validation,
            options.output / name,
            steps=options.steps,
            batch_size=12,
            eval_batch_size=64,
            eval_steps=options.steps,
            save_steps=options.steps,
            save_total_limit=1,
            tokenizer=tokenizer,
        )
        losses[name], models[name] = result.evaluation, model
        if name == "gin":  # the first picture need not wait for the other model
            picture = options.output / "head.png"
            sample = "The value of the expression is an object"[: options.context]
            print(f"{draw(model, tokenizer, sample, picture)} is drawn in {picture}")

    prompt = "The statement "
    model = models["gin"].eval()
    transformers.set_seed(0)
    ids = encode(tokenizer, prompt)[None]
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=200, do_sample=True, top_k=10
    )
    print("\nThe GIN model writes:\n" + tokenizer.decode(written[0]))

    print(
        "\n"
        f"validation loss, nats per character (perplexity), over {losses['gin'].num_tokens:,} "
        "characters"
    )
    for name, evaluation in losses.items():
        print(f"  {name:9} {evaluation.loss_nats_per_token:.4f} ({evaluation.perplexity:.2f})")
    print(f"\nmodels in {options.output}/, the picture of a head in {picture}")
    print(f"next: .venv/bin/graphformer generate {options.output}/gin 'The value '")


def draw(
    model: gf.GraphformerForCausalLM,
    tokenizer: transformers.PreTrainedTokenizerFast,
    sample: str,
    picture: Path,
) -> str:
    """A picture of the head that looks at most other tokens than itself, and its name: of all
    heads, that says the most.
    """
    with torch.no_grad():
        graphs = model.eval()(encode(tokenizer, sample)[None], output_graphs=True).graphs
    heads = model.config.num_attention_heads
    layer, head = max(
        ((layer, head) for layer in range(len(graphs)) for head in range(heads)),
        key=lambda place: off_diagonal_weight(graphs[place[0]].lane(place[1])),
    )
    title = f"layer {layer + 1}, head {head + 1}"
    plot_head(graphs[layer], head, list(sample), picture, min_weight=0.1, title=title)
    return title


def off_diagonal_weight(lane: gf.AttentionGraph) -> float:
    """The weight of edges above 0.1 between different tokens."""
    chosen = (lane.senders != lane.receivers) & (lane.weight > 0.1)
    return float(lane.weight[chosen].sum())


if __name__ == "__main__":
    main()
