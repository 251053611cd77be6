"""vit-cifar10, its narrow and its pooled form, in ONNX Runtime and in OpenVINO, in fp32 and int8: points and latency.

    python -m benchmarks peers-vit files FOLDER --bundle out/bundle  # needs openvino and nncf; out: of `make run`
    python -m benchmarks peers-vit score FOLDER RESULT.json        # every file on the test images, one at a time
    python -m benchmarks peers-vit time FOLDER RESULT.json         # on a quiet machine: alternating processes, ratios

Each model gets the same: ONNX Runtime's fused graph and dynamic int8 of it, OpenVINO's own conversion of the plain file
and NNCF's int8 (300 training images). OpenVINO runs as it does by default, in bf16 where the CPU can. Of `quick` there
are the two files that its bundle ships, the static one in both runtimes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.lab import record
from runtime.measuring.compare import thread_counts
from targets.machine import usable_cpus

HEALED = ("narrow", "pooled")
FEW = 300
FORMS = ("ort-fp32.onnx", "ort-int8.onnx", "openvino-fp32.xml", "openvino-int8.xml")
#: What each file of a bundle for a Jetson is here: the dynamic one for a CPU, the static one for an engine.
SHIPPED = {"model.cpu.onnx": "quick.ort-int8.onnx", "model.onnx": "quick.ort-static.onnx"}
STATIC = "quick.openvino-static.xml"
#: The versions of the packages that made the files.
MADE = "made.json"
REFERENCE = "original.ort-fp32.onnx"


def files(args: argparse.Namespace) -> None:
    """Export each model in each form."""
    import nncf
    import openvino

    from benchmarks.lab import images as vit_lab
    from compress.model import load
    from compress.stages.export import in_export_form
    from export.cpu_graph import optimize_for_cpu
    from export.onnx_model import export_onnx
    from export.precision.int8_dynamic import to_int8_dynamic

    args.folder.mkdir(parents=True, exist_ok=True)
    original = vit_lab.original("vit-cifar10")
    train, _ = vit_lab.training_parts("zoo:cifar10-train")
    few = train.subset(np.arange(0, len(train), len(train) // FEW))
    images = vit_lab.prepared(few, original, "cpu").images
    calibration = vit_lab.calibration_of(original, images[:64], [])
    healed = {name: load(vit_lab.ROOT / "benchmarks" / "models" / f"vit-cifar10-{name}") for name in HEALED}
    models = {"original": original} | {name: in_export_form(model, calibration)[0] for name, model in healed.items()}
    for name, model in models.items():
        plain = args.folder / f"{name}.plain.onnx"
        export_onnx(model.eval(), {"pixel_values": images[:2]}, ["logits"], {"pixel_values": {0: "batch"}}, plain)
        fp32, int8, converted, quantized = (args.folder / f"{name}.{form}" for form in FORMS)
        optimize_for_cpu(plain, fp32)
        to_int8_dynamic(fp32, int8)
        graph = openvino.convert_model(plain, input=[1, 3, 32, 32])
        openvino.save_model(graph, converted, compress_to_fp16=False)
        samples = nncf.Dataset([image[None].numpy() for image in images])
        few_bits = nncf.quantize(graph, samples, model_type=nncf.ModelType.TRANSFORMER, subset_size=FEW)
        openvino.save_model(few_bits, quantized, compress_to_fp16=False)
        print(name, flush=True)
    versions = {name: version(name) for name in ("torch", "onnx", "onnxruntime", "openvino", "nncf")}
    record.write_json(args.folder / MADE, versions)
    if args.bundle:
        for shipped, copy in SHIPPED.items():
            shutil.copyfile(args.bundle / shipped, args.folder / copy)
        static = openvino.convert_model(args.bundle / "model.onnx", input=[1, 3, 32, 32])
        openvino.save_model(static, args.folder / STATIC, compress_to_fp16=False)


def score(args: argparse.Namespace) -> None:
    """Top-1 of every file on the test images, one at a time as a device asks."""
    import torch

    from benchmarks.lab import images as vit_lab

    original, paths = vit_lab.original("vit-cifar10"), listed(args.folder)
    test = vit_lab.prepared(vit_lab.test_images("zoo:cifar10-test", args.limit), original, "cpu")
    images, labels_S, target_SC = test.images.numpy(), test.labels, vit_lab.answers(original, test.images)
    with ThreadPoolExecutor(usable_cpus()) as pool:
        logits = dict(zip(paths, pool.map(_logits, paths, repeat(images)), strict=True))
    original_S = target_SC.argmax(-1) == labels_S
    rows = {
        path.name: {
            "bytes": sum(each.stat().st_size for each in (path, path.with_suffix(".bin")) if each.exists()),
            **vit_lab.scores(torch.from_numpy(logits_SC), target_SC, labels_S),
            "points": vit_lab.drop(torch.from_numpy(logits_SC).argmax(-1) == labels_S, original_S),
        }
        for path, logits_SC in logits.items()
    }
    for name, row in rows.items():
        print(name, row, flush=True)
    _note(args, "score", {"test_images": len(labels_S), "files": rows})


def _logits(path: Path, images: np.ndarray) -> np.ndarray:
    run = opened(path, 1)
    return np.concatenate([run(image[None]) for image in images])


def time_files(args: argparse.Namespace) -> None:
    """Latency of one image, each file in a process of its own with its fastest number of threads, alternating."""
    paths = listed(args.folder)
    trials = {path: {count: _latency(path, count, 0.3) for count in thread_counts(usable_cpus())} for path in paths}
    threads = {path: min(trial, key=trial.__getitem__) for path, trial in trials.items()}
    rounds: list[dict[str, float]] = []
    for index in range(args.rounds):
        order = paths if index % 2 == 0 else paths[::-1]
        rounds.append({path.name: _latency(path, threads[path], args.seconds) for path in order})
    rows = {
        path.name: {
            "threads": threads[path],
            "median_ms": round(median(row[path.name] for row in rounds), 4),
            "times_as_fast": round(median(row[REFERENCE] / row[path.name] for row in rounds), 3),
        }
        for path in paths
    }
    for name, row in rows.items():
        print(name, row, flush=True)
    _note(args, "time", {"rounds": rounds, "files": rows})


def listed(folder: Path) -> list[Path]:
    """All files that compare."""
    made = [f"{name}.{form}" for name in ("original", *HEALED) for form in FORMS]
    return [folder / name for name in (*made, *SHIPPED.values(), STATIC) if (folder / name).exists()]


def opened(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """The file in the runtime that its name says."""
    if path.suffix == ".xml":
        import openvino

        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()
        return lambda x_BCYX: np.asarray(request.infer([x_BCYX])[0])
    from runtime import ort

    model = ort.load(path, threads=threads)
    return lambda x_BCYX: np.asarray(model.run({"pixel_values": x_BCYX})["logits"])


def child(args: argparse.Namespace) -> None:
    """Print the median milliseconds of one file."""
    run, image = opened(args.folder, args.threads), np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    took: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < args.seconds + 0.2:
        start = time.perf_counter()
        run(image)
        took.append(time.perf_counter() - start)
    print(median(took[len(took) // 4 :]) * 1e3)


def _latency(path: Path, threads: int, seconds: float) -> float:
    program = [sys.executable, "-m", "benchmarks", "peers-vit"]
    command = [*program, "child", path, "--threads", threads, "--seconds", seconds]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _note(args: argparse.Namespace, verb: str, found: dict[str, Any]) -> None:
    known = json.loads(args.json.read_text()) if args.json.is_file() else {}
    known[verb] = {
        "command": record.command("peers-vit"),
        **record.surroundings(),
        "versions": {name: version(name) for name in ("onnxruntime", "openvino")},
        "made_with": json.loads((args.folder / MADE).read_text()),
        **found,
    }
    record.save(args.json, known)


def main() -> None:
    """Run the verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, run in (("files", files), ("score", score), ("time", time_files), ("child", child)):
        verb = verbs.add_parser(name)
        verb.set_defaults(run=run)
        verb.add_argument("folder", type=Path)
        if name == "files":
            verb.add_argument("--bundle", type=Path, help="what `make run` shipped")
        if name in ("score", "time"):
            verb.add_argument("json", type=Path)
        if name == "score":
            verb.add_argument("--limit", type=int, help="how many test images, for smoke tests")
        if name in ("time", "child"):
            verb.add_argument("--seconds", type=float, default=1.0)
        if name == "time":
            verb.add_argument("--rounds", type=int, default=7)
        if name == "child":
            verb.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
