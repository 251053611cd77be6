"""Token classification (named entities): a tag for each word, judged by the F1 of entities.

The tag of a word is that of its first token. S samples, W words, B batch, N tokens, K tags.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.json_files import read_object
from compress.tasks.task import AnyPart, Prepared, Tell
from compress.tasks.text import BATCH, TextTask
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from compress.data import TextDataset
    from compress.data.prepared_texts import PreparedTexts
    from compress.heal.objective import Objective
    from compress.heal.options import HealOptions
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.tags import WordTags
    from compress.verification.samples import Samples
    from runtime.bundles.manifest import Tensor as Declared


@dataclass(frozen=True)
class EachToken:
    """KL from the original's tags, mean over the real tokens."""

    drift_name: str = "mean KL"

    def drift(self, answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return self._kl(answer_BK, target_BK, inputs, 1.0)

    def loss(
        self,
        options: HealOptions,
        answer_BK: Tensor,
        target_BK: Tensor,
        inputs: Mapping[str, Tensor],
        labels: Tensor | None,
    ) -> Tensor:
        if options.task:
            raise InputError("heal.task trains on labels of whole texts, and tags are of words; leave it out")
        return options.kl * self._kl(answer_BK, target_BK, inputs, options.temperature)

    def _kl(self, answer_BNK: Tensor, target_BNK: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
        from compress.heal.objective import kl_divergence

        real_BN = inputs["attention_mask"].bool()
        return kl_divergence(answer_BNK[real_BN], target_BNK[real_BN], temperature)


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
            self._check(logits_BNK, len(names))
            for index, best_N in zip(indices, logits_BNK.argmax(axis=-1), strict=True):
                places = np.array(firsts[index], np.int64)
                tags[index, : len(places)] = np.where(places >= 0, best_N[places], -1)
            seen += len(indices)
            tell(seen)
        return WordTags(tags, gold, names)

    def _check(self, logits_BNK: np.ndarray, count: int) -> None:
        if logits_BNK.ndim != 3 or logits_BNK.shape[-1] != count:
            raise InputError(
                f"the model gives logits of shape {list(logits_BNK.shape)}; [batch, tokens, {count}] needed"
            )

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        return f"entity F1 {METRICS[self.metric].value(answers):.2f} % in {len(answers)} texts"

    @property
    def objective(self) -> Objective:
        return EachToken()

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        real_BN = inputs["attention_mask"].float()
        same_BN = (wanted_BK.argmax(-1) == given_BK.argmax(-1)).float()
        return (same_BN * real_BN).sum(dim=1) / real_BN.sum(dim=1)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"same tag as the original for {100 * agreement:.1f} % of the tokens of {count} held-out texts"


TASK = TokenClassification()
