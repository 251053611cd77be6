"""Text regression: one number per text or pair of texts, as cross-encoders that rank passages give it.

Judged by its rank correlation with people's scores; the mean absolute difference from the original's is reported
beside it. Where several pairs begin with the same text, which then is a query, so is the order of its passages.

S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compress.tasks.numbers import NumberTask
from compress.tasks.pairs import PairTask
from compress.tasks.task import AnyPart, Prepared, Tell
from compress.tasks.text import BATCH, rows_of
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from compress.data import TextDataset
    from compress.data.texts.rows import Row
    from compress.tasks.task import Run
    from compress.verification.kinds.scores import TextScores


class TextRegression(NumberTask, PairTask):
    """Numbers of texts and of pairs of texts."""

    name = "text-regression"
    architectures = ("ForSequenceClassification",)
    auto_class = "AutoModelForSequenceClassification"

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        dataset.check()
        if part == "healing":
            return replace(dataset, class_names=(), numbers={})
        return dataset.with_numbers()

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> TextScores:
        import numpy as np

        from compress.data.prepared_texts import PreparedTexts
        from compress.verification.kinds.ranking import RankedScores
        from compress.verification.kinds.scores import TextScores

        assert isinstance(data, PreparedTexts)

        def seen(indices: list[int], rows: np.ndarray, done: int) -> None:
            tell(done)

        rows = rows_of(run, data.ids, data.spec, self.outputs[0], batch or BATCH, seen)
        if rows.shape[1] != 1:
            raise InputError(f"the model gives {rows.shape[1]} numbers for a text; {self.name} needs one")
        gold_S = np.array([row.score for row in data.dataset.rows], np.float64)
        scores_S, queries_S = rows[:, 0].astype(np.float64), _queries(data.dataset.rows)
        several = len(np.unique(queries_S)) < len(queries_S)
        return RankedScores(scores_S, gold_S, queries_S) if several else TextScores(scores_S, gold_S)


def _queries(rows: Sequence[Row]) -> np.ndarray:
    """The number int64 [S] of the text that each pair begins with; a text alone has a number too."""
    import numpy as np

    numbers: dict[object, int] = {}
    keys = [row.texts[0] if len(row.texts) > 1 else (place,) for place, row in enumerate(rows)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


TASK = TextRegression()
