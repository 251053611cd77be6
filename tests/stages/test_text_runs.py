"""Text models from checkpoint to bundle, and what users get wrong with texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import tiny_texts
from support.jobs import ROOT, in_haste

from compress import run
from compress.judging.questions import questions_of
from compress.verify import Options, evaluate
from runtime import ort
from runtime.texts.text import Tokenizer, pad, parse_preprocessing
from targets.errors import InputError

RECIPE = """
[[rewrite]]
use = "drop-key-bias"
[[rewrite]]
use = "low-rank-heads"
rank = 6
[[rewrite]]
use = "prune-neurons"
keep = 24
[[rewrite]]
use = "low-rank-heads"
rank = 600
optional = true
[calibrate]
samples = 64
held_out = 32
[heal]
transfer_steps = 2
steps = 20
eval_every = 10
batch_size = 16
[precision]
mode = "int8"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("texts")
    (root / "small.toml").write_text(RECIPE)
    for task in ("embedding", "text-classification"):
        tiny_texts.model_folder(root / task, task)
    tiny_texts.pairs(root / "embedding.tsv", 300)
    data = tiny_texts.labelled(root / "text-classification.tsv", 400)
    _label_by(root / "text-classification", data)
    return root


def _label_by(folder: Path, data: Path) -> None:
    """Labels that are the model's own answers, except for one in ten: who knows nothing has nothing to lose."""
    questions = questions_of(str(folder), str(folder), str(data), "all")
    assert questions.reference is not None
    answers = questions.answers(questions.reference)
    chosen = answers.arrays()["logits"].argmax(axis=1)
    chosen[::10] = 1 - chosen[::10]
    title, *rows = data.read_text().splitlines()
    labelled = [f"{row.split(chr(9))[0]}\t{tiny_texts.LABELS[one]}" for row, one in zip(rows, chosen, strict=True)]
    data.write_text("\n".join([title, *labelled]) + "\n")


def compress(place: Path, task: str, target: str, out: Path, **changes: str) -> Path:
    """A whole run in this process, with timings that take no time; the bundle."""
    with in_haste(place / "cache"):
        given = {"model": str(place / task), "data": str(place / f"{task}.tsv"), "recipe": str(place / "small.toml")}
        assert run.main(target, out=out, max_drop=30.0, **{**given, **changes}) == 0  # type: ignore[arg-type]
    return out / "bundle"


@pytest.fixture(scope="module")
def embedding(place: Path) -> Path:
    return compress(place, "embedding", "jetson", place / "out-embedding")


@pytest.fixture(scope="module")
def classifier(place: Path) -> Path:
    return compress(place, "text-classification", "cpu", place / "out-classifier")


def test_an_optional_rewrite_that_the_model_refuses_is_left_out_and_told(embedding: Path) -> None:
    log = (embedding.parent / "log.jsonl").read_text()
    assert "left out: low-rank-heads is refused: rank 600 is above a head's size" in log


def ask(bundle: Path, *arguments: str, module: str = "run", stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"runtime.{module}", str(bundle), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, input=stdin)


def test_an_embedding_bundle_says_how_far_it_drifted_and_brings_its_tokenizer(embedding: Path) -> None:
    manifest = json.loads((embedding / "manifest.json").read_text())
    assert (manifest["task"], manifest["verdict"]) == ("embedding", "pass")
    assert [one["shape"] for one in manifest["inputs"]] == [["batch", "length"]] * 2
    assert [one["name"] for one in manifest["outputs"]] == ["sentence_embedding"]
    assert {"tokenizer.json", "model.onnx", "model.cpu.onnx", "golden.npz"} <= manifest["files"].keys()
    metrics = manifest["drift"]["model.onnx"]["metrics"]
    low, high = metrics["spearman"]["interval"]
    assert low <= metrics["spearman"]["drop"] <= high < 30
    assert 0.9 < metrics["cosine"]["value"] <= 1
    assert "labels" not in manifest


def test_a_bundle_names_the_users_model_and_recipe_and_not_where_they_lie(place: Path, embedding: Path) -> None:
    assert json.loads((embedding / "manifest.json").read_text())["model"] == {"source": "embedding", "recipe": "small"}
    files = [path for path in embedding.rglob("*") if path.is_file()]
    assert files and not [path for path in files if str(place).encode() in path.read_bytes()]


