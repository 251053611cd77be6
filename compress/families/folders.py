"""Which folder is a model, and what the others are that users give for one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from compress.json_files import read_object
from compress.timm_config import in_plain_words
from targets.errors import InputError

_SUFFIXES = (".json", ".safetensors", ".bin", ".txt", ".model", ".jinja")
_ADAPTER = "adapter_config.json"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder. Raises InputError if there is none or it is not a JSON object; the line
    names the folder that was probably meant."""
    if not folder.is_dir():
        raise InputError(f"no such model folder: {folder}{instead_of_file(folder)}")
    check_files(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is not a model folder: it has no config.json{instead_of_folder(folder)}")
    if (folder / _ADAPTER).is_file():
        raise InputError(
            f"{folder} holds {_ADAPTER} beside a whole model: merge the adapter into it (peft: merge_and_unload) and "
            "save that, or move it away"
        )
    return in_plain_words(read_object(path))


def check_files(folder: Path) -> None:
    """Raises InputError for what bears the name of a checkpoint's file and is none: a link of the hub's cache to what
    was cleared away would else be a file that is not there, and its settings be left out without a word."""
    for path in sorted(folder.iterdir()):
        if path.suffix not in _SUFFIXES or path.is_file():
            continue
        kind = "a folder" if path.is_dir() else "a pipe or a device" if path.exists() else "a link to what is not there"
        raise InputError(f"{path} is {kind}, and no file; fetch it again")


def instead_of_file(path: Path) -> str:
    """What to give instead of a path that is not a folder, as the end of a message; "" where nothing is known."""
    if path.is_file():
        return f" (it is a file); give the folder that holds it: {path.parent}"
    if _HUB_ID.fullmatch(str(path)):
        return f"; if it is a name on the hub, download it first: hf download {path} --local-dir {path.name}"
    return ""


def instead_of_folder(folder: Path) -> str:
    """What to give instead of a folder that is not a model, as the end of a message; "" where nothing is known."""
    if (folder / _ADAPTER).is_file():
        return ". It is a LoRA adapter: merge it into its base model first (peft: merge_and_unload), and save that"
    snapshots = sorted(folder.glob("snapshots/*/config.json"))
    if snapshots:
        return f". It is a folder of the hub's cache; give {snapshots[-1].parent}"
    inner = sorted(folder.glob("*/config.json"))
    models = [one.parent for one in inner if any(one.parent.glob("*.safetensors")) or any(one.parent.glob("*.bin"))]
    return f". Did you mean {max(models, key=_number)}?" if models else ""


def _number(folder: Path) -> tuple[int, str]:
    """Checkpoints of a trainer in the order of their steps."""
    steps = re.findall(r"\d+$", folder.name)
    return (int(steps[0]) if steps else -1, folder.name)
