"""Written texts are judged as sacrebleu judges them."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from support.translators import sentences

from compress.verification.kinds.texts import bleu_counts, digest_of
from compress.verification.kinds.translations import Translations, WrittenTexts, chrf_counts
from compress.verification.metrics import METRICS


def written(outputs: list[str], references: list[str]) -> Translations:
    count = len(outputs)
    both = list(zip(outputs, references, strict=True))
    return Translations(
        np.array([bleu_counts(*pair) for pair in both]),
        np.array([chrf_counts(*pair) for pair in both]),
        np.full(count, 2.0),
        np.full(count, 4),
        np.array(list(map(digest_of, references))),
        np.array(list(map(digest_of, outputs))),
        np.zeros((count, 1, 3), np.float16),
    )


def test_bleu_and_chrf_of_a_corpus_are_those_of_sacrebleu() -> None:
    references = sentences(40, seed=1)
    outputs = [" ".join(text.split()[:-1]) or "w1" for text in references[:30]] + sentences(10, seed=2)
    samples = written(outputs, references)
    assert METRICS["bleu"].value(samples) == pytest.approx(BLEU().corpus_score(outputs, [references]).score)
    assert METRICS["chrf"].value(samples) == pytest.approx(CHRF().corpus_score(outputs, [references]).score)


def test_the_same_texts_match_and_others_do_not() -> None:
    references = sentences(10, seed=1)
    one, other = written(references, references), written([*references[:5], *sentences(5, seed=9)], references)
    assert METRICS["text_agreement"].value(one, other) == 50.0
    assert one.agree(other).tolist() == [True] * 5 + [False] * 5


def test_what_a_baseline_keeps_gives_the_same_metrics_back() -> None:
    references = sentences(10, seed=1)
    plain = written(sentences(10, seed=2), references).plain()
    again = plain.restored(plain.compact().tobytes())
    assert isinstance(again, WrittenTexts)
    for metric in WrittenTexts.metrics:
        assert metric.value(again) == metric.value(plain)


def test_a_model_that_writes_nothing_alike_knows_nothing() -> None:
    assert written(["zz yy"] * 3, sentences(3)).knows_nothing(0.95)
    assert written(sentences(3), sentences(3)).knows_nothing(0.95) is None
