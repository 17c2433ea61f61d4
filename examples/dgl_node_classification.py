"""A stock DGL script (a two-layer GCN for semi-supervised node classification) with one line
changed: the layer.

The data are made here: a stochastic block model, whose node features say little about the class and
whose edges say much.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("DGLBACKEND", "pytorch")

import dgl
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

# the changed line; it was: from dgl.nn import GraphConv as Conv
from graphformer.nn import GINAttentionConv as Conv


def make_graph(nodes_per_class: int = 60, classes: int = 5, channels: int = 16) -> dgl.DGLGraph:
    """Dense within a class, sparse between classes; features are noise with a faint trace of the
    class.
    """
    label = torch.arange(classes).repeat_interleave(nodes_per_class)
    probability = torch.where(label.unsqueeze(0) == label.unsqueeze(1), 0.1, 0.01)
    src, dst = torch.bernoulli(probability).triu(1).nonzero().unbind(1)
    g = dgl.to_bidirected(dgl.graph((src, dst), num_nodes=len(label)))
    g.ndata["feat"] = torch.randn(len(label), channels) + 0.7 * F.one_hot(label, channels)
    g.ndata["label"] = label
    order = torch.randperm(len(label))
    g.ndata["train_mask"] = torch.zeros(len(label), dtype=torch.bool).index_fill(
        0, order[: len(label) // 4], True
    )
    return g


class Net(nn.Module):
    def __init__(self, in_size: int, hid_size: int, out_size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Conv(in_size, hid_size), Conv(hid_size, out_size)])
        self.dropout = nn.Dropout(0.2)

    def forward(self, g: dgl.DGLGraph, features: Tensor) -> Tensor:
        h = F.relu(self.layers[0](g, self.dropout(features)))
        return self.layers[1](g, self.dropout(h))


@torch.no_grad()
def evaluate(g: dgl.DGLGraph, model: Net) -> float:
    model.eval()
    prediction = model(g, g.ndata["feat"]).argmax(dim=1)
    return float((prediction == g.ndata["label"])[~g.ndata["train_mask"]].float().mean())


def main(epochs: int = 100, seed: int = 0) -> tuple[float, float]:
    """Accuracy on held-out nodes, and that of always saying the most frequent class."""
    torch.manual_seed(seed)
    g = make_graph()
    features, label, mask = g.ndata["feat"], g.ndata["label"], g.ndata["train_mask"]
    model = Net(features.shape[1], 32, int(label.max()) + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)
    for epoch in range(1, epochs + 1):
        model.train()
        loss = F.cross_entropy(model(g, features)[mask], label[mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if epoch % 20 == 0:
            print(
                f"epoch {epoch:3d}, loss {loss.item():.3f}, test accuracy {evaluate(g, model):.3f}"
            )
    majority = float((label[~mask] == label[mask].mode().values).float().mean())
    return evaluate(g, model), majority


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    accuracy, majority = main(parser.parse_args().epochs)
    print(f"test accuracy {accuracy:.3f}; the most frequent class alone gives {majority:.3f}")
