"""Every precision parses and builds in TensorRT, and its weights are there in that precision, tied ones once.

Runs where TensorRT for RTX is installed; it builds for a named GPU without having one. No engine is run here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mini_models import HIDDEN

from export import graph
from export.precision.fp16 import to_fp16
from export.precision.int8_static import to_int8_static
from runtime.engine import build_engine
from runtime.trt import TensorRT, load
from targets.errors import EnvironmentLacks

Batches = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Talking(TensorRT):
    """Keeps the messages of a build, which say how many bytes of weights the engine holds."""

    lines: list[str] = field(default_factory=list)

    def logger(self) -> Any:
        lines, base = self.lines, self.module.ILogger

        class Log(base):  # type: ignore[misc,valid-type]
            def __init__(self) -> None:
                base.__init__(self)
                self.lines = lines

            def log(self, severity: Any, message: str) -> None:
                lines.append(message.strip())

        return Log()

    def weight_bytes(self) -> int:
        return int(re.findall(r"Total Weights Memory: (\d+)", "\n".join(self.lines))[-1])


@pytest.fixture
def weights_of() -> Callable[[Path, str], int]:
    """Builds a file and returns the bytes of the engine's weights."""
    try:
        found = load()
    except EnvironmentLacks:
        pytest.skip("TensorRT is not installed")
    if found.flavour != "tensorrt_rtx":
        pytest.skip("TensorRT itself builds on a GPU alone")

    def build(path: Path, precision: str) -> int:
        trt = Talking(found.module, found.flavour, found.version)
        spans = {"batch": (1, 1, 4), "chunk": (1, 2, 8)}
        engine = build_engine(trt, path, spans, precision=precision, capability="8.6", workspace_bytes=1 << 28)
        assert engine.data
        return trt.weight_bytes()

    return build


def matrices(path: Path) -> int:
    """Numbers in weights of two dimensions and more."""
    return sum(array.size for array in graph.weights(graph.load(path)).values() if array.ndim > 1)


@pytest.mark.parametrize("which", ["vit_file", "looped_file"])
def test_weights_are_in_the_engine_once_and_in_their_precision(
    which: str,
    weights_of: Callable[[Path, str], int],
    batches: Batches,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    source: Path = request.getfixturevalue(which)
    numbers = matrices(source)
    half = to_fp16(source, tmp_path / "half.onnx").path
    int8 = to_int8_static(source, tmp_path / "int8.onnx", batches).path
    both = to_fp16(int8, tmp_path / "both.onnx").path
    rest = 24 << 10  # gains, biases, scales, positions, padding
    for path, precision, width in ((source, "fp32", 4), (half, "fp16", 2), (int8, "int8", 1), (both, "int8", 1)):
        assert numbers * width <= weights_of(path, precision) < numbers * width + rest


def test_a_recurrent_file_with_its_state_in_float32_builds(
    cell_file: Path, weights_of: Callable[[Path, str], int], tmp_path: Path
) -> None:
    half = to_fp16(cell_file, tmp_path / "half.onnx", [("past_s", "present_s"), ("past_z", "present_z")]).path
    assert 4 * HIDDEN * HIDDEN * 2 <= weights_of(half, "fp16") < 4 * HIDDEN * HIDDEN * 2 + 4096
