"""ContMix's weights beside a direct transcription, in texts and images."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention.attend import attend
from graphformer.attention.candidates import All, Causal, First, Keep, Packed, Rule, Window
from graphformer.attention.normalizers import Regions, Softmax
from graphformer.attention.problem import Problem
from graphformer.attention.scores import Positions
from graphformer.nn import rotary_embeddings, rotate

pytestmark = pytest.mark.usefixtures("float64")


def drawn(*given, **more) -> Regions:
    torch.manual_seed(1)
    made = Regions(*given, num_heads=2, **more)
    with torch.no_grad():
        made.bias.normal_()
    return made


def test_a_text():
    """Affinities with the mean keys of regions behind a token, a map of them, a softmax."""
    torch.manual_seed(0)
    normalize, (q, k) = drawn(3, 2, 4), torch.randn(2, 1, 2, 11, 5)
    keep = torch.tensor([[0] * 2 + [1] * 9])
    want = torch.zeros(1, 2, 11, 11)
    for h in range(2):
        for i in range(2, 11):
            affinity = torch.zeros(2)
            for r in range(2):
                region = [j for j in range(2, i + 1) if r * 4 <= i - j < (r + 1) * 4]
                if region:
                    affinity[r] = q[0, h, i] @ k[0, h, region].mean(0) / 5**0.5
            logits = affinity @ normalize.map[h] + normalize.bias[h]
            window = [j for j in range(2, i + 1) if i - j < 3]
            want[0, h, i, window] = logits[[i - j for j in window]].softmax(0)
    for executor in ("dense", "stream"):
        given = {"normalize": normalize, "is_causal": True, "attention_mask": keep}
        graph = gf.attention_graph(q, k, **given, executor=executor)
        assert_close(graph.to_dense()[:, :, 2:], want[:, :, 2:])
        near = gf.attention_graph(q, k, **given, sparsify=gf.Threshold(0.0), executor=executor)
        assert near.num_edges == int((want > 0).sum())


def test_an_image():
    """The paper's form: pooled keys on a grid, a kernel for each pixel."""
    torch.manual_seed(0)
    rows, columns = 4, 6
    normalize = drawn(3, 2, shape=(rows, columns))
    q, k = torch.randn(2, 1, 2, rows * columns, 5)
    image = k[0].mT.reshape(2, 5, rows, columns)
    pooled = torch.nn.functional.adaptive_avg_pool2d(image, 2).flatten(2)  # [H, d, 4]
    kernels = (q[0] @ pooled / 5**0.5) @ normalize.map + normalize.bias.unsqueeze(1)
    want = torch.zeros(2, 24, 24)
    for i in range(24):
        (y, x), around = divmod(i, columns), []
        for c in range(9):
            at = y + c // 3 - 1, x + c % 3 - 1
            if 0 <= at[0] < rows and 0 <= at[1] < columns:
                around.append((c, at[0] * columns + at[1]))
        places, senders = map(list, zip(*around, strict=True))
        want[:, i, senders] = kernels[:, i, places].softmax(-1)
    assert_close(gf.attention_graph(q, k, normalize=normalize).to_dense()[0], want)


