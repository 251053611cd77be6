"""Object detection: boxes around what is in an image, judged by mean average precision.

B batch, Q boxes, C classes, K = C + 1 + 4: the scores of a box, that of there being none, and where it lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.tasks.files import rows_of_files
from compress.tasks.images import ImageTask, PreparedImages, at_once, images_of
from compress.tasks.task import AnyPart, DataChoice, Prepared, Tell
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from compress.data import ImageDataset
    from compress.heal.objective import Objective
    from compress.model import Structure, Transformer
    from compress.tasks.task import Arrays, Run
    from compress.verification.kinds.boxes import FoundBoxes
    from compress.verification.samples import Samples

SCORES, PLACES = "logits", "pred_boxes"
_UNPLACED = (
    "the data have no boxes, only a class for each image: judged is whether a box of that class is found, not where it "
    "lies; give a COCO json for that"
)


class ObjectDetection(ImageTask):
    """Boxes of a COCO file. Images by class will do: then a box of an image's class is right wherever it lies."""

    name = "object-detection"
    architectures = ("ForObjectDetection",)
    head = "boxes"
    auto_class = "AutoModelForObjectDetection"
    outputs = (SCORES, PLACES)
    dims = 3
    graph = "object detector (one input of 4 dimensions, logits and pred_boxes of 3)"
    metric = "map"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        from compress.verification.kinds.boxes import CLAIMED

        return {"kind": "boxes", "threshold": CLAIMED}

    def load(self, choice: DataChoice, part: AnyPart) -> ImageDataset:
        return images_of(choice, part, boxes=True)

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedImages:
        dataset = self.load(choice, part)
        if part != "healing" and labels is not None:
            dataset = dataset.for_some_of(labels)
        notes = dataset.notes if dataset.boxes is not None or part == "healing" else (*dataset.notes, _UNPLACED)
        return PreparedImages(dataset, preprocessing, None if labels is None else tuple(labels), notes)

    def module(self, model: Transformer) -> nn.Module:
        from compress.model.forms.outputs import AllOutputs

        return AllOutputs(model)

    def answer(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        import numpy as np

        return np.concatenate([outputs[name] for name in self.outputs], axis=-1)

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> FoundBoxes:
        from compress.verification.kinds.boxes import FoundBoxes

        assert isinstance(data, PreparedImages)
        size, labels = batch or at_once(data.preprocessing), data.labels
        found = rows_of_files(run, data, size, tell, lambda outputs, count: _found(outputs, count, labels))
        names = None if data.labels is None else list(data.labels)
        gold, placed = _truth(data)
        return FoundBoxes(found, gold, placed, names)

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        precision, half = (METRICS[name].value(answers) for name in (self.metric, "map50"))
        return f"mAP of {len(answers)} images: {precision:.2f} %, at an overlap of 0.5 {half:.2f} %"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import BOXES

        return BOXES

    def agreement(self, wanted_BQK: Tensor, given_BQK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        same_BQ = wanted_BQK[..., :-4].argmax(-1) == given_BQK[..., :-4].argmax(-1)
        return same_BQ.float().mean(dim=1)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"the same class as the original for {100 * agreement:.1f} % of the boxes of {count} held-out"


def _found(outputs: Arrays, batch: int, labels: Sequence[str] | None) -> np.ndarray:
    """float32 [B, Q, 6]: the most probable class of each box, its probability, and the box."""
    import numpy as np

    from runtime.images.classify import softmax

    scores_BQC, boxes_BQ4 = (np.asarray(outputs[name], np.float32) for name in (SCORES, PLACES))
    classes = scores_BQC.shape[-1] - 1
    fits = scores_BQC.ndim == 3 and boxes_BQ4.shape == (*scores_BQC.shape[:2], 4) and len(scores_BQC) == batch
    if not fits or classes < 1 or (labels is not None and len(labels) != classes):
        shapes = f"{list(scores_BQC.shape)} and {list(boxes_BQ4.shape)}"
        wanted = "classes + 1" if labels is None else f"{len(labels)} classes + 1"
        raise InputError(f"the model gives {shapes}; logits [batch, boxes, {wanted}] and boxes of 4 are needed")
    probability_BQC = softmax(scores_BQC)[..., :-1]
    best_BQ = np.stack([probability_BQC.argmax(axis=-1), probability_BQC.max(axis=-1)], axis=-1)
    return np.concatenate([best_BQ.astype(np.float32), boxes_BQ4], axis=-1)


def _truth(data: PreparedImages) -> tuple[np.ndarray, np.ndarray]:
    """True boxes float32 [S, G, 5], -1 behind the last of an image, and whether it is known where they lie [S]."""
    import numpy as np

    dataset, boxes = data.dataset, data.dataset.boxes
    if boxes is None:
        whole = np.array([0.5, 0.5, 1.0, 1.0], np.float32)
        boxes = tuple(np.array([[label, *whole]], np.float32) for label in dataset.labels)
        placed = np.zeros(len(dataset), np.int64)
    else:
        placed = np.ones(len(dataset), np.int64)
    gold = np.zeros((len(dataset), max(map(len, boxes), default=0), 5), np.float32)
    gold[..., 0] = -1
    for row, own in zip(gold, boxes, strict=True):
        row[: len(own)] = own
    return gold, placed


TASK = ObjectDetection()
