"""The shell around a head for tokens: projections, positions, cache, graph. The slots do the
rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from graphformer.attention.attend import attend, dropped
from graphformer.attention.candidates import (
    Edges,
    Rule,
    added_rules,
    coarse_rules,
    resolve,
    with_blocks,
)
from graphformer.attention.candidates.with_blocks import check_blocks, steps_with_blocks
from graphformer.attention.features import Slice
from graphformer.attention.head import Compute, Head, compute_of, head_of
from graphformer.attention.operators import EdgeMessages, Operator
from graphformer.attention.relations import Links, Tokens
from graphformer.attention.relations import check as check_relations
from graphformer.attention.relations.base import RelationsLike, refuse_unusable
from graphformer.attention.updates import Concat, Update
from graphformer.errors import probability, strict_flags, whole
from graphformer.graph import AttentionGraph
from graphformer.nn.maps import linear
from graphformer.nn.relation_messages import RelationMessages
from graphformer.nn.rope import rotate
from graphformer.nn.shell import Shell
from graphformer.nn.widths import check_widths, width_of_head
from graphformer.uncompiled import exporting


class GraphAttention(Shell):
    """Hidden states in, hidden states out; what its heads do is a :class:`~graphformer.Head`. Base
    of the layers in this package.

    The sharpening parameter ``[1]`` starts at 1 and multiplies the scores before masking. Without a
    projection of values the node features of head ``h`` are the ``h``-th slice of the hidden
    states, as in the paper.

    Under ``torch.compile`` a layer is one graph (``fullgraph=True``), also where it builds edges:
    that is one operator, whose backward pass builds them again. A break remains around the edges
    with ``output_graph=True``, with an operator that reads edges, and where a slot value is made
    inside the compiled function or holds what is neither text, number nor tensor.

    Args:
        operator: a head, whose operator is one slot; or an operator alone, for the head that the
            paper has around it.
        sharpening: a trainable factor of the logits that starts at 1 (or at the number given), or
            False.
        compute: executor and backend as one value.
        sparsify, normalize: slots of the head around an operator that is given alone.
        attention_dropout: on the weights.
        layer_idx: place of this layer in a model's cache.
        head_dim: width of a head, d; ``hidden_size // num_heads`` unless given. Where ``num_heads *
            head_dim`` is not ``hidden_size``, node features must be projected, and an output map
            leads back.
        relations: edges of the text beside the attention graph, one or several: ``gf.Chain(3)``,
            ``gf.Repeats(2)`` (:mod:`graphformer.attention.relations`).
    """

    @strict_flags
    def __init__(
        self,
        operator: Operator | Head,
        *,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        sharpening: bool | float = True,
        is_causal: bool = True,
        backend: str = "auto",
        executor: str = "auto",
        compute: Compute | None = None,
        sparsify: Any = None,
        normalize: Any = "softmax",
        attention_dropout: float = 0.0,
        layer_idx: int | None = None,
        relations: RelationsLike = (),
        head_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.head_dim, self.num_kv_heads = width_of_head(
            hidden_size, num_heads, num_kv_heads, head_dim
        )
        self.hidden_size, self.num_heads, self.is_causal = hidden_size, num_heads, is_causal
        compute = compute_of(compute, executor, backend)
        self.executor, self.backend = compute.executor, compute.backend
        if layer_idx is not None:
            whole("layer_idx", layer_idx, 0)
        self.layer_idx = layer_idx
        self.attention_dropout = probability("attention_dropout", attention_dropout)
        width, kv_size = num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        slots = {"sparsify": sparsify, "normalize": normalize}
        usual = {"sparsify": None, "normalize": "softmax"}
        if isinstance(operator, Operator):
            head = Head(operator=operator, **slots)
        else:
            head = head_of(operator, slots, usual)
        head = head.with_defaults(features=Slice(), update=Concat()).for_layer(
            {
                "num_heads": num_heads,
                "num_kv_heads": self.num_kv_heads,
                "dim": self.head_dim,
                "hidden_size": hidden_size,
                "query_size": width,
                "kv_size": kv_size,
                "layer_idx": layer_idx,
            }
        )
        joined = check_widths(head, hidden_size, num_heads, self.head_dim)
        check_blocks(head.candidates, head.score, is_causal, head.sparsify)
        coarse = list(coarse_rules(head.candidates))
        self.has_blocks = next(added_rules(head.candidates), None) is not None
        self.reads_block_ids = any(None in one.sizes for one in coarse)
        self._hold(head)
        self.operator = head.operator
        self._hold_queries(head.score, hidden_size, hidden_size, width, kv_size)
        # A score with parameters stands under the name that saved models know.
        self.differential: Any = None
        self.pairwise: Any = None
        self.features, self.update = head.features, head.update
        self._hold_score(head)
        self.v_proj = linear(hidden_size, kv_size) if head.features.projects else None
        self.o_proj = linear(joined, hidden_size) if head.update.maps else None
        self._hold_sharpening(sharpening)
        found = check_relations(relations)
        refuse_unusable(found, ("order", "ids"), "a layer on tokens")
        self.relations = RelationMessages(found, num_heads, self.head_dim) if found else None

    @property
    def head(self) -> Head:
        """The slots as one value; its parameters are the layer's."""
        slots = ("candidates", "normalize", "sparsify", "features", "operator", "update")
        return Head(score=self.score_slot, **{name: getattr(self, name) for name in slots})

    @property
    def update_slot(self) -> Update:  # type: ignore[override]
        return self.update

    if TYPE_CHECKING:  # a module's call says nothing of its result

        @overload
        def __call__(
            self,
            hidden_states: Tensor,
            attention_mask: Tensor | None = None,
            *,
            output_graph: Literal[True],
            **more: Any,
        ) -> tuple[Tensor, AttentionGraph]: ...

        @overload
        def __call__(
            self,
            hidden_states: Tensor,
            attention_mask: Tensor | None = None,
            *,
            output_graph: Literal[False] = False,
            **more: Any,
        ) -> Tensor: ...

        @overload
        def __call__(
            self,
            hidden_states: Tensor,
            attention_mask: Tensor | None = None,
            *,
            output_graph: bool,
            **more: Any,
        ) -> Any: ...

        def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any: ...

    @strict_flags
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        candidates: Rule | Edges | AttentionGraph | str | None = None,
        past_key_values: Any = None,
        output_graph: bool = False,
        previous: AttentionGraph | None = None,
        input_ids: Tensor | None = None,
        links: Sequence[Links] | None = None,
        block_ids: Tensor | None = None,
        first: Tensor | None = None,
        output_features: bool = False,
    ) -> Any:
        """
        Args:
            hidden_states: ``[B, N, hidden_size]``.
            attention_mask: true or 1 for real tokens ``[B, Nk]``, or for allowed pairs
                ``[B, 1, N, Nk]``; ``Nk`` counts cached tokens too.
            position_embeddings: ``cos`` and ``sin`` of these N tokens, each
                ``[B or 1, N, head_dim]``.
            candidates: further limits on the pairs, as in :func:`graphformer.attention_graph`.
            past_key_values: a transformers ``Cache``; keys go in after RoPE, node features in the
                place of values.
            output_graph: also return the heads' graph.
            previous: the graph of the layer before, lanes ``(B, H)``, for a score that reads it.
            input_ids: the tokens ``[B, Nk]``, cached ones included, for relations that read them.
            links: the relations' edges, where they were made for several layers at once.
            block_ids: int ``[B, Nk]``, where blocks begin: ``candidates=Blocks(None)``, see
                :func:`graphformer.attention.candidates.with_blocks`.
            first: what the first layer sends ``[B, Hkv, N, d]``, for features that read it.
            output_features: also return what these N tokens send, as the last.

        Returns:
            ``[B, N, hidden_size]``, and the :class:`~graphformer.AttentionGraph` with lanes
            ``(B, H)`` if asked for.
        """
        if hidden_states.ndim != 3 or hidden_states.shape[-1] != self.hidden_size:
            raise ValueError(
                f"hidden_states must be [batch, length, {self.hidden_size}], got shape "
                f"{tuple(hidden_states.shape)}"
            )
        score = self._score(previous)
        if position_embeddings is not None and not self.score_slot.projects:
            raise ValueError(
                f"position_embeddings are not read by score={self.score_slot.name!r}, which knows "
                "no positions: leave them out"
            )
        split = partial(self._turned_heads, position_embeddings)
        features, own, q, k = self._projected(
            hidden_states, hidden_states, split, hidden_states.shape[1], first
        )
        sent = features
        if q is own and q.shape[1] != self.num_heads:  # no queries, beside shared values
            q = q.repeat_interleave(self.num_heads // q.shape[1], dim=1)
        rule, is_causal = both_of(self.candidates, score.candidates(), candidates), self.is_causal
        adds, reads_edges = next(added_rules(rule), None) is not None, self.operator.reads_edges
        cached = None
        if past_key_values is not None:
            cached = self._cached(past_key_values, partial(self._needs_keys, output_graph, adds))
            k, features, attention_mask = cached.before(k, own, attention_mask)
        if reads_edges and exporting():
            raise ValueError(
                f"{type(self.operator).__name__} reads edges one by one and cannot be exported: "
                "how many there are is in the data"
            )
        if links is None:
            sizes = hidden_states.shape[0], hidden_states.shape[1], k.shape[2]
            links = self._links(sizes, k.device, input_ids, attention_mask, candidates)
        tokens, widened = k.shape[2], None
        if adds:
            check_blocks(rule, score, is_causal, self.sparsify)
            given = attention_mask, block_ids, is_causal
            rule, k, widened = with_blocks(rule, k, features, q.shape[2], *given)
            features = widened(features)
            attention_mask, is_causal = None, False  # the rule holds both
        elif block_ids is not None:
            raise ValueError(
                "block_ids are given, and the layer has no blocks: leave them out, or take "
                "head=gf.Head(candidates=Blocks(None))"
            )
        dropout = self.attention_dropout if self.training else 0.0
        reduced, graph = attend(
            q,
            k,
            features,
            () if reads_edges else self.operator.reductions,
            candidates=rule,
            attention_mask=attention_mask,
            is_causal=is_causal,
            score=score,
            normalize=self.normalize,
            sparsify=self.sparsify,
            dropout=0.0 if reads_edges else dropout,
            executor=self.executor,
            backend=self.backend,
            output_graph=output_graph or reads_edges,
            training=self.training,
            past=None if cached is None else cached.sums,
        )
        if cached is not None:
            cached.after(k, own)
        if own.shape[1] != self.num_heads:
            own = own.repeat_interleave(self.num_heads // own.shape[1], dim=1)
        if reads_edges:
            assert graph is not None
            if features.shape[1] != self.num_heads:
                features = features.repeat_interleave(self.num_heads // features.shape[1], dim=1)
            past = self._past(past_key_values)
            if widened is not None:
                past = steps_with_blocks(past, widened, tokens)
            edges = EdgeMessages(dropped(graph, dropout), self.num_heads, self.backend, past=past)
            out = self.operator.on_edges(own, features, edges)
        else:
            out = self._operated(own, reduced)
        if self.relations is not None:
            out = out + self.relations(features[:, :, :tokens], links)
        out = self._joined(out, hidden_states)
        answer = (out, *(graph,) * output_graph, *(sent,) * output_features)
        return answer if len(answer) > 1 else out

    def _cached(self, cache: Any, why: Callable[[], str | None]) -> Any:
        """This call's dealings with the cache."""
        from graphformer.nn.running_cache import CachedCall  # whoever has a cache has transformers

        if self.layer_idx is None:
            raise ValueError(
                "past_key_values needs layer_idx, this layer's place in the cache: give it to the "
                "constructor"
            )
        return CachedCall(cache, self.layer_idx, why)

    def _needs_keys(self, output_graph: bool, adds: bool) -> str | None:
        """Why sums over past tokens are not enough, where that is so."""
        kind = type(self.operator)
        reasons = {
            "the graph itself was asked for": output_graph,
            f"operator={kind.name or kind.__name__!r} reads edges": self.operator.reads_edges,
            "the candidates add senders that are no tokens": adds,
            "relations send what past tokens sent": self.relations is not None,
        }
        return next((why for why, so in reasons.items() if so), None)

    def _past(self, cache: Any) -> Any:
        """What further steps of the operator made of past tokens; None where there is no cache."""
        if cache is None:
            return None
        from graphformer.nn.memory import Steps  # whoever has a cache has transformers

        assert self.layer_idx is not None
        kind = type(self.operator)
        return Steps(cache, self.layer_idx, f"operator={kind.name or kind.__name__!r}")

    def _links(
        self,
        sizes: tuple[int, int, int],
        device: torch.device,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        candidates: Any,
    ) -> tuple[Links, ...]:
        """The edges of the relations, made for this call."""
        found = () if self.relations is None else self.relations.relations
        reading = [one for one in found if one.reads == "ids"]
        if reading and input_ids is None:
            raise ValueError(
                f"relation {reading[0].name!r} reads input_ids, which are missing: give the tokens "
                "[B, N] to the layer's call, or take Chain, which reads their order alone"
            )
        if input_ids is not None and not reading:
            raise ValueError(
                "input_ids are given, and no relation of this layer reads them: leave them out, or "
                "give the layer relations such as gf.Repeats()"
            )
        if not found:
            return ()
        tokens = Tokens.read(sizes, device, input_ids, attention_mask, candidates)
        return tuple(link for one in found for link in one.links(tokens))

    def _turned_heads(self, position_embeddings: tuple[Tensor, Tensor] | None, x: Tensor) -> Tensor:
        x = self._heads(x)
        return x if position_embeddings is None else rotate(x, *position_embeddings)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], x.shape[2] // self.head_dim, self.head_dim).transpose(
            1, 2
        )

    def extra_repr(self) -> str:
        return (
            f"hidden_size={self.hidden_size}, num_heads={self.num_heads}, "
            f"num_kv_heads={self.num_kv_heads}, head_dim={self.head_dim}, "
            f"is_causal={self.is_causal}, "
            f"normalize={self.normalize}, sparsify={self.sparsify}, executor={self.executor!r}, "
            f"backend={self.backend!r}"
        )


def both_of(*candidates: Any) -> Any:
    """The pairs that all of them allow; None is no limit."""
    limits = [one for one in candidates if one is not None]
    if len(limits) < 2:
        return limits[0] if limits else None
    rules = [resolve(one) for one in limits]
    lists = [one for one in rules if isinstance(one, Edges)]
    if lists:
        raise ValueError(
            "the layer's head has candidates, and the call gives others, of which one is an edge "
            "list: give the edges in one place"
        )
    first, *others = rules
    for one in others:
        first = first & one  # type: ignore[operator]
    return first
