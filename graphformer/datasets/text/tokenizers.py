"""Tokenizers that give back exactly the text that went in.

All three kinds are one model of the ``tokenizers`` library, byte pair encoding: ``char`` and
``byte`` have no merges, ``bpe`` learns some. No kind has special tokens, so the vocabulary is what
the text needs and nothing else.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

KINDS = ("char", "byte", "bpe")
DEFAULT_BPE_VOCAB_SIZE = 1024


def build_tokenizer(kind: str, text: str, vocab_size: int | None = None) -> PreTrainedTokenizerFast:
    """A lossless tokenizer: ``tokenizer.decode(encode(tokenizer, s)) == s``, spaces, line ends and
    all scripts included.

    Args:
        kind: ``"char"``, one token for each character that occurs in ``text``, in the order of code
            points; ``"byte"``, the 256 bytes of UTF-8, where token ``n`` is byte ``n``; ``"bpe"``,
            bytes and the merges learned from ``text`` (give it the training part only).
        text: the text to learn from (``"byte"`` does not look at it).
        vocab_size: size of the ``"bpe"`` vocabulary (1024 unless given). A text too short to fill
            it gives a smaller one.

    Raises:
        ValueError: an unknown kind, an empty text, a ``vocab_size`` below 256, or one given to a
            kind that has its own.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if kind != "bpe" and vocab_size is not None:
        raise ValueError(
            f"vocab_size={vocab_size} has no use with kind={kind!r}, which has its own size; use "
            "kind='bpe' or leave it out."
        )
    if kind != "byte" and not text:
        raise ValueError(
            f"text is empty; kind={kind!r} learns its tokens from the text, so give it some."
        )

    if kind == "char":
        tokenizer = Tokenizer(
            models.BPE({character: i for i, character in enumerate(sorted(set(text)))}, [])
        )
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer = _byte_pairs(text if kind == "bpe" else None, vocab_size)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Token ids of a text, int64 ``[num_tokens]``, without special tokens. Nothing is dropped
    silently.

    Raises:
        ValueError: characters that the tokenizer has no token for, each of them named.
    """
    refuse_unknown(tokenizer, text)
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64)


def refuse_unknown(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Raise ValueError where ``text`` has characters that the tokenizer has no token for; the error
    names them.
    """
    if unknown := [
        character for character in sorted(set(text)) if not _knows(tokenizer, character)
    ]:
        shown = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in unknown[:8])
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise ValueError(
            f"text: the tokenizer never saw {shown}{more}; leave them out, or train with a byte or "
            "bpe tokenizer, which knows every character."
        )


def _byte_pairs(text: str | None, vocab_size: int | None) -> Tokenizer:
    """Byte-level pair encoding: the 256 bytes, and the merges that ``text`` teaches (none without
    it).
    """
    letters = _byte_letters()
    tokenizer = Tokenizer(models.BPE({letter: byte for byte, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=text is not None
    )
    tokenizer.decoder = decoders.ByteLevel()
    if text is not None:
        vocab_size = DEFAULT_BPE_VOCAB_SIZE if vocab_size is None else vocab_size
        if vocab_size < 256:
            raise ValueError(
                f"vocab_size must be at least 256, one token for each byte, got {vocab_size}."
            )
        tokenizer.train_from_iterator(
            [text],
            trainers.BpeTrainer(
                vocab_size=vocab_size, initial_alphabet=letters, show_progress=False
            ),
        )
    return tokenizer


def _byte_letters() -> list[str]:
    """The visible letter that the ``tokenizers`` library writes for each byte, in the order of
    bytes (GPT-2's table).
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]


def _knows(tokenizer: PreTrainedTokenizerBase, character: str) -> bool:
    try:
        ids = tokenizer(character, add_special_tokens=False)["input_ids"]
    except (UnicodeEncodeError, TypeError):  # half of a surrogate pair: no text at all
        return False
    return bool(ids) and (tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids)
