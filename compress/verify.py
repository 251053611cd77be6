"""python -m compress.verify REFERENCE CANDIDATE: prove that a model still answers as its original does, or fail."""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from compress.cli import start, typer
from targets.errors import InputError, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.judging.questions import Questions
    from compress.judging.side import Side
    from compress.verification.drift import Drift, MetricDrift
    from compress.verification.early import Decision
    from compress.verification.gate import Gate
    from compress.verification.report_data import ExtraCheck, ReportData
    from compress.verification.samples import Samples

DEFAULT_MAX_DROP = 1.0
#: How often --stop-early may give another verdict than all samples would.
STOP_EARLY_ERROR = 0.001


class Options(NamedTuple):
    """The command line."""

    reference: str
    candidate: str
    data: str | None = None
    part: Literal["evaluation", "all"] = "evaluation"
    gate: Path | None = None
    max_drop: float | None = None
    junit: Path | None = None
    sarif: Path | None = None
    summary: Path | None = None
    html: Path | None = None
    as_json: bool = False
    baseline: Path | None = None
    update_baseline: bool = False
    label: str = ""
    steps: tuple[str, ...] = ()
    stop_early: bool = False
    slices: Path | None = None


class Run(NamedTuple):
    """What both sides answered, the gate, and what was certain before all samples were seen. `indices`: of the samples
    seen, in the data; None where the answers come from files. `copies`: samples left out for the content of others."""

    reference: Samples
    candidate: Samples
    gate: Gate
    indices: NDArray[np.int64] | None
    decision: Decision | None = None
    copies: int = 0


class Outcome(NamedTuple):
    """The report, and what a new baseline is made of."""

    report: ReportData
    drift: Drift
    candidate: Samples


def verify(options: Options) -> int:
    """Compare, judge, write what was asked for, and return the exit code: 0 passed, 1 anything else.

    Raises InputError for wrong usage or input, EnvironmentLacks where a side cannot run here.
    """
    from compress.verification import baseline

    _check_places(options)
    outcome = evaluate(options)
    _write(options, outcome.report)
    if options.baseline is not None and options.update_baseline and outcome.report.verdict == "pass":
        baseline.update(options.baseline, outcome.candidate, outcome.drift, options.label)
    _show(options, outcome.report)
    return 0 if outcome.report.verdict == "pass" else 1


def evaluate(options: Options) -> Outcome:
    """Compare and judge, writing nothing.

    Raises InputError for wrong usage or input, EnvironmentLacks where a side cannot run here.
    """
    from compress.verification import baseline as baselines
    from compress.verification.drift import compare

    _check_usage(options)
    gate = _explicit_gate(options)
    accepted = None
    if options.baseline is not None and (options.baseline.exists() or not options.update_baseline):
        accepted = baselines.load(options.baseline)
    questions = _questions(options)
    run = _without_copies(questions, _answer(options, questions, gate))
    slices = _slices(options, questions, run)
    drift = compare(run.reference, run.candidate, run.gate, slices, run.decision, run.copies)
    checks = _other_checks(options, questions, run, drift)
    if accepted is not None and not options.update_baseline:
        checks.append(baselines.check(accepted, run.candidate, run.gate))
    report = _report(options, questions, run, drift, checks)
    if questions is not None:
        report = report.model_copy(update=_origin(options, questions, run, report))
    if accepted is not None:
        report = report.model_copy(update={"curves": baselines.curves(accepted, drift, options.label)})
    return Outcome(report, drift, run.candidate)


def _check_places(options: Options) -> None:
    from runtime.files import check_writable

    for path in filter(None, (options.junit, options.sarif, options.summary, options.html)):
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; give a file")
        if not path.exists():
            check_writable(path.parent)


def _check_usage(options: Options) -> None:
    if options.gate is not None and options.max_drop is not None:
        raise InputError("give --gate or --max-drop, not both")
    if options.max_drop is not None and not 0 <= options.max_drop < math.inf:
        raise InputError(f"--max-drop is {options.max_drop}; allowed: a finite number of 0 or more")
    if options.update_baseline and options.baseline is None:
        raise InputError("--update-baseline needs --baseline FILE, the file to write")
    if options.stop_early and options.baseline is not None:
        raise InputError("--stop-early leaves samples out, which --baseline needs; give one of them")
    if options.label and not options.update_baseline:
        raise InputError("--label names a run in the history of a baseline; give it with --update-baseline")


