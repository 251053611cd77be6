"""timed: how long every probe takes on this machine, one at a time; or what a device measured of the same files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline import Artifact, Stage, StageContext
from compress.search.probe import ProbeFile
from compress.search.shapes import Probe
from compress.spec import Spec
from runtime.costs import PROBES, Costs, Plan, measured
from runtime.files import sha256_of, write_atomic
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.stages.job import Job

NAME = "costs.json"


class Options(Spec):
    """`ids` of the probes by the parameters that they come in as. The rest is what times depend on."""

    ids: dict[str, str]
    target: str
    precision: str
    backends: tuple[str, ...]
    threads: int
    length: int
    cpus: int
    machine: str


@dataclass(frozen=True)
class Measured(Artifact):
    """Times of all probes."""

    def load(self) -> Costs:
        return Costs.read(self.path / NAME)


def stage(job: Job, name: str, probes: Mapping[str, Probe]) -> Stage:
    """`probes` by the names of the stages that make their files."""
    parameters = {f"p{index}": maker for index, maker in enumerate(probes)}
    return Stage(
        name=name,
        does=f"times {len(probes)} small models here, one at a time",
        why="operations say little of a device's milliseconds",
        inputs=parameters,
        produces=Measured,
        run=time_probes,
        options=Options(
            ids={parameter: probes[maker].id for parameter, maker in parameters.items()},
            target=job.target.name,
            precision=job.mode,
            backends=job.target.backends,
            threads=job.target.threads,
            length=length_of(job, next(iter(probes.values()))),
            cpus=job.timed_on.cpus,
            machine=job.timed_on.name,
        ),
        libraries=("onnxruntime",),
    )


def length_of(job: Job, probe: Probe) -> int:
    """The size of dynamic dimensions that files of this task are timed at."""
    from compress.model import Structure

    return job.task.timing_length(Structure.model_validate(probe.structure))


def time_probes(context: StageContext[Options], **probes: ProbeFile) -> None:
    options = context.options
    plan = Plan(
        options.target,
        options.precision,
        options.backends,
        options.threads,
        options.length,
        {options.ids[parameter]: probe.file for parameter, probe in probes.items()},
    )
    costs = measured(plan, lambda done, total, name: context.progress(done, total))
    write_atomic(context.folder / NAME, costs.to_json().encode())


def write_probes(job: Job, probes: Mapping[str, Probe], files: Mapping[str, ProbeFile], folder: Path) -> None:
    """The small models and what to measure of them, for `python -m runtime.costs FOLDER` on the device."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {}
    for maker, probe in probes.items():
        names[probe.id] = f"{probe.id}.onnx"
        shutil.copyfile(files[maker].file, folder / names[probe.id])
    document = {
        "schema": 1,
        "target": job.target.name,
        "precision": job.mode,
        "backends": list(job.target.backends),
        "threads": job.target.threads,
        "length": length_of(job, next(iter(probes.values()))),
        "files": names,
    }
    write_atomic(folder / PROBES, (json.dumps(document, indent=1) + "\n").encode())


def taken(path: Path, job: Job, probes: Mapping[str, Probe], files: Mapping[str, ProbeFile]) -> Costs:
    """What a device measured. Raises InputError for costs of another target, precision, model or version."""
    costs = Costs.read(path)
    check_costs(path, costs, job)
    again = f"write the files with --write-probes, and measure them on {job.target.name} with python -m runtime.costs"
    for maker, probe in probes.items():
        row = costs.rows.get(probe.id)
        if row is None:
            raise InputError(f"{path} lacks {probe.label}: it is of another model, or of other options; {again}")
        if row.sha256 != sha256_of(files[maker].file):
            raise InputError(f"{path} measured another file of {probe.label} than this version makes; {again}")
    return costs


def check_costs(path: Path, costs: Costs, job: Job) -> None:
    """Raises InputError for costs of another target or precision: what is known before any work."""
    if costs.target != job.target.name:
        raise InputError(f"{path} holds costs of the target {costs.target}, not of {job.target.name}; measure there")
    if costs.precision != job.mode:
        raise InputError(f"{path} holds costs in {costs.precision}, and {job.mode} ships; measure new probes")
