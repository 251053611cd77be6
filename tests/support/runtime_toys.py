"""A bundle made by hand: a small convolution classifier of 8 x 8 images, with outputs computed in numpy."""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPO = Path(__file__).parents[2]
LABELS = ["ant", "bee", "cat", "dog", "eel"]
PREPROCESSING = {
    "kind": "image",
    "channels": 3,
    "size": [8, 8],
    "resize": {"mode": "exact", "size": [8, 8], "resample": "bilinear"},
    "center_crop": None,
    "rescale": 1 / 255,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
PROFILE = {"batch": [1, 1, 8], "length": [1, 128, 512], "chunk": [1, 1, 512]}
_random = np.random.default_rng(0)
KERNEL = _random.standard_normal((4, 3, 3, 3)).astype(np.float32)
WEIGHT = _random.standard_normal((4 * 64, 5)).astype(np.float32) / 16
BIAS = _random.standard_normal(5).astype(np.float32)


def oracle(pixels_BCHW):
    """The classifier in float64 numpy: convolution, relu, flatten, gemm."""
    padded = np.pad(pixels_BCHW.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    maps = np.maximum(np.einsum("bchwij,kcij->bkhw", windows, KERNEL), 0)
    return maps.reshape(len(pixels_BCHW), -1) @ WEIGHT + BIAS


def onnx_classifier(dtype="float32", batch="batch"):
    """The classifier as an ONNX model; float16 casts inside, so inputs and outputs stay float32."""
    from onnx import TensorProto, helper, numpy_helper

    kind = np.dtype(dtype)
    half = dtype == "float16"
    body = [
        helper.make_node("Conv", ["x", "kernel"], ["maps"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("Flatten", ["active"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["y"], name="gemm"),
    ]
    ends = [
        helper.make_node("Cast", ["pixel_values"], ["x"], to=TensorProto.FLOAT16 if half else TensorProto.FLOAT),
        helper.make_node("Cast", ["y"], ["logits"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        [ends[0], *body, ends[1]],
        "classifier",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])],
        [
            numpy_helper.from_array(array.astype(kind), name)
            for array, name in ((KERNEL, "kernel"), (WEIGHT, "weight"), (BIAS, "bias"))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def onnx_accumulator():
    """A model with state: present_total = past_total + the sum of x over the chunk, and y says it."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0),
            helper.make_node("Add", ["past_total", "sum"], ["present_total"]),
            helper.make_node("Identity", ["present_total"], ["y"]),
        ],
        "accumulator",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "chunk", 2]),
            helper.make_tensor_value_info("past_total", TensorProto.FLOAT, ["batch", 2]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("present_total", TensorProto.FLOAT, ["batch", 2]),
        ],
        [numpy_helper.from_array(np.array([1]), "axis")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@dataclass
class BundleMaker:
    """Writes bundle folders; `seal` renews the manifest's digests after a change."""

    root: Path

    def write(self, name="bundle", models=None, files=None, **changes):
        """A complete bundle folder. `changes` replace keys of the manifest."""
        import onnx

        folder = self.root / name
        folder.mkdir()
        onnx.save(onnx_classifier(), folder / "model.onnx")
        pixels = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
        np.savez(
            folder / "golden.npz",
            input_pixel_values=pixels,
            output_logits=oracle(pixels).astype(np.float32),
            atol_logits=np.float32(1e-4),
        )
        (folder / "config.json").write_text("{}")
        (folder / "extra").mkdir()
        (folder / "extra/notes.txt").write_text("hello")
        for path, data in (files or {}).items():
            (folder / path).write_bytes(data)
        manifest = {
            "schema": 1,
            "edgepress": "0.1.0",
            "model": "toy",
            "task": "image-classification",
            "target": {"name": "cpu-x86", "precision": "fp32", "threads": 1, "profile": PROFILE},
            "inputs": [{"name": "pixel_values", "dtype": "float32", "shape": ["batch", 3, 8, 8]}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 5]}],
            "state": [],
            "models": models or [{"path": "model.onnx", "runtime": "onnxruntime", "precision": "fp32", "note": ""}],
            "preprocessing": PREPROCESSING,
            "postprocessing": {"kind": "softmax"},
            "labels": LABELS,
            "verdict": "pass",
            "drift": {"top1": 0.0},
            **changes,
        }
        self.seal(folder, manifest)
        return folder

    def seal(self, folder, manifest=None):
        """Write the manifest with the digests of all files that are there now."""
        manifest = manifest or json.loads((folder / "manifest.json").read_text())
        manifest["files"] = {
            path.relative_to(folder).as_posix(): {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith("manifest.json")
        }
        self._put(folder, manifest)

    def edit(self, folder, **changes):
        """Change keys of the manifest and nothing else."""
        manifest = json.loads((folder / "manifest.json").read_text())
        self._put(folder, {**manifest, **changes})

    @staticmethod
    def _put(folder, manifest):
        text = json.dumps(manifest)
        (folder / "manifest.json").write_text(text)
        line = f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n"
        (folder / "manifest.json.sha256").write_text(line)


def pack(folder, path, prefix=""):
    """A zip of the folder, with its files below `prefix`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path
