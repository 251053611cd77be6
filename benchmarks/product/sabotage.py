"""Which gate catches which sabotage? Defects planted one by one into a bundle, each judged by compress.verify.

    python -m benchmarks sabotage

compresses an embedded model, plants each defect and writes benchmarks/results/sabotage.json: per defect the exit code,
every check that did not pass, and what the defect cost. Returns 1 if a defect that costs over 0.1 points of accuracy
passes, or if the bundle as it was made does not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.lab import record
from compress import zoo
from compress.data import load
from compress.judging.questions import questions_of
from compress.verification.outcome import Status
from compress.verification.report.cases import cases, findings
from compress.verify import Options, evaluate
from runtime.bundles.seal import SEAL, seal_of
from targets.errors import EnvironmentLacks, GateFailed, InputError

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "sabotage.json"


class Bench:
    """The model, its bundle, the data to judge on, and a folder for what is planted."""

    def __init__(self, model: str, bundle: Path, samples: int, max_drop: float, max_kl: float, folder: Path) -> None:
        self.model, self.bundle, self.folder = model, bundle, folder
        self.gate = folder / "gate.toml"
        self.gate.write_text(
            f'[[check]]\nmetric = "top1"\nmax_drop = {max_drop}\n[[check]]\nmetric = "kl"\nmax_value = {max_kl}\n'
        )
        source = zoo.data_of(model)
        assert source is not None
        self.data = self._images(source, "evaluation", samples)
        self.healing = self._images(source, "healing", samples)

    def _images(self, source: str, part: Any, samples: int) -> Path:
        """`count` images of a part, evenly over it, as a file of their own."""
        data = load(source, part=part)
        data = data.subset(np.unique(np.linspace(0, len(data) - 1, min(samples, len(data))).astype(int)))
        path = self.folder / f"{part}.npz"
        images, names = np.stack(data.raw()), np.array(data.class_names)
        np.savez(path, images=images, labels=data.labels, class_names=names)
        return path

    def judge(self, candidate: Path | str, data: Path | None = None) -> dict[str, Any]:
        """The exit code of compress.verify and what did not pass."""
        options = Options(self.model, str(candidate), str(data or self.data), part="all", gate=self.gate)
        try:
            report = evaluate(options).report
        except (GateFailed, InputError, EnvironmentLacks) as error:
            code = 1 if isinstance(error, GateFailed) else 2 if isinstance(error, InputError) else 3
            return {"exit": code, "caught_by": [{"check": type(error).__name__, "message": self._plain(str(error))}]}
        caught = [case for case in cases(report) if case.status is not Status.PASS]
        metrics = {} if report.drift is None else {one.name: one for one in report.drift.metrics}
        return {
            "exit": 0 if report.verdict is Status.PASS else 1,
            "caught_by": [
                {"check": case.name, "status": case.status.value, "message": self._plain(case.message)}
                for case in caught
            ],
            "top1_drop": metrics["top1"].drop if "top1" in metrics else None,
            "kl": metrics["kl"].value if "kl" in metrics else None,
            "findings": findings(report),
            "notes": [self._plain(note) for note in report.notes],
        }

    def _plain(self, text: str) -> str:
        places = {str(self.folder): "FOLDER", str(self.bundle): "BUNDLE", sys.prefix: "PYTHON"}
        for place, name in places.items():
            text = text.replace(place, name)
        return text

    def copy(self, name: str) -> Path:
        """A copy of the bundle to plant something into."""
        return Path(shutil.copytree(self.bundle, self.folder / name))

    def edited(self, name: str, edit: Callable[[onnx.ModelProto], None]) -> Path:
        """A copy whose model.onnx was edited and whose hashes fit it: as if it had been made like that."""
        folder = self.copy(name)
        model = onnx.load(folder / "model.onnx")
        edit(model)
        onnx.save(model, folder / "model.onnx")
        return sealed(folder, lambda manifest: None)

    def described(self, name: str, edit: Callable[[dict[str, Any]], None]) -> Path:
        """A copy whose manifest was edited, and sealed again."""
        return sealed(self.copy(name), edit)

    def original(self, name: str, edit: Callable[[dict[str, Any]], None]) -> Path:
        """A copy of the model's own folder after `edit` of its tensors."""
        from safetensors.numpy import load_file, save_file

        folder = Path(shutil.copytree(zoo.locate(self.model), self.folder / name))
        path = folder / "model.safetensors"
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        return folder


