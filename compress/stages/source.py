"""source: the user's model, read into the canonical transformer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import SourceModel

if TYPE_CHECKING:
    from compress.stages.job import Job


class Options(Spec):
    """`path`: the model's folder. `task`: what it is for."""

    path: str
    task: str


def stage(job: Job) -> Stage:
    return Stage(
        name="source",
        does=f"reads {job.recipe.model.source} into the canonical transformer",
        why="every rewrite works on one form, whatever family the checkpoint is of",
        inputs={},
        produces=SourceModel,
        run=read_source,
        options=Options(path=str(job.model_folder), task=job.task.name),
        sources=job.model,
        libraries=("torch", "safetensors"),
    )


def read_source(context: StageContext[Options]) -> None:
    from compress import tasks
    from compress.families import read_checkpoint
    from compress.model import load, save

    folder = Path(context.options.path)
    task = tasks.get(context.options.task)
    if (folder / "structure.json").is_file():
        model = load(folder)
    else:
        model = read_checkpoint(folder, task.preprocessing(folder, context.log), context.log)
    save(model, context.folder)
    task.copy_files(folder, context.folder / "source")
    structure = model.structure
    classes = f", {len(structure.labels)} classes" if structure.labels else ""
    context.log(
        f"{structure.task}: {len(structure.schedule)} blocks of width {structure.hidden_size}, "
        f"{model.num_parameters():,} parameters{classes}"
    )
