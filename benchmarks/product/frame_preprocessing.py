"""What it costs to bring a camera's frame to a model's input, beside what the model costs.

    python -m benchmarks frame-preprocessing --json benchmarks/results/frame-preprocessing.json

A frame of 1920 x 1080, one thread, least of some calls in processor time (the machine is shared), with and without
Pillow. Models: ONNX files of random vision transformers of the sizes named, in float32 by ONNX Runtime.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.lab import record
from runtime import ort
from runtime.cli import positive
from runtime.images import resample
from runtime.images.image import ImagePreprocessing, Resize, prepare
from runtime.measuring.power import cpu_name
from targets.errors import run_cli

FRAME = (1080, 1920)
#: name: (pixels a side, patch, width, blocks), of the zoo's ViT and of DeiT-Tiny
MODELS = {"vit-cifar10 (32)": (32, 4, 192, 12), "deit-tiny (224)": (224, 16, 192, 12)}
#: name: (resize, centre crop)
WAYS = {
    "exact, bilinear": lambda side: (Resize("exact", (side, side), "bilinear"), None),
    "exact, bicubic": lambda side: (Resize("exact", (side, side), "bicubic"), None),
    "shortest edge, bicubic, crop": lambda side: (Resize("shortest_edge", side * 8 // 7, "bicubic"), (side, side)),
}


def least_ms(call: Callable[[], object], calls: int) -> float:
    """Least processor time of a call, after one that warms up."""
    call()
    times = []
    for _ in range(calls):
        began = time.process_time_ns()
        call()
        times.append((time.process_time_ns() - began) / 1e6)
    return round(min(times), 2)


def model_ms(side: int, patch: int, width: int, blocks: int, calls: int) -> float:
    """A random ViT of that size, float32, batch 1, one thread."""
    import numpy as np
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=3,
        intermediate_size=4 * width,
        image_size=side,
        patch_size=patch,
        num_labels=10,
    )
    pixels = torch.zeros(1, 3, side, side)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        program = torch.onnx.export(ViTForImageClassification(config).eval(), (pixels,), dynamo=True, opset_version=18)
        assert program is not None
        program.save(str(file))
        model = ort.load(file, threads=1)
    fed = {model.inputs[0].name: np.asarray(pixels)}
    return least_ms(lambda: model.run(fed), calls)


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks frame-preprocessing", description=__doc__)
    parser.add_argument("--calls", metavar="N", type=positive, default=30)
    parser.add_argument("--json", metavar="FILE", type=Path, required=True)
    args = parser.parse_args()
    import numpy as np

    frame = np.random.default_rng(0).integers(0, 256, (*FRAME, 3), np.uint8)
    rows: list[dict[str, Any]] = []
    for name, (side, patch, width, blocks) in MODELS.items():
        cost = model_ms(side, patch, width, blocks, args.calls)
        base = ImagePreprocessing("image", 3, (side, side), Resize("none"), 1 / 255, (0.5,) * 3, (0.5,) * 3)
        for way, made in WAYS.items():
            resize, crop = made(side)
            section = vars(replace(base, resize=resize, center_crop=crop)) | {
                "resize": {
                    **vars(resize),
                    "size": list(resize.size) if isinstance(resize.size, tuple) else resize.size,
                },
                "size": [side, side],
                "center_crop": crop and list(crop),
                "mean": list(base.mean),
                "std": list(base.std),
            }
            row: dict[str, Any] = {"model": name, "preprocessing": way, "model_ms": cost}
            for label, pillow in (("pillow_ms", True), ("numpy_ms", False)):
                resample._pillow_agrees.cache_clear()
                resample._WORTH_PILLOW = 1 << 17 if pillow else 1 << 62  # type: ignore[misc]
                row[label] = least_ms(lambda s=section: prepare([frame], s, "bgr"), args.calls)
            rows.append(row)
            print(row, file=sys.stderr)
    report = {
        "command": " ".join(["python -m benchmarks frame-preprocessing", "--calls", str(args.calls)]),
        "cpu": cpu_name(),
        "threads": 1,
        "frame": list(FRAME),
        "versions": {name: metadata.version(name) for name in ("numpy", "pillow", "onnxruntime", "torch")},
        "rows": rows,
    }
    record.save(args.json, report)
    return 0


if __name__ == "__main__":
    run_cli(main)
