"""Batches of graphs by a budget of nodes: graphs differ in size, and memory goes by nodes, not by
graphs.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from graphformer.errors import strict_flags, whole


class NodeBudgetSampler(Sampler[list[int]]):
    """A batch sampler that fills each batch with graphs up to ``max_nodes`` nodes.

    Graphs are taken in order; the first that no longer fits begins the next batch. In every epoch
    each graph is in one batch. A graph that alone is larger than the budget is a batch of its own,
    and a warning tells how many there are.

    >>> sampler = NodeBudgetSampler(sizes, 512)
    >>> DataLoader(dataset, batch_sampler=sampler, collate_fn=Batch.from_data_list)

    Args:
        sizes: nodes of each graph, ``[num_graphs]``.
        max_nodes: the budget of a batch.
        shuffle: another order in each epoch, which ``seed`` and the epoch decide; else the order of
            the graphs.
        seed: a number from 0.
        epochs: how many epochs one pass through the sampler runs through, from epoch 0. With all
            epochs of a run in one pass, the place in the run is one number, the step, although
            epochs differ in their number of batches.
        rank, processes: this process's share: of each epoch's batches every ``processes``-th. Where
            they cannot be shared evenly, the epoch's first batches are repeated.

    ``ends`` holds the number of steps after each epoch, ``ends[-1] == len(sampler)``.

    Raises:
        ValueError: no graphs, a negative size, or an argument out of its range.
    """

    @strict_flags
    def __init__(
        self,
        sizes: Sequence[int] | np.ndarray,
        max_nodes: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epochs: int = 1,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        if self.sizes.ndim != 1 or not len(self.sizes) or self.sizes.min() < 0:
            raise ValueError(
                "sizes must hold the number of nodes of at least one graph, each 0 or more."
            )
        for name, value, least in (
            ("max_nodes", max_nodes, 1),
            ("epochs", epochs, 1),
            ("seed", seed, 0),
            ("processes", processes, 1),
        ):
            whole(name, value, least)
        if not 0 <= rank < processes:
            raise ValueError(f"rank must be from 0 to {processes - 1}, got {rank}.")
        self.max_nodes, self.shuffle, self.seed, self.rank, self.processes = (
            max_nodes,
            shuffle,
            seed,
            rank,
            processes,
        )
        if large := int((self.sizes > max_nodes).sum()):
            warnings.warn(
                f"max_nodes={max_nodes}: {large} of {len(self.sizes)} graphs are larger (the "
                f"largest has {self.sizes.max()} nodes); each is a batch of its own, which may "
                "need more memory than the budget was meant for",
                stacklevel=2,
            )
        self.ends = self.ends_of(epochs)

    def ends_of(self, epochs: int) -> list[int]:
        """The number of steps after each of so many epochs."""
        counts = [-(-len(self.batches(epoch)) // self.processes) for epoch in range(epochs)]
        return np.cumsum(counts).tolist()

    def batches(self, epoch: int = 0) -> list[list[int]]:
        """All batches of an epoch (of all processes), each a list of graphs' numbers."""
        order = (
            np.random.default_rng([self.seed, epoch]).permutation(len(self.sizes))
            if self.shuffle
            else np.arange(len(self.sizes))
        )
        made: list[list[int]] = []
        left = -1
        for graph, size in zip(order.tolist(), self.sizes[order].tolist(), strict=True):
            if size > left or not made:
                made.append([])
                left = self.max_nodes
            made[-1].append(graph)
            left -= size
        return made

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in range(len(self.ends)):
            batches = self.batches(epoch)
            lacking = -len(batches) % self.processes
            batches += [batches[i % len(batches)] for i in range(lacking)]
            yield from batches[self.rank :: self.processes]

    def __len__(self) -> int:
        return self.ends[-1]


def graph_sizes(dataset: Any, name: str = "the data set") -> np.ndarray:
    """Nodes of each graph, int64 ``[num_graphs]``.

    Raises:
        TypeError: no data set, or something else than a graph in it.
        ValueError: an empty data set, or a graph whose number of nodes is not known; it is named by
            its number.
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(
            f"{name} must be a data set or a list of PyG Data, got {type(dataset).__name__}"
        )
    sizes = []
    for i in range(len(dataset)):
        if not hasattr(dataset[i], "num_nodes"):
            raise TypeError(
                f"{name} must hold PyG Data, got {type(dataset[i]).__name__} as graph {i}"
            )
        sizes.append(dataset[i].num_nodes)
    if not sizes:
        raise ValueError(f"{name} is empty: it needs at least one graph.")
    if None in sizes:
        raise ValueError(
            f"graph {sizes.index(None)} of {name} does not tell its number of nodes; give it x or "
            "num_nodes."
        )
    return np.asarray(sizes, dtype=np.int64)


def collate_graphs(graphs: Sequence[Any], reads: Container[str] = ()) -> dict[str, Any]:
    """``{"data": Batch}``: what transformers' Trainer hands on, a dictionary.

    PyG takes the attributes of the first graph. Of those that not all graphs have, ``reads`` are
    refused, for a batch would lose the labels or masks of all its graphs; others are left out.

    Raises:
        ValueError: graphs with different attributes that are read, or of different widths.
    """
    from torch_geometric.data import Batch

    graphs = list(graphs)
    held = [set(graph.keys()) for graph in graphs]
    differ = set().union(*held) - set(held[0]).intersection(*held)
    for name in sorted(differ):
        if name in reads:
            have, lack = (
                next(i for i, names in enumerate(held) if (name in names) is there)
                for there in (True, False)
            )
            raise ValueError(
                f"data.{name} is in some graphs of a batch and not in others (of {len(held)}, "
                f"number {have} has it, {graphs[have]}, and number {lack} has not, "
                f"{graphs[lack]}): give it to all, labels that are missing as NaN, or to none"
            )
    try:
        return {"data": Batch.from_data_list(graphs, exclude_keys=sorted(differ))}
    except RuntimeError as error:
        raise ValueError(
            f"graphs do not fit into one batch ({error}): attributes must have the same widths in "
            f"all, got {graphs[0]} and others"
        ) from error


def graph_loader(
    dataset: Any, sampler: NodeBudgetSampler, reads: Container[str] = ()
) -> DataLoader:
    """The batches of a sampler, as ``{"data": Batch}``; ``reads``: see :func:`collate_graphs`."""
    return DataLoader(
        _Items(dataset),
        batch_sampler=sampler,
        collate_fn=functools.partial(collate_graphs, reads=reads),
    )


class _Items(Dataset):
    """Only what DataLoader asks for: PyG's data sets take a list of numbers for a part of
    themselves.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(index)]
