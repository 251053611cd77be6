"""Several labels at once, judged by the micro F1 of all decisions.

S samples, K labels. A label is given where its logit is above 0, that is its probability above 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample, examples
from compress.verification.kinds.classes import macro_f1, of_the_rarest_class
from compress.verification.metric import F64, Metric, first, kl_failed, micro_f1, most_right, none_right, percent
from compress.verification.samples import Compact, Samples, as_array
from compress.verification.statistics import rate_interval
from targets.errors import InputError


def _counts(p: LabelSets) -> F64:
    """[S, 3]: labels that are right, found and true."""
    found, true = p.found(), p.gold > 0
    return np.stack([(found & true).sum(axis=1), found.sum(axis=1), true.sum(axis=1)], axis=1).astype(np.float64)


def _rows_by_label(p: LabelSets) -> F64:
    """[S, 3 K]: right, found and true, of each label."""
    found, true = p.found(), p.gold > 0
    return np.concatenate([found & true, found, true], axis=1).astype(np.float64)


def _all_turned(rows_SK: F64) -> F64:
    """Each label found where it is not and not found where it is."""
    right, _, true = np.split(rows_SK, 3, axis=1)
    return np.concatenate([0 * right, 1 - true, true], axis=1)


def _agreement_rows(reference: LabelSets, candidate: LabelSets) -> F64:
    return np.asarray((reference.found() == candidate.found()).mean(axis=1, keepdims=True))


def _kl_rows(reference: LabelSets, candidate: LabelSets) -> F64:
    return binary_kl(reference.logits, candidate.logits)[:, None]


def binary_kl(reference_SK: NDArray[np.float32], candidate_SK: NDArray[np.float32]) -> F64:
    """Sum over the labels of KL(Bernoulli(reference) || Bernoulli(candidate)) in nats, [S]."""
    a_SK, b_SK = reference_SK.astype(np.float64), candidate_SK.astype(np.float64)
    yes_SK, no_SK = np.exp(-np.logaddexp(0, -a_SK)), np.exp(-np.logaddexp(0, a_SK))
    gain_SK = yes_SK * (np.logaddexp(0, -b_SK) - np.logaddexp(0, -a_SK))
    loss_SK = no_SK * (np.logaddexp(0, b_SK) - np.logaddexp(0, a_SK))
    return np.asarray(np.maximum((gain_SK + loss_SK).sum(axis=1), 0.0))


@dataclass(frozen=True, eq=False)
class LabelSets(Samples):
    """A model's `logits` float32 [S, K] of labels that exclude one another in no way, and which a sample has, `gold`
    int64 [S, K] of 0 and 1. `names` of the labels.

    Raises InputError if the shapes do not fit together or gold is not 0 and 1.
    """

    logits: NDArray[np.float32]
    gold: NDArray[np.int64]
    names: list[str] = field(default_factory=list)

    kind: ClassVar[str] = "label sets"
    shared: ClassVar[tuple[str, ...]] = ("gold",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("label_f1", "Micro F1 of labels", "%", True, _counts, micro_f1, unseen=none_right, dearest=most_right),
        Metric(
            "label_f1_macro",
            "Macro F1 of labels",
            "%",
            True,
            _rows_by_label,
            macro_f1,
            unseen=_all_turned,
            dearest=of_the_rarest_class,
        ),
        Metric(
            "label_agreement",
            "Same decision on a label as the reference",
            "%",
            True,
            _agreement_rows,
            percent,
            compares=True,
            unseen=np.zeros_like,
        ),
        Metric(
            "label_kl",
            "Mean binary KL from the reference",
            "nats",
            False,
            _kl_rows,
            first,
            compares=True,
            unseen=kl_failed,
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "logits", as_array(self.logits, np.float32, 2, "logits"))
        object.__setattr__(self, "gold", as_array(self.gold, np.int64, 2, "gold"))
        if self.logits.shape != self.gold.shape:
            raise InputError(f"logits of shape {list(self.logits.shape)} for gold labels {list(self.gold.shape)}")
        if not np.isin(self.gold, (0, 1)).all():
            raise InputError("gold labels must be 0 or 1 for each label of each sample")
        if len(self.names) != self.logits.shape[1]:
            raise InputError(f"{len(self.names)} names for {self.logits.shape[1]} labels: give one name per label")

    def found(self) -> NDArray[np.bool_]:
        """The labels that the model gives, [S, K]."""
        return np.asarray(self.logits > 0)

    def knows_nothing(self, confidence: float) -> str | None:
        found, true = self.found(), self.gold > 0
        given, right = int(found.sum()), int((found & true).sum())
        if not given:
            return f"it finds none of its labels in any of {len(self):,} samples: do its labels and the data's fit?"
        chance = float(found.sum(axis=0) @ true.mean(axis=0)) / given
        if rate_interval(right, given, confidence).low > chance:
            return None
        return (
            f"right in {100 * right / given:.1f} % of the {given:,} labels that it gives, where answers without regard "
            f"to the input would be in {100 * chance:.1f} %: do its labels, the data's and its preprocessing fit?"
        )

    def agree(self, other: Self) -> NDArray[np.bool_]:
        return np.asarray((self.found() == other.found()).all(axis=1))

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        moved = binary_kl(self.logits, candidate.logits)
        return examples(
            moved,
            "KL, nats",
            lambda index: self._told(self.logits[index] > 0),
            lambda index: self._told(candidate.logits[index] > 0),
            lambda index: self._told(self.gold[index] > 0),
        )

    def _told(self, given_K: NDArray[np.bool_]) -> str:
        return ", ".join(name for name, given in zip(self.names, given_K, strict=True) if given) or "no label"

    def groups(self) -> list[tuple[str, NDArray[np.bool_]]]:
        """The samples that have each label."""
        return [(name, self.gold[:, place] > 0) for place, name in enumerate(self.names)]

    def compact(self) -> NDArray[Any]:
        return self.found().astype("<u1").ravel()

    def restored(self, data: Compact) -> LabelSets:
        """Logits are 1 for the labels that were given and -1 for the others, which keeps every drop."""
        found = np.frombuffer(data, "<u1").reshape(self.logits.shape)
        if found.max(initial=0) > 1:
            raise ValueError("answers other than 0 and 1")
        return LabelSets(np.where(found > 0, 1, -1).astype(np.float32), self.gold, self.names)
