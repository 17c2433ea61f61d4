"""Layers on edges where numbers are not at hand.

Compiled, exported, on fake and meta tensors, on an accelerator that is not to be waited for.
"""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import graphformer as gf
from graphformer.attention import Reweigh
from tests.nn.test_conv import (
    CONVS,
    EDGE_DIM,
    EDGES,
    HEADS,
    IN,
    NODES,
    OUT,
    a_graph,
    edge_index,
    made,
)

each_conv = pytest.mark.parametrize("kind", CONVS)


class EdgeWise(gf.nn.Operator):
    """An operator in the general form."""

    def on_edges(self, own: Tensor, x: Tensor, edges: gf.attention.EdgeMessages) -> Tensor:
        return edges.sum(edges.weight * edges.at_senders(x))


CASES = {
    "features": {},
    "bare": {"edge_dim": None},
    "threshold": {"sparsify": gf.Threshold(0.3)},
    "renormalized": {"sparsify": gf.Threshold(0.2, renormalize=True), "normalize": "sigmoid"},
    "top_k": {"sparsify": gf.TopK(2) & gf.Threshold(0.1)},
    "reweighed": {"sparsify": Reweigh("relu", 0.2)},
    "loops": {"add_self_loops": True, "concat": False, "residual": True, "bias": True},
}


