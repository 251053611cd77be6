"""Text classification: one label per text, or per pair of texts (entailment, paraphrases), judged by accuracy; macro F1
is reported beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.tasks.pairs import PairTask
from compress.tasks.task import AnyPart, Prepared, Tell
from compress.tasks.text import BATCH, labels_by_config, rows_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from compress.data import TextDataset
    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.classes import Predictions
    from compress.verification.samples import Samples
    from runtime.bundles.manifest import Tensor as Declared


class TextClassification(PairTask):
    """The labels of texts and of pairs of texts."""

    name = "text-classification"
    architectures = ("ForSequenceClassification",)
    head = "classes"
    auto_class = "AutoModelForSequenceClassification"
    can_exit_early = True
    outputs = ("logits",)
    metric = "top1"
    recipes = "text/classifier"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "softmax"}

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        if part != "healing":
            dataset.check_labels()
        return dataset

    def matched(self, dataset: TextDataset, labels: Sequence[str]) -> TextDataset:
        return dataset.for_labels(labels) if dataset.class_names else dataset

    def labels_beside(self, folder: Path, outputs: Sequence[Declared]) -> tuple[str, ...]:
        return labels_by_config(self, folder, outputs)

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> Predictions:
        from compress.data.prepared_texts import PreparedTexts
        from compress.verification.kinds.classes import Predictions

        assert isinstance(data, PreparedTexts)
        labels, correct = data.dataset.labels, 0

        def seen(indices: list[int], logits: np.ndarray, done: int) -> None:
            nonlocal correct
            correct += int((logits.argmax(axis=1) == labels[indices]).sum())
            tell(done, top1=correct / done)

        logits = rows_of(run, data.ids, data.spec, self.outputs[0], batch or BATCH, seen)
        return Predictions(logits, labels, list(data.dataset.class_names))

    def headline(self, answers: Samples) -> str:
        from compress.verification.kinds.classes import Predictions, correct
        from compress.verification.metrics import METRICS

        assert isinstance(answers, Predictions)
        right = int(correct(answers).sum())
        share, f1 = 100 * right / len(answers), METRICS["f1_macro"].value(answers)
        return f"{right} of {len(answers)} right ({share:.2f} %), macro F1 {f1:.2f} %"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import CLASSIFICATION

        return CLASSIFICATION

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return (wanted_BK.argmax(-1) == given_BK.argmax(-1)).float()

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"agrees with the original on {100 * agreement:.1f} % of {count} held-out"


TASK = TextClassification()
