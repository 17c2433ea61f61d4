"""torch.compile: compiled layers and models give the outputs and gradients of eager ones, without a recompilation for every length."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.testing import assert_close

import graphformer as gf
from graphformer.nn import GINAttention, PNAAttention, SumAttention

FLASH = {
    "gin": lambda: GINAttention(42, 6, 2),
    "gin-projected": lambda: GINAttention(42, 6, value_projection=True, output_projection=True, is_causal=False),
    "sum": lambda: SumAttention(42, 6, 2),
}
EDGES = {
    "gin-threshold": lambda: GINAttention(42, 6, 2, sparsify=gf.Threshold(0.1)),
    "gin-topk-sigmoid": lambda: GINAttention(42, 6, sparsify=gf.TopK(3), normalize="sigmoid"),
    "pna": lambda: PNAAttention(42, 6, 2, sparsify=gf.Threshold(0.1)),
    "sum-stream": lambda: SumAttention(42, 6, 2, executor="stream"),
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing compiled before, nothing counted before."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def masks(length: int) -> dict[str, Tensor | None]:
    padding = torch.ones(2, length, dtype=torch.bool)
    padding[0, :3] = False
    return {
        "none": None,
        "bool": padding,
        "int": padding.long(),
        "pairs": torch.rand(2, 1, length, length) > 0.3,
        "everything": padding & torch.tensor([[False], [True]]),
    }


def results(run: Callable[..., Tensor], layer: nn.Module, x: Tensor, *args: object) -> list[Tensor]:
    """Output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    out = run(x, *args)
    slope = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad((out * slope).sum(), [x, *layer.parameters()])]


def assert_same(compiled: list[Tensor], eager: list[Tensor]) -> None:
    for got, want in zip(compiled, eager, strict=True):
        assert torch.isfinite(got).all()
        assert_close(got, want)


@pytest.mark.parametrize("mask", ["none", "bool", "int", "pairs", "everything"])
@pytest.mark.parametrize("kind", FLASH)
def test_flash_layers_are_one_graph(kind: str, mask: str) -> None:
    layer, x = FLASH[kind](), torch.randn(2, 11, 42)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    keep = masks(11)[mask]
    assert_same(results(compiled, layer, x, keep), results(layer, layer, x, keep))
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_flash_layers_in_other_precisions(dtype: torch.dtype) -> None:
    layer, x, keep = FLASH["gin"]().to(dtype), torch.randn(2, 11, 42, dtype=dtype), masks(11)["bool"]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same(results(compiled, layer, x, keep), results(layer, layer, x, keep))


def test_autocast() -> None:
    """Gradients of the input are added up in another order, in bfloat16: no worse than the eager ones."""
    layer, x = FLASH["gin-projected"](), torch.randn(2, 11, 42)
    exact = copy.deepcopy(layer).double()
    wanted = results(exact, exact, x.double())
    with torch.autocast("cpu", torch.bfloat16):
        compiled = results(torch.compile(layer, fullgraph=True, backend="aot_eager"), layer, x)
        eager = results(layer, layer, x)
    for got, other, want in zip(compiled, eager, wanted, strict=True):
        assert (got - want).abs().max() <= 2 * (other - want).abs().max()


