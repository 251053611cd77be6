"""Questions about texts, from the data to the device: windows on long texts, SQuAD's numbers, damage that is seen."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.damage import answers_of, report_on_noise
from support.jobs import asked, shipped
from support.tiny_texts import MAX_LENGTH, WORDS, model_folder

from compress import tasks
from compress.data import load_texts
from compress.heal.options import HealOptions
from compress.model import load
from compress.tasks import read_checkpoint
from compress.tasks.task import DataChoice
from compress.verification.kinds.spans import Spans, judged
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from runtime.texts.spans import LONGEST, NOWHERE, Window, best_spans
from runtime.texts.text import Tokenizer, parse_preprocessing
from targets.errors import InputError

TASK = tasks.get("question-answering")


def line(question: str, text: str, *answers: str) -> str:
    return json.dumps({"question": question, "context": text, "answers": {"text": list(answers)}})


def spans_of(folder: Path, data: Path) -> Spans:
    found = answers_of(folder, data)
    assert isinstance(found, Spans)
    return found


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and questions whose answers are its own, except for one in ten; every third text is long."""
    root, draw = tmp_path_factory.mktemp("questions"), np.random.default_rng(0)
    folder = model_folder(root / "model", TASK.name)

    def some(count: int) -> str:
        return " ".join(draw.choice(WORDS, count))

    asked = [(some(2), some(18 if index % 3 == 0 else 6)) for index in range(300)]
    (root / "plain.jsonl").write_text("\n".join(line(*one, "w1") for one in asked))
    spans = spans_of(folder, root / "plain.jsonl").spans
    told = [
        line(question, text, "w1" if index % 10 == 0 else text[slice(*spans[index])])
        for index, (question, text) in enumerate(asked)
    ]
    (root / "data.jsonl").write_text("\n".join(told))
    return folder, root / "data.jsonl"


def test_jsonl_tables_and_squad_give_the_same_questions(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{line('w1', 'w2 w3', 'w3')}\n{line('w4', 'w5')}\n")
    (tmp_path / "a.tsv").write_text("question\tcontext\tanswer\nw1\tw2 w3\tw3\nw4\tw5\t\n")
    asked = [
        {"context": "w2 w3", "qas": [{"id": "one", "question": "w1", "answers": [{"text": "w3", "answer_start": 3}]}]},
        {"context": "w5", "qas": [{"id": "two", "question": "w4", "answers": [], "is_impossible": True}]},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": asked}]}))
    read = [load_texts(str(tmp_path / f"a.{kind}")).rows for kind in ("jsonl", "tsv", "json")]
    wanted = [(("w1", "w2 w3"), ("w3",)), (("w4", "w5"), ())]
    assert [[(row.texts, row.answers) for row in rows] for rows in read] == [wanted] * 3
    assert [row.name for row in read[2]] == ["a.json:one", "a.json:two"]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.json", '{"data": [{"title": "none"}]}', "must have SQuAD's form"),
        ("a.json", "[1", "not valid JSON"),
        ("a.jsonl", '{"question": "w1", "context": "w2"}', "1 of 1 are not a question, a text and its answers"),
        ("a.jsonl", '{"question": "w1", "context": "w2", "answers": 3}', "neither a text nor a list of texts"),
        ("a.jsonl", '{"text": "w1"}', "1 of 1 are not a question, a text and its answers: a.jsonl:1"),
        ("a.jsonl", line(" ".join(WORDS[:10]), "w2", "w2"), "10 tokens|13 tokens"),
        ("a.jsonl", line("w1 [SEP] w2", "w2", "w2"), "holds the token that separates two texts"),
    ],
)
def test_data_that_cannot_be_judged_is_named(
    setting: tuple[Path, Path], tmp_path: Path, name: str, content: str, fault: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=fault):
        spans_of(setting[0], tmp_path / name)


