"""A walk over every public name: a misspelt keyword is refused by name, and so is a number that
cannot be meant.

New public names are walked over without being named here. What takes ``**kwargs`` has to be
called for real: a new one needs a line in CALLS.
"""

import importlib
import inspect
import math
import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch_geometric.data import Data

import graphformer as gf
from graphformer.compat import xgpt
from graphformer.errors import strict_flags
from graphformer.models.graphs.base import GraphNetwork
from graphformer.nn.conv_options import ConvOptions
from graphformer.nn.presets import Options
from tests import adapter_models

PACKAGES = ["graphformer"] + [
    f"graphformer.{name}"
    for name in (
        "attention",
        "nn",
        "models",
        "training",
        "datasets",
        "testing",
        "inspect",
        "adapters",
        "compat.xgpt",
        "backends",
    )
]
SMALL = {
    "vocab_size": 17,
    "hidden_size": 12,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
}
IDS = torch.arange(5)[None]
LAYER = {"hidden_size": 12, "num_heads": 3}
SHELL = {
    "num_kv_heads": None,
    "sharpening": True,
    "sparsify": None,
    "normalize": "softmax",
    "is_causal": True,
}
SHELL |= {"backend": "auto", "executor": "auto"}
PAIRS = (torch.tensor([0, 1]), torch.tensor([1, 2]))


def config():
    return gf.GraphformerConfig(**SMALL)


def graph():
    return gf.AttentionGraph.from_edges(*PAIRS, num_nodes=3)


def module():
    return gf.nn.GINAttention(**LAYER)


def graphs_of_llama():
    ids = torch.ones(1, 3, dtype=torch.int64)
    return gf.inspect.graphs(adapter_models.make("llama"), input_ids=ids)


def hidden(length=5):
    return torch.zeros(1, length, 12)


def cross_validate(**given):
    gf.training.cross_validate(lambda: None, FOLDS, "nowhere", 2, **given)


class Folds(list):
    """Data that divide into folds as a GraphDataset does."""

    def folds(self, *_):
        yield self, self

    def split(self, *_):
        return self, self


FOLDS = Folds(Data(x=torch.zeros(3, 5), y=torch.zeros(1)) for _ in range(4))

