"""PyG's own tools on our layers: explainers, to_hetero, what they do with a mask and what they
refuse.
"""

import copy
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import Data
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer, PGExplainer
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import HeteroConv, TransformerConv, to_hetero, to_hetero_with_bases

import graphformer as gf
from graphformer.nn import GINAttentionConv, SumAttentionConv
from tests.nn.test_conv import (
    EDGE_DIM,
    EDGES,
    HEADS,
    IN,
    NODES,
    OUT,
    SPARSIFIERS,
    a_graph,
    each_conv,
    edge_index,
    jittered,
    made,
    naive,
)

pytestmark = pytest.mark.usefixtures("float64")

# ---------------------------------------------------------------- the mask


@each_conv
@pytest.mark.parametrize("sparsify", SPARSIFIERS)
@pytest.mark.parametrize("backend", ["auto", "pyg"])
def test_a_mask_multiplies_messages(kind: str, sparsify: str, backend: str):
    conv, graph, mask = (
        made(kind, sparsify=SPARSIFIERS[sparsify], backend=backend),
        a_graph(),
        torch.rand(EDGES),
    )
    index = edge_index(graph)
    before = conv(graph.x, index, graph.edge_attr)
    set_masks(conv, mask, index, apply_sigmoid=False)
    assert_close(
        conv(graph.x, index, graph.edge_attr),
        naive(conv, graph.x, index, graph.edge_attr, mask=mask),
    )
    set_masks(conv, mask.logit(), index)
    assert_close(
        conv(graph.x, index, graph.edge_attr),
        naive(conv, graph.x, index, graph.edge_attr, mask=mask),
    )
    set_masks(conv, torch.ones(EDGES), index, apply_sigmoid=False)
    assert_close(conv(graph.x, index, graph.edge_attr), before)
    clear_masks(conv)
    assert torch.equal(conv(graph.x, index, graph.edge_attr), before)
    conv.explain = False  # PyG's way to leave a layer out
    set_masks(conv, mask, index)
    assert torch.equal(conv(graph.x, index, graph.edge_attr), before)


@each_conv
def test_a_mask_has_its_effect_on_a_layer_of_your_own(kind: str):
    parent = made(kind)  # PyG writes the class's fast propagate, which its children would inherit
    child = jittered(type("Mine", (type(parent),), {})(IN, OUT, HEADS, EDGE_DIM)).eval()
    child.load_state_dict(parent.state_dict())
    graph, mask = a_graph(), torch.rand(EDGES)
    index = edge_index(graph)
    set_masks(child, mask, index, apply_sigmoid=False)
    assert_close(
        child(graph.x, index, graph.edge_attr),
        naive(child, graph.x, index, graph.edge_attr, mask=mask),
    )


def test_a_mask_has_its_effect_on_a_layer_of_a_class_that_many_threads_make_first():
    def layer(_: int) -> SumAttentionConv:
        barrier.wait()
        return Raced(IN, OUT, HEADS, EDGE_DIM)

    graph, mask = a_graph(), torch.rand(EDGES)
    index = edge_index(graph)
    for _ in range(5):  # a class each time: its templates are written once
        Raced = type("Raced", (SumAttentionConv,), {})
        barrier = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            layers = list(pool.map(layer, range(4)))
        for conv in layers:
            set_masks(conv.eval(), mask, index, apply_sigmoid=False)
            assert_close(
                conv(graph.x, index, graph.edge_attr),
                naive(conv, graph.x, index, graph.edge_attr, mask=mask),
            )


def test_a_layer_with_a_propagate_of_its_own_is_asked_under_an_explainer_too():
    class Twice(SumAttentionConv):
        def propagate(self, edge_index, **given):
            return 2 * super().propagate(edge_index, **given)

    parent = made("sum", self_weight=0.0)
    conv = Twice(IN, OUT, HEADS, EDGE_DIM, self_weight=0.0).eval()
    conv.load_state_dict(parent.state_dict())
    graph, mask = a_graph(), torch.rand(EDGES)
    index = edge_index(graph)
    for layer in (parent, conv):
        set_masks(layer, mask, index, apply_sigmoid=False)
    assert_close(conv(graph.x, index, graph.edge_attr), 2 * parent(graph.x, index, graph.edge_attr))


