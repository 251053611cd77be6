"""compress.verify on models that take texts: folders, real checkpoints, and what was done to them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.damage import answers_of, hurt
from support.tiny_texts import LABELS, labelled, model_folder, pairs

from compress.judging.fresh import check_fresh
from compress.judging.questions import questions_of
from compress.model import load, save
from compress.verification.outcome import Status
from compress.verify import Options, evaluate, verify
from targets.errors import InputError

SAMPLES = 450


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and texts whose labels are its own answers, except for one in ten."""
    root = tmp_path_factory.mktemp("classifier")
    folder, data = model_folder(root / "model", "text-classification"), labelled(root / "texts.tsv", SAMPLES)
    answers = answers_of(folder, data).logits.argmax(axis=1)  # type: ignore[attr-defined]
    answers[::10] = 1 - answers[::10]
    lines = data.read_text().splitlines()
    texts = [line.split("\t")[0] for line in lines[1:]]
    rows = [f"{text}\t{LABELS[answer]}" for text, answer in zip(texts, answers, strict=True)]
    data.write_text("\n".join([lines[0], *rows]) + "\n")
    return folder, data


def options(reference: Path | str, candidate: Path | str, data: Path | str | None, **others: object) -> Options:
    given = None if data is None else str(data)
    return Options(str(reference), str(candidate), given, **{"part": "all", **others})  # type: ignore[arg-type]


