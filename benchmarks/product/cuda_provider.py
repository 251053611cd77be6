"""A bundle's ONNX files on ONNX Runtime's CUDA provider, beside PyTorch on the same GPU.

    python -m benchmarks cuda-provider out/bundle --model zoo:vit-cifar10 --json cuda-provider.json

Nodes: how many of each file CUDA takes and how many stay on the CPU. Drift: outputs for the golden inputs on the GPU,
against the same file on the CPU and against the original in float32 on the CPU (which for a compressed model shows what
the compression changed). Latency: batch 1 to 64, inputs and outputs on the GPU (I/O binding), as the runtime opens a
session and, where ONNX Runtime allows it, with all sizes fixed and a CUDA graph; against the original in PyTorch in
fp16, eager and compiled by each `--compile` mode (reduce-overhead and max-autotune use CUDA graphs). The result is
written after every part. Exits 3 if PyTorch or ONNX Runtime has no CUDA here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from benchmarks.lab import record
from compress import tasks, zoo
from compress.model import Transformer, load
from compress.tasks import read_checkpoint
from compress.tasks.task import GraphInputs, Task
from runtime import backends, ort
from runtime.backends import Loaded, Opening
from runtime.bench import measure_calls, random_inputs
from runtime.bundles.bundle import Bundle, open_files
from runtime.bundles.golden import load_golden
from runtime.bundles.manifest import Tensor
from runtime.bundles.tensors import fresh_state
from runtime.states import states_of
from targets.errors import EnvironmentLacks, InputError, run_cli

BATCHES = [1, 8, 32, 64]
CUDA, CPU = backends.get("cuda"), backends.get("cpu")
BACKENDS = {"cuda": CUDA, "cpu": CPU}
Arrays = dict[str, np.ndarray]


def timed(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Median and 95th percentile of the milliseconds of a call that ends when the device is done, after a warm-up."""
    p50, p95 = np.percentile(measure_calls(call, seconds), [50, 95])
    return {"p50_ms": round(float(p50), 4), "p95_ms": round(float(p95), 4)}


class Bound:
    """A session whose inputs lie on the device already and whose outputs stay there, at the same addresses."""

    def __init__(self, session: Any, inputs: Arrays, outputs: Arrays, device: str) -> None:
        """`outputs` tells shapes and types."""
        self.session, self.binding = session, session.io_binding()
        self.held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0) for name, array in inputs.items()}
        for name, value in self.held.items():
            self.binding.bind_ortvalue_input(name, value)
        for name, array in outputs.items():
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, device, 0)
            self.held[name] = value
            self.binding.bind_ortvalue_output(name, value)

    def __call__(self) -> None:
        """One run; ends when the device is done."""
        self.session.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()


def nodes_by_provider(path: Path, device: str) -> dict[str, dict[str, int]]:
    """Provider -> operator -> number of nodes, as ONNX Runtime divides the file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = list(dict.fromkeys([BACKENDS[device].on, CPU.on]))
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return {name: dict(counts.most_common()) for name, counts in found.items()}


def with_cuda_graph(path: Path, sizes: Mapping[str, int]) -> Any:
    """A session with a CUDA graph, or why there is none. Every dynamic dimension is fixed, so that no node on sizes is
    left for the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=[(CUDA.on, {"enable_cuda_graph": "1"})], enable_fallback=0
        )
    except ort.errors() as error:
        return str(error).splitlines()[0]


def sizes_of(tensors: Iterable[Tensor], arrays: Arrays) -> dict[str, int]:
    """What the dynamic dimensions are in these arrays."""
    pairs = [pair for tensor in tensors for pair in zip(tensor.shape, arrays[tensor.name].shape, strict=True)]
    return {name: size for name, size in pairs if isinstance(name, str)}


def drift(found: Arrays, wanted: Arrays) -> dict[str, dict[str, float]]:
    """Per output of both, the states as one: the largest absolute difference, and that as a share of the largest
    value."""
    rows: dict[str, dict[str, float]] = {}
    for name in sorted(found.keys() & wanted.keys()):
        error = float(np.abs(found[name].astype(np.float64) - wanted[name]).max(initial=0.0))
        share = error / max(float(np.abs(wanted[name]).max(initial=0.0)), 1e-9)
        row = rows.setdefault("states" if name.startswith("present") else name, {"max_abs": 0.0, "of_largest": 0.0})
        row.update(max_abs=max(error, row["max_abs"]), of_largest=max(share, row["of_largest"]))
    return rows


def latency_rows(path: Path, model: Loaded, bundle: Bundle, args: argparse.Namespace) -> dict[str, dict[str, object]]:
    """'session' and 'cuda_graph' -> batch -> times, or why there are none."""
    tensors = bundle.manifest.all_inputs
    rows: dict[str, dict[str, object]] = {"session": {}, "cuda_graph": {}}
    for batch in args.batches:
        inputs = random_inputs(tensors, batch, args.length)
        outputs = model.run(inputs)
        rows["session"][str(batch)] = timed(Bound(model.session, inputs, outputs, args.device), args.seconds)
        if args.device == "cpu":
            continue
        session = with_cuda_graph(path, sizes_of(tensors, inputs))
        if isinstance(session, str):
            rows["cuda_graph"] = {"none": session}
            continue
        try:
            rows["cuda_graph"][str(batch)] = timed(Bound(session, inputs, outputs, args.device), args.seconds)
        except ort.errors() as error:
            rows["cuda_graph"] = {"none": str(error).splitlines()[0]}
    return rows


