"""verify: how far each shipped file drifted from the original, judged by the gate. Fails closed."""

from __future__ import annotations

from compress.pipeline import StageContext
from compress.stages.artifacts import Answers, ShippedModels
from runtime.files import write_atomic


def verify(context: StageContext, reference: Answers, candidates: Answers, models: ShippedModels) -> None:
    """Options: `gate` (the recipe's table), `metric` and `bound` of the task. A failed gate is a result, not an
    error of the stage."""
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
    wanted = reference.load()
    for entry in models.entries():
        drift = compare(wanted, candidates.load(entry["path"]), gate)
        write_atomic(context.folder / f"{entry['path']}.json", drift.to_json().encode())
        context.log(f"{entry['path']}: {drift.status}: {drift.gate.message}")
