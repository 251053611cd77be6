"""manifest.json of a bundle: read strictly, typed, and every file held against its digest before anything loads it.

Keys added within a schema version are ignored, so that an older device reads a newer bundle of the same schema.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from runtime.files import check_no_pipe, parse_json, sha256_of
from runtime.images import image
from runtime.sounds import spectrogram
from runtime.texts import text
from targets.errors import InputError
from targets.spec import Precision
from targets.strict import read

#: What is written for a model of one graph, and for one of several; the latter is the newest that is read.
SCHEMA, SCHEMA_OF_GRAPHS = 1, 2
NAME = "manifest.json"
MODEL = "model.onnx"
#: What a file was made for: an engine of TensorRT, or ONNX Runtime.
TENSORRT, ONNXRUNTIME = "tensorrt", "onnxruntime"
GOLDEN = "golden.npz"
#: The graph of a model that has one.
GRAPH = "model"
#: The graphs of a model that reads a source once and then writes step by step; `GRAPH` is the two as one.
ENCODER, DECODER = "encoder", "decoder"
#: The dynamic dimension of a cache: rows of the tokens before, none at the start of a sequence.
GROWING = "past"
#: How likely each next token is.
LOGITS = "logits"
#: The dynamic dimension of what a call feeds to a model with state.
FED = "chunk"
MAX_BYTES = 64 << 20  # of manifest.json itself

#: What reads a `preprocessing` section of each kind.
_SECTIONS: dict[str, Callable[[Mapping[str, object], str], object]] = {
    "image": image.parse_preprocessing,
    "text": text.parse_preprocessing,
    spectrogram.KIND: spectrogram.parse_preprocessing,
}

DType = Literal["float32", "float16", "int64", "int32", "int8", "uint8", "bool"]
Span = tuple[int, int, int]


@dataclass(frozen=True)
class Tensor:
    """An input or output. A text in `shape` names a dynamic dimension."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class State:
    """A recurrent state: output `present` of one call is input `past` of the next; fresh state is zeros."""

    past: str
    present: str
    dtype: DType
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ModelFile:
    """One form of the model, in the order in which the device should try them. `runtime` is what it was made for:
    "onnxruntime" or a backend's name. `loops` tells apart a looped model's forms that run its block more or less often;
    without other numbers of loops there is none. `graph`: which of a model's graphs it holds."""

    path: str
    runtime: str
    precision: Precision
    note: str = ""
    loops: int | None = None
    form: Literal["plain", "fused"] | None = None
    graph: str = GRAPH

    @property
    def is_plain(self) -> bool:
        """Whether it has standard operators alone: files for TensorRT do, others if they say so."""
        return self.form == "plain" or (self.form is None and self.runtime == TENSORRT)


@dataclass(frozen=True)
class EarlyExit:
    """A classifier's answer after fewer loops is final where its likeliest class is at least so probable; what that
    costs was gated."""

    probability: float

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise ValueError(f"exit.probability is {self.probability}, allowed: between 0 and 1")


@dataclass(frozen=True)
class FileDigest:
    """What a file must be."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if self.bytes < 0 or not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(
                f"given {self.bytes} bytes, SHA-256 {self.sha256[:70]!r}, allowed: 0 or more, 64 hex digits"
            )


@dataclass(frozen=True)
class BundleTarget:
    """What the bundle was made for. `profile` maps a dynamic dimension to (min, opt, max) for engines; `backends` are
    in order of preference, none in a bundle made before they were listed."""

    name: str
    precision: Precision | None = None
    compute_capability: str | None = None
    threads: int | None = None
    memory_gb: int | None = None
    profile: dict[str, Span] = field(default_factory=dict)
    backends: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, (low, best, high) in self.profile.items():
            least = 0 if name == "past" else 1  # a cache is empty at the start
            if not least <= low <= best <= high:
                raise ValueError(f"profile.{name} is [{low}, {best}, {high}], allowed: {least} <= min <= opt <= max")


@dataclass(frozen=True)
class Graph:
    """What one graph of a model takes, gives, and hands from call to call."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: tuple[State, ...] = ()

    def __post_init__(self) -> None:
        if not self.inputs or not self.outputs:
            raise ValueError("inputs or outputs is empty; a model has at least one of each")
        for kind, tensors in (("inputs", self.all_inputs), ("outputs", self.all_outputs)):
            names = [tensor.name for tensor in tensors]
            if len(set(names)) < len(names):
                raise ValueError(f"{kind} has a name twice: {', '.join(names)}")

    @property
    def all_inputs(self) -> tuple[Tensor, ...]:
        """`inputs` and the `past` states that are not among them."""
        return _with_states(self.inputs, [Tensor(one.past, one.dtype, one.shape) for one in self.state])

    @property
    def all_outputs(self) -> tuple[Tensor, ...]:
        """`outputs` and the `present` states that are not among them."""
        return _with_states(self.outputs, [Tensor(one.present, one.dtype, one.shape) for one in self.state])


