"""The README as package indexes show it: they resolve no relative link, so pictures and links into
the repository become plain text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"^!\[[^\]]*\]\((?!\w+:)[^)]*\)\n+(\*[^\n]+\*\n+)?", re.MULTILINE)
"""A picture of the repository, with the caption in italics below it."""
LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:|#)[^)]*\)")


def published(text: str) -> str:
    return LINK.sub(r"\1", PICTURE.sub("", text))


class PublishedReadme(MetadataHookInterface):
    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": published(text)}
