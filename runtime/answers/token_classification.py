"""Texts in, the entities in them out."""

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
class TextEntities(TextInputs):
    """Entities of texts: words that belong together, with their kind."""

    options: ClassVar = ()

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> list[Result | InputError]:
        """The entities of each text: their words, where they stand, and the least probability of their tags."""
        rows, faults = self.ask(session, inputs)
        answers: dict[int, Result | InputError] = {**faults}
        for at, logits_NK in rows.items():
            answers[at] = {"entities": self._entities(session, inputs[at], logits_NK)}
        return [answers[at] for at in range(len(inputs))]

    def line(self, result: Result) -> str:
        """'TEXT: PER John Smith 0.9876, LOC Berlin 0.9512'."""
        entities = result["entities"]
        assert isinstance(entities, list)
        found = ", ".join(f"{one['kind']} {one['text']} {one['probability']:.4f}" for one in entities)
        return f"{result['input']}: {found or 'no entity'}"

    def _entities(self, session: Session, text: str, logits_NK: np.ndarray) -> list[dict[str, object]]:
        from runtime.images.classify import softmax
        from runtime.texts.words import NO_ENTITY, entities_of, first_tokens, places_of

        assert self.tokenizer is not None
        labels, likely_NK = session.manifest.labels or (), softmax(logits_NK)
        if len(labels) != likely_NK.shape[-1]:
            raise InputError(
                f"{session.bundle.source}: {len(labels)} tags, {likely_NK.shape[-1]} classes; make the bundle again"
            )
        firsts, places = first_tokens(self.tokenizer, [text])[0], places_of(text)
        tags = [labels[int(likely_NK[at].argmax())] if at >= 0 else NO_ENTITY for at in firsts]
        return [
            {
                "kind": one.kind,
                "text": text[places[one.first][0] : places[one.last][1]],
                "start": places[one.first][0],
                "end": places[one.last][1],
                "probability": float(likely_NK[firsts[one.first : one.last + 1]].max(axis=-1).min()),
            }
            for one in entities_of(tags)
        ]


def open_answerer(bundle: Bundle, ids: bool) -> TextEntities:
    """Raises InputError for a bundle that does not take texts, EnvironmentLacks without the `tokenizers` package."""
    if ids:
        raise InputError("--ids gives no words to name entities by; give texts")
    return TextEntities(**vars(text_inputs(bundle, ids)))
