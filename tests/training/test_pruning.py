"""Pruning by trained masks, and the smaller model that is left."""

import copy

import pytest
import torch
import transformers
from torch import nn
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention.sparsifiers import EdgeMask
from graphformer.training import (
    ConcreteMask,
    Pruner,
    PruningCallback,
    cubic_sparsity,
    load_language_model,
)
from graphformer.training.pruning.masks import smallest

pytestmark = pytest.mark.usefixtures("float64")

SIZES = {"vocab_size": 23, "hidden_size": 15, "intermediate_size": 22, "num_hidden_layers": 3}
FREE = {"value_projection": True, "output_projection": True}
KINDS = {
    "sum": {"operator": "sum"},
    "gin": {"operator": "gin", **FREE},
    "pna cut": {"operator": "pna", "threshold": 0.05},
    "mixed": {"operator": ["sum", "gin", "pna"], **FREE},
    "differential": {"operator": "sum", "score": "differential"},
    "sink": {"operator": "sum", "normalize": "softmax_sink"},
    "channel gate": {
        "operator": "sum",
        "head": gf.Head(update={"name": "channel_gate", "maps": True}),
    },
    "heads by layer": {"operator": "sum", "feed_forward": ["gated", "gated", "gated"]},
}


def make(kind: str = "sum", **more) -> gf.GraphformerForCausalLM:
    torch.manual_seed(0)
    given = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4, **KINDS[kind]}
    config = gf.GraphformerConfig(**{**SIZES, **given, **more})
    model = gf.GraphformerForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tokens() -> torch.Tensor:
    return torch.randint(23, (2, 11), generator=torch.Generator().manual_seed(1))


def train(model: nn.Module, pruner: Pruner, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for step in range(steps):
        pruner.step(step)
        optimizer.zero_grad()
        model(tokens(), labels=tokens()).loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    model.eval()


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# ---------------------------------------------------------------------- masks


def test_the_mask_written_out():
    mask = ConcreteMask((3, 5), temperature=0.7, start=1.5, gain=10.0)
    with torch.no_grad():
        mask.theta.copy_(0.1 * torch.randn(3, 5))
    mask.kept[1, 2] = False
    torch.manual_seed(4)
    found = mask()
    torch.manual_seed(4)
    u, m = torch.rand(3, 5), 1.5 + 10.0 * mask.theta
    want = ((u.log() - (1 - u).log() + m) / 0.7).sigmoid()
    assert_close(found, want * mask.kept)
    assert torch.equal(mask.eval()(), mask.kept.double())
    mask.train().hard.fill_(True)
    assert torch.equal(mask(), mask.kept.double())


def test_logits_of_weights_start_by_their_size():
    mask, weight = ConcreteMask((2, 3), start=2.0), torch.randn(2, 3)
    assert_close(mask.logits(weight), 2.0 * weight.abs() / weight.abs().mean())


def test_the_share_of_zeros_is_that_of_its_logits():
    """P(z > 1/2) = sigmoid(m)."""
    mask = ConcreteMask((20_000,), start=0.8)
    share = float((mask() > 0.5).double().mean())
    assert abs(share - torch.tensor(0.8).sigmoid()) < 0.02


def test_the_cubic_schedule():
    found = [cubic_sparsity(step, 0.8, 10, 20) for step in (0, 9, 10, 20, 29, 30, 99)]
    want = [0.0, 0.0, 0.0, 0.8 * (1 - 0.5**3), 0.8 * (1 - (1 / 20) ** 3), 0.8, 0.8]
    assert found == pytest.approx(want)


def test_the_smallest_are_cut():
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 5.0, 0.5]])
    assert smallest(logits, 3).tolist() == [[False, True, False], [True, False, True]]
    assert not smallest(logits, 0).any()


# ---------------------------------------------------------------------- the laws of a pruner


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_pruner_is_the_identity_and_goes_without_a_trace(kind: str):
    model = make(kind)
    names, want = list(model.state_dict()), model(tokens()).logits
    pruner = Pruner(model, heads=0.5, layers=0.4, widths=0.4, weights=0.3, steps=5)
    assert torch.equal(model(tokens()).logits, want)
    pruner.harden()
    assert not torch.allclose(model(tokens()).logits, want)
    assert pruner.remove() is model
    assert list(model.state_dict()) == names
    assert torch.equal(model(tokens()).logits, want)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_model_is_the_masked_one_and_smaller(kind: str, tmp_path):
    model = make(kind)
    before = size(model)
    pruner = Pruner(model, heads=0.5, layers=0.34, widths=0.3, weights=0.2, steps=4, begin=1)
    train(model, pruner, 8)
    assert pruner.sparsity == pytest.approx(
        {"heads": 5 / 9, "layers": 1 / 3, "widths": 7 / 22, "weights": 0.2}, abs=0.07
    )
    ids, want = tokens(), model(tokens()).logits
    small = pruner.export()
    assert_close(small(ids).logits, want)
    assert size(small) < 0.8 * before
    assert small.config.num_hidden_layers == 2 and small.config.intermediate_size == 15
    assert not any("parametrizations" in name or "pruning" in name for name in small.state_dict())
    gf.testing.check_cache(small, ids)
    small.save_pretrained(tmp_path)
    loaded = gf.GraphformerForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert_close(loaded(ids).logits, want)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(small.generate(ids, **options), model.generate(ids, **options))


