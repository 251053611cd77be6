"""Texts with masks in, the likeliest tokens behind them out."""

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
class HiddenTokens(TextInputs):
    """What stands behind each mask of a text."""

    options: ClassVar = ("top",)

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> list[Result | InputError]:
        """Of each mask of each text the most probable tokens, best first."""
        rows, faults = self.ask(session, inputs)
        answers: dict[int, Result | InputError] = {**faults}
        for at, logits_NV in rows.items():
            answers[at] = {"masks": self._guesses(inputs[at], logits_NV, wanted.top)}
        return [answers[at] for at in range(len(inputs))]

    def line(self, result: Result) -> str:
        """'The capital of France is [MASK].: paris 0.4173, lyon 0.0512'; a bar between masks."""
        masks = result["masks"]
        assert isinstance(masks, list)
        found = (", ".join(f"{one['token']} {one['probability']:.4f}" for one in best) for best in masks)
        return f"{result['input']}: {' | '.join(found)}"

    def ids_of(self, text: str) -> list[int]:
        """Token ids of a text. Raises InputError, also for a text without a mask."""
        ids = super().ids_of(text)
        if self.spec.mask_id not in ids:
            mask = self.spec.mask_id
            name = mask if self.tokenizer is None or mask is None else self.tokenizer.token(mask)
            raise InputError(f"the text {text!r} has no {name} among the tokens that the model sees; put it there")
        return ids

    def _guesses(self, text: str, logits_NV: np.ndarray, top: int) -> list[list[dict[str, object]]]:
        import numpy as np

        from runtime.images.classify import softmax

        ids = np.array(super().ids_of(text))
        offset = len(logits_NV) - len(ids) if self.spec.padding_side == "left" else 0
        likely_PV = softmax(logits_NV[offset + np.flatnonzero(ids == self.spec.mask_id)])
        return [
            [
                {"token": self._name(int(at)), "index": int(at), "probability": float(row_V[at])}
                for at in (-row_V).argsort(kind="stable")[:top]
            ]
            for row_V in likely_PV
        ]

    def _name(self, at: int) -> str:
        return str(at) if self.tokenizer is None else self.tokenizer.token(at)


def open_answerer(bundle: Bundle, ids: bool) -> HiddenTokens:
    """Raises InputError for a bundle that does not take texts or does not say which token is its mask, EnvironmentLacks
    without the `tokenizers` package."""
    texts = text_inputs(bundle, ids)
    if texts.spec.mask_id is None:
        raise InputError(f"{bundle.source}: its manifest names no mask token (mask_id); make the bundle again")
    return HiddenTokens(**vars(texts))
