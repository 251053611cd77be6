"""A check of recurrent files: whatever chunks a sequence comes in, the answers are those to the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.verification.outcome import Status
from compress.verification.report_data import ExtraCheck
from runtime.bundles.bundle import Bundle
from runtime.bundles.manifest import MODEL, ModelFile, Tensor, parse_manifest
from runtime.session import Session
from runtime.streams.chunking import ALLOWED, check_chunking
from runtime.streams.stream import Stream
from targets.errors import GateFailed

if TYPE_CHECKING:
    import numpy as np


def check_streaming(path: Path, tokens: np.ndarray, precision: str, longest: int) -> ExtraCheck:
    """Feed an ONNX file of a recurrent model the tokens (N, ...), `longest` at most, in several ways."""
    name = f"streaming of {path.name}"
    try:
        found = check_chunking(stream_of(path, precision), tokens, precision, longest)
    except GateFailed as error:
        return ExtraCheck(name=name, status=Status.FAIL, message=str(error))
    lengths = ", ".join(str(one.length) for one in found)
    worst = max(found, key=lambda one: one.error)
    text = (
        f"sequences of {lengths} tokens in chunks differ from whole ones by at most {worst.error:.1e} of the answers' "
        f"size; allowed {worst.allowed:g}"
    )
    if precision == "int8" and worst.error > ALLOWED["fp32"]:
        text += (
            "; dynamic int8 rounds by the largest number of a chunk, so answers depend a little on how a text is cut"
        )
    return ExtraCheck(name=name, status=Status.PASS if all(found) else Status.FAIL, message=text)


def stream_of(path: Path, precision: str, batch: int = 1, chunk: int = 512) -> Stream:
    """Sequences fed to an ONNX file, as from a bundle of it with this longest chunk, on the CPU."""
    from export.onnx_model import read_info
    from runtime import ort

    info = read_info(path)
    past = [tensor for tensor in info.inputs if tensor.name.startswith("past")]
    present = [tensor.name for tensor in info.outputs if tensor.name.startswith("present")]
    manifest = {
        "schema": 1,
        "edgepress": "0",
        "task": "causal-lm",
        "target": {"name": "cpu", "profile": {"batch": [1, batch, 8 * batch], "chunk": [1, 1, chunk]}},
        "inputs": [_declared(tensor) for tensor in info.inputs if tensor not in past],
        "outputs": [_declared(tensor) for tensor in info.outputs if tensor.name not in present],
        "state": [
            {"past": tensor.name, "present": name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
            for tensor, name in zip(past, present, strict=True)
        ],
        "models": [{"path": MODEL, "runtime": "onnxruntime", "precision": precision}],
        "files": {MODEL: {"sha256": "0" * 64, "bytes": path.stat().st_size}},
        "verdict": "pass",
    }
    bundle = Bundle(path, path.parent, parse_manifest(json.dumps(manifest).encode(), path.name))
    model = ModelFile(MODEL, "onnxruntime", precision)  # type: ignore[arg-type]
    return Stream(Session(bundle, model, ort.load(path, threads=1), 1, ()), batch)


def _declared(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
