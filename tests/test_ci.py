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
setup lint test test-package test-processor:
	@echo ran $@
test-newest test-minima:
	@test -f .venv-$(@:test-%=%)/.stamp && echo ran $@
.venv-%/.stamp:
	@mkdir -p .venv-$* && echo starting $*
	@{recipe}
	@touch $@
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")
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
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "Makefile").write_text(MAKEFILE.replace("{recipe}", recipe))
    ended = subprocess.run(
        ["bash", str(tmp_path / ".ci/run")],
        env={**os.environ, "VERSIONS": "1", "VERSIONS_TIMEOUT": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
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
    assert lines[0] == "ran setup" and lines[-1] == "ran test" and "ran lint" in lines
