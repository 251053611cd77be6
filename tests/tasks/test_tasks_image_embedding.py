"""Vectors of images are judged by their nearest neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.verification.kinds.embeddings import EmbeddedClasses, nearest
from compress.verification.metrics import METRICS
from targets.errors import InputError


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 40), width=st.integers(1, 8), seed=st.integers(0, 999))
def test_the_nearest_neighbour_is_that_of_a_plain_loop(count: int, width: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for sample, found in enumerate(nearest(vectors)):
        others = [unit[sample] @ unit[other] for other in range(count) if other != sample]
        assert found != sample and unit[sample] @ unit[found] == pytest.approx(max(others), abs=1e-6)


def answers(spread: float) -> EmbeddedClasses:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    centres = np.eye(3, 8)[labels]
    return EmbeddedClasses((centres + spread * generator.normal(size=(60, 8)))[:, None].astype(np.float32), labels)


def test_classes_that_lie_apart_are_found_and_a_reference_that_knows_nothing_is_named() -> None:
    assert METRICS["nearest1"].value(answers(0.05)) == 100
    assert answers(0.05).knows_nothing(0.95) is None
    noise = answers(30.0)
    assert METRICS["nearest1"].value(noise) < 60
    assert "no more often than by chance" in str(noise.knows_nothing(0.95))


def test_vectors_that_fit_no_labels_are_refused() -> None:
    with pytest.raises(InputError, match=r"give \[samples, 1, width\]"):
        EmbeddedClasses(np.zeros((3, 2, 4), np.float32), np.zeros(3, np.int64))
