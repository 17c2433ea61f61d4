"""Scores other than the dot product, and what is made of weights: every executor gives the dense
answer and its gradients.
"""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import (
    Differential,
    NormalizeWeights,
    Pairwise,
    Reweigh,
    ScaledDotProduct,
    Sparsifier,
    TopFraction,
    TopK,
    attend,
)
from graphformer.attention.executors import blocks
from graphformer.attention.sparsifiers import from_spec
from graphformer.attention.sparsifiers.reweigh import CURVES
from graphformer.nn import GINAttention, PNAAttention, SumAttention

pytestmark = pytest.mark.usefixtures("small_blocks")
f64 = torch.float64


def make_score(name: str, heads: int = 6) -> tuple[gf.attention.Score, list[Tensor]]:
    """A score in float64 and its parameters."""
    if name == "differential":
        amount = torch.tensor([0.3], dtype=f64, requires_grad=True)
        return Differential(amount, sharpening=1.7), [amount]
    if name == "differential-heads":
        amount = torch.rand(heads, 1, 1, dtype=f64, requires_grad=True)
        return Differential(amount), [amount]
    if name == "pairwise":
        weight, bias = (
            torch.randn(heads, 10, dtype=f64, requires_grad=True),
            torch.randn(heads, dtype=f64, requires_grad=True),
        )
        return Pairwise(weight, bias), [weight, bias]
    return ScaledDotProduct(), []


SCORES = ["dot", "differential", "differential-heads", "pairwise"]


def make_inputs(score: str, batch: int, queries: int, keys: int) -> tuple[Tensor, Tensor]:
    heads, kv_heads = (1, 1) if score == "pairwise" else (6, 2)
    q, k = (
        torch.randn(batch, heads, queries, 10, dtype=f64),
        torch.randn(batch, kv_heads, keys, 10, dtype=f64),
    )
    return q.requires_grad_(), k.requires_grad_()


def make_sparsifier(name: str) -> Sparsifier | None:
    curve, _, keep = name.partition("/")
    if curve in CURVES:
        sharp = {"beta": 7.0} if "beta" in CURVES[curve].reads else {}
        return Reweigh(
            curve, 0.15, **sharp, trainable=True, keep=TopK(3) if keep else None
        ).double()
    return {
        "none": None,
        "threshold": gf.Threshold(0.1),
        "top_k": gf.TopK(3, renormalize=True),
        "fraction": TopFraction(0.4),
        "fraction-renormalized": TopFraction(0.4, renormalize=True),
        "mixed": Reweigh("relu", 0.01) & gf.Threshold(0.05, renormalize=True),
        "normalize": NormalizeWeights(6).double(),
        "normalize-map": NormalizeWeights(6, "map", then=gf.Threshold(0.0)).double(),
        "function": Reweigh(torch.square),
    }[name]


@pytest.mark.parametrize("normalize", ["softmax", "sigmoid", "identity"])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "sparsify",
    ["none", "threshold", "fraction", "sharp_softplus", "relu/top", "normalize", "mixed"],
)
def test_executors_agree(score: str, normalize: str, sparsify: str) -> None:
    queries, keys = 11, 13
    slot, parameters = make_score(score)
    keep = torch.ones(2, keys, dtype=torch.bool)
    keep[0, :3] = False
    q, k = make_inputs(score, 2, queries, keys)
    by = make_sparsifier(sparsify)
    leaves = [q, k, *parameters, *(by.parameters() if isinstance(by, nn.Module) else ())]
    every_pair = gf.Edges(*torch.cartesian_prod(torch.arange(keys), torch.arange(queries)).T)
    results = {}
    for executor in ("dense", "stream", "edges"):
        graph = gf.attention_graph(
            q,
            k,
            score=slot,
            normalize=normalize,
            sparsify=by,
            attention_mask=keep,
            is_causal=True,
            candidates=every_pair if executor == "edges" else None,
            executor=executor,
        )
        assert (graph.receivers.diff() >= 0).all()
        slope = torch.linspace(-1, 1, 2 * 6 * queries * keys, dtype=f64).view(2, 6, queries, keys)
        total = (graph.to_dense() * slope).sum()
        grads = (
            torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
            if total.requires_grad
            else []
        )
        results[executor] = [graph.to_dense().detach(), *grads]
    for executor in ("stream", "edges"):
        for got, want in zip(results[executor], results["dense"], strict=True):
            assert_close(
                got,
                want,
                atol=1e-9,
                rtol=1e-7,
                msg=lambda text, executor=executor: f"{executor}: {text}",
            )


