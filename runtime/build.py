"""python -m runtime.build: build a bundle's TensorRT engine on the device that will run it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli import positive
from targets.errors import EnvironmentLacks, GateFailed, InputError, run_cli

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.cuda import Device
    from runtime.engine_file import EngineIdentity, EngineRecord
    from runtime.manifest import ModelFile
    from runtime.trt import TensorRT

_MB = 1 << 20
_SPARE = 512 * _MB  # left to everything else on the device
_LEAST = 64 * _MB
_MOST = 2048 * _MB


def workspace(onnx_bytes: int, available: int | None, asked: int | None) -> int:
    """Bytes of scratch memory that the builder may take.

    The builder holds the weights about four times (file, network, candidate and result); what is then left of the
    available memory is halved. Raises EnvironmentLacks if that is too little: the build would be killed halfway.
    """
    if available is None:
        return asked or _MOST
    needed = 4 * onnx_bytes + _SPARE
    left = available - needed
    if left < _LEAST:
        have, want = available // _MB, (needed + _LEAST) // _MB
        raise EnvironmentLacks(
            f"building needs about {want} MB of memory, {have} MB are free; close programs or add swap"
        )
    return min(asked, left) if asked else min(_MOST, max(_LEAST, left // 2))


def engine_model(bundle: Bundle) -> ModelFile:
    """The model that the bundle means for TensorRT. Raises InputError if it has none."""
    for model in bundle.manifest.models:
        if model.runtime == "tensorrt":
            return model
    name = bundle.manifest.target.name
    raise InputError(
        f"{bundle.source} was made for {name} and has no model for TensorRT; make one with --target jetson"
    )


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m runtime.build", description="Build a bundle's TensorRT engine on the device that will run it."
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle: a folder (an engine cannot be put into a zip)")
    parser.add_argument("--workspace", metavar="MB", type=positive, help="scratch memory for the builder")
    parser.add_argument("--force", action="store_true", help="build even if a matching engine is there")
    args = parser.parse_args()
    from runtime import engine_file, trt
    from runtime.bundle import open_files

    bundle = open_files(args.bundle)
    if bundle.packed:
        raise InputError(f"{bundle.source} is a zip; unpack it, the engine is written into the bundle's folder")
    model = engine_model(bundle)
    tensorrt = trt.load()
    device, absence = _device()
    if device is None and tensorrt.needs_device_to_build:
        raise EnvironmentLacks(f"{tensorrt.label} builds on the GPU that will run the engine: {absence}")
    capability = device.capability() if device else bundle.manifest.target.compute_capability
    if capability is None:
        raise InputError(f"{bundle.source}: its target names no compute capability; make the bundle again")
    identity = engine_file.identify(bundle, model, tensorrt, capability)
    record = None if args.force else engine_file.find_record(bundle, identity)
    if record is None:
        record = _build(bundle, model, tensorrt, identity, device, args.workspace)
    else:
        print(f"a matching engine is there ({record.bytes} bytes)", file=sys.stderr)
    if record.golden != "pass":
        record = _check(bundle, model, tensorrt, device, record, absence)
    print(engine_file.engine_path(bundle, identity))
    return 0


def _device() -> tuple[Device | None, str]:
    """The GPU, or None and why there is none."""
    from runtime.cuda import Device

    try:
        return Device(), ""
    except EnvironmentLacks as lack:
        return None, str(lack)


def _build(
    bundle: Bundle,
    model: ModelFile,
    tensorrt: TensorRT,
    identity: EngineIdentity,
    device: Device | None,
    asked: int | None,
) -> EngineRecord:
    import hashlib

    from runtime import engine_file
    from runtime.engine import build_engine
    from runtime.files import write_atomic
    from runtime.progress import terminal_teller
    from targets.machine import memory_bytes

    onnx_bytes = sum(bundle.manifest.files[path].bytes for path in identity.onnx)
    sizes = (memory_bytes(field="MemAvailable"), device.free_bytes() if device else None)
    free = [size for size in sizes if size is not None]
    scratch = workspace(onnx_bytes, min(free, default=None), asked * _MB if asked else None)
    cache = engine_file.engine_path(bundle, identity).with_suffix(".timing")
    print(
        f"building {identity.model} ({onnx_bytes / 1e6:.1f} MB, {model.precision}) with {tensorrt.label} for compute"
        f" capability {identity.compute_capability}, at most {scratch // _MB} MB of workspace; this can take minutes",
        file=sys.stderr,
    )
    built = build_engine(
        tensorrt,
        bundle.root / identity.model,
        identity.spans,
        precision=model.precision,
        capability=identity.compute_capability,
        workspace_bytes=scratch,
        timing_cache=_bytes_of(cache),
        tell=terminal_teller(),
    )
    if built.timing_cache:
        write_atomic(cache, built.timing_cache)
    types = ", ".join(f"{count} in {name}" for name, count in sorted(built.compute_types.items()))
    print(f"layers that compute: {types}; {built.quantize_layers} quantize layers", file=sys.stderr)
    if model.precision == "int8" and len(built.data) > 2 * onnx_bytes + 8 * _MB:
        print(
            f"note: the engine is {len(built.data) / onnx_bytes:.1f} times its ONNX file; the builder did not keep all"
            " weights in int8",
            file=sys.stderr,
        )
    digest = hashlib.sha256(built.data).hexdigest()
    record = engine_file.EngineRecord(identity, digest, len(built.data), "not run")
    engine_file.store(bundle, record, built.data)
    return record


def _check(
    bundle: Bundle, model: ModelFile, tensorrt: TensorRT, device: Device | None, record: EngineRecord, absence: str
) -> EngineRecord:
    """Hold the engine against the golden outputs and note it in its record. Raises GateFailed if it differs."""
    from runtime import engine_file
    from runtime.engine_session import EngineModel
    from runtime.golden import check_golden, load_golden
    from runtime.session import Session

    if device is None:
        print(f"note: built but not checked: {absence}; runtime.run refuses it until it is", file=sys.stderr)
        return record
    engine = EngineModel(tensorrt, device, engine_file.engine_path(bundle, record.identity))
    session = Session(bundle, model, engine, 1, ())
    results = check_golden(session.run, load_golden(bundle), session.max_batch)
    for result in results:
        print(f"{result.name}: max error {result.max_error:.3g}, allowed {result.atol:.3g}", file=sys.stderr)
    bad = [result.name for result in results if not result]
    if bad:
        raise GateFailed(
            f"the engine's {', '.join(bad)} differs from the golden output; runtime.run refuses the engine"
        )
    record = replace(record, golden="pass")
    engine_file.store(bundle, record, None)
    return record


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


if __name__ == "__main__":
    run_cli(main)
