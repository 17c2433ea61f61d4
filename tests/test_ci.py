"""What .ci/run does where the environments of other versions cannot be made: steps are replaced,
the script is the real one.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = """
setup lint test test-package test-processor test-slow:
	@test $@ != "$(BROKEN)" && echo ran $@
test-newest test-minima:
	@test -f .venv-$(@:test-%=%)/.stamp && cat .venv-$(@:test-%=%)/.stamp && echo ran $@
.venv-%/.stamp:
	@mkdir -p .venv-$* && echo starting $*
	@{recipe}
	@echo "$* keeps torch: $(KEEP_TORCH)" >$@
"""
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")


def run(tmp_path, recipe, **settings):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "Makefile").write_text(MAKEFILE.replace("{recipe}", recipe))
    alone = {name: value for name, value in os.environ.items() if name != "VERSIONS"}
    return subprocess.run(
        ["bash", str(tmp_path / ".ci/run")],
        env={**alone, "VERSIONS_TIMEOUT": "2", **settings},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("recipe", "failed"),
    [
        ("true", ()),
        ("echo no such index >&2; exit 1", ("newest", "minima")),
        ("sleep 600", ("newest", "minima")),
        ("test $* = newest", ("minima",)),
    ],
)
def test_an_environment_that_cannot_be_made_is_a_named_failure(recipe, failed, tmp_path):
    ended = run(tmp_path, recipe)
    assert ended.returncode == int(bool(failed))
    for version in ("newest", "minima"):
        if version in failed:
            assert f"failed: leg {version}\n" in ended.stderr
            assert f"error: no environment for make test-{version}" in ended.stderr
            assert (
                f"starting {version}" in ended.stdout and f"ran test-{version}" not in ended.stdout
            )
        else:
            assert f"ran test-{version}" in ended.stdout
            assert not (tmp_path / f".venv-{version}").exists()
    # the rest ran, the tests last
    lines = [line for line in ended.stdout.splitlines() if line.startswith("ran")]
    assert lines[0] == "ran setup" and lines[-1] == "ran test"
    assert {"ran lint", "ran test-slow"} <= set(lines)


@pytest.mark.parametrize(("versions", "keeps"), [("torch", "1"), ("1", ""), ("0", None)])
def test_torch_is_another_one_when_asked_for(versions, keeps, tmp_path):
    ended = run(tmp_path, "true", VERSIONS=versions)
    assert ended.returncode == 0
    told = [line for line in ended.stdout.splitlines() if "keeps torch" in line]
    legs = () if keeps is None else ("newest", "minima")
    assert told == [f"{leg} keeps torch: {keeps}" for leg in legs]


@pytest.mark.parametrize("broken", ["lint", "test-slow"])
def test_a_step_that_fails_is_named_and_the_others_run(broken, tmp_path):
    """``lint`` runs beside others."""
    ended = run(tmp_path, "true", BROKEN=broken)
    assert ended.returncode == 1 and f"failed: make {broken}\n" in ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("ran")]
    assert f"ran {broken}" not in lines and lines[-1] == "ran test"
