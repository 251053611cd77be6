"""A question and a text in, the parts of the text that answer it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.texts import TextInputs, inputs_for, text_inputs
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.session import Session
    from runtime.texts.spans import Window
    from runtime.watch import Result

#: Windows that go through the model at once: a long text has many.
AT_ONCE = 16


@dataclass(frozen=True)
class TextSpans(TextInputs):
    """Answers to questions; a tab stands between a question and its text."""

    options: ClassVar = ("top",)

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> list[Result | InputError]:
        """Of each question the likeliest parts of its text, best first, and how likely it is that none answers it."""
        answers: list[Result | InputError] = []
        for given in inputs:
            try:
                answers.append(self._answered(session, given, wanted.top))
            except InputError as error:
                answers.append(error)
        return answers

    def line(self, result: Result) -> str:
        """'QUESTION\\tTEXT: a part of the text 0.9231'."""
        answers = result["answers"]
        assert isinstance(answers, list)
        return f"{result['input']}: " + ", ".join(f"{one['text']} {one['probability']:.4f}" for one in answers)

    def _answered(self, session: Session, given: str, top: int) -> Result:
        from runtime.texts.spans import best_spans, probabilities

        assert self.tokenizer is not None
        question, _, text = (part.strip() for part in given.partition("\t"))
        if not question or not text:
            raise InputError(f"{given[:80]!r} is not a question and a text with one tab between them; give both")
        windows = self.tokenizer.windows(question, text)
        spans, nothing = best_spans(windows, *self._logits(session, windows))
        if not spans:
            raise InputError(
                f"nothing in the text {text[:80]!r} can be an answer: it has no tokens, or no finite logits"
            )
        likely = probabilities([*(one.score for one in spans), nothing])
        found = [
            {"text": text[one.start : one.end], "start": one.start, "end": one.end, "probability": chance}
            for one, chance in zip(spans[:top], likely, strict=False)
        ]
        return {"answers": found, "no_answer": likely[-1]}

    def _logits(self, session: Session, windows: Sequence[Window]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Of each window the two rows of logits, without padding."""
        from runtime.texts.text import pad

        names = [tensor.name for tensor in session.manifest.outputs[:2]]
        rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for first in range(0, len(windows), AT_ONCE):
            ids = [one.ids for one in windows[first : first + AT_ONCE]]
            output = session.run(inputs_for(session, pad(ids, self.spec)))
            for side, name in zip(rows, names, strict=True):
                side += [self.spec.real(row, len(one)) for row, one in zip(output[name], ids, strict=True)]
        return rows


def open_answerer(bundle: Bundle, ids: bool) -> TextSpans:
    """Raises InputError for a bundle that does not take texts, EnvironmentLacks without the `tokenizers` package."""
    if ids:
        raise InputError("--ids gives no text to find an answer in; give a question and a text with a tab between them")
    if len(bundle.manifest.outputs) != 2:
        raise InputError(f"{bundle.source} does not give starts and ends of answers; make the bundle again")
    return TextSpans(**vars(text_inputs(bundle, ids)))
