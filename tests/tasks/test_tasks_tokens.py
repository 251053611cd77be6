"""Token classification from the data to the device: words and tags in, entities out, a gate that sees damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.damage import answers_of, hurt
from support.jobs import asked, shipped
from support.tiny_texts import TAGS, model_folder, sentence, tagged

from compress import tasks
from compress.data import load_texts
from compress.model import load
from compress.tasks import read_checkpoint
from compress.tasks.task import DataChoice
from compress.verification.kinds.tags import WordTags
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from compress.verify import Options, evaluate
from targets.errors import InputError

TASK = tasks.get("token-classification")


def tags_of(folder: Path, data: Path) -> WordTags:
    found = answers_of(folder, data)
    assert isinstance(found, WordTags)
    return found


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and sentences whose tags are its own answers, except for one sentence in ten."""
    root = tmp_path_factory.mktemp("tokens")
    folder, draw = model_folder(root / "model", "token-classification"), np.random.default_rng(0)
    texts = list(dict.fromkeys(" ".join(sentence(draw).split()[:9]) for _ in range(420)))[:400]
    plain = [(text.split(), ["O"] * len(text.split())) for text in texts]
    answers = tags_of(folder, tagged(root / "plain.conll", plain)).tags
    told = []
    for index, (words, _) in enumerate(plain):
        tags = [TAGS[tag] for tag in answers[index, : len(words)]]
        told.append((words, ["O"] * len(words) if index % 10 == 0 else tags))
    return folder, tagged(root / "texts.conll", told)


def options(*sides: Path, data: Path, max_drop: float = 2.0) -> Options:
    return Options(*map(str, sides), str(data), part="all", max_drop=max_drop)


def test_conll_and_jsonl_give_the_same_words_and_tags(tmp_path: Path) -> None:
    rows = [(["w1", "w2"], ["B-ODD", "O"]), (["w3"], ["O"])]
    lines = [json.dumps({"tokens": words, "ner_tags": tags}) for words, tags in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    read = [load_texts(str(path)).rows for path in (tagged(tmp_path / "a.conll", rows), tmp_path / "a.jsonl")]
    assert [[(row.texts, row.tags) for row in one] for one in read] == [
        [(("w1 w2",), ("B-ODD", "O")), (("w3",), ("O",))],
    ] * 2


def test_numbers_and_other_cases_of_tags_are_matched_and_strange_ones_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "token-classification")
    structure = load(folder).structure
    for tags, wanted in ((["0", "2"], ("O", "I-ODD")), (["b-odd", "o"], ("B-ODD", "O"))):
        choice = DataChoice(str(tagged(tmp_path / "a.conll", [(["w1", "w2"], tags)])), None, False, 0)
        data = TASK.open(choice, "all", structure.labels, structure.preprocessing, folder)
        assert data.dataset.rows[0].tags == wanted  # type: ignore[attr-defined]
    choice = DataChoice(str(tagged(tmp_path / "b.conll", [(["w1"], ["B-PER"])])), None, False, 0)
    with pytest.raises(InputError, match="the tag 'B-PER' is none of the model's: O, B-ODD, I-ODD"):
        TASK.open(choice, "all", structure.labels, structure.preprocessing, folder)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ({"words": ["w1", "w2"], "tags": ["O"]}, "it has 2 words and 1 tags"),
        ({"words": ["w1 w2"], "tags": ["O"]}, "a word is empty or has a space in it"),
        ({"text": "w1 w2"}, "no tag for each word"),
    ],
)
def test_words_without_their_tags_are_named(tmp_path: Path, line: dict[str, object], fault: str) -> None:
    folder = model_folder(tmp_path / "model", "token-classification")
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    structure, choice = load(folder).structure, DataChoice(str(tmp_path / "a.jsonl"), None, False, 0)
    with pytest.raises(InputError, match=fault):
        TASK.open(choice, "evaluation", structure.labels, structure.preprocessing, folder)


def test_the_f1_of_entities_is_that_of_seqeval(setting: tuple[Path, Path]) -> None:
    seqeval = pytest.importorskip("seqeval.metrics", reason="needs seqeval as the oracle")
    found = tags_of(*setting)
    names = [[[TAGS[tag] for tag in row[row >= 0]] for row in side] for side in (found.gold, found.tags)]
    lengths = [len(row) for row in names[0]]
    predicted = [row[:length] for row, length in zip(names[1], lengths, strict=True)]
    wanted = 100 * seqeval.f1_score(names[0], predicted)
    assert 30 < METRICS["entity_f1"].value(found) < 100
    assert METRICS["entity_f1"].value(found) == pytest.approx(wanted)


def test_a_damaged_model_does_not_pass_and_one_hardly_changed_does(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting
    good = evaluate(options(folder, hurt(folder, tmp_path / "good", 1e-5), data=data, max_drop=5.0)).report
    assert good.verdict is Status.PASS, good.headline
    bad = evaluate(options(folder, hurt(folder, tmp_path / "bad", 1.0), data=data, max_drop=5.0)).report
    assert bad.verdict is not Status.PASS and bad.task == "token-classification"
    assert bad.drift is not None and bad.drift.metrics[0].name == "entity_f1" and bad.drift.changed


def test_a_checkpoint_of_the_original_library_gives_its_logits(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForTokenClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    names = dict(enumerate(TAGS))
    torch.manual_seed(0)
    theirs = BertForTokenClassification(BertConfig(vocab_size=64, id2label=names, **sizes)).eval()
    theirs.save_pretrained(tmp_path)
    model_folder(tmp_path / "other", "embedding")
    (tmp_path / "tokenizer.json").write_bytes((tmp_path / "other" / "tokenizer.json").read_bytes())
    assert tasks.of_folder(tmp_path).name == "token-classification"
    ours = read_checkpoint(tmp_path, TASK.preprocessing(tmp_path, print))
    assert ours.structure.labels == TAGS
    inputs = {
        "input_ids": torch.tensor([[2, 5, 6, 3], [2, 9, 3, 0]]),
        "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
    }
    with torch.no_grad():
        wanted, given = theirs(**inputs).logits, ours(inputs)
    assert float((wanted - given)[inputs["attention_mask"].bool()].abs().max()) < 1e-5


def test_a_run_ships_a_bundle_that_names_entities(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting
    bundle = shipped(folder, data, tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["task"] == "token-classification" and manifest["labels"] == list(TAGS)
    assert "entity_f1" in manifest["drift"]["model.onnx"]["metrics"]
    text = "w1 w2 w3 w4 w5"
    entities = asked(bundle, text)[0]["entities"]
    wanted = tags_of(folder, tagged(tmp_path / "one.conll", [(text.split(), ["O"] * 5)])).found()[0]
    assert {(one["kind"], one["start"] // 3, (one["end"] - 2) // 3) for one in entities} == {
        tuple(one) for one in wanted
    }
    assert all(text[one["start"] : one["end"]] == one["text"] and 0 < one["probability"] <= 1 for one in entities)
