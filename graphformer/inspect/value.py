"""ModelGraphs: the graphs of all layers of a model, with the names of what stands at their
nodes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from graphformer.errors import did_you_mean
from graphformer.graph import AttentionGraph
from graphformer.graph.lanes import some_lanes
from graphformer.inspect.streamed import Streamed

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


_PLURAL = {"patch": "patches"}


@dataclass(frozen=True, eq=False)
class Nodes:
    """What stands at the nodes of one side: the tokens of a text, the residues of a protein.

    Attributes:
        keep: bool ``[B, N]``: which nodes are real; the others are padding.
        labels: the names of a sequence's nodes, one list of N a sequence; None: numbers.
        ids: int64 ``[B, N]``, token ids, where the nodes are tokens.
        kind: what they are, ``"token"``, ``"residue"``, ``"atom"``, ``"patch"``, ``"grain"``.
        grid: rows and columns of an image's patches, which are the last nodes.
        pos: coordinates ``[B, N, D]``: CA atoms, centres of grains.
        texts: the line that a graph was made of, one a sequence: SMILES, a protein's name.
    """

    keep: Tensor
    labels: tuple[tuple[str, ...], ...] | None = None
    ids: Tensor | None = None
    kind: str = "token"
    grid: tuple[int, int] | None = None
    pos: Tensor | None = None
    texts: tuple[str, ...] | None = None

    @property
    def count(self) -> int:
        """Nodes in a sequence, padding counted."""
        return self.keep.shape[1]

    def names(self, sequence: int) -> list[str]:
        """A label for each node of a sequence."""
        if self.labels is None:
            return [str(i) for i in range(self.count)]
        return list(self.labels[sequence])


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """The graph of one layer.

    Attributes:
        name: of the attention module in the model.
        kind: ``"self"``, or ``"cross"`` where senders are another text than receivers.
        graph: lanes ``(B, H)``, or ``(B,)`` where heads are merged.
        receivers, senders: the names of the sides in :attr:`ModelGraphs.nodes`.
        heads: the numbers of its heads in the model; empty where they are merged.
        value_norm: ``|v_j|``, ``[B, H, Nk]``; None where heads are merged.
        streamed: measures of all weights, also those that were cut.
    """

    name: str
    kind: str
    graph: AttentionGraph
    receivers: str
    senders: str
    heads: tuple[int, ...]
    value_norm: Tensor | None = None
    streamed: Streamed | None = None

    def with_graph(self, graph: AttentionGraph) -> LayerGraph:
        return replace(self, graph=graph)


@dataclass(frozen=True, eq=False)
class ModelGraphs(Sequence[AttentionGraph]):
    """The attention graphs of a model's layers, in the order in which they ran.

    >>> graphs = gf.inspect.graphs(model, **tokenizer(text, return_tensors="pt"))
    >>> graphs[3]  # lanes (B, H) of the fourth layer
    >>> graphs[3, 7]  # its head 7, lanes (B,)
    >>> graphs["model.layers.3.self_attn"]  # by its name
    >>> graphs.to_pandas(); graphs.measures()  # tables
    >>> graphs.plot(3, 7); graphs.report("page.html"); graphs.save("graphs.safetensors")

    Attributes:
        layers: a :class:`LayerGraph` each.
        nodes: what stands at the nodes, by side: ``"tokens"``, or ``"encoder"`` and ``"decoder"``,
            or ``"level 0"``, ``"level 1"`` of a hierarchy.
        model: the model's class and type, for titles.
        cut: the rule by which edges were kept, as text.
    """

    layers: tuple[LayerGraph, ...]
    nodes: dict[str, Nodes]
    model: str = ""
    cut: str = ""

    # ------------------------------------------------------------------ choosing

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[AttentionGraph]:
        return (layer.graph for layer in self.layers)

    @overload
    def __getitem__(self, key: int | str | tuple[int | str, int]) -> AttentionGraph: ...

    @overload
    def __getitem__(self, key: slice) -> ModelGraphs: ...

    def __getitem__(self, key: Any) -> Any:
        """A layer's graph, ``[layer]``, or one head's, ``[layer, head]``; a layer is its number or
        its name. A slice is a :class:`ModelGraphs` of these layers.

        Raises:
            IndexError, KeyError: there is no such layer or head.
        """
        if isinstance(key, slice):
            return replace(self, layers=self.layers[key])
        if not isinstance(key, tuple):
            return self.layer(key).graph
        if len(key) != 2:
            raise IndexError(f"graphs[layer] or graphs[layer, head], got {len(key)} indices")
        return self.head(self.layer(key[0]), key[1])

    def layer(self, key: int | str) -> LayerGraph:
        """A layer by its number or its name."""
        if isinstance(key, str):
            names = [layer.name for layer in self.layers]
            if key not in names:
                raise KeyError(f"no layer {key!r}{did_you_mean(key, names)}; see .names")
            return self.layers[names.index(key)]
        if not -len(self.layers) <= key < len(self.layers):
            raise IndexError(
                f"layer {key} does not exist: there are {len(self.layers)} layers, numbered from 0"
            )
        return self.layers[key]

    def head(self, layer: LayerGraph, head: int) -> AttentionGraph:
        """The graph of one head, lanes ``(B,)``, by its number in the model."""
        if not layer.heads:
            raise IndexError(f"the heads of {layer.name} are merged: graphs[layer] is their graph")
        numbers = list(layer.heads)
        if head < 0 and numbers == list(range(len(numbers))):
            head += len(numbers)
        if head not in numbers:
            raise IndexError(f"{layer.name} has no head {head} here; its heads: {numbers}")
        batch, count = layer.graph.batch_shape
        lanes = [sequence * count + numbers.index(head) for sequence in range(batch)]
        return some_lanes(layer.graph, lanes, (batch,))

    @property
    def names(self) -> list[str]:
        """The layers' names."""
        return [layer.name for layer in self.layers]

    @property
    def batch(self) -> int:
        """The number of sequences (texts, proteins, images)."""
        return next(iter(self.nodes.values())).keep.shape[0]

    @property
    def tokens(self) -> list[list[str]]:
        """The labels of the nodes of each sequence, padding left out; of the first side where there
        are two.
        """
        nodes = next(iter(self.nodes.values()))
        return [
            [name for name, real in zip(nodes.names(i), keep, strict=True) if real]
            for i, keep in enumerate(nodes.keep.tolist())
        ]

    def part(self, kind: str = "self", side: str | None = None) -> ModelGraphs:
        """The layers of one kind (``"self"``, ``"cross"``) whose receivers are of one side."""
        chosen = [one for one in self.layers if one.kind == kind and side in (None, one.receivers)]
        return replace(self, layers=tuple(chosen))

    @property
    def encoder(self) -> ModelGraphs:
        """The self-attention of the encoder of two stacks."""
        return self.part("self", "encoder")

    @property
    def decoder(self) -> ModelGraphs:
        """The self-attention of the decoder of two stacks."""
        return self.part("self", "decoder")

    @property
    def cross(self) -> ModelGraphs:
        """Bipartite graphs from the encoder's tokens to the decoder's, of the cross-attention."""
        return self.part("cross")

    def labels(self, layer: int | str, sequence: int = 0) -> tuple[list[str], list[str]]:
        """The labels of a layer's senders and receivers."""
        one = self.layer(layer)
        senders = self.nodes[one.senders].names(sequence)
        if one.kind == "cross":
            return senders, self.nodes[one.receivers].names(sequence)
        return senders, senders[len(senders) - one.graph.num_receivers :]

    def of_sequence(self, sequence: int) -> ModelGraphs:
        """The graphs of one sequence, without its padding."""
        from graphformer.inspect.sequences import of_sequence

        return of_sequence(self, sequence)

    def value_weighted(self) -> ModelGraphs:
        """The same edges weighted by what they carry, ``w_ij |v_j|`` (arXiv 2004.10102)."""
        made = []
        for layer in self.layers:
            if layer.value_norm is None:
                raise ValueError(
                    f"{layer.name} has no norms of values: read the graphs without merge"
                )
            graph = layer.graph
            norm = layer.value_norm.to(graph.weight).flatten()[graph.senders]
            made.append(layer.with_graph(graph.with_weight(graph.weight * norm)))
        return replace(self, layers=tuple(made))

    # ------------------------------------------------------------------ looking

    def to_pandas(self) -> pandas.DataFrame:
        """A row an edge: layer, name, kind, head, sequence, sender, receiver, weight, and the
        labels of both ends. Needs pandas (extra ``viz``).
        """
        from graphformer.inspect.tables import edge_table

        return edge_table(self)

    def measures(self) -> pandas.DataFrame:
        """A row for each head of each layer and sequence; see
        :func:`graphformer.inspect.tables.measure_table` for the columns. Needs pandas and igraph
        (extra ``viz``).
        """
        from graphformer.inspect.tables import measure_table

        return measure_table(self)

    def plot(
        self, layer: int | str = 0, head: int | None = None, *, sequence: int = 0, **options: Any
    ) -> Figure:
        """One head as arcs and as a matrix (the mean over heads where ``head`` is None); options
        are those of :func:`graphformer.inspect.plot_head`.
        """
        from graphformer.inspect.plots import plot_layer

        return plot_layer(self, layer, head, sequence=sequence, **options)

    def report(self, path: str | os.PathLike[str], **options: Any) -> None:
        """One HTML page that needs no network; see :func:`graphformer.inspect.report.write`."""
        from graphformer.inspect.report import write

        write(self, path, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """All of it in one safetensors file; :meth:`load` reads it."""
        from graphformer.inspect.files import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelGraphs:
        """The inverse of :meth:`save`.

        Raises:
            ValueError: a file that :meth:`save` did not write.
        """
        from graphformer.inspect.files import load

        return load(path)

    def detach(self) -> ModelGraphs:
        """The same cut off from autograd."""
        layers = tuple(layer.with_graph(layer.graph.detach()) for layer in self.layers)
        return replace(self, layers=layers)

    def to(self, *args: Any, **kwargs: Any) -> ModelGraphs:
        """The graphs on another device or of another precision, like ``Tensor.to``."""
        layers = tuple(layer.with_graph(layer.graph.to(*args, **kwargs)) for layer in self.layers)
        return replace(self, layers=layers)

    def __str__(self) -> str:
        sides = ", ".join(
            f"{nodes.count} {_PLURAL.get(nodes.kind, nodes.kind + 's')}"
            + (f" ({side})" if len(self.nodes) > 1 else "")
            for side, nodes in self.nodes.items()
        )
        edges = sum(layer.graph.num_edges for layer in self.layers)
        heads = sum(max(len(layer.heads), 1) for layer in self.layers)
        return (
            f"ModelGraphs({self.model}: {len(self.layers)} layers, {heads} graphs a sequence, "
            f"{self.batch} sequences, {sides}, {edges:,} edges, {self.cut or 'nothing cut'})"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from graphformer.inspect.summary import summary

        return summary(self)


def padding_of(keep: Tensor | None, batch: int, count: int, device: torch.device) -> Tensor:
    """Bool ``[B, N]`` from a mask of the caller's, whose last N columns are of these nodes."""
    if keep is None:
        return torch.ones(batch, count, dtype=torch.bool, device=device)
    return keep[:, keep.shape[1] - count :].bool().to(device)
