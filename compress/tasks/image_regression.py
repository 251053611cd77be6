"""Image regression: one number per image (quality, age, a detector with one output).

Judged by its rank correlation with the numbers that the classes of the data stand for; the mean absolute difference
from the original's is reported beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.tasks.files import BATCH, rows_of_files
from compress.tasks.images import ImageTask, PreparedImages
from compress.tasks.numbers import NumberTask
from compress.tasks.task import AnyPart, DataChoice, Prepared, Tell
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from compress.tasks.task import Arrays, Run
    from compress.verification.kinds.scores import TextScores


class ImageRegression(NumberTask, ImageTask):
    """Numbers of images. Evaluation needs images by class; a class stands for the number that it is called by."""

    name = "image-regression"
    architectures = ("ForImageClassification",)
    problem_type = "regression"
    auto_class = "AutoModelForImageClassification"
    graph = "image regression (one input of 4 dimensions, numbers of 2)"

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedImages:
        dataset = self.load(choice, part)
        notes = dataset.notes
        if part != "healing" and _numbers(dataset.class_names) is None:
            names = ", ".join(dataset.class_names[:3])
            notes += (f"the classes are not numbers ({names}): they count 0, 1, 2 ... in the order of their names",)
        return PreparedImages(dataset, preprocessing, notes=notes)

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> TextScores:
        import numpy as np

        from compress.verification.kinds.scores import TextScores

        assert isinstance(data, PreparedImages)

        def numbers(outputs: Arrays, count: int) -> np.ndarray:
            rows = np.asarray(outputs[self.outputs[0]], np.float64)
            if rows.shape != (count, 1):
                raise InputError(f"the model gives outputs of shape {list(rows.shape)}; {self.name} needs one a sample")
            return rows[:, 0]

        return TextScores(rows_of_files(run, data, batch or BATCH, tell, numbers), _gold(data))


def _numbers(names: Sequence[str]) -> list[float] | None:
    """What the names of the classes say as numbers; None where one of them is none."""
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _gold(data: PreparedImages) -> np.ndarray:
    """float64 [S]: the number of each image."""
    import numpy as np

    names = data.dataset.class_names
    numbers = _numbers(names) or [float(place) for place in range(len(names))]
    return np.asarray(numbers, np.float64)[data.dataset.labels]


TASK = ImageRegression()
