"""Which heads do a task: those whose outputs, coded by a sparse autoencoder, are alike where the
task is done and not where it is not (arXiv 2405.12522).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.errors import number, require, whole
from graphformer.inspect.ablation import _gated

if TYPE_CHECKING:
    import pandas


class SparseAutoencoder(nn.Module):
    r"""``z = relu(W_e x + b_e)``, ``x' = W_d z + b_d``, trained on
    ``mean |x - x'|^2 + sparsity mean |z|_1``.

    The columns of ``W_d`` have length 1, so that codes cannot become small for free.

    Args:
        dim: channels of x. features: of z.

    Shape: ``[*, dim]`` to ``[*, features]`` (:meth:`encode`) and back.
    """

    def __init__(self, dim: int, features: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(whole("dim", dim), whole("features", features))
        self.decoder = nn.Linear(features, dim)
        with torch.no_grad():
            self.decoder.weight.copy_(F.normalize(self.encoder.weight.T, dim=0))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x).relu()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction, and the codes."""
        codes = self.encode(x)
        return codes @ F.normalize(self.decoder.weight, dim=0).T + self.decoder.bias, codes

    def fit(self, x: Tensor, *, sparsity: float, steps: int, lr: float) -> float:
        """Adam on all of ``x`` ``[n, dim]`` at once; the last loss.

        Raises:
            ValueError: a negative ``sparsity``, no step, or a rate that is not above 0.
        """
        number("sparsity", sparsity, least=0)
        number("lr", lr, above=0)
        whole("steps", steps)
        optimizer = torch.optim.Adam(self.parameters(), lr)
        last = 0.0
        for _ in range(steps):
            optimizer.zero_grad()
            again, codes = self(x)
            loss = (x - again).square().sum(-1).mean() + sparsity * codes.abs().sum(-1).mean()
            loss.backward()
            optimizer.step()
            last = loss.item()
        return last


def circuit(
    model: nn.Module,
    positive: Sequence[Tensor] | Tensor,
    negative: Sequence[Tensor] | Tensor,
    *,
    place: int = -1,
    features: int = 32,
    sparsity: float = 2.0,
    steps: int = 300,
    lr: float = 1e-2,
    seed: int = 0,
) -> pandas.DataFrame:
    r"""A row for each head: how alike the codes of its outputs are on a few examples of a task, and
    how often others have them.

    >>> table = gf.inspect.circuit(model, doing, not_doing)  # lists of token ids, 5 to 10 each
    >>> table[table.score > 0.5]

    One autoencoder is trained on the outputs of all heads at one token of each example, each head's
    centred and scaled to unit mean square. A code is the largest feature, -1 where all are 0. With
    ``c`` the code that most positive examples have,

    ===========  ==============================================================================
    ``overlap``  the share of positive examples whose code is ``c``
    ``others``   the share of negative examples whose code is ``c``
    ``score``    ``overlap - others``: 1 where ``c`` says which examples are positive
    ``unique``   the share of positive examples whose code no negative one has
    ===========  ==============================================================================

    Args:
        model: any transformer that :func:`graphformer.inspect.graphs` reads, or one of this
            library; called with ``input_ids``.
        positive, negative: token ids, each ``[N]``, of the lengths that they have.
        place: the token whose outputs are coded, the last one unless given.
        features, sparsity, steps, lr, seed: of the autoencoder.

    Raises:
        ValueError: fewer than two examples of a kind, or a place that an example has not.
        MissingExtra: no pandas.
    """
    pandas = require("pandas", extra="viz", why="a table of heads")
    number("sparsity", sparsity, least=0.0)
    number("lr", lr, above=0.0)
    whole("steps", steps)
    for name, given in (("positive", positive), ("negative", negative)):
        if len(given) < 2:
            raise ValueError(f"{name} holds {len(given)} examples: give at least two, best 5 to 10")
    names, outputs = head_outputs(model, [*positive, *negative], place)
    rows = codes_of(outputs, features=features, sparsity=sparsity, steps=steps, lr=lr, seed=seed)
    found = overlaps(rows[: len(positive)], rows[len(positive) :])
    heads = [{"layer": layer, "name": name, "head": head} for layer, name, head in names]
    return pandas.DataFrame(
        [
            {**one, **{key: float(value[i]) for key, value in found.items()}}
            for i, one in enumerate(heads)
        ]
    )


def codes_of(
    outputs: Tensor,
    *,
    features: int = 32,
    sparsity: float = 2.0,
    steps: int = 300,
    lr: float = 1e-2,
    seed: int = 0,
) -> Tensor:
    """The code of each output: int64 ``[n, heads]`` from ``[n, heads, dim]``, see
    :func:`circuit`.
    """
    x = outputs.detach().float()
    x = x - x.mean(0)
    x = x / x.square().mean((0, 2), keepdim=True).sqrt().clamp(min=1e-12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        coder = SparseAutoencoder(x.shape[-1], features)
    coder = coder.to(x.device)
    with torch.enable_grad():
        coder.fit(x.flatten(0, 1), sparsity=sparsity, steps=steps, lr=lr)
    with torch.no_grad():
        top = coder.encode(x).max(-1)
    return torch.where(top.values > 0, top.indices, -1)


def overlaps(positive: Tensor, negative: Tensor) -> dict[str, Tensor]:
    """The columns of :func:`circuit` ``[heads]``, from the codes of examples ``[n, heads]``."""
    common = positive.mode(0).values
    overlap = (positive == common).double().mean(0)
    others = (negative == common).double().mean(0)
    own = (positive.unsqueeze(1) != negative).all(1)
    return {
        "overlap": overlap,
        "others": others,
        "score": overlap - others,
        "unique": own.double().mean(0),
    }


def head_outputs(
    model: nn.Module, examples: Sequence[Tensor], place: int
) -> tuple[list[tuple[int, str, int]], Tensor]:
    """The layer, its name and the number of each head, and their outputs at the place
    ``[examples, heads, d]``; examples as in :func:`circuit`.
    """
    names: list[tuple[int, str, int]] = []
    seen: dict[int, Tensor] = {}

    def look(layer: int, name: str, out: Tensor) -> None:
        if layer not in seen and layer >= len(layers):
            layers.append(name)
            names.extend((layer, name, head) for head in range(out.shape[2]))
        seen[layer] = out[0, place].detach().float()

    layers: list[str] = []
    rows: list[Any] = []
    for ids in examples:
        if ids.ndim != 1 or not -len(ids) <= place < len(ids):
            raise ValueError(
                f"an example of shape {list(ids.shape)} has no place {place}: give token ids [N], "
                "each at least as long as that"
            )
        seen.clear()
        with torch.no_grad(), _gated(model, look):
            model(input_ids=ids.unsqueeze(0))
        rows.append(torch.cat([seen[layer] for layer in range(len(layers))]))
    return names, torch.stack(rows)
