"""Heads, layers, weights and edges of a language model behind masks, cut by a schedule."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import TrainerCallback

from graphformer.attention.sparsifiers.edge_mask import MILLION, EdgeMask
from graphformer.errors import number, whole
from graphformer.models.language import GraphformerForCausalLM
from graphformer.models.language.block import GraphformerDecoderLayer
from graphformer.training.pruning.export import exported
from graphformer.training.pruning.masks import ConcreteMask, MaskedWeight, cubic_sparsity, smallest

PARTS = ("heads", "layers", "weights", "edges")


class Pruner:
    r"""Trains masks of a model's heads, layers, weights and edges together with the model, cuts
    more and more of them, and makes the smaller model that is left.

    >>> pruner = gf.training.Pruner(model, heads=0.5, layers=0.25, steps=400, begin=50)
    >>> transformers.Trainer(model, ..., callbacks=[gf.training.PruningCallback(pruner)]).train()
    >>> small = pruner.export()  # a GraphformerForCausalLM with fewer heads and layers

    Of n units :math:`\lfloor s_t n + 1/2 \rfloor` with the smallest logits are cut at step t, with
    the cubic schedule :func:`cubic_sparsity`; the others have a
    :class:`~graphformer.training.ConcreteMask`, until the end of the schedule, where what is left
    is whole. A unit that is cut comes back where the others' logits fall below its own.

    - *heads*: a key head with the queries it serves, all layers ranked together; a layer keeps at
      least one. The mask multiplies its output before the output map.
    - *layers*: what a block, attention and feed-forward, adds to the stream.
    - *weights*: entries of the linear maps in the blocks, each map by itself. Their logits start by
      their size. They become zeros, which no kernel here skips.
    - *edges*: those of :class:`~graphformer.attention.sparsifiers.EdgeMask` in the heads.

    The four parts are those of GTSP (arXiv 2312.05479), which has a criterion of its own for each
    (gradients for heads, random depth for layers, size and regrowth for weights); here all have
    the same trained mask.

    The masks are the model's own parameters under ``pruning``, so an optimizer that is made
    afterwards trains them, checkpoints hold them, and
    :meth:`torch.nn.utils.parametrize` has the weights. In evaluation a mask is 1 or 0.

    Args:
        model: a :class:`~graphformer.GraphformerForCausalLM`, changed in place: see :meth:`remove`.
        heads, layers, weights, edges: the share that is cut in the end, in ``[0, 1)``; 0 leaves
            them alone.
        steps: optimizer steps from the first cut to the last.
        begin: steps before, in which only the masks learn.
        every: steps from one cut to the next.
        temperature, start, gain: of the masks.

    Raises:
        ValueError: shares that cut nothing or everything; a model whose heads or layers cannot be
            taken out, found by taking some out; a model that has masks already.
    """

    def __init__(
        self,
        model: GraphformerForCausalLM,
        *,
        heads: float = 0.0,
        layers: float = 0.0,
        weights: float = 0.0,
        edges: float = 0.0,
        steps: int,
        begin: int = 0,
        every: int = 1,
        temperature: float = 0.5,
        start: float = 4.0,
        gain: float = 100.0,
    ) -> None:
        if not isinstance(model, GraphformerForCausalLM):
            raise TypeError(f"model must be a GraphformerForCausalLM, got {type(model).__name__}")
        shares = {"heads": heads, "layers": layers, "weights": weights, "edges": edges}
        for name, share in shares.items():
            if not 0 <= number(name, share) < 1:
                raise ValueError(f"{name} must be a share in [0, 1), got {share}")
        if not any(shares.values()):
            raise ValueError(
                "nothing is to be pruned: give heads, layers, weights or edges a share"
            )
        if hasattr(model, "pruning"):
            raise ValueError("this model has masks of a Pruner already: call its remove() first")
        self.model, self.targets = model, shares
        self.steps, self.begin = whole("steps", steps), whole("begin", begin, 0)
        self.every, self.last = whole("every", every), -1
        self.edge_masks = [one for one in model.modules() if isinstance(one, EdgeMask)]
        self.blocks: list[GraphformerDecoderLayer] = list(model.model.layers)
        self._check()
        self._handles: list[Any] = []
        given = {"temperature": temperature, "start": start, "gain": gain}
        # a bfloat16 has no room for small steps
        where = {"device": model.device, "dtype": torch.promote_types(model.dtype, torch.float32)}
        kept: dict[str, list[ConcreteMask]] = {"heads": [], "layers": []}
        if heads:
            units = [(block.self_attn.num_kv_heads,) for block in self.blocks]
            kept["heads"] = [ConcreteMask(one, **given).to(**where) for one in units]
        if layers:
            kept["layers"] = [ConcreteMask((), **given).to(**where) for _ in self.blocks]
        self.heads, self.layers = kept["heads"], kept["layers"]
        for block, mask in zip(self.blocks, self.heads, strict=bool(self.heads)):
            hook = _OfHeads(mask, block.self_attn.num_heads * block.self_attn.head_dim)
            self._handles.append(block.self_attn.o_proj.register_forward_pre_hook(hook.before))  # type: ignore[union-attr]
        for block, mask in zip(self.blocks, self.layers, strict=bool(self.layers)):
            self._handles.append(block.register_forward_hook(_OfLayer(mask).after))
        self.maps: list[tuple[nn.Module, MaskedWeight]] = []
        if weights:
            maps = [one for one in model.model.layers.modules() if isinstance(one, nn.Linear)]
            for one in maps:
                mask = MaskedWeight(one.weight.shape, **given).to(**where)
                parametrize.register_parametrization(one, "weight", mask)
                self.maps.append((one, mask))
        model.pruning = nn.ModuleDict({name: nn.ModuleList(one) for name, one in kept.items()})
        model.pruning.train(model.training)
        if heads or layers:
            self._rehearse()
        self.step(0)

    def _check(self) -> None:
        """ValueError for a share of what the model has not, or cannot do without."""
        if self.targets["edges"] and not self.edge_masks:
            raise ValueError(
                "edges: no head of the model has a mask of edges: make it with "
                "head=gf.Head(sparsify='edge_mask')"
            )
        if self.targets["heads"]:
            for i, block in enumerate(self.blocks):
                layer = block.self_attn
                if layer.o_proj is None or not layer.features.projects:
                    raise ValueError(
                        f"heads: layer {i} has features={layer.features.name!r} and "
                        f"update={layer.update.name!r}, whose heads are places of the stream and "
                        "cannot be taken out: make the model with value_projection=True and "
                        "output_projection=True, or prune layers or weights"
                    )
                if layer.update.num_outputs(layer.num_heads) != layer.num_heads:
                    raise ValueError(
                        f"heads: update={layer.update.name!r} of layer {i} makes one output of "
                        "several heads: prune layers or weights"
                    )
        if self.targets["layers"]:
            reading = [i for i, one in enumerate(self.blocks) if one.self_attn.score_slot.previous]
            if reading:
                raise ValueError(
                    f"layers: layer {reading[0]} reads the graph of the layer before, which may be "
                    "cut: prune heads or weights"
                )

    def _rehearse(self) -> None:
        """Takes out what can be taken out, before any time goes into training; parameters that
        start at 0 or alike, such as those of gates, would hide what they do later.
        """
        for mask in self.heads:
            mask.kept[max(len(mask.kept) // 2, 1) :] = False
        for mask in self.layers[1:2]:
            mask.kept.fill_(False)
        stirred, draw = copy.deepcopy(self.model), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for one in stirred.parameters():
                one.add_(0.1 * torch.randn(one.shape, generator=draw).to(one))
        try:
            exported(stirred, self.heads, self.layers)
        except ValueError:
            self.remove()
            raise
        for mask in (*self.heads, *self.layers):
            mask.kept.fill_(True)

    # ------------------------------------------------------------------ the schedule

    def step(self, step: int) -> None:
        """Before optimizer step ``step`` (0, 1, ...): cut what the schedule says; from ``begin +
        steps`` on everything is hard.
        """
        for one in self.edge_masks if self.targets["edges"] else ():
            one.draw.fill_(1 + whole("step", step, 0))
        end = self.begin + self.steps
        if step == self.last or (step < end and step % self.every and self.last >= 0):
            return
        self.last = step
        now = {
            name: cubic_sparsity(step, target, self.begin, self.steps)
            for name, target in self.targets.items()
        }
        with torch.no_grad():
            if self.heads:
                self._cut_heads(now["heads"])
            if self.layers:
                logits = torch.stack([mask.logits() for mask in self.layers])
                cut = smallest(logits, min(_rounded(now["layers"], len(logits)), len(logits) - 1))
                for mask, one in zip(self.layers, cut, strict=True):
                    mask.kept.copy_(~one)
            for module, mask in self.maps:
                weight: Any = module.parametrizations.weight.original  # type: ignore[union-attr]
                logits = mask.logits(weight)
                mask.kept.copy_(~smallest(logits, _rounded(now["weights"], logits.numel())))
            if self.targets["edges"]:
                for one in self.edge_masks:
                    one.set_sparsity(now["edges"])
        for mask in self._all_masks():
            mask.hard.fill_(step >= end)

    def _all_masks(self) -> list[Any]:
        edges = self.edge_masks if self.targets["edges"] else []
        return [*self.heads, *self.layers, *(mask for _, mask in self.maps), *edges]

    def _cut_heads(self, share: float) -> None:
        """All layers together, the last one of a layer left."""
        logits = torch.cat([mask.logits() for mask in self.heads])
        layer = torch.cat(
            [torch.full((len(one.kept),), i) for i, one in enumerate(self.heads)]
        ).tolist()
        left = [len(mask.kept) for mask in self.heads]
        cut = torch.zeros(len(logits), dtype=torch.bool)
        wanted = _rounded(share, len(logits))
        for unit in reversed(logits.argsort(descending=True, stable=True).tolist()):
            if wanted and left[layer[unit]] > 1:
                cut[unit], wanted = True, wanted - 1
                left[layer[unit]] -= 1
        for mask, one in zip(self.heads, cut.split([len(m.kept) for m in self.heads]), strict=True):
            mask.kept.copy_(~one)

    def harden(self) -> None:
        """The end of the schedule at once."""
        self.step(self.begin + self.steps)

    @property
    def sparsity(self) -> dict[str, float]:
        """The share of units that are cut now, by part."""
        found: dict[str, float] = {}
        for name, masks in (
            ("heads", self.heads),
            ("layers", self.layers),
            ("weights", [mask for _, mask in self.maps]),
        ):
            if masks:
                units = sum(mask.kept.numel() for mask in masks)
                found[name] = 1 - sum(int(mask.kept.sum()) for mask in masks) / units
        if self.targets["edges"]:
            found["edges"] = int(self.edge_masks[0].millionths) / MILLION
        return found

    # ------------------------------------------------------------------ what is left

    def export(self) -> GraphformerForCausalLM:
        """The model without what is cut now: a new one, in evaluation mode, with fewer heads and
        layers, and zeros in the places of weights. ``save_pretrained`` and ``generate`` as always.

        Its config says how many heads each layer has left (``num_attention_heads`` is a list where
        the numbers differ). It is compared with this model in evaluation mode, in float64.

        Raises:
            ValueError: it is not the same, for a slot mixes heads.
        """
        return exported(self.model, self.heads, self.layers)

    def remove(self) -> GraphformerForCausalLM:
        """The model without masks, as it was before but for what it has learned: heads, layers and
        weights that were cut are back. (:meth:`export` makes the cut one.)
        """
        for handle in self._handles:
            handle.remove()
        for module, _ in self.maps:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            # where it stood before: optimizers know parameters by their order
            for name in [name for name in module._parameters if name != "weight"]:
                module._parameters[name] = module._parameters.pop(name)
        if hasattr(self.model, "pruning"):
            del self.model.pruning
        self._handles, self.maps, self.heads, self.layers = [], [], [], []
        return self.model


class PruningCallback(TrainerCallback):
    """A :class:`Pruner`'s schedule in transformers' Trainer: a cut before each optimizer step, and
    the shares that are cut in the log (``pruned_heads`` and so on).
    """

    def __init__(self, pruner: Pruner) -> None:
        self.pruner = pruner

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        end = self.pruner.begin + self.pruner.steps
        if state.max_steps <= end:
            raise ValueError(
                f"the schedule ends at step {end} and training at {state.max_steps}, with masks "
                "that are not hard: give the Pruner fewer steps or the Trainer more"
            )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.pruner.step(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is not None:
            told = {f"pruned_{name}": one for name, one in self.pruner.sparsity.items()}
            logs |= told  # for the callbacks after this one; the history has its line already
            if state.log_history:
                state.log_history[-1] |= told


class _OfHeads:
    """A mask before the output map; an object, so that a copy of the model copies it too."""

    def __init__(self, mask: ConcreteMask, width: int) -> None:
        self.mask, self.width = mask, width

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        z = self.mask()
        return args[0] * z.repeat_interleave(self.width // len(z)).to(args[0].dtype), *args[1:]


class _OfLayer:
    """A mask of what a block adds to the stream."""

    def __init__(self, mask: ConcreteMask) -> None:
        self.mask = mask

    def after(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        x, rest = (out, ()) if isinstance(out, Tensor) else (out[0], tuple(out[1:]))
        z = self.mask().to(x.dtype)
        x = z * x + (1 - z) * args[0]  # exactly one of them where z is 0 or 1
        return (x, *rest) if rest else x


def _rounded(share: float, count: int) -> int:
    return min(math.floor(share * count + 0.5), count)
