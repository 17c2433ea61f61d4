"""An indexer is to point to where its layer's attention is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from graphformer.attention.candidates import PerHead, Rule
from graphformer.attention.candidates.among_blocks import OnTokens
from graphformer.attention.candidates.chosen import Chosen, ChosenOfList
from graphformer.attention.executors import blocks
from graphformer.attention.executors.blocks import Stretch
from graphformer.attention.pairs import Block, Listed
from graphformer.attention.problem import Problem
from graphformer.attention.slot import children
from graphformer.attention.watching import watching, watching_edges
from graphformer.errors import require_known
from graphformer.recomputing import recomputed


@dataclass
class IndexDivergence:
    """What :func:`index_divergence` gathers.

    Attributes:
        losses: a scalar for each call of a layer with an indexer, in their order.
    """

    over: str
    losses: list[Tensor] = field(default_factory=list)

    def total(self) -> Tensor:
        """Their sum.

        Raises:
            ValueError: no layer with an indexer was called.
        """
        if not self.losses:
            raise ValueError(
                "no layer with an indexer was called inside index_divergence(): give the model "
                "head=gf.Head(candidates={'name': 'indexer', 'k': 64}), and call it inside"
            )
        return torch.stack(self.losses).sum()

    def _see(self, problem: Problem, x: Tensor) -> None:
        for chosen, limits, heads in choices(problem.rule, range(problem.sizes[1])):
            teacher = replace(
                problem, q=problem.q.detach(), k=problem.k.detach(), rule=limits, sparsify=None
            )
            found = []
            for block in blocks.walk(teacher, problem.sizes[1], problem.score.cost):
                given = chosen.index.a, chosen.index.b, chosen.index.v
                found.append(
                    recomputed(_of_block, teacher, chosen, heads, block, self.over, *given)
                )
            if found:
                self._add(torch.stack(found).sum(0))

    def _see_edges(self, problem: Problem, pairs: Listed, bias: Tensor | None) -> None:
        for chosen, limits, heads in choices(problem.rule, range(problem.sizes[1])):
            own = torch.isin(pairs.head, torch.tensor(heads, device=pairs.head.device))
            seen = own & limits.allow(pairs).expand(own.shape)
            others = () if bias is None else (bias.detach(),)
            left, kept, *rest = pairs.cut(seen, chosen.allow(pairs).expand(seen.shape), *others)
            with torch.no_grad():
                weights = problem.weights(left, bias=rest[0] if rest else None)
            if self.over == "chosen":
                left, weights = left.cut(kept, weights)
            self._add(divergence(chosen.index.of_pairs(left), weights, left))

    def _add(self, found: Tensor) -> None:
        total, rows = found
        self.losses.append(total / rows.clamp(min=1))


@contextmanager
def index_divergence(over: str = "all") -> Iterator[IndexDivergence]:
    r"""The loss from which :class:`~graphformer.attention.candidates.Indexer` learns, of every
    layer that is called inside: the mean over heads and rows of

    .. math:: \mathrm{KL}(p_i \,\|\, \operatorname{softmax}_j I_{ij}), \qquad
              p_{ij} = |w_{ij}| / \sum_{j'} |w_{ij'}|

    with the attention weights :math:`w` of the whole row, as they were if the indexer left nothing
    out, without a gradient. DeepSeek-V3.2 (arXiv 2512.02556, section 2.1) takes the KL of the mean
    of the heads' :math:`p_i` instead of the mean of their KL: the two differ by a number in which
    the index does not occur. Rows without weights do not count.

    >>> with index_divergence() as divergence:
    ...     loss = model(ids, labels=ids).loss
    >>> (loss + divergence.total()).backward()

    Args:
        over: ``"all"`` that is allowed in a row (the warm-up), or what was ``"chosen"``, with
            :math:`p` and softmax over these.

    Time :math:`O(n^2)` in layers on tokens, a stretch of rows at a time; call ``total`` before
    ``backward``. Layers on edges weigh their list once more.
    """
    require_known("over", over, ("all", "chosen"))
    found = IndexDivergence(over)
    with watching(found._see), watching_edges(found._see_edges):
        yield found


def choices(
    rule: Rule, heads: range, num_tokens: int | None = None
) -> Iterator[tuple[Chosen | ChosenOfList, Rule, list[int]]]:
    """What indexers chose in a rule, from what, and for which heads."""
    if isinstance(rule, (Chosen, ChosenOfList)):
        limits = rule.limits if num_tokens is None else OnTokens(rule.limits, num_tokens)
        yield rule, limits, list(heads)
    elif isinstance(rule, PerHead):
        for head, one in zip(heads, rule.rules, strict=True):
            yield from choices(one, range(head, head + 1), num_tokens)
    else:
        if isinstance(rule, OnTokens):
            num_tokens = rule.num_tokens
        for inner in children(rule):
            if isinstance(inner, Rule):
                yield from choices(inner, heads, num_tokens)


def divergence(index: Tensor, weights: Tensor, pairs: Block | Listed) -> Tensor:
    """The sum of the KL of all rows that have weights, and the number of these, ``[2]``."""
    sizes = pairs.only(weights.detach().abs())
    total = pairs.sum(sizes)
    p = sizes / torch.where(total > 0, total, 1.0)
    shifted = (index - pairs.max(index.detach())).clamp(max=0)  # only what is no pair lies above
    norm = pairs.sum(shifted.exp()).clamp(min=torch.finfo(index.dtype).tiny).log()
    terms = pairs.only(torch.xlogy(p, p) - p * (shifted - norm)).sum()
    share = (total > 0) / pairs.count().clamp(min=1)
    return torch.stack((terms, pairs.only(share.to(terms).expand(p.shape)).sum()))


def _of_block(
    teacher: Problem, chosen: Chosen, heads: list[int], block: Stretch, over: str, *index: Tensor
) -> Tensor:
    """Of all the heads of one sequence or several."""
    pairs = blocks.pairs_of(teacher, block)
    own = torch.isin(pairs.head, torch.tensor(heads, device=pairs.head.device))
    with torch.no_grad():
        weights = teacher.weights(pairs)
    left = replace(pairs, allowed=pairs.allowed & own)
    if over == "chosen":
        left = replace(left, allowed=left.allowed & chosen.allow(left))
    own_index = replace(chosen.index, a=index[0], b=index[1], v=index[2])
    logits = own_index.of_rows(block.rows, block.columns)[pairs.sequences].unsqueeze(1)
    return divergence(logits.expand(weights.shape), weights, left)
