"""What all tests share: one thread, one seed, and where the real data lie."""

import os
import runpy
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from tests.interpreters import Interpreters

ROOT = Path(__file__).resolve().parent.parent

# Tests run side by side (pytest -n), and sums in a fixed order make them repeatable.
torch.set_num_threads(1)

# No deadline: the first call of an operator may compile or load for longer than any deadline that
# would be of use.
hypothesis.settings.register_profile("graphformer", deadline=None, print_blob=True)
hypothesis.settings.load_profile("graphformer")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="run the tests that take minutes, and no others"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("--long")
    left_out = [item for item in items if (item.get_closest_marker("long") is not None) != asked]
    items[:] = [item for item in items if (item.get_closest_marker("long") is not None) == asked]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch.cuda.is_available() is false"))


@pytest.fixture(autouse=True)
def seed() -> int:
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
    return 0


@pytest.fixture
def float64(request: pytest.FixtureRequest) -> Iterator[None]:
    """Models and inputs that name no precision are made in float64, unless the test is marked
    float32.

    Laws are exact there on every processor. What float32 loses depends on the processor's sums;
    tests/test_float32.py bounds it by what the naive form loses.
    """
    if request.node.get_closest_marker("float32") is None:
        torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def interpreters() -> Iterator[Interpreters]:
    started = Interpreters(ROOT)
    yield started
    started.close()


@pytest.fixture
def interpreter(interpreters: Interpreters) -> Callable[..., str]:
    """Runs code in a new interpreter, and returns what it printed."""

    def run(code: str, *arguments: object) -> str:
        ended, out, err = interpreters(textwrap.dedent(code), *arguments)
        assert ended == 0, err[-3000:]
        return out.strip()

    return run


@pytest.fixture
def call(capsys: pytest.CaptureFixture):
    """Runs the command line: (exit code, output, errors)."""
    from graphformer.cli import main

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return end.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def run_example(tmp_path, monkeypatch, capfd):
    """Runs an example in an empty folder and in this process, which has imported already what it
    imports: what it prints.
    """
    import transformers

    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
        threads, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()
        try:
            runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        finally:
            torch.set_num_threads(threads)
            transformers.logging.set_verbosity(verbosity)
        return capfd.readouterr().out

    return run


@pytest.fixture
def refused():
    """Of what ``call`` returned: the one line of error that it must be."""

    def line(result):
        code, out, err = result
        assert code == 2 and not out and err.count("\n") == 1 and err.startswith("error: "), err
        return err

    return line


def _folder(variable: str, default: Path) -> Path:
    named = os.environ.get(variable)
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            pytest.fail(f"{variable}={named} is not a folder")
        return folder
    if not default.is_dir():
        pytest.skip(f"{default.name} files are not here: set {variable} to their folder")
    return default


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data sets: GRAPHFORMER_DATA, else shared/data beside the repository."""
    return _folder("GRAPHFORMER_DATA", ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Recorded inputs and outputs of published code: GRAPHFORMER_GOLDEN, else shared/golden beside
    the repository.
    """
    return _folder("GRAPHFORMER_GOLDEN", ROOT.parent / "shared" / "golden")


@pytest.fixture
def recorded(golden_dir: Path) -> Callable[[str], dict[str, torch.Tensor]]:
    """Reads one recorded case; its floating numbers are cast to the default dtype of the test."""

    def read(case: str) -> dict[str, torch.Tensor]:
        with np.load(golden_dir / f"{case}.npz") as file:
            found = {name: torch.from_numpy(file[name]) for name in file.files}
        default = torch.get_default_dtype()
        return {n: v.to(default) if v.is_floating_point() else v for n, v in found.items()}

    return read


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two or three rows, so that streaming has several."""
    from graphformer.attention.executors import blocks

    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 500)
