"""Texts as the sides of a comparison see them, each through its own tokenizer.

S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.judging.questions import BLOCK_BATCH, Advance, Part, Questions, nothing
from compress.judging.text_sides import TextSide, check_outputs, open_text_side
from compress.tasks.task import DataChoice
from compress.tasks.text import TextTask
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.data.prepared_texts import PreparedTexts
    from compress.judging.text_sides import Run
    from compress.verification.samples import Samples


class TextQuestions(Questions):
    """Texts, or pairs of texts, as the task of the sides needs them."""

    noun = "texts"

    def __init__(self, reference: str, candidate: str, data: str, part: Part) -> None:
        self._choice, self._part = DataChoice(data, None, False, 0), part
        self._prepared: dict[str, PreparedTexts] = {}
        super().__init__(reference, candidate)
        models = [side for side in self.sides if isinstance(side, TextSide)]
        self._whole = next((side for side in models if side.task is not None and side.files is not None), None)
        if self._whole is None:
            raise InputError(f"{models[0].name} has no tokenizer; put its tokenizer.json and config.json beside it")

    @cached_property
    def _texts(self) -> PreparedTexts:
        """As the first side that brings a tokenizer sees them."""
        assert self._whole is not None
        return self._of(self._whole)

    def _of(self, side: TextSide) -> PreparedTexts:
        if side.name not in self._prepared:
            task, described, files = _known(side)
            # Not the task's own `open`: which states a graph has is the graph's business.
            self._prepared[side.name] = TextTask.open(task, self._choice, self._part, described, files)  # type: ignore[arg-type]
        return self._prepared[side.name]

    def __len__(self) -> int:
        return len(self._texts)

    def open(self, spec: str) -> TextSide:
        return open_text_side(spec)

    def answers(self, side: Any, advance: Advance = nothing, indices: NDArray[np.int64] | None = None) -> Samples:
        whole = self._completed(side)
        texts = self._of(whole)
        if len(texts) != len(self):
            raise InputError(
                f"{side.name} can be asked {len(texts)} texts of {texts.location}, the other side {len(self)}: "
                "their tokenizers differ, so they cannot be compared text by text"
            )
        return _ask(whole, texts if indices is None else texts.subset(indices.tolist()), advance)

    def fresh_answers(self, side: Any, indices: NDArray[np.int64]) -> Samples:
        """The second halves of the texts, which read like them and are in no data set."""
        from compress.data.prepared_texts import prepare_texts

        whole = self._completed(side)
        _, described, files = _known(whole)
        data = self._of(whole).dataset.subset(indices.tolist())
        rows = tuple(replace(row, texts=tuple(map(_second_half, row.texts))) for row in data.rows)
        return _ask(whole, prepare_texts(replace(data, rows=rows), described.preprocessing, files), nothing)

    def _completed(self, side: TextSide) -> TextSide:
        assert self._whole is not None
        return side.completed(self._whole)

    def fingerprints(self) -> list[tuple[int, ...]]:
        return self._texts.fingerprints()

    @property
    def task(self) -> TextTask:
        assert self._whole is not None and self._whole.task is not None
        return self._whole.task

    @property
    def notes(self) -> tuple[str, ...]:
        prepared = [self._texts, *self._prepared.values()]
        return tuple(dict.fromkeys(note for texts in prepared for note in texts.notes))

    @property
    def names(self) -> Sequence[str]:
        return self._texts.dataset.names

    def shown(self, indices: Sequence[int]) -> dict[str, dict[int, str]]:
        return self.task.shown(self._texts, indices)

    def slices(self) -> dict[str, NDArray[np.bool_]]:
        return self.task.slices(self._texts)

    def inputs(self, side: Any, indices: NDArray[np.int64]) -> Iterator[dict[str, NDArray[Any]]]:
        return self._of(self._completed(side)).batches(BLOCK_BATCH, indices.tolist())


def _second_half(text: str) -> str:
    words = text.split()
    return " ".join(words[len(words) // 2 :]) if len(words) > 3 else text


def _known(side: TextSide) -> Any:
    assert side.task is not None and side.described is not None and side.files is not None
    return side.task, side.described, side.files


def _ask(side: TextSide, texts: PreparedTexts, advance: Advance) -> Samples:
    task, described, _ = _known(side)
    before = 0

    def tell(done: int, **numbers: float) -> None:
        nonlocal before
        advance(done - before)
        before = done

    return task.answers(_checked(side, task), texts, described, tell)


def _checked(side: TextSide, task: TextTask) -> Run:
    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = side.run(inputs)
        check_outputs(side.name, outputs, task)
        return outputs

    return run
