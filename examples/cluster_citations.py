"""Papers of Cora into clusters without a label: contrast along citations, then clusters that
sharpen themselves (SCGC, arXiv 2204.12656).

    python examples/cluster_citations.py

The network is one linear map of a paper's words; citations are in the loss alone. Labels are used
to score: accuracy under the best matching of clusters and classes, and normalised mutual
information. Beside it stand k-means on the words, and on words that were averaged over neighbours
twice, which takes no training. Data: Planetoid's files where ``GRAPHFORMER_DATA`` points to, or
beside the repository. Two minutes on one core.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch_geometric.data import Data

import graphformer as gf
from graphformer.training import (
    cluster_refinement,
    cumulative_influence,
    edge_contrast,
    sharpened,
    soft_assignments,
)

DATA = Path(os.environ.get("GRAPHFORMER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA / "planetoid" / "cora")
    parser.add_argument("--hops", type=int, default=2, help="how far positives are")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60, help="of contrast")
    parser.add_argument("--refine", type=int, default=40, help="steps of refinement")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed and a few steps")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.refine, options.seeds, options.width = 5, 5, 1, 32
    torch.set_num_threads(1)
    data = read_cora(options.data)
    classes = int(data.y.max()) + 1
    senders, receivers = data.edge_index
    sizes = {"num_senders": data.num_nodes, "num_receivers": data.num_nodes}
    citations = gf.AttentionGraph.from_edges(senders, receivers, torch.ones(len(senders)), **sizes)
    positives = cumulative_influence(citations, options.hops)
    print(
        f"{data.num_nodes} papers, {classes} classes, {len(senders)} citations (both ways), "
        f"{positives.num_edges} positives within {options.hops} steps"
    )
    words = torch.nn.functional.normalize(data.x, dim=-1)
    mean = words
    for _ in range(2):
        mean = (mean + gf.aggregate(citations, mean, reduce="sum")) / (
            1 + torch.bincount(receivers, minlength=data.num_nodes)[:, None]
        )

    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        rows = {"words": k_means(words, classes, seed)[0]}
        rows["words, averaged twice"] = k_means(mean, classes, seed)[0]
        encoder = torch.nn.Linear(words.shape[1], options.width)
        rows["linear map, untrained"] = k_means(unit(encoder(words)), classes, seed)[0]
        optimizer = torch.optim.Adam(encoder.parameters(), 5e-3, weight_decay=1e-4)
        for _ in range(options.steps):
            loss = edge_contrast(encoder(words), positives, options.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rows["after contrast"], centres = k_means(unit(encoder(words)), classes, seed)
        centres = torch.nn.Parameter(centres)
        optimizer = torch.optim.Adam([*encoder.parameters(), centres], 1e-4)
        for step in range(options.refine):
            x = unit(encoder(words))
            q = soft_assignments(x, centres, 0.1)
            if step % 20 == 0:
                target = sharpened(q)
            loss = cluster_refinement(q, target)
            loss = loss + 0.1 * edge_contrast(x, positives, options.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rows["after refinement"] = soft_assignments(unit(encoder(words)), centres).argmax(1)
        for name, clusters in rows.items():
            found.setdefault(name, []).append(scores(clusters, data.y))
    print(f"\n{options.seeds} seeds                 accuracy              NMI")
    for name, values in found.items():
        mean_, spread = np.mean(values, 0), np.std(values, 0)
        told = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean_, spread, strict=True)]
        print(f"  {name:22} {told[0]:>15} {told[1]:>17}")


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def k_means(x: Tensor, clusters: int, seed: int, restarts: int = 3) -> tuple[Tensor, Tensor]:
    """Clusters ``[N]`` and centres of the best of several restarts."""
    points, best = x.detach().numpy(), None
    for restart in range(restarts):
        centres, label = kmeans2(points, clusters, minit="++", seed=100 * seed + restart)
        spread = ((points - centres[label]) ** 2).sum()
        if best is None or spread < best[0]:
            best = spread, label, centres
    assert best is not None
    return torch.from_numpy(best[1]).long(), torch.from_numpy(best[2]).to(x.dtype)


def scores(clusters: Tensor, y: Tensor) -> tuple[float, float]:
    """Accuracy under the best matching, and mutual information over the mean of entropies."""
    size = int(max(clusters.max(), y.max())) + 1
    table = torch.zeros(size, size).index_put((clusters, y), torch.ones(len(y)), accumulate=True)
    rows, columns = linear_sum_assignment(-table.numpy())
    share = table.double() / len(y)
    one, other = share.sum(1, keepdim=True), share.sum(0, keepdim=True)
    entropies = [float(-torch.xlogy(p, p).sum()) for p in (one, other)]
    mutual = float((torch.xlogy(share, share) - torch.xlogy(share, one * other)).sum())
    return float(table[rows, columns].sum()) / len(y), mutual / (sum(entropies) / 2)


def read_cora(folder: Path) -> Data:
    """Planetoid's files, as PyG reads them."""
    from torch_geometric.io import read_planetoid_data

    if not folder.is_dir():
        raise SystemExit(
            f"error: --data {folder} is no folder; name Planetoid's files of cora, or set "
            "GRAPHFORMER_DATA"
        )
    raw = next((one for one in (folder / "raw", folder) if list(one.glob("ind.cora.*"))), None)
    if raw is None:
        raise SystemExit(f"error: --data {folder} holds no ind.cora.* files")
    return read_planetoid_data(str(raw), "cora")


if __name__ == "__main__":
    main()
