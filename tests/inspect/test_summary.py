"""What a notebook shows of a model's graphs."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import torch

import graphformer as gf
from graphformer.inspect.summary import per_head
from tests.adapter_models import feed, make


@pytest.mark.parametrize("merge", [None, "sum"])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_row_a_layer_and_a_bar_a_head(name, merge):
    ids = torch.randint(4, 61, (2, 11))
    graphs = gf.inspect.graphs(
        make(name), **feed(name, ids, None), sparsify=gf.Threshold(0.1), merge=merge
    )
    html = graphs._repr_html_()
    page = ElementTree.fromstring(f"<div>{html}</div>")  # well-formed
    rows = page.findall(".//tbody/tr")
    assert len(rows) == len(graphs)
    tallest = 0.0
    for row, layer in zip(rows, graphs.layers, strict=True):
        texts = [cell.text for cell in row.findall("td")]
        assert texts[1] == layer.name and texts[4] == f"{layer.graph.num_edges:,}"
        bars = row.findall(".//rect")
        counts = [int(re.search(r"([\d,]+) edges", bar[0].text)[1]) for bar in bars]
        assert counts == per_head(layer) and sum(counts) == layer.graph.num_edges
        assert len(bars) == max(len(layer.heads), 1)
        tallest = max(tallest, *(float(bar.get("height")) for bar in bars))
    assert tallest == float(page.find(".//svg").get("height"))


def test_texts_are_escaped_and_empty_graphs_have_a_table():
    graphs = gf.inspect.graphs(
        make("llama"), input_ids=torch.randint(4, 61, (1, 5)), sparsify=gf.Threshold(0.999)
    )
    named = replace(
        graphs,
        model="<script>alert(1)</script>",
        layers=tuple(replace(layer, name='<b>"&') for layer in graphs.layers),
    )
    html = named._repr_html_()
    ElementTree.fromstring(f"<div>{html}</div>")
    assert "<script" not in html and "<b>" not in html
    none = replace(graphs, layers=())
    ElementTree.fromstring(f"<div>{none._repr_html_()}</div>")
