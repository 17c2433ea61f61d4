"""GIN-, PNA- and plain attention: the laws, naive twins, the published code's own numbers, and what
they refuse.
"""

from __future__ import annotations

import copy
import importlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

import graphformer as gf
from graphformer.nn import (
    GINAttention,
    GraphAttention,
    HeadMLP,
    PNAAttention,
    SumAttention,
    rotary_embeddings,
)
from graphformer.testing import (
    check_agreement,
    check_backends_agree,
    check_batch_independence,
    check_causal,
    check_executors_agree,
    check_finite,
    check_gradients,
    check_padding,
    check_prefix,
    hidden_states,
    hostile_inputs,
    positions_of,
)

pytestmark = pytest.mark.usefixtures("float64")

KINDS: dict[str, type[GraphAttention]] = {
    "gin": GINAttention,
    "pna": PNAAttention,
    "sum": SumAttention,
}
# name -> hidden_size, num_heads, num_kv_heads, RoPE. Head widths 7 and 10: neither is a number of
# heads, tokens or sequences.
SHAPES = {
    "plain": (35, 5, None, False),
    "grouped": (42, 6, 2, False),
    "rope": (50, 5, None, True),
    "grouped rope": (60, 6, 2, True),
}
CUTS = {"all": None, "threshold": gf.Threshold(0.15), "top-k": gf.TopK(3)}
BACKENDS = ("torch", "pyg", "dgl", "torch_sparse")


