"""One number for a text or a pair, from the data to the device: what token types say, a gate that sees damage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.damage import answers_of, report_on_noise
from support.jobs import asked, device, shipped
from support.tiny_texts import WORDS, model_folder

from compress import tasks
from compress.data import load_texts
from compress.heal.options import HealOptions
from compress.model import load
from compress.tasks import read_checkpoint
from compress.tasks.task import DataChoice
from compress.verification.kinds.ranking import RankedScores
from compress.verification.kinds.scores import TextScores
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from runtime.texts.text import KINDS, Tokenizer, pad, parse_preprocessing
from targets.errors import InputError

TASK = tasks.get("text-regression")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def scores_of(folder: Path, data: Path) -> TextScores:
    found = answers_of(folder, data)
    assert isinstance(found, TextScores)
    return found


def written(path: Path, pairs: list[tuple[str, str]], scores: list[float]) -> Path:
    rows = [f"{first}\t{second}\t{score:.6f}" for (first, second), score in zip(pairs, scores, strict=True)]
    path.write_text("\n".join(["query\tpassage\tlabel", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and pairs whose scores are its own with a little noise."""
    root, draw = tmp_path_factory.mktemp("regression"), np.random.default_rng(0)
    folder = model_folder(root / "model", "text-regression")

    def some() -> str:
        return " ".join(draw.choice(WORDS, draw.integers(2, 5)))

    queries = [some() for _ in range(40)]
    pairs = list(dict.fromkeys((queries[place % 40], some()) for place in range(400)))
    plain = scores_of(folder, written(root / "plain.tsv", pairs, [0.0] * len(pairs))).scores
    noisy = plain + draw.normal(0, 0.1 * plain.std(), len(plain))
    return folder, written(root / "pairs.tsv", pairs, list(noisy))


