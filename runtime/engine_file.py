"""Engines on the disk: `engines/NAME.engine` with `engines/NAME.json`, which says what it was built from and for.

An engine is tied to the TensorRT version and the GPU, and counts only once the golden check passed on the device.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from runtime.bundle import Bundle
from runtime.files import sha256_of, write_atomic
from runtime.manifest import MODEL, ModelFile, Span
from runtime.trt import TensorRT
from targets.errors import InputError
from targets.strict import read

FOLDER = "engines"


@dataclass(frozen=True)
class EngineIdentity:
    """What an engine must match to be used: the same ONNX files, TensorRT, GPU, precision and shapes."""

    onnx: dict[str, str]  # path -> SHA-256, weights stored apart included
    flavour: str
    version: str
    compute_capability: str
    precision: str
    spans: dict[str, Span]

    @property
    def model(self) -> str:
        """Path of the ONNX file in the bundle; weights stored apart have longer names."""
        return min(self.onnx, key=len)

    @property
    def stem(self) -> str:
        """File name without its suffix."""
        capability = self.compute_capability.replace(".", "")
        return f"{Path(self.model).stem}-{self.flavour}-{self.version}-sm{capability}"


@dataclass(frozen=True)
class EngineRecord:
    """The json beside an engine. `golden` is "pass" once its outputs were held against the golden ones."""

    identity: EngineIdentity
    sha256: str
    bytes: int
    golden: Literal["pass", "not run"]


def identify(bundle: Bundle, model: ModelFile, trt: TensorRT, capability: str) -> EngineIdentity:
    """The identity of the engine that this bundle needs on a GPU of that compute capability."""
    manifest = bundle.manifest
    onnx = model.path if model.path.endswith(".onnx") else MODEL
    files = {path: digest.sha256 for path, digest in manifest.files.items() if path.startswith(onnx)}
    return EngineIdentity(files, trt.flavour, trt.version, capability, model.precision, spans_of(bundle))


def spans_of(bundle: Bundle) -> dict[str, Span]:
    """(min, opt, max) of the dynamic dimensions; a recurrent model's batch is fixed at its best.

    With batch and chunk both dynamic the builder fails on recurrent models.
    """
    manifest = bundle.manifest
    spans = dict(manifest.target.profile)
    if manifest.state and "batch" in spans:
        best = spans["batch"][1]
        spans["batch"] = (best, best, best)
    return spans


def engine_path(bundle: Bundle, identity: EngineIdentity) -> Path:
    """Where that engine lies, or would."""
    return bundle.root / FOLDER / f"{identity.stem}.engine"


def find_record(bundle: Bundle, identity: EngineIdentity) -> EngineRecord | None:
    """The record of an engine that matches and is whole, or None."""
    path = engine_path(bundle, identity)
    try:
        record = read(EngineRecord, json.loads(path.with_suffix(".json").read_bytes()), str(path))
        whole = path.stat().st_size == record.bytes and sha256_of(path) == record.sha256
    except (OSError, ValueError, InputError):  # absent or not ours: build anew
        return None
    return record if whole and record.identity == identity else None


def store(bundle: Bundle, record: EngineRecord, engine: bytes | None) -> Path:
    """Write an engine (None: it is there already) and then its record, each whole or not at all. Returns its path."""
    path = engine_path(bundle, record.identity)
    if engine is not None:
        path.with_suffix(".json").unlink(missing_ok=True)
        write_atomic(path, engine)
    write_atomic(path.with_suffix(".json"), json.dumps(asdict(record), indent=2, sort_keys=True).encode() + b"\n")
    return path
