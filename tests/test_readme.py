"""Each Python block of the README runs alone, as it stands; what it links to is there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs_alone(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "import peft" in BLOCKS[number]:
        pytest.importorskip("peft")
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {})


def test_the_graph_of_a_head_has_a_lane_for_each_head():
    scope: dict = {}
    exec(next(block for block in BLOCKS if "merge_heads" in block), scope)
    assert scope["g"].num_lanes == 16 and scope["merged"].num_lanes == 2


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#\s]+)", TEXT)
    assert len(links) >= 20
    missing = [one for one in links if "://" not in one and not (README.parent / one).exists()]
    assert not missing
