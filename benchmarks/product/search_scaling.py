"""How far does a search scale? Simulated clusters of 1 to 1,000 workers, with task times that were measured.

    python -m benchmarks search-scaling RESULT.json

First the tasks of a search are timed on zoo:vit-mnist by running them: a trial stage with one and with three choices,
a file to time, a timing, a step of healing, a score, a gate. Then the search of an hour and of ten hours, and 100
searches of an hour at once, run on simulated workers by discrete events. Real are the numbers of choices and rungs
(`effort`, `layer_choices`, `rungs`), the order of work (`in_turn`) and the time until a lease expires. Ray's policy is
written down here: the first waiting task goes to the first free worker that has what it needs.

`failures`: a worker is lost every 4 hours on average; its task goes on at its checkpoint once its lease has expired,
and the worker comes back after 5 minutes. `stragglers`: one worker of 20 takes three times as long. `preempted`: with
stragglers, and every worker is taken away every 30 minutes on average, as cheap machines are.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import targets
from benchmarks.lab import record
from compress.pipeline import Cache, Graph
from compress.pipeline.events import Event, StageFinished, StageStarted
from compress.pipeline.lease import EXPIRES
from compress.recipe import load_for_model
from compress.search import pace, probe, timed, trial
from compress.search.choices import layer_choices, whole_choices
from compress.search.effort import effort
from compress.search.front import Candidate
from compress.search.limits import Limits
from compress.search.rungs import rungs
from compress.search.searcher import PAIRS, RECIPE, Searcher, Wish
from compress.search.shapes import of_half, of_whole
from compress.search.workers.executor import Here, Place, Work, in_turn
from compress.stages.graph import Job, build_graph

MODEL = "zoo:vit-mnist"
WORKERS = (1, 10, 30, 100, 300, 1000)
#: Mean seconds between losses of a worker, seconds until it is back, and share and slowness of stragglers.
CONDITIONS: dict[str, tuple[float, float, float]] = {
    "undisturbed": (float("inf"), 0.0, 1.0),
    "failures": (4 * 3600.0, 0.0, 1.0),
    "stragglers": (float("inf"), 0.05, 3.0),
    "preempted": (1800.0, 0.05, 3.0),
}
BACK = 300.0


@dataclass(frozen=True)
class Times:
    """Measured seconds of one core; of a clock for `timing` and `report`, which time things.

    `trial_start` of a trial stage before its first choice, `choice` of each; `probe` to write the file of a half,
    `whole` that of a model, and `timing` of one; `step` of healing, `around` for the rest of a candidate, `judged` for
    the gate's samples and `report` for its timings."""

    first: float
    trial_start: float
    choice: float
    probe: float
    whole: float
    timing: float
    pace: float
    step: float
    around: float
    judged: float
    report: float


@dataclass(frozen=True)
class Task:
    """`seconds` on a usual worker; after a loss it goes on at the last whole `checkpoint` seconds."""

    place: Place
    seconds: float
    checkpoint: float


Phase = list[Task]


# --- what is measured


