"""One holder at a time, also while lock files come and go."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.holders import clashes

from compress.pipeline.lock import locked, locked_if_free


def test_one_holder_at_a_time_though_each_removes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert clashes(lambda: locked(path, lambda: None), threads=4, times=150) == []
    assert not path.exists()


def test_waiting_is_told_and_a_held_lock_is_not_free(tmp_path: Path) -> None:
    path, waited, told = tmp_path / "lock", threading.Event(), list[str]()

    def wait() -> None:
        with locked(path, waited.set):
            told.append("got it")

    with locked(path, lambda: told.append("waited for nobody")):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert waited.wait(10)
        with locked_if_free(path) as free:
            assert not free
        assert told == []
        assert path.exists()
    waiting.join()
    assert told == ["got it"]
    with locked_if_free(path) as free:
        assert free
    assert not path.exists()


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), locked(tmp_path / "lock", lambda: None):
        raise ValueError("inside")
    with locked_if_free(tmp_path / "lock") as free:
        assert free
