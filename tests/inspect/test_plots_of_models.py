"""Pictures of a model's heads: what was cut is said, long texts have a window, and every script is
readable.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

import graphformer as gf
from graphformer.graph import AttentionGraph
from graphformer.inspect import glyphs, plot_adjacency, plot_head, plot_rows, visible
from graphformer.inspect.windows import LONG, densest
from tests.adapter_models import feed, make
from tests.inspect.test_plots import arcs, causal_weights, drawn, names


def graphs_of(name="llama", merge=None):
    torch.manual_seed(3)
    ids = torch.randint(4, 61, (2, 11))
    keep = torch.ones_like(ids)
    keep[1, 7:] = 0
    graphs = gf.inspect.graphs(
        make(name),
        **feed(name, ids, keep if name == "llama" else None),
        merge=merge,
        sparsify=gf.Threshold(0.05),
    )
    nodes = {
        side: replace(one, labels=(tuple(f"{side[0]}{i}" for i in range(one.count)),) * 2)
        for side, one in graphs.nodes.items()
    }
    return replace(graphs, nodes=nodes)


def cells(ax):
    """Weights by (receiver, sender) of a matrix that is drawn."""
    shown = ax.images[0].get_array()
    return {(int(r), int(s)): float(shown[r, s]) for r, s in np.argwhere(~shown.mask)}


def cells_of(graph, above=0.0):
    return {
        (r, s): w
        for s, r, w in zip(
            graph.senders.tolist(), graph.receivers.tolist(), graph.weight.tolist(), strict=True
        )
        if w > above
    }


def test_min_weight_cuts_arcs_matrix_and_the_number_in_the_title():
    graph = AttentionGraph.from_dense(causal_weights()).lane(4)
    bound = 0.15
    want = cells_of(graph, bound)
    assert 3 < len(want) < graph.num_edges
    figure = plot_head(graph, min_weight=bound)
    left, right, *_ = figure.axes
    assert len(arcs(left)) + len(drawn(left, "loops")) == len(want)
    assert cells(right) == pytest.approx(want)
    title = figure.get_suptitle().split("(")[1]
    assert title == f"{len(want)} of {graph.num_edges} edges; weight above 0.15)"
    assert cells(plot_adjacency(graph)) == pytest.approx(cells_of(graph, -1))
    assert cells(plot_adjacency(graph, min_weight=bound)) == pytest.approx(want)
    empty = plot_head(graph, min_weight=7).axes[:2]
    assert [text.get_text() for ax in empty for text in ax.texts] == ["no edges above 7"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("head", [2, None])
def test_a_layer_has_its_labels_and_its_name(name, head):
    graphs = graphs_of(name)
    for number, layer in enumerate(graphs.layers):
        figure = graphs.plot(number, head, sequence=1)
        title = figure.get_suptitle()
        assert layer.name in title and graphs.model in title and "sequence 1" in title
        assert ("head 2" if head == 2 else "mean of 4 heads") in title
        right = figure.axes[1]
        one = graphs.of_sequence(1)
        graph = one[number, head] if head == 2 else one[number].merge_heads("mean")
        assert cells(right) == pytest.approx(cells_of(graph.lane(0)))
        senders, receivers = one.labels(number)
        assert names(right, "x") == senders and names(right, "y") == receivers
        assert len(senders) == (11 if layer.senders == "decoder" else 7)
        figure.canvas.draw()


def test_a_layer_by_name_or_from_the_end_merged_and_with_options(tmp_path):
    graphs = graphs_of()
    last = graphs.plot(-1, -1).get_suptitle()
    assert graphs.plot(graphs.names[2], 3).get_suptitle().replace("head 3", "head -1") == last
    merged = graphs_of(merge="sum").plot(0)
    assert "heads merged" in merged.get_suptitle()
    path = tmp_path / "head.png"
    figure = graphs.plot(0, 1, path=path, title="mine", window=(2, 6), labels=list("abcdefghijk"))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert figure.get_suptitle().startswith("mine") and names(figure.axes[0], "x") == list("cdef")
    with pytest.raises(TypeError, match="min_weigth"):
        graphs.plot(0, 1, min_weigth=0.1)
    with pytest.raises(TypeError, match="lane"):
        graphs.plot(0, 1, lane=1)
    with pytest.raises(IndexError, match="has no head 9"):
        graphs.plot(0, 9)
    with pytest.raises(IndexError, match="sequence 2 does not exist"):
        graphs.plot(0, 1, sequence=2)


def test_cross_attention_has_two_rows():
    graphs = graphs_of("t5").cross
    figure = graphs.plot(0, 1, sequence=1, min_weight=0.1)
    graph = graphs.of_sequence(1)[0, 1].lane(0)
    want = set(cells_of(graph, 0.1))
    left = figure.axes[0]
    (lines,) = (c for c in left.collections if c.get_gid() == "lines")
    rows, columns = graph.num_receivers, graph.num_senders
    assert rows != columns
    found = set()
    for line in lines.get_segments():
        assert (line[0, 1], line[-1, 1]) == (1, 0)
        found.add((round(line[-1, 0]), round((line[0, 0] + 0.5) * columns / rows - 0.5)))
    assert found == want and len(lines.get_segments()) == len(want) > 3
    upper = next(ax for ax in figure.axes if ax.get_xlabel() == "senders")
    assert names(left, "x") == [f"d{i}" for i in range(rows)]
    assert names(upper, "x") == [f"e{i}" for i in range(columns)]
    assert [t.get_text() for t in plot_rows(graph, min_weight=2).texts] == ["no edges above 2"]
    with pytest.raises(ValueError, match="receiver_labels must hold one label for each of the 11"):
        plot_head(graph, receiver_labels=["a"])
    with pytest.raises(ValueError, match=r"window=\(0, 3\) names nodes of one row"):
        graphs.plot(0, 1, window=(0, 3))


def sparse(columns, rows, edges=900):
    random = torch.Generator().manual_seed(1)
    senders = torch.randint(0, columns, (edges,), generator=random)
    receivers = torch.randint(0, rows, (edges,), generator=random)
    weight = torch.rand(edges, generator=random).double() + 0.01
    pairs = torch.unique(receivers * columns + senders)
    return AttentionGraph.from_edges(
        pairs % columns,
        pairs // columns,
        weight[: len(pairs)],
        num_senders=columns,
        num_receivers=rows,
    )


@pytest.mark.parametrize("rows", [257, 149])
def test_a_long_text_has_the_window_with_the_most_weight(rows):
    graph = sparse(257, rows)
    shift = 257 - rows
    senders, receivers, weight = (
        x.numpy() for x in (graph.senders, graph.receivers + shift, graph.weight)
    )
    inside = [
        weight[(senders >= a) & (senders < a + LONG) & (receivers >= a) & (receivers < a + LONG)]
        for a in range(257 - LONG + 1)
    ]
    sums = np.array([own.sum() for own in inside])
    first = densest(senders, receivers, weight, 257)
    assert sums[first] == pytest.approx(sums.max()) and sums.max() > 1.1 * np.median(sums)
    figure = plot_head(graph, labels=[f"t{i}" for i in range(257)], max_edges=7)
    drawn_edges = len(inside[first])
    assert f"({drawn_edges} of {graph.num_edges} edges; nodes {first} to {first + 99} of 257, " in (
        figure.get_suptitle()
    )
    left, right, *_ = figure.axes
    assert [t.get_text() for t in left.texts] == [f"the 7 heaviest of {drawn_edges} edges"]
    got = cells(right)
    high = max(first - shift, 0)
    assert {(r + high + shift, s + first) for r, s in got} == {
        (r, s)
        for s, r in zip(senders.tolist(), receivers.tolist(), strict=True)
        if first <= s < first + LONG and first <= r < first + LONG
    }
    assert names(left, "x")[0] == f"t{first}"


def test_a_window_of_ones_own():
    graph = sparse(120, 120)
    figure = plot_head(graph, window=(3, 14))
    assert names(figure.axes[1], "x") == [str(i) for i in range(3, 14)]
    assert "; nodes 3 to 13 of 120)" in figure.get_suptitle()
    whole = plot_head(graph, window=(0, 120))
    assert "nodes" not in whole.get_suptitle() and len(cells(whole.axes[1])) == graph.num_edges
    for window, error, text in (
        ((5, 5), ValueError, r"window=\(5, 5\) must be .first, stop. with first < stop <= 120"),
        ((0, 121), ValueError, "<= 120"),
        ((-1, 4), ValueError, "window must be at least 0, got -1"),
        (7, TypeError, "two numbers of nodes, got 7"),
    ):
        with pytest.raises(error, match=text):
            plot_head(graph, window=window)
    with pytest.raises(ValueError, match="min_weight must be a finite number, got nan"):
        plot_head(graph, min_weight=float("nan"))
    with pytest.raises(TypeError, match="max_edges must be a whole number"):
        plot_head(graph, max_edges=0.5)


def test_long_rows_of_cross_attention_have_a_window_each():
    graph = sparse(130, 111)
    figure = plot_head(graph, receiver_labels=[f"r{i}" for i in range(111)])
    title = figure.get_suptitle()
    assert "; receivers " in title and "; senders " in title and title.count("with the most") == 2
    assert figure.axes[1].images[0].get_array().shape == (LONG, LONG)


def test_other_scripts_are_written_in_a_font_that_has_them():
    """DejaVu Sans, which matplotlib brings, has Hebrew; its monospaced sister has not."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        texts, families = glyphs.readable(["שלום", "cat"], "monospace")
    assert texts == ["שלום", "cat"] and families[0] == "monospace" and len(families) == 2
    figure = plot_head(AttentionGraph.from_dense(torch.ones(2, 2)), labels=["שלום", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of glyphs that it does not find
        figure.canvas.draw()
    assert figure.axes[0].get_xticklabels()[0].get_fontfamily() == families


def test_characters_that_no_font_has_are_numbers_and_a_warning():
    hidden = "\U000e0ff0"  # unassigned, and the font of last resort does not count
    with pytest.warns(UserWarning, match=r"no installed font has .*\(U\+E0FF0\)"):
        texts, families = glyphs.readable(["a" + hidden], "monospace")
    assert (texts, families) == (["aU+E0FF0"], ["monospace"])
    with pytest.warns(UserWarning, match=r"U\+E0FF0"):
        figure = plot_head(
            AttentionGraph.from_dense(torch.ones(2, 2)), labels=["a", "b"], title=hidden
        )
    assert figure.get_suptitle().startswith("U+E0FF0  (")
    assert visible(hidden) == "\\U000e0ff0"  # as a label: it is no printable character
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()


def test_many_characters_without_a_font_are_named_in_part(monkeypatch):
    monkeypatch.setattr(glyphs, "_font_with", lambda code: None)
    with pytest.warns(UserWarning, match="'漢' .*and others"):
        texts, _ = glyphs.readable(["漢字仮名交文"], "monospace")
    assert texts == ["".join(f"U+{ord(c):04X}" for c in "漢字仮名交文")]
    graph = AttentionGraph.from_dense(torch.ones(2, 2))
    with pytest.warns(UserWarning, match="Noto Sans CJK"):
        figure = plot_head(graph, labels=["漢字仮名", "b"])
    assert names(figure.axes[0], "x") == ["U+6F22U+5B57U…", "b"]
