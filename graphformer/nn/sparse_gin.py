"""Sparse-GIN: a narrow graph isomorphism network on a graph of tokens, made to stand beside a
frozen layer.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer import backends
from graphformer.attention.operators.head_mlp import ACTIVATIONS
from graphformer.errors import number, require_flag, require_known, strict_flags, whole
from graphformer.graph import AttentionGraph
from graphformer.nn.gin_layer import GINLayer, HeadLinear
from graphformer.nn.mlp import probability
from graphformer.nn.widths import width_of_head


def self_loops(graph: AttentionGraph) -> AttentionGraph:
    """Only the edges of a token with itself: no message passes between tokens, which is how the
    published adapter runs.

    Where there are fewer receivers than senders (a cache), the last receiver is the last sender.
    """
    past = graph.num_senders - graph.num_receivers
    sender, receiver = (
        graph.senders % max(graph.num_senders, 1),
        graph.receivers % max(graph.num_receivers, 1),
    )
    return graph.select(sender == receiver + past)


# how many edges there are is in the data, so torch.compile does not look inside
@torch.compiler.disable
def received(graph: AttentionGraph, x: Tensor, backend: str) -> Tensor:
    """The weighted sum of what each receiver's senders send."""
    return backends.aggregate(graph, x, backend=backend)


def check_settings(
    hidden_dim: int,
    depth: int,
    *,
    activation: str,
    mlp_ratio: float | None,
    hidden_norm: bool,
    residual: bool,
    dropout: float,
    output_norm: bool,
    self_weight: float,
    input_norm: bool,
) -> int | None:
    """The hidden width of the MLP that these arguments of :class:`SparseGIN` make; None for one
    linear map.

    Raises:
        ValueError, TypeError: an argument out of range or of another kind.
    """
    whole("hidden_dim", hidden_dim)
    whole("depth", depth)
    require_known("activation", activation, ("prelu", *ACTIVATIONS))
    flags = {
        "hidden_norm": hidden_norm,
        "residual": residual,
        "output_norm": output_norm,
        "input_norm": input_norm,
    }
    for name, flag in flags.items():
        require_flag(name, flag)
    number("dropout", dropout)
    probability("dropout", dropout)
    number("self_weight", self_weight)
    if mlp_ratio is None:
        if hidden_norm:
            raise ValueError("hidden_norm is inside the MLP, which mlp_ratio=None leaves out")
        return None
    number("mlp_ratio", mlp_ratio, above=0)
    hidden = int(mlp_ratio * hidden_dim)
    if hidden < 1:
        raise ValueError(
            f"mlp_ratio {mlp_ratio} leaves no hidden unit in a network of width {hidden_dim}: give "
            "None or a larger one"
        )
    return hidden


