"""What a layer of softmax attention learns on linear regression in its context (arXiv 2503.12734):
the statements of the paper, reproduced.
"""

import pytest
import torch

from graphformer.attention import attend

DIM, EXAMPLES, HEADS, BATCH, STEPS = 5, 40, 2, 128, 2500


def episodes(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Examples ``[B, L, d + 1]`` of ``y = <w, x>`` and noise, a question ``[B, 1, d + 1]`` whose y
    is 0, and its y ``[B]``; each episode has a w of its own.
    """
    x = torch.randn(BATCH, EXAMPLES + 1, DIM, generator=generator)
    w = torch.randn(BATCH, DIM, 1, generator=generator) / DIM**0.5
    y = x @ w + 0.1 * torch.randn(BATCH, EXAMPLES + 1, 1, generator=generator)
    tokens = torch.cat((x, y), -1)
    question = tokens[:, -1:].clone()
    question[..., -1] = 0
    return tokens[:, :-1], question, tokens[:, -1, -1]


@pytest.mark.long
def test_linear_regression_in_context():
    """After training, ``K^T Q`` of each head is nearly a multiple of the identity on x, ``O V``
    reads the y of the examples, and the heads' factors nearly sum to 0: one head for, one against,
    which takes the constant out of the two exponentials. What is left is a step of gradient descent
    without bias.

    It needs this batch and start: with 64 episodes a step, or with weights that start at a tenth of
    these, both heads may take one side, and the factors do not sum to 0 within these steps.
    """
    torch.manual_seed(0)
    kq, ov = (torch.nn.Parameter(0.2 * torch.randn(HEADS, DIM + 1, DIM + 1)) for _ in range(2))
    optimizer = torch.optim.Adam([kq, ov], lr=5e-3)
    generator = torch.Generator().manual_seed(1)

    def answer(examples: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        keys = examples[:, None].expand(-1, HEADS, -1, -1)
        out = attend(question[:, None] @ kq.mT, keys, keys @ ov.mT, scale=1.0)[0]["sum"]
        return out.sum(1)[:, 0, -1]

    for _ in range(STEPS):
        examples, question, wanted = episodes(generator)
        optimizer.zero_grad()
        (answer(examples, question) - wanted).square().mean().backward()
        optimizer.step()

    on_x = kq.detach()[:, :DIM, :DIM]
    diagonal = on_x.diagonal(dim1=1, dim2=2)
    size = diagonal.mean(1).abs()
    beside = (on_x - torch.diag_embed(diagonal)).square().mean((1, 2)).sqrt()
    assert (size > 0.2).all() and (beside < 0.15 * size).all()
    assert (diagonal.std(1) < 0.15 * size).all()
    last = ov.detach()[:, -1]
    assert (last[:, :-1].abs().amax(1) < 0.1 * last[:, -1].abs()).all()
    assert last[:, -1].sum().abs() < 0.1 * last[:, -1].abs().min()
    assert (diagonal.mean(1) * last[:, -1] > 0).all()  # each turns what it adds the right way

    examples, question, wanted = episodes(torch.Generator().manual_seed(2))
    x, y = examples[..., :DIM], examples[..., DIM:]
    step = ((x * y).mean(1) * question[:, 0, :DIM]).sum(-1)  # from w = 0, with the rate 1
    found = answer(examples, question).detach()
    assert torch.corrcoef(torch.stack((found, step)))[0, 1] > 0.97
    error, nothing = (found - wanted).square().mean(), wanted.square().mean()
    assert error < 0.4 * nothing
