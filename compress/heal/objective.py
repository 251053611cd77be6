"""What healing trains towards, and on what: one objective per kind of answer.

B batch, K what the model gives per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor
from torch.nn import functional as F

from compress.heal.options import HealOptions
from targets.errors import InputError


class Feed(Protocol):
    """Samples to heal on, the same again for the same (seed, step)."""

    #: Whether batches come in more shapes than compiling for each is worth.
    many_shapes: ClassVar[bool]

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
        """What is minimized of the model's output."""
        ...


#: From the answer, the original's, the model's inputs and a temperature to a mean over the batch; 0 if equal.
Compare = Callable[[Tensor, Tensor, Mapping[str, Tensor], float], Tensor]
#: From the answer, the model's inputs and what the data say of them to a mean over the batch.
Teach = Callable[[Tensor, Mapping[str, Tensor], Tensor | None], Tensor]


@dataclass(frozen=True)
class Distance:
    """The objective that weighs `compare` by `kl` and `teach` by `task`. `teach` is a text, why no label is about these
    answers, where nothing teaches. `measure`: what drift is, if not `compare` at temperature 1."""

    compare: Compare
    teach: Teach | str
    drift_name: str = "mean KL"
    measure: Compare | None = None

    def drift(self, answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return (self.measure or self.compare)(answer_BK, target_BK, inputs, 1.0)

    def loss(
        self,
        options: HealOptions,
        answer_BK: Tensor,
        target_BK: Tensor,
        inputs: Mapping[str, Tensor],
        labels: Tensor | None,
    ) -> Tensor:
        """Raises InputError for a `task` without labels to train on."""
        loss = options.kl * self.compare(answer_BK, target_BK, inputs, options.temperature)
        if not options.task:
            return loss
        if isinstance(self.teach, str):
            raise InputError(f"heal.task trains on labels, {self.teach}; leave it out")
        return loss + options.task * self.teach(answer_BK, inputs, labels)


def given(labels: Tensor | None) -> Tensor:
    """The labels. Raises InputError where the data have none."""
    if labels is None:
        raise InputError("heal.task trains on labels and the data has none; leave it out")
    return labels


def _class_kl(answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    return kl_divergence(answer_BK, target_BK, temperature)


def _class_loss(answer_BK: Tensor, inputs: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
    return F.cross_entropy(answer_BK.float(), given(labels))


def _cosine(answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    return (1 - F.cosine_similarity(answer_BK.float(), target_BK.float(), dim=-1)).mean()


def _cosines(answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """1 - cosine to the original's embedding, and the differences of all pairwise similarities within the batch.

    The second term holds the similarities that embeddings are used for (similarity-preserving distillation, Tung and
    Mori 2019, here of cosines).
    """
    mine_BK, theirs_BK = (F.normalize(x.float(), dim=-1) for x in (answer_BK, target_BK))
    similarity = (mine_BK @ mine_BK.T - theirs_BK @ theirs_BK.T).square().mean()
    return _cosine(answer_BK, target_BK, inputs, temperature) + PAIRS * similarity


def each_token(answer_BNV: Tensor, target_BNV: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """T^2 KL from the original's answers for each token, mean over the real ones."""
    return token_kl(answer_BNV, target_BNV, inputs["attention_mask"], temperature)


def _next_tokens(answer_BNV: Tensor, inputs: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
    """Cross-entropy with the text itself: the answers are scores of the token after each."""
    mask_BN, ids_BN = inputs["attention_mask"], inputs["input_ids"]
    scores_BVN = answer_BNV[:, :-1].float().transpose(1, 2)
    surprise_BN = F.cross_entropy(scores_BVN, ids_BN[:, 1:], reduction="none")
    return mean_of_real(surprise_BN, mask_BN[:, 1:] * mask_BN[:, :-1])


def token_kl(logits_BNV: Tensor, target_BNV: Tensor, mask_BN: Tensor, temperature: float) -> Tensor:
    """T^2 KL from the target's tokens, mean over those that the mask has."""
    distance_BN = class_divergence(logits_BNV, target_BNV, temperature).sum(dim=-1)
    return mean_of_real(distance_BN, mask_BN)


def class_divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 times the terms of KL(softmax(target / T) || softmax(logits / T)), in the shape of the logits."""
    log_p, log_q = (F.log_softmax(one.float() / temperature, dim=-1) for one in (logits, target))
    return temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True)


def mean_of_real(value_BN: Tensor, mask_BN: Tensor) -> Tensor:
    """Over the tokens that are not padding. The padding is computed and weighed with 0, so that shapes are fixed."""
    real_BN = mask_BN.to(value_BN.dtype)
    return (value_BN * real_BN).sum() / real_BN.sum().clamp(min=1)


def _squared_error(answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Mean squared difference from the original's number."""
    return (answer_BK.float() - target_BK.float()).square().mean()


def _boxes(answer_BQK: Tensor, target_BQK: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """T^2 KL from the original's classes for each box, and how far it is from the original's, as much as that holds it
    for an object (L1, in DETR's weight)."""
    kl_BQ = class_divergence(answer_BQK[..., :-4], target_BQK[..., :-4], temperature).sum(dim=-1)
    object_BQ = 1 - target_BQK[..., :-4].float().softmax(dim=-1)[..., -1]
    apart_BQ = (answer_BQK[..., -4:] - target_BQK[..., -4:]).float().abs().sum(dim=-1)
    return (kl_BQ + BOX * object_BQ * apart_BQ).mean()


def _maps(answer_BYX: Tensor, target_BYX: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """Mean squared difference from the original's maps, as a share of how much these vary."""
    target_BYX = target_BYX.float()
    spread = (target_BYX - target_BYX.mean(dim=(1, 2), keepdim=True)).square().mean().clamp(min=1e-12)
    return (answer_BYX.float() - target_BYX).square().mean() / spread


def _pixels(answer_BCYX: Tensor, target_BCYX: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """T^2 KL from the original's classes of each pixel."""
    return class_divergence(answer_BCYX.movedim(1, -1), target_BCYX.movedim(1, -1), temperature).sum(dim=-1).mean()


def _each_map(answer_BCYX: Tensor, target_BCYX: Tensor, inputs: Mapping[str, Tensor], temperature: float) -> Tensor:
    """`_maps` of all keypoints."""
    return _maps(answer_BCYX.flatten(0, 1), target_BCYX.flatten(0, 1), inputs, temperature)


CLASSIFICATION = Distance(_class_kl, _class_loss)
LANGUAGE_MODEL = Distance(each_token, _next_tokens)
EMBEDDING = Distance(_cosines, "which embeddings do not have", "1 - cosine", _cosine)
NUMBERS = Distance(_squared_error, "and this model gives a number, not a class", "mean squared error")
BOXES = Distance(_boxes, "which say nothing of a single one of this model's boxes", "mean KL and distance of boxes")
PIXELS = Distance(_pixels, "which say nothing of single pixels", "mean KL of pixels")
KEYPOINTS = Distance(_each_map, "which say nothing of keypoints", "share of the maps' variance")
DEPTH = Distance(_maps, "which say nothing of depth", "share of the maps' variance")
#: Weight of a box's place beside its class.
BOX = 5.0
#: Weight of the pairwise similarities beside the cosines: errors of both are then about equally large.
PAIRS = 10.0


def kl_divergence(logits_BC: Tensor, target_BC: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(target / T) || softmax(logits / T)), mean over the batch (Hinton et al. 2015)."""
    log_p_BC = F.log_softmax(logits_BC.float() / temperature, dim=-1)
    log_q_BC = F.log_softmax(target_BC.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p_BC, log_q_BC, reduction="batchmean", log_target=True)


def binary_kl(logits_BK: Tensor, target_BK: Tensor, temperature: float) -> Tensor:
    """T^2 times the sum over the labels of KL(sigmoid(target / T) || sigmoid(logits / T)), mean over the batch."""
    return binary_divergence(logits_BK, target_BK, temperature).sum() / len(logits_BK)


def binary_divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 KL(sigmoid(target / T) || sigmoid(logits / T)), each on its own, in the shape of the logits."""
    mine, theirs = logits.float() / temperature, target.float() / temperature
    wanted = theirs.sigmoid()
    cost, least = (F.binary_cross_entropy_with_logits(one, wanted, reduction="none") for one in (mine, theirs))
    return temperature**2 * (cost - least)


def binary_cross_entropy(logits_BK: Tensor, wanted_BK: Tensor) -> Tensor:
    """Summed over the labels, mean over the batch."""
    return F.binary_cross_entropy_with_logits(logits_BK, wanted_BK, reduction="sum") / len(logits_BK)
