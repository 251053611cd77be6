"""What a model is asked to do, one file per task: everything that the stages need to know of it.

Adding a task means adding one file that defines `TASK`; its name is the file's with `-` for `_`. `task.py` says what a
task has to answer, `text.py` what tasks on texts share.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compress.spec import unknown
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.tasks.task import Task
    from runtime.bundles.manifest import Task as TaskName

_SHARED = {"decoding", "task", "text"}
_NAMES = sorted(one.name.replace("_", "-") for one in pkgutil.iter_modules(__path__) if one.name not in _SHARED)
#: What the names of a checkpoint's classes end in (config.json, `architectures`) -> task.
_ARCHITECTURES: dict[str, TaskName] = {
    "ForImageClassification": "image-classification",
    "ForImageClassificationWithTeacher": "image-classification",
    "ForSequenceClassification": "text-classification",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "Model": "embedding",
    "ForMaskedLM": "embedding",
}


def get(name: str) -> Task:
    """The task of that name. Raises InputError for an unknown one."""
    if name not in _NAMES:
        raise InputError(unknown("task", name, _NAMES))
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    task: Task = module.TASK
    return task


def of_folder(folder: Path) -> Task:
    """The task of a model folder, by its structure.json or config.json; a model of images classifies them.

    Raises InputError for a structure.json that names no known task, or a config.json that has none or another for its
    kind of input.
    """
    structure = _object(folder / "structure.json")
    if structure:
        return get(str(structure.get("task")))
    config = _object(folder / "config.json")
    name, classes = name_of(config), config.get("architectures")
    if name is None and classes:
        endings = ", ".join(f"...{ending}" for ending in _ARCHITECTURES)
        raise InputError(
            f"{folder}/config.json: architectures {classes!r} is for no task here; there are those of {endings}"
        )
    if name is None and config and "image_size" not in config:
        if "model_type" not in config:
            from compress.families.folders import instead_of_folder

            raise InputError(f"{folder}/config.json is not that of a model{instead_of_folder(folder)}")
        raise InputError(
            f"{folder}/config.json: what this {config.get('model_type')!r} model is for is not known without "
            'architectures; add its class, such as "architectures": ["BertForSequenceClassification"]'
        )
    if name not in (None, "image-classification") and "image_size" in config:
        raise InputError(
            f"{folder}/config.json: architectures {classes!r} leaves out the classifier; of images only "
            "...ForImageClassification is read"
        )
    return get(name or "image-classification")


def name_of(config: Mapping[str, object]) -> TaskName | None:
    """The task of a checkpoint by the `architectures` of its config.json; None where they name no known one."""
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    endings = [ending for ending in _ARCHITECTURES if name.endswith(ending)]
    return _ARCHITECTURES[max(endings, key=len)] if endings else None


def _object(path: Path) -> dict[str, object]:
    """A JSON object, {} if there is none: the reader of the model tells what is wrong with its files."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
