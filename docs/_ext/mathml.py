"""Formulas as MathML, made while the pages are built: they are shown without a script and without
network by every browser of today.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)

SPELT = {"arg": r"\operatorname{arg}", "Vert": "\u2016"}
"""Commands of LaTeX that the converter does not know, alone or after a size."""


def mathml(node: nodes.Node, text: str, display: str) -> str:
    """The formula as MathML; a command that is not known is a warning and stays readable."""
    formula = re.sub(r"\\(arg|Vert)(?![A-Za-z])", lambda found: SPELT[found[1]], text)
    if display == "block" and "\\begin" not in text and (r"\\" in text or "&" in text):
        formula = rf"\begin{{split}}{formula}\end{{split}}"
    try:
        made = convert(formula, display=display)
        left = re.search(r"\\\w+|<mi>&</mi>", made)
    except Exception as error:  # whatever the converter meets in a formula that is none
        made, left = "", error
    if left:
        found = left if isinstance(left, Exception) else left[0]
        logger.warning("formula %r cannot be shown: %s", text, found, location=node)
        return f"<code>{escape(text)}</code>"
    return made


def inline(writer: Any, node: nodes.Element) -> None:
    writer.body.append(mathml(node, node.astext(), "inline"))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.Element) -> None:
    writer.body.append(writer.starttag(node, "div", CLASS="math"))
    writer.body.append(mathml(node, node.astext(), "block"))
    writer.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