def inputs(
    seed: int, nodes: int, edges: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """A graph with isolated nodes, and a self-loop, and an edge twice."""
    graph = a_graph(seed, nodes, edges, dtype)
    index = edge_index(graph)
    index[:, 1] = index[:, 0]
    index[:, 2] = index[0, 2]
    return graph.x, index, graph.edge_attr


FIRST, SECOND = inputs(0, NODES, EDGES), inputs(5, 13, 17)


def arguments(conv: nn.Module, given: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    return given if conv.edge_dim is not None else given[:2]


# ---------------------------------------------------- the formula that compilers see is the layer's


@each_conv
@pytest.mark.parametrize("case", CASES)
def test_the_traced_form_is_the_layer(kind: str, case: str, monkeypatch: pytest.MonkeyPatch):
    """Outputs, returned weights and gradients, run without a compiler."""
    conv = made(kind, **CASES[case]).double()
    weight = torch.rand(EDGES, dtype=torch.float64)
    weight[::5] = 0

    def run(attention: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        x = FIRST[0].clone().requires_grad_()
        given = arguments(conv, (x, *FIRST[1:]))
        out, (_, alpha) = conv(*given, edge_weight=weight, return_attention_weights=True)
        gradients = torch.autograd.grad(out.square().sum(), [x, *conv.parameters()])
        return out, alpha, list(gradients)

    want = run(False)
    monkeypatch.setattr("graphformer.nn.attention_conv.numberless", lambda value: True)
    got = run(True)
    assert_close(got[0], want[0], rtol=1e-10, atol=1e-10)
    assert_close(got[1], want[1], rtol=1e-10, atol=1e-10)
    assert_close(got[2], want[2], rtol=1e-10, atol=1e-10)


def test_other_reductions_of_the_traced_form(monkeypatch: pytest.MonkeyPatch):
    aggregators = ("max_norm", "min_norm@0.2", "var", "own", "mean")
    conv = made("pna", aggregators=aggregators, sparsify=gf.TopK(3)).double()
    want = conv(*FIRST)
    monkeypatch.setattr("graphformer.nn.attention_conv.numberless", lambda value: True)
    assert_close(conv(*FIRST), want, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------- torch.compile


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "case"),
    [
        ("gin", "threshold"),
        pytest.param("sum", "loops", marks=pytest.mark.slow),
        *(
            pytest.param(*one, marks=pytest.mark.long)
            for one in (("pna", "bare"), ("gin", "features"), ("sum", "features"))
        ),
    ],
)
def test_compiled_whole_with_gradients(kind: str, case: str):
    """One graph for all sizes (``fullgraph``, ``dynamic``); gradients are compiled too."""
    torch._dynamo.reset()
    conv = made(kind, **CASES[case]).double()
    compiled = torch.compile(copy.deepcopy(conv), fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for given in (FIRST, SECOND):
            leaves = [given[0].clone().requires_grad_() for _ in range(2)]
            outs = [
                layer(*arguments(conv, (x, *given[1:])))
                for layer, x in zip((conv, compiled), leaves, strict=True)
            ]
            assert_close(outs[1], outs[0], rtol=1e-10, atol=1e-10)
            for out in outs:
                out.square().sum().backward()
            assert_close(leaves[1].grad, leaves[0].grad, rtol=1e-10, atol=1e-10)
    for one, other in zip(conv.parameters(), compiled.parameters(), strict=True):
        assert_close(other.grad, one.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.long
@each_conv
def test_compiled_by_inductor(kind: str):
    torch._dynamo.reset()
    conv = made(kind)
    compiled = torch.compile(conv, fullgraph=True, dynamic=True)
    for given in (FIRST, SECOND):
        x, index, attr = given[0].float(), given[1], given[2].float()
        want = conv(x, index, attr)
        assert float((compiled(x, index, attr) - want).abs().max()) <= 1e-5 * float(
            want.abs().max()
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_what_cannot_be_one_graph_is_compiled_with_a_break():
    torch._dynamo.reset()
    conv = made("gin", sparsify=Reweigh("relu", 0.2)).double()
    compiled = torch.compile(conv, dynamic=True, backend="eager")
    assert_close(compiled(*FIRST), conv(*FIRST))


@pytest.mark.slow
@pytest.mark.parametrize("static", [False, True])
def test_weights_of_compiled_self_loops_are_those_of_eager_code(static: bool):
    """A self-loop that made way for another is in neither; how many there are is in the numbers, so
    it is no whole graph.
    """
    torch._dynamo.reset()
    conv = made("gin", add_self_loops=True).double()
    x, *edges = FIRST
    given = (torch.stack((x, 2 * x)) if static else x, *edges)
    want, (index, alpha) = conv(*given, return_attention_weights=True)
    assert index.shape[1] < EDGES + NODES
    compiled = torch.compile(conv, backend="eager")
    out, (compiled_index, compiled_alpha) = compiled(*given, return_attention_weights=True)
    assert torch.equal(compiled_index, index)
    assert_close((out, compiled_alpha), (want, alpha), rtol=1e-10, atol=1e-10)
    torch._dynamo.reset()
    with pytest.raises(
        torch._dynamo.exc.Unsupported, match="return_attention_weights with add_self_loops=True"
    ):
        torch.compile(conv, fullgraph=True, backend="eager")(*given, return_attention_weights=True)


# -------------------------------------------------------------- torch.export, ONNX, torch.jit.trace


def dynamic(conv: nn.Module) -> dict:
    nodes, edges = torch.export.Dim("nodes"), torch.export.Dim("edges")
    shapes = {"x": {0: nodes}, "edge_index": {1: edges}}
    return shapes if conv.edge_dim is None else {**shapes, "edge_attr": {0: edges}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "case"), [("gin", "features"), ("pna", "threshold"), ("sum", "bare"), ("sum", "top_k")]
)
def test_exported_for_any_graph(kind: str, case: str):
    conv = made(kind, **CASES[case]).double()
    program = torch.export.export(conv, arguments(conv, FIRST), dynamic_shapes=dynamic(conv))
    for given in (FIRST, SECOND):
        assert_close(
            program.module()(*arguments(conv, given)),
            conv(*arguments(conv, given)),
            rtol=1e-10,
            atol=1e-10,
        )


@pytest.mark.parametrize(
    "options", [{"head": gf.Head(operator=EdgeWise())}, {"backend": "torch_sparse"}]
)
def test_what_cannot_be_exported_says_so(options: dict):
    if options.get("backend", "torch") not in gf.backends.available():
        pytest.skip("torch-sparse is not installed")
    conv = made("gin", **options).double()
    with pytest.raises(ValueError, match="cannot be exported, or run on tensors without numbers"):
        torch.export.export(conv, FIRST, dynamic_shapes=dynamic(conv), strict=False)
    with pytest.raises(ValueError, match="cannot be exported, or run on tensors without numbers"):
        conv.to("meta")(*(value.to("meta") for value in FIRST))


def test_weights_of_self_loops_cannot_be_exported_and_it_says_so():
    conv = made("gin", add_self_loops=True).double()
    told = (
        r"return_attention_weights with add_self_loops=True cannot be exported.* Set "
        r"add_self_loops=False and give edges with self-loops"
    )
    with pytest.raises(ValueError, match=told):
        torch.export.export(conv, FIRST, {"return_attention_weights": True}, strict=False)
    with pytest.raises(ValueError, match=told):
        conv.to("meta")(*(value.to("meta") for value in FIRST), return_attention_weights=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize(
    "kind", ["gin", *(pytest.param(one, marks=pytest.mark.long) for one in ("pna", "sum"))]
)
def test_onnx_runs_it(kind: str, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    conv = made(kind)
    first, second = ((x.float(), index, attr.float()) for x, index, attr in (FIRST, SECOND))
    program = torch.onnx.export(
        conv, first, dynamo=True, dynamic_shapes=dynamic(conv), verbose=False
    )
    program.save(tmp_path / "conv.onnx")
    session = runtime.InferenceSession(tmp_path / "conv.onnx")
    names = [one.name for one in session.get_inputs()]
    for given in (first, second):
        (out,) = session.run(None, dict(zip(names, (one.numpy() for one in given), strict=True)))
        want = conv(*given).detach()
        assert float((torch.from_numpy(out) - want).abs().max()) <= 1e-5 * float(want.abs().max())


@pytest.mark.filterwarnings("ignore")
def test_a_jit_trace_is_for_any_graph():
    conv = made("sum", edge_dim=None).double()
    traced = torch.jit.trace(conv, FIRST[:2], check_trace=False)
    for given in (FIRST, SECOND):
        assert_close(traced(*given[:2]), conv(*given[:2]), rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------- nothing waits for an accelerator

WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "bincount",
    "_unique",
    "unique_",
    "masked_select",
    "is_nonzero",
    "equal",
    "repeat_interleave",
)


class NothingWaits(TorchDispatchMode):
    """Refuses every operation for whose result a GPU would be waited for, but ``allowed`` ones."""

    def __init__(self, allowed: int = 0) -> None:
        super().__init__()
        self.left = allowed

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[1].split(".")[0]
        waits = any(name == one or (one.endswith("_") and name.startswith(one)) for one in WAITS)
        if waits or (
            name == "index" and any(one is not None and one.dtype == torch.bool for one in args[1])
        ):
            self.left -= 1
            if self.left < 0:
                raise AssertionError(f"{function} would wait for the device")
        return function(*args, **(kwargs or {}))


@each_conv
@pytest.mark.parametrize("case", ["features", "bare"])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_step_waits_for_an_accelerator(
    kind: str, case: str, weighted: bool, monkeypatch: pytest.MonkeyPatch
):
    """Forward and backward as on a GPU: the rule that reads numbers on the host alone is told that
    this is none.
    """
    monkeypatch.setattr("graphformer.finite.on_host", lambda value: False)
    conv = made(kind, **CASES[case]).double().train()
    options = {"edge_weight": torch.rand(EDGES, dtype=torch.float64)} if weighted else {}
    # A maximum, a spread and a degree leave out edges of weight 0, and how many there are is one
    # number to wait for.
    with NothingWaits(allowed=int(weighted and kind == "pna")) as watch:
        out = conv(*arguments(conv, FIRST), batch=torch.zeros(NODES, dtype=torch.long), **options)
        out.square().sum().backward()
    assert watch.left == 0
    assert all(one.grad is not None for one in conv.parameters())


def test_the_watch_sees_what_waits():
    with NothingWaits():
        for wait in (
            lambda: float(torch.ones(1)),
            lambda: torch.ones(2).nonzero(),
            lambda: torch.ones(2)[torch.ones(2).bool()],
        ):
            with pytest.raises(AssertionError, match="would wait for the device"):
                wait()


def test_an_edge_out_of_range_is_seen_without_waiting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("graphformer.finite.on_host", lambda value: False)
    with pytest.raises(RuntimeError, match=r"edge_index \(receivers\) must lie in 0..10"):
        made("gin").double()(FIRST[0], FIRST[1] + torch.tensor([[0], [NODES]]), FIRST[2])
    with pytest.raises(RuntimeError, match="an edge joins two graphs of the batch"):
        made("gin").double()(*FIRST, batch=torch.arange(NODES))


@each_conv
@pytest.mark.parametrize("case", CASES)
def test_shapes_on_fake_tensors(kind: str, case: str):
    conv = made(kind, **CASES[case]).double()
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        given = [mode.from_tensor(one) for one in arguments(conv, FIRST)]
        out = conv(*given)
        if not conv.add_self_loops:
            assert conv(*given, return_attention_weights=True)[1][1].shape == (EDGES, HEADS)
    width = conv.out_channels
    assert out.shape == (NODES, width)
    meta = conv.to("meta")(*(one.to("meta") for one in arguments(conv, FIRST)))
    assert meta.is_meta and meta.shape == (NODES, width)


def test_an_explainer_has_no_place_in_compiled_code():
    conv = CONVS["gin"](IN, OUT, HEADS, EDGE_DIM).double().to("meta")
    conv.explain = True
    with pytest.raises(ValueError, match="an explainer's mask has no place"):
        conv(*(one.to("meta") for one in FIRST))
