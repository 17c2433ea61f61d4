"""Other initial weights of GIN, as remedies for what its loss owes to the draw of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import graphformer as gf
from graphformer.nn import HeadMLP


def _mlps(model: nn.Module) -> list[HeadMLP]:
    return [one for one in model.modules() if isinstance(one, HeadMLP)]


@torch.no_grad()
def fan_in(model: gf.GraphformerForCausalLM) -> None:
    """The heads' MLPs as ``nn.Linear`` draws them, within ``1 / sqrt(fan_in)``, in the place of
    N(0, 0.02).
    """
    for one in _mlps(model):
        one.reset_own_parameters()


@torch.no_grad()
def zero_branch(model: gf.GraphformerForCausalLM) -> None:
    """The second map of the heads' MLPs is 0: at the start attention adds nothing to the stream."""
    for one in _mlps(model):
        one.weight2.zero_()
        if one.bias2 is not None:
            one.bias2.zero_()


@torch.no_grad()
def own_share(model: gf.GraphformerForCausalLM) -> None:
    """epsilon of 1: a node's own features are as heavy as its neighbourhood."""
    for name, parameter in model.named_parameters():
        if name.endswith(".eps"):
            parameter.fill_(1.0)


STARTS: dict[str, Callable[[gf.GraphformerForCausalLM], None]] = {
    "fan-in": fan_in,
    "zero-branch": zero_branch,
    "own-share": own_share,
}
