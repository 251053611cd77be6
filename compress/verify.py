"""python -m compress.verify REFERENCE CANDIDATE: prove that a model still answers as its original does, or fail."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from targets.errors import InputError, run_cli

if TYPE_CHECKING:
    from compress.data import ImageDataset
    from compress.verification.drift import Drift
    from compress.verification.gate import Gate
    from compress.verification.predictions import Samples
    from compress.verification.report_data import ReportData
    from compress.verification.sides import Side

DEFAULT_MAX_DROP = 1.0
_TASKS = {"class logits": "image-classification", "pair scores": "embedding", "sequence losses": "causal-lm"}


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


class Answers(NamedTuple):
    """One side's samples, and its model unless they came from a file."""

    samples: Samples
    side: Side | None


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
        baseline.update(options.baseline, outcome.candidate, outcome.drift)
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
    data = _load_data(options)
    reference, candidate = _both(options, data)
    gate = gate or _default_gate(options, candidate.samples)
    drift = compare(reference.samples, candidate.samples, gate)
    checks = []
    if accepted is not None and not options.update_baseline:
        checks.append(baselines.check(accepted, candidate.samples, gate))
    report = _report(options, drift, checks, reference.side, candidate.side, data)
    return Outcome(report, drift, candidate.samples)


def _check_usage(options: Options) -> None:
    if options.gate is not None and options.max_drop is not None:
        raise InputError("give --gate or --max-drop, not both")
    if options.update_baseline and options.baseline is None:
        raise InputError("--update-baseline needs --baseline FILE, the file to write")


def _explicit_gate(options: Options) -> Gate | None:
    from compress.verification import gate

    return None if options.gate is None else gate.load(options.gate)


def _default_gate(options: Options, samples: Samples) -> Gate:
    from compress.verification.gate import default_gate

    return default_gate(_TASKS[samples.kind], DEFAULT_MAX_DROP if options.max_drop is None else options.max_drop)


def _load_data(options: Options) -> ImageDataset | None:
    from compress.verification.sides import is_predictions

    models = [spec for spec in (options.reference, options.candidate) if not is_predictions(spec)]
    if options.data is None:
        if models:
            raise InputError(f"{models[0]} has to be run on data: give --data (a folder, a zip, an npz or zoo:NAME)")
        return None
    from compress.data import load

    return load(options.data, part=options.part)


def _both(options: Options, data: ImageDataset | None) -> tuple[Answers, Answers]:
    """Both sides' samples. They run one after the other: two thread pools at once would fight for the cores."""
    from compress.verification import predictions
    from compress.verification.sides import is_predictions, open_side, predict

    specs = (options.reference, options.candidate)
    sides = [None if is_predictions(spec) else open_side(spec) for spec in specs]
    known = next((side.preprocessing for side in sides if side is not None and side.preprocessing), None)
    answers = []
    for spec, side in zip(specs, sides, strict=True):
        if side is None or data is None:
            answers.append(Answers(predictions.load(Path(spec)), None))
            continue
        with _progress(spec, len(data)) as advance:
            answers.append(Answers(predict(side, data, known, advance), side))
    return answers[0], answers[1]


def _progress(name: str, total: int) -> AbstractContextManager[Any]:
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
    options: Options,
    drift: Drift,
    checks: list[Any],
    reference: Side | None,
    candidate: Side | None,
    data: ImageDataset | None,
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
            variant("reference", options.reference, reference),
            variant("candidate", options.candidate, candidate),
        ),
        pictures=pictures,
        environment=_environment([side for side in (reference, candidate) if side is not None]),
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
    from compress.verification.report import cases

    view = sys.stderr if options.as_json else sys.stdout
    for case in cases(report):
        print(f"{case.status.value:8} {case.name}: {case.message}", file=view)
    for note in report.notes:
        print(f"note     {note}", file=view)
    print(f"verdict: {report.verdict.value}", file=view)
    if options.as_json:
        print(report.to_json(), end="")


def _command(
    reference: Annotated[
        str, typer.Argument(help="The original: a model, a bundle, an .onnx or a .npz of predictions")
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
) -> None:
    """Compare CANDIDATE with REFERENCE on the same data and pass only what is proven.

    Exit codes: 0 passed, 1 a gate did not pass, 2 wrong usage or input, 3 the environment lacks something.
    """
    if part not in ("evaluation", "all"):
        raise typer.BadParameter(f"{part!r}; allowed: evaluation, all", param_hint="--part")
    chosen: Literal["evaluation", "all"] = "all" if part == "all" else "evaluation"
    options = Options(
        reference, candidate, data, chosen, gate, max_drop, junit, sarif, summary, html, json, baseline, update_baseline
    )
    run_cli(lambda: verify(options))


def main() -> None:
    """The command line."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(_command)
    app(prog_name="python -m compress.verify")


if __name__ == "__main__":
    main()
