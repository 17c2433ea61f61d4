"""ContMix's weights beside a direct transcription, in texts and images."""

import pytest
import torch
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention.normalizers import Regions
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
