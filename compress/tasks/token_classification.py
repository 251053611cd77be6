"""Token classification (named entities): a tag for each word, judged by the F1 of entities.

The tag of a word is that of its first token. S samples, W words, B batch, N tokens, K tags.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.json_files import read_object
from compress.tasks.task import AnyPart, Prepared, Tell
from compress.tasks.text import BATCH, TextTask, check_token_scores, same_share
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from compress.data import TextDataset
    from compress.data.prepared_texts import PreparedTexts
    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.tags import WordTags
    from compress.verification.samples import Samples
    from runtime.bundles.manifest import Tensor as Declared


class TokenClassification(TextTask):
    """Tags of words. Any texts are good for healing."""

    name = "token-classification"
    architectures = ("ForTokenClassification",)
    head = "token-classes"
    auto_class = "AutoModelForTokenClassification"
    outputs = ("logits",)
    metric = "entity_f1"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "softmax"}

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        dataset.check()
        if part == "healing":
            return dataset.singles()
        dataset.check_tags()
        return dataset

    def matched(self, dataset: TextDataset, labels: Sequence[str]) -> TextDataset:
        """The data's tags by the model's names, or by their numbers."""
        used = {tag for row in dataset.rows for tag in row.tags}
        if used <= set(labels):
            return replace(dataset, class_names=tuple(labels))
        numbers = {str(number): name for number, name in enumerate(labels)}
        plain = {name.casefold(): name for name in labels}
        known = numbers if used <= numbers.keys() else {tag: plain.get(tag.casefold()) for tag in used}
        if strange := sorted(tag for tag in used if known.get(tag) is None):
            raise InputError(
                f"{dataset.location}: the tag {strange[0]!r} is none of the model's: {', '.join(labels[:9])}"
                f"{', ...' if len(labels) > 9 else ''}; rename the data's tags"
            )
        rows = tuple(replace(row, tags=tuple(str(known[tag]) for tag in row.tags)) for row in dataset.rows)
        return replace(dataset, rows=rows, class_names=tuple(labels))

    def fresh(self, data: Prepared, indices: Collection[int]) -> PreparedTexts:
        """The second halves of the sentences with their tags."""
        from compress.data.prepared_texts import PreparedTexts

        assert isinstance(data, PreparedTexts)
        dataset = data.dataset.subset(indices)
        rows = []
        for row in dataset.rows:
            words = row.texts[0].split()
            half = len(words) // 2 if len(words) > 3 else 0
            rows.append(replace(row, texts=(" ".join(words[half:]),), tags=row.tags[half:]))
        return data.tokenized(replace(dataset, rows=tuple(rows)))

    def labels_beside(self, folder: Path, outputs: Sequence[Declared]) -> tuple[str, ...]:
        from compress.families.family import labels_in

        size = next(tensor.shape[-1] for tensor in outputs if tensor.name == self.outputs[0])
        if not isinstance(size, int):
            raise InputError(f"the graph in {folder} does not say how many tags it has; export it with fixed logits")
        return labels_in(read_object(folder / "config.json"), folder, size)

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> WordTags:
        import numpy as np

        from compress.data.prepared_texts import PreparedTexts, by_length
        from compress.verification.kinds.tags import WordTags
        from runtime.texts.words import first_tokens

        assert isinstance(data, PreparedTexts) and data.tokenizer is not None
        names, rows = list(data.dataset.class_names), data.dataset.rows
        longest = max(len(row.tags) for row in rows)
        tags, gold = np.full((len(rows), longest), -1, np.int64), np.full((len(rows), longest), -1, np.int64)
        numbers = {name: number for number, name in enumerate(names)}
        for index, row in enumerate(rows):
            gold[index, : len(row.tags)] = [numbers[tag] for tag in row.tags]
        firsts, seen = first_tokens(data.tokenizer, [row.texts[0] for row in rows]), 0
        for indices in by_length(data.ids, batch or BATCH):
            logits_BNK = run(data.padded([data.ids[index] for index in indices]))[self.outputs[0]]
            check_token_scores(logits_BNK, len(names))
            for index, best_N in zip(indices, logits_BNK.argmax(axis=-1), strict=True):
                places = np.array(firsts[index], np.int64)
                tags[index, : len(places)] = np.where(places >= 0, best_N[places], -1)
            seen += len(indices)
            tell(seen)
        return WordTags(tags, gold, names)

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        return f"entity F1 {METRICS[self.metric].value(answers):.2f} % in {len(answers)} texts"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import Distance, each_token

        return Distance(each_token, "and those of the data are of words, not of tokens")

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return same_share(wanted_BK.argmax(-1) == given_BK.argmax(-1), inputs)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"same tag as the original for {100 * agreement:.1f} % of the tokens of {count} held-out texts"


TASK = TokenClassification()
