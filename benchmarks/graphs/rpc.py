r"""Reliable paired comparison (arXiv 2304.07702): does a network, trained to, give two graphs
embeddings that differ more than by noise?

For one pair a fresh network is trained as a siamese one on 32 shuffled copies of both graphs, to
make the cosine of the embeddings of a graph and its partner 0 or less. Then, with :math:`d_l` the
difference of the embeddings (16 numbers) of the l-th copies, Hotelling's

.. math:: T^2 = \bar d^\top (S + \epsilon 1)^{-1} \bar d, \qquad S = \mathrm{cov}(d)

is compared with 72.34. A pair is told apart where copies of the two graphs exceed it and 32 + 32
copies of one of them do *not*: a network for which those do is not reliable on this pair.

As in the authors' code: copies, width, threshold, loss, and :math:`T^2` without the factor 32 of
the textbook. (72.34 is 31 times the 95 % point of F(16, 16). Without the factor a number must
differ by 8.5 standard deviations.) Their networks differ in what follows the last layer; here it
is, for all networks, the batch norm of their nested GNN: without scale, with the statistics of all
copies of the two graphs.

Their code takes the pseudo-inverse of S. Where all copies of a graph have the very same embedding,
S is 0 and so is :math:`T^2`, or one rounding error that all copies share counts as a difference;
for this case they recommend :math:`\epsilon = 10^{-7}`, which is added here always. The count with
the pseudo-inverse is kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from graphformer.datasets import BREC
from graphformer.models.graphs.data import read_structure
from graphformer.nn.encodings import encode_nodes, encoding
from graphformer.nn.pairs import stored_name

COPIES, WIDTH = 32, 16
THRESHOLD, EPSILON = 72.34, 1e-7
FLOOR = 1e-8
"""Added to the variance in the batch norm: differences of 1e-4 keep their size, smaller ones are
not blown up to 1. Rounding makes 1e-7.
"""


class Siamese(nn.Module):
    """A network and the batch norm of its embedding."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.norm = net, nn.BatchNorm1d(WIDTH, eps=FLOOR, momentum=1.0, affine=False)

    def forward(self, data: Batch) -> Tensor:
        return self.norm(self.net(data).prediction)


@dataclass(frozen=True)
class Comparison:
    """The copies of one pair. In every batch graphs alternate: one of the first kind, one of the
    second.

    Attributes:
        parts: small batches to train on.
        both: all copies of the two graphs.
        same: as many copies of one of them.
    """

    parts: list[Batch]
    both: Batch
    same: Batch


def prepare(
    dataset: BREC, pair: int, encodings: Sequence[str], seed: int, pairs_a_part: int = 4
) -> Comparison:
    """Copies with their encodings, which are made for every copy anew: noise in them is part of
    what is tested.
    """
    one, two = (
        dataset.relabelled(2 * pair, COPIES, seed),
        dataset.relabelled(2 * pair + 1, COPIES, seed),
    )
    chosen = 2 * pair + int(np.random.RandomState([seed, pair]).randint(2))
    both = encoded(
        [graph for partners in zip(one, two, strict=True) for graph in partners], encodings
    )
    same = encoded(dataset.relabelled(chosen, 2 * COPIES, seed + 1_000_000), encodings)
    step = 2 * pairs_a_part
    parts = [Batch.from_data_list(both[i : i + step]) for i in range(0, len(both), step)]
    return Comparison(parts, Batch.from_data_list(both), Batch.from_data_list(same))


def encoded(graphs: list[Data], encodings: Sequence[str]) -> list[Data]:
    """The graphs with what the networks are told stored, as AddStructure does, but made for all at
    once.
    """
    whole = Batch.from_data_list(graphs)
    structure, sizes = read_structure(whole), [graph.num_nodes for graph in graphs]
    for spec in encodings:
        for graph, value in zip(
            graphs,
            encode_nodes(structure, encoding(spec), training=False).split(sizes),
            strict=True,
        ):
            graph[stored_name("encoding", spec)] = value
    return graphs


def train(net: nn.Module, parts: Sequence[Batch], epochs: int, rate: float, enough: float) -> int:
    """Adam until the mean loss of an epoch is ``enough``, or for all epochs; returns how many it
    took.
    """
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    net.train()
    for epoch in range(epochs):
        total = 0.0
        for part in parts:
            embedding = net(part)
            loss = F.cosine_embedding_loss(
                embedding[0::2], embedding[1::2], -torch.ones(len(embedding) // 2)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        if total / len(parts) < enough:
            return epoch + 1
    return epochs


def statistic(embedding: Tensor, epsilon: float | None = EPSILON) -> float:
    """Hotelling's T^2 of ``[2 * copies, width]``, rows alternating; None: the pseudo-inverse in
    float32, as in the authors' code.
    """
    difference = (embedding[0::2] - embedding[1::2]).double()
    mean, covariance = difference.mean(0), torch.cov(difference.T)
    if epsilon is None:
        return float(mean @ torch.linalg.pinv(covariance.float()).double() @ mean)
    return float(
        mean
        @ torch.linalg.solve(covariance + epsilon * torch.eye(len(mean), dtype=mean.dtype), mean)
    )


def compare(
    make: Callable[[], nn.Module],
    what: Comparison,
    seed: int,
    epochs: int,
    rate: float,
    enough: float,
) -> dict[str, float]:
    """Train a fresh network on one pair and test it: the statistics of the pair and of equal
    graphs, both ways, and the epochs it took.
    """
    torch.manual_seed(seed)
    net = Siamese(make())
    took = train(net, what.parts, epochs, rate, enough)
    with torch.no_grad():
        net.net.eval()
        # the batch norm's statistics are now those of the trained network: peers' own norms change
        # between modes
        both = net(what.both)
        net.eval()
        same = net(what.same)
    return {
        "apart": statistic(both),
        "equal": statistic(same),
        "apart_pinv": statistic(both, None),
        "equal_pinv": statistic(same, None),
        "epochs": took,
    }


def verdict(found: dict[str, float], kind: str = "") -> tuple[bool, bool]:
    """Whether a pair is told apart, and whether the network is reliable on it. ``kind``: ``""`` or
    ``"_pinv"``.
    """
    reliable = found["equal" + kind] < THRESHOLD
    return reliable and found["apart" + kind] > THRESHOLD, reliable