def both_ways(q, k, x, normalize, **given) -> None:
    """Sums, gradients and cut graphs by mean keys, and by the scores of all pairs."""
    found = []
    for executor in ("dense", "flash"):
        out, _ = attend(q, k, x, ("sum", "mean"), normalize=normalize, executor=executor, **given)
        loss = out["sum"].square().sum() + out["mean"].sin().sum()
        grads = torch.autograd.grad(loss, [q, k, x, normalize.map, normalize.bias])
        found.append([out["sum"], out["mean"], *grads])
        executor = "stream" if executor == "flash" else executor
        cut = {"sparsify": gf.Threshold(0.1), "executor": executor}
        graph = gf.attention_graph(q, k, normalize=normalize, **given, **cut)
        found[-1] += [graph.edge_index, graph.weight]
    for one, other in zip(*found, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("sizes", [(3, 2, 4), (5, 3, 3), (4, 2, 1), (7, 3, 7), (2, 1, 40)])
@pytest.mark.parametrize("receivers", [23, 9, 1])
def test_mean_keys_of_a_text_are_the_scores_of_its_pairs(sizes, receivers):
    torch.manual_seed(0)
    normalize, place = drawn(*sizes), torch.arange(23)
    q = torch.randn(2, 2, receivers, 5, requires_grad=True)
    k = torch.randn(2, 1, 23, 5, requires_grad=True)
    x = torch.randn(2, 2, 23, 3, requires_grad=True)
    masks = None, place >= torch.tensor([[0], [4]]), torch.rand(2, 23) > 0.3
    rules = None, Packed((place // 6).expand(2, -1)), Window(sizes[1] * sizes[2])
    for mask, rule, is_causal in itertools.product(masks, rules, (True, False)):
        given = {"attention_mask": mask, "candidates": rule, "is_causal": is_causal}
        both_ways(q, k, x, normalize, **given)


@pytest.mark.parametrize("shape", [(4, 6), (7, 3), (2, 2), (9, 1)])
@pytest.mark.parametrize("window", [3, 5])
def test_mean_keys_of_an_image_are_the_scores_of_its_pairs(shape, window):
    torch.manual_seed(0)
    normalize, number = drawn(window, 2, shape=shape), shape[0] * shape[1]
    q = torch.randn(2, 2, number, 5, requires_grad=True)
    k = torch.randn(2, 1, number, 5, requires_grad=True)
    x = torch.randn(2, 2, number, 3, requires_grad=True)
    for mask in (None, torch.rand(2, number) > 0.3):
        both_ways(q, k, x, normalize, attention_mask=mask)


def problem_of(rule: Rule, normalize: Regions, **changes) -> Problem:
    q, k = torch.randn(2, 1, 2, 11, 5)
    score, sparsify = gf.attention.scores.ScaledDotProduct(), None
    return replace(Problem(q, k, rule, None, score, normalize, sparsify), **changes)


def test_where_mean_keys_say_it_and_where_they_do_not():
    """Rules that hide from one token what they show to another leave other means to each."""
    normalize, segments = drawn(3, 2, 4), torch.arange(11)[None]
    known = [All(), Causal(), Causal() & Window(8), Keep(torch.ones(1, 11)), Packed(segments // 4)]
    pairs = Keep(torch.ones(1, 1, 11, 11, dtype=torch.bool))
    others = [Window(7), First(2), Causal() & pairs, Packed(segments % 2), Window(8) | First(1)]
    for rule in known:
        found = problem_of(rule, normalize).simplest("auto", zeros_count=False)
        assert isinstance(found.normalize, Softmax) and found.is_softmax
    for rule in others:
        problem = problem_of(rule, normalize)
        assert problem.simplest("auto", zeros_count=False) is problem
    for asked in ("dense", "auto"):  # the formula as it stands; all pairs as edges
        problem = problem_of(Causal(), normalize)
        assert problem.simplest(asked, zeros_count=asked == "auto") is problem
    for sparsify, cuts in ((gf.Threshold(0.0), True), (gf.TopK(3), False)):
        problem = problem_of(Causal(), normalize, sparsify=sparsify)
        assert (problem.simplest("auto", zeros_count=True) is not problem) == cuts
    for score in (gf.attention.scores.GATv2(2, 5), gf.attention.scores.Differential()):
        problem = problem_of(Causal(), normalize, score=score)
        assert problem.simplest("auto", zeros_count=False) is problem


def test_edges_that_are_not_cut_are_those_of_all_candidates():
    q, k = torch.randn(2, 1, 2, 11, 5)
    graph = gf.attention_graph(q, k, normalize=drawn(3, 2, 4), is_causal=True)
    assert graph.num_edges == 2 * 66
    given = {"normalize": drawn(3, 2, 4), "is_causal": True}
    for executor in ("dense", "auto"):
        degree, _ = attend(q, k, q, ("degree", "sum"), executor=executor, **given)
        assert degree["degree"][0, 0, :, 0].tolist() == list(range(1, 12))


def test_a_subclass_with_weights_of_its_own_is_not_rewritten():
    class Halved(Regions):
        def weights(self, scores, pairs):
            return super().weights(scores, pairs) / 2

    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 2, 11, 5)
    whole, half = drawn(3, 2, 4), Halved(3, 2, 4, num_heads=2)
    half.load_state_dict(whole.state_dict())
    found = [attend(q, k, q, normalize=one, is_causal=True)[0]["sum"] for one in (whole, half)]
    assert_close(found[0], 2 * found[1])
    problem = problem_of(Causal(), Halved(3, 2, 4, num_heads=2))
    assert problem.simplest("auto", zeros_count=False) is problem


def test_second_derivatives_and_half_precision():
    torch.manual_seed(0)
    normalize = drawn(3, 2, 4)
    q, k = torch.randn(2, 1, 2, 9, 3)
    given = {"normalize": normalize, "is_causal": True}
    inputs = q.requires_grad_(), k.requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda q, k: attend(q, k, torch.ones_like(k).cumsum(2), **given)[0]["sum"], inputs
    )
    layer = gf.nn.SumAttention(16, 2, head=gf.Head(normalize=normalize))
    x = torch.randn(2, 40, 16)
    want = layer(x)
    for kind, far in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        assert_close(layer.to(kind)(x.to(kind)).double(), want, atol=far, rtol=far)


def test_positions_are_turned_queries_and_keys():
    """Two vectors a head, turned by their places, and their products in the place of them."""
    torch.manual_seed(0)
    u, w, score = torch.randn(3, 6), torch.randn(3, 6), Positions(100.0, 3, 6)
    with torch.no_grad():
        first, second = u.chunk(2, -1)
        own, other = w.chunk(2, -1)
        score.cosine.copy_((first * own + second * other) / 6**0.5)
        score.sine.copy_((first * other - second * own) / 6**0.5)
    turn = [one.to(u.dtype) for one in rotary_embeddings(torch.arange(9)[None], 6, theta=100.0)]
    q, k = (rotate(one.view(1, 3, 1, 6).expand(1, 3, 9, 6), *turn) for one in (u, w))
    want = (q @ k.mT / 6**0.5).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf).softmax(-1)
    nothing = torch.zeros(1, 3, 9, 1)
    graph = gf.attention_graph(nothing, nothing[:, :1], score=score, is_causal=True)
    assert_close(graph.to_dense(), want, atol=1e-5, rtol=1e-5)  # whose angles are float32


def test_law_of_slots_and_refusals():
    gf.testing.check_slot(Regions(3, 2, 4))
    with pytest.raises(ValueError, match=r"size=3 is of a text's regions"):
        Regions(3, 2, 3, (4, 4))
    with pytest.raises(ValueError, match="window=4 has no middle"):
        Regions(4, 2, shape=(4, 4))
    q = torch.randn(1, 2, 7, 5)
    with pytest.raises(ValueError, match=r"is an image of 24 pixels, and there are 7 senders"):
        gf.attention_graph(q, q, normalize=drawn(3, 2, shape=(4, 6)))
