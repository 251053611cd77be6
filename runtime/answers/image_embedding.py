"""Images in, vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.embedding import VECTOR, vector_line
from runtime.answers.image_classification import ImageLabels, check_takes_images, rows_of
from targets.errors import EdgepressError

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
        return rows_of(session, inputs, lambda vector: {VECTOR: [float(number) for number in vector]})

    def line(self, result: Result) -> str:
        return vector_line(result)


def open_answerer(bundle: Bundle, ids: bool) -> ImageVectors:
    """Raises InputError unless the bundle takes images."""
    check_takes_images(bundle, ids)
    return ImageVectors()