# What takes keywords of any name: called for real, with as little as it needs. The second entry:
# the names that go through **kwargs.
CALLS = {
    "FeedForward": (lambda **given: gf.attention.feed_forwards.FeedForward(**given), ()),
    "AttentionGraph.to": (lambda **given: graph().to(**given), ("device", "dtype")),
    "GraphformerConfig": (lambda **given: gf.GraphformerConfig(**given), ()),
    "GraphformerConfig.from_dict": (
        lambda **given: gf.GraphformerConfig.from_dict(dict(SMALL), **given),
        tuple(SMALL),
    ),
    "GraphformerForCausalLM.forward": (
        lambda **given: gf.GraphformerForCausalLM(config())(IDS, **given),
        ("output_attentions",),
    ),
    "GraphformerModel.forward": (
        lambda **given: gf.GraphformerModel(config())(IDS, **given),
        ("output_hidden_states",),
    ),
    "explain": (lambda **given: gf.explain(module(), hidden(), **given), ("attention_mask",)),
    "parameter_matched": (lambda **given: gf.parameter_matched(config(), **given), tuple(SMALL)),
    "AttentionConv": (
        lambda **given: gf.nn.AttentionConv(
            lambda heads, width: gf.nn.SumOperator(), 4, 6, 2, None, **given
        ),
        tuple(ConvOptions.__annotations__),
    ),
    "GINAttention": (
        lambda **given: gf.nn.GINAttention(**LAYER, **given),
        tuple(Options.__annotations__),
    ),
    "PNAAttention": (
        lambda **given: gf.nn.PNAAttention(**LAYER, **given),
        tuple(Options.__annotations__),
    ),
    "SumAttention": (
        lambda **given: gf.nn.SumAttention(**LAYER, **given),
        tuple(Options.__annotations__),
    ),
    "GINAttentionConv": (
        lambda **given: gf.nn.GINAttentionConv(4, 6, **given),
        tuple(ConvOptions.__annotations__),
    ),
    "PNAAttentionConv": (
        lambda **given: gf.nn.PNAAttentionConv(4, 6, **given),
        tuple(ConvOptions.__annotations__),
    ),
    "SumAttentionConv": (
        lambda **given: gf.nn.SumAttentionConv(4, 6, **given),
        tuple(ConvOptions.__annotations__),
    ),
    "Operator": (lambda **given: gf.nn.Operator(**given), ("num_heads",)),
    "SumOperator": (lambda **given: gf.nn.SumOperator(**given), ("num_heads",)),
    "cross_validate": (cross_validate, ("epochs", "max_nodes", "patience", "learning_rate")),
    "region_graph": (
        lambda **given: gf.datasets.region_graph(
            torch.zeros(4, 4, dtype=torch.int64).numpy(), (0,), **given
        ),
        ("spacing", "relative"),
    ),
    "check_backends_agree": (
        lambda **given: gf.testing.check_backends_agree(
            lambda x, backend: x, {"x": hidden()}, **given
        ),
        ("atol", "rtol", "seed"),
    ),
    "check_executors_agree": (
        lambda **given: gf.testing.check_executors_agree(
            lambda x, executor: x, {"x": hidden()}, **given
        ),
        ("atol", "rtol", "seed"),
    ),
    "check_identity": (
        lambda **given: gf.testing.check_identity(module(), module(), hidden(), **given),
        ("attention_mask",),
    ),
    "check_invariant": (
        lambda **given: gf.testing.check_invariant(
            lambda x, *_: x.sum(), torch.zeros(3, 2), *PAIRS, **given
        ),
        ("atol", "rtol", "seed"),
    ),
    "ablate": (
        lambda **given: gf.inspect.ablate(adapter_models.make("llama"), **given),
        ("input_ids", "labels"),
    ),
    "graphs": (
        lambda **given: gf.inspect.graphs(adapter_models.make("llama"), **given),
        ("input_ids", "attention_mask"),
    ),
    "collect": (
        lambda **given: gf.inspect.collect(
            adapter_models.make("llama"), [torch.ones(1, 3, dtype=torch.int64)], **given
        ),
        ("sparsify", "streamed"),
    ),
    "ModelGraphs.plot": (lambda **given: graphs_of_llama().plot(0, 0, **given), ("max_edges",)),
    "plot_layer": (
        lambda **given: gf.inspect.plot_layer(graphs_of_llama(), **given),
        ("min_weight", "title"),
    ),
    "ModelGraphs.report": (
        lambda **given: graphs_of_llama().report("nowhere/page.html", **given),
        ("measures", "ablation"),
    ),
    "ModelGraphs.to": (lambda **given: graphs_of_llama().to(**given), ("device", "dtype")),
    **{
        name: (
            lambda name=name, **given: getattr(gf.inspect, name)(
                torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2), **given
            ),
            ("is_causal", "normalize"),
        )
        for name in ("sender_mass", "entropy", "distance_profile", "sink_mass")
    },
    "attention": (
        lambda **given: importlib.import_module("graphformer.compat.xgpt").attention(
            importlib.import_module("graphformer.compat.xgpt").Settings(), **LAYER, **given
        ),
        ("attention_dropout",),
    ),
    "load_attention": (
        lambda **given: importlib.import_module("graphformer.compat.xgpt").load_attention(
            importlib.import_module("graphformer.compat.xgpt").Settings(), {}, **LAYER, **given
        ),
        ("rms_norm_eps",),
    ),
}
# Neither called nor walked over, and why.
NOT_CALLED = {
    "LambdaRecorder.on_step_end": "transformers hands every event all it knows",
    "LambdaRecorder.on_train_begin": "the same",
    "LambdaRecorder.on_train_end": "the same",
    "PruningCallback.on_log": "the same",
    "PruningCallback.on_step_begin": "the same",
    "PruningCallback.on_train_begin": "the same",
    "PruningCallback.on_train_end": "the same",
    "SparseGINModel.add_weighted_adapter": "takes anything and refuses to be called at all",
    "SparseGINModel.inject_adapter": "hands all to PEFT's own",
    "GraphformerPreTrainedModel": "the base class; transformers' constructor takes what its mixins "
    "may take",
    "GraphTrainer.train": "hands all to transformers' own, which refuses what it does not know",
    "GraphformerForCausalLM.init_continuous_batching": "refuses to be called at all",
    "GraphformerForCausalLM.prepare_inputs_for_generation": "gets what generate() has checked",
    "edges_per_token": "hands its inputs to a model of anybody's",
    "Backend": "a protocol, which is not made",
}


