"""Every executor and backend gives the dense executor's numbers for slots drawn at random, or
refuses in words that name one that can.
"""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import graphformer as gf
from graphformer.attention import Differential
from graphformer.attention.attend import attend
from graphformer.backends.pyg import PyGBackend
from graphformer.graph import AttentionGraph

slots = pytest.importorskip(
    "benchmarks.slots", reason="benchmarks/ is not part of an installed package"
)

SEED, CASES, CHUNK = 0, 200, 20


def checked(indices: range) -> dict:
    found = slots.run(SEED, indices)
    assert not found["disagreements"], slots.show({"seed": SEED, **found})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, CASES, CHUNK))
def test_random_slots(first: int) -> None:
    found = checked(range(first, first + CHUNK))
    assert found["counts"]["agree: auto, auto"] == CHUNK
    assert found["comparisons"] > 4 * CHUNK


@pytest.mark.long
def test_many_random_slots() -> None:
    found = checked(range(2000))
    assert {
        name.removeprefix("refused: ") for name in found["counts"] if name.startswith("refused")
    } == set(slots.REFUSALS)


def test_every_choice_is_drawn() -> None:
    cases = [slots.draw_case(SEED, index) for index in range(CASES)]
    drawn = {
        name: {case.slots[name] for case in cases}
        for name in ("B", "H", "Nq", "Nk", "candidates", "mask", "score", "normalize")
    }
    assert (
        drawn["B"] == {1, 2, 3}
        and drawn["H"] == {1, 2, 3, 6}
        and drawn["Nq"] == drawn["Nk"] == set(slots.LENGTHS)
    )
    assert drawn["candidates"] == {
        "none",
        "all",
        "causal",
        "is_causal",
        "window",
        "causal & window",
        "edges",
        "graph",
    }
    assert drawn["mask"] == {"none", "padding", "pairs"}
    assert drawn["score"] == {"ScaledDotProduct", "Differential", "Pairwise"}
    assert drawn["normalize"] == {"softmax", "sigmoid", "count", "relu", "identity"}
    assert {name for case in cases for name in case.slots["reductions"]} == set(slots.REDUCTIONS)
    texts = " ".join(str(case.slots["sparsify"]) for case in cases)
    for name in (
        "None",
        "Threshold",
        "TopK",
        "TopFraction",
        "Both",
        "renormalize=True",
        "signed=True",
    ):
        assert name in texts
    assert any(case.slots["edges"] == 0 for case in cases)
    assert sum(case.can("flash") for case in cases) >= CASES // 20


def test_a_case_is_drawn_again_from_its_seed() -> None:
    first, second = (slots.draw_case(SEED, 3) for _ in range(2))
    assert first.slots == second.slots and all(
        torch.equal(value, second.leaves[name]) for name, value in first.leaves.items()
    )


def spoiled_output(out: Tensor) -> Tensor:
    return out * (1 + 1e-7)


def spoiled_gradient(out: Tensor) -> Tensor:
    return out + 1e-5 * (out.detach() - out)


class NoSecond(torch.autograd.Function):
    """A sum whose gradient is right, and has none of its own."""

    @staticmethod
    def forward(ctx, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (spoiled_output, "output"),
        (spoiled_gradient, "gradient"),
        (NoSecond.apply, "second gradient"),
    ],
    ids=["output", "gradient", "second gradient"],
)
def test_a_wrong_number_is_found(
    spoil: Callable[[Tensor], Tensor], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = PyGBackend.weighted_sum

    def wrong(self: PyGBackend, graph: AttentionGraph, x: Tensor) -> Tensor:
        return spoil(right(self, graph, x))

    monkeypatch.setattr(PyGBackend, "weighted_sum", wrong)
    index = next(
        i
        for i in range(100)
        if "sum" in (case := slots.draw_case(SEED, i)).slots["reductions"] and not case.explicit
    )
    counts, disagreements = slots.check(slots.draw_case(SEED, index))
    assert {one["backend"] for one in disagreements} == {"pyg"}
    assert all(any(line.startswith(kind) for line in one["what"]) for one in disagreements)
    assert counts["agree: stream, torch"] == 1


def test_a_refusal_of_what_can_be_done_is_a_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(
        case for case in (slots.draw_case(SEED, i) for i in range(100)) if case.can("flash")
    )
    from graphformer.attention.executors import flash

    monkeypatch.setattr(flash, "obstacle", lambda *given: "it is not so")
    _, disagreements = slots.check(case)
    assert [one["executor"] for one in disagreements] == ["flash"]


def test_an_amount_of_one_number_may_have_any_shape_on_edges() -> None:
    q, k, x = torch.randn(3, 1, 1, 5, 4).double().unbind()
    ends = torch.arange(5), torch.arange(5).flip(0)
    amount = torch.full((1, 1, 1, 1), 0.3).double()
    got, want = (
        attend(q, k, x, score=Differential(one), candidates=gf.Edges(*ends))[0]["sum"]
        for one in (amount, 0.3)
    )
    torch.testing.assert_close(got, want, atol=1e-7, rtol=0)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 1, 1), (2, 1, 1, 1), (3, 1, 1)])
@pytest.mark.parametrize("executor", ["flash", "stream"])
def test_an_amount_for_each_head_or_sequence_stays_with_it(
    executor: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many channels as heads, so that a factor laid along the wrong axis fits; and blocks of
    single sequences.
    """
    from graphformer.attention.executors import blocks

    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 11)
    q, k, x = (torch.randn(2, 3, 5, size, dtype=torch.float64) for size in (4, 4, 3))
    amount = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    got, want = (
        attend(q, k, x, score=Differential(amount), executor=name)[0]["sum"]
        for name in (executor, "dense")
    )
    torch.testing.assert_close(got, want)
    grads = [torch.autograd.grad((one * x).sum(), amount)[0] for one in (got, want)]
    torch.testing.assert_close(*grads)


def test_flash_in_half_precision_keeps_the_sharpening_of_each_head() -> None:
    q, k, x = (torch.randn(2, 3, 5, 3).bfloat16() for _ in range(3))  # as many channels as heads
    sharpening = torch.tensor([0.1, 1.0, 4.0])
    got, want = (
        attend(q, k, x, sharpening=sharpening, executor=name)[0]["sum"]
        for name in ("flash", "dense")
    )
    assert float((got - want).abs().max()) < 0.05 * float(want.abs().max())


def test_the_refusal_of_flash_names_who_can() -> None:
    q = torch.randn(1, 2, 5, 3)
    with pytest.raises(
        ValueError, match=re.escape("cuts edges; executor='auto' chooses one that can")
    ):
        attend(q, q, q, sparsify=gf.TopK(2), executor="flash")
