"""Logits to labels with probabilities, and images to logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.images.frame import Frame
from runtime.images.image import prepare
from runtime.images.reading import read_image
from runtime.session import Session
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Guess:
    """One class for one image, recording or text."""

    index: int
    label: str
    probability: float


def prepare_one(session: Session, given: str | Frame) -> np.ndarray:
    """One image, a file's path or a frame, as the model's input, float32 [C, H, W]. Raises InputError that names it."""
    section = session.manifest.preprocessing
    assert section is not None
    preprocessing = section["image"] if section.get("kind") == "zero-shot" else section
    assert isinstance(preprocessing, dict)
    frame = given if isinstance(given, Frame) else Frame(given, read_image(given))
    try:
        return prepare([frame.pixels], preprocessing, frame.colours)[0]
    except InputError as error:
        raise InputError(f"{frame.name}: {error}") from error


def classify(session: Session, inputs: Sequence[np.ndarray], top: int) -> list[list[Guess]]:
    """The `top` most probable classes of each prepared input (of an image float32 [C, H, W]), best first. Runs them as
    one batch.

    Raises InputError if one does not fit, GateFailed if the model's output is not finite.
    """
    import numpy as np

    manifest = session.manifest
    output = session.run({manifest.inputs[0].name: np.stack(inputs)})
    return best_classes(session, output[manifest.outputs[0].name], top)


def best_classes(session: Session, logits_BK: np.ndarray, top: int) -> list[list[Guess]]:
    """The `top` most probable classes of each row, best first. Raises InputError if the labels do not fit."""
    manifest = session.manifest
    probabilities_BK = softmax(logits_BK)
    labels = manifest.labels or tuple(map(str, range(probabilities_BK.shape[1])))
    if len(labels) != probabilities_BK.shape[1]:
        raise InputError(
            f"{session.bundle.source}: {len(labels)} labels, {probabilities_BK.shape[1]} classes; make the bundle again"
        )
    order_BK = (-probabilities_BK).argsort(axis=1, kind="stable")[:, :top]
    return [
        [Guess(int(index), labels[index], float(row[index])) for index in best]
        for row, best in zip(probabilities_BK, order_BK, strict=True)
    ]


def softmax(logits_BK: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, in float64."""
    import numpy as np

    powers = np.exp(logits_BK.astype(np.float64) - logits_BK.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
