"""Methods of different slots compose: the laws hold for heads drawn at random, in texts and graphs,
or a sentence says what does not go together.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.attention.slot import KINDS
from tests.attention import grammar
from tests.attention.test_methods import INDEX, LOSS_OF_THEIR_OWN, stirred

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]

CASES, CHUNK = 300, 30
REFUSED = "|".join(
    (
        r"candidates='clusters' has \d+ x \d+ channels in its centroids .*and the score leaves",
        r"candidates='indexer' reads \d+ and \d+ heads of \d+ channels .*and the score leaves",
        r"score='forgetting' adds up along a row of tokens, and candidates=.* add senders",
        r"sparsify=ExtraEdges.* asks a rule about places of tokens, and candidates=.* add senders",
        r"candidates='persistent' has (keys|features) of \d+ x \d+ channels .*: take another",
    )
)
BLOCKS = "candidates=.*Blocks.* add blocks of a row of tokens to the senders, and the nodes of"
ON_TOKENS_ALONE = {
    "persistent": "candidates=.*Persistent.* add persistent senders to a row of tokens: take it in",
    "blocks": BLOCKS,
    "weighed_blocks": BLOCKS,
    "slice": "features='slice': a layer on edges sends a projection of x; leave it out",
    "forgetting": "score='forgetting' adds up along a row of tokens, and the nodes of a graph",
    "query_network": "a query is its token and more, so the heads together must be as wide as",
}
PLACES = r"candidates='\w+' counts places from the beginning, and the nodes of a graph"


def tokens(seed: int, head: gf.Head) -> None:
    """Causal, no row sees the length or the padding, executors and backends agree, gradients
    arrive, and a cache gives what there is without.
    """
    layer = stirred(gf.nn.GINAttention(15, 3, head=head))
    x = torch.randn(2, 11, 15)
    want = layer(x)
    assert want.isfinite().all()
    for layer.executor, layer.backend in (("dense", "torch"), ("stream", "pyg")):
        assert_close(layer(x), want)
    layer.executor = layer.backend = "auto"
    # queries that are no token's, which choose the same few senders whatever a token says, or a
    # window in which none of the first tokens stands
    few = bool({"first", "indexer"} & names(head))
    changes = not (few and {"learned_query", "regions"} & names(head))
    gf.testing.check_causal(layer, x, expect_change=changes)
    gf.testing.check_prefix(layer, x)
    padded = torch.cat((torch.randn(2, 4, 15), x), 1)
    mask = torch.arange(15).expand(2, -1) >= 4
    assert_close(layer(padded, mask)[:, 4:], want)
    if any(one.requires_grad for one in layer.parameters()):  # frozen maps may be all there is
        gf.testing.check_gradients(layer.train(), x, ignore=loss_of_its_own(head))


def model(seed: int, head: gf.Head) -> None:
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=18,
        intermediate_size=14,
        num_hidden_layers=2,
        num_attention_heads=3,
        head=head,
    )
    model = stirred(gf.GraphformerForCausalLM(config))
    ids = torch.randint(0, 11, (2, 9))
    if names(head) & {"top_k", "top_fraction", "indexer"}:
        # repeated tokens may have equal weights, and rounding then decides which of them is kept
        ids = torch.stack([torch.randperm(11)[:9] for _ in ids])
    gf.testing.check_cache(model, ids)


def edges(seed: int, head: gf.Head) -> None:
    """Neither the order of edges counts nor that of nodes, backends agree, gradients arrive."""
    layer = stirred(gf.nn.GINAttentionConv(5, 15, 3, edge_dim=2, head=head, head_channels=5))
    x, attr = torch.randn(7, 5), torch.randn(10, 2)
    want = layer(x, INDEX, attr)
    assert want.isfinite().all()
    layer.backend = "pyg"
    assert_close(layer(x, INDEX, attr), want)
    layer.backend = "auto"
    order = torch.randperm(10)
    assert_close(layer(x, INDEX[:, order], attr[order]), want)
    if not names(head) & grammar.READS_DISTANCES:
        order = torch.randperm(7)
        assert_close(layer(x[order], order.argsort()[INDEX], attr), want[order])
    want.square().sum().backward()
    for name, one in layer.named_parameters():
        # a mask of edges learns in training alone
        mask = "edge_mask" in names(head) and name.startswith("sparsify.")
        if not (mask or name.endswith(loss_of_its_own(head))):
            assert one.grad is not None and one.grad.isfinite().all()


def batches(seed: int, head: gf.Head) -> None:
    """A graph in a batch gets what it gets alone."""
    net = stirred(
        gf.GraphTransformer(5, 2, 15, num_layers=2, num_heads=3, target="node", head=head)
    )
    graphs = [
        Data(x=torch.randn(7, 5), edge_index=INDEX, edge_attr=torch.randn(10, 2)),
        Data(x=torch.randn(1, 5), edge_index=INDEX[:, :0], edge_attr=torch.randn(0, 2)),
        Data(x=torch.randn(7, 5), edge_index=INDEX.flip(0), edge_attr=torch.randn(10, 2)),
    ]
    alone = torch.cat([net(one).prediction for one in graphs])
    assert_close(net(Batch.from_data_list(graphs)).prediction, alone)


def loss_of_its_own(head: gf.Head) -> tuple[str, ...]:
    """Parameters that learn from index_divergence alone."""
    return tuple(LOSS_OF_THEIR_OWN["indexer"]) if "indexer" in names(head) else ()


def names(head: gf.Head) -> set[str]:
    return set().union(*map(grammar.names, head.spec().values()))


@pytest.mark.parametrize("law", [tokens, model, edges, batches])
@pytest.mark.parametrize("first", range(0, CASES, CHUNK))
def test_heads_drawn_at_random(first: int, law) -> None:
    held, step = 0, 6 if law is model else 1  # the two passes with caches take longest
    for seed in range(first, first + CHUNK, step):
        head = grammar.draw(seed, on_edges=law in (edges, batches))
        assert gf.Head.from_spec(head.spec()).spec() == head.spec()
        torch.manual_seed(seed)
        try:
            law(seed, head)
            held += 1
        except Exception as error:
            if not re.match(REFUSED, str(error)):
                raise AssertionError(f"head {seed} {head.spec()}: {error}") from error
    assert held >= (0.8 if step == 1 else 0.6) * CHUNK / step


def test_every_registered_value_is_drawn() -> None:
    drawn = set().union(*(names(grammar.draw(seed)) for seed in range(CASES)))
    for slot in grammar.SLOTS:
        known = KINDS[slot].items()
        ours = {name for name, one in known if one.__module__.startswith("graphformer.")}
        missing = ours - drawn - set(grammar.ELSEWHERE.get(slot, ()))
        assert not missing, (slot, missing)


@pytest.mark.parametrize("name", sorted(grammar.ON_TOKENS_ALONE))
def test_what_only_tokens_have_is_refused_on_edges(name: str) -> None:
    slot, plain = next(
        (slot, one)
        for slot, values in grammar.SLOTS.items()
        for one in values
        if name in grammar.names(one)
    )
    head = gf.Head.from_spec({slot: plain})
    with pytest.raises(ValueError, match=ON_TOKENS_ALONE.get(name, PLACES)):
        gf.nn.GINAttentionConv(5, 15, 3, head=head, head_channels=5)
