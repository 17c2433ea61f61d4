"""Second derivatives and torch.func: every layer, executor and backend gives the right ones, or
refuses in words.
"""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, vmap
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import Reweigh
from graphformer.attention.attend import attend
from graphformer.attention.executors import blocks as block_sizes
from graphformer.nn import (
    GINAttention,
    GINAttentionConv,
    PNAAttention,
    PNAAttentionConv,
    SumAttention,
    SumAttentionConv,
)
from graphformer.testing import check_second_gradient

LAYERS = {"gin": GINAttention, "pna": PNAAttention, "sum": SumAttention}
CONVS = {"gin": GINAttentionConv, "pna": PNAAttentionConv, "sum": SumAttentionConv}
EXECUTORS = ("flash", "dense", "stream", "edges")
BACKENDS = ("torch", "pyg", "dgl", "torch_sparse")
CUTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "threshold": {"sparsify": gf.Threshold(0.15)},
    "renormalized": {"sparsify": gf.TopK(2, renormalize=True)},
    "reweighed": {"sparsify": Reweigh("sigmoid", 0.1)},
    "sigmoid": {"normalize": "sigmoid"},
    "differential": {"score": "differential"},
    "pairwise": {"score": "pairwise"},
}
NODES, ENDS = (
    5,
    (
        torch.tensor([0, 1, 1, 4, 3, 0, 2, 1, 0, 3, 3]),
        torch.tensor([0, 0, 2, 2, 1, 4, 4, 4, 3, 1, 1]),
    ),
)


@pytest.fixture(autouse=True)
def in_float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def needs(backend: str) -> None:
    if backend not in gf.backends.available():
        pytest.skip(f"{backend} is not installed")


def given(executor: str) -> dict[str, Any]:
    return {"candidates": gf.Edges(*ENDS)} if executor == "edges" else {}


def refused(kind: str, cut: str, executor: str, backend: str = "auto") -> bool:
    """What flash cannot do at all, as its own error says."""
    return executor == "flash" and (
        kind == "pna" or cut not in ("whole", "differential") or backend != "auto"
    )


def marks(kind: str, cut: str) -> Any:
    """Every layer runs on every executor, whole and cut. Further cuts, which no operator sees, run
    often with one of the layers.
    """
    return () if kind == "gin" or cut in ("whole", "threshold") else pytest.mark.slow


COMBINATIONS = [
    pytest.param(*each, marks=marks(each[0], each[2]))
    for each in itertools.product(LAYERS, EXECUTORS, CUTS)
]


@pytest.mark.parametrize(("kind", "executor", "cut"), COMBINATIONS)
def test_second_derivative_of_layers(kind: str, executor: str, cut: str) -> None:
    torch.manual_seed(7)
    x = torch.randn(2, NODES, 12)
    layer = LAYERS[kind](12, 3, executor=executor, is_causal=cut != "whole", **CUTS[cut])
    if refused(kind, cut, executor):
        with pytest.raises(
            ValueError, match="executor='flash' builds no edges and cannot be used here"
        ):
            layer(x)
        return
    check_second_gradient(lambda x: layer(x, **given(executor)), x, parameters=layer)


@pytest.mark.parametrize("cut", [None, gf.Threshold(0.3)])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", CONVS)
def test_second_derivative_of_layers_on_given_edges(kind: str, backend: str, cut: Any) -> None:
    needs(backend)
    torch.manual_seed(7)
    conv = CONVS[kind](7, 10, heads=2, edge_dim=3, backend=backend, sparsify=cut)
    index = torch.stack(ENDS)
    check_second_gradient(
        lambda x, attr: conv(x, index, attr),
        torch.randn(NODES, 7),
        torch.randn(11, 3),
        parameters=conv,
    )


