"""PNA: each head aggregates with several reductions at once, scaled by degree."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphformer.attention.operators.base import Operator
from graphformer.attention.operators.head_mlp import HeadMLP, mlp_width
from graphformer.backends.base import REDUCTIONS, split
from graphformer.errors import number, whole

AGGREGATORS = ("sum", "mean", "max", "min", "std")
SCALERS = ("identity", "amplification", "attenuation")


class PNAOperator(Operator, name="pna"):
    r"""``out_i = MLP_h([scaler(D_i) * reduce_j(x_j) for each scaler and reduction])`` (arXiv
    2004.05718, eq. 5-8).

    With :math:`D_i` the number of edges into i and :math:`\delta` a trainable reference: identity
    1, amplification :math:`\log(D_i + 1) / \delta`, attenuation :math:`\delta / \log(D_i + 1)` (0
    for a receiver without edges). The aggregator ``own`` is the receiver's own feature vector, no
    reduction. PNA takes :math:`\delta` from the training set's degrees. Attention has none
    beforehand, so it starts at ``log(avg_degree + 1)`` and is trained.
    """

    def __init__(
        self,
        num_heads: int | None = None,
        dim: int | None = None,
        mlp_ratio: float = 0.5,
        *,
        aggregators: tuple[str, ...] = AGGREGATORS,
        scalers: tuple[str, ...] = SCALERS,
        avg_degree: float = 8.0,
    ) -> None:
        super().__init__()
        kinds = [
            value if value == "own" or "@" not in value else split(value)[0]
            for value in aggregators
        ]
        for name, given, known in (
            ("aggregators", kinds, (*REDUCTIONS, "own")),
            ("scalers", scalers, SCALERS),
        ):
            unknown = [value for value in given if value not in known]
            if unknown or not given:
                raise ValueError(
                    f"unknown {name} {unknown}; known: {', '.join(known)}"
                    if given
                    else f"{name} is empty; known: {', '.join(known)}"
                )
        number("avg_degree", avg_degree, above=0.0)
        self.aggregators, self.scalers = tuple(aggregators), tuple(scalers)
        self.initial_delta = math.log(avg_degree + 1)
        scaled = self.scalers != ("identity",)
        needed = tuple(name for name in self.aggregators if name != "own")
        self.reductions = (*needed, "degree") if scaled else needed
        self.delta: nn.Parameter | None = None
        if num_heads is None or dim is None:
            return  # for_layer makes it anew, with the sizes of a layer
        whole("num_heads", num_heads)
        whole("dim", dim)
        self.delta = nn.Parameter(torch.full((1,), self.initial_delta)) if scaled else None
        width = len(aggregators) * len(scalers) * dim
        self.mlp = HeadMLP(num_heads, width, mlp_width(mlp_ratio, dim), dim, bias=False, norm=False)

    def reset_own_parameters(self) -> None:
        if self.delta is not None:
            nn.init.constant_(self.delta, self.initial_delta)

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        stacked = torch.cat(
            [own if name == "own" else reduced[name] for name in self.aggregators], dim=-1
        )
        if self.delta is None:
            return self.mlp(stacked)
        log_degree = (reduced["degree"].to(self.delta.dtype) + 1).log() / self.delta
        empty = reduced["degree"] == 0
        factor = {
            "identity": torch.ones_like(log_degree),
            "amplification": log_degree,
            "attenuation": log_degree.masked_fill(empty, 1.0).reciprocal().masked_fill(empty, 0.0),
        }
        return self.mlp(
            torch.cat([stacked * factor[name].to(stacked.dtype) for name in self.scalers], dim=-1)
        )

    def extra_repr(self) -> str:
        return f"aggregators={self.aggregators}, scalers={self.scalers}"
