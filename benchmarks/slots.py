"""Do all executors and backends agree on random slots? Outputs, gradients and second gradients,
beside the dense executor.

Each case draws sizes, candidates, score, normalizer, sparsifier and reductions from a seed, and is
computed in float64 by every executor and backend. The reference is
``executor="dense", backend="torch"``; explicit candidate edges are given to it as a mask. An
executor may refuse what it cannot do, in words that name one that can; it may not refuse anything
else.

    python -m benchmarks.slots --cases 2000 --seed 0    # benchmarks/results/slots.json
    python -m benchmarks.slots --case 17                # one case: its slots, and what differs
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import graphformer as gf
from benchmarks import report
from graphformer.attention import (
    Causal,
    Differential,
    Edges,
    Pairwise,
    ScaledDotProduct,
    Sigmoid,
    Sparsifier,
    Threshold,
    TopFraction,
    TopK,
    Window,
    attention_graph,
)
from graphformer.attention.attend import attend
from graphformer.attention.executors import blocks
from graphformer.testing.common import row_scale

LENGTHS = (1, 2, 3, 5, 7, 11)
REDUCTIONS = ("sum", "mean", "max", "min", "var", "std", "degree")
TOLERANCE = {"output": 1e-9, "gradient": 1e-8, "recorded gradient": 1e-8, "second gradient": 1e-7}
"""Of a row's largest number, or of 1 where that is smaller."""
MARGIN = 1e-6
"""Weights this near a threshold, or near each other where they are ranked, are not drawn: rounding
would choose the edges.
"""
SMALLEST_SUM = 1e-2
"""Rows are not drawn whose weights add up to less, where they are divided by their sum: derivatives
grow with its cube.
"""
SMALLEST_VARIANCE = 1e-4
REFUSALS = {
    "flash builds no edges": (
        r"executor='flash' builds no edges and cannot be used here: .*; executor='auto' chooses "
        r"one that can"
    ),
    "edges takes explicit candidates only": (
        r"executor='edges' does not fit these candidates: .*'dense' and 'stream' are for rules"
    ),
    "dense takes rules only": (
        r"executor='dense' does not fit these candidates: 'edges' is for explicit candidate edges"
    ),
    "stream takes rules only": (
        r"executor='stream' does not fit these candidates: 'edges' is for explicit candidate edges"
    ),
}

Values = dict[tuple[str, str], Tensor]


