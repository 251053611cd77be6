"""Images in, the most probable of the bundle's classes out, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.answers.image_classification import ImageLabels, prepared
from runtime.images.classify import best_classes
from runtime.images.zero_shot import KIND, parse_preprocessing, prompts_of
from runtime.texts.text import INPUTS
from targets.errors import EdgepressError, InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.images.frame import Frame
    from runtime.session import Session
    from runtime.watch import Result


@dataclass(frozen=True)
class ImageAgainstTexts(ImageLabels):
    """Labels of image files. `prompts`: the texts of all classes; none where the model knows their vectors."""

    prompts: dict[str, np.ndarray] = field(default_factory=dict)

    def answer(self, session: Session, inputs: Sequence[str | Frame], wanted: Wanted) -> list[Result | EdgepressError]:
        import numpy as np

        pixels, answers = prepared(session, inputs)
        if pixels:
            given = {"pixel_values": np.stack(list(pixels.values())), **self.prompts}
            types = {tensor.name: tensor.dtype for tensor in session.manifest.inputs}
            output = session.run({name: given[name].astype(dtype, copy=False) for name, dtype in types.items()})
            guesses = best_classes(session, output[session.manifest.outputs[0].name], wanted.top)
            for at, best in zip(pixels, guesses, strict=True):
                answers[at] = {"top": [vars(guess) for guess in best]}
        return [answers[at] for at in range(len(inputs))]


def open_answerer(bundle: Bundle, ids: bool) -> ImageAgainstTexts:
    """Raises InputError unless the bundle holds images against texts, EnvironmentLacks without the package `tokenizers`
    where the texts of the classes are still to be read."""
    if ids:
        raise InputError(f"--ids is for texts, {bundle.source} takes images")
    manifest = bundle.manifest
    if (manifest.preprocessing or {}).get("kind") != KIND or not manifest.labels:
        raise InputError(f"{bundle.source} does not say how its classes become texts; make the bundle again")
    if INPUTS[0] not in [tensor.name for tensor in manifest.inputs]:
        return ImageAgainstTexts()
    spec = parse_preprocessing(manifest.preprocessing or {}, f"{bundle.source}: preprocessing")
    if spec.text.tokenizer not in manifest.files:
        raise InputError(f"{bundle.source}: its manifest lists no {spec.text.tokenizer}, so none can be trusted")
    return ImageAgainstTexts(prompts=prompts_of(manifest.labels, spec, bundle.root))
