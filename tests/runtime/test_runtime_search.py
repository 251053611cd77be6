"""Beam search in numpy writes what transformers' `generate` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.translators import END, PAD, TorchRows, saved_translator

from compress.tasks import read_checkpoint
from runtime.texts.search import likeliest, search
from runtime.texts.text import TargetText

LONGEST = 14


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    folder: Path = tmp_path_factory.mktemp("translator")
    original = saved_translator(folder)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 39, (12, 9), generator=generator)
    real = torch.arange(9)[None] < torch.randint(2, 10, (12, 1), generator=generator)
    source = {"input_ids": torch.where(real, ids, PAD), "attention_mask": real.long()}
    return original, read_checkpoint(folder, {"vocab_size": 39, "max_length": 40}), source


def wanted(original: Any, source: dict[str, torch.Tensor], **options: Any) -> list[list[int]]:
    settings = {"max_length": LONGEST + 1, "bad_words_ids": [[PAD]], "forced_eos_token_id": END, "do_sample": False}
    with torch.no_grad():
        rows = original.generate(**source, **settings, **options)
    return [[token for token in row[1:].tolist() if token not in (END, PAD)] for row in rows]


@pytest.mark.parametrize(
    ("beams", "own", "theirs"),
    [
        (1, {}, {"num_beams": 1}),
        (4, {}, {"num_beams": 4}),
        (4, {"early": True}, {"num_beams": 4, "early_stopping": True}),
        (3, {"length_penalty": 0.2}, {"num_beams": 3, "length_penalty": 0.2}),
        (2, {"no_repeat": 2}, {"num_beams": 2, "no_repeat_ngram_size": 2}),
        (2, {"forced": (7,)}, {"num_beams": 2, "forced_bos_token_id": 7}),
    ],
)
def test_a_search_writes_the_texts_of_transformers(
    translator: Any, beams: int, own: dict[str, Any], theirs: dict[str, Any]
) -> None:
    original, model, source = translator
    target = TargetText(start=PAD, max_length=LONGEST, banned=(PAD,), **own)
    found = search(TorchRows(model, source), 12, target, (END,), beams, LONGEST)
    assert [texts[0].ids for texts in found] == wanted(original, source, **theirs)


def test_the_best_texts_come_first_and_differ(translator: Any) -> None:
    _, model, source = translator
    target = TargetText(start=PAD, max_length=LONGEST, banned=(PAD,))
    found = search(TorchRows(model, source), 12, target, (END,), 4, LONGEST, best=3)
    for texts in found:
        scores = [one.score for one in texts]
        assert scores == sorted(scores, reverse=True) and np.isfinite(scores).all()
        assert len({tuple(one.ids) for one in texts}) == len(texts)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(2, 300), st.integers(0, 99))
def test_the_likeliest_tokens_are_those_of_a_whole_sort(rows: int, count: int, vocabulary: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits_RV = random.normal(size=(rows, vocabulary)).astype(np.float32)
    logits_RV[random.random(logits_RV.shape) < 0.3] = -np.inf
    logits_RV[:, -1] = 9.0 + np.arange(rows)  # the last column has fewer tokens, and one of the best
    values_RC, tokens_RC = likeliest(logits_RV, count)
    wanted_RV = torch.from_numpy(logits_RV).double().log_softmax(-1).numpy()
    count = min(count, vocabulary)
    assert values_RC.shape == tokens_RC.shape == (rows, count)
    np.testing.assert_allclose(values_RC, -np.sort(-wanted_RV)[:, :count], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(wanted_RV, tokens_RC, axis=1), values_RC, atol=1e-6)


def test_of_tokens_that_are_equal_the_lower_comes_first() -> None:
    values_RC, tokens_RC = likeliest(np.array([[1.0, 3.0, 2.0, 3.0, 2.0]], np.float32), 4)
    assert tokens_RC.tolist() == [[1, 3, 2, 4]] and values_RC[0, 0] == values_RC[0, 1]
