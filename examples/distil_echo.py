"""A transformer whose layers share attention, from one whose layers do not: distillation of
attention graphs (after EchoAtt, arXiv 2409.14595).

    python examples/distil_echo.py

A small language model of characters is the teacher. In the student every second layer takes the
weights of the layer before it (score ``echo``) and has no queries and keys of its own. It starts
from the teacher's other weights and is trained on, twice: on text alone, and on text and the
divergence of its graphs from the teacher's (:func:`graphformer.training.graph_distillation`). Data:
tinyshakespeare where ``GRAPHFORMER_DATA`` points to, or beside the repository.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
import transformers
from torch import Tensor

import graphformer as gf
from graphformer.training import graph_distillation

DATA = Path(os.environ.get("GRAPHFORMER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, default=DATA / "tinyshakespeare" / "input.txt")
    parser.add_argument("--context", type=int, default=48)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--teacher-steps", type=int, default=400)
    parser.add_argument("--student-steps", type=int, default=120)
    parser.add_argument("--strength", type=float, default=1.0, help="of the divergence in the loss")
    parser.add_argument("--quick", action="store_true", help="a few steps")
    options = parser.parse_args()
    if options.quick:
        options.teacher_steps, options.student_steps, options.batch = 6, 3, 4
    if not options.text.is_file():
        raise SystemExit(
            f"error: --text {options.text} is no file; name one, or set GRAPHFORMER_DATA"
        )
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    text = options.text.read_text(encoding="utf-8")
    letters = sorted(set(text))
    ids = torch.tensor([letters.index(letter) for letter in text[:400_000]])
    train, held = ids[:-20_000], ids[-20_000:]

    plain, echo = gf.Head(), gf.Head(score="echo", normalize="identity")
    start = time.process_time()
    torch.manual_seed(0)
    teacher = model(len(letters), [plain] * 4)
    fit(teacher, None, train, options.teacher_steps, options, 3e-3)
    print(
        f"teacher: loss {loss_of(teacher, held, options.context):.4f}, {size(teacher):,} parameters"
    )

    rows = {}
    for name, strength in (("text alone", 0.0), ("text and graphs", options.strength)):
        torch.manual_seed(1)
        student = model(len(letters), [plain, echo] * 2)
        known = teacher.state_dict()
        own = {key: known[key] for key in student.state_dict() if key in known}
        student.load_state_dict(own, strict=False)
        before = loss_of(student, held, options.context), far(teacher, student, held, options)
        fit(student, teacher, train, options.student_steps, options, 1e-3, strength)
        after = loss_of(student, held, options.context), far(teacher, student, held, options)
        rows[name] = before, after
    print(f"student: {size(student):,} parameters, {len(own)} tensors of the teacher\n")
    print("held-out text            loss in nats          KL of graphs to the teacher's")
    print(f"  before training      {before[0]:12.4f} {before[1]:22.4f}")
    for name, (_, after) in rows.items():
        print(f"  {name:20} {after[0]:12.4f} {after[1]:22.4f}")
    print(f"\n{time.process_time() - start:.0f} s of one core")


def model(letters: int, heads: list[gf.Head]) -> gf.GraphformerForCausalLM:
    return gf.GraphformerForCausalLM(
        gf.GraphformerConfig(
            vocab_size=letters,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=len(heads),
            num_attention_heads=4,
            num_key_value_heads=4,
            operator="sum",
            head=heads,
        )
    )


def windows(ids: Tensor, count: int, length: int) -> Tensor:
    starts = torch.randint(len(ids) - length, (count, 1))
    return ids[starts + torch.arange(length)]


def divergence(
    teacher: gf.GraphformerForCausalLM, student_graphs: tuple[gf.AttentionGraph, ...], batch: Tensor
) -> Tensor:
    """The mean over the layers; those of an echo lead back to the layer that it took them from."""
    with torch.no_grad():
        theirs = teacher(batch, output_graphs=True).graphs
    pairs = zip(theirs, student_graphs, strict=True)
    return torch.stack([graph_distillation(one, own) for one, own in pairs]).mean()


def fit(
    student: gf.GraphformerForCausalLM,
    teacher: gf.GraphformerForCausalLM | None,
    ids: Tensor,
    steps: int,
    options: argparse.Namespace,
    rate: float,
    strength: float = 0.0,
) -> None:
    optimizer = torch.optim.AdamW(student.parameters(), rate, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    student.train()
    for _ in range(steps):
        batch = windows(ids, options.batch, options.context)
        out = student(batch, labels=batch, output_graphs=strength > 0)
        loss = out.loss
        if strength and teacher is not None:
            loss = loss + strength * divergence(teacher, out.graphs, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        falling.step()
    student.eval()


@torch.no_grad()
def loss_of(net: gf.GraphformerForCausalLM, ids: Tensor, context: int) -> float:
    rows = ids[: len(ids) // context * context].view(-1, context)
    return float(net(rows, labels=rows).loss)


@torch.no_grad()
def far(
    teacher: gf.GraphformerForCausalLM,
    student: gf.GraphformerForCausalLM,
    ids: Tensor,
    options: argparse.Namespace,
) -> float:
    batch = ids[: 20 * options.context].view(20, -1)
    return float(divergence(teacher, student(batch, output_graphs=True).graphs, batch))


def size(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


if __name__ == "__main__":
    main()
