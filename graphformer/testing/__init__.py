"""The laws of graphformer as functions to call on any layer or model, yours included.

Each function runs what it is given and raises :class:`LawViolation`, an ``AssertionError`` whose
text says which law, where, and by how much. They know nothing about this library's own classes: a
layer is anything that can be called, and where a call needs more than the inputs (a mask under
another name, position ids) a ``lambda`` says so.

1. causal, changing token j changes no output before j: :func:`check_causal`
2. padding, batch mates and packed neighbours change nothing: :func:`check_padding`,
   :func:`check_batch_independence`, :func:`check_packing`
3. prefix, the first n outputs are the outputs of the first n tokens: :func:`check_prefix`
4. cached decoding equals the full forward: :func:`check_cache`
5. backends agree and executors agree, outputs and every gradient: :func:`check_agreement`,
   :func:`check_backends_agree`, :func:`check_executors_agree`; in single precision no way loses
   more than the readable one: :func:`check_precision`, and :func:`rounding_loss` for the tolerance
   of another law there
6. graph models are permutation equivariant or invariant: :func:`check_equivariant`,
   :func:`check_invariant`
7. disjoint graphs in one batch do not see each other: :func:`check_disjoint`; within a graph
   messages go from sender to receiver: :func:`check_direction`
8. a fresh adapter is the identity: :func:`check_identity`
9. every parameter gets a finite gradient: :func:`check_gradients`
10. no input makes a NaN: :func:`check_finite`, with :func:`hostile_inputs` and
    :func:`hostile_graphs`

11. a slot value is one formula, the same on blocks and lists, row by row, saved and loaded:
    :func:`check_slot`

Law 12, of what is given, has no function.

13. threads that call a layer at once get the answers that one thread gets: :func:`check_threads`
14. the gradient of a gradient (forces, gradient penalties, Hessians) is right:
    :func:`check_second_gradient`

A check runs a layer in the mode it is in: call ``.eval()`` first where it has dropout. Only torch
is needed.
"""

from graphformer.testing.agreement import (
    check_agreement,
    check_backends_agree,
    check_executors_agree,
    check_identity,
)
from graphformer.testing.cache import check_cache
from graphformer.testing.causality import check_causal, check_prefix
from graphformer.testing.common import (
    LAWS,
    LawViolation,
    hidden_states,
    positions_of,
    token_ids,
    tolerance,
)
from graphformer.testing.finite import check_finite, hostile_graphs, hostile_inputs
from graphformer.testing.gradients import check_gradients, check_second_gradient
from graphformer.testing.graphs import (
    GraphSample,
    check_direction,
    check_disjoint,
    check_equivariant,
    check_invariant,
    from_pyg,
    random_graph,
)
from graphformer.testing.masking import check_batch_independence, check_packing, check_padding
from graphformer.testing.precision import check_precision, rounding_loss
from graphformer.testing.slots import check_slot
from graphformer.testing.threads import check_threads

__all__ = [
    "LAWS",
    "GraphSample",
    "LawViolation",
    "check_agreement",
    "check_backends_agree",
    "check_batch_independence",
    "check_cache",
    "check_causal",
    "check_direction",
    "check_disjoint",
    "check_equivariant",
    "check_executors_agree",
    "check_finite",
    "check_gradients",
    "check_identity",
    "check_invariant",
    "check_packing",
    "check_padding",
    "check_precision",
    "check_prefix",
    "check_second_gradient",
    "check_slot",
    "check_threads",
    "from_pyg",
    "hidden_states",
    "hostile_graphs",
    "hostile_inputs",
    "positions_of",
    "random_graph",
    "rounding_loss",
    "token_ids",
    "tolerance",
]
