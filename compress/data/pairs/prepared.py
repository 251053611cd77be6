"""Pairs of a source and a target text as an encoder-decoder wants them. B batch, S source tokens, N target tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compress.data.prepared_texts import PreparedTexts
from runtime.texts.text import TARGET, TextPreprocessing, pad
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.data.prepared_texts import Encodings
    from compress.data.text_dataset import TextDataset
    from runtime.texts.text import Tokenizer

#: 1 at the real tokens of a target, for whoever weighs them; models read no padding behind it.
TARGET_MASK = "decoder_attention_mask"


@dataclass(frozen=True)
class PreparedPairs(PreparedTexts):
    """`texts`: per sample the ids of the source, as its tokenizer ends them, and of the target: what is forced, its
    own, and the token that stops."""

    def inputs(self, indices: Collection[int]) -> dict[str, np.ndarray]:
        """The model's inputs (B,S) and (B,N): a target is fed behind the token that starts it, without its last."""
        pairs = [self.texts[index] for index in indices]
        return pair_inputs([source for source, _ in pairs], [target for _, target in pairs], self.spec)

    def batches(self, size: int, indices: Collection[int] | None = None) -> Iterator[dict[str, np.ndarray]]:
        chosen, size = list(range(len(self)) if indices is None else indices), min(size, self.most)
        for start in range(0, len(chosen), size):
            yield self.inputs(chosen[start : start + size])

    def calibration(self, size: int, indices: Collection[int]) -> Iterator[dict[str, np.ndarray]]:
        alike: dict[tuple[int, ...], list[int]] = {}
        for index in indices:
            alike.setdefault(tuple(map(len, self.texts[index])), []).append(index)
        for _, some in sorted(alike.items()):
            for start in range(0, len(some), min(size, self.most)):
                yield self.inputs(some[start : start + min(size, self.most)])


def pair_inputs(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], spec: TextPreprocessing, multiple: int = 1
) -> dict[str, np.ndarray]:
    """Inputs of a batch, padded on the right, lengths rounded up to `multiple`: the source and its mask, the target
    behind the token that starts it, without its last, and the mask of that."""
    assert spec.target is not None
    fed = pad([[spec.target.start, *target[:-1]] for target in targets], spec, multiple)
    return {**pad(sources, spec, multiple), TARGET: fed["input_ids"], TARGET_MASK: fed["attention_mask"]}


def encoded_pairs(tokenizers: Sequence[Tokenizer], dataset: TextDataset, spec: TextPreprocessing) -> Encodings:
    """Ids of the sources and of the targets. Raises InputError for texts that are not pairs."""
    single = next((row.name for row in dataset.rows if len(row.texts) < 2), None)
    if single is not None:
        raise InputError(f"{dataset.location}: {single} is one text; give pairs, in columns source and target")
    assert spec.target is not None
    sources = tokenizers[0].encode([row.texts[0] for row in dataset.rows])
    bare = tokenizers[1].encode_bare([row.texts[1] for row in dataset.rows])
    room = spec.target.max_length - len(spec.target.forced) - 1
    targets = [[*spec.target.forced, *ids[:room], *spec.stop[:1]] if ids else [] for ids in bare]
    cut = sources.cut + sum(len(ids) > room for ids in bare)
    sizes = np.array([len(row.texts[1].encode()) for row in dataset.rows], np.int64)
    return list(zip(sources.ids, targets, strict=True)), sizes, cut