@dataclass
class Case:
    """What one seed draws.

    Attributes:
        slots: every choice as plain values.
        leaves: what gradients are taken to.
        options: keywords of ``attend``.
        as_rule: the same candidates as a mask, for the reference.
        explicit: whether the candidates are edges.
    """

    slots: dict[str, Any]
    leaves: dict[str, Tensor]
    options: dict[str, Any]
    as_rule: dict[str, Any]
    explicit: bool
    block: int
    score_class: type
    generator: torch.Generator = field(repr=False)

    def score(self) -> Any:
        """The score, on the leaves."""
        if self.score_class is Pairwise:
            return Pairwise(self.leaves["weight"], self.leaves["bias"], self.slots["activation"])
        if self.score_class is Differential:
            return Differential(self.leaves["amount"], sharpening=self.leaves["sharpening"])
        return ScaledDotProduct(self.slots["scale"], self.leaves["sharpening"])

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and x; in the layout that a projection leaves, where the slots say so."""
        q, k, x = (self.leaves[name] for name in "qkx")
        return (
            (q.transpose(1, 2), k.transpose(1, 2), x)
            if self.slots["layout"] == "transposed"
            else (q, k, x)
        )

    def can(self, executor: str) -> bool:
        """Whether this executor has to answer."""
        if executor != "flash":
            return executor == "auto" or (executor == "edges") == self.explicit
        linear = {"sum"} if self.score_class is Differential else {"sum", "mean"}
        whole = (
            self.slots["normalize"] == "softmax"
            and self.slots["sparsify"] is None
            and not self.explicit
        )
        return (
            whole and self.score_class is not Pairwise and set(self.slots["reductions"]) <= linear
        )


def divisor_of(draw: random.Random, number: int) -> int:
    return draw.choice([one for one in range(1, number + 1) if number % one == 0])


def draw_sparsifier(draw: random.Random, signed: bool, nested: bool = False) -> Sparsifier:
    """One, or two of them together, which may be renormalized."""
    single = ("threshold", "top_k", "top_fraction")
    kind = draw.choice(single if nested else (*single, "threshold", "both"))
    renormalize = draw.random() < 0.3
    if kind == "threshold":
        below = signed and draw.random() < 0.5
        return Threshold(
            draw.uniform(-0.5, 0.3) if below else draw.choice((0.0, draw.uniform(0.02, 0.5))),
            renormalize,
            below,
        )
    if kind == "top_k":
        return TopK(draw.choice((1, 2, 3, 5)), renormalize)
    if kind == "top_fraction":
        return TopFraction(draw.choice((0.1, 0.3, 0.5, 0.7, 1.0)), renormalize)
    first, second = (draw_sparsifier(draw, signed, nested=True) for _ in range(2))
    return first & second


def draw_case(seed: int, index: int) -> Case:
    """The case of a seed and a number; drawn again while rounding could decide which edges there
    are.
    """
    draw = random.Random(f"{seed}:{index}")
    for _ in range(1000):
        case = _draw(draw)
        if well_posed(case):
            case.slots["seed"], case.slots["index"] = seed, index
            return case
    raise RuntimeError(f"no well-posed case of seed {seed}, number {index}")


def _draw(draw: random.Random) -> Case:
    generator = torch.Generator().manual_seed(draw.getrandbits(32))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    batch, heads = draw.choice((1, 2, 3)), draw.choice((1, 2, 3, 6))
    key_heads, x_heads = divisor_of(draw, heads), divisor_of(draw, heads)
    receivers, senders = draw.choice(LENGTHS), draw.choice(LENGTHS)
    dim, width = draw.choice((1, 2, 3, 5)), draw.choice((1, 2, 3, 7))
    candidates = draw.choice(
        (
            "none",
            "all",
            "causal",
            "is_causal",
            "window",
            "causal & window",
            "edges",
            "edges",
            "graph",
        )
    )
    mask = draw.choice(("none", "none", "none", "padding", "padding", "pairs"))
    score_class = draw.choice((ScaledDotProduct, ScaledDotProduct, Differential, Pairwise))
    normalize = draw.choice(
        ("softmax", "softmax", "softmax", "sigmoid", "count", "relu", "identity")
    )
    signed = normalize == "identity" or score_class is Differential
    sparsify = draw_sparsifier(draw, signed) if draw.random() < 0.7 else None
    # what flash takes, mostly: drawn slot by slot it would be rare
    if linear := draw.random() < 0.25:
        candidates, normalize, sparsify = (
            draw.choice(("none", "all", "causal", "is_causal", "window", "edges")),
            "softmax",
            None,
        )
        score_class = draw.choice((ScaledDotProduct, Differential))
    reductions = tuple(
        draw.sample(
            ("sum", "mean") if linear else REDUCTIONS,
            draw.choice((1, 1, 2) if linear else (1, 2, 3, 4)),
        )
    )
    if "causal" in candidates and receivers > senders:
        receivers, senders = senders, receivers
    layout = "transposed" if score_class is not Pairwise and draw.random() < 0.5 else "plain"

    leaves = {"x": normal(batch, x_heads, senders, width)}
    if score_class is Pairwise:
        leaves |= {"q": normal(batch, 1, receivers, dim), "k": normal(batch, 1, senders, dim)}
        leaves |= {"weight": normal(heads, dim), "bias": normal(heads)}
        key_heads = 1
    else:
        dim *= 2 if score_class is Differential else 1
        leaves |= {
            "q": normal(batch, heads, receivers, dim),
            "k": normal(batch, key_heads, senders, dim),
        }
        if layout == "transposed":
            leaves |= {name: leaves[name].transpose(1, 2).contiguous() for name in "qk"}
        shape = draw.choice(((), (heads,), (batch, heads, receivers, 1)))
        leaves["sharpening"] = 1.0 + 0.3 * normal(*shape)
        if score_class is Differential:
            leaves["amount"] = 0.5 + 0.2 * normal(
                *draw.choice(((), (heads,), (batch, heads, 1, 1)))
            )
    for leaf in leaves.values():
        leaf.requires_grad_()

    options: dict[str, Any] = {
        "normalize": Sigmoid(bias="count") if normalize == "count" else normalize,
        "sparsify": sparsify,
    }
    keep = None
    if mask == "padding":
        keep = torch.rand(batch, senders, generator=generator) < 0.7
        keep[draw.randrange(batch)] &= draw.random() < 0.7  # a sequence without any sender
    elif mask == "pairs":
        keep = (
            torch.rand(
                draw.choice((1, batch)),
                draw.choice((1, heads)),
                receivers,
                senders,
                generator=generator,
            )
            < 0.7
        )
    size = draw.choice((1, 2, 3, 5))
    if candidates == "is_causal":
        options["is_causal"] = True
    elif candidates != "none":
        rules = {
            "all": "all",
            "causal": "causal",
            "window": Window(size),
            "causal & window": Causal() & Window(size),
        }
        options["candidates"] = rules.get(candidates)
    as_rule = dict(options)
    number = 0
    if explicit := candidates in ("edges", "graph"):
        number = draw.choice((0, 1, 5, 13, 40))  # with repeated ones, and receivers without any
        ends = [
            torch.randint(most, (number,), generator=generator) for most in (senders, receivers)
        ]
        sequence = (
            torch.randint(batch, (number,), generator=generator) if draw.random() < 0.5 else None
        )
        chosen = torch.zeros(batch, 1, receivers, senders, dtype=torch.bool)
        for one in range(batch):
            own = torch.ones(number, dtype=torch.bool) if sequence is None else sequence == one
            chosen[one, 0, ends[1][own], ends[0][own]] = True
        edges = Edges(*ends, sequence)
        if candidates == "graph":
            lanes = edges.lanes(batch, 1, receivers, senders)
            edges = gf.AttentionGraph(
                lanes.senders, lanes.receivers, lanes.weight, batch, senders, receivers, (batch,)
            )
        options["candidates"] = edges
        as_rule |= {
            "candidates": None,
            "attention_mask": chosen
            if keep is None
            else chosen & (keep if keep.ndim == 4 else keep[:, None, None]),
        }
    if keep is not None:
        options["attention_mask"] = keep
        if not explicit:
            as_rule["attention_mask"] = keep

    slots = {
        **{
            "B": batch,
            "H": heads,
            "key heads": key_heads,
            "x heads": x_heads,
            "Nq": receivers,
            "Nk": senders,
            "d": dim,
            "D": width,
        },
        **{
            "candidates": candidates,
            "mask": mask,
            "window": size if "window" in candidates else None,
            "edges": number if explicit else None,
        },
        **{
            "score": score_class.__name__,
            "scale": draw.choice((None, 0.7)),
            "activation": draw.choice(("silu", "tanh", "gelu")),
        },
        **{
            "normalize": normalize,
            "sparsify": None if sparsify is None else str(sparsify),
            "reductions": reductions,
            "layout": layout,
        },
    }
    block = draw.choice((29, 60, 200))
    slots["block"] = block
    return Case(slots, leaves, options, as_rule, explicit, block, score_class, generator)


@torch.no_grad()
def well_posed(case: Case) -> bool:
    """Whether rounding decides nothing: weights lie apart and away from thresholds, and no row is
    divided by almost 0.
    """
    q, k, x = case.tensors()
    every = attention_graph(
        q, k, score=case.score(), executor="dense", **{**case.as_rule, "sparsify": None}
    )
    rows = every.weight.split(every.in_degree().tolist())
    taus, ranked, renormalized = demands(case.options["sparsify"])
    # Weights that are 0 exactly, as relu makes them, are so in every executor.
    for tau in taus:
        if bool((((every.weight - tau).abs() < MARGIN) & (every.weight != 0.0)).any()):
            return False
    for row in rows if ranked else ():
        gaps = row[row != 0.0].sort().values.diff()
        if bool((gaps < MARGIN).any()):
            return False
    graph = attention_graph(q, k, score=case.score(), executor="dense", **case.as_rule)
    kept = graph.with_weight(every.weight[places(every, graph)])
    names = set(case.slots["reductions"])
    if renormalized or names & {"mean", "var", "std"}:
        for what in (kept, graph):  # before renormalizing, and after
            total = what.in_weight(absolute=True)
            if bool(((total < SMALLEST_SUM) & (total != 0)).any()):
                return False
    if "std" in names:
        found, _ = attend(q, k, x, ("var",), score=case.score(), executor="dense", **case.as_rule)
        return not bool(((found["var"] > 1e-20) & (found["var"] < SMALLEST_VARIANCE)).any())
    return True


def places(every: gf.AttentionGraph, kept: gf.AttentionGraph) -> Tensor:
    """Where the kept edges are among all of them."""
    most = max(every.num_lanes * every.num_senders, 1)
    return torch.searchsorted(
        every.receivers * most + every.senders, kept.receivers * most + kept.senders
    )


def demands(sparsify: Any) -> tuple[list[float], bool, bool]:
    """Its thresholds, whether it ranks, and whether it renormalizes."""
    if sparsify is None:
        return [], False, False
    if hasattr(sparsify, "first"):
        first, second = demands(sparsify.first), demands(sparsify.second)
        return first[0] + second[0], first[1] or second[1], first[2] or second[2]
    taus = [sparsify.tau] if isinstance(sparsify, Threshold) else []
    return taus, not taus, sparsify.renormalize


@contextmanager
def blocks_of(size: int) -> Iterator[None]:
    """The stream executor in blocks of so many scores."""
    before, blocks.BLOCK_ELEMENTS = blocks.BLOCK_ELEMENTS, size
    try:
        yield
    finally:
        blocks.BLOCK_ELEMENTS = before


def evaluate(
    case: Case, options: dict[str, Any], directions: dict[str, Tensor], executor: str, backend: str
) -> Values:
    """Outputs, gradients of an ordinary backward pass, those of a recorded one, and second
    gradients.
    """
    with blocks_of(case.block):
        names = case.slots["reductions"]
        outputs, _ = attend(
            *case.tensors(),
            names,
            score=case.score(),
            executor=executor,
            backend=backend,
            **options,
        )
        found: Values = {("output", name): outputs[name].detach() for name in names}

        def gradients(value: Tensor | None, **how: Any) -> dict[str, Tensor]:
            leaves = case.leaves
            if value is None or not value.requires_grad:
                return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
            grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, **how)
            pairs = zip(leaves.items(), grads, strict=True)
            return {
                name: torch.zeros_like(leaf) if grad is None else grad
                for (name, leaf), grad in pairs
            }

        value = sum_of(outputs, directions)
        for name, grad in gradients(value, retain_graph=True).items():
            found["gradient", name] = grad
        recorded = gradients(value, create_graph=True)
        for name, grad in recorded.items():
            found["recorded gradient", name] = grad.detach()
        for name, grad in gradients(sum_of(recorded, directions)).items():
            found["second gradient", name] = grad
    return found


def sum_of(values: dict[str, Tensor], directions: dict[str, Tensor]) -> Tensor | None:
    """A random weighting of values, of those that can be differentiated."""
    parts = [
        (value * directions[name]).sum() for name, value in values.items() if value.requires_grad
    ]
    return torch.stack(parts).sum() if parts else None


def differences(got: Values, want: Values) -> list[str]:
    """What differs by more than the tolerance, in words."""
    lines = []
    for (kind, name), expected in want.items():
        value = got[kind, name]
        if value.shape != expected.shape or value.dtype != expected.dtype:
            lines.append(
                f"{kind} {name}: {value.dtype} {tuple(value.shape)}, expected {expected.dtype} "
                f"{tuple(expected.shape)}"
            )
            continue
        excess = (value - expected).abs() / row_scale(expected).clamp(min=1.0)
        if not bool((excess <= TOLERANCE[kind]).all()):  # NaN is not
            lines.append(
                f"{kind} {name}: {float(excess.nan_to_num(nan=torch.inf).max()):.3g} > "
                f"{TOLERANCE[kind]:.3g} of its row"
            )
    return lines


def contenders(case: Case) -> list[tuple[str, str]]:
    """Every executor where it has to answer, with every backend, and once where it has to refuse.

    Beside torch, stream gets one other backend a case, in turn: it is the slowest by far in such
    small blocks.
    """
    names = gf.backends.available()
    turn = ("torch", *names[1:][case.slots["index"] % max(len(names) - 1, 1) :][:1])
    pairs = [("auto", "auto"), ("flash", "auto")]
    for executor in ("dense", "stream", "edges"):
        own = turn if executor == "stream" else names
        pairs += [(executor, name) for name in (own if case.can(executor) else ("torch",))]
    return pairs


def check(case: Case) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Counts of what agreed and what was refused, and the disagreements."""
    names = {**{name: None for name in case.slots["reductions"]}, **case.leaves}
    shape = (case.slots["B"], case.slots["H"], case.slots["Nq"], case.slots["D"])
    directions = {
        name: torch.randn(
            shape if leaf is None else leaf.shape, dtype=torch.float64, generator=case.generator
        )
        for name, leaf in names.items()
    }
    want = evaluate(case, case.as_rule, directions, "dense", "torch")
    if wrong := [
        f"{kind} {name}" for (kind, name), value in want.items() if not bool(value.isfinite().all())
    ]:
        return Counter(), [
            {
                "executor": "dense",
                "backend": "torch",
                "what": [f"{one}: not finite" for one in wrong],
                "slots": case.slots,
            }
        ]
    counts: Counter[str] = Counter()
    disagreements = []
    for executor, backend in contenders(case):
        if (executor, backend) == ("dense", "torch") and not case.explicit:
            continue  # the reference itself
        try:
            found = evaluate(case, case.options, directions, executor, backend)
            what = differences(found, want)
        except (ValueError, NotImplementedError, RuntimeError) as error:
            reason = next(
                (name for name, text in REFUSALS.items() if re.match(text, str(error))), None
            )
            if reason is not None and not case.can(executor):
                counts[f"refused: {reason}"] += 1
                continue
            what = [f"{type(error).__name__}: {error}"]
        if what:
            disagreements.append(
                {"executor": executor, "backend": backend, "what": what, "slots": case.slots}
            )
        else:
            counts[f"agree: {executor}, {backend}"] += 1
    return counts, disagreements


