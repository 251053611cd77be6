"""The two sides of a comparison: whatever can classify images, opened and asked for its logits.

B batch, C classes, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress import zoo
from compress.verification.predictions import Predictions
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.data import ImageDataset
    from compress.model import Transformer
    from runtime.golden import GoldenResult
    from runtime.manifest import Manifest
    from runtime.session import Session

Forward = Callable[[NDArray[np.float32]], NDArray[Any]]
Batch = tuple[NDArray[np.float32], NDArray[np.int64]]
BATCH = 32


@dataclass(frozen=True)
class Side:
    """An opened model. `forward` maps pixel values float32 [B, 3|1, H, W] to logits [B, C].

    `preprocessing` and `labels` are None where the model does not carry them (a bare ONNX file). `canonical` reads the
    model into the form whose blocks can be compared; None where there is only a graph. `seen`: fingerprints of the
    samples that it was healed on; `golden` holds it to its golden samples; None where it brings none.
    """

    name: str
    kind: str
    forward: Forward
    bytes: int
    runs_on: str
    preprocessing: dict[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    parameters: int | None = None
    fixed_batch: int | None = None
    max_batch: int = BATCH
    canonical: Callable[[], Transformer] | None = None
    seen: NDArray[np.uint64] | None = None
    golden: Callable[[], list[GoldenResult]] | None = None


def is_predictions(spec: str) -> bool:
    """Does `spec` name a file of predictions, which needs no data and no model?"""
    return spec.endswith((".npz", ".jsonl"))


def open_side(spec: str) -> Side:
    """Open a zoo model, a bundle, a compressed model, a Hugging Face folder or an ONNX file.

    Raises InputError if it is none of them or damaged, EnvironmentLacks if it cannot run here.
    """
    path = zoo.locate(spec)
    if not path.exists():
        raise InputError(f"no model at {spec}; give a bundle, a model folder, an .onnx file or an .npz of predictions")
    if path.suffix == ".onnx":
        return _onnx(spec, path)
    if path.is_file() or (path / "manifest.json").is_file():
        return _bundle(spec, path)
    if (path / "structure.json").is_file():
        return _compressed(spec, path)
    if (path / "config.json").is_file():
        return _hugging_face(spec, path)
    raise InputError(f"{spec} holds no manifest.json, structure.json or config.json; it is no model that can be read")


def predict(
    side: Side,
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
    side: Side, images: Sequence[NDArray[np.uint8]], preprocessing: Mapping[str, Any] | None = None
) -> NDArray[np.float32]:
    """The side's logits [B, C] on images of no data set, uint8 [H, W, C] each. Arguments and errors as `predict`."""
    from runtime.image import prepare

    section = _section(side, preprocessing)
    size = side.fixed_batch or min(BATCH, side.max_batch)
    starts = range(0, len(images), size)
    return np.concatenate([_logits(side, prepare(images[start : start + size], section)) for start in starts])


def _section(side: Side, preprocessing: Mapping[str, Any] | None) -> Mapping[str, Any]:
    section = side.preprocessing or preprocessing
    if section is None:
        raise InputError(f"{side.name} does not say how images are prepared; put preprocessor_config.json beside it")
    return section


