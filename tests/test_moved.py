"""What was saved, pickled or written before modules moved still finds them."""

import importlib
import pickle
import sys

import pytest
import torch

import graphformer as gf
from graphformer._moved import MOVED, former_name
from graphformer.datasets.store.fingerprint import describe


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_is_the_module_at_its_new_place(old: str):
    sys.modules.pop(old, None)
    new = importlib.import_module(MOVED[old])
    spec = new.__spec__
    assert importlib.import_module(old) is new
    assert new.__name__ == MOVED[old] and new.__spec__ is spec
    assert former_name(MOVED[old]) == old


@pytest.mark.parametrize(
    "name",
    [
        "graphformer.graph AttentionGraph",
        "graphformer.models.configuration GraphformerConfig",
        "graphformer.models.graph GraphTransformer",
        "graphformer.models.language GraphformerDecoderLayer",
        "graphformer.models.language GraphformerForCausalLM",
        "graphformer.training.graphs GraphTrainingResult",
        "graphformer.training.graph_model GraphModel",
        "graphformer.training.language TrainingResult",
        "graphformer.datasets.text TextDataset",
        "graphformer.datasets.voronoi Recipe",
    ],
)
def test_pickles_from_before_name_classes_that_are_there(name: str):
    module, own = name.split()
    found = pickle.loads(f"c{module}\n{own}\n.".encode())
    assert found.__name__ == own


def test_a_graph_is_pickled_by_its_public_name(tmp_path):
    graph = gf.AttentionGraph.from_dense(torch.rand(2, 3, 5))
    assert b"graphformer.graph\n" in pickle.dumps(graph, protocol=0)
    torch.save(graph, tmp_path / "graph.pt")
    assert torch.equal(torch.load(tmp_path / "graph.pt").weight, graph.weight)


def test_settings_of_caches_name_modules_as_before():
    """The path of a module is no setting: a cache from before is the same cache."""
    from graphformer.datasets.microstructures.voronoi import make_polycrystal

    assert describe(make_polycrystal)["function"][0] == "graphformer.datasets.voronoi"
    assert describe(gf.datasets.PolymerGraphs)["class"][0] == "graphformer.datasets.polymer"
    assert describe(gf.nn.AddStructure)["class"][0] == "graphformer.nn.transforms"
