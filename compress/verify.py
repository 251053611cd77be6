"""python -m compress.verify REFERENCE CANDIDATE: prove that a model still answers as its original does, or fail."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from targets.errors import InputError, run_cli

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.data import ImageDataset, TextDataset
    from compress.verification.drift import Drift, MetricDrift
    from compress.verification.early import Decision
    from compress.verification.gate import Gate
    from compress.verification.predictions import Samples
    from compress.verification.report_data import ExtraCheck, ReportData
    from compress.verification.sides import Side
    from runtime.golden import GoldenResult

DEFAULT_MAX_DROP = 1.0
#: How often --stop-early may give another verdict than all samples would.
STOP_EARLY_ERROR = 0.001
_TASKS = {
    "class logits": "image-classification",
    "pair scores": "embedding",
    "embedded pairs": "embedding",
    "embeddings": "embedding",
    "sequence losses": "causal-lm",
    "next tokens": "causal-lm",
    "text outputs": "text-generation",
}


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


class Pair(NamedTuple):
    """Both models; None for a side that is a file of predictions."""

    reference: Side | None
    candidate: Side | None

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """What serves a side that does not say itself how images are prepared."""
        return next((side.preprocessing for side in self if side is not None and side.preprocessing), None)


class Run(NamedTuple):
    """What both sides answered on which data, the gate, and what was certain before all samples were seen."""

    reference: Samples
    candidate: Samples
    gate: Gate
    data: ImageDataset | None
    decision: Decision | None = None


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

    outcome = evaluate(options)
    _write(options, outcome.report)
    if options.baseline is not None and options.update_baseline and outcome.drift:
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
    if _on_texts(options):
        data = None
        pair, run = _answer_texts(options, gate)
    else:
        data = _load_data(options)
        pair = _open(options)
        run = _answer(options, pair, data, gate)
    drift = compare(run.reference, run.candidate, run.gate, decision=run.decision)
    checks = _other_checks(options, pair, data, drift)
    if accepted is not None and not options.update_baseline:
        checks.append(baselines.check(accepted, run.candidate, run.gate))
    report = _report(options, pair, drift, checks, run.data)
    if data is not None:
        report = report.model_copy(update=_origin(options, pair, data, run, drift, report))
    if accepted is not None:
        report = report.model_copy(update={"curves": baselines.curves(accepted, drift, options.label)})
    return Outcome(report, drift, run.candidate)


def _check_usage(options: Options) -> None:
    if options.gate is not None and options.max_drop is not None:
        raise InputError("give --gate or --max-drop, not both")
    if options.update_baseline and options.baseline is None:
        raise InputError("--update-baseline needs --baseline FILE, the file to write")
    if options.stop_early and options.baseline is not None:
        raise InputError("--stop-early leaves samples out, which --baseline needs; give one of them")
    if options.label and not options.update_baseline:
        raise InputError("--label names a run in the history of a baseline; give it with --update-baseline")


def _explicit_gate(options: Options) -> Gate | None:
    from compress.verification import gate

    return None if options.gate is None else gate.load(options.gate)


def _default_gate(options: Options, kind: str) -> Gate:
    from compress.verification.gate import default_gate

    return default_gate(_TASKS[kind], DEFAULT_MAX_DROP if options.max_drop is None else options.max_drop)


def _load_data(options: Options) -> ImageDataset | None:
    from compress.verification.sides import is_predictions

    models = [spec for spec in (options.reference, options.candidate) if not is_predictions(spec)]
    if options.data is None:
        if models:
            raise InputError(f"{models[0]} has to be run on data: give --data (a folder, a zip, an npz or zoo:NAME)")
        return None
    from compress.data import load

    return load(options.data, part=options.part)


def _open(options: Options) -> Pair:
    from compress.verification.sides import is_predictions, open_side

    specs = (options.reference, options.candidate)
    return Pair(*(None if is_predictions(spec) else open_side(spec) for spec in specs))


def _answer(options: Options, pair: Pair, data: ImageDataset | None, gate: Gate | None) -> Run:
    """Both sides' samples. They run one after the other: two thread pools at once would fight for the cores."""
    if data is not None and pair.reference is not None and pair.candidate is not None:
        gate = gate or _default_gate(options, "class logits")
        if options.stop_early and gate.stop_early is None:
            gate = gate.model_copy(update={"stop_early": STOP_EARLY_ERROR})
        if gate.stop_early is not None:
            return _answer_until_certain(options, pair, data, gate)
    elif options.stop_early:
        raise InputError("--stop-early is for two models that are run; a file of predictions is read whole")
    reference = _samples(options.reference, pair.reference, pair, data)
    candidate = _samples(options.candidate, pair.candidate, pair, data)
    return Run(reference, candidate, gate or _default_gate(options, candidate.kind), data)


