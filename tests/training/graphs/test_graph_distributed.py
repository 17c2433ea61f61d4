"""GraphTrainer in two processes: every graph once an epoch between them, one set of weights, exact
resume.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from graphformer.training import load_graph_model
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

EPOCHS, GRAPHS = 4, 16

# 16 graphs of 5 nodes and at most 20 nodes a batch: 4 batches an epoch, 2 steps in each of two
# processes.
SCRIPT = f"""
import json, shutil, sys
from pathlib import Path
import torch
from torch_geometric.data import Data
import graphformer as gf
from graphformer.training import GraphTrainer

torch.set_num_threads(1)
ring, draw = torch.arange(5), torch.Generator().manual_seed(3)
edges = torch.stack((ring, (ring + 1) % 5))
graphs = []
for number in range({GRAPHS} + 4):
    x = torch.randn(5, 3, generator=draw)
    label, number = x.sum().reshape(1, 1), torch.tensor([number])
    graphs.append(Data(x=x, edge_index=edges, y=label, number=number))

class Watched(GraphTrainer):
    used = []

    def compute_loss(self, model, inputs, *args, **kwargs):
        if model.training:
            self.used.append(inputs["data"].number.tolist())
        return super().compute_loss(model, inputs, *args, **kwargs)

def train(folder, resume):
    torch.manual_seed(0)
    net = gf.GraphTransformer(3, hidden_size=8, num_layers=2, num_heads=2, dropout=0.2)
    options = dict(epochs={EPOCHS}, max_nodes=20, learning_rate=5e-3, save_total_limit=None)
    Watched.used = []
    parts = graphs[:{GRAPHS}], graphs[{GRAPHS}:]
    result = Watched(net, *parts, folder, progress=False, **options).fit(resume)
    torch.save(net.state_dict(), folder.parent / f"{{folder.name}}-{{rank()}}.pt")
    told = dict(used=Watched.used, steps=result.steps)
    told |= dict(resumed=result.resumed_from, metrics=result.metrics)
    (folder.parent / f"{{folder.name}}-{{rank()}}.json").write_text(json.dumps(told))
    torch.distributed.barrier()

rank, folder = torch.distributed.get_rank, Path(sys.argv[1])
train(folder / "whole", False)
assert torch.distributed.get_world_size() == 2 and torch.distributed.get_backend() == "gloo"
if not rank():  # as it was when step 5 was killed
    shutil.copytree(folder / "whole", folder / "killed")
    for checkpoint in (folder / "killed").glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > 4:
            shutil.rmtree(checkpoint)
torch.distributed.barrier()
train(folder / "killed", True)
torch.distributed.destroy_process_group()
"""


def told(folder: Path) -> tuple[list[dict], list[dict]]:
    """Both processes' weights, and what each of them told."""
    places = [folder.parent / f"{folder.name}-{rank}" for rank in (0, 1)]
    return [torch.load(f"{place}.pt") for place in places], [
        json.loads(Path(f"{place}.json").read_text()) for place in places
    ]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_two_processes(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
        str(tmp_path),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    weights, runs = told(whole)
    assert (
        same(*weights)
        and runs[0]["metrics"] == runs[1]["metrics"]
        and runs[0]["steps"] == 2 * EPOCHS
    )
    assert same(load_graph_model(whole).net.state_dict(), weights[0])
    for first in range(0, 2 * EPOCHS, 2):  # an epoch
        shares = [
            list(itertools.chain.from_iterable(one["used"][first : first + 2])) for one in runs
        ]
        assert sorted(shares[0] + shares[1]) == list(range(GRAPHS)) and len(shares[0]) == len(
            shares[1]
        )
    assert runs[0]["used"][:2] != runs[0]["used"][2:4]  # and another order in the next

    assert {path.name for path in (killed / "checkpoint-4").glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    again, rest = told(killed)
    assert same(*again) and same(again[0], weights[0])
    # the kept weights may be those of an earlier epoch
    last = f"checkpoint-{2 * EPOCHS}/model.safetensors"
    assert (killed / last).read_bytes() == (whole / last).read_bytes()
    for before, after in zip(runs, rest, strict=True):
        assert (
            after["resumed"] == 4
            and after["used"] == before["used"][4:]
            and after["metrics"] == before["metrics"]
        )
