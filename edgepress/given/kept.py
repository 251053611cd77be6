"""Folders named by their content, so that the same objects given twice are one entry of the cache."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def kept(root: Path, kind: str, write: Callable[[Path], None]) -> Path:
    """The folder `root/given/KIND-DIGEST` with what `write` puts into it. Raises what `write` raises."""
    from compress.pipeline.digest.tree import digest_tree
    from compress.pipeline.disk import writing
    from compress.zoo import GIVEN

    place = root / GIVEN
    with writing(root):
        place.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=place))
        try:
            write(fresh)
            folder = place / f"{kind}-{digest_tree(fresh)[:24]}"
            if not folder.exists():
                fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder
