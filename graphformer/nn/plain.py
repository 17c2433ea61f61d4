"""The sum operator: plain attention, which makes the standard transformer one setting of the same
model.
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from graphformer.attention.normalizers import Normalizer
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.nn.attention import GraphAttention, Operator, Options


class SumOperator(Operator):
    """``out_i = sum_j w_ij x_j``."""

    reductions = ("sum",)

    def forward(self, own: Tensor, reduced: dict[str, Tensor]) -> Tensor:
        return reduced["sum"]


class SumAttention(GraphAttention):
    """Multi-head attention (arXiv 1706.03762): query, key, value and output projections. Arguments
    as :class:`GINAttention`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        sharpening: bool | float = False,
        sparsify: Sparsifier | None = None,
        normalize: str | Normalizer = "softmax",
        is_causal: bool = True,
        backend: str = "auto",
        executor: str = "auto",
        **options: Unpack[Options],
    ) -> None:
        options.setdefault("value_projection", True)
        options.setdefault("output_projection", True)
        super().__init__(
            SumOperator(),
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
