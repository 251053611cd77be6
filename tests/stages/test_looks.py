"""What goes into a bundle of how its samples look to the model."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from support.runtime_toys import onnx_accumulator, onnx_classifier, oracle

from compress.stages.looks import LEAST, reference, unknown_token
from compress.tasks.task import Prepared


class Pictures:
    """Prepared pictures of random grey."""

    def __init__(self, count: int) -> None:
        shades = np.random.default_rng(0).standard_normal((count, 1, 1, 1))
        self.pixels_BCHW = (shades + np.random.default_rng(1).standard_normal((count, 3, 8, 8))).astype(np.float32)

    def __len__(self) -> int:
        return len(self.pixels_BCHW)

    def batches(self, size: int, indices: Collection[int]) -> Iterator[dict[str, np.ndarray]]:
        for index in indices:
            yield {"pixel_values": self.pixels_BCHW[index : index + 1]}


def saved(model: Any, path: Path) -> Path:
    onnx.save(model, path)
    return path


def test_a_reference_counts_every_sample_once_in_each_number(tmp_path: Path) -> None:
    pictures = Pictures(80)
    summary = reference(cast(Prepared, pictures), saved(onnx_classifier(), tmp_path / "model.onnx"), None)
    assert summary is not None and summary.unknown is None
    assert {"mean of pixel_values[2]", "mean of the output", "confidence"} <= summary.spreads.keys()
    assert all(sum(spread.counts) == 80 for spread in summary.spreads.values())
    spread = summary.spreads["mean of the output"]
    means_B = oracle(pictures.pixels_BCHW).mean(axis=1)
    counts = np.histogram(means_B, [-np.inf, *spread.edges, np.inf])[0]
    assert np.abs(counts - np.array(spread.counts)).max() <= 1  # float32 may lie at the other side of an edge
    assert not summary.drifted({"mean of the output": means_B})


def test_few_samples_and_models_with_state_have_no_reference(tmp_path: Path) -> None:
    few = cast(Prepared, Pictures(LEAST - 1))
    assert reference(few, saved(onnx_classifier(), tmp_path / "model.onnx"), None) is None
    many = cast(Prepared, Pictures(LEAST))
    assert reference(many, saved(onnx_accumulator(), tmp_path / "sum.onnx"), None) is None


@pytest.mark.parametrize(
    ("model", "token"),
    [
        ({"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[PAD]": 0, "[UNK]": 100}}, 100),
        ({"type": "Unigram", "unk_id": 2, "vocab": [["<s>", 0.0]]}, 2),
        ({"type": "BPE", "unk_token": None, "vocab": {"a": 0}}, None),
        ({"type": "BPE", "unk_token": "<unk>", "vocab": {"a": 0}}, None),
        (None, None),
    ],
)
def test_the_unknown_token_is_the_one_that_the_tokenizer_names(tmp_path: Path, model: Any, token: int | None) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    assert unknown_token(tmp_path / "tokenizer.json") == token
