"""What tasks of one label for a file share, judged by top-1 accuracy. B batch, K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compress.json_files import read_object
from compress.tasks.files import BATCH, FileTask, PreparedFiles, each_batch
from compress.tasks.task import AnyPart, DataChoice, Prepared, Tell
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.classes import Predictions
    from compress.verification.samples import Samples
    from runtime.bundles.manifest import Tensor as Declared


class ClassTask(FileTask):
    """The labels of files in folders of their classes."""

    head: ClassVar[Literal["classes", "scores"]] = "classes"
    can_exit_early = True
    outputs = ("logits",)
    metric = "top1"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "softmax"}

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedFiles:
        dataset = self.load(choice, part)
        if labels is None:
            return self.prepared(dataset, preprocessing, notes=dataset.notes)
        matched = dataset.for_labels(labels)
        return self.prepared(matched, preprocessing, tuple(labels), matched.notes)

    def labels_beside(self, folder: Path, outputs: Sequence[Declared]) -> tuple[str, ...] | None:
        from compress.families.family import labels_in

        path = folder / "config.json"
        config = read_object(path) if path.is_file() else {}
        names = config.get("id2label")
        return labels_in(config, folder, len(names) if isinstance(names, Mapping) else 2) if names else None

    def takes(self, inputs: Sequence[Declared]) -> bool:
        return any(len(tensor.shape) == self.input_dims for tensor in inputs)

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> Predictions:
        import numpy as np

        from compress.verification.kinds.classes import Predictions

        assert isinstance(data, PreparedFiles)
        labels, parts = data.dataset.labels, []
        correct = seen = 0
        for outputs, count in each_batch(run, data, batch or BATCH):
            logits = np.asarray(outputs[self.outputs[0]], np.float32)
            if logits.ndim != 2 or len(logits) != count:
                shape = list(logits.shape)
                raise InputError(f"the model gives outputs of shape {shape}; logits [batch, classes] are needed")
            parts.append(logits)
            correct += int((logits.argmax(axis=1) == labels[seen : seen + len(logits)]).sum())
            seen += len(logits)
            tell(seen, top1=correct / seen)
        return Predictions(np.concatenate(parts), labels, None if data.labels is None else list(data.labels))

    def headline(self, answers: Samples) -> str:
        from compress.verification.kinds.classes import Predictions, correct

        assert isinstance(answers, Predictions)
        right = int(correct(answers).sum())
        return f"{right} of {len(answers)} right ({100 * right / len(answers):.2f} %)"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import CLASSIFICATION

        return CLASSIFICATION

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return (wanted_BK.argmax(-1) == given_BK.argmax(-1)).float()

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"agrees with the original on {100 * agreement:.1f} % of {count} held-out"