@pytest.mark.parametrize("reduce", gf.backends.REDUCTIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_second_derivative_of_reductions(backend: str, reduce: str) -> None:
    """Weights of either sign, a receiver without edges, edges that occur twice."""
    needs(backend)
    torch.manual_seed(7)
    graph = gf.AttentionGraph.from_edges(*ENDS, torch.randn(11), num_nodes=NODES + 1)
    arguments = torch.randn(NODES + 1, 3, requires_grad=True), torch.randn(11, requires_grad=True)

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return gf.aggregate(graph.with_weight(weight), x, reduce, backend=backend)

    assert torch.autograd.gradcheck(call, arguments)
    assert torch.autograd.gradgradcheck(call, arguments)
    # one name at a time, which is where autograd goes round what it was not told of
    for number, argument in enumerate(arguments):
        others = list(arguments)
        del others[number]
        check_second_gradient(
            lambda value, i=number, rest=others: call(*rest[:i], value, *rest[i:]), argument
        )


@pytest.mark.parametrize("kv_heads", [1, 3, 6])
@pytest.mark.parametrize("executor", ["dense", "stream", "edges"])
def test_second_derivative_of_grouped_keys_in_blocks(
    executor: str, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_sizes, "BLOCK_ELEMENTS", 11)  # rows of one lane, and single rows
    torch.manual_seed(7)
    q, k, x = (
        torch.randn(2, 6, 4, 3),
        torch.randn(2, kv_heads, NODES, 3),
        torch.randn(2, 6, NODES, 2),
    )

    def call(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        found, _ = attend(
            q,
            k,
            x,
            ("sum", "std"),
            sparsify=gf.Threshold(0.1),
            is_causal=True,
            executor=executor,
            **candidates,
        )
        return found["sum"] + found["std"]

    candidates = (
        {"candidates": gf.Edges(ENDS[0], ENDS[1].clamp(max=3))} if executor == "edges" else {}
    )
    check_second_gradient(call, q, k, x)
    for size in (11, 40, 200):  # several lanes a block, too
        monkeypatch.setattr(block_sizes, "BLOCK_ELEMENTS", size)
        check_second_gradient(call, q, k, x)


def test_second_derivative_of_flash_with_masks_and_shared_keys() -> None:
    torch.manual_seed(7)
    keep = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0]])
    q, k, x = torch.randn(2, 6, NODES, 3), torch.randn(2, 2, NODES, 3), torch.randn(2, 2, NODES, 4)
    for mask, causal, keys in itertools.product((None, keep), (False, True), (NODES, 3)):
        if mask is not None and keys != NODES:
            continue
        own = q[:, :, :keys] if causal else q
        check_second_gradient(
            lambda q, k, x, m=mask, c=causal: attend(
                q, k, x, is_causal=c, attention_mask=m, executor="flash"
            )[0]["sum"],
            own,
            k,
            x,
        )


def test_second_derivative_of_flash_with_dropout_says_who_can() -> None:
    """The kernel on this processor writes its matrix out where weights are dropped; one that does
    not must say so.
    """
    from graphformer.attention.executors import twice

    q = torch.randn(1, 2, NODES, 3, requires_grad=True)
    entered, _, x = twice.Entry.apply(twice.Passage(None, 1.0, True), q, q, q)  # type: ignore[arg-type]
    (first,) = torch.autograd.grad((entered * x).sum(), q, create_graph=True)
    with pytest.raises(
        RuntimeError,
        match=r"executor='flash' has no second derivative with dropout: .* choose executor='dense' "
        r"or 'stream'",
    ):
        torch.autograd.grad(first.sum(), q)


