"""Makes PEFT know Sparse-GIN. PEFT lists its methods in an enum, so that gets one member more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphformer.errors import require

if TYPE_CHECKING:
    from peft import PeftType

NAME = "SPARSEGIN"

# This module is the first of the package to be imported, so here is where a missing PEFT is
# reported.
require("peft", extra="adapters", why="an adapter for a pre-trained model")


def peft_type() -> PeftType:
    """``PeftType.SPARSEGIN``, made on first use."""
    from peft import PeftType

    if NAME not in PeftType.__members__:
        member = str.__new__(PeftType, NAME)
        member._name_ = member._value_ = NAME
        # past the enum's own, which keeps its members from being changed
        type.__setattr__(PeftType, NAME, member)
        PeftType._member_names_.append(NAME)
        PeftType._member_map_[NAME] = member
        PeftType._value2member_map_[NAME] = member
    return PeftType(NAME)


def register(config: type[Any], model: type[Any]) -> None:
    """Say once which classes read, write and run such adapters."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import register_peft_method

    if peft_type() not in PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(name=NAME.lower(), config_cls=config, model_cls=model)
