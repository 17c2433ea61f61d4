"""docs/methods.md: no row without a test, and no number of lines that is out of date."""

import re
from pathlib import Path

import pytest

from graphformer.attention.slot import KINDS
from tests.attention.test_methods import HEADS, REFUSED_ON_EDGES, head

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/methods.md").read_text()
ROWS = re.findall(
    r"^\| (\w+) \| `(\w+)` \|.*\| (\w+\.py), (\d+) \| (t m|t m e g) \|", PAGE, re.MULTILINE
)
OBJECTIVES = re.findall(r"\| (\w+\.py), (\d+) \|$", PAGE, re.MULTILINE)

ELSEWHERE = {
    "blocks": "attention/test_blocks.py",
    "causal_blocks": "attention/test_family.py",
    "differential": "attention/test_scores.py",
    "echo": "attention/test_family.py",
    "edge_mask": "training/test_pruning.py",
    "per_head": "attention/test_heads_of_kinds.py",
    "persistent": "attention/test_persistent.py",
    "prefix_lm": "attention/test_family.py",
    "sigmoid": "attention/test_attention_graph.py",
    "threshold": "attention/test_attention_graph.py",
    "top_fraction": "attention/test_random_slots.py",
    "top_k": "attention/test_attention_graph.py",
    "value_residual": "attention/test_value_residual.py",
    "weighed_blocks": "attention/test_blocks.py",
    "window": "attention/test_executors.py",
    "gin": "attention/test_executors.py",
    "pna": "nn/test_layers.py",
}
"""Rows whose laws have a file of their own."""


def own_name(plain):
    return plain if isinstance(plain, str) else plain["name"]


def test_there_are_rows():
    assert len(ROWS) > 50 and len({(slot, name) for slot, name, *_ in ROWS}) == len(ROWS)
    assert len(OBJECTIVES) > 5


@pytest.mark.parametrize(("slot", "name", "file", "lines", "laws"), ROWS, ids=lambda one: one)
def test_a_row_of_the_page(slot, name, file, lines, laws):
    made = KINDS[slot][name]
    path = ROOT / (made.__module__.replace(".", "/") + ".py")
    found = path.name, len(path.read_text().splitlines())
    assert found == (file, int(lines)), "python -m benchmarks.methods --docs writes the table"
    plain = [key for key in HEADS if name == own_name(head(key).spec().get(slot, ""))]
    if plain:
        on_edges = any(key not in REFUSED_ON_EDGES for key in plain)
        assert laws == ("t m e g" if on_edges else "t m")
    else:
        test = (ROOT / "tests" / ELSEWHERE[name]).read_text()
        assert name in test or made.__name__ in test


@pytest.mark.parametrize(("file", "lines"), OBJECTIVES)
def test_an_objective_of_the_page(file, lines):
    path = ROOT / "graphformer/training/objectives" / file
    assert len(path.read_text().splitlines()) == int(lines)
