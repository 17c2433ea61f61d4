"""The wheel and the source archive hold what they must."""

import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.conftest import ROOT

pytest.importorskip("hatchling")


def build(kind, folder):
    code = f"from hatchling.build import build_{kind}; print(build_{kind}({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return folder / done.stdout.split()[-1]


def sources():
    """Every file of the package that is no cache."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "graphformer").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        told = wheel.read(metadata).decode()
        points = wheel.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert sources() == {name for name in names if ".dist-info/" not in name}
    assert "graphformer/inspect/report/page.html" in names
    relative = r"\]\((?!\w+:|#)[^)]*\)"  # a link that a package index does not resolve
    assert "\n# graphformer\n" in told and not re.search(relative, told)
    assert "Provides-Extra: all" in told and "Project-URL: Paper" in told
    assert "graphformer = graphformer.cli:main" in points


def test_the_source_archive_holds_what_builds_and_tests_it(tmp_path):
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sources() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "SECURITY.md"} <= names
    assert {
        "Makefile",
        "hatch_build.py",
        "constraints.txt",
        "tests/conftest.py",
        "docs/conf.py",
    } <= names
