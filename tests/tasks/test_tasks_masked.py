"""Masked language models from the data to the device: tokens hidden and found again, a gate that sees damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.damage import answers_of, hurt
from support.jobs import asked, device, shipped
from support.tiny_texts import WORDS, model_folder

from compress import tasks
from compress.heal.options import HealOptions
from compress.model import load, save
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.tasks.hidden import hidden_places
from compress.tasks.task import DataChoice
from compress.verification.kinds.losses import MaskedTokens
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from compress.verify import Options, evaluate
from runtime.texts.text import TextPreprocessing
from targets.errors import InputError

TASK = tasks.get("masked-lm")
SPECIALS, MASK, STEPS = frozenset({0, 2, 3, 64}), 64, 250


def masked(ids: list[int], specials: frozenset[int], mask: int) -> list[int]:
    spec = TextPreprocessing(kind="text", vocab_size=65, max_length=80, mask_id=mask)
    return TASK.seen(ids, specials, spec)  # type: ignore[attr-defined,no-any-return]


def told(path: Path, count: int, seed: int) -> Path:
    """Texts that count: what is hidden follows from what stands beside it."""
    draw, texts = np.random.default_rng(seed), set()
    while len(texts) < count:
        first, length = int(draw.integers(0, 60)), int(draw.integers(4, 10))
        step = int(draw.integers(1, 8))
        texts.add(" ".join(WORDS[(first + step * place) % 60] for place in range(length)))
    path.write_text("\n".join(sorted(texts)) + "\n")
    return path


def prepared(folder: Path, data: Path):  # type: ignore[no-untyped-def]
    choice = DataChoice(str(data), None, False, 0)
    return TASK.open(choice, "all", None, load(folder).structure.preprocessing, folder)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model that has learned to count a little, and texts to judge it by."""
    root = tmp_path_factory.mktemp("masked")
    folder, data = model_folder(root / "model", "masked-lm"), told(root / "texts.txt", 400, seed=0)
    model, samples = load(folder), prepared(folder, data)
    ids = [torch.tensor(masked(one, SPECIALS, MASK)) for one in samples.ids]
    inputs_BN = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    truth_BN = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in samples.ids], batch_first=True)
    model.train().requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        scores_BNV = model({"input_ids": inputs_BN, "attention_mask": (truth_BN != 0).long()})
        hidden_BN = inputs_BN == MASK
        loss = torch.nn.functional.cross_entropy(scores_BNV[hidden_BN], truth_BN[hidden_BN])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    save(model.eval(), folder)
    return folder, data


def masked_of(folder: Path, data: Path) -> MaskedTokens:
    found = answers_of(folder, data)
    assert isinstance(found, MaskedTokens)
    return found


@given(st.lists(st.integers(0, 64), min_size=1, max_size=80))
def test_hidden_places_follow_from_the_text_and_hold_no_special_token(ids: list[int]) -> None:
    places = hidden_places(ids, SPECIALS)
    own = [token for token in ids if token not in SPECIALS]
    assert places == sorted(set(places)) == hidden_places(list(ids), SPECIALS)
    assert all(ids[place] not in SPECIALS for place in places)
    assert len(places) == (max(1, round(0.15 * len(own))) if own else 0)
    seen = masked(ids, SPECIALS, MASK)
    assert [place for place, (one, two) in enumerate(zip(ids, seen, strict=True)) if one != two] == places


def test_the_model_sees_masks_and_padding_stays(setting: tuple[Path, Path]) -> None:
    samples = prepared(*setting)
    for inputs in samples.batches(64):
        real = inputs["attention_mask"] == 1
        assert ((inputs["input_ids"] == MASK) & real).any(axis=1).all()
        assert (inputs["input_ids"][~real] == 0).all()


def test_pseudo_perplexity_is_that_of_torch_one_text_after_the_other(setting: tuple[Path, Path]) -> None:
    found, samples, model = masked_of(*setting), prepared(*setting), load(setting[0])
    nll, right, count = 0.0, 0, 0
    for ids in samples.ids:
        places = hidden_places(ids, SPECIALS)
        with torch.no_grad():
            scores_PV = model({"input_ids": torch.tensor([masked(ids, SPECIALS, MASK)])})[0, places]
        true_P = torch.tensor(ids)[places]
        nll += float(torch.nn.functional.cross_entropy(scores_PV, true_P, reduction="sum"))
        right, count = right + int((scores_PV.argmax(1) == true_P).sum()), count + len(places)
    assert METRICS["pseudo_perplexity"].value(found) == pytest.approx(np.exp(nll / count), rel=1e-4)
    assert METRICS["masked_top1"].value(found) == pytest.approx(100 * right / count)
    assert right > 0.3 * count


