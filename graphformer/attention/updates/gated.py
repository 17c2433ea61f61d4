"""A gated mixture of heads."""

from __future__ import annotations

from torch import Tensor, nn

from graphformer.attention.updates.base import Update
from graphformer.errors import require_known, strict_flags


class GatedHeads(nn.Module, Update, name="gated_heads"):
    r"""``out_h <- H g_h(x) out_h``: each token decides how much it takes of each head (mixture of
    attention heads, arXiv 2210.05144, with all heads as experts).

    .. math:: g(x) = \mathrm{softmax}(W x) \quad\text{or}\quad g(x) = \sigma(W x)

    A softmax over the H heads is multiplied by H, so equal gates change nothing; the weights start
    at 0, where they are equal. A sigmoid is multiplied by 2.

    Args:
        gate: ``"softmax"`` or ``"sigmoid"``.
        hidden_size, num_heads: width of the layer's input and heads; None: those of the layer.
        maps: whether the layer's linear map over all heads follows.
    """

    @strict_flags
    def __init__(
        self,
        gate: str = "softmax",
        hidden_size: int | None = None,
        num_heads: int | None = None,
        *,
        maps: bool = False,
    ) -> None:
        super().__init__()
        require_known("gate", gate, ("softmax", "sigmoid"))
        self.gate, self.maps = gate, maps
        if hidden_size is None or num_heads is None:
            return  # for_layer makes it anew, with the layer's sizes
        self.linear = nn.Linear(hidden_size, num_heads)
        self.reset_own_parameters()

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def of_heads(self, out: Tensor, hidden_states: Tensor) -> Tensor:
        logits = self.linear(hidden_states)  # [B, N, H]
        gates = 2 * logits.sigmoid()
        if self.gate == "softmax":
            gates = logits.shape[-1] * logits.softmax(-1)
        return out * gates.transpose(1, 2).unsqueeze(-1).to(out.dtype)
