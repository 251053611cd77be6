"""ELECTRA's discriminators, from the data to the device: tokens replaced and found, a gate that sees damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.damage import answers_of, report_on_noise
from support.jobs import asked, shipped
from support.tiny_texts import WORDS, model_folder

from compress import tasks
from compress.data.prepared_texts import PreparedTexts
from compress.model import load, save
from compress.tasks import read_checkpoint
from compress.tasks.hidden import hidden_places
from compress.tasks.replaced_token_detection import ReplacedTokenDetection
from compress.tasks.task import DataChoice
from compress.verification.kinds.detections import Detections
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from runtime.texts.text import TextPreprocessing

TASK = tasks.get("replaced-token-detection")
SPECIALS, SPEC = frozenset({0, 2, 3}), TextPreprocessing(kind="text", vocab_size=64, max_length=80)


def detections(folder: Path, data: Path) -> Detections:
    found = answers_of(folder, data)
    assert isinstance(found, Detections)
    return found


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model that has learned which words are odd ones out, and texts of words that belong together."""
    root, draw = tmp_path_factory.mktemp("replaced"), np.random.default_rng(0)
    folder, data = model_folder(root / "model", TASK.name), root / "texts.txt"
    firsts = draw.integers(0, 4, 400)
    texts = {" ".join(WORDS[15 * first + one] for one in draw.integers(0, 15, 6)) for first in firsts}
    data.write_text("\n".join(sorted(texts)) + "\n")
    model = load(folder)
    opened = TASK.open(DataChoice(str(data), None, False, 0), "all", None, model.structure.preprocessing, folder)
    assert isinstance(opened, PreparedTexts)
    inputs = {name: torch.from_numpy(array) for name, array in opened.padded(opened.ids).items()}
    true_BN = torch.tensor(opened.ids)
    model.train().requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            model(inputs), (inputs["input_ids"] != true_BN).float()
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    save(model.eval(), folder)
    return folder, data


@given(st.lists(st.integers(0, 63), min_size=1, max_size=60))
def test_only_hidden_places_are_replaced_and_by_other_words(ids: list[int]) -> None:
    assert isinstance(TASK, ReplacedTokenDetection)
    seen = TASK.seen(ids, SPECIALS, SPEC)
    changed = [place for place, (one, other) in enumerate(zip(ids, seen, strict=True)) if one != other]
    assert changed == (hidden_places(ids, SPECIALS) if set(ids) - SPECIALS else [])
    assert not SPECIALS & {seen[place] for place in changed} and seen == TASK.seen(list(ids), SPECIALS, SPEC)


def test_the_f1_is_that_of_counts(setting: tuple[Path, Path]) -> None:
    found = detections(*setting)
    pairs = [(logit > 0, gold > 0) for logit, gold in zip(found.logits.flat, found.gold.flat, strict=True) if gold >= 0]
    right = sum(one and other for one, other in pairs)
    wanted = 100 * 2 * right / (sum(one for one, _ in pairs) + sum(other for _, other in pairs))
    assert METRICS["replaced_f1"].value(found) == pytest.approx(wanted) and wanted > 60


def test_a_checkpoint_of_the_original_library_gives_its_logits(tmp_path: Path) -> None:
    from transformers import ElectraConfig, ElectraForPreTraining

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    theirs = ElectraForPreTraining(ElectraConfig(vocab_size=64, embedding_size=8, **sizes)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.5)
    theirs.save_pretrained(tmp_path)
    model_folder(tmp_path / "other", "embedding")
    (tmp_path / "tokenizer.json").write_bytes((tmp_path / "other" / "tokenizer.json").read_bytes())
    assert tasks.of_folder(tmp_path).name == TASK.name
    ours, ids_BN = (
        read_checkpoint(tmp_path, TASK.preprocessing(tmp_path, print)),
        torch.tensor([[2, 5, 6, 3], [2, 9, 3, 0]]),
    )
    inputs = {"input_ids": ids_BN, "attention_mask": (ids_BN != 0).long()}
    with torch.no_grad():
        wanted, given = theirs(**inputs).logits, ours(inputs)
    assert float((wanted - given)[ids_BN != 0].abs().max()) < 1e-5


def test_a_damaged_model_does_not_pass_and_one_hardly_changed_does(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting
    for size, verdict in ((1e-5, Status.PASS), (1.0, Status.FAIL)):
        report = report_on_noise(folder, folder, data, tmp_path, size)
        assert report.drift is not None and report.drift.metrics[0].name == "replaced_f1"
        assert report.verdict is verdict


def test_a_run_ships_a_bundle_that_finds_replaced_tokens(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting
    bundle = shipped(folder, data, tmp_path)
    assert json.loads((bundle / "manifest.json").read_text())["task"] == TASK.name
    text = " ".join([*WORDS[:3], WORDS[40], *WORDS[4:6]])
    [result] = asked(bundle, text)
    assert [one["text"] for one in result["tokens"]] == text.split()
    assert max(result["tokens"], key=lambda one: one["probability"])["text"] == WORDS[40]
