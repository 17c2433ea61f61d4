"""Threads that run one layer or model at once: every kind of module of this library, generation,
replicas, recomputed layers.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import graphformer as gf
from graphformer.adapters import SparseGINLayer, edges_per_token
from graphformer.adapters.calls import _calls
from graphformer.compat import xgpt
from graphformer.testing import check_threads, hidden_states, random_graph, token_ids
from tests.adapter_models import feed, make
from tests.conftest import ROOT, _folder

VOCAB = 17
SHAPES = ((2, 11), (1, 7), (3, 5), (2, 13))  # batch, length
IDS = [token_ids(VOCAB, batch=batch, length=length, seed=length) for batch, length in SHAPES]
X = [hidden_states(35, batch=batch, length=length, seed=length) for batch, length in SHAPES]
FEW = {"threads": 8, "calls": 24}


def adapted(base: nn.Module, **settings: Any) -> peft.PeftModel:
    """A model with an adapter, as if it had been trained."""
    model = peft.get_peft_model(
        base, gf.SparseGINConfig(**{"hidden_dim": 7, "threshold": 0.1, **settings})
    ).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sparsegin" in name:
                parameter.normal_(std=0.3)
    return model


def language_model(**settings: Any) -> gf.GraphformerForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 30,
        "intermediate_size": 35,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
    }
    return gf.GraphformerForCausalLM(
        gf.GraphformerConfig(**sizes, initializer_range=0.1, **settings)
    ).eval()


def graph(nodes: int, edges: int) -> Data:
    drawn = random_graph(nodes, edges, 7, edge_dim=3, seed=nodes)
    return Data(
        x=drawn.x,
        edge_index=torch.stack((drawn.senders, drawn.receivers)),
        edge_attr=drawn.edge_attr,
    )


# ---------------------------------------------------------------------- layers and models


@pytest.mark.parametrize("executor", ["dense", "stream", "flash"])
def test_threads_and_attention_layers(executor: str) -> None:
    options = {} if executor == "flash" else {"sparsify": gf.Threshold(0.1)}
    check_threads(gf.nn.GINAttention(35, 5, executor=executor, **options), X, **FEW)


def test_threads_and_pna_attention() -> None:
    check_threads(gf.nn.PNAAttention(35, 5, sparsify=gf.TopK(3)), X, **FEW)


def test_threads_and_attention_on_given_edges() -> None:
    conv = gf.nn.GINAttentionConv(7, 20, heads=4, edge_dim=3)
    check_threads(
        conv,
        [
            (one.x, one.edge_index, one.edge_attr)
            for one in (graph(11, 29), graph(5, 7), graph(13, 37))
        ],
        **FEW,
    )


def test_threads_and_graph_transformer() -> None:
    torch.manual_seed(0)
    levels = {"levels": ("cluster",), "refine": "restrict", "candidates": "edges+k_hop:2"}
    net = gf.GraphTransformer(
        node_dim=7,
        edge_dim=3,
        hidden_size=20,
        num_layers=2,
        num_heads=4,
        target="graph",
        out_dim=2,
        **levels,
    )
    batches = [
        Batch.from_data_list([graph(11, 29), graph(5, 7)]),
        Batch.from_data_list([graph(7, 17)]),
        graph(13, 37),
    ]
    check_threads(net.eval(), batches, **FEW)


@pytest.mark.parametrize(
    "settings", [{"operator": "gin"}, {"operator": ["gin", "pna"], "threshold": 0.1}]
)
def test_threads_and_the_language_model(settings: dict[str, Any]) -> None:
    check_threads(language_model(**settings), IDS, **FEW)


@pytest.mark.parametrize("kind", ["GIN", "PNA"])
def test_threads_and_the_papers_layers(kind: str) -> None:
    given = xgpt.read_settings(
        {
            "use_GNN_from_attention": f"LlamaAttention{kind}",
            "attention_GIN_MLP_multiplier": 1,
            "use_sharpening": True,
        }
    )
    check_threads(xgpt.attention(given, hidden_size=35, num_heads=5).eval(), X, **FEW)


# ---------------------------------------------------------------------- adapters


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"depth": 2}),
        ("llama", {"graph": "per_head", "placement": "after_mlp"}),
        ("bert", {}),
        ("t5", {}),
        ("vit", {}),
        ("gpt_neox_parallel", {"placement": "beside_mlp"}),
    ],
)
def test_threads_and_adapted_models(name: str, settings: dict[str, Any]) -> None:
    model = adapted(make(name), **settings)
    inputs = [
        feed(name, token_ids(57, batch=batch, length=length, seed=length) + 4)
        for batch, length in ((2, 11), (1, 9), (3, 10))
    ]
    check_threads(lambda **kwargs: model(**kwargs).logits, inputs, parameters=model, **FEW)


@pytest.fixture(scope="session")
def stories() -> Callable[[], Any]:
    import transformers as tf

    folder = _folder("GRAPHFORMER_MODELS", ROOT.parent / "shared" / "models") / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not here")
    return lambda: tf.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("calls", [32, pytest.param(500, marks=pytest.mark.long)])
def test_threads_and_an_adapted_trained_model(stories: Callable[[], Any], calls: int) -> None:
    model = adapted(stories())
    texts = [
        torch.randint(4, model.config.vocab_size, shape)
        for shape in ((1, 23), (2, 17), (1, 31), (3, 11))
    ]
    check_threads(lambda ids: model(input_ids=ids).logits, texts, parameters=model, calls=calls)


def test_threads_and_an_adapter_for_each_row() -> None:
    model = adapted(make("llama"))
    model.add_adapter("x", gf.SparseGINConfig(hidden_dim=5, threshold=0.05))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".x" in name:
                parameter.normal_(std=0.3)
    model.eval()
    ids, names = IDS[0], [None, ["x", "default"], ["__base__", "x"], ["default", "__base__"]]
    check_threads(
        lambda names: model(input_ids=ids, adapter_names=names).logits,
        [{"names": one} for one in names],
        gradients=False,
        **FEW,
    )


def test_two_adapted_models_in_one_thread_and_one_inside_the_other() -> None:
    outer, inner = adapted(make("llama")), adapted(make("gpt2"))
    ids = IDS[0]

    def run(model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model(input_ids=ids).logits

    want = run(outer), run(inner)
    seen = []
    handle = (
        outer.get_base_model()
        .model.layers[1]
        .self_attn.o_proj.register_forward_hook(lambda *_: seen.append(run(inner)))
    )
    assert torch.equal(run(outer), want[0]) and torch.equal(seen[0], want[1])
    handle.remove()
    assert torch.equal(run(outer), want[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_recomputed_in_another_thread_than_they_ran_in(reentrant: bool) -> None:
    """Where the backward pass runs in a thread of its own, as autograd's does for a GPU, so does
    activation checkpointing.
    """
    model = adapted(make("llama"), dropout=0.0).train()
    ids = IDS[0]

    def gradients(backward: Callable[[Tensor], Any]) -> dict[str, Tensor]:
        model.zero_grad()
        backward(model(input_ids=ids, labels=ids).loss)
        return {
            name: parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def elsewhere(loss: Tensor) -> None:
        thread = threading.Thread(target=loss.backward)
        thread.start()
        with torch.no_grad():  # and the layers are in use meanwhile
            model(input_ids=IDS[1], use_cache=False)
        thread.join()

    want = gradients(Tensor.backward)
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    got = gradients(elsewhere)
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_an_interrupted_call_leaves_nothing() -> None:
    model = adapted(make("llama"))
    ids = IDS[0]
    with torch.no_grad():
        want = model(input_ids=ids).logits
    projection = model.get_base_model().model.layers[1].self_attn.q_proj

    def stop(*_: Any) -> None:
        raise OSError("stopped")

    handle = projection.register_forward_hook(stop)
    with pytest.raises(OSError, match="stopped"), torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    assert _calls.get() == ()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, want)
    assert _calls.get() == ()
    names = {"_residual", "_cache", "_graphs"}
    assert not any(
        names & set(vars(module))
        for module in model.modules()
        if isinstance(module, SparseGINLayer)
    )


def test_tasks_that_copy_their_context_share_no_call() -> None:
    """asyncio.to_thread copies the context of the task that calls it."""
    model = adapted(make("llama"))

    def run(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return model(input_ids=ids).logits

    async def all_at_once() -> list[Tensor]:
        return await asyncio.gather(
            *(asyncio.to_thread(run, IDS[number % 4]) for number in range(24))
        )

    want = [run(ids) for ids in IDS]
    assert all(
        torch.equal(got, want[number % 4]) for number, got in enumerate(asyncio.run(all_at_once()))
    )


def test_a_warning_about_layers_without_edges_names_those_of_one_pass() -> None:
    """Two threads in lockstep, layer by layer: neither's pass is taken for the end of the
    other's.
    """
    base = make("llama")
    model = adapted(base, threshold={"name": "top_k", "k": 1})
    meet = threading.Barrier(2)
    for layer in base.model.layers:
        layer.mlp.register_forward_hook(lambda *_: meet.wait(60) and None)
    texts: list[str] = []

    def run(ids: Tensor) -> None:
        with torch.no_grad():
            model(input_ids=ids)

    for module in model.modules():
        if isinstance(module, SparseGINLayer) and module.place.position in (0, 2):
            module.settings["default"].sparsifier = gf.Threshold(5.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=run, args=(ids,)) for ids in IDS[:2]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    texts = [str(one.message) for one in caught if "no attention weight" in str(one.message)]
    assert len(texts) == 1
    assert "in model.layers.0.self_attn, model.layers.2.self_attn: there" in texts[0]


def test_looking_at_one_call_does_not_see_those_of_other_threads() -> None:
    model = adapted(make("llama"))
    want = edges_per_token(model, input_ids=IDS[0])
    stop = threading.Event()

    def busy() -> None:
        with torch.no_grad():
            while not stop.is_set():
                model(input_ids=IDS[3])

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        assert all(edges_per_token(model, input_ids=IDS[0]) == want for _ in range(5))
        layer = gf.nn.GINAttention(35, 5)
        assert len(gf.explain(layer, X[0])) == 1
    finally:
        stop.set()
        thread.join()


def test_explaining_one_call_does_not_see_those_of_other_threads() -> None:
    model = language_model(threshold=0.1)
    want = str(gf.explain(model, IDS[0]))
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait(60)
        with torch.no_grad():
            model(IDS[1])
        done.set()

    def wait(*_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            inside.set()
            done.wait(60)

    handle = model.model.layers[0].self_attn.register_forward_pre_hook(wait)
    thread = threading.Thread(target=other)
    thread.start()
    try:
        assert str(gf.explain(model, IDS[0])) == want
    finally:
        handle.remove()
        thread.join()


# ---------------------------------------------------------------------- generation


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("ours", {}),
        ("ours", {"num_beams": 2}),
        ("llama", {}),
        ("llama adapted", {}),
        ("llama adapted", {"use_cache": False}),
        ("t5 adapted", {"num_beams": 2}),
    ],
)
def test_two_threads_generate_what_one_does(kind: str, how: dict[str, Any]) -> None:
    name, _, with_adapter = kind.partition(" ")
    model: Any = language_model(operator="gin", threshold=0.1) if name == "ours" else make(name)
    if with_adapter:
        model = adapted(model, task_type="SEQ_2_SEQ_LM" if name == "t5" else "CAUSAL_LM")
    common = {
        "max_new_tokens": 6,
        "min_new_tokens": 6,
        "do_sample": False,
        "pad_token_id": 0,
        **how,
    }
    inputs = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), **common} for ids in IDS]
    check_threads(
        lambda **kwargs: model.generate(**kwargs), inputs, threads=2, calls=8, gradients=False
    )


# ---------------------------------------------------------------------- replicas


def replica(model: nn.Module) -> nn.Module:
    """A replica as torch.nn.parallel.replicate makes it for a second GPU: shallow copies, and
    tensors in the place of parameters.
    """
    modules = list(model.modules())
    copies = {module: module._replicate_for_data_parallel() for module in modules}
    values = {parameter: parameter * 1 for parameter in model.parameters()}
    for module, copy in copies.items():
        for key, child in module._modules.items():
            if child is not None:
                setattr(copy, key, copies[child])
        for key, parameter in module._parameters.items():
            if parameter is None:
                copy._parameters[key] = None
            else:
                setattr(copy, key, values[parameter])
        for key, buffer in module._buffers.items():
            copy._buffers[key] = None if buffer is None else buffer.clone()
    return copies[model]


MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "adapted llama": (lambda: adapted(make("llama")), {"input_ids": IDS[0]}),
    "adapted bert": (lambda: adapted(make("bert"), graph="per_head"), {"input_ids": IDS[0]}),
    "language model": (
        lambda: language_model(operator=["gin", "pna"], threshold=0.1, score="differential"),
        {"input_ids": IDS[0]},
    ),
    "graph transformer": (
        lambda: gf.GraphTransformer(
            7, 3, hidden_size=20, num_layers=2, num_heads=4, target="graph", out_dim=2
        ).eval(),
        {"data": graph(11, 29)},
    ),
    "attention on edges": (
        lambda: gf.nn.PNAAttentionConv(7, 20, heads=4),
        {"x": graph(11, 29).x, "edge_index": graph(11, 29).edge_index},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_replica_uses_its_own_weights(name: str) -> None:
    build, inputs = MODELS[name]
    torch.manual_seed(0)
    model = build()

    def run(which: nn.Module) -> Tensor:
        out = which(**inputs)
        return next(
            (getattr(out, name) for name in ("logits", "prediction") if hasattr(out, name)), out
        )

    want, copy = run(model), replica(model)
    assert torch.equal(run(copy), want)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    got = torch.autograd.grad(run(copy).square().sum(), trained, allow_unused=True)
    wanted = torch.autograd.grad(want.square().sum(), trained, allow_unused=True)
    for one, other in zip(got, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)
    with torch.no_grad():  # the model's own weights are none of the replica's
        for parameter in model.parameters():
            parameter.add_(1)
        assert torch.equal(run(copy), want)


def test_pickled_models_hold_no_call(tmp_path: Path) -> None:
    model = adapted(make("llama"))
    context = contextvars.copy_context()
    with torch.no_grad():
        want = context.run(lambda: model(input_ids=IDS[0]).logits)
        torch.save(model, tmp_path / "model.pt")
        again = torch.load(tmp_path / "model.pt", weights_only=False)
        assert torch.equal(again(input_ids=IDS[0]).logits, want)
