"""Text regression: one number per text or pair of texts, as cross-encoders that rank passages give it.

Judged by its rank correlation with people's scores; the mean absolute difference from the original's is reported
beside it. B batch, K = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compress.tasks.pairs import PairTask
from compress.tasks.task import AnyPart, Prepared, Tell
from compress.tasks.text import BATCH, one_output, rows_of
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from compress.data import TextDataset
    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.scores import TextScores
    from compress.verification.samples import Samples


class TextRegression(PairTask):
    """Numbers of texts and of pairs of texts."""

    name = "text-regression"
    architectures = ("ForSequenceClassification",)
    head = "score"
    auto_class = "AutoModelForSequenceClassification"
    outputs = ("logits",)
    metric = "spearman"

    def claims(self, config: Mapping[str, object]) -> bool:
        return one_output(config) and config.get("problem_type") in (None, "regression")

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "none"}

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        dataset.check()
        if part == "healing":
            return replace(dataset, class_names=(), numbers={})
        return dataset.with_numbers()

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> TextScores:
        import numpy as np

        from compress.data.prepared_texts import PreparedTexts
        from compress.verification.kinds.scores import TextScores

        assert isinstance(data, PreparedTexts)

        def seen(indices: list[int], rows: np.ndarray, done: int) -> None:
            tell(done)

        rows = rows_of(run, data.ids, data.spec, self.outputs[0], batch or BATCH, seen)
        if rows.shape[1] != 1:
            raise InputError(f"the model gives {rows.shape[1]} numbers for a text; {self.name} needs one")
        gold = np.array([row.score for row in data.dataset.rows], np.float64)
        return TextScores(rows[:, 0].astype(np.float64), gold)

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        return f"Spearman x 100 of {len(answers)} texts: {METRICS[self.metric].value(answers):.2f}"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import NUMBERS

        return NUMBERS

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return 1 / (1 + (wanted_BK - given_BK).float().abs()[:, 0])

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"1 / (1 + difference from the original's number) is {agreement:.4f} on {count} held-out"


TASK = TextRegression()
