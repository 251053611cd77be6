"""Masked language modelling: the tokens behind masks, judged by pseudo-perplexity; how often the likeliest token is the
right one is reported beside it.

S samples, B batch, N tokens, V vocabulary, P hidden places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data.tokenizer import CONFIG, tokenizer_of
from compress.json_files import read_object
from compress.tasks.hidden import HiddenTask, hidden_places
from compress.tasks.task import Prepared, Tell
from compress.tasks.text import check_token_scores, same_share
from runtime.texts.text import TextPreprocessing, Tokenizer, parse_preprocessing
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from compress.data.prepared_texts import PreparedTexts
    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Arrays, Run
    from compress.verification.kinds.losses import MaskedTokens
    from compress.verification.samples import Samples

#: Texts at once, and scores (texts x tokens x vocabulary) that one call of the model may give.
BATCH, SCORES = 16, 1 << 23
#: Tokens of a golden sample, each of which has an answer as wide as the vocabulary.
GOLDEN_TOKENS = 16
#: What mask tokens are called where tokenizer_config.json does not say.
_MASKS = ("[MASK]", "<mask>")


class MaskedLm(HiddenTask):
    """Texts as they are, of which the model sees a part of the tokens hidden."""

    name = "masked-lm"
    architectures = ("ForMaskedLM", "BertForPreTraining", "AlbertForPreTraining")
    head = "masked-token"
    auto_class = "AutoModelForMaskedLM"
    outputs = ("logits",)
    metric = "pseudo_perplexity"
    golden = 2

    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        section = super().preprocessing(folder, note)
        own = tokenizer_of(folder)
        if own is None:
            return section
        tokenizer = Tokenizer(own, parse_preprocessing(section))
        found = [at for name in _mask_names(folder) if (at := tokenizer.id_of(name)) is not None]
        if not found:
            raise InputError(
                f"{folder}: its tokenizer has no mask token ({' or '.join(_mask_names(folder))}), so nothing can be "
                f"hidden; name it as mask_token in {CONFIG}"
            )
        return {**section, "mask_id": found[0]}

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "softmax"}

    def shortened(self, inputs: Arrays) -> Arrays:
        return {name: array[:, :GOLDEN_TOKENS] for name, array in inputs.items()}

    def usable(self, data: PreparedTexts) -> PreparedTexts:
        if data.spec.mask_id is None or data.tokenizer is None:
            raise InputError("the model does not say which token hides another (preprocessing: mask_id); read it again")
        return super().usable(data)

    def most(self, longest: int, spec: TextPreprocessing) -> int:
        return max(1, min(BATCH, SCORES // (longest * spec.vocab_size)))

    def seen(self, ids: Sequence[int], specials: frozenset[int], spec: TextPreprocessing) -> list[int]:
        """With the mask token at the hidden places."""
        hidden, mask = set(hidden_places(ids, specials)), spec.mask_id
        assert mask is not None
        return [mask if place in hidden else token for place, token in enumerate(ids)]

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> MaskedTokens:
        import numpy as np

        from compress.data.prepared_texts import PreparedTexts, by_length
        from compress.verification.kinds.losses import MaskedTokens
        from compress.verification.metric import log_softmax

        assert isinstance(data, PreparedTexts) and data.tokenizer is not None
        specials = data.tokenizer.specials()
        places = [hidden_places(ids, specials) for ids in data.ids]
        most = max(map(len, places))
        nll, seen = np.zeros(len(data)), 0
        best, gold = np.full((len(data), most), -1, np.int64), np.full((len(data), most), -1, np.int64)
        for indices in by_length(data.ids, min(batch or data.most, data.most)):
            inputs = data.padded([data.ids[index] for index in indices])
            logits_BNV = run(inputs)[self.outputs[0]]
            check_token_scores(logits_BNV, data.spec.vocab_size)
            for index, logits_NV, mask_N in zip(indices, logits_BNV, inputs["attention_mask"], strict=True):
                true_P = np.array(data.ids[index])[places[index]]
                log_probs_PV = log_softmax(logits_NV[mask_N.astype(bool)][places[index]])
                gold[index, : len(true_P)], best[index, : len(true_P)] = true_P, log_probs_PV.argmax(axis=1)
                nll[index] = -log_probs_PV[np.arange(len(true_P)), true_P].sum()
            seen += len(indices)
            tell(seen)
        return MaskedTokens(nll, best, gold)

    def headline(self, answers: Samples) -> str:
        from compress.verification.kinds.losses import MaskedTokens
        from compress.verification.metrics import METRICS

        assert isinstance(answers, MaskedTokens)
        perplexity, right = (METRICS[name].value(answers) for name in ("pseudo_perplexity", "masked_top1"))
        count = int((answers.gold >= 0).sum())
        return f"pseudo-perplexity {perplexity:.3f}, {right:.1f} % right, {count:,} hidden tokens"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import Distance, each_token

        return Distance(each_token, "which hidden tokens do not have here")

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return same_share(wanted_BK.argmax(-1) == given_BK.argmax(-1), inputs)

    def agreement_text(self, agreement: float, count: int) -> str:
        return (
            f"same likeliest token as the original at {100 * agreement:.1f} % of the places in {count} held-out texts"
        )


def _mask_names(folder: Path) -> tuple[str, ...]:
    file = folder / CONFIG
    given = read_object(file).get("mask_token") if file.is_file() else None
    name = given.get("content") if isinstance(given, Mapping) else given
    return (name,) if isinstance(name, str) else _MASKS


TASK = MaskedLm()
