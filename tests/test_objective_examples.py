"""The examples of objectives and of pointers, in a small form."""

import re
import runpy

import numpy as np
import pytest
import torch

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("task", ["sort", "hull"])
def test_pointers(run_example, task):
    out = run_example("pointers", "--task", task, "--quick")
    losses = [float(one) for one in re.findall(r"loss (\d+\.\d+)", out)]
    assert losses[-1] < losses[0]
    rows = re.findall(r"^ +(\d+) elements +(\d\.\d+) +(\d\.\d+)", out, re.MULTILINE)
    assert [row[0] for row in rows] == ["8", "12"]
    assert all(0 <= float(row[2]) <= float(row[1]) <= 1 for row in rows)


def test_what_sets_point_to():
    """Following the pointers is the sorted list, and the polygon against the clock."""
    made = runpy.run_path(str(ROOT / "examples/pointers.py"))
    random = np.random.default_rng(0)
    data = made["a_list"](random, 7)
    values, at, seen = data.x[:, 0], int(data.x.argmin()), []
    while not seen or at != seen[-1]:
        seen.append(at)
        at = int(data.next[at])
    assert seen == values.argsort().tolist()
    data = made["a_hull"](random, 9)
    corners = (data.next != torch.arange(9)).nonzero().flatten().tolist()
    for i in corners:
        a, b = data.x[i], data.x[int(data.next[i])]
        way, others = b - a, data.x - a
        assert bool((way[0] * others[:, 1] - way[1] * others[:, 0] >= -1e-6).all())
    # the edges that are chosen are those from the element that is pointed to
    senders, receivers = data.edge_index[:, data.chosen]
    assert receivers.tolist() == list(range(9)) and senders.tolist() == data.next.tolist()


def test_clusters_of_citations(run_example, data_dir):
    folder = data_dir / "planetoid" / "cora"
    if not folder.is_dir():
        pytest.skip("Planetoid's files are not here")
    out = run_example("cluster_citations", "--data", folder, "--quick")
    assert "2708 papers, 7 classes, 10556 citations (both ways)" in out
    rows = dict(re.findall(r"^  (\S.*?\S) {2,}(\d\.\d+) ±", out, re.MULTILINE))
    assert next(iter(rows)) == "words" and list(rows)[-1] == "after refinement"
    assert float(rows["words, averaged twice"]) > float(rows["words"])
    with pytest.raises(SystemExit, match="--data nowhere is no folder"):
        run_example("cluster_citations", "--data", "nowhere")


def test_distillation_into_echoes(run_example, data_dir):
    file = data_dir / "tinyshakespeare" / "input.txt"
    if not file.is_file():
        pytest.skip("tinyshakespeare is not here")
    out = run_example("distil_echo", "--text", file, "--quick")
    rows = re.findall(r"^  (\S.*?\S) {2,}(\d\.\d+) +(\d\.\d+)$", out, re.MULTILINE)
    assert [row[0] for row in rows] == ["before training", "text alone", "text and graphs"]
    assert float(rows[2][2]) <= float(rows[1][2])
    with pytest.raises(SystemExit, match=r"--text none\.txt is no file"):
        run_example("distil_echo", "--text", "none.txt")
