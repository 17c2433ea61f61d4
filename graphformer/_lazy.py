"""Public names that are imported on first use: heavy and optional packages are then paid for only
by those who need them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy(
    package: str, home: Mapping[str, str | None]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package; ``home`` maps a name to its module, or to
    ``None`` if it is a module itself.
    """

    def __getattr__(name: str) -> Any:
        if name not in home:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(home))}"
            )
        module = importlib.import_module(f"{package}.{home[name] or name}")
        value = module if home[name] is None else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return __getattr__, __dir__
