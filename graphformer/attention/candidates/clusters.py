"""Routing Transformer: pairs whose query and key fall into one cluster."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.candidates.base import Rule
from graphformer.attention.candidates.senders import Senders
from graphformer.attention.pairs import Pairs
from graphformer.errors import number, whole


class Clusters(nn.Module, Rule, name="clusters"):
    r"""Online k-means (arXiv 2003.05997, section 4.1): a pair is a candidate where query and key
    lie nearest to the same centroid of their head.

    .. math:: c(t) = \arg\max_c \langle \mu_{hc}, t / \lVert t \rVert \rangle

    In training mode each call moves the centroids towards the mean of their members,
    :math:`\mu \leftarrow \gamma \mu + (1 - \gamma) \bar t`. They are buffers, without a gradient.
    Queries and keys are the layer's own, before what a score adds to them. A token's cluster
    depends on the token alone, so a prefix keeps its candidates. With about :math:`\sqrt n`
    clusters of equal size a row has about :math:`\sqrt n` candidates.

    Args:
        num_clusters: centroids of a head.
        decay: :math:`\gamma`.
        num_heads, dim: heads and the width of one; None: those of the layer.

    Raises:
        ValueError: a score that leaves fewer channels of queries and keys (``"additive"``).
    """

    centroids: Tensor

    def __init__(
        self,
        num_clusters: int,
        decay: float = 0.999,
        num_heads: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        whole("num_clusters", num_clusters)
        self.decay = number("decay", decay, least=0.0, most=1.0)
        if num_heads is None or dim is None:
            return  # for_layer makes it anew, with the layer's sizes
        self.register_buffer("centroids", torch.empty(num_heads, num_clusters, dim))
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.normal_(self.centroids)

    def allow(self, pairs: Pairs) -> Tensor:
        raise ValueError("clusters are of queries and keys: the rule is asked through of_call")

    @torch.no_grad()
    def of_call(self, q: Tensor, k: Tensor, training: bool) -> Rule:
        heads, _, dim = self.centroids.shape
        if q.shape[1] != heads or q.shape[-1] < dim:
            raise ValueError(
                f"candidates='clusters' has {heads} x {dim} channels in its centroids (heads x "
                f"width), and the score leaves {q.shape[1]} x {q.shape[-1]} of queries: take one "
                "that compares queries and keys channel by channel, such as 'dot' or 'gatv2'"
            )
        # what a score adds to them (a second map, a sum of gates) follows the layer's own channels
        q, k = q[..., :dim], k[..., :dim]
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
        units = [F.normalize(t.detach().to(self.centroids.dtype), dim=-1) for t in (q, k)]
        labels = [self._nearest(t) for t in units]
        if training:
            self._move(torch.cat(units, 2), torch.cat(labels, 2))
        return SameCluster(*labels)

    def _nearest(self, t: Tensor) -> Tensor:
        """``[B, H, N, d]`` to int64 ``[B, H, N]``."""
        return (t @ F.normalize(self.centroids, dim=-1).mT).argmax(-1)

    def _move(self, t: Tensor, labels: Tensor) -> None:
        members = F.one_hot(labels, self.centroids.shape[1]).to(t.dtype)  # [B, H, N, C]
        number = members.sum((0, 2)).unsqueeze(-1)
        mean = torch.einsum("bhnc,bhnd->hcd", members, t) / number.clamp(min=1)
        moved = self.decay * self.centroids + (1 - self.decay) * mean
        self.centroids.copy_(torch.where(number > 0, moved, self.centroids))


@dataclass(frozen=True, eq=False)
class SameCluster(Rule):
    """Pairs of equal labels: of receivers ``[B, H, Nq]`` and of senders ``[B, H, Nk]``."""

    receivers: Tensor
    senders: Tensor

    def labels(self) -> tuple[Tensor, Tensor] | None:
        return self.receivers, self.senders

    def allow(self, pairs: Pairs) -> Tensor:
        own = self.receivers[pairs.sequence, pairs.head, pairs.receiver]
        return own == self.senders[pairs.sequence, pairs.head, pairs.sender]

    def listed(self, sizes: tuple[int, int, int, int], device: torch.device) -> Senders | None:
        sorted_labels, order = self.senders.sort(dim=-1, stable=True)
        own = self.receivers.contiguous()
        low, high = (
            torch.searchsorted(sorted_labels, own, right=right).unsqueeze(-1)
            for right in (False, True)
        )
        return Senders(low, high, order)