def public():
    """Every public callable with its name: functions, constructors, and the public methods that
    this library defines.
    """
    seen, found = set(), {}
    for package in PACKAGES:
        home = importlib.import_module(package)
        for name in home.__all__:
            value = getattr(home, name)
            if not callable(value) or id(value) in seen:
                continue
            seen.add(id(value))
            found[name if name not in found else f"{package}.{name}"] = value
            for key in dir(value) if inspect.isclass(value) else ():
                one = inspect.getattr_static(value, key)
                one = one.__func__ if isinstance(one, (staticmethod, classmethod)) else one
                if (
                    not key.startswith("_")
                    and inspect.isfunction(one)
                    and one.__module__.startswith("graphformer")
                ):
                    found[f"{name}.{key}"] = one
    return found


PUBLIC = public()


def signature(value):
    try:
        return inspect.signature(value)
    except ValueError:  # exceptions
        return None


def swallows(value):
    """Whether its signature does not tell which keywords it takes."""
    found = signature(value)
    later = getattr(value, "__post_init__", None) if inspect.isclass(value) else None
    return found is None or any(
        one.kind is one.VAR_KEYWORD
        for part in (found, later and signature(later))
        if part
        for one in part.parameters.values()
    )


def misspelt(name, known):
    """The name with one letter changed, which is no other name."""
    return next(word for letter in "xqzj" if (word := name[:-1] + letter) not in known)


