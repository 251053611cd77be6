"""What the answers to texts share: texts or token ids in, the model's padded inputs out."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.texts.text import INPUTS, KINDS, TextPreprocessing, Tokenizer, pad, parse_ids, parse_preprocessing
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.bundles.bundle import Bundle
    from runtime.session import Session


@dataclass(frozen=True)
class TextInputs:
    """`tokenizer` None: what a user gives are token ids."""

    spec: TextPreprocessing
    tokenizer: Tokenizer | None
    suffixes: tuple[str, ...] = ()

    def expand(self, given: Sequence[str]) -> list[str]:
        """The texts as they are."""
        return list(given)

    def ask(self, session: Session, texts: Sequence[str]) -> tuple[dict[int, np.ndarray], dict[int, InputError]]:
        """Of each text the row of the model's first output, or why it cannot be used."""
        ids: dict[int, list[int]] = {}
        faults: dict[int, InputError] = {}
        for at, text in enumerate(texts):
            try:
                ids[at] = self.ids_of(text)
                pad([ids[at]], self.spec)
            except InputError as error:
                ids.pop(at, None)
                faults[at] = error
        if not ids:
            return {}, faults
        output = session.run(inputs_for(session, pad(list(ids.values()), self.spec)))
        rows = output[session.manifest.outputs[0].name]
        return dict(zip(ids, rows, strict=True)), faults

    def ids_of(self, text: str) -> list[int]:
        """Token ids of a text, cut to the model's length (`tell_cut`). Raises InputError."""
        if self.tokenizer is None:
            return parse_ids(text)
        encoded = self.tokenizer.encode([text])
        if not encoded.ids[0]:
            raise InputError(f"the text {text!r} has no tokens; give one that is not empty")
        if encoded.cut:
            self.tell_cut()
        return encoded.ids[0]

    def tell_cut(self) -> None:
        """Say on stderr that a text was cut."""
        print(f"note: a text is longer than {self.spec.max_length} tokens and was cut", file=sys.stderr)


@dataclass(frozen=True)
class PairInputs(TextInputs):
    """Texts, or pairs of them; a tab stands between the two texts of a pair."""

    def ids_of(self, text: str) -> list[int]:
        """Token ids of a text, or of two with a tab between them. Raises InputError."""
        if self.tokenizer is None:
            return parse_ids(text)
        texts = [part.strip() for part in text.split("\t")]
        if len(texts) > 2:
            raise InputError(f"{text!r} is neither a text nor two with one tab between them; give one of these")
        encoded = self.tokenizer.encode_pairs([texts]) if all(texts) else None
        if encoded is None or not encoded.ids[0]:
            which = "the text" if len(texts) == 1 else "one of the texts"
            raise InputError(f"{which} {text!r} has no tokens; give what is not empty")
        if encoded.cut:
            self.tell_cut()
        return encoded.ids[0]


def as_it_comes(tokenizer: Tokenizer | None, before: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """The text that tokens behind those `before` add, piece by piece; without a tokenizer their ids. A token may be a
    part of a character, so it is the whole text that is decoded, and what is new is given."""
    if tokenizer is None:
        yield from (f" {token}" for token in tokens)
        return
    ids, shown, begun = list(before), "", len(tokenizer.decode(before))
    for token in tokens:
        ids.append(token)
        whole = tokenizer.decode(ids)[begun:]
        if not whole.endswith("\ufffd"):
            yield whole[len(shown) :]
            shown = whole


def inputs_for(session: Session, padded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those that the model declares, in the types that it declares."""
    return {tensor.name: padded[tensor.name].astype(tensor.dtype) for tensor in session.manifest.inputs}


def text_inputs(bundle: Bundle, ids: bool) -> TextInputs:
    """Raises InputError for a bundle that does not take texts, EnvironmentLacks without the `tokenizers` package."""
    manifest = bundle.manifest
    if manifest.preprocessing is None or manifest.preprocessing.get("kind") != "text":
        raise InputError(f"{bundle.source} does not say how a text becomes its input; make the bundle again")
    known = {*INPUTS, *(state.past for state in manifest.state), *(["position_ids"] if manifest.state else [])}
    known |= {KINDS} if manifest.preprocessing.get("separator") is not None else set()
    strange = [tensor.name for tensor in manifest.inputs if tensor.name not in known]
    if strange:
        raise InputError(f"{bundle.source} needs the input {strange[0]!r}, which no text gives; call it from Python")
    spec = parse_preprocessing(manifest.preprocessing, f"{bundle.source}: preprocessing")
    if ids:
        return TextInputs(spec, None)
    if spec.tokenizer not in manifest.files:
        raise InputError(
            f"{bundle.source}: its manifest lists no {spec.tokenizer}, so none can be trusted; give token ids (--ids)"
        )
    return TextInputs(spec, Tokenizer(bundle.root / spec.tokenizer, spec))
