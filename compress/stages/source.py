"""source: the user's model, read into the canonical transformer."""

from __future__ import annotations

from pathlib import Path

from compress.pipeline import StageContext


def read_source(context: StageContext) -> None:
    """Options: `path`, the model's folder; `task`."""
    from compress import tasks
    from compress.families import read_checkpoint
    from compress.model import load, save

    folder = Path(context.options["path"])
    task = tasks.get(context.options["task"])
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
