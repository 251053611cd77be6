"""verify: how far each shipped file drifted from the original, judged by the gate. Fails closed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import EXITS, STREAMS, VARIANTS, Answers, Comparison, ShippedModels, SourceModel
from compress.stages.samples import evaluation
from compress.tables import GateTable
from compress.tasks.task import DataChoice
from runtime.files import write_atomic

if TYPE_CHECKING:
    from compress.stages.job import Job
    from compress.verification.drift import Drift
    from compress.verification.samples import Samples


class Options(Spec):
    """`gate`: the recipe's table. `metric`, `bound`: the task's. `exit`: the probability of an early exit, or None."""

    data: DataChoice
    gate: GateTable
    metric: str
    bound: Literal["max_drop", "max_relative_drop"]
    exit: float | None


def stage(job: Job) -> Stage:
    gate, task = job.recipe.gate, job.task
    return Stage(
        name="verify",
        does=f"gate: at most {gate.max_drop:g} {task.limit}, at {100 * gate.confidence:g} % confidence",
        why="fails closed: too few samples, NaN or an error never pass",
        inputs={"original": "source", "reference": "baseline", "candidates": "predict", "models": "precision"},
        produces=Comparison,
        run=verify,
        options=Options(data=job.data, gate=gate, metric=task.metric, bound=task.bound, exit=job.recipe.loops.exit),
        sources=job.evaluation,
        libraries=("numpy", "scipy", "pydantic", *task.libraries),
    )


def verify(
    context: StageContext[Options],
    original: SourceModel,
    reference: Answers,
    candidates: Answers,
    models: ShippedModels,
) -> None:
    """A failed gate is a result, not an error of the stage."""
    from compress.verification.distinct import places_of_different
    from compress.verification.drift import compare
    from compress.verification.gate import parse

    options = context.options
    check = {"metric": options.metric, options.bound: options.gate.max_drop}
    gate = parse(
        {
            "confidence": options.gate.confidence,
            "min_samples": options.gate.min_samples,
            "seed": context.seed,
            "check": [check],
        }
    )
    data = evaluation(options.data, original)
    wanted = reference.load()
    places = places_of_different(data.fingerprints(), wanted)
    copies, slices = len(wanted) - len(places), original.task.slices(data)
    if copies:
        context.log(f"{copies:,} of {len(wanted):,} samples are copies of others: each content counts once")
    wanted, slices = wanted.take(places), {name: mask[places] for name, mask in slices.items()}

    def judge(folder: Path, name: str, given: Samples) -> Drift:
        drift = compare(wanted, given.take(places), gate, slices, copies=copies).at(places)
        folder.mkdir(exist_ok=True)
        write_atomic(folder / f"{name}.json", drift.to_json().encode())
        context.log(f"{name}: {drift.status}: {drift.gate.message}")
        return drift

    for file in models.entries():
        judge(context.folder, file.path, candidates.load(file.path))
    tokens = original.task.stream_tokens(data)
    if tokens is not None:
        from compress.judging.streaming import check_streaming

        for file in models.entries():
            longest = original.longest or len(tokens)
            streamed = check_streaming(models.path / file.path, tokens, file.precision, longest)
            (context.folder / STREAMS).mkdir(exist_ok=True)
            write_atomic(context.folder / STREAMS / f"{file.path}.json", streamed.model_dump_json().encode())
            context.log(f"{streamed.name}: {streamed.status}: {streamed.message}")
    offered = []
    for file in models.variants():
        if judge(context.folder / VARIANTS, file.path, candidates.load(file.path)):
            offered.append(file)
        else:
            context.log(f"{file.path} is not offered")
    probability, whole = options.exit, models.entries()[-1]
    fewer = [file for file in offered if (file.loops or 0) < (whole.loops or 0)]
    if probability is not None and fewer:
        early = early_exit([candidates.load(file.path) for file in (*fewer, whole)], probability)
        judge(context.folder / EXITS, f"exit at {probability:g}", early)


def early_exit(answers: Sequence[Samples], probability: float) -> Samples:
    """What the device answers with `--exit`: the answers are of more and more loops, and each sample keeps the first
    whose likeliest class is at least so probable, or the last."""
    from compress.verification.kinds.classes import Predictions
    from runtime.exit import is_sure

    last = answers[-1]
    assert isinstance(last, Predictions)
    logits = last.logits.copy()
    for earlier in reversed(answers[:-1]):
        assert isinstance(earlier, Predictions)
        sure = is_sure(earlier.logits, probability)
        logits[sure] = earlier.logits[sure]
    return Predictions(logits, last.labels, last.names)
