"""Texts in, vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.texts import TextInputs, text_inputs
from targets.errors import InputError

if TYPE_CHECKING:
    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.session import Session
    from runtime.texts.text import Tokenizer
    from runtime.watch import Result

#: What a result calls its vector.
VECTOR = "embedding"
#: Numbers of a vector that one line shows.
SHOWN = 6


@dataclass(frozen=True)
class TextVectors(TextInputs):
    """Embeddings of texts. Queries and passages may have prompts of their own."""

    options: ClassVar = ("prompt",)

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> list[Result | InputError]:
        """The vector of each text. Raises InputError for a prompt that the bundle does not have."""
        asked = self if wanted.prompt is None else replace(self, tokenizer=self._prompted(wanted.prompt))
        rows, faults = asked.ask(session, inputs)
        answers: dict[int, Result | InputError] = {**faults}
        for at, vector in rows.items():
            answers[at] = {VECTOR: [float(number) for number in vector]}
        return [answers[at] for at in range(len(inputs))]

    def line(self, result: Result) -> str:
        return vector_line(result)

    def _prompted(self, name: str) -> Tokenizer:
        if self.tokenizer is None:
            raise InputError(f"the prompt {name!r} goes before texts, not before token ids; leave out one of both")
        prompts = self.spec.prompts
        if name not in prompts:
            raise InputError(f"this model has no prompt {name!r}; it has {', '.join(map(repr, prompts)) or 'none'}")
        return self.tokenizer.prompted(prompts[name])


def vector_line(result: Result) -> str:
    """'INPUT: 0.0123 -0.0456 ... (384 numbers, --json shows all)'."""
    vector = result[VECTOR]
    assert isinstance(vector, list)
    start = " ".join(f"{number:.4f}" for number in vector[:SHOWN])
    more = f" ... ({len(vector)} numbers, --json shows all)" if len(vector) > SHOWN else ""
    return f"{result['input']}: {start}{more}"


def open_answerer(bundle: Bundle, ids: bool) -> TextVectors:
    """Raises InputError for a bundle that does not take texts, EnvironmentLacks without the `tokenizers` package."""
    return TextVectors(**vars(text_inputs(bundle, ids)))
