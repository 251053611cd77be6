"""Texts in, all their labels out: those whose probability is above the label's threshold."""

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
class TextLabelSets(TextInputs):
    """Any number of labels of each text. `names` and `thresholds`: one for each label."""

    names: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()

    options: ClassVar = ()

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> list[Result | InputError]:
        """The labels of each text, the most probable first."""
        rows, faults = self.ask(session, inputs)
        answers: dict[int, Result | InputError] = {**faults}
        for at, logits_K in rows.items():
            if logits_K.shape != (len(self.names),):
                raise InputError(
                    f"{session.bundle.source}: {len(self.names)} labels, logits of shape {list(logits_K.shape)} for a "
                    "text; make the bundle again"
                )
            answers[at] = {"labels": self._given(logits_K)}
        return [answers[at] for at in range(len(inputs))]

    def line(self, result: Result) -> str:
        """'TEXT: toxic 0.9876, insult 0.8512'."""
        labels = result["labels"]
        assert isinstance(labels, list)
        given = ", ".join(f"{one['label']} {one['probability']:.4f}" for one in labels)
        return f"{result['input']}: {given or 'no label'}"

    def _given(self, logits_K: np.ndarray) -> list[dict[str, object]]:
        import numpy as np

        likely_K = np.exp(-np.logaddexp(0, -logits_K.astype(np.float64)))
        return [
            {"index": int(place), "label": self.names[place], "probability": float(likely_K[place])}
            for place in (-likely_K).argsort(kind="stable")
            if likely_K[place] > self.thresholds[place]
        ]


def open_answerer(bundle: Bundle, ids: bool) -> TextLabelSets:
    """Raises InputError for a bundle that does not take texts or has no threshold for each label, EnvironmentLacks
    without the `tokenizers` package."""
    names, section = bundle.manifest.labels or (), bundle.manifest.postprocessing or {}
    thresholds = section.get("thresholds")
    if section.get("kind") != "sigmoid":
        raise InputError(f"{bundle.source}: postprocessing kind {section.get('kind')!r}; allowed: sigmoid")
    if (
        not isinstance(thresholds, list)
        or len(thresholds) != len(names)
        or not all(type(one) in (int, float) and 0 <= one <= 1 for one in thresholds)
    ):
        raise InputError(
            f"{bundle.source}: postprocessing.thresholds must be {len(names)} numbers from 0 to 1, one for each label; "
            "mend the manifest"
        )
    inputs = text_inputs(bundle, ids)
    return TextLabelSets(**vars(inputs), names=tuple(names), thresholds=tuple(map(float, thresholds)))
