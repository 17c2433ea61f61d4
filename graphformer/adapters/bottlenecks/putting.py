"""Putting an adapter's parts at one linear layer and after its layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphformer.adapters.bottlenecks import layer, recurrence
from graphformer.adapters.bottlenecks.layer import BottleneckLayer
from graphformer.adapters.bottlenecks.plan import Plan
from graphformer.adapters.bottlenecks.recurrence import RecurrenceLayer
from graphformer.adapters.part import new_number

if TYPE_CHECKING:
    from graphformer.adapters.config import SparseGINConfig


def put(plan: Plan, name: str, adapter_name: str, config: SparseGINConfig, tuner: Any) -> bool:
    """An adapter at one linear layer, and after the layer that it is the first of. Returns whether
    it is the first of the model.
    """
    found = plan.of(name)
    assert found is not None
    group, linear = found
    first = linear is plan.groups[0].members[0]
    if first:
        tuner.sparsegin_number = new_number()
    number = tuner.sparsegin_number
    linear.stack.attach()
    here = _part(linear.module, layer.NAME, lambda: BottleneckLayer(linear), tuner)
    leader = getattr(group.members[0].module, layer.NAME)
    here.update_layer(
        adapter_name, config, number, leader, group.rank, len(group.members), group.steps
    )
    relations = plan.recurrence.get(linear.stack, ())
    known = linear.stack.layers[linear.layer]
    begins = next(one for one in plan.groups if one.members[0].layer == linear.layer)
    if relations and linear is begins.members[0]:
        after = _part(
            known, recurrence.NAME, lambda: RecurrenceLayer(linear.stack, linear.layer), tuner
        )
        after.update_layer(adapter_name, config, number, relations)
    return first


def _part(module: Any, name: str, make: Any, tuner: Any) -> Any:
    """The part of that name, made where it is not there yet."""
    part = getattr(module, name, None)
    if part is None:
        part = make()
        part.set_adapter(tuner.active_adapters)
        part.attach()
    return part
