"""The lightning indexer: its formula, its choice, its loss, and that no matrix of all pairs is
held.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention.candidates import Blocks, Causal, Indexer, PerHead, Window, chosen
from graphformer.attention.executors import blocks, listed
from graphformer.attention.problem import Problem
from graphformer.training import index_divergence
from tests.attention.test_methods import stirred

pytestmark = pytest.mark.usefixtures("float64")

N = 23


def layer_of(rule, operator="gin", **slots):
    torch.manual_seed(0)
    kind = {"gin": gf.nn.GINAttention, "sum": gf.nn.SumAttention}[operator]
    return stirred(kind(16, 4, 2, head=gf.Head(candidates=rule, **slots)))


def states(length=N, batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, length, 16)


def index_of(layer, x):
    """The formula, written out: ``[B, N, N]``."""
    rule = layer.candidates if isinstance(layer.candidates, Indexer) else layer.candidates.rules[0]
    q, k = layer.q_proj(x), layer.k_proj(x)  # the heads stand beside each other
    a, b, v = q @ rule.query.weight.T, k @ rule.key.weight.T, q @ rule.gate.weight.T
    index = torch.zeros(len(x), x.shape[1], x.shape[1])
    for m in range(rule.index_heads):
        own = a[..., m * rule.width : (m + 1) * rule.width]
        index = index + v[..., m : m + 1] * F.relu(own @ b.mT)
    return index


def wanted_pairs(index, k):
    """The k largest of each row's own past, of equal ones the first; bool ``[B, N, N]``."""
    index, keep = index.detach(), torch.zeros_like(index, dtype=torch.bool)
    for b in range(len(index)):
        for i in range(index.shape[1]):
            order = sorted(range(i + 1), key=lambda j: (-index[b, i, j].item(), j))
            keep[b, i, order[:k]] = True
    return keep


def test_the_formula():
    layer, x = layer_of(Indexer(4, index_heads=3, width=5)), states()
    _, graph = layer(x, output_graph=True)
    want = wanted_pairs(index_of(layer, x), 4).unsqueeze(1).expand(-1, 4, -1, -1)
    assert torch.equal(graph.unweighted().to_dense().bool(), want)
    # the real score over what was chosen: as with a mask of these pairs
    twin = layer_of(None)
    twin.load_state_dict(layer.state_dict(), strict=False)
    assert_close(layer(x), twin(x, want[:, :1]))


def test_equal_indices_fall_to_the_earlier_sender():
    rule = Indexer(3, 1, 2)
    layer = layer_of(rule)
    torch.nn.init.zeros_(layer.candidates.key.weight)
    _, graph = layer(states(), output_graph=True)
    assert torch.equal(
        graph.unweighted().to_dense()[0, 0].bool(),
        torch.ones(N, N).tril().bool() & (torch.arange(N) < 3),
    )


@pytest.mark.parametrize("k", [N, 100, None])
@pytest.mark.parametrize("operator", ["gin", "sum"])
def test_all_chosen_is_no_indexer(k, operator):
    layer, x = layer_of(Indexer(k), operator), states()
    plain = layer_of(None, operator)
    plain.load_state_dict(layer.state_dict(), strict=False)
    assert_close(layer(x), plain(x))


RULES = {
    "alone": Indexer(4, 2, 3),
    "or window": Window(3) | Indexer(2, 2, 3),
    "and window": Window(7) & Indexer(2, 2, 3),
    "some heads": PerHead((Indexer(3, 2, 3), Window(4), Causal(), Indexer(5, 1, 3))),
    "or blocks": Blocks(4) | Indexer(3, 2, 3),
}


