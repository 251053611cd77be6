"""python -m runtime.build: build a bundle's TensorRT engines on the device that will run them, and check them there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.bundles.manifest import TENSORRT
from runtime.cli import add_bundle_options, open_bundle_for_cli, positive
from targets.cli import Parser
from targets.errors import EnvironmentLacks, GateFailed, InputError, run_cli

if TYPE_CHECKING:
    from runtime.backends import Loaded
    from runtime.bundles.bundle import Bundle
    from runtime.bundles.manifest import ModelFile
    from runtime.engines.cuda import Device
    from runtime.engines.engine_file import EngineIdentity, StoredEngine
    from runtime.engines.trt import TensorRT
    from runtime.session import Session

_MB = 1 << 20
_SPARE = 512 * _MB  # left to everything else on the device
_LEAST = 64 * _MB
_MOST = 2048 * _MB
_SECONDS = 2.0  # for which an engine is timed


def memory_needed(onnx_bytes: int) -> int:
    """An estimate of the bytes that a build takes beside its workspace, which was never measured on a Jetson: the
    weights about four times (file, network, candidate and result), and the libraries."""
    return 4 * onnx_bytes + _SPARE


def workspace(onnx_bytes: int, available: int | None, asked: int | None) -> int:
    """Bytes of scratch memory that the builder may take: half of what is then left of the available memory, as far as
    the estimate knows, and never too little to build with."""
    if available is None:
        return asked or _MOST
    left = max(_LEAST, available - memory_needed(onnx_bytes))
    return min(asked, left) if asked else min(_MOST, max(_LEAST, left // 2))


def shortage(onnx_bytes: int, available: int | None) -> str | None:
    """A warning where a build may run out of memory, by an estimate that no device has confirmed; None where not."""
    wanted = memory_needed(onnx_bytes) + _LEAST
    if available is None or available >= wanted:
        return None
    return (
        f"warning: by an estimate the build needs {wanted // _MB} MB of memory, {available // _MB} MB are free; "
        "if it is killed, close programs or add swap"
    )


def make_engine(
    tensorrt: TensorRT,
    files: Path,
    identity: EngineIdentity,
    folder: Path,
    *,
    gpu_free: int | None = None,
    workspace_bytes: int | None = None,
    timing_cache: bytes = b"",
    tell: Callable[[float, str], None] = lambda fraction, phase: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[StoredEngine, bytes]:
    """Build the engine of an ONNX file below `files` and store it in `folder`; returns it and the timing cache.

    `gpu_free`: bytes free on the GPU, None where there is none. `say` gets the estimate before the build and the
    proof of the precision after it. Raises as `build_engine` does.
    """
    from runtime.engines import engine_file
    from runtime.engines.engine import build_engine
    from targets.machine import memory_bytes

    onnx_bytes = sum((files / path).stat().st_size for path in identity.onnx)
    free = [size for size in (memory_bytes(field="MemAvailable"), gpu_free) if size is not None]
    available = min(free, default=None)
    scratch = workspace(onnx_bytes, available, workspace_bytes)
    warning = shortage(onnx_bytes, available)
    if warning is not None:
        say(warning)
    say(
        f"building {identity.model} ({onnx_bytes / 1e6:.1f} MB, {identity.precision}) with {tensorrt.label} for compute"
        f" capability {' and '.join(identity.compute_capabilities)}, at most {scratch // _MB} MB of workspace,"
        f" an estimated {memory_needed(onnx_bytes) // _MB} MB besides"
    )
    built = build_engine(
        tensorrt,
        files / identity.model,
        identity.spans,
        precision=identity.precision,
        capabilities=identity.compute_capabilities,
        workspace_bytes=scratch,
        timing_cache=timing_cache,
        tell=tell,
    )
    stored = engine_file.store(folder, identity, built, onnx_bytes)
    say(f"engine: {stored.record.describe()}")
    return stored, built.timing_cache


def engine_models(bundle: Bundle) -> list[tuple[Bundle, ModelFile]]:
    """The models that the bundle means for TensorRT, each with the bundle of its graph. Raises InputError if it has
    none."""
    graphs = bundle.graphs.values()
    models = [(one, model) for one in graphs for model in one.manifest.models if model.runtime == TENSORRT]
    if models:
        return models
    name = bundle.manifest.target.name
    raise InputError(
        f"{bundle.source} was made for {name} and has no model for TensorRT; make one with --target jetson"
    )


def main() -> int:
    """Run the command line; the exit code."""
    parser = Parser(
        prog="python -m runtime.build",
        description="Build a bundle's TensorRT engines on the device that will run them, and check them there.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle: a folder (an engine cannot be put into a zip)")
    parser.add_argument("--workspace", metavar="MB", type=positive, help="scratch memory for the builder")
    parser.add_argument("--dry-run", action="store_true", help="say what would be built and what is lacking; exit 0")
    parser.add_argument("--force", action="store_true", help="build even if a matching engine is there")
    parser.add_argument(
        "--allow-fallback",
        action="store_true",
        help="where no engine can be built, check the ONNX Runtime form: exit 0",
    )
    add_bundle_options(parser)
    args = parser.parse_args()
    bundle = open_bundle_for_cli(args.bundle, args)
    if bundle.packed:
        raise InputError(f"{bundle.source} is a zip; unpack it, the engine is written into the bundle's folder")
    models = engine_models(bundle)
    if args.dry_run:
        _tell_plan(bundle, models, args)
        return 0
    try:
        builder = _Builder(bundle, args.workspace, args.force)
        for name, graph in {one.manifest.graph: one for one, _ in models}.items():
            builder.build(graph, [model for one, model in models if one.manifest.graph == name])
    except EnvironmentLacks as lack:
        if not args.allow_fallback:
            raise
        print(f"note: no engine: {lack}; falling back to ONNX Runtime", file=sys.stderr)
        _check_fallback(bundle)
    return 0


def _tell_plan(bundle: Bundle, models: Sequence[tuple[Bundle, ModelFile]], args: argparse.Namespace) -> None:
    """A line per model, and what this machine lacks to build their engines or by what they would be built."""
    from runtime.engines import engine_file
    from targets.machine import memory_bytes

    free = memory_bytes(field="MemAvailable")
    for _, model in models:
        size = (bundle.root / model.path).stat().st_size
        known = "" if free is None else f", {free // _MB} MB are free"
        print(
            f"{model.path} ({model.precision}, {size / 1e6:.1f} MB): an estimated {memory_needed(size) // _MB} MB of "
            f"memory{known}"
        )
    try:
        builder = _Builder(bundle, args.workspace, args.force)
    except EnvironmentLacks as lack:
        print(f"lacking: {lack}")
        return
    for graph, model in models:
        identity = engine_file.identify(graph, model, builder.tensorrt, builder.capability)
        found = None if args.force else engine_file.find_engine(bundle.root, identity)
        if found is not None:
            print(f"an engine is there: {found.path}")
        else:
            print(f"to be built by {builder.tensorrt.label} for compute capability {builder.capability}: {model.path}")


class _Builder:
    """Provides the engines of one bundle on this machine."""

    def __init__(self, bundle: Bundle, workspace_mb: int | None, force: bool) -> None:
        from runtime.engines import trt

        self.bundle, self.force = bundle, force
        self.workspace_bytes = workspace_mb * _MB if workspace_mb else None
        self.tensorrt = trt.load()
        self.device, self.absence = _device()
        if self.device is None and self.tensorrt.needs_device_to_build:
            raise EnvironmentLacks(f"{self.tensorrt.label} builds on the GPU that will run the engine: {self.absence}")
        capability = self.device.capability() if self.device else bundle.manifest.target.compute_capability
        if capability is None:
            raise InputError(f"{bundle.source}: its target names no compute capability; make the bundle again")
        self.capability = capability

    def build(self, graph: Bundle, models: Sequence[ModelFile]) -> None:
        """Print the path of each engine of a graph; where there are several and a GPU to time them on, of the one that
        is kept. Raises GateFailed, EnvironmentLacks or InputError where none passes."""
        from runtime.engines.choosing import pick, told, try_each
        from runtime.engines.engine_session import EngineModel
        from runtime.measuring.fastest import remember_engine

        device = self.device
        if device is None or len(models) < 2:
            for model in models:
                print(self.provide(graph, model))
            return
        tried = try_each(
            models,
            lambda model: self.provide(graph, model),
            lambda model, engine: _milliseconds(graph, EngineModel(self.tensorrt, device, engine)),
        )
        kept = pick(tried)
        for line in told(tried, kept):
            print(line, file=sys.stderr)
        remember_engine(graph, kept.model, {one.model.path: one.ms for one in tried if one.ms is not None})
        print(kept.engine)

    def provide(self, graph: Bundle, model: ModelFile) -> Path:
        """Find or build the engine of one model, check it if it was not yet, and return its path."""
        from runtime.engines import engine_file

        identity = engine_file.identify(graph, model, self.tensorrt, self.capability)
        found = None if self.force else engine_file.find_engine(self.bundle.root, identity)
        if found is not None:
            print(f"a matching engine is there ({found.record.bytes} bytes)", file=sys.stderr)
        engine = found or self._build(identity)
        if self.device is None:
            print(f"note: not checked: {self.absence}; runtime.run refuses the engine until it is", file=sys.stderr)
        elif not engine.passed(self.device.name):
            self._check(self.device, graph, model, engine)
        return engine.path

    def _build(self, identity: EngineIdentity) -> StoredEngine:
        from runtime.engines.engine_file import LOCAL
        from runtime.engines.progress import terminal_teller
        from runtime.files import check_writable, write_atomic

        cache = self.bundle.root / LOCAL / f"{identity.stem}.timing"
        check_writable(cache.parent)
        engine, timings = make_engine(
            self.tensorrt,
            self.bundle.root,
            identity,
            cache.parent,
            gpu_free=self.device.free_bytes() if self.device else None,
            workspace_bytes=self.workspace_bytes,
            timing_cache=cache.read_bytes() if cache.is_file() else b"",
            tell=terminal_teller(),
            say=lambda line: print(line, file=sys.stderr),
        )
        if timings:
            write_atomic(cache, timings)
        return engine

    def _check(self, device: Device, graph: Bundle, model: ModelFile, engine: StoredEngine) -> None:
        """Hold the engine against the golden outputs and note that it passed. Raises GateFailed if it differs."""
        from runtime.engines.engine_session import EngineModel
        from runtime.session import Session

        loaded = EngineModel(self.tensorrt, device, engine.path)
        for line in loaded.layers():
            print(line, file=sys.stderr)
        _hold_against_golden(Session(graph, model, loaded, 1, ()), "the engine", "runtime.run refuses it")
        engine.note_passed(device.name)


def _milliseconds(graph: Bundle, loaded: Loaded) -> float:
    """Median of a call of the batch and length that the target's profile is best at."""
    from statistics import median

    from runtime.bench import measure, random_inputs

    sizes = {"batch": 1, "length": 128, **{name: best for name, (_, best, _) in graph.manifest.target.profile.items()}}
    limit = (graph.manifest.preprocessing or {}).get("max_length")
    length = min(sizes["length"], limit) if isinstance(limit, int) else sizes["length"]
    inputs = random_inputs(graph.manifest.all_inputs, sizes["batch"], length)
    return median(measure(loaded, inputs, _SECONDS))


def _check_fallback(bundle: Bundle) -> None:
    """The golden check of what runs in place of an engine."""
    from runtime.session import open_session

    for graph in bundle.graphs.values():
        session = open_session(graph, provider="cpu")
        _hold_against_golden(session, session.describe(), "do not use this bundle here")


def _hold_against_golden(session: Session, what: str, consequence: str) -> None:
    from runtime.bundles.golden import check_golden, load_golden

    results = check_golden(session.run, load_golden(session.bundle), session.max_batch)
    for result in results:
        print(f"{result.name}: max error {result.max_error:.3g}, allowed {result.atol:.3g}", file=sys.stderr)
    bad = [result.name for result in results if not result]
    if bad:
        raise GateFailed(f"{what}: {', '.join(bad)} differs from the golden output; {consequence}")


def _device() -> tuple[Device | None, str]:
    """The GPU, or None and why there is none."""
    from runtime.engines.cuda import Device

    try:
        return Device(), ""
    except EnvironmentLacks as lack:
        return None, str(lack)


if __name__ == "__main__":
    run_cli(main)
