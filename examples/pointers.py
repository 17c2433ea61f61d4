"""Sorting and convex hulls by pointers: the edge distribution of a graph transformer is the output
(pointer networks, arXiv 1506.03134), trained on small sets and asked about larger ones.

    python examples/pointers.py --task sort
    python examples/pointers.py --task hull

Every element may point to every element. ``sort``: a number points to the next larger one, the
largest to itself. ``hull``: a corner of the convex hull points to the next corner against the
clock, a point inside to itself. All elements point at once; following the pointers gives the sorted
list, or the polygon. Trained on 5 to 12 elements; about a minute on one core.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.spatial import ConvexHull
from torch_geometric.data import Batch, Data

import graphformer as gf

SCALES = (1.0, 8.0, 64.0, 512.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=("sort", "hull"), default="sort")
    parser.add_argument("--steps", type=int, help="[600; hull: 800]")
    parser.add_argument("--batch", type=int, help="sets of a step [16; hull: 10]")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 12, 20, 40], help="to test on")
    parser.add_argument("--sets", type=int, default=200, help="sets of each size in the test")
    parser.add_argument("--quick", action="store_true", help="a few steps and sets")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.sets, options.sizes = 20, 5, [8, 12]
    steps, sets = {"sort": (600, 16), "hull": (800, 10)}[options.task]
    options.steps, options.batch = options.steps or steps, options.batch or sets
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    made = {"sort": a_list, "hull": a_hull}[options.task]
    sample = made(random, 5)
    net = gf.GraphTransformer(
        node_dim=sample.x.shape[1],
        edge_dim=sample.edge_attr.shape[1],
        hidden_size=32,
        num_layers=1 if options.task == "sort" else 3,
        num_heads=4,
        target="edge",
        operator="pna" if options.task == "hull" else "gin",  # a hull is a matter of extremes
        encodings=(),  # in a graph of all pairs a degree is the size of the set
        refine=False,
    )
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=options.steps)
    start = time.process_time()
    for step in range(options.steps):
        batch = Batch.from_data_list(
            [made(random, int(random.integers(5, 13))) for _ in range(options.batch)]
        )
        logits = net(batch).prediction.squeeze(-1)
        loss = gf.nn.pointer_loss(logits, batch.edge_index, batch.num_nodes, batch.chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        if step % max(options.steps // 6, 1) == 0:
            print(f"step {step:5}: loss {float(loss.detach()):.4f}")
    print(f"trained on 5 to 12 elements in {time.process_time() - start:.0f} s of one core")

    net.eval()
    print(f"\n{options.sets} new sets each     right pointers     wholly right sets")
    for size in options.sizes:
        pointers, whole = [], []
        for _ in range(options.sets):
            data = made(random, size)
            with torch.no_grad():
                logits = net(data).prediction.squeeze(-1)
            graph = gf.nn.pointer_graph(logits, data.edge_index, data.num_nodes)
            right = gf.nn.pointed(graph) == data.next
            pointers.append(float(right.float().mean()))
            whole.append(bool(right.all()))
        far = "" if size <= 12 else "  (larger than any in training)"
        print(f"  {size:3} elements {np.mean(pointers):17.3f} {np.mean(whole):18.3f}{far}")


def a_set(x: torch.Tensor, edge_attr: torch.Tensor, following: torch.Tensor) -> Data:
    """All pairs; ``next`` is the element that each one points to, and ``chosen`` that edge."""
    size = len(x)
    receivers, senders = torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size)
    loop = (senders == receivers).float()[:, None]
    return Data(
        x=x,
        edge_index=torch.stack((senders, receivers)),
        edge_attr=torch.cat((edge_attr.reshape(size * size, -1), loop), 1),
        next=following,
        chosen=senders == following[receivers],
    )


def a_list(random: np.random.Generator, size: int) -> Data:
    """Numbers, and how much larger each is than each other one, on several scales."""
    values = torch.from_numpy(random.random(size)).float()
    more = values[None] - values[:, None]  # [receiver, sender]
    order = values.argsort()
    following = torch.empty_like(order)
    following[order] = torch.cat((order[1:], order[-1:]))
    return a_set(values[:, None], torch.stack([(s * more).tanh() for s in SCALES], -1), following)


def a_hull(random: np.random.Generator, size: int) -> Data:
    """Points of a square, and from each the way to each other one: offset, distance, direction."""
    points = random.random((size, 2))
    corners = ConvexHull(points).vertices  # against the clock
    following = torch.arange(size)
    following[corners.tolist()] = torch.from_numpy(np.roll(corners, -1)).long()
    pos = torch.from_numpy(points).float()
    way = pos[None] - pos[:, None]
    far = way.norm(dim=-1, keepdim=True)
    return a_set(pos - pos.mean(0), torch.cat((way, far, way / far.clamp(min=1e-9)), -1), following)


if __name__ == "__main__":
    main()
