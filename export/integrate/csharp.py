"""A C# program on ONNX Runtime that classifies what is prepared already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from export.integrate import Made, classifier_of, for_onnxruntime

if TYPE_CHECKING:
    from export.integrate import Golden
    from runtime.bundles.manifest import Manifest

TITLE = "C# with ONNX Runtime"
FILE = "Program.cs"
_NOTE = (
    "Feeds a raw float32 file, such as the C++ program writes, and prints the likeliest classes. We have not compiled "
    "it: no .NET was at hand."
)


def made(manifest: Manifest, golden: Golden) -> Made:
    """For image classifiers."""
    steps = classifier_of(manifest)
    if isinstance(steps, str):
        return Made(steps)
    constants = (
        "// From the bundle's manifest.json.\n"
        f"const string model = {json.dumps(for_onnxruntime(manifest))};\n"
        f"const string input = {json.dumps(manifest.inputs[0].name)};\n"
        f"const string output = {json.dumps(manifest.outputs[0].name)};\n"
        f"int[] shape = {{ 1, {steps.channels}, {steps.size[0]}, {steps.size[1]} }};\n"
    )
    template = (Path(__file__).parent / "Program.cs").read_text(encoding="utf-8")
    return Made(_NOTE, {FILE: template.replace("// CONSTANTS\n", constants)})