@pytest.mark.parametrize(
    ("given", "true", "exact", "f1"),
    [
        ("The Cat!", ["cat"], 1.0, 1.0),
        ("black cat", ["a cat", "dog"], 0.0, 2 / 3),
        ("", [], 1.0, 1.0),
        ("cat", [], 0.0, 0.0),
        ("", ["cat"], 0.0, 0.0),
        ("cat cat", ["cat"], 0.0, 2 / 3),
    ],
)
def test_answers_are_judged_as_squad_judges_them(given: str, true: list[str], exact: float, f1: float) -> None:
    assert judged(given, true) == (exact, pytest.approx(f1))


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**31))
def test_the_best_span_is_that_of_a_search_through_all(before: int, count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    places = [NOWHERE] * before + [(3 * at, 3 * at + 2) for at in range(count)] + [NOWHERE]
    start_N, end_N = draw.normal(size=(2, before + count + 1)).astype(np.float32)
    found, nothing = best_spans([Window([0] * len(places), places)], [start_N], [end_N])
    all_of_them = {
        (3 * first, 3 * last + 2): float(start_N[before + first]) + float(end_N[before + last])
        for first in range(count)
        for last in range(first, min(count, first + LONGEST))
    }
    best = max(all_of_them, key=lambda place: all_of_them[place])
    assert (found[0].start, found[0].end) == best and found[0].score == pytest.approx(all_of_them[best])
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert nothing == pytest.approx(float(start_N[0]) + float(end_N[0]))


def test_windows_show_the_whole_text_and_overlap(setting: tuple[Path, Path]) -> None:
    folder, text = setting[0], " ".join(WORDS[:30])
    tokenizer = Tokenizer(folder / "tokenizer.json", parse_preprocessing(load(folder).structure.preprocessing))
    windows = tokenizer.windows("w50 w51", text)
    shown = [[text[slice(*place)] for place in one.places if place != NOWHERE] for one in windows]
    assert list(dict.fromkeys(word for words in shown for word in words)) == WORDS[:30]
    assert all(set(one) & set(after) for one, after in pairwise(shown)) and len(shown) > 2
    assert all(len(one.ids) <= MAX_LENGTH and one.ids[:4] == [2, 54, 55, 3] for one in windows)


def test_no_answer_counts_where_the_data_has_questions_without_one(setting: tuple[Path, Path], tmp_path: Path) -> None:
    lines = setting[1].read_text().splitlines()[:60]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    (tmp_path / "some.jsonl").write_text("\n".join([*lines, line("w1", "w2 w3")]))
    whole, some = spans_of(setting[0], tmp_path / "all.jsonl"), spans_of(setting[0], tmp_path / "some.jsonl")
    assert (whole.spans >= 0).all()
    none = some.spans[:60, 0] < 0
    assert none.any() and np.array_equal(some.spans[:60][~none], whole.spans[~none])


@pytest.mark.parametrize(
    "name", ["Bert", "DistilBert", "Roberta", "ModernBert", "Electra", "DebertaV2", "MPNet", "Albert"]
)
def test_checkpoints_of_the_original_library_give_its_starts_and_ends(tmp_path: Path, name: str) -> None:
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    narrow = {"embedding_size": 8} if name in ("Electra", "Albert") else {}
    if name == "DistilBert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=64, pad_token_id=0, **sizes, **narrow)
    theirs = getattr(transformers, f"{name}ForQuestionAnswering")(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.5)
    theirs.save_pretrained(tmp_path)
    model_folder(tmp_path / "other", "embedding")
    (tmp_path / "tokenizer.json").write_bytes((tmp_path / "other" / "tokenizer.json").read_bytes())
    assert tasks.of_folder(tmp_path).name == TASK.name
    ours = read_checkpoint(tmp_path, TASK.preprocessing(tmp_path, print))
    ids_BN = torch.tensor([[2, 5, 6, 3, 9, 3], [2, 9, 3, 8, 3, 0]])
    inputs = {"input_ids": ids_BN, "attention_mask": (ids_BN != 0).long()}
    with torch.no_grad():
        wanted, given = theirs(**inputs), ours.outputs(inputs)
    real_BN = inputs["attention_mask"].bool()
    for output in TASK.outputs:
        assert float((wanted[output] - given[output])[real_BN].abs().max()) < 1e-5


def test_healing_sees_every_window_and_passes_over_padding(setting: tuple[Path, Path]) -> None:
    folder, data = setting
    opened = TASK.open(DataChoice(str(data), 30, False, 0), "healing", (), load(folder).structure.preprocessing, folder)
    batch = TASK.feed(opened, 0, torch.device("cpu")).plain(8)[0]
    assert sum(map(len, opened.texts)) > len(opened)  # type: ignore[attr-defined]
    one = torch.zeros(*batch["input_ids"].shape, 2)
    other = torch.where(batch["attention_mask"].bool()[..., None], 0.0, 9.0).expand_as(one)
    assert float(TASK.objective.drift(one, other, batch)) == pytest.approx(0.0, abs=1e-6)
    other = one.clone()
    other[:, 1, 0] = 3.0
    assert float(TASK.objective.drift(one, other, batch)) > 0.1
    with pytest.raises(InputError, match="leave it out"):
        TASK.objective.loss(HealOptions(task=1.0), one, other, batch, None)


def test_a_damaged_model_does_not_pass_and_one_hardly_changed_does(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting
    for size, verdict in ((1e-5, Status.PASS), (1.0, Status.FAIL)):
        report = report_on_noise(folder, folder, data, tmp_path, size)
        assert report.drift is not None and report.drift.metrics[0].name == "answer_f1"
        assert report.verdict is verdict


def test_a_run_ships_a_bundle_that_answers_questions(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting
    bundle = shipped(folder, data, tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [one["name"] for one in manifest["outputs"]] == ["start_logits", "end_logits"]
    assert {"answer_f1", "exact_match", "answer_agreement"} <= manifest["drift"]["model.onnx"]["metrics"].keys()
    questions = [("w1 w2", " ".join(WORDS[3:9])), ("w3", " ".join(WORDS[10:40]))]
    (tmp_path / "few.jsonl").write_text("\n".join(line(*one, "w1") for one in questions))
    wanted = spans_of(folder, tmp_path / "few.jsonl").spans
    given = asked(bundle, *("\t".join(one) for one in questions), "--top", "3")
    for (_, text), result, (start, end) in zip(questions, given, wanted, strict=True):
        best = result["answers"][0]
        assert (best["start"], best["end"], best["text"]) == (start, end, text[start:end])
        assert len(result["answers"]) == 3 and 0 <= result["no_answer"] <= 1
        assert sum(one["probability"] for one in result["answers"]) + result["no_answer"] <= 1.0001
    assert METRICS["exact_match"].value(spans_of(folder, data)) == pytest.approx(90.0, abs=4)
