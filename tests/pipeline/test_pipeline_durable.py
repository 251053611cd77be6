"""What must survive a power cut is flushed: the files, and the folders that hold their names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compress.pipeline.disk import sync_tree
from runtime.watch import open_log


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The places that are flushed, as they are."""
    places: list[Path] = []
    flush = os.fsync

    def watched(handle: int) -> None:
        places.append(Path(f"/proc/self/fd/{handle}").readlink())
        flush(handle)

    monkeypatch.setattr(os, "fsync", watched)
    return places


def test_a_tree_is_flushed_with_every_folder_the_files_before_their_names(tmp_path: Path, flushed: list[Path]) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    (tmp_path / "top").write_text("y")
    sync_tree(tmp_path)
    assert {*flushed} == {
        tmp_path,
        tmp_path / "a",
        tmp_path / "a" / "b",
        tmp_path / "a" / "b" / "file",
        tmp_path / "top",
    }
    assert flushed.index(tmp_path / "a" / "b" / "file") < flushed.index(tmp_path / "a" / "b") < flushed.index(tmp_path)


def test_the_name_of_a_new_log_is_flushed(tmp_path: Path, flushed: list[Path]) -> None:
    with open_log(tmp_path / "results.jsonl"):
        pass
    assert tmp_path in flushed