def _on_texts(options: Options) -> bool:
    from compress.verification.text_sides import is_text_model

    return any(is_text_model(spec) for spec in (options.reference, options.candidate))


def _answer_texts(options: Options, gate: Gate | None) -> tuple[Pair, Run]:
    """Both sides' answers to texts, one side after the other."""
    from compress.verification import predictions
    from compress.verification.sides import is_predictions
    from compress.verification.text_sides import ask

    if options.stop_early or options.steps:
        raise InputError("--stop-early and --steps are for images; leave them out for texts")
    sides: list[Side | None] = []
    answers: list[Samples] = []
    for spec in (options.reference, options.candidate):
        if is_predictions(spec):
            sides.append(None)
            answers.append(predictions.load(Path(spec)))
            continue
        if options.data is None:
            raise InputError(f"{spec} has to be run on texts: give --data (a file, a folder or zoo:NAME)")
        with _progress(spec, None) as advance:
            side, samples = ask(spec, options.data, options.part, advance)
        sides.append(side)
        answers.append(samples)
    reference, candidate = answers
    return Pair(*sides), Run(reference, candidate, gate or _default_gate(options, candidate.kind), None)


def _samples(spec: str, side: Side | None, pair: Pair, data: ImageDataset | None) -> Samples:
    from compress.verification import predictions
    from compress.verification.sides import predict

    if side is None or data is None:
        return predictions.load(Path(spec))
    with _progress(spec, len(data)) as advance:
        return predict(side, data, pair.preprocessing, advance)


def _answer_until_certain(options: Options, pair: Pair, data: ImageDataset, gate: Gate) -> Run:
    """The sides take turns on parts of the data, in random order, until the gate's verdict is certain."""
    import numpy as np

    from compress.verification.early import EarlyStop
    from compress.verification.predictions import concatenate
    from compress.verification.sides import predict

    assert pair.reference is not None and pair.candidate is not None
    order = np.random.default_rng(gate.seed).permutation(len(data))
    test = EarlyStop(gate, len(data))
    parts: tuple[list[Samples], list[Samples]] = ([], [])
    seen = 0
    with _progress(f"{options.reference} and {options.candidate}", 2 * len(data)) as advance:
        for look in test.look_points():
            part = data.subset(order[seen:look])
            for side, answers in zip((pair.reference, pair.candidate), parts, strict=True):
                answers.append(predict(side, part, pair.preprocessing, advance))
            seen = look
            reference, candidate = concatenate(parts[0]), concatenate(parts[1])
            decision = test.decide(reference, candidate) if seen < len(data) else None
            if decision is not None:
                break
    in_order = np.argsort(order[:seen])
    shown = data.subset(order[:seen][in_order])
    return Run(reference.take(in_order), candidate.take(in_order), gate, shown, decision)


