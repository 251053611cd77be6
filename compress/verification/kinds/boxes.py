"""Boxes that a model finds, judged by mean average precision as COCO counts it.

S samples, Q boxes found, G true boxes, T thresholds or boxes that are right, C classes, R rows, K columns, B bootstrap
resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.verification.changed import ChangedExample, examples
from compress.verification.metric import F64, Metric, none_right
from compress.verification.samples import Compact, Samples, as_array
from targets.errors import InputError

#: Overlaps from which on a box is the true one.
OVERLAPS = np.linspace(0.5, 0.95, 10)
#: A box that is more probable than this is one that the model claims.
CLAIMED = 0.5
#: Points of recall that precision is averaged over.
_POINTS = 100
#: Numbers of a table of resamples that are worked on at once.
_AT_ONCE = 1 << 22
_SHOWN = 5


def overlap(one_Q4: NDArray[Any], other_G4: NDArray[Any]) -> F64:
    """Intersection over union of boxes (centre, width, height), [Q, G]."""
    (low_Q2, high_Q2), (low_G2, high_G2) = _corners(one_Q4), _corners(other_G4)
    low, high = np.maximum(low_Q2[:, None], low_G2), np.minimum(high_Q2[:, None], high_G2)
    both = np.clip(high - low, 0, None).prod(axis=-1)
    either = (high_Q2 - low_Q2).prod(axis=-1)[:, None] + (high_G2 - low_G2).prod(axis=-1) - both
    return np.asarray(both / np.maximum(either, 1e-12))


def _corners(box_N4: NDArray[Any]) -> tuple[F64, F64]:
    box_N4 = box_N4.astype(np.float64)
    half_N2 = np.clip(box_N4[:, 2:], 0, None) / 2
    return box_N4[:, :2] - half_N2, box_N4[:, :2] + half_N2


def _alike(found_Q6: NDArray[Any], true_G5: NDArray[Any]) -> F64:
    """Overlaps [Q, G], -1 between boxes of different classes."""
    same_QG = found_Q6[:, :1] == true_G5[:, 0]
    return np.where(same_QG, overlap(found_Q6[:, 2:], true_G5[:, 1:]), -1.0)


def _taken(likeness_QG: F64, thresholds_T: F64) -> NDArray[np.bool_]:
    """Whether each box, the most probable first, is the best for a true box that none before it took, [Q, T]."""
    right_QT = np.zeros((len(likeness_QG), len(thresholds_T)), bool)
    if not likeness_QG.size:
        return right_QT
    free_TG = np.ones((len(thresholds_T), likeness_QG.shape[1]), bool)
    every_T = np.arange(len(thresholds_T))
    for place in np.flatnonzero(likeness_QG.max(axis=1) >= thresholds_T[0] - 1e-10):
        left_TG = np.where(free_TG, likeness_QG[place], -1.0)
        best_T = left_TG.argmax(axis=1)
        right_T = left_TG[every_T, best_T] >= thresholds_T - 1e-10
        right_QT[place] = right_T
        free_TG[every_T[right_T], best_T[right_T]] = False
    return right_QT


def _bits(found_Q6: NDArray[Any], true_G5: NDArray[Any], placed: bool) -> F64:
    """The thresholds at which each box is right, as bits; -1 for a box that does not count."""
    order_Q = np.argsort(-found_Q6[:, 1], kind="stable")
    if placed:
        right_QT = _taken(_alike(found_Q6[order_Q], true_G5), OVERLAPS)
        sorted_Q = right_QT @ (1 << np.arange(len(OVERLAPS)))
    else:  # only what is in the image is known: the best box of the class is right, the others do not count
        sorted_Q = np.full(len(order_Q), -1)
        numbers, firsts = np.unique(found_Q6[order_Q, 0], return_index=True)
        sorted_Q[firsts] = np.where(np.isin(numbers, true_G5[:, 0]), (1 << len(OVERLAPS)) - 1, 0)
    bits_Q = np.empty(len(order_Q))
    bits_Q[order_Q] = sorted_Q
    return bits_Q


def _rows(p: FoundBoxes) -> F64:
    """[S, K]: how many classes there are, the true boxes of each, and of all boxes found the class, the score and when
    they are right."""
    classes = int(p.gold[..., 0].max(initial=-1)) + 1
    counts = [(p.gold[..., 0] == number).sum(axis=1) for number in range(classes)]
    bits_SQ = [_bits(p.found[one], p.true(one), bool(p.placed[one])) for one in range(len(p))]
    head_S = np.full(len(p), classes)
    return np.column_stack([head_S, *counts, p.found[..., 0], p.found[..., 1], np.stack(bits_SQ)]).astype(np.float64)


def _average_precision(rows_RK: F64, weights_BR: F64, thresholds: int) -> F64:
    """Mean over the classes that occur and the first thresholds, in percent [B], at 101 points of recall."""
    classes = int(rows_RK[0, 0])
    counts_BC = weights_BR @ rows_RK[:, 1 : 1 + classes]
    class_RQ, score_RQ, bits_RQ = np.split(rows_RK[:, 1 + classes :], 3, axis=1)
    total_B, occurring_BC = np.zeros(len(weights_BR)), counts_BC > 0
    for number in np.flatnonzero(occurring_BC.any(axis=0)):
        chosen = (class_RQ == number) & (bits_RQ >= 0)
        row_D, _ = np.nonzero(chosen)
        order_D = np.argsort(-score_RQ[chosen], kind="stable")
        one = _Class(row_D[order_D], bits_RQ[chosen].astype(np.int64)[order_D], len(rows_RK))
        step = max(1, _AT_ONCE // max(1, len(one.hit_T)))
        for start in range(0, len(weights_BR), step):
            part = slice(start, start + step)
            total_B[part] += one.precision(weights_BR[part], counts_BC[part, number], thresholds)
    return 100 * total_B / np.maximum(occurring_BC.sum(axis=1), 1)


class _Class:
    """The boxes of one class, in the order of their scores: the rows that they are of, and when they are right. Only
    where one is right can precision peak, so the others are no more than counted, T in all."""

    def __init__(self, row_D: NDArray[np.intp], bits_D: NDArray[np.int64], rows: int) -> None:
        place_T = np.flatnonzero(bits_D)
        self.hit_T, self.bits_T = row_D[place_T], bits_D[place_T]
        counts = np.zeros((rows, len(place_T) + 1))
        np.add.at(counts, (row_D, np.searchsorted(place_T, np.arange(len(row_D)))), 1)
        self._until_RT = counts[:, :-1].cumsum(axis=1)

    def precision(self, weights_BR: F64, true_B: F64, thresholds: int) -> F64:
        """Mean precision [B] at 101 points of recall."""
        all_BT, hits_BT = weights_BR @ self._until_RT, weights_BR[:, self.hit_T]
        true_B1, total_B = np.maximum(true_B, 1e-300)[:, None], np.zeros(len(weights_BR))
        for threshold in range(thresholds):
            right_T = (self.bits_T >> threshold & 1).astype(bool)
            right_BT = hits_BT[:, right_T].cumsum(axis=1)
            share_BT = right_BT / np.maximum(all_BT[:, right_T], 1e-300)
            best_BT = np.maximum.accumulate(share_BT[:, ::-1], axis=1)[:, ::-1]
            points_BT = np.floor(_POINTS * right_BT / true_B1 + 1e-9) + 1
            total_B += (best_BT * np.diff(points_BT, axis=1, prepend=0)).sum(axis=1)
        return total_B / (_POINTS + 1) / thresholds


def _mean_precision(name: str, title: str, thresholds: int) -> Metric:
    def of_rows(rows_SK: F64) -> float:
        return float(_average_precision(rows_SK, np.full((1, len(rows_SK)), 1 / len(rows_SK)), thresholds)[0])

    def of_weights(rows_RK: F64, weights_BR: F64) -> F64:
        return _average_precision(rows_RK, weights_BR, thresholds)

    return Metric(name, title, "%", True, _rows, of_rows=of_rows, of_weights=of_weights, unseen=_nothing_right)


def _nothing_right(rows_SK: F64) -> F64:
    """Each sample with all its boxes wrong."""
    first = 1 + int(rows_SK[0, 0])
    places = first + 2 * ((rows_SK.shape[1] - first) // 3)
    return np.column_stack([rows_SK[:, :places], np.minimum(rows_SK[:, places:], 0)])


def _same_rows(reference: FoundBoxes, candidate: FoundBoxes) -> F64:
    """[S, 3]: boxes that both claim, those of the candidate, those of the reference."""
    rows = []
    for one in range(len(reference)):
        was, now = reference.claimed(one), candidate.claimed(one)
        both = _taken(_alike(now, was[:, [0, 2, 3, 4, 5]]), OVERLAPS[:1]).sum()
        rows.append((both, len(now), len(was)))
    return np.array(rows, np.float64).reshape(len(rows), 3)


def _shared(means_BK: F64) -> F64:
    """F1 in percent of (both, now, was); 100 where no side claims anything."""
    total = means_BK[..., 1] + means_BK[..., 2]
    return np.asarray(np.where(total > 0, 200 * means_BK[..., 0] / np.where(total > 0, total, 1.0), 100.0))


@dataclass(frozen=True, eq=False)
class FoundBoxes(Samples):
    """Boxes `found` float32 [S, Q, 6] (class, probability, centre, width and height as shares of the image) beside the
    true ones, `gold` float32 [S, G, 5] (class, -1 behind the last; box). `placed` int64 [S]: 1 where the true boxes are
    known, 0 where only the classes in the image are. `names`: of the classes."""

    found: NDArray[np.float32]
    gold: NDArray[np.float32]
    placed: NDArray[np.int64]
    names: list[str] | None = None

    kind: ClassVar[str] = "boxes"
    shared: ClassVar[tuple[str, ...]] = ("gold", "placed")
    metrics: ClassVar[tuple[Metric, ...]] = (
        _mean_precision("map", "Mean average precision of boxes", len(OVERLAPS)),
        _mean_precision("map50", "Mean average precision at an overlap of 0.5", 1),
        Metric(
            "same_boxes",
            "Boxes that the reference claims, too (F1)",
            "%",
            True,
            _same_rows,
            _shared,
            compares=True,
            unseen=none_right,
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", as_array(self.found, np.float32, 3, "found"))
        object.__setattr__(self, "gold", as_array(self.gold, np.float32, 3, "gold"))
        object.__setattr__(self, "placed", as_array(self.placed, np.int64, 1, "placed"))
        shapes = self.found.shape[2], self.gold.shape[2], len(self.found), len(self.gold)
        if shapes != (6, 5, len(self.placed), len(self.placed)):
            raise InputError(
                f"boxes of shape {list(self.found.shape)} for true ones of {list(self.gold.shape)}; give "
                "[samples, boxes, 6] and [samples, boxes, 5]"
            )

    def true(self, index: int) -> NDArray[np.float32]:
        """The true boxes of a sample [G, 5]."""
        gold_G5 = self.gold[index]
        return gold_G5[gold_G5[:, 0] >= 0]

    def claimed(self, index: int) -> NDArray[np.float32]:
        """The boxes of a sample that the model holds for probable, the most probable first [Q, 6]."""
        found_Q6 = self.found[index]
        found_Q6 = found_Q6[found_Q6[:, 1] > CLAIMED]
        return found_Q6[np.argsort(-found_Q6[:, 1], kind="stable")]

    def knows_nothing(self, confidence: float) -> str | None:
        """Its boxes are to fit the image's own truth better than that of another image."""
        from scipy.stats import binomtest

        other = np.roll(np.arange(len(self)), max(1, len(self) // 2))
        own_S, others_S = (
            np.array([self._fitting(one, int(of)) for one, of in enumerate(places)])
            for places in (np.arange(len(self)), other)
        )
        better, worse = int((own_S > others_S).sum()), int((own_S < others_S).sum())
        if better and binomtest(better, better + worse, 0.5, "greater").pvalue < (1 - confidence) / 2:
            return None
        return f"its boxes in {len(self):,} images fit what is in them no better than what is in others"

    def _fitting(self, index: int, truth: int) -> float:
        bits_Q = _bits(self.found[index], self.true(truth), bool(self.placed[truth]))
        return float((self.found[index, :, 1] * (bits_Q > 0)).sum())

    def agree(self, other: Self) -> NDArray[np.bool_]:
        """On an image in which both claim the same boxes."""
        both_S, now_S, was_S = _same_rows(self, other).T
        return np.asarray((both_S == now_S) & (both_S == was_S))

    def most_changed(self, candidate: Self) -> list[ChangedExample]:
        both_S, now_S, was_S = _same_rows(self, candidate).T
        moved_S = now_S + was_S - 2 * both_S
        return examples(
            moved_S,
            "boxes",
            lambda index: self._told(self.claimed(index)[:, 0]),
            lambda index: self._told(candidate.claimed(index)[:, 0]),
            lambda index: self._told(self.true(index)[:, 0]),
        )

    def _told(self, classes_N: NDArray[np.float32]) -> str:
        names = [str(int(one)) if self.names is None else self.names[int(one)] for one in classes_N]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return ", ".join(names[:_SHOWN]) + more or "none"

    def compact(self) -> NDArray[Any]:
        return self.found.astype("<f4").ravel()

    def restored(self, data: Compact) -> FoundBoxes:
        found = np.frombuffer(data, "<f4").reshape(self.found.shape)
        return FoundBoxes(found, self.gold, self.placed, self.names)
