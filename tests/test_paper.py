"""The paper's study: its statistics, its runs on the disk, and its pages."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("benchmarks", reason="benchmarks/ is not part of an installed package")

from benchmarks import report
from benchmarks.paper import evidence, noise, recommendation, runner, statistics, tables, verdicts
from benchmarks.paper.claims import CLAIMS, Claim, Contrast
from benchmarks.paper.data import QUICK, VOCABULARY, made_proteins, protein_tokens
from benchmarks.paper.experiments import EXPERIMENTS
from benchmarks.paper.models import config_of
from benchmarks.paper.recipes import EXTRAS, FINALISTS, RECIPE
from benchmarks.paper.settings import FOLDER, GRID_SEED
from benchmarks.paper.values import of_run, values_of
from benchmarks.store import Store
from graphformer.models.language.twin import count_parameters
from tests.conftest import ROOT

# ---------------------------------------------------------------------- statistics


def test_holm():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.9, 0.7]) == [1.0, 1.0, 1.0]
    first, second = statistics.holm([math.nan, 0.03])  # NaN counts for none
    assert math.isnan(first) and second == 0.03


def test_paired_tests_have_the_known_p_values():
    """t of 1..5 is 3 / sqrt(2.5 / 5), whose two-sided p of 4 degrees of freedom is 0.013236; of
    five signs alike 2 / 2^5.
    """
    effect = statistics.paired([1.0, 2.0, 3.0, 4.0, 5.0])
    assert effect.mean == 3 and effect.seeds == 5
    assert effect.p == pytest.approx(0.0132356, rel=1e-4)
    assert effect.wilcoxon == pytest.approx(2 / 2**5)
    assert 1 < effect.low < 3 < effect.high < 5
    with pytest.raises(ValueError, match="differences is empty"):
        statistics.paired([])


def test_interval_is_the_normal_one_for_many_values():
    values = np.random.default_rng(0).normal(2.0, 3.0, 2000)
    low, high = statistics.interval(values)
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert statistics.interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    rounded = [0.8 - 0.3, 1.2 - 0.7, 3.1 - 2.6, 0.5]  # 0.5 and dust
    assert statistics.interval(rounded) == pytest.approx((0.5, 0.5))
    assert statistics.paired(rounded).p == 0 and statistics.paired([0.0, 0.0]).p == 1
    assert all(map(math.isnan, statistics.interval([0.5])))


def test_an_outcome_needs_seeds_the_interval_and_the_test():
    strong = statistics.paired([-0.10, -0.12, -0.11, -0.09, -0.105])
    assert statistics.outcome(strong, -1) == 1 and statistics.outcome(strong, 1) == -1
    few = statistics.paired([-0.10, -0.12, -0.11, -0.09])
    assert few.wanted == 5 and statistics.outcome(few, -1) == 0
    small = statistics.paired([-0.010, -0.012, -0.011, -0.009, -0.0105])
    assert small.wanted == 10 and statistics.outcome(small, -1) == 0
    uncorrected = replace(strong, holm=0.06)
    assert statistics.outcome(uncorrected, -1) == 0
    spread = statistics.paired([-0.1, 0.1, -0.05, 0.08, 0.02, 0.0, 0.01, -0.03, 0.04, -0.06])
    assert statistics.outcome(spread, -1) == 0


def test_a_margin_is_how_much_worse_is_still_as_good():
    worse = statistics.paired([0.004, 0.006, 0.005, 0.0055, 0.0045] * 2)
    assert statistics.outcome(worse, -1, margin=0.01) == 1
    assert statistics.outcome(worse, -1, margin=0.001) == -1
    assert statistics.outcome(worse, -1, margin=0.005) == 0


def test_few_seeds_are_enough_where_that_was_fixed_and_students_interval_says_so():
    near = statistics.paired([0.003, 0.0044, 0.004])
    assert near.reach == pytest.approx(4.30265 * np.std([30, 44, 40], ddof=1) / 3**0.5 / 1e4)
    assert statistics.outcome(near, -1, margin=0.01) == 0
    assert statistics.outcome(near, -1, margin=0.01, seeds=3) == 1
    # the resampled interval ends at 0.0093, Student's at 0.013
    wide = statistics.paired([0.001, 0.0093, 0.005])
    assert wide.high < 0.01 < wide.mean + wide.reach
    assert statistics.outcome(wide, -1, margin=0.01, seeds=3) == 0


def test_a_longer_row_is_trained_for_more_rounds():
    scales, rows = EXPERIMENTS["recipes-gsm8k"].scales, EXPERIMENTS["recipes-gsm8k"].rows
    small, full = scales["small"], scales["full"]
    assert (small.rounds, rows["sum-longer"].trained(small).rounds) == (4, 7)
    assert (full.rounds, rows["sum-longer"].trained(full).rounds) == (8, 11)
    assert rows["sum"].trained(small) == small


@pytest.mark.parametrize("name", ["proteins", "recipes-tinyshakespeare", "recipes-gsm8k"])
def test_the_longer_row_has_at_least_the_time_of_gin_with_the_recipe(name):
    for scale in ("full", "small"):
        found = values_of(name, FOLDER, scale)
        if not {"sum", f"gin+{RECIPE}"} <= found.keys():
            continue
        slow, fast = (np.median(list(found[row]["cpu"].values())) for row in ("gin+chain", "sum"))
        size = EXPERIMENTS[name].scales[scale]
        longer = EXPERIMENTS[name].rows["sum-longer"].trained(size)
        assert longer.rounds / size.rounds >= slow / fast


def test_variances_of_draws_and_orders():
    draws, orders = np.array([0.0, 3.0, 6.0]), np.array([0.0, 1.0, -1.0])
    found = statistics.variances(10 + draws[:, None] + orders)
    assert found.init == pytest.approx(9.0) and found.data == pytest.approx(1.0)
    assert found.rest == pytest.approx(0.0) and found.init_square == pytest.approx(27.0)
    dice = np.random.default_rng(0)
    cells = (
        dice.normal(0, 2, (300, 1)) + dice.normal(0, 0.5, (1, 300)) + dice.normal(0, 1, (300,) * 2)
    )
    found = statistics.variances(cells)
    assert (found.init, found.data, found.rest) == pytest.approx((4, 0.25, 1), rel=0.15)
    with pytest.raises(ValueError, match="two draws and two orders"):
        statistics.variances(np.zeros((1, 3)))


def test_variance_ratio_is_the_f_test():
    one, other = (statistics.Variances(0, 0, 0, square, 5) for square in (6.388, 1.0))
    ratio, p = statistics.variance_ratio(one, other)  # 6.388 is the 95 % point of F(4, 4)
    assert ratio == pytest.approx(6.388) and p == pytest.approx(0.1, rel=1e-3)
    assert statistics.variance_ratio(other, one)[1] == pytest.approx(p)


# ---------------------------------------------------------------------- data and models


def test_a_protein_as_the_paper_writes_it():
    residues = torch.tensor([0, 1, 2, 20, 3])  # A C D X E
    states = torch.tensor([2.0, 0.0, 2.0, float("nan"), 0.0])
    words = list(VOCABULARY)
    found = [words[i] for i in protein_tokens(residues, states)]
    assert found == [
        *("<|begin_of_text|>", "<|sequence|>", "A", "C", "D", "X", "E", "<|/sequence|>"),
        *("<|AH|>", "<|UNSTRUCTURED|>", "<|eot_id|>"),  # two of each: in the order of the states
    ]


@pytest.mark.parametrize("source", ["proteins", "tinyshakespeare"])
def test_the_same_seed_gives_the_same_batches(source):
    experiment = EXPERIMENTS["proteins" if source == "proteins" else "screening"]
    scale = experiment.scales["quick"]
    texts = QUICK[source](scale.data)

    def two(seed):
        order = texts.order(seed, scale.batch, scale.steps)
        return [batch["input_ids"].tolist() for _ in range(2) for batch in next(order)]

    assert two(1) == two(1) and two(1) != two(2)


def test_a_pass_has_every_protein_once():
    texts = made_proteins({"train": 21, "validation": 2, "test": 2})
    batches = next(texts.order(0, 4, None))
    seen = [row[row >= 0] for batch in batches for row in batch["labels"]]
    assert len(batches) == 6
    assert sorted(one.tolist() for one in seen) == sorted(r.tolist() for r in texts.train.rows)


@pytest.mark.parametrize("name", ["proteins", "screening", "noise"])
@pytest.mark.parametrize("size", ["small", "full"])
def test_every_row_has_the_parameters_of_the_standard_transformer(name, size):
    experiment = EXPERIMENTS[name]
    scale = experiment.scales[size]
    sizes = {
        row: count_parameters(config_of(one, scale, 30, 64)) / one.share
        for row, one in experiment.rows.items()
    }
    assert max(sizes.values()) < 1.02 * min(sizes.values())


# ---------------------------------------------------------------------- runs on the disk


def tiny(folder, told=lambda line: None, name="noise", **changes):
    experiment = EXPERIMENTS[name]
    experiment = replace(
        experiment, rows={row: experiment.rows[row] for row in ("sum", "gin")}, crossed=False
    )
    scale = replace(experiment.scales["quick"], grid=(1e-3, 1e-2), **changes)
    texts = QUICK[experiment.source](scale.data)
    return runner.Runner(experiment, scale, texts, Store("tiny", folder), told)


def test_a_killed_study_goes_on_where_it_was(tmp_path):
    class Killed(Exception):
        pass

    lines = []

    def killed(line):
        lines.append(line)
        if len(lines) == 3:
            raise Killed

    with pytest.raises(Killed):
        tiny(tmp_path, killed).all(["sum", "gin"], 2)
    before = Store("tiny", tmp_path).content["runs"]
    assert len(before) == 3
    rest = []
    tiny(tmp_path, rest.append).all(["sum", "gin"], 2)
    after = Store("tiny", tmp_path).content["runs"]
    assert len(after) == 8 and len(rest) == 5  # of 2 rates and 2 seeds, of 2 rows
    assert {key: after[key] for key in before} == before
    # in turns over the rows, the grid first
    assert [(one["row"], one["rate"]) for one in after.values()][:4] == [
        ("sum", 1e-3),
        ("gin", 1e-3),
        ("sum", 1e-2),
        ("gin", 1e-2),
    ]


def test_a_run_is_stored_whole_and_repeated_where_a_setting_changes(tmp_path):
    first = tiny(tmp_path)
    run = first.one("gin", 1e-3, (0, 5))
    settings = Store("tiny", tmp_path).content["settings"][run["settings"]]
    assert settings["config"]["rms_norm_eps"] == 1e-6 and settings["scale"]["clip"] == 1.0
    assert run["seed_weights"] == 0 and run["seed_data"] == 5 and run["flops_per_step"] > 0
    assert len(run["curve"]) == 2 and {"train", "validation", "test"} <= set(run["curve"][0])
    assert len(run["sharpening"]) == 3 and set(run["sharpening"][0]) == {1.0}
    tiny(tmp_path, weight_decay=0.5).one("gin", 1e-3, (0, 5))
    assert len(Store("tiny", tmp_path).content["runs"]) == 2
    again = tiny(tmp_path).one("gin", 1e-3, (0, 5))
    assert again == run


def test_the_same_seeds_give_the_same_run(tmp_path):
    one, other = (tiny(None).one("gin", 1e-2, (3, 4))["curve"] for _ in range(2))
    assert one == other
    assert tiny(None).one("gin", 1e-2, (2, 4))["curve"] != one
    assert tiny(None).one("gin", 1e-2, (3, 5))["curve"] != one


def test_two_processes_may_add_to_one_file(tmp_path):
    one, other = Store("tiny", tmp_path), Store("tiny", tmp_path)
    one.add("sum", {"a": 1}, 0.1, (0, 0), {"loss": 1.0})
    other.add("gin", {"a": 2}, 0.1, (0, 0), {"loss": 2.0})
    one.add("sum", {"a": 1}, 0.1, (1, 1), {"loss": 3.0})
    runs = Store("tiny", tmp_path).content["runs"]
    assert sorted(run["loss"] for run in runs.values()) == [1.0, 2.0, 3.0]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]


def stored(tmp_path, losses, row="sum", rate=0.1, store=None):
    store = store or Store("tiny", tmp_path)
    for (weights, data), loss in losses.items():
        point = {"round": 1, "step": 1, "train": loss, "validation": loss, "test": loss}
        result = {"curve": [point], "cpu_seconds_per_step": 1.0}
        store.add(row, {"row": row}, rate, (weights, data), result)
    return store


def test_runs_of_the_grid_are_not_shown(tmp_path):
    store = stored(tmp_path, {(GRID_SEED, GRID_SEED): 0.1, (1, 1): 1.0, (0, 0): 2.0})
    found = runner.shown(store, "sum")
    assert [one["seed_data"] for one in found] == [0, 1]


def test_the_runner_says_where_seeds_are_missing():
    base = dict.fromkeys(range(5), 1.0)
    small = {seed: 1.01 + seed / 1000 for seed in range(5)}
    (line,) = runner.too_few({"sum": base, "gin": small, "pna": {s: 2.0 for s in range(5)}}, "sum")
    assert line.startswith("gin minus sum is +0.0120, below 0.02, and has 5 seeds: --seeds 10")


def test_metrics_of_a_run():
    points = [(1, 3.0, 3.1, 3.3), (2, 2.0, 2.5, 2.6), (3, 1.0, 2.7, 2.4)]
    names = ("round", "train", "validation", "test")
    curve = [dict(zip(names, point, strict=True)) for point in points]
    found = of_run({"curve": curve, "cpu_seconds_per_step": 0.5})
    assert found["validation"] == 2.5 and found["test"] == 2.6 and found["best_round"] == 2
    assert found["perplexity"] == pytest.approx(math.exp(2.5)) and found["gap"] == 2.7 - 1.0


def test_noise_of_a_grid(tmp_path):
    store = Store("tiny", tmp_path)
    for row, scale in (("sum", 0.01), ("gin", 1.0)):
        losses = {(i, j): 2 + scale * i + 0.1 * j for i in range(4) for j in range(4)}
        stored(tmp_path, {**losses, (4, 0): 9.0}, row, store=store)  # a row that is not whole
    found = {one.row: one for one in noise.spreads(store, ["sum", "gin", "gin-residual"])}
    assert set(found) == {"sum", "gin"}
    assert found["gin"].parts.init ** 0.5 == pytest.approx(np.std(range(4), ddof=1))
    assert found["gin"].ratio == pytest.approx(1e4) and found["gin"].p < 0.001
    assert noise.verdict(list(found.values())) == "undecided"  # no remedy has been tried
    assert "| GIN | 4 x 4 |" in tables.of_noise(store, ["sum", "gin"])
    losses = {(i, j): 2 + 0.001 * i + 0.1 * j for i in range(4) for j in range(4)}
    stored(tmp_path, losses, "gin-residual", store=store)
    found = noise.spreads(store, ["sum", "gin", "gin-residual"])
    assert noise.verdict(found) == "holds"
    assert noise.verdict(found[1:]) == "not measured yet"


# ---------------------------------------------------------------------- verdicts and pages


def values(**rows):
    return {row: {"validation": dict(enumerate(found))} for row, found in rows.items()}


@pytest.mark.parametrize(
    ("rule", "outcomes", "want"),
    [
        ("all", (1, 1), "holds"),
        ("all", (1, -1), "does not"),
        ("all", (1, 0), "undecided"),
        ("all but one", (1, 1, -1), "holds"),
        ("all but one", (1, -1, -1), "does not"),
        ("all but one", (1, 1, 0, 0), "undecided"),
        ("any", (0, 1, -1), "holds"),
        ("any", (-1, -1), "does not"),
        ("any", (-1, 0), "undecided"),
    ],
)
def test_rules(rule, outcomes, want):
    contrast, effect = Contrast("gin", "sum", "validation", -1), statistics.paired([1.0])
    claim = Claim("x", "", "", "proteins", (contrast,) * len(outcomes), rule=rule)
    found = [verdicts.Found(contrast, effect, None, one) for one in outcomes]
    assert verdicts.verdict(claim, found) == want
    nothing = [verdicts.Found(contrast, None, None, 0) for _ in outcomes]
    assert verdicts.verdict(claim, nothing) == "not measured yet"


def test_a_claim_is_judged_over_the_seeds_that_its_rows_share():
    dice = np.random.default_rng(0)
    base = dice.normal(0, 1, 12)
    given = values(sum=base, gin=base[:10] - 0.5 + dice.normal(0, 0.1, 10), pna=base + 0.5)
    contrasts = tuple(Contrast(row, "sum", "validation", -1) for row in ("gin", "pna"))
    claim = Claim("x", "", "", "proteins", contrasts)
    gin, pna = verdicts.judge(claim, lambda _: given)
    assert (gin.effect.seeds, gin.outcome) == (10, 1)
    assert (pna.effect.seeds, pna.outcome, pna.effect.mean) == (12, -1, pytest.approx(0.5))
    assert gin.effect.holm == pytest.approx(gin.effect.p)  # the larger of two
    percent = replace(contrasts[0], relative=True)
    (found,) = verdicts.judge(replace(claim, contrasts=(percent,)), lambda _: given)
    assert found.percent[0] == pytest.approx(100 * found.effect.mean / abs(base[:10].mean()))


def test_only_the_interaction_counts_for_gin():
    contrast = Contrast("gin+e", "gin", "validation", -1, less=("sum+e", "sum"))
    given = values(
        **{"gin+e": [1.0, 2.0], "gin": [1.5, 2.6], "sum+e": [1.1, 2.0], "sum": [1.2, 2.2]}
    )
    found, _ = verdicts.differences(contrast, given)
    assert found == pytest.approx([-0.5 + 0.1, -0.6 + 0.2])


def test_an_interaction_is_told_as_one():
    text = evidence.measured(CLAIMS["recipes-plays"], FOLDER)
    assert "gin+chain minus gin, less sum+chain minus sum, test: -0.1" in text


def test_a_claim_without_runs_has_no_number(tmp_path):
    folder = tmp_path / "paper"
    for claim in CLAIMS.values():
        assert evidence.state(claim, folder) == "not measured yet"
        assert evidence.measured(claim, folder) == "not measured yet"
        assert evidence.figure_of(claim, folder) is None
    assert evidence.sections(folder) == ""
    box = recommendation.text(folder)
    assert 'plain attention, `operator="sum"`' in box and "**Threshold**: none. That" in box
    assert "**Graphs**: plain attention is not measured yet" in box and "Relation" not in box


def test_a_larger_scale_counts_when_all_of_a_claim_is_measured_there(tmp_path):
    claim = CLAIMS["recipe-plays"]

    def add(scale: str, row: str) -> None:
        store = Store(f"{claim.experiment}-{scale}", tmp_path)
        for seed in range(3):
            losses = {"train": 1.0, "validation": 2.0 + seed, "test": 2.0}
            curve = [{"round": 1, "step": 1, **losses, "test": 2.0 + seed * len(row)}]
            run = {"curve": curve, "cpu_seconds_per_step": 0.1}
            store.add(row, {"row": row, "facts": {}}, 0.1, (seed, seed), run)

    for row in ("gin+chain", "sum", "sum-longer"):
        add("small", row)
    assert tables.scale_of(claim, tmp_path) == "small" and not evidence.others(claim, tmp_path)
    for row in ("gin+chain", "sum"):
        add("full", row)
    assert tables.scale_of(claim, tmp_path) == "small"
    assert evidence.others(claim, tmp_path) == ["full"]
    text = evidence.measured(claim, tmp_path)
    assert "(small scale); so far at full scale: gin+chain minus sum" in text
    assert "1 of 2 comparisons not measured" in text
    assert "So far at full scale:" in evidence.sections(tmp_path)
    add("full", "sum-longer")
    assert tables.scale_of(claim, tmp_path) == "full"
    assert evidence.others(claim, tmp_path) == ["small"]
    assert "(full scale); at small scale: gin+chain minus sum" in evidence.measured(claim, tmp_path)


def test_finalists_are_what_the_screening_found():
    found = values_of("screening", FOLDER, "small")

    def loss(row):
        return np.mean(list(found[row]["validation"].values()))

    better = [extra for extra in EXTRAS if loss(f"gin+{extra}") < loss("gin") - 0.02]
    assert better == list(FINALISTS)
    assert min(EXTRAS, key=lambda extra: loss(f"gin+{extra}")) == RECIPE


def test_pages_show_what_is_stored():
    for path, text in evidence.pages(FOLDER).items():
        assert path.read_text() == text, f"python -m benchmarks.paper --docs writes {path.name}"
    for claim in CLAIMS.values():
        if name := evidence.figure_of(claim, FOLDER):
            assert (ROOT / "docs" / name).is_file(), name


def test_a_page_without_its_place_is_refused():
    with pytest.raises(ValueError, match="0 places for 'claims'"):
        report.filled("# page", "paper", {"claims": "x"})


def test_figures_are_drawn_of_stored_runs(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.paper import figures

    drawn = 0
    for claim in CLAIMS.values():
        if evidence.figure_of(claim, FOLDER):
            path = tmp_path / f"{claim.name}.png"
            figures.draw(claim, FOLDER, tables.scale_of(claim, FOLDER), path)
            drawn += path.stat().st_size > 5000
    assert drawn >= 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "a CLAIM is needed"),
        ("perplexity --row gin", "--row and --seed go together"),
        ("perplexity --row gin --seed -1", "seeds are 0 and more"),
        ("perplexity --row gni --seed 0", "'gni' is no row of perplexity: sum, gin"),
        ("perplexity --seeds 0", "--seeds 0: at least one"),
        ("--docs --rows gin", "--rows is of one claim"),
        ("lora", "reads the runs of another benchmark (python -m benchmarks.finetune)"),
    ],
)
def test_wrong_calls_are_one_line(words, told, monkeypatch, capsys):
    from benchmarks.paper import __main__ as program

    monkeypatch.setattr(sys, "argv", ["paper", *words.split()])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last and told in last


@pytest.mark.slow
def test_a_single_row_is_one_command(tmp_path):
    """In a process of its own, on made data: the settings of the shell do not matter."""
    code = (
        "import sys; from benchmarks.paper import __main__ as p, data;"
        "data.SOURCES.update(data.QUICK);"
        "from benchmarks.paper.experiments import EXPERIMENTS as e;"
        "one = e['proteins'].scales; one['small'] = one['quick'];"
        f"sys.argv = ['p', 'perplexity', '--scale', 'small', '--row', 'gin', '--seed', '3',"
        f"'--results', {str(tmp_path)!r}]; p.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "proteins gin rate 0.002 seeds 3 3" in done.stdout
    assert len(Store("proteins-small", tmp_path).content["runs"]) == 2  # and that of the grid