@pytest.mark.parametrize("cut", [{}, {"sparsify": gf.TopK(2), "score": "alibi"}])
@pytest.mark.parametrize("name", RULES)
def test_laws(name, cut):
    layer, x = layer_of(RULES[name], **cut), states()
    want = layer(x)
    for executor in ("dense", "stream", *(() if cut else ("flash",))):
        layer.executor = executor
        assert_close(layer(x), want)
    layer.executor = "auto"
    gf.testing.check_causal(layer, x)
    gf.testing.check_prefix(layer, x)
    keep = torch.zeros(2, N, dtype=torch.long)
    keep[:, 5:-3] = 1
    assert_close(layer(x, keep)[:, 5:-3], layer(x[:, 5:-3]))
    packed = gf.attention.Packed(torch.arange(N).expand(2, N) // 9)
    assert_close(layer(x, candidates=packed)[:, 9:18], layer(x[:, 9:18]))


@pytest.mark.parametrize("name", RULES)
def test_in_the_language_model(name):
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=14,
        num_hidden_layers=2,
        num_attention_heads=4,
        head=gf.Head(candidates=RULES[name]),
    )
    model, ids = stirred(gf.GraphformerForCausalLM(config)), torch.randint(11, (2, 19))
    gf.testing.check_cache(model, ids, prefill=(1, 11), chunks=(1, 4))


@pytest.mark.parametrize("name", ["alone", "some heads"])
def test_stretches_and_lists_give_the_same(name, monkeypatch):
    layer, x = layer_of(RULES[name], sparsify=gf.Threshold(0.1)), states()
    want = layer(x)
    monkeypatch.setattr(chosen, "LIMIT", 300)
    monkeypatch.setattr(listed, "WORTH", 0)
    monkeypatch.setattr(listed, "LIMIT", 100)
    layer.executor = "stream"
    assert_close(layer(x), want)


def test_no_matrix_of_all_pairs(monkeypatch):
    for name in ("allowed", "pairs"):
        monkeypatch.setattr(Problem, name, lambda self: pytest.fail("all pairs"))
    monkeypatch.setattr(blocks, "walk", lambda *given: pytest.fail("blocks of all pairs"))
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 2**10)
    monkeypatch.setattr(chosen, "LIMIT", 2**10)
    most, of_rows = [], chosen.Index.of_rows
    monkeypatch.setattr(
        chosen.Index, "of_rows", lambda *given: most.append(found := of_rows(*given)) or found
    )
    layer = layer_of(Indexer(2, 2, 3), "sum")
    layer(states(200, 1)).sum().backward()
    assert max(one.numel() for one in most) <= 2**10 and len(most) > 50


# ---------------------------------------------------------------------- what it learns from


def kl_of(layer, x, over):
    """The loss, written out row by row."""
    twin = layer_of(None)
    twin.load_state_dict(layer.state_dict(), strict=False)
    weights = twin(x, output_graph=True)[1].to_dense().detach()  # [B, H, N, N]
    index, k = index_of(layer, x), layer.candidates.k
    seen = torch.ones(N, N).tril().bool().expand(len(x), -1, -1)
    if over == "chosen":
        seen = wanted_pairs(index, k)
    total = []
    for b in range(len(x)):
        for h in range(4):
            for i in range(N):
                p, own = weights[b, h, i][seen[b, i]], index[b, i][seen[b, i]]
                p = p / p.sum()
                total.append((p * (p.log() - own.log_softmax(0))).sum())
    return torch.stack(total).mean()


@pytest.mark.parametrize("over", ["all", "chosen"])
def test_the_loss_beside_its_formula(over, monkeypatch):
    layer, x = layer_of(Indexer(5, 2, 3)), states()
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 100)
    with index_divergence(over) as found:
        layer(x)
    own = list(layer.candidates.parameters())
    index_alone = kl_of(layer, x, over)
    assert_close(found.total(), index_alone)
    grads = torch.autograd.grad(found.total(), own)
    assert_close(grads, torch.autograd.grad(index_alone, own))
    others = [p for p in layer.parameters() if not any(p is one for one in own)]
    assert not any(
        one is not None and one.any()
        for one in torch.autograd.grad(found.total(), others, allow_unused=True)
    )


def test_the_loss_of_some_heads():
    alone, x = layer_of(Indexer(3, 2, 3)), states()
    layer = layer_of(PerHead((alone.candidates, Window(3), Causal(), Window(2))))
    state = {name: value for name, value in alone.state_dict().items() if "candidates" not in name}
    layer.load_state_dict(state, strict=False)
    with index_divergence() as found:
        layer(x)
    weights = layer_of(None)
    weights.load_state_dict(layer.state_dict(), strict=False)
    p = weights(x, output_graph=True)[1].to_dense()[:, 0]
    logits = index_of(layer, x).masked_fill(torch.ones(N, N).triu(1).bool(), -torch.inf)
    log = logits.log_softmax(-1).masked_fill(p == 0, 0.0)
    assert_close(found.total(), (torch.xlogy(p, p) - p * log).sum(-1).mean())


