"""A bundle's ONNX files on ONNX Runtime's CUDA provider, beside PyTorch on the same GPU.

    python -m benchmarks.cuda_provider out/bundle --model zoo:vit-cifar10 --json benchmarks/results/cuda-provider.json

Drift: outputs for the golden inputs, against the same file on the CPU. Latency: batch 1 to 64, inputs and outputs on
the GPU (I/O binding), against the original in PyTorch eager and torch.compile, both in fp16. Without a CUDA provider in
the installed onnxruntime the command measures PyTorch, says what is lacking in the result, and exits 3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress import tasks, zoo
from compress.families import read_checkpoint
from compress.model import Transformer, load
from runtime import ort
from runtime.bench import random_inputs
from runtime.bundle import open_files
from runtime.files import write_atomic
from runtime.golden import load_golden
from runtime.providers import CPU, CUDA
from targets.errors import EnvironmentLacks, InputError, run_cli

BATCHES = (1, 8, 32, 64)


def timed(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Median and 95th percentile of the milliseconds of a call that ends when the GPU is done."""
    end = time.perf_counter() + seconds
    times: list[float] = []
    while len(times) < 5 or time.perf_counter() < end:
        began = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - began) / 1e6)
    return {"p50_ms": round(statistics.median(times), 4), "p95_ms": round(float(np.percentile(times, 95)), 4)}


def bound(model: ort.OrtModel, inputs: dict[str, np.ndarray]) -> Callable[[], None]:
    """A call whose inputs lie on the GPU already and whose outputs stay there."""
    import onnxruntime

    binding = model.session.io_binding()
    held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0) for name, array in inputs.items()}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    for tensor in model.outputs:
        binding.bind_output(tensor.name, "cuda")

    def call() -> None:
        model.session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    call.held = held  # type: ignore[attr-defined]  # the binding does not keep them alive
    return call


def onnx_rows(bundle: Path, length: int, seconds: float) -> list[dict[str, Any]]:
    """Each distinct model file: drift from the CPU, and latency per batch size."""
    opened = open_files(bundle)
    golden = load_golden(opened)
    rows = []
    for model in opened.manifest.models:
        path = opened.root / model.path
        on_cpu, on_gpu = ort.load(path, CPU), ort.load(path, CUDA)
        wanted, found = on_cpu.run(golden.inputs), on_gpu.run(golden.inputs)
        drift = {
            name: {
                "max_abs": float(np.abs(found[name] - array).max()),
                "of_largest": float(np.abs(found[name] - array).max() / max(float(np.abs(array).max()), 1e-9)),
            }
            for name, array in wanted.items()
        }
        latency = {}
        for batch in BATCHES:
            call = bound(on_gpu, random_inputs(opened.manifest.all_inputs, batch, length))
            timed(call, seconds / 4)
            latency[str(batch)] = timed(call, seconds)
        rows.append({"model": model.path, "precision": model.precision, "drift_from_cpu": drift, "latency": latency})
    return rows


def read_model(source: str) -> Transformer:
    """The canonical transformer of a zoo name or a folder."""
    folder = zoo.locate(source)
    if not folder.is_dir():
        raise InputError(f"no such model folder: {folder}")
    if (folder / "structure.json").is_file():
        return load(folder)
    return read_checkpoint(folder, tasks.of_folder(folder).preprocessing(folder, print))


def torch_rows(source: str, bundle: Path, length: int, seconds: float, device: str) -> dict[str, Any]:
    """The original in fp16, eager and compiled."""
    manifest = open_files(bundle).manifest
    half = torch.float16 if device == "cuda" else torch.float32
    model = tasks.of_folder(zoo.locate(source)).module(read_model(source)).to(device, half).eval()
    forms: dict[str, Any] = {"eager": model}
    if device == "cuda":
        forms["compile"] = torch.compile(model, mode="max-autotune-no-cudagraphs")
    rows: dict[str, Any] = {}
    for name, form in forms.items():
        rows[name] = {}
        for batch in BATCHES:
            arrays = random_inputs(manifest.all_inputs, batch, length)
            inputs = {key: torch.from_numpy(array).to(device) for key, array in arrays.items()}
            inputs = {key: value.to(half) if value.is_floating_point() else value for key, value in inputs.items()}

            def call(form: Any = form, inputs: dict[str, torch.Tensor] = inputs) -> None:
                with torch.inference_mode():
                    form(inputs)
                if device == "cuda":
                    torch.cuda.synchronize()

            call()
            timed(call, seconds / 4)
            rows[name][str(batch)] = timed(call, seconds)
    return rows


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_provider", description=__doc__)
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--model", metavar="M", required=True, help="the original: zoo:NAME or a folder")
    parser.add_argument("--length", metavar="L", type=int, default=128, help="tokens of a text (default 128)")
    parser.add_argument("--seconds", metavar="S", type=float, default=1.0, help="per model and batch size (default 1)")
    parser.add_argument("--json", metavar="FILE", type=Path, required=True)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    offered = ort.offered_providers()
    whole: dict[str, Any] = {
        "command": f"python -m benchmarks.cuda_provider {' '.join(sys.argv[1:])}",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": {name: _version(name) for name in ("torch", "onnxruntime", "onnxruntime-gpu", "numpy")},
        "providers": offered,
        "torch": torch_rows(args.model, args.bundle, args.length, args.seconds, device),
    }
    lacks = "" if CUDA in offered else f"the installed ONNX Runtime has no {CUDA}; pip install onnxruntime-gpu"
    if not lacks:
        whole["onnx"] = onnx_rows(args.bundle, args.length, args.seconds)
    else:
        whole["lacking"] = lacks
    write_atomic(args.json, (json.dumps(whole, indent=1) + "\n").encode())
    print(json.dumps(whole, indent=1))
    if lacks:
        raise EnvironmentLacks(lacks)
    return 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    run_cli(main)
