"""GIN-, PNA- and sum-attention on a given graph: layers for the pipelines of PyG and DGL."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from graphformer.attention.head import refuse_arguments
from graphformer.attention.operators import GINOperator, OwnAdded, OwnScaled, SumOperator
from graphformer.attention.operators.head_mlp import ACTIVATIONS
from graphformer.attention.operators.pna import AGGREGATORS, SCALERS, PNAOperator
from graphformer.errors import require_known, strict_flags
from graphformer.nn.attention_conv import AttentionConv, Channels
from graphformer.nn.conv_options import ConvOptions


class GINAttentionConv(AttentionConv):
    r"""GIN-attention (arXiv 2501.02393, section 2.1) on the edges of a given graph.

    .. math::
        w^h_{ij} = \mathrm{softmax}_{j \in N(i)}\big(\alpha \langle q^h_i, k^h_j \rangle / \sqrt{d}
        + b_h^\top a_{ij}\big), \qquad
        \mathrm{out}^h_i = \mathrm{MLP}_h\Big((s + \epsilon_h)\, v^h_i
        + \sum_{j \in N(i)} w^h_{ij} (v^h_j + W^h_e a_{ij})\Big)

    >>> conv = gf.nn.GINAttentionConv(in_channels=7, out_channels=32, heads=4, edge_dim=3)
    >>> out = conv(x, edge_index, edge_attr)  # [N, 32]

    Args:
        in_channels: width of x; a pair (senders, receivers) where they differ; -1 takes it from the
            first call.
        out_channels: width of the output, **all heads together**: each head makes
            ``out_channels / heads`` channels, and they stand side by side. So it replaces
            ``GCNConv(a, b)`` or ``GINConv`` as it is, and ``GATConv(a, b, heads=h)`` with
            ``h * b``; but for ``concat=False``, where each head is ``out_channels`` wide, as in
            PyG, and the output is their mean.
        heads: heads; each is one graph.
        edge_dim: width of ``edge_attr``, which biases the scores and is part of the messages; -1
            takes it from the first call.
        mlp_ratio: hidden width of a head's MLP over the head's width. Larger than the 0.5 of the
            attention layers, because a last layer's output may be a handful of classes, and half of
            that is too narrow a neck for everything the node knows.
        self_weight: s; 1 is GIN's own ``(1 + eps) x_i`` for graphs without self-loops, 0 for those
            with them.
        mlp_norm: RMSNorm in the heads' MLPs, as the paper has it. It leaves the direction of a sum
            and little of its size, which GIN's own MLP reads.
        mlp_residual: add the sum to what the MLP makes of it, so that it reaches the output by a
            linear way too. Then ``dropout`` acts on the MLP's output, as dropout of a residual
            branch.
        mlp_activation: ``"silu"``, ``"relu"``, ``"gelu"``, ``"elu"``, ``"tanh"`` or
            ``"tanhshrink"``, which is flat at 0.
        train_eps: False keeps every epsilon at 0. In the place of GATConv give
            ``score="additive", sharpening=False, bias=True, self_weight=0.0, add_self_loops=True,
            mlp_residual=True, mlp_norm=False, mlp_ratio=1.0, mlp_activation="tanhshrink",
            train_eps=False`` (docs/node-benchmarks.md).
        options: what all layers on edges take, see
            :class:`~graphformer.nn.conv_options.ConvOptions`: ``sparsify``, ``normalize``,
            ``score``, ``sharpening``, ``dropout``, ``backend``, ``head_channels``, ``concat``,
            ``residual``, ``bias``, ``add_self_loops``, ``flow``.

    Shape: ``[N, in_channels]`` and ``[2, E]`` to ``[N, out_channels]``.

    Raises:
        ValueError: sizes that do not fit, an unknown name. MissingExtra: a backend that is not
            installed.
    """

    @strict_flags
    def __init__(
        self,
        in_channels: Channels,
        out_channels: int,
        heads: int = 1,
        edge_dim: int | None = None,
        *,
        mlp_ratio: float = 2.0,
        self_weight: float = 1.0,
        mlp_norm: bool = True,
        mlp_residual: bool = False,
        mlp_activation: str = "silu",
        train_eps: bool = True,
        **options: Unpack[ConvOptions],
    ) -> None:
        head, dropout = options.get("head"), options.get("dropout", 0.0) if mlp_residual else 0.0
        own: dict[str, Any] = {"mlp_ratio": mlp_ratio, "self_weight": self_weight}
        own["train_eps"] = train_eps
        mlp: dict[str, Any] = {"norm": mlp_norm, "residual": mlp_residual}
        mlp["activation"] = mlp_activation
        require_known("mlp_activation", mlp_activation, tuple(ACTIVATIONS))
        given = {f"mlp_{name}": value for name, value in mlp.items()}
        refuse_arguments(GINAttentionConv, head, **given, **own)
        operator = GINOperator(**mlp, dropout=dropout, **own)
        super().__init__(operator, in_channels, out_channels, heads, edge_dim, **options)


class PNAAttentionConv(AttentionConv):
    r"""PNA-attention (arXiv 2501.02393, section 2.2) on the edges of a given graph.

    .. math::
        \mathrm{out}^h_i = \mathrm{MLP}_h\big[\,\mathrm{scaler}(D_i)
        \cdot \{s\, v^h_i,\ \mathrm{reduce}_{j \in N(i)} v^h_j\}\,\big]

    over every scaler and reduction, with :math:`D_i` the number of edges into i. Sum and mean are
    those of :math:`v_j + W_e a_{ij}`.

    Args:
        aggregators: reductions of :func:`graphformer.aggregate`. With softmax weights and nothing
            cut, sum and mean coincide.
        scalers: ``identity``, ``amplification``, ``attenuation`` by degree.
        avg_degree: the degree at which the scalers start as 1; its logarithm is trained.
        self_weight: s, the factor of the receiver's own features beside the reductions; 0 leaves
            them out.

    The other arguments: :class:`GINAttentionConv`.
    """

    def __init__(
        self,
        in_channels: Channels,
        out_channels: int,
        heads: int = 1,
        edge_dim: int | None = None,
        *,
        mlp_ratio: float = 2.0,
        self_weight: float = 1.0,
        aggregators: tuple[str, ...] = AGGREGATORS,
        scalers: tuple[str, ...] = SCALERS,
        avg_degree: float = 8.0,
        **options: Unpack[ConvOptions],
    ) -> None:
        own: dict[str, Any] = {"mlp_ratio": mlp_ratio, "scalers": scalers, "avg_degree": avg_degree}
        given = {**own, "self_weight": self_weight, "aggregators": aggregators}
        refuse_arguments(PNAAttentionConv, options.get("head"), **given)
        everything = ("own", *aggregators) if self_weight else tuple(aggregators)
        operator = OwnScaled(PNAOperator(aggregators=everything, **own), self_weight)
        super().__init__(operator, in_channels, out_channels, heads, edge_dim, **options)


class SumAttentionConv(AttentionConv):
    r"""Plain attention on the edges of a given graph (arXiv 2009.03509), beside which the others
    are measured.

    .. math:: \mathrm{out}^h_i = s\, v^h_i + \sum_{j \in N(i)} w^h_{ij} (v^h_j + W^h_e a_{ij})

    Arguments: :class:`GINAttentionConv`.
    """

    def __init__(
        self,
        in_channels: Channels,
        out_channels: int,
        heads: int = 1,
        edge_dim: int | None = None,
        *,
        self_weight: float = 1.0,
        **options: Unpack[ConvOptions],
    ) -> None:
        refuse_arguments(SumAttentionConv, options.get("head"), self_weight=self_weight)
        operator = OwnAdded(SumOperator(), self_weight)
        super().__init__(operator, in_channels, out_channels, heads, edge_dim, **options)
