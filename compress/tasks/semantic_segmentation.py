"""Semantic segmentation: the class of each pixel, judged by the mean intersection over union.

B batch, C classes, Y and X height and width of the model's maps, P pixels.
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
    from torch import Tensor

    from compress.data import ImageDataset
    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.pixels import PixelClasses
    from compress.verification.samples import Samples

OUTPUT = "logits"
#: Rows and columns of a map that are judged at most, evenly spread: neighbouring pixels tell the same.
_JUDGED = 64
_UNMARKED = (
    "the data have no masks: judged is whether pixels have the class that the original gives them, not the true one; "
    "give images/ beside masks/ for that"
)


class SemanticSegmentation(ImageTask):
    """Classes of pixels by masks. Images without masks will do: then the original's own classes are wanted."""

    name = "semantic-segmentation"
    architectures = ("ForSemanticSegmentation",)
    head = "pixel-classes"
    auto_class = "AutoModelForSemanticSegmentation"
    outputs = (OUTPUT,)
    dims = 4
    graph = "semantic segmentation (one input of 4 dimensions, logits of 4)"
    metric = "miou"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "argmax"}

    def load(self, choice: DataChoice, part: AnyPart) -> ImageDataset:
        return images_of(choice, part, masks=True)

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedImages:
        dataset = self.load(choice, part)
        bare = part != "healing" and len(dataset) and dataset.mask(0) is None
        notes = (*dataset.notes, _UNMARKED) if bare else dataset.notes
        return PreparedImages(dataset, preprocessing, None if labels is None else tuple(labels), notes)

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> PixelClasses:
        from compress.verification.kinds.pixels import PixelClasses

        assert isinstance(data, PreparedImages)
        size, labels, shape = batch or at_once(data.preprocessing), data.labels, list[tuple[int, int]]()

        def judged(outputs: Mapping[str, np.ndarray], count: int) -> np.ndarray:
            logits_BCYX = _checked(outputs[OUTPUT], count, labels)
            shape.append(logits_BCYX.shape[2:])
            rows, columns = map(_spread, shape[-1])
            return logits_BCYX[:, :, rows[:, None], columns].argmax(axis=1).reshape(count, -1)

        found = rows_of_files(run, data, size, tell, judged)
        return PixelClasses(found, _truth(data, shape[0], found.shape), None if labels is None else list(labels))

    def headline(self, answers: Samples) -> str:
        from compress.verification.kinds.pixels import PixelClasses

        assert isinstance(answers, PixelClasses)
        if answers.fault() is not None:
            return f"{len(set(answers.found.ravel().tolist()))} classes in {len(answers)} images"
        return f"mIoU of {len(answers)} images: {answers.metrics[0].value(answers):.2f} %"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import PIXELS

        return PIXELS

    def agreement(self, wanted_BCYX: Tensor, given_BCYX: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return (wanted_BCYX.argmax(dim=1) == given_BCYX.argmax(dim=1)).float().mean(dim=(1, 2))

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"the same class as the original for {100 * agreement:.1f} % of the pixels of {count} held-out"


def _spread(size: int) -> np.ndarray:
    """The rows or columns that are judged."""
    import numpy as np

    return np.unique(np.linspace(0, size - 1, _JUDGED).astype(np.int64))


def _checked(logits_BCYX: np.ndarray, batch: int, labels: Sequence[str] | None) -> np.ndarray:
    """Raises InputError for outputs other than maps of these classes."""
    fits = logits_BCYX.ndim == 4 and len(logits_BCYX) == batch
    if not fits or (labels is not None and logits_BCYX.shape[1] != len(labels)):
        wanted = "classes" if labels is None else f"{len(labels)} classes"
        shape = list(logits_BCYX.shape)
        raise InputError(f"the model gives outputs of shape {shape}; maps [batch, {wanted}, height, width] are needed")
    return logits_BCYX


def _truth(data: PreparedImages, shape: tuple[int, int], judged: tuple[int, ...]) -> np.ndarray:
    """int64 [S, P]: what the masks say of the pixels that are judged, -1 where they say nothing that the model knows.

    Maps and masks cover the whole image, whatever its shape. Raises InputError for a damaged mask."""
    import numpy as np

    from compress.verification.kinds.pixels import UNMARKED

    wanted = np.full(judged, UNMARKED, np.int64)
    most = 255 if data.labels is None else len(data.labels)
    shares = [(_spread(size) + 0.5) / size for size in shape]
    for place in range(len(data)):
        mask_HW = data.dataset.mask(place)
        if mask_HW is None:
            return wanted
        rows, columns = ((share * size).astype(np.int64) for share, size in zip(shares, mask_HW.shape, strict=True))
        wanted[place] = mask_HW[rows[:, None], columns].ravel()
    wanted[(wanted < 0) | (wanted >= most)] = UNMARKED
    return wanted


TASK = SemanticSegmentation()
