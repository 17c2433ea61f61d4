"""What may be given to the forward pass of the language model beside its own arguments, and whether
what is given fits together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphformer.attention.candidates import Packed, Rule
from graphformer.errors import did_you_mean

IGNORED_LABEL = -100

OF_THE_LOSS = ("num_items_in_batch", "ignore_index", "shift_labels")
"""Arguments of transformers' loss functions; its Trainer gives the first."""

_VARLEN = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
_SWITCHES = ("output_hidden_states", "output_attentions", "return_dict")
_KNOWN = (
    "is_causal",
    "cache_position",
    "token_type_ids",
    "output_router_logits",
    *_VARLEN,
    *_SWITCHES,
)


def check_others(
    others: Mapping[str, Any],
    own: Iterable[str],
    position_ids: Tensor | None,
    past: int,
    length: int,
) -> dict[str, Any]:
    """Of the further keyword arguments those that transformers' decorators read; the others say
    what is so anyway, or are refused.

    Args:
        others: what is no argument of the forward pass.
        own: its arguments, to suggest one for a misspelt name.

    Raises:
        TypeError: a name that nobody knows, with the one that was probably meant.
        ValueError: something that this model does not do.
    """
    for name, value in others.items():
        if name not in _KNOWN:
            raise TypeError(
                "forward() got an unexpected keyword argument "
                f"{name!r}{did_you_mean(name, (*own, *_KNOWN))}"
            )
        if value is None or name in _SWITCHES:
            continue
        if name == "is_causal" and value is not True:
            raise ValueError(
                f"is_causal={value!r}: the heads of this model are causal; layers with "
                "is_causal=False are in graphformer.nn"
            )
        if name == "output_router_logits" and value:
            raise ValueError(
                "output_router_logits=True: this model has no experts to route to; leave it out"
            )
        if name in _VARLEN and position_ids is None:
            raise ValueError(
                f"{name} is given and no position_ids: this model tells packed texts apart by "
                "position_ids that start again, as DataCollatorWithFlattening gives them"
            )
        if not torch.compiler.is_compiling():
            _check_value(name, value, position_ids, past, length)
    return {name: value for name, value in others.items() if name in _SWITCHES}


def _check_value(
    name: str, value: Any, position_ids: Tensor | None, past: int, length: int
) -> None:
    if name == "token_type_ids" and bool((torch.as_tensor(value) != 0).any()):
        raise ValueError(
            "token_type_ids holds other types than 0, and this model has no embedding of types; "
            "leave it out"
        )
    if name == "cache_position":
        expected = torch.arange(past, past + length, device=value.device)
        if tuple(value.shape) != (length,) or not torch.equal(value, expected):
            raise ValueError(
                f"cache_position must be {past}..{past + length - 1}, the places after the {past} "
                f"cached tokens, got {value.tolist()}; leave it out, or give position_ids"
            )
    if name in ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx"):
        assert position_ids is not None
        packed = 1 + (position_ids.diff(dim=-1) != 1).sum(-1)
        texts = len(value) - 1 if name != "seq_idx" else int(value.max()) + 1
        if int(packed.sum()) != texts and int(packed.max()) != texts:
            raise ValueError(
                f"{name} tells of {texts} packed texts, position_ids of {int(packed.sum())}: give "
                "such that agree"
            )