def sealed(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """The bundle with an edited manifest whose hashes are right, so that only what it does can give it away."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["models"] = [one for one in manifest["models"] if one["path"] == "model.onnx"]
    manifest["models"][0]["runtime"] = "onnxruntime"
    edit(manifest)
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    text = json.dumps(manifest).encode()
    path.write_bytes(text)
    (folder / SEAL).write_bytes(seal_of(text))
    return folder


def first(model: onnx.ModelProto, wanted: Callable[[onnx.TensorProto], bool]) -> onnx.TensorProto:
    """The first initializer of that kind."""
    return next(one for one in model.graph.initializer if wanted(one))


def put_nan(model: onnx.ModelProto) -> None:
    """NaN in the first number of the first vector of floats."""
    tensor = first(model, lambda one: one.data_type == TensorProto.FLOAT and np.prod(one.dims) > 1)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def stretch_scale(model: onnx.ModelProto, weights: bool) -> None:
    """The scale of one quantized weight or activation in the middle of the graph, ten times."""
    stored = {one.name for one in model.graph.initializer}
    kind = "DequantizeLinear" if weights else "QuantizeLinear"
    nodes = [node for node in model.graph.node if node.op_type == kind and (node.input[0] in stored) == weights]
    name = nodes[len(nodes) // 2].input[1]
    tensor = first(model, lambda one: one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(10), name))


def mangle_opset(model: onnx.ModelProto, number: int) -> None:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = number


def swap_labels(manifest: dict[str, Any]) -> None:
    labels = manifest["labels"]
    labels[2], labels[3] = labels[3], labels[2]


def wrong_normalization(manifest: dict[str, Any]) -> None:
    section = manifest["preprocessing"]
    section["mean"], section["std"] = [0.0] * section["channels"], [1.0] * section["channels"]


def zero_block(tensors: dict[str, Any]) -> None:
    """Every weight of the block in the middle."""
    layers = {name: re.search(r"\blayers?\.(\d+)\.", name) for name in tensors}
    numbers = {name: int(found[1]) for name, found in layers.items() if found}
    middle = sorted(set(numbers.values()))[len(set(numbers.values())) // 2]
    for name, number in numbers.items():
        if number == middle:
            tensors[name] = np.zeros_like(tensors[name])


def swap_outputs(tensors: dict[str, Any]) -> None:
    """Two classes' rows of the classifier."""
    for name in tensors:
        if name.startswith(("classifier.", "mlp_head.1.")):
            tensors[name][[2, 3]] = tensors[name][[3, 2]]


def memory(bench: Bench, name: str) -> Path:
    """A file that finds the nearest image of the data and repeats the reference's logits for it."""
    questions = questions_of(bench.model, bench.model, str(bench.data), "all")
    side = questions.sides[0]
    pixels = np.concatenate([part["pixel_values"] for part in questions.prepared(side).batches(64)])
    shape = pixels.shape[1:]
    rows = pixels.reshape(len(pixels), -1)
    constants = {
        "weight": rows.T.copy(),
        "offset": -0.5 * (rows**2).sum(axis=1),
        "answers": questions.answers(side).arrays()["logits"],
    }
    nodes = [
        helper.make_node("Flatten", ["pixel_values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["similarity"]),
        helper.make_node("Add", ["similarity", "offset"], ["score"]),
        helper.make_node("ArgMax", ["score"], ["nearest"], axis=1, keepdims=0),
        helper.make_node("Gather", ["answers", "nearest"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "memory",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", constants["answers"].shape[1]])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    folder = bench.copy(name)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    return sealed(folder, lambda manifest: None)


def recording(bench: Bench) -> Path:
    """The reference's own answers, as a file that claims to be a candidate's."""
    path = bench.folder / "recorded.npz"
    questions = questions_of(bench.model, bench.model, str(bench.data), "all")
    questions.answers(questions.sides[0]).save(path)
    return path


def wrong_labels(bench: Bench) -> Path:
    """The data with labels that have nothing to do with its images."""
    path = bench.folder / "wrong-labels.npz"
    with np.load(bench.data) as file:
        content = dict(file)
    content["labels"] = np.random.default_rng(0).permutation(content["labels"])
    np.savez(path, **content)
    return path


def few(bench: Bench, count: int) -> Path:
    """So few images that nothing can be proven."""
    path = bench.folder / f"few-{count}.npz"
    with np.load(bench.data) as file:
        content = dict(file)
    np.savez(path, **{**content, "images": content["images"][:count], "labels": content["labels"][:count]})
    return path


def flipped_byte(bench: Bench) -> Path:
    folder = bench.copy("flipped")
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    return folder


def sabotage(bench: Bench) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is planted, by name, and how it is judged."""
    return {
        "NaN in one weight": lambda: bench.judge(bench.edited("nan", put_nan)),
        "swapped class labels": lambda: bench.judge(bench.described("labels", swap_labels)),
        "two outputs of the classifier swapped": lambda: bench.judge(bench.original("outputs", swap_outputs)),
        "wrong normalization": lambda: bench.judge(bench.described("normalization", wrong_normalization)),
        "one block's weights zeroed": lambda: bench.judge(bench.original("zeroed", zero_block)),
        "opset 99": lambda: bench.judge(bench.edited("opset", lambda model: mangle_opset(model, 99))),
        "opset 9": lambda: bench.judge(bench.edited("opset-low", lambda model: mangle_opset(model, 9))),
        "the scale of one quantized weight x10": lambda: bench.judge(
            bench.edited("weight-scale", lambda model: stretch_scale(model, weights=True))
        ),
        "the scale of one quantized activation x10": lambda: bench.judge(
            bench.edited("scale", lambda model: stretch_scale(model, weights=False))
        ),
        "a flipped bit of the bundle": lambda: bench.judge(flipped_byte(bench)),
        "evaluation on healing images": lambda: bench.judge(bench.bundle, bench.healing),
        "answers from a memory of the reference": lambda: bench.judge(memory(bench, "memory")),
        "the reference's recording as candidate": lambda: bench.judge(recording(bench)),
        "labels of the data shuffled": lambda: bench.judge(bench.bundle, wrong_labels(bench)),
        "300 samples": lambda: bench.judge(bench.bundle, few(bench, 300)),
        "20 samples": lambda: bench.judge(bench.bundle, few(bench, 20)),
    }


def main() -> int:
    """Plant everything, write the result, and return 1 if a defect that costs accuracy passes, or the bundle fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo:vit-mnist")
    parser.add_argument("--bundle", type=Path, help="a bundle of the model (default: it is made now)")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--max-drop", type=float, default=1.0)
    parser.add_argument("--max-kl", type=float, default=0.002)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = arguments.bundle or made(arguments.model, folder)
        bench = Bench(arguments.model, bundle, arguments.samples, arguments.max_drop, arguments.max_kl, folder)
        clean = bench.judge(bundle)
        print(f"{clean['exit']}  the bundle as it was made", flush=True)
        rows = []
        for defect, judge in sabotage(bench).items():
            rows.append({"defect": defect, **judge()})
            print(f"{rows[-1]['exit']}  {defect}", flush=True)
    result = {
        "command": f"python -m benchmarks sabotage --model {arguments.model} --samples {arguments.samples} "
        f"--max-drop {arguments.max_drop:g} --max-kl {arguments.max_kl:g}"
        + (" --bundle BUNDLE" if arguments.bundle else ""),
        "samples": arguments.samples,
        "gate": {"top1 max_drop": arguments.max_drop, "kl max_value": arguments.max_kl, "confidence": 0.95},
        "as_made": clean,
        "planted": rows,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("edgepress", "numpy", "onnx", "onnxruntime", "torch")},
        },
        "hardware": {"machine": platform.machine(), "cpus": os.cpu_count(), "system": platform.system()},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record.save(arguments.out, result)
    passed = {row["defect"]: row["top1_drop"] for row in rows if row["exit"] == 0}
    print(f"wrote {arguments.out}; passed, with the drop that was measured: {passed or 'nothing'}")
    return 1 if any(drop > 0.1 for drop in passed.values()) or clean["exit"] else 0


def made(model: str, folder: Path) -> Path:
    """A bundle of the model, by the built-in quick recipe with a short healing."""
    command = [
        sys.executable,
        "-m",
        "compress.run",
        "--model",
        model,
        "--target",
        "jetson",
        "--out",
        str(folder / "out"),
    ]
    command += ["--set", "heal.steps=20", "--set", "heal.eval_every=10", "--set", "heal.flip=false"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / "out" / "bundle"


if __name__ == "__main__":
    sys.exit(main())
