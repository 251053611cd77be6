"""JSON files of a checkpoint's folder, read strictly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from runtime.files import check_no_pipe
from targets.errors import InputError

#: How JSON writes half a character, or one of the two halves of a whole one.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_object(path: Path) -> dict[str, Any]:
    """The object that a file holds. Raises InputError if it cannot be read or holds anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return value


def read_list(path: Path) -> list[Any]:
    """The list that a file holds. Raises InputError if it cannot be read or holds anything else."""
    value = read_json(path)
    if not isinstance(value, list):
        raise InputError(f"{path} does not hold a JSON list")
    return value


def read_json(path: Path) -> Any:
    """What a file holds. Raises InputError if it cannot be read."""
    check_no_pipe(path)
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if _HALF.search(text) and not _is_whole(value):
        raise InputError(f"{path} has half a character (\\ud800 to \\udfff); write it whole")
    return value


def _is_whole(value: Any) -> bool:
    """Whether all that the value holds can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True
