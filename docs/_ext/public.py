"""``public``: the public names of a module, each documented once however many modules show it.

A name is shown as it is written shortest, ``graphformer.Threshold``, on the page of the first
module below that has it. Under its other names it can be linked to, and stands in the inventory.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from functools import cache
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.domains.python import ObjectEntry
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

MODULES = tuple(
    f"graphformer.{name}".rstrip(".")
    for name in (
        "attention.candidates",
        "attention.scores",
        "attention.normalizers",
        "attention.sparsifiers",
        "attention.features",
        "attention.operators",
        "attention.updates",
        "attention.feed_forwards",
        "attention.relations",
        "attention",
        "graph",
        "backends",
        "nn",
        "models",
        "adapters",
        "datasets",
        "training",
        "inspect",
        "testing",
        "compat.xgpt",
        "errors",
        "",
    )
)
NAMES = {"graphformer.errors": ["MissingExtra"]}
"""Where a module has no ``__all__``."""


@cache
def names(module: str) -> dict[str, list[str]]:
    """The public names of a module that its page documents, as they are written shortest, each with
    its other names.
    """
    earlier = MODULES[: MODULES.index(module)]
    found = {}
    for name in public(module):
        value = getattr(importlib.import_module(module), name)
        homes = [one for one in MODULES if name in public(one) and shown(one, name) is value]
        if isinstance(value, ModuleType) or any(one in earlier for one in homes):
            continue
        shortest, *others = sorted((f"{one}.{name}" for one in homes), key=len)
        found[shortest] = others
    return found


def public(module: str) -> list[str]:
    return NAMES.get(module) or importlib.import_module(module).__all__


def shown(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def directive(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    value = shown(module, attribute)
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if callable(value) else "autodata"


def described(name: str) -> list[str]:
    """An object by autodoc; data by their own words, since autodoc looks for these only in the
    module that shows them.
    """
    kind = directive(name)
    module, _, attribute = name.rpartition(".")
    if kind != "autodata":
        return [f".. {kind}:: {name}", ""]
    value = shown(module, attribute)
    text = said(module.partition(".")[0], attribute, value)
    if isinstance(value, dict):
        held = [f"- ``{key!r}``" + f": {one}" * isinstance(one, str) for key, one in value.items()]
    else:
        held = [f"- ``{one!r}``" for one in value]
    lines = (f":module: {module}", "", text, "", *held)
    return [f".. py:data:: {attribute}", *(f"   {line}" for line in lines), ""]


def said(package: str, name: str, value: Any) -> str:
    """What the module says of the data that it defines."""
    for module in sorted(one for one in sys.modules if one.partition(".")[0] == package):
        if getattr(sys.modules[module], name, None) is value:
            found = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))
            if found:
                return found[0]
    raise ValueError(f"{name} has no docstring in any module of {package}")


class Public(SphinxDirective):
    """``.. public:: graphformer.nn``, all of its names; names after it are those of this page."""

    required_arguments = 1
    optional_arguments = 100

    def run(self) -> list[nodes.Node]:
        module, *chosen = self.arguments
        known = {one.rpartition(".")[2]: one for one in names(module)}
        for name in set(chosen) - set(known):
            raise self.error(f"{module} has no public name {name!r} of its own")
        lines = []
        for name in chosen or sorted(known, key=str.lower):
            lines += described(known[name])
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=False)


class Overview(SphinxDirective):
    """``.. overview:: graphformer``: every public name with the first sentence about it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = self.arguments[0]
        lines = [".. list-table::", "   :widths: 30 70", ""]
        for name in public(module):
            value = shown(module, name)
            kind = "mod" if isinstance(value, ModuleType) else "obj"
            text = first_sentence(inspect.getdoc(value) or "")
            lines += [f"   * - :py:{kind}:`~{module}.{name}`", f"     - {text}"]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=False)


def first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.:;]) (?=[^a-z])", paragraph)[0].rstrip(":;")


def other_names(app: Any, env: Any) -> None:
    """The inventory knows an object by all of its public names."""
    objects = env.domains.python_domain.objects
    for module in MODULES:
        for name, others in names(module).items():
            if name not in objects:
                continue
            entry = objects[name]
            for other in others:
                objects.setdefault(
                    other, ObjectEntry(entry.docname, entry.node_id, entry.objtype, True)
                )


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("public", Public)
    app.add_directive("overview", Overview)
    app.connect("env-updated", other_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
