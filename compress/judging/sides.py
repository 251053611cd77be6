"""Whatever can classify images, opened as a side of a comparison and asked for its logits.

B batch, C classes, H height, W width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.json_files import read_object
from compress.judging.side import (
    Side,
    check_listed,
    forms,
    golden_check,
    is_bundle,
    located,
    onnx_size,
    seen_samples,
    weights_size,
)
from compress.verification.kinds.classes import Predictions
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.data import ImageDataset

Forward = Callable[[NDArray[np.float32]], NDArray[Any]]
Batch = tuple[NDArray[np.float32], NDArray[np.int64]]
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ImageSide(Side):
    """`forward` maps pixel values float32 [B, 3|1, H, W] to logits [B, C].

    `preprocessing` and `labels` are None where the model does not carry them (a bare ONNX file).
    """

    forward: Forward
    preprocessing: dict[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    fixed_batch: int | None = None
    max_batch: int = BATCH


def open_side(spec: str) -> ImageSide:
    """Open a zoo model, a bundle, a compressed model, a Hugging Face folder or an ONNX file.

    Raises InputError if it is none of them or damaged, EnvironmentLacks if it cannot run here.
    """
    path = located(spec)
    if path.suffix == ".onnx":
        return _onnx(spec, path)
    if is_bundle(path):
        return _bundle(spec, path)
    if (path / "structure.json").is_file():
        return _compressed(spec, path)
    if (path / "config.json").is_file():
        return _hugging_face(spec, path)
    from compress.families.folders import instead_of_folder

    what = f"{spec} is no model that can be read: it has no manifest.json, structure.json or config.json"
    raise InputError(f"{what}{instead_of_folder(path)}")


def predict(
    side: ImageSide,
    data: ImageDataset,
    preprocessing: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> Predictions:
    """The side's logits on all of `data`, whose classes are matched to the model's.

    `preprocessing` serves a side that has none of its own; `advance` is told of images done.
    Raises InputError if there is no preprocessing or a shape is wrong.
    """
    matched = data.for_labels(side.labels) if side.labels is not None else data
    size = side.fixed_batch or min(BATCH, side.max_batch)
    parts = []
    for pixels_BCHW, _ in _ahead(matched.batches(_section(side, preprocessing), batch_size=size)):
        parts.append(_logits(side, pixels_BCHW))
        advance(len(pixels_BCHW))
    names = list(side.labels) if side.labels is not None else None
    return Predictions(np.concatenate(parts), matched.labels, names)


def logits_of(
    side: ImageSide, images: Sequence[NDArray[np.uint8]], preprocessing: Mapping[str, Any] | None = None
) -> NDArray[np.float32]:
    """The side's logits [B, C] on images of no data set, uint8 [H, W, C] each. Arguments and errors as `predict`."""
    from runtime.images.image import prepare

    section = _section(side, preprocessing)
    size = side.fixed_batch or min(BATCH, side.max_batch)
    starts = range(0, len(images), size)
    return np.concatenate([_logits(side, prepare(images[start : start + size], section)) for start in starts])


def _section(side: ImageSide, preprocessing: Mapping[str, Any] | None) -> Mapping[str, Any]:
    section = side.preprocessing or preprocessing
    if section is None:
        raise InputError(f"{side.name} does not say how images are prepared; put preprocessor_config.json beside it")
    return section


