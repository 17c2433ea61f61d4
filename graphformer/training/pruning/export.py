"""The smaller model that is left of a masked one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graphformer.training.pruning.kinds import Kind
from graphformer.training.pruning.masks import ConcreteMask

Masks = Sequence[ConcreteMask]


def exported(kind: Kind, heads: Masks, layers: Masks, widths: Masks) -> Any:
    """A new model without the heads, layers and hidden units that are cut; weights are baked in.

    Args:
        heads, layers, widths: one mask for each block of the kind; none where nothing is cut.
    """
    sites = kind.sites
    depths = [i for i in range(len(sites)) if not layers or bool(layers[i].kept)]

    def left(masks: Masks) -> list[Tensor | None]:
        return [masks[i].kept.nonzero().flatten() if masks else None for i in depths]

    kept, units = left(heads), left(widths)
    try:
        small = kind.smaller(depths, kept, units)
    except ValueError as error:
        raise of_its_slots(error) from error
    held, state = baked(kind.model), {}
    for name, one in small.state_dict().items():
        place = _place(kind, name)
        if place is None:
            state[name] = held[name].detach().clone()
            continue
        site, rest = sites[depths[place]], name.removeprefix(sites[place].prefix)
        of_width = units[place] is not None and rest.startswith(("mlp.", "feed_forward."))
        numbers, count = (units[place], None) if of_width else (kept[place], site.units)
        old = site.prefix + rest
        state[name] = chosen(held[old], one.shape, numbers, count, old)
    small.load_state_dict(state)
    kind.finished(small)
    small.eval()
    compare(kind, small)
    return small


def _place(kind: Kind, name: str) -> int | None:
    """The number of the block that a tensor belongs to, by its name."""
    return next((i for i, one in enumerate(kind.sites) if name.startswith(one.prefix)), None)


def baked(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor under the name that a model without masks has, weights times their masks."""
    found = dict(model.state_dict())
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            with torch.no_grad():
                mask: Any = module.parametrizations.weight[0]
                weight: Any = module.parametrizations.weight.original
                found[f"{name}.weight"] = weight * mask.kept.to(weight.dtype)
    return found


def chosen(
    old: Tensor, shape: torch.Size, numbers: Tensor | None, units: int | None, name: str
) -> Tensor:
    """The part of a tensor that belongs to the units ``numbers``: along a dimension that has become
    shorter, each of them has an equal stretch.

    Args:
        units: how many there were; None: as many as places.
    """
    if numbers is not None:
        for axis, (size, wanted) in enumerate(zip(old.shape, shape, strict=True)):
            if size == wanted:
                continue
            count = size if units is None else units
            if size % count or wanted != size // count * len(numbers):
                raise ValueError(
                    f"{name} {list(old.shape)} has no equal part for each of {count} heads: prune "
                    "layers or weights of such a model"
                )
            old = (
                old.unflatten(axis, (count, -1)).index_select(axis, numbers).flatten(axis, axis + 1)
            )
    return old.detach().clone()


def compare(kind: Kind, small: nn.Module) -> None:
    """ValueError where the smaller model is another function than the masked one.

    In float64 on one input, each model in its own precision's weights.
    """
    whole = copy.deepcopy(kind.model).double().eval()
    other = copy.deepcopy(small).double().eval()
    with torch.no_grad():
        want = kind.answers(whole)
        try:
            found = kind.answers(other)
        except ValueError as error:
            raise of_its_slots(error) from error
    for one, wanted in zip(found, want, strict=True):
        same = one.shape == wanted.shape
        off = float((wanted - one).abs().max()) if same and one.numel() else 0.0
        reach = float(wanted.abs().max()) if wanted.numel() else 0.0
        if not (same and off <= 1e-9 * max(reach, 1.0)):
            raise ValueError(
                "without the heads that are cut the model is another one (its answers differ by "
                f"{off:.2g}): a slot reads several heads at once, such as operator='merged_heads' "
                "or update='gated_heads', a feed-forward over the heads' graphs, or a layer that "
                "reads the heads of another. Prune layers, widths or weights of such a model"
            )


def of_its_slots(error: ValueError) -> ValueError:
    """Slots that are made for one number of heads."""
    return ValueError(
        f"a layer of this model cannot have fewer heads than it was made with ({error}): prune "
        "layers or weights of it"
    )
