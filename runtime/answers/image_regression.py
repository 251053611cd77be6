"""Images in, one number each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.image_classification import ImageLabels, prepared
from targets.errors import EdgepressError, InputError

if TYPE_CHECKING:
    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.images.frame import Frame
    from runtime.session import Session
    from runtime.watch import Result


@dataclass(frozen=True)
class ImageScore(ImageLabels):
    """Numbers of image files."""

    options: ClassVar[tuple[str, ...]] = ()

    def answer(self, session: Session, inputs: Sequence[str | Frame], wanted: Wanted) -> list[Result | EdgepressError]:
        """The number of each image."""
        import numpy as np

        pixels, answers = prepared(session, inputs)
        if pixels:
            manifest = session.manifest
            output = session.run({manifest.inputs[0].name: np.stack(list(pixels.values()))})
            for at, row in zip(pixels, output[manifest.outputs[0].name], strict=True):
                if row.shape != (1,):
                    fault = f"{session.bundle.source} gives {list(row.shape)} numbers, not one; make it again"
                    raise InputError(fault)
                answers[at] = {"score": float(row[0])}
        return [answers[at] for at in range(len(inputs))]

    def line(self, result: Result) -> str:
        """'INPUT: 0.8312'."""
        return f"{result['input']}: {result['score']:.4f}"


def open_answerer(bundle: Bundle, ids: bool) -> ImageScore:
    """Raises InputError unless the bundle takes images."""
    if ids:
        raise InputError(f"--ids is for texts, {bundle.source} takes images")
    if bundle.manifest.preprocessing is None:
        raise InputError(f"{bundle.source} does not say how an image becomes its input; make the bundle again")
    return ImageScore()
