"""One short forward pass of a model whose architecture is not known: what to feed it, and how to
leave no trace.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 4


class UnsupportedModel(ValueError):
    """An architecture that the adapter cannot stand in."""


def inner(model: nn.Module) -> Any:
    """The transformers model inside PEFT's wrappers."""
    get = getattr(model, "get_base_model", None)
    return get() if callable(get) else model


def main_input(model: nn.Module) -> str:
    """What the model reads: ``input_ids``, ``pixel_values``, ..."""
    return getattr(inner(model), "main_input_name", "input_ids")


def body(model: nn.Module) -> nn.Module:
    """The transformers model without its head; the part of that name may also be an encoder, which
    reads no inputs (DINOv3).
    """
    whole = inner(model)
    part = getattr(whole, getattr(whole, "base_model_prefix", "") or "_", None)
    takes = inspect.signature(part.forward).parameters if isinstance(part, nn.Module) else {}
    return part if isinstance(part, nn.Module) and main_input(model) in takes else whole


def title(model: nn.Module) -> str:
    """The model's class and type, for errors."""
    return (
        f"{type(inner(model)).__name__} (model type "
        f"{getattr(getattr(model, 'config', None), 'model_type', 'unknown')!r})"
    )


def parameters(module: nn.Module) -> list[str]:
    """Names of what a module's forward takes, in their order."""
    return list(inspect.signature(module.forward).parameters)


def run(model: nn.Module) -> Tensor:
    """The first output of a pass over one sequence.

    Raises:
        UnsupportedModel: nothing known can be fed to the model, or the pass on it failed.
    """
    main = main_input(model)
    if main not in INPUTS:
        raise UnsupportedModel(
            f"Sparse-GIN adapts models over {' or '.join(INPUTS)}, and {title(model)} takes {main}"
        )
    inputs = INPUTS[main](inner(model))
    takes = inspect.signature(body(model).forward).parameters
    # of another length: so shapes tell cross-attention from self-attention
    if "decoder_input_ids" in takes and main == "input_ids":
        tokens = inputs["input_ids"]
        inputs["decoder_input_ids"] = torch.cat((tokens.flip(1), tokens[:, :1]), 1)
    options = {"use_cache": False} if "use_cache" in takes else {}
    try:
        out = body(model)(**inputs, **options)
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise UnsupportedModel(
            f"Sparse-GIN cannot read the attention of {title(model)}, whose pass on "
            f"{' and '.join(inputs)} alone failed: {error}"
        ) from error
    return out[0]


def _tokens(model: Any) -> dict[str, Tensor]:
    """A few tokens ``[1, TOKENS]``, none of them special."""
    try:
        embeddings = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embeddings = None
    if not isinstance(getattr(embeddings, "weight", None), Tensor):
        raise UnsupportedModel(
            f"Sparse-GIN needs input_ids for its first look at {title(model)}, which has no token "
            "embeddings"
        )
    config = getattr(model, "config", None)
    special = {
        getattr(config, f"{kind}_token_id", None)
        for kind in ("pad", "mask", "bos", "eos")
        if config is not None
    }
    special = {token for token in special if isinstance(token, int)}
    tokens = [token for token in range(embeddings.weight.shape[0]) if token not in special][:TOKENS]
    return {"input_ids": torch.tensor([tokens], device=embeddings.weight.device)}


def _image(model: Any) -> dict[str, Tensor]:
    """A fixed image ``[1, channels, height, width]`` of noise, of the size in the model's
    config.
    """
    config = getattr(model.config, "vision_config", model.config)
    channels, size = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    height_width = (size, size) if isinstance(size, int) else size
    if (
        not isinstance(channels, int)
        or not isinstance(height_width, (tuple, list))
        or len(height_width) != 2
    ):
        raise UnsupportedModel(
            f"Sparse-GIN needs an image for its first look at {title(model)}, whose config has "
            f"num_channels={channels!r} and image_size={size!r}, and knows numbers of channels and "
            "sizes such as 224 or (224, 224)"
        )
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    noise = torch.randn(1, channels, *height_width, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": noise.to(like.device, like.dtype)}


INPUTS: dict[str, Callable[[Any], dict[str, Tensor]]] = {
    "input_ids": _tokens,
    "pixel_values": _image,
}
"""How to make what a model's ``main_input_name`` asks for."""


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, each module put back into its own afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
