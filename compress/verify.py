"""python -m compress.verify REFERENCE CANDIDATE: prove that a model still answers as its original does, or fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from compress.cli import start, typer
from compress.judging.evaluate import evaluate
from compress.judging.options import Options
from targets.errors import InputError, one_line, printable

if TYPE_CHECKING:
    from compress.verification.report_data import ReportData


def verify(options: Options) -> int:
    """Compare, judge, write what was asked for, and return the exit code: 0 passed, 1 anything else.

    Raises InputError for wrong usage or input, EnvironmentLacks where a side cannot run here.
    """
    from compress.verification import baseline

    _check_places(options)
    outcome = evaluate(options)
    _write(options, outcome.report)
    passed = outcome.report.verdict == "pass"
    if options.baseline is not None and options.update_baseline:
        if passed:
            baseline.update(options.baseline, outcome.candidate, outcome.drift, options.label)
        else:
            print(f"note: {options.baseline} stays as it was: only a run that passes is accepted", file=sys.stderr)
    _show(options, outcome.report)
    return 0 if passed else 1


def _check_places(options: Options) -> None:
    from runtime.files import check_writable

    for path in filter(None, (options.junit, options.sarif, options.summary, options.html)):
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; give a file")
        if not path.exists():
            check_writable(path.parent)


def _write(options: Options, report: ReportData) -> None:
    import os

    from compress.verification.report import append_summary, to_html, to_markdown
    from compress.verification.report.ci import to_junit, to_sarif
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
    from compress.verification.report.cases import cases, findings

    view = sys.stderr if options.as_json else sys.stdout
    for case in cases(report):
        print(one_line(f"{case.status.value:8} {case.name}: {case.message}"), file=view)
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
    data: Annotated[
        str | None, typer.Option(help="Labelled images, recordings or texts: a folder, a file or zoo:NAME")
    ] = None,
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
    return verify(
        Options(
            reference,
            candidate,
            data,
            part=chosen,
            gate=gate,
            max_drop=max_drop,
            junit=junit,
            sarif=sarif,
            summary=summary,
            html=html,
            as_json=json,
            baseline=baseline,
            update_baseline=update_baseline,
            label=label,
            steps=tuple(step or ()),
            stop_early=stop_early,
            slices=slices,
        )
    )


if __name__ == "__main__":
    start(_command, "compress.verify", rich_markup_mode=None)
