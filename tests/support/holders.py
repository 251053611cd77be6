"""Threads that hold a lock or a lease in turn, and see whether two ever held it at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


def clashes(held: Callable[[], AbstractContextManager[Any]], threads: int, times: int) -> list[set[int]]:
    """Who was inside together, of this number of threads, each of which goes in `times` times; [] if nobody was."""
    inside, found = set[int](), list[set[int]]()

    def work(number: int) -> None:
        for _ in range(times):
            with held():
                inside.add(number)
                time.sleep(0.0001)
                if inside != {number}:
                    found.append(set(inside))
                inside.remove(number)

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return found