def test_the_report_shows_what_ships_with_its_slices_and_the_most_changed_texts(embedding: Path) -> None:
    report = json.loads((embedding.parent / "report" / "report.json").read_text())
    assert {row["name"]: row["role"] for row in report["variants"]} == {
        "original fp32": "reference",
        "original int8 dynamic": "baseline",
        "original int8 static": "baseline",
        "model.onnx": "candidate",
        "model.cpu.onnx": "other",
    }
    assert [row["name"] for row in report["drift"]["slices"]] == ["shortest quarter", "longest quarter"]
    changed = [str(example["index"]) for example in report["drift"]["changed"]]
    assert changed and sorted(report["texts"]) == sorted(changed)


def test_every_form_ignores_padding_and_takes_any_length(embedding: Path) -> None:
    spec = parse_preprocessing(json.loads((embedding / "manifest.json").read_text())["preprocessing"])
    ids = Tokenizer(embedding / "tokenizer.json", spec).encode(["w1 w2", "w3 w4 w5 w6 w7 w8", "w9"]).ids
    alone = ort.load(embedding / "model.onnx")
    together = alone.run(pad(ids, spec))["sentence_embedding"]
    for row, one in zip(together, ids, strict=True):
        single = alone.run(pad([one], spec))["sentence_embedding"][0]
        np.testing.assert_allclose(row, single, atol=1e-5)
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-4)


def test_the_device_side_embeds_texts_and_ids_alike(embedding: Path) -> None:
    done = ask(embedding, "w1 w2", "w3", "--json")
    assert done.returncode == 0, done.stderr
    first, second = (np.array(result["embedding"]) for result in json.loads(done.stdout)["results"])
    assert first.shape == second.shape == (tiny_texts.HIDDEN,)
    by_ids = json.loads(ask(embedding, "--ids", "2 5 6 3", "--json").stdout)["results"][0]
    np.testing.assert_allclose(by_ids["embedding"], first, atol=0.03)  # int8: ranges follow the batch
    lines = ask(embedding, "-", stdin="w1 w2\n\nw3\n").stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith("w1 w2: ") and "16 numbers" in lines[0]
    assert ask(embedding, module="selftest").returncode == 0
    assert ask(embedding, "--seconds", "0.1", module="bench").returncode == 0


def test_the_classifier_names_labels_and_learned_from_labelled_texts(classifier: Path) -> None:
    manifest = json.loads((classifier / "manifest.json").read_text())
    assert manifest["labels"] == list(tiny_texts.LABELS)
    assert {"top1", "f1_macro", "agreement", "kl"} <= manifest["drift"]["model.onnx"]["metrics"].keys()
    done = ask(classifier, "w1 w2 w3", "--top", "2", "--json")
    top = json.loads(done.stdout)["results"][0]["top"]
    assert {guess["label"] for guess in top} == set(tiny_texts.LABELS)
    assert sum(guess["probability"] for guess in top) == pytest.approx(1)
    long = ask(classifier, " ".join(tiny_texts.WORDS))
    assert "longer than 12 tokens and was cut" in long.stderr and long.stdout.count(":") == 1


def test_the_gate_on_its_own_compares_model_and_bundle(place: Path, embedding: Path, tmp_path: Path) -> None:
    data = str(place / "embedding.tsv")
    outcome = evaluate(Options(str(place / "embedding"), str(embedding), data=data, max_drop=30.0))
    assert outcome.drift and outcome.report.task == "embedding"
    spearman = outcome.drift.metric("spearman")
    gated = json.loads((embedding / "manifest.json").read_text())["drift"]["model.cpu.onnx"]["metrics"]["spearman"]
    assert spearman is not None and spearman.reference == pytest.approx(gated["reference"], abs=0.05)
    outcome.candidate.save(tmp_path / "recorded.npz")
    again = evaluate(Options(str(place / "embedding"), str(tmp_path / "recorded.npz"), data=data, max_drop=30.0))
    assert again.drift.metric("spearman") == spearman
    with pytest.raises(InputError, match="--data"):
        evaluate(Options(str(place / "embedding"), str(embedding)))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("",), "has no tokens"),
        (("--ids", "5 999"), "token ids reach from 5 to 999; allowed: 0 to 63"),
        (("--ids", f"5 {10**30}"), "token ids reach from 5 to 1000"),
        (("--ids", "w1 w2"), "is not a list of token ids"),
        (("--watch", ".", "--out", "log.jsonl"), "--watch waits for files"),
    ],
)
def test_what_the_device_side_refuses_is_one_line(classifier: Path, arguments: tuple[str, ...], wanted: str) -> None:
    done = ask(classifier, *arguments)
    assert done.returncode == 2 and wanted in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_line(classifier: Path) -> None:
    plain, marked = (ask(classifier, "-", stdin=f"{mark}w1 w2\nw3\n").stdout for mark in ("", "\ufeff"))
    assert plain == marked and plain.startswith("w1 w2: ")


