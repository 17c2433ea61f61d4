r"""What a node or a pair of nodes is told about the graph around it, by name.

===================== ==============================================================================
``random_walk:16``    for each node the probability of a random walk to be back after 1 to 16 steps
                      (arXiv 2110.07875), by PyG's transform
``shell_walk:2:8``    for each node random walks of up to 8 steps among the nodes exactly 1 step
                      away, and among those 2 steps away: sizes, degrees, probabilities to be back,
                      their spread (:func:`~graphformer.nn.substructures.shell_walk`)
``laplacian:8``       the 8 slowest modes of the normalized Laplacian: each node's amplitude
                      :math:`|v_i|` and the eigenvalue
``laplacian:8:flip``  the same with signs, which are flipped at random in training (arXiv
                      2003.00982)
``degree``            :math:`\log(1 + D)` of edges in and out
``distance:10``       a pair's distance in ``pos``: 16 Gaussians with centres from 0 to 10
``shortest_path:4``   a pair's number of steps along given edges: one of 1, ..., 4, or farther
``relative_walk:8``   a pair's probability of a random walk to lead from the sender to the receiver
                      in 1 to 8 steps (arXiv 2305.17589)
===================== ==============================================================================

An eigenvector has no sign, and where several share an eigenvalue they can be turned into each
other. The amplitude is :math:`\sqrt{\mathrm{mean}_l v_{il}^2}` over those of one eigenvalue: it
depends on neither, so it is permutation equivariant.

These are made in every forward pass, unless the data hold them:
:class:`graphformer.nn.transforms.AddStructure` stores them beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from graphformer.nn.edge_list import EdgeList
from graphformer.nn.pairs import Structure, hops, stored_name
from graphformer.nn.substructures import relative_walk, shell_walk

DENSE_NODES = 2000
"""Larger graphs have their slowest modes found by an iterative solver."""

GAUSSIANS = 16


@dataclass(frozen=True)
class Encoding:
    """One line of the table.

    Attributes:
        spec: its text.
        width: numbers a node or pair.
        of_pairs: whether it describes pairs.
        compute: from a structure, or a structure and its candidate edges, to ``[N, width]`` or
            ``[E, width]``.
        flips: whether the signs of its first half are arbitrary.
    """

    spec: str
    width: int
    of_pairs: bool
    compute: Callable[..., Tensor]
    flips: bool = False


def random_walk(structure: Structure, steps: int) -> Tensor:
    from torch_geometric.data import Data
    from torch_geometric.transforms import AddRandomWalkPE

    transform = AddRandomWalkPE(steps, attr_name="walk")
    rows = [torch.zeros(0, steps, device=structure.graph.device)]
    for _, size, senders, receivers in structure.each():
        if size:
            rows.append(
                transform(Data(edge_index=torch.stack((senders, receivers)), num_nodes=size)).walk
            )
    return torch.cat(rows)


def laplacian(structure: Structure, modes: int, signed: bool) -> Tensor:
    """Modes of :math:`I - D^{-1/2} A D^{-1/2}` without the first, edges taken both ways, of mean
    square 1; then their eigenvalues.
    """
    rows = [torch.zeros(0, 2 * modes)]
    for _, size, senders, receivers in structure.each():
        values, vectors = slowest(size, senders.cpu(), receivers.cpu(), modes + 1)
        if not signed and size:
            # Modes of one eigenvalue, and their mean square.
            of_mode = torch.cumsum(torch.diff(values, prepend=values[:1]) > 1e-5, 0)
            count = torch.bincount(of_mode).to(vectors.dtype)
            mean = (
                vectors.new_zeros(size, len(count)).index_add(1, of_mode, vectors.square()) / count
            )
            vectors = mean.sqrt()[:, of_mode]
        part = torch.zeros(size, 2 * modes)
        kept = max(min(modes + 1, len(values)) - 1, 0)
        part[:, :kept] = vectors[:, 1 : kept + 1] * math.sqrt(size)
        part[:, modes : modes + kept] = values[1 : kept + 1].float()
        rows.append(part)
    return torch.cat(rows)


def slowest(size: int, senders: Tensor, receivers: Tensor, modes: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors in columns; all of a small graph, so that none of an
    eigenvalue's is missing.
    """
    import scipy.sparse
    import scipy.sparse.linalg

    if not size:
        return torch.zeros(0).double(), torch.zeros(0, 0).double()
    ones = torch.ones(2 * len(senders)).double().numpy()
    rows, columns = torch.cat((senders, receivers)).numpy(), torch.cat((receivers, senders)).numpy()
    adjacency = scipy.sparse.csr_array((ones, (rows, columns)), shape=(size, size))
    adjacency.data[:] = 1.0  # an edge that is given both ways, or twice, is one edge
    degree = torch.as_tensor(adjacency.sum(1)).double().view(-1)
    root = torch.where(degree > 0, degree.clamp(min=1).rsqrt(), torch.zeros_like(degree)).numpy()
    walk = scipy.sparse.diags_array(root) @ adjacency @ scipy.sparse.diags_array(root)
    isolated = (degree == 0).double()  # a component of its own, whose eigenvalue is 0
    if size <= DENSE_NODES or modes >= size - 1:
        dense = torch.as_tensor(walk.toarray()).double()
        return torch.linalg.eigh(torch.eye(size).double() - dense - torch.diag(isolated))
    walk = walk + scipy.sparse.diags_array(isolated.numpy())
    values, vectors = scipy.sparse.linalg.eigsh(
        walk, k=modes, which="LA", v0=degree.sqrt().numpy() + 1.0
    )
    order = (-values).argsort()
    return torch.as_tensor(1 - values[order]), torch.as_tensor(vectors[:, order].copy())


