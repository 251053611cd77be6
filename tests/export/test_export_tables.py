"""Trimmed and factorised token tables export: a lookup of small numbers, a narrow table; int8 keeps the answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.rewriting import rewritten
from support.text_models import VOCABULARY, encoder, plain_calibration

from compress.model import Transformer
from export import graph
from export.numerics import check_against
from export.onnx_model import export_onnx
from export.precision.int8_dynamic import to_int8_dynamic
from runtime import ort


@pytest.fixture(scope="module")
def small() -> Transformer:
    model = encoder(layers=1)
    calibration = plain_calibration(model)
    trimmed = rewritten(model, "trim-vocabulary", calibration, keep=20, special=2)
    return rewritten(trimmed, "low-rank-embedding", calibration, rank=8)


def texts(batch: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_a_lookup_and_two_factors_are_what_is_exported(small: Transformer, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    dynamic = {name: {0: "batch", 1: "length"} for name in texts(2, 5)}
    export_onnx(small, texts(2, 5), ["sentence_embedding"], dynamic, file)
    assert check_against(small, file, [texts(1, 3), texts(3, 9)])
    shapes = {name: array.shape for name, array in graph.weights(graph.load(file)).items()}
    assert (20, 8) in shapes.values() and (VOCABULARY,) in shapes.values()
    assert (VOCABULARY, 12) not in shapes.values()
    to_int8_dynamic(file, tmp_path / "int8.onnx")
    inputs = {name: tensor.numpy() for name, tensor in texts(3, 9).items()}
    wanted, given = (ort.load(path).run(inputs)["sentence_embedding"] for path in (file, tmp_path / "int8.onnx"))
    assert float(np.sum(wanted * given, axis=1).min()) > 0.99