class Original:
    """The model that the bundle was made of, in PyTorch."""

    def __init__(self, source: str) -> None:
        folder = zoo.locate(source)
        if not folder.is_dir():
            raise InputError(f"no such model folder: {folder}")
        self.task: Task = tasks.of_folder(folder)
        self.transformer: Transformer = (
            load(folder)
            if (folder / "structure.json").is_file()
            else read_checkpoint(folder, self.task.preprocessing(folder, print))
        )
        structure = self.transformer.structure
        self.names = self.task.graph_outputs(structure)
        self.tensors = _declared(self.task.graph_inputs(structure, 0))
        self.states = states_of(self.tensors)

    def outputs(self, inputs: Arrays) -> Arrays:
        """In float32 on the CPU, from a fresh state; of the inputs it takes those that it knows."""
        known = {tensor.name for tensor in self.tensors}
        whole = {**inputs, **fresh_state(self.states, inputs, self.tensors)}
        with torch.inference_mode():
            given = {name: torch.from_numpy(array) for name, array in whole.items() if name in known}
            found = self.task.module(self.transformer.float().eval())(given)
        values = found if isinstance(found, tuple) else (found,)
        return {name: value.numpy() for name, value in zip(self.names, values, strict=True)}

    def latency(self, mode: str, args: argparse.Namespace) -> dict[str, object]:
        """Batch -> times, 'eager' or compiled by a mode of torch.compile; fp16 on a GPU."""
        half = torch.float16 if args.device == "cuda" else torch.float32
        model = self.task.module(self.transformer).to(args.device, half).eval()
        rows: dict[str, object] = {}
        for batch in args.batches:
            torch.compiler.reset()
            form = model if mode == "eager" else torch.compile(model, mode=mode, dynamic=False)
            arrays = random_inputs(self.tensors, batch, args.length)
            inputs = {name: torch.from_numpy(array).to(args.device) for name, array in arrays.items()}
            inputs = {name: one.to(half) if one.is_floating_point() else one for name, one in inputs.items()}

            def call(form: Any = form, inputs: dict[str, torch.Tensor] = inputs) -> None:
                form(inputs)
                if args.device == "cuda":
                    torch.cuda.synchronize()

            with torch.inference_mode():
                rows[str(batch)] = timed(call, args.seconds)
        return rows


def _declared(graph: GraphInputs) -> tuple[Tensor, ...]:
    """The inputs of a graph, dynamic dimensions by name."""
    return tuple(
        Tensor(
            name,
            str(one.dtype).removeprefix("torch."),  # type: ignore[arg-type]
            tuple(graph.dynamic.get(name, {}).get(axis, size) for axis, size in enumerate(one.shape)),
        )
        for name, one in graph.example.items()
    )


def onnx_row(path: Path, bundle: Bundle, original: Original, args: argparse.Namespace) -> dict[str, object]:
    """One file: its nodes, drift and latency."""
    golden, manifest = load_golden(bundle).inputs, bundle.manifest
    inputs = {**golden, **fresh_state(manifest.state, golden, manifest.all_inputs)}
    model = BACKENDS[args.device].open(Opening(path))
    found = model.run(inputs)
    return {
        "bytes": path.stat().st_size,
        "nodes": nodes_by_provider(path, args.device),
        "drift_from_cpu": drift(found, CPU.open(Opening(path)).run(inputs)),
        "drift_from_original": drift(found, original.outputs(golden)),
        "latency": latency_rows(path, model, bundle, args),
    }


def fastest(forms: Mapping[str, Mapping[str, Any]], batch: str) -> float:
    """The best median of several forms of a model at that batch, in ms."""
    return min(rows[batch]["p50_ms"] for rows in forms.values() if batch in rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cuda-provider", description=__doc__)
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--model", metavar="M", required=True, help="the original: zoo:NAME or a folder")
    parser.add_argument("--length", metavar="L", type=int, default=128, help="tokens of a text (default 128)")
    parser.add_argument("--seconds", metavar="S", type=float, default=1.0, help="per model and batch size (default 1)")
    parser.add_argument("--batches", metavar="B", type=int, nargs="+", default=BATCHES, help="default 1 8 32 64")
    parser.add_argument(
        "--compile", metavar="MODE", nargs="*", default=["reduce-overhead"], help="of torch.compile, none or several"
    )
    parser.add_argument("--device", choices=tuple(BACKENDS), default="cuda", help="cpu tries the command out")
    parser.add_argument("--json", metavar="FILE", type=Path, required=True)
    return parser


def main() -> int:
    """Run the command line; the exit code."""
    args = _parser().parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentLacks("PyTorch finds no CUDA GPU here; --device cpu tries the command out")
    lack = BACKENDS[args.device].lacks()
    if lack is not None:
        raise EnvironmentLacks(lack)
    bundle, original = open_files(args.bundle), Original(args.model)
    whole: dict[str, Any] = {
        "command": f"python -m benchmarks cuda-provider {' '.join(sys.argv[1:])}",
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "versions": {
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
            "cuda": torch.version.cuda,
        },
        "onnx": {},
        "torch": {},
        "speedup_over_fastest_torch": {},
    }
    precisions = {one.path: one.precision for one in bundle.manifest.models if one.path.endswith(".onnx")}
    for path, precision in precisions.items():
        row = onnx_row(bundle.root / path, bundle, original, args)
        whole["onnx"][path] = {"precision": precision, **row}
        _write(args.json, whole)
    for mode in ("eager", *args.compile):
        whole["torch"][mode] = original.latency(mode, args)
        _write(args.json, whole)
    for path, row in whole["onnx"].items():
        whole["speedup_over_fastest_torch"][path] = {
            batch: round(fastest(whole["torch"], batch) / fastest(row["latency"], batch), 3)
            for batch in map(str, args.batches)
        }
    _write(args.json, whole)
    print(json.dumps(whole, indent=1))
    return 0


def _write(path: Path, whole: Mapping[str, object]) -> None:
    record.save(path, whole)


if __name__ == "__main__":
    run_cli(main)
