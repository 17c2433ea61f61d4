"""torch.compile: compiled layers and models give the outputs and gradients of eager ones, without a
recompilation for every length.
"""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import candidates as rules
from graphformer.attention.attend import attend
from graphformer.attention.executors import compiled as compiled_edges
from graphformer.attention.executors.travel import Packer
from graphformer.attention.normalizers import Sigmoid
from graphformer.attention.problem import pose
from graphformer.attention.scores import ScaledDotProduct
from graphformer.nn import GINAttention, PNAAttention, SumAttention

pytestmark = pytest.mark.slow

REGIONS = {"name": "regions", "window": 3, "regions": 2, "size": 4}
LAYERS = {  # the first four build no edges
    "gin": lambda: GINAttention(42, 6, 2),
    "gin-projected": lambda: GINAttention(
        42, 6, value_projection=True, output_projection=True, is_causal=False
    ),
    "sum": lambda: SumAttention(42, 6, 2),
    "sum-regions": lambda: SumAttention(42, 6, 2, normalize=REGIONS),
    "gin-threshold": lambda: GINAttention(42, 6, 2, sparsify=gf.Threshold(0.1)),
    "gin-renormalized": lambda: GINAttention(
        42, 6, 3, sparsify=gf.Threshold(0.1, renormalize=True) & gf.TopK(3)
    ),
    "gin-topk-sigmoid": lambda: GINAttention(
        42, 6, sparsify=gf.TopK(3), normalize="sigmoid", executor="stream"
    ),
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


def compile_whole(function: Callable[..., object], **settings: object) -> Callable[..., object]:
    return torch.compile(function, fullgraph=True, backend="aot_eager", **settings)


def num_graphs() -> int:
    return counters["stats"]["unique_graphs"]


def masks(length: int) -> dict[str, Tensor | None]:
    padding = torch.ones(2, length, dtype=torch.bool)
    padding[0, :3] = False
    return {
        "none": None,
        "bool": padding,
        "int": padding.long(),
        "pairs": torch.rand(2, 1, length, length) > 0.3,
        "everything": padding & torch.tensor([[False], [True]]),
        "all": torch.zeros_like(padding),
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


# Every mask with one layer that builds no edges and one that does; the others with each kind of
# mask in turn. make test-long runs all.
TURNS = {
    "gin": masks(1),
    "gin-threshold": masks(1),
    "pna": ["all", "pairs"],
    "sum": ["everything"],
    "gin-projected": ["int", "none"],
}
PAIRS = [
    pytest.param(kind, mask, marks=() if mask in TURNS.get(kind, ["bool"]) else pytest.mark.long)
    for kind in LAYERS
    for mask in masks(1)
]


@pytest.mark.parametrize(("kind", "mask"), PAIRS)
def test_a_layer_is_one_graph(kind: str, mask: str) -> None:
    layer, x, keep = LAYERS[kind](), torch.randn(2, 11, 42), masks(11)[mask]
    assert_same(results(compile_whole(layer), layer, x, keep), results(layer, layer, x, keep))
    assert num_graphs() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["gin", "gin-threshold", "pna"])
def test_other_precisions(kind: str, dtype: torch.dtype) -> None:
    layer, x, keep = (
        LAYERS[kind]().to(dtype),
        torch.randn(2, 11, 42, dtype=dtype),
        masks(11)["bool"],
    )
    assert_same(results(compile_whole(layer), layer, x, keep), results(layer, layer, x, keep))


def test_autocast() -> None:
    """Gradients of the input are added up in another order, in bfloat16: no worse than the eager
    ones.
    """
    layer, x = LAYERS["gin-projected"](), torch.randn(2, 11, 42)
    exact = copy.deepcopy(layer).double()
    wanted = results(exact, exact, x.double())
    with torch.autocast("cpu", torch.bfloat16):
        compiled = results(compile_whole(layer), layer, x)
        eager = results(layer, layer, x)
        layer.sparsify = gf.TopK(3)
        assert_close(compile_whole(layer)(x), layer(x))
    for got, other, want in zip(compiled, eager, wanted, strict=True):
        assert (got - want).abs().max() <= 2 * (other - want).abs().max()


# None: the second length makes lengths a variable
@pytest.mark.parametrize(
    ("case", "dynamic", "graphs"),
    [
        *((case, True, 1) for case in ("gin none", "gin-threshold none", "pna bool")),
        *(
            pytest.param(*one, marks=pytest.mark.long)
            for one in (
                ("gin bool", True, 1),
                ("gin pairs", True, 1),
                ("gin-threshold pairs", True, 1),
                ("gin bool", None, 2),
            )
        ),
        ("gin-threshold none", None, 2),
    ],
)
def test_any_length_without_compiling_again(case: str, dynamic: bool | None, graphs: int) -> None:
    kind, mask = case.split()
    layer = LAYERS[kind]()
    compiled = compile_whole(layer, dynamic=dynamic)
    for length in (17, 18, 64, 23):
        x, keep = torch.randn(2, length, 42), masks(length)[mask]
        assert_same(results(compiled, layer, x, keep), results(layer, layer, x, keep))
    assert num_graphs() <= graphs


CANDIDATES: dict[str, Callable[[], object]] = {
    "window": lambda: rules.Window(3),
    "packed": lambda: rules.Packed(torch.arange(22).view(2, 11) // 5),
    "causal": lambda: "causal",
    "both": lambda: (
        rules.Window(4) & rules.Causal() & rules.Packed(torch.arange(22).view(2, 11) // 5)
    ),
    "edges": lambda: rules.Edges(*torch.randint(11, (2, 61))),
    "edges-sequence": lambda: rules.Edges(*torch.randint(11, (2, 61)), torch.randint(2, (61,))),
    "graph": lambda: gf.AttentionGraph.from_edges(*torch.randint(11, (2, 61)), num_nodes=11),
    "graph-sequence": lambda: gf.attention_graph(
        *torch.randn(2, 2, 6, 11, 5), sparsify=gf.TopK(2)
    ).merge_heads("sum"),
}


@pytest.mark.parametrize("kind", ["gin", "gin-threshold"])
@pytest.mark.parametrize("name", CANDIDATES)
def test_candidates(name: str, kind: str) -> None:
    layer, x, candidates = LAYERS[kind](), torch.randn(2, 11, 42), CANDIDATES[name]()

    def run(x: Tensor) -> Tensor:
        return layer(x, masks(11)["bool"], candidates=candidates)

    assert_same(results(compile_whole(run), layer, x), results(run, layer, x))


class Stride(rules.Rule):
    step = 5

    def __init__(self, step: int) -> None:
        self.step = step

    def allow(self, pairs: rules.Pairs) -> Tensor:
        return (pairs.position - pairs.sender) % self.step == 0


def test_a_rule_of_ones_own() -> None:
    """It is known by its identity: another object, another graph."""
    layer, x = GINAttention(42, 6, 2, sparsify=gf.Threshold(0.1)), torch.randn(2, 11, 42)

    def run(x: Tensor, rule: rules.Rule) -> Tensor:
        return layer(x, candidates=rule & rules.Window(7))

    compiled, first, second = compile_whole(run), Stride(2), Stride(3)
    for rule in (first, second, first):
        assert_same(results(compiled, layer, x, rule), results(run, layer, x, rule))
    assert num_graphs() == 2


def test_another_sparsifier_after_compiling() -> None:
    layer, x = LAYERS["gin-threshold"](), torch.randn(2, 11, 42)
    compiled = compile_whole(layer)
    for sparsify in (layer.sparsify, gf.Threshold(0.3), gf.TopK(2), None, gf.Threshold(0.3)):
        layer.sparsify = sparsify
        assert_same(results(compiled, layer, x), results(layer, layer, x))


class Tempered(nn.Module, gf.attention.Normalizer):
    """A normalizer with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def weights(self, scores: Tensor, pairs: rules.Pairs) -> Tensor:
        return (scores * self.temperature).sigmoid()


STRANGE: dict[str, Callable[[], dict[str, object]]] = {
    "normalizer": lambda: {"normalize": Sigmoid(-2.0)},
    "sparsifier": lambda: {"sparsify": gf.Threshold(0.1) & gf.TopK(2)},
    "rule": lambda: {"candidates": Stride(2), "normalize": "sigmoid"},
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_made_inside(name: str) -> None:
    """A frozen dataclass is written down while torch traces. Of a value of another class it shows
    an empty imitation, so the edges are built outside the graph.
    """
    layer, make = nn.Linear(5, 5), STRANGE[name]

    def run(x: Tensor) -> Tensor:
        return attend(layer(x), x.sin(), x, **make())[0]["sum"].cos()

    x = torch.randn(2, 3, 11, 5)
    if name != "rule":
        assert_same(results(compile_whole(run), layer, x), results(run, layer, x))
        return
    with pytest.raises(torch._dynamo.exc.Unsupported, match="made inside the compiled function"):
        compile_whole(run)(x)
    assert_same(results(torch.compile(run, backend="aot_eager"), layer, x), results(run, layer, x))


def test_a_trained_normalizer_gets_its_gradient_in_one_graph() -> None:
    layer, x = GINAttention(42, 6, normalize=Tempered()), torch.randn(2, 11, 42)
    assert_same(results(compile_whole(layer), layer, x), results(layer, layer, x))
    compile_whole(layer)(x).square().sum().backward()
    assert float(layer.normalize.temperature.grad.abs()) > 0


def test_inputs_without_gradient() -> None:
    q, k, x, sparsify = (
        torch.randn(2, 6, 7, 5),
        torch.randn(2, 3, 11, 5),
        torch.randn(2, 2, 11, 4),
        gf.TopK(3),
    )

    def run(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        found, _ = attend(
            q, k, x, ("max", "std", "degree", "degree@0.3"), is_causal=True, sparsify=sparsify
        )
        return found["std"] + found["max"] * found["degree"] * found["degree@0.3"]

    compiled = compile_whole(run)
    for wanted in ((0,), (1,), (2,), (0, 2)):
        inputs = [
            value.clone().requires_grad_(place in wanted) for place, value in enumerate((q, k, x))
        ]
        leaves = [inputs[place] for place in wanted]
        found, eager = (
            torch.autograd.grad(f(*inputs).cos().sum(), leaves) for f in (compiled, run)
        )
        assert_same(list(found), list(eager))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_close(compiled(q, k, x), run(q, k, x))


@pytest.mark.parametrize("reduction", ["sum", "degree"])  # degrees alone: no edge has a gradient
@pytest.mark.parametrize("lengths", [(0, 0), (0, 7), (1, 1), (1, 13)])
def test_few_queries(lengths: tuple[int, int], reduction: str) -> None:
    q, k = (
        torch.randn(2, 6, lengths[0], 5, requires_grad=True),
        torch.randn(2, 3, lengths[1], 5, requires_grad=True),
    )
    sparsify = gf.Threshold(0.1)

    def run(q: Tensor, k: Tensor) -> Tensor:
        found, _ = attend(q, k, k, (reduction,), is_causal=True, sparsify=sparsify)
        return found[reduction] * q + k.sum()

    found, eager = (
        [out := f(q, k), *torch.autograd.grad(out.sum(), [q, k])] for f in (compile_whole(run), run)
    )
    assert_same(found, eager)


@pytest.mark.parametrize("backend", ["torch", "pyg", "dgl", "torch_sparse"])
def test_backends(backend: str) -> None:
    if backend not in gf.backends.available():
        pytest.skip(f"{backend} is not installed")
    layer, x = (
        PNAAttention(42, 6, 2, sparsify=gf.Threshold(0.1), backend=backend),
        torch.randn(2, 11, 42),
    )
    assert_same(results(compile_whole(layer), layer, x), results(layer, layer, x))


def test_the_operator_keeps_torchs_rules() -> None:
    q, k, x = (torch.randn(2, 3, 7, 5, requires_grad=True) for _ in range(3))
    problem = pose(q, k, attention_mask=torch.rand(2, 7) > 0.3, score=ScaledDotProduct())
    packer = Packer()
    slots = [problem.rule, None, problem.score, problem.normalize, problem.sparsify]
    text = f"[{', '.join([packer.text(value) for value in slots])}]"
    for dropout, seed in ((0.0, None), (0.3, torch.tensor(5))):
        args = (
            q,
            k,
            x,
            packer.tensors,
            text,
            "sum,max,degree@0.2",
            "stream",
            "torch",
            dropout,
            seed,
        )
        torch.library.opcheck(compiled_edges.reduce_edges, args)


def test_the_graph_of_a_compiled_layer() -> None:
    """Asked for, the graph is the one break: how many edges it has is in the data."""
    layer, x = GINAttention(42, 6, 2, sparsify=gf.Threshold(0.1)), torch.randn(2, 11, 42)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="over_edges"):
        compile_whole(layer)(x, output_graph=True)
    out, graph = torch.compile(layer, backend="aot_eager")(x, output_graph=True)
    want, other = layer(x, output_graph=True)
    assert torch.equal(graph.edge_index, other.edge_index) and graph.batch_shape == (2, 6)
    assert_close(out, want)
    assert_close(graph.weight, other.weight)


def test_graphs_in_a_compiled_function() -> None:
    q, k, sparsify = torch.randn(2, 6, 7, 5), torch.randn(2, 2, 11, 5), gf.Threshold(0.1)

    def merged(q: Tensor, k: Tensor) -> Tensor:
        graph, out = gf.attention.merged_graph(2 * q, k, k, sparsify=sparsify)
        return graph.weight.exp().sum() + out

    def total(q: Tensor, k: Tensor) -> Tensor:
        graph = gf.attention_graph(q.sin(), k, sparsify=sparsify)
        return gf.aggregate(graph, torch.ones(12 * 11, 3)).square().sum()

    assert_close(torch.compile(merged, backend="aot_eager")(q, k), merged(q, k))
    leaves = [q.requires_grad_(), k.requires_grad_()]
    compiled = torch.autograd.grad(torch.compile(total, backend="aot_eager")(q, k), leaves)
    assert_same(list(compiled), list(torch.autograd.grad(total(q, k), leaves)))


def test_nan_is_refused_when_it_comes() -> None:
    compiled, x = compile_whole(LAYERS["gin-threshold"]()), torch.randn(2, 11, 42)
    compiled(x)
    x[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="the scores are not finite"):
        compiled(x)


# ---------------------------------------------------------------------- dropout


@pytest.mark.parametrize(
    ("executor", "checkpointed"), [("dense", False), ("stream", False), ("stream", True)]
)
def test_dropout_drops_the_same_weights_in_the_backward_pass(
    executor: str, checkpointed: bool
) -> None:
    """Those that the eager layer drops with the seed that the compiled one draws; all other random
    numbers stay as they were.
    """
    layer = PNAAttention(
        42, 6, 2, attention_dropout=0.3, sparsify=gf.Threshold(0.05), executor=executor
    ).double()
    x = torch.randn(2, 11, 42, dtype=torch.float64)

    def run(x: Tensor) -> Tensor:
        return (
            torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
            if checkpointed
            else layer(x)
        )

    compiled = compile_whole(run)
    torch.manual_seed(3)
    found, following = results(compiled, layer, x), torch.rand(5)
    torch.manual_seed(3)
    seed, wanted = int(torch.randint(2**62, ())), torch.rand(5)
    torch.manual_seed(seed)
    assert_same(found, results(layer, layer, x))
    assert torch.equal(following, wanted)


def test_dropout_keeps_the_mean() -> None:
    layer, x = (
        SumAttention(42, 6, 2, attention_dropout=0.3, executor="stream"),
        torch.randn(2, 11, 42),
    )
    compiled = compile_whole(layer)
    with torch.no_grad():
        drawn = torch.stack([compiled(x) for _ in range(1000)])
        assert not torch.equal(drawn[0], drawn[1])
        assert ((drawn.mean(0) - layer.eval()(x)).abs() < 5 * drawn.std(0) / 1000**0.5 + 1e-6).all()


class DropEdge(gf.attention.sparsifiers.Sparsifier):
    """Half of the edges, drawn anew at every call."""

    renormalize = False

    def keep(self, weights: Tensor, pairs: rules.Pairs) -> Tensor:
        return torch.rand_like(weights) < 0.5


def test_a_random_sparsifier_keeps_the_same_edges_in_the_backward_pass() -> None:
    """What is linear in x: ``<gradient, x> = <upstream, output>``."""
    q, x = torch.randn(2, 3, 7, 5), torch.randn(2, 3, 7, 5, requires_grad=True)
    sparsify = DropEdge()
    out = compile_whole(lambda x: attend(q, q, x, sparsify=sparsify)[0]["sum"])(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert_close((grad * x).sum(), out.sum())


# ---------------------------------------------------------------------- models


def model(**settings: object) -> gf.GraphformerForCausalLM:
    sizes = dict(
        vocab_size=65,
        hidden_size=24,
        intermediate_size=30,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
    )
    return gf.GraphformerForCausalLM(
        gf.GraphformerConfig(**{**sizes, "use_cache": False, **settings})
    )


def step(run: Callable[..., object], language_model: nn.Module, **inputs: Tensor) -> list[Tensor]:
    """Loss, logits, and the gradient of every parameter."""
    out = run(**inputs, labels=inputs["input_ids"])
    return [
        out.loss.detach(),
        out.logits.detach(),
        *torch.autograd.grad(out.loss, list(language_model.parameters())),
    ]


MODELS = {
    "gin": {"operator": "gin"},
    "gin-threshold": {"operator": "gin", "threshold": 0.1},
    "pna": {"operator": "pna", "top_k": 3},
}


@pytest.mark.parametrize(
    "case",
    ["gin none 2", "gin padding 2", "gin packed 2", "gin-threshold padding 6", "pna packed 2"],
)
def test_a_language_model_is_one_graph(case: str) -> None:
    name, extra, layers = case.split()
    language_model = model(num_hidden_layers=int(layers), **MODELS[name])
    inputs = {"input_ids": torch.randint(0, 65, (2, 17))}
    if extra == "padding":
        inputs["attention_mask"] = masks(17)["int"]
    elif extra == "packed":
        inputs["position_ids"] = torch.cat((torch.arange(5), torch.arange(12))).expand(2, -1)
    assert_same(
        step(compile_whole(language_model), language_model, **inputs),
        step(language_model, language_model, **inputs),
    )
    assert num_graphs() == 1


@pytest.mark.parametrize("name", [pytest.param("gin", marks=pytest.mark.long), "gin-threshold"])
def test_a_language_model_takes_any_length(name: str) -> None:
    language_model = model(num_hidden_layers=1, **MODELS[name])
    compiled = compile_whole(language_model, dynamic=True)
    for length in (17, 31, 64):
        inputs = {
            "input_ids": torch.randint(0, 65, (2, length)),
            "attention_mask": masks(length)["int"],
        }
        assert_same(
            step(compiled, language_model, **inputs), step(language_model, language_model, **inputs)
        )
    assert num_graphs() == 1


@pytest.mark.parametrize(
    "name",
    ["gin-threshold", *(pytest.param(one, marks=pytest.mark.long) for one in ("gin", "pna"))],
)
def test_cached_decoding(name: str) -> None:
    language_model = model(num_hidden_layers=1, **MODELS[name]).eval()
    ids = torch.randint(0, 65, (2, 9))
    wanted = language_model.generate(ids, max_new_tokens=5, do_sample=False, use_cache=True)
    compiled = compile_whole(language_model, dynamic=True)
    text, step_ids, cache = ids, ids, None
    with torch.no_grad():
        for _ in range(5):
            out = compiled(input_ids=step_ids, past_key_values=cache, use_cache=True)
            step_ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            text = torch.cat((text, step_ids), dim=1)
    assert torch.equal(text, wanted)
    assert num_graphs() == 2  # the text, and one more token


@pytest.mark.parametrize("name", ["gin", "gin-threshold"])
def test_gradient_checkpointing(name: str) -> None:
    language_model = model(**MODELS[name]).train()
    language_model.gradient_checkpointing_enable()
    inputs = {"input_ids": torch.randint(0, 65, (2, 17))}
    assert_same(
        step(compile_whole(language_model), language_model, **inputs),
        step(language_model, language_model, **inputs),
    )


@pytest.mark.parametrize(
    "kind",
    ["gin-threshold", *(pytest.param(one, marks=pytest.mark.long) for one in ("gin", "pna"))],
)
def test_inductor(kind: str) -> None:
    """The default backend, which compiles C++ here: other kernels, so equal only to rounding."""
    layer, x, keep = LAYERS[kind](), torch.randn(2, 11, 42), masks(11)["bool"]
    compiled = torch.compile(layer, fullgraph=True)
    for got, want in zip(
        results(compiled, layer, x, keep), results(layer, layer, x, keep), strict=True
    ):
        assert_close(got, want, atol=1e-4, rtol=1e-4)