def _logits(side: ImageSide, pixels_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    full = padded(pixels_BCHW, side.fixed_batch)
    logits_BC = np.asarray(side.forward(full))
    if logits_BC.ndim != 2 or len(logits_BC) != len(full):
        raise InputError(f"{side.name} gives outputs of shape {list(logits_BC.shape)}; logits [batch, classes] needed")
    return logits_BC[: len(pixels_BCHW)].astype(np.float32)


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, each prepared in a thread of its own while the model works on the one before it."""
    with ThreadPoolExecutor(1, thread_name_prefix="prepare") as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def padded(pixels_BCHW: NDArray[np.float32], batch: int | None) -> NDArray[np.float32]:
    """The batch, filled up to the size of a graph that takes no other by repeating its last image."""
    missing = (batch or 0) - len(pixels_BCHW)
    if missing <= 0:
        return pixels_BCHW
    return np.concatenate([pixels_BCHW, np.repeat(pixels_BCHW[-1:], missing, axis=0)])


def _onnx(name: str, path: Path) -> ImageSide:
    from runtime import ort

    model = ort.load(path)
    images = [tensor for tensor in model.inputs if len(tensor.shape) == 4]
    scores = [tensor for tensor in model.outputs if len(tensor.shape) == 2]
    if len(model.inputs) != 1 or len(images) != 1 or not scores:
        shapes = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in (*model.inputs, *model.outputs))
        raise InputError(f"{name} is no image classifier (one input of 4 dimensions, logits of 2): it has {shapes}")
    image = images[0]
    output = next((tensor.name for tensor in scores if tensor.name == "logits"), scores[0].name)
    batch = image.shape[0]
    preprocessing, labels = _beside(path)

    def fed(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {image.name: inputs["pixel_values"].astype(image.dtype, copy=False)}

    return ImageSide(
        name=name,
        kind="ONNX file",
        forward=lambda pixels: model.run(fed({"pixel_values": pixels}))[output],
        bytes=onnx_size(path),
        runs_on=f"ONNX Runtime, {model.provider}",
        preprocessing=preprocessing,
        labels=labels,
        fixed_batch=batch if isinstance(batch, int) else None,
        graphs=(path,),
        fed=fed,
    )


def _beside(path: Path) -> tuple[dict[str, Any] | None, tuple[str, ...] | None]:
    """Preprocessing and labels from the files that lie beside an ONNX file, where there are any."""
    folder = path.parent
    if (folder / "manifest.json").is_file():
        from runtime.bundles.manifest import load_manifest

        manifest = load_manifest(folder)
        check_listed(str(path), path, manifest)
        return manifest.preprocessing, manifest.labels
    from compress.data.processor import has_settings, preprocessing_from_hf

    if not has_settings(folder):
        return None, None

    return preprocessing_from_hf(folder), _config_labels(folder)


def _bundle(name: str, path: Path) -> ImageSide:
    from runtime.images.classify import check_task
    from runtime.session import open_bundle

    session = open_bundle(path, allow_failed=True)  # the gate here judges it anew
    check_task(session.bundle)
    manifest = session.manifest
    image, output = manifest.inputs[0], manifest.outputs[0].name
    batch = image.shape[0]
    return ImageSide(
        name=name,
        kind="bundle",
        forward=lambda pixels: session.run({image.name: pixels})[output],
        bytes=onnx_size(session.bundle.root / session.model.path),
        runs_on=session.describe(),
        preprocessing=manifest.preprocessing,
        labels=manifest.labels,
        fixed_batch=batch if isinstance(batch, int) else None,
        max_batch=session.max_batch,
        seen=seen_samples(session.bundle.root),
        golden=golden_check(session),
        graphs=forms(session),
        fed=lambda inputs: {image.name: inputs["pixel_values"]},
    )


def _compressed(name: str, path: Path) -> ImageSide:
    from compress import model as models

    model = models.load(path)
    return _torch_side(name, path, "compressed model", model, model.structure)


def _hugging_face(name: str, path: Path) -> ImageSide:
    """With the original library where it knows the architecture, so that the reference owes nothing to edgepress."""
    from compress.data import preprocessing_from_hf
    from compress.families import read_checkpoint
    from compress.judging.original import count_parameters, knows, load_original

    notes: list[str] = []
    preprocessing = preprocessing_from_hf(path, notes.append)
    if not knows(path):
        model = read_checkpoint(path, preprocessing)
        return replace(_torch_side(name, path, "model folder", model, model.structure), notes=tuple(notes))
    import torch

    original = load_original(name, path, "AutoModelForImageClassification")

    def forward(pixels: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            return np.asarray(original(pixel_values=torch.from_numpy(pixels)).logits.numpy())

    return ImageSide(
        name=name,
        kind="Hugging Face model",
        forward=forward,
        bytes=weights_size(path),
        runs_on=f"transformers, torch {torch.__version__}",
        preprocessing=preprocessing,
        labels=_config_labels(path),
        parameters=count_parameters(original),
        canonical=functools.cache(lambda: read_checkpoint(path, preprocessing)),
        notes=tuple(notes),
    )


def _torch_side(name: str, path: Path, kind: str, model: Any, structure: Any) -> ImageSide:
    import torch

    def forward(pixels: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            return np.asarray(model({"pixel_values": torch.from_numpy(pixels)}).numpy())

    return ImageSide(
        name=name,
        kind=kind,
        forward=forward,
        bytes=weights_size(path),
        runs_on=f"torch {torch.__version__}",
        preprocessing=dict(structure.preprocessing),
        labels=tuple(structure.labels),
        parameters=model.num_parameters(),
        canonical=lambda: model,
    )


def _config_labels(folder: Path) -> tuple[str, ...] | None:
    """The class names that a config.json gives. Raises InputError where they are no numbers from 0 and their names."""
    from compress.families.family import labels_in

    path = folder / "config.json"
    config = read_object(path) if path.is_file() else {}
    names = config.get("id2label")
    return labels_in(config, folder, len(names) if isinstance(names, Mapping) else 2) if names else None
