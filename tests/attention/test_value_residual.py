"""What the first layer sends, or was given, mixed into later layers: formulas, laws, models."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import Data

import graphformer as gf
from graphformer.attention.features import Features, Projection, Slice, ValueResidual
from graphformer.nn import InitialResidual, rotate

pytestmark = pytest.mark.usefixtures("float64")

VALUES = gf.Head(features={"name": "value_residual", "start": 0.3})
SLICES = gf.Head(
    features={"name": "value_residual", "inner": "slice", "per_head": True},
    sparsify=gf.Threshold(0.12),
)
HEADS = {"values": VALUES, "slices": SLICES}
INDEX = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 2, 2, 5], [1, 2, 3, 4, 5, 6, 0, 5, 5, 5]])


def stirred(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def language_model(head: gf.Head, **settings) -> gf.GraphformerForCausalLM:
    torch.manual_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=11,
        hidden_size=24,
        intermediate_size=14,
        num_attention_heads=4,
        operator="gin" if head is SLICES else "sum",
        head=head,
        **{"num_hidden_layers": 3, "num_key_value_heads": 2, "initial_residual": 0.1, **settings},
    )
    return stirred(gf.GraphformerForCausalLM(config))


def graph_model(head: gf.Head, **settings) -> gf.GraphTransformer:
    torch.manual_seed(0)
    usual = {"num_layers": 3, "num_heads": 2, "target": "node", "initial_residual": 0.1}
    return stirred(gf.GraphTransformer(5, 2, 12, head=head, **{**usual, **settings}))


def graph() -> Data:
    torch.manual_seed(3)
    return Data(x=torch.randn(7, 5), edge_index=INDEX, edge_attr=torch.randn(10, 2))


IDS = torch.tensor([[1, 5, 2, 7, 7, 3, 10, 4, 5], [9, 9, 0, 6, 2, 8, 1, 3, 7]])


class Stack(nn.Module):
    """Two layers, the second of which reads what the first one sends."""

    def __init__(self, head: gf.Head, **compute: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = gf.nn.SumAttention(12, 4, 2, head=head.in_first_layer(), **compute)
        self.second = gf.nn.SumAttention(12, 4, 2, head=head, **compute)
        stirred(self)

    def forward(self, x: Tensor, *mask: Tensor, **given) -> Tensor:
        out, sent = self.first(x, *mask, output_features=True, **given)
        return self.second(x + out, *mask, first=sent, **given)


# ---------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("per_head", [False, True])
def test_values_of_a_layer(per_head: bool):
    features = ValueResidual(start=0.3, per_head=per_head)
    layer = stirred(gf.nn.SumAttention(12, 4, 2, head=gf.Head(features=features)))
    mix = layer.features.mix
    assert mix.shape == ((2,) if per_head else (1,))
    x, first = torch.randn(2, 7, 12), torch.randn(2, 2, 7, 3)
    q, k, v = (
        proj(x).unflatten(-1, (-1, 3)).transpose(1, 2)
        for proj in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    v = (1 - mix.view(-1, 1, 1)) * v + mix.view(-1, 1, 1) * first
    k, v = (t.repeat_interleave(2, 1) for t in (k, v))
    scores = (q @ k.mT / 3**0.5).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    want = layer.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    out, graph, sent = layer(x, first=first, output_graph=True, output_features=True)
    assert_close(out, want)
    assert_close(layer(x, first=first), want)
    assert_close(graph.to_dense(), scores.softmax(-1))
    assert_close(sent, v[:, ::2])


def test_a_language_model_written_out():
    """ResFormer, and GCNII's residual at the input of each block."""
    model = language_model(VALUES)
    start = x = model.model.embed_tokens(IDS)
    places = model.model.rotary_emb(x, torch.arange(9)[None])
    causal, first = torch.ones(9, 9).triu(1).bool(), None
    for number, block in enumerate(model.model.layers):
        layer = block.self_attn
        if number:
            own, initial = block.initial_residual.own, block.initial_residual.initial
            x = own * x + initial * start
        normed = block.input_layernorm(x)
        q, k, v = (
            proj(normed).unflatten(-1, (-1, 6)).transpose(1, 2)
            for proj in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        q, k = rotate(q, *places), rotate(k, *places)
        if number:
            v = (1 - layer.features.mix) * v + layer.features.mix * first
        else:
            assert layer.features == Projection()
            first = v
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        weights = (q @ k.mT / 6**0.5).masked_fill(causal, -torch.inf).softmax(-1)
        x = x + layer.o_proj((weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.post_attention_layernorm(x))
    assert_close(model(IDS).logits, model.lm_head(model.model.norm(x)))


def test_a_model_at_its_start():
    """A strength and a share of 0 are the model without."""
    head = gf.Head(features={"name": "value_residual", "start": 0.0})
    torch.manual_seed(0)
    config = language_model(head, initial_residual=0.0).config
    model = gf.GraphformerForCausalLM(config).eval()
    config.head, config.initial_residual = gf.Head(), None
    plain = gf.GraphformerForCausalLM(config).eval()
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert {name.partition("layers.")[2] for name in unexpected} == {
        f"{layer}.{name}"
        for layer in (1, 2)
        for name in ("self_attn.features.mix", "initial_residual.own", "initial_residual.initial")
    }
    assert_close(model(IDS).logits, plain(IDS).logits)


def test_on_edges():
    conv, x = stirred(gf.nn.SumAttentionConv(5, 12, 4, self_weight=0.0, head=VALUES)), graph().x
    first = torch.randn(1, 4, 7, 3)
    out, edges, sent = conv(x, INDEX, first=first, output_graph=True, output_features=True)
    values = conv.v_proj(x).view(7, 4, 3).transpose(0, 1)
    mixed = (1 - conv.features.mix) * values + conv.features.mix * first[0]
    assert_close(sent[0], mixed)
    assert_close(out, (edges.to_dense() @ mixed).transpose(0, 1).flatten(1))
    for backend in ("pyg", "torch_sparse"):
        if backend in gf.backends.available():
            conv.backend = backend
            assert_close(conv(x, INDEX, first=first), out)
    conv.backend = "auto"
    two, both = torch.stack((x, x.flip(0))), torch.cat((first, first.flip(2)), 2)
    outs, sent = conv(two, INDEX, first=both, output_features=True)
    assert_close(outs[0], out)
    assert sent.shape == (1, 4, 14, 3)


def test_a_graph_transformer_written_out():
    net, data = graph_model(VALUES, num_layers=2, refine=False), graph()
    level = net.embed(data)
    edges, features, given = net._pairs(level, 0, "edges")
    start = level.h
    h, _, _, first = net.layers[0].blocks[0](start, edges, features, None, given)
    block = net.layers[1].blocks[0]
    own, initial = block.initial_residual.own, block.initial_residual.initial
    block.initial_residual = None
    h = block(own * h + initial * start, edges, features, None, given, first=first)[0]
    level.h = h
    assert_close(
        net.answer([level], data).prediction,
        graph_model(VALUES, num_layers=2, refine=False)(data).prediction,
    )


# ---------------------------------------------------------------------- the laws


@pytest.mark.parametrize("name", HEADS)
def test_laws_of_two_layers(name: str):
    stack, x = Stack(HEADS[name]), torch.randn(2, 11, 12)
    gf.testing.check_causal(stack, x)
    gf.testing.check_prefix(stack, x)
    gf.testing.check_gradients(stack.train(), x)
    gf.testing.check_padding(stack, x)
    want = stack.eval()(x)
    for executor in ("dense", "stream"):
        for backend in ("torch", "pyg"):
            assert_close(Stack(HEADS[name], executor=executor, backend=backend)(x), want)


@pytest.mark.parametrize("name", HEADS)
def test_cache_threads_and_generation(name: str):
    model = language_model(HEADS[name])
    gf.testing.check_cache(model, IDS)
    inputs = [IDS, IDS[:1, :5], IDS.flip(0)]
    gf.testing.check_threads(lambda ids: model(ids).logits, inputs, calls=24, parameters=model)
    ways = [
        model.generate(IDS, max_new_tokens=5, do_sample=False, use_cache=cached, num_beams=2)
        for cached in (True, False)
    ]
    assert torch.equal(*ways)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_recomputed_layers_have_the_same_gradients(name: str, reentrant: bool):
    model = language_model(HEADS[name]).train()

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        return {key: p.grad.clone() for key, p in model.named_parameters()}

    want = gradients()
    assert all(float(grad.abs().max()) > 0 for key, grad in want.items() if "mix" in key)
    assert all(float(grad.abs().max()) > 0 for key, grad in want.items() if "initial_r" in key)
    enable = (
        getattr(model, "activation_checkpointing_enable", None)
        or model.gradient_checkpointing_enable
    )
    enable({"use_reentrant": reentrant})
    again = gradients()
    for key, grad in want.items():
        assert_close(again[key], grad, msg=key)


@pytest.mark.parametrize("name", HEADS)
def test_saved_loaded_and_with_graphs(name: str, tmp_path):
    model = language_model(HEADS[name])
    model.save_pretrained(tmp_path)
    loaded = gf.GraphformerForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    want = model(IDS)
    assert_close(loaded(IDS).logits, want.logits)
    with_graphs = model(IDS, output_graphs=True)
    assert_close(with_graphs.logits, want.logits)
    assert len(with_graphs.graphs) == 3
    read = gf.inspect.graphs(model, input_ids=IDS, sparsify=None)
    for mine, theirs in zip(read, with_graphs.graphs, strict=True):
        assert_close(mine.to_dense(), theirs.to_dense())


def test_beside_graphs_of_the_layer_before():
    """A layer may hand on its graph and its features at once."""
    echo = gf.Head(score="echo", normalize="identity", features="value_residual")
    heads = [gf.Head(sparsify=gf.TopK(3)), echo, echo]
    model = language_model(heads, num_key_value_heads=4)
    gf.testing.check_cache(model, IDS)
    first, _, third = model(IDS, output_graphs=True).graphs
    assert_close(first.weight, third.weight)


@pytest.mark.long
@pytest.mark.parametrize("name", HEADS)
def test_compiled(name: str):
    """Norms of float64 are compiled in float32, of a model without these too."""
    model = language_model(HEADS[name])
    assert_close(torch.compile(model)(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("levels", [(), ("cluster",)])
def test_in_the_graph_transformer(levels: tuple[str, ...], tmp_path):
    from graphformer.training.graphs.model import GraphModel, load_graph_model

    net, data = graph_model(VALUES, levels=levels), graph()
    want = net(data).prediction
    GraphModel(net).save(tmp_path)
    assert_close(load_graph_model(tmp_path).net.double()(data).prediction, want)
    order = torch.randperm(7)
    place = order.argsort()
    if not levels:  # equal clusters may be matched in another order
        moved = Data(x=data.x[order], edge_index=place[INDEX], edge_attr=data.edge_attr)
        assert_close(net(moved).prediction, want[order])
    want.square().sum().backward()
    found = {key: p.grad for key, p in net.named_parameters() if "mix" in key or "initial" in key}
    assert len(found) == 6 * (1 + len(levels))
    assert all(grad is not None and grad.isfinite().all() for grad in found.values())
    assert all(float(grad.abs().max()) > 0 for key, grad in found.items() if "blocks.0" in key)


# ---------------------------------------------------------------------- what is refused


def test_refusals():
    x, first = torch.randn(2, 7, 12), torch.randn(2, 4, 7, 3)
    layer = gf.nn.SumAttention(12, 4, head=VALUES)
    with pytest.raises(ValueError, match="give it as first="):
        layer(x)
    with pytest.raises(ValueError, match=r"sends \[2, 4, 6, 3\], and this one \[2, 4, 7, 3\]"):
        layer(x, first=first[:, :, 1:])
    with pytest.raises(ValueError, match="'projection' read nothing of the first layer"):
        gf.nn.SumAttention(12, 4)(x, first=first)
    with pytest.raises(ValueError, match="inner='value_residual' reads what the first"):
        ValueResidual("value_residual")
    with pytest.raises(ValueError, match="a layer on edges sends a projection of x"):
        gf.nn.SumAttentionConv(5, 12, 4, head=SLICES)
    with pytest.raises(ValueError, match="layer 1 has features='value_residual' of 4 heads, and"):
        language_model([gf.Head(), SLICES, VALUES])
    with pytest.raises(ValueError, match="no later layer has them"):
        language_model([VALUES, gf.Head(), gf.Head()])
    with pytest.raises(ValueError, match="no later layer has them"):
        graph_model(VALUES, num_layers=1, initial_residual=None)
    with pytest.raises(ValueError, match=r"initial_residual=0.1 is of layers after the first"):
        language_model(gf.Head(), num_hidden_layers=1)
    with pytest.raises(ValueError, match="initial_residual must be a finite number"):
        graph_model(gf.Head(), initial_residual=float("nan"))
    with pytest.raises(TypeError, match="per_head must be True or False"):
        ValueResidual(per_head="no")


def test_parameters_anew_and_what_a_class_of_ones_own_says():
    assert InitialResidual(0.25).own.item() == 0.75
    layer = stirred(gf.nn.SumAttention(12, 4, head=VALUES))
    layer.reset_parameters()
    assert_close(layer.features.mix, torch.tensor([0.3]))

    class Larger(Features):
        def with_first(self, x: Tensor, first: Tensor) -> Tensor:
            return F.relu(first) + x

    assert Larger.reads_first and not Slice.reads_first
    layer = gf.nn.GINAttention(12, 4, head=gf.Head(features=Larger()))
    x, first = torch.randn(2, 7, 12), torch.randn(2, 4, 7, 3)
    sent = layer(x, first=first, output_features=True)[1]
    assert_close(sent, x.unflatten(-1, (4, 3)).transpose(1, 2) + first.relu())
