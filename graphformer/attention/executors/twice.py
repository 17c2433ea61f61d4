r"""A second derivative for ``scaled_dot_product_attention``, whose fast kernels have only a first
one.

The kernel runs, forward and backward, as it is. Only where the backward pass is itself recorded
(``create_graph=True``) the gradient is written out beside it, in formulas that can be
differentiated again, with :math:`g` the gradient of the output:

.. math::
    \bar x = P^\top g, \qquad
    \bar S = P \circ (g x^\top - \mathrm{rowsum}(P \circ g x^\top)), \qquad
    \bar q = \bar S k, \qquad \bar k = \bar S^\top q

These hold the matrix :math:`P`, so a second derivative costs the memory of ``executor="dense"``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from graphformer.attention.executors.blocks import masked_softmax
from graphformer.attention.problem import Problem


class Passage:
    """One call of the kernel: what its entry and its exit know of each other.

    Attributes:
        problem: whose rule says which pairs are allowed.
        scale: what scores are multiplied by.
        dropout: whether the kernel drew weights to drop; the formulas cannot know which.
        grad: the gradient that has come in at the exit, while a backward pass is recorded.
    """

    def __init__(self, problem: Problem, scale: float, dropout: bool = False) -> None:
        self.problem, self.scale, self.dropout = problem, scale, dropout
        self.grad: Tensor | None = None

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        return masked_softmax(q @ k.transpose(-1, -2) * self.scale, self.problem.allowed())


class Entry(Function):
    """q, k and x on their way into the kernel."""

    @staticmethod
    def forward(
        ctx: Any, passage: Passage, q: Tensor, k: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.passage = passage
        ctx.save_for_backward(q, k, x)
        return q.view_as(q), k.view_as(k), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return None, *grads
        passage, (q, k, x) = ctx.passage, ctx.saved_tensors
        grad, passage.grad = passage.grad, None
        if passage.dropout:
            return None, *(Once.apply(value) for value in grads)
        assert grad is not None
        weights = passage.weights(q, k)
        pull = grad @ x.transpose(-1, -2)
        pull = weights * (pull - (weights * pull).sum(-1, keepdim=True)) * passage.scale
        return None, pull @ k, pull.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ grad


class Exit(Function):
    """The kernel's output on its way out."""

    @staticmethod
    def forward(ctx: Any, passage: Passage, out: Tensor) -> Tensor:
        ctx.passage = passage
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        if torch.is_grad_enabled():
            ctx.passage.grad = grad
        return None, grad


class Once(Function):
    """A gradient that has no gradient, and says so."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError(
            "executor='flash' has no second derivative with dropout: call .eval(), set "
            "attention_dropout=0.0, or choose executor='dense' or 'stream', which draw the weights "
            "they drop where autograd sees it"
        )