def _other_checks(options: Options, pair: Pair, data: ImageDataset | None, drift: Drift) -> list[ExtraCheck]:
    """That the candidate is a model, not the reference's answers by another name, and was not made from the data."""
    from compress.verification.fresh import check_fresh
    from compress.verification.outcome import Status
    from compress.verification.report_data import ExtraCheck

    checks = _bundle_checks(options, pair, data)
    if data is not None and pair.reference is not None and pair.candidate is not None:
        checks.append(check_fresh(pair.reference, pair.candidate, data, pair.preprocessing, drift.identical))
    if pair.candidate is None and drift.identical and options.candidate != options.reference:
        same = f"{options.candidate} holds the answers of {options.reference} bit for bit"
        message = f"{same}; record the candidate's own"
        checks.append(ExtraCheck(name="recorded answers", status=Status.ERROR, message=message))
    return checks


def _bundle_checks(options: Options, pair: Pair, data: ImageDataset | None) -> list[ExtraCheck]:
    """What bundles tell of themselves: the answers they were made with, and the samples they were made from."""
    from compress.data import load_texts

    checks = []
    for side in pair:
        if side is not None and side.golden is not None:
            checks.append(_check_golden(side.golden()))
        if side is not None and side.seen is not None and options.data is not None:
            judged = load_texts(options.data, part=options.part) if data is None else data
            checks.append(_check_unseen(side.seen, judged))
    return checks


def _check_golden(results: list[GoldenResult]) -> ExtraCheck:
    """That the model still gives the answers that it gave when its bundle was made."""
    from compress.verification.outcome import Status
    from compress.verification.report_data import ExtraCheck

    worst = max(results, key=lambda result: result.max_error / result.atol if result.atol else result.max_error)
    text = f"{worst.name} off by {worst.max_error:.3g} at most, allowed {worst.atol:.3g}"
    if all(results):
        return ExtraCheck(name="golden samples", status=Status.PASS, message=f"answers as when it was made: {text}")
    return ExtraCheck(name="golden samples", status=Status.ERROR, message=f"answers otherwise than when made: {text}")


def _check_unseen(seen: NDArray[np.uint64], data: ImageDataset | TextDataset) -> ExtraCheck:
    """That the model was not made from the samples that it is judged on. `seen`: their fingerprints."""
    from compress.data.seen import overlap
    from compress.verification.outcome import Status
    from compress.verification.report_data import ExtraCheck

    places, name = overlap(data.fingerprints(), seen), "unseen samples"
    if len(places) == 0:
        message = f"none of the {len(data):,} samples is one that the model was calibrated or healed on"
        return ExtraCheck(name=name, status=Status.PASS, message=message)
    message = f"{len(places):,} of {len(data):,} samples are ones that the model was calibrated or healed on"
    return ExtraCheck(name=name, status=Status.ERROR, message=f"{message} (first: {data.names[places[0]]})")


def _origin(
    options: Options, pair: Pair, data: ImageDataset, run: Run, drift: Drift, report: ReportData
) -> dict[str, Any]:
    """Where the drift comes from: the first step beyond the gate's bound, and the blocks."""
    from compress.verification import localize
    from compress.verification.drift import compare
    from compress.verification.sides import open_side, predict

    notes = list(report.notes)
    update: dict[str, Any] = {}
    if options.steps:
        bound = next((check.limit for check in run.gate.check if check.bound == "max_drop"), DEFAULT_MAX_DROP)

        def measure(spec: str) -> MetricDrift:
            samples = run.candidate
            if spec != options.candidate:
                samples = predict(open_side(spec), data, pair.preprocessing)
            return compare(run.reference, samples, run.gate).metrics[0]

        rows = localize.bisect_steps([*options.steps, options.candidate], measure, bound)
        update["stages"] = tuple(rows)
    if pair.reference is not None and pair.candidate is not None:
        blocks, reason = localize.block_rows(pair.reference, pair.candidate, data, pair.preprocessing)
        update["blocks"] = tuple(blocks)
        notes += [reason] if reason else []
    return {**update, "notes": tuple(notes)}


