"""Causal language modelling: the next token, judged by perplexity; bits per byte, the same likeliest token and the KL
to the original are reported beside it.

S samples, B batch, N tokens, V vocabulary, P places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compress.tasks.decoding import Decoding
from compress.tasks.task import AnyPart, Prepared, Tell
from compress.tasks.text import same_share
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from compress.data import TextDataset
    from compress.data.prepared_texts import PreparedTexts
    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.losses import NextTokens
    from compress.verification.samples import Samples

#: Scores (texts x tokens x vocabulary) that one call of the model may give, and that are kept for divergences.
SCORES, KEPT = 1 << 23, 1 << 24
#: Texts at once, and places of each text at which the whole distribution is kept, at most.
BATCH, PLACES = 16, 16


class CausalLm(Decoding):
    """Texts as they are: plain text is enough for evaluation and for healing."""

    name = "causal-lm"
    architectures = ("ForCausalLM", "LMHeadModel")
    head = "next-token"
    auto_class = "AutoModelForCausalLM"
    outputs = ("logits",)
    metric = "perplexity"
    recipes = "decoder"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "next-token"}

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        dataset.check()
        return dataset.singles()

    def usable(self, data: PreparedTexts) -> PreparedTexts:
        scored = [index for index, ids in enumerate(data.ids) if len(ids) > 1]
        if not scored:
            raise InputError(f"{data.location} has no text of two tokens or more, so nothing can be predicted")
        longest = max(len(data.ids[index]) for index in scored)
        most = max(1, min(BATCH, SCORES // (longest * data.spec.vocab_size)))
        single = len(data) - len(scored)
        note = f"{single} of {len(data)} texts have a single token, behind which nothing is predicted, and are left out"
        return replace(data.subset(scored), most=most, notes=(*data.notes, *([note] if single else [])))

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> NextTokens:
        import numpy as np

        from compress.data.prepared_texts import PreparedTexts, by_length
        from compress.verification.kinds.losses import NextTokens

        assert isinstance(data, PreparedTexts)
        samples, vocabulary = len(data), data.spec.vocab_size
        longest = max(map(len, data.ids))
        places = max(1, min(PLACES, KEPT // (samples * vocabulary)))
        nll, tokens = np.zeros(samples), np.array([len(ids) - 1 for ids in data.ids], np.int64)
        best = np.full((samples, longest - 1), -1, np.int32)
        kept = np.empty((samples, places, vocabulary), np.float16)
        seen = 0
        for indices in by_length(data.ids, min(batch or data.most, data.most)):
            logits_BNV = run(data.padded([data.ids[index] for index in indices]))["logits"]
            for index, logits_NV in zip(indices, logits_BNV, strict=True):
                count = tokens[index]
                log_probs_NV = _log_softmax(logits_NV[:count])
                nll[index] = -log_probs_NV[np.arange(count), data.ids[index][1:]].sum(dtype=np.float64)
                best[index, :count] = log_probs_NV.argmax(axis=1)
                kept[index] = log_probs_NV[np.linspace(0, count - 1, places).astype(int)]
            seen += len(indices)
            tell(seen)
        return NextTokens(nll, tokens, data.bytes, best, kept)

    def headline(self, answers: Samples) -> str:
        from compress.verification.kinds.losses import NextTokens
        from compress.verification.metrics import METRICS

        assert isinstance(answers, NextTokens)
        perplexity, bits = (METRICS[name].value(answers) for name in ("perplexity", "bits_per_byte"))
        return f"perplexity {perplexity:.3f}, {bits:.4f} bits per byte, {answers.tokens.sum():,} tokens"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import LANGUAGE_MODEL

        return LANGUAGE_MODEL

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return same_share(wanted_BK.argmax(-1) == given_BK.argmax(-1), inputs)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"same likeliest token as the original {100 * agreement:.1f} % of the time in {count} held-out texts"


def _log_softmax(logits_NV: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted = logits_NV.astype(np.float32) - logits_NV.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


TASK = CausalLm()
