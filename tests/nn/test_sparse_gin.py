"""Sparse-GIN: its formula, the laws, a cache, precisions, what it refuses."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import graphformer as gf
from graphformer import AttentionGraph
from graphformer.attention import merged_graph
from graphformer.nn import SparseGIN, self_loops

pytestmark = pytest.mark.usefixtures("float64")

WIDTH, HEADS = 35, 5
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}
VARIANTS: dict[str, dict] = {
    "plain": {},
    "deep": {"depth": 3, "residual": True, "activation": "gelu"},
    "no-mlp": {"mlp_ratio": None, "depth": 2},
    "wide-normed": {"mlp_ratio": 1.7, "hidden_norm": True, "activation": "silu"},
    "no-projection": {"hidden_dim": WIDTH, "output_norm": False, "activation": "relu"},
    "unweighted": {"weighted": False, "residual": True, "activation": "tanh"},
    "own-features": {"self_weight": 1.0, "input_norm": True, "depth": 2},
    "heads": {"num_heads": HEADS, "depth": 2},
    "heads-mixed": {
        "num_heads": HEADS,
        "mix_heads": True,
        "hidden_norm": True,
        "output_norm": False,
    },
    "heads-no-projection": {
        "num_heads": HEADS,
        "hidden_dim": WIDTH // HEADS,
        "mlp_ratio": None,
        "residual": True,
    },
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def jittered(module: nn.Module) -> nn.Module:
    """Away from the start, where epsilon is 0 and norms are 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module


def made(variant: str, **changes) -> SparseGIN:
    options = {"hidden_dim": 11, "dropout": 0.0, **VARIANTS[variant], **changes}
    return jittered(SparseGIN(WIDTH, **options)).eval()


def lanes(variant: str, batch: int) -> tuple[int, ...]:
    return (batch, HEADS) if "num_heads" in VARIANTS[variant] else (batch,)


def causal_weights(
    variant: str, batch: int = 2, length: int = 7, dtype: torch.dtype | None = None
) -> Tensor:
    """Sparse causal matrices; some rows are empty, and some tokens have no edge to themselves."""
    dense = torch.rand(*lanes(variant, batch), length, length, dtype=dtype)
    return (dense * (dense > 0.4)).tril()


def naive(gin: SparseGIN, h: Tensor, dense: Tensor) -> Tensor:
    """The formula head by head, on matrices, with torch's own layers."""
    heads = gin.num_heads or 1
    outs = []
    h = h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() if gin.input_norm else h
    for head, x in enumerate(h.chunk(heads, -1)):
        matrix = dense if gin.num_heads is None else dense[:, head]
        matrix = matrix if gin.weighted else (matrix != 0).to(dense.dtype)

        def linear(x: Tensor, layer: nn.Module, head: int = head) -> Tensor:
            return (
                x if isinstance(layer, nn.Identity) else x @ layer.weight[head] + layer.bias[head]
            )

        def act(x: Tensor, head: int = head) -> Tensor:
            return (
                F.prelu(x, gin.slope[head])
                if gin.activation == "prelu"
                else ACTIVATIONS[gin.activation](x)
            )

        x = linear(x, gin.input_projection)
        for layer in gin.layers:
            z = (layer.self_weight + layer.eps[head]) * x + matrix @ x
            out = linear(z, layer.linear1)
            if layer.norm_weight is not None:
                out = F.layer_norm(
                    out, out.shape[-1:], layer.norm_weight[head, 0], layer.norm_bias[head, 0]
                )
            out = act(out) if layer.linear2 is None else linear(act(out), layer.linear2) + z
            x = act(out) + x if gin.residual else act(out)
        outs.append(linear(x, gin.output_projection))
    out = torch.cat(outs, -1)
    out = out if gin.mix is None else gin.mix(out)
    return out if gin.norm is None else gin.norm(out)


# ---------------------------------------------------------------- the formula


