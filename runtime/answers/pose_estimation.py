"""Images of one person or thing in, the places of its keypoints out."""

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
class ImageKeypoints(ImageLabels):
    """The keypoints of image files: left and top as shares of the image's width and height, from 0 to 1."""

    options: ClassVar[tuple[str, ...]] = ()

    def answer(self, session: Session, inputs: Sequence[str | Frame], wanted: Wanted) -> list[Result | EdgepressError]:
        return rows_of(session, inputs, lambda maps: {"keypoints": _told(session, maps)})

    def line(self, result: Result) -> str:
        """'INPUT: nose 0.51 0.22 (0.94), left eye 0.53 0.20 (0.91)'."""
        keypoints = result["keypoints"]
        assert isinstance(keypoints, list)
        told = [f"{one['label']} {one['place'][0]:.2f} {one['place'][1]:.2f} ({one['score']:.2f})" for one in keypoints]
        return f"{result['input']}: {', '.join(told)}"


def _told(session: Session, maps_CYX: np.ndarray) -> list[dict[str, object]]:
    from runtime.images.keypoints import peaks

    names = session.manifest.labels or tuple(map(str, range(len(maps_CYX))))
    if maps_CYX.ndim != 3 or len(names) != len(maps_CYX):
        fault = f"{session.bundle.source} gives maps of shape {list(maps_CYX.shape)} for {len(names)} labels"
        raise InputError(f"{fault}; make the bundle again")
    (points,), (scores,) = peaks(maps_CYX[None])
    return [
        {"label": name, "place": [float(x), float(y)], "score": float(score)}
        for name, (x, y), score in zip(names, points, scores, strict=True)
    ]


def open_answerer(bundle: Bundle, ids: bool) -> ImageKeypoints:
    """Raises InputError unless the bundle takes images and gives maps of keypoints."""
    check_takes_images(bundle, ids)
    kind = (bundle.manifest.postprocessing or {}).get("kind")
    if kind != "peaks":
        raise InputError(f"{bundle.source}: postprocessing kind {kind!r}; allowed: peaks")
    return ImageKeypoints()
