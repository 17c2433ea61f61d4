"""The attention layers by the names of their operators: each is the shell of
:mod:`graphformer.nn.tokens` around a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from typing_extensions import Unpack

from graphformer.attention import sparsifiers
from graphformer.attention.features import Projection, Slice
from graphformer.attention.head import Compute, Head, refuse_arguments, refuse_beside
from graphformer.attention.normalizers import Normalizer, resolve
from graphformer.attention.operators import (
    GINOperator,
    Operator,
    PNAOperator,
    RoundsOperator,
    SumOperator,
)
from graphformer.attention.operators.head_mlp import ACTIVATIONS
from graphformer.attention.operators.pna import AGGREGATORS, SCALERS
from graphformer.attention.relations.base import RelationsLike
from graphformer.attention.scores import PairwiseScoring, Score
from graphformer.attention.slot import check_slot
from graphformer.attention.sparsifiers import Sparsifier
from graphformer.attention.updates import Concat, OutputMap
from graphformer.errors import number, probability, require_known, strict_flags, whole
from graphformer.nn.tokens import GraphAttention


class Options(TypedDict, total=False):
    """Keyword arguments that every attention layer takes.

    Attributes:
        score: ``"dot"``, ``"differential"`` (:class:`DifferentialScoring`), ``"pairwise"``
            (:class:`PairwiseScoring`), or a :class:`~graphformer.attention.Score`.
        score_width: hidden units of a pairwise score; ``hidden_size`` unless given.
        value_projection: node features are a projection of the hidden states instead of their
            slices.
        output_projection: a linear map over the heads' outputs.
        attention_dropout: on the weights.
        layer_idx: place of this layer in a model's cache.
        head: a :class:`~graphformer.Head` in the place of the arguments for single slots
            (``sparsify``, ``normalize``, ``score``, the projections). Slots that it leaves out are
            the layer's own.
        head_dim: width of a head; ``hidden_size // num_heads`` unless given
            (:class:`~graphformer.nn.GraphAttention`).
        relations: edges of the text beside the attention graph, as ``[gf.Chain(3), gf.Repeats()]``.
    """

    score: str | Score
    score_width: int | None
    value_projection: bool | None
    output_projection: bool | None
    attention_dropout: float
    layer_idx: int | None
    head: Head | Mapping[str, Any] | None
    compute: Compute | None
    head_dim: int | None
    relations: RelationsLike


class Preset(GraphAttention):
    """An operator and the slots that are usual around it; the arguments for single slots are
    shorthands of a head.
    """

    usual: Head

    @strict_flags
    def __init__(
        self,
        operator: Operator,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None,
        sharpening: bool | float,
        sparsify: Sparsifier | None,
        normalize: str | Normalizer,
        is_causal: bool,
        backend: str,
        executor: str,
        *,
        head: Head | Mapping[str, Any] | None = None,
        score: str | Score = "dot",
        score_width: int | None = None,
        value_projection: bool | None = None,
        output_projection: bool | None = None,
        **shell: Any,
    ) -> None:
        if score_width is not None and score != "pairwise":
            raise ValueError(
                f"score_width={score_width} is for score='pairwise', but score is {score!r}"
            )
        if head is None:
            head = Head(
                score=PairwiseScoring(width=score_width)
                if score == "pairwise"
                else check_slot("score", Score, score),
                normalize=resolve(normalize),
                sparsify=sparsifiers.check(sparsify),
                features=None
                if value_projection is None
                else (Projection() if value_projection else Slice()),
                update=None
                if output_projection is None
                else (OutputMap() if output_projection else Concat()),
            )
        else:
            refuse_beside(
                {
                    "sparsify": (sparsify, None),
                    "normalize": (normalize, "softmax"),
                    "score": (score, "dot"),
                    "value_projection": (value_projection, None),
                    "output_projection": (output_projection, None),
                }
            )
            head = Head.read(head).copied()
        slots = self.usual.items()
        head = head.with_defaults(
            operator=operator, features=slots["features"], update=slots["update"]
        )
        super().__init__(
            head,
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            sharpening=sharpening,
            is_causal=is_causal,
            backend=backend,
            executor=executor,
            **shell,
        )


class GINAttention(Preset):
    r"""GIN-attention (arXiv 2501.02393, section 2.1).

    .. math::
        A = \mathrm{softmax}(\alpha\, q k^\top / \sqrt{d}), \qquad
        \mathrm{out}_i = \mathrm{MLP}_h\Big((s + \epsilon_h)\, x_i
        + \sum_{(j \to i)} A_{ij} x_j\Big)

    with :math:`x` the hidden states cut into heads, :math:`\alpha` one trainable sharpening a
    layer, :math:`\epsilon_h` and an MLP for each head.

    Args:
        hidden_size: width of the hidden states, a multiple of ``num_heads`` unless ``head_dim`` is
            given.
        num_heads: heads; each is one graph.
        num_kv_heads: key heads, each shared by a group of query heads; ``num_heads`` unless given.
        mlp_ratio: gamma, the MLP's hidden width over the head's width; ``int(gamma * head_dim)``
            units.
        sharpening: a trainable alpha that starts at 1 (or at the number given), or ``False``.
        sparsify: ``None``, ``gf.Threshold(tau)``, ``gf.TopK(k)``.
        normalize: ``"softmax"``, ``"sigmoid"``, ``"relu"``, ``"identity"`` or a normalizer.
        is_causal: senders at or before the receiver only.
        backend: who aggregates; naming one means that edges are built.
        executor: ``"auto"``, ``"flash"``, ``"linear"``, ``"stream"``, ``"dense"`` or ``"edges"``.
            Never changes the answer.
        eps: where epsilon starts.
        self_weight: 0 where attention holds the diagonal, 1 for graphs without self-loops (see
            :class:`GINOperator`).
        mlp_dropout: inside the heads' MLPs.
        mlp_norm: RMSNorm in the heads' MLPs.
        mlp_norm_eps: added to the mean square in their norm.
        mlp_residual: add the sum to what the MLP makes of it.
        mlp_activation: ``"silu"``, ``"relu"``, ``"gelu"``, ``"elu"``, ``"tanh"`` or
            ``"tanhshrink"``.
        rounds: how often the heads' networks run on the same graph, each on what the one before
            made (:class:`~graphformer.attention.operators.RoundsOperator`). More than one builds
            edges.
        shared_rounds: whether all rounds have the same network; else each its own.
        options: see :class:`~graphformer.nn.presets.Options`: the score, projections of values and
            outputs (neither here unless asked for), dropout on the weights, the layer's place in a
            cache.

    Shape: ``[B, N, hidden_size]`` to the same; see :meth:`GraphAttention.forward`.

    Raises:
        ValueError: heads that do not divide, an empty MLP, an unknown name. MissingExtra: a backend
            that is not installed.
    """

    usual = Head(features=Slice(), update=Concat())

    @strict_flags
    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        mlp_ratio: float = 0.5,
        sharpening: bool | float = True,
        sparsify: Sparsifier | None = None,
        normalize: str | Normalizer = "softmax",
        is_causal: bool = True,
        backend: str = "auto",
        executor: str = "auto",
        *,
        eps: float = 0.0,
        self_weight: float = 0.0,
        mlp_dropout: float = 0.0,
        mlp_norm: bool = True,
        mlp_norm_eps: float = 1e-6,
        mlp_residual: bool = False,
        mlp_activation: str = "silu",
        rounds: int = 1,
        shared_rounds: bool = False,
        **options: Unpack[Options],
    ) -> None:
        own: dict[str, Any] = {"mlp_ratio": mlp_ratio, "eps": eps, "self_weight": self_weight}
        mlp: dict[str, Any] = {
            "dropout": probability("mlp_dropout", mlp_dropout),
            "norm": mlp_norm,
            "norm_eps": number("mlp_norm_eps", mlp_norm_eps, least=0.0),
            "residual": mlp_residual,
            "activation": mlp_activation,
        }
        require_known("mlp_activation", mlp_activation, tuple(ACTIVATIONS))
        given = {**own, **{f"mlp_{name}": value for name, value in mlp.items()}}
        given |= {"rounds": rounds, "shared_rounds": shared_rounds}
        refuse_arguments(GINAttention, options.get("head"), **given)
        if whole("rounds", rounds) == 1 and shared_rounds:
            raise ValueError("shared_rounds=True is of several rounds, and rounds is 1")
        operator: Operator = GINOperator(**own, **mlp)
        if rounds > 1:
            operator = RoundsOperator(operator, rounds, shared=shared_rounds)
        super().__init__(
            operator,
            *(hidden_size, num_heads, num_kv_heads, sharpening, sparsify, normalize, is_causal),
            *(backend, executor),
            **options,
        )


class PNAAttention(Preset):
    r"""PNA-attention (arXiv 2501.02393, section 2.2), with a real max and min and with degree
    scalers.

    .. math::
        \mathrm{out}_i = W_o \big\Vert_h \mathrm{MLP}_h\big[\,\mathrm{scaler}(D_i)
        \cdot \mathrm{reduce}_{(j \to i)}\, v_j\,\big]

    over every scaler and reduction, with values :math:`v = W_v x`.

    Args:
        aggregators: reductions of :func:`graphformer.aggregate`, or ``own``. With softmax weights
            and nothing cut, sum and mean coincide. The paper's variant for language is ``("mean",
            "max_norm@0.2", "var", "min_norm@0.2")`` with ``scalers=("identity",)``.
        scalers: ``identity``, ``amplification``, ``attenuation`` by the receiver's number of edges.
        avg_degree: the degree at which the scalers start as 1; its logarithm is trained.
        options: as in :class:`GINAttention`, and so are the arguments that are not named here.

    max, min, std and the scalers need edges, so they are always built. Without ``sparsify`` there
    are as many as candidate pairs.

    Shape: ``[B, N, hidden_size]`` to the same.
    """

    usual = Head(features=Projection(), update=OutputMap())

    @strict_flags
    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        mlp_ratio: float = 0.5,
        sharpening: bool | float = True,
        sparsify: Sparsifier | None = None,
        normalize: str | Normalizer = "softmax",
        is_causal: bool = True,
        backend: str = "auto",
        executor: str = "auto",
        *,
        aggregators: tuple[str, ...] = AGGREGATORS,
        scalers: tuple[str, ...] = SCALERS,
        avg_degree: float = 8.0,
        **options: Unpack[Options],
    ) -> None:
        own: dict[str, Any] = {
            "mlp_ratio": mlp_ratio,
            "aggregators": aggregators,
            "scalers": scalers,
            "avg_degree": avg_degree,
        }
        refuse_arguments(PNAAttention, options.get("head"), **own)
        super().__init__(
            PNAOperator(**own),
            *(hidden_size, num_heads, num_kv_heads, sharpening, sparsify, normalize, is_causal),
            *(backend, executor),
            **options,
        )


class SumAttention(Preset):
    """Multi-head attention (arXiv 1706.03762): query, key, value and output projections. Arguments
    as :class:`GINAttention`.
    """

    usual = Head(features=Projection(), update=OutputMap())

    @strict_flags
    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        sharpening: bool | float = False,
        sparsify: Sparsifier | None = None,
        normalize: str | Normalizer = "softmax",
        is_causal: bool = True,
        backend: str = "auto",
        executor: str = "auto",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            SumOperator(),
            *(hidden_size, num_heads, num_kv_heads, sharpening, sparsify, normalize, is_causal),
            *(backend, executor),
            **options,
        )