def checkpoint(folder: Path, labels: int = 1) -> torch.nn.Module:
    """A BERT of the original library in a folder, with the tiny tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    theirs = BertForSequenceClassification(BertConfig(vocab_size=64, num_labels=labels, **SIZES)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.5)
    theirs.save_pretrained(folder)
    model_folder(folder / "other", "embedding")
    (folder / "tokenizer.json").write_bytes((folder / "other" / "tokenizer.json").read_bytes())
    return theirs


def test_pairs_give_the_logits_of_the_original_library_with_its_own_tokenizer(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = checkpoint(tmp_path)
    assert tasks.of_folder(tmp_path).name == "text-regression"
    pairs = [("w1 w2 w3", "w4"), ("w5", "w6 w7 w8 w9"), (" ".join(WORDS[:9]), " ".join(WORDS[9:14]))]
    section = {**TASK.preprocessing(tmp_path, print), "max_length": 12}
    assert section["separator"] == 3
    kinds = ["input_ids", "token_type_ids", "attention_mask"]
    own = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="[PAD]", model_input_names=kinds
    )
    batch = own(*map(list, zip(*pairs, strict=True)), padding=True, truncation=True, max_length=12, return_tensors="pt")
    spec = parse_preprocessing(section)
    encoded = Tokenizer(tmp_path / "tokenizer.json", spec).encode_pairs(pairs)
    assert encoded.cut == 1 and encoded.bytes[:2] == [10, 13]
    inputs = {name: torch.from_numpy(array) for name, array in pad(encoded.ids, spec).items()}
    for name in kinds:
        assert torch.equal(inputs[name], batch[name]), name
    ours = read_checkpoint(tmp_path, section)
    with torch.no_grad():
        wanted, given = theirs(**batch).logits, ours(inputs)
        blind = ours({name: tensor for name, tensor in inputs.items() if name != KINDS})
    assert float((wanted - given).abs().max()) < 1e-5
    assert float((wanted - blind).abs().max()) > 1e-2


def test_one_output_in_the_config_and_more_in_the_weights_are_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, labels=3)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {"0": "LABEL_0"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json names one output, but the weights have 3"):
        read_checkpoint(tmp_path, TASK.preprocessing(tmp_path, print))


def test_a_tokenizer_that_does_not_separate_two_texts_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    file = json.loads((tmp_path / "tokenizer.json").read_text())
    file["post_processor"]["pair"] = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(InputError, match="puts no separator between two texts"):
        TASK.preprocessing(tmp_path, print)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("query\tpassage\nw1\tw2\n", "1 of 1 texts have no score: a.tsv:2"),
        ("query\tpassage\tlabel\nw1\tw2\tgood\n", "1 of 1 texts have no score"),
        ("text1\ttext2\tscore\nw1 [SEP] w3\tw2\t1\n", "holds the token that separates two texts"),
        ("text1\ttext2\tscore\nw1\tw2\tgood\n", "the score 'good' is not a number"),
    ],
)
def test_data_that_cannot_be_judged_is_named(
    setting: tuple[Path, Path], tmp_path: Path, table: str, fault: str
) -> None:
    (tmp_path / "a.tsv").write_text(table)
    structure, choice = load(setting[0]).structure, DataChoice(str(tmp_path / "a.tsv"), None, False, 0)
    with pytest.raises(InputError, match=fault):
        TASK.open(choice, "evaluation", structure.labels, structure.preprocessing, setting[0])


def test_healing_sees_pairs_with_token_types_and_minimizes_the_squared_error(setting: tuple[Path, Path]) -> None:
    folder, data = setting
    structure = load(folder).structure
    opened = TASK.open(DataChoice(str(data), None, False, 0), "healing", (), structure.preprocessing, folder)
    batch = TASK.feed(opened, 0, torch.device("cpu")).plain(4)[0]
    assert int(batch[KINDS].max()) == 1 and batch[KINDS].shape == batch["input_ids"].shape
    one, other = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]])
    assert float(TASK.objective.loss(HealOptions(kl=1.0, task=0.0), one, other, batch, None)) == 2.0
    with pytest.raises(InputError, match="leave it out"):
        TASK.objective.loss(HealOptions(task=1.0), one, other, batch, None)


def test_the_metrics_are_those_of_scipy_and_the_mean_difference(setting: tuple[Path, Path]) -> None:
    from scipy.stats import spearmanr

    found = scores_of(*setting)
    assert METRICS["spearman"].value(found) == pytest.approx(100 * spearmanr(found.scores, found.gold).statistic)
    moved = replace(found, outputs=found.scores + np.linspace(-1, 1, len(found)))
    wanted = float(np.abs(np.linspace(-1, 1, len(found))).mean())
    assert METRICS["mae"].value(found, moved) == pytest.approx(wanted)


def test_a_damaged_model_does_not_pass_and_one_hardly_changed_does(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting
    for size, verdict in ((1e-5, Status.PASS), (1.0, Status.FAIL)):
        report = report_on_noise(folder, folder, data, tmp_path, size)
        assert report.task == "text-regression" and report.drift is not None
        ranking = ["ndcg10", "mrr", "order_ndcg10", "order_mrr"]  # forty queries
        assert [one.name for one in report.drift.metrics] == ["spearman", "mae", *ranking]
        assert report.verdict is verdict


def test_a_run_ships_a_bundle_that_scores_pairs(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting
    bundle = shipped(folder, data, tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["task"] == "text-regression" and KINDS in [one["name"] for one in manifest["inputs"]]
    assert {"spearman", "mae", "ndcg10", "order_mrr"} <= manifest["drift"]["model.onnx"]["metrics"].keys()
    pairs = [("w1 w2", "w3"), ("w3", "w1 w2")]
    wanted = scores_of(folder, written(tmp_path / "two.tsv", pairs, [0.0, 1.0])).scores
    given = [one["score"] for one in asked(bundle, *("\t".join(pair) for pair in pairs))]
    assert given == pytest.approx(list(wanted), abs=1e-4) and abs(wanted[0] - wanted[1]) > 1e-3
    [by_ids] = asked(bundle, "--ids", "2 5 6 3 7 3")
    assert by_ids["score"] == pytest.approx(wanted[0], abs=1e-4)
    assert device(bundle, "w1\tw2").stdout.startswith("w1\tw2: ")
    wrong = device(bundle, "w1\tw2\tw3")
    assert wrong.returncode == 2 and "neither a text nor two with one tab between them" in wrong.stdout + wrong.stderr


def test_pairs_that_begin_alike_are_passages_of_one_query(setting: tuple[Path, Path], tmp_path: Path) -> None:
    pairs = [("w1", "w2"), ("w3", "w4"), ("w1", "w5")]
    found = scores_of(setting[0], written(tmp_path / "a.tsv", pairs, [0.0, 1.0, 1.0]))
    assert isinstance(found, RankedScores) and list(found.queries) == [0, 1, 0]
    assert type(scores_of(setting[0], written(tmp_path / "b.tsv", pairs[:2], [0.0, 1.0]))) is TextScores


def test_queries_and_passages_are_read_as_pairs(tmp_path: Path) -> None:
    line = {"query": "w1", "passage": "w2", "score": 0.5}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    row = load_texts(str(tmp_path / "a.jsonl")).rows[0]
    assert row.texts == ("w1", "w2") and row.score == 0.5