def test_plain_attention_under_a_mask_is_pygs_transformer_conv():
    theirs, ours = (
        TransformerConv(IN, 5, HEADS, bias=False, root_weight=False),
        SumAttentionConv(IN, OUT, HEADS, self_weight=0.0),
    )
    with torch.no_grad():
        for mine, other in (
            (ours.q_proj, theirs.lin_query),
            (ours.k_proj, theirs.lin_key),
            (ours.v_proj, theirs.lin_value),
        ):
            other.weight.copy_(mine.weight)
    graph, mask = a_graph(), torch.randn(EDGES)
    index = edge_index(graph)
    for conv in (theirs, ours):
        set_masks(conv, mask, index)
    assert_close(ours(graph.x, index), theirs(graph.x, index))


@each_conv
def test_the_gradient_of_a_mask(kind: str):
    conv, graph = made(kind).double(), a_graph(dtype=torch.float64)
    index = edge_index(graph)

    def masked(mask: Tensor) -> Tensor:
        set_masks(conv, mask, index)
        return conv(graph.x, index, graph.edge_attr)

    assert torch.autograd.gradcheck(
        masked, torch.randn(EDGES, dtype=torch.float64, requires_grad=True)
    )


# ---------------------------------------------------------------- explainers


class Copies(nn.Module):
    """A layer whose receiver's class is the sign of the one sender that carries a mark: what an
    explanation should point at.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = made(kind, 4, 16, 4, None, self_weight=0.0).train()
        self.read = nn.Linear(16, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.read(self.conv(x, edge_index))


def marked(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (a mark, two values, 1), edges, class of every receiver, and the edge that decides
    it: 30 receivers, 4 senders each.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(150, 4, generator=generator)
    receivers = torch.arange(30).repeat_interleave(4)
    senders = torch.arange(30, 150)
    chosen = 4 * torch.arange(30) + torch.randint(4, (30,), generator=generator)
    x[:, 0] = 0.0
    x[:, 3] = 1.0
    x[senders[chosen], 0] = 1.0
    order = torch.randperm(120, generator=generator)  # edges in no order
    label = (x[senders[chosen], 1] > 0).long()
    return x, torch.stack((senders, receivers))[:, order], label, order.argsort()[chosen]


@pytest.fixture(scope="module", params=["gin", "sum", "pna"])
def trained(request):
    torch.manual_seed(0)
    model = Copies(request.param)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(250):
        x, index, label, _ = marked(step)
        loss = nn.functional.cross_entropy(model(x, index)[:30], label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, index, label, _ = marked(10_000)
    assert (model(x, index)[:30].argmax(-1) == label).float().mean() > 0.85
    return model.eval()


CLASSIFICATION = {"mode": "multiclass_classification", "task_level": "node", "return_type": "raw"}


def found(model: nn.Module, algorithm, seed: int = 10_001) -> float:
    """Part of the receivers for which the deciding edge has the largest mask of the four."""
    x, index, _, deciding = marked(seed)
    explainer = Explainer(
        model,
        algorithm,
        explanation_type="model",
        edge_mask_type="object",
        model_config=CLASSIFICATION,
    )
    mask = explainer(x, index, index=torch.arange(30)).edge_mask
    assert mask.shape == (120,)
    best = [int(torch.where(index[1] == i, mask, -1.0).argmax()) for i in range(30)]
    return sum(a == b for a, b in zip(best, deciding.tolist(), strict=True)) / 30


@pytest.mark.slow
@pytest.mark.float32
def test_gnn_explainer_finds_the_edge_that_decides(trained):
    names = set(trained.state_dict())
    torch.manual_seed(0)
    assert found(trained, GNNExplainer(epochs=100, lr=0.05)) > 0.8
    assert set(trained.state_dict()) == names  # nothing of the explainer stays
    x, index, _, _ = marked(10_001)
    assert trained(x, index).requires_grad


@pytest.mark.float32
def test_attention_explainer_reads_the_weights(trained):
    assert found(trained, AttentionExplainer(reduce="max")) > 0.8
    x, index, _, _ = marked(10_001)
    explainer = Explainer(
        trained,
        AttentionExplainer(),
        explanation_type="model",
        edge_mask_type="object",
        model_config=CLASSIFICATION,
    )
    _, graph = trained.conv(x, index, output_graph=True)
    heads = graph.to_dense()  # [heads, receivers, senders]
    assert_close(explainer(x, index).edge_mask, heads[:, index[1], index[0]].amax(0))


@pytest.mark.slow
@pytest.mark.float32
def test_pg_explainer_can_be_trained(trained):
    torch.manual_seed(0)
    algorithm = PGExplainer(epochs=3, lr=0.01)
    x, index, label, _ = marked(10_001)
    target = torch.zeros(150, dtype=torch.long)
    target[:30] = label
    explainer = Explainer(
        trained,
        algorithm,
        explanation_type="phenomenon",
        edge_mask_type="object",
        model_config=CLASSIFICATION,
    )
    for epoch in range(3):
        for node in range(30):
            assert math.isfinite(
                algorithm.train(epoch, trained, x, index, target=target, index=node)
            )
    mask = explainer(x, index, target=target, index=3).edge_mask
    assert set(index[1][mask > 0].tolist()) == {3}


def test_hidden_edges_have_no_weight():
    conv, graph = made("gin", sparsify=gf.TopK(1)), a_graph()
    seen = []
    conv.register_message_forward_hook(lambda module, inputs, out: seen.append(inputs[0]["alpha"]))
    _, heads = conv(graph.x, edge_index(graph), graph.edge_attr, output_graph=True)
    (alpha,) = seen
    assert alpha.shape == (EDGES, HEADS) and int((alpha > 0).sum()) == heads.num_edges


class Predictor(nn.Module):
    """GraphTransformer in the signature that explainers call."""

    def __init__(self, net: gf.GraphTransformer) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, batch: Tensor, group: Tensor
    ) -> Tensor:
        return self.net(
            Data(x=x, edge_index=edge_index, edge_attr=edge_attr, batch=batch, group_0=group)
        ).prediction


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"candidates": "edges+k_hop:2", "operator": ["gin", "pna"]},
        {"candidates": "all", "refine": "restrict", "sparsify": gf.Threshold(0.05)},
        {"levels": ("group_0",)},
        {"levels": ("cluster",)},
    ],
)
def test_graph_transformer_is_explained(options: dict):
    torch.manual_seed(0)
    net = gf.GraphTransformer(IN, EDGE_DIM, 16, 2, 4, **options)
    # the effect of a mask on a whole graph's prediction is small before training
    graph = a_graph(dtype=torch.float64)
    inputs = {
        "edge_attr": graph.edge_attr,
        "batch": torch.zeros(NODES, dtype=torch.long),
        "group": torch.arange(NODES) % 3,
    }
    model, index = Predictor(net).double().eval(), edge_index(graph)
    before = model(graph.x, index, **inputs)
    set_masks(model, torch.ones(EDGES), index, apply_sigmoid=False)
    assert_close(model(graph.x, index, **inputs), before)
    mask, order = torch.rand(EDGES), torch.randperm(EDGES)
    set_masks(model, mask, index, apply_sigmoid=False)
    masked = model(graph.x, index, **inputs)
    assert (masked - before).abs().max() > 1e-5
    # a mask belongs to its edge, wherever that stands
    set_masks(model, mask[order], index[:, order], apply_sigmoid=False)
    assert_close(
        model(graph.x, index[:, order], **{**inputs, "edge_attr": graph.edge_attr[order]}),
        masked,
        rtol=0,
        atol=1e-12,
    )
    clear_masks(model)
    regression = {"mode": "regression", "task_level": "graph", "return_type": "raw"}
    algorithms = {"node_mask_type": "attributes", "edge_mask_type": "object"}
    explained = Explainer(
        model,
        GNNExplainer(epochs=5),
        explanation_type="model",
        model_config=regression,
        **algorithms,
    )(graph.x, index, **inputs)
    assert explained.edge_mask.shape == (EDGES,) and int((explained.edge_mask > 0).sum()) == EDGES
    attention = Explainer(
        model,
        AttentionExplainer(),
        explanation_type="model",
        model_config=regression,
        edge_mask_type="object",
    )
    assert attention(graph.x, index, **inputs).edge_mask.shape == (EDGES,)
    assert torch.equal(model(graph.x, index, **inputs), before)


@pytest.mark.parametrize("candidates", ["edges", "edges+k_hop:2", "all"])
def test_a_mask_of_graph_transformer_meets_its_edge(candidates: str):
    torch.manual_seed(0)
    net = (
        gf.GraphTransformer(IN, EDGE_DIM, 16, 1, 4, target="node", candidates=candidates)
        .double()
        .eval()
    )
    graph = a_graph(dtype=torch.float64)
    index = edge_index(graph)
    data = Data(x=graph.x, edge_index=index, edge_attr=graph.edge_attr)
    before = net(data).prediction
    for edge in range(EDGES):
        set_masks(net, (torch.arange(EDGES) != edge).double(), index, apply_sigmoid=False)
        moved = (net(data).prediction - before).abs().amax(-1) > 1e-9
        assert moved.nonzero()[:, 0].tolist() == [int(graph.receivers[edge])]


# ---------------------------------------------------------------- to_hetero


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GINAttentionConv((-1, -1), 12, 4), GINAttentionConv((-1, -1), 5)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)


def test_to_hetero_is_a_layer_for_every_type_of_edge():
    types = [("a", "to", "b"), ("b", "back", "a")]
    x = {"a": torch.randn(7, 3), "b": torch.randn(5, 4)}
    edges = {types[0]: torch.stack((torch.randint(7, (13,)), torch.randint(5, (13,))))}
    edges[types[1]] = edges[types[0]].flip(0)
    model = to_hetero(TwoLayers(), (["a", "b"], types))
    out = model(x, edges)
    assert {name: tuple(value.shape) for name, value in out.items()} == {"a": (7, 5), "b": (5, 5)}

    def by_hand(layer: nn.Module) -> HeteroConv:
        return HeteroConv({kind: copy.deepcopy(layer["__".join(kind)]) for kind in types})

    hidden = {name: value.relu() for name, value in by_hand(model.first)(x, edges).items()}
    for name, value in by_hand(model.second)(hidden, edges).items():
        assert_close(out[name], value)


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = GINAttentionConv(11, 6, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv(x, edge_index)


def test_to_hetero_with_bases_weighs_messages_by_the_type_of_their_edge():
    types = [("a", "to", "b"), ("b", "back", "a")]
    x = {"a": torch.randn(7, 3), "b": torch.randn(5, 4)}
    edges = {types[0]: torch.stack((torch.randint(7, (13,)), torch.randint(5, (13,))))}
    edges[types[1]] = edges[types[0]].flip(0)
    model = to_hetero_with_bases(OneLayer(), (["a", "b"], types), 3, in_channels={"x": 11})
    out = model(x, edges)  # makes the maps of x
    (align,) = (one for one in model.modules() if type(one).__name__ == "LinearAlign")
    nodes = torch.cat(tuple(align(x).values()))
    one = edges[types[0]] + torch.tensor([[0], [7]])
    index = torch.cat((one, one.flip(0)), 1)
    total = torch.zeros(12, 6)
    for conv in model.conv.convs:
        plain = GINAttentionConv(11, 6, 2)
        plain.load_state_dict(conv.state_dict(), strict=False)
        total = total + plain(nodes, index, edge_weight=conv.edge_type_weight.repeat_interleave(13))
    assert_close(torch.cat((out["a"], out["b"])), total)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("operator", ["multi_hop", "rounds", "merged_heads", "sinc", "gine"])
def test_operators_that_make_no_messages(operator: str):
    head = gf.Head(operator=operator)
    edge_dim = EDGE_DIM if operator == "gine" else None
    conv, graph = gf.nn.AttentionConv(head.operator, IN, OUT, HEADS, edge_dim), a_graph()
    inputs = (graph.x, edge_index(graph), None if edge_dim is None else graph.edge_attr)
    assert conv(*inputs).shape == (NODES, OUT)
    set_masks(conv, torch.rand(EDGES), edge_index(graph))
    with pytest.raises(ValueError, match=rf"operator='{operator}' reads edges one by one.*explain"):
        conv(*inputs)
    clear_masks(conv)
    conv.register_message_forward_hook(lambda module, inputs, out: out)
    with pytest.raises(ValueError, match=r"no messages are made that .*a hook of messages"):
        conv(*inputs)


@pytest.mark.parametrize("feed_forward", ["halfway", "multi_hop", "multi_aggregate"])
def test_feed_forwards_that_send_messages_beside_attention(feed_forward: str):
    net = gf.GraphTransformer(IN, EDGE_DIM, 16, 2, 4, feed_forward=feed_forward).double()
    graph = a_graph(dtype=torch.float64)
    data = Data(x=graph.x, edge_index=edge_index(graph), edge_attr=graph.edge_attr)
    assert net(data).prediction.isfinite().all()
    set_masks(net, torch.rand(EDGES), data.edge_index)
    with pytest.raises(ValueError, match=r"an explainer masks .*feed_forward='gated'"):
        net(data)


class Mine(GINAttentionConv):
    def message(self, x_j: Tensor) -> Tensor:
        return x_j


def explain_message(self, out: Tensor, x_i: Tensor, x_j: Tensor) -> Tensor:
    """As GraphMaskExplainer sets it."""
    return out


def test_messages_that_these_layers_have_not_got():
    graph, conv, mine = a_graph(), made("gin"), Mine(IN, OUT)
    conv.explain_message = explain_message.__get__(conv)
    conv.explain = True
    with pytest.raises(ValueError, match=r"asks for x_i, x_j, .*have value_j .*GNNExplainer"):
        conv(graph.x, edge_index(graph), graph.edge_attr)
    with pytest.raises(ValueError, match=r"asks for x_j, and messages of Mine have value_j"):
        mine(graph.x, edge_index(graph))


def test_masks_that_do_not_fit():
    conv, graph = made("gin"), a_graph()
    conv.explain = True
    with pytest.raises(
        ValueError,
        match=r"GINAttentionConv.explain is True, so its edge mask must be \[29\], a number an "
        r"edge; none was set",
    ):
        conv(graph.x, edge_index(graph), graph.edge_attr)
    set_masks(conv, torch.rand(EDGES - 1), edge_index(graph))
    with pytest.raises(ValueError, match=r"must be \[29\], a number an edge; its shape is \[28\]"):
        conv(graph.x, edge_index(graph), graph.edge_attr)


@each_conv
def test_hooks_that_change_messages(kind: str):
    """A message hook may return other messages: as many, and as wide."""
    conv, graph = made(kind, self_weight=0.0), a_graph()
    want = naive(conv, graph.x, edge_index(graph), graph.edge_attr, mask=torch.full((EDGES,), 0.5))
    handle = conv.register_message_forward_hook(lambda module, inputs, out: 0.5 * out)
    assert_close(conv(graph.x, edge_index(graph), graph.edge_attr), want)
    handle.remove()
    conv.register_message_forward_hook(lambda module, inputs, out: torch.zeros(3))
    with pytest.raises(
        ValueError,
        match=r"messages of .*Conv are \[29, 3, (5|10)\], but a message or a hook made \[3\]",
    ):
        conv(graph.x, edge_index(graph), graph.edge_attr)
