"""The code of docs/your-own-slot.md runs as it stands, from top to bottom."""

import re
from pathlib import Path

import pytest
import torch

import graphformer as gf
from graphformer.attention.slot import KINDS

pytest.importorskip("torch_geometric")

PAGE = Path(__file__).parents[1] / "docs" / "your-own-slot.md"


@pytest.fixture
def scope():
    """What the page's blocks define; their names leave the registry afterwards."""
    before = {slot: dict(known) for slot, known in KINDS.items()}
    names: dict = {"__name__": "your_own_slot"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    yield names
    for slot, known in before.items():
        KINDS[slot].clear()
        KINDS[slot].update(known)


def test_python_blocks_run_in_order(scope):
    assert scope["outputs"].graphs[1].batch_shape == (2, 3)
    assert 0 < scope["graph"].num_edges < 3 * 40  # some are cut
    assert scope["config"].head["normalize"] == {"name": "sink_softmax"}
    assert gf.Head.from_spec(scope["config"].head).spec() == scope["head"].spec()
    sinks = [layer.self_attn.normalize.sink for layer in scope["again"].model.layers]
    assert sinks[0] is not sinks[1]

    assert scope["text"].shape == (2, 13)
    scope["out"].square().sum().backward()
    missing = [name for name, one in scope["conv"].named_parameters() if one.grad is None]
    assert missing == []


def test_the_formulas_are_those_of_the_page(scope):
    """The normalizer and the operator beside their readable twins on matrices."""
    q, k = torch.randn(2, 3, 7, 5, dtype=torch.float64), torch.randn(2, 3, 7, 5).double()
    normalize = scope["SinkSoftmax"](3).double()
    torch.nn.init.normal_(normalize.sink)
    graph = gf.attention_graph(
        q, k, score=scope["Cosine"](tau=0.5), normalize=normalize, is_causal=True
    )
    scores = torch.cosine_similarity(q.unsqueeze(3), k.unsqueeze(2), dim=-1) / 0.5
    exp = scores.exp().tril()
    weights = exp / (exp.sum(-1, keepdim=True) + normalize.sink.exp().view(3, 1, 1))
    torch.testing.assert_close(graph.to_dense(), weights)

    operator, x = scope["Difference"](3, 5).double(), torch.randn(2, 3, 7, 5).double()
    message = ((x.unsqueeze(2) - x.unsqueeze(3)) @ operator.weight.view(3, 1, 5, 5)).relu()
    expected = x + (weights.unsqueeze(-1) * message).sum(3)
    edges = gf.attention.EdgeMessages(graph, 3)
    torch.testing.assert_close(operator.on_edges(x, x, edges), expected)
