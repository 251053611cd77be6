"""The end of a search: the gate sees the evaluation samples, first for the winner, and something is always handed over.

Up to three candidates may be gated. What they may err together is the recipe's 1 - confidence: the first spends half of
it, the others a quarter each (Bonferroni with unequal parts), whether or not they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.pipeline import Artifact
from compress.search.front import Candidate
from compress.search.limits import Limits
from compress.search.rungs import Scored, Worth
from compress.search.searcher import Priced, Searcher, typed
from compress.search.workers.executor import Place, Work
from compress.stages.artifacts import ShippedModels, Timing
from compress.stages.graph import Job, build_graph
from compress.stages.outcome import judge
from compress.stages.timing import ORIGINAL

#: Parts of what the gates may err together.
SPENT = (0.5, 0.25, 0.25)
#: Above every time in milliseconds.
_HOPELESS = 1e9


@dataclass(frozen=True)
class Gated:
    """A candidate that the gate judged. `ms`: measured here if times are of here, else predicted; `missed`: a line for
    each limit that it does not keep."""

    candidate: Candidate
    job: Job
    artifacts: dict[str, Artifact]
    verdict: str
    reason: str
    ms: float
    original_ms: float
    bytes: int
    memory: int | None
    missed: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether all that was asked for is so."""
        return self.verdict == "pass" and not self.missed


def confidences(confidence: float) -> list[float]:
    """The confidence of each gate, so that all of them together err no more often than one of `confidence` would."""
    return [1 - (1 - confidence) * part for part in SPENT]


def expected_loss(scored: Scored, samples: int) -> float:
    """What the worse end of the gate's interval may come to, in points: every answer that differs from the original's
    counts as lost, which is the worst that can be."""
    differs = max(1 - scored.agreement, 1 / (2 * max(1, len(scored.drifts))))
    return 100 * (differs + 1.645 * (differs / max(1, samples)) ** 0.5)


def worth_of(limits: Limits, original_ms: float, most: float, samples: int) -> Worth:
    """With limits the least drift of what keeps them, as far as is known before the gate; without, the fastest that is
    expected to pass a gate of `most` points on this number of samples."""

    def worth(one: Scored, drift: float) -> float:
        if limits.any():
            return drift + _HOPELESS * len(limits.missed(one.candidate.ms, original_ms, one.bytes, None))
        return one.candidate.ms if expected_loss(one, samples) <= most else _HOPELESS + drift

    return worth


def order(every: Sequence[Scored], worth: Worth) -> list[tuple[Candidate, int]]:
    """Candidates with their steps in the order in which they are gated: each as it healed longest."""
    longest = {one.candidate.choices: one for one in every}
    ranked = sorted(longest.values(), key=lambda one: (worth(one, one.drift), one.candidate.ms))
    return [(one.candidate, one.steps) for one in ranked]


def gated(searcher: Searcher, priced: Priced, ordered: Sequence[tuple[Candidate, int]]) -> Iterator[Gated]:
    """Gate one candidate after the other, the original in the precision that ships last, until one fits."""
    whole = priced.predictor.candidate(0, priced.predictor.library.originals)
    queue = [*ordered[: len(SPENT) - 1], (whole, 0)]
    if any(candidate.choices == () for candidate, _ in queue[:-1]):
        queue = queue[:-1]
    for (candidate, steps), confidence in zip(queue, confidences(searcher.job.recipe.gate.confidence), strict=False):
        searcher.tell(f"gate at {confidence:.2%} confidence: {candidate.label}")
        found = _judged(searcher, priced, candidate, searcher.job_of(candidate, steps, confidence))
        searcher.tell(f"  {found.verdict}: {found.reason}{''.join(f'; missed: {line}' for line in found.missed)}")
        yield found
        if found.fits:
            return


def _judged(searcher: Searcher, priced: Priced, candidate: Candidate, job: Job) -> Gated:
    graph = build_graph(job)
    searcher.run(Work(graph, "verify", Place.HEAVY))
    artifacts = searcher.run(Work(graph, place=Place.TIMING))
    verdict, reason = judge(artifacts["verify"])
    times, shipped = typed(artifacts["timing"], Timing).load(), typed(artifacts["precision"], ShippedModels)
    main = shipped.entries()[0]
    here = searcher.wish.costs is None
    ms = times["median_ms"][main.path] if here else candidate.ms
    original_ms = times["median_ms"][ORIGINAL] if here else priced.original_ms
    memory = _memory(shipped.path / main.path, job) if searcher.wish.limits.memory_bytes is not None else None
    missed = searcher.wish.limits.missed(ms, original_ms, main.bytes, memory)
    return Gated(candidate, job, artifacts, verdict, reason, ms, original_ms, main.bytes, memory, tuple(missed))


def _memory(file: Path, job: Job) -> int:
    """Largest resident memory of a process that runs the file."""
    from runtime.measuring.compare import peak_bytes

    return peak_bytes(file, min(job.target.threads, 4))


def nearest(every: Sequence[Gated]) -> Gated:
    """What is handed over where nothing fits: of those that pass the gate, the one that misses fewest limits."""
    return min(every, key=lambda one: (one.verdict != "pass", len(one.missed), one.ms))
