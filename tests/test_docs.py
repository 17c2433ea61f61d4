"""Each code block of the how-tos runs alone, as a reader would try it."""

import re

import pytest

from tests.conftest import ROOT

PAGES = ["inspect"]


def blocks(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("page", "number"), [(page, i) for page in PAGES for i in range(len(blocks(page)))]
)
def test_block(page, number, tmp_path, monkeypatch):
    for package in ("pandas", "igraph"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(page)[number], f"{page}.md, block {number}", "exec"), {})
