"""Linear maps without bias, of a width that the first call may decide, and of features that may be
sparse.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from graphformer.errors import whole


class GlorotLinear(nn.Linear):
    """A map that starts as those of PyG's GATConv: variance ``2 / (inputs + outputs)``."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)


class LazyGlorotLinear(nn.LazyLinear, GlorotLinear):
    """The same with a width that the first call decides."""

    cls_to_become = GlorotLinear


def linear(
    in_features: int, out_features: int, name: str = "in_channels", *, glorot: bool = False
) -> nn.Linear:
    """A map without bias; -1 takes its width from the first call.

    ``glorot``: its weights start as :class:`GlorotLinear`'s.
    """
    if in_features == -1:
        return (LazyGlorotLinear if glorot else nn.LazyLinear)(out_features, bias=False)
    if whole(name, in_features, -1) < 1:
        raise ValueError(
            f"{name} must be at least 1, or -1 to take it from the first call; got {in_features}"
        )
    return (GlorotLinear if glorot else nn.Linear)(in_features, out_features, bias=False)


def mapped(map: nn.Linear, x: Tensor) -> Tensor:
    """The map of features that may be a sparse matrix."""
    if x.layout == torch.strided:
        return map(x)
    if is_lazy(map.weight):
        map(x.new_zeros(0, x.shape[1]).to_dense())
    return torch.sparse.mm(x, map.weight.t())
