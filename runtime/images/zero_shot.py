"""Images against the names of classes: how a model with an image and a text tower is fed.

B batch, T texts, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runtime.images.image import ImagePreprocessing
from runtime.texts.text import INPUTS, TextPreprocessing, Tokenizer, pad
from targets.errors import InputError
from targets.strict import read

if TYPE_CHECKING:
    import numpy as np

KIND = "zero-shot"
#: Where a class's name goes in the template.
PLACE = "{}"


@dataclass(frozen=True)
class ZeroShotPreprocessing:
    """How images and the texts that they are held against become inputs. `template`: the text of a class, with its name
    at `{}`; `whole_length`: texts are filled up to the longest that the model takes, and the filling is read, too
    (SigLIP was trained so)."""

    kind: Literal["zero-shot"]
    image: ImagePreprocessing
    text: TextPreprocessing
    template: str
    whole_length: bool = False

    def __post_init__(self) -> None:
        if self.template.count(PLACE) != 1:
            raise ValueError(f"template is {self.template!r}, allowed: a text with one {PLACE}")


def parse_preprocessing(section: Mapping[str, object], where: str = "preprocessing") -> ZeroShotPreprocessing:
    """Read a manifest's `preprocessing` section. Raises InputError; an unknown key is refused, not skipped."""
    return read(ZeroShotPreprocessing, section, where)


def texts_of(classes: Sequence[str], template: str) -> list[str]:
    """The text of each class; `_` and `-` of its name, which stand for blanks in names of folders, become blanks."""
    return [template.replace(PLACE, " ".join(one.replace("_", " ").replace("-", " ").split())) for one in classes]


def prompts_of(classes: Sequence[str], spec: ZeroShotPreprocessing, folder: Path) -> dict[str, np.ndarray]:
    """`input_ids` and `attention_mask` (T,N) of the texts of classes. `folder`: where the tokenizer lies.

    Raises InputError for a text that the model does not take whole, EnvironmentLacks without the package `tokenizers`.
    """
    import numpy as np

    texts = texts_of(classes, spec.template)
    encoded = Tokenizer(folder / spec.text.tokenizer, spec.text).encode(texts)
    if encoded.cut:
        longest = max(texts, key=len)
        raise InputError(f"the text {longest[:80]!r} has more than {spec.text.max_length} tokens; shorten its class")
    padded = pad(encoded.ids, spec.text)
    if not spec.whole_length:
        return padded
    ids, more = padded[INPUTS[0]], spec.text.max_length - padded[INPUTS[0]].shape[1]
    whole = np.pad(ids, ((0, 0), (0, more)), constant_values=spec.text.pad_id)
    return {INPUTS[0]: whole, INPUTS[1]: np.ones_like(whole)}
