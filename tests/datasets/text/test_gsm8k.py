"""GSM8K: where the file comes from, what the records hold, windows for training."""

import hashlib
import json

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from graphformer.datasets import GSM8K, DownloadError, RawFile, build_tokenizer, collate_windows
from graphformer.training import evaluate

RECORDS = [
    {
        "question": "Mia has 2 pens and buys 3. How many?",
        "answer": "Mia has 2+3 = <<2+3=5>>5 pens.\n#### 5",
    },
    {
        "question": "And 1,000 farmer’s boxes of 2?",
        "answer": "It is $<<1000*2=2000>>2000.\n#### 2,000",
    },
    {"question": "What is left of 3 after 5?", "answer": "3-5 = <<3-5=-2>>-2\n#### -2"},
]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


@pytest.fixture
def public(tmp_path, monkeypatch):
    """A folder that serves a small test split; nothing else is known."""
    folder = tmp_path / "public"
    folder.mkdir()
    (folder / "test.jsonl").write_bytes(LINES)
    file = RawFile(
        "test.jsonl", hashlib.sha256(LINES).hexdigest(), (folder / "test.jsonl").as_uri()
    )
    monkeypatch.setattr(GSM8K, "raw_files", {**GSM8K.raw_files, "test": file})
    monkeypatch.delenv("GRAPHFORMER_DATA", raising=False)
    return folder


def test_records_texts_and_answers(public):
    problems = GSM8K(split="test", raw=public)
    assert len(problems) == 3 and list(problems) == RECORDS and problems[-1] == RECORDS[2]
    assert (
        problems.text(0) == "Question: Mia has 2 pens and buys 3. How many?\n"
        "Answer: Mia has 2+3 = <<2+3=5>>5 pens.\n"
        "#### 5\n"
        "\n"
    )
    assert [problems.answer(i) for i in range(3)] == [5, 2000, -2]
    assert repr(problems) == "GSM8K(3 problems, split='test', strip_marks=False)"
    batch = next(iter(DataLoader(problems, batch_size=3)))
    assert batch["question"] == [record["question"] for record in RECORDS]


def test_marks_are_stripped(public):
    plain = GSM8K(split="test", strip_marks=True, raw=public)
    assert plain[0]["answer"] == "Mia has 2+3 = 5 pens.\n#### 5" and plain[1]["answer"].startswith(
        "It is $2000."
    )
    assert [plain.answer(i) for i in range(3)] == [5, 2000, -2]


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_windows_hold_the_texts(public, kind):
    problems = GSM8K(split="test", raw=public)
    whole = "".join(problems.text(i) for i in range(3))
    tokenizer = build_tokenizer(kind, whole, 280 if kind == "bpe" else None)
    windows = problems.windows(tokenizer, 7)
    assert tokenizer.decode(windows.tokens) == whole and windows[0]["input_ids"].shape == (8,)
    assert tokenizer.decode(
        problems.windows(tokenizer, 7, 7, indices=[2, 0]).tokens
    ) == problems.text(2) + problems.text(0)
    assert collate_windows([windows[0], windows[1]])["input_ids"].shape == (2, 8)


def test_windows_with_an_end_token_train_a_model(public):
    import graphformer as gf

    problems = GSM8K(split="test", raw=public)
    tokenizer = build_tokenizer("byte", "")
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    windows = problems.windows(tokenizer, 11, 11, eos=True)
    assert (windows.tokens == tokenizer.eos_token_id).sum() == 3 and windows.tokens[
        -1
    ] == tokenizer.eos_token_id
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 5,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    model = gf.GraphformerForCausalLM(gf.GraphformerConfig(vocab_size=len(tokenizer), **sizes))
    assert evaluate(model, windows).num_tokens == len(windows.tokens) - 1


def test_windows_refuse(public):
    problems, tokenizer = GSM8K(split="test", raw=public), build_tokenizer("byte", "")
    with pytest.raises(ValueError, match="eos=True needs a tokenizer with an end token"):
        problems.windows(tokenizer, 7, eos=True)
    with pytest.raises(ValueError, match="indices is empty; give at least one problem"):
        problems.windows(tokenizer, 7, indices=[])
    with pytest.raises(ValueError, match=r"the tokenizer never saw .* train with a byte"):
        problems.windows(build_tokenizer("char", problems.text(0)), 7)


def test_the_file_is_sought_downloaded_and_verified(public, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown split 'valid'; known: train, test"):
        GSM8K(split="valid", raw=public)
    with pytest.raises(
        ValueError, match=r"raw: test.jsonl is needed; name the folder that has it, or a root"
    ):
        GSM8K(split="test")
    with pytest.raises(
        ValueError,
        match=r"raw: there is no train.jsonl in .*it comes from "
        r"https://raw.githubusercontent.com/openai/",
    ):
        GSM8K(raw=public)
    root = tmp_path / "root"
    assert len(GSM8K(root, "test")) == 3 and (root / "raw" / "test.jsonl").read_bytes() == LINES
    (root / "raw" / "test.jsonl").write_bytes(LINES[:-20])
    with pytest.raises(
        ValueError,
        match=r"raw/test.jsonl is damaged or of another version: its SHA-256 is .*it comes from "
        r"file:",
    ):
        GSM8K(root, "test")
    common = tmp_path / "common" / "gsm8k"
    common.mkdir(parents=True)
    (common / "test.jsonl").write_bytes(LINES)
    monkeypatch.setenv("GRAPHFORMER_DATA", str(common.parent))
    assert len(GSM8K(split="test")) == 3


def test_a_truncated_download_names_the_checksums(public, tmp_path):
    (public / "test.jsonl").write_bytes(LINES[:-20])
    expected = hashlib.sha256(LINES).hexdigest()
    with pytest.raises(
        DownloadError,
        match=rf"test.jsonl: the {len(LINES) - 20} bytes received have the SHA-256 .* and "
        rf"{expected} is exp",
    ):
        GSM8K(tmp_path / "root", "test")
    assert list((tmp_path / "root" / "raw").iterdir()) == []


@pytest.mark.parametrize(("split", "count", "first"), [("train", 7473, 72), ("test", 1319, 18)])
def test_the_published_files(data_dir, split, count, first):
    if not (data_dir / "gsm8k").is_dir():
        pytest.skip("the files of GSM8K are not here")
    problems = GSM8K(split=split, raw=data_dir / "gsm8k")
    answers = [problems.answer(i) for i in range(len(problems))]
    assert len(answers) == count and answers[0] == first
    plain = GSM8K(split=split, raw=data_dir / "gsm8k", strip_marks=True)
    assert not any("<<" in plain.text(i) or ">>" in plain.text(i) for i in range(count))
    assert [plain.answer(i) for i in range(count)] == answers


def test_a_tokenizer_of_transformers(data_dir, tmp_path):
    """One that is saved and loaded; its tokens are those of each problem alone."""
    if not (data_dir / "gsm8k").is_dir():
        pytest.skip("the files of GSM8K are not here")
    problems = GSM8K(split="test", raw=data_dir / "gsm8k")
    text = "".join(problems.text(i) for i in range(50))
    build_tokenizer("bpe", text, 400).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    windows = problems.windows(tokenizer, 32, 32, indices=range(50))
    parts = [torch.tensor(tokenizer(problems.text(i))["input_ids"]) for i in range(50)]
    assert (
        torch.equal(windows.tokens, torch.cat(parts)) and tokenizer.decode(windows.tokens) == text
    )
