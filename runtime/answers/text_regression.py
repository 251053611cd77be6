"""Texts, or pairs of texts, in; one number each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.texts import TextInputs, text_inputs
from runtime.texts.text import parse_ids
from targets.errors import InputError

if TYPE_CHECKING:
    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.session import Session
    from runtime.watch import Result


@dataclass(frozen=True)
class TextScore(TextInputs):
    """Numbers of texts; a tab stands between the two texts of a pair."""

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

    def ids_of(self, text: str) -> list[int]:
        """Token ids of a text, or of two with a tab between them. Raises InputError."""
        if self.tokenizer is None:
            return parse_ids(text)
        texts = [part.strip() for part in text.split("\t")]
        if len(texts) > 2 or not all(texts):
            raise InputError(f"{text!r} is neither a text nor two with one tab between them; give one of these")
        encoded = self.tokenizer.encode_pairs([texts])
        if not encoded.ids[0]:
            raise InputError(f"one of {text!r} has no tokens; give texts that are not empty")
        if encoded.cut:
            self.tell_cut()
        return encoded.ids[0]

    def line(self, result: Result) -> str:
        """'QUERY\\tPASSAGE: 8.6071'."""
        return f"{result['input']}: {result['score']:.4f}"


def open_answerer(bundle: Bundle, ids: bool) -> TextScore:
    """Raises InputError for a bundle that does not take texts, EnvironmentLacks without the `tokenizers` package."""
    return TextScore(**vars(text_inputs(bundle, ids)))
