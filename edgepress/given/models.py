"""Models as a caller gives them: what the command takes, or a live model of transformers, written to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from targets.errors import InputError


def source_of(model: Any, processor: Any, root: Path) -> str | None:
    """What `--model` would be. A live model and its processor go into a folder of the cache at `root`.

    Raises InputError for an object that is not such a model, and for a live one without what prepares its inputs.
    """
    if model is None or isinstance(model, str | Path):
        if processor is not None:
            raise InputError("processor goes with a live model; a folder or a name brings its own")
        return None if model is None else str(model)
    if not (hasattr(model, "save_pretrained") and hasattr(model, "config")):
        raise InputError(
            f"the model is a {type(model).__name__}; give a folder, zoo:NAME, a name on the hub or a live model of "
            "transformers"
        )
    if hasattr(model, "merge_and_unload"):
        raise InputError("the model has adapters beside its weights; give model.merge_and_unload()")
    if not hasattr(processor, "save_pretrained"):
        raise InputError(
            "a live model needs what prepares its inputs: give processor=, its image processor or tokenizer"
        )
    from edgepress.given.kept import kept

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    return str(kept(root, type(model).__name__, write))