def measured(folder: Path) -> tuple[Times, Any, int]:
    """Times of tasks on this machine, the model's structure, and after how many steps healing keeps a checkpoint."""
    spent: dict[str, float] = {}
    wall: dict[str, float] = {}
    began = 0.0

    def sink(event: Event) -> None:
        nonlocal began
        if isinstance(event, StageStarted):
            began = time.process_time()
        if isinstance(event, StageFinished):
            wall[event.stage] = event.seconds
            clocked = event.stage.startswith("tim")
            spent[event.stage] = event.seconds if clocked else time.process_time() - began

    recipe = load_for_model("quick", [f'model.source="{MODEL}"', "calibrate.held_out=1024"]).replace(rewrite=())
    cache = Cache(folder)
    job = Job(recipe, RECIPE, targets.load("cpu"), 0, folder / "digests.json")
    plan = effort(1.0)
    searcher = Searcher(job, Wish(recipe, Limits(), plan, None), Here(cache, (sink,), 0), lambda line: None)
    structure = searcher.structure
    choices = layer_choices(structure, 3, 3)
    for number, count in enumerate((1, 3)):
        sets = tuple((one,) for one in choices[:count])
        searcher.run(searcher.work([trial.stage(job, number, sets, plan.samples, plan.trial_steps)]))
    half = of_half(structure, 3, "ffn", None, 1)
    assert half is not None
    whole = of_whole(structure, "the original")
    searcher.run(Work(Graph([probe.stage(job, "probe-1", whole)])))
    files = probe.stage(job, "probe-0", half)
    searcher.run(Work(Graph([files, timed.stage(job, "timed-0", {"probe-0": half})])))
    paced = searcher.run(searcher.work([pace.stage(job, searcher.executor.machine(Place.HEAVY))]))
    step = pace.Pace(paced["pace"].path, "").seconds() * spent["pace"] / wall["pace"]
    candidate = Candidate((choices[0],), 0.0, 1.0, 1.0)
    job = searcher.job_of(candidate, 4)
    before = sum(spent.values())
    searcher.run(Work(build_graph(job), "score"))
    scored = sum(spent.values()) - before
    searcher.run(Work(build_graph(job), "verify"))
    verified = sum(spent.values()) - before - scored
    reporting = sum(spent.values())
    searcher.run(Work(build_graph(job)))
    choice = (spent["trial-1"] - spent["trial-0"]) / 2
    times = Times(
        first=spent["source"] + spent["calibrate"],
        trial_start=spent["trial-0"] - choice,
        choice=choice,
        probe=spent["probe-0"],
        whole=spent["probe-1"],
        timing=spent["timed-0"],
        pace=spent["pace"],
        step=step,
        around=scored - spent["heal"],
        judged=verified,
        report=sum(spent.values()) - reporting,
    )
    return times, structure, recipe.heal.eval_every


# --- what is simulated


