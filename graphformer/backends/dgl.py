"""Aggregation by DGL's own kernels (``dgl.ops``).

They can be differentiated twice, but ``torch.func`` cannot transform them: inside its transforms
the torch backend stands in.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from graphformer import finite
from graphformer.backends.torch import TorchBackend, sign
from graphformer.errors import require
from graphformer.graph import AttentionGraph
from graphformer.graph.counts import magnitude

# Without this DGL writes a configuration file into the home folder on its first import, and prints.
os.environ.setdefault("DGLBACKEND", "pytorch")


class DGLBackend:
    name = "dgl"

    def __init__(self) -> None:
        self._dgl = require("dgl", extra="dgl", why="backend='dgl'")

    def check(self, graph: AttentionGraph, x: Tensor) -> None:
        if not x.is_cuda:
            return
        try:
            self._dgl.graph(([0], [0])).to(x.device)
        except self._dgl.DGLError as error:
            raise RuntimeError(
                f"backend='dgl' got tensors on {x.device}, but the installed DGL "
                f"{self._dgl.__version__} is a CPU build; install a CUDA build from DGL's own "
                "wheel index, or choose backend='torch'"
            ) from error

    def _block(self, graph: AttentionGraph) -> Any:
        """The graph in DGL's form, made once for each graph."""
        sizes = {
            "sender": graph.num_lanes * graph.num_senders,
            "receiver": graph.num_lanes * graph.num_receivers,
        }
        edges = {("sender", "to", "receiver"): (graph.senders, graph.receivers)}
        return graph.derived(
            "dgl", lambda: self._dgl.heterograph(edges, num_nodes_dict=sizes, device=graph.device)
        )

    def weighted_sum(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        if finite.transformed():
            return TorchBackend().weighted_sum(graph, x)
        return self._dgl.ops.u_mul_e_sum(self._block(graph), x, graph.weight.unsqueeze(-1))

    def weighted_deviation(self, graph: AttentionGraph, x: Tensor, center: Tensor) -> Tensor:
        if finite.transformed():
            return TorchBackend().weighted_deviation(graph, x, center)
        block = self._block(graph)
        deviation = self._dgl.ops.e_sub_v(
            block, self._dgl.ops.u_mul_e(block, x, sign(graph.weight)), center
        )
        return self._dgl.ops.copy_e_sum(block, magnitude(graph.weight).unsqueeze(-1) * deviation**2)

    @torch.no_grad()
    def largest(self, graph: AttentionGraph, x: Tensor) -> Tensor:
        return self._dgl.ops.copy_u_max(self._block(graph), x)
