"""Text, tokenizers and windows of tokens."""

import time

import pytest
import torch
from transformers import AutoTokenizer

from graphformer.datasets import (
    TextDataset,
    build_tokenizer,
    collate_windows,
    embedded_text,
    encode,
    read_text,
    split,
)

ODD = "Two  spaces ,  punctuation . it's\r\n\n\ttab\u00a0é ñ 日本 \U0001f600\u200d. 's  end "


def test_embedded_text_is_long_and_the_same_each_time():
    text = embedded_text()
    assert len(text) > 100_000
    assert text == embedded_text()
    assert text.index("assert") < text.index("yield")  # in the order of names


def test_read_text_keeps_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes("é\r\nb\n".encode())
    assert read_text(tmp_path / "a.txt") == "é\r\nb\n"


def test_a_byte_order_mark_is_no_character_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ufefftwo", encoding="utf-8-sig")
    assert read_text(tmp_path / "a.txt") == "one\n\ufefftwo"  # a second one is


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; give a text file"),
        (b"\xef\xbb\xbf", "is empty; give a text file"),
        (
            "text".encode("utf-16"),
            "is UTF-16 by its byte order mark; convert it first, .*iconv -f utf-16",
        ),
        (b"\xef\xbb\xbfgr\xfcn", r"no UTF-8 text: byte 5 is 0xfc"),
        (b"abc\0def", "binary file: byte 3 is NUL; give a UTF-8 text file"),
        ("grün".encode("latin1"), r"no UTF-8 text: byte 2 is 0xfc .*convert it first"),
    ],
)
def test_read_text_refuses(tmp_path, data, message):
    path = tmp_path / "bad.bin"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read_text(path)
    assert str(path) in str(error.value)


def test_read_text_names_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file '.*nowhere\.txt'"):
        read_text(tmp_path / "nowhere.txt")
    with pytest.raises(
        ValueError, match=f"{tmp_path}' is a directory; give the path of one text file"
    ):
        read_text(tmp_path)


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_tokenizers_give_back_the_text(kind, tmp_path):
    tokenizer = build_tokenizer(kind, ODD * 3, 300 if kind == "bpe" else None)
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = encode(one, ODD)
        assert ids.dtype == torch.int64 and ids.ndim == 1
        assert one.decode(ids) == ODD
        assert one(ODD)["input_ids"] == ids.tolist()  # used without encode, it adds nothing either
        assert len(one) == {"char": len(set(ODD)), "byte": 256, "bpe": 300}[kind]
    assert not tokenizer.all_special_tokens


def test_byte_tokens_are_bytes():
    assert encode(build_tokenizer("byte", ""), ODD).tolist() == list(ODD.encode())


def test_char_tokens_follow_code_points():
    assert encode(build_tokenizer("char", "banana\n"), "\nabn").tolist() == [0, 1, 2, 3]


def test_bpe_merges_and_is_the_same_each_time():
    text = embedded_text()[:50_000]
    first, second = build_tokenizer("bpe", text, 400), build_tokenizer("bpe", text, 400)
    assert first.get_vocab() == second.get_vocab()
    assert len(encode(first, text)) < 0.7 * len(text)
    assert first.decode(encode(first, ODD)) == ODD  # never seen, yet every byte has a token


def test_encode_refuses_what_the_tokenizer_never_saw():
    tokenizer = build_tokenizer("char", "abc")
    with pytest.raises(
        ValueError,
        match=r"never saw 'x' \(U\+0078\), 'é' \(U\+00E9\); leave them out, or train with a byte",
    ):
        encode(tokenizer, "axbéxc")
    with pytest.raises(ValueError, match=r"never saw '\\ud800' \(U\+D800\)"):
        encode(build_tokenizer("byte", ""), "a\ud800")


def test_build_tokenizer_refuses():
    with pytest.raises(ValueError, match="kind must be one of char, byte, bpe, got 'word'"):
        build_tokenizer("word", "abc")
    with pytest.raises(ValueError, match=r"vocab_size must be at least 256.*got 255"):
        build_tokenizer("bpe", "abc", 255)
    with pytest.raises(ValueError, match="vocab_size=99 has no use with kind='char'"):
        build_tokenizer("char", "abc", 99)
    with pytest.raises(ValueError, match="text is empty; kind='char' learns"):
        build_tokenizer("char", "")


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_split_refuses(fraction):
    with pytest.raises(ValueError, match="fraction must be between 0 and 1"):
        split("abc", fraction)


def test_split_keeps_order():
    assert split("abcdefghij") == ("abcdefghi", "j")
    train, validation = split(torch.arange(11), 0.3)
    assert torch.cat([train, validation]).tolist() == list(range(11)) and len(train) == 7


def test_training_windows_are_all_windows():
    windows = TextDataset(torch.arange(11), 3)
    assert [item["input_ids"].tolist() for item in windows] == [
        list(range(s, s + 4)) for s in range(8)
    ]
    assert all(torch.equal(item["labels"], item["input_ids"]) for item in windows)
    assert torch.equal(windows[-1]["input_ids"], windows[7]["input_ids"])
    with pytest.raises(IndexError):
        windows[8]


@pytest.mark.parametrize("length", [4, 5, 6, 7, 8, 11, 13])
def test_evaluation_predicts_each_token_once(length):
    windows = TextDataset(torch.arange(length), 3, stride=3)
    predicted = torch.cat([window["labels"][1:] for window in windows])
    assert predicted.tolist() == list(range(1, length))


def test_windows_refuse():
    with pytest.raises(
        ValueError, match=r"has 5 tokens, .* context_length \+ 1 = 6; .*context_length of at most 4"
    ):
        TextDataset(torch.arange(5), 5)
    with pytest.raises(ValueError, match="context_length must be at least 1, got 0"):
        TextDataset(torch.arange(5), 0)
    with pytest.raises(
        ValueError, match=r"stride must be between 1 and context_length \(2\), got 3"
    ):
        TextDataset(torch.arange(5), 2, stride=3)
    with pytest.raises(TypeError, match=r"one int64 vector, got torch.float32 \[5\]"):
        TextDataset(torch.ones(5), 2)
    with pytest.raises(TypeError, match="one int64 vector, got list"):
        TextDataset([1, 2, 3], 2)


def test_collate_pads_only_where_it_must():
    windows = TextDataset(torch.arange(6), 3, stride=3)  # 0 1 2 3, 3 4 5
    both = collate_windows([windows[0], windows[1]])
    assert both["input_ids"].tolist() == [[0, 1, 2, 3], [3, 4, 5, 0]]
    assert both["labels"].tolist() == [[0, 1, 2, 3], [3, 4, 5, -100]]
    assert both["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert set(collate_windows([windows[0], windows[0]])) == {"input_ids", "labels"}


def test_tiny_shakespeare(data_dir):
    text = read_text(data_dir / "tinyshakespeare" / "input.txt")
    tokenizer = build_tokenizer("char", text)
    start = time.perf_counter()
    tokens = encode(tokenizer, text)
    assert time.perf_counter() - start < 20  # about one second; a quadratic way would take minutes
    assert len(tokenizer) == 65 and tokens.shape == (1_115_394,)
    assert tokenizer.decode(tokens) == text
    train, validation = split(tokens)
    assert (len(train), len(validation)) == (1_003_854, 111_540)
    assert len(TextDataset(train, 64)) == 1_003_854 - 64
    assert (
        sum(len(window["labels"]) - 1 for window in TextDataset(validation, 64, stride=64))
        == 111_539
    )
