"""Images in, maps of depth out."""

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
class ImageDepths(ImageLabels):
    """Depth of each pixel of image files, row by row, at the size of the model's maps: they cover the whole image."""

    options: ClassVar[tuple[str, ...]] = ()

    def answer(self, session: Session, inputs: Sequence[str | Frame], wanted: Wanted) -> list[Result | EdgepressError]:
        def told(depth: np.ndarray) -> Result:
            if depth.ndim != 2:
                fault = f"{session.bundle.source} gives maps of shape {list(depth.shape)}, not rows and columns"
                raise InputError(f"{fault}; make it again")
            return {
                "height": depth.shape[0],
                "width": depth.shape[1],
                "least": float(depth.min()),
                "most": float(depth.max()),
                "depth": [[float(number) for number in row] for row in depth],
            }

        return rows_of(session, inputs, told)

    def line(self, result: Result) -> str:
        """'INPUT: 518 x 518, depth from 0.0000 to 9.1250'."""
        size = f"{result['height']} x {result['width']}"
        return f"{result['input']}: {size}, depth from {result['least']:.4f} to {result['most']:.4f}"


def open_answerer(bundle: Bundle, ids: bool) -> ImageDepths:
    """Raises InputError unless the bundle takes images."""
    check_takes_images(bundle, ids)
    return ImageDepths()
