"""Texts in, token ids out: the same code prepares texts for healing and on the device.

B batch, N tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runtime.texts.spans import NOWHERE, Window, without_spaces
from targets.errors import EnvironmentLacks, InputError
from targets.strict import read

if TYPE_CHECKING:
    import numpy as np

TOKENIZER = "tokenizer.json"
INPUTS = ("input_ids", "attention_mask")
#: The tokens that a decoder has written so far, beside the source in `INPUTS`.
TARGET = "decoder_input_ids"
#: Which of two texts a token is of, an input of models that read pairs.
KINDS = "token_type_ids"
#: Models round the rows of their table up; more rows than this without a token, or than with one, are another
#: tokenizer's.
_SPARE_ROWS = 1024
#: Tokens that two windows on a long text share, and the fewest of a text that a window should show.
OVERLAP, _LEAST_ROOM = 128, 16


@dataclass(frozen=True)
class TargetText:
    """What a decoder writes: its tokens begin with `start` and then those of `forced`, end with a token of `stop`, and
    are `max_length` at most. `banned` ones are never written. `tokenizer` names the file that reads and writes them.
    `beams`, `length_penalty`, `no_repeat` (no n-gram of this size twice, 0 without) and `early`: how the model's makers
    search (see `runtime.texts.search`)."""

    start: int
    max_length: int
    tokenizer: str = TOKENIZER
    forced: tuple[int, ...] = ()
    banned: tuple[int, ...] = ()
    beams: int = 1
    length_penalty: float = 1.0
    no_repeat: int = 0
    early: bool = False

    def __post_init__(self) -> None:
        if min(self.max_length, self.beams) < 1 or self.no_repeat < 0:
            given = f"max_length {self.max_length}, beams {self.beams}, no_repeat {self.no_repeat}"
            raise ValueError(f"{given}, allowed: 1 or more, and no_repeat from 0")


@dataclass(frozen=True)
class TextPreprocessing:
    """How a text becomes a model's input: `tokenizer` names the file beside the model, longer texts are cut to
    `max_length` tokens at `truncation_side`, shorter ones are filled up with `pad_id` at `padding_side`; a generated
    text ends at `stop`. `prompt`: goes before every text where none of `prompts` is asked for by its name; `mask_id`:
    the token that hides another; `separator`: the token that ends the first of two texts, where the model reads which
    text a token is of. `target`: what a decoder writes, where the text is the source of another."""

    kind: Literal["text"]
    vocab_size: int
    max_length: int
    pad_id: int = 0
    padding_side: Literal["right", "left"] = "right"
    tokenizer: str = TOKENIZER
    stop: tuple[int, ...] = ()
    truncation_side: Literal["right", "left"] = "right"
    prompt: str = ""
    prompts: dict[str, str] = field(default_factory=dict)
    mask_id: int | None = None
    separator: int | None = None
    target: TargetText | None = None

    def __post_init__(self) -> None:
        named = self.target
        ids = () if named is None else (named.start, *named.forced, *named.banned)
        odd = next((one for one in ids if not 0 <= one < self.vocab_size), None)
        if odd is not None:
            raise ValueError(f"target names the token {odd}, allowed: 0 to {self.vocab_size - 1}")
        if min(self.vocab_size, self.max_length) < 1:
            raise ValueError(f"vocab_size is {self.vocab_size}, max_length {self.max_length}, allowed: 1 or more")
        if self.separator is not None and not 0 <= self.separator < self.vocab_size:
            raise ValueError(f"separator is {self.separator}, allowed: 0 to {self.vocab_size - 1}")
        if not 0 <= self.pad_id < self.vocab_size:
            raise ValueError(f"pad_id is {self.pad_id}, allowed: 0 to {self.vocab_size - 1}")
        if self.mask_id is not None and not 0 <= self.mask_id < self.vocab_size:
            raise ValueError(f"mask_id is {self.mask_id}, allowed: 0 to {self.vocab_size - 1}")

    def real(self, row_N: np.ndarray, count: int) -> np.ndarray:
        """The numbers of a text's own `count` tokens among those of a padded row."""
        return row_N[:count] if self.padding_side == "right" else row_N[len(row_N) - count :]


