"""What the tasks share in which a part of a text's tokens is put out of sight: masked or replaced by others.

N tokens, B batch.
"""

from __future__ import annotations

import hashlib
import sys
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compress.tasks.task import AnyPart, Prepared
from compress.tasks.text import TextTask
from runtime.texts.text import TextPreprocessing
from targets.errors import InputError

if TYPE_CHECKING:
    import torch

    from compress.data import TextDataset
    from compress.data.prepared_texts import PreparedTexts
    from compress.heal.objective import Feed
    from compress.tasks.task import Arrays

#: Of a text's own tokens, what share is hidden (Devlin et al. 2019), and one at least.
SHARE = 0.15


class HiddenTask(TextTask):
    """Texts as they are, of which the model sees a part of the tokens otherwise."""

    @abstractmethod
    def seen(self, ids: Sequence[int], specials: frozenset[int], spec: TextPreprocessing) -> list[int]:
        """A text as the model sees it: only its hidden places differ."""

    def most(self, longest: int, spec: TextPreprocessing) -> int:
        """How many texts of this length the model may be given at once."""
        return sys.maxsize

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        dataset.check()
        return dataset.singles()

    def usable(self, data: PreparedTexts) -> PreparedTexts:
        assert data.tokenizer is not None
        specials = data.tokenizer.specials()
        own = [index for index, ids in enumerate(data.ids) if hidden_places(ids, specials)]
        if not own:
            raise InputError(f"{data.location} has no text with a token of its own, so nothing can be hidden")
        longest, few = max(len(data.ids[index]) for index in own), len(data) - len(own)
        note = f"{few} of {len(data)} texts have no token that could be hidden, and are left out"

        def completed(inputs: Arrays) -> Arrays:
            ids_BN = inputs["input_ids"].copy()
            for ids_N, real_N in zip(ids_BN, inputs["attention_mask"].astype(bool), strict=True):
                ids_N[real_N] = self.seen(ids_N[real_N].tolist(), specials, data.spec)
            return {**inputs, "input_ids": ids_BN}

        most = self.most(longest, data.spec)
        return replace(data.subset(own), most=most, notes=(*data.notes, *([note] if few else [])), completed=completed)

    def fresh(self, data: Prepared, indices: Collection[int]) -> PreparedTexts:
        """The second halves of the texts; the whole text where nothing of its second half can be hidden."""
        from compress.data.prepared_texts import PreparedTexts

        made, whole = super().fresh(data, indices), data.subset(indices)
        assert isinstance(whole, PreparedTexts) and made.tokenizer is not None
        specials = made.tokenizer.specials()
        pairs = zip(made.texts, whole.texts, strict=True)
        return replace(made, texts=[new if hidden_places(new[0], specials) else old for new, old in pairs])

    def feed(self, data: Prepared, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> Feed:
        from compress.data.prepared_texts import PreparedTexts
        from compress.heal.texts import TextFeed

        assert isinstance(data, PreparedTexts) and data.tokenizer is not None
        specials = data.tokenizer.specials()
        ids = [self.seen(one, specials, data.spec) for one in data.ids]
        return TextFeed(ids, None, 0, data.spec, seed, device, rank, world, data.most)


def hidden_places(ids: Sequence[int], specials: frozenset[int]) -> list[int]:
    """Which tokens of a text are hidden, ascending: drawn from all that are not special, by a seed that is the digest
    of the ids, so that every model with this tokenizer is asked the same."""
    import numpy as np

    own = [place for place, token in enumerate(ids) if token not in specials]
    count = max(1, round(SHARE * len(own)))
    return sorted(np.random.default_rng(seed_of(ids)).permutation(own)[:count].astype(int).tolist())


def seed_of(ids: Sequence[int]) -> int:
    """A seed that follows from a text."""
    import numpy as np

    return int.from_bytes(hashlib.sha256(np.array(ids, "<i8").tobytes()).digest()[:8], "big")
