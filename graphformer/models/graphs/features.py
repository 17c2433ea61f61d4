"""Features of nodes, of edges and of candidate pairs, each to the width that the network takes."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.nn.edge_list import EdgeList
from graphformer.nn.encodings import Encoding
from graphformer.nn.graph_inputs import refuse_nan
from graphformer.nn.pairs import Structure


class FeatureEncoder(nn.Module):
    """Features of nodes or edges to a width: numbers by a linear map, categories by embeddings,
    none by one learned vector.

    Args:
        name: what errors call the input, ``"x"``.
        argument: the argument that gave ``dim``.
        dim: a number: so many floating channels, or that many categories where the input is one
            integer a row (the same parameters: an embedding is a linear map of a one-hot vector). A
            sequence: categories of each integer column. 0: there are no features.
        width: width of the output.
    """

    def __init__(self, name: str, argument: str, dim: int | Sequence[int], width: int) -> None:
        super().__init__()
        sizes = list(dim) if isinstance(dim, Sequence) and not isinstance(dim, str) else [dim]
        if any(isinstance(size, bool) or not isinstance(size, numbers.Integral) for size in sizes):
            raise TypeError(f"{argument} must be a whole number or a sequence of them, got {dim!r}")
        if (any(size < 1 for size in sizes) or not sizes) and dim != 0:
            raise ValueError(
                f"{argument} must be a positive number, a sequence of them, or 0 for no features; "
                f"got {dim}"
            )
        self.name, self.argument, self.dim = name, argument, dim
        self.columns = (
            None
            if isinstance(dim, int)
            else nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        )
        self.linear = nn.Linear(dim, width) if isinstance(dim, int) and dim else None
        self.constant = nn.Parameter(torch.randn(width) * 0.02) if dim == 0 else None

    def forward(self, value: Tensor | None, rows: int, dtype: torch.dtype) -> Tensor:
        if self.constant is not None:
            return self.constant.expand(rows, -1)
        if value is None:
            raise ValueError(
                f"data.{self.name} is missing: the model was made with {self.argument}={self.dim}"
            )
        value = value.unsqueeze(-1) if value.ndim == 1 else value
        if value.ndim != 2 or len(value) != rows:
            raise ValueError(
                f"data.{self.name} must have {rows} rows and at most 2 axes, got shape "
                f"{list(value.shape)}"
            )
        if self.columns is not None:
            return self._embed([embedding.weight for embedding in self.columns], value)  # type: ignore[misc]
        assert self.linear is not None and isinstance(self.dim, int)
        if not value.is_floating_point() and value.shape[1] == 1 and self.dim > 1:
            return self._embed([self.linear.weight.t()], value) + self.linear.bias
        if value.shape[1] != self.dim:
            raise ValueError(
                f"data.{self.name} must be [{rows}, {self.dim}] ({self.argument}={self.dim}), got "
                f"shape {list(value.shape)}"
            )
        value = value.to(dtype)
        refuse_nan(f"data.{self.name}", value)
        return self.linear(value)

    def _embed(self, tables: list[Tensor], value: Tensor) -> Tensor:
        if value.is_floating_point() or value.shape[1] != len(tables):
            raise ValueError(
                f"data.{self.name} must hold {len(tables)} columns of integer categories "
                f"({self.argument}={self.dim}), got {value.dtype} of shape {list(value.shape)}"
            )
        out = tables[0].new_zeros(len(value), tables[0].shape[1])
        for column, table in enumerate(tables):
            category = value[:, column].long()
            if len(category) and not 0 <= int(category.min()) <= int(category.max()) < len(table):
                raise ValueError(
                    f"data.{self.name}, column {column}, must hold categories in "
                    f"0..{len(table) - 1} ({self.argument}={self.dim}), got {int(category.min())} "
                    f"to {int(category.max())}"
                )
            out = out + F.embedding(category, table)
        return out


class PairFeatures(nn.Module):
    """Features ``[E, width]`` of candidate pairs: those of the given edge that a pair is, what kind
    of pair it is, encodings of pairs.

    Args:
        width: width of the output.
        kinds: whether some candidates are no given edges, which then needs saying.
        encodings: encodings of pairs.
    """

    def __init__(self, width: int, kinds: bool, encodings: Sequence[Encoding]) -> None:
        super().__init__()
        self.kind = nn.Parameter(torch.randn(2, width) * 0.02) if kinds else None
        self.encodings = list(encodings)
        self.maps = nn.ModuleList(nn.Linear(one.width, width, bias=False) for one in encodings)

    def forward(
        self, structure: Structure, edges: EdgeList, given: Tensor, edge_features: Tensor | None
    ) -> Tensor | None:
        """``given``: the number of the given edge that each candidate is, or -1; ``edge_features``:
        rows of the given edges.
        """
        is_given, parts = given >= 0, []
        dtype = next((one.dtype for one in self.parameters()), torch.float32)
        if edge_features is not None:
            rows = (
                edge_features[given.clamp(min=0)]
                if len(edge_features)
                else edge_features.new_zeros(len(given), edge_features.shape[1])
            )
            parts.append(rows * is_given.unsqueeze(-1).to(rows.dtype))
        if self.kind is not None:
            parts.append(self.kind[is_given.long()])
        for one, linear in zip(self.encodings, self.maps, strict=True):
            parts.append(linear(one.compute(structure, edges).to(dtype)))
        return torch.stack(parts).sum(0) if parts else None
