"""Texts in; of each token how likely it is that it was put in the place of another, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.texts import TextInputs, text_inputs
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.session import Session
    from runtime.watch import Result


@dataclass(frozen=True)
class ReplacedTokens(TextInputs):
    """Tokens of texts that do not seem to belong there."""

    options: ClassVar = ()

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> list[Result | InputError]:
        """The tokens of each text in their order, each with the probability that it was replaced."""
        rows, faults = self.ask(session, inputs)
        answers: dict[int, Result | InputError] = {**faults}
        for at, logits_N in rows.items():
            answers[at] = {"tokens": self._tokens(inputs[at], logits_N)}
        return [answers[at] for at in range(len(inputs))]

    def line(self, result: Result) -> str:
        """'TEXT: banana 0.9871' with the tokens that are more likely replaced than not."""
        tokens = result["tokens"]
        assert isinstance(tokens, list)
        found = [f"{one['text']} {one['probability']:.4f}" for one in tokens if one["probability"] > 0.5]
        return f"{result['input']}: {', '.join(found) or 'nothing replaced'}"

    def _tokens(self, text: str, logits_N: np.ndarray) -> list[dict[str, object]]:
        import numpy as np

        assert self.tokenizer is not None
        places = self.tokenizer.offsets([text])[0]
        own_N = self.spec.real(logits_N, len(places)).astype(np.float64)
        return [
            {"text": text[start:end], "start": start, "end": end, "probability": float(likely)}
            for (start, end), likely in zip(places, np.exp(-np.logaddexp(0, -own_N)), strict=True)
            if end > start
        ]


def open_answerer(bundle: Bundle, ids: bool) -> ReplacedTokens:
    """Raises InputError for a bundle that does not take texts, EnvironmentLacks without the `tokenizers` package."""
    if ids:
        raise InputError("--ids gives no text whose tokens could be named; give texts")
    return ReplacedTokens(**vars(text_inputs(bundle, ids)))