def names_of(value):
    found = signature(value)
    return (
        []
        if found is None
        else [
            one.name
            for one in found.parameters.values()
            if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
    )


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_misspelt_keyword_is_never_accepted(name):
    value = PUBLIC[name]
    if name in NOT_CALLED:
        assert swallows(value)
        return
    if not swallows(value):
        names = names_of(value)
        for one in names:
            with pytest.raises(TypeError, match=misspelt(one, names)):
                signature(value).bind_partial(**{misspelt(one, names): None})
        return
    if inspect.isclass(value) and issubclass(value, BaseException):
        with pytest.raises(TypeError, match="keyword"):
            value("text", texx=1)
        return
    assert name in CALLS, (
        f"{name} takes keywords of any name: say in CALLS how to call it, so that it is tried"
    )
    call, more = CALLS[name]
    names = [one for one in (*names_of(value), *more) if one not in ("self", "cls")]
    for one in names:
        wrong = misspelt(one, names)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                call(**{wrong: None})
            except (TypeError, ValueError, KeyError) as error:
                text = str(error)
                if "takes no keyword arguments" in text:
                    continue
                assert wrong in text, f"{name}({wrong}=...) is refused without its name: {text}"
                continue
        assert any(wrong in str(warning.message) for warning in told), (
            f"{name}({wrong}=...) is accepted without a word"
        )


def test_exceptions_of_the_walk_are_still_there():
    assert set(NOT_CALLED) | set(CALLS) <= set(PUBLIC)


def test_misspelt_options_of_the_command_line_are_refused():
    app = importlib.import_module("graphformer.cli.app")
    group = importlib.import_module("typer.main").get_command(app.app)
    assert {"train", "generate", "train-graphs", "predict", "inspect"} <= set(app.COMMANDS)
    for name in app.COMMANDS:
        command = group.get_command(None, name)
        options = [
            text
            for param in command.params
            for text in (*param.opts, *param.secondary_opts)
            if text.startswith("--")
        ]
        for text in options:
            wrong = misspelt(text, options)
            with pytest.raises(Exception, match=re.escape(wrong)) as error:
                command.make_context(name, [wrong, "3"])
            assert error.value.exit_code == 2


# ---------------------------------------------------------------------- numbers

# A valid call of each public constructor that takes numbers.
XGPT = xgpt.Settings(
    use_GNN_from_attention="CG_Attention", num_latents_list=(3,), max_position_embeddings=8
)
BASES = {
    "SparseGINModel.set_adapter": {"self": None, "adapter_name": "default"},
    "ConcreteMask": {},
    "SparseAutoencoder": {"dim": 3, "features": 5},
    "InitialResidual": {"strength": 0.1},
    "Chain": {"k": 2},
    "Repeats": {"n": 2},
    "EdgeTypes": {"num_types": 3},
    "RelationMessages": {"relations": [gf.Chain(2)], "num_heads": 2, "dim": 3},
    "CoarseAttention": {"settings": XGPT, "hidden_size": 8, "num_heads": 2},
    "InterpolatedAttention": {"settings": XGPT, "hidden_size": 8, "num_heads": 2},
    "Threshold": {"tau": 0.1},
    "TopK": {"k": 2},
    "TopFraction": {"fraction": 0.5},
    "Differential": {},
    "NormalizeWeights": {"num_heads": 2},
    "Reweigh": {"curve": "sigmoid"},
    "ScaledDotProduct": {},
    "Sigmoid": {},
    "Window": {"size": 3},
    "AttentionConv": {
        "operator": lambda heads, width: gf.nn.SumOperator(),
        "in_channels": 4,
        "out_channels": 6,
        "heads": 2,
        "edge_dim": None,
    },
    "DifferentialScoring": {"hidden_size": 12, "kv_size": 12, "layer_idx": 0},
    "GINAttention": LAYER,
    "PNAAttention": LAYER,
    "SumAttention": LAYER,
    "GraphAttention": {
        "operator": gf.nn.SumOperator(),
        **LAYER,
        **SHELL,
    },
    "GINAttentionConv": {"in_channels": 4, "out_channels": 6},
    "PNAAttentionConv": {"in_channels": 4, "out_channels": 6},
    "SumAttentionConv": {"in_channels": 4, "out_channels": 6},
    "GINOperator": {"num_heads": 2, "dim": 4, "mlp_ratio": 1.0},
    "PNAOperator": {"num_heads": 2, "dim": 4, "mlp_ratio": 1.0},
    "GatedMLP": {"hidden_size": 4, "intermediate_size": 6},
    "HeadMLP": {"num_heads": 2, "in_features": 3, "hidden_features": 5, "out_features": 7},
    "PairwiseScoring": {"hidden_size": 12, "num_heads": 3, "width": 4},
    "SparseGIN": {"hidden_size": 12},
    "Target": {},
    "GraphformerConfig": SMALL,
    "GraphTransformer": {"node_dim": 3, "hidden_size": 8, "num_heads": 2, "num_layers": 1},
    "NodeBudgetSampler": {"sizes": [3, 4], "max_nodes": 5},
    "TextDataset": {"tokens": torch.arange(20), "context_length": 4},
    "LambdaRecorder": {},
}
# Numbers that can be meant: (constructor, argument) to the values that are taken, with the reason.
MEANT = {
    ("ConcreteMask", "start"): {-1},  # a mask that begins as cut
    ("InitialResidual", "strength"): {-1},  # not bounded, as it is trained
    ("Differential", "amount"): {-1},  # a sum of two maps
    ("Differential", "scale"): {-1},  # the farthest first
    ("Differential", "sharpening"): {-1},
    ("ScaledDotProduct", "scale"): {-1},
    ("ScaledDotProduct", "sharpening"): {-1},
    ("Sigmoid", "bias"): {-1},  # fewer edges
    ("Reweigh", "tau"): {-1},  # of the curve, which is smooth
    ("Reweigh", "beta"): {-1},  # a falling curve
    ("Reweigh", "scale"): {-1},
    ("GINOperator", "eps"): {-1},  # GIN's epsilon: without the node itself
    ("GINAttention", "eps"): {-1},
    **{
        (name, "self_weight"): {-1}
        for name in ("GINOperator", "GINAttention", "SparseGIN", "SparseGINConfig")
    },
    **{(f"{kind}AttentionConv", "self_weight"): {-1} for kind in ("GIN", "PNA", "Sum")},
    # lazy
    **{
        (name, "edge_dim"): {-1}
        for name in ("AttentionConv", "GINAttentionConv", "PNAAttentionConv", "SumAttentionConv")
    },
    ("AttentionConv", "fill_value"): {-1},  # features of self-loops
    ("SparseGINConfig", "scale_start"): {-1},  # a scale may have a sign
    ("SparseGINConfig", "scale_end"): {-1},
    ("SparseGINConfig", "layers_to_transform"): {-1, math.nan, math.inf},  # PEFT's own argument
}
STEP = {"Reweigh": {"curve": "silu_plus_binary"}}  # the one that reads scale

# Constructors with numbers that are no arguments of a user, or that are tried elsewhere.
NO_BASE = {
    # Results, and inner values.
    *(
        "AttentionGraph",
        "PredictionTable",
        "Pairs",
        "Block",
        "Listed",
        "EdgeMessages",
        "EdgeList",
        "Evaluation",
        "GraphTrainingResult",
        "TrainingResult",
    ),
    *("Scaling", "Explanation"),
    # Tried below.
    *("GraphTrainer",),
    # Their own tests try their numbers.
    "Pruner",
    "SparseGINConfig",
    # Data sets and files: their own tests try their numbers.
    *(
        "MechanicalMNIST",
        "Microstructures",
        "PolycrystalDataset",
        "ProteinSecondaryStructure",
        "ProteinStructures",
        "Crystal",
        "CrystalStructures",
        "IonicCrystals",
    ),
    *("CopolymerGraphs", "PolymerGraphs", "BREC", "GSM8K", "GraphDataset", "RawFile"),
    # Settings of the reference, read as they were written.
    *("LearnedMerge", "ScaledTopK", "Settings"),
}


def numeric(value):
    """The arguments of a constructor that take numbers."""
    found = signature(value)
    # the others are transformers'
    own = value.__annotations__ if value is gf.GraphformerConfig else None
    named = (
        [one for one in found.parameters.values() if own is None or one.name in own]
        if found
        else []
    )
    return [
        one.name
        for one in named
        if re.search(r"\b(int|float)\b", re.sub(r"\w+\[[^]]*\]", "", str(one.annotation)))
    ]


WITH_NUMBERS = sorted(
    name
    for name, value in PUBLIC.items()
    if inspect.isclass(value) and numeric(value) and name not in NO_BASE
)


@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_a_number_that_cannot_be_meant_is_refused_by_name(name):
    assert name in BASES, (
        f"{name} takes numbers: give a valid call of it in BASES, so that they are tried"
    )
    make, base = PUBLIC[name], BASES[name]
    make(**base)
    for one in numeric(make):
        for value in (math.nan, math.inf, -1):
            if one.startswith("_") or one == "operator":
                continue
            changed = {
                **base,
                **{"fill_value": {"add_self_loops": True}, "scale": STEP.get(name, {})}.get(
                    one, {}
                ),
                one: value,
            }
            if value in MEANT.get((name, one), ()):
                make(**changed)
                continue
            try:
                make(**changed)
            except (ValueError, TypeError) as error:
                named = (one, f"score_{one}", one.replace("_", " "))
                assert any(text in str(error) for text in named), f"{name}({one}={value}): {error}"
            except Exception as error:
                assert "StrictDataclass" in type(error).__name__ and one in str(error), (
                    f"{name}({one}={value}): {error}"
                )
            else:
                pytest.fail(f"{name}({one}={value}) is accepted")


def test_numbers_of_training_are_refused_by_name(tmp_path):
    net = gf.GraphTransformer(5, hidden_size=8, num_heads=2, num_layers=1)
    assert isinstance(net, GraphNetwork)
    train = [Data(x=torch.randn(3, 5), y=torch.randn(1)) for _ in range(3)]
    for one in numeric(gf.training.GraphTrainer):
        for value in (math.nan, math.inf, -1):
            with pytest.raises((ValueError, TypeError), match=one):
                gf.training.GraphTrainer(
                    net, train, train, tmp_path / "run", **{"epochs": 1, one: value}
                )
    model, text = gf.GraphformerForCausalLM(config()), gf.datasets.TextDataset(torch.arange(16), 4)
    for one in numeric(gf.training.train_language_model):
        for value in (math.nan, math.inf, -1):
            changed = (value, value) if one == "betas" else value
            with pytest.raises((ValueError, TypeError), match=one):
                gf.training.train_language_model(
                    model,
                    text,
                    text,
                    tmp_path / "run",
                    **{"steps": 20, "batch_size": 1, one: changed},
                )
    assert not (tmp_path / "run").exists()


NODES, ENDS = torch.ones(3, 4), torch.tensor([[0, 1], [1, 0]])


def conv():
    return gf.nn.GINAttentionConv(4, 6)


def polymers(**options):
    return gf.datasets.PolymerGraphs(None, **options)


def polycrystals(**options):
    return gf.datasets.PolycrystalDataset(None, 1, 5, **options)


def images(**options):
    return gf.datasets.Microstructures([], **options)


def grains(**options):
    return gf.datasets.grain_graph(np.array([[1, 2], [1, 2]]), **options)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda q, **o: gf.attention_graph(q, q, scale=math.nan),
            "scale must be a finite number, got nan",
        ),
        (
            lambda q, **o: gf.attention_graph(q, q, sharpening=math.inf),
            "sharpening must be a finite number, got inf",
        ),
        (
            lambda q, **o: gf.attention_graph(q, q, score=gf.attention.Differential(), scale=0.5),
            "scale and sharpening belong to the dot",
        ),
        (
            lambda q, **o: gf.attention_graph(q, q, executor="edges"),
            "executor='edges' does not fit these candidates",
        ),
        (
            lambda q, **o: gf.attention.attend(q, q, q, dropout=math.nan),
            "dropout must be a finite number",
        ),
        (
            lambda q, **o: gf.attention.attend(q, q, q, executor="flash", backend="pyg"),
            "executor='flash' builds no edges",
        ),
        (
            lambda q, **o: gf.attention.merged_graph(q, q, sparsify=gf.TopK(1), clamp=math.nan),
            "clamp must be a finite number above 0",
        ),
        (
            lambda q, **o: gf.attention_graph(q, q).merge_heads(clamp=math.nan),
            "clamp must be a finite number, got nan",
        ),
        (
            lambda q, **o: gf.nn.GINAttention(12, 3, executor="flash", backend="pyg"),
            "executor='flash' builds no edges, and backend='pyg'",
        ),
        (
            lambda q, **o: gf.nn.GINAttention(12, 3, score="pairwise", sharpening=2.0),
            "sharpening=2.0 is a factor of the scores, and score='pairwise' has a scale of its own",
        ),
        (
            lambda q, **o: gf.attention.Reweigh("relu", beta=3.0),
            "beta=3.0 is not read by the curve 'relu'",
        ),
        (
            lambda q, **o: gf.attention.Reweigh("silu", straight_through=False),
            "straight_through=False is not read by the curve 'silu'",
        ),
        (
            lambda q, **o: gf.attention.Reweigh(F.relu, trainable=True),
            "trainable=True is not read by a curve that is a function",
        ),
        (lambda q, **o: gf.Threshold(-0.5), "tau must be at least 0, got -0.5; give sparsify=None"),
        (
            lambda q, **o: gf.nn.GINAttentionConv(4, 6, fill_value=1.0),
            "fill_value=1.0 is the features of self-loops",
        ),
        (
            lambda q, **o: gf.models.Target("graph", 2, "classification", "mae"),
            "loss='mae' is of regressions",
        ),
        (
            lambda q, **o: gf.GraphTransformer(3, target={"a": {}}, out_dim=2),
            "out_dim=2, .* describe one target",
        ),
        (
            lambda q, **o: gf.GraphTransformer(3, level_candidates="all"),
            "level_candidates='all' is for coarse levels",
        ),
        (
            lambda q, **o: gf.GraphTransformer(3, merge="learned", refine=False),
            "merge='learned' is never read",
        ),
        (
            lambda q, **o: gf.testing.check_causal(module(), hidden(), num_positions=0),
            "num_positions must be at least 1, got 0",
        ),
        (
            lambda q, **o: polymers(property="Egb", file=__file__),
            "property='Egb' is not read beside file",
        ),
        (
            lambda q, **o: polymers(raw="folder", file=__file__),
            "raw='folder' is not read beside file",
        ),
        (lambda q, **o: polymers(text="psmiles"), "text='psmiles' is not read without file"),
        (
            lambda q, **o: polymers(targets=("gap",)),
            "is not read without file: it is a column of one's own",
        ),
        (
            lambda q, **o: polycrystals(contrast=3.0),
            "contrast=3.0 is for law='two-phase', and law='lognormal' does not read it",
        ),
        (lambda q, **o: polycrystals(fraction=0.3), "fraction=0.3 is for law='two-phase'"),
        (
            lambda q, **o: polycrystals(law="two-phase", sigma=0.5),
            "sigma=0.5 is for law='lognormal'",
        ),
        (lambda q, **o: polycrystals(workers=-1), "workers must be at least 0, got -1"),
        (lambda q, **o: images(phases=(0, 3)), "phases=\\(0, 3\\) is for kind='phases'"),
        (
            lambda q, **o: images(missing=True),
            "missing=True lets targets lack, and there are no targets",
        ),
        (lambda q, **o: images(relative="no"), "relative must be True or False, got 'no'"),
        (
            lambda q, **o: grains(spacing=(1.0, 2.0, 3.0)),
            "spacing must be one number or 2, one an axis, got",
        ),
        (lambda q, **o: grains(periodic="no"), "periodic must be True or False, got 'no'"),
        (
            lambda q, **o: conv()((NODES, NODES[:2]), ENDS, batch=torch.zeros(3, dtype=torch.long)),
            "3 nodes send to 2 others: leave it out",
        ),
        (
            lambda q, **o: gf.GraphTransformer(4)(Data(x=NODES, edge_index=ENDS), mask="all"),
            "the data hold none \\(data.y\\): leave it out",
        ),
        (
            lambda q, **o: gf.GraphTransformer(4)(
                Data(x=NODES, edge_index=ENDS, ptr=torch.tensor([0, 2, 3]))
            ),
            "data.ptr tells of 2 graphs",
        ),
    ],
)
def test_arguments_that_have_no_effect_or_no_meaning_are_refused(call, text):
    with pytest.raises((ValueError, TypeError), match=text):
        call(torch.randn(1, 2, 3, 4))


