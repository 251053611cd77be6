"""Several labels at once from the data to the device: labels in, labels above their thresholds out, a gate that sees
damage."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.damage import answers_of, hurt
from support.jobs import asked, shipped
from support.tiny_texts import MARKS, marked, model_folder, sentence

from compress import tasks
from compress.data.prepared_texts import PreparedTexts
from compress.heal.objective import binary_kl
from compress.heal.options import HealOptions
from compress.model import load, save
from compress.tasks import read_checkpoint
from compress.tasks.task import AnyPart, DataChoice
from compress.verification.kinds.labels import LabelSets
from compress.verification.kinds.labels import binary_kl as measured_kl
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from compress.verify import Options, evaluate
from runtime.answers.multi_label_classification import open_answerer
from targets.errors import InputError

TASK = tasks.get("multi-label-classification")


def sets_of(folder: Path, data: Path) -> LabelSets:
    found = answers_of(folder, data)
    assert isinstance(found, LabelSets)
    return found


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and texts whose labels are its own answers, except for one text in ten."""
    root = tmp_path_factory.mktemp("labels")
    folder, draw = model_folder(root / "model", "multi-label-classification"), np.random.default_rng(0)
    texts = list(dict.fromkeys(" ".join(sentence(draw).split()[:9]) for _ in range(420)))[:400]
    plain = marked(root / "plain.csv", texts, [[] for _ in texts])
    model, middle = load(folder), np.median(sets_of(folder, plain).logits, axis=0)
    with torch.no_grad():  # each label for about half of the texts
        dict(model.named_parameters())["head.output.bias.0"].sub_(torch.from_numpy(middle))
    save(model, folder)
    found = sets_of(folder, plain).found()
    assert ((found.mean(axis=0) > 0.4) & (found.mean(axis=0) < 0.6)).all()
    found[::10] = ~found[::10]
    labels = [[name for name, has in zip(MARKS, row, strict=True) if has] for row in found]
    return folder, marked(root / "texts.csv", texts, labels)


