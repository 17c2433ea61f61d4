"""Texts that every reader can see: signs for white space, and a font for each script."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

_SIGNS = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"}
_LONGEST = 14


def visible(label: object) -> str:
    """A token as it can be read on an axis: white space as signs, control characters as escapes,
    long ones cut.

    >>> visible(" the"), visible("\\n"), visible("")
    ('␣the', '↵', '∅')
    """
    text = "".join(_SIGNS.get(c, c if c.isprintable() else ascii(c)[1:-1]) for c in str(label))
    return shortened(text) or "∅"


def shortened(text: str) -> str:
    """At most so long as fits on an axis."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def readable(texts: Sequence[str], family: str) -> tuple[list[str], list[str]]:
    """The texts, and the fonts to write them with: ``family``, and for what it lacks others that
    are installed.

    A character that no font has would be drawn as an empty box. It is written as its number,
    ``U+6F22``, and a warning names it.
    """
    from matplotlib.font_manager import FontProperties, findfont

    first = _characters(findfont(FontProperties(family=[family])))
    codes = dict.fromkeys(ord(c) for text in texts for c in text if c != "\n")
    families, missing = [family], list[int]()
    for code in codes:
        if code in first:
            continue
        found = _font_with(code)
        if found is None:
            missing.append(code)
        elif found not in families:
            families.append(found)
    if not missing:
        return list(texts), families
    named = ", ".join(f"{chr(code)!r} (U+{code:04X})" for code in missing[:5])
    warnings.warn(
        f"no installed font has {named}{' and others' if len(missing) > 5 else ''}: such "
        "characters are written as their numbers; install a font that has them, such as Noto Sans "
        "CJK for Chinese",
        UserWarning,
        stacklevel=4,
    )
    numbered = {code: f"U+{code:04X}" for code in missing}
    return [text.translate(numbered) for text in texts], families


@functools.lru_cache(maxsize=512)
def _characters(path: str) -> frozenset[int]:
    """The characters that a font file has an outline for; none where it cannot be read."""
    from matplotlib.font_manager import get_font

    try:
        font: Any = get_font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


@functools.lru_cache(maxsize=4096)
def _font_with(code: int) -> str | None:
    """The family of a font that is found by its name and has this character."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    # The last resort has a box for every character.
    plain = [
        font
        for font in fontManager.ttflist
        if font.style == "normal" and not font.name.replace(" ", "").startswith("LastResort")
    ]
    for font in sorted(plain, key=lambda font: (font.name, abs(_weight(font.weight) - 400))):
        # What is drawn is the file that the family's name leads to.
        if code in _characters(font.fname) and code in _characters(
            findfont(FontProperties(family=[font.name]))
        ):
            return str(font.name)
    return None


def _weight(weight: object) -> int:
    return weight if isinstance(weight, int) else 400
