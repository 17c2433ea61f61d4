"""torch.export and ONNX of attention layers that cut edges: the program equals the eager layer at
every length.
"""

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import Reweigh, TopFraction
from graphformer.nn import GINAttention, PNAAttention, SumAttention

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("float64"),
    pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch before 2.7"),
]
LAYERS = {
    "gin": lambda: GINAttention(42, 6, 2),
    "gin threshold": lambda: GINAttention(42, 6, 2, sparsify=gf.Threshold(0.1)),
    "gin stream": lambda: GINAttention(42, 6, sparsify=gf.Threshold(0.1), executor="stream"),
    "gin renormalized": lambda: GINAttention(
        42, 6, 3, sparsify=gf.Threshold(0.1, renormalize=True) & gf.TopK(3)
    ),
    "gin of three": lambda: GINAttention(42, 6, sparsify=gf.TopK(3)),
    "gin sigmoid fraction": lambda: GINAttention(
        42, 6, sparsify=TopFraction(0.3), normalize="sigmoid"
    ),
    "pna threshold": lambda: PNAAttention(42, 6, 2, sparsify=gf.Threshold(0.1)),
    "sum threshold": lambda: SumAttention(42, 6, 2, sparsify=gf.Threshold(0.1), is_causal=False),
}


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


class EdgeWise(gf.nn.Operator):
    """An operator in the general form."""

    def on_edges(self, own, x, edges):
        return edges.sum(edges.weight * edges.at_senders(x))


def exported(layer, x, *more):
    # Of fewer candidates than TopK keeps the program would be another.
    shapes = {1: torch.export.Dim("length", min=4, max=512)}
    return torch.export.export(layer, (x, *more), dynamic_shapes=(shapes,) * (1 + len(more)))


@pytest.mark.parametrize("name", LAYERS)
def test_an_exported_layer_equals_the_eager_one_at_other_lengths(name, tmp_path):
    layer = LAYERS[name]().eval()
    torch.export.save(exported(layer, torch.randn(2, 11, 42)), tmp_path / "layer.pt2")
    program = torch.export.load(tmp_path / "layer.pt2").module()
    for length in (11, 7, 23):
        x = torch.randn(2, length, 42)
        with torch.no_grad():
            assert_close(program(x), layer(x), atol=1e-10, rtol=1e-10)


def test_an_exported_layer_takes_a_mask():
    layer = LAYERS["pna threshold"]().eval()
    keep = torch.ones(2, 11, dtype=torch.bool)
    program = exported(layer, torch.randn(2, 11, 42), keep).module()
    x, keep = torch.randn(2, 13, 42), torch.ones(2, 13, dtype=torch.bool)
    keep[0, :4] = False
    with torch.no_grad():
        assert_close(program(x, keep), layer(x, keep), atol=1e-10, rtol=1e-10)


@pytest.mark.float32
@pytest.mark.parametrize(
    "name", [pytest.param("gin", marks=pytest.mark.long), "gin threshold", "pna threshold"]
)
def test_onnx_gives_the_eager_output(name, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    layer = LAYERS[name]().eval()
    path = str(tmp_path / "layer.onnx")
    length = torch.export.Dim("length", min=2, max=512)
    torch.onnx.export(
        layer, (torch.randn(2, 11, 42),), path, dynamo=True, dynamic_shapes=({1: length},)
    )
    session = runtime.InferenceSession(path)
    for length in (11, 7):
        x = torch.randn(2, length, 42)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            want = layer(x)
        assert float((torch.from_numpy(got) - want).abs().max()) < 1e-4 * float(want.abs().max())


def test_an_exported_language_model_equals_the_eager_one():
    config = gf.GraphformerConfig(
        vocab_size=17, hidden_size=30, intermediate_size=23, num_hidden_layers=2,
        num_attention_heads=3, operator=["gin", "pna"], threshold=0.15,
    )  # fmt: skip
    model = gf.GraphformerForCausalLM(config).eval()

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(input_ids=ids, use_cache=False).logits

    whole, ids = Logits(), torch.randint(17, (2, 11))
    program = exported(whole, ids).module()
    for length in (11, 5):
        ids = torch.randint(17, (2, length))
        with torch.no_grad():
            assert_close(program(ids), whole(ids), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"head": gf.Head(operator=EdgeWise())},
            r"EdgeWise reads edges one by one and cannot be exported",
        ),
        (
            {"sparsify": gf.Threshold(0.1), "backend": "pyg"},
            r"backend='pyg' cannot be exported: make the layer with backend='auto'",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(options, text):
    with pytest.raises(Exception, match=text):
        exported(GINAttention(42, 6, **options).eval(), torch.randn(2, 11, 42))


@pytest.mark.parametrize("curve", ["sigmoid", "relu"])
def test_weights_of_a_curve_are_exported(curve):
    layer, x = GINAttention(42, 6, sparsify=Reweigh(curve, 0.1)).double().eval(), double(2, 11, 42)
    assert_close(exported(layer, x).module()(x), layer(x), atol=1e-10, rtol=1e-10)


def test_explicit_edges_are_not_exported():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = GINAttention(42, 6, is_causal=False)
            self.edges = gf.Edges(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 2]))

        def forward(self, x):
            return self.attention(x, candidates=self.edges)

    with pytest.raises(Exception, match="explicit candidate edges cannot be exported"):
        torch.export.export(Layer(), (torch.randn(2, 11, 42),))
