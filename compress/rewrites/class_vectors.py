"""class-vectors: a device that knows its classes needs no text tower."""

from __future__ import annotations

from compress.model.heads.two_towers import TwoTowers, TwoTowersSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import rebuilt
from targets.errors import InputError

NAME = "class-vectors"


class ClassVectors(Options):
    """No options: the classes are those of the data."""


@rewrite(NAME, ClassVectors, exact=True)
def class_vectors(model: Transformer, options: ClassVectors, calibration: Calibration) -> Transformer:
    """Put the vectors of the classes' texts in the place of the text tower of CLIP or SigLIP.

    What ships is the image tower with a row of numbers for each class, and images are all that it takes. Exact for
    these classes; other classes need another run. Refused for a model without a text tower.
    """
    head, spec = model.head, model.structure.head
    if not isinstance(head, TwoTowers) or not isinstance(spec, TwoTowersSpec) or spec.text is None:
        raise InputError(f"{NAME} is refused: this model has no text tower")
    vectors_CE = head.texts(next(calibration.batches()))
    frozen = spec.replace(text=None, classes=len(vectors_CE))
    changed = rebuilt(model, model.structure.replace(head=frozen))
    changed.load_state_dict({**changed.state_dict(), "head.classes": vectors_CE})
    left = sum(tensor.numel() for name, tensor in model.state_dict().items() if name.startswith("head.text."))
    calibration.note(f"{NAME}: the texts of {len(vectors_CE)} classes are read once, {left:,} numbers stay behind")
    return changed.requires_grad_(True)
