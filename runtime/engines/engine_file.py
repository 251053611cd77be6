"""Engines on the disk: NAME.engine with NAME.json, which says what it was built from and for, and NAME.golden.json once
the golden check passed on the device that runs it.

An engine is tied to the TensorRT version and the GPUs that it was built for. It may come with the bundle, in `engines`,
or be built on the device, in `engines/local`; it counts only once the golden check passed there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from runtime.bundles.bundle import Bundle
from runtime.bundles.manifest import GRAPH, MODEL, ModelFile, Span
from runtime.engines.engine import EngineBuild
from runtime.engines.trt import Flavour, TensorRT
from runtime.files import parse_json, sha256_of, write_atomic
from targets.errors import InputError
from targets.strict import read

FOLDER = "engines"
LOCAL = "engines/local"
_GOLDEN = ".golden.json"


@dataclass(frozen=True)
class EngineIdentity:
    """What an engine must match to be used: the same ONNX files, TensorRT, GPUs, precision and shapes."""

    onnx: dict[str, str]  # path -> SHA-256, weights stored apart included
    flavour: Flavour
    version: str
    compute_capabilities: tuple[str, ...]
    precision: str
    spans: dict[str, Span]

    @property
    def model(self) -> str:
        """Path of the ONNX file in the bundle, beside which weights may be stored apart."""
        return next(path for path in self.onnx if path.endswith(".onnx"))

    @property
    def stem(self) -> str:
        """File name without its suffix."""
        gpus = "-".join(f"sm{one.replace('.', '')}" for one in self.compute_capabilities)
        return f"{Path(self.model).stem}-{self.flavour}-{self.version}-{gpus}"

    def serves(self, wanted: EngineIdentity) -> bool:
        """Whether an engine of this identity is one of the wanted, for its GPUs and perhaps more."""
        same = replace(self, compute_capabilities=()) == replace(wanted, compute_capabilities=())
        return same and set(wanted.compute_capabilities) <= set(self.compute_capabilities)


@dataclass(frozen=True)
class EngineRecord:
    """The json beside an engine: what it is, and what proves its precision.

    `compute_types` counts the result types of the layers that compute, `quantized` those with int8 weights;
    `weights_bytes` is what the builder says that the weights take, to be held against `onnx_bytes`.
    """

    identity: EngineIdentity
    sha256: str
    bytes: int
    onnx_bytes: int
    weights_bytes: int | None
    compute_types: dict[str, int]
    quantized: int
    profile: dict[str, tuple[tuple[int, ...], ...]]

    def describe(self) -> str:
        """'fp16: 73 layers compute in float16, weights take 8.1 MB of 10.1 MB'."""
        types = ", ".join(f"{count} in {name}" for name, count in sorted(self.compute_types.items()))
        quantized = f", {self.quantized} of them with int8 weights" if self.quantized else ""
        weights = "" if self.weights_bytes is None else f"; weights take {self.weights_bytes / 1e6:.2f} MB"
        return (
            f"{self.bytes / 1e6:.2f} MB from {self.onnx_bytes / 1e6:.2f} MB of ONNX; layers that compute: {types}"
            f"{quantized}{weights}"
        )


@dataclass(frozen=True)
class StoredEngine:
    """An engine that lies at `path`, with its record beside it."""

    path: Path
    record: EngineRecord

    def passed(self, device: str) -> bool:
        """Whether this very engine passed its golden check on this device."""
        try:
            note = parse_json(self.path.with_suffix(_GOLDEN).read_bytes())
        except (OSError, ValueError):
            return False
        return bool(note == self._note(device))

    def note_passed(self, device: str) -> None:
        """Note on the disk that it passed its golden check on this device."""
        write_atomic(self.path.with_suffix(_GOLDEN), _json(self._note(device)))

    def _note(self, device: str) -> dict[str, str]:
        return {"engine": self.record.sha256, "device": device, "golden": "pass"}


def identify(bundle: Bundle, model: ModelFile, trt: TensorRT, capability: str) -> EngineIdentity:
    """The identity of the engine that this bundle needs on a GPU of that compute capability."""
    manifest = bundle.manifest
    onnx = model.path if model.path.endswith(".onnx") else MODEL
    files = {path: manifest.files[path].sha256 for path in stored(onnx, manifest.graph) if path in manifest.files}
    spans = spans_of(manifest.target.profile, recurrent=bool(manifest.state))
    return EngineIdentity(files, trt.flavour, trt.version, (capability,), model.precision, spans)


def stored(onnx: str, graph: str) -> tuple[str, str]:
    """An ONNX file of a graph and the file where its weights may be apart, which the graphs of a model share."""
    return onnx, f"{onnx.replace(graph, GRAPH, 1)}.data"


def spans_of(profile: Mapping[str, Span], *, recurrent: bool) -> dict[str, Span]:
    """(min, opt, max) of the dynamic dimensions; a recurrent model's batch is fixed at its best.

    With batch and chunk both dynamic the builder fails on recurrent models.
    """
    spans = dict(profile)
    if recurrent and "batch" in spans:
        best = spans["batch"][1]
        spans["batch"] = (best, best, best)
    return spans


def read_record(path: Path) -> EngineRecord:
    """The json beside an engine. Raises OSError, ValueError or InputError if it is not there or not one."""
    return read(EngineRecord, parse_json(path.read_bytes()), str(path))


def find_engine(root: Path, wanted: EngineIdentity) -> StoredEngine | None:
    """A whole engine of a bundle at `root` that serves the identity, or None. One built on the device comes first."""
    for folder in (root / LOCAL, root / FOLDER):
        for path in sorted(folder.glob("*.json")):
            if path.name.endswith(_GOLDEN):
                continue
            engine = path.with_suffix(".engine")
            try:
                record = read_record(path)
                whole = engine.stat().st_size == record.bytes and sha256_of(engine) == record.sha256
            except (OSError, ValueError, InputError):  # damaged, or of another version: as if it were not there
                continue
            if whole and record.identity.serves(wanted):
                return StoredEngine(engine, record)
    return None


def store(folder: Path, identity: EngineIdentity, built: EngineBuild, onnx_bytes: int) -> StoredEngine:
    """Write an engine and then its record, each whole or not at all."""
    record = EngineRecord(
        identity=identity,
        sha256=hashlib.sha256(built.data).hexdigest(),
        bytes=len(built.data),
        onnx_bytes=onnx_bytes,
        weights_bytes=built.weights_bytes,
        compute_types=built.layers.results,
        quantized=built.layers.quantized,
        profile={name: tuple(map(tuple, shapes)) for name, shapes in built.profile.items()},
    )
    path = folder / f"{identity.stem}.engine"
    path.with_suffix(".json").unlink(missing_ok=True)
    path.with_suffix(_GOLDEN).unlink(missing_ok=True)
    write_atomic(path, built.data)
    write_atomic(path.with_suffix(".json"), _json(asdict(record)))
    return StoredEngine(path, record)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"
