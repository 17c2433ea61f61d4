"""See :mod:`graphformer.graph.keys`."""

from graphformer.graph.keys import *  # noqa: F403
