"""What a program without our Python gets of a bundle: a file of this folder for each way in, found by listing it.

Each has `TITLE` and `made(manifest, golden)`, a pure function. `golden` are the arrays of golden.npz of each graph.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.bundles.manifest import ONNXRUNTIME
from runtime.images.image import ImagePreprocessing, parse_preprocessing

if TYPE_CHECKING:
    import numpy as np

    from runtime.bundles.manifest import Manifest

    Golden = Mapping[str, Mapping[str, np.ndarray]]

#: The folder of a bundle that holds them.
FOLDER = "integrate"
README = "README.md"
_HEAD = """# Without our Python

What another program needs to run this bundle. `manifest.json` says what goes in and what comes out.
"""
_FAILED = "\n**This bundle failed its accuracy gate. Do not put it into service.**\n"


@dataclass(frozen=True)
class Made:
    """Texts by their paths below the folder, and `note`: what to know before using them. Without texts the note says
    why there are none."""

    note: str
    texts: Mapping[str, str] = field(default_factory=dict)


def files_of(manifest: Manifest, golden: Golden) -> dict[str, str]:
    """All texts by their paths in the bundle, a README among them that says what is there and why something is not."""
    readme, texts = [_HEAD, _FAILED if manifest.verdict == "fail" else ""], dict[str, str]()
    for module in pkgutil.iter_modules(__path__):
        one = importlib.import_module(f"{__name__}.{module.name}")
        made: Made = one.made(manifest, golden)
        texts |= {f"{FOLDER}/{path}": text for path, text in made.texts.items()}
        named = ", ".join(f"`{path}`" for path in made.texts) or "Not in this bundle"
        readme.append(f"\n## {one.TITLE}\n\n{named}. {made.note}\n")
    return {f"{FOLDER}/{README}": "".join(readme), **texts}


def classifier_of(manifest: Manifest) -> ImagePreprocessing | str:
    """How a picture becomes the input of an image classifier that takes one at a time, or why there is none such."""
    prepared, answered = manifest.preprocessing or {}, manifest.postprocessing or {}
    if (prepared.get("kind"), answered.get("kind")) != ("image", "softmax") or manifest.graphs:
        return f"It is for image classifiers, and this model's task is {manifest.task}."
    tensor = manifest.inputs[0]
    takes_one = tensor.shape[0] == 1 or isinstance(tensor.shape[0], str)
    if len(manifest.inputs) != 1 or tensor.dtype != "float32" or not takes_one:
        return "It gives one picture at a time, and this model takes something else."
    return parse_preprocessing(prepared)


def for_onnxruntime(manifest: Manifest) -> str:
    """The file that ONNX Runtime runs on a CPU."""
    whole = [model for model in manifest.models if model.loops == manifest.loops]
    return next((model.path for model in whole if model.runtime == ONNXRUNTIME), manifest.main)
