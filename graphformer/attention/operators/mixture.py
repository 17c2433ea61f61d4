"""A mixture of operators, of which the best may be taken after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.operators.base import EdgeMessages, Operator
from graphformer.attention.slot import check_slot


class MixtureOperator(Operator, name="mixture"):
    r"""``out = sum_m p_m operator_m(x, A)``, ``p = softmax(a)``: the operator of a layer is found
    by gradient descent (DARTS, arXiv 1806.09055, eq. 2; DARTS-GT searches those of a graph
    transformer's layers so).

    ``a`` starts at 0: all alike. :meth:`chosen` is the operator of the largest ``p``, which takes
    the mixture's place once it is trained. Cost: that of all its operators.

    Args:
        operators: two or more, each a value, its name or its plain form.

    Shape: ``[B, H, N, d]`` to the same.
    """

    def __init__(self, operators: Sequence[Any] = ("sum", "gin")) -> None:
        super().__init__()
        if isinstance(operators, str) or len(operators) < 2:
            raise ValueError(f"operators must be two or more, got {operators!r}")
        made = tuple(check_slot("operator", Operator, one) for one in operators)
        # a layer fills in their sizes, and they are written down, as values
        self.__dict__["_given"]["operators"] = made
        self.operators = nn.ModuleList(made)
        self.logits = nn.Parameter(torch.zeros(len(made)))
        self.reads_edges = any(one.reads_edges for one in made)
        self.reads_edge_attr = any(one.reads_edge_attr for one in made)
        self.reductions = tuple(dict.fromkeys(name for one in made for name in one.reductions))

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.logits)

    def chosen(self) -> Operator:
        """The operator of the largest share."""
        best: Any = self.operators[int(self.logits.argmax())]
        return best

    def _mixed(self, outputs: list[Tensor]) -> Tensor:
        shares = self.logits.softmax(0).to(outputs[0].dtype)
        return (torch.stack(outputs, -1) * shares).sum(-1)

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        return self._mixed([one(own, reduced) for one in self.operators])

    def on_edges(self, own: Tensor, x: Tensor, edges: EdgeMessages) -> Tensor:
        outputs = []
        for number, one in enumerate(self.operators):
            operator: Any = one
            if operator.reads_edges:
                outputs.append(operator.on_edges(own, x, edges.within(number)))
            else:
                outputs.append(operator(own, edges.reductions(x, operator.reductions)))
        return self._mixed(outputs)
