"""What tasks on files share: files by the names that a user gives, and each of them as a model's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from runtime.files import possible
from targets.errors import EdgepressError, EnvironmentLacks, InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.watch import Result

Given = TypeVar("Given")


def files_in(given: Sequence[str], noun: str, suffixes: Sequence[str]) -> list[str]:
    """Paths of the files; a folder stands for those below it with one of the suffixes. Raises InputError.

    `noun`: what they are, in the plural.
    """
    from runtime.watch import listing, tell

    paths: list[str] = []
    for name in given:
        path = possible(Path(name))
        if name and path.is_dir():
            found = sorted(path / one.name for one in listing(path, suffixes, tell))
            if not found:
                raise InputError(f"no {noun} in folder {path}; it needs files ending in {', '.join(suffixes)}")
            paths += map(str, found)
        elif path.is_file():
            paths.append(str(path))
        else:
            raise InputError(f"no file or folder {name or repr(name)}")
    return paths


def each_prepared(
    inputs: Sequence[Given], prepare: Callable[[Given], np.ndarray]
) -> tuple[dict[int, np.ndarray], dict[int, Result | EdgepressError]]:
    """What `prepare` makes of each input, or why that one cannot be used."""
    arrays: dict[int, np.ndarray] = {}
    faults: dict[int, Result | EdgepressError] = {}
    for at, one in enumerate(inputs):
        try:
            arrays[at] = prepare(one)
        except (InputError, EnvironmentLacks) as error:  # without Pillow a JPEG is one file's fault, not the end
            faults[at] = error
        except MemoryError:
            faults[at] = EnvironmentLacks(f"{one}: takes more memory than there is; scale it down")
    return arrays, faults
