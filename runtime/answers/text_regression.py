"""Texts, or pairs of texts, in; one number each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.texts import PairInputs, text_inputs
from targets.errors import InputError

if TYPE_CHECKING:
    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.session import Session
    from runtime.watch import Result


@dataclass(frozen=True)
class TextScore(PairInputs):
    """Numbers of texts."""

    options: ClassVar = ()

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> list[Result | InputError]:
        """The number of each text."""
        rows, faults = self.ask(session, inputs)
        answers: dict[int, Result | InputError] = {**faults}
        for at, row in rows.items():
            if row.shape != (1,):
                raise InputError(f"{session.bundle.source} gives {list(row.shape)} numbers, not one; make it again")
            answers[at] = {"score": float(row[0])}
        return [answers[at] for at in range(len(inputs))]

    def line(self, result: Result) -> str:
        """'QUERY\\tPASSAGE: 8.6071'."""
        return f"{result['input']}: {result['score']:.4f}"


def open_answerer(bundle: Bundle, ids: bool) -> TextScore:
    """Raises InputError for a bundle that does not take texts, EnvironmentLacks without the `tokenizers` package."""
    return TextScore(**vars(text_inputs(bundle, ids)))
