"""source: the user's model, read into the canonical transformer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import HELD, SourceModel

if TYPE_CHECKING:
    from compress.model import Transformer
    from compress.stages.job import Job


class Options(Spec):
    """`path`: the model's folder. `task`: what it is for. `check`: hold it against the original library."""

    path: str
    task: str
    check: bool


def stage(job: Job) -> Stage:
    return Stage(
        name="source",
        does=f"reads {job.recipe.model.source} into the canonical transformer",
        why="every rewrite works on one form, whatever family the checkpoint is of",
        inputs={},
        produces=SourceModel,
        run=read_source,
        options=Options(path=str(job.model_folder), task=job.task.name, check=_checked(job)),
        sources=job.model,
        libraries=("torch", "safetensors"),
    )


def _checked(job: Job) -> bool:
    """Models of the zoo are held against the original library by tests."""
    return job.recipe.model.check and not job.recipe.model.source.startswith("zoo:")


def read_source(context: StageContext[Options]) -> None:
    from compress import tasks
    from compress.model import load, save

    folder = Path(context.options.path)
    task = tasks.get(context.options.task)
    if (folder / "structure.json").is_file():
        model = load(folder)
    else:
        model = tasks.read_checkpoint(folder, task.preprocessing(folder, context.log), context.log)
        if context.options.check:
            _hold(context, folder, model)
    save(model, context.folder)
    task.copy_files(folder, context.folder / "source")
    structure = model.structure
    classes = f", {len(structure.labels)} classes" if structure.labels else ""
    context.log(
        f"{structure.task}: {len(structure.schedule)} blocks of width {structure.hidden_size}, "
        f"{model.num_parameters():,} parameters{classes}"
    )


def _hold(context: StageContext[Options], folder: Path, model: Transformer) -> None:
    from compress.stages.original import held_against_original

    line = held_against_original(folder, model)
    context.log(line)
    (context.folder / HELD).write_text(line, encoding="utf-8")