def test_a_damaged_block_does_not_pass_and_one_hardly_changed_does(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting
    for size, passes in ((1e-6, True), (0.5, False)):
        other = hurt(folder, tmp_path / str(size), size)
        report = evaluate(Options(str(folder), str(other), str(data), part="all", max_drop=5.0)).report
        assert (report.verdict is Status.PASS) is passes and report.task == "masked-lm", report.headline
        assert report.drift is not None and report.drift.metrics[0].name == "pseudo_perplexity"


def test_answers_are_kept_whole(setting: tuple[Path, Path]) -> None:
    found = masked_of(*setting)
    again = found.restored(found.compact().tobytes())
    assert all(np.array_equal(value, again.arrays()[name]) for name, value in found.arrays().items())
    with pytest.raises(InputError, match="one hidden token at least"):
        MaskedTokens(np.zeros(1), np.full((1, 2), -1), np.full((1, 2), -1))


def test_healing_draws_nothing_to_the_original_and_takes_no_labels() -> None:
    answer = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    inputs = {"attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    other = answer.clone()
    other[1, 1:] += torch.arange(5.0)  # padding
    assert float(TASK.objective.drift(answer, other, inputs)) == pytest.approx(0, abs=1e-6)
    other[0, 0] += torch.arange(5.0)
    assert float(TASK.objective.loss(HealOptions(), answer, other, inputs, None)) > 0.01
    with pytest.raises(InputError, match=r"heal\.task"):
        TASK.objective.loss(HealOptions(task=1.0), answer, answer, inputs, None)


def test_a_tokenizer_without_a_mask_token_is_refused_and_a_named_one_is_found(tmp_path: Path) -> None:
    model_folder(tmp_path, "embedding")
    config = {"vocab_size": 64, "max_position_embeddings": 12, "architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"its tokenizer has no mask token \(\[MASK\] or <mask>\)"):
        TASK.preprocessing(tmp_path, print)
    model_folder(tmp_path / "other", "masked-lm")
    (tmp_path / "tokenizer.json").write_bytes((tmp_path / "other" / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 65}))
    assert TASK.preprocessing(tmp_path, print)["mask_id"] == MASK


def test_texts_of_unknown_words_alone_are_left_out(setting: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("[MASK] [MASK]\nw1 w2 [MASK] [MASK]\nw4 w5\n")
    samples = prepared(setting[0], tmp_path / "a.txt")
    fresh = TASK.fresh(samples, [0, 1])
    assert len(fresh) == 2 and all(hidden_places(ids, SPECIALS) for ids in fresh.ids)  # type: ignore[attr-defined]
    assert len(samples) == 2 and "1 of 3 texts have no token that could be hidden" in samples.notes[-1]
    (tmp_path / "b.txt").write_text("[MASK]\n[MASK] [MASK]\n")
    with pytest.raises(InputError, match="no text with a token of its own"):
        prepared(setting[0], tmp_path / "b.txt")


def test_tokens_that_a_mask_may_hide_are_not_trimmed_away(setting: tuple[Path, Path]) -> None:
    model, inputs = load(setting[0]), {"input_ids": torch.tensor([[2, 5, 3]])}
    calibration = Calibration(model, lambda: iter([inputs]), note=lambda text: None)
    with pytest.raises(InputError, match="could not write the tokens that are dropped"):
        run_rewrite(*parse_options({"use": "trim-vocabulary", "keep": 10, "special": 4}), model, calibration)


def test_a_run_ships_a_bundle_that_fills_masks(setting: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = setting
    bundle = shipped(folder, data, tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["task"] == "masked-lm" and manifest["preprocessing"]["mask_id"] == MASK
    assert "pseudo_perplexity" in manifest["drift"]["model.onnx"]["metrics"]

    [result] = asked(bundle, "w1 w2 [MASK] w4 w5 [MASK]", "--top", "3")
    masks = result["masks"]
    ids = [2, 5, 6, MASK, 8, 9, MASK, 3]
    with torch.no_grad():
        likely_PV = load(folder)({"input_ids": torch.tensor([ids])})[0, [3, 6]].softmax(-1)
    wanted = likely_PV.topk(3)
    assert [[one["index"] for one in best] for best in masks] == wanted.indices.tolist()
    assert np.allclose([[one["probability"] for one in best] for best in masks], wanted.values, atol=1e-5)
    assert masks[0][0]["token"] == f"w{masks[0][0]['index'] - 4}"
    refused = device(bundle, "w1 w2")
    assert refused.returncode == 2 and "has no [MASK]" in refused.stderr and "Traceback" not in refused.stderr
