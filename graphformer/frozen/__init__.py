"""The attention graphs of any pre-trained transformer, read while it runs: where its layers'
attention is (``anatomy``, which feeds the model by ``probe`` and watches its ``steps``), and what
it computes (``capture``).
"""

from graphformer.frozen.anatomy import UnsupportedModel

__all__ = ["UnsupportedModel"]
