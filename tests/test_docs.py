"""Every page of the documentation runs alone: its Python and its commands in their order, in an
empty folder, as a reader would try it.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(
    str(page.relative_to(DOCS))
    for folder in (".", "howto", "coming-from")
    for page in (DOCS / folder).glob("*.md")
)
FENCE = re.compile(r"^```(python|bash)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NEEDS = {"igraph": "igraph", "inspect": "pandas", "dgl": "dgl", "biotite": "biotite"}
NEEDS["new.cif"] = "gemmi"
"""What a block may say, and the package that it then needs."""

# Blocks that are parts of one script, with tests of their own: tests/test_your_own_slot.py, and
# tests/compat for what needs a checkpoint of the paper's code.
IN_PARTS = {"from-xgpt.md", "coming-from/xgpt.md", "your-own-slot.md"}


def blocks(page: str) -> list[tuple[str, str]]:
    return FENCE.findall((DOCS / page).read_text(encoding="utf-8"))


def run(command: str, call) -> None:
    """A line of a bash block: our command line in this process, all else in bash."""
    words = shlex.split(command, comments=True)
    if words and words[0] == "graphformer":
        code, out, err = call(*words[1:])
        assert code == 0, f"{command}\n{out}\n{err}"
    elif words:
        paths = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["bash", "-ec", command], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page) and page not in IN_PARTS])
def test_page(page, tmp_path, monkeypatch, call):
    found = blocks(page)
    for word, package in NEEDS.items():
        if any(word in text for _, text in found):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    for language, text in found:
        if language == "python":
            exec(compile(text, page, "exec"), {"__name__": "__main__"})
        else:
            for command in text.replace("\\\n", " ").splitlines():
                run(command, call)
