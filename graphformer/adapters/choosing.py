"""Which modules a config names, each name and number looked at by itself: PEFT looks at all of them
together, and goes on where one of several matches nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from graphformer.errors import whole

if TYPE_CHECKING:
    from graphformer.adapters.config import SparseGINConfig

HEADS = ("classifier", "score", "qa_outputs")
"""What PEFT adds to ``modules_to_save`` for a task of classes or questions, whichever of them the
model has.
"""

CHOOSING = (
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
)


def check_names(config: SparseGINConfig) -> None:
    """That a config chooses modules by names and numbers, and in one way.

    Raises:
        TypeError, ValueError: something else.
    """
    for name in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"):
        value = getattr(config, name)
        if value is None:
            continue
        text = name != "modules_to_save" and isinstance(value, str)
        if not text and not (
            isinstance(value, (list, tuple, set)) and all(isinstance(one, str) for one in value)
        ):
            form = "" if name == "modules_to_save" else "a text or "
            raise TypeError(f"{name} must be {form}a list of names, got {value!r}")
        if (not value and name == "target_modules") or "" in ([value] if text else value):
            raise ValueError(f"{name}={value!r} names no module: leave it out, or give the names")
        if not text:  # PEFT appends to modules_to_save
            setattr(
                config,
                name,
                set(value) if name in ("target_modules", "exclude_modules") else list(value),
            )
    numbers = config.layers_to_transform
    if numbers is not None:
        numbers = [numbers] if isinstance(numbers, int) else numbers
        if not isinstance(numbers, (list, tuple, set, range)):
            raise TypeError(
                f"layers_to_transform must be a number or a list of numbers, got {numbers!r}"
            )
        if not numbers:
            raise ValueError(
                "layers_to_transform is empty, which leaves no layer: leave it out for all, or "
                "give the numbers"
            )
        for one in numbers:
            whole("layers_to_transform", one, 0)
        if not isinstance(config.layers_to_transform, int):
            config.layers_to_transform = list(numbers)  # as it is saved
    if isinstance(config.target_modules, str) and config.layers_to_transform is not None:
        raise ValueError(
            "layers_to_transform picks among names: with a regular expression in "
            "target_modules, say it there"
        )
    if config.layers_pattern and config.layers_to_transform is None:
        raise ValueError("layers_pattern says where layers_to_transform counts: give both")


def only(config: SparseGINConfig, *fields: str) -> SparseGINConfig:
    """A config that chooses modules by these of its fields alone."""
    made = copy.copy(config)
    for name in CHOOSING:
        if name not in fields:
            setattr(made, name, None)
    return made


def require_matches(
    config: SparseGINConfig, model: nn.Module, paths: Sequence[str], what: str
) -> None:
    """That each name and number of the config is one of this model's.

    Args:
        paths: what there is to choose from, ``what`` they are.

    Raises:
        ValueError: one that matches nothing.
    """
    many = what != "attention module"
    has = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in paths) if many else paths)
    for field in ("target_modules", "exclude_modules"):
        given = getattr(config, field) or ()
        names = [given] if isinstance(given, str) else sorted(given)
        for name in names:
            asked = only(config)
            asked.target_modules = name if isinstance(given, str) else [name]
            if any(check_target_module_exists(asked, path) for path in paths):
                continue
            # where nothing is left, that is told with all that chooses
            if field == "exclude_modules" or len(names) > 1:
                raise ValueError(
                    f"{field} names {name!r}, which is no {what} of this model; it has {has}"
                )
    numbers = config.layers_to_transform
    if numbers is not None and (full := sorted({*(config.target_modules or ())} & {*paths})):
        raise ValueError(
            f"layers_to_transform picks among names such as "
            f"{paths[0].rpartition('.')[2]!r}, and {full[0]!r} in target_modules is one whole path"
        )
    for number in [numbers] if isinstance(numbers, int) else numbers or ():
        asked = only(config, "layers_pattern")
        asked.target_modules = [path.rpartition(".")[2] for path in paths]
        asked.layers_to_transform = [number]
        if not any(check_target_module_exists(asked, path) for path in paths):
            raise ValueError(
                f"layers_to_transform names layer {number}, which this model has not got"
                + (
                    f" under layers_pattern={config.layers_pattern!r}"
                    if config.layers_pattern
                    else ""
                )
                + f"; it has {', '.join([paths[0], paths[-1]] if many else paths)}"
            )
    known = [path for path, _ in model.named_modules()]
    for name in config.modules_to_save or ():
        if name not in HEADS and not any(path.endswith(name) for path in known):
            raise ValueError(
                f"modules_to_save names {name!r}, and this model has no module of that name"
            )


def refuse_copies(
    config: SparseGINConfig, model: nn.Module, standing: Sequence[tuple[str, nn.Module]]
) -> None:
    """ValueError where ``modules_to_save`` would copy a module in which the adapter stands."""
    for name in config.modules_to_save or ():
        for path, module in model.named_modules():
            inside = [
                place for place, part in standing if any(one is part for one in module.modules())
            ]
            if inside and path and path.endswith(name):
                raise ValueError(
                    f"modules_to_save={name!r} holds {inside[0]}, where this adapter stands: a "
                    "copy of it would be trained without its adapter. Leave it out of "
                    "modules_to_save (a name stands for all whose paths end with it), or put it "
                    "into exclude_modules"
                )
