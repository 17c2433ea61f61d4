"""What ``import graphformer`` takes, what it leaves alone, and what it makes known to
transformers.
"""

import os
import subprocess
import sys

import pytest

import graphformer

OPTIONAL = ("dgl", "rdkit", "biotite", "skimage", "matplotlib", "typer", "torchmetrics")
# Others take these for reasons of their own: transformers' Trainer takes accelerate and peft,
# torch.compile takes networkx, PyG its companions where they are installed.
ALSO_OPTIONAL = ("peft", "accelerate", "tensorboard", "networkx", "torch_sparse", "torch_scatter")


def test_import_takes_no_heavy_package_and_prints_nothing():
    heavy = (*OPTIONAL, *ALSO_OPTIONAL, "transformers", "torch_geometric", "scipy")
    code = (
        f"import sys, graphformer; print([name for name in {heavy} if name in sys.modules], "
        "'adapters' in dir(graphformer))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[] True"


def test_the_whole_public_face_takes_no_optional_package(interpreter):
    """Layers need PyG and models need transformers; nothing needs an extra until it is used."""
    code = f"""
import sys
from graphformer import *
assert attention_graph.__module__ == "graphformer.attention.build"
assert nn.__name__ == "graphformer.nn"
print([name for name in {OPTIONAL} if name in sys.modules])
"""
    assert interpreter(code) == "[]"


def test_language_models_do_without_pyg(interpreter):
    code = """
import sys, graphformer
from graphformer.nn import GINAttention
model, explain = graphformer.GraphformerForCausalLM, graphformer.explain
print(model.__name__, explain.__name__, "torch_geometric" in sys.modules)
"""
    assert interpreter(code) == "GraphformerForCausalLM explain False"


def test_all_names_resolve():
    for name in graphformer.__all__:
        assert getattr(graphformer, name) is not None
    assert sorted(graphformer.__all__) == list(graphformer.__all__)
    assert set(graphformer.__all__) <= set(dir(graphformer))


@pytest.mark.parametrize(
    "module",
    ["attention", "backends", "datasets", "inspect", "models", "nn", "testing", "training"],
)
def test_all_names_of_modules_resolve(module: str):
    namespace = getattr(graphformer, module)
    assert namespace.__all__
    for name in namespace.__all__:
        assert getattr(namespace, name) is not None


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'graphformer' has no attribute 'GraphFormer'"):
        _ = graphformer.GraphFormer


@pytest.mark.parametrize(
    "imports",
    [
        "import graphformer; from transformers import AutoModelForCausalLM, AutoConfig",
        "from transformers import AutoModelForCausalLM, AutoConfig; import graphformer",
        "import transformers; import graphformer; from transformers import AutoModelForCausalLM, "
        "AutoConfig",
    ],
)
def test_auto_classes_know_the_model_in_any_order(imports: str, interpreter):
    code = f"""
import sys
{imports}
ours = [finder for finder in sys.meta_path if type(finder).__module__ == "graphformer._auto"]
hooks = [finder.module for finder in ours]
assert hooks in ([], ["peft"]), "the import hook must go once it has run"
sizes = dict(vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
sizes.update(num_attention_heads=2, num_key_value_heads=2)
print(type(AutoModelForCausalLM.from_config(AutoConfig.for_model("graphformer", **sizes))).__name__)
"""
    assert interpreter(code) == "GraphformerForCausalLM"


def test_auto_config_alone_knows_the_model(interpreter):
    code = (
        "import graphformer; from transformers import AutoConfig; "
        "print(type(AutoConfig.for_model('graphformer')).__name__)"
    )
    assert interpreter(code) == "GraphformerConfig"
