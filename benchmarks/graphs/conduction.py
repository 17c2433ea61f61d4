"""What conducts: a polycrystal as a network of resistors, told to nodes and edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch_geometric.data import Data


@dataclass(frozen=True)
class Conduction:
    r"""Adds columns to the graph of a polycrystal, a grain of conductivity :math:`k_i` being a node
    of a network of resistors. The contact of two grains is half a way through each, in series:

    .. math:: g_{ij} = \frac{2 A_{ij}}{d_{ij} (1 / k_i + 1 / k_j)}

    with the boundary :math:`A_{ij}` and the distance :math:`d_{ij}` of ``edge_attr``. With
    :math:`R_{ij}` the effective resistance between two grains, through all of the network
    (:math:`L^+_{ii} + L^+_{jj} - 2 L^+_{ij}`, L the Laplacian of g):

    - ``edge_attr``: :math:`\log g_{ij}`; :math:`g_{ij} R_{ij}` in (0, 1], the part of a current
      from i to j that takes this contact: 1 where there is no way round.
    - ``x``: :math:`\log \sum_j g_{ij}`, all contacts of a grain in parallel; the logarithm of the
      mean over the other grains of :math:`R_{ij}`.

    Args:
        column: the column of ``x`` that holds the logarithm of the conductivity.
    """

    column: int = 5
    node_names: ClassVar[tuple[str, ...]] = ("log_contacts", "log_resistance")
    edge_names: ClassVar[tuple[str, ...]] = ("log_contact", "indispensable")

    def __call__(self, data: Data) -> Data:
        """A copy with these columns.

        Raises:
            ValueError: a single grain, or grains that no way of contacts joins.
        """
        if data.num_nodes < 2:
            raise ValueError("a single grain has no contacts")
        contact = self.contacts(data)
        whole, resistance = self.resistances(data, contact)
        senders, receivers = data.edge_index
        mean = resistance.sum(1) / (len(whole) - 1)
        nodes = torch.stack((whole.log(), mean.log()), 1)
        edges = torch.stack((contact.log(), contact * resistance[senders, receivers]), 1)
        made = data.clone()
        made.x = torch.cat((data.x, nodes.to(data.x.dtype)), 1)
        made.edge_attr = torch.cat((data.edge_attr, edges.to(data.x.dtype)), 1)
        return made

    def contacts(self, data: Data) -> Tensor:
        """float64 ``[E]``: the conductance of each contact."""
        boundary, distance = data.edge_attr[:, :2].double().unbind(1)
        resistivity = (-data.x[:, self.column].double()).exp()
        senders, receivers = data.edge_index
        return 2 * boundary / (distance * (resistivity[senders] + resistivity[receivers]))

    def resistances(self, data: Data, contact: Tensor) -> tuple[Tensor, Tensor]:
        """float64 ``[N]``, the sum of each grain's contacts, and ``[N, N]``, the effective
        resistance of each pair of grains.
        """
        ends, number = tuple(data.edge_index), data.num_nodes
        joined = coo_array((contact.numpy(), ends), (number, number))
        pieces = connected_components(joined, directed=False, return_labels=False)
        if pieces > 1:
            raise ValueError(f"the grains are {pieces} pieces, between which no current flows")
        adjacency = contact.new_zeros(number, number)
        adjacency.index_put_(ends, contact, accumulate=True)
        whole = adjacency.sum(1)
        # A constant, which drives no current, is lifted from the eigenvalue 0.
        inverse = torch.linalg.inv(torch.diag(whole) - adjacency + whole.mean() / number)
        own = inverse.diagonal()
        return whole, own[:, None] + own[None, :] - inverse - inverse.t()
