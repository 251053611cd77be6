"""A C++ program on ONNX Runtime that classifies a picture, with the preprocessing of this bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from export.integrate import Made, classifier_of, for_onnxruntime

if TYPE_CHECKING:
    from export.integrate import Golden
    from runtime.bundles.manifest import Manifest
    from runtime.images.image import ImagePreprocessing

TITLE = "C++ with ONNX Runtime"
FILE = "onnxruntime.cpp"
_NOTE = (
    "Reads a PPM picture, prepares it as training did (the bits are those of our Python), and prints the likeliest "
    "classes. Its first lines say how to compile it. With `-DWITHOUT_ONNXRUNTIME` it writes what the model is fed, "
    "which trtexec can load. We have run it so far. Of its calls of ONNX Runtime we have checked the spelling alone: "
    "no headers of its C++ interface were at hand."
)


def made(manifest: Manifest, golden: Golden) -> Made:
    """For image classifiers."""
    steps = classifier_of(manifest)
    if isinstance(steps, str):
        return Made(steps)
    template = (Path(__file__).parent / "onnxruntime.cpp").read_text(encoding="utf-8")
    return Made(_NOTE, {FILE: template.replace("// CONSTANTS\n", _constants(manifest, steps))})


def _constants(manifest: Manifest, steps: ImagePreprocessing) -> str:
    """What the program needs of the manifest."""
    size = steps.resize.size
    edges = size if isinstance(size, tuple) else (size or 0, size or 0)
    lines = [
        "// From the bundle's manifest.json.",
        f"constexpr const char *MODEL = {json.dumps(for_onnxruntime(manifest))};",
        f"constexpr const char *INPUT = {json.dumps(manifest.inputs[0].name)};",
        f"constexpr const char *OUTPUT = {json.dumps(manifest.outputs[0].name)};",
        f"constexpr int CHANNELS = {steps.channels}, HEIGHT = {steps.size[0]}, WIDTH = {steps.size[1]};",
        "enum Resize { NONE, EXACT, SHORTEST_EDGE };",
        "enum Filter { NEAREST, BILINEAR, BICUBIC };",
        f"constexpr Resize RESIZE = {steps.resize.mode.upper()};",
        f"constexpr Filter FILTER = {steps.resize.resample.upper()};",
        f"constexpr int RESIZE_HEIGHT = {edges[0]}, RESIZE_WIDTH = {edges[1]};",
        f"constexpr bool CROP = {str(steps.center_crop is not None).lower()};",
        f"constexpr double RESCALE = {steps.rescale!r};",
        f"constexpr double MEAN[] = {{{', '.join(map(repr, steps.mean))}}};",
        f"constexpr double STD[] = {{{', '.join(map(repr, steps.std))}}};",
    ]
    return "\n".join(lines) + "\n"