def parse_preprocessing(section: Mapping[str, object], where: str = "preprocessing") -> TextPreprocessing:
    """Read a manifest's `preprocessing` section. Raises InputError; an unknown key is refused, not skipped."""
    return read(TextPreprocessing, section, where)


@dataclass(frozen=True)
class Encoded:
    """The ids of texts, cut to the model's length; [] for a text without any token of its own. `cut`: how many texts
    were longer. `bytes`: UTF-8 bytes of each text that the ids stand for."""

    ids: list[list[int]]
    cut: int
    bytes: list[int]


class Tokenizer:
    """A tokenizer.json, held against the vocabulary of the model."""

    def __init__(self, path: Path, spec: TextPreprocessing) -> None:
        """Raises EnvironmentLacks without the `tokenizers` package, InputError for a file that does not fit."""
        if importlib.util.find_spec("tokenizers") is None:
            raise EnvironmentLacks("the package tokenizers is not installed; pip install tokenizers, or give token ids")
        import tokenizers

        if not path.is_file():
            raise InputError(f"{path} is missing: the model has no tokenizer; give token ids")
        with _told(f"{path} is not a tokenizer"):
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        self._path = path
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._spec = spec
        size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        # Added tokens may lie beyond the model's rows (Gemma 3's for images); a text that holds one is refused.
        added = set(self._tokenizer.get_added_tokens_decoder())
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        highest = max((one for one in ids if one not in added), default=-1)
        if highest >= spec.vocab_size or spec.vocab_size - size > min(_SPARE_ROWS, size):
            raise InputError(
                f"{path} has {size} tokens with ids up to {highest}, but the model has {spec.vocab_size}; "
                "it is the tokenizer of another model"
            )

    def prompted(self, prompt: str) -> Tokenizer:
        """The same, with another prompt before every text."""
        other = copy(self)
        other._spec = replace(self._spec, prompt=prompt)
        return other

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids with the special tokens. Raises InputError for a text that is not Unicode (bytes of a command line that
        are not UTF-8 come as lone surrogates)."""
        longest = self._spec.max_length
        broken = next((text for text in texts if not is_unicode(text)), None)
        if broken is not None:
            raise InputError(f"the text {broken!r} is not valid UTF-8; give it in UTF-8")
        texts = [self._spec.prompt + text for text in texts]
        self._tokenizer.no_truncation()
        with _told(f"{self._path} does not serve for these texts"):
            whole = self._tokenizer.encode_batch_fast(texts)
        ids = [[] if all(one.special_tokens_mask) else list(one.ids) for one in whole]
        sizes = [len(text.encode()) for text in texts]
        long = [index for index, one in enumerate(ids) if len(one) > longest]
        if long:
            self._tokenizer.enable_truncation(longest, direction=self._spec.truncation_side)
            for index, one in zip(long, self._tokenizer.encode_batch([texts[i] for i in long]), strict=True):
                ids[index] = list(one.ids)
                sizes[index] = len(_kept(texts[index], one.offsets, self._spec.truncation_side).encode())
        return Encoded(ids, len(long), sizes)

    def encode_bare(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids without the special tokens that a text begins and ends with. Raises InputError as `encode` does."""
        broken = next((text for text in texts if not is_unicode(text)), None)
        if broken is not None:
            raise InputError(f"the text {broken!r} is not valid UTF-8; give it in UTF-8")
        self._tokenizer.no_truncation()
        with _told(f"{self._path} does not serve for these texts"):
            found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(one.ids) for one in found]

    def encode_pairs(self, pairs: Sequence[Sequence[str]]) -> Encoded:
        """Ids of pairs, each as one sequence; one text stands alone. The longer text of a pair is cut first.

        Raises InputError for texts that are not Unicode, or that hold the token that separates them.
        """
        for texts in pairs:
            if not all(map(is_unicode, texts)):
                raise InputError(f"the text {' '.join(texts)!r} is not valid UTF-8; give it in UTF-8")
        self._tokenizer.enable_truncation(self._spec.max_length, direction=self._spec.truncation_side)
        with _told(f"{self._path} does not serve for these texts"):
            found = self._tokenizer.encode_batch([tuple(texts) if len(texts) > 1 else texts[0] for texts in pairs])
        ids, sizes = list[list[int]](), list[int]()
        for texts, one in zip(pairs, found, strict=True):
            self._check_kinds(texts, one)
            spans = [
                [place for place, of in zip(one.offsets, one.sequence_ids, strict=True) if of == number]
                for number in range(len(texts))
            ]
            ids.append(list(one.ids) if all(spans) else [])
            whole = not one.overflowing
            kept = (
                text if whole or not span else _kept(text, span, self._spec.truncation_side)
                for text, span in zip(texts, spans, strict=True)
            )
            sizes.append(sum(len(text.encode()) for text in kept))
        return Encoded(ids, sum(bool(one.overflowing) for one in found), sizes)

    def windows(self, question: str, text: str) -> list[Window]:
        """A question with as many parts of the text as it takes to see all of it, each as one sequence of the model's
        length at most. Two that follow each other share `OVERLAP` tokens, or half of what fits where that is less.

        Raises InputError for texts that are not Unicode, for a question that leaves no room or that holds the token
        that separates it from the text.
        """
        if not is_unicode(question + text):
            raise InputError(f"the text {question!r} is not valid UTF-8; give it in UTF-8")
        longest = self._spec.max_length
        self._tokenizer.no_truncation()
        with _told(f"{self._path} does not serve for these texts"):
            whole = self._tokenizer.encode(question, text)
        room = longest - sum(of != 1 for of in whole.sequence_ids)
        if room < min(_LEAST_ROOM, longest // 2):
            raise InputError(
                f"the question {question[:60]!r} has {longest - room} tokens with those around it, the model takes "
                f"{longest}; shorten it"
            )
        found = [whole]
        if len(whole.ids) > longest:
            self._tokenizer.enable_truncation(longest, stride=min(OVERLAP, room // 2), strategy="only_second")
            with _told(f"{self._path} does not serve for these texts"):
                first = self._tokenizer.encode(question, text)
            found = [first, *first.overflowing]
        self._check_kinds((question, text), found[0])
        return [
            Window(
                list(one.ids),
                [
                    without_spaces(text, *place) if of == 1 else NOWHERE
                    for place, of in zip(one.offsets, one.sequence_ids, strict=True)
                ],
            )
            for one in found
        ]

    def _check_kinds(self, texts: Sequence[str], one: Any) -> None:
        """Raises InputError for texts of which the separator does not say which token is of which."""
        separator = self._spec.separator
        if separator is not None and list(one.type_ids) != kinds_of(one.ids, separator):
            raise InputError(f"the text {' '.join(texts)[:80]!r} holds the token that separates two texts; take it out")

    def separator(self) -> int | None:
        """The token that ends the first of two texts; None where the tokenizer does not say which text a token is of.
        Raises InputError where it tells texts apart with nothing between them."""
        self._tokenizer.no_truncation()
        with _told(f"{self._path} does not serve for pairs of texts"):
            one = self._tokenizer.encode("a", "a")
        ids, kinds = list(one.ids), list(one.type_ids)
        if 1 not in kinds:
            return None
        place = kinds.index(1) - 1
        if place < 0 or one.sequence_ids[place] is not None or kinds_of(ids, ids[place]) != kinds:
            raise InputError(f"{self._path} puts no separator between two texts, which its model needs; mend it")
        return ids[place]

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each of the ids that `encode` gives, from where to where in the text its token stands; (0, 0) for what
        is not in it."""
        before = len(self._spec.prompt)
        self._tokenizer.enable_truncation(self._spec.max_length, direction=self._spec.truncation_side)
        with _told(f"{self._path} does not serve for these texts"):
            whole = self._tokenizer.encode_batch([self._spec.prompt + text for text in texts])
        return [[(max(a - before, 0), max(b - before, 0)) for a, b in one.offsets] for one in whole]

    def specials(self) -> frozenset[int]:
        """Ids of the special tokens, which are not part of a text."""
        return frozenset(at for at, one in self._tokenizer.get_added_tokens_decoder().items() if one.special)

    def token(self, at: int) -> str:
        """A single token, written as in a text. Raises InputError for an id that the tokenizer has not."""
        name = self._tokenizer.id_to_token(at)
        return str(self._tokenizer.decode([at], skip_special_tokens=False)).strip() or str(name)

    def id_of(self, token: str) -> int | None:
        """The id of a token; None where the vocabulary has none."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def _kept(text: str, offsets: Sequence[tuple[int, int]], cut: str) -> str:
    """What of a text its tokens stand for. Special tokens stand for nothing, at (0, 0)."""
    if cut == "right":
        return text[: max(end for _, end in offsets)]
    return text[min((start for start, end in offsets if end > start), default=len(text)) :]


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Raises InputError that says `what` for all that the `tokenizers` package finds wrong in a file."""
    try:
        yield
    except Exception as error:
        if type(error) not in (Exception, UnicodeDecodeError):  # the package has no class of its own
            raise
        raise InputError(f"{what}: {str(error).splitlines()[0]}") from error


def is_unicode(text: str) -> bool:
    """Whether a text has whole characters only, no lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def pad(ids: Sequence[Sequence[int]], spec: TextPreprocessing, multiple: int = 1) -> dict[str, np.ndarray]:
    """`input_ids`, `attention_mask` and, with a separator, `token_type_ids`, int64 [B, N]. N is the longest rounded up
    to `multiple` (not over max_length).

    Raises InputError for an id that the model does not have, for more ids than it takes, and for none.
    """
    import numpy as np

    if not all(ids):
        raise InputError("a sequence has no token ids; give one or more")
    check_ids([token for one in ids for token in one], spec.vocab_size)
    longest = max(map(len, ids))
    if longest > spec.max_length:
        raise InputError(f"a sequence has {longest} token ids, the model takes {spec.max_length}; cut it")
    length = min(-(-longest // multiple) * multiple, spec.max_length)
    input_ids = np.full((len(ids), length), spec.pad_id, np.int64)
    mask = np.zeros((len(ids), length), np.int64)
    for row, one in enumerate(ids):
        place = slice(0, len(one)) if spec.padding_side == "right" else slice(length - len(one), length)
        input_ids[row, place], mask[row, place] = one, 1
    padded = {"input_ids": input_ids, "attention_mask": mask}
    if spec.separator is not None:
        padded[KINDS] = kinds = np.zeros_like(mask)
        for row, one in enumerate(ids):
            kinds[row, mask[row] == 1] = kinds_of(one, spec.separator)
    return padded


def kinds_of(ids: Sequence[int], separator: int) -> list[int]:
    """Of each token, which of two texts it is of: 0 up to the first separator, 1 behind it."""
    first = ids.index(separator) + 1 if separator in ids else len(ids)
    return [0] * first + [1] * (len(ids) - first)


def check_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> None:
    """Raises InputError for an id that the model does not have."""
    import numpy as np

    low, high = int(np.min(ids)), int(np.max(ids))
    if low < 0 or high >= vocab_size:
        raise InputError(f"token ids reach from {low} to {high}; allowed: 0 to {vocab_size - 1}")


def parse_ids(text: str) -> list[int]:
    """Token ids as a user writes them: "101 7592 102" or "101,7592,102". Raises InputError."""
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() for word in words):
        raise InputError(f"{text!r} is not a list of token ids; give whole numbers, such as '101 7592 102'")
    return [int(word) for word in words]
