"""python -m compress.search: from what you can spend to a model that is proven to fit."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from compress.cli import start, typer
from targets.errors import GateFailed, InputError, printable

if TYPE_CHECKING:
    from compress.pipeline import Cache
    from compress.pipeline.events import Sink
    from compress.recipe import Recipe
    from compress.search.gating import Gated
    from compress.search.searcher import Searcher
    from compress.search.workers.executor import Executor
    from compress.stages.graph import Job
    from targets.spec import Target


def main(
    target: Annotated[str, typer.Option(help="Device to build for; see `python -m targets list`.")],
    model: Annotated[
        str | None, typer.Option(help="zoo:NAME or a Hugging Face model folder; zoo:vit-cifar10 if not given.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="zoo:NAME, images by class (folder, .zip, .npz) or texts (.tsv, .csv, .jsonl, .txt)."),
    ] = None,
    max_drop: Annotated[float | None, typer.Option(help="Gate: largest drop in points of the task's metric.")] = None,
    max_latency: Annotated[str | None, typer.Option(help="Of one input, with a unit: 1.2ms.")] = None,
    speedup: Annotated[float | None, typer.Option(help="Over the original in fp32, such as 3.")] = None,
    max_bytes: Annotated[str | None, typer.Option(help="Of the model file, with a unit: 2MB.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Of a process that runs it, with a unit: 64MB.")] = None,
    hours: Annotated[float, typer.Option(help="Time to spend; 0.05 is three minutes.")] = 1.0,
    costs: Annotated[
        Path | None,
        typer.Option(help="What `python -m runtime.costs` measured on the device; without it, times are of here."),
    ] = None,
    write_probes: Annotated[
        Path | None, typer.Option(help="Write the small models that the device is to time into this folder, and stop.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value for all candidates, such as data.limit=500.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where bundle/, report/, recipe.toml and the front go.")] = Path("out"),
    cluster: Annotated[
        str | None,
        typer.Option(help="Do the work on a Ray cluster: HOST:PORT of its head, or auto on one of its machines."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Standard output is one JSON object.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything that is drawn.")] = 0,
) -> int:
    """Search the architecture that keeps all limits and drifts least; without limits, the fastest that passes its gate.

    Exit codes: 0 everything is kept, 1 something is missed (the nearest model that passes its gate is given), 2 wrong
    usage or input, 3 something is missing, 70 a fault of edgepress itself, 130 interrupted.
    """
    import targets
    from compress.pipeline import Cache
    from compress.pipeline.log import JsonLog
    from compress.pipeline.plain import QuietView
    from compress.search.effort import effort
    from compress.search.limits import Limits, milliseconds, size
    from compress.search.searcher import Searcher, Wish
    from compress.search.workers.executor import Place
    from compress.stages.outcome import check_out

    if not 0 < hours <= 1000:
        raise InputError(f"--hours is {hours:g}; allowed: more than 0, at most 1000")
    if speedup is not None and not 0 < speedup < 1000:
        raise InputError(f"--speedup is {speedup:g}; allowed: more than 0, below 1000")
    limits = Limits(
        None if max_latency is None else milliseconds("--max-latency", max_latency),
        speedup,
        None if max_bytes is None else size("--max-bytes", max_bytes),
        None if max_memory is None else size("--max-memory", max_memory),
    )
    cache = Cache()
    recipe = _base([*(settings or []), *_given(model, data, max_drop)])
    job = _job(recipe, targets.load(target), seed, cache.root / "digests.json")
    job.check()
    check_out(out)
    stream = sys.stderr if as_json else sys.stdout

    def tell(line: str) -> None:
        print(printable(line), file=stream, flush=True)

    wish = Wish(recipe, limits, effort(hours), costs)
    sinks = (QuietView(stream), JsonLog(out / "log.jsonl"))
    executor = _executor(cluster, cache, sinks, job)
    searcher = Searcher(replace(job, timed_on=executor.machine(Place.TIMING)), wish, executor, tell)
    if write_probes is not None:
        return _write_probes(searcher, write_probes, tell)
    given, document = _searched(searcher, out)
    print(json.dumps(document) if as_json else printable(_text(given, out)))
    if not given.fits:
        missed = "; ".join(given.missed) or f"the gate did not pass: {given.reason}"
        raise GateFailed(f"nothing keeps every limit ({missed}); {out / 'front.html'} shows which is in the way")
    return 0


def _executor(cluster: str | None, cache: Cache, sinks: tuple[Sink, ...], job: Job) -> Executor:
    from compress.search.workers.executor import Here

    if cluster is None:
        return Here(cache, sinks, job.seed)
    from compress.search.workers.cluster import Ray

    folders = [job.model_folder.absolute(), Path(job.data.source).absolute()]
    return Ray(cluster, cache, sinks, job.seed, [folder for folder in folders if folder.exists()])


def _given(model: str | None, data: str | None, max_drop: float | None) -> list[str]:
    found = [f"model.source={json.dumps(model)}"] if model is not None else []
    found += [f"data.source={json.dumps(data)}"] if data is not None else []
    return found + ([f"gate.max_drop={max_drop}"] if max_drop is not None else [])


def _base(settings: list[str]) -> Recipe:
    """What holds for all candidates: the tables of `quick` for the task, with more samples kept aside to choose on."""
    from compress.recipe import load_for_model

    recipe = load_for_model("quick", settings)
    chosen = any(one.startswith("calibrate.held_out") for one in settings)
    calibrate = recipe.calibrate if chosen else recipe.calibrate.replace(held_out=1024)
    return recipe.replace(rewrite=(), calibrate=calibrate)


def _job(recipe: Recipe, target: Target, seed: int, memo: Path) -> Job:
    from compress.search.searcher import RECIPE
    from compress.stages.graph import Job

    return Job(recipe, RECIPE, target, seed, memo)


def _write_probes(searcher: Searcher, folder: Path, tell: Any) -> int:
    from compress.search.timed import write_probes

    probes, files = searcher.all_probes()
    write_probes(searcher.job, probes, files, folder)
    tell(f"{folder}: {len(probes)} small models; on the device: python -m runtime.costs {folder.name} --out costs.json")
    return 0


def _searched(searcher: Searcher, out: Path) -> tuple[Gated, dict[str, Any]]:
    """Search, and leave everything in `out`; what was given, and the front as JSON."""
    from compress.search.gating import gated, nearest, order, worth_of
    from compress.search.page import Findings, document, write_page
    from compress.search.recipe_file import to_toml
    from compress.stages.outcome import deliver
    from runtime.files import write_atomic

    searcher.check()
    original_ms = searcher.check_floor()
    samples = searcher.evaluation_samples()
    priced = searcher.priced(searcher.library(), original_ms)
    _, first = searcher.candidates(priced)
    priced = searcher.with_pairs(priced, first)
    front, candidates = searcher.candidates(priced)
    worth = worth_of(searcher.wish.limits, original_ms, searcher.job.recipe.gate.max_drop, samples)
    healed = searcher.healed(candidates, worth)
    judged = list(gated(searcher, priced, order(healed, worth)))
    given = next((one for one in judged if one.fits), None) or nearest(judged)
    deliver(given.artifacts, out)
    job = given.job
    command = f"python -m compress.run --target {job.target.name} --recipe recipe.toml --seed {job.seed}"
    remarks = [f"Found by compress.search: {given.candidate.label}.", f"The same bundle again: {command}"]
    write_atomic(out / "recipe.toml", to_toml(job.recipe, remarks).encode())
    found = Findings(
        model=job.recipe.model.source,
        target=job.target.name,
        machine=priced.machine,
        max_drop=job.recipe.gate.max_drop,
        limits=searcher.wish.limits,
        original_ms=original_ms,
        predicted=front,
        healed=healed,
        gated=judged,
        given=given,
        timing_error=priced.predictor.time.typical,
    )
    write_page(found, out)
    return given, document(found)


def _text(given: Gated, out: Path) -> str:
    lines = {
        "found": given.candidate.label,
        "speed": f"{given.ms:.3g} ms, {given.original_ms / given.ms:.2f} times the original in fp32",
        "bytes": f"{given.bytes:,}",
        "report": out / "report" / "report.html",
        "bundle": out / "bundle",
        "recipe": out / "recipe.toml",
        "front": out / "front.html",
        "verdict": f"{given.verdict} ({given.reason})",
    }
    return "\n".join(f"{name + ':':<9}{value}" for name, value in lines.items())


if __name__ == "__main__":
    start(main, "compress.search")
