"""The graph of a run: which stages a recipe, a target and the user's data make, and how they hang together."""

from __future__ import annotations

from collections.abc import Sequence

from compress.pipeline import Graph, Stage
from compress.stages import (
    answers,
    baseline_int8,
    bundle,
    calibrate,
    data,
    engine,
    export,
    heal,
    localize,
    precision,
    report,
    rewrite,
    score,
    source,
    timing,
    verify,
)
from compress.stages.job import Job

__all__ = ["Job", "build_graph", "changes_of"]


def build_graph(job: Job, changes: Sequence[Stage] | None = None) -> Graph:
    """All stages of a run, in the order in which they are shown. `changes`: other stages than the recipe's between the
    original and the model that ships, such as one that reads a model that was healed elsewhere.

    Raises InputError for what can be seen to be wrong before anything runs: a missing model, data that cannot be
    opened, a rewrite that does not exist.
    """
    job.check()
    changed = changes_of(job) if changes is None else list(changes)
    model = changed[-1].name if changed else "source"
    built = engine.stages(job)
    engines = {"engines": built[0].name} if built else {}
    # A rewrite that the model refuses is reported before the original is exported and run, and labels that it knows
    # nothing of before healing.
    return Graph(
        [
            source.stage(job),
            data.stage(job),
            calibrate.stage(job),
            *changed[:-1],
            export.original_stage(job),
            answers.original_stage(job),
            *changed[-1:],
            export.stage(job, model),
            baseline_int8.stage(job, None if changed else "export"),
            precision.stage(job),
            score.stage(job),
            *built,
            answers.stage(job),
            answers.int8_stage(job),
            verify.stage(job),
            localize.stage(job, model, [stage.name for stage in changed]),
            timing.stage(job),
            bundle.stage(job, engines),
            report.stage(job, model, engines),
        ]
    )


def changes_of(job: Job) -> list[Stage]:
    """A stage per rewrite, and healing after them. A model that nothing was done to needs none, unless it is to learn
    other numbers of loops."""
    rewrites = rewrite.stages(job)
    if not rewrites and not job.recipe.heal.loops:
        return []
    return [*rewrites, heal.stage(job, rewrites[-1].name if rewrites else "source")]