@each_variant
@pytest.mark.parametrize("backend", ["torch", "pyg", "dgl", "torch_sparse"])
def test_formula(variant: str, backend: str):
    if backend in ("dgl", "torch_sparse"):
        pytest.importorskip(backend)
    gin, dense = made(variant, backend=backend), causal_weights(variant).requires_grad_()
    h = torch.randn(2, 7, WIDTH, requires_grad=True)
    out, wanted = gin(h, AttentionGraph.from_dense(dense)), naive(gin, h, dense)
    assert_close(out, wanted, atol=1e-5, rtol=1e-5)
    leaves = [h, dense, *gin.parameters()] if gin.weighted else [h, *gin.parameters()]
    grad = torch.randn_like(out)
    found, twins = (torch.autograd.grad(value, leaves, grad) for value in (out, wanted))
    for got, want in zip(found, twins, strict=True):
        got = got * (dense != 0) if want.shape == dense.shape else got
        # a pair that is no edge has no gradient
        want = want * (dense != 0) if want.shape == dense.shape else want
        assert_close(got, want, atol=1e-5, rtol=1e-5)


@each_variant
def test_gradcheck(variant: str):
    smooth = (
        {"activation": "tanh"}
        if VARIANTS[variant].get("activation", "prelu") in ("prelu", "relu")
        else {}
    )
    gin = made(variant, **smooth).double()
    dense = causal_weights(variant, 2, 3, torch.float64)
    graph = AttentionGraph.from_dense(dense)
    h = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda h, w: gin(h, graph.with_weight(w))[..., :5],
        (h, graph.weight.clone().requires_grad_()),
    )


def test_messages_run_from_sender_to_receiver():
    gin = made("plain")
    graph = AttentionGraph.from_edges(
        torch.tensor([1]), torch.tensor([3]), num_nodes=5, batch_shape=(1,)
    )
    h = torch.randn(1, 5, WIDTH)
    changed = h.clone()
    changed[0, 1] += 1
    moved = (gin(changed, graph) - gin(h, graph)).abs().amax(-1)[0] > 0
    assert moved.tolist() == [False, True, False, True, False]


def test_a_fresh_network_starts_as_documented():
    gin = SparseGIN(WIDTH, num_heads=HEADS, depth=2, hidden_norm=True)
    state = copy.deepcopy(gin.state_dict())
    assert (
        all((layer.eps == 0).all() for layer in gin.layers)
        and (gin.slope == 0.25).all()
        and (gin.norm.weight == 1).all()
    )
    jittered(gin)
    torch.manual_seed(7)
    gin.reset_parameters()
    for name, value in gin.state_dict().items():
        drawn = "linear" in name or "projection" in name
        assert (
            (value.abs().max() <= 1 and not torch.equal(value, state[name]))
            if drawn
            else torch.equal(value, state[name])
        ), name
    torch.manual_seed(3)
    one = SparseGIN(WIDTH)
    torch.manual_seed(3)
    assert_close(
        one.input_projection.weight[0].T.abs().max(), torch.tensor(WIDTH**-0.5), atol=0.01, rtol=0
    )
    plain = SparseGIN(WIDTH, WIDTH)
    assert not any("projection" in name for name, _ in plain.named_parameters())
    assert (
        sum(p.numel() for p in SparseGIN(64, 13).parameters())
        == 64 * 13 + 13 + 2 * 13 * 14 + 1 + 1 + 13 * 64 + 64 + 64
    )
    for word in ("hidden_size=35", "hidden_dim=16", "depth=2", "activation='prelu'", "num_heads=5"):
        assert word in repr(gin)


def test_dropout_is_for_training():
    gin, graph, h = (
        made("plain", dropout=0.5),
        AttentionGraph.from_dense(causal_weights("plain")),
        torch.randn(2, 7, WIDTH),
    )
    assert torch.equal(gin(h, graph), gin(h, graph))
    assert not torch.equal(gin.train()(h, graph), gin(h, graph))


# ---------------------------------------------------------------- the laws


