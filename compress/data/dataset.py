"""A list of labelled samples that decodes itself when asked.

Legend: S samples, B batch, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np

from compress.data.classes import Matching, listed, match_classes, match_numbers, plain
from compress.data.prints import prints_of
from compress.data.sources import Source
from compress.data.stores import threads
from runtime.images.image import prepare
from targets.errors import InputError

HELD_BYTES = 512 << 20  # decoded samples are kept in memory up to this size, per source
_NAMED = 3  # samples that an error names
_AHEAD = 256  # samples decoded before the first of them is taken
Sample = TypeVar("Sample")


class Decoder:
    """Decodes a source's samples in threads and keeps the first that fit `HELD_BYTES`. Shared by subsets."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._held: dict[int, Any] = {}
        self._held_bytes = 0

    def decode(self, indices: Sequence[int]) -> Iterator[Any | str]:
        """Each sample, an image as uint8 [H, W, C], or why it cannot be read."""
        for start in range(0, len(indices), _AHEAD):
            ahead = indices[start : start + _AHEAD]
            missing = [index for index in dict.fromkeys(ahead) if index not in self._held]
            fresh = dict(zip(missing, threads().map(self._decode_one, missing), strict=True))
            yield from (fresh[index] if index in fresh else self._held[index] for index in ahead)
            for index, sample in fresh.items():
                self._hold(index, sample)

    def _decode_one(self, index: int) -> Any | str:
        try:
            return self.source.decoded(index)
        except InputError as error:
            return str(error)

    def _hold(self, index: int, sample: Any | str) -> None:
        if not isinstance(sample, str) and self._held_bytes + sample.nbytes <= HELD_BYTES:
            self._held[index] = sample
            self._held_bytes += sample.nbytes


