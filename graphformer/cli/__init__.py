"""The command line: ``graphformer train``, ``generate``, ``train-graphs``, ``predict``."""

from __future__ import annotations

import os
import sys

from graphformer.errors import MissingExtra


def main(arguments: list[str] | None = None) -> None:
    """Run the command line with these arguments (those of the process unless given). Ends with
    SystemExit.
    """
    try:
        from graphformer.cli import app
    except MissingExtra as error:  # installed without the extra that brings the command line
        if os.environ.get("GRAPHFORMER_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    app.main(arguments)


__all__ = ["main"]
