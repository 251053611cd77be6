"""source: the user's model, read into the canonical transformer."""

from __future__ import annotations

import shutil
from pathlib import Path

from compress.pipeline import StageContext

#: Configs of Hugging Face that travel into the bundle, so that its tools open it.
PASSENGERS = ("config.json", "preprocessor_config.json")


def read_source(context: StageContext) -> None:
    """Options: `path`, the model's folder."""
    from compress.data import preprocessing_from_hf
    from compress.families import read_checkpoint
    from compress.families.family import read_config
    from compress.model import load, save

    folder = Path(context.options["path"])
    if (folder / "structure.json").is_file():
        model = load(folder)
    else:
        read_config(folder)
        model = read_checkpoint(folder, preprocessing_from_hf(folder, context.log))
    save(model, context.folder)
    (context.folder / "source").mkdir()
    for name in PASSENGERS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, context.folder / "source" / name)
    structure = model.structure
    context.log(
        f"{structure.task}: {len(structure.schedule)} blocks of width {structure.hidden_size}, "
        f"{model.num_parameters():,} parameters, {len(structure.labels)} classes"
    )