class SparseGIN(nn.Module):
    r"""Sparse-GIN (arXiv 2501.02393, section 2.3): ``h -> norm(P_out GIN_depth(... GIN_1(P_in
    h)))`` on a graph of tokens.

    .. math::
        x^{(0)} = P_\mathrm{in} h, \qquad
        z_i = (s + \epsilon)\, x^{(l)}_i + \sum_{(j \to i)} w_{ij}\, x^{(l)}_j, \qquad
        x^{(l+1)} = \mathrm{dropout}(\mathrm{act}(\mathrm{MLP}(z))) \; [+\, x^{(l)}], \\
        \mathrm{MLP}(z) = W_2\, \mathrm{act}(W_1 z + b_1) + b_2 + z, \qquad
        \mathrm{out} = \mathrm{RMSNorm}(P_\mathrm{out}\, x^{(\mathrm{depth})})

    The caller adds it to a layer's hidden states, ``h + scale * out``. :math:`\epsilon` starts at 0
    and s (``self_weight``) is 0, because attention graphs hold the diagonal. The activation is one
    for the whole network: with ``"prelu"`` a single slope, which starts at 0.25.

    With ``num_heads`` each head has a network of its own, on its slice of h and its own graph; the
    slices are put beside each other again before the norm.

    Args:
        hidden_size: width of h; a multiple of ``num_heads``.
        hidden_dim: width of the network. Where it is the width of what comes in, there are no
            projections.
        depth: GIN layers, hops that a message can travel.
        activation: ``"prelu"``, with a slope that all layers of a network share, ``"silu"``,
            ``"relu"``, ``"gelu"``, ``"elu"``, ``"tanh"`` or ``"tanhshrink"``.
        mlp_ratio: hidden width of the MLP over ``hidden_dim``; ``None`` puts one linear map in its
            place, ``act(W z + b)``.
        hidden_norm: LayerNorm inside the MLP, before its activation.
        residual: add each layer's input to its output.
        dropout: after each layer.
        output_norm: RMSNorm at the end.
        norm_eps: added to the mean square in it.
        self_weight: s; 1 is GIN's own :math:`(1 + \epsilon) x_i` (arXiv 1810.00826): then a token
            keeps its own features also where the graph has no edge from it to itself.
        input_norm: h is RMS-normalised first (no parameters). The residual stream of a pre-trained
            model grows from layer to layer, and its first token often is far larger than the
            others. Not in the paper.
        weighted: messages are ``w_ij x_j``; otherwise ``x_j``.
        num_heads: networks, one a head; ``None`` for one on the merged graph.
        mix_heads: a linear map over the heads' outputs, before the norm.
        backend: who aggregates.

    It computes in the precision of its parameters, whatever that of h, and returns that of h: a
    network in float32 can stand beside a layer in bfloat16.

    Raises:
        ValueError: sizes that do not fit, an unknown name. MissingExtra: a backend that is not
            installed.
    """

    @strict_flags
    def __init__(
        self,
        hidden_size: int,
        hidden_dim: int = 16,
        depth: int = 1,
        *,
        activation: str = "prelu",
        mlp_ratio: float | None = 1.0,
        hidden_norm: bool = False,
        residual: bool = False,
        dropout: float = 0.1,
        output_norm: bool = True,
        norm_eps: float = 1e-5,
        self_weight: float = 0.0,
        input_norm: bool = False,
        weighted: bool = True,
        num_heads: int | None = None,
        mix_heads: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        hidden = check_settings(
            hidden_dim,
            depth,
            activation=activation,
            mlp_ratio=mlp_ratio,
            hidden_norm=hidden_norm,
            residual=residual,
            dropout=dropout,
            output_norm=output_norm,
            self_weight=self_weight,
            input_norm=input_norm,
        )
        backends.get(backend)  # an unknown or missing one is reported here, not in the first step
        whole("hidden_size", hidden_size)
        number("norm_eps", norm_eps, least=0)
        require_flag("weighted", weighted)
        require_flag("mix_heads", mix_heads)
        if num_heads is not None:
            whole("num_heads", num_heads)
        if mix_heads and num_heads is None:
            raise ValueError("mix_heads mixes the outputs of several networks: it needs num_heads")
        heads = 1 if num_heads is None else num_heads
        width, _ = width_of_head(hidden_size, heads, None)
        self.hidden_size, self.hidden_dim, self.depth, self.num_heads = (
            hidden_size,
            hidden_dim,
            depth,
            num_heads,
        )
        self.activation, self.residual, self.weighted, self.backend = (
            activation,
            residual,
            weighted,
            backend,
        )
        self.dropout, self.input_norm = probability("dropout", dropout), input_norm
        project = hidden_dim != width
        self.input_projection = HeadLinear(heads, width, hidden_dim) if project else nn.Identity()
        self.layers = nn.ModuleList(
            GINLayer(heads, hidden_dim, hidden, hidden_norm, self_weight) for _ in range(depth)
        )
        self.slope = nn.Parameter(torch.full((heads,), 0.25)) if activation == "prelu" else None
        self.output_projection = HeadLinear(heads, hidden_dim, width) if project else nn.Identity()
        self.mix = nn.Linear(hidden_size, hidden_size) if mix_heads else None
        self.norm = nn.RMSNorm(hidden_size, eps=norm_eps) if output_norm else None

    def reset_parameters(self) -> None:
        """Every parameter as the constructor left it (linear maps drawn anew)."""
        for module in (
            self.input_projection,
            *self.layers,
            self.output_projection,
            self.mix,
            self.norm,
        ):
            if module is not None and not isinstance(module, nn.Identity):
                module.reset_parameters()
        if self.slope is not None:
            nn.init.constant_(self.slope, 0.25)

    def forward(
        self, h: Tensor, graph: AttentionGraph, memory: list[Tensor] | None = None
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """
        Args:
            h: ``[B, Nq, hidden_size]``, features of the receivers (new tokens).
            graph: lanes ``(B,)``, or ``(B, num_heads)`` where there are heads; ``Nq`` receivers and
                ``Nk >= Nq`` senders, of which the last is the last receiver.
            memory: what the past ``Nk - Nq`` tokens sent, for each depth
                ``[B, Nk - Nq, hidden_dim]`` (with heads ``[B, num_heads, Nk - Nq, hidden_dim]``).
                An empty list, or empty tensors, where there is no past.

        Returns:
            ``[B, Nq, hidden_size]``; where memory is given also that of all ``Nk`` tokens, for the
            next call.
        """
        past = self._check(h, graph, memory)
        batch, length, _ = h.shape
        graph = graph if self.weighted else graph.unweighted()
        # replicas of DataParallel have no parameters()
        exact = h.to(cast(GINLayer, self.layers[0]).eps.dtype)
        if self.input_norm:
            exact = F.rms_norm(exact, (self.hidden_size,), eps=1e-6)
        x = self.input_projection(self._heads(exact))  # [B, H, Nq, hidden_dim]
        sent = []
        for depth, layer in enumerate(self.layers):
            senders = x
            if past:
                assert memory is not None
                old = memory[depth] if self.num_heads is not None else memory[depth].unsqueeze(1)
                senders = torch.cat((old.to(x.dtype), x), dim=2)
            sent.append(senders if self.num_heads is not None else senders.squeeze(1))
            message = received(graph, senders.flatten(0, 2), self.backend).view(x.shape)
            out = F.dropout(self._act(layer(x, message, self._act)), self.dropout, self.training)
            x = out + x if self.residual else out
        out = self.output_projection(x).transpose(1, 2).reshape(batch, length, self.hidden_size)
        if self.mix is not None:
            out = self.mix(out)
        if self.norm is not None:
            # Squares of half precision overflow at 256, so they are taken in float32.
            exact = out.to(torch.promote_types(out.dtype, torch.float32))
            out = F.rms_norm(
                exact, (self.hidden_size,), self.norm.weight.to(exact.dtype), self.norm.eps
            )
        out = out.to(h.dtype)
        return out if memory is None else (out, sent)

    def _act(self, x: Tensor) -> Tensor:
        """``[B, H, N, d]``: prelu takes the second axis for its channels, so each head has its
        slope.
        """
        return (
            ACTIVATIONS[self.activation](x)
            if self.slope is None
            else F.prelu(x, self.slope.to(x.dtype))
        )

    def _heads(self, h: Tensor) -> Tensor:
        """``[B, N, hidden_size]`` to ``[B, heads, N, width]``; one head without ``num_heads``."""
        heads = 1 if self.num_heads is None else self.num_heads
        return h.unflatten(-1, (heads, h.shape[-1] // heads)).transpose(1, 2)

    def _check(self, h: Tensor, graph: AttentionGraph, memory: list[Tensor] | None) -> int:
        """How many tokens of the past there are."""
        if h.ndim != 3 or h.shape[-1] != self.hidden_size:
            raise ValueError(
                f"h must be [batch, length, {self.hidden_size}], got shape {tuple(h.shape)}"
            )
        batch, length, _ = h.shape
        lanes = (batch,) if self.num_heads is None else (batch, self.num_heads)
        if graph.batch_shape != lanes or graph.num_receivers != length:
            raise ValueError(
                f"h {tuple(h.shape)} needs a graph with lanes {lanes} and {length} receivers, got "
                f"lanes {graph.batch_shape} and {graph.num_receivers} receivers"
                + (
                    "; merge_heads() or num_heads brings them together"
                    if len(graph.batch_shape) != len(lanes)
                    else ""
                )
            )
        past = graph.num_senders - length
        if past < 0:
            raise ValueError(
                f"the graph has fewer senders ({graph.num_senders}) than receivers ({length}): "
                "every token is a sender too"
            )
        if memory is None:
            if past:
                raise ValueError(
                    f"the graph has {past} senders before the {length} tokens of h: give memory, "
                    "which the call before returned"
                )
            return 0
        if not past and all(part.numel() == 0 for part in memory):
            return 0
        want = (*lanes, past, self.hidden_dim)
        if [tuple(part.shape) for part in memory] != [want] * self.depth:
            raise ValueError(
                f"memory must hold {self.depth} tensors of shape {want} (one a depth, for the "
                f"tokens before those of h), got shapes {[tuple(part.shape) for part in memory]}"
            )
        return past

    def extra_repr(self) -> str:
        heads = "" if self.num_heads is None else f", num_heads={self.num_heads}"
        return (
            f"hidden_size={self.hidden_size}, hidden_dim={self.hidden_dim}, depth={self.depth}, "
            f"activation={self.activation!r}, residual={self.residual}, dropout={self.dropout}, "
            f"weighted={self.weighted}, backend={self.backend!r}{heads}"
        )