@dataclass(frozen=True)
class Manifest:
    """A bundle's manifest. Keys that the device side does not read are left out. A model of one graph has `inputs`,
    `outputs` and `state`, one of several has `graphs` instead; `graph` is which one a view of it shows (see `of`)."""

    schema: int
    edgepress: str
    task: str
    target: BundleTarget
    models: tuple[ModelFile, ...]
    files: dict[str, FileDigest]
    verdict: Literal["pass", "fail"]
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    graphs: dict[str, Graph] = field(default_factory=dict)
    graph: str = GRAPH
    preprocessing: dict[str, object] | None = None
    postprocessing: dict[str, object] | None = None
    labels: tuple[str, ...] | None = None
    state: tuple[State, ...] = ()
    exit: EarlyExit | None = None

    def __post_init__(self) -> None:
        if self.graphs and (self.inputs or self.outputs or self.state):
            raise ValueError("graphs stands beside inputs, outputs or state, allowed: one or the other")
        for path in self.files:
            if not is_inside(path):
                raise ValueError(
                    f"files names {path!r}, which leaves the bundle's folder; the bundle is not to be trusted"
                )
        for path in (*map(main_file, self.named), *(model.path for model in self.models)):
            if path not in self.files:
                raise ValueError(f"files lacks {path!r}; make the bundle again")
        odd = [name for name in self.named if not re.fullmatch("[a-z][a-z0-9_-]*", name)]
        odd += [model.graph for model in self.models if model.graph not in self.named]
        if odd:
            raise ValueError(f"no graph can be named {odd[0]!r} here, allowed: {', '.join(self.named)}")

    @cached_property
    def named(self) -> dict[str, Graph]:
        """Every graph by its name; `model` for a model that has one."""
        return self.graphs or {self.graph: Graph(self.inputs, self.outputs, self.state)}

    def of(self, graph: str) -> Manifest:
        """The manifest of one graph, as if the model had no other."""
        shown = self.named[graph]
        models = tuple(model for model in self.models if model.graph == graph)
        return replace(self, models=models, graphs={}, graph=graph, **vars(shown))

    @property
    def main(self) -> str:
        """The main file of the graph."""
        return main_file(self.graph)

    @property
    def golden(self) -> str:
        """The file with the golden samples of the graph."""
        return golden_file(self.graph)

    @property
    def loops(self) -> int | None:
        """How many loops the whole model has, where the bundle offers other numbers too."""
        return next((model.loops for model in self.models if model.path == self.main), None)

    @property
    def max_batch(self) -> int:
        """The largest batch that the model takes: its fixed one, or that of the target's profile (8 without one)."""
        first = self.inputs[0].shape[0]
        return first if isinstance(first, int) else self.target.profile.get(first, (1, 1, 8))[2]

    @property
    def writes(self) -> bool:
        """Whether the graph is the one of several that writes a text step by step: it has a state and logits."""
        return self.graph != GRAPH and bool(self.state) and LOGITS in {output.name for output in self.outputs}

    @cached_property
    def all_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of the graph, states among them."""
        return self.named[self.graph].all_inputs

    @cached_property
    def all_outputs(self) -> tuple[Tensor, ...]:
        """Outputs of the graph, states among them."""
        return self.named[self.graph].all_outputs


def main_file(graph: str) -> str:
    """The main file of a graph."""
    return f"{graph}.onnx"


def golden_file(graph: str) -> str:
    """The file with the golden samples of a graph."""
    return GOLDEN if graph == GRAPH else f"golden.{graph}.npz"


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest. Raises InputError: not JSON, a schema newer than this version reads, a key missing or wrong."""
    try:
        raw = parse_json(data)
    except ValueError as error:  # also of numbers with thousands of digits
        raise InputError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: given a {type(raw).__name__}, allowed: a JSON object")
    schema = raw.get("schema")
    if type(schema) is int and schema > SCHEMA_OF_GRAPHS:
        raise InputError(
            f"{where}: schema {schema} is newer than this edgepress reads ({SCHEMA_OF_GRAPHS}); upgrade edgepress here"
        )
    if type(schema) is int and schema < 1:
        raise InputError(f"{where}: key 'schema': given {schema}, allowed: {SCHEMA} to {SCHEMA_OF_GRAPHS}")
    target = raw.get("target")
    if isinstance(target, str):
        raw = {**raw, "target": {"name": target}}
    manifest = read(Manifest, raw, where, ignore_unknown=True, fixed={"graph": GRAPH})
    parse = _SECTIONS.get(str((manifest.preprocessing or {}).get("kind")))
    if parse is not None and manifest.preprocessing:
        parse(manifest.preprocessing, f"{where}: preprocessing")
    return manifest


