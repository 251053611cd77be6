"""Images in, maps of classes out."""

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

#: Classes of an image that one line shows.
SHOWN = 5


@dataclass(frozen=True)
class ImageMaps(ImageLabels):
    """The class of each pixel of image files, row by row, at the size of the model's maps: they cover the whole
    image."""

    options: ClassVar[tuple[str, ...]] = ()

    def answer(self, session: Session, inputs: Sequence[str | Frame], wanted: Wanted) -> list[Result | EdgepressError]:
        """The number of each pixel's class, and of the classes that occur the share of the pixels, largest first."""
        return rows_of(session, inputs, lambda logits: _told(session, logits))

    def line(self, result: Result) -> str:
        """'INPUT: 384 x 384, wall 41.2 %, floor 30.1 %'."""
        classes = result["classes"]
        assert isinstance(classes, list)
        shares = ", ".join(f"{one['label']} {100 * one['share']:.1f} %" for one in classes[:SHOWN])
        more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
        return f"{result['input']}: {result['height']} x {result['width']}, {shares}{more}"


def _told(session: Session, logits_CYX: np.ndarray) -> Result:
    import numpy as np

    manifest = session.manifest
    labels = manifest.labels or tuple(map(str, range(len(logits_CYX))))
    if logits_CYX.ndim != 3 or len(labels) != len(logits_CYX):
        fault = f"{session.bundle.source} gives maps of shape {list(logits_CYX.shape)} for {len(labels)} labels"
        raise InputError(f"{fault}; make the bundle again")
    map_YX = logits_CYX.argmax(axis=0)
    counts = np.bincount(map_YX.ravel(), minlength=len(labels))
    found = [int(place) for place in (-counts).argsort(kind="stable") if counts[place]]
    return {
        "height": map_YX.shape[0],
        "width": map_YX.shape[1],
        "classes": [
            {"index": place, "label": labels[place], "share": float(counts[place] / map_YX.size)} for place in found
        ],
        "map": map_YX.tolist(),
    }


def open_answerer(bundle: Bundle, ids: bool) -> ImageMaps:
    """Raises InputError unless the bundle takes images and gives maps of classes."""
    check_takes_images(bundle, ids)
    kind = (bundle.manifest.postprocessing or {}).get("kind")
    if kind != "argmax":
        raise InputError(f"{bundle.source}: postprocessing kind {kind!r}; allowed: argmax")
    return ImageMaps()
