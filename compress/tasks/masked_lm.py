"""Masked language modelling: the tokens behind masks, judged by pseudo-perplexity; how often the likeliest token is the
right one is reported beside it.

S samples, B batch, N tokens, V vocabulary, P hidden places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data.tokenizer import CONFIG, tokenizer_of
from compress.json_files import read_object
from compress.tasks.task import AnyPart, Prepared, Tell
from compress.tasks.text import TextTask
from runtime.texts.text import Tokenizer, parse_preprocessing
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from compress.data import TextDataset
    from compress.data.prepared_texts import PreparedTexts
    from compress.heal.objective import Feed, Objective
    from compress.model import Structure
    from compress.tasks.task import Arrays, Run
    from compress.verification.kinds.losses import MaskedTokens
    from compress.verification.samples import Samples

#: Of a text's own tokens, what share is hidden (Devlin et al. 2019), and one at least.
SHARE = 0.15
#: Texts at once, and scores (texts x tokens x vocabulary) that one call of the model may give.
BATCH, SCORES = 16, 1 << 23
#: Tokens of a golden sample, each of which has an answer as wide as the vocabulary.
GOLDEN_TOKENS = 16
#: What mask tokens are called where tokenizer_config.json does not say.
_MASKS = ("[MASK]", "<mask>")


class MaskedLm(TextTask):
    """Texts as they are, of which the model sees a part of the tokens hidden."""

    name = "masked-lm"
    architectures = ("ForMaskedLM",)
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

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        dataset.check()
        return dataset.singles()

    def usable(self, data: PreparedTexts) -> PreparedTexts:
        if data.spec.mask_id is None or data.tokenizer is None:
            raise InputError("the model does not say which token hides another (preprocessing: mask_id); read it again")
        specials = data.tokenizer.specials()
        own = [index for index, ids in enumerate(data.ids) if hidden_places(ids, specials)]
        if not own:
            raise InputError(f"{data.location} has no text with a token of its own, so nothing can be hidden")
        longest, few = max(len(data.ids[index]) for index in own), len(data) - len(own)
        note = f"{few} of {len(data)} texts have no token that could be hidden, and are left out"
        return replace(
            data.subset(own),
            most=max(1, min(BATCH, SCORES // (longest * data.spec.vocab_size))),
            notes=(*data.notes, *([note] if few else [])),
            completed=lambda inputs: _hidden(inputs, specials, data.spec.mask_id or 0),
        )

    def fresh(self, data: Prepared, indices: Collection[int]) -> PreparedTexts:
        """The second halves of the texts; the whole text where nothing of its second half can be hidden."""
        from compress.data.prepared_texts import PreparedTexts

        made, whole = super().fresh(data, indices), data.subset(indices)
        assert isinstance(whole, PreparedTexts) and made.tokenizer is not None
        specials = made.tokenizer.specials()
        pairs = zip(made.texts, whole.texts, strict=True)
        return replace(made, texts=[new if hidden_places(new[0], specials) else old for new, old in pairs])

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
            self._check(logits_BNV, data.spec.vocab_size)
            for index, logits_NV, mask_N in zip(indices, logits_BNV, inputs["attention_mask"], strict=True):
                true_P = np.array(data.ids[index])[places[index]]
                log_probs_PV = log_softmax(logits_NV[mask_N.astype(bool)][places[index]])
                gold[index, : len(true_P)], best[index, : len(true_P)] = true_P, log_probs_PV.argmax(axis=1)
                nll[index] = -log_probs_PV[np.arange(len(true_P)), true_P].sum()
            seen += len(indices)
            tell(seen)
        return MaskedTokens(nll, best, gold)

    def _check(self, logits_BNV: np.ndarray, size: int) -> None:
        if logits_BNV.ndim != 3 or logits_BNV.shape[-1] != size:
            raise InputError(
                f"the model gives logits of shape {list(logits_BNV.shape)}; [batch, tokens, {size}] needed"
            )

    def headline(self, answers: Samples) -> str:
        from compress.verification.kinds.losses import MaskedTokens
        from compress.verification.metrics import METRICS

        assert isinstance(answers, MaskedTokens)
        perplexity, right = (METRICS[name].value(answers) for name in ("pseudo_perplexity", "masked_top1"))
        count = int((answers.gold >= 0).sum())
        return f"pseudo-perplexity {perplexity:.3f}, {right:.1f} % right, {count:,} hidden tokens"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import MASKED_LANGUAGE_MODEL

        return MASKED_LANGUAGE_MODEL

    def feed(self, data: Prepared, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> Feed:
        from compress.data.prepared_texts import PreparedTexts
        from compress.heal.texts import TextFeed

        assert isinstance(data, PreparedTexts) and data.tokenizer is not None and data.spec.mask_id is not None
        specials = data.tokenizer.specials()
        ids = [masked(one, specials, data.spec.mask_id) for one in data.ids]
        return TextFeed(ids, None, 0, data.spec, seed, device, rank, world, data.most)

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        real_BN = inputs["attention_mask"].float()
        same_BN = (wanted_BK.argmax(-1) == given_BK.argmax(-1)).float()
        return (same_BN * real_BN).sum(dim=1) / real_BN.sum(dim=1)

    def agreement_text(self, agreement: float, count: int) -> str:
        return (
            f"same likeliest token as the original at {100 * agreement:.1f} % of the places in {count} held-out texts"
        )


def hidden_places(ids: Sequence[int], specials: frozenset[int]) -> list[int]:
    """Which tokens of a text are hidden, ascending: drawn from all that are not special, by a seed that is the digest
    of the ids, so that every model with this tokenizer is asked the same."""
    import numpy as np

    own = [place for place, token in enumerate(ids) if token not in specials]
    seed = int.from_bytes(hashlib.sha256(np.array(ids, "<i8").tobytes()).digest()[:8], "big")
    count = max(1, round(SHARE * len(own)))
    return sorted(np.random.default_rng(seed).permutation(own)[:count].astype(int).tolist())


def masked(ids: Sequence[int], specials: frozenset[int], mask: int) -> list[int]:
    """A text whose hidden places hold the mask token."""
    hidden = set(hidden_places(ids, specials))
    return [mask if place in hidden else token for place, token in enumerate(ids)]


def _hidden(inputs: Arrays, specials: frozenset[int], mask: int) -> Arrays:
    """Padded texts [B, N] with masks; padding stays."""
    ids_BN = inputs["input_ids"].copy()
    for ids_N, real_N in zip(ids_BN, inputs["attention_mask"].astype(bool), strict=True):
        ids_N[real_N] = masked(ids_N[real_N].tolist(), specials, mask)
    return {**inputs, "input_ids": ids_BN}


def _mask_names(folder: Path) -> tuple[str, ...]:
    file = folder / CONFIG
    given = read_object(file).get("mask_token") if file.is_file() else None
    name = given.get("content") if isinstance(given, Mapping) else given
    return (name,) if isinstance(name, str) else _MASKS


TASK = MaskedLm()
