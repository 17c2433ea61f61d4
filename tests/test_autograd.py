"""Autograd functions keep their signature, which PyTorch asks for at every call."""

import inspect

import torch

from graphformer.attention.executors import stream
from graphformer.autograd import Function
from graphformer.backends import base, sums
from graphformer.backends import torch as torch_backend


def below(cls):
    for one in cls.__subclasses__():
        yield one
        yield from below(one)


def test_functions_with_a_context_keep_their_signature():
    assert all((base, sums, torch_backend, stream))
    found = [
        one
        for one in below(torch.autograd.Function)
        if one.__module__.startswith("graphformer.")
        and one.setup_context is not torch.autograd.Function.setup_context
    ]
    assert len(found) >= 7
    for one in found:
        assert issubclass(one, Function), one
        kept = one.forward.__signature__
        assert inspect.signature(one.forward) is kept
        assert list(kept.parameters) == list(inspect.getfullargspec(one.forward).args)
