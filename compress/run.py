"""python -m compress.run: the whole way from a trained model to a gated bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from compress.cli import start, typer
from targets.errors import GateFailed, printable

#: Columns of a table that nobody looks at in a terminal.
_WIDE = 10_000

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a value of the recipe, such as heal.steps=200 or rewrite.hybrid.window=32."),
]


def main(
    target: Annotated[str, typer.Option(help="Device to build for; see `python -m targets list`.")],
    model: Annotated[
        str | None,
        typer.Option(help="zoo:NAME, a model folder or a name on the hub; zoo:vit-cifar10 if not given."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Built-in recipe or a TOML file.")] = "quick",
    data: Annotated[
        str | None,
        typer.Option(help="zoo:NAME, images by class (folder, .zip, .npz) or texts (.tsv, .csv, .jsonl, .txt)."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where bundle/ and report/ go.")] = Path("out"),
    settings: Settings = None,
    max_drop: Annotated[float | None, typer.Option(help="Gate: largest drop in points of the task's metric.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the graph and what is cached; run nothing.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each stage does and why; run nothing.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Use nothing from earlier runs, keep nothing.")] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not hold what was read against transformers' own forward pass.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Standard output is one JSON object.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything that is drawn.")] = 0,
) -> int:
    """Shrink, heal, export, verify and bundle a trained transformer.

    Exit codes: 0 fine, 1 the gate failed (the bundle is marked so), 2 wrong usage or input, 3 something is missing,
    70 a fault of edgepress itself, 130 interrupted.
    """
    from compress.pipeline import Runner
    from compress.pipeline.view import view
    from compress.stages.graph import build_graph
    from compress.whole import cache_for, carry_out, job_of, overrides

    with cache_for(no_cache) as cache:
        job = job_of(target, recipe, overrides(settings, model, data, max_drop, not no_check), seed, cache)
        graph = build_graph(job)
        stream = sys.stderr if as_json else sys.stdout
        remark = job.remark()
        if remark is not None:
            print(printable(f"note: {remark}"), file=stream)
        if dry_run or explain:
            return _show_plan(Runner(graph, cache, seed=seed), explain, as_json)
        outcome = carry_out(graph, cache, seed, out, [view(stream)])
    print(json.dumps(asdict(outcome)) if as_json else printable(outcome.text()))
    if outcome.verdict != "pass":
        raise GateFailed(f"the gate did not pass: {outcome.reason}")
    return 0


def _show_plan(runner: Any, explain: bool, as_json: bool) -> int:
    rows = runner.plan()
    if as_json:
        print(json.dumps({"stages": [asdict(row) for row in rows]}))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "state", "does", *(["why"] if explain else []), box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.name, "cached" if row.cached else "will run", row.does, *([row.why] if explain else []))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)  # nothing is cut for a file or another program
    console.print(table)
    return 0


if __name__ == "__main__":
    start(main, "compress.run")
