"""The linear executor: sums without softmax in linear time, equal to their edges."""

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import attend
from graphformer.attention.candidates import Causal, Packed, Window
from graphformer.attention.executors import linear, scan
from graphformer.attention.scores import Decay, LearnedQuery

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=[2, 5, 64])
def chunk(request, monkeypatch):
    monkeypatch.setattr(linear, "CHUNK", request.param)
    monkeypatch.setattr(scan, "CHUNK", request.param)


def inputs(length=13, heads=6, kv_heads=3):
    torch.manual_seed(0)
    sizes = ((heads, 4), (kv_heads, 4), (heads, 7))
    return [torch.randn(2, h, length, d, requires_grad=True) for h, d in sizes]


def run(q, k, x, executor, **more):
    return attend(q, k, x, is_causal=True, normalize="identity", executor=executor, **more)[0][
        "sum"
    ]


SCORES = {"dot": None, "decay": Decay(6)}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("mask", [None, [[0] * 3 + [1] * 10, [1] * 12 + [0]]])
def test_equals_the_edge_form(chunk, score, mask):
    """Outputs, gradients and second derivatives."""
    more = {"score": SCORES[score]} if SCORES[score] is not None else {"sharpening": 0.7}
    more["attention_mask"] = None if mask is None else torch.tensor(mask)
    found = []
    for executor in ("dense", "stream", "linear", "auto"):
        given = inputs()
        out = run(*given, executor, **more)
        grads = torch.autograd.grad(out.sin().sum(), given, create_graph=True)
        second = torch.autograd.grad(sum(one.square().sum() for one in grads), given)
        found.append((out, *grads, *second))
    for other in found[1:]:
        for one, want in zip(other, found[0], strict=True):
            assert_close(one, want)


def test_direct_transcription_of_retention():
    q, k, x = inputs(kv_heads=6)
    rate = 1 - 2.0 ** -(5 + torch.arange(6))
    place = torch.arange(13)
    fade = (rate.view(-1, 1, 1) ** (place[:, None] - place).clamp(min=0)).tril()
    want = (q @ k.mT / 2 * fade) @ x
    assert_close(run(q, k, x, "linear", score=Decay(6)), want)


def test_no_tokens():
    q, k, x = inputs(length=0)
    assert run(q, k, x, "auto", score=Decay(6)).shape == (2, 6, 0, 7)


def test_no_power_overflows():
    q, k, x = (one.detach().float() for one in inputs(5000, 2, 2))
    score = Decay(2)
    score.rate.copy_(torch.tensor([1e-6, 1.0]))
    score = score.float()
    got = run(q, k, x, "linear", score=score)
    assert got.isfinite().all()
    assert_close(
        got[:, 0], (q[:, 0] * k[:, 0]).sum(-1, keepdim=True) / 2 * x[:, 0], atol=1e-3, rtol=1e-3
    )


def test_what_it_is_chosen_for_and_what_it_refuses():
    layer = gf.nn.SumAttention(12, 3, head=gf.Head(score="decay", normalize="identity"))
    x = torch.randn(1, 9, 12)
    assert "executor linear" in str(gf.explain(layer, x))
    q, k, v = inputs()
    for more, why in [
        ({"sparsify": gf.TopK(2)}, "cuts edges"),
        ({"candidates": Window(3)}, "not all tokens up to the receiver"),
        ({"candidates": Packed(torch.zeros(2, 13, dtype=torch.long))}, "not all tokens up"),
        ({"dropout": 0.5}, "dropout draws a number for each weight"),
        ({"reductions": ("max",)}, "needs the reductions max"),
        ({"backend": "pyg"}, "a backend aggregates edges"),
        ({"output_graph": True}, "the graph itself was asked for"),
        ({"score": Decay(6), "normalize": "softmax"}, "is not identity"),
    ]:
        given = {"normalize": "identity", "is_causal": True, **more}
        with pytest.raises(ValueError, match=f"executor='linear' builds no edges.*{why}"):
            attend(q, k, v, executor="linear", **given)
        attend(q, k, v, **given)
    with pytest.raises(ValueError, match="executor='linear' builds no edges, so it cannot return"):
        gf.attention_graph(q, k, executor="linear")


def test_a_model_generates_with_a_cache():
    torch.manual_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=12,
        intermediate_size=14,
        num_hidden_layers=2,
        num_attention_heads=2,
        head=gf.Head(score="decay", normalize="identity"),
    )
    model = gf.GraphformerForCausalLM(config).double().eval()
    ids = torch.randint(0, 11, (2, 9))
    gf.testing.check_cache(model, ids)
    gf.testing.check_causal(model, ids)
    gf.testing.check_prefix(model, ids)


def test_a_subclass_with_another_formula_is_not_taken_for_it():
    class Twice(Decay):
        def logits(self, q, k, pairs):
            return 2 * super().logits(q, k, pairs)

    q, k, x = inputs()
    want = 2 * run(q, k, x, "dense", score=Decay(6))
    assert_close(run(q, k, x, "auto", score=Twice(6)), want)
    assert Causal().causal


# ---------------------------------------------------------------------- Aaren's scan


def learned_query() -> LearnedQuery:
    torch.manual_seed(1)
    return LearnedQuery(24, 6, 12, 4)


