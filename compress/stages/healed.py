"""healed: a model that was rewritten and healed elsewhere, such as on a GPU, in place of a recipe's changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline import Stage, StageContext
from compress.pipeline.digest.tree import digest_tree
from compress.spec import Spec
from compress.stages.artifacts import NOTES, ModelArtifact
from compress.stages.notes import write_notes

if TYPE_CHECKING:
    from compress.stages.job import Job


class Options(Spec):
    """`folder` of a compressed model, perhaps with notes on how it was made."""

    folder: str


def stage(job: Job, folder: Path) -> Stage:
    """For `build_graph(job, [stage])`. Raises InputError if there is no such folder."""
    return Stage(
        name="healed",
        does=f"takes the model of {folder}",
        why="it was rewritten and healed elsewhere",
        inputs={},
        produces=ModelArtifact,
        run=take,
        options=Options(folder=str(folder)),
        sources={"model": digest_tree(folder, job.memo)},
        libraries=("torch", "safetensors"),
    )


def take(context: StageContext[Options]) -> None:
    """Load (which checks everything), save again in fp32, and note what is known of it."""
    from compress.model import load, save

    folder = Path(context.options.folder)
    model, notes = load(folder), folder / NOTES
    save(model, context.folder)
    known = json.loads(notes.read_text()) if notes.is_file() else {}
    write_notes(context, {"parameters": model.num_parameters(), **known})
