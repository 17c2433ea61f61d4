"""What graphformer.inspect draws: counted and read back from matplotlib's objects, never compared
by pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from graphformer.errors import MissingExtra
from graphformer.graph import AttentionGraph
from graphformer.inspect import plot_adjacency, plot_graph, plot_head, visible

WORDS = ["The", " cat", "\n", " costs", " $5", " $6", "\t"]


def causal_weights(batch: int = 2, heads: int = 3, length: int = 7) -> Tensor:
    scores = (
        torch.randn(batch, heads, length, length, generator=torch.Generator().manual_seed(0)) * 2
    )
    return scores.masked_fill(~torch.ones(length, length).tril().bool(), -torch.inf).softmax(-1)


@pytest.fixture
def graph() -> AttentionGraph:
    weights = causal_weights()
    return AttentionGraph.from_dense(torch.where(weights > 0.1, weights, 0))


def drawn(ax: Axes, gid: str) -> Tensor:
    """Where the things of that kind are: ``[K, 2]``."""
    found = [c.get_offsets() for c in ax.collections if c.get_gid() == gid]
    return (
        torch.cat([torch.as_tensor(offsets.filled()) for offsets in found])
        if found
        else torch.zeros(0, 2)
    )


def arcs(ax: Axes) -> list[tuple[int, int]]:
    """Sender and receiver of each arc, read from where it starts and ends."""
    (lines,) = (c for c in ax.collections if c.get_gid() == "arcs")
    heads = len(drawn(ax, "heads"))
    if not heads:
        assert not lines.get_segments()
        return []
    steps = len(lines.get_segments()) // heads
    each = [lines.get_segments()[i * steps : (i + 1) * steps] for i in range(heads)]
    return [(round(float(arc[0][0, 0])), round(float(arc[-1][1, 0]))) for arc in each]


def names(ax: Axes, axis: str) -> list[str]:
    return [label.get_text() for label in getattr(ax, f"get_{axis}ticklabels")()]


@pytest.mark.parametrize("min_weight", [0.0, 0.3, 2.0])
def test_an_arc_for_every_edge_above_min_weight(graph: AttentionGraph, min_weight: float) -> None:
    one = graph.lane(4)
    kept = one.weight > min_weight
    edges = set(zip(one.senders[kept].tolist(), one.receivers[kept].tolist(), strict=True))
    ax = plot_graph(graph, lane=4, min_weight=min_weight)
    ax.figure.canvas.draw()
    assert set(arcs(ax)) == {(s, r) for s, r in edges if s != r}
    assert len(arcs(ax)) == len(drawn(ax, "heads")) == sum(s != r for s, r in edges)
    assert sorted(drawn(ax, "loops")[:, 0].tolist()) == sorted(s for s, r in edges if s == r)
    assert [t.get_text() for t in ax.texts] == ([] if edges else ["no edges above 2"])


def test_backward_arcs_run_below_the_row() -> None:
    graph = AttentionGraph.from_edges(torch.tensor([0, 4]), torch.tensor([3, 1]), num_nodes=5)
    ax = plot_graph(graph)
    assert set(arcs(ax)) == {(0, 3), (4, 1)}
    heads = {round(x): y for x, y in drawn(ax, "heads").tolist()}
    assert heads[3] > 0 > heads[1]
    low, high = ax.get_ylim()
    assert low < -2 and high > 2


def test_stronger_arcs_are_wider_and_all_grow_towards_the_receiver() -> None:
    graph = AttentionGraph.from_edges(
        torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([0.9, 0.1]), num_nodes=3
    )
    ax = plot_graph(graph)
    (lines,) = (c for c in ax.collections if c.get_gid() == "arcs")
    # the heaviest is drawn last
    weak, strong = torch.as_tensor(lines.get_linewidths()).reshape(2, -1)
    assert arcs(ax) == [(0, 2), (0, 1)]
    assert bool((strong > weak).all())
    assert bool((weak.diff() > 0).all()) and bool((strong.diff() > 0).all())


def test_only_the_heaviest_edges_are_drawn_and_the_picture_says_so(graph: AttentionGraph) -> None:
    one = graph.lane(0)
    ax = plot_graph(graph, max_edges=5)
    assert len(arcs(ax)) + len(drawn(ax, "loops")) == 5
    assert [t.get_text() for t in ax.texts] == [f"the 5 heaviest of {one.num_edges} edges"]
    heaviest = one.weight.topk(5).indices
    ends = {(int(one.senders[e]), int(one.receivers[e])) for e in heaviest}
    assert set(arcs(ax)) <= ends


def test_while_decoding_the_receivers_are_the_last_tokens() -> None:
    graph = AttentionGraph.from_dense(causal_weights()[:, :, -2:])
    assert (graph.num_receivers, graph.num_senders) == (2, 7)
    ax = plot_graph(graph, lane=1, labels=WORDS)
    assert {receiver for _, receiver in arcs(ax)} == {5, 6}
    assert len(arcs(ax)) == 5 + 6
    matrix = plot_adjacency(graph, lane=1, labels=WORDS)
    assert names(matrix, "x") == [visible(w) for w in WORDS]
    assert names(matrix, "y") == ["␣$6", "⇥"]


def test_labels_are_readable_and_literal(graph: AttentionGraph) -> None:
    ax = plot_graph(graph, labels=WORDS, title="$5 and $6")
    assert names(ax, "x") == ["The", "␣cat", "↵", "␣costs", "␣$5", "␣$6", "⇥"]
    assert not any(label.get_parse_math() for label in ax.get_xticklabels())
    assert ax.get_title(loc="left") == "$5 and $6"
    ax.figure.canvas.draw()  # "$5 ... $6" would fail or turn italic as a formula
    assert names(plot_graph(graph, labels="abcdefg"), "x") == list("abcdefg")


def test_many_labels_are_thinned_rather_than_piled_up() -> None:
    length = 300
    edges = torch.arange(length - 1)
    graph = AttentionGraph.from_edges(edges, edges + 1, num_nodes=length)
    ax = plot_graph(graph, labels=[f"t{i}" for i in range(length)])
    shown = names(ax, "x")
    assert 20 < len(shown) < length
    assert [f"t{round(x)}" for x in ax.get_xticks()] == shown


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "␣the"),
        ("\n\n", "↵↵"),
        ("\x00", "\\x00"),
        ("", "∅"),
        ("a" * 30, "a" * 13 + "…"),
        (7, "7"),
        ("é", "é"),
    ],
)
def test_visible(token: object, shown: str) -> None:
    assert visible(token) == shown


def test_the_matrix_has_receivers_in_rows_and_holes_where_there_is_no_edge(
    graph: AttentionGraph,
) -> None:
    ax = plot_adjacency(graph, lane=2, labels=WORDS, title="head 2")
    shown = torch.as_tensor(ax.images[0].get_array().filled(float("nan")))
    dense = graph.to_dense()[0, 2].double()
    assert torch.equal(shown.isnan(), dense == 0)
    torch.testing.assert_close(shown.nan_to_num(0), dense)
    assert names(ax, "x") == names(ax, "y") == [visible(w) for w in WORDS]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("sender", "receiver")


def test_plot_head_writes_a_png(graph: AttentionGraph, tmp_path: Path) -> None:
    path = tmp_path / "head.png"
    figure = plot_head(graph, 4, WORDS, path)
    assert isinstance(figure, Figure)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert figure.get_suptitle() == f"sequence 1, head 1  ({graph.lane(4).num_edges} edges)"
    assert plot_head(graph.lane(4), title="mine").get_suptitle().startswith("mine  (")
    assert plot_head(graph.lane(4)).get_suptitle().startswith("lane 0  (")
    left, right, *_ = figure.axes
    assert len(arcs(left)) > 0 and right.images


def test_axes_of_ones_own(graph: AttentionGraph) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot_graph(graph, ax=left) is left
    assert plot_adjacency(graph, ax=right) is right
    figure.canvas.draw()


@pytest.mark.parametrize("nodes", [0, 1, 5])
def test_a_graph_without_edges_is_an_empty_picture(nodes: int) -> None:
    none = torch.zeros(0, dtype=torch.long)
    graph = AttentionGraph.from_edges(none, none, num_nodes=nodes)
    ax = plot_graph(graph, labels=["x"] * nodes)
    assert arcs(ax) == [] and len(drawn(ax, "loops")) == 0
    assert [t.get_text() for t in ax.texts] == ["no edges"]
    ax.figure.canvas.draw()
    plot_head(graph).canvas.draw()


def test_weights_that_are_differentiable_low_precision_or_zero() -> None:
    weight = torch.tensor([0.5, 0.0, 0.25], dtype=torch.bfloat16, requires_grad=True)
    graph = AttentionGraph.from_edges(
        torch.tensor([0, 1, 1]), torch.tensor([1, 2, 1]), weight, num_nodes=3
    )
    ax = plot_graph(graph)
    assert arcs(ax) == [(0, 1)] and len(drawn(ax, "loops")) == 1  # 0 is not above 0
    assert len(arcs(plot_graph(graph, min_weight=-1.0))) == 2
    plot_head(graph, min_weight=-1.0).canvas.draw()


def test_errors(graph: AttentionGraph) -> None:
    for plot in (plot_graph, plot_adjacency, plot_head):
        with pytest.raises(IndexError, match="lane 6 does not exist: this graph has 6 lanes"):
            plot(graph, lane=6)
        with pytest.raises(
            ValueError, match="labels must hold one label for each of the 7 senders, got 3"
        ):
            plot(graph, labels=["a", "b", "c"])
    wide = AttentionGraph.from_edges(
        torch.tensor([0]), torch.tensor([2]), num_senders=2, num_receivers=3
    )
    with pytest.raises(ValueError, match="3 receivers and only 2 senders; use plot_adjacency"):
        plot_graph(wide)
    with pytest.raises(
        ValueError, match="labels name the senders, and with 3 receivers and only 2 senders"
    ):
        plot_adjacency(wide, labels=["a", "b"])
    assert plot_adjacency(wide).images[0].get_array().shape == (3, 2)


def test_a_missing_matplotlib_is_named_with_its_extra(
    graph: AttentionGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoMatplotlib(), *sys.meta_path])
    for plot in (plot_graph, plot_adjacency, plot_head):
        with pytest.raises(MissingExtra, match=r"pip install 'graphformer\[viz\]'"):
            plot(graph)


class NoMatplotlib:
    def find_spec(self, name: str, *rest: object) -> None:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_importing_and_drawing_leave_no_global_state(interpreter: Callable[[str], str]) -> None:
    code = (
        "import sys, torch, graphformer.inspect as i; assert 'matplotlib' not in sys.modules;"
        "from graphformer.graph import AttentionGraph as G;"
        "i.plot_head(G.from_dense(torch.ones(3, 3)));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    interpreter(code)
