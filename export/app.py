"""edgepress.pyz: the device side in one file that Python runs, so that a bundle needs no installation beside numpy and
ONNX Runtime."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import edgepress_siblings
import runtime
import targets
from export.archive import plain_entry

#: Runs on any Python 3, to say which one is needed.
_MAIN = b"""import sys

if sys.version_info < (3, 10):
    sys.stderr.write("error: this is Python %d.%d, edgepress needs 3.10 or later\\n" % sys.version_info[:2])
    sys.exit(3)

from edgepress_siblings import leave_when_interrupted

leave_when_interrupted()

from runtime.app import main
from targets.errors import run_cli

run_cli(main)
"""


def app_bytes() -> bytes:
    """The zipapp of the packages `runtime` and `targets` and the module that they ask; equal bytes for equal source."""
    stream = io.BytesIO()
    stream.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        _add(archive, "__main__.py", _MAIN)
        siblings = Path(edgepress_siblings.__file__)
        _add(archive, siblings.name, siblings.read_bytes())
        for package in (runtime, targets):
            folder = Path(str(package.__file__)).parent
            for path in sorted(path for kind in ("*.py", "*.toml") for path in folder.rglob(kind)):
                _add(archive, path.relative_to(folder.parent).as_posix(), path.read_bytes())
    return stream.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = plain_entry(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content)
