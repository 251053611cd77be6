"""Text classification: one label per text, judged by accuracy; macro F1 is reported beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.tasks.task import Part, Prepared, Tell
from compress.tasks.text import BATCH, TextTask
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from compress.data import TextDataset
    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.classes import Predictions
    from compress.verification.samples import Samples


class TextClassification(TextTask):
    """The labels of texts."""

    name = "text-classification"
    outputs = ("logits",)
    metric = "top1"
    recipes = "text/classifier"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "softmax"}

    def suited(self, dataset: TextDataset, part: Part) -> TextDataset:
        pair = next((row.name for row in dataset.rows if len(row.texts) > 1), None)
        if pair is not None:
            raise InputError(f"{dataset.location}: {pair} is a pair of texts; a classifier takes one, in a column text")
        if part == "evaluation":
            dataset.check_labels()
        return dataset

    def matched(self, dataset: TextDataset, structure: Structure) -> TextDataset:
        return dataset.for_labels(structure.labels) if dataset.class_names else dataset

    def answers(self, run: Run, data: Prepared, structure: Structure, tell: Tell) -> Predictions:
        import numpy as np

        from compress.data.prepared_texts import PreparedTexts, by_length
        from compress.verification.kinds.classes import Predictions
        from runtime.texts.text import pad

        assert isinstance(data, PreparedTexts)
        labels = data.dataset.labels
        logits = np.empty((len(data), len(structure.labels)), np.float32)
        correct = seen = 0
        for indices in by_length(data.ids, BATCH):
            answers = run(pad([data.ids[index] for index in indices], data.spec))["logits"]
            logits[indices] = answers
            correct += int((answers.argmax(axis=1) == labels[indices]).sum())
            seen += len(indices)
            tell(seen, top1=correct / seen)
        return Predictions(logits, labels, list(structure.labels))

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
