"""Mixtures of attention experts that start from trained dense models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphformer.attention.head import Head
from graphformer.attention.updates import Experts, OutputMap
from graphformer.errors import number, strict_flags, whole
from graphformer.models.language.configuration import GraphformerConfig
from graphformer.models.language.model import GraphformerForCausalLM

SAID_BY_HEADS = ("score", "threshold", "top_k", "normalize", "value_projection")


@strict_flags
def upcycle(
    models: GraphformerForCausalLM | Sequence[GraphformerForCausalLM],
    experts: int | None = None,
    *,
    top: int | None = None,
    shared: bool = False,
    router_std: float = 0.02,
    seed: int = 0,
) -> GraphformerForCausalLM:
    r"""A model whose attention is a mixture of experts that are copies of trained dense models'
    attention (BAM, arXiv 2408.08274).

    In each layer, with g the router of :class:`~graphformer.attention.updates.Experts`,

    .. math::
        y = \sum_e g_e(x)\, W_o^{(e)} \mathrm{heads}^{(e)}(x)

    Of one model, all experts are copies of its attention, and the new model **is** the old one,
    whatever the router says, for its gates sum to 1. With ``top=k`` the k largest gates count,
    times E / k, so that is exact while gates are equal (``router_std=0``) and else as far as E / k
    times their sum is 1. Of several models (a dense model trained on in several directions),
    expert e is the attention of the e-th, and what is no expert, embeddings, norms and
    feed-forwards, is their mean.

    With ``shared`` the experts have the same keys and values, and queries and output maps of their
    own: the cache is as large as before. Else each has its own.

    Args:
        models: dense models of one config, with the usual output map and projected values.
        experts: how many copies, of one model; of several it is their number.
        top: how many experts a token takes; None: all.
        router_std: standard deviation of the routers' weights. Experts that are copies learn the
            same from equal gates, and remain copies with 0.
        seed: of the routers.

    Returns:
        A new model in evaluation mode; the others are not changed.

    Raises:
        ValueError: models of several configs, an update that is no output map, heads that are
            slices of the stream.
    """
    found = [models] if isinstance(models, nn.Module) else list(models)
    for one in found:
        if not isinstance(one, GraphformerForCausalLM):
            raise TypeError(f"models must be GraphformerForCausalLM, got {type(one).__name__}")
    if len(found) == 1:
        if experts is None or whole("experts", experts) < 2:
            raise ValueError(f"experts={experts}: give the number of copies, 2 or more")
        found = found * experts
    elif experts is not None and experts != len(found):
        raise ValueError(f"experts={experts}, and there are {len(found)} models: leave it out")
    if not found:
        raise ValueError("models is empty: give a trained model, or several")
    count, first = len(found), found[0]
    plain = _settings(first.config)
    for one in found[1:]:
        if _settings(one.config) != plain:
            raise ValueError("models have different configs: experts are layers of one shape")
    number("router_std", router_std, least=0.0)
    for i, block in enumerate(first.model.layers):
        layer: Any = block.self_attn
        if type(layer.update) is not OutputMap or not layer.features.projects:
            raise ValueError(
                f"layer {i} has update={layer.update.name!r} and features={layer.features.name!r}: "
                "experts are made of heads with projected values and an output map "
                "(value_projection=True, output_projection=True)"
            )
    config = mixed_config(first.config, count, top, shared)
    made: Any = GraphformerForCausalLM(config)
    made.to(device=first.device, dtype=first.dtype)
    held = [one.state_dict() for one in found]
    draw, state = torch.Generator().manual_seed(seed), {}
    for name, new in made.state_dict().items():
        if name not in held[0]:  # a router
            state[name] = torch.zeros_like(new)
            if name.endswith("weight"):
                random = torch.randn(new.shape, generator=draw, dtype=torch.float64)
                state[name] = (router_std * random).to(new)
            continue
        old = [one[name] for one in held]
        heads = None
        if name.startswith("model.layers."):
            place, rest = name.removeprefix("model.layers.").split(".", 1)
            if rest.startswith("self_attn."):
                heads = first.config.layer_num_key_value_heads[int(place)] if shared else 1
            if rest == "self_attn.o_proj.weight":
                old = [one / (top or count) for one in old]
        state[name] = joined(name, old, new.shape, heads)
    made.load_state_dict(state)
    made.tie_weights()
    made.generation_config = copy.deepcopy(first.generation_config)
    return made.eval()


def _settings(config: Any) -> dict[str, Any]:
    plain = config.to_dict()
    return {name: plain[name] for name in GraphformerConfig.__dataclass_fields__ if name in plain}


def mixed_config(config: Any, experts: int, top: int | None, shared: bool) -> GraphformerConfig:
    """The config of the mixture: as many heads for each expert, and heads with its update."""
    plain = copy.deepcopy(config).to_dict()
    update = Experts(experts, top, shared=shared, maps=True)
    heads = []
    for one in config.layer_heads:
        slots = _slots(config) if one is None else {**one.spec()}
        heads.append({**slots, "update": Head(update=update).spec()["update"]})
    defaults = GraphformerConfig.__dataclass_fields__
    plain |= {name: defaults[name].default for name in (*SAID_BY_HEADS, "output_projection")}
    kv_heads = config.layer_num_key_value_heads
    plain |= {
        "head": heads,
        "head_dim": config.head_dim,
        "num_attention_heads": [experts * one for one in config.layer_num_heads],
        "num_key_value_heads": [one if shared else experts * one for one in kv_heads],
    }
    for name in ("num_attention_heads", "num_key_value_heads"):
        if isinstance(getattr(config, name), int):
            plain[name] = plain[name][0]
    return GraphformerConfig(**plain)


def _slots(config: GraphformerConfig) -> dict[str, Any]:
    """What the fields of a config say of slots, as the plain form of a head."""
    score = config.score
    if isinstance(score, dict) and "name" not in score:
        ((name, width),) = score.items()
        score = {"name": name, "width": width}
    found: dict[str, Any] = {"score": score, "normalize": config.normalize}
    cuts: list[Any] = []
    if config.threshold is not None:
        given = config.threshold
        cuts.append(given if isinstance(given, dict) else {"name": "threshold", "tau": given})
    if config.top_k is not None:
        cuts.append({"name": "top_k", "k": config.top_k})
    if len(cuts) == 2:
        cuts = [{"name": "both", "first": cuts[0], "second": cuts[1]}]
    if cuts:
        found["sparsify"] = cuts[0]
    if config.value_projection:
        found["features"] = "projection"
    return Head.from_spec(found).spec()


def joined(name: str, old: Sequence[Tensor], shape: torch.Size, heads: int | None) -> Tensor:
    """The tensors of the experts as one. Along a dimension that is E times as long they stand
    beside each other: expert by expert, or with ``heads`` key heads that all share, key head by key
    head. Where no dimension is, it is their mean.
    """
    longer = [axis for axis, size in enumerate(shape) if size != old[0].shape[axis]]
    if not longer:
        # one and the same tensor stays what it is, to the last bit
        same = all(torch.equal(one, old[0]) for one in old)
        return old[0].clone() if same else torch.stack(list(old)).mean(0)
    (axis, *others) = longer
    size = old[0].shape[axis]
    if others or heads is None or shape[axis] != len(old) * size or size % heads:
        raise ValueError(
            f"{name} {list(old[0].shape)} has no equal part for each head, and cannot be one of "
            f"{len(old)} experts of a mixture {list(shape)}"
        )
    parts = [one.unflatten(axis, (heads, size // heads)) for one in old]
    return torch.stack(parts, axis + 1).flatten(axis, axis + 2)
