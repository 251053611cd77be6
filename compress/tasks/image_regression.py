"""Image regression: one number per image (quality, age, a detector with one output).

Judged by its rank correlation with the numbers that the classes of the data stand for; the mean absolute difference
from the original's is reported beside it. B batch, K = 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.tasks.images import BATCH, ImageTask, PreparedImages, ahead, images_of, one_image
from compress.tasks.task import AnyPart, DataChoice, Prepared, Tell, Wires
from compress.tasks.text import one_output
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.scores import TextScores
    from compress.verification.samples import Samples
    from runtime.bundles.manifest import Tensor as Declared


class ImageRegression(ImageTask):
    """Numbers of images. Evaluation needs images by class; a class stands for the number that it is called by."""

    name = "image-regression"
    architectures = ("ForImageClassification",)
    problem_type = "regression"
    head = "score"
    auto_class = "AutoModelForImageClassification"
    outputs = ("logits",)
    metric = "spearman"

    def claims(self, config: Mapping[str, object]) -> bool:
        return one_output(config) and config.get("problem_type") in (None, "regression")

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "none"}

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedImages:
        dataset = images_of(choice, part)
        notes = dataset.notes
        if part != "healing" and _numbers(dataset.class_names) is None:
            names = ", ".join(dataset.class_names[:3])
            notes += (f"the classes are not numbers ({names}): they count 0, 1, 2 ... in the order of their names",)
        return PreparedImages(dataset, preprocessing, notes=notes)

    def takes(self, inputs: Sequence[Declared]) -> bool:
        """A bare graph on images is taken for a classifier."""
        return False

    def wires(self, name: str, inputs: Sequence[Declared], outputs: Sequence[Declared]) -> Wires:
        image, output = one_image(name, "image regression (one input of 4 dimensions, numbers of 2)", inputs, outputs)
        batch = image.shape[0]
        return Wires(
            lambda inputs: {image.name: inputs["pixel_values"].astype(image.dtype, copy=False)},
            lambda outputs: {"logits": outputs[output]},
            batch if isinstance(batch, int) else None,
        )

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> TextScores:
        import numpy as np

        from compress.verification.kinds.scores import TextScores

        assert isinstance(data, PreparedImages)
        parts, seen = [], 0
        for inputs in ahead(data.batches(batch or BATCH)):
            rows = np.asarray(run(inputs)[self.outputs[0]], np.float64)
            if rows.shape != (len(inputs["pixel_values"]), 1):
                raise InputError(f"the model gives outputs of shape {list(rows.shape)}; {self.name} needs one a sample")
            parts.append(rows[:, 0])
            seen += len(rows)
            tell(seen)
        return TextScores(np.concatenate(parts), _gold(data))

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        return f"Spearman x 100 of {len(answers)} images: {METRICS[self.metric].value(answers):.2f}"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import NUMBERS

        return NUMBERS

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return 1 / (1 + (wanted_BK - given_BK).float().abs()[:, 0])

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"1 / (1 + difference from the original's number) is {agreement:.4f} on {count} held-out"


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