def test_a_named_derivative_of_one_number_of_the_gradient() -> None:
    """``grad(g[0, 0], x)`` and ``torch.autograd.functional.hessian`` beside the dense formula of
    sum-attention.
    """
    torch.manual_seed(7)
    layer = SumAttention(6, 2, sharpening=True, is_causal=False)
    x = torch.randn(1, NODES, 6, requires_grad=True)

    def formula(x: Tensor) -> Tensor:
        q, k, v = (
            p(x).view(NODES, 2, 3).transpose(0, 1)
            for p in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        return (
            layer.o_proj(
                ((layer.sharpening * q @ k.mT / 3**0.5).softmax(-1) @ v)
                .transpose(0, 1)
                .reshape(1, NODES, 6)
            )
            .square()
            .sum()
        )

    want = torch.autograd.functional.hessian(formula, x)
    for executor in ("flash", "dense", "stream"):
        layer.executor = executor

        def energy(x: Tensor) -> Tensor:
            return layer(x).square().sum()

        assert_close(torch.autograd.functional.hessian(energy, x), want)
        assert_close(jacrev(jacrev(energy))(x.detach()), want)
        (first,) = torch.autograd.grad(energy(x), x, create_graph=True)
        (second,) = torch.autograd.grad(first[0, 0, 0], x)
        assert_close(second, want[0, 0, 0])


# ---------------------------------------------------------------------- torch.func


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", LAYERS)
def test_func_grad_and_jacrev(kind: str, executor: str) -> None:
    if refused(kind, "whole", executor):
        pytest.skip("flash needs sums")
    torch.manual_seed(7)
    layer, x = LAYERS[kind](6, 2, executor=executor), torch.randn(1, NODES, 6)
    cut = (
        LAYERS[kind](6, 2, executor=executor, sparsify=gf.Threshold(0.2))
        if executor != "flash"
        else layer
    )
    for module in (layer, cut):

        def call(x: Tensor, module: nn.Module = module) -> Tensor:
            return module(x, **given(executor)).square()

        leaf = x.clone().requires_grad_()
        (want,) = torch.autograd.grad(call(leaf).sum(), leaf)
        assert_close(grad(lambda x: call(x).sum())(x), want)
        assert_close(jacrev(call)(x), torch.autograd.functional.jacobian(call, x))
        if executor == "stream":
            with pytest.raises(
                RuntimeError,
                match=r"executor='stream' cannot take many gradients .* torch.func.jacrev",
            ):
                torch.autograd.functional.jacobian(call, x, vectorize=True)
        else:
            assert_close(
                torch.autograd.functional.jacobian(call, x, vectorize=True),
                torch.autograd.functional.jacobian(call, x),
            )
        parameters = dict(module.named_parameters())
        got = grad(
            lambda p, module=module: (
                functional_call(module, p, (x,), given(executor)).square().sum()
            )
        )(parameters)
        wanted = torch.autograd.grad(call(x).sum(), list(parameters.values()))
        for name, value in zip(parameters, wanted, strict=True):
            assert_close(got[name], value, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("executor", ["flash", "dense", "edges"])
@pytest.mark.parametrize("kind", LAYERS)
def test_vmap_over_samples(kind: str, executor: str) -> None:
    if refused(kind, "whole", executor):
        pytest.skip("flash needs sums")
    torch.manual_seed(7)
    layer, xs = LAYERS[kind](6, 2, executor=executor), torch.randn(3, 1, NODES, 6)
    assert_close(
        vmap(lambda x: layer(x, **given(executor)))(xs),
        torch.stack([layer(x, **given(executor)) for x in xs]),
    )
    slope = grad(lambda x: layer(x, **given(executor)).square().sum())
    assert_close(vmap(slope)(xs), torch.stack([slope(x) for x in xs]))


@pytest.mark.parametrize("executor", ["dense", "stream", "edges"])
def test_vmap_over_samples_of_unequal_edges_says_what_can(executor: str) -> None:
    layer, xs = (
        GINAttention(6, 2, executor=executor, sparsify=gf.Threshold(0.2)),
        torch.randn(3, 1, NODES, 6),
    )
    with pytest.raises(
        ValueError,
        match=r"vmap cannot run here: .* Where nothing is cut .* with executor='dense'",
    ):
        vmap(lambda x: layer(x, **given(executor)))(xs)
    if executor == "stream":
        layer.sparsify = None
        with pytest.raises(
            ValueError, match=r"Give the samples as the batch of one call .*, or loop over them"
        ):
            vmap(layer)(xs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", CONVS)
def test_func_on_given_edges(kind: str, backend: str) -> None:
    """Samples of features, and models of one kind: a gradient for each."""
    needs(backend)
    torch.manual_seed(7)
    conv, index, xs, attr = (
        CONVS[kind](7, 10, heads=2, edge_dim=3, backend=backend),
        torch.stack(ENDS),
        torch.randn(3, NODES, 7),
        torch.randn(11, 3),
    )
    slope = grad(lambda x: conv(x, index, attr).square().sum())
    assert_close(
        vmap(lambda x: conv(x, index, attr))(xs), torch.stack([conv(x, index, attr) for x in xs])
    )
    assert_close(vmap(slope)(xs), torch.stack([slope(x) for x in xs]))
    parameters = dict(conv.named_parameters())
    per_sample = vmap(
        grad(lambda p, x: functional_call(conv, p, (x, index, attr)).square().sum()),
        in_dims=(None, 0),
    )(parameters, xs)
    for i, x in enumerate(xs):
        wanted = torch.autograd.grad(conv(x, index, attr).square().sum(), list(parameters.values()))
        for name, value in zip(parameters, wanted, strict=True):
            assert_close(per_sample[name][i], value, atol=1e-11, rtol=1e-9)
    assert_close(
        jacrev(jacrev(lambda x: conv(x, index, attr).square().sum()))(xs[0]),
        torch.autograd.functional.hessian(lambda x: conv(x, index, attr).square().sum(), xs[0]),
    )
    cut = CONVS[kind](7, 10, heads=2, sparsify=gf.Threshold(0.2), backend=backend)
    with pytest.raises(
        ValueError,
        match=r"vmap cannot run here: .*PyG's Batch",
    ):
        vmap(lambda x: cut(x, index))(xs)


@pytest.mark.parametrize("reduce", [*gf.backends.REDUCTIONS, "max_norm@0.2"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_func_on_reductions(backend: str, reduce: str) -> None:
    """Over samples, for the gradient, and for a gradient of each sample, on a graph that is built
    inside the transform.
    """
    needs(backend)
    torch.manual_seed(7)
    weight, xs = torch.randn(11), torch.randn(3, NODES + 1, 3)

    def call(x: Tensor, backend: str = backend) -> Tensor:
        return gf.aggregate(
            gf.AttentionGraph.from_edges(*ENDS, weight, num_nodes=NODES + 1),
            x,
            reduce,
            backend=backend,
        )

    def slope(x: Tensor) -> Tensor:
        return grad(lambda x: call(x).square().sum())(x)

    leaf = xs.clone().requires_grad_()
    (want,) = torch.autograd.grad(sum(call(x).square().sum() for x in leaf), leaf)
    assert_close(vmap(call)(xs), torch.stack([call(x, "torch") for x in xs]))
    assert_close(slope(xs[0]), want[0])
    assert_close(vmap(slope)(xs), want)


def test_forward_mode_is_refused_by_name() -> None:
    """torch.func.hessian is forward over reverse, which functions with a gradient of their own do
    not have.
    """
    conv, index = GINAttentionConv(7, 10, heads=2), torch.stack(ENDS)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"jvp|forward"):
        hessian(lambda x: conv(x, index).sum())(torch.randn(NODES, 7))


# ---------------------------------------------------------------------- models


@pytest.mark.parametrize("operator", ["gin", "sum", "pna"])
def test_second_derivative_of_a_language_model(operator: str) -> None:
    torch.manual_seed(7)
    config = gf.GraphformerConfig(
        vocab_size=7,
        hidden_size=12,
        intermediate_size=5,
        num_hidden_layers=2,
        num_attention_heads=3,
        operator=operator,
        pad_token_id=None,
    )
    model = gf.GraphformerForCausalLM(config).double().eval()
    check_second_gradient(
        lambda x: model(inputs_embeds=x, use_cache=False).logits,
        torch.randn(1, NODES, 12),
        parameters={},
    )


def test_second_derivative_of_a_graph_transformer() -> None:
    from torch_geometric.data import Data

    torch.manual_seed(7)
    model = (
        gf.GraphTransformer(
            node_dim=4,
            edge_dim=3,
            hidden_size=6,
            num_layers=2,
            num_heads=2,
            target="graph",
            out_dim=1,
        )
        .double()
        .eval()
    )
    index, attr = torch.stack(ENDS), torch.randn(11, 3)

    def energy(x: Tensor) -> Tensor:
        return model(Data(x=x, edge_index=index, edge_attr=attr)).prediction

    check_second_gradient(energy, torch.randn(NODES, 4), parameters={})


def test_second_derivative_of_sparse_gin() -> None:
    torch.manual_seed(7)
    network = gf.nn.SparseGIN(12, 5, dropout=0.0)
    graph = gf.AttentionGraph.from_edges(*ENDS, torch.rand(11), num_nodes=NODES, batch_shape=(1,))
    check_second_gradient(
        lambda x, w: network(x, graph.with_weight(w)),
        torch.randn(1, NODES, 12),
        torch.rand(11),
        parameters=network,
    )


def test_second_derivative_where_stretches_are_computed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from graphformer.nn import recompute

    monkeypatch.setattr(recompute, "CHUNK_TOKENS", 2)
    torch.manual_seed(7)
    layer = GINAttention(6, 2)
    check_second_gradient(layer, torch.randn(1, NODES, 6))
    assert_close(
        vmap(grad(lambda x: layer(x).sum()))(torch.ones(2, 1, NODES, 6))[0],
        grad(lambda x: layer(x).sum())(torch.ones(1, NODES, 6)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("cut", [None, gf.Threshold(0.2)])
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_second_derivative_of_compiled_code_is_refused_or_right(compiler: str, cut: Any) -> None:
    torch._dynamo.reset()
    torch.manual_seed(7)
    layer, x = GINAttention(6, 2, sparsify=cut), torch.randn(1, NODES, 6)
    try:
        check_second_gradient(torch.compile(layer, backend=compiler), x, parameters={})
    except RuntimeError as error:
        assert any(
            text in str(error)
            for text in (
                "double backward",
                "create_graph=False",
                "executor='dense'",
                "no autograd formula",
                "not implemented",
            )
        ), error
    torch._dynamo.reset()
