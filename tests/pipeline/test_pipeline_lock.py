"""One holder at a time, also while lock files come and go."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from compress.pipeline.lock import locked, locked_if_free


def test_one_holder_at_a_time_though_each_removes_the_file(tmp_path: Path) -> None:
    path, inside, clashes = tmp_path / "lock", set[int](), list[set[int]]()

    def work(number: int) -> None:
        for _ in range(150):
            with locked(path, lambda: None):
                inside.add(number)
                time.sleep(0.0001)
                if inside != {number}:
                    clashes.append(set(inside))
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []
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