def jitter(layer: nn.Module, sharpening: float = 4.0) -> nn.Module:
    """Every parameter away from its start, and scores that differ enough for a threshold to keep
    some edges and drop others.
    """
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith("sharpening"):
                parameter.fill_(sharpening)
            elif parameter.ndim < 2 or name.endswith("norm"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return layer.eval()


def make(kind: str, shape: str = "plain", cut: str = "all", **options: object) -> GraphAttention:
    hidden, heads, kv_heads, _ = SHAPES[shape]
    torch.manual_seed(0)
    return jitter(
        KINDS[kind](hidden, heads, kv_heads, sharpening=True, sparsify=CUTS[cut], **options)
    )


def run(layer: GraphAttention, shape: str = "plain", **options: object) -> Callable[..., Tensor]:
    """The layer as a function of ``x`` and ``keep``, with positions that count real tokens where
    the shape has RoPE.
    """

    def call(x: Tensor, keep: Tensor | None = None) -> Tensor:
        if not SHAPES[shape][3]:
            return layer(x, keep, **options)
        positions = torch.arange(x.shape[1])[None] if keep is None else positions_of(keep)
        return layer(
            x, keep, position_embeddings=rotary_embeddings(positions, layer.head_dim), **options
        )

    return call


def inputs(shape: str = "plain", **options: object) -> Tensor:
    return hidden_states(SHAPES[shape][0], **options)


every_kind = pytest.mark.parametrize("kind", KINDS)
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_cut = pytest.mark.parametrize("cut", CUTS)
both_directions = pytest.mark.parametrize(
    "is_causal", [True, False], ids=["causal", "bidirectional"]
)


# ---------------------------------------------------------------------- laws


@every_kind
@every_shape
@every_cut
def test_no_token_sees_a_later_one_nor_the_length(kind: str, shape: str, cut: str) -> None:
    call = run(make(kind, shape, cut), shape)
    check_causal(call, inputs(shape), num_positions=3)
    check_prefix(call, inputs(shape))


@every_kind
@both_directions
@every_shape
@every_cut
def test_padding_and_batch_mates_change_nothing(
    kind: str, is_causal: bool, shape: str, cut: str
) -> None:
    call = run(make(kind, shape, cut, is_causal=is_causal), shape)
    check_padding(call, inputs(shape))
    check_batch_independence(call, inputs(shape))


@every_kind
def test_a_bidirectional_layer_looks_ahead(kind: str) -> None:
    call = run(make(kind, is_causal=False))
    x = inputs()
    changed = x.clone()
    changed[:, -1] += 1
    assert (call(changed)[:, 0] - call(x)[:, 0]).abs().max() > 1e-3


@every_kind
@both_directions
@every_shape
@every_cut
def test_every_parameter_gets_a_finite_gradient(
    kind: str, is_causal: bool, shape: str, cut: str
) -> None:
    layer = make(kind, shape, cut, is_causal=is_causal)
    call = run(layer, shape)
    x, weight = inputs(shape), inputs(shape, seed=1)
    check_gradients(layer, loss=lambda _: (call(x) * weight).sum())


@every_kind
@both_directions
@every_cut
@pytest.mark.parametrize("executor", ["auto", pytest.param("dense", marks=pytest.mark.long)])
def test_nothing_makes_a_nan(kind: str, is_causal: bool, cut: str, executor: str) -> None:
    """Half precision, masked rows, ties, one token, huge values, and sharpening far from 1."""
    layer = make(kind, "grouped", cut, is_causal=is_causal, executor=executor)
    cases = hostile_inputs(42, batch=2, length=5)
    check_finite(layer, cases, extreme={"sharpening": (1e3, -1e3, 0.0)})


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_sharpening_does_not_overflow_half_precision(kind: str, dtype: torch.dtype) -> None:
    """Queries of 100 times a sharpening of 1000 lie beyond float16, but their softmax does not."""
    layer = jitter(make(kind), sharpening=1e3).to(dtype)
    x = inputs(dtype=dtype) * 300
    assert layer.q_proj(x).abs().max() > 66
    check_finite(layer, x)
    with torch.autocast("cpu", dtype):
        # PNA's gradients at such values lie beyond float16 themselves: that is what loss scaling is
        # for.
        check_finite(layer.float(), x.float(), gradients=kind != "pna")


@pytest.mark.float32
@every_kind
@every_cut
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_is_near_float32(kind: str, cut: str, dtype: torch.dtype) -> None:
    layer = make(kind, "rope", cut)
    half = copy.deepcopy(layer).to(dtype)
    layer.load_state_dict(half.state_dict())  # the same, rounded parameters
    x = inputs("rope", dtype=dtype)
    got, want = run(half, "rope")(x), run(layer, "rope")(x.float())
    assert got.dtype == dtype
    # Where rounding moves a weight across the threshold, single tokens may differ; so not the
    # maximum.
    assert (got - want).abs().median() < (0.002 if dtype == torch.float16 else 0.02) * want.std()


@every_kind
@both_directions
@every_cut
def test_smallest_sizes(kind: str, is_causal: bool, cut: str) -> None:
    layer = make(kind, "rope", cut, is_causal=is_causal)
    call = run(layer, "rope")
    for batch, length in ((1, 1), (1, 7), (3, 1), (2, 0), (0, 3)):
        x = (
            inputs("rope", batch=batch, length=length)
            if batch * length
            else torch.zeros(batch, length, 50)
        )
        x.requires_grad_()
        out = call(x)
        assert out.shape == x.shape
        out.sum().backward()
        assert x.grad is not None and x.grad.isfinite().all()


@every_kind
@every_cut
def test_one_head(kind: str, cut: str) -> None:
    torch.manual_seed(0)
    layer = jitter(KINDS[kind](7, 1, sparsify=CUTS[cut]))
    check_causal(layer, hidden_states(7))
    check_padding(layer, hidden_states(7))


@every_kind
@every_cut
def test_a_receiver_without_senders_gets_what_its_operator_makes_of_zeros(
    kind: str, cut: str
) -> None:
    layer = make(kind, cut=cut)
    x = inputs(batch=2, length=3)
    keep = torch.tensor([[0, 0, 0], [1, 1, 1]])
    nothing = {
        name: torch.zeros(2, 5, 3, 1 if name == "degree" else 7)
        for name in layer.operator.reductions
    }
    own = x if layer.v_proj is None else layer.v_proj(x)
    want = layer.operator(own.view(2, 3, 5, 7).transpose(1, 2), nothing).transpose(1, 2).flatten(2)
    want = want if layer.o_proj is None else layer.o_proj(want)
    torch.testing.assert_close(layer(x, keep)[0], want[0])


# --------------------------------------------------------------------- executors and backends agree


def with_executor(
    layer: GraphAttention, shape: str, keep: Tensor | None
) -> Callable[[str, Tensor], Tensor]:
    def call(executor: str, x: Tensor) -> Tensor:
        layer.executor = executor
        every_pair = gf.Edges(
            *torch.cartesian_prod(torch.arange(x.shape[1]), torch.arange(x.shape[1])).T
        )
        return run(layer, shape, candidates=every_pair if executor == "edges" else None)(x, keep)

    return call


@every_kind
@both_directions
@every_shape
@every_cut
@pytest.mark.usefixtures("small_blocks")
def test_executors_agree(kind: str, is_causal: bool, shape: str, cut: str) -> None:
    layer = make(kind, shape, cut, is_causal=is_causal).double()
    x = inputs(shape, dtype=torch.float64).requires_grad_()
    executors = ("dense", "stream", "edges") + (
        ("flash",) if kind != "pna" and cut == "all" else ()
    )
    # the last one is all padding
    masks = {"none": None, "padding": (torch.arange(11) >= torch.tensor([[0], [3], [11]])).long()}
    for keep in masks.values():
        check_executors_agree(
            with_executor(layer, shape, keep), [x], executors=executors, parameters=layer
        )


def test_a_pna_that_only_sums_can_flash() -> None:
    layer = make("pna", aggregators=("sum", "mean"), scalers=("identity",)).double()
    assert layer.operator.reductions == ("sum", "mean") and layer.operator.delta is None
    x = inputs(dtype=torch.float64).requires_grad_()
    check_executors_agree(
        with_executor(layer, "plain", None),
        [x],
        executors=("dense", "flash", "stream"),
        parameters=layer,
    )


@every_kind
@every_cut
def test_backends_agree(kind: str, cut: str) -> None:
    layer = make(kind, "grouped", cut).double()

    def call(backend: str, x: Tensor) -> Tensor:
        layer.backend = backend
        return layer(x)

    check_backends_agree(
        call, [inputs("grouped", dtype=torch.float64).requires_grad_()], parameters=layer
    )


@every_kind
def test_naming_a_backend_builds_edges_and_auto_does_not_where_sums_suffice(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    # the package's name "attend" is the function
    module = importlib.import_module("graphformer.attention.attend")
    build = module.build
    monkeypatch.setattr(module, "build", lambda *problem: built.append(problem) or build(*problem))
    layer = make(kind)
    layer(inputs())
    assert len(built) == (1 if kind == "pna" else 0)
    layer.backend = "torch"
    layer(inputs())
    assert len(built) == (2 if kind == "pna" else 1)


@every_kind
@every_cut
def test_the_graph_comes_along_and_changes_no_output(kind: str, cut: str) -> None:
    layer = make(kind, "grouped", cut)
    x = inputs("grouped")
    out, graph = layer(x, output_graph=True)
    torch.testing.assert_close(out, layer(x), atol=1e-5, rtol=1e-5)
    assert graph.batch_shape == (3, 6) and graph.num_senders == graph.num_receivers == 11
    q, k = (
        layer.q_proj(x).view(3, 11, 6, 7),
        layer.k_proj(x).view(3, 11, 2, 7).repeat_interleave(3, dim=2),
    )
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * layer.sharpening / 7**0.5
    weights = scores.masked_fill(~torch.ones(11, 11).tril().bool(), -torch.inf).softmax(-1)
    got = graph.to_dense()
    torch.testing.assert_close(got[got != 0], weights[got != 0], atol=1e-6, rtol=1e-5)
    kept = weights if cut == "all" else weights * (weights > 0.15) if cut == "threshold" else None
    if kept is not None:
        torch.testing.assert_close(got, kept, atol=1e-6, rtol=1e-5)
    else:
        assert torch.equal(
            graph.in_degree().view(3, 6, 11), torch.arange(1, 12).clamp(max=3).expand(3, 6, 11)
        )
    graph.weight.square().sum().backward()
    assert layer.q_proj.weight.grad.abs().max() > 0


# ---------------------------------------------------------------------- naive twins


def naive_weights(layer: GraphAttention, x: Tensor, lane: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Weights ``[N, N]`` of one head of one sequence, and which are kept."""
    (b, h), d = lane, layer.head_dim
    g = h // (layer.num_heads // layer.num_kv_heads)
    q, k = (
        F.linear(x[b], layer.q_proj.weight)[:, h * d : (h + 1) * d],
        F.linear(x[b], layer.k_proj.weight)[:, g * d : (g + 1) * d],
    )
    allowed = (
        torch.ones(len(q), len(q)).tril().bool()
        if layer.is_causal
        else torch.ones(len(q), len(q)).bool()
    )
    weights = (layer.sharpening * (q @ k.T) / d**0.5).masked_fill(~allowed, -torch.inf).softmax(-1)
    return weights, allowed if layer.sparsify is None else allowed & (weights > layer.sparsify.tau)


def naive_gin(layer: GINAttention, x: Tensor) -> Tensor:
    d, op = layer.head_dim, layer.operator
    out = torch.zeros_like(x)
    for b, h in itertools.product(range(len(x)), range(layer.num_heads)):
        weights, keep = naive_weights(layer, x, (b, h))
        source, g = (
            (x[b], h)
            if layer.v_proj is None
            else (layer.v_proj(x[b]), h // (layer.num_heads // layer.num_kv_heads))
        )
        features = source[:, g * d : (g + 1) * d]
        z = op.eps[h] * features + (weights * keep) @ features
        hidden = F.linear(z, op.mlp.weight1[h].T, op.mlp.bias1[h, 0])
        hidden = F.rms_norm(hidden, hidden.shape[-1:], op.mlp.norm[h, 0], eps=1e-6)
        out[b, :, h * d : (h + 1) * d] = F.linear(
            F.silu(hidden), op.mlp.weight2[h].T, op.mlp.bias2[h, 0]
        )
    return out


def naive_pna(layer: PNAAttention, x: Tensor) -> Tensor:
    d, op = layer.head_dim, layer.operator
    out = torch.zeros_like(x)
    for b, h in itertools.product(range(len(x)), range(layer.num_heads)):
        weights, keep = naive_weights(layer, x, (b, h))
        g = h // (layer.num_heads // layer.num_kv_heads)
        v = F.linear(x[b], layer.v_proj.weight)[:, g * d : (g + 1) * d]
        for i in range(x.shape[1]):
            senders = v[keep[i]]
            w = weights[i][keep[i]][:, None]
            if len(senders):
                mean = (w * senders).sum(0) / w.sum()
                std = (
                    ((w * (senders - mean) ** 2).sum(0) / w.sum() + 0.0).sqrt()
                    if len(senders) > 1
                    else torch.zeros_like(mean)
                )
                reduced = torch.cat(
                    [(w * senders).sum(0), mean, senders.amax(0), senders.amin(0), std]
                )
            else:
                reduced = x.new_zeros(5 * d)
            log_degree = torch.log(torch.tensor(len(senders) + 1.0, dtype=x.dtype))
            attenuation = op.delta / log_degree if len(senders) else x.new_zeros(1)
            scaled = torch.cat([reduced, reduced * log_degree / op.delta, reduced * attenuation])
            out[b, i, h * d : (h + 1) * d] = F.silu(scaled @ op.mlp.weight1[h]) @ op.mlp.weight2[h]
    return F.linear(out, layer.o_proj.weight)


@pytest.mark.parametrize("shape", ["plain", "grouped"])
@both_directions
@pytest.mark.parametrize("cut", ["all", "threshold"])
@pytest.mark.parametrize("kind", ["gin", "gin with values", "pna"])
def test_layer_equals_its_naive_twin(kind: str, cut: str, is_causal: bool, shape: str) -> None:
    layer = make(
        kind.split()[0], shape, cut, is_causal=is_causal, value_projection=kind != "gin"
    ).double()
    naive = naive_pna if kind == "pna" else naive_gin
    x = inputs(shape, batch=2, length=9, dtype=torch.float64).requires_grad_()
    check_agreement({"naive": lambda x: naive(layer, x), "layer": layer}, [x], parameters=layer)


def test_pna_takes_a_real_maximum() -> None:
    """The published code's max was the token's own value."""
    layer = make("pna", aggregators=("max",), scalers=("identity",))
    x = inputs(batch=1)
    v = layer.v_proj(x).view(11, 5, 7)
    running = v.cummax(0).values
    assert (running - v).abs().max() > 0.1
    want = layer.operator.mlp(running.transpose(0, 1)[None]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x), layer.o_proj(want))


@pytest.mark.parametrize("shape", SHAPES)
@both_directions
def test_sum_attention_is_scaled_dot_product_attention(shape: str, is_causal: bool) -> None:
    hidden, heads, kv_heads, rope = SHAPES[shape]
    layer = SumAttention(hidden, heads, kv_heads, is_causal=is_causal, executor="dense").double()
    assert layer.sharpening is None

    def plain(x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (-1, hidden // heads)).transpose(1, 2)
            for p in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        if rope:
            turn = torch.outer(torch.arange(x.shape[1]), 10000.0 ** (-torch.arange(0, 10, 2) / 10))
            turn = torch.polar(torch.ones_like(turn), turn).to(torch.complex128)

            def rotated(z: Tensor) -> Tensor:
                z = torch.complex(z[..., :5], z[..., 5:]) * turn
                return torch.cat((z.real, z.imag), -1)

            q, k = rotated(q), rotated(k)
        k, v = (z.repeat_interleave(heads // z.shape[1], dim=1) for z in (k, v))
        return layer.o_proj(
            F.scaled_dot_product_attention(q, k, v, is_causal=is_causal).transpose(1, 2).flatten(2)
        )

    x = inputs(shape, dtype=torch.float64).requires_grad_()
    tolerance = 1e-6 if rope else 1e-9  # the rotation's angles are float32
    check_agreement(
        {"torch": plain, "layer": run(layer, shape)},
        [x],
        parameters=layer,
        atol=tolerance,
        rtol=tolerance,
    )


def test_sharpening_multiplies_the_scores() -> None:
    layer = make("gin")
    plain = GINAttention(35, 5, sharpening=False)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "sharpening"})
    with torch.no_grad():
        plain.q_proj.weight *= layer.sharpening
    torch.testing.assert_close(plain(inputs()), layer(inputs()), atol=1e-5, rtol=1e-5)
    assert GINAttention(35, 5, sharpening=1.3).sharpening.item() == pytest.approx(1.3)


def test_self_weight_one_without_self_loops_is_pygs_ginconv() -> None:
    from torch_geometric.nn import GINConv

    class Ones(gf.attention.Normalizer):
        """Every candidate weighs 1: an unweighted graph."""

        def weights(self, scores: Tensor, pairs: gf.attention.Pairs) -> Tensor:
            return torch.ones_like(scores)

    layer = GINAttention(
        7, 1, normalize=Ones(), is_causal=False, self_weight=1.0, eps=0.3, sharpening=False
    ).double()
    mlp = layer.operator.mlp
    inner = nn.Sequential(
        nn.Linear(7, 3), nn.RMSNorm(3, eps=1e-6), nn.SiLU(), nn.Linear(3, 7)
    ).double()
    # draws its parameters anew, so they are set afterwards
    conv = GINConv(inner, eps=0.3, train_eps=True).double()
    theirs = {"0.weight": mlp.weight1[0].T, "0.bias": mlp.bias1[0, 0], "1.weight": mlp.norm[0, 0]}
    theirs |= {"3.weight": mlp.weight2[0].T, "3.bias": mlp.bias2[0, 0]}
    inner.load_state_dict(theirs)
    # no self-loops; nodes 6 to 8 are alone
    edge_index = torch.tensor([[0, 1, 4, 2, 10, 3, 3], [1, 0, 1, 5, 9, 0, 4]])
    x = hidden_states(7, batch=1, dtype=torch.float64).requires_grad_()
    check_agreement(
        {
            "pyg": lambda x: conv(x[0], edge_index)[None],
            "layer": lambda x: layer(x, candidates=gf.Edges(*edge_index)),
        },
        [x],
    )
    layer.operator.self_weight = 0.0  # and it matters
    assert (
        layer(x, candidates=gf.Edges(*edge_index))[0] - conv(x[0], edge_index)
    ).abs().max() > 1e-3


# ----------------------------------------------------------------- the published code's own numbers

GOLDEN = {
    "a_gin_softmax_sharp1.3_mult0.5": {"mlp_ratio": 0.5},
    "a_pad_gin_right_padded": {"mlp_ratio": 0.5},
    "b_gin_oproj_mult2": {"mlp_ratio": 2.0, "output_projection": True},
}


def golden_parameter(name: str) -> tuple[str, int | None, bool]:
    """The reference's name of a parameter: ours, the head it belongs to, and whether it is
    transposed.
    """
    if not name.startswith("gin_layers."):
        return name.replace("sharpening_parameters.0", "sharpening"), None, False
    _, head, name = name.split(".", 2)
    ours = {
        "epsilon": "eps",
        "mlp.0.weight": "mlp.weight1",
        "mlp.0.bias": "mlp.bias1",
        "mlp.2.weight": "mlp.norm",
        "normlayer.weight": "mlp.norm",
        "mlp.4.weight": "mlp.weight2",
        "mlp.4.bias": "mlp.bias2",
    }[name]
    return f"operator.{ours}", int(head), name in ("mlp.0.weight", "mlp.4.weight")


def place(layer: GraphAttention, name: str, gradient: bool = False) -> Tensor:
    """Where one of the reference's tensors lies in the layer, in the reference's layout."""
    ours, head, transposed = golden_parameter(name)
    value = layer.get_parameter(ours)
    value = value.grad if gradient else value.data
    assert value is not None, name
    value = value if head is None else value[head]
    return value.T if transposed else value


@pytest.mark.parametrize("case", GOLDEN)
@pytest.mark.parametrize(
    ("executor", "backend"),
    [("flash", "auto"), *itertools.product(("dense", "stream"), BACKENDS)],
    ids=lambda value: value,
)
@pytest.mark.usefixtures("small_blocks")
def test_gin_equals_the_published_code(
    recorded: Callable, case: str, executor: str, backend: str
) -> None:
    if backend in ("dgl", "torch_sparse"):
        pytest.importorskip(backend)
    stored = recorded(case)
    layer = GINAttention(32, 4, executor=executor, backend=backend, **GOLDEN[case])
    # the reference creates them and never uses them
    unused = ("rmsnorm.weight", "residual_epsilon.0")
    loaded = set()
    for name in (
        n.removeprefix("w.") for n in stored if n.startswith("w.") and not n.endswith(unused)
    ):
        into = place(layer, name)
        into.copy_(stored[f"w.{name}"].view(into.shape))
        loaded.add(golden_parameter(name)[0])
    assert loaded == set(dict(layer.named_parameters()))
    x = stored["in.x"].requires_grad_()
    mask = stored.get("in.mask_keep")
    out = layer(
        x,
        None if mask is None else mask.bool(),
        position_embeddings=(stored["in.cos"], stored["in.sin"]),
    )
    torch.testing.assert_close(out, stored["out.y"], atol=1e-5, rtol=1e-5)
    (out * stored["in.r"]).sum().backward()
    torch.testing.assert_close(x.grad, stored["grad.in.x"], atol=1e-5, rtol=1e-5)
    gradients = [name.removeprefix("grad.w.") for name in stored if name.startswith("grad.w.")]
    assert {golden_parameter(name)[0] for name in gradients} == loaded
    for name in gradients:
        got, want = place(layer, name, gradient=True), stored[f"grad.w.{name}"]
        torch.testing.assert_close(
            got, want.view(got.shape), atol=1e-5, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("case", GOLDEN)
def test_the_graph_is_the_published_codes_attention(recorded: Callable, case: str) -> None:
    stored = recorded(case)
    layer = GINAttention(32, 4)
    for name in ("q_proj.weight", "k_proj.weight", "sharpening_parameters.0"):
        into = place(layer, name)
        into.copy_(stored[f"w.{name}"].view(into.shape))
    mask = stored.get("in.mask_keep")
    _, graph = layer(
        stored["in.x"],
        None if mask is None else mask.bool(),
        position_embeddings=(stored["in.cos"], stored["in.sin"]),
        output_graph=True,
    )
    torch.testing.assert_close(graph.to_dense(), stored["out.adj_used"], atol=1e-6, rtol=1e-5)


# ---------------------------------------------------------------------- dropout, cache, state


@every_kind
def test_attention_dropout_acts_in_training_only(kind: str) -> None:
    layer, plain = make(kind, attention_dropout=0.5), make(kind)
    x = inputs()
    torch.testing.assert_close(layer(x), plain(x), atol=0, rtol=0)
    layer.train(), plain.train()
    torch.testing.assert_close(plain(x), plain.eval()(x), atol=0, rtol=0)
    first, second = layer(x), layer(x)
    assert (first - second).abs().max() > 1e-3


def test_the_returned_graph_has_the_weights_before_dropout() -> None:
    layer = make("gin", attention_dropout=0.5)
    _, want = layer(inputs(), output_graph=True)
    _, got = layer.train()(inputs(), output_graph=True)
    assert torch.equal(got.weight, want.weight)


def test_mlps_take_an_activation_by_name() -> None:
    z, mlp = torch.randn(3, 2, 5, 3), HeadMLP(2, 3, 7, 5, activation="tanhshrink")
    hidden = torch.einsum("bhni,hio->bhno", z, mlp.weight1) + mlp.bias1
    hidden = hidden * (hidden.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * mlp.norm
    wanted = torch.einsum("bhni,hio->bhno", hidden - hidden.tanh(), mlp.weight2) + mlp.bias2
    torch.testing.assert_close(mlp(z), wanted)
    layer = gf.nn.GINAttention(6, 2, mlp_activation="relu", mlp_residual=True)
    conv = gf.nn.GINAttentionConv(6, 6, 2, mlp_activation="relu", mlp_residual=True)
    for one in (layer, conv):
        assert "activation='relu'" in repr(one.operator)
    again = gf.Head.from_spec(gf.Head(operator=layer.operator).spec()).operator
    assert again.arguments()["activation"] == "relu"
    for kind in (gf.nn.GINAttention, lambda *a, **k: gf.nn.GINAttentionConv(6, *a, **k)):
        with pytest.raises(ValueError, match="unknown mlp_activation 'swish'; known: silu, relu"):
            kind(6, 2, mlp_activation="swish")
    with pytest.raises(ValueError, match="mlp_activation"):
        gf.nn.GINAttention(6, 2, head=gf.Head(operator="gin"), mlp_activation="relu")


def test_mlp_dropout_acts_in_training_only() -> None:
    layer = make("gin", mlp_dropout=0.5)
    x = inputs()
    torch.testing.assert_close(layer(x), make("gin")(x), atol=0, rtol=0)
    layer.train()
    assert (layer(x) - layer(x)).abs().max() > 1e-3
    hidden = HeadMLP(2, 3, 1000, 5, dropout=0.3, norm=False).train()
    with torch.no_grad():
        (
            hidden.weight1.zero_(),
            hidden.bias1.fill_(1.0),
            hidden.weight2.fill_(0.001),
            hidden.bias2.zero_(),
        )
    kept = hidden(torch.zeros(1, 2, 1, 3)) / F.silu(torch.tensor(1 / 0.7))
    torch.testing.assert_close(kept, torch.full_like(kept, 0.7), atol=0.06, rtol=0)


@pytest.mark.parametrize("executor", ["flash", "dense", "stream"])
def test_dropout_keeps_the_expectation(executor: str) -> None:
    layer = make("sum", attention_dropout=0.3, executor=executor)
    x = inputs(batch=1, length=5)
    want = layer(x)
    got = layer.train()(x.expand(4001, -1, -1)).mean(0, keepdim=True)
    torch.testing.assert_close(got, want, atol=0.03, rtol=0)


@every_kind
@pytest.mark.parametrize("cut", ["all", "threshold"])
@pytest.mark.parametrize("value_projection", [True, False])
def test_a_cache_holds_keys_and_node_features(kind: str, cut: str, value_projection: bool) -> None:
    layer = make(kind, "grouped", cut, value_projection=value_projection, layer_idx=0)
    x, cache = inputs("grouped"), DynamicCache()
    parts = [layer(part, past_key_values=cache) for part in x.split((4, 1, 2, 4), dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), layer(x), atol=1e-5, rtol=1e-5)
    assert cache.layers[0].keys.shape == (3, 2, 11, 7)
    assert cache.layers[0].values.shape == (3, 2 if value_projection else 6, 11, 7)


@every_kind
def test_reset_parameters(kind: str) -> None:
    torch.manual_seed(5)
    fresh = KINDS[kind](42, 6, 2, sharpening=1.5)
    layer = jitter(copy.deepcopy(fresh))
    for parameter in layer.parameters():
        parameter.data.fill_(99.0)
    layer.reset_parameters()
    for name, parameter in layer.named_parameters():
        want = fresh.get_parameter(name)
        if want.unique().numel() == 1:  # a constant start: eps, sharpening, delta, norms
            torch.testing.assert_close(parameter, want, msg=name)
        else:
            assert not torch.equal(parameter, want), name
            assert parameter.abs().max().item() == pytest.approx(
                want.abs().max().item(), rel=0.5
            ), name


@every_kind
def test_state_dict_round_trip(kind: str, tmp_path: Path) -> None:
    layer = make(kind, "grouped", "threshold")
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = jitter(
        KINDS[kind](42, 6, 2, sharpening=True, sparsify=CUTS["threshold"]), sharpening=7.0
    )
    assert not torch.equal(other(inputs("grouped")), layer(inputs("grouped")))
    other.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert torch.equal(other(inputs("grouped")), layer(inputs("grouped")))
    assert torch.equal(copy.deepcopy(layer)(inputs("grouped")), layer(inputs("grouped")))


@every_kind
def test_repr_says_what_the_layer_does(kind: str) -> None:
    text = repr(KINDS[kind](42, 6, 2, sparsify=gf.Threshold(0.2), backend="pyg", executor="dense"))
    for part in (
        "hidden_size=42",
        "num_heads=6",
        "num_kv_heads=2",
        "is_causal=True",
        "Softmax()",
        "Threshold(tau=0.2",
        "'pyg'",
        "'dense'",
    ):
        assert part in text
    if kind == "gin":
        assert "self_weight=0.0" in text and "6 heads, 7 -> 3 -> 7, bias=True, norm=True" in text
    if kind == "pna":
        assert (
            "aggregators=('sum', 'mean', 'max', 'min', 'std')" in text
            and "scalers=('identity', 'amplification'" in text
        )


def test_parameters_are_counted() -> None:
    def size(layer: nn.Module) -> int:
        return sum(p.numel() for p in layer.parameters())

    # q, k, sharpening; per head: eps, two maps with biases of width int(0.5 * 7) = 3, a norm
    assert size(GINAttention(35, 5)) == 2 * 35 * 35 + 1 + 5 * (1 + (7 * 3 + 3) + 3 + (3 * 7 + 7))
    # q, k, v, o, sharpening, delta; per head 15 stacked reductions of width 7
    assert size(PNAAttention(35, 5)) == 4 * 35 * 35 + 2 + 5 * (15 * 7 * 3 + 3 * 7)
    assert size(SumAttention(42, 6, 2)) == 2 * 42 * 42 + 2 * 42 * 14


# ---------------------------------------------------------------------- what the layers refuse


@every_kind
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"num_heads": 4}, ValueError, "hidden_size 35 is not a multiple of num_heads 4"),
        ({"num_heads": 0}, ValueError, "num_heads must be at least 1, got 0"),
        ({"hidden_size": 0}, ValueError, "hidden_size must be at least 1, got 0"),
        ({"num_kv_heads": 2}, ValueError, "num_heads 5 is not a multiple of num_kv_heads 2"),
        ({"num_kv_heads": 0}, ValueError, "num_heads 5 is not a multiple of num_kv_heads 0"),
        (
            {"backend": "jax"},
            ValueError,
            "unknown backend 'jax'; known: auto, torch, pyg, dgl, torch_sparse",
        ),
        (
            {"executor": "fast"},
            ValueError,
            "unknown executor 'fast'; known: auto, flash, linear, dense, stream, edges",
        ),
        (
            {"normalize": "entmax"},
            ValueError,
            "unknown normalizer 'entmax'; known: .*identity, .*relu, sigmoid",
        ),
        (
            {"normalize": 3},
            TypeError,
            "normalize must be a name or a Normalizer, got int",
        ),
        ({"sparsify": 0.2}, TypeError, r"got the number 0.2; write sparsify=gf.Threshold\(0.2\)"),
        (
            {"sparsify": "topk"},
            ValueError,
            "unknown sparsifier 'topk'",
        ),
        (
            {"attention_dropout": 1.5},
            ValueError,
            "attention_dropout must be a probability in 0..1, got 1.5",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_constructors_refuse(
    kind: str, options: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        KINDS[kind](**{"hidden_size": 35, "num_heads": 5, **options})


@pytest.mark.parametrize("kind", ["gin", "pna"])
def test_an_mlp_without_units_is_refused(kind: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"mlp_ratio 0.1 leaves no hidden unit in a head of width 7: it must be at least "
        r"0.143",
    ):
        KINDS[kind](35, 5, mlp_ratio=0.1)
    assert KINDS[kind](35, 5, mlp_ratio=0.143).operator.mlp.weight1.shape[2] == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"aggregators": ("sum", "median")},
            r"unknown aggregators \['median'\]; known: sum, mean, max, min, var, std",
        ),
        ({"aggregators": ()}, "aggregators is empty; known: sum"),
        (
            {"scalers": ("identity", "linear")},
            r"unknown scalers \['linear'\]; known: identity, amplification, attenuation",
        ),
        ({"scalers": ()}, "scalers is empty; known: identity"),
        ({"avg_degree": 0.0}, "avg_degree must be above 0, got 0.0"),
    ],
)
def test_pna_refuses(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PNAAttention(35, 5, **options)


def test_mlp_dropout_is_a_probability() -> None:
    with pytest.raises(ValueError, match=r"dropout must be a probability in 0..1, got -0.1"):
        GINAttention(35, 5, mlp_dropout=-0.1)


@every_kind
def test_calls_that_do_not_fit_are_refused(kind: str) -> None:
    layer = KINDS[kind](35, 5)
    with pytest.raises(
        ValueError, match=r"hidden_states must be \[batch, length, 35\], got shape \(3, 11, 34\)"
    ):
        layer(torch.zeros(3, 11, 34))
    with pytest.raises(
        ValueError, match=r"hidden_states must be \[batch, length, 35\], got shape \(11, 35\)"
    ):
        layer(torch.zeros(11, 35))
    x = inputs()
    with pytest.raises(
        ValueError, match=r"attention_mask must have shape \[3, 11\] \(batch, keys\), got \[3, 10\]"
    ):
        layer(x, torch.ones(3, 10))
    with pytest.raises(ValueError, match="turn an additive mask into a boolean one"):
        layer(x, torch.full((3, 1, 11, 11), -1e9))
    with pytest.raises(ValueError, match="head dimension 7, which must be even"):
        layer(x, position_embeddings=(torch.ones(1, 11, 7), torch.zeros(1, 11, 7)))
    with pytest.raises(ValueError, match="head_dim must be even, got 7"):
        rotary_embeddings(torch.arange(11), 7)
    with pytest.raises(ValueError, match=r"does not describe a rule of candidates: .*size"):
        layer(x, candidates="window")
    with pytest.raises(ValueError, match="past_key_values needs layer_idx"):
        layer(x, past_key_values=DynamicCache())


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        (
            "gin",
            {"sparsify": gf.Threshold(0.2)},
            r"cannot be used here: sparsify=Threshold\(tau=0.2.*cuts edges",
        ),
        ("gin", {"normalize": "sigmoid"}, r"normalize=Sigmoid\(.*\) is not softmax"),
        ("gin", {"backend": "torch"}, "backend='torch' aggregates edges"),
        ("pna", {}, "the operator needs the reductions max, min, std, degree"),
    ],
)
def test_flash_refuses_what_needs_edges(kind: str, options: dict[str, object], match: str) -> None:
    with pytest.raises(
        ValueError, match=f"executor='flash' builds no edges.*{match.split(': ')[-1]}"
    ):
        KINDS[kind](35, 5, executor="flash", **options)(inputs())


def test_flash_refuses_to_return_a_graph_and_edges_needs_edges() -> None:
    with pytest.raises(ValueError, match="the graph itself was asked for"):
        GINAttention(35, 5, executor="flash")(inputs(), output_graph=True)
    with pytest.raises(ValueError, match="the candidates are explicit edges"):
        GINAttention(35, 5, executor="flash")(
            inputs(), candidates=gf.Edges(torch.tensor([0]), torch.tensor([1]))
        )
    with pytest.raises(ValueError, match="executor='edges' does not fit these candidates"):
        GINAttention(35, 5, executor="edges")(inputs())
