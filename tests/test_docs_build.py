"""The pages are built without a warning, need no network, and name all that is public."""

import html.parser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

for package in ("sphinx", "furo", "myst_parser", "latex2mathml", "peft"):
    pytest.importorskip(package)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """The built pages; links to source are left out, which are half of the time."""
    out = tmp_path_factory.mktemp("html")
    done = build(ROOT / "docs", out)
    assert done.returncode == 0 and not done.stderr, done.stderr[-3000:]
    return out


def build(source, out):
    extensions = "myst_parser,sphinx.ext.autodoc,sphinx.ext.napoleon,mathml,public"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += ["-d", out / ".doctrees", "-D", f"extensions={extensions}", source, out]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


class Sources(html.parser.HTMLParser):
    """What a page loads, and its text."""

    def __init__(self, page: Path):
        super().__init__()
        self.loads: list[str] = []
        self.text: list[str] = []
        self.formulas = 0
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.formulas += tag == "math"
        if tag in ("script", "img", "iframe", "source", "video"):
            self.loads.append(given.get("src") or "")
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(given.get("href") or "")

    def handle_data(self, data):
        self.text.append(data)


def test_pages_load_nothing_from_the_network(pages):
    shown = [Sources(page) for page in pages.rglob("*.html")]
    assert len(shown) > 20 and any(page.loads for page in shown)
    outside = {one for page in shown for one in page.loads if re.match(r"(https?:)?//", one)}
    assert not outside
    styles = [*pages.rglob("*.css")]
    imports = [
        re.search(r"(@import|url\()\s*['\"]?(https?:)?//", one.read_text()) for one in styles
    ]
    assert styles and not any(imports)


def test_formulas_are_shown_without_a_script(pages):
    shown = {
        str(page.relative_to(pages)): Sources(page)
        for page in pages.rglob("*.html")
        if "_modules" not in page.parts
    }
    assert shown["adapters.html"].formulas >= 3 and shown["reference/nn.html"].formulas >= 10
    for name, page in shown.items():
        text = "".join(page.text)
        assert not re.search(r"\\(frac|mathrm|sum|sigma|lambda|begin)\b", text), name


def test_a_formula_that_cannot_be_shown_stops_the_build(tmp_path):
    (tmp_path / "_ext").mkdir()
    for part in ("conf.py", "_ext/mathml.py", "_ext/public.py"):
        (tmp_path / part).write_text((ROOT / "docs" / part).read_text(encoding="utf-8"))
    formulas = (r"$\nosuchcommand x$", r"$\left( x$")
    (tmp_path / "index.md").write_text("\n\n".join(("# A page", *formulas)) + "\n")
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode == 1 and done.stderr.count("cannot be shown") == 2


def test_every_public_name_can_be_linked_to(pages, monkeypatch):
    from sphinx.util.inventory import InventoryFile

    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    from public import MODULES, public

    inventory = InventoryFile.loads((pages / "objects.inv").read_bytes(), uri="")
    known = {name for kind, names in inventory.data.items() if kind[:3] == "py:" for name in names}
    wanted = {f"{module}.{name}" for module in MODULES for name in public(module)}
    assert len(wanted) > 250
    assert not wanted - known
