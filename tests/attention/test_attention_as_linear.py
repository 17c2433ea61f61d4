r"""Softmax attention as linear attention, in the form of dynamical systems (arXiv 2405.15731).

The paper writes attention as a recurrence with state :math:`h_i = \Lambda_i h_{i-1} + B_i u_i` and
output :math:`y_i = C_i h_i`. Linear attention has :math:`h_i = \frac{n(i-1)}{n(i)} h_{i-1} +
\frac{1}{n(i)} \psi(k_i) v_i^\top` and :math:`y_i = \phi(q_i)^\top h_i` with a normalisation
:math:`n`. Softmax attention is the same with :math:`\phi(q)^\top \psi(k) = e^{q^\top k}` and
:math:`n(i) = \sum_{j \le i} e^{q_i^\top k_j}`, which depends on the receiver's query: that is the
condition. Here both sides are the library's own: the graph of a softmax head, and a head without
softmax (``normalize="identity"``, computed by a running state) on features of queries and keys.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import graphformer as gf
from graphformer.attention import attend

pytestmark = pytest.mark.usefixtures("float64")


def exponential_features(x: Tensor, degree: int) -> Tensor:
    """All monomials up to a degree, so that ``<f(q), f(k)>`` is the series of ``e^<q, k>`` cut off
    behind it.
    """
    columns = []
    for total in range(degree + 1):
        for powers in itertools.product(range(total + 1), repeat=x.shape[-1]):
            if sum(powers) == total:
                factor = math.prod(math.factorial(one) for one in powers) ** -0.5
                columns.append(x.pow(torch.tensor(powers)).prod(-1) * factor)
    return torch.stack(columns, -1)


def linear_attention(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
    """``sum_{j <= i} <q_i, k_j> x_j`` by a running state: no edges, no softmax."""
    given = {"is_causal": True, "normalize": "identity", "scale": 1.0, "executor": "linear"}
    return attend(q, k, x, **given)[0]["sum"]


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 11, 2), torch.randn(2, 3, 11, 2), torch.randn(2, 3, 11, 5)
    return 0.8 * q, 0.8 * k, v


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q, k, v, is_causal=True, scale=1.0)[0]["sum"]


def test_under_the_condition_both_are_one():
    q, k, v = inputs()
    phi, psi = exponential_features(q, 24), exponential_features(k, 24)
    # n(i) by the same state: its features sum up to the row's total
    total = linear_attention(phi, psi, torch.ones_like(v[..., :1]))
    assert_close(linear_attention(phi, psi, v) / total, softmax_attention(q, k, v))
    weights = gf.attention_graph(q, k, is_causal=True, scale=1.0).to_dense()
    later = torch.ones(11, 11, dtype=torch.bool).triu(1)
    assert_close((phi @ psi.mT / total).masked_fill(later, 0.0), weights)


def test_the_recurrence_with_its_ratio_of_normalisations():
    """``h_i = n(i-1) / n(i) h_{i-1} + psi(k_i) v_i / n(i)``: with a normalisation that any earlier
    step can know, here of keys alone, it is linear attention over that normalisation.
    """
    q, k, v = inputs()
    phi, psi = exponential_features(q, 3), exponential_features(k, 3)
    n = psi.square().sum(-1).cumsum(-1)
    state, outs = torch.zeros(2, 3, psi.shape[-1], 5), []
    for i in range(11):
        before = n[..., i - 1] if i else torch.zeros_like(n[..., 0])
        ratio = (before / n[..., i])[..., None, None]
        added = psi[:, :, i].unsqueeze(-1) * v[:, :, i].unsqueeze(-2)
        state = ratio * state + added / n[..., i, None, None]
        outs.append((phi[:, :, i].unsqueeze(-2) @ state).squeeze(-2))
    want = linear_attention(phi, psi, v) / n.unsqueeze(-1)
    assert_close(torch.stack(outs, 2), want)


def test_without_the_condition_they_differ():
    """A normalisation that does not read the query leaves rows that do not sum to 1."""
    q, k, v = inputs()
    phi, psi = exponential_features(q, 24), exponential_features(k, 24)
    places = torch.arange(1, 12).view(-1, 1)
    one = linear_attention(phi, psi, v) / places
    assert (one - softmax_attention(q, k, v)).abs().max() > 0.1
    sums = linear_attention(phi, psi, torch.ones_like(v[..., :1])) / places
    assert (sums - 1).abs().max() > 0.1


@pytest.mark.parametrize("degree", [1, 2, 4, 8])
def test_fewer_features_are_further_away(degree: int):
    """The state of softmax is infinite: a finite one leaves the series' remainder."""
    q, k, _ = inputs()
    reach = float((q @ k.mT).abs().max())
    found = exponential_features(q, degree) @ exponential_features(k, degree).mT
    bound = math.exp(reach) * reach ** (degree + 1) / math.factorial(degree + 1)
    error = float((found - (q @ k.mT).exp()).abs().max())
    assert 0 < error <= bound
    assert error > float(
        (exponential_features(q, 16) @ exponential_features(k, 16).mT - (q @ k.mT).exp())
        .abs()
        .max()
    )