def phases(times: Times, structure: Any, hours: float, eval_every: int) -> list[Phase]:
    """A search as it is: what is in a phase may go on at once, and phases follow each other."""
    plan = effort(hours)
    layers = [layer_choices(structure, layer, plan.choices) for layer in range(len(structure.blocks))]
    wholes = whole_choices(structure, plan.wholes)
    every = [*layers, *([wholes] if wholes else [])]
    halves = (len(layers[0]) + 2) * (1 + len(wholes))  # the layers of a ViT are alike, so their files are the same

    def alone(place: Place, seconds: float) -> Phase:
        return [Task(place, seconds, seconds)]

    def tried(count: int) -> Task:
        return Task(Place.HEAVY, times.trial_start + count * times.choice, times.choice)

    def priced(files: int, each: float) -> list[Phase]:
        return [[Task(Place.LIGHT, each, each)] * files, alone(Place.TIMING, files * times.timing)]

    def healed(steps: int) -> Task:
        checkpoint = max(10, min(eval_every, steps // 4)) * times.step
        return Task(Place.HEAVY, times.around + steps * times.step, checkpoint)

    return [
        alone(Place.LIGHT, times.first),
        *priced(2, times.whole),
        [tried(len(one)) for one in every],
        *priced(halves, times.probe),
        *(priced(plan.whole_models, times.whole) if plan.whole_models else []),
        *([[tried(PAIRS)] * (plan.pairs // PAIRS)] if plan.pairs else []),
        alone(Place.HEAVY, times.pace),
        *([healed(rung.steps)] * rung.count for rung in rungs(plan.healing_seconds, times.step)),
        alone(Place.HEAVY, times.judged),
        alone(Place.TIMING, times.report),
    ]


@dataclass
class Waiting:
    """A task of a search with `left` seconds of work, which cannot go on before a lease has expired."""

    search: int
    task: Task
    left: float
    not_before: float = 0.0


def simulated(
    searches: Sequence[list[Phase]], workers: int, timing: int, condition: tuple[float, float, float], seed: int
) -> tuple[float, float]:
    """Seconds until the last search is done, and the part of the workers' time in which they worked."""
    between, share, slowness = condition
    draw = np.random.default_rng(seed)
    slow = np.where(draw.random(workers) < share, slowness, 1.0)
    free = {Place.HEAVY: deque(range(workers)), Place.TIMING: deque(range(timing))}
    queue: dict[Place, deque[Waiting]] = {Place.HEAVY: deque(), Place.TIMING: deque()}
    events: list[tuple[float, int, str, Any]] = []
    count, now, busy = itertools.count(), 0.0, 0.0
    phase, open_tasks = [-1] * len(searches), [0] * len(searches)

    def pool(task: Task) -> Place:
        return Place.TIMING if task.place == Place.TIMING else Place.HEAVY

    def go_on(search: int) -> None:
        phase[search] += 1
        if phase[search] == len(searches[search]):
            return
        tasks = searches[search][phase[search]]
        open_tasks[search] = len(tasks)
        for place in in_turn([Work(Graph([]), weight=task.seconds) for task in tasks]):
            queue[pool(tasks[place])].append(Waiting(search, tasks[place], tasks[place].seconds))

    def begin(place: Place) -> None:
        nonlocal busy
        while queue[place] and free[place]:
            one, worker = queue[place].popleft(), free[place].popleft()
            pace_of = float(slow[worker]) if place == Place.HEAVY else 1.0
            start, needs = max(now, one.not_before), one.left * pace_of
            lost = draw.exponential(between) if place == Place.HEAVY and between < float("inf") else float("inf")
            if start + needs <= now + lost:
                busy += needs
                heapq.heappush(events, (start + needs, next(count), "done", (place, worker, one)))
                continue
            done = max(0.0, now + lost - start) / pace_of
            kept = done // one.task.checkpoint * one.task.checkpoint
            again = replace(one, left=one.left - kept, not_before=now + lost + EXPIRES)
            busy += kept * pace_of
            heapq.heappush(events, (now + lost, next(count), "lost", (place, worker, again)))

    for search in range(len(searches)):
        go_on(search)
    ended = 0.0
    while True:
        for place in queue:
            begin(place)
        if not events:
            return ended, busy / (ended * (workers + timing))
        now, _, what, content = heapq.heappop(events)
        if what == "back":
            free[Place.HEAVY].append(content)
            continue
        place, worker, one = content
        if what == "lost":
            queue[place].appendleft(one)
            heapq.heappush(events, (now + BACK, next(count), "back", worker))
            continue
        free[place].append(worker)
        ended = max(ended, now)
        open_tasks[one.search] -= 1
        if not open_tasks[one.search]:
            go_on(one.search)


def rows(searches: Sequence[list[Phase]], name: str, timing: int, seeds: int) -> list[dict[str, Any]]:
    """Hours by the number of workers and what befalls them, medians over some draws."""
    found = []
    for what, condition in CONDITIONS.items():
        for workers in WORKERS:
            draws = [simulated(searches, workers, timing, condition, seed) for seed in range(seeds)]
            seconds, busy = (float(np.median(column)) for column in zip(*draws, strict=True))
            found.append(
                {
                    "searches": name,
                    "condition": what,
                    "workers": workers,
                    "timing_machines": timing,
                    "hours": round(seconds / 3600, 3),
                    "busy": round(busy, 3),
                }
            )
    return found


def critical(search: list[Phase]) -> dict[str, float]:
    """Hours that no number of workers takes away: the longest task of each phase, by place."""
    found = dict.fromkeys((place.value for place in Place), 0.0)
    for tasks in search:
        longest = max(tasks, key=lambda task: task.seconds)
        found[longest.place.value] += longest.seconds / 3600
    return {name: round(hours, 3) for name, hours in found.items()}


def main() -> int:
    """Measure, simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        times, structure, eval_every = measured(Path(name))
    print(times, flush=True)
    hour, ten = (phases(times, structure, hours, eval_every) for hours in (1.0, 10.0))
    table = [
        *rows([hour], "one of an hour", 1, 25),
        *rows([ten], "one of ten hours", 1, 25),
        *rows([hour] * 100, "100 of an hour", 1, 5),
        *rows([hour] * 100, "100 of an hour", 10, 5),
    ]
    result = {
        "model": MODEL,
        "seconds": {name: round(value, 3) for name, value in vars(times).items()},
        "tasks": {"hour": [len(one) for one in hour], "ten_hours": [len(one) for one in ten]},
        "longest_chain_hours": {"hour": critical(hour), "ten_hours": critical(ten)},
        "rows": table,
    }
    record.save(args.result, {"command": record.command("search-scaling"), **record.surroundings(), **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
