"""Inputs of several threads run together: what waits within a few milliseconds is one batch.

A `Session` may be called from any number of threads: ONNX Runtime computes them side by side, the others one behind the
other. This is for models that gain from batches, and for servers that must not queue without end.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from targets.errors import EnvironmentLacks, InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.session import Session

    Arrays = dict[str, np.ndarray]


T = TypeVar("T")


def together(items: Iterable[T], most: int, within: float) -> Iterator[list[T]]:
    """Items as they come, in groups of `most` at most, of which the first waits `within` seconds at most for others.
    Two groups are read ahead, no more. Raises what `items` raises, behind the items that came before."""
    coming: queue.Queue[T | None] = queue.Queue(2 * most)
    faults: list[BaseException] = []

    def read() -> None:
        try:
            for item in items:
                coming.put(item)
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the thread that asks for the items
            faults.append(error)
        coming.put(None)

    threading.Thread(target=read, daemon=True).start()
    more = True
    while more and (first := coming.get()) is not None:
        group, more = _gathered(coming, first, most, within)
        yield group
    if faults:
        raise faults[0]


def _gathered(coming: queue.Queue[T | None], first: T, most: int, within: float) -> tuple[list[T], bool]:
    """As many as may be, or as come in time; and whether more may come (None is the end)."""
    group, end = [first], time.monotonic() + within
    while len(group) < most:
        try:
            one = coming.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        if one is None:
            return group, False
        group.append(one)
    return group, True


@dataclass(frozen=True)
class _Waiting:
    inputs: Mapping[str, np.ndarray]
    outputs: Future[Arrays] = field(default_factory=Future)

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What must be equal for two to be one batch."""
        return tuple(sorted((name, array.shape[1:]) for name, array in self.inputs.items()))


class Batcher:
    """`run` of a session, for many threads at once. The first input that comes waits `within` seconds at most for
    others; `most` may wait; an answer that takes longer than `patience` seconds counts as hung."""

    def __init__(self, session: Session, within: float = 0.005, most: int = 64, patience: float = 30.0) -> None:
        """Raises InputError for a model with state, whose calls belong to their sequences."""
        if session.manifest.state:
            raise InputError(f"{session.bundle.source} has state; feed each sequence through a runtime.stream.Stream")
        self._session, self._within, self._patience = session, within, patience
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """The outputs of one input, arrays of a batch of 1.

        Raises what `Session.run` raises, of this input alone; EnvironmentLacks while too many wait, and for a backend
        that hangs; InputError for a batch of another size, or after `close`.
        """
        if not inputs or any(len(array) != 1 for array in inputs.values()):
            raise InputError("a batcher takes batches of 1; call the session for others")
        if not self._thread.is_alive():
            raise InputError("this batcher is closed; make another")
        waiting = _Waiting(inputs)
        try:
            self._queue.put_nowait(waiting)
        except queue.Full as full:
            raise EnvironmentLacks(f"{self._queue.maxsize} inputs wait already; ask again later, or ask less") from full
        try:
            return waiting.outputs.result(self._patience)
        except Late as late:
            raise EnvironmentLacks(
                f"{self._session.provider} gave no answer for {self._patience:g} s; start the program again"
            ) from late

    def close(self) -> None:
        """Answer what waits, and take no more."""
        self._queue.put(None)
        self._thread.join(self._patience)

    def _serve(self) -> None:
        while (first := self._queue.get()) is not None:
            waiting, more = _gathered(self._queue, first, self._session.max_batch, self._within)
            by_shape: dict[object, list[_Waiting]] = {}
            for one in waiting:
                by_shape.setdefault(one.shapes, []).append(one)
            for alike in by_shape.values():
                self._answer(alike)
            if not more:
                return

    def _answer(self, alike: Sequence[_Waiting]) -> None:
        """Run some of equal shapes as one batch; each alone if that fails, so that one's fault is not the others'."""
        import numpy as np

        try:
            names = alike[0].inputs
            outputs = self._session.run({name: np.concatenate([one.inputs[name] for one in alike]) for name in names})
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to the thread that asked, which raises it
            if len(alike) == 1:
                alike[0].outputs.set_exception(error)
                return
            for one in alike:
                self._answer([one])
            return
        for at, one in enumerate(alike):
            one.outputs.set_result({name: array[at : at + 1] for name, array in outputs.items()})
