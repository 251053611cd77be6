"""Texts, or pairs of texts, in; the most probable classes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.image_classification import label_line
from runtime.answers.texts import PairInputs, text_inputs

if TYPE_CHECKING:
    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.session import Session
    from runtime.watch import Result
    from targets.errors import InputError


@dataclass(frozen=True)
class TextLabels(PairInputs):
    """Labels of texts."""

    options: ClassVar = ("top",)

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> list[Result | InputError]:
        """The result of each text."""
        import numpy as np

        from runtime.images.classify import best_classes

        rows, faults = self.ask(session, inputs)
        guesses = best_classes(session, np.stack(list(rows.values())), wanted.top) if rows else []
        answers: dict[int, Result | InputError] = {**faults}
        for at, best in zip(rows, guesses, strict=True):
            answers[at] = {"top": [vars(guess) for guess in best]}
        return [answers[at] for at in range(len(inputs))]

    def line(self, result: Result) -> str:
        """'TEXT: positive 0.9012'."""
        return label_line(result)


def open_answerer(bundle: Bundle, ids: bool) -> TextLabels:
    """Raises InputError for a bundle that does not take texts, EnvironmentLacks without the `tokenizers` package."""
    return TextLabels(**vars(text_inputs(bundle, ids)))
