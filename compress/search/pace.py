"""pace: how long a step of healing takes on this machine, so that the time that is given is spent as planned."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline import Artifact, Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import CalibrationSet, SourceModel
from compress.stages.samples import healing
from compress.tasks.task import DataChoice
from runtime.files import write_atomic

if TYPE_CHECKING:
    from compress.stages.job import Job, Machine

#: Steps at each rate.
_STEPS = 4


class Options(Spec):
    """Of a step: the samples, and what the time depends on."""

    data: DataChoice
    batch_size: int
    cpus: int
    machine: str


@dataclass(frozen=True)
class Pace(Artifact):
    """Seconds of a step."""

    def seconds(self) -> float:
        return float(json.loads((self.path / "pace.json").read_text(encoding="utf-8"))["step_seconds"])


def stage(job: Job, machine: Machine) -> Stage:
    """`machine`: the one that heals."""
    return Stage(
        name="pace",
        does="times a few steps of healing",
        why="how many candidates can heal for how long follows from it",
        inputs={"original": "source", "calibration": "calibrate"},
        produces=Pace,
        run=measure,
        options=Options(data=job.data, batch_size=job.recipe.heal.batch_size, cpus=machine.cpus, machine=machine.name),
        sources=job.healing,
        libraries=("torch", "accelerate", *job.task.libraries),
    )


def measure(context: StageContext[Options], original: SourceModel, calibration: CalibrationSet) -> None:
    from accelerate import Accelerator

    from compress.heal import HealOptions, heal

    accelerator, model = Accelerator(), original.load()
    few = healing(context.options.data, original).subset(
        calibration.indices("held_out")[: 2 * context.options.batch_size]
    )
    feed = original.task.feed(few, context.seed, accelerator.device)
    stamps: list[tuple[float, float]] = []

    def told(done: float, total: float, note: str = "", **numbers: float) -> None:
        stamps.append((done, time.perf_counter()))

    with tempfile.TemporaryDirectory() as work:
        options = HealOptions(steps=_STEPS, batch_size=context.options.batch_size, eval_every=_STEPS)
        heal(model, model, feed, feed, options, accelerator, Path(work), told, original.task.objective, context.log)
    # A model that has nothing to heal is tried at several rates: more steps than were asked for.
    (first, began), (last, ended) = stamps[0], stamps[-1]
    took = (ended - began) / (last - first)
    write_atomic(context.folder / "pace.json", json.dumps({"step_seconds": took}).encode())