def test_a_line_of_standard_input_that_is_not_utf8_is_named(classifier: Path) -> None:
    command = [sys.executable, "-m", "runtime.run", str(classifier), "-"]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=False, input=b"w1\n\xff w2\n")
    assert done.returncode == 2 and done.stdout.startswith(b"w1: ")
    last = done.stderr.decode().splitlines()[-1]
    assert last == "error: standard input, line 2: not UTF-8 (invalid start byte at byte 0)"


def test_without_the_tokenizers_package_ids_still_work(classifier: Path) -> None:
    script = (
        "import sys, runpy, importlib.util as u; find = u.find_spec; "
        "u.find_spec = lambda name, *rest: None if name == 'tokenizers' else find(name, *rest); "
        "sys.modules['tokenizers'] = None; sys.argv = ['run', *sys.argv[1:]]; "
        "runpy.run_module('runtime.run', run_name='__main__')"
    )
    text, ids = (
        subprocess.run(
            [sys.executable, "-c", script, str(classifier), *given],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        for given in (["w1 w2"], ["--ids", "2 5 6 3"])
    )
    assert text.returncode == 3 and "pip install tokenizers, or give token ids" in text.stderr
    assert ids.returncode == 0, ids.stderr


@pytest.mark.parametrize(
    ("task", "text", "wanted"),
    [
        ("text-classification", "text\tlabel\nw1\tbad\nw2\n", "line 3: 1 columns"),
        ("text-classification", "w1\tbad\nw2\tgood\nw3\tugly\nw4\tbad\n", "3 classes but the model has 2"),
        ("text-classification", "w1\tbad\nw2\tfine\nw4\tbad\n", "no class named fine"),
        ("text-classification", "text\tlabel\nw1\tbad\n\tgood\nw2\tbad\nw3\tgood\n\tbad\n", "the text is empty"),
        ("text-classification", "w1 w2\nw3\nw4\n", "2 of 2 texts have no label"),
        ("text-classification", "text\tlabel\nw1\tbad\nw1\t\n", "1 of 2 texts have no label: mine.tsv:3; give columns"),
        ("text-classification", "text\tstars\nw1\tbad\nw1\tgood\n", "2 of 2 texts have no label: mine.tsv:2"),
        ("text-classification", "premise\thypothesis\tlabel\nw1\tw2\t\n", "1 of 1 texts have no label: mine.tsv:2"),
        ("embedding", "w1\tbad\nw1\tgood\n", "2 of 2 are not pairs with a score: mine.tsv:1, mine.tsv:2; give columns"),
        ("embedding", "w1\tw2\tmuch\nw1\tw3\t1\n", "its columns are not known"),
    ],
)
def test_data_that_cannot_be_used_is_refused_before_anything_is_computed(
    place: Path, tmp_path: Path, task: str, text: str, wanted: str
) -> None:
    (tmp_path / "mine.tsv").write_text(text)
    with pytest.raises(InputError, match=wanted):
        compress(place, task, "cpu", tmp_path / "out", data=str(tmp_path / "mine.tsv"), recipe="identity")
    assert not (tmp_path / "out" / "bundle").exists()


def test_a_tokenizer_of_another_model_is_refused(place: Path, tmp_path: Path) -> None:
    model = tiny_texts.model_folder(tmp_path / "model", "embedding")
    (model / "tokenizer.json").write_text((model / "tokenizer.json").read_text().replace('"w59": 63', '"w59": 99'))
    with pytest.raises(InputError, match="it is the tokenizer of another model"):
        compress(place, "embedding", "cpu", tmp_path / "out", model=str(model), recipe="identity")