def _explicit_gate(options: Options) -> Gate | None:
    from compress.verification import gate

    return None if options.gate is None else gate.load(options.gate)


def _default_gate(options: Options, metric: str) -> Gate:
    from compress.verification.gate import default_gate

    return default_gate(metric, DEFAULT_MAX_DROP if options.max_drop is None else options.max_drop)


def _questions(options: Options) -> Questions | None:
    """The data and the sides that are models; None for two files of predictions."""
    from compress.judging.side import is_predictions
    from compress.judging.text_sides import is_text_model

    specs = options.reference, options.candidate
    models = [spec for spec in specs if not is_predictions(spec)]
    texts = any(map(is_text_model, specs))
    if not models:
        if options.steps or options.stop_early or options.slices:
            raise InputError("--step, --stop-early and --slices need models and --data, not two files of predictions")
        return None
    if options.data is None:
        where = "a file, a folder or zoo:NAME" if texts else "a folder, a zip, an npz or zoo:NAME"
        raise InputError(f"{models[0]} has to be run on data: give --data ({where})")
    if texts:
        from compress.judging.text_questions import TextQuestions

        return TextQuestions(*specs, options.data, options.part)
    from compress.judging.image_questions import ImageQuestions

    return ImageQuestions(*specs, options.data, options.part)


def _answer(options: Options, questions: Questions | None, gate: Gate | None) -> Run:
    """Both sides' samples. They run one after the other: two thread pools at once would fight for the cores."""
    import numpy as np

    early = options.stop_early or (gate is not None and gate.stop_early is not None)
    if early and questions is not None and len(questions.sides) == 2:
        return _answer_until_certain(options, questions, gate)
    if options.stop_early:
        raise InputError("--stop-early is for two models that are run; a file of predictions is read whole")
    given = zip((options.reference, options.candidate), _both(questions), strict=True)
    reference, candidate = (_samples(spec, side, questions) for spec, side in given)
    indices = None if questions is None else np.arange(len(candidate))
    return Run(reference, candidate, gate or _default_gate(options, candidate.metrics[0].name), indices)


def _without_copies(questions: Questions | None, run: Run) -> Run:
    """Each content once. Answers from two files have no contents to compare."""
    from compress.verification.distinct import places_of_different

    if questions is None or run.indices is None or not len(run.indices) == len(run.candidate) == len(run.reference):
        return run
    fingerprints = questions.fingerprints()
    places = places_of_different([fingerprints[index] for index in run.indices], run.candidate)
    return run._replace(
        reference=run.reference.take(places),
        candidate=run.candidate.take(places),
        indices=run.indices[places],
        copies=len(run.indices) - len(places) + run.copies,
    )


def _both(questions: Questions | None) -> tuple[Side | None, Side | None]:
    return (None, None) if questions is None else (questions.reference, questions.candidate)


def _samples(spec: str, side: Side | None, questions: Questions | None) -> Samples:
    from compress.verification import files

    if side is None or questions is None:
        return files.load(Path(spec))
    with _progress(spec, len(questions)) as advance:
        return questions.answers(side, advance)


def _answer_until_certain(options: Options, questions: Questions, gate: Gate | None) -> Run:
    """The sides take turns on parts of the data, in random order, until the gate's verdict is certain."""
    import numpy as np

    from compress.verification.distinct import places_of_different
    from compress.verification.early import EarlyStop
    from compress.verification.metrics import METRICS
    from compress.verification.samples import concatenate

    if not METRICS[questions.task.metric].rate:
        raise InputError("stopping early is for the accuracy of classifiers; leave --stop-early (stop_early) out")
    gate = gate or _default_gate(options, questions.task.metric)
    if gate.stop_early is None:
        gate = gate.model_copy(update={"stop_early": STOP_EARLY_ERROR})
    different = places_of_different(questions.fingerprints())
    size = len(different)
    order = np.random.default_rng(gate.seed).permutation(different)
    test = EarlyStop(gate, size)
    parts: tuple[list[Samples], list[Samples]] = ([], [])
    seen = 0
    with _progress(f"{options.reference} and {options.candidate}", 2 * size) as advance:
        for look in test.look_points():
            for side, answers in zip(questions.sides, parts, strict=True):
                answers.append(questions.answers(side, advance, order[seen:look]))
            seen = look
            reference, candidate = concatenate(parts[0]), concatenate(parts[1])
            decision = test.decide(reference, candidate) if seen < size else None
            if decision is not None:
                break
    in_order = np.argsort(order[:seen])
    copies = len(questions) - size
    return Run(reference.take(in_order), candidate.take(in_order), gate, order[:seen][in_order], decision, copies)