def check_tokens(input_ids: Tensor | None, inputs_embeds: Tensor | None, width: int) -> None:
    """Exactly one of them, of the right shape.

    Raises:
        ValueError: both, neither, or another shape.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    if input_ids is not None and input_ids.ndim != 2:
        raise ValueError(f"input_ids must be [batch, length], got shape {list(input_ids.shape)}")
    if input_ids is not None and input_ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"input_ids must be int64 or int32, got {input_ids.dtype}")
    if inputs_embeds is not None and (inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != width):
        raise ValueError(
            f"inputs_embeds must be [batch, length, {width}], got shape {list(inputs_embeds.shape)}"
        )


def embed(embedding: nn.Module, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """The tokens' embeddings ``[B, N, hidden_size]``, where they are not given.

    Raises:
        ValueError: a token that the vocabulary has not got. A GPU ends the program instead.
    """
    if input_ids is None:
        assert inputs_embeds is not None
        return inputs_embeds
    if torch.compiler.is_compiling():
        return embedding(input_ids)
    try:
        return embedding(input_ids)
    except IndexError as error:
        size: int = embedding.weight.shape[0]  # type: ignore[index, assignment]
        raise _outside("input_ids", input_ids, size, error) from None


def _outside(name: str, values: Tensor, vocab: int, error: IndexError) -> Exception:
    """What to raise: the error itself where all values are of the vocabulary."""
    wrong = values[(values < 0) | (values >= vocab)].unique().tolist()
    shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
    return (
        ValueError(
            f"{name} holds {shown}, and the vocabulary has 0..{vocab - 1}: is the tokenizer that "
            "of this model? resize_token_embeddings adds tokens"
            + (f"; {IGNORED_LABEL} is a label to ignore" if "labels" in name else "")
        )
        if wrong
        else error
    )


def loss_of_labels(
    loss: Callable[..., Tensor],
    logits: Tensor,
    labels: Tensor | None,
    vocab_size: int,
    for_loss: Mapping[str, Any],
) -> Tensor:
    """What a loss function of transformers makes of logits and labels.

    Raises:
        ValueError: a label that the vocabulary has not got and that is not ignored.
    """
    given: dict[str, Any] = {
        "logits": logits,
        "labels": labels,
        "vocab_size": vocab_size,
        **for_loss,
    }
    if torch.compiler.is_compiling():
        return loss(**given)
    try:
        return loss(**given)
    except IndexError as error:
        name = "labels" if given.get("shift_labels") is None else "shift_labels"
        ignored = given.get("ignore_index", IGNORED_LABEL)
        raise _outside(name, given[name][given[name] != ignored], vocab_size, error) from None


def check_labels(
    labels: Tensor | None, batch: int, length: int, for_loss: Mapping[str, Any]
) -> None:
    """Labels of the tokens' shape; a warning where none of them is to be predicted, for then the
    mean loss is NaN.
    """
    if labels is None:
        if for_loss.get("ignore_index") is not None:
            raise ValueError(
                "ignore_index is of the loss, which needs labels: give both, or neither"
            )
        return
    if tuple(labels.shape) != (batch, length):
        raise ValueError(
            f"labels must have the shape of the tokens, [{batch}, {length}], got "
            f"{list(labels.shape)}"
        )
    if labels.dtype not in (torch.int64, torch.uint8):
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    if torch.compiler.is_compiling() or for_loss.get("num_items_in_batch") is not None:
        return
    ignored = for_loss.get("ignore_index", IGNORED_LABEL)
    if for_loss.get("shift_labels") is None and not bool((labels[:, 1:] != ignored).any()):
        warnings.warn(
            f"labels hold no token to predict (all after the first are {ignored}): the loss is "
            "NaN; leave such a batch out",
            stacklevel=4,
        )


def refuse_packed_and_padded(position_ids: Tensor, attention_mask: Tensor, past: int) -> None:
    """Texts are packed by positions that start again; a mask of tokens beside it would be read
    alone, and texts would see each other.
    """
    if torch.compiler.is_compiling() or past or attention_mask.ndim != 2:
        return
    keep = attention_mask.bool()
    for position, real in zip(position_ids.expand(len(keep), -1), keep, strict=True):
        steps = position[real].diff()
        if bool((steps <= 0).any()):
            raise ValueError(
                "position_ids start again among the tokens that attention_mask keeps, as of packed "
                "texts, and with a mask of tokens they would see each other: leave attention_mask "
                "out, or give pairs [B, 1, N, N] that keep the texts apart"
            )


def packed_texts(position_ids: Tensor, batch: int) -> Rule | None:
    """A rule that keeps packed texts apart, or ``None`` where every row is a single text."""
    jumps = position_ids.diff(dim=-1) != 1
    if not torch.compiler.is_compiling() and not bool(jumps.any()):
        return None
    segments = F.pad(jumps.long().cumsum(-1), (1, 0)) if position_ids.shape[-1] else position_ids
    return Packed(segments.expand(batch, -1))


def without_trivial(attention_mask: Tensor, num_senders: int, *, cut: bool) -> Tensor | None:
    """The mask without a static cache's empty places, or ``None`` where it hides nothing (plain
    causal attention is faster).
    """
    if attention_mask.ndim == 4 and cut:
        attention_mask = attention_mask[..., :num_senders]
    if attention_mask.ndim == 2 and attention_mask.shape[1] != num_senders:
        raise ValueError(
            f"attention_mask covers {attention_mask.shape[1]} tokens, but there are {num_senders} "
            "(cached ones included)"
        )
    # other numbers than 1, as of packed texts, are refused by the mask itself
    if not torch.compiler.is_compiling() and bool((attention_mask == 1).all()):
        return None
    return attention_mask