class Beside(nn.Module):
    """A network beside plain attention, on the graph that this attention makes of its input."""

    def __init__(self, variant: str, alone: bool = False, **changes) -> None:
        super().__init__()
        self.gin, self.alone = made(variant, **changes), alone

    def graph(self, keys: Tensor, queries: Tensor, keep: Tensor | None = None) -> AttentionGraph:
        q, k = (x.detach().unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (queries, keys))
        reduce = "sum" if self.gin.num_heads is None else None
        cut = gf.attention.Reweigh("sigmoid", 0.1, beta=10.0, above=0.6)
        graph, _ = merged_graph(
            q, k, sparsify=cut, reduce=reduce, attention_mask=keep, is_causal=True
        )
        return self_loops(graph) if self.alone else graph

    def forward(self, h: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.gin(h, self.graph(h, h, keep))

    def cached(self, h: Tensor, sizes: list[int]) -> Tensor:
        memory: list[Tensor] = []
        start, outs = 0, []
        for size in sizes:
            new, seen = h[:, start : start + size], h[:, : start + size]
            out, memory = self.gin(new, self.graph(seen, new), memory)
            outs.append(out)
            start += size
        return torch.cat(outs, 1)


@each_variant
@pytest.mark.parametrize("alone", [False, True], ids=["messages", "self-loops"])
def test_laws_of_sequences(variant: str, alone: bool):
    layer, x = Beside(variant, alone), torch.randn(3, 11, WIDTH)
    with torch.no_grad():
        gf.testing.check_causal(layer, x)
        gf.testing.check_prefix(layer, x)
        gf.testing.check_padding(layer, x)
        gf.testing.check_batch_independence(layer, x)


@each_variant
@pytest.mark.parametrize("alone", [False, True], ids=["messages", "self-loops"])
@pytest.mark.parametrize("sizes", [[11], [1] * 11, [7, 1, 3], [0, 5, 0, 6]], ids=str)
def test_a_cache_changes_nothing(variant: str, alone: bool, sizes: list[int]):
    layer, h = Beside(variant, alone), torch.randn(2, 11, WIDTH)
    with torch.no_grad():
        assert_close(layer.cached(h, sizes), layer(h), atol=1e-5, rtol=1e-5)


@each_variant
def test_memory(variant: str):
    gin, dense, h = made(variant), causal_weights(variant), torch.randn(2, 7, WIDTH)
    out, memory = gin(h, AttentionGraph.from_dense(dense), [])
    assert_close(out, gin(h, AttentionGraph.from_dense(dense)))
    shape = (*lanes(variant, 2), 7, gin.hidden_dim)
    assert [tuple(part.shape) for part in memory] == [shape] * gin.depth
    empty, _ = gin(
        h,
        AttentionGraph.from_dense(dense),
        [torch.empty(*shape[:-2], 0, gin.hidden_dim)] * gin.depth,
    )
    assert torch.equal(empty, out)
    last = AttentionGraph.from_dense(dense[..., 5:, :])
    new, grown = gin(h[:, 5:], last, [part[..., :5, :] for part in memory])
    assert_close(new, out[:, 5:], atol=1e-5, rtol=1e-5)
    assert_close(grown, memory)
    half, _ = gin(h[:, 5:], last, [part[..., :5, :].bfloat16() for part in memory])
    assert half.dtype == torch.float64 and (half - new).abs().max() < 0.3


@each_variant
def test_every_parameter_gets_a_gradient(variant: str):
    layer = Beside(variant)
    gf.testing.check_gradients(layer, torch.randn(2, 11, WIDTH))
    if layer.gin.weighted:
        cut = gf.attention.Reweigh("sigmoid", 0.1, beta=10.0, above=0.6, trainable=True)
        q = torch.randn(2, HEADS, 11, 7)
        graph, _ = merged_graph(
            q, q, sparsify=cut, reduce=None if layer.gin.num_heads else "sum", is_causal=True
        )
        layer.gin(torch.randn(2, 11, WIDTH), graph).square()[..., :3].sum().backward()
        assert cut.tau.grad is not None and torch.isfinite(cut.tau.grad) and cut.tau.grad != 0


@each_variant
def test_nothing_makes_a_nan(variant: str):
    gf.testing.check_finite(Beside(variant), gf.testing.hostile_inputs(WIDTH))
    gin = made(variant)
    for batch, queries, keys in itertools.product((0, 1, 2), (0, 1, 3), (0, 3)):
        keys += queries
        nobody = torch.zeros(0, dtype=torch.int64)
        graph = AttentionGraph.from_edges(
            nobody,
            nobody,
            num_senders=keys,
            num_receivers=queries,
            batch_shape=lanes(variant, batch),
        )
        memory = [torch.randn(*lanes(variant, batch), keys - queries, gin.hidden_dim)] * gin.depth
        h = torch.randn(batch, queries, WIDTH, requires_grad=True)
        out, grown = gin(h, graph, memory)
        out.sum().backward()
        assert out.shape == h.shape and torch.isfinite(out).all() and torch.isfinite(h.grad).all()
        assert all(part.shape[-2] == keys for part in grown)


@each_variant
def test_backends_agree(variant: str):
    gins = {name: made(variant, backend=name) for name in gf.backends.available()}
    first = next(iter(gins.values()))
    for other in gins.values():
        other.load_state_dict(first.state_dict())
    graph = AttentionGraph.from_dense(causal_weights(variant))
    h = torch.randn(2, 7, WIDTH, requires_grad=True)
    gf.testing.check_backends_agree(lambda name, h: gins[name](h, graph), (h,))


# ---------------------------------------------------------------- precision


@pytest.mark.float32
@each_variant
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_beside_a_network_in_float32(variant: str, dtype: torch.dtype):
    gin, graph = made(variant), AttentionGraph.from_dense(causal_weights(variant))
    h = torch.randn(2, 7, WIDTH).to(dtype).requires_grad_()
    out, memory = gin(h, graph, [])
    assert out.dtype == dtype and memory[0].dtype == torch.float32
    assert torch.equal(out, gin(h.float(), graph).to(dtype)), (
        "it is computed in the precision of the parameters"
    )
    out.float().square().sum().backward()
    assert h.grad.dtype == dtype and all(
        parameter.grad.dtype == torch.float32 for parameter in gin.parameters()
    )


@pytest.mark.float32
@each_variant
def test_a_network_in_half_precision(variant: str):
    gin, graph, h = (
        made(variant),
        AttentionGraph.from_dense(causal_weights(variant)),
        torch.randn(2, 7, WIDTH),
    )
    exact = gin(h, graph)
    half = copy.deepcopy(gin).bfloat16()(h.bfloat16(), graph)
    with torch.autocast("cpu", torch.bfloat16):
        cast = gin(h, graph)
    assert half.dtype == torch.bfloat16 and cast.dtype == torch.float32
    for got in (half, cast):
        assert (got.float() - exact).abs().max() < 0.06 * exact.abs().max()


# ---------------------------------------------------------------- graphs of self-loops


def test_self_loops():
    dense = torch.rand(2, 3, 5, 5) + 0.1
    assert torch.equal(
        self_loops(AttentionGraph.from_dense(dense)).to_dense(), dense * torch.eye(5)
    )
    late = self_loops(AttentionGraph.from_dense(dense[:, :, 3:]))
    assert torch.equal(late.to_dense(), (dense * torch.eye(5))[:, :, 3:]) and (
        late.num_receivers,
        late.num_senders,
    ) == (2, 5)
    weight = torch.rand(3, requires_grad=True)
    ends = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    self_loops(AttentionGraph.from_edges(*ends, weight, num_nodes=2)).weight.sum().backward()
    assert weight.grad.tolist() == [1, 0, 1]
    nobody = torch.zeros(0, dtype=torch.int64)
    assert self_loops(AttentionGraph.from_edges(nobody, nobody, num_nodes=0)).num_edges == 0


def test_tokens_alone_hear_of_nobody():
    layer, h = Beside("deep", alone=True), torch.randn(1, 7, WIDTH)
    changed = h.clone()
    changed[0, 2] += 1
    moved = (layer(changed) - layer(h)).abs().amax(-1)[0] > 0
    assert moved.tolist() == [False, False, True, False, False, False, False]


# ---------------------------------------------------------------- compiled, saved, refused


@pytest.mark.slow
def test_compiled():
    torch._dynamo.reset()
    gin = made("heads")
    compiled = torch.compile(gin, backend="aot_eager")
    for length in (7, 7, 5):
        graph, h = (
            AttentionGraph.from_dense(causal_weights("heads", 2, length)),
            torch.randn(2, length, WIDTH, requires_grad=True),
        )
        found, wanted = (
            torch.autograd.grad(call(h, graph).square().sum(), h)[0] for call in (compiled, gin)
        )
        assert_close(found, wanted)


def test_refuses_sizes():
    for arguments, text in [
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        (
            {"activation": "swish"},
            "unknown activation 'swish'; known: prelu, silu, relu, gelu, elu, tanh, tanhshrink",
        ),
        ({"mlp_ratio": 0.01}, "mlp_ratio 0.01 leaves no hidden unit in a network of width 16"),
        (
            {"mlp_ratio": None, "hidden_norm": True},
            "hidden_norm is inside the MLP, which mlp_ratio=None leaves out",
        ),
        (
            {"mix_heads": True},
            "mix_heads mixes the outputs of several networks: it needs num_heads",
        ),
        ({"num_heads": 4}, "hidden_size 35 is not a multiple of num_heads 4"),
        ({"dropout": 1.5}, "dropout must be a probability in 0..1, got 1.5"),
        ({"backend": "jax"}, "unknown backend 'jax'"),
    ]:
        with pytest.raises(ValueError, match=text):
            SparseGIN(WIDTH, **arguments)


def test_refuses_inputs_that_do_not_fit():
    gin, graph, h = (
        made("deep"),
        AttentionGraph.from_dense(causal_weights("deep")),
        torch.randn(2, 7, WIDTH),
    )
    for wrong in (h[..., 1:], h[0], h[..., None]):
        with pytest.raises(ValueError, match=r"h must be \[batch, length, 35\], got shape"):
            gin(wrong, graph)
    with pytest.raises(
        ValueError,
        match=r"needs a graph with lanes \(2,\) and 5 receivers, got lanes \(2,\) and 7 receivers$",
    ):
        gin(h[:, :5], graph)
    with pytest.raises(ValueError, match=r"lanes \(1,\) and 7 receivers, got lanes \(2,\)"):
        gin(h[:1], graph)
    heads = AttentionGraph.from_dense(causal_weights("heads"))
    with pytest.raises(
        ValueError,
        match=r"got lanes \(2, 5\) and 7 receivers; merge_heads\(\) or num_heads brings them "
        r"together",
    ):
        gin(h, heads)
    with pytest.raises(ValueError, match=r"lanes \(2, 5\) and 7 receivers, got lanes \(2,\)"):
        made("heads")(h, graph)
    dense = graph.to_dense()
    with pytest.raises(
        ValueError, match="the graph has 5 senders before the 2 tokens of h: give memory"
    ):
        gin(h[:, 5:], AttentionGraph.from_dense(dense[:, 5:]))
    with pytest.raises(
        ValueError, match=r"fewer senders \(5\) than receivers \(7\): every token is a sender too"
    ):
        gin(h, AttentionGraph.from_dense(dense[..., :5]))
    for memory in (
        [],
        [torch.zeros(2, 4, 11)] * 3,
        [torch.zeros(2, 5, 11)] * 2,
        [torch.zeros(1, 2, 5, 11)] * 3,
    ):
        with pytest.raises(
            ValueError,
            match=r"memory must hold 3 tensors of shape \(2, 5, 11\) \(one a depth, for the tokens "
            r"before",
        ):
            gin(h[:, 5:], AttentionGraph.from_dense(dense[:, 5:]), memory)
    with pytest.raises(ValueError, match=r"memory must hold 3 tensors of shape \(2, 0, 11\)"):
        gin(h, graph, [torch.zeros(2, 2, 11)] * 3)
