"""aggregate: every backend and reduction against the dense formula, outputs and gradients, and who
really does the work.
"""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from graphformer import AttentionGraph, MissingExtra, aggregate, backends
from graphformer.attention.executors.dense import reduce as dense_reduce
from graphformer.backends import REDUCTIONS

KNOWN = ("torch", "pyg", "dgl", "torch_sparse")
AVAILABLE = backends.available()
ALL = [
    pytest.param(
        name, marks=[] if name in AVAILABLE else pytest.mark.skip(reason=f"{name} is not installed")
    )
    for name in KNOWN
]
every_backend = pytest.mark.parametrize("backend", ALL)
every_reduction = pytest.mark.parametrize("reduce", REDUCTIONS)


def matrices(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Weights and which of them are edges; receiver 1 of every lane has no edges, and one edge has
    weight 0.
    """
    keep = torch.rand(shape) > 0.4
    keep[..., 1, :] = False
    keep[..., 2, :] = True
    weights = torch.rand(shape, dtype=dtype) + 0.1
    weights[..., 2, 0] = 0
    return weights, keep


def check(
    weights: Tensor, keep: Tensor, x: Tensor, reduce: str, backend: str, *, weighted: bool = True
) -> None:
    """Outputs and gradients to x and weights equal those of the dense formula."""
    ours = [weights.clone().requires_grad_(), x.clone().requires_grad_()]
    theirs = [weights.clone().requires_grad_(), x.clone().requires_grad_()]
    graph = AttentionGraph.from_dense(ours[0], keep=keep)
    actual = aggregate(graph if weighted else graph.unweighted(), ours[1], reduce, backend=backend)
    wanted = dense_reduce(
        theirs[0] if weighted else torch.ones_like(theirs[0]), keep, theirs[1], reduce
    )
    assert actual.shape == wanted.shape and actual.dtype == x.dtype
    assert_close(actual, wanted)
    # sqrt has no slope at 0: rows whose variance is 0 take no part in std's gradients, and have a
    # test of their own.
    slope = torch.randn_like(wanted) * (
        torch.isfinite(wanted) & ((wanted.detach() != 0) | torch.tensor(reduce != "std"))
    )
    (actual * slope).sum().backward()
    if reduce == "std":
        spread = dense_reduce(
            theirs[0] if weighted else torch.ones_like(theirs[0]), keep, theirs[1], "var"
        )
        wanted = torch.where(spread > 0, spread, 1.0).sqrt()
    (wanted * slope).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        other_grad = torch.zeros_like(other) if other.grad is None else other.grad
        assert_close(torch.zeros_like(mine) if mine.grad is None else mine.grad, other_grad)


@every_backend
@every_reduction
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (2, 3, 5, 7), (3, 7, 5), (5, 7)], ids=str)
def test_equals_the_dense_formula(
    backend: str, reduce: str, weighted: bool, shape: tuple[int, ...]
):
    x = torch.randn(*shape[:-2], shape[-1], 11, dtype=torch.float64)
    check(*matrices(*shape), x, reduce, backend, weighted=weighted)


@every_backend
@every_reduction
def test_float32(backend: str, reduce: str):
    weights, keep = matrices(2, 3, 5, 7, dtype=torch.float32)
    check(weights, keep, torch.randn(2, 3, 7, 11), reduce, backend)


@every_backend
def test_sum_by_hand(backend: str):
    """Receiver 1 hears from 0 (weight 4) and 2 (weight 1); nobody else hears anything."""
    graph = AttentionGraph.from_edges(
        torch.tensor([2, 0]), torch.tensor([1, 1]), torch.tensor([1.0, 4.0]), num_nodes=3
    )
    x = torch.tensor([[1.0], [100.0], [11.0]])
    wanted = {
        "sum": 15.0,
        "mean": 3.0,
        "max": 11.0,
        "min": 1.0,
        "var": 16.0,
        "std": 4.0,
        "max_norm": 11.0,
        "min_norm": 1.0,
    }
    for reduce in REDUCTIONS:
        assert_close(
            aggregate(graph, x, reduce, backend=backend),
            torch.tensor([[0.0], [wanted[reduce]], [0.0]]),
        )


@every_backend
@every_reduction
def test_gradcheck(backend: str, reduce: str):
    weights, keep = matrices(2, 3, 5)
    if reduce in ("mean", "var", "std"):
        # finite differences would step across the corner that |w| has at 0
        weights[..., 2, 0] = 0.05
    graph = AttentionGraph.from_dense(weights, keep=keep)
    # Distinct features: neither max and min nor the variance of a row with several senders has a
    # kink here.
    x = torch.randperm(2 * 5 * 2).double().view(2, 5, 2) / 7
    several = ((weights != 0) & keep).sum(-1, keepdim=True) > 1

    def run(x: Tensor, weight: Tensor) -> Tensor:
        out = aggregate(graph.with_weight(weight), x, reduce, backend=backend)
        return out * several if reduce == "std" else out

    assert torch.autograd.gradcheck(
        run, (x.requires_grad_(), graph.weight.clone().requires_grad_())
    )


@every_backend
def test_gradcheck_of_the_deviation_from_any_center(backend: str):
    """``var`` asks for the deviation from the mean only, where the slope in the center happens to
    be 0.
    """
    weights, keep = matrices(2, 3, 5)
    weights[..., 2, 0] = -0.05  # of either sign, and not at the corner that |w| has at 0
    graph = AttentionGraph.from_dense(weights, keep=keep)

    def run(x: Tensor, weight: Tensor, center: Tensor) -> Tensor:
        return backends.get(backend).weighted_deviation(graph.with_weight(weight), x, center)

    leaves = (
        torch.randn(10, 2, dtype=torch.float64),
        graph.weight.clone(),
        torch.randn(6, 2, dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(run, [leaf.requires_grad_() for leaf in leaves])


@every_backend
@pytest.mark.parametrize("reduce", ["mean", "var", "std"])
def test_weights_that_cancel_stay_within_their_messages(backend: str, reduce: str):
    """.1 + .2 - .3 is not 0 in floating point, and a mean divided by it was -7e15."""
    x = torch.tensor(
        [[1.0, -2.0], [3.0, 5.0], [-4.0, 7.0]], dtype=torch.float64, requires_grad=True
    )
    weight = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64, requires_grad=True)
    graph = AttentionGraph.from_edges(
        torch.arange(3), torch.zeros(3, dtype=torch.int64), weight, num_senders=3, num_receivers=1
    )
    out = aggregate(graph, x, reduce, backend=backend)
    # what arrives, each with its weight's size
    sample = x.detach() * weight.detach().sign().unsqueeze(-1)
    mean = (weight.detach().abs().unsqueeze(-1) * sample).sum(0) / 0.6
    var = (weight.detach().abs().unsqueeze(-1) * (sample - mean) ** 2).sum(0) / 0.6
    assert_close(out[0], {"mean": mean, "var": var, "std": var.sqrt()}[reduce])
    assert_close(
        dense_reduce(
            weight.detach().view(1, 3), torch.ones(1, 3, dtype=torch.bool), x.detach(), reduce
        )[0],
        out[0].detach(),
    )
    out.sum().backward()
    assert weight.grad.abs().max() < 1e3 and x.grad.abs().max() < 1e3
    assert_close(graph.renormalize().weight.detach(), weight.detach() / 0.6)


# ---------------------------------------------------------------- layouts and precisions


@every_backend
@every_reduction
def test_flat_and_shaped_features(backend: str, reduce: str):
    weights, keep = matrices(2, 3, 5, 7)
    graph, x = (
        AttentionGraph.from_dense(weights, keep=keep),
        torch.randn(2, 3, 7, 11, dtype=torch.float64),
    )
    shaped = aggregate(graph, x, reduce, backend=backend)
    flat = aggregate(graph, x.flatten(0, 2), reduce, backend=backend)
    assert shaped.shape == (2, 3, 5, 11) and flat.shape == (30, 11)
    assert torch.equal(shaped.flatten(0, 2), flat)


@every_backend
@every_reduction
def test_features_that_are_not_contiguous(backend: str, reduce: str):
    weights, keep = matrices(2, 3, 5, 7)
    x = torch.randn(2, 7, 3, 11, dtype=torch.float64).transpose(1, 2)
    flat = torch.randn(11, 7, dtype=torch.float64).T
    assert not x.is_contiguous() and not flat.is_contiguous()
    check(weights, keep, x, reduce, backend)
    check(weights[0, 0], keep[0, 0], flat, reduce, backend)
    # a gradient that is not contiguous either
    graph, x = (
        AttentionGraph.from_dense(weights[0, 0], keep=keep[0, 0]),
        flat.detach().requires_grad_(),
    )
    out = aggregate(graph, x, reduce, backend=backend)
    wanted = torch.autograd.grad(out, x, torch.ones(5, 11, dtype=torch.float64), retain_graph=True)[
        0
    ]
    assert_close(
        torch.autograd.grad(out, x, torch.ones(1, 1, dtype=torch.float64).expand(5, 11))[0], wanted
    )


@every_backend
@every_reduction
@pytest.mark.parametrize("width", [0, 1])
def test_narrow_features(backend: str, reduce: str, width: int):
    weights, keep = matrices(2, 3, 5, 7)
    x = torch.randn(2, 3, 7, width, dtype=torch.float64)
    if width:
        check(weights, keep, x, reduce, backend)
    out = aggregate(
        AttentionGraph.from_dense(weights, keep=keep), x.requires_grad_(), reduce, backend=backend
    )
    out.sum().backward()
    assert out.shape == (2, 3, 5, width) and x.grad.shape == x.shape


@every_backend
@every_reduction
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(backend: str, reduce: str, dtype: torch.dtype):
    """The only error is that of rounding the answer: many small numbers added to a large one are
    not lost.
    """
    x = torch.cat((torch.full((1, 3), 16.0), torch.full((510, 3), 2.0**-8))).to(dtype)
    x[1:, 1] *= 1 + torch.arange(510).to(dtype) / 510
    graph = AttentionGraph.from_edges(
        torch.arange(511), torch.zeros(511, dtype=torch.long), num_senders=511, num_receivers=2
    )
    out = aggregate(graph.to(dtype), x, reduce, backend=backend)
    assert out.dtype == dtype
    assert torch.equal(
        out, aggregate(graph.to(torch.float32), x.float(), reduce, backend=backend).to(dtype)
    )
    # float32 weights (those that attention_graph makes) with half features, under autocast too
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(aggregate(graph, x, reduce, backend=backend), out)


@every_backend
def test_half_precision_gradients_have_the_inputs_precision(backend: str):
    weights, keep = matrices(3, 5, 7, dtype=torch.float32)
    graph = AttentionGraph.from_dense(weights.requires_grad_(), keep=keep)
    x = torch.randn(3, 7, 11, dtype=torch.bfloat16, requires_grad=True)
    aggregate(graph, x, backend=backend).float().square().sum().backward()
    assert x.grad.dtype == torch.bfloat16 and weights.grad.dtype == torch.float32
    assert torch.isfinite(x.grad).all() and weights.grad.abs().sum() > 0


@every_backend
def test_float64_weights_with_float32_features(backend: str):
    weights, keep = matrices(3, 5, 7)
    x = torch.randn(3, 7, 11)
    out = aggregate(AttentionGraph.from_dense(weights, keep=keep), x, backend=backend)
    assert out.dtype == torch.float32
    assert torch.equal(
        out,
        aggregate(
            AttentionGraph.from_dense(weights, keep=keep), x.double(), backend=backend
        ).float(),
    )


# ---------------------------------------------------------------- corners


@every_backend
@every_reduction
@pytest.mark.parametrize("width", [0, 1, 3])
@pytest.mark.parametrize(
    "shape", [(0, 3, 5, 5), (2, 3, 0, 0), (2, 3, 5, 0), (2, 3, 0, 5), (2, 3, 5, 7), (1, 1)], ids=str
)
def test_graphs_without_edges_give_zeros(
    backend: str, reduce: str, width: int, shape: tuple[int, ...]
):
    graph = AttentionGraph.from_dense(torch.zeros(shape, requires_grad=True))
    x = torch.randn(*shape[:-2], shape[-1], width, requires_grad=True)
    out = aggregate(graph, x, reduce, backend=backend)
    assert torch.equal(out, torch.zeros(*shape[:-1], width))
    out.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@every_backend
@pytest.mark.parametrize("reduce", ["max", "min"])
def test_equal_features_share_the_gradient(backend: str, reduce: str):
    graph = AttentionGraph.from_edges(
        torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 0, 1]), torch.rand(4), num_nodes=3
    )
    worst = -9.0 if reduce == "max" else 9.0
    x = torch.tensor([[5.0], [5.0], [worst]], requires_grad=True)
    out = aggregate(graph, x, reduce, backend=backend)
    assert out.tolist() == [[5.0], [5.0], [0.0]]
    out.backward(torch.tensor([[1.0], [10.0], [100.0]]))
    assert x.grad.tolist() == [[10.5], [0.5], [0.0]]


@every_backend
@every_reduction
def test_parallel_edges_count_each(backend: str, reduce: str):
    graph = AttentionGraph.from_edges(
        torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]), torch.tensor([1.0, 2.0, 1.0]), num_nodes=2
    )
    once = AttentionGraph.from_edges(
        torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([3.0, 1.0]), num_nodes=2
    )
    x = torch.randn(2, 3)
    assert_close(
        aggregate(graph, x, reduce, backend=backend), aggregate(once, x, reduce, backend=backend)
    )


@every_backend
def test_std_of_equal_senders_is_zero_with_a_finite_gradient(backend: str):
    graph = AttentionGraph.from_dense(
        torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]], requires_grad=True)
    )
    x = torch.tensor([[3.0, 1.0], [3.0, 1.0], [3.0, 1.5]], requires_grad=True)
    out = aggregate(graph, x, "std", backend=backend)
    assert out[:, 0].tolist() == [0, 0, 0] and out[0, 1] > 0 and out[1:, 1].tolist() == [0, 0]
    out.sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad[:, 0].tolist() == [0, 0, 0] and x.grad[2, 1] > 0


@every_backend
def test_var_does_not_cancel(backend: str):
    """Features far from 0 with a small spread: E[x^2] - E[x]^2 would be all rounding."""
    graph = AttentionGraph.from_dense(torch.full((1, 2), 0.5))
    x = torch.tensor([[4096.0], [4096.5]])
    assert aggregate(graph, x, "var", backend=backend).item() == 0.0625


@every_backend
@every_reduction
def test_rows_of_weight_zero_make_no_nan(backend: str, reduce: str):
    weight = torch.zeros(2, 3, requires_grad=True)
    x = torch.randn(3, 5, requires_grad=True)
    out = aggregate(
        AttentionGraph.from_dense(weight, keep=torch.ones(2, 3, dtype=torch.bool)),
        x,
        reduce,
        backend=backend,
    )
    # the others look at the senders, not at the weights
    if reduce in ("sum", "mean", "var", "std"):
        assert torch.equal(out, torch.zeros(2, 5))
    out.sum().backward()
    assert torch.isfinite(x.grad).all() and (
        weight.grad is None or torch.isfinite(weight.grad).all()
    )


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    lanes=st.lists(st.integers(1, 3), max_size=2),
    receivers=st.integers(1, 4),
    senders=st.integers(1, 4),
    width=st.integers(1, 3),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_odd_graphs(
    seed: int, lanes: list[int], receivers: int, senders: int, width: int, density: float
):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(*lanes, receivers, senders, generator=generator, dtype=torch.float64) + 0.1
    keep = torch.rand(*lanes, receivers, senders, generator=generator) < density
    x = torch.rand(*lanes, senders, width, generator=generator, dtype=torch.float64)
    for backend in AVAILABLE:
        for reduce in ("sum", "mean", "max", "var"):
            check(weights, keep, x, reduce, backend)


# ---------------------------------------------------------------- who does the work


class Counter:
    """Stands in for a function and counts the calls that it passes on."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.function(*args, **kwargs)


@pytest.fixture
def kernels(monkeypatch) -> dict[str, Counter]:
    """Counters in the other libraries, at the last Python step before their own compiled code."""
    counters: dict[str, Counter] = {}

    def watch(name: str, owner: object, attribute: str) -> None:
        counters[name] = Counter(getattr(owner, attribute))
        # A plain function, so that it binds as a method where the owner is a class.
        monkeypatch.setattr(
            owner, attribute, lambda *args, **kwargs: counters[name](*args, **kwargs)
        )

    from torch_geometric.nn import MessagePassing
    from torch_geometric.nn.aggr import MaxAggregation, SumAggregation

    watch("pyg.message_passing", MessagePassing, "aggregate")
    watch("pyg.sum", SumAggregation, "forward")
    watch("pyg.max", MaxAggregation, "forward")
    if "dgl" in AVAILABLE:
        sparse = importlib.import_module("dgl._sparse_ops")
        watch("dgl.gspmm", sparse, "_CAPI_DGLKernelSpMM")
        watch("dgl.gsddmm", sparse, "_CAPI_DGLKernelSDDMM")
    if "torch_sparse" in AVAILABLE:
        module = importlib.import_module("torch_sparse.matmul")
        watch("torch_sparse.sum", module, "spmm_sum")
        watch("torch_sparse.max", module, "spmm_max")
        watch(
            "torch_sparse.reduce",
            importlib.import_module("torch_sparse.tensor").SparseTensor,
            "sum",
        )
    return counters


@pytest.mark.parametrize(
    ("backend", "reduce", "forward", "backward"),
    [
        ("torch", "sum", set(), set()),
        ("torch", "std", set(), set()),
        ("torch", "max", set(), set()),
        ("pyg", "sum", {"pyg.message_passing", "pyg.sum"}, set()),
        ("pyg", "std", {"pyg.message_passing", "pyg.sum"}, set()),
        ("pyg", "max", {"pyg.message_passing", "pyg.max"}, set()),
        ("dgl", "sum", {"dgl.gspmm"}, {"dgl.gspmm", "dgl.gsddmm"}),
        ("dgl", "std", {"dgl.gspmm", "dgl.gsddmm"}, {"dgl.gspmm", "dgl.gsddmm"}),
        ("dgl", "max", {"dgl.gspmm"}, set()),
        ("torch_sparse", "sum", {"torch_sparse.sum"}, set()),
        ("torch_sparse", "std", {"torch_sparse.sum", "torch_sparse.reduce"}, set()),
        ("torch_sparse", "max", {"torch_sparse.max"}, set()),
    ],
)
def test_a_named_backend_does_the_work_itself(
    kernels, backend: str, reduce: str, forward: set[str], backward: set[str]
):
    if backend not in AVAILABLE:
        pytest.skip(f"{backend} is not installed")
    weights, keep = matrices(3, 5, 7)
    x = torch.randn(3, 7, 2, dtype=torch.float64, requires_grad=True)
    out = aggregate(
        AttentionGraph.from_dense(weights.requires_grad_(), keep=keep), x, reduce, backend=backend
    )
    assert {name for name, counter in kernels.items() if counter.calls} == forward
    for counter in kernels.values():
        counter.calls = 0
    out.sum().backward()
    assert {name for name, counter in kernels.items() if counter.calls} == backward


def test_auto_is_torch():
    assert backends.get().name == backends.get("auto").name == "torch"
    assert all(backends.get(name).name == name for name in AVAILABLE)
    assert AVAILABLE[:2] == ("torch", "pyg")  # both are always installed


# ---------------------------------------------------------------- errors


def test_unknown_backend_lists_known_and_installed_ones():
    known, installed = "auto, torch, pyg, dgl, torch_sparse", ", ".join(AVAILABLE)
    with pytest.raises(
        ValueError, match=f"unknown backend 'jax'; known: {known}; installed here: {installed}$"
    ):
        backends.get("jax")


def test_wrong_arguments():
    graph = AttentionGraph.from_dense(torch.rand(2, 3, 5, 7))
    with pytest.raises(
        ValueError, match="unknown reduce 'median'; known: sum, mean, max, min, var, std"
    ):
        aggregate(graph, torch.rand(2, 3, 7, 11), "median")
    with pytest.raises(
        TypeError, match=r"x must be floating point, got torch.int64; convert it with x.float\(\)"
    ):
        aggregate(graph, torch.ones(42, 1, dtype=torch.int64))
    for shape in [(2, 3, 5, 11), (30, 11), (3, 2, 7, 11), (42,), (6, 7, 11)]:
        with pytest.raises(
            ValueError,
            match=r"x must be \[42, D\] or \[2, 3, 7, D\] \(lanes and senders of this graph\), got "
            r"shape \(",
        ):
            aggregate(graph, torch.rand(shape))
    with pytest.raises(
        ValueError,
        match=r"x is on meta but the graph is on cpu; move one of them with .to\(\.\.\.\)",
    ):
        aggregate(graph, torch.rand(42, 11, device="meta"))


@pytest.fixture
def absent(monkeypatch):
    """Makes packages look as if they were not installed."""

    def hide(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(__import__("sys").modules, name, None)
        backends._load.cache_clear()

    yield hide
    backends._load.cache_clear()


@pytest.mark.parametrize(
    ("backend", "module", "extra"),
    [
        ("dgl", "dgl", "dgl"),
        ("torch_sparse", "torch_sparse", "torch-sparse"),
        ("torch_sparse", "torch_scatter", "torch-sparse"),
    ],
)
def test_a_missing_package_names_its_extra(absent, backend: str, module: str, extra: str):
    absent(module)
    text = (
        rf"backend='{backend}' needs the package '{module}', which is not installed. .* pip "
        rf"install 'graphformer\[{extra}\]'"
    )
    if backend == "torch_sparse" and module == "torch_sparse" and "torch_sparse" not in AVAILABLE:
        pytest.skip("torch_scatter is looked up first, and it is not installed")
    with pytest.raises(MissingExtra, match=text):
        aggregate(AttentionGraph.from_dense(torch.rand(3, 3)), torch.rand(3, 2), backend=backend)
    assert backend not in backends.available()
    with pytest.raises(ValueError, match="installed here: (?!.*" + backend + ")"):
        backends.get("jax")


def test_a_package_that_cannot_be_imported_shows_why(monkeypatch):
    def broken(name: str):
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(backends, "_load", broken)
    with pytest.raises(
        RuntimeError, match=r"backend 'dgl' is installed but cannot be imported: libgomp.so.1"
    ):
        backends.get("dgl")
    assert backends.available() == ()


def test_the_dependency_of_a_package_is_not_taken_for_the_package(monkeypatch):
    from graphformer.errors import require

    def broken(name: str):
        raise ModuleNotFoundError("No module named 'psutil'", name="psutil")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="No module named 'psutil'") as caught:
        require("dgl", extra="dgl", why="backend='dgl'")
    assert not isinstance(caught.value, MissingExtra)


@pytest.mark.parametrize(("backend", "build"), [("dgl", "DGL"), ("torch_sparse", "torch-sparse")])
def test_cuda_tensors_with_a_cpu_build(backend: str, build: str):
    if backend not in AVAILABLE:
        pytest.skip(f"{backend} is not installed")
    if torch.cuda.is_available():
        pytest.skip("the build here may have CUDA")

    class OnCuda(Tensor):  # no real one can be made here
        is_cuda = True
        device = torch.device("cuda:0")

    x = torch.rand(2, 3).as_subclass(OnCuda)
    with pytest.raises(
        RuntimeError,
        match=f"backend='{backend}' got tensors on cuda:0, but the installed {build}.* is a CPU "
        "build; ",
    ):
        backends.get(backend).check(AttentionGraph.from_dense(torch.rand(2, 2)), x)


@pytest.mark.gpu
@every_backend
@every_reduction
def test_cuda_equals_cpu(backend: str, reduce: str):
    weights, keep = matrices(2, 3, 5, 7)
    graph, x = (
        AttentionGraph.from_dense(weights, keep=keep),
        torch.randn(2, 3, 7, 11, dtype=torch.float64),
    )
    try:
        out = aggregate(graph.to("cuda"), x.cuda(), reduce, backend=backend)
    except RuntimeError as error:
        assert "is a CPU build" in str(error) and backend in ("dgl", "torch_sparse")
    else:
        assert_close(out.cpu(), aggregate(graph, x, reduce, backend=backend))
    with pytest.raises(ValueError, match="x is on cuda:0 but the graph is on cpu"):
        aggregate(graph, x.cuda(), reduce, backend=backend)
