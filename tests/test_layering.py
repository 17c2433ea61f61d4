"""Folders of the package stand in one order: what a module imports at once stands before it, so
that there is no circle.
"""

import ast
from pathlib import Path

import pytest

import graphformer

PACKAGE = Path(graphformer.__file__).parent

# Each may import those before it. ``base``: the modules beside the folders.
ORDER = (
    "base",
    "graph",
    "backends",
    "attention",
    "nn",
    "frozen",
    "adapters",
    "models",
    "datasets",
    "training",
    "inspect",
    "testing",
    "compat",
    "cli",
)


# Files beside the folders that belong to one of them.
ALONE = {"__main__.py": "cli"}

# A former name of graphformer.graph.keys, for what has not moved yet.
FORMER: set[str] = set()


def folder_of(module: str) -> str:
    name = [*module.split("."), ""][1]
    return name if (PACKAGE / name).is_dir() and name else "base"


def imported(body: list[ast.stmt], root: str = "graphformer") -> set[str]:
    """Modules of the package that these statements import, functions and type checkers apart."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module is not None and node.module.split(".")[0] == root:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == root}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            found |= imported(node.orelse, root)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "orelse", "finalbody"):
                found |= imported(getattr(node, part, []), root)
            for handler in getattr(node, "handlers", []):
                found |= imported(handler.body, root)
    return found


def edges(package: Path) -> dict[tuple[str, str], set[str]]:
    """Which folder imports which, with the files that do."""
    found: dict[tuple[str, str], set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        source = inside.parts[0] if len(inside.parts) > 1 else ALONE.get(str(inside), "base")
        if str(inside) in FORMER:
            continue
        for module in imported(ast.parse(path.read_text()).body):
            if module != "graphformer":
                found.setdefault((source, folder_of(module)), set()).add(str(inside))
    return found


def test_every_folder_has_its_place():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ORDER) - {"base"}


def test_no_folder_imports_a_later_one():
    wrong = {
        f"{source} imports {target}": sorted(files)
        for (source, target), files in edges(PACKAGE).items()
        if ORDER.index(target) > ORDER.index(source)
    }
    assert not wrong


@pytest.mark.parametrize("folder", ["datasets", "models", "training"])
def test_no_domain_imports_another_one(folder: str):
    """``datasets/store`` and the modules beside the domains are for all of them, and know none."""
    wrong = set()
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        own = part_of(path.relative_to(PACKAGE / folder))
        for module in imported(ast.parse(path.read_text()).body):
            names = [*module.split(".")[1:], "", ""]
            if names[0] == folder:
                other = names[1] if (PACKAGE / folder / names[1]).is_dir() else SHARED
                other = other or SHARED
                other = SHARED if other == "store" else other
                if other not in (own, SHARED):
                    wrong.add((own, other, path.name))
    assert not wrong


SHARED = "shared"


def part_of(path: Path) -> str:
    return SHARED if len(path.parts) == 1 or path.parts[0] == "store" else path.parts[0]


def test_an_import_within_a_function_does_not_count_and_others_do(tmp_path: Path):
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "a.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from graphformer.cli import main\n"
        "try:\n    import graphformer.nn.mlp\nexcept ImportError:\n"
        "    from graphformer import keys\n"
        "class A:\n    from graphformer.models import Target\n"
        "def f():\n    from graphformer.training import evaluate\n"
    )
    assert set(edges(tmp_path)) == {("graph", "nn"), ("graph", "base"), ("graph", "models")}
