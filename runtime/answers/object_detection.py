"""Images in, boxes around what is in them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.image_classification import ImageLabels, check_takes_images, prepared
from targets.errors import EdgepressError, InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.images.frame import Frame
    from runtime.session import Session
    from runtime.watch import Result


@dataclass(frozen=True)
class ImageBoxes(ImageLabels):
    """Boxes in image files that are more probable than `threshold`, the most probable first. Left, top, right and
    bottom are shares of the image's width and height, from 0 to 1."""

    options: ClassVar[tuple[str, ...]] = ()
    labels: tuple[str, ...] = ()
    threshold: float = 0.5

    def answer(self, session: Session, inputs: Sequence[str | Frame], wanted: Wanted) -> list[Result | EdgepressError]:
        import numpy as np

        pixels, answers = prepared(session, inputs)
        if pixels:
            output = session.run({session.manifest.inputs[0].name: np.stack(list(pixels.values()))})
            for at, scores_QC, box_Q4 in zip(pixels, output["logits"], output["pred_boxes"], strict=True):
                answers[at] = {"boxes": self._boxes(session, scores_QC, box_Q4)}
        return [answers[at] for at in range(len(inputs))]

    def _boxes(self, session: Session, scores_QC: np.ndarray, box_Q4: np.ndarray) -> list[dict[str, object]]:
        """Raises InputError if the labels do not fit."""
        from runtime.images.classify import softmax

        probability_QC = softmax(scores_QC)[:, :-1]  # the last is that there is nothing
        names = self.labels or tuple(map(str, range(probability_QC.shape[1])))
        if len(names) != probability_QC.shape[1]:
            fault = f"{session.bundle.source}: {len(names)} labels, {probability_QC.shape[1]} classes"
            raise InputError(f"{fault}; make the bundle again")
        best_Q, order_Q = probability_QC.argmax(axis=1), (-probability_QC.max(axis=1)).argsort(kind="stable")
        return [
            {
                "label": names[best_Q[place]],
                "probability": float(probability_QC[place].max()),
                "box": _corners(*map(float, box_Q4[place])),
            }
            for place in order_Q
            if probability_QC[place].max() > self.threshold
        ]

    def line(self, result: Result) -> str:
        """'INPUT: cat 0.9012 at 0.10 0.20 0.50 0.75'."""
        boxes = result["boxes"]
        assert isinstance(boxes, list)
        told = [
            f"{one['label']} {one['probability']:.4f} at {' '.join(f'{side:.2f}' for side in one['box'])}"
            for one in boxes
        ]
        return f"{result['input']}: {', '.join(told) or 'nothing'}"


def _corners(x: float, y: float, width: float, height: float) -> list[float]:
    sides = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return [min(max(side, 0.0), 1.0) for side in sides]


def open_answerer(bundle: Bundle, ids: bool) -> ImageBoxes:
    """Raises InputError unless the bundle finds boxes in images."""
    check_takes_images(bundle, ids)
    section = bundle.manifest.postprocessing or {}
    threshold = section.get("threshold", 0.5)
    if section.get("kind") != "boxes":
        raise InputError(f"{bundle.source}: postprocessing kind {section.get('kind')!r}; allowed: boxes")
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InputError(f"{bundle.source}: postprocessing.threshold is {threshold!r}; allowed: 0 to 1")
    return ImageBoxes(labels=bundle.manifest.labels or (), threshold=float(threshold))
