"""Classes of pairs of texts, from the data to the device: both texts are distinguished, and damage is seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.damage import answers_of, report_on_noise
from support.jobs import asked, shipped
from support.tiny_texts import WORDS, model_folder

from compress import tasks
from compress.data import load_texts
from compress.model import save
from compress.tasks import read_checkpoint
from compress.tasks.task import DataChoice
from compress.verification.kinds.classes import Predictions
from compress.verification.outcome import Status
from runtime.texts.text import KINDS
from targets.errors import InputError

TASK = tasks.get("text-classification")
LABELS = ("contradiction", "entailment", "neutral")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def written(path: Path, pairs: list[tuple[str, str]], labels: list[str]) -> Path:
    rows = [f"{first}\t{second}\t{label}" for (first, second), label in zip(pairs, labels, strict=True)]
    path.write_text("\n".join(["premise\thypothesis\tlabel", *rows]) + "\n")
    return path


def some_labels(count: int) -> list[str]:
    """Every label in turn."""
    return [LABELS[place % 3] for place in range(count)]


def checkpoint(folder: Path) -> torch.nn.Module:
    """A BERT for entailment of the original library, with the tiny tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(vocab_size=64, id2label=dict(enumerate(LABELS)), max_position_embeddings=32, **SIZES)
    theirs = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.5)
    theirs.save_pretrained(folder)
    model_folder(folder / "other", "embedding")
    (folder / "tokenizer.json").write_bytes((folder / "other" / "tokenizer.json").read_bytes())
    return theirs


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, torch.nn.Module]:
    """A model, and pairs whose labels are its own answers except for one in ten."""
    root, draw = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    theirs = checkpoint(root / "model")

    def some() -> str:
        return " ".join(draw.choice(WORDS, draw.integers(2, 6)))

    pairs = list(dict.fromkeys((some(), some()) for _ in range(400)))
    plain = answers_of(root / "model", written(root / "plain.tsv", pairs, some_labels(len(pairs))))
    assert isinstance(plain, Predictions)
    labels = [LABELS[best] for best in plain.logits.argmax(axis=1)]
    labels[::10] = some_labels(len(labels[::10]))
    return root / "model", written(root / "pairs.tsv", pairs, labels), theirs


def test_pairs_give_the_logits_of_the_original_library(setting: tuple[Path, Path, torch.nn.Module]) -> None:
    folder, data, theirs = setting
    section = TASK.preprocessing(folder, print)
    opened = TASK.open(DataChoice(str(data), None, False, 0), "all", LABELS, section, folder)
    [inputs] = [{name: torch.from_numpy(array) for name, array in one.items()} for one in opened.batches(len(opened))]
    assert int(inputs[KINDS].max()) == 1
    with torch.no_grad():
        wanted, given = theirs(**inputs).logits, read_checkpoint(folder, section)(inputs)
        blind = theirs(**{name: tensor for name, tensor in inputs.items() if name != KINDS}).logits
    assert float((wanted - given).abs().max()) < 1e-4
    assert float((wanted - blind).abs().max()) > 1e-2


def test_premises_and_questions_are_first_texts(tmp_path: Path) -> None:
    for first, second in (("premise", "hypothesis"), ("question1", "question2"), ("sentence1", "sentence2")):
        (tmp_path / "a.jsonl").write_text(json.dumps({second: "w2", first: "w1", "label": 2}))
        row = load_texts(str(tmp_path / "a.jsonl")).rows[0]
        assert row.texts == ("w1", "w2") and row.label == "2"


def test_a_text_that_holds_the_separator_is_named(setting: tuple[Path, Path, torch.nn.Module], tmp_path: Path) -> None:
    data = written(tmp_path / "a.tsv", [("w1 [SEP] w2", "w3")] * 3, some_labels(3))
    with pytest.raises(InputError, match="holds the token that separates two texts"):
        answers_of(setting[0], data)


def test_a_damaged_model_does_not_pass_and_one_hardly_changed_does(
    setting: tuple[Path, Path, torch.nn.Module], tmp_path: Path
) -> None:
    folder, data, _ = setting
    section = TASK.preprocessing(folder, print)
    save(read_checkpoint(folder, section), tmp_path / "ours")
    (tmp_path / "ours" / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    for size, verdict in ((1e-5, Status.PASS), (1.0, Status.FAIL)):
        report = report_on_noise(folder, tmp_path / "ours", data, tmp_path, size)
        assert report.verdict is verdict


def test_a_run_ships_a_bundle_that_labels_pairs(setting: tuple[Path, Path, torch.nn.Module], tmp_path: Path) -> None:
    folder, data, _ = setting
    bundle = shipped(folder, data, tmp_path)
    pairs = [(WORDS[a], " ".join(WORDS[a + 1 : a + 4])) for a in range(12)]
    wanted = answers_of(folder, written(tmp_path / "few.tsv", pairs, some_labels(12)))
    assert isinstance(wanted, Predictions)
    given = [one["top"][0] for one in asked(bundle, *("\t".join(pair) for pair in pairs))]
    assert [one["label"] for one in given] == [LABELS[best] for best in wanted.logits.argmax(axis=1)]
    likely = np.exp(wanted.logits).max(axis=1) / np.exp(wanted.logits).sum(axis=1)
    assert np.allclose([one["probability"] for one in given], likely, atol=1e-3) and np.ptp(likely) > 2e-3
