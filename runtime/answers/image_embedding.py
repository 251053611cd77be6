"""Images in, vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.embedding import VECTOR, vector_line
from runtime.answers.image_classification import ImageLabels, prepared
from targets.errors import EdgepressError, InputError

if TYPE_CHECKING:
    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.images.frame import Frame
    from runtime.session import Session
    from runtime.watch import Result


@dataclass(frozen=True)
class ImageVectors(ImageLabels):
    """Embeddings of image files."""

    options: ClassVar[tuple[str, ...]] = ()

    def answer(self, session: Session, inputs: Sequence[str | Frame], wanted: Wanted) -> list[Result | EdgepressError]:
        """The vector of each image."""
        import numpy as np

        pixels, answers = prepared(session, inputs)
        if pixels:
            manifest = session.manifest
            output = session.run({manifest.inputs[0].name: np.stack(list(pixels.values()))})
            for at, vector in zip(pixels, output[manifest.outputs[0].name], strict=True):
                answers[at] = {VECTOR: [float(number) for number in vector]}
        return [answers[at] for at in range(len(inputs))]

    def line(self, result: Result) -> str:
        return vector_line(result)


def open_answerer(bundle: Bundle, ids: bool) -> ImageVectors:
    """Raises InputError unless the bundle takes images."""
    if ids:
        raise InputError(f"--ids is for texts, {bundle.source} takes images")
    if bundle.manifest.preprocessing is None:
        raise InputError(f"{bundle.source} does not say how an image becomes its input; make the bundle again")
    return ImageVectors()
