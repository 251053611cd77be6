"""Replaced-token detection: which tokens of a text were put in the place of others, as ELECTRA's discriminators are
trained to see; judged by the micro F1 of the tokens that are replaced here.

The original's replacements come from a generator that is trained beside it; here they are drawn from the vocabulary, so
that a folder with the discriminator alone can be judged. S samples, B batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.tasks.hidden import HiddenTask, hidden_places, seed_of
from compress.tasks.task import Prepared, Tell
from compress.tasks.text import BATCH, same_share
from runtime.texts.text import TextPreprocessing
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.detections import Detections
    from compress.verification.samples import Samples


class ReplacedTokenDetection(HiddenTask):
    """Texts as they are, of which the model sees a part of the tokens replaced."""

    name = "replaced-token-detection"
    architectures = ("ElectraForPreTraining",)
    head = "replaced-token"
    auto_class = "AutoModelForPreTraining"
    outputs = ("logits",)
    metric = "replaced_f1"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "sigmoid"}

    def seen(self, ids: Sequence[int], specials: frozenset[int], spec: TextPreprocessing) -> list[int]:
        """With another token, which is not special, at the hidden places."""
        import numpy as np

        draw, found = np.random.default_rng([1, seed_of(ids)]), list(ids)
        for place in hidden_places(ids, specials):
            for token in draw.integers(spec.vocab_size, size=64).tolist():
                if token != ids[place] and token not in specials:
                    found[place] = token
                    break
        return found

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> Detections:
        import numpy as np

        from compress.data.prepared_texts import PreparedTexts, by_length
        from compress.verification.kinds.detections import Detections

        assert isinstance(data, PreparedTexts) and data.tokenizer is not None
        specials, longest, done = data.tokenizer.specials(), max(map(len, data.ids)), 0
        logits = np.zeros((len(data), longest), np.float32)
        gold = np.full((len(data), longest), -1, np.int64)
        for index, ids in enumerate(data.ids):
            gold[index, : len(ids)] = [-1 if token in specials else 0 for token in ids]
            changed = self.seen(ids, specials, data.spec)
            gold[index, [at for at, token in enumerate(ids) if changed[at] != token]] = 1
        for indices in by_length(data.ids, batch or BATCH):
            logits_BN = run(data.padded([data.ids[index] for index in indices]))[self.outputs[0]]
            if logits_BN.ndim != 2 or len(logits_BN) != len(indices):
                raise InputError(f"the model gives logits of shape {list(logits_BN.shape)}; [batch, tokens] needed")
            for index, row_N in zip(indices, logits_BN, strict=True):
                count = len(data.ids[index])
                logits[index, :count] = data.spec.real(row_N, count)
            done += len(indices)
            tell(done)
        return Detections(logits, gold)

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        return f"F1 of replaced tokens {METRICS[self.metric].value(answers):.2f} % in {len(answers)} texts"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import Distance

        return Distance(_decisions, "and those of the data are of texts, not of tokens")

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return same_share((wanted_BK > 0) == (given_BK > 0), inputs)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"same decision as the original on {100 * agreement:.1f} % of the tokens of {count} held-out texts"


def _decisions(answer_BN: Tensor, target_BN: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Binary KL from the original's decisions, mean over the real tokens."""
    from compress.heal.objective import binary_divergence, mean_of_real

    return mean_of_real(binary_divergence(answer_BN, target_BN, temperature), inputs["attention_mask"])


TASK = ReplacedTokenDetection()
