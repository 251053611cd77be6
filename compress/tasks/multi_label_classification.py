"""Several labels at once: any number of labels per text (toxic comments, emotions), judged by micro F1.

S samples, B batch, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.tasks.task import AnyPart, DataChoice, Prepared, Tell
from compress.tasks.text import BATCH, TextTask, labels_by_config, rows_of
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from compress.data import TextDataset
    from compress.data.prepared_texts import PreparedTexts
    from compress.data.texts.rows import Row
    from compress.heal.objective import Feed, Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.labels import LabelSets
    from compress.verification.samples import Samples
    from runtime.bundles.manifest import Tensor as Declared

#: The probability above which a label is given; a logit of 0.
THRESHOLD = 0.5


class MultiLabelClassification(TextTask):
    """The labels of texts, none of which excludes another."""

    name = "multi-label-classification"
    architectures = ("ForSequenceClassification",)
    problem_type = "multi_label_classification"
    head = "classes"
    auto_class = "AutoModelForSequenceClassification"
    outputs = ("logits",)
    metric = "label_f1"
    recipes = "text/classifier"

    def claims(self, config: Mapping[str, object]) -> bool:
        return config.get("problem_type") == self.problem_type

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "sigmoid", "thresholds": [THRESHOLD] * len(structure.labels)}

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedTexts:
        prepared = super().open(choice, part, labels, preprocessing, files)
        if part != "healing":
            prepared.dataset.check_several()
        return prepared

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        pair = next((row.name for row in dataset.rows if len(row.texts) > 1), None)
        if pair is not None:
            raise InputError(
                f"{dataset.location}: {pair} is a pair of texts; several labels at once are of one text, in "
                "a column text"
            )
        return dataset

    def matched(self, dataset: TextDataset, labels: Sequence[str]) -> TextDataset:
        """The data with the model's labels, by their exact names or, in lists of numbers, by these. Texts that do not
        say theirs have None."""
        dataset.check()
        rows = tuple(replace(row, labels=_own(row, labels)) for row in dataset.rows)
        numbers = {str(number): name for number, name in enumerate(labels)}
        used = {label for row in rows for label in row.labels or ()}
        if not used <= set(labels) and used <= numbers.keys():
            rows = tuple(
                row if row.labels is None else replace(row, labels=tuple(numbers[one] for one in row.labels))
                for row in rows
            )
        for row in rows:
            _check(row, dataset, labels)
        return replace(dataset, rows=rows, class_names=tuple(labels), numbers={})

    def labels_beside(self, folder: Path, outputs: Sequence[Declared]) -> tuple[str, ...]:
        return labels_by_config(self, folder, outputs)

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> LabelSets:
        from compress.data.prepared_texts import PreparedTexts
        from compress.verification.kinds.labels import LabelSets

        assert isinstance(data, PreparedTexts)
        gold = _gold(data.dataset)
        logits = rows_of(run, data.ids, data.spec, self.outputs[0], batch or BATCH, lambda _, rows, done: tell(done))
        return LabelSets(logits, gold, list(data.dataset.class_names))

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        micro, macro = (METRICS[name].value(answers) for name in (self.metric, "label_f1_macro"))
        return f"micro F1 {micro:.2f} %, macro F1 {macro:.2f} % in {len(answers)} texts"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import Distance

        return Distance(_each_label, _label_loss)

    def feed(self, data: Prepared, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> Feed:
        from compress.data.prepared_texts import PreparedTexts
        from compress.heal.texts import TextFeed

        assert isinstance(data, PreparedTexts)
        known = all(row.labels is not None for row in data.dataset.rows)
        gold, count = _gold(data.dataset) if known else None, len(data.dataset.class_names)
        return TextFeed(data.ids, gold, count, data.spec, seed, device, rank, world, data.most)

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return ((wanted_BK > 0) == (given_BK > 0)).float().mean(dim=-1)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"same decision as the original on {100 * agreement:.1f} % of the labels of {count} held-out texts"


def _own(row: Row, labels: Sequence[str]) -> tuple[str, ...] | None:
    """The labels of a text by its own list or by the columns of the model's labels; None where neither says them."""
    if row.labels is not None:
        return row.labels
    marks = dict(row.marks)
    known = [name for name in labels if name in marks]
    if len(known) < len(labels) or not known:
        return None
    return tuple(name for name in known if marks[name])


def _check(row: Row, dataset: TextDataset, labels: Sequence[str]) -> None:
    """Raises InputError for labels that are not the model's, or twice the same."""
    own = row.labels or ()
    strange = next((one for one in own if one not in labels), None)
    if strange is not None:
        from compress.data.classes import listed, shortened

        raise InputError(
            f"{dataset.location}: {row.name} has the label {shortened(strange)!r}, which is none of the model's: "
            f"{listed(labels)}; name the labels as the model does"
        )
    if len(set(own)) < len(own):
        raise InputError(f"{dataset.location}: {row.name} has a label twice; list the names or numbers of its labels")


def _gold(dataset: TextDataset) -> np.ndarray:
    """int64 [S, K] of 0 and 1. Raises InputError where a text does not say its labels."""
    import numpy as np

    dataset.check_several()
    rows = [[int(name in (row.labels or ())) for name in dataset.class_names] for row in dataset.rows]
    return np.array(rows, np.int64).reshape(len(rows), len(dataset.class_names))


def _each_label(answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Binary KL from the original's labels, their sum, mean over the batch."""
    from compress.heal.objective import binary_kl

    return binary_kl(answer_BK, target_BK, temperature)


def _label_loss(answer_BK: Tensor, inputs: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
    from compress.heal.objective import binary_cross_entropy, given

    return binary_cross_entropy(answer_BK.float(), given(labels))


TASK = MultiLabelClassification()