def _slices(options: Options, questions: Questions | None, run: Run) -> dict[str, NDArray[np.bool_]]:
    """Parts of the samples seen that are judged by themselves: the user's, else those that the data suggest."""
    from compress.verification import slices

    if questions is None or run.indices is None or len(run.indices) > len(questions):
        return {}
    asked = options.slices is not None or any(check.per == "slice" for check in run.gate.check)
    if run.decision is not None and not asked:
        return {}
    found = questions.slices() if options.slices is None else slices.read(options.slices, questions.names)
    return {name: mask[run.indices] for name, mask in found.items()}


def _other_checks(options: Options, questions: Questions | None, run: Run, drift: Drift) -> list[ExtraCheck]:
    """That the candidate is a model, not the reference's answers by another name, and was not made from the data."""
    from compress.judging.bundles import check_bundles
    from compress.judging.fresh import check_fresh
    from compress.judging.soundness import check_sound
    from compress.verification.outcome import Status
    from compress.verification.report_data import ExtraCheck

    checks = [] if questions is None else [*check_bundles(questions), *check_sound(questions)]
    if questions is not None and run.indices is not None and len(questions.sides) == 2 and drift.metrics:
        checks.append(check_fresh(questions, run.reference, run.candidate, run.indices, drift.identical))
    recorded = questions is None or questions.candidate is None
    if recorded and drift.identical and options.candidate != options.reference:
        same = f"{options.candidate} holds the answers of {options.reference} bit for bit"
        message = f"{same}; record the candidate's own"
        checks.append(ExtraCheck(name="recorded answers", status=Status.ERROR, message=message))
    return checks


def _origin(options: Options, questions: Questions, run: Run, report: ReportData) -> dict[str, Any]:
    """Where the drift comes from: the first step beyond the gate's bound, and the blocks."""
    from compress.verification import localize
    from compress.verification.drift import compare

    notes = list(report.notes)
    update: dict[str, Any] = {}
    if options.steps:

        def measure(spec: str) -> MetricDrift:
            samples = run.candidate
            if spec != options.candidate:
                samples = questions.answers(questions.open(spec), indices=run.indices)
            drift = compare(run.reference, samples, run.gate)
            if not drift.metrics:
                raise InputError(f"--step {spec} cannot be compared: {drift.gate.message}")
            return drift.metrics[0]

        bounds = [(check.bound, check.limit) for check in run.gate.check if check.bound in localize.DROPS]
        bound, limit = bounds[0] if bounds else (localize.DROPS[0], DEFAULT_MAX_DROP)
        update["stages"] = tuple(localize.bisect_steps([*options.steps, options.candidate], measure, bound, limit))
    blocks, reason = questions.blocks()
    update["blocks"] = tuple(blocks)
    notes += [reason] if reason else []
    return {**update, "notes": tuple(notes)}


def _progress(name: str, total: int | None) -> AbstractContextManager[Any]:
    """A context manager whose value is told how many samples are done; it shows nothing off a terminal."""
    if not sys.stderr.isatty():
        return nullcontext(lambda samples: None)
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def shown() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(name, total=total)
            yield lambda samples: progress.advance(task, samples)

    return shown()


def _report(
    options: Options, questions: Questions | None, run: Run, drift: Drift, checks: list[ExtraCheck]
) -> ReportData:
    from importlib.metadata import version

    from compress.verification.report_data import ReportData, Variant

    main = drift.metrics[0] if drift.metrics else None
    reference, candidate = _both(questions)

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
        **_examples(questions, run, drift),
    )