@pytest.mark.parametrize("score", SCORES)
def test_gradcheck(score: str) -> None:
    slot, parameters = make_score(score)
    q, k = make_inputs(score, 1, 3, 5)
    keep = torch.ones(1, 5, dtype=torch.bool)
    keep[0, 0] = False

    def run(*leaves: Tensor) -> Tensor:
        return gf.attention_graph(q, k, score=slot, attention_mask=keep, executor="stream").weight

    assert torch.autograd.gradcheck(run, (q, k, *parameters))


def test_pairwise_is_a_network_on_concatenated_vectors() -> None:
    network = nn.Sequential(nn.Linear(14, 5), nn.SiLU(), nn.Linear(5, 3)).double()
    x = torch.randn(2, 11, 7, dtype=f64)
    pairs = torch.cat(
        (x.unsqueeze(2).expand(-1, -1, 11, -1), x.unsqueeze(1).expand(-1, 11, -1, -1)), -1
    )
    wanted = network(pairs).permute(0, 3, 1, 2).softmax(-1)
    of_receiver, of_sender = network[0].weight.chunk(2, dim=1)
    q, k = x @ of_receiver.T + network[0].bias, x @ of_sender.T
    graph = gf.attention_graph(
        q.unsqueeze(1), k.unsqueeze(1), score=Pairwise(network[2].weight, network[2].bias)
    )
    assert_close(graph.to_dense(), wanted)


def test_differential_attention_needs_no_edges_for_sums() -> None:
    slot, parameters = make_score("differential")
    q, k = make_inputs("differential", 2, 7, 11)
    x = torch.randn(2, 6, 11, 5, dtype=f64, requires_grad=True)
    results = []
    for executor in ("flash", "dense"):
        out, _ = attend(q, k, x, score=slot, is_causal=True, executor=executor)
        results.append(
            [out["sum"], *torch.autograd.grad(out["sum"].square().sum(), [q, k, x, *parameters])]
        )
    for got, want in zip(*results, strict=True):
        assert_close(got, want)
    with pytest.raises(ValueError, match="the reductions mean"):  # its weights do not sum to 1
        attend(q, k, x, ("mean",), score=slot, executor="flash")


# ---------------------------------------------------------------------- layers and models