def test_a_negative_threshold_can_be_meant():
    q = torch.randn(1, 2, 3, 4)
    graph = gf.attention_graph(q, q, normalize="identity", sparsify=gf.Threshold(-0.1, signed=True))
    weights = gf.attention_graph(q, q, normalize="identity").weight
    assert graph.num_edges == int((weights > -0.1).sum())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["generate", "m", "a", "--greedy", "--temperature", "0.5"],
            "--temperature has no effect with --greedy",
        ),
        (["generate", "m", "a", "--greedy", "--top-k", "3"], "--top-k has no effect with --greedy"),
        (
            ["generate", "m", "a", "--num-beams", "2", "--top-p", "0.5"],
            "--top-p has no effect with --num-beams 2",
        ),
        (["generate", "m", "a", "--greedy", "--seed", "0"], "--seed has no effect with --greedy"),
        (
            ["generate", "m", "a", "--greedy", "--num-beams", "2"],
            "--greedy and --num-beams 2 are two ways to search",
        ),
        (
            ["generate", "m", "a", "--temperature", "inf"],
            "--temperature must be a finite number above 0, got inf",
        ),
        (
            ["train", "--output", "o", "--embedded", "--operator", "sum", "--mlp-ratio", "0.5"],
            "--mlp-ratio has no effect",
        ),
        (
            ["train", "--output", "o", "--embedded", "--learning-rate", "inf"],
            "--learning-rate must be a finite number",
        ),
        (
            [
                "train-graphs",
                "--output",
                "o",
                "--dataset",
                "polycrystal",
                "--law",
                "lognormal",
                "--contrast",
                "100",
            ],
            "--contrast has no effect with --law lognormal",
        ),
        (
            [
                "train-graphs",
                "--output",
                "o",
                "--dataset",
                "polycrystal",
                "--smiles-column",
                "smiles",
            ],
            "--smiles-column is for polymers",
        ),
    ],
)
def test_options_without_effect_are_refused(arguments, text, tmp_path, monkeypatch, capsys):
    """Also where the value is the option's default: given, it is meant to do something."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("graphformer.cli").main(arguments)
    told = capsys.readouterr().err
    assert (
        ended.value.code == 2
        and told.startswith("error: ")
        and text in told
        and told.count("\n") == 1
    )
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- flags

# Flags that others hand over, not a user.
HANDED_OVER = {
    "GraphTrainer.compute_loss": "transformers' Trainer",
    "SparseGINLayer.merge": "PEFT",
    "SparseGINModel.merge_adapter": "PEFT",
    "SparseGINModel": "PEFT",
    **{
        name: "the layer, with its own mode"
        for name in PUBLIC
        if name.endswith((".of_call", ".counted"))
    },
}
FLAGS = [
    (name, one.name)
    for name, value in PUBLIC.items()
    if name not in HANDED_OVER and signature(value)
    for one in signature(value).parameters.values()
    if str(one.annotation).replace("<class 'bool'>", "bool") in ("bool", "bool | None")
]
FLAGS += [
    (name, one)
    for name in CALLS
    for kind in (ConvOptions, Options)
    for one, annotation in kind.__annotations__.items()
    if one in CALLS[name][1] and len(CALLS[name][1]) > 2
    if "bool" in str(annotation) and "float" not in str(annotation)
]


@pytest.mark.parametrize(("name", "flag"), sorted(set(FLAGS)))
def test_a_text_is_no_flag(name, flag):
    value = CALLS[name][0] if name in CALLS else PUBLIC[name]
    given = {flag: "no"} if name in CALLS else {**BASES.get(name, {}), flag: "no"}
    kinds = (TypeError, ValueError, StrictDataclassFieldValidationError)
    with pytest.raises(kinds, match=rf"(?s){flag}\b.*('no'|got str)"):
        value(**given)


def test_flags_are_found_by_place_and_by_name():
    @strict_flags
    def some(x, flag: bool, other: "bool | None" = None, *more, third: bool = True):
        return flag, other, third

    assert some(1, True) == (True, None, True)
    assert some(1, True, None, "more", "no") == (True, None, True)
    assert some(1, False, None, third=False) == (False, None, False)
    for args, given, name in (
        ((1, "no"), {}, "flag"),
        ((1, None), {}, "flag"),
        ((1, True, 0), {}, "other"),
        ((1, True), {"third": 1}, "third"),
    ):
        with pytest.raises(TypeError, match=f"{name} must be True or False"):
            some(*args, **given)
    with pytest.raises(TypeError, match="has no flag"):
        strict_flags(lambda x: x)
