"""Sphinx: `make docs` builds these pages into docs/_build/html, with every warning an error."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "graphformer"
author = "the graphformer authors"
copyright = "2026, the graphformer authors"
release = version = installed_version("graphformer")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    # ours: formulas without network, and the public names of a module
    "mathml",
    "public",
]
exclude_patterns = ["_build"]
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"graphformer {release}"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
# Only our own words: what torch and transformers say about inherited methods is on their pages, in
# their markup.
autodoc_inherit_docstrings = False
autodoc_default_options = {"members": True, "show-inheritance": True}
