"""The command line: ``graphformer train``, ``generate``, ``train-graphs``, ``predict``."""

from graphformer.cli.app import main

__all__ = ["main"]
