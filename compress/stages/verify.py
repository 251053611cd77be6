"""verify: how far each shipped file drifted from the original, judged by the gate. Fails closed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline import StageContext
from compress.stages.artifacts import EXITS, STREAMS, VARIANTS, Answers, ShippedModels, SourceModel
from compress.stages.samples import evaluation
from runtime.files import write_atomic

if TYPE_CHECKING:
    from compress.verification.drift import Drift
    from compress.verification.samples import Samples


def verify(
    context: StageContext, original: SourceModel, reference: Answers, candidates: Answers, models: ShippedModels
) -> None:
    """Options: `data`, `gate` (the recipe's table), `metric` and `bound` of the task, `exit` (the probability of an
    early exit, or None). A failed gate is a result, not an error of the stage."""
    from compress.verification.drift import compare
    from compress.verification.gate import parse

    table = context.options["gate"]
    check = {"metric": context.options["metric"], context.options["bound"]: table["max_drop"]}
    gate = parse(
        {
            "confidence": table["confidence"],
            "min_samples": table["min_samples"],
            "seed": context.seed,
            "check": [check],
        }
    )
    data = evaluation(context, original)
    wanted, slices = reference.load(), original.task.slices(data)

    def judge(folder: Path, name: str, given: Samples) -> Drift:
        drift = compare(wanted, given, gate, slices)
        folder.mkdir(exist_ok=True)
        write_atomic(folder / f"{name}.json", drift.to_json().encode())
        context.log(f"{name}: {drift.status}: {drift.gate.message}")
        return drift

    for entry in models.entries():
        judge(context.folder, entry["path"], candidates.load(entry["path"]))
    tokens = original.task.stream_tokens(data)
    if tokens is not None:
        from compress.judging.streaming import check_streaming

        for entry in models.entries():
            longest = original.longest or len(tokens)
            streamed = check_streaming(models.path / entry["path"], tokens, entry["precision"], longest)
            (context.folder / STREAMS).mkdir(exist_ok=True)
            write_atomic(context.folder / STREAMS / f"{entry['path']}.json", streamed.model_dump_json().encode())
            context.log(f"{streamed.name}: {streamed.status}: {streamed.message}")
    offered = []
    for entry in models.variants():
        if judge(context.folder / VARIANTS, entry["path"], candidates.load(entry["path"])):
            offered.append(entry)
        else:
            context.log(f"{entry['path']} is not offered")
    probability, whole = context.options["exit"], models.entries()[-1]
    fewer = [entry for entry in offered if entry["loops"] < whole["loops"]]
    if probability is not None and fewer:
        early = early_exit([candidates.load(entry["path"]) for entry in (*fewer, whole)], probability)
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
