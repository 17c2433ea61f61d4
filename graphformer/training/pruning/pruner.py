"""Heads, layers, hidden units, weights and edges of a model behind masks, cut by a schedule."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import TrainerCallback

from graphformer.attention.sparsifiers.edge_mask import MILLION, EdgeMask
from graphformer.errors import number, whole
from graphformer.models.language import GraphformerForCausalLM
from graphformer.training.pruning.export import exported
from graphformer.training.pruning.kinds import Kind
from graphformer.training.pruning.language import Language
from graphformer.training.pruning.masks import ConcreteMask, MaskedWeight, cubic_sparsity, smallest


class Pruner:
    r"""Trains masks of a model's heads, layers, hidden units, weights and edges together with the
    model, cuts more and more of them, and makes the smaller model that is left.

    >>> pruner = gf.training.Pruner(model, heads=0.5, layers=0.25, steps=400, begin=50)
    >>> transformers.Trainer(model, ..., callbacks=[gf.training.PruningCallback(pruner)]).train()
    >>> small = pruner.export()  # a GraphformerForCausalLM with fewer heads and layers

    >>> pruner = gf.training.Pruner(net, heads=0.5, widths=0.5, steps=400, example=train[0])
    >>> trainer = gf.training.GraphTrainer(net, train, validation, "runs/pruned", epochs=50)
    >>> trainer.add_callback(gf.training.PruningCallback(pruner))

    Of n units :math:`\lfloor s_t n + 1/2 \rfloor` with the smallest logits are cut at step t, with
    the cubic schedule :func:`cubic_sparsity`; the others have a
    :class:`~graphformer.training.ConcreteMask`, until the end of the schedule, where what is left
    is whole. A unit that is cut comes back where the others' logits fall below its own.

    - *heads*: a key head with the queries it serves, all layers ranked together; a layer keeps at
      least one. The mask multiplies its output before the output map. Of a graph transformer each
      block by itself, so that all keep the same number; refined graphs are merged of the heads that
      are kept.
    - *layers*: what a block of a language model, attention and feed-forward, adds to the stream.
    - *widths*: hidden units of gated feed-forwards, each block by itself.
    - *weights*: entries of the linear maps in the blocks, each map by itself. Their logits start by
      their size. They become zeros, which no kernel here skips.
    - *edges*: those of :class:`~graphformer.attention.sparsifiers.EdgeMask` in the heads.

    Heads, layers, weights and edges are those of GTSP (arXiv 2312.05479), which has a criterion of
    its own for each (gradients for heads, random depth for layers, size and regrowth for weights);
    here all have the same trained mask.

    The masks are the model's own parameters under ``pruning``, so an optimizer that is made
    afterwards trains them, checkpoints hold them, and
    :meth:`torch.nn.utils.parametrize` has the weights. In evaluation a mask is 1 or 0.

    Args:
        model: a :class:`~graphformer.GraphformerForCausalLM` or
            :class:`~graphformer.GraphTransformer`, changed in place: see :meth:`remove`.
        heads, layers, widths, weights, edges: the share that is cut in the end, in ``[0, 1)``; 0
            leaves them alone.
        steps: optimizer steps from the first cut to the last.
        begin: steps before, in which only the masks learn.
        every: steps from one cut to the next.
        temperature, start, gain: of the masks.
        example: of a graph transformer, ``Data`` or ``Batch`` on which the smaller model is
            compared.

    Raises:
        TypeError: another kind of model.
        ValueError: shares that cut nothing or everything; a model whose heads or layers cannot be
            taken out, found by taking some out; a model that has masks already.
    """

    def __init__(
        self,
        model: Any,
        *,
        heads: float = 0.0,
        layers: float = 0.0,
        widths: float = 0.0,
        weights: float = 0.0,
        edges: float = 0.0,
        steps: int,
        begin: int = 0,
        every: int = 1,
        temperature: float = 0.5,
        start: float = 4.0,
        gain: float = 100.0,
        example: Any = None,
    ) -> None:
        self.kind = _kind_of(model, example)
        shares = {
            "heads": heads,
            "layers": layers,
            "widths": widths,
            "weights": weights,
            "edges": edges,
        }
        for name, share in shares.items():
            if not 0 <= number(name, share) < 1:
                raise ValueError(f"{name} must be a share in [0, 1), got {share}")
        if not any(shares.values()):
            raise ValueError(
                "nothing is to be pruned: give heads, layers, widths, weights or edges a share"
            )
        if hasattr(model, "pruning"):
            raise ValueError("this model has masks of a Pruner already: call its remove() first")
        self.model, self.targets = model, shares
        self.steps, self.begin = whole("steps", steps), whole("begin", begin, 0)
        self.every, self.last = whole("every", every), -1
        self.edge_masks = [one for one in model.modules() if isinstance(one, EdgeMask)]
        self.kind.check(shares)
        if edges and not self.edge_masks:
            raise ValueError(
                "edges: no head of the model has a mask of edges: make it with "
                "head=gf.Head(sparsify='edge_mask')"
            )
        given = {"temperature": temperature, "start": start, "gain": gain}
        # a bfloat16 has no room for small steps
        precision = torch.promote_types(self.kind.precision, torch.float32)

        def new(mask: type[ConcreteMask], shape: Sequence[int]) -> Any:
            return mask(shape, **given).to(self.kind.device, precision)

        self._handles: list[Any] = []
        self.heads: list[ConcreteMask] = []
        self.layers: list[ConcreteMask] = []
        self.widths: list[ConcreteMask] = []
        self.maps: list[tuple[nn.Module, MaskedWeight]] = []
        for site in self.kind.sites:
            if heads:
                self.heads.append(new(ConcreteMask, (site.units,)))
                hook = _BeforeMap(self.heads[-1], site.width).before
                self._handles.append(site.attention.o_proj.register_forward_pre_hook(hook))
            if layers:
                self.layers.append(new(ConcreteMask, ()))
                after = _OfLayer(self.layers[-1]).after
                self._handles.append(site.block.register_forward_hook(after))
            if widths:
                down = site.feed_forward.down_proj
                self.widths.append(new(ConcreteMask, (down.in_features,)))
                hook = _BeforeMap(self.widths[-1], down.in_features).before
                self._handles.append(down.register_forward_pre_hook(hook))
            for one in site.block.modules() if weights else ():
                if isinstance(one, nn.Linear):
                    mask = new(MaskedWeight, one.weight.shape)
                    parametrize.register_parametrization(one, "weight", mask)
                    self.maps.append((one, mask))
        self.kind.attach(self.heads)
        # the first two are there even where nothing of theirs is cut: checkpoints know the order
        kept = {"heads": self.heads, "layers": self.layers, "widths": self.widths}
        held = {name: nn.ModuleList(one) for name, one in kept.items() if one or name != "widths"}
        model.pruning = nn.ModuleDict(held)
        model.pruning.train(model.training)
        if self.heads or self.layers or self.widths:
            self._rehearse()
        self.step(0)

    def _rehearse(self) -> None:
        """Takes out what can be taken out, before any time goes into training; parameters that
        start at 0 or alike, such as those of gates, would hide what they do later.
        """
        for i, mask in enumerate((*self.heads, *self.widths)):
            # others in each block, so that what one block reads of another comes to light
            turned = (torch.arange(len(mask.kept)) + i) % len(mask.kept)
            mask.kept.copy_(turned < max(len(mask.kept) // 2, 1))
        for mask in self.layers[1:2]:
            mask.kept.fill_(False)
        stirred, draw = copy.deepcopy(self.model), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for one in stirred.parameters():
                one.add_(0.1 * torch.randn(one.shape, generator=draw).to(one))
        try:
            exported(self.kind.of(stirred), self.heads, self.layers, self.widths)
        except ValueError:
            self.remove()
            raise
        for mask in (*self.heads, *self.layers, *self.widths):
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
            if self.heads and not self.kind.even:
                self._cut_heads(now["heads"])
            elif self.heads:
                _cut_alike(self.heads, now["heads"])
            _cut_alike(self.widths, now["widths"])
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
        maps = [mask for _, mask in self.maps]
        return [*self.heads, *self.layers, *self.widths, *maps, *edges]

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
            ("widths", self.widths),
            ("weights", [mask for _, mask in self.maps]),
        ):
            if masks:
                units = sum(mask.kept.numel() for mask in masks)
                found[name] = 1 - sum(int(mask.kept.sum()) for mask in masks) / units
        if self.targets["edges"]:
            found["edges"] = int(self.edge_masks[0].millionths) / MILLION
        return found

    # ------------------------------------------------------------------ what is left

    def export(self) -> Any:
        """The model without what is cut now: a new one, in evaluation mode, with fewer heads,
        layers and hidden units, and zeros in the places of weights. It is saved, loaded and called
        as always.

        The config of a language model says how many heads each layer has left
        (``num_attention_heads`` is a list where the numbers differ), ``settings`` those of a graph
        transformer. It is compared with this model in evaluation mode, in float64.

        Raises:
            ValueError: it is not the same, for a slot mixes heads.
        """
        return exported(self.kind, self.heads, self.layers, self.widths)

    def remove(self) -> Any:
        """The model without masks, as it was before but for what it has learned: heads, layers and
        weights that were cut are back. (:meth:`export` makes the cut one.)
        """
        self.kind.attach([])
        for handle in self._handles:
            handle.remove()
        for module, _ in self.maps:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            # where it stood before: optimizers know parameters by their order
            for name in [name for name in module._parameters if name != "weight"]:
                module._parameters[name] = module._parameters.pop(name)
        if hasattr(self.model, "pruning"):
            del self.model.pruning
        self._handles, self.maps = [], []
        self.heads, self.layers, self.widths = [], [], []
        return self.model


class PruningCallback(TrainerCallback):
    """A :class:`Pruner`'s schedule in transformers' Trainer, or in a
    :class:`~graphformer.training.GraphTrainer` (``trainer.add_callback``): a cut before each
    optimizer step, and the shares that are cut in the log (``pruned_heads`` and so on).

    Where the best weights are kept in the end, those from before the end of the schedule do not
    count: they are the weights of a model that is not yet cut. Training that ends earlier is told
    in a warning.
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
        if state.global_step == self.pruner.begin + self.pruner.steps:
            state.best_metric = state.best_model_checkpoint = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        end = self.pruner.begin + self.pruner.steps
        if state.global_step <= end:
            warnings.warn(
                f"training ended at step {state.global_step}, and the schedule of pruning ends at "
                f"{end}: the masks are not hard, and {self.pruner.sparsity} is cut. "
                "Pruner.harden() cuts the rest at once",
                stacklevel=2,
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is not None:
            told = {f"pruned_{name}": one for name, one in self.pruner.sparsity.items()}
            logs |= told  # for the callbacks after this one; the history has its line already
            if state.log_history:
                state.log_history[-1] |= told


def _kind_of(model: Any, example: Any) -> Kind:
    if isinstance(model, GraphformerForCausalLM):
        return Language(model, example)
    from graphformer.models.graphs.transformer import GraphTransformer
    from graphformer.training.pruning.graphs import Graphs

    if isinstance(model, GraphTransformer):
        return Graphs(model, example)
    raise TypeError(
        f"model must be a GraphformerForCausalLM or a GraphTransformer, got {type(model).__name__}"
    )


def _cut_alike(masks: list[ConcreteMask], share: float) -> None:
    """In each block by itself, one unit at least left."""
    for mask in masks:
        count = len(mask.kept)
        mask.kept.copy_(~smallest(mask.logits(), min(_rounded(share, count), count - 1)))


class _BeforeMap:
    """A mask before a linear map; an object, so that a copy of the model copies it too."""

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