@pytest.mark.parametrize("over", ["all", "chosen"])
def test_the_loss_on_edges(over):
    torch.manual_seed(0)
    conv = stirred(gf.nn.SumAttentionConv(5, 12, 4, head=gf.Head(candidates=Indexer(2, 2, 3))))
    plain = stirred(gf.nn.SumAttentionConv(5, 12, 4))
    plain.load_state_dict(conv.state_dict(), strict=False)
    x, index = torch.randn(7, 5), torch.randint(7, (2, 31)).unique(dim=1)
    with index_divergence(over) as found:
        _, graph = conv(x, index, output_graph=True)
    p = plain(x, index, output_graph=True)[1].to_dense().detach()
    logits = index_of_edges(conv, x)
    seen = p[0] > 0
    if over == "chosen":
        seen = graph.to_dense()[0] > 0
        p = p * seen
        p = p / p.sum(-1, keepdim=True).clamp(min=1e-300)
    log = logits.masked_fill(~seen, -torch.inf).log_softmax(-1).masked_fill(~seen, 0.0)
    rows = seen.any(-1).sum() * 4
    assert_close(found.total(), (torch.xlogy(p, p) - p * log).sum() / rows)
    assert int(graph.in_degree().max()) == 2
    for i in range(7):  # the two best of each receiver's own edges
        own = plain_senders(plain, x, index, i)
        best = sorted(own, key=lambda j: (-logits[i, j].item(), j))[:2]
        assert sorted(best) == (graph.to_dense()[0, i] > 0).nonzero().flatten().tolist()


def plain_senders(conv, x, index, receiver):
    graph = conv(x, index, output_graph=True)[1]
    return (graph.to_dense()[0, receiver] > 0).nonzero().flatten().tolist()


def index_of_edges(conv, x):
    rule, q, k = conv.candidates, conv.q_proj(x), conv.k_proj(x)
    a, b, v = rule.query(q).view(7, 2, 3), rule.key(k), rule.gate(q)
    return torch.einsum("im,imj->ij", v, F.relu(torch.einsum("imw,jw->imj", a, b)))


def test_an_index_learns_where_attention_is():
    """The share of a layer's weights that the four best of a row hold: most of the way from what
    an index of chance leaves to what is there.
    """
    torch.manual_seed(0)
    layer = gf.nn.SumAttention(16, 1, head=gf.Head(candidates=Indexer(None, 4, 8)))
    with torch.no_grad():
        layer.q_proj.weight.mul_(6.0)[2:] = 0
    x = torch.randn(4, 30, 16)
    with torch.no_grad():
        weights = layer(x, output_graph=True)[1].to_dense()

    @torch.no_grad()
    def share(values):
        best = values.masked_fill(torch.ones(30, 30).triu(1).bool(), -torch.inf).topk(4).indices
        return float(weights.gather(-1, best.unsqueeze(1))[:, :, 8:].sum(-1).mean())

    before = share(index_of(layer, x))
    optimizer = torch.optim.Adam(layer.candidates.parameters(), 0.03)
    for _ in range(60):
        optimizer.zero_grad()
        with index_divergence() as found:
            layer(x)
        found.total().backward()
        optimizer.step()
    assert share(index_of(layer, x)) - before > 0.5 * (share(weights[:, 0]) - before)


def test_what_cannot_be_is_refused():
    with (
        pytest.raises(ValueError, match=r"no layer with an indexer was called"),
        index_divergence() as found,
    ):
        layer_of(None)(states())
        found.total()
    with pytest.raises(ValueError, match="over"), index_divergence("rows"):
        pass
    with pytest.raises(ValueError, match=r"candidates='indexer' reads 4 and 2 heads of 4 channels"):
        layer_of(Indexer(3), score="additive")(states())
    with pytest.raises(ValueError, match="k"):
        Indexer(0)