def test_layers_keep_different_numbers_of_heads_and_one_at_least():
    model = make()
    pruner = Pruner(model, heads=0.9, steps=1)
    with torch.no_grad():
        pruner.heads[0].theta.fill_(1.0)
    pruner.harden()
    assert [int(mask.kept.sum()) for mask in pruner.heads] == [1, 1, 1]  # 8 of 9 would leave none
    pruner.remove()
    pruner = Pruner(model, heads=0.45, steps=1)
    with torch.no_grad():
        pruner.heads[0].theta.fill_(1.0)
        pruner.heads[2].theta[0] = 2.0
    pruner.harden()
    small = pruner.export()
    assert small.config.num_attention_heads == [6, 2, 2]
    assert small.config.num_key_value_heads == [3, 1, 1]
    assert small.model.layers[1].self_attn.q_proj.weight.shape == (8, 15)
    assert_close(small(tokens()).logits, model(tokens()).logits)


def test_the_logit_of_a_head_that_only_does_harm_falls_first():
    """The second key head of the last layer is made noise; the gradient of the loss says so."""
    model = make()
    want = model(tokens()).logits.detach()
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight[:, 8:16].normal_(std=2.0)
    pruner = Pruner(model, heads=0.1, steps=1, start=3.0)
    model.train()
    for _ in range(20):
        (model(tokens()).logits - want).square().mean().backward()
    gradients = torch.cat([mask.theta.grad for mask in pruner.heads])
    assert int(gradients.argmax()) == 7 and float(gradients[7]) > 0
    with torch.no_grad():
        for mask in pruner.heads:
            mask.theta -= mask.theta.grad
    pruner.harden()  # one head of nine
    kept = [mask.kept.tolist() for mask in pruner.heads]
    assert kept == [[True] * 3, [True] * 3, [True, False, True]]


def test_what_is_left_in_half_precision_and_in_training_mode():
    model = make().to(torch.bfloat16)
    pruner = Pruner(model, heads=0.5, weights=0.2, steps=1)
    assert pruner.heads[0].theta.dtype is torch.float32
    model.train()
    model(tokens()).logits.sum().backward()
    pruner.harden()
    small = pruner.export()
    assert small.dtype is torch.bfloat16 and not small.training
    assert_close(small(tokens()).logits, model.eval()(tokens()).logits, rtol=0.05, atol=0.05)


def test_a_copy_has_masks_of_its_own():
    model = make()
    pruner = Pruner(model, heads=0.5, layers=0.4, weights=0.2, steps=1)
    other = copy.deepcopy(model)
    want = other(tokens()).logits
    pruner.harden()
    assert torch.equal(other(tokens()).logits, want)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens()).logits, model(tokens()).logits)


def test_with_activation_checkpointing():
    want = {}
    for checkpointing in (False, True):
        model = make()
        Pruner(model, heads=0.5, layers=0.4, weights=0.2, steps=9).step(4)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        torch.manual_seed(2)
        model(tokens(), labels=tokens()).loss.backward()
        found = {name: one.grad for name, one in model.named_parameters()}
        want = want or found
        for name, one in found.items():
            assert_close(one, want[name])


# ---------------------------------------------------------------------- with transformers' Trainer