def run(seed: int, indices: range) -> dict[str, Any]:
    """The counts over these cases, what was drawn, and the disagreements."""
    counts: Counter[str] = Counter()
    drawn: Counter[str] = Counter()
    disagreements: list[dict[str, Any]] = []
    start = time.process_time()
    for index in indices:
        case = draw_case(seed, index)
        found, wrong = check(case)
        counts += found
        disagreements += wrong
        drawn.update(
            f"{name}: {case.slots[name]}"
            for name in ("candidates", "mask", "score", "normalize", "layout", "block")
        )
        drawn.update(f"reduction: {name}" for name in case.slots["reductions"])
        drawn[f"sparsify: {re.sub('[(].*', '', case.slots['sparsify'] or 'None')}"] += 1
    return {
        "cases": len(indices),
        "comparisons": sum(number for name, number in counts.items() if name.startswith("agree"))
        + len(disagreements),
        "counts": dict(sorted(counts.items())),
        "drawn": dict(sorted(drawn.items())),
        "disagreements": disagreements,
        "cpu_seconds": time.process_time() - start,
    }


def show(content: dict[str, Any]) -> str:
    """Counts, and every disagreement."""
    rows = [[name, f"{number:,}"] for name, number in content["counts"].items()]
    parts = [report.table([f"{content['cases']:,} cases, seed {content['seed']}", "number"], rows)]
    parts.append(
        f"{len(content['disagreements'])} disagreements among {content['comparisons']:,} "
        "comparisons"
    )
    parts += [
        f"{one['executor']}, {one['backend']}: {'; '.join(one['what'])}\n    {one['slots']}"
        for one in content["disagreements"]
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one; writes no result file")
    parser.add_argument("--quick", action="store_true", help="20 cases; writes no result file")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the result file [default: benchmarks/results, with --quick none]",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the last results and compute nothing"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    alone = options.case is not None
    folder = options.output or (None if options.quick or alone else report.RESULTS)
    if options.show:
        return print(show(json.loads(((folder or report.RESULTS) / "slots.json").read_text())))
    indices = (
        range(options.case, options.case + 1)
        if alone
        else range(20 if options.quick else options.cases)
    )
    settings = {
        "tolerance": TOLERANCE,
        "margin": MARGIN,
        "smallest_sum": SMALLEST_SUM,
        "backends": gf.backends.available(),
    }
    content = {
        **report.environment(),
        "seed": options.seed,
        "settings": settings,
        **run(options.seed, indices),
    }
    if folder:
        report.save("slots", content, folder)
    if alone:
        print(draw_case(options.seed, options.case).slots)
    print(show(content))
    if content["disagreements"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
