r"""What the forms of int8 weights cost where the processor adds two products in 16 bits (x86 with AVX2, no VNNI).

    python -m benchmarks saturation --json benchmarks/results/saturation.json

The embedded CIFAR-10 ViT as it is exported, quantized dynamically with weights in several forms, on
test images, one at a time: rms of the logits against the fp32 file, and the share of images of the same class. On a
processor with VNNI, where the sums are exact, only the loss by fewer bits is left. Nothing is timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic

import targets
from benchmarks.lab import record
from benchmarks.lab.record import command
from compress import recipe
from compress.data import load as load_data
from compress.data import preprocessing_from_hf
from compress.pipeline import Cache, Runner
from compress.pipeline.view import view
from compress.stages.artifacts import OnnxModel
from compress.stages.graph import Job, build_graph
from export.precision.int8_dynamic import to_int8_dynamic
from export.quiet import quiet
from runtime.measuring.power import cpu_name
from targets.errors import run_cli

#: Name of a row -> how the weights are quantized, and the session's option.
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "int8, full range": ({}, "0"),
    "int8, full range, with session.x64quantprecision": ({}, "1"),
    "int8, neighbours sum up to 128": ({"pairs": True}, "0"),
    "int8, 7 bits, by ONNX Runtime's quantizer": ({"reduce_range": True}, "0"),
    "uint8, by ONNX Runtime's quantizer": ({"weight_type": QuantType.QUInt8}, "0"),
}


def logits(path: Path, pixels_BCHW: np.ndarray, exact: str) -> np.ndarray:
    """The answers of a file to images that are asked one by one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", exact)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: one[None]})[0] for one in pixels_BCHW])


def quantized(source: Path, path: Path, pairs: bool = False, **how: Any) -> None:
    """Write a file with weights of 8 bits, a scale for each output. `how`: options of ONNX Runtime's own quantizer."""
    if not how:
        to_int8_dynamic(source, path, pairs=pairs)
        return
    with quiet():
        quantize_dynamic(source, path, **{"weight_type": QuantType.QInt8, "per_channel": True, **how})


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks saturation", description=__doc__)
    parser.add_argument("--images", metavar="N", type=int, default=1000)
    parser.add_argument("--json", metavar="FILE", type=Path, required=True)
    args = parser.parse_args()
    job = Job(recipe.load("identity"), "identity", targets.load("cpu"), 0, Cache().root / "digests.json")
    exported = Runner(build_graph(job), Cache(), [view(sys.stderr)]).run(until="baseline-export")["baseline-export"]
    assert isinstance(exported, OnnxModel)
    data = load_data("zoo:cifar10-test", limit=args.images)
    preprocessing = preprocessing_from_hf(job.model_folder, print)
    pixels_BCHW = np.concatenate([pixels for pixels, _ in data.batches(preprocessing, batch_size=100)])
    wanted_BK = logits(exported.file, pixels_BCHW, "0")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (how, exact) in FORMS.items():
            path = Path(folder, "int8.onnx")
            quantized(exported.file, path, **how)
            found_BK = logits(path, pixels_BCHW, exact)
            same = float((found_BK.argmax(1) == wanted_BK.argmax(1)).mean())
            rms = float(np.sqrt(((found_BK - wanted_BK) ** 2).mean()))
            rows.append({"weights": name, "rms": round(rms, 5), "same_class": round(same, 4)})
            print(rows[-1])
    whole = {
        "command": command("saturation"),
        "versions": {name: version(name) for name in ("onnxruntime", "onnx", "torch", "numpy")},
        "cpu": cpu_name(),
        "vnni": "vnni" in Path("/proc/cpuinfo").read_text(),
        "images": len(pixels_BCHW),
        "logits_rms": round(float(np.sqrt((wanted_BK**2).mean())), 4),
        "rows": rows,
    }
    record.save(args.json, whole)
    return 0


if __name__ == "__main__":
    run_cli(main)
