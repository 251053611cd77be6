"""fp32: the exported file as it is."""

from __future__ import annotations

from pathlib import Path

from export import graph
from export.precision.result import Precision, describe


def to_fp32(source: Path, path: Path) -> Precision:
    """Copy the file, tidied and checked."""
    graph.save(graph.load(source), path)
    return describe("fp32", source, path, [], [])