class LabelledDataset(ABC, Generic[Sample]):
    """`labels` int64 [S], `names` [S], `class_names`, and the samples; never changes."""

    def __init__(
        self,
        decoder: Decoder,
        indices: np.ndarray,
        class_names: Sequence[str],
        class_map: np.ndarray | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """`indices` into the source; `class_map` [source classes] gives each source label its number here; `notes`:
        what the user should know of the samples."""
        self.notes = notes
        self._decoder = decoder
        self._indices = indices
        self._class_map = class_map
        source = decoder.source
        self.location: Path = source.location
        self.class_names: tuple[str, ...] = tuple(class_names)
        self.names: tuple[str, ...] = tuple(source.names[i] for i in indices)
        own = source.labels[indices]
        self.labels: np.ndarray = own if class_map is None else class_map[own]

    def __len__(self) -> int:
        return len(self._indices)

    @abstractmethod
    def prepared(self, samples: Sequence[Sample], preprocessing: Mapping[str, Any]) -> np.ndarray:
        """Samples as a model's input, float32 [B, ...]. Raises InputError for one that does not fit."""

    def raw(self, indices: Iterable[int] | None = None) -> list[Sample]:
        """The samples (all by default) as stored: images as uint8 [H, W, C], sizes and channels may differ.

        Raises InputError that names and counts the samples of this data set that cannot be read.
        """
        chosen = self._indices if indices is None else self._indices[_as_indices(indices, len(self))]
        samples = list(self._decoder.decode(chosen.tolist()))
        readable = [sample for sample in samples if not isinstance(sample, str)]
        if len(readable) < len(samples):
            raise InputError(self._describe(self.unreadable()))
        return readable

    def batches(
        self, preprocessing: Mapping[str, Any], *, batch_size: int, indices: Iterable[int] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(input float32 [B, ...], of images [B, C, H, W], labels int64 [B]) over `indices` (all by default), in their
        order.

        The last batch may be smaller. Raises InputError as `raw` does.
        """
        chosen = np.arange(len(self)) if indices is None else _as_indices(indices, len(self))
        for start in range(0, len(chosen), batch_size):
            part = chosen[start : start + batch_size]
            yield self.prepared(self.raw(part), preprocessing), self.labels[part]

    def subset(self, indices: Iterable[int]) -> Self:
        """The data set of these samples, in this order."""
        chosen = self._indices[_as_indices(indices, len(self))]
        return type(self)(self._decoder, chosen, self.class_names, self._class_map, self.notes)

    def unreadable(self) -> dict[int, str]:
        """Index -> reason, of each sample that cannot be read. Decodes every one."""
        reasons = self._decoder.decode(self._indices.tolist())
        return {index: reason for index, reason in enumerate(reasons) if isinstance(reason, str)}

    def for_labels(self, labels: Sequence[str]) -> Self:
        """This data set with a model's classes (see `match_classes`); those of an npz without names are class numbers.

        Raises InputError for classes that are not the model's.
        """
        source = self._decoder.source
        source.check_classes(labels)
        if source.named:
            matched = match_classes(self.location, self.class_names, labels)
        else:
            matched = match_numbers(self.location, range(len(self.class_names)), labels)
        return self._of_classes(labels, matched)

    def for_some_of(self, labels: Sequence[str]) -> Self:
        """This data set with the classes of a model that may know more of them. Raises InputError as `for_labels`."""
        number = {plain(name): index for index, name in reversed(list(enumerate(labels)))}
        found = [number.get(plain(name)) for name in self.class_names]
        known = [one for one in found if one is not None]
        if len(known) < len(found) or len(set(known)) < len(known) or not self._decoder.source.named:
            return self.for_labels(labels)
        return self._of_classes(labels, Matching(tuple(known)))

    def _of_classes(self, labels: Sequence[str], matched: Matching) -> Self:
        class_map = np.array(matched.numbers, np.int64)
        return type(self)(self._decoder, self._indices, labels, class_map, (*self.notes, *matched.notes))

    def fingerprints(self) -> list[tuple[int, ...]]:
        """Of each image's pixels or recording's samples, whatever file holds them."""
        return [(int(one),) for one in prints_of(self._decoder.source, self._indices).pixels]

    def digest(self, memo: Path | None = None) -> str:
        """Hex digest of the content: the files, which samples of them in which order, labels and class names.

        `memo`: a file that remembers the files' own digests, so that a second call only looks at their times.
        """
        from compress.pipeline.digest import digest_of
        from compress.pipeline.digest.tree import digest_tree

        arrays = (self._indices, self.labels)
        return digest_of(
            {
                "files": digest_tree(self.location, memo),
                "arrays": [hashlib.sha256(array.astype("<i8").tobytes()).hexdigest() for array in arrays],
                "class_names": self.class_names,
            }
        )

    def _describe(self, unreadable: Mapping[int, str]) -> str:
        names = listed([self.names[index] for index in unreadable], _NAMED)
        first, told = next(iter(unreadable.items()))
        cause, noun = told.rpartition(f"{self.names[first]}: ")[2], self._decoder.source.noun
        return (
            f"{self.location}: {len(unreadable)} of {len(self)} {noun} cannot be read: {names} (the first: {cause}); "
            "mend or remove them, or skip them with skip_corrupt"
        )


class ImageDataset(LabelledDataset[np.ndarray]):
    """Labelled images. Made by `compress.data.load`."""

    @property
    def boxes(self) -> tuple[np.ndarray, ...] | None:
        """The true boxes of each image, float32 [G, 5]: class, centre, width and height as shares of the image; None
        for data without."""
        own = self._decoder.source.boxes
        if own is None:
            return None
        chosen = [own[index] for index in self._indices]
        if self._class_map is None:
            return tuple(chosen)
        return tuple(np.column_stack([self._class_map[one[:, 0].astype(int)], one[:, 1:]]) for one in chosen)

    def mask(self, index: int) -> np.ndarray | None:
        """The class of each pixel of an image, whole numbers [H, W]; None for data without. Raises InputError."""
        masks = self._decoder.source.masks
        return None if masks is None else masks[int(self._indices[index])]

    def prepared(self, samples: Sequence[np.ndarray], preprocessing: Mapping[str, Any]) -> np.ndarray:
        """Images (uint8 [H, W, C]) as float32 [B, C, H, W]."""
        same = len({image.shape for image in samples}) == 1
        return prepare(np.stack(samples) if same else samples, preprocessing)


def _as_indices(indices: Iterable[int], size: int) -> np.ndarray:
    """int64 [n]. Raises IndexError outside 0..size-1."""
    chosen = np.fromiter(indices, np.int64)
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= size):
        raise IndexError(f"indices {chosen.min()}..{chosen.max()} of a data set of {size} samples")
    return chosen
