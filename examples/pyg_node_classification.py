"""A stock PyG script (a two-layer GCN for semi-supervised node classification) with one line
changed: the layer.

The data are made here: a stochastic block model, whose node features say little about the class and
whose edges say much.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import stochastic_blockmodel_graph

# the changed line; it was: from torch_geometric.nn import GCNConv as Conv
from graphformer.nn import GINAttentionConv as Conv


def make_data(nodes_per_class: int = 60, classes: int = 5, channels: int = 16) -> Data:
    """Dense within a class, sparse between classes; features are noise with a faint trace of the
    class.
    """
    y = torch.arange(classes).repeat_interleave(nodes_per_class)
    within = torch.eye(classes, dtype=torch.bool)
    edge_index = stochastic_blockmodel_graph(
        [nodes_per_class] * classes, torch.where(within, 0.1, 0.01), directed=False
    )
    x = torch.randn(len(y), channels) + 0.7 * F.one_hot(y, channels)
    order = torch.randperm(len(y))
    train_mask = torch.zeros(len(y), dtype=torch.bool)
    train_mask[order[: len(y) // 4]] = True
    return Data(x=x, edge_index=edge_index, y=y, train_mask=train_mask, test_mask=~train_mask)


class Net(torch.nn.Module):
    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = Conv(in_channels, hidden_channels)
        self.conv2 = Conv(hidden_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.dropout(x, p=0.2, training=self.training)
        x = self.conv1(x, edge_index).relu()
        x = F.dropout(x, p=0.2, training=self.training)
        return self.conv2(x, edge_index)


def train(model: Net, optimizer: torch.optim.Optimizer, data: Data) -> float:
    model.train()
    optimizer.zero_grad()
    out = model(data.x, data.edge_index)
    loss = F.cross_entropy(out[data.train_mask], data.y[data.train_mask])
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def test(model: Net, data: Data) -> float:
    model.eval()
    prediction = model(data.x, data.edge_index).argmax(dim=-1)
    return float((prediction == data.y)[data.test_mask].float().mean())


def main(epochs: int = 100, seed: int = 0) -> tuple[float, float]:
    """Accuracy on held-out nodes, and that of always saying the most frequent class."""
    torch.manual_seed(seed)
    data = make_data()
    classes = int(data.y.max()) + 1
    model = Net(data.num_features, 32, classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    for epoch in range(1, epochs + 1):
        loss = train(model, optimizer, data)
        if epoch % 20 == 0:
            print(f"epoch {epoch:3d}, loss {loss:.3f}, test accuracy {test(model, data):.3f}")
    majority = float(
        (data.y[data.test_mask] == data.y[data.train_mask].mode().values).float().mean()
    )
    return test(model, data), majority


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    accuracy, majority = main(parser.parse_args().epochs)
    print(f"test accuracy {accuracy:.3f}; the most frequent class alone gives {majority:.3f}")
