"""The second form of the adapter: bottlenecks at the linear layers of a frozen model, and relations
between its tokens (``SparseGINConfig(form="bottlenecks")``).
"""

from graphformer.adapters.bottlenecks.layer import BottleneckLayer
from graphformer.adapters.bottlenecks.recurrence import RecurrenceLayer

__all__ = ["BottleneckLayer", "RecurrenceLayer"]
