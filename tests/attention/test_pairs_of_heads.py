"""Heads in pairs: differential attention in its second form."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch_geometric.data import Data

import graphformer as gf
from graphformer.attention.updates import PairedDifference

pytestmark = pytest.mark.usefixtures("float64")

V2 = gf.Head(update={"name": "paired_difference", "both": False, "maps": True})
HIDDEN, HEADS, KV, WIDTH = 21, 6, 3, 7


def layer(**more) -> gf.nn.SumAttention:
    torch.manual_seed(0)
    found = gf.nn.SumAttention(HIDDEN, HEADS, KV, head=V2.copied(), head_dim=WIDTH, **more)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return found.eval()


def test_the_second_form_written_out():
    """Pairs of queries of one key head, lambda of the receiver, no norm; heads half as many."""
    one, x = layer(), torch.randn(2, 11, HIDDEN)
    q = one.q_proj(x).view(2, 11, HEADS, WIDTH).transpose(1, 2)
    k, v = (m(x).view(2, 11, KV, WIDTH).transpose(1, 2) for m in (one.k_proj, one.v_proj))
    k, v = (t.repeat_interleave(2, 1) for t in (k, v))
    attn = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    attn1, attn2 = attn[:, 0::2], attn[:, 1::2]
    lam = (x @ one.update.linear.weight.T + one.update.linear.bias).sigmoid()
    out = attn1 - lam.transpose(1, 2).unsqueeze(-1) * attn2
    want = out.transpose(1, 2).reshape(2, 11, KV * WIDTH) @ one.o_proj.weight.T
    assert_close(one(x), want)
    assert one.o_proj.weight.shape == (HIDDEN, KV * WIDTH)


def test_both_heads_keep_an_output_without_it():
    out, hidden = torch.randn(2, 6, 5, 3), torch.randn(2, 5, 7)
    both, first = PairedDifference(7, 6), PairedDifference(7, 6, both=False)
    with torch.no_grad():
        both.linear.weight.normal_()
        first.linear.weight.copy_(both.linear.weight[0::2])
        first.linear.bias.copy_(both.linear.bias[0::2])
    assert_close(both.of_heads(out, hidden)[:, 0::2], first.of_heads(out, hidden))
    amount = (hidden @ both.linear.weight.T + both.linear.bias).sigmoid()
    want = out[:, 1] - amount[..., 1:2] * out[:, 0]
    assert_close(both.of_heads(out, hidden)[:, 1], want)


@pytest.mark.parametrize("sparsify", [None, gf.Threshold(0.05)], ids=str)
def test_laws(sparsify):
    torch.manual_seed(0)
    head = gf.Head(sparsify=sparsify, update=V2.update)
    one = gf.nn.SumAttention(HIDDEN, HEADS, KV, head=head, head_dim=WIDTH)
    one.load_state_dict(layer().state_dict())
    x = torch.randn(2, 11, HIDDEN, requires_grad=True)
    want = one(x)
    wanted = torch.autograd.grad(want.square().sum(), [x, *one.parameters()])
    for executor in ("dense", "stream"):
        for backend in ("torch", "pyg", "torch_sparse"):
            if backend in gf.backends.available():
                one.executor, one.backend = executor, backend
                found = one(x)
                assert_close(found, want)
                got = torch.autograd.grad(found.square().sum(), [x, *one.parameters()])
                assert_close(got, wanted)
    one.executor = one.backend = "auto"
    gf.testing.check_causal(one, x.detach())
    gf.testing.check_prefix(one, x.detach())
    gf.testing.check_gradients(one.train(), x.detach())


def test_without_an_output_map_where_the_outputs_are_as_wide_as_the_stream():
    head = gf.Head(features="projection", update={"name": "paired_difference", "both": False})
    one = gf.nn.GINAttention(HIDDEN, HEADS, KV, head=head, head_dim=WIDTH)
    assert one.o_proj is None and one(torch.randn(2, 5, HIDDEN)).shape == (2, 5, HIDDEN)
    with pytest.raises(ValueError, match="3 outputs of heads with head_dim 5 are 15 channels"):
        gf.nn.GINAttention(HIDDEN, HEADS, KV, head=head, head_dim=5)


def test_in_the_language_model(tmp_path):
    torch.manual_seed(0)
    config = gf.GraphformerConfig(
        vocab_size=23,
        hidden_size=18,
        intermediate_size=22,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=6,
        operator="sum",
        head=V2,
    )
    model, ids = gf.GraphformerForCausalLM(config).eval(), torch.randint(23, (2, 11))
    gf.testing.check_cache(model, ids)
    model.save_pretrained(tmp_path)
    loaded = gf.GraphformerForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert_close(loaded(ids).logits, model(ids).logits)
    graphs = gf.inspect.graphs(model, input_ids=ids)
    assert graphs[0].batch_shape == (2, 6)
    with pytest.raises(ValueError, match="makes one output of several heads"):
        gf.inspect.ablate(model, heads={0: [1]}, input_ids=ids)


def test_on_edges():
    torch.manual_seed(0)
    head = gf.Head(update={"name": "paired_difference", "both": False})
    conv = gf.nn.SumAttentionConv(5, 12, 4, edge_dim=2, head=head, head_channels=7).eval()
    index, attr = torch.randint(9, (2, 30)), torch.randn(30, 2)
    x = torch.randn(9, 5)
    assert conv(x, index, attr).shape == (9, 12) and conv.o_proj.weight.shape == (12, 14)
    plain = gf.nn.SumAttentionConv(5, 28, 4, edge_dim=2)
    plain.load_state_dict(conv.state_dict(), strict=False)
    out = plain.eval()(x, index, attr).view(9, 4, 7)
    want = (out[:, 0::2] - 0.5 * out[:, 1::2]).flatten(1) @ conv.o_proj.weight.T
    assert_close(conv(x, index, attr), want + conv.o_proj.bias)
    with pytest.raises(ValueError, match="makes fewer outputs than there are heads: give head_cha"):
        gf.nn.SumAttentionConv(5, 12, 4, head=head)
    net = gf.GraphTransformer(5, 2, 12, num_layers=2, num_heads=4, target="node", head=head).eval()
    data = Data(x=x, edge_index=index, edge_attr=attr)
    again = gf.GraphTransformer(**net.settings).eval()
    again.load_state_dict(net.state_dict())
    assert_close(again(data).prediction, net(data).prediction)
