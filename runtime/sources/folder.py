"""A folder of pictures, in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.images.frame import Frame
from runtime.images.reading import SUFFIXES, read_image
from runtime.watch import listing, tell
from targets.errors import EdgepressError, EnvironmentLacks, InputError


@dataclass(frozen=True)
class _Folder:
    name: str

    def frames(self) -> Iterator[Frame | EdgepressError]:
        folder = Path(self.name)
        found = sorted(one.name for one in listing(folder, SUFFIXES, tell))
        if not found:
            raise InputError(f"no images in folder {folder}; it needs files ending in {', '.join(SUFFIXES)}")
        for name in found:
            try:
                yield Frame(str(folder / name), read_image(folder / name))
            except (InputError, EnvironmentLacks) as error:
                yield error


def open_source(given: str) -> _Folder | None:
    """A folder that is there."""
    return _Folder(given) if given and Path(given).is_dir() else None
