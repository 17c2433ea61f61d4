"""What the paper says (arXiv 2501.02393), and what was said of recipes here: each with the rows
that decide it.

The words are the claim's, shortened. A number that is quoted second-hand says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.paper.experiments import EXPERIMENTS
from benchmarks.paper.recipes import CONTROLS, CUTS, EXTRAS, FINALISTS, OPERATORS, RECIPE
from benchmarks.paper.statistics import FEW, MANY


@dataclass(frozen=True)
class Contrast:
    """One comparison that a claim makes.

    Attributes:
        row, base: the difference is ``row - base``, paired by seeds; without a base the row's own
            number.
        metric: a name of :data:`benchmarks.paper.values.METRICS`.
        sign: of the difference that is claimed.
        relative: whether the difference is shown in percent of the base.
        margin: see :func:`benchmarks.paper.statistics.outcome`.
        less: of an interaction the row without the extra and its base, which are taken away.
        experiment: where it is another than the claim's.
        seeds: how many are enough, where that was fixed before the runs: of a model whose runs take
            ten minutes; unless given, what an effect of its size needs.
    """

    row: str
    base: str | None
    metric: str
    sign: int
    relative: bool = False
    margin: float = 0.0
    less: tuple[str, str] | None = None
    experiment: str | None = None
    seeds: int | None = None

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(one for one in (self.base, self.row, *(self.less or ())) if one)


@dataclass(frozen=True)
class Claim:
    """A claim and how it is decided.

    Attributes:
        words: what is claimed; ``where`` it stands.
        rule: ``"all"`` contrasts, ``"all but one"``, ``"any"`` of them (a search: what it finds is
            named), or ``"variances"`` (:mod:`benchmarks.paper.noise`).
        figure: what is drawn: ``"curves"``, ``"gap"``, ``"gamma"``, ``"alpha"``, ``"effects"``,
            ``"lambda"``, ``"tuned"``, ``"noise"``; None: nothing.
        more: rows that are trained and shown beside those of the contrasts.
        note: what a reader must know beside it; it may name facts of the data in braces.
        elsewhere: how it is measured, where another benchmark does it.
        seeds: how many are run unless told otherwise.
    """

    name: str
    where: str
    words: str
    experiment: str
    contrasts: tuple[Contrast, ...]
    rule: str = "all"
    figure: str | None = None
    more: tuple[str, ...] = ()
    note: str = ""
    elsewhere: str = ""
    seeds: int = FEW

    @property
    def rows(self) -> list[str]:
        """The rows that are trained for it, in the experiment's order."""
        wanted = {row for one in self.contrasts for row in one.rows} | set(self.more)
        if self.experiment not in EXPERIMENTS:
            return [row for row in dict.fromkeys(r for c in self.contrasts for r in c.rows)]
        return [row for row in EXPERIMENTS[self.experiment].rows if row in wanted]

    @property
    def command(self) -> str:
        return self.elsewhere or f"python -m benchmarks.paper {self.name}"


def _against(base: str, rows: Sequence[str], metric: str, sign: int) -> tuple[Contrast, ...]:
    return tuple(Contrast(row, base, metric, sign) for row in rows)


FINETUNE = "python -m benchmarks.finetune"
TEXTS = ("finetune-gsm8k", "finetune-tinyshakespeare")
LARGER = tuple(name.replace("finetune-", "finetune-SmolLM2-135M-Instruct-") for name in TEXTS)
GAMMAS = ("gin", "gin-gamma-1", "gin-gamma-2", "gin-gamma-4")
VARIANTS = (
    "gin",
    "gin-gamma-1",
    "gin-gamma-2",
    "gin-gamma-4",
    "gin-no-sharpening",
    "gin-output-map",
    "gin-differential",
    "gin-sigmoid",
)
RECIPES = (f"gin+{RECIPE}", f"sum+{RECIPE}")
REMEDIES = ("gin-no-norm", "gin-residual", "gin-fan-in", "gin-zero-branch", "gin-own-share")