LAYERS = {
    "differential": lambda **options: GINAttention(
        30, 5, score="differential", layer_idx=0, **options
    ),
    "differential-pna": lambda **options: PNAAttention(
        30, 5, score="differential", sparsify=gf.Threshold(0.05), layer_idx=0, **options
    ),
    "pairwise": lambda **options: GINAttention(
        30, 5, score="pairwise", score_width=7, layer_idx=0, **options
    ),
    "pairwise-sum": lambda **options: SumAttention(
        30, 5, score="pairwise", layer_idx=0, sparsify=Reweigh("relu", 0.05), **options
    ),
    "language-pna": lambda **options: PNAAttention(
        30,
        5,
        aggregators=("mean", "max_norm@0.2", "var", "min_norm@0.2"),
        scalers=("identity",),
        layer_idx=0,
        **options,
    ),
    "trained-threshold": lambda **options: GINAttention(
        30, 5, sparsify=Reweigh("relu", 0.05, trainable=True), layer_idx=0, **options
    ),
    "trained-among-others": lambda **options: GINAttention(
        30, 5, sparsify=Reweigh("relu", 0.05, trainable=True) & TopK(4), **options
    ),
    "normalized": lambda **options: GINAttention(
        30, 5, sparsify=NormalizeWeights(5), layer_idx=0, **options
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_laws(kind: str) -> None:
    layer, x = LAYERS[kind](), torch.randn(2, 7, 30)
    gf.testing.check_causal(layer, x)
    gf.testing.check_prefix(layer, x)
    gf.testing.check_padding(layer, x)
    gf.testing.check_gradients(layer, x)


@pytest.mark.parametrize("kind", LAYERS)
def test_executors_and_backends_agree_in_layers(kind: str) -> None:
    layer, x = LAYERS[kind]().double(), torch.randn(2, 7, 30, dtype=f64, requires_grad=True)

    def run(executor: str, backend: str):
        def call(x: Tensor) -> Tensor:
            layer.executor, layer.backend = executor, backend
            return layer(x)

        return call

    ways = itertools.product(
        ("dense", "stream"), [name for name in gf.backends.available() if name != "torch_sparse"]
    )
    gf.testing.check_agreement({f"{e} {b}": run(e, b) for e, b in ways}, x, parameters=layer)


@pytest.mark.parametrize("kind", LAYERS)
def test_reset_parameters(kind: str) -> None:
    layer = LAYERS[kind]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 1
    layer.reset_parameters()
    torch.manual_seed(3)
    layer.reset_parameters()
    fresh = LAYERS[kind]()
    torch.manual_seed(3)
    fresh.reset_parameters()
    for got, want in zip(layer.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    "changes",
    [
        {"score": "differential", "operator": ["gin", "pna", "sum"]},
        {"score": {"pairwise": 7}},
        {
            "score": "pairwise",
            "threshold": {
                "name": "normalize_weights",
                "then": {"name": "reweigh", "curve": "relu", "tau": 0.1},
            },
        },
        {
            "operator": "pna",
            "operator_options": {
                "pna": {"aggregators": ["mean", "max_norm@0.2", "own"], "scalers": ["identity"]}
            },
        },
        {
            "threshold": {
                "name": "reweigh",
                "curve": "sigmoid",
                "tau": 0.1,
                "trainable": True,
                "keep": {"name": "top_k", "k": 3},
            }
        },
    ],
    ids=["differential", "pairwise", "normalized", "language-pna", "trained"],
)
def test_models(changes: dict, tmp_path) -> None:
    sizes = dict(
        vocab_size=11,
        hidden_size=24,
        intermediate_size=35,
        num_hidden_layers=3,
        num_attention_heads=6,
    )
    model = gf.GraphformerForCausalLM(gf.GraphformerConfig(**sizes, **changes)).eval()
    prompt = torch.randint(0, 11, (2, 5))
    wanted = model.generate(prompt, max_new_tokens=6, do_sample=False, use_cache=False)
    assert torch.equal(
        model.generate(prompt, max_new_tokens=6, do_sample=False, use_cache=True), wanted
    )
    model.save_pretrained(tmp_path)
    assert torch.equal(
        gf.GraphformerForCausalLM.from_pretrained(tmp_path).eval()(prompt).logits,
        model(prompt).logits,
    )
    model.train()(prompt, labels=prompt).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["differential", "pairwise", "trained-threshold", "trained-among-others"]
)
def test_compiled(kind: str) -> None:
    """Parameters of a score or a sparsifier get their gradients; where edges need them the graph
    breaks once.
    """
    torch._dynamo.reset()
    layer, x = LAYERS[kind](), torch.randn(2, 7, 30)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=kind == "differential")
    grads = [
        torch.autograd.grad(run(x).square().sum(), list(layer.parameters()))
        for run in (compiled, layer)
    ]
    for got, want in zip(*grads, strict=True):
        assert_close(got, want)


# ---------------------------------------------------------------------- sparsifiers


def keep_in_block(by: Sparsifier, weights: Tensor, allowed: Tensor) -> Tensor:
    every = gf.attention.Pairs.every(1, 1, *weights.shape[-2:], weights.device)
    pairs = gf.attention.Block(**vars(every), allowed=allowed.expand(1, *weights.shape))
    return by.keep(weights.unsqueeze(0), pairs).squeeze(0) & allowed


def refined(by: Sparsifier, graph: gf.AttentionGraph) -> gf.AttentionGraph:
    return graph.with_weight(by.refine(graph.weight, gf.attention.Listed.of(graph, 3)))


