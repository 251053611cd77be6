"""Files exported once for all tests here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.mini_models import (
    DECODER_DYNAMIC,
    DYNAMIC,
    LinearAttentionCell,
    MiniDecoder,
    MiniViT,
    cell_inputs,
    decoder_inputs,
    images,
    randomized,
)
from torch import nn

from export.onnx_model import export_onnx
from runtime.engines import trt
from targets.errors import EnvironmentLacks


@pytest.fixture
def tensorrt() -> trt.TensorRT:
    """TensorRT for RTX, which builds engines for a named GPU without having one."""
    try:
        found = trt.load()
    except EnvironmentLacks:
        pytest.skip("TensorRT is not installed")
    if found.flavour != "tensorrt_rtx":
        pytest.skip("TensorRT itself builds on a GPU alone")
    return found


@pytest.fixture(scope="session")
def vit() -> nn.Module:
    return randomized(MiniViT())


@pytest.fixture(scope="session")
def vit_file(vit: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vit") / "vit.onnx"
    export_onnx(vit, images(2), ["logits"], DYNAMIC, path)
    return path


@pytest.fixture(scope="session")
def looped_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("looped") / "looped.onnx"
    export_onnx(randomized(MiniViT(loops=3)), images(2), ["logits"], DYNAMIC, path)
    return path


@pytest.fixture(scope="session")
def cell_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cell") / "cell.onnx"
    dynamic = {"x": {0: "batch", 1: "chunk"}, "past_s": {0: "batch"}, "past_z": {0: "batch"}}
    export_onnx(randomized(LinearAttentionCell()), cell_inputs(2, 5), ["y", "present_s", "present_z"], dynamic, path)
    return path


@pytest.fixture(scope="session")
def decoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoder") / "decoder.onnx"
    outputs = ["logits", "present_k", "present_v"]
    export_onnx(randomized(MiniDecoder()), decoder_inputs(2, 5, 3), outputs, DECODER_DYNAMIC, path)
    return path


@pytest.fixture
def batches() -> list[dict[str, np.ndarray]]:
    """Calibration inputs: four batches of eight images."""
    return [{"pixel_values": images(8, seed)["pixel_values"].numpy()} for seed in range(4)]
