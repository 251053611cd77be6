"""Three workers share a cache and are killed with SIGKILL at random moments; what they leave is one worker's.

    python -m benchmarks cluster-kills RESULT.json [--kills 20]

Each worker makes the same trials and the same healed file of the first two layers of vit-mnist, in a cache that is
shared by leases. It says that it is on a machine of its own, so that a dead worker's lease is only free once its heart
has stood still; beats and the time until then are shorter than a cluster's. A killed worker is started again at once. A
round ends when all three have everything; then every artifact is compared with those of a worker that was alone and
never killed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

import targets
from benchmarks.lab import record
from compress import zoo
from compress.data import preprocessing_from_hf
from compress.model import save
from compress.pipeline import Cache, lease
from compress.recipe import load_for_model
from compress.rewrites import parse_options, run_rewrite
from compress.rewrites.calibration import Calibration
from compress.search.choices import Choice
from compress.search.effort import effort
from compress.search.front import Candidate
from compress.search.limits import Limits
from compress.search.searcher import RECIPE, Searcher, Wish
from compress.search.workers.executor import Here, Place, Work
from compress.stages.graph import Job, build_graph
from compress.tasks import read_checkpoint

SETTINGS = [
    *("data.limit=200", "calibrate.samples=32", "calibrate.held_out=32", "heal.flip=false", "heal.mixup=false"),
    'data.source="zoo:mnist-test"',
]
WORKERS, EVERY, EXPIRES = 3, 0.2, 1.5
#: Kills of a round; what follows them runs to its end.
KILLS = 5


def model(folder: Path) -> Path:
    """The first two layers, the head and the embedding."""
    source = zoo.locate("zoo:vit-mnist")
    whole = read_checkpoint(source, preprocessing_from_hf(source))
    nothing = Calibration(whole, lambda: iter([]), lambda text: None)
    layers = list(range(2, len(whole.structure.blocks)))
    save(run_rewrite(*parse_options({"use": "drop-blocks", "layers": layers}), whole, nothing), folder)
    return folder


def work(source: Path, root: Path, name: str) -> None:
    """All that one worker does: every choice tried alone, and the one that drifts least healed and exported."""
    torch.set_num_threads(1)
    place = f"machine of {name} {os.getpid()}"
    lease._place = lambda: place
    lease.EVERY, lease.EXPIRES = EVERY, EXPIRES
    cache = Cache(root)
    recipe = load_for_model("quick", [f'model.source="{source}"', *SETTINGS]).replace(rewrite=())
    job = Job(recipe, RECIPE, targets.load("cpu"), 0, root / f"digests-{name}.json")
    wish = Wish(recipe, Limits(), replace(effort(0.01), choices=1, samples=32, trial_steps=5), None)
    searcher = Searcher(job, wish, Here(cache, (), 0), lambda line: None)
    best = min((one for one in searcher.library().trials if not one.refused), key=lambda one: one.drift)
    candidate = Candidate((Choice.model_validate(best.choices[0]),), best.drift, 1.0, 1.0)
    searcher.run(Work(build_graph(searcher.job_of(candidate, 30)), "export", Place.HEAVY))


def started(source: Path, root: Path, name: str) -> BaseProcess:
    """A worker, forked so that it begins at once."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(source, root, name))
    process.start()
    return process


def artifacts(root: Path) -> dict[str, str]:
    """Kind and key of every artifact in a cache -> its record, which names the SHA-256 of each file."""
    found = sorted(root.glob("*/??/*/artifact.json"))
    return {f"{one.parts[-4]}-{one.parts[-2]}": one.read_text() for one in found}


def at_work(root: Path) -> list[str]:
    """Kinds of the stages that somebody is at."""
    return sorted(one.name.rpartition("-")[0] for one in (root / ".tmp").glob("*@*"))


def round_of(
    source: Path, draw: random.Random, seconds: float, kills: int, alone: dict[str, str]
) -> list[dict[str, object]]:
    """Kill workers at random moments of `seconds`; a row for each kill."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        Cache(root).share()
        workers = {f"w{number}": started(source, root, f"w{number}") for number in range(WORKERS)}
        began = time.monotonic()
        for moment in sorted(draw.uniform(0.2, seconds) for _ in range(kills)):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            victim = draw.choice(sorted(workers))
            row = {"seconds": round(moment, 2), "at_work": at_work(root), "was_running": workers[victim].is_alive()}
            workers[victim].kill()
            workers[victim].join()
            workers[victim] = started(source, root, victim)
            rows.append(row)
        for process in workers.values():
            process.join()
        ended = [process.exitcode for process in workers.values()] == [0] * WORKERS
        same = artifacts(root) == alone
        left = [one.name for side in (".tmp", ".work") for one in (root / side).iterdir()]
    return [{**row, "all_ended_well": ended, "same_bytes": same, "left_behind": len(left)} for row in rows]


def main() -> int:
    """0 if every round ended with the same bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        source = model(Path(name))
        with tempfile.TemporaryDirectory() as place:
            began = time.monotonic()
            process = started(source, Path(place), "alone")
            process.join()
            assert process.exitcode == 0
            seconds, alone = time.monotonic() - began, artifacts(Path(place))
        print(f"alone: {seconds:.1f} s, {len(alone)} artifacts", flush=True)
        rows: list[dict[str, object]] = []
        while len(rows) < args.kills:
            rows += round_of(source, draw, seconds, min(KILLS, args.kills - len(rows)), alone)
            print(rows[-1], flush=True)
    result = {
        "workers": WORKERS,
        "heartbeat_seconds": EVERY,
        "expires_seconds": EXPIRES,
        "alone_seconds": round(seconds, 1),
        "artifacts": len(alone),
        "kills": rows,
    }
    record.save(args.result, {"command": record.command("cluster-kills"), **record.surroundings(), **result})
    return 0 if all(row["same_bytes"] and row["all_ended_well"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