@given(st.integers(0, 10**6), st.floats(0.01, 1), st.booleans())
def test_a_fraction_of_a_row_is_that_of_its_prefix(seed: int, fraction: float, ties: bool) -> None:
    torch.manual_seed(seed)
    weights = torch.rand(1, 13, 13, dtype=f64)
    weights = (weights * 4).round() / 4 if ties else weights
    allowed = torch.ones(13, 13, dtype=torch.bool).tril()
    by = TopFraction(fraction)
    kept = keep_in_block(by, weights, allowed)
    assert torch.equal(keep_in_block(by, weights[:, :7, :7], allowed[:7, :7]), kept[:, :7, :7])
    number = torch.arange(1, 14).double() * fraction
    assert (
        ((kept.sum(-1)[0] - number).abs() < 1 + 1e-6).all()
        and (kept.sum(-1) >= 1).all()
        and not kept[:, ~allowed].any()
    )
    graph = gf.AttentionGraph.from_dense(weights, keep=allowed.expand(1, 13, 13))
    listed = by.keep(graph.weight, gf.attention.Listed.of(graph, 1))
    assert torch.equal(graph.select(listed).to_dense() != 0, kept & (weights != 0))


def test_normalized_weights() -> None:
    weights = torch.rand(2, 3, 7, 7, dtype=f64).tril()
    graph = gf.AttentionGraph.from_dense(
        weights, keep=torch.ones(7, 7, dtype=torch.bool).tril().expand(2, 3, 7, 7)
    )
    rows = refined(NormalizeWeights(3).double(), graph).to_dense()
    wanted = weights[1, 2, 4, :5]
    assert_close(
        rows[1, 2, 4, :5], (wanted - wanted.mean()) / (wanted.var(correction=0) + 1e-5).sqrt()
    )
    whole = nn.GroupNorm(3, 3).double()(weights.flatten(2)).view_as(weights).tril()
    assert_close(refined(NormalizeWeights(3, "map").double(), graph).to_dense(), whole)


