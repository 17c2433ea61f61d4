"""Feed-forwards whose hidden units go over the heads' graph: formulas, laws, and their places in
models.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch_geometric.data import Data
from transformers.cache_utils import Cache, DynamicLayer

import graphformer as gf
from graphformer.attention import EdgeMessages
from graphformer.attention import feed_forwards as ff
from graphformer.attention.slot import spec
from graphformer.training.graphs.model import GraphModel, load_graph_model
from tests.attention.test_methods import INDEX, stirred

pytestmark = pytest.mark.usefixtures("float64")

VALUES = {
    "halfway": "halfway",
    "halfway from 0": {"name": "halfway", "alpha": 0.0},
    "multi hop": {"name": "multi_hop", "factors": [1.0, 0.5]},
    "multi aggregate": "multi_aggregate",
    "attention": {"name": "multi_aggregate", "aggregators": ["attention", "max", "std"]},
}
EDGES = {"sparsify": {"name": "threshold", "tau": 0.05}, "operator": "gin"}


def made(value, hidden=12, width=20, heads=4, dropout=0.0):
    sizes = {"hidden_size": hidden, "intermediate_size": width, "num_heads": heads}
    return stirred(ff.feed_forward_for(value, **sizes, dropout=dropout))


def dense(batch=2, heads=4, length=7, masked=True):
    a = torch.rand(batch, heads, length, length).tril()
    return a.masked_fill(torch.rand_like(a) < 0.4, 0.0) if masked else a


def cut(t, heads=4):
    return t.unflatten(-1, (heads, -1)).transpose(1, 2)


def hidden(f, x):
    return F.silu(x @ f.gate_proj.weight.T) * (x @ f.up_proj.weight.T)


# ---------------------------------------------------------------------- the formulas


def test_halfway():
    f, x, a = made("halfway"), torch.randn(2, 7, 12), dense()
    u = cut(hidden(f, x))
    z = (1 + f.eps).view(4, 1, 1) * u + f.alpha.view(4, 1, 1) * (a @ u)
    want = z.transpose(1, 2).flatten(2) @ f.down_proj.weight.T
    assert_close(f(x, gf.AttentionGraph.from_dense(a)), want)


def test_halfway_from_0_starts_as_the_gated_one():
    torch.manual_seed(3)
    gated = ff.GatedMLP(12, 20)
    torch.manual_seed(3)
    f = ff.HalfwayFeedForward(0.0, 12, 20, 4)
    x = torch.randn(2, 7, 12)
    assert_close(f(x, gf.AttentionGraph.from_dense(dense())), gated(x))


def test_multi_hop():
    f, x, a = made({"name": "multi_hop"}), torch.randn(2, 7, 12), dense()
    out = []
    for h in range(4):
        part = x[..., 3 * h : 3 * h + 3]
        u = part @ f.up.weight[h]
        z = (1 + f.eps[h]) * u + sum(
            f.factors[h, k - 1] * torch.linalg.matrix_power(a[:, h], k) @ u for k in (1, 2, 3)
        )
        out.append((F.silu(part @ f.gate.weight[h]) * z) @ f.down.weight[h])
    assert_close(f(x, gf.AttentionGraph.from_dense(a)), torch.cat(out, -1))
    fresh = ff.feed_forward_for("multi_hop", hidden_size=12, intermediate_size=20, num_heads=4)
    assert_close(fresh.factors, torch.tensor([1.0, 0.5, 0.1]).expand(4, 3))


def test_multi_aggregate():
    names = ("sum", "mean", "max", "var", "attention")
    f = made({"name": "multi_aggregate", "aggregators": list(names)})
    x, a = torch.randn(2, 7, 12), dense()
    u = cut(hidden(f, x))
    want = torch.zeros_like(u)
    for b, h, i in ((b, h, i) for b in range(2) for h in range(4) for i in range(7)):
        w, own, q = a[b, h, i], u[b, h, i], u[b, h, i] @ f.attention_q.weight[h]
        kept = w > 0
        sent, w = u[b, h][kept], w[kept]
        total, parts = w.sum(), [(1 + f.eps[h]) * own]
        if not kept.any():
            parts += [torch.zeros_like(own)] * 5
        else:
            mean = w @ sent / total
            parts += [f.alpha[h] * (w @ sent), mean, sent.amax(0)]
            parts.append(w @ (sent - mean).square() / total)
            scores = sent @ f.attention_k.weight[h] @ q / 5**0.5 + (w + 1e-9).log()
            parts.append(scores.softmax(0) @ sent)
        z = f.combine1.weight @ torch.cat(parts)
        want[b, h, i] = f.combine2.weight @ F.silu(z)
    want = want.transpose(1, 2).flatten(2) @ f.down_proj.weight.T
    assert_close(f(x, gf.AttentionGraph.from_dense(a)), want)


# ---------------------------------------------------------------------- laws


@pytest.mark.parametrize("name", VALUES)
def test_backends_agree_in_outputs_and_gradients(name):
    f, x = made(VALUES[name]), torch.randn(2, 7, 12, requires_grad=True)
    a = dense().requires_grad_()
    direction, found = torch.randn(2, 7, 12), {}
    for backend in gf.backends.available():
        graph = gf.AttentionGraph.from_dense(a)
        out = f(x, EdgeMessages(graph, 4, backend))
        leaves = [x, a, *f.parameters()]
        found[backend] = out, *torch.autograd.grad((out * direction).sum(), leaves)
    for backend, values in found.items():
        for value, want in zip(values, found["torch"], strict=True):
            assert_close(value, want, msg=lambda text, backend=backend: f"{backend}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("name", VALUES)
def test_gradients(name):
    f = made(VALUES[name], hidden=6, width=8, heads=2)
    x = torch.randn(1, 5, 6, requires_grad=True)
    graph = gf.AttentionGraph.from_dense(dense(1, 2, 5))
    weight = graph.weight.clone().requires_grad_()

    def call(x, weight, *parameters):
        names = [one for one, _ in f.named_parameters()]
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(f, given, (x, graph.with_weight(weight)))

    assert torch.autograd.gradcheck(call, (x, weight, *f.parameters()))


@pytest.mark.parametrize("name", VALUES)
def test_no_row_makes_a_nan(name):
    f, x = made(VALUES[name]), torch.randn(2, 7, 12, requires_grad=True)
    for a in (torch.zeros(2, 4, 7, 7), torch.eye(7).expand(2, 4, 7, 7)):
        out = f(x, gf.AttentionGraph.from_dense(a))
        (grad,) = torch.autograd.grad(out.square().sum(), x)
        assert out.isfinite().all() and grad.isfinite().all()
    half = f.to(torch.bfloat16)
    graph = gf.AttentionGraph.from_dense(dense().float())
    assert half(x.detach().to(torch.bfloat16), graph).dtype == torch.bfloat16


def config(**changes):
    sizes = {"vocab_size": 11, "hidden_size": 12, "intermediate_size": 20}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    return gf.GraphformerConfig(**sizes, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("head", [None, EDGES], ids=["plain", "edges"])
def test_in_the_language_model(name, head, tmp_path):
    model = stirred(gf.GraphformerForCausalLM(config(feed_forward=VALUES[name], head=head)))
    ids = torch.randint(0, 11, (2, 9))
    want = model(ids).logits
    for executor, backend in (("dense", "torch"), ("stream", "torch"), ("auto", "pyg")):
        for layer in model.model.layers:
            layer.self_attn.executor, layer.self_attn.backend = executor, backend
        assert_close(model(ids).logits, want)
    for layer in model.model.layers:
        layer.self_attn.executor = layer.self_attn.backend = "auto"
    # prefix and causal
    assert_close(model(ids[:, :5]).logits, want[:, :5])
    changed = ids.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 11
    assert_close(model(changed).logits[:, :6], want[:, :6])
    assert (model(changed).logits[:, 6:] - want[:, 6:]).abs().amin() > 0
    # padding on either side
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[:, :3] = 0
    left = torch.cat((torch.zeros(2, 3, dtype=torch.long), ids), 1)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    padded = model(left, attention_mask=mask, position_ids=places).logits
    assert_close(padded[:, 3:], want)
    right = model(torch.cat((ids, ids[:, :3]), 1), attention_mask=mask.flip(1)).logits
    assert_close(right[:, :9], want)
    gf.testing.check_cache(model, ids)
    model.save_pretrained(tmp_path)
    loaded = gf.GraphformerForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert_close(loaded(ids).logits, want)
    model.train()(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    first, second = (block.mlp for block in model.model.layers)
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


def test_one_graph_without_a_batch():
    f, a, x = made("halfway"), dense(1), torch.randn(7, 12)
    want = f(x.unsqueeze(0), gf.AttentionGraph.from_dense(a)).squeeze(0)
    assert_close(f(x, gf.AttentionGraph.from_dense(a[0])), want)


@pytest.mark.float32
@pytest.mark.parametrize("name", VALUES)
def test_generating_with_a_cache(name):
    model = stirred(gf.GraphformerForCausalLM(config(feed_forward=VALUES[name])))
    ids = torch.randint(1, 11, (2, 5))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    told = {"max_new_tokens": 6, "pad_token_id": 0, "do_sample": False, "attention_mask": mask}
    cached = model.generate(ids, **told)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **told))
    alone = {**told, "attention_mask": None}
    assert torch.equal(cached[:1, 5:], model.generate(ids[:1, 2:], **alone)[:, 3:])
    ways = [{"num_beams": 3}, {"do_sample": False}, {"prompt_lookup_num_tokens": 2}]
    ways += [{"cache_implementation": "static"}, {"cache_implementation": "static", "num_beams": 3}]
    for way in ways:
        given = ids[:1] if "prompt_lookup_num_tokens" in way else ids
        told = {"max_new_tokens": 6, "pad_token_id": 0, "do_sample": False, **way}
        cached = model.generate(given, **told)
        if "prompt_lookup_num_tokens" in way:
            told.pop("prompt_lookup_num_tokens")
        told.pop("cache_implementation", None)
        assert torch.equal(cached, model.generate(given, use_cache=False, **told)), way


def test_a_cache_of_another_kind_or_of_another_model_is_refused():
    model, ids = gf.GraphformerForCausalLM(config(feed_forward="halfway")).eval(), torch.ones(2, 5)
    ids = ids.long()

    class OfSomebody(DynamicLayer):
        """A kind that may keep keys in another form."""

    cache = Cache(layer_class_to_replicate=OfSomebody)
    with pytest.raises(NotImplementedError, match=r"feed_forward='halfway'.*use_cache=False"):
        model.generate(ids, max_new_tokens=2, past_key_values=cache, pad_token_id=0)
    other = gf.GraphformerForCausalLM(config()).eval()
    cache = other(ids, use_cache=True).past_key_values
    with pytest.raises(RuntimeError, match="feed_forward='halfway' saw 0 of them"):
        model(ids[:, :1], past_key_values=cache)


def test_one_for_each_layer_and_the_graph_for_the_next():
    echo = gf.Head(score="echo", normalize="identity")
    model = stirred(
        gf.GraphformerForCausalLM(
            config(feed_forward=["gated", "multi_hop"], head=[gf.Head(sparsify=gf.TopK(3)), echo])
        )
    )
    ids = torch.randint(0, 11, (2, 9))
    assert [type(layer.mlp) for layer in model.model.layers] == [
        ff.GatedMLP,
        ff.MultiHopFeedForward,
    ]
    outputs = model(ids, output_graphs=True)
    assert len(outputs.graphs) == 2 and model(ids).graphs is None
    gf.testing.check_cache(model, ids)
    model.gradient_checkpointing_enable()
    want = model.eval()(ids, labels=ids).loss
    assert_close(model.train()(ids, labels=ids, use_cache=False).loss, want)


def test_parameters_of_models_without_it_stand_where_they_stood():
    torch.manual_seed(0)
    names = [name for name, _ in gf.GraphformerForCausalLM(config()).named_parameters()]
    assert [n for n in names if ".layers.0.mlp." in n] == [
        f"model.layers.0.mlp.{one}_proj.weight" for one in ("gate", "up", "down")
    ]
    twin = gf.parameter_matched(config(feed_forward="halfway"), "sum")
    assert twin.feed_forward == "halfway" and twin.intermediate_size % 2 == 0


@pytest.mark.parametrize("kind", ["halfway", "multi_aggregate", "multi_hop"])
def test_parameter_matched_twins(kind):
    original = config(feed_forward=kind)
    twin = gf.parameter_matched(original, "sum")
    counts = [sum(p.numel() for p in gf.GraphformerForCausalLM(one).parameters())
              for one in (original, twin)]  # fmt: skip
    assert twin.layer_operators[0] == "sum" and abs(counts[0] - counts[1]) <= 0.1 * counts[0]


@pytest.mark.parametrize("name", VALUES)
def test_in_the_graph_transformer(name, tmp_path):
    net = stirred(
        gf.GraphTransformer(
            5, 2, 12, num_layers=2, num_heads=2, target="node", feed_forward=VALUES[name]
        )
    )
    data = Data(x=torch.randn(7, 5), edge_index=INDEX, edge_attr=torch.randn(10, 2))
    want = net(data).prediction
    order = torch.randperm(7)
    place = torch.argsort(order)
    moved = Data(x=data.x[order], edge_index=place[INDEX], edge_attr=data.edge_attr)
    assert_close(net(moved).prediction, want[order])
    GraphModel(net).save(tmp_path)
    loaded = load_graph_model(tmp_path).net.double()
    assert_close(loaded(data).prediction, want)
    net(data).prediction.square().sum().backward()
    assert all(p.grad is not None for n, p in net.named_parameters() if "feed_forward" in n)


class Doubled(ff.FeedForward, name="doubled_for_a_test"):
    def forward(self, x, graph=None):
        return 2 * x


class Neighbours(ff.FeedForward, name="neighbours_for_a_test"):
    def on_graph(self, x, edges):
        own = x.unflatten(-1, (edges.heads, -1)).transpose(1, 2)
        return edges.reduce(edges.of_all_senders(own)).transpose(1, 2).flatten(2)


def test_one_of_your_own():
    model = stirred(gf.GraphformerForCausalLM(config(feed_forward=[Doubled(), Neighbours()])))
    assert [layer.mlp.reads_graph for layer in model.model.layers] == [False, True]
    assert model.config.feed_forward[1] == {"name": "neighbours_for_a_test"}
    gf.testing.check_cache(model, torch.randint(0, 11, (2, 9)))


@pytest.mark.slow
@pytest.mark.float32
def test_compiled_and_exported():
    model = stirred(gf.GraphformerForCausalLM(config(feed_forward="halfway")))
    ids = torch.randint(0, 11, (2, 9))
    want = model(ids, use_cache=False).logits
    found = torch.compile(model, backend="aot_eager")(ids, use_cache=False).logits
    assert_close(found, want, atol=1e-5, rtol=1e-4)
    with pytest.raises(
        Exception, match="feed_forward='halfway' reads edges and cannot be exported"
    ):
        torch.export.export(model, (ids,), {"use_cache": False}, strict=False)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: made("halfway", width=21), r"no multiple of them: take 20"),
        (lambda: made("multi_aggregate", width=3), r"no multiple of them: take 4"),
        (lambda: made("half_way"), "unknown feed-forward 'half_way'.*halfway"),
        (lambda: made({"name": "multi_hop", "factors": []}), "one number for each step"),
        (lambda: made({"name": "multi_aggregate", "aggregators": ["most"]}), "aggregators must be"),
        (lambda: made(ff.HalfwayFeedForward(1.0, 16, 20, 4)), "has hidden_size=16.*leave it out"),
        (lambda: made("halfway")(torch.randn(2, 7, 12)), "give it, as of a layer called with"),
        (
            lambda: made("halfway")(
                torch.randn(2, 7, 12), gf.AttentionGraph.from_dense(dense(2, 4, 5))
            ),
            "a graph of 8 lanes with 5 receivers each",
        ),
        (
            lambda: made("halfway")(
                torch.randn(2, 7, 12), gf.AttentionGraph.from_dense(dense(2, 3, 7))
            ),
            "has 4 heads and the graph 3",
        ),
        (
            lambda: made("halfway")(torch.randn(7, 12), gf.AttentionGraph.from_dense(torch.eye(7))),
            "has 4 heads and the graph 1",
        ),
        (lambda: config(feed_forward="halfway", executor="flash"), "take executor='auto'"),
        (lambda: config(feed_forward=["halfway"]), "feed_forward holds 1, but num_hidden_layers"),
        (
            lambda: made("multi_hop")(
                torch.randn(2, 3, 12), gf.AttentionGraph.from_dense(dense()[:, :, :3])
            ),
            "3 receivers and 7 senders",
        ),
    ],
)
def test_what_is_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_plain_forms():
    for value in VALUES.values():
        f = made(value)
        again = made(spec(f))
        again.load_state_dict(f.state_dict())
        x, graph = torch.randn(2, 7, 12), gf.AttentionGraph.from_dense(dense())
        assert_close(again(x, graph), f(x, graph))


@pytest.mark.slow
@pytest.mark.float32
@pytest.mark.parametrize("name", VALUES)
def test_it_learns_a_real_text(name, data_dir):
    """Better on text that it has not seen than the frequencies of its characters."""
    text = (data_dir / "tinyshakespeare" / "input.txt").read_text()
    letters = sorted(set(text))
    place = {letter: number for number, letter in enumerate(letters)}
    tokens = torch.tensor([place[letter] for letter in text])
    train, held_out = tokens[:-60_000], tokens[-60_000:]
    frequencies = torch.bincount(train, minlength=len(letters)).float().clamp(min=1)
    unigram = -(frequencies / frequencies.sum()).log()[held_out].mean()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    model = gf.GraphformerForCausalLM(
        gf.GraphformerConfig(
            vocab_size=len(letters),
            **sizes,
            num_attention_heads=4,
            head=gf.Head(sparsify=gf.TopK(8), operator="gin"),
            feed_forward=VALUES[name],
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def batch(source, size):
        starts = torch.randint(len(source) - 64, (size, 1))
        return source[starts + torch.arange(64)]

    for _ in range(60):
        ids = batch(train, 8)
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    ids = batch(held_out, 64)
    with torch.no_grad():
        loss = model.eval()(ids, labels=ids).loss
    assert loss < unigram - 0.2


def test_beside_relations_and_rounds():
    """What each keeps in the cache stands apart."""
    head = gf.Head(operator={"name": "rounds", "inner": {"name": "multi_hop", "inner": "gin"}})
    model = gf.GraphformerForCausalLM(
        config(feed_forward="multi_hop", head=head, relations=["chain", "repeats"])
    )
    model, ids = stirred(model), torch.randint(0, 11, (2, 9))
    gf.testing.check_cache(model, ids)
    told = {"max_new_tokens": 4, "num_beams": 2, "pad_token_id": 0, "do_sample": False}
    beams = model.generate(ids, **told)
    assert torch.equal(beams, model.generate(ids, use_cache=False, **told))