def _logits(side: Side, pixels_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    full = _padded(pixels_BCHW, side.fixed_batch)
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


def _padded(pixels_BCHW: NDArray[np.float32], batch: int | None) -> NDArray[np.float32]:
    missing = (batch or 0) - len(pixels_BCHW)
    if missing <= 0:
        return pixels_BCHW
    return np.concatenate([pixels_BCHW, np.repeat(pixels_BCHW[-1:], missing, axis=0)])


def _onnx(name: str, path: Path) -> Side:
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
    return Side(
        name,
        "ONNX file",
        lambda pixels: model.run({image.name: pixels.astype(image.dtype, copy=False)})[output],
        bytes=_size(path) + sum(_size(data) for data in path.parent.glob(f"{path.name}?data")),
        runs_on=f"ONNX Runtime, {model.provider}",
        preprocessing=preprocessing,
        labels=labels,
        fixed_batch=batch if isinstance(batch, int) else None,
    )


def _beside(path: Path) -> tuple[dict[str, Any] | None, tuple[str, ...] | None]:
    """Preprocessing and labels from the files that lie beside an ONNX file, where there are any."""
    folder = path.parent
    if (folder / "manifest.json").is_file():
        from runtime.manifest import load_manifest

        manifest = load_manifest(folder)
        check_listed(str(path), path, manifest)
        return manifest.preprocessing, manifest.labels
    if not (folder / "preprocessor_config.json").is_file():
        return None, None
    from compress.data import preprocessing_from_hf

    return preprocessing_from_hf(folder), _config_labels(folder)


def _bundle(name: str, path: Path) -> Side:
    from compress.data import seen
    from runtime.classify import check_task
    from runtime.session import open_bundle

    session = open_bundle(path)
    check_task(session.bundle)
    manifest = session.manifest
    image, output = manifest.inputs[0], manifest.outputs[0].name
    record = session.bundle.root / seen.NAME
    batch = image.shape[0]
    return Side(
        name,
        "bundle",
        lambda pixels: session.run({image.name: pixels})[output],
        bytes=_size(session.bundle.root / session.model.path),
        runs_on=session.describe(),
        preprocessing=manifest.preprocessing,
        labels=manifest.labels,
        fixed_batch=batch if isinstance(batch, int) else None,
        max_batch=session.max_batch,
        seen=seen.read(record) if record.is_file() else None,
        golden=golden_check(session),
    )


def golden_check(session: Session) -> Callable[[], list[GoldenResult]] | None:
    """Holds a bundle to its golden samples; None for one that brings none."""
    from runtime.golden import check_golden, load_golden
    from runtime.manifest import GOLDEN

    if GOLDEN not in session.manifest.files:
        return None
    return lambda: check_golden(session.run, load_golden(session.bundle), session.max_batch)


def check_listed(name: str, path: Path, manifest: Manifest) -> None:
    """Raises InputError for an ONNX file that is not the one which the manifest beside it lists."""
    from runtime.files import sha256_of

    listed = manifest.files.get(path.name)
    if listed is not None and sha256_of(path) != listed.sha256:
        raise InputError(
            f"{name} is not the file that the manifest.json beside it lists (its SHA-256 differs); "
            "make the bundle again, or judge the file in a folder of its own"
        )


def _compressed(name: str, path: Path) -> Side:
    from compress import model as models

    model = models.load(path)
    return _torch_side(name, path, "compressed model", model, model.structure)


def _hugging_face(name: str, path: Path) -> Side:
    """With the original library where it knows the architecture, so that the reference owes nothing to edgepress."""
    from compress.data import preprocessing_from_hf

    preprocessing = preprocessing_from_hf(path)
    from transformers import CONFIG_MAPPING

    from compress.families import read_checkpoint

    if json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type") not in CONFIG_MAPPING:
        model = read_checkpoint(path, preprocessing)
        return _torch_side(name, path, "model folder", model, model.structure)

    import torch
    from transformers import AutoModelForImageClassification
    from transformers.utils import logging

    quiet: Any = logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    try:
        original = AutoModelForImageClassification.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{name} cannot be read as an image classifier: {first}") from error
    original.eval()

    def forward(pixels: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            return np.asarray(original(pixel_values=torch.from_numpy(pixels)).logits.numpy())

    return Side(
        name,
        "Hugging Face model",
        forward,
        bytes=weights_size(path),
        runs_on=f"transformers, torch {torch.__version__}",
        preprocessing=preprocessing,
        labels=_config_labels(path),
        parameters=sum(parameter.numel() for parameter in original.parameters()),
        canonical=lambda: read_checkpoint(path, preprocessing),
    )


def _torch_side(name: str, path: Path, kind: str, model: Any, structure: Any) -> Side:
    import torch

    def forward(pixels: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            return np.asarray(model({"pixel_values": torch.from_numpy(pixels)}).numpy())

    return Side(
        name,
        kind,
        forward,
        bytes=weights_size(path),
        runs_on=f"torch {torch.__version__}",
        preprocessing=dict(structure.preprocessing),
        labels=tuple(structure.labels),
        parameters=model.num_parameters(),
        canonical=lambda: model,
    )


def _config_labels(folder: Path) -> tuple[str, ...] | None:
    path = folder / "config.json"
    names = json.loads(path.read_text(encoding="utf-8")).get("id2label") if path.is_file() else None
    return tuple(names[str(k)] for k in range(len(names))) if names else None


def weights_size(folder: Path) -> int:
    """Bytes of a model folder's weights."""
    return sum(_size(path) for path in folder.glob("*.safetensors")) or sum(_size(p) for p in folder.glob("*.bin"))


def _size(path: Path) -> int:
    return path.stat().st_size
