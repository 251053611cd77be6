"""What a model is asked to do, one file per task: everything that the stages need to know of it.

Adding a task means adding one file that defines `TASK`. Its name is the file's with `-` for `_`, and no other file
spells it but the device's (`runtime/answers`). `task.py` says what a task has to answer, `text.py` what tasks on texts
share, `files.py` those on files, `images.py` those on images, `sounds.py` those on recordings, `pairs.py` those on
pairs of texts, `classes.py` those of one label for a file, `numbers.py` those of one number, `hidden.py` those that put
tokens out of sight, `feeding.py` what graphs on tokens are fed with.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.spec import unknown
from compress.timm_config import in_plain_words
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.model import Transformer
    from compress.tasks.task import Task
    from runtime.bundles.manifest import Tensor

_SHARED = {
    *("classes", "decoding", "feeding", "files", "hidden", "images", "numbers", "pairs", "sounds", "task", "text"),
}
_NAMES = sorted(one.name.replace("_", "-") for one in pkgutil.iter_modules(__path__) if one.name not in _SHARED)
_NAMED = 4  # classes that a refusal names; it says how many more there are


def get(name: str) -> Task:
    """The task of that name. Raises InputError for an unknown one."""
    if name not in _NAMES:
        raise InputError(unknown("task", name, _NAMES))
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    task: Task = module.TASK
    return task


def every() -> list[Task]:
    """All tasks, by name."""
    return [get(name) for name in _NAMES]


def of_folder(folder: Path) -> Task:
    """The task of a model folder, by its structure.json or config.json; a model of images classifies them.

    Raises InputError for a structure.json that names no known task, or a config.json that has none or another for its
    kind of input.
    """
    structure = _object(folder / "structure.json")
    if structure:
        return get(str(structure.get("task")))
    config = in_plain_words(_object(folder / "config.json"))
    task, classes = of_config(config, folder), config.get("architectures")
    if task is not None:
        return task
    files = _on_files(config)
    if classes and "model_type" in config:  # where no family reads it, the class is not what is in the way
        from compress.families import check_known

        check_known(folder)
    if classes and files:
        raise InputError(
            f"{folder}/config.json: architectures {classes!r} is for no task here; of {files} only "
            f"{_endings(config)} are read"
        )
    if classes:
        raise InputError(
            f"{folder}/config.json: architectures {classes!r} is for no task here; there are those of "
            f"{_endings(config)}"
        )
    if config and files != "images":
        if "model_type" not in config:
            from compress.families.folders import instead_of_folder

            raise InputError(f"{folder}/config.json is not that of a model{instead_of_folder(folder)}")
        raise InputError(
            f"{folder}/config.json: what this {config.get('model_type')!r} model is for is not known without "
            'architectures; add its class, such as "architectures": ["BertForSequenceClassification"]'
        )
    return next(task for task in every() if task.fallback)


def of_config(config: Mapping[str, object], folder: Path) -> Task | None:
    """The task of a checkpoint by the `architectures` of its config.json, and what else of it a task looks at; where it
    is a sentence encoder that was saved with another head, by its modules.json; None where they name no known one."""
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    if (folder / "modules.json").is_file():
        vectors = [task for task in _for(config) if name.endswith(task.sentence_architectures)]
        if vectors:
            return vectors[0]
    ends = [(len(end), task) for task in _for(config) for end in task.architectures if name.endswith(end)]
    found = [(size, claim is True, task) for size, task in ends if (claim := task.claims(config)) is not False]
    return max(found, key=lambda one: one[:2])[2] if found else None


def read_checkpoint(
    folder: Path, preprocessing: dict[str, Any], note: Callable[[str], None] = lambda line: None
) -> Transformer:
    """Read a Hugging Face folder for the task that it names. Raises InputError; see `of_folder` and
    `compress.families.read_checkpoint`."""
    from compress import families
    from compress.families.purpose import Purpose

    families.check_known(folder)
    task = of_folder(folder)
    heads = {one.name: one.head for one in every() if one.noun == task.noun}
    purpose = Purpose(task.name, task.head, task.problem_type, heads)
    return families.read_checkpoint(folder, purpose, preprocessing, note)


def of_graph(inputs: Sequence[Tensor]) -> list[Task]:
    """What a graph with these inputs, of which nothing else is known, may be for."""
    return [task for task in every() if task.takes(inputs)]


#: What the samples of a checkpoint are that has one of these options; texts where it has none.
_MARKS = {"images": ("image_size", "vision_config", "backbone_config"), "recordings": ("num_mel_bins",)}


def _on_files(config: Mapping[str, object]) -> str | None:
    """What the samples of a checkpoint are, None for texts."""
    return next((noun for noun, marks in _MARKS.items() if any(name in config for name in marks)), None)


def _for(config: Mapping[str, object]) -> list[Task]:
    """The tasks on the kind of input that a checkpoint takes."""
    files = _on_files(config)
    return [task for task in every() if (task.noun if task.noun in _MARKS else None) == files]


def _endings(config: Mapping[str, object]) -> str:
    ends = [*dict.fromkeys(f"...{end}" for task in _for(config) for end in task.architectures)]
    more = f" and {len(ends) - _NAMED} more" if len(ends) > _NAMED else ""
    return ", ".join(ends[:_NAMED]) + more


def _object(path: Path) -> dict[str, Any]:
    """A JSON object, {} if there is none: the reader of the model tells what is wrong with its files."""
    if not path.is_file():  # a pipe would be waited on for ever
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
