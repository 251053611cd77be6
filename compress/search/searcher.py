"""The search itself: tries replacements, prices them, solves for combinations, heals the best ones, gates the winner.

Everything that takes long is a stage in the content-addressed cache, so a search that was killed goes on where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from compress.pipeline import Artifact, Graph, Stage
from compress.recipe import Recipe
from compress.search import pace, probe, timed, trial
from compress.search.choices import CLEAN, Choice, layer_choices, recipe_tables, whole_choices
from compress.search.clock import by_threads, corrected, fastest
from compress.search.effort import Effort
from compress.search.front import Budget, Candidate, Predictor
from compress.search.library import Library
from compress.search.limits import Limits
from compress.search.rungs import OVERHEAD, Scored, Worth, promoted, rungs
from compress.search.shapes import Probe, of_whole, without_layers
from compress.search.solve import Chosen
from compress.search.workers.executor import Executor, Made, Place, Work
from compress.stages import calibrate, data, source
from compress.stages.artifacts import Scores, SourceModel
from compress.stages.graph import Job, build_graph
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.model import Structure
    from runtime.costs import Costs

#: The name of the recipe that a search writes: a run of that file is the same run.
RECIPE = "recipe"
#: Pairs of choices that are tried in one piece of work.
PAIRS = 8
Tell = Callable[[str], None]
A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Wish:
    """What is asked for. `base`: the recipe whose tables but rewrites hold for all candidates; `max_drop` is in its
    gate. `costs`: a file that a device measured, or None to measure here."""

    base: Recipe
    limits: Limits
    effort: Effort
    costs: Path | None


@dataclass(frozen=True)
class Priced:
    """What is known once everything is tried and timed. `original_ms`: of the original in fp32."""

    predictor: Predictor
    original_ms: float
    machine: str


class Searcher:
    """One search for one job, done by `executor`. `job.recipe` is the wish's base without rewrites."""

    def __init__(self, job: Job, wish: Wish, executor: Executor, tell: Tell) -> None:
        self.job, self.wish, self.executor, self.tell = job, wish, executor, tell

    # --- what stages give

    def work(
        self, stages: Iterable[Stage], until: str | None = None, place: Place = Place.LIGHT, weight: float = 1
    ) -> Work:
        """These stages behind those that read the model and choose the samples."""
        first = [source.stage(self.job), calibrate.stage(self.job)]
        return Work(Graph([*first, *stages]), until, place, weight)

    def run(self, work: Work) -> dict[str, Artifact]:
        """What comes of one piece of work. Raises InputError where a stage refuses its input."""
        (outcome,) = self.executor.each([work])
        return accepted(outcome)

    @cached_property
    def original(self) -> SourceModel:
        found = self.run(self.work([], until="source"))["source"]
        assert isinstance(found, SourceModel)
        return found

    @cached_property
    def structure(self) -> Structure:
        return self.original.structure()

    def check(self) -> None:
        """Raises InputError for what is known before any work: costs of another target, and limits that the model
        without any layer misses already."""
        from runtime.costs import Costs

        if self.wish.costs is not None:
            timed.check_costs(self.wish.costs, Costs.read(self.wish.costs), self.job)
        most = self.wish.limits.file_bytes
        least = least_bytes(self.structure, self.job.mode)
        if most is not None and most < least:
            raise InputError(
                f"--max-bytes is {most / 1e6:.3g} MB; without any layer this model has {least / 1e6:.3g} MB in "
                f"{self.job.mode} already, so no file can be that small"
            )

    def prices_of(self, probes: Iterable[Probe], name: str) -> tuple[Costs, dict[str, dict[str, float]]]:
        """Times of these probes, and all that they cost by their ids; a probe that cannot be exported is left out."""
        named, files = self._exported(probes)
        if self.wish.costs is not None:
            costs = timed.taken(self.wish.costs, self.job, named, files)
        else:
            ending = timed.stage(self.job, f"timed-{name}", named)
            stages = [*(probe.stage(self.job, maker, one) for maker, one in named.items()), ending]
            made = self.run(Work(Graph(stages), place=Place.TIMING))
            costs = typed(made[ending.name], timed.Measured).load()
        return costs, by_threads(costs, {named[maker].id: file.bytes for maker, file in files.items()})

    def _exported(self, probes: Iterable[Probe]) -> tuple[dict[str, Probe], dict[str, probe.ProbeFile]]:
        """The probes that can be exported, each once, and their files, by the names of the stages that make them."""
        named = {f"probe-{index}": one for index, one in enumerate({one.id: one for one in probes}.values())}
        works = [Work(Graph([probe.stage(self.job, maker, one)])) for maker, one in named.items()]
        kept, files = {}, {}
        for (maker, one), outcome in zip(named.items(), self.executor.each(works), strict=True):
            if isinstance(outcome, InputError):
                self.tell(f"{one.label} cannot be exported and is left out: {outcome}")
                continue
            kept[maker], files[maker] = one, typed(outcome[maker], probe.ProbeFile)
        return kept, files

    def check_floor(self) -> float:
        """The original's time in fp32. Raises InputError for a latency that the model without any layer misses."""
        base, original = without_layers(self.structure), of_whole(self.structure, "the original", "fp32")
        measured, costs = self.prices_of([base, original], "floor")
        original_ms, floor = fastest(costs[original.id]), fastest(costs[base.id])
        where = f"{measured.cpu}, {measured.backend}"
        self.tell(f"the original takes {original_ms:.3g} ms in fp32 ({where}); times of a search are of there")
        most = self.wish.limits.most_ms(original_ms)
        if most is not None and most < floor:
            raise InputError(
                f"a latency of {most:.3g} ms is out of reach: without any layer this model takes {floor:.3g} ms "
                f"(the original takes {original_ms:.3g} ms in fp32)"
            )
        return original_ms

    def evaluation_samples(self) -> int:
        """How many samples the gate has; none of them is opened for it here but to count."""
        made = self.run(self.work([data.stage(self.job)], until="data"))["data"]
        return int(json.loads((made.path / "data.json").read_text(encoding="utf-8"))["evaluation"])

    def all_probes(self) -> tuple[dict[str, Probe], dict[str, probe.ProbeFile]]:
        """Every small model that a search of this job and effort asks the time of, by the stage that makes it."""
        base, original = without_layers(self.structure), of_whole(self.structure, "the original", "fp32")
        library = self.library()
        every = [base, original, *library.probes(), *self._wholes(library)]
        return self._exported(every)

    # --- the steps of a search

    def library(self) -> Library:
        """Every choice tried alone."""
        effort, structure = self.wish.effort, self.structure
        layers = [layer_choices(structure, layer, effort.choices) for layer in range(len(structure.blocks))]
        sets = [
            [(choice,) for choice in choices]
            for choices in [*layers, whole_choices(structure, effort.wholes)]
            if choices
        ]
        found = self.tried(sets)
        trials = [one for artifact in found for one in artifact.load()]
        kept = sum(not one.refused for one in trials)
        self.tell(f"{kept} of {len(trials)} replacements suit this model; the others were refused")
        return Library(found[0].clean(), trials, {})

    def tried(self, sets: Sequence[Sequence[tuple[Choice, ...]]]) -> list[trial.Trials]:
        """The sets of choices, each set together; each list of sets is a piece of work."""
        effort = self.wish.effort
        stages = [
            trial.stage(self.job, number, tuple(one), effort.samples, effort.trial_steps)
            for number, one in enumerate(sets)
        ]
        works = [
            self.work([stage], place=Place.HEAVY, weight=len(one)) for stage, one in zip(stages, sets, strict=True)
        ]
        outcomes = zip(stages, self.executor.each(works), strict=True)
        return [typed(accepted(outcome)[stage.name], trial.Trials) for stage, outcome in outcomes]

    def priced(self, library: Library, original_ms: float) -> Priced:
        """The library with prices, put right on whole models."""
        asked = list(library.probes())
        costs, table = self.prices_of(asked, "halves")
        library = replace(library, unpriced=frozenset(one.id for one in asked) - table.keys())
        raw = Predictor(library, table)
        drawn, wholes = self._drawn(library), self._wholes(library)
        _, measured = self.prices_of(wholes, "whole") if wholes else (costs, {})
        sums = [raw.summed(frame, solution) for frame, solution in drawn]
        time = corrected([ms for ms, _ in sums], [fastest(measured[one.id]) for one in wholes])
        size = corrected([bytes for _, bytes in sums], [measured[one.id]["bytes"] for one in wholes])
        if time.typical is not None:
            self.tell(
                f"predicted times are off by {time.typical:.1%} (median) and {max(time.errors):.1%} (worst) on "
                f"{len(wholes)} whole models that the prediction did not know"
            )
        return Priced(Predictor(library, table, time, size), original_ms, f"{costs.cpu}, {costs.backend}")

    def _drawn(self, library: Library) -> list[tuple[int, Chosen]]:
        count = self.wish.effort.whole_models
        return list(library.random(count, self.job.seed)) if count else []

    def _wholes(self, library: Library) -> list[Probe]:
        """The whole models on which predicted times are put right."""
        return [
            library.composed(library.frames[frame], solution, f"whole model {number}")
            for number, (frame, solution) in enumerate(self._drawn(library))
        ]

    def with_pairs(self, priced: Priced, candidates: Sequence[Candidate]) -> Priced:
        """The same, with what choices of the same or of neighbouring layers do together, as far as a candidate has
        both."""
        library = priced.predictor.library
        pairs = {
            (first.label, second.label): (first, second)
            for one in candidates
            for first in one.choices
            for second in one.choices
            if _next_to(first, second)
        }
        sets = list(pairs.values())[: self.wish.effort.pairs]
        if not sets:
            return priced
        alone = {Choice.model_validate(one.choices[0]).label: one.drift for one in library.trials if not one.refused}
        more = {}
        tried = self.tried([sets[first : first + PAIRS] for first in range(0, len(sets), PAIRS)])
        for one in (each for artifact in tried for each in artifact.load()):
            first, second = (Choice.model_validate(choice).label for choice in one.choices)
            if not one.refused:
                more[first, second] = one.drift - alone[first] - alone[second]
        known = replace(library, pairs={**library.pairs, **more})
        before = priced.predictor
        return replace(priced, predictor=Predictor(known, before.costs, before.time, before.size))

    def candidates(self, priced: Priced) -> tuple[list[Candidate], list[Candidate]]:
        """The front of what is predicted, and the candidates worth healing, best first."""
        budget = self.budget(priced)
        front = priced.predictor.sweep(replace(budget, ms=None))
        within = [one for one in front if budget.keeps(one)]
        if self.wish.limits.any():
            within = [*priced.predictor.best(budget, most=8), *within]
        if not within:  # what comes nearest, so that something is handed over
            within = list(priced.predictor.cheapest())
        different = list({one.choices: one for one in within}.values())
        if not self.wish.limits.any():
            return front, sorted(different, key=lambda one: one.ms)
        return front, sorted(different, key=lambda one: one.drift)

    def budget(self, priced: Priced) -> Budget:
        limits = self.wish.limits
        return Budget(limits.most_ms(priced.original_ms), limits.file_bytes)

    def healed(self, candidates: Sequence[Candidate], worth: Worth) -> list[Scored]:
        """The candidates through the rungs; all that were scored, those of the last rung last. Ctrl-C ends it with what
        there is by then."""
        stage = pace.stage(self.job, self.executor.machine(Place.HEAVY))
        step_seconds = typed(self.run(self.work([stage], place=Place.HEAVY))["pace"], pace.Pace).seconds()
        plan = rungs(self.wish.effort.healing_seconds, step_seconds)
        limited = self.wish.limits.any()
        going = list(candidates[: plan[0].count] if limited else spread(candidates, plan[0].count))
        every: list[Scored] = []
        try:
            for number, rung in enumerate(plan):
                scored = []
                works = self.healing(going, rung.steps)
                outcomes = self.executor.each(list(works.values()))
                for place, candidate in enumerate(works):
                    left = len(works) - place, *(one.count for one in plan[number + 1 :])
                    minutes = sum(
                        math.ceil(count / self.executor.at_once) * (OVERHEAD + one.steps * step_seconds)
                        for count, one in zip(left, plan[number:], strict=True)
                    )
                    self.tell(
                        f"rung {number + 1} of {len(plan)}, {place + 1} of {len(works)}, about {minutes / 60:.0f} min "
                        f"left: {rung.steps} steps of {candidate.label}"
                    )
                    found = self.scored(candidate, rung.steps, next(outcomes))
                    if found is not None:
                        scored.append(found)
                        every.append(found)
                        best = min(every, key=lambda one: worth(one, one.drift))
                        self.tell(f"  agrees on {found.agreement:.2%}; best so far: {best.text}")
                if number + 1 < len(plan):
                    following = plan[number + 1]
                    kept = promoted(scored, following.count, following.wild, self.job.seed, worth)
                    going = [one.candidate for one in kept]
        except KeyboardInterrupt:
            self.tell("interrupted: the best so far is gated; press Ctrl-C again to leave at once")
        return every

    def healing(self, candidates: Iterable[Candidate], steps: int) -> dict[Candidate, Work]:
        """The rewrites of each candidate, its `steps` of healing, and its score; without those that are refused as
        soon as they are written down."""
        works = {}
        for candidate in candidates:
            try:
                works[candidate] = Work(build_graph(self.job_of(candidate, steps)), "score", Place.HEAVY)
            except InputError as refusal:
                self.tell(f"  left out: {candidate.label}: {refusal}")
        return works

    def scored(self, candidate: Candidate, steps: int, outcome: Made) -> Scored | None:
        """A candidate after `steps` steps, on held-out calibration samples; None for a combination that a rewrite
        refuses though each alone is taken."""
        if isinstance(outcome, InputError):
            self.tell(f"  left out: {outcome}")
            return None
        (first, *_) = typed(outcome["score"], Scores).load()
        return Scored(candidate, steps, first.agreement, first.drift, first.drifts, first.bytes)

    def job_of(self, candidate: Candidate, steps: int, confidence: float | None = None) -> Job:
        """The run of a candidate: what `compress.run` does with the recipe that is written."""
        return replace(self.job, recipe=self.recipe_of(candidate, steps, confidence), recipe_name=RECIPE)

    def recipe_of(self, candidate: Candidate, steps: int, confidence: float | None = None) -> Recipe:
        """`confidence` of the gate, where several candidates may be gated; the base's if not given."""
        base = self.job.recipe
        tables = recipe_tables(candidate.choices, len(self.structure.blocks))
        if not candidate.choices:
            tables = [dict(table) for table in CLEAN]
        narrow = any(choice.slots == ("stream",) for choice in candidate.choices)
        heal = base.heal.replace(
            steps=steps if candidate.choices else 0,
            transfer_steps=0,
            eval_every=max(10, min(base.heal.eval_every, steps // 4)),
            **({"hidden": 0.0} if narrow else {}),
        )
        gate = base.gate if confidence is None else base.gate.replace(confidence=confidence)
        return base.replace(rewrite=tuple(tables), heal=heal, gate=gate)


def spread(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """`count` of the candidates, evenly over their order; the middle one if it is one."""
    places = dict.fromkeys(round((one + 0.5) * len(candidates) / count - 0.5) for one in range(count))
    return [candidates[place] for place in places if place < len(candidates)]


def least_bytes(structure: Structure, mode: str) -> int:
    """Bytes that embedding and head take at least, in this precision, at the smallest rank of a vocabulary table."""
    import torch

    from compress.model import Transformer
    from compress.model.embeds.token import TokenEmbedSpec

    with torch.device("meta"):
        count = Transformer(structure.replace(blocks=(), schedule=())).num_parameters()
    bits = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}[mode]
    table = isinstance(structure.embed, TokenEmbedSpec)
    return count * bits // 8 // (4 if table else 1)


def _next_to(first: Choice, second: Choice) -> bool:
    """Whether two choices are of the same layer or of neighbours, named once."""
    if first.layer is None or second.layer is None or first.slots >= second.slots:
        return False
    return abs(first.layer - second.layer) <= 1


def accepted(outcome: Made) -> dict[str, Artifact]:
    """The artifacts. Raises the InputError of a stage that refused its input."""
    if isinstance(outcome, InputError):
        raise outcome
    return outcome


def typed(artifact: Artifact, kind: type[A]) -> A:
    """The artifact, known to be of a type."""
    assert isinstance(artifact, kind)
    return artifact