def test_max_norm_at_a_weight() -> None:
    graph = gf.AttentionGraph.from_edges(
        torch.tensor([0, 1, 2]), torch.tensor([1, 1, 1]), torch.tensor([0.1, 0.5, 0.3]), num_nodes=3
    )
    x = torch.tensor([[9.0, 0], [0, 1.0], [-2.0, 0]], requires_grad=True)
    assert gf.aggregate(graph, x, "max_norm@0.2").tolist() == [[0, 0], [-2, 0], [0, 0]]
    assert gf.aggregate(graph, x, "min_norm@0.2").tolist() == [[0, 0], [0, 1], [0, 0]]
    assert gf.aggregate(graph, x, "max_norm@0.9").tolist() == [[0, 0]] * 3
    gf.aggregate(graph, x, "max_norm").sum().backward()
    assert x.grad.tolist() == [[1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("executor", ["dense", "stream"])
def test_blocks_of_a_wide_pairwise_score_are_small(executor: str) -> None:
    slot, _ = make_score("pairwise")
    q, k = make_inputs("pairwise", 1, 101, 101)
    problem = gf.attention.problem.pose(q, k, score=slot)
    assert all(
        len(block.rows) * len(block.columns) * 10 <= 6 * blocks.BLOCK_ELEMENTS
        for block in blocks.walk(problem, 6, slot.cost)
    )


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: Reweigh("cubic"), ValueError, "unknown curve 'cubic'; known: relu, silu"),
        (lambda: Reweigh("relu", float("nan")), ValueError, "tau must be a finite number, got nan"),
        (lambda: Reweigh("relu", "much"), TypeError, "tau must be a number, got 'much'"),
        (lambda: TopFraction(1.5), ValueError, r"fraction must lie in \(0, 1\], got 1.5"),
        (
            lambda: NormalizeWeights(3, "all"),
            ValueError,
            "unknown over 'all'; known: receiver, map",
        ),
        (
            lambda: from_spec({"curve": "relu"}, 3),
            ValueError,
            "needs a name, one of both, edge_mask, extra_edges, normalize_weights",
        ),
        (
            lambda: from_spec({"name": "cut"}, 3),
            ValueError,
            "unknown sparsifier 'cut'; known: both, edge_mask, extra_edges, normalize_weights",
        ),
        (
            lambda: from_spec({"name": "top_k", "n": 3}, 3),
            ValueError,
            "does not describe a sparsifier: .*'n'",
        ),
        (
            lambda: GINAttention(30, 5, score="cosine"),
            ValueError,
            "unknown score 'cosine'; known: .*differential, .*dot",
        ),
        (
            lambda: GINAttention(30, 5, score_width=7),
            ValueError,
            "score_width=7 is for score='pairwise', but score is 'dot'",
        ),
        (
            lambda: GINAttention(30, 5, score="pairwise", score_width=0),
            ValueError,
            "score_width must be at least 1, got 0",
        ),
        (
            lambda: PNAAttention(30, 5, aggregators=("max_norm@often",)),
            ValueError,
            "needs a number after the @",
        ),
        (
            lambda: PNAAttention(30, 5, aggregators=("sum@0.2",)),
            ValueError,
            "unknown reduce 'sum@0.2'",
        ),
        (
            lambda: gf.attention_graph(*make_inputs("dot", 1, 3, 3), score="dot"),
            TypeError,
            "score must be a Score such as",
        ),
        (
            lambda: gf.attention_graph(
                *make_inputs("dot", 1, 3, 3), score=Differential(), scale=0.5
            ),
            ValueError,
            r"give them to the score itself, Differential\(...\)",
        ),
        (
            lambda: gf.attention_graph(
                *make_inputs("dot", 1, 3, 3), score=make_score("pairwise")[0]
            ),
            ValueError,
            "a pairwise score takes q and k of one head and width 10",
        ),
        (
            lambda: gf.attention_graph(
                torch.randn(1, 1, 3, 5), torch.randn(1, 1, 3, 5), score=Differential()
            ),
            ValueError,
            "halves the channels of q and k, so there must be an even number, got 5",
        ),
        (
            lambda: gf.GraphformerConfig(operator_options={"gat": {}}),
            ValueError,
            "unknown operator in operator_options 'gat'",
        ),
    ],
)
def test_what_is_refused(call, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


# ---------------------------------------------------------------------- factors of a head


# as many senders as heads, too: a number a head is not one a sender
@pytest.mark.parametrize("keys", [7, 3])
@pytest.mark.parametrize("given", [[0.2, 0.5, 0.9], torch.tensor([0.2, 0.5, 0.9], dtype=f64)])
def test_one_factor_a_head_means_that_on_blocks_and_on_edges(given: object, keys: int) -> None:
    q, k = torch.randn(2, 3, keys, 10, dtype=f64), torch.randn(2, 3, keys, 10, dtype=f64)
    receivers, senders = torch.tril_indices(keys, keys)
    ways = {
        "dense": {"executor": "dense", "is_causal": True},
        "stream": {"executor": "stream", "is_causal": True},
    }
    ways["edges"] = {"candidates": gf.attention.Edges(senders, receivers)}
    plain = torch.as_tensor(given, dtype=f64).view(3, 1, 1)
    for make_one in (
        lambda value: Differential(value),
        lambda value: Differential(0.4, sharpening=value),
        lambda value: ScaledDotProduct(None, value),
    ):
        want = gf.attention_graph(
            q, k, score=make_one(plain), is_causal=True, executor="dense"
        ).to_dense()
        for way in ways.values():
            torch.testing.assert_close(
                gf.attention_graph(q, k, score=make_one(given), **way).to_dense(),
                want,
                check_dtype=False,
                rtol=1e-6,
                atol=1e-6,
            )


@pytest.mark.parametrize(
    "shape", [(7,), (10,), (3, 1), (3, 7), (3, 1, 7), (5, 3, 1, 1), (1, 1, 3, 1, 1)]
)
def test_factors_that_belong_to_no_head_are_refused(shape: tuple[int, ...]) -> None:
    q = torch.randn(2, 3, 7, 10, dtype=f64)
    senders = receivers = torch.arange(7)
    for how in (
        {"executor": "dense"},
        {"executor": "stream"},
        {"candidates": gf.attention.Edges(senders, receivers)},
    ):
        with pytest.raises(
            ValueError,
            match=r"amount must be a number, one for each of the 3 heads, or a tensor that "
            r"broadcasts to \[2, 3, 1, 1\]",
        ):
            gf.attention_graph(q, q, score=Differential(torch.ones(shape, dtype=f64)), **how)
        with pytest.raises(
            ValueError,
            match=r"sharpening must be a number, one for each of the 3 heads, or a tensor that "
            r"broadcasts to \[2, 3, 7, 1\]",
        ):
            gf.attention_graph(
                q, q, score=ScaledDotProduct(None, torch.ones(shape, dtype=f64)), **how
            )