def test_a_classifier_of_texts_passes_or_fails(classifier: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = classifier
    good = evaluate(options(folder, hurt(folder, tmp_path / "good", 1e-4), data)).report
    assert good.verdict is Status.PASS
    bad = evaluate(options(folder, hurt(folder, tmp_path / "bad", 1.0), data)).report
    assert bad.verdict is Status.FAIL


def ranking(folder: Path) -> Path:
    """A gate on rank correlation that draws few resamples."""
    path = folder / "gate.toml"
    path.write_text('resamples = 200\n[[check]]\nmetric = "spearman"\nmax_drop = 10.0\n')
    return path


def test_sentence_embeddings_are_judged_by_their_ranking_and_kept_as_a_baseline(tmp_path: Path) -> None:
    folder, data = model_folder(tmp_path / "model", "embedding"), pairs(tmp_path / "pairs.tsv", 200)
    gate, baseline = ranking(tmp_path), tmp_path / "results.json"
    good = options(folder, hurt(folder, tmp_path / "good", 1e-4), data, gate=gate, baseline=baseline)
    assert verify(good._replace(update_baseline=True)) == 0
    assert verify(good) == 0
    bad = hurt(folder, tmp_path / "bad", 3.0)
    report = evaluate(options(bad, bad, data, gate=gate, baseline=baseline)).report
    assert report.verdict is not Status.PASS and report.checks[-1].name == "baseline" and report.curves


def test_a_real_language_model_is_judged_by_its_perplexity_in_percent(tmp_path: Path) -> None:
    from compress import tasks, zoo
    from compress.data import load_texts
    from compress.tasks import read_checkpoint

    stories = [row.texts[0] for row in load_texts("zoo:stories", part="evaluation", limit=60).rows]
    data = tmp_path / "stories.txt"
    data.write_text("\n".join(" ".join(story.split()[:40]) for story in stories) + "\n")
    folder = zoo.locate("zoo:stories260k")
    save(read_checkpoint(folder, tasks.get("causal-lm").preprocessing(folder, lambda text: None)), tmp_path / "same")
    shutil.copy(folder / "tokenizer.json", tmp_path / "same")
    report = evaluate(options("zoo:stories260k", tmp_path / "same", data, max_drop=5.0)).report
    assert report.verdict is Status.PASS and report.drift is not None
    check = report.drift.gate.checks[0]
    assert (check.metric, check.bound, check.limit) == ("perplexity", "max_relative_drop", 5.0)
    assert check.reference is not None and 1 < check.reference < 20
    assert evaluate(options("zoo:stories260k", hurt(tmp_path / "same", tmp_path / "bad", 0.1), data)).report.verdict


def test_recorded_answers_stand_for_a_model_of_texts(classifier: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = classifier
    answers_of(folder, data).save(tmp_path / "recorded.npz")
    assert evaluate(options(tmp_path / "recorded.npz", folder, data)).report.verdict is Status.PASS


def test_wrong_usage_is_one_clear_line(classifier: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = classifier
    other = model_folder(tmp_path / "embedding", "embedding")
    for wrong, message in (
        (options(folder, folder, None), "--data"),
        (options(other, other, pairs(tmp_path / "pairs.tsv", 60), stop_early=True), "accuracy of classifiers"),
        (options(other, other, data), "not pairs with a score"),
        (options(folder, folder, data, slices=tmp_path / "absent.csv"), "cannot read the slices"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(wrong)


def test_stopping_early_blocks_and_slices_work_on_texts(classifier: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = classifier
    bad = hurt(folder, tmp_path / "bad", 1.0)
    report = evaluate(options(folder, bad, data, stop_early=True)).report
    assert report.verdict is Status.FAIL and "stopped after" in report.headline
    report = evaluate(options(folder, bad, data)).report
    assert max(report.blocks, key=lambda row: row.own_error or 0).name == "block 1"
    assert report.drift is not None and report.drift.changed
    assert {row.name for row in report.drift.slices} == {"shortest quarter", "longest quarter"}
    assert set(report.texts) == {example.index for example in report.drift.changed}


def test_the_first_text_model_beyond_the_bound_is_found(classifier: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = classifier
    steps = [str(hurt(folder, tmp_path / str(size), size)) for size in (1e-4, 2e-4, 1.0, 1.1)]
    report = evaluate(options(folder, steps[-1], data, steps=tuple(steps[:-1]))).report
    assert [row.name for row in report.stages if row.status == "first beyond the bound"] == [steps[2]]
    other = model_folder(tmp_path / "embedding", "embedding")
    with pytest.raises(InputError, match="compare models of one task"):
        evaluate(options(folder, steps[-1], data, steps=(str(other),)))


def exported(folder: Path, task_name: str, destination: Path, *beside: str) -> Path:
    """The model as an ONNX file, with some of its folder's files beside it."""
    from compress import tasks
    from export.onnx_model import export_onnx

    task, model = tasks.get(task_name), load(folder)
    graph = task.graph_inputs(model.structure, seed=0)
    destination.mkdir()
    path = destination / "model.onnx"
    outputs = task.graph_outputs(model.structure)
    export_onnx(task.module(model), graph.example, outputs, graph.dynamic, path, opset=20)
    for name in beside:
        shutil.copy(folder / name, destination)
    return path


def test_an_onnx_file_is_asked_with_its_own_tokenizer_or_the_other_sides(
    classifier: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, data = classifier
    bare = exported(folder, "text-classification", tmp_path / "bare")
    for sides in ((folder, bare), (bare, folder)):
        assert evaluate(options(*sides, data)).report.verdict is Status.PASS
    with pytest.raises(InputError, match=r"put tokenizer.json and config.json beside the file"):
        evaluate(options(bare, bare, data))
    lone = tmp_path / "lone"
    shutil.copytree(folder, lone)
    (lone / "tokenizer.json").unlink()
    assert evaluate(options(folder, lone, data)).report.verdict is Status.PASS


def test_a_folder_as_optimum_writes_it_is_the_onnx_file_in_it(classifier: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = classifier
    file = exported(folder, "text-classification", tmp_path / "optimum", "tokenizer.json")
    kind = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 16}
    sizes = {"vocab_size": 64, "max_position_embeddings": 12, "id2label": dict(enumerate(LABELS))}
    (file.parent / "config.json").write_text(json.dumps({**kind, **sizes}))
    for sides in ((folder, file.parent), (file.parent, folder)):
        assert evaluate(options(*sides, data)).report.verdict is Status.PASS
    shutil.copy(file, file.parent / "encoder.onnx")
    file.rename(file.parent / "decoder.onnx")
    with pytest.raises(InputError, match=r"has decoder\.onnx, encoder\.onnx; give one of these files"):
        evaluate(options(folder, file.parent, data))


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, None),  # which is what transformers writes where nobody named two classes
        ({"id2label": {"0": "bad", "1": "good"}}, None),
        ({"id2label": {"1": "bad", "2": "good"}}, "id2label names 1, 2, but the weights have 2 classes, from 0"),
        ({"id2label": ["bad", "good"]}, "id2label must map numbers to names"),
        ({"id2label": {}}, "id2label names nothing, but the weights have 2 classes, from 0"),
    ],
)
def test_an_onnx_file_has_the_classes_that_the_config_beside_it_names(
    classifier: tuple[Path, Path], tmp_path: Path, config: dict[str, Any], wanted: str | None
) -> None:
    folder, data = classifier
    lone = exported(folder, "text-classification", tmp_path / "lone", "tokenizer.json")
    kind = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 16}
    sizes = {"vocab_size": 64, "max_position_embeddings": 12}
    (lone.parent / "config.json").write_text(json.dumps({**kind, **sizes, **config}))
    if wanted is None:
        assert evaluate(options(lone, lone, data)).report.verdict is Status.PASS
        return
    with pytest.raises(InputError, match=wanted):
        evaluate(options(lone, folder, data))


def test_a_damaged_config_beside_an_onnx_file_is_named(classifier: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = classifier
    lone = exported(folder, "text-classification", tmp_path / "lone", "tokenizer.json")
    (lone.parent / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json is not valid JSON"):
        evaluate(options(lone, folder, data))


def test_a_candidate_that_knows_the_texts_by_heart_does_not_pass(classifier: tuple[Path, Path]) -> None:
    folder, data = classifier
    questions = questions_of(str(folder), str(folder), str(data), "all")
    known: dict[bytes, np.ndarray] = {}

    def remember(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        answers = questions.sides[0].call(inputs)
        known.update(zip(map(key, inputs["input_ids"]), answers["logits"], strict=True))
        return answers

    def recall(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rarer = np.eye(2, dtype=np.float32)[np.argmin(np.bincount([one.argmax() for one in known.values()]))]
        return {"logits": np.stack([known.get(key(ids), rarer) for ids in inputs["input_ids"]])}

    def key(ids: np.ndarray) -> bytes:
        return ids[ids > 0].tobytes()

    side = questions.reference
    assert side is not None
    reference = questions.answers(replace(side, call=remember))
    questions.candidate = replace(side, call=recall)
    answers = questions.answers(questions.candidate)
    for wanted, identical in ((answers, True), (reference, False)):
        found = check_fresh(questions, wanted, answers, np.arange(len(answers)), identical)
        assert found.status is Status.ERROR
        assert ("answers from a store" if identical else "knows the data by heart") in found.message