_CLAIMS = (
    Claim(
        "perplexity",
        "abstract, figure 4",
        "GIN-attention with softmax, sharpening and gamma 0.5 has the lowest validation perplexity",
        "proteins",
        (Contrast("gin", "sum", "validation", -1), Contrast("gin", "sum", "test", -1)),
        figure="curves",
        note="2.856 is quoted for it second-hand. Here tokens drawn by their frequencies alone "
        "have a loss of {loss_of_frequencies:.2f} nats; a perplexity of 2.856 would be a loss of "
        "1.05. As a loss in nats the number is what one expects of such sequences.",
    ),
    Claim(
        "gap",
        "figure 7",
        "The standard transformer has the largest generalisation gap; GIN's is 35 % smaller",
        "proteins",
        (
            Contrast("gin", "sum", "gap", -1, relative=True),
            Contrast("gin", "sum-dropout", "gap", -1, relative=True),
        ),
        figure="gap",
        note="The paper's GIN has dropout 0.1 in its MLPs and its standard transformer none, so "
        "the gap is also compared to a standard transformer with dropout 0.1.",
    ),
    Claim(
        "fewer-parameters",
        "discussion",
        "GIN needs 40 % fewer parameters for the same loss",
        "proteins",
        (Contrast("gin-60", "sum", "validation", -1, margin=0.01),),
        note="The same: not more than 0.01 nats worse.",
    ),
    Claim(
        "epochs",
        "figure 4",
        "The standard transformer overfits earlier (its best epoch is 5, GIN's 8)",
        "proteins",
        (Contrast("gin", "sum", "best_round", 1),),
        figure="curves",
    ),
    Claim(
        "sharpening",
        "figure 5",
        "A trained sharpening of attention, different in each layer, is part of the best model",
        "proteins",
        (Contrast("gin", "gin-no-sharpening", "validation", -1),),
        figure="alpha",
    ),
    Claim(
        "gin-variants",
        "figure 6",
        "All GIN variants but one beat the standard transformer",
        "proteins",
        _against("sum", VARIANTS, "validation", -1),
        rule="all but one",
        figure="effects",
    ),
    Claim(
        "pna",
        "figure 6",
        "No PNA variant beats the standard transformer",
        "proteins",
        _against("sum", ("pna", "pna-no-sharpening"), "validation", 1),
        figure="effects",
        note="PNA has a real maximum here; the paper's code takes the token's own value.",
    ),
    Claim(
        "gamma",
        "figure 8",
        "Perplexity rises with gamma in 0.5, 1, 4",
        "proteins",
        (
            Contrast("gin-gamma-1", "gin", "perplexity", 1),
            Contrast("gin-gamma-4", "gin-gamma-1", "perplexity", 1),
        ),
        figure="gamma",
        more=("gin-gamma-2",),
    ),
    Claim(
        "lora",
        "figure 9",
        "Sparse-GIN converges 20 % better than LoRA at the same number of trainable parameters",
        TEXTS[0],
        tuple(
            Contrast("sparse-gin", "lora", "test", -1, relative=True, experiment=text)
            for text in TEXTS
        ),
        note="[docs/adapters.md](adapters.md) has the figures.",
        figure="tuned",
        elsewhere=FINETUNE,
    ),
    Claim(
        "lambda",
        "figure 10",
        "The trained scale lambda drops fast, then rises slightly, and ends largest in deep layers",
        TEXTS[0],
        tuple(
            Contrast("sparse-gin", None, metric, sign, experiment=text)
            for text in TEXTS
            for metric, sign in (("lambda_first", -1), ("lambda_rise", 1), ("lambda_deep", 1))
        ),
        figure="lambda",
        note="Lambda starts from 0 in the first layer and 0.5 in the last, so its growth is what "
        "is compared.",
        elsewhere=FINETUNE,
    ),
    Claim(
        "fixed-lambda",
        "figure 11",
        "A fixed lambda is worse than a trained one",
        TEXTS[0],
        tuple(
            Contrast("sparse-gin-fixed", "sparse-gin", "test", 1, experiment=text) for text in TEXTS
        ),
        figure="tuned",
        elsewhere=f"{FINETUNE} --methods sparse-gin sparse-gin-fixed",
    ),
    Claim(
        "smaller-gnn",
        "figure 12",
        "A smaller GNN in Sparse-GIN is as good",
        TEXTS[0],
        tuple(
            Contrast("sparse-gin-small", "sparse-gin", "test", -1, margin=0.01, experiment=text)
            for text in TEXTS
        ),
        figure="tuned",
        elsewhere=f"{FINETUNE} --methods sparse-gin sparse-gin-small",
        note="Smaller: half as wide. As good: not more than 0.01 nats worse.",
    ),
    Claim(
        "second-form",
        "adapters",
        "Bottlenecks with chain and recurrence are ahead of LoRA at equal size on a small model, "
        "by 0.2 nats on arithmetic problems and by 0.08 on plays",
        TEXTS[0],
        tuple(
            Contrast("relations", "lora", "test", -1, margin=-ahead, experiment=text)
            for text, ahead in zip(TEXTS, (0.2, 0.08), strict=True)
        ),
        figure="tuned",
        elsewhere=f"{FINETUNE} --methods lora relations",
    ),
    Claim(
        "second-form-messages",
        "adapters",
        "Chain and recurrence are what makes it better than bottlenecks alone, at equal size",
        TEXTS[0],
        tuple(Contrast("relations", "bottlenecks", "test", -1, experiment=text) for text in TEXTS),
        figure="tuned",
        elsewhere=f"{FINETUNE} --methods bottlenecks relations",
    ),
    Claim(
        "second-form-larger",
        "adapters",
        "On a model of 135 million parameters they are not behind LoRA at equal size",
        LARGER[0],
        tuple(
            Contrast("relations", "lora", "test", -1, margin=0.01, experiment=text, seeds=3)
            for text in LARGER
        ),
        figure="tuned",
        elsewhere=f"{FINETUNE} --model SmolLM2-135M-Instruct --steps 100 --batch 2 --windows 32 "
        "--seeds 3 --methods lora relations",
        note="Not behind: not more than 0.01 nats worse. Three seeds were fixed beforehand: a run "
        "takes ten minutes. Student's interval of the three must lie within the margin too.",
    ),
    Claim(
        "second-form-messages-larger",
        "adapters",
        "On that model chain and recurrence make it better than bottlenecks alone, at equal size, "
        "on arithmetic problems",
        LARGER[0],
        (Contrast("relations", "bottlenecks", "test", -1, seeds=3),),
        figure="tuned",
        elsewhere=f"{FINETUNE} --texts gsm8k --model SmolLM2-135M-Instruct --steps 100 --batch 2 "
        "--windows 32 --seeds 3 --methods bottlenecks relations",
        note="Three seeds were fixed beforehand; the claim was written when one of them was known.",
    ),
    Claim(
        "few-examples",
        "adapters",
        "With 64 examples they are ahead of LoRA at equal size on that model",
        f"{LARGER[0]}-examples-64",
        (Contrast("relations", "lora", "test", -1, seeds=3),),
        figure="tuned",
        elsewhere=f"{FINETUNE} --model SmolLM2-135M-Instruct --texts gsm8k --examples 64 "
        "--steps 48 --batch 2 --windows 32 --seeds 3 --methods lora relations",
        note="Three seeds were fixed beforehand. The best weights of the curve count.",
    ),
    *(
        Claim(
            name,
            "recipes",
            words,
            experiment,
            tuple(
                Contrast(f"gin+{extra}", "gin", metric, -1, less=(f"sum+{extra}", "sum"))
                for extra in extras
            ),
            rule="any",
            figure="effects",
            seeds=seeds,
        )
        for name, words, experiment, metric, seeds, extras in (
            (
                "screening",
                "An extra helps GIN more than it helps plain attention (screened)",
                "screening",
                "validation",
                3,
                tuple(EXTRAS),
            ),
            (
                "recipes-plays",
                "What lowered GIN's loss there by 0.02 or more helps GIN more, on plays",
                "recipes-tinyshakespeare",
                "test",
                MANY,
                FINALISTS,
            ),
            (
                "recipes-arithmetic",
                "The same extras help GIN more, on arithmetic problems",
                "recipes-gsm8k",
                "test",
                MANY,
                FINALISTS,
            ),
        )
    ),
    *(
        Claim(
            f"{kind}-{name}",
            "recipes",
            f"{what} with edges from the tokens before is ahead of plain attention without them, "
            f"at equal parameters and at equal time, on {where}",
            experiment,
            tuple(Contrast(row, base, "test", -1) for base in ("sum", "sum-longer")),
            figure="effects",
            more=(*(one for one in (*OPERATORS, *RECIPES) if one not in ("sum", row)), *CONTROLS),
            seeds=MANY,
            note="Equal time: at least. Trained for GIN's time the standard transformer has 1.75 "
            "times the steps at the small scale and 1.33 to 1.375 times at full scale; what GIN "
            "takes is in the table's last column.",
        )
        for kind, what, row in zip(
            ("recipe", "chain"), ("GIN", "Plain attention"), RECIPES, strict=True
        )
        for name, where, experiment in (
            ("proteins", "proteins", "proteins"),
            ("plays", "plays", "recipes-tinyshakespeare"),
            ("arithmetic", "arithmetic problems", "recipes-gsm8k"),
        )
    ),
    Claim(
        "threshold",
        "recipes",
        "A language model loses nothing by leaving out edges below 0.02, on plays",
        "recipes-tinyshakespeare",
        tuple(Contrast(f"{one}-above-0.02", one, "test", -1, margin=0.01) for one in OPERATORS),
        more=tuple(CUTS),
        seeds=MANY,
        note="Nothing: not more than 0.01 nats. A token of the small scale sees 32 at most.",
    ),
    Claim(
        "noise",
        "earlier runs here",
        "GIN's loss owes more to the draw of its weights than plain attention's, and another start "
        "mends it",
        "noise",
        (),
        rule="variances",
        figure="noise",
        more=(*OPERATORS, *REMEDIES),
    ),
)
CLAIMS = {one.name: one for one in _CLAIMS}