def _examples(questions: Questions | None, run: Run, drift: Drift) -> dict[str, Any]:
    """The most changed samples, by their place among those seen: how they look and where they are from."""
    if questions is None or run.indices is None:
        return {}
    places = [example.index for example in drift.changed]
    origins = [int(run.indices[place]) for place in places]
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


def _write(options: Options, report: ReportData) -> None:
    import os

    from compress.verification.report import append_summary, to_html, to_markdown
    from compress.verification.report_ci import to_junit, to_sarif
    from runtime.files import write_atomic

    location = next((path for path in (options.gate, options.baseline) if path is not None), None)
    if options.junit is not None:
        write_atomic(options.junit, to_junit(report).encode())
    if options.sarif is not None:
        write_atomic(options.sarif, to_sarif(report, location).encode())
    if options.html is not None:
        write_atomic(options.html, to_html(report).encode())
    step = os.environ.get("GITHUB_STEP_SUMMARY")
    for path in {path for path in (options.summary, Path(step) if step else None) if path is not None}:
        append_summary(path, to_markdown(report))


def _show(options: Options, report: ReportData) -> None:
    from compress.verification.report_cases import cases, findings

    view = sys.stderr if options.as_json else sys.stdout
    for case in cases(report):
        print(printable(f"{case.status.value:8} {case.name}: {case.message}"), file=view)
    for note in (*findings(report), *report.notes):
        print(printable(f"note     {note}"), file=view)
    print(f"verdict: {report.verdict.value}", file=view)
    if options.as_json:
        print(report.to_json(), end="")


def _command(
    reference: Annotated[
        str,
        typer.Argument(help="The original: a model, a bundle, an .onnx, a .npz of predictions, a .jsonl of texts"),
    ],
    candidate: Annotated[str, typer.Argument(help="What is to be judged: the same choice")],
    data: Annotated[str | None, typer.Option(help="Labelled images or texts: a folder, a file or zoo:NAME")] = None,
    part: Annotated[str, typer.Option(help="evaluation (what healing never sees) or all")] = "evaluation",
    gate: Annotated[Path | None, typer.Option(help="gate.toml with the bounds")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Largest drop of the task's metric (default 1.0)")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here")] = None,
    sarif: Annotated[Path | None, typer.Option(help="Write SARIF here")] = None,
    summary: Annotated[Path | None, typer.Option(help="Append Markdown here")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the HTML report here")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object")] = False,
    baseline: Annotated[Path | None, typer.Option(help="results.json of the last accepted run")] = None,
    update_baseline: Annotated[bool, typer.Option("--update-baseline", help="Accept this run as the baseline")] = False,
    label: Annotated[str, typer.Option(help="Name of an accepted run in the history, such as a commit")] = "",
    step: Annotated[
        list[str] | None,
        typer.Option(help="A model between the two, in order; the first to exceed the bound is searched for"),
    ] = None,
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Stop predicting once the verdict is certain (to 0.1 %)")
    ] = False,
    slices: Annotated[Path | None, typer.Option(help="CSV of sample,slice: parts to report and to judge")] = None,
) -> int:
    """Compare CANDIDATE with REFERENCE on the same data and pass only what is proven.

    Exit codes: 0 passed, 1 a gate did not pass, 2 wrong usage or input, 3 the environment lacks something,
    70 a fault of edgepress itself, 130 interrupted.
    """
    if part not in ("evaluation", "all"):
        raise InputError(f"--part is {part!r}; allowed: evaluation, all")
    chosen: Literal["evaluation", "all"] = "all" if part == "all" else "evaluation"
    paths = (junit, sarif, summary, html)
    history = (baseline, update_baseline, label)
    options = Options(
        reference,
        candidate,
        data,
        chosen,
        gate,
        max_drop,
        *paths,
        json,
        *history,
        tuple(step or ()),
        stop_early,
        slices,
    )
    return verify(options)


if __name__ == "__main__":
    start(_command, "compress.verify", rich_markup_mode=None)
