"""``graphformer doctor``: what is installed, what is missing and how to get it, and a self-test."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from functools import partial
from typing import Annotated

import graphformer as gf
from graphformer.cli.telling import say as tell
from graphformer.errors import require

typer = require("typer", extra="text", why="The command line")
say = partial(tell, result=True)

EXTRAS = {
    "adapters": ("peft", "accelerate"),
    "text": ("accelerate", "tensorboard", "filelock"),
    "graphs": ("accelerate", "torchmetrics", "filelock"),
    "viz": ("matplotlib", "networkx", "pandas", "igraph"),
    "protein": ("biotite",),
    "polymer": ("rdkit",),
    "crystals": ("gemmi",),
    "microstructure": ("scikit-image", "tifffile", "imagecodecs"),
    "dgl": ("dgl", "packaging"),
    "torch-sparse": ("torch-scatter", "torch-sparse"),
}
BASE = ("torch", "torch-geometric", "transformers", "scipy", "numpy", "tqdm")


def doctor(
    test: Annotated[
        bool, typer.Option("--test/--no-test", help="Run the self-test on every device.")
    ] = True,
) -> None:
    """Versions, backends, what is missing and how to install it, and a self-test of every backend,
    on the GPU too where there is one.
    """
    say(f"graphformer {gf.__version__}, Python {sys.version.split()[0]}, {platform.platform()}")
    for name in BASE:
        say(f"  {name} {_version(name) or 'MISSING: pip install graphformer'}")
    say("extras")
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if _version(name) is None]
        found = ", ".join(
            f"{name} {version}" for name in packages if (version := _version(name)) is not None
        )
        cure = f"; missing {', '.join(missing)}: pip install 'graphformer[{extra}]'"
        say(f"  {extra}: {found or 'none'}{cure if missing else ''}")
    import torch

    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for device in devices[1:]:
        say(f"{device}: {torch.cuda.get_device_name(device)}")
    if len(devices) == 1:
        built = torch.version.cuda
        say(
            "no GPU: "
            + (
                f"torch is built for CUDA {built} and finds no device"
                if built
                else "torch is a build for CPUs"
            )
        )
    say(f"backends: {', '.join(gf.backends.available())}")
    if test:
        failed = [f"{name} on {device}" for device in devices for name in self_test(device) if name]
        if failed:
            raise ValueError(f"the self-test failed: {'; '.join(failed)}")
        say("self-test: all executors and backends agree with the dense oracle")


def self_test(device: str) -> list[str]:
    """The executors and backends that do not agree with the dense oracle on one small problem."""
    import torch

    generator = torch.Generator().manual_seed(0)
    q, k, x = (torch.randn(2, 3, 37, 8, generator=generator).to(device) for _ in range(3))
    cut = gf.Threshold(0.05)
    dense = gf.attention_graph(q, k, sparsify=cut, is_causal=True, executor="dense").to_dense()
    wrong = []
    stream = gf.attention_graph(q, k, sparsify=cut, is_causal=True, executor="stream")
    if not torch.allclose(stream.to_dense(), dense, atol=1e-5):
        wrong.append("executor stream")
    want = dense @ x
    for name in gf.backends.available():
        try:
            got = gf.aggregate(stream, x, backend=name)
        except Exception as error:  # whatever another package's build may raise
            wrong.append(f"backend {name} ({type(error).__name__}: {error})")
            continue
        if not torch.allclose(got, want, atol=1e-4):
            wrong.append(f"backend {name}")
    return wrong


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