def test_in_the_trainer_and_resumed(tmp_path):
    items = [{"input_ids": row, "labels": row} for row in torch.randint(23, (12, 11))]

    def run(resume: bool | None, steps: int, folder: str):
        model = make().float()
        pruner = Pruner(model, heads=0.5, weights=0.3, steps=5, begin=1)
        arguments = transformers.TrainingArguments(
            str(tmp_path / folder),
            max_steps=8,
            per_device_train_batch_size=2,
            save_steps=4,
            logging_steps=4,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            seed=3,
        )

        class Stops(transformers.TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop |= state.global_step >= steps

        callbacks = [PruningCallback(pruner), Stops()]
        trainer = transformers.Trainer(model, arguments, train_dataset=items, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        return model.eval(), pruner, trainer

    model, pruner, trainer = run(None, 8, "whole")
    assert pruner.sparsity["heads"] == pytest.approx(5 / 9)
    assert all(bool(mask.hard) for mask in pruner.heads)
    assert "pruned_heads" in trainer.state.log_history[0]
    small = pruner.export()
    assert_close(small(tokens()).logits, model(tokens()).logits, rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match="training ended at step 4, and the schedule.*ends at 6"):
        run(None, 4, "parts")
    again, _, _ = run(True, 8, "parts")
    for name, one in model.state_dict().items():
        assert_close(again.state_dict()[name], one)
    with pytest.raises(ValueError, match=r"checkpoint-8.*masks of its Pruner.*export\(\)"):
        gf.GraphformerForCausalLM.from_pretrained(tmp_path / "whole" / "checkpoint-8")
    _, pruner, _ = run(True, 8, "whole")
    pruner.export().save_pretrained(tmp_path / "late")
    late = gf.GraphformerForCausalLM.from_pretrained(tmp_path / "late")
    assert_close(late(tokens()).logits, small(tokens()).logits)


@pytest.mark.parametrize("part", ["heads", "layers", "widths", "weights"])
@pytest.mark.parametrize(
    "kind",
    [gf.GraphformerForCausalLM, gf.GraphformerModel, transformers.AutoModelForCausalLM],
)
def test_a_folder_with_masks_is_refused(part, kind, tmp_path):
    model = make()
    Pruner(model, **{part: 0.5}, steps=1)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a model under the masks of its Pruner"):
        kind.from_pretrained(tmp_path)


def test_a_run_folder_with_masks_is_refused(tmp_path):
    model = make()
    Pruner(model, heads=0.5, steps=1)
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model under the masks of its Pruner"):
        load_language_model(tmp_path)


def test_a_schedule_that_does_not_end_is_refused():
    callback = PruningCallback(Pruner(make(), heads=0.5, steps=9))
    state = transformers.TrainerState(max_steps=9)
    with pytest.raises(ValueError, match="ends at step 9 and training at 9"):
        callback.on_train_begin(None, state, None)


# ---------------------------------------------------------------------- what cannot be pruned


@pytest.mark.parametrize(
    ("kind", "given", "more", "text"),
    [
        ("sum", {"heads": 1.0}, {}, r"heads must be a share in \[0, 1\), got 1.0"),
        ("sum", {}, {}, "nothing is to be pruned"),
        ("sum", {"edges": 0.5}, {}, "head=gf.Head\\(sparsify='edge_mask'\\)"),
        (
            "gin",
            {"heads": 0.5},
            {"value_projection": None, "output_projection": None, "hidden_size": 24},
            "layer 0 has features='slice' and update='concat'",
        ),
        (
            "sum",
            {"heads": 0.5},
            {"head": gf.Head(update={"name": "gated_heads", "maps": True})},
            "a slot reads several heads at once",
        ),
        (
            "heads by layer",
            {"heads": 0.5},
            {
                "operator": "gin",
                "head": gf.Head(
                    operator="merged_heads", features="projection", update="output_map"
                ),
            },
            "a slot reads several",
        ),
        (
            "sum",
            {"heads": 0.5},
            {"head": gf.Head(candidates=gf.PerHead((gf.attention.All(),) * 6))},
            "cannot have fewer heads than it was made with",
        ),
        (
            "sum",
            {"layers": 0.5},
            {"head": [gf.Head(), gf.Head(score="echo", normalize="identity"), gf.Head()]},
            "layer 1 reads the graph of the layer before",
        ),
        (
            "sum",
            {"heads": 0.5},
            {"head": [gf.Head(), gf.Head(score="echo", normalize="identity"), gf.Head()]},
            "a layer that reads the heads of another",
        ),
        (
            "sum",
            {"heads": 0.5},
            {"head": gf.Head(features="value_residual")},
            "a layer that reads the heads of another",
        ),
        (
            "sum",
            {"widths": 0.5},
            {"feed_forward": "multi_aggregate", "intermediate_size": 24},
            "is not the gated one",
        ),
        ("sum", {"heads": 0.5, "example": 1}, {}, "example is for graph models"),
    ],
)
def test_what_cannot_be_pruned_is_refused_and_leaves_no_trace(kind, given, more, text):
    model = make(kind, **more)
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=text):
        Pruner(model, **given, steps=3)
    assert list(model.state_dict()) == names
    assert not model.model.layers[0]._forward_hooks


NUMBERS = (
    "heads",
    "layers",
    "widths",
    "weights",
    "steps",
    "begin",
    "every",
    "temperature",
    "start",
    "gain",
)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_cannot_be_meant_are_refused_and_leave_no_trace(name):
    model = make()
    names = list(model.state_dict())
    for value in (float("nan"), float("inf"), "3", True, *((-1,) if name != "start" else ())):
        with pytest.raises((TypeError, ValueError), match=name):
            Pruner(model, **{"heads": 0.5, "weights": 0.5, "steps": 3, name: value})
        assert list(model.state_dict()) == names and not hasattr(model, "pruning")
    Pruner(model, heads=0.5, steps=3)


def test_a_second_pruner_and_another_model_are_refused():
    model = make()
    Pruner(model, heads=0.5, steps=3)
    with pytest.raises(ValueError, match="has masks of a Pruner already"):
        Pruner(model, heads=0.5, steps=3)
    with pytest.raises(
        TypeError, match="must be a GraphformerForCausalLM or a GraphTransformer, got L"
    ):
        Pruner(nn.Linear(2, 2), heads=0.5, steps=3)


# ---------------------------------------------------------------------- edges


def test_the_mask_of_edges_written_out():
    mask = EdgeMask(0.4, 0.7, num_heads=3)
    with torch.no_grad():
        for one in (mask.slope, mask.shift, mask.nearness):
            one.add_(torch.randn(3))
    q, k = torch.randn(2, 2, 3, 11, 5)
    graph = gf.attention_graph(q, k, sparsify=mask.eval(), is_causal=True)
    weights = gf.attention_graph(q, k, is_causal=True).to_dense()
    place = torch.arange(11)
    distance = (place.unsqueeze(1) - place).abs()
    slope, shift, nearness = (
        one.detach().view(3, 1, 1) for one in (mask.slope, mask.shift, mask.nearness)
    )
    m = slope * weights.log() - nearness * distance.log1p() + shift
    m = m.masked_fill(distance.new_ones(11, 11).triu(1).bool(), -torch.inf)
    keep = torch.zeros_like(m, dtype=torch.bool)
    for i in range(11):
        number = max(i + 1 - int(0.4 * (i + 1) + 1e-9), 1)
        keep[..., i, :].scatter_(-1, m[..., i, :].topk(number).indices, True)
    assert torch.equal(graph.unweighted().to_dense().bool(), keep)
    assert_close(graph.to_dense(), weights * keep)
    soft = gf.attention_graph(q, k, sparsify=mask.train(), is_causal=True).to_dense()
    assert_close(soft, torch.where(keep, weights * (m / 0.7).sigmoid(), 0.0))  # nothing drawn
    mask.hard.fill_(True)
    assert_close(
        gf.attention_graph(q, k, sparsify=mask, is_causal=True).to_dense(), graph.to_dense()
    )


def test_what_is_drawn_is_the_same_for_every_executor_and_another_one_in_each_step():
    torch.manual_seed(0)
    layer = gf.nn.SumAttention(15, 3, head=gf.Head(sparsify=EdgeMask(0.3))).train()
    x, found = torch.randn(2, 11, 15, requires_grad=True), []
    for draw in (1, 1, 2):
        layer.sparsify.draw.fill_(draw)
        for executor in ("dense", "stream"):
            layer.executor = executor
            out = layer(x)
            found.append((out, *torch.autograd.grad(out.sum(), [x, *layer.parameters()])))
    for one in found[1:4]:
        assert_close(one, found[0])
    assert not torch.allclose(found[4][0], found[0][0])
    every = gf.attention.pairs.Pairs.every(2, 3, 50, 50, x.device)
    u = layer.sparsify.noise(every).sigmoid().flatten()
    assert abs(float(u.mean()) - 0.5) < 0.01 and abs(float(u.var()) - 1 / 12) < 0.005
    assert abs(float(torch.corrcoef(torch.stack((u[:-1], u[1:])))[0, 1])) < 0.03


def test_edges_by_the_schedule():
    model = make(head=gf.Head(sparsify="edge_mask"))
    pruner = Pruner(model, edges=0.6, heads=0.4, steps=4)
    whole = model(tokens(), output_graphs=True).graphs[0].num_edges
    train(model, pruner, 6)
    assert pruner.sparsity["edges"] == pytest.approx(0.6)
    graph = model(tokens(), output_graphs=True).graphs[0]
    assert graph.num_edges < 0.6 * whole
    small = pruner.export()
    assert_close(small(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize("given", [{"sparsity": 1.0}, {"temperature": 0.0}])
def test_numbers_of_an_edge_mask(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        EdgeMask(**given)
