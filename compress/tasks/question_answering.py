"""Extractive question answering: the part of a text that answers a question, judged by the F1 of its words.

A text that is longer than the model takes is seen through windows that overlap; the best answer of all of them counts.
Where some question of the data has no answer in its text (SQuAD 2.0), a model may say so, as it does where its first
token has a better start and end than any part of the text. S samples, B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compress.tasks.pairs import PairTask
from compress.tasks.task import AnyPart, Prepared, Tell
from compress.tasks.text import BATCH
from runtime.texts.text import Tokenizer
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from compress.data import TextDataset
    from compress.data.prepared_texts import Encodings
    from compress.heal.objective import Feed, Objective
    from compress.model import Structure, Transformer
    from compress.tasks.task import Run
    from compress.verification.kinds.spans import Spans
    from compress.verification.samples import Samples
    from runtime.texts.spans import Window


class QuestionAnswering(PairTask):
    """Parts of texts that answer questions. Any questions with texts are good for healing."""

    name = "question-answering"
    architectures = ("ForQuestionAnswering",)
    head = "span"
    auto_class = "AutoModelForQuestionAnswering"
    outputs = ("start_logits", "end_logits")
    metric = "answer_f1"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "span"}

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        dataset.check()
        dataset.check_questions(answered=part != "healing")
        return replace(dataset, unanswered=any(row.answers == () for row in dataset.rows))

    def encoded(self, tokenizer: Tokenizer, dataset: TextDataset) -> Encodings:
        """The windows of each sample."""
        import numpy as np

        texts = [tuple(window.ids for window in _windows(tokenizer, row.texts)) for row in dataset.rows]
        return texts, np.array([len(" ".join(row.texts).encode()) for row in dataset.rows], np.int64), 0

    def module(self, model: Transformer) -> nn.Module:
        from compress.model.forms.outputs import AllOutputs

        return AllOutputs(model)

    def answer(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        import numpy as np

        return np.stack([outputs[name] for name in self.outputs], axis=-1)

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> Spans:
        import numpy as np

        from compress.data.prepared_texts import PreparedTexts, by_length
        from compress.verification.kinds.spans import Spans, judged
        from runtime.texts.spans import best_spans

        assert isinstance(data, PreparedTexts) and data.tokenizer is not None
        rows = data.dataset.rows
        windows = [_windows(data.tokenizer, row.texts) for row in rows]
        ids = [window.ids for one in windows for window in one]
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for indices in by_length(ids, batch or BATCH):
            output = run(data.padded([ids[index] for index in indices]))
            sides = [output[name] for name in self.outputs]
            self._check(sides, len(indices))
            for index, start_N, end_N in zip(indices, *sides, strict=True):
                start, end = (data.spec.real(row_N, len(ids[index])) for row_N in (start_N, end_N))
                found[index] = start, end
            tell(len(rows) * len(found) // len(ids))
        spans, score = np.full((len(rows), 2), -1, np.int64), np.full(len(rows), np.nan)
        exact, f1, first = np.zeros(len(rows)), np.zeros(len(rows)), 0
        for index, (row, seen) in enumerate(zip(rows, windows, strict=True)):
            logits = [found[place] for place in range(first, first + len(seen))]
            first += len(seen)
            best, nothing = best_spans(seen, *zip(*logits, strict=True))
            none = data.dataset.unanswered and bool(best) and nothing > best[0].score
            if best:
                score[index] = nothing if none else best[0].score
            if best and not none:
                spans[index] = best[0].start, best[0].end
            text = "" if spans[index, 0] < 0 else row.texts[1][spans[index, 0] : spans[index, 1]]
            exact[index], f1[index] = judged(text, row.answers or ())
        return Spans(spans, score, exact, f1, np.array([len(row.texts[1]) for row in rows], np.int64))

    def _check(self, sides: Sequence[np.ndarray], count: int) -> None:
        if any(one.ndim != 2 or len(one) != count for one in sides):
            raise InputError(f"the model gives starts of shape {list(sides[0].shape)}; [batch, tokens] needed")

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        f1, exact = (METRICS[name].value(answers) for name in (self.metric, "exact_match"))
        return f"F1 {f1:.2f} %, {exact:.2f} % exact, {len(answers)} questions"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import Distance

        return Distance(_starts_and_ends, "and those of the data are of whole texts, of which answers are parts")

    def feed(self, data: Prepared, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> Feed:
        """Every window of every sample."""
        from compress.data.prepared_texts import PreparedTexts
        from compress.heal.texts import TextFeed

        assert isinstance(data, PreparedTexts)
        ids = [window for one in data.texts for window in one]
        return TextFeed(ids, None, 0, data.spec, seed, device, rank, world, data.most)

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        padding_BN1 = ~inputs["attention_mask"].bool()[..., None]
        wanted_B2, given_B2 = (
            one.masked_fill(padding_BN1, float("-inf")).argmax(dim=1) for one in (wanted_BK, given_BK)
        )
        return (wanted_B2 == given_B2).float().mean(dim=-1)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"same start or end as the original in {100 * agreement:.1f} % of {count} held-out"


def _windows(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Window]:
    question, text = texts
    return tokenizer.windows(question, text)


def _starts_and_ends(
    answer_BN2: Tensor, target_BN2: Tensor, inputs: Mapping[str, Tensor], temperature: float
) -> Tensor:
    """KL from the original's starts and from its ends over the real tokens, their sum, mean over the batch."""
    from compress.heal.objective import kl_divergence

    padding_BN1 = ~inputs["attention_mask"].bool()[..., None]
    mine, theirs = (one.float().masked_fill(padding_BN1, -1e4) for one in (answer_BN2, target_BN2))
    parts = (kl_divergence(mine[..., at], theirs[..., at], temperature) for at in range(2))
    return sum(parts, start=answer_BN2.new_zeros(()))


TASK = QuestionAnswering()
