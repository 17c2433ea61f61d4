"""A bottleneck at the linear layers of one input, and the chain inside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graphformer.adapters.bottlenecks.linears import Linear
from graphformer.adapters.bottlenecks.runs import Run
from graphformer.adapters.part import AdapterPart, exact

if TYPE_CHECKING:
    from graphformer.adapters.config import SparseGINConfig

NAME = "bottleneck"
"""What it is called in the linear layer that it is a part of."""

ACTIVATIONS = {"silu": F.silu}


@dataclass(eq=False)
class BottleneckSettings:
    """What one linear layer needs to know of an adapter.

    Attributes:
        number: names the adapter in caches.
        leader: the layer that holds ``A`` and the chain for all linear layers of its input.
        sharing: how many those are.
        steps: how far the chain reaches; 0 without one.
        chain: the number of that chain in its stack.
    """

    config: SparseGINConfig
    number: int
    leader: BottleneckLayer
    sharing: int
    steps: int
    chain: int | None


class BottleneckLayer(AdapterPart):
    r"""``y -> y + s B act(u')`` at one linear layer, with the code
    ``u'_i = u_i + sum_k c_k u_{i-k}`` of its input, ``u = A x``.

    The linear layers that read one input share ``A`` and ``c``, which the first of them holds.

    Args:
        linear: where it stands.
    """

    adapter_layer_names = ("sparsegin_down", "sparsegin_chain", "sparsegin_up")
    other_param_names = ("settings",)

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.sparsegin_down = nn.ParameterDict()
        self.sparsegin_chain = nn.ParameterDict()
        self.sparsegin_up = nn.ParameterDict()
        self.linear = linear

    def attach(self) -> None:
        module = self.linear.module
        self.train(module.training)
        module.add_module(NAME, self)
        self.handle = module.register_forward_hook(self._change, with_kwargs=True, prepend=True)

    def detach(self) -> None:
        delattr(self.linear.module, NAME)
        self.handle.remove()

    def get_base_layer(self) -> nn.Module:
        return self.linear.module

    # ------------------------------------------------------------------ adapters

    def update_layer(
        self,
        adapter_name: str,
        config: SparseGINConfig,
        number: int,
        leader: BottleneckLayer,
        rank: int,
        sharing: int,
        steps: int,
    ) -> None:
        """Add an adapter, at the start of its training."""
        linear, chain = self.linear, None
        device, dtype = exact(next(linear.module.parameters()))
        up = torch.empty(linear.out_features, rank)  # where weights are loaded, made without memory
        made: dict[str, Any] = {} if up.is_meta else {"device": device, "dtype": dtype}
        if leader is self:
            down = nn.Parameter(torch.empty(rank, linear.in_features).to(**made))
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            self.sparsegin_down[adapter_name] = down
            if steps:
                ways = 1 if linear.stack.causal else 2
                self.sparsegin_chain[adapter_name] = nn.Parameter(
                    torch.zeros(ways * steps, rank).to(**made)
                )
                chain = linear.stack.chains.get(number, 0)
                linear.stack.chains[number] = chain + 1
        self.sparsegin_up[adapter_name] = nn.Parameter(nn.init.zeros_(up.to(**made)))
        self.settings[adapter_name] = BottleneckSettings(
            config, number, leader, sharing, steps, chain
        )
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    # ------------------------------------------------------------------ merging

    def require_plain_weight(self, path: str) -> None:
        """ValueError where there is no weight of plain numbers to merge into."""
        module = self.linear.module
        weight = getattr(module, "weight", None)
        sizes = {self.linear.in_features, self.linear.out_features}
        plain = isinstance(weight, Tensor) and weight.is_floating_point()
        if not plain or set(getattr(weight, "shape", ())) != sizes:
            raise ValueError(
                f"{path} is part of a {type(module).__name__}, whose weight is not one of plain "
                "numbers: load the base model without quantization to merge"
            )

    def delta(self, adapter_name: str) -> Tensor:
        """What a bottleneck without activation and chain adds to the weight, in its shape."""
        own = self.settings[adapter_name]
        up = self.sparsegin_up[adapter_name]
        found = own.config.scaling * (up @ own.leader.sparsegin_down[adapter_name])
        return found.T if isinstance(self.linear.module, Conv1D) else found

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        weight: Any = self.linear.module.weight
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.settings:
                continue
            changed = weight.data + self.delta(name).to(weight.dtype)
            if safe_merge and not bool(changed.isfinite().all()):
                raise ValueError(
                    f"NaNs detected in the merged weights. The adapter {name} seems to be broken"
                )
            weight.data = changed
            self.merged_adapters.append(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        weight: Any = self.linear.module.weight
        while self.merged_adapters:
            weight.data = weight.data - self.delta(self.merged_adapters.pop()).to(weight.dtype)

    def enable_adapters(self, enabled: bool) -> None:
        if not enabled:
            self.unmerge()
        super().enable_adapters(enabled)

    # ------------------------------------------------------------------ running

    def _change(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        if not self.runs() or self.merged:
            return output
        here: BottleneckLayer = getattr(module, NAME)
        return here(args[0] if args else next(iter(kwargs.values())), output)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The output ``y`` of the linear layer for its input ``x``, with what the adapters add."""
        run = self.linear.stack.run()
        batch = run.size[0] if run is not None and x.ndim == 2 else x.shape[0]
        for name, rows in self.running(batch, x.device):
            own, up = self.settings[name], self.sparsegin_up[name]
            code = self._code(name, x, run, rows)
            message = (F.linear(code, up) * own.config.scaling).to(y.dtype).view(y.shape)
            if rows is not None:
                folded = message.reshape(batch, -1, y.shape[-1])
                message = torch.where(rows[:, None, None], folded, 0).view(y.shape)
            y = y + message
        return y

    def _code(self, name: str, x: Tensor, run: Run | None, rows: Tensor | None) -> Tensor:
        """The code of an input, which all that read it share."""
        own = self.settings[name]
        if run is None or own.sharing == 1:
            return own.leader.code(name, x, run, rows)
        key = (own.number, own.leader.linear.path)
        source, code, left = run.codes.pop(key, (None, None, own.sharing))
        if source is not x:
            code, left = own.leader.code(name, x, run, rows), own.sharing
        if left > 1:
            run.codes[key] = (x, code, left - 1)
        assert code is not None
        return code

    def code(self, name: str, x: Tensor, run: Run | None, rows: Tensor | None) -> Tensor:
        """``act(u')``, by the layer that holds ``A``."""
        own, down = self.settings[name], self.sparsegin_down[name]
        config = own.config
        x = F.dropout(x.to(down.dtype), config.dropout, self.training)
        u = F.linear(x, down)
        if own.steps:
            u = self._chained(name, u, run, rows)
        return u if config.activation is None else ACTIVATIONS[config.activation](u)

    def _chained(self, name: str, u: Tensor, run: Run | None, rows: Tensor | None) -> Tensor:
        own, weight = self.settings[name], self.sparsegin_chain[name]
        if run is None:
            raise RuntimeError(
                f"{self.linear.path} ran outside of {type(self.linear.stack.root).__name__}, and "
                "the chain of its bottleneck needs to know the tokens: call the whole model; to "
                "save memory, checkpoint with model.gradient_checkpointing_enable()"
            )
        batch, new = run.size
        if u.numel() != batch * new * u.shape[-1]:
            raise RuntimeError(
                f"{self.linear.path} got {list(u.shape[:-1])} rows for {batch} texts of {new} "
                "tokens, and the chain of its bottleneck needs one for each token: put it into "
                "exclude_modules, or give relations without a chain"
            )
        folded = u.reshape(batch, new, -1)
        assert own.chain is not None
        past = run.past_codes(own.number, name, own.chain, own.steps, rows)
        whole = folded if past is None else torch.cat((past.to(u), folded), 1)
        run.remember(own.number, name, rows, own.chain, whole)
        there = run.neighbours(own.steps)
        return chained(folded, whole, weight, own.steps, there).view(u.shape)


def chained(
    u: Tensor, whole: Tensor, weight: Tensor, steps: int, there: tuple[Tensor | None, ...]
) -> Tensor:
    """``u_i + sum_k c_k u_{i-k}``, and with ``2 steps`` weights ``+ sum_k c_{steps+k} u_{i+k}``.

    Args:
        u: ``[B, N, r]``. whole: the same behind up to ``steps`` codes of earlier tokens.
        weight: c, ``[steps or 2 steps, r]``.
        there: for each of them whether there is such a neighbour, bool ``[B or 1, N]``; None where
            only an end of the row limits them.
    """
    length = u.shape[1]
    before = F.pad(whole, (0, 0, max(steps + length - whole.shape[1], 0), 0))
    before = before[:, before.shape[1] - length - steps :]
    after = F.pad(u, (0, 0, 0, steps)) if len(weight) > steps else u
    total = u
    for number, (one, seen) in enumerate(zip(weight, there, strict=True)):
        distance = number % steps + 1
        start = steps - distance if number < steps else distance
        part = (before if number < steps else after)[:, start : start + length]
        if seen is not None:
            part = torch.where(seen.to(part.device).unsqueeze(-1), part, 0)
        total = total + part * one
    return total