def _progress(name: str, total: int | None) -> AbstractContextManager[Any]:
    """A context manager whose value is told how many images are done; it shows nothing off a terminal."""
    if not sys.stderr.isatty():
        return nullcontext(lambda images: None)
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def shown() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(name, total=total)
            yield lambda images: progress.advance(task, images)

    return shown()


def _report(
    options: Options, pair: Pair, drift: Drift, checks: list[ExtraCheck], data: ImageDataset | None
) -> ReportData:
    from importlib.metadata import version

    from compress.verification.report import picture
    from compress.verification.report_data import ReportData, Variant

    main = drift.metrics[0] if drift.metrics else None

    def variant(role: Literal["reference", "candidate"], spec: str, side: Side | None) -> Variant:
        return Variant(
            name=role,
            role=role,
            bytes=side.bytes if side else None,
            parameters=side.parameters if side else None,
            metric=getattr(main, role) if main else None,
            note=f"{spec}: " + (f"{side.kind} on {side.runs_on}" if side else "predictions from a file"),
        )

    changed = [example.index for example in drift.changed]
    pictures = {} if data is None else dict(zip(changed, map(picture, data.raw(changed)), strict=True))
    notes = []
    if drift.identical:
        notes.append("Both sides gave the same outputs bit for bit: do they really come from two different models?")
    if data is not None and options.part == "evaluation":
        notes.append(f"Measured on the evaluation part of {options.data}: {len(data):,} images.")
    return ReportData(
        schema=1,
        edgepress=version("edgepress"),
        model=options.candidate,
        task=_TASKS[drift.kind],
        target="this machine" if data is not None else "as recorded",
        recipe="compared with " + options.reference,
        drift=drift,
        checks=tuple(checks),
        variants=(
            variant("reference", options.reference, pair.reference),
            variant("candidate", options.candidate, pair.candidate),
        ),
        pictures=pictures,
        sources={} if data is None else {index: data.names[index] for index in changed},
        environment=_environment([side for side in pair if side is not None]),
        notes=tuple(notes),
    )


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

    from compress.verification.report import append_summary, to_html, to_junit, to_markdown, to_sarif
    from runtime.files import write_atomic

    location = (options.gate or Path("gate.toml")).as_posix()
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
    from compress.verification.report import cases, findings

    view = sys.stderr if options.as_json else sys.stdout
    for case in cases(report):
        print(f"{case.status.value:8} {case.name}: {case.message}", file=view)
    for note in (*findings(report), *report.notes):
        print(f"note     {note}", file=view)
    print(f"verdict: {report.verdict.value}", file=view)
    if options.as_json:
        print(report.to_json(), end="")


def _command(
    reference: Annotated[
        str,
        typer.Argument(help="The original: a model, a bundle, an .onnx, a .npz of predictions, a .jsonl of texts"),
    ],
    candidate: Annotated[str, typer.Argument(help="What is to be judged: the same choice")],
    data: Annotated[str | None, typer.Option(help="Folder, zip or npz of labelled images, or zoo:NAME")] = None,
    part: Annotated[str, typer.Option(help="evaluation (images that healing never sees) or all")] = "evaluation",
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
) -> None:
    """Compare CANDIDATE with REFERENCE on the same data and pass only what is proven.

    Exit codes: 0 passed, 1 a gate did not pass, 2 wrong usage or input, 3 the environment lacks something.
    """
    if part not in ("evaluation", "all"):
        raise typer.BadParameter(f"{part!r}; allowed: evaluation, all", param_hint="--part")
    chosen: Literal["evaluation", "all"] = "all" if part == "all" else "evaluation"
    paths = (junit, sarif, summary, html)
    history = (baseline, update_baseline, label)
    options = Options(
        reference, candidate, data, chosen, gate, max_drop, *paths, json, *history, tuple(step or ()), stop_early
    )
    run_cli(lambda: verify(options))


def main() -> None:
    """The command line."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(_command)
    app(prog_name="python -m compress.verify")


if __name__ == "__main__":
    main()