@pytest.mark.parametrize("mask", [None, [[0] * 3 + [1] * 10, [1] * 12 + [0]]])
def test_the_scan_equals_the_edge_form(chunk, mask):
    """Outputs, gradients and second derivatives, in the query too."""
    mask, found = None if mask is None else torch.tensor(mask), []
    for executor in ("dense", "stream", "flash", "linear", "auto"):
        (_, k, x), score = inputs(), learned_query()
        q = torch.zeros(2, 6, 13, 4)  # which are not read
        more = {"is_causal": True, "attention_mask": mask, "score": score, "executor": executor}
        out = attend(q, k, x, ("sum", "mean"), **more)[0]
        assert_close(out["sum"], out["mean"])
        given = k, x, score.query
        real = slice(3, 12)  # of a row without senders flash says nothing
        loss = out["sum"][:, :, real].sin().sum()
        grads = torch.autograd.grad(loss, given, create_graph=True)
        second = torch.autograd.grad(sum(one.square().sum() for one in grads), given)
        found.append((out["sum"][:, :, real], *grads, *second))
    for other in found[1:]:
        for one, want in zip(other, found[0], strict=True):
            assert_close(one, want)


def test_direct_transcription_of_the_scan(chunk):
    """Appendix A of the paper: triples and the operator that joins two of them."""
    torch.manual_seed(0)
    logits, x = 9 * torch.randn(2, 3, 11), torch.randn(2, 3, 11, 5)
    top, total, summed = logits[..., 0], torch.ones(2, 3), x[:, :, 0]
    want = [summed]
    for j in range(1, 11):
        new = torch.maximum(top, logits[..., j])
        old, own = (top - new).exp(), (logits[..., j] - new).exp()
        total = total * old + own
        summed = summed * old.unsqueeze(-1) + own.unsqueeze(-1) * x[:, :, j]
        top = new
        want.append(summed / total.unsqueeze(-1))
    assert_close(scan.running_softmax(logits, x)[0], torch.stack(want, 2))


def test_no_exponent_of_the_scan_overflows():
    torch.manual_seed(0)
    for last in (1e4, -1e4):
        logits = torch.linspace(-last, last, 300).expand(1, 1, -1)
        x = torch.randn(1, 1, 300, 3)
        later = torch.ones(300, 300, dtype=torch.bool).triu(1)
        want = logits.unsqueeze(2).expand(1, 1, 300, 300).masked_fill(later, -torch.inf).softmax(-1)
        assert_close(scan.running_softmax(logits, x)[0], want @ x)
    hidden = torch.full((1, 1, 7), -torch.inf, requires_grad=True)
    out, _ = scan.running_softmax(hidden, x[:, :, :7])
    assert torch.equal(out, torch.zeros_like(out))
    out.sum().backward()
    assert torch.equal(hidden.grad, torch.zeros(1, 1, 7))


def test_where_the_scan_runs_and_where_it_does_not():
    layer = gf.nn.SumAttention(12, 3, head=gf.Head(score="learned_query"))
    x = torch.randn(2, 9, 12)
    assert "executor linear" in str(gf.explain(layer, x))
    assert "executor flash" in str(gf.explain(gf.nn.SumAttention(12, 3), x))
    layers = {one: same(layer, one) for one in ("linear", "flash", "dense")}
    x.requires_grad_()
    gf.testing.check_executors_agree(lambda one, x: layers[one](x), x, executors=list(layers))
    x = x.detach()
    q, k, v = inputs()
    for more, why in [
        ({"sparsify": gf.TopK(2)}, "cuts edges"),
        ({"candidates": Window(3)}, "not all tokens up to the receiver"),
        ({"is_causal": False}, "not all tokens up to the receiver"),
        ({"dropout": 0.5}, "dropout draws a number for each weight"),
        ({"reductions": ("sum", "max")}, "needs the reductions max"),
        ({"output_graph": True}, "the graph itself was asked for"),
        ({"normalize": "sigmoid"}, "normalize=.* is not identity"),
        ({"score": None}, "is not identity, and score=ScaledDotProduct reads receivers"),
    ]:
        given = {"score": learned_query(), "is_causal": True, **more}
        with pytest.raises(ValueError, match=f"executor='linear' builds no edges.*{why}"):
            attend(q, k, v, executor="linear", **given)
        attend(q, k, v, **given)
    with pytest.raises(ValueError, match="has 6 queries, and there are 3 heads"):
        attend(q[:, :3], k, v[:, :3], score=learned_query())


def same(layer, executor):
    made = gf.nn.SumAttention(12, 3, head=gf.Head(score="learned_query"), executor=executor)
    made.load_state_dict(layer.state_dict())
    return made


def test_a_model_with_the_scan_generates_with_a_cache():
    torch.manual_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=12,
        intermediate_size=14,
        num_hidden_layers=2,
        num_attention_heads=2,
        head=gf.Head(score="learned_query"),
    )
    model = gf.GraphformerForCausalLM(config).double().eval()
    ids = torch.randint(0, 11, (2, 9))
    assert "executor linear" in str(gf.explain(model, ids))
    gf.testing.check_cache(model, ids)
    gf.testing.check_causal(model, ids)
    gf.testing.check_prefix(model, ids)


def test_a_subclass_whose_logits_read_receivers_is_not_scanned():
    class Both(LearnedQuery):
        def prepare(self, q, k):
            return q, k

        def logits(self, q, k, pairs):
            return pairs.dot(q, k)

    q, k, x = inputs()
    found = [
        attend(q, k, x, is_causal=True, score=Both(24, 6, 12, 4), executor=executor)[0]["sum"]
        for executor in ("auto", "dense")
    ]
    assert_close(*found)
