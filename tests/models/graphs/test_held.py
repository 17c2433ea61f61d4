"""What a training step on a graph must not hold until its end, where memory is at its peak."""

from __future__ import annotations

import gc

import pytest
import torch
from torch_geometric.data import Data

import graphformer as gf
from graphformer.attention.pairs import Listed
from graphformer.models.graphs.parts import Block


def places() -> int:
    return sum(type(one) is Listed for one in gc.get_objects())


def made(**head: str) -> tuple[gf.GraphTransformer, Data]:
    torch.manual_seed(0)
    data = Data(torch.randn(11, 3), torch.randint(11, (2, 37)), y=torch.randn(1))
    return gf.GraphTransformer(3, hidden_size=8, num_heads=2, num_layers=3, **head), data


@pytest.mark.parametrize("operator", ["sum", "gin", "pna"])
def test_places_of_pairs_are_gone_when_messages_are_reduced(operator):
    model, data = made(operator=operator)
    gc.collect()  # what other tests have left
    before, alive = places(), []
    for block in (one for one in model.modules() if isinstance(one, Block)):
        block.conv.operator.register_forward_pre_hook(lambda *_: alive.append(places()))
    model(data)
    assert alive == [before] * 3


@pytest.mark.parametrize("features", ["projection", "value_residual"])
def test_what_heads_send_is_kept_where_it_is_read(features):
    model, data = made(operator="sum", head=gf.Head(features=features))
    kept = []
    for block in (one for one in model.modules() if isinstance(one, Block)):
        block.register_forward_hook(lambda _, given, out: kept.append(out[-1] is not None))
    model(data)
    assert kept == [features == "value_residual"] * 3
