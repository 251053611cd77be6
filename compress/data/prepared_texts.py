"""Texts as one model wants them: token ids, cut to its length, in batches that waste little on padding.

S samples, B batch, N tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from compress.data.text_dataset import TextDataset
from runtime.texts.text import TextPreprocessing, Tokenizer, pad, parse_preprocessing

#: Of each sample the token ids of its texts and the bytes that they stand for, and how many were cut.
Encodings = tuple[list[tuple[list[int], ...]], np.ndarray, int]
Encode = Callable[[Tokenizer, TextDataset], Encodings]


def encoded(tokenizer: Tokenizer, dataset: TextDataset) -> Encodings:
    """Each text on its own."""
    found = tokenizer.encode([text for row in dataset.rows for text in row.texts])
    rest = iter(zip(found.ids, found.bytes, strict=True))
    pairs = [[next(rest) for _ in row.texts] for row in dataset.rows]
    sizes = np.array([sum(size for _, size in one) for one in pairs], np.int64)
    return [tuple(ids for ids, _ in one) for one in pairs], sizes, found.cut


@dataclass(frozen=True)
class PreparedTexts:
    """`texts`: per sample, the token ids of its text or its two texts; `bytes` int64 [S]: of what they stand for;
    `notes`: what the user should know of them; `completed` adds to padded ids what else the model takes; `most`: so
    many at once at most, whatever size of batch is asked for."""

    dataset: TextDataset
    spec: TextPreprocessing
    texts: list[tuple[list[int], ...]] = field(repr=False)
    bytes: np.ndarray = field(repr=False)
    notes: tuple[str, ...] = ()
    completed: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = field(default=dict, repr=False)
    most: int = sys.maxsize
    tokenizer: Tokenizer | None = field(default=None, repr=False)
    encode: Encode = field(default=encoded, repr=False)

    def tokenized(self, dataset: TextDataset) -> Self:
        """Other texts, prepared as these were."""
        assert self.tokenizer is not None
        texts, sizes, _ = self.encode(self.tokenizer, dataset)
        return replace(self, dataset=dataset, texts=texts, bytes=sizes, notes=())

    def padded(self, ids: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """The model's inputs for these token ids."""
        return self.completed(pad(ids, self.spec))

    @cached_property
    def ids(self) -> list[list[int]]:
        """Token ids of the first text of each sample."""
        return [one[0] for one in self.texts]

    def different(self) -> tuple[list[list[int]], np.ndarray]:
        """All different texts, and the place of each text of each sample [S, T] among them."""
        places: dict[tuple[int, ...], int] = {}
        found = [[places.setdefault(tuple(text), len(places)) for text in texts] for texts in self.texts]
        return [list(text) for text in places], np.array(found, np.int64)

    @property
    def location(self) -> Path:
        return self.dataset.location

    @property
    def names(self) -> Sequence[str]:
        return self.dataset.names

    def __len__(self) -> int:
        return len(self.texts)

    def check(self) -> None:
        self.dataset.check()

    def fingerprints(self) -> list[tuple[int, ...]]:
        return self.dataset.fingerprints()

    def batches(self, size: int, indices: Collection[int] | None = None) -> Iterator[dict[str, np.ndarray]]:
        chosen, size = list(range(len(self)) if indices is None else indices), min(size, self.most)
        for start in range(0, len(chosen), size):
            yield self.padded([self.ids[index] for index in chosen[start : start + size]])

    def calibration(self, size: int, indices: Collection[int]) -> Iterator[dict[str, np.ndarray]]:
        by_length: dict[int, list[list[int]]] = {}
        size = min(size, self.most)
        for index in indices:
            by_length.setdefault(len(self.ids[index]), []).append(self.ids[index])
        for _, ids in sorted(by_length.items()):
            for start in range(0, len(ids), size):
                yield self.padded(ids[start : start + size])

    def subset(self, indices: Collection[int]) -> Self:
        chosen = list(indices)
        return replace(
            self,
            dataset=self.dataset.subset(chosen),
            texts=[self.texts[index] for index in chosen],
            bytes=self.bytes[chosen],
        )


def prepare_texts(
    dataset: TextDataset,
    preprocessing: Mapping[str, Any],
    files: Path,
    skip_corrupt: bool = False,
    encode: Encode = encoded,
) -> PreparedTexts:
    """Tokenize the texts. `files`: the folder of the tokenizer; `skip_corrupt`: leave out texts without tokens;
    `encode`: what makes token ids of the texts of a sample.

    Raises InputError for texts that cannot be used or a tokenizer that does not fit the model, EnvironmentLacks
    without the `tokenizers` package.
    """
    dataset.check()
    spec = parse_preprocessing(preprocessing)
    tokenizer = Tokenizer(files / spec.tokenizer, spec)
    texts, sizes, cut = encode(tokenizer, dataset)
    whole = [index for index, one in enumerate(texts) if all(one)]
    if len(whole) < len(texts) and not (skip_corrupt and whole):
        bare = sorted(set(range(len(texts))).difference(whole))
        raise dataset.unusable(dataset.subset(bare).names, "the text has no tokens")
    count = sum(len(one) for one in texts)
    note = (f"{cut} of {count} texts are longer than {spec.max_length} tokens and were cut",) if cut else ()
    prepared = PreparedTexts(dataset, spec, texts, sizes, dataset.notes + note, tokenizer=tokenizer, encode=encode)
    return prepared if len(whole) == len(texts) else prepared.subset(whole)


def by_length(ids: list[list[int]], size: int) -> Iterator[list[int]]:
    """Indices in batches of texts that are about equally long."""
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    for start in range(0, len(order), size):
        yield order[start : start + size]