def degree(structure: Structure) -> Tensor:
    counts = [
        torch.bincount(side, minlength=structure.num_nodes)
        for side in (structure.receivers, structure.senders)
    ]
    return torch.stack(counts, -1).float().log1p()


def distance(structure: Structure, edges: EdgeList, cutoff: float) -> Tensor:
    pos = structure.positions(f"distance:{cutoff:g}")
    square = (pos[edges.senders] - pos[edges.receivers]).square().sum(-1, keepdim=True)
    centres = torch.linspace(0, cutoff, GAUSSIANS, device=pos.device, dtype=pos.dtype)
    # The small number keeps the slope of the root finite where two nodes are in one place.
    return (-(((square + 1e-12).sqrt() - centres) * (GAUSSIANS - 1) / cutoff).square() / 2).exp()


def shortest_path(structure: Structure, edges: EdgeList, most: int) -> Tensor:
    keys, steps = hops(
        structure.senders, structure.receivers, structure.num_nodes, most, f"shortest_path:{most}"
    )
    place = torch.searchsorted(keys, edges.keys).clamp(max=max(len(keys) - 1, 0))
    known = (
        keys[place] == edges.keys if len(keys) else torch.zeros_like(edges.keys, dtype=torch.bool)
    )
    found = torch.where(known, steps[place] if len(keys) else edges.keys, most + 1)
    return torch.nn.functional.one_hot(found - 1, most + 1).float()


KNOWN = (
    "random_walk:16, shell_walk:2:8, laplacian:8, laplacian:8:flip, degree, distance:10, "
    "shortest_path:4, relative_walk:8"
)


def encoding(spec: str) -> Encoding:
    """The encoding of a text such as ``"random_walk:16"``."""
    name, *amounts = spec.split(":")
    try:
        if name == "degree" and not amounts:
            return Encoding(spec, 2, False, degree)
        if (
            name == "distance"
            and len(amounts) <= 1
            and (cutoff := float(amounts[0]) if amounts else 10.0) > 0
        ):
            return Encoding(
                spec, GAUSSIANS, True, lambda structure, edges: distance(structure, edges, cutoff)
            )
        number = int(amounts[0]) if amounts else 0
        if number > 0 and name == "random_walk" and len(amounts) == 1:
            return Encoding(spec, number, False, lambda structure: random_walk(structure, number))
        if number > 0 and name == "laplacian" and amounts[1:] in ([], ["flip"]):
            flips = len(amounts) == 2
            return Encoding(
                spec,
                2 * number,
                False,
                lambda structure: laplacian(structure, number, flips),
                flips,
            )
        if number > 0 and name == "shortest_path" and len(amounts) == 1:
            return Encoding(
                spec,
                number + 1,
                True,
                lambda structure, edges: shortest_path(structure, edges, number),
            )
        if number > 0 and name == "relative_walk" and len(amounts) == 1:
            return Encoding(
                spec, number, True, lambda structure, edges: relative_walk(structure, edges, number)
            )
        if (
            number > 0
            and name == "shell_walk"
            and len(amounts) == 2
            and (steps := int(amounts[1])) > 1
        ):
            return Encoding(
                spec,
                number * 2 * steps,
                False,
                lambda structure: shell_walk(structure, number, steps),
            )
    except ValueError:
        pass  # a number that is none
    raise ValueError(f"unknown encoding {spec!r}; known: {KNOWN}")


def encode_nodes(structure: Structure, what: Encoding, training: bool) -> Tensor:
    """``[N, width]``: what was stored, or made now; signs flipped graph by graph while training,
    where they are arbitrary.
    """
    value = structure.stored.get(stored_name("encoding", what.spec))
    if value is None:
        with torch.no_grad():
            value = what.compute(structure)
    if tuple(value.shape) != (structure.num_nodes, what.width):
        raise ValueError(
            f"the stored encoding {what.spec!r} must be [{structure.num_nodes}, {what.width}], got "
            f"{list(value.shape)}"
        )
    value = value.to(structure.graph.device)
    if what.flips and training:
        signs = (
            torch.randint(0, 2, (structure.num_graphs, what.width // 2), device=value.device) * 2
            - 1
        )
        # eigenvalues have signs of their own
        whole = torch.cat((signs, torch.ones_like(signs)), -1)
        value = value * whole[structure.graph]
    return value
