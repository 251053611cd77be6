"""What healing trains towards, and on what: one objective per kind of answer.

B batch, K what the model gives per sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from compress.heal.options import HealOptions
from targets.errors import InputError


class Feed(Protocol):
    """Samples to heal on, the same again for the same (seed, step)."""

    def draw(self, step: int, options: HealOptions) -> Mapping[str, Tensor]:
        """What a training step takes from the host: which samples, and what chance does to them."""
        ...

    def batch(self, drawn: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Inputs of a training step, and what the labels say of them (None where the data has none), made on the
        device from what was drawn, without waiting for it."""
        ...

    def plain(self, size: int) -> list[dict[str, Tensor]]:
        """All samples once, in order, as they are."""
        ...

    def judging(self, size: int) -> Iterable[dict[str, Tensor]]:
        """What drift is measured on: the samples, and what tells more of it where the original knows them by heart."""
        ...


class Objective(Protocol):
    """How far an answer is from the original's."""

    @property
    def drift_name(self) -> str:
        """What `drift` measures, for messages."""
        ...

    def drift(self, answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Distance from the original's answer, mean over the batch; 0 if equal."""
        ...

    def loss(
        self,
        options: HealOptions,
        answer_BK: Tensor,
        target_BK: Tensor,
        inputs: Mapping[str, Tensor],
        labels: Tensor | None,
    ) -> Tensor:
        """What is minimised of the model's output."""
        ...


@dataclass(frozen=True)
class Classification:
    """KL from the original's classes; `task`: cross-entropy with the labels."""

    drift_name: str = "mean KL"

    def drift(self, answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return kl_divergence(answer_BK, target_BK, temperature=1.0)

    def loss(
        self,
        options: HealOptions,
        answer_BK: Tensor,
        target_BK: Tensor,
        inputs: Mapping[str, Tensor],
        labels: Tensor | None,
    ) -> Tensor:
        loss = options.kl * kl_divergence(answer_BK, target_BK, options.temperature)
        if options.task:
            if labels is None:
                raise InputError("heal.task trains on labels and the data has none; leave it out")
            loss = loss + options.task * F.cross_entropy(answer_BK.float(), labels)
        return loss


@dataclass(frozen=True)
class SentenceEmbedding:
    """1 - cosine to the original's embedding, and the differences of all pairwise similarities within the batch.

    The second term holds the similarities that embeddings are used for (similarity-preserving distillation, Tung and
    Mori 2019, here of cosines); `kl` weighs both, no labels are needed.
    """

    drift_name: str = "1 - cosine"

    def drift(self, answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return (1 - F.cosine_similarity(answer_BK.float(), target_BK.float(), dim=-1)).mean()

    def loss(
        self,
        options: HealOptions,
        answer_BK: Tensor,
        target_BK: Tensor,
        inputs: Mapping[str, Tensor],
        labels: Tensor | None,
    ) -> Tensor:
        if options.task:
            raise InputError("heal.task trains on labels, which embeddings do not have; leave it out")
        mine_BK, theirs_BK = (F.normalize(x.float(), dim=-1) for x in (answer_BK, target_BK))
        similarity = (mine_BK @ mine_BK.T - theirs_BK @ theirs_BK.T).square().mean()
        return options.kl * (self.drift(answer_BK, target_BK, inputs) + PAIRS * similarity)


@dataclass(frozen=True)
class LanguageModel:
    """KL from the original's next tokens, mean over the real ones; `task`: cross-entropy with the text itself.

    Answers (B,N,V) are scores of the token after each, for N tokens and V in the vocabulary.
    """

    drift_name: str = "mean KL"

    def drift(self, answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return token_kl(answer_BK, target_BK, inputs["attention_mask"], temperature=1.0)

    def loss(
        self,
        options: HealOptions,
        answer_BK: Tensor,
        target_BK: Tensor,
        inputs: Mapping[str, Tensor],
        labels: Tensor | None,
    ) -> Tensor:
        loss = options.kl * token_kl(answer_BK, target_BK, inputs["attention_mask"], options.temperature)
        if options.task:
            mask_BN, ids_BN = inputs["attention_mask"], inputs["input_ids"]
            scores_BVN = answer_BK[:, :-1].float().transpose(1, 2)
            surprise_BN = F.cross_entropy(scores_BVN, ids_BN[:, 1:], reduction="none")
            loss = loss + options.task * mean_of_real(surprise_BN, mask_BN[:, 1:] * mask_BN[:, :-1])
        return loss


@dataclass(frozen=True)
class MaskedLanguageModel:
    """KL from the original's tokens (B,N,V) at all real places of texts with masks, hidden and not."""

    drift_name: str = "mean KL"

    def drift(self, answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return token_kl(answer_BK, target_BK, inputs["attention_mask"], temperature=1.0)

    def loss(
        self,
        options: HealOptions,
        answer_BK: Tensor,
        target_BK: Tensor,
        inputs: Mapping[str, Tensor],
        labels: Tensor | None,
    ) -> Tensor:
        if options.task:
            raise InputError("heal.task trains on labels, which hidden tokens do not have here; leave it out")
        return options.kl * token_kl(answer_BK, target_BK, inputs["attention_mask"], options.temperature)


def token_kl(logits_BNV: Tensor, target_BNV: Tensor, mask_BN: Tensor, temperature: float) -> Tensor:
    """T^2 KL from the target's tokens, mean over those that the mask has."""
    log_p_BNV = F.log_softmax(logits_BNV.float() / temperature, dim=-1)
    log_q_BNV = F.log_softmax(target_BNV.float() / temperature, dim=-1)
    distance_BN = F.kl_div(log_p_BNV, log_q_BNV, reduction="none", log_target=True).sum(dim=-1)
    return temperature**2 * mean_of_real(distance_BN, mask_BN)


def mean_of_real(value_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Over the tokens that are no padding. The padding is computed and weighed with 0, so that shapes are fixed."""
    real_BN = mask_BN.to(value_BN.dtype)
    return (value_BN * real_BN).sum() / real_BN.sum().clamp(min=1)


CLASSIFICATION = Classification()
LANGUAGE_MODEL = LanguageModel()
MASKED_LANGUAGE_MODEL = MaskedLanguageModel()
EMBEDDING = SentenceEmbedding()
#: Weight of the pairwise similarities beside the cosines: errors of both are then about equally large.
PAIRS = 10.0


def kl_divergence(logits_BC: Tensor, target_BC: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(target / T) || softmax(logits / T)), mean over the batch (Hinton et al. 2015)."""
    log_p_BC = F.log_softmax(logits_BC.float() / temperature, dim=-1)
    log_q_BC = F.log_softmax(target_BC.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p_BC, log_q_BC, reduction="batchmean", log_target=True)


def binary_kl(logits_BK: Tensor, target_BK: Tensor, temperature: float) -> Tensor:
    """T^2 times the sum over the labels of KL(sigmoid(target / T) || sigmoid(logits / T)), mean over the batch."""
    mine_BK, theirs_BK = logits_BK.float() / temperature, target_BK.float() / temperature
    wanted_BK = theirs_BK.sigmoid()
    return temperature**2 * (binary_cross_entropy(mine_BK, wanted_BK) - binary_cross_entropy(theirs_BK, wanted_BK))


def binary_cross_entropy(logits_BK: Tensor, wanted_BK: Tensor) -> Tensor:
    """Summed over the labels, mean over the batch."""
    return F.binary_cross_entropy_with_logits(logits_BK, wanted_BK, reduction="sum") / len(logits_BK)