@pytest.mark.parametrize("candidates", [gf.attention.Window(3), gf.attention.Packed(torch.arange(22).view(2, 11) // 5), "causal"])
def test_rules(candidates: object) -> None:
    layer, x = GINAttention(42, 6, 2), torch.randn(2, 11, 42)

    def run(x: Tensor) -> Tensor:
        return layer(x, masks(11)["bool"], candidates=candidates)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_same(results(compiled, layer, x), results(run, layer, x))


@pytest.mark.parametrize(("dynamic", "graphs"), [(True, 1), (None, 2)])  # None: the second length makes lengths a variable
@pytest.mark.parametrize("mask", ["none", "bool", "pairs"])
def test_any_length_without_compiling_again(mask: str, dynamic: bool | None, graphs: int) -> None:
    layer = GINAttention(42, 6, 2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (17, 18, 64, 23):
        x, keep = torch.randn(2, length, 42), masks(length)[mask]
        assert_same(results(compiled, layer, x, keep), results(layer, layer, x, keep))
    assert counters["stats"]["unique_graphs"] <= graphs


@pytest.mark.parametrize("kind", EDGES)
def test_layers_with_edges_have_one_break(kind: str) -> None:
    """Before the edges and after them everything is compiled; a new length compiles nothing again."""
    layer = EDGES[kind]()
    compiled = torch.compile(layer, backend="aot_eager", dynamic=True)
    for length in (17, 40):
        x, keep = torch.randn(2, length, 42), masks(length)["bool"]
        assert_same(results(compiled, layer, x, keep), results(layer, layer, x, keep))
    (reason,) = counters["graph_break"]
    assert "over_edges" in reason
    assert counters["stats"]["unique_graphs"] <= 3  # the projections, the factors of the score, the operator


def test_a_layer_with_edges_is_refused_as_one_graph() -> None:
    compiled = torch.compile(EDGES["gin-threshold"](), fullgraph=True, backend="aot_eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="over_edges"):
        compiled(torch.randn(2, 11, 42))


def test_the_graph_of_a_compiled_layer() -> None:
    layer, x = GINAttention(42, 6, 2), torch.randn(2, 11, 42)
    out, graph = torch.compile(layer, backend="aot_eager")(x, output_graph=True)
    want, other = layer(x, output_graph=True)
    assert torch.equal(graph.edge_index, other.edge_index) and graph.batch_shape == (2, 6)
    assert_close(out, want)
    assert_close(graph.weight, other.weight)


def test_attention_dropout_on_edges_draws_as_the_eager_layer() -> None:
    layer, x = GINAttention(42, 6, attention_dropout=0.3, sparsify=gf.Threshold(0.1)), torch.randn(2, 11, 42)
    compiled = torch.compile(layer, backend="aot_eager")
    outputs = []
    for run in (layer, compiled):
        torch.manual_seed(3)
        outputs.append(results(run, layer, x))
    assert_same(*outputs)


def test_merged_graph_in_a_compiled_function() -> None:
    q, k = torch.randn(2, 6, 7, 5), torch.randn(2, 2, 11, 5)

    def merged(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        graph, out = gf.attention.merged_graph(2 * q, k, k, sparsify=gf.Threshold(0.2))
        return graph.weight.exp(), out + 1

    for got, want in zip(torch.compile(merged, backend="aot_eager")(q, k), merged(q, k), strict=True):
        assert_close(got, want)


def test_attention_graph_in_a_compiled_function() -> None:
    q, k = torch.randn(2, 6, 7, 5), torch.randn(2, 2, 11, 5)

    def total(q: Tensor, k: Tensor) -> Tensor:
        graph = gf.attention_graph(q.sin(), k, sparsify=gf.Threshold(0.1))
        return gf.aggregate(graph, torch.ones(12 * 11, 3)).square().sum()

    leaves = [q.requires_grad_(), k.requires_grad_()]
    compiled = torch.autograd.grad(torch.compile(total, backend="aot_eager")(q, k), leaves)
    assert_same(list(compiled), list(torch.autograd.grad(total(q, k), leaves)))


def test_what_is_checked_with_edges_is_checked_when_compiled() -> None:
    layer = EDGES["gin-threshold"]()
    x = torch.randn(2, 11, 42)
    x[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="the scores are not finite"):
        torch.compile(layer, backend="aot_eager")(x)


# ---------------------------------------------------------------------- models


def model(**settings: object) -> gf.GraphformerForCausalLM:
    sizes = dict(vocab_size=65, hidden_size=24, intermediate_size=30, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2)
    return gf.GraphformerForCausalLM(gf.GraphformerConfig(**{**sizes, "use_cache": False, **settings}))


def step(run: Callable[..., object], language_model: nn.Module, **inputs: Tensor) -> list[Tensor]:
    """Loss, logits, and the gradient of every parameter."""
    out = run(**inputs, labels=inputs["input_ids"])
    return [out.loss.detach(), out.logits.detach(), *torch.autograd.grad(out.loss, list(language_model.parameters()))]


@pytest.mark.parametrize(("operator", "extra"), [("gin", "none"), ("gin", "padding"), ("gin", "packed"), ("sum", "padding")])
def test_a_language_model_is_one_graph(operator: str, extra: str) -> None:
    language_model = model(operator=operator)
    compiled = torch.compile(language_model, fullgraph=True, backend="aot_eager")
    inputs = {"input_ids": torch.randint(0, 65, (2, 17))}
    if extra == "padding":
        inputs["attention_mask"] = masks(17)["int"]
    elif extra == "packed":
        inputs["position_ids"] = torch.cat((torch.arange(5), torch.arange(12))).expand(2, -1)
    assert_same(step(compiled, language_model, **inputs), step(language_model, language_model, **inputs))
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
def test_a_language_model_takes_any_length() -> None:
    language_model = model(operator="gin")
    compiled = torch.compile(language_model, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (17, 31, 64):
        inputs = {"input_ids": torch.randint(0, 65, (2, length)), "attention_mask": masks(length)["int"]}
        assert_same(step(compiled, language_model, **inputs), step(language_model, language_model, **inputs))
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("settings", [{"operator": "gin", "threshold": 0.1}, {"operator": "pna", "top_k": 3}], ids=["gin", "pna"])
def test_a_language_model_with_edges(settings: dict[str, object]) -> None:
    """Every layer has a break; twelve of them share their compiled parts, and nothing gives up at dynamo's limit of 8."""
    language_model = model(num_hidden_layers=12, **settings)
    compiled = torch.compile(language_model, backend="aot_eager")
    inputs = {"input_ids": torch.randint(0, 65, (2, 17)), "attention_mask": masks(17)["int"]}
    assert_same(step(compiled, language_model, **inputs), step(language_model, language_model, **inputs))
    assert counters["stats"]["unique_graphs"] <= 20


def test_cached_decoding() -> None:
    language_model = model(operator="gin").eval()
    ids = torch.randint(0, 65, (2, 9))
    wanted = language_model.generate(ids, max_new_tokens=5, do_sample=False, use_cache=True)
    compiled = torch.compile(language_model, fullgraph=True, backend="aot_eager", dynamic=True)
    text, step_ids, cache = ids, ids, None
    with torch.no_grad():
        for _ in range(5):
            out = compiled(input_ids=step_ids, past_key_values=cache, use_cache=True)
            step_ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            text = torch.cat((text, step_ids), dim=1)
    assert torch.equal(text, wanted)
    assert counters["stats"]["unique_graphs"] == 2  # the text, and one more token


def test_gradient_checkpointing() -> None:
    language_model = model(operator="gin").train()
    language_model.gradient_checkpointing_enable()
    compiled = torch.compile(language_model, fullgraph=True, backend="aot_eager")
    inputs = {"input_ids": torch.randint(0, 65, (2, 17))}
    assert_same(step(compiled, language_model, **inputs), step(language_model, language_model, **inputs))


@pytest.mark.slow
def test_inductor() -> None:
    """The default backend, which compiles C++ here: other kernels, so equal only to rounding."""
    layer, x, keep = GINAttention(42, 6, 2), torch.randn(2, 11, 42), masks(11)["bool"]
    compiled = torch.compile(layer, fullgraph=True)
    for got, want in zip(results(compiled, layer, x, keep), results(layer, layer, x, keep), strict=True):
        assert_close(got, want, atol=1e-4, rtol=1e-4)
