from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compress.pipeline import Cache
from compress.pipeline.events import Event


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A temporary folder, in memory where the system has such a place: for tests that flush thousands of files."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        yield Path(name)


@pytest.fixture
def tallied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The words that stages tallied so far, in order, across processes."""
    path = tmp_path / "tally.txt"
    monkeypatch.setenv("TOY_TALLY", str(path))
    return lambda: path.read_text().split() if path.exists() else []


@pytest.fixture
def events() -> list[Event]:
    """An empty list: its `append` is a sink."""
    return []
