"""``graphformer bench``: what graphs cost on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import graphformer as gf
from graphformer.cli.telling import say as tell
from graphformer.errors import require

if TYPE_CHECKING:
    import torch


typer = require("typer", extra="text", why="The command line")
say = partial(tell, result=True)


def bench(
    length: Annotated[int, typer.Option(min=2, help="Tokens of a sequence.")] = 1024,
    hidden_size: Annotated[int, typer.Option(min=8, help="Width of the layer.")] = 256,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads.")] = 4,
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 5,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ... [default: a GPU where there is one].")
    ] = None,
) -> None:
    """Forward and backward of layers of one width, relative to plain attention on torch's own
    kernel: median seconds of interleaved rounds.
    """
    import torch

    if hidden_size % heads:
        raise ValueError(f"--hidden-size {hidden_size} is not a multiple of --heads {heads}")
    name = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.ones(1, device=name).cumsum(0).cpu().device and torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"--device {name!r} cannot be used: {told}; cpu can") from None
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": hidden_size, "num_heads": heads}
    layers = {
        "plain attention": gf.nn.SumAttention(**sizes),
        "plain attention, cut at 0.05": gf.nn.SumAttention(**sizes, sparsify=gf.Threshold(0.05)),
        "GIN": gf.nn.GINAttention(**sizes),
        "GIN, cut at 0.05": gf.nn.GINAttention(**sizes, sparsify=gf.Threshold(0.05)),
        "PNA, cut at 0.05": gf.nn.PNAAttention(**sizes, sparsify=gf.Threshold(0.05)),
    }
    x = torch.randn(1, length, hidden_size, device=where, requires_grad=True)
    steps = {name: _step(layer.to(where), x) for name, layer in layers.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(repetitions + 1):  # the first round warms up
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            if i:
                times[name].append(time.perf_counter() - start)
    plain = statistics.median(times["plain attention"])
    say(
        f"{length:,} tokens, width {hidden_size}, {heads} heads, {where}, torch {torch.__version__}"
    )
    for name, found in times.items():
        median = statistics.median(found)
        say(f"  {name:30} {median * 1e3:9.2f} ms  {median / plain:6.2f} x plain")


def _step(layer: Any, x: torch.Tensor) -> Callable[[], None]:
    import torch

    with torch.no_grad():  # scores of a standard deviation of about 3, as trained heads have
        layer.q_proj.weight.mul_(10)

    def step() -> None:
        layer(x).square().mean().backward()

    return step