def load_manifest(root: Path) -> Manifest:
    """The manifest of an unpacked bundle. Raises InputError."""
    return parse_manifest(manifest_bytes(root), str(root / NAME))


def manifest_bytes(root: Path) -> bytes:
    """The manifest of an unpacked bundle as it is stored. Raises InputError."""
    path = root / NAME
    check_no_pipe(path)
    try:
        with path.open("rb") as stream:
            manifest = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{root} is not a bundle: it has no {NAME}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(manifest) > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES} bytes; not a manifest")
    return manifest


def verify_files(root: Path, manifest: Manifest, shown: Path) -> None:
    """Hold every file of the bundle against its size and digest; `shown` is the bundle's name in errors.

    Raises InputError that names the first file that is missing, a link, or differs.
    """
    for relative, digest in sorted(manifest.files.items()):
        name = shown / relative
        path = _regular_file(root, relative, name)
        try:
            size = path.stat().st_size
            if size != digest.bytes:
                raise InputError(f"{name}: {size} bytes, {NAME} says {digest.bytes}; copy the bundle again")
            if sha256_of(path) != digest.sha256:
                raise InputError(f"{name}: its SHA-256 differs from {NAME}; copy the bundle again")
        except OSError as error:
            raise InputError(f"{name}: cannot be read: {error.strerror}") from error


def _regular_file(root: Path, relative: str, name: Path) -> Path:
    path, mode = root, 0
    for part in PurePosixPath(relative).parts:
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise InputError(f"{name}: missing, though {NAME} lists it; copy the bundle again") from error
        if stat.S_ISLNK(mode):
            raise InputError(f"{name}: a symbolic link, which may lead out of the bundle; copy the file itself")
    if not stat.S_ISREG(mode):
        raise InputError(f"{name}: not a regular file; copy the bundle again")
    return path


def is_inside(path: str) -> bool:
    """Whether a relative POSIX path stays below the folder that it is joined to, on any system."""
    plain = not set(path) & set("\\:\0")
    return plain and bool(path) and all(part not in ("", ".", "..") for part in path.split("/"))


def _with_states(tensors: tuple[Tensor, ...], states: list[Tensor]) -> tuple[Tensor, ...]:
    named = {tensor.name for tensor in tensors}
    return (*tensors, *(state for state in states if state.name not in named))
