"""Lightning indexer: a light score picks the senders that the real score sees."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from graphformer.attention.candidates.base import Rule
from graphformer.attention.candidates.chosen import Chosen, ChosenOfList, Index
from graphformer.attention.pairs import Pairs
from graphformer.errors import whole
from graphformer.graph import AttentionGraph


class Indexer(nn.Module, Rule, name="indexer"):
    r"""The ``k`` senders of highest index in each row, among those that the rest of the call allows
    (sparse attention of DeepSeek-V3.2, arXiv 2512.02556, section 2.1; selection as in NSA,
    arXiv 2502.11089):

    .. math::
        I_{ij} = \sum_{m} v_{im}\, \mathrm{relu}(\langle a_{im}, b_j \rangle), \qquad
        S_i = \operatorname{top-k}_j\, I_{ij}

    with :math:`a_i = A q_i`, :math:`v_i = V q_i` of all heads' queries together and
    :math:`b_j = B k_j` of all keys: M index heads of a low width share one key, and all heads of a
    sequence share the choice, unless what else is allowed differs from head to head. Of equal
    indices the earlier sender is taken. A row chooses among its own candidates, so a prefix keeps
    its choice, and with at least as many as there are, nothing is left out.

    Queries and keys are taken without a gradient, and a choice has none: A, B and V learn from a
    loss of their own, :func:`graphformer.training.index_divergence`.

    Time :math:`O(n^2)` of the light score, a stretch of rows at a time, and :math:`O(n k)` of the
    real one; memory :math:`O(n k)`.

    Args:
        k: senders of a row; None: all, to train the index before anything is left out.
        index_heads: M. width: of an index head.
        num_heads, num_kv_heads, dim: of the layer, where None.

    Raises:
        ValueError: a score that leaves fewer channels of queries and keys (``"additive"``).
    """

    chooses = True

    def __init__(
        self,
        k: int | None,
        index_heads: int = 4,
        width: int = 16,
        num_heads: int | None = None,
        num_kv_heads: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.k = None if k is None else whole("k", k)
        self.index_heads, self.width = whole("index_heads", index_heads), whole("width", width)
        if num_heads is None or num_kv_heads is None or dim is None:
            return  # for_layer makes it anew, with the layer's sizes
        self.num_heads, self.num_kv_heads, self.dim = num_heads, num_kv_heads, dim
        self.query = nn.Linear(num_heads * dim, index_heads * width, bias=False)
        self.key = nn.Linear(num_kv_heads * dim, width, bias=False)
        self.gate = nn.Linear(num_heads * dim, index_heads, bias=False)

    def extra_repr(self) -> str:
        return f"k={self.k}, index_heads={self.index_heads}, width={self.width}"

    def allow(self, pairs: Pairs) -> Tensor:
        raise ValueError("an index is of queries and keys: the rule is asked through of_call")

    def index(self, q: Tensor, k: Tensor) -> Index:
        """From queries ``[B, H, Nq, d]`` and keys ``[B, Hkv, Nk, d]``."""
        fits = (q.shape[1], k.shape[1]) == (self.num_heads, self.num_kv_heads)
        if not fits or q.shape[-1] < self.dim:
            raise ValueError(
                f"candidates='indexer' reads {self.num_heads} and {self.num_kv_heads} heads of "
                f"{self.dim} channels of queries and keys, and the score leaves {q.shape[1]} and "
                f"{k.shape[1]} of {q.shape[-1]}: take one that compares queries and keys channel "
                "by channel, such as 'dot' or 'gatv2'"
            )
        dtype = self.key.weight.dtype
        # what a score adds to them (a second map, a sum of gates) follows the layer's own channels
        queries, keys = (
            t[..., : self.dim].detach().to(dtype).transpose(1, 2).flatten(2) for t in (q, k)
        )
        a = self.query(queries).unflatten(-1, (self.index_heads, self.width))
        return Index(a.transpose(1, 2), self.key(keys), self.gate(queries).transpose(1, 2))

    def of_call(self, q: Tensor, k: Tensor, training: bool) -> Rule:
        return Indexed(self.index(q, k), self.k, q.shape[1])

    def on_edges(self, given: AttentionGraph | None) -> Rule:
        return OnEdges(self)


@dataclass(frozen=True, eq=False)
class Indexed(Rule):
    """An index before it is known what else is allowed."""

    index: Index
    k: int | None
    heads: int
    of_list: bool = False
    chooses = True

    def among(self, limits: Rule) -> Rule:
        if self.of_list:
            return ChosenOfList(self.index, self.k, limits)
        return Chosen.among_all(self.index, self.k, limits, self.heads)


@dataclass(frozen=True, eq=False)
class OnEdges(Rule):
    """An indexer among the listed edges of a graph."""

    rule: Indexer
    chooses = True

    def of_call(self, q: Tensor, k: Tensor, training: bool) -> Rule:
        return Indexed(self.rule.index(q, k), self.rule.k, q.shape[1], of_list=True)
