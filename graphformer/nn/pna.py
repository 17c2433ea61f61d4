"""PNA-attention: each head aggregates with several reductions at once, scaled by degree."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from graphformer.attention.normalizers import Normalizer
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.backends.base import REDUCTIONS, split
from graphformer.errors import number, whole
from graphformer.nn.attention import GraphAttention, Operator, Options, head_dim
from graphformer.nn.gin import mlp_width
from graphformer.nn.mlp import HeadMLP

AGGREGATORS = ("sum", "mean", "max", "min", "std")
SCALERS = ("identity", "amplification", "attenuation")


class PNAOperator(Operator):
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
        num_heads: int,
        dim: int,
        mlp_ratio: float,
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
        whole("num_heads", num_heads)
        whole("dim", dim)
        number("avg_degree", avg_degree, above=0.0)
        self.aggregators, self.scalers = tuple(aggregators), tuple(scalers)
        self.initial_delta = math.log(avg_degree + 1)
        scaled = self.scalers != ("identity",)
        needed = tuple(name for name in self.aggregators if name != "own")
        self.reductions = (*needed, "degree") if scaled else needed
        self.delta = nn.Parameter(torch.full((1,), self.initial_delta)) if scaled else None
        width = len(aggregators) * len(scalers) * dim
        self.mlp = HeadMLP(num_heads, width, mlp_width(mlp_ratio, dim), dim, bias=False, norm=False)

    def reset_parameters(self) -> None:
        if self.delta is not None:
            nn.init.constant_(self.delta, self.initial_delta)
        self.mlp.reset_parameters()

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


class PNAAttention(GraphAttention):
    r"""PNA-attention (arXiv 2501.02393, section 2.2), with a real max and min and with degree
    scalers.

    .. math::
        \mathrm{out}_i = W_o \big\Vert_h \mathrm{MLP}_h\big[\,\mathrm{scaler}(D_i)
        \cdot \mathrm{reduce}_{(j \to i)}\, v_j\,\big]

    over every scaler and reduction, with values :math:`v = W_v x`.

    Args:
        aggregators: reductions of :func:`graphformer.aggregate`, or ``own``. With softmax weights
            and nothing cut, sum and mean coincide. The paper's variant for language is ``("mean",
            "max_norm@0.2", "var", "min_norm@0.2")`` with ``scalers=("identity",)``.
        scalers: ``identity``, ``amplification``, ``attenuation`` by the receiver's number of edges.
        avg_degree: the degree at which the scalers start as 1; its logarithm is trained.
        sharpening, sparsify, normalize and the others: as :class:`GINAttention`.

    max, min, std and the scalers need edges, so they are always built. Without ``sparsify`` there
    are as many as candidate pairs.

    Shape: ``[B, N, hidden_size]`` to the same.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        mlp_ratio: float = 0.5,
        sharpening: bool | float = True,
        sparsify: Sparsifier | None = None,
        normalize: str | Normalizer = "softmax",
        is_causal: bool = True,
        backend: str = "auto",
        executor: str = "auto",
        *,
        aggregators: tuple[str, ...] = AGGREGATORS,
        scalers: tuple[str, ...] = SCALERS,
        avg_degree: float = 8.0,
        **options: Unpack[Options],
    ) -> None:
        dim, _ = head_dim(hidden_size, num_heads, num_kv_heads)
        options.setdefault("value_projection", True)
        options.setdefault("output_projection", True)
        super().__init__(
            PNAOperator(
                num_heads,
                dim,
                mlp_ratio,
                aggregators=aggregators,
                scalers=scalers,
                avg_degree=avg_degree,
            ),
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            sharpening=sharpening,
            sparsify=sparsify,
            normalize=normalize,
            is_causal=is_causal,
            backend=backend,
            executor=executor,
            **options,
        )