def opened(folder: Path, data: Path, part: AnyPart = "all") -> PreparedTexts:
    structure, choice = load(folder).structure, DataChoice(str(data), None, False, 0)
    found = TASK.open(choice, part, structure.labels, structure.preprocessing, folder)
    assert isinstance(found, PreparedTexts)
    return found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,labels\nw1,"toxic,threat"\nw2,\nw3,insult\n'),
        ("b.csv", "id,comment_text,toxic,insult,threat\n7,w1,1,0,1\n8,w2,0,0,0\n9,w3,0,1,0\n"),
        ("c.tsv", "text\tthreat\ttoxic\tinsult\nw1\tTrue\tTrue\tFalse\nw2\t0.0\t0\t0\nw3\t0\t0\t1.0\n"),
        (
            "d.jsonl",
            '{"text":"w1","labels":["toxic","threat"]}\n{"text":"w2","labels":[]}\n{"text":"w3","labels":["insult"]}',
        ),
        ("e.jsonl", '{"text":"w1","labels":[0,2]}\n{"text":"w2","labels":[]}\n{"text":"w3","labels":[1]}'),
        (
            "f.jsonl",
            '{"text":"w1","toxic":1,"insult":0,"threat":true}\n{"text":"w2","toxic":0,"insult":0,"threat":false}\n'
            '{"text":"w3","toxic":0,"insult":1.0,"threat":0}',
        ),
    ],
)
def test_every_form_of_the_same_labels_is_read_as_the_same(tmp_path: Path, name: str, content: str) -> None:
    folder = model_folder(tmp_path / "model", "multi-label-classification")
    (tmp_path / name).write_text(content)
    rows = opened(folder, tmp_path / name).dataset.rows
    assert [(row.texts, set(row.labels or ())) for row in rows] == [
        (("w1",), {"toxic", "threat"}),
        (("w2",), set()),
        (("w3",), {"insult"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.csv", "text,labels\nw1,toxic\nw2,Toxic\n", "a.csv:3 has the label 'Toxic', which is none of the model's"),
        ("a.csv", "text,labels\nw1,toxic\nw2,rude\n", "has the label 'rude', which is none of the model's: toxic, ins"),
        ("a.csv", 'text,labels\nw1,"toxic,toxic"\n', "a.csv:2 has a label twice"),
        ("a.jsonl", '{"text":"w1","labels":[0,0,1]}\n', "a.jsonl:1 has a label twice"),
        ("a.jsonl", '{"text":"w1","labels":[3]}\n', "has the label '3', which is none"),
        ("a.jsonl", '{"text":"w1","labels":null}\n{"text":"w2","labels":[]}\n', "1 of 2 texts do not say their labels"),
        ("a.csv", "text,toxic,insult\nw1,1,0\nw2,0,1\n", "2 of 2 texts do not say their labels"),
        ("a.csv", "text,toxic,insult,threat\nw1,1,0,0\nw2,-1,-1,-1\n", "1 of 2 .* labels: a.csv:3; give a column"),
        ("a.txt", "w1\nw2\n", "2 of 2 texts do not say their labels"),
        ("a.csv", "sentence1,sentence2,score\nw1,w2,1\n", "is a pair of texts"),
    ],
)
def test_labels_that_are_not_the_model_s_are_refused_by_name(
    tmp_path: Path, name: str, content: str, fault: str
) -> None:
    folder = model_folder(tmp_path / "model", "multi-label-classification")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=fault) as caught:
        opened(folder, tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_model_of_one_class_refuses_lists_of_labels(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "text-classification")
    (tmp_path / "a.jsonl").write_text('{"text":"w1","labels":["bad","good"]}\n')
    structure, choice = load(folder).structure, DataChoice(str(tmp_path / "a.jsonl"), None, False, 0)
    with pytest.raises(InputError, match=r"have a list of labels: a\.jsonl:1; a model that chooses one class"):
        tasks.get("text-classification").open(choice, "all", structure.labels, structure.preprocessing, folder)


@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 2**31))
def test_f1_and_agreement_are_what_their_definitions_give(samples: int, labels: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    logits, other = draw.normal(size=(2, samples, labels)).astype(np.float32)
    gold, names = draw.integers(0, 2, (samples, labels)), [str(k) for k in range(labels)]
    sets, changed = LabelSets(logits, gold, names), LabelSets(other, gold, names)
    pairs = [(bool(logits[s, k] > 0), bool(gold[s, k]), k) for s in range(samples) for k in range(labels)]

    def f1(chosen: list[tuple[bool, bool, int]]) -> float | None:
        right, wrong = sum(a and b for a, b, _ in chosen), sum(a != b for a, b, _ in chosen)
        return 200 * right / (2 * right + wrong) if right + wrong else None

    each = [one for k in range(labels) if (one := f1([pair for pair in pairs if pair[2] == k])) is not None]
    assert METRICS["label_f1"].value(sets) == pytest.approx(f1(pairs) or 0.0)
    assert METRICS["label_f1_macro"].value(sets) == pytest.approx(float(np.mean(each)) if each else 0.0)
    same = 100 * float(np.mean((logits > 0) == (other > 0)))
    assert METRICS["label_agreement"].value(sets, changed) == pytest.approx(same)
    restored = sets.restored(sets.compact().tobytes())
    assert METRICS["label_f1"].value(restored) == METRICS["label_f1"].value(sets)


@given(st.integers(1, 8), st.integers(1, 6), st.sampled_from([1.0, 4.0]), st.integers(0, 2**31))
def test_binary_kl_is_that_of_torch_s_bernoulli(batch: int, labels: int, temperature: float, seed: int) -> None:
    from torch.distributions import Bernoulli, kl_divergence

    mine, theirs = 4 * torch.randn(2, batch, labels, generator=torch.Generator().manual_seed(seed))
    sides = [Bernoulli(logits=side.double() / temperature) for side in (theirs, mine)]
    wanted = kl_divergence(*sides).sum(dim=1)
    assert float(binary_kl(mine, theirs, temperature)) == pytest.approx(
        float(temperature**2 * wanted.mean()), rel=1e-3, abs=1e-4
    )
    if temperature == 1.0:
        np.testing.assert_allclose(measured_kl(theirs.numpy(), mine.numpy()), wanted.numpy(), rtol=1e-6, atol=1e-9)


def test_label_sets_that_do_not_fit_are_refused() -> None:
    logits = np.zeros((2, 2), np.float32)
    with pytest.raises(InputError, match=r"logits of shape \[2, 2\] for gold labels \[2, 1\]"):
        LabelSets(logits, np.zeros((2, 1), np.int64), ["a", "b"])
    with pytest.raises(InputError, match="must be 0 or 1"):
        LabelSets(logits, np.full((2, 2), 2), ["a", "b"])
    with pytest.raises(InputError, match="1 names for 2 labels"):
        LabelSets(logits, np.zeros((2, 2), np.int64), ["a"])
    with pytest.raises(ValueError, match="other than 0 and 1"):
        LabelSets(logits, np.zeros((2, 2), np.int64), ["a", "b"]).restored(b"\0\1\2\0")


def test_answers_that_have_nothing_to_do_with_the_labels_are_known_as_such() -> None:
    draw = np.random.default_rng(0)
    logits, gold = draw.normal(size=(300, 3)).astype(np.float32), draw.integers(0, 2, (300, 3))
    assert "without regard to the input" in (LabelSets(logits, gold, ["a", "b", "c"]).knows_nothing(0.95) or "")
    assert LabelSets(logits, (logits > 0).astype(int), ["a", "b", "c"]).knows_nothing(0.95) is None
    assert "finds none" in (LabelSets(-abs(logits), gold, ["a", "b", "c"]).knows_nothing(0.95) or "")


def test_healing_takes_all_labels_of_a_text_or_none_at_all(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting
    prepared, options = opened(folder, data), HealOptions(steps=1, batch_size=16, task=1.0)
    feed = TASK.feed(prepared, 0, torch.device("cpu"))
    drawn = feed.draw(0, options)
    _, labels = feed.batch(drawn)
    assert labels is not None and labels.shape == (16, 3)
    wanted = [
        [float(name in (prepared.dataset.rows[int(at)].labels or ())) for name in MARKS] for at in drawn["indices"]
    ]
    assert labels.tolist() == wanted
    target = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    own = TASK.objective.loss(options, target, target, {}, labels)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(target, labels, reduction="none").sum(dim=1).mean()
    assert float(own) == pytest.approx(float(entropy), abs=1e-4)
    assert float(TASK.objective.drift(target + 1, target, {})) > 0.01
    (tmp_path / "bare.txt").write_text("w1 w2\nw3\nw4\nw5\n")
    bare = TASK.feed(opened(folder, tmp_path / "bare.txt", "healing"), 0, torch.device("cpu"))
    assert bare.batch(bare.draw(0, options))[1] is None
    with pytest.raises(InputError, match="trains on labels and the data has none"):
        TASK.objective.loss(options, target, target, {}, None)


def test_a_damaged_model_does_not_pass_and_one_hardly_changed_does(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting

    def judged(name: str, size: float) -> Any:
        sides = map(str, (folder, hurt(folder, tmp_path / name, size)))
        return evaluate(Options(*sides, str(data), part="all", max_drop=5.0)).report

    good, bad = judged("good", 1e-5), judged("bad", 1.0)
    assert good.verdict is Status.PASS, good.headline
    assert bad.verdict is Status.FAIL and bad.task == "multi-label-classification", bad.headline
    assert bad.drift.metrics[0].name == "label_f1" and bad.drift.changed
    assert [one.name for one in bad.drift.classes] == list(MARKS)


def test_a_checkpoint_of_the_original_library_gives_its_logits(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    names, problem = dict(enumerate(MARKS)), "multi_label_classification"
    torch.manual_seed(0)
    config = BertConfig(vocab_size=64, id2label=names, problem_type=problem, **sizes)
    theirs = BertForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    model_folder(tmp_path / "other", "embedding")
    (tmp_path / "tokenizer.json").write_bytes((tmp_path / "other" / "tokenizer.json").read_bytes())
    assert tasks.of_folder(tmp_path).name == "multi-label-classification"
    ours = read_checkpoint(tmp_path, TASK.preprocessing(tmp_path, print))
    assert ours.structure.labels == MARKS and ours.structure.task == "multi-label-classification"
    inputs = {
        "input_ids": torch.tensor([[2, 5, 6, 3], [2, 9, 3, 0]]),
        "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
    }
    with torch.no_grad():
        assert float((theirs(**inputs).logits - ours(inputs)).abs().max()) < 1e-5


def test_a_run_ships_a_bundle_that_gives_the_labels_above_their_thresholds(
    setting: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, data = setting
    bundle = shipped(folder, data, tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["task"] == "multi-label-classification" and manifest["labels"] == list(MARKS)
    assert manifest["postprocessing"] == {"kind": "sigmoid", "thresholds": [0.5] * 3}
    assert "label_f1" in manifest["drift"]["model.onnx"]["metrics"]
    texts = ["w1 w2 w3", "w9 w40", "w21 w5 w33 w7"]
    logits = sets_of(folder, marked(tmp_path / "three.csv", texts, [[], [], []])).logits
    for result, row in zip(asked(bundle, *texts), logits, strict=True):
        likely = dict(zip(MARKS, 1 / (1 + np.exp(-row.astype(np.float64))), strict=True))
        wanted = sorted((one for one in likely if likely[one] > 0.5), key=lambda one: -likely[one])
        assert [one["label"] for one in result["labels"]] == wanted
        assert [one["probability"] for one in result["labels"]] == pytest.approx(
            [likely[one] for one in wanted], abs=1e-4
        )


def bundle_with(postprocessing: dict[str, object]) -> Any:
    """What the answerer reads of a bundle."""
    section = {"kind": "text", "vocab_size": 64, "max_length": 12, "pad_id": 0, "padding_side": "right"}
    manifest = SimpleNamespace(
        labels=MARKS,
        postprocessing=postprocessing,
        preprocessing={**section, "tokenizer": "tokenizer.json"},
        inputs=(),
        outputs=(SimpleNamespace(name="logits"),),
        state=(),
    )
    return SimpleNamespace(manifest=manifest, source="bundle")


def test_each_label_has_a_threshold_of_its_own() -> None:
    logits = np.array([[2.0, 0.5, -1.0], [-9, -9, -9]], np.float32)  # probabilities 0.88, 0.62, 0.27
    bundle = bundle_with({"kind": "sigmoid", "thresholds": [0.9, 0.5, 0.2]})
    session: Any = SimpleNamespace(manifest=bundle.manifest, bundle=bundle, run=lambda inputs: {"logits": logits})
    answerer = open_answerer(bundle, ids=True)
    answers: list[Any] = answerer.answer(session, ["5 6", "7"], None)  # type: ignore[arg-type]
    assert [one["label"] for one in answers[0]["labels"]] == ["insult", "threat"] and answers[1]["labels"] == []
    assert answerer.line({"input": "7", **answers[1]}) == "7: no label"
    assert answerer.line({"input": "5 6", **answers[0]}) == "5 6: insult 0.6225, threat 0.2689"


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ({"kind": "softmax"}, "postprocessing kind 'softmax'; allowed: sigmoid"),
        ({"kind": "sigmoid"}, "thresholds must be 3 numbers from 0 to 1"),
        ({"kind": "sigmoid", "thresholds": [0.5, 0.5]}, "thresholds must be 3 numbers"),
        ({"kind": "sigmoid", "thresholds": [0.5, 0.5, 1.5]}, "thresholds must be 3 numbers"),
        ({"kind": "sigmoid", "thresholds": [0.5, 0.5, float("nan")]}, "thresholds must be 3 numbers"),
        ({"kind": "sigmoid", "thresholds": [0.5, 0.5, "x"]}, "thresholds must be 3 numbers"),
    ],
)
def test_a_bundle_without_a_threshold_for_each_label_is_refused(section: dict[str, object], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        open_answerer(bundle_with(section), ids=True)
