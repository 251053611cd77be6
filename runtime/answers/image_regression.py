"""Images in, one number each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.image_classification import ImageLabels, check_takes_images, rows_of
from targets.errors import EdgepressError, InputError

if TYPE_CHECKING:
    import numpy as np

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

        def score(row: np.ndarray) -> Result:
            if row.shape != (1,):
                fault = f"{session.bundle.source} gives {list(row.shape)} numbers, not one; make it again"
                raise InputError(fault)
            return {"score": float(row[0])}

        return rows_of(session, inputs, score)

    def line(self, result: Result) -> str:
        """'INPUT: 0.8312'."""
        return f"{result['input']}: {result['score']:.4f}"


def open_answerer(bundle: Bundle, ids: bool) -> ImageScore:
    """Raises InputError unless the bundle takes images."""
    check_takes_images(bundle, ids)
    return ImageScore()
