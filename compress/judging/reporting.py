"""What a comparison of any two models reports: the sides, the most changed samples, where the drift comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from compress.judging.answering import both
from compress.judging.options import DEFAULT_MAX_DROP
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.judging.compare import Answered
    from compress.judging.options import Options
    from compress.judging.questions import Questions
    from compress.judging.side import Side
    from compress.verification.drift import Drift, MetricDrift
    from compress.verification.gate import Gate
    from compress.verification.report_data import ExtraCheck, ReportData


def report_of(
    options: Options, questions: Questions | None, answered: Answered, drift: Drift, checks: list[ExtraCheck]
) -> ReportData:
    """The report, without the origin of the drift."""
    from importlib.metadata import version

    from compress.verification.report_data import ReportData, Variant

    main = drift.metrics[0] if drift.metrics else None
    reference, candidate = both(questions)

    def variant(role: Literal["reference", "candidate"], spec: str, side: Side | None) -> Variant:
        return Variant(
            name=role,
            role=role,
            bytes=side.bytes if side else None,
            parameters=side.parameters if side else None,
            metric=getattr(main, role) if main else None,
            note=f"{spec}: " + (f"{side.kind} on {side.runs_on}" if side else "predictions from a file"),
        )

    notes = []
    if drift.identical:
        notes.append("Both sides gave the same outputs bit for bit: do they really come from two different models?")
    notes += questions.notes if questions is not None else ()
    if questions is not None and options.part == "evaluation":
        notes.append(f"Measured on the evaluation part of {options.data}: {drift.samples:,} {questions.noun}.")
    return ReportData(
        schema=1,
        edgepress=version("edgepress"),
        model=options.candidate,
        task=drift.kind if questions is None else questions.task.name,
        target="recorded answers" if questions is None else "this machine",
        recipe="compared with " + options.reference,
        drift=drift,
        checks=tuple(checks),
        variants=(
            variant("reference", options.reference, reference),
            variant("candidate", options.candidate, candidate),
        ),
        environment=_environment([side for side in (reference, candidate) if side is not None]),
        notes=tuple(notes),
        **_examples(questions, answered, drift),
    )


def _examples(questions: Questions | None, answered: Answered, drift: Drift) -> dict[str, Any]:
    """The most changed samples, by their place among those seen: how they look and where they are from."""
    if questions is None or answered.indices is None:
        return {}
    places = [example.index for example in drift.changed]
    origins = [int(answered.indices[place]) for place in places]
    shown = {
        kind: {place: found[origin] for place, origin in zip(places, origins, strict=True)}
        for kind, found in questions.shown(origins).items()
    }
    return {**shown, "sources": {place: questions.names[origin] for place, origin in zip(places, origins, strict=True)}}


def _environment(sides: list[Side]) -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    for package in ("numpy", "scipy", *(("onnxruntime", "torch", "transformers") if sides else ())):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def origin(
    options: Options, questions: Questions, answered: Answered, gate: Gate, report: ReportData
) -> dict[str, Any]:
    """Where the drift comes from: the first step beyond the gate's bound, and the blocks."""
    from compress.verification import localize
    from compress.verification.drift import compare

    notes = list(report.notes)
    update: dict[str, Any] = {}
    if options.steps:

        def measure(spec: str) -> MetricDrift:
            samples = answered.candidate
            if spec != options.candidate:
                samples = questions.answers(questions.open(spec), indices=answered.indices)
            drift = compare(answered.reference, samples, gate)
            if not drift.metrics:
                raise InputError(f"--step {spec} cannot be compared: {drift.gate.message}")
            return drift.metrics[0]

        bounds = [(check.bound, check.limit) for check in gate.check if check.bound in localize.DROPS]
        bound, limit = bounds[0] if bounds else (localize.DROPS[0], DEFAULT_MAX_DROP)
        update["stages"] = tuple(localize.bisect_steps([*options.steps, options.candidate], measure, bound, limit))
    blocks, reason = questions.blocks()
    update["blocks"] = tuple(blocks)
    notes += [reason] if reason else []
    return {**update, "notes": tuple(notes)}
