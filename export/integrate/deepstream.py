"""A configuration of DeepStream's nvinfer for image classifiers.

nvinfer feeds y = net-scale-factor * (x - offset of the channel), x from 0 to 255, and has one scale for all channels.

Reference: NVIDIA DeepStream SDK, "Gst-nvinfer File Configuration Specifications".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from export.integrate import Made, classifier_of
from export.integrate.trtexec import ENGINE, for_tensorrt

if TYPE_CHECKING:
    from export.integrate import Golden
    from runtime.bundles.manifest import Manifest
    from runtime.images.image import ImagePreprocessing

TITLE = "DeepStream"
CONFIG, LABELS = "deepstream/config_infer.txt", "deepstream/labels.txt"
_MODES = {"fp32": 0, "int8": 1, "fp16": 2}
_FILTERS = {"nearest": 0, "bilinear": 1, "bicubic": 2}
_NOTE = (
    "For nvinfer. Build the engine with `trtexec.sh` first: nvinfer's own builder does not keep the types of the file. "
    "Three things differ from our Python. Its numbers are logits, not probabilities. It names a class only if the "
    "logit is above 0. Its scaler is not Pillow's, so measure the accuracy on pictures that went through it. We have "
    "not run it: no DeepStream was at hand."
)


def made(manifest: Manifest, golden: Golden) -> Made:
    """For classifiers whose preprocessing nvinfer can repeat."""
    steps = classifier_of(manifest)
    if isinstance(steps, str):
        return Made(steps)
    model = for_tensorrt(manifest)
    if model is None:
        return Made("It runs TensorRT engines, and this target has none.")
    if manifest.labels is None:
        return Made("It names classes, and this bundle has no names.")
    if len(set(steps.std)) > 1:
        stds = ", ".join(map(repr, steps.std))
        return Made(
            f"Its preprocessing has one scale for all channels, and this model divides by {stds}. Scale before nvinfer "
            "(nvdspreprocess takes a scale for each channel) and feed it with `input-tensor-meta`."
        )
    if steps.resize.mode != "exact" or steps.center_crop is not None:
        return Made(
            "Its scaler brings a whole frame to the model's size, and this model cuts out the middle. Crop before it."
        )
    text = _config(manifest, steps, model.path, _MODES.get(model.precision, 0))
    names = ";".join(" ".join(label.replace(";", ",").split()) for label in manifest.labels)
    return Made(_NOTE, {CONFIG: text, LABELS: f"{names}\n"})


def _config(manifest: Manifest, steps: ImagePreprocessing, onnx: str, mode: int) -> str:
    keys: dict[str, object] = {
        "gpu-id": 0,
        "onnx-file": f"../../{onnx}",
        "model-engine-file": f"../{ENGINE}",
        "labelfile-path": "labels.txt",
        "batch-size": manifest.max_batch,
        "infer-dims": f"{steps.channels};{steps.size[0]};{steps.size[1]}",
        "model-color-format": 0 if steps.channels == 3 else 2,
        "net-scale-factor": repr(steps.rescale / steps.std[0]),
        "offsets": ";".join(repr(mean / steps.rescale) for mean in steps.mean),
        "scaling-filter": _FILTERS[steps.resize.resample],
        "maintain-aspect-ratio": 0,
        "network-mode": mode,
        "network-type": 1,
        "process-mode": 1,
        "gie-unique-id": 1,
        "classifier-threshold": 0,
    }
    return "[property]\n" + "".join(f"{key}={value}\n" for key, value in keys.items())
