"""Bundles from Python: open one and ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.errors import EdgepressError

if TYPE_CHECKING:
    import numpy as np

    from runtime.bundles.manifest import Manifest
    from runtime.session import Session


@dataclass(frozen=True)
class Model:
    """An opened bundle. Call it with what the device command takes: texts, or paths of images and of folders."""

    session: Session

    def __call__(self, *inputs: str | Path, top: int = 1, tokens: int = 128) -> list[dict[str, Any]]:
        """One answer per input, as `edgepress ask --json` gives them. `top`: how many classes; `tokens`: how many a
        language model writes at most.

        Raises InputError for an input that cannot be used.
        """
        from runtime.answers import Wanted, answerer_of

        answerer = answerer_of(self.session.bundle)
        given = answerer.expand([str(one) for one in inputs])
        size = self.session.max_batch or 1
        found: list[dict[str, Any]] = []
        for start in range(0, len(given), size):
            some = given[start : start + size]
            for one, answer in zip(some, answerer.answer(self.session, some, Wanted(top, tokens)), strict=True):
                if isinstance(answer, EdgepressError):
                    raise answer
                found.append({"input": one, **answer})
        return found

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's outputs for prepared tensors. Raises InputError for what differs from the manifest."""
        return self.session.run(inputs)

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.session.manifest

    def __repr__(self) -> str:
        return f"<edgepress.Model {self.manifest.task}: {self.session.describe()}>"


def open(
    bundle: str | Path,
    *,
    provider: str | None = None,
    threads: int | None = None,
    allow_failed: bool = False,
) -> Model:
    """Verify a bundle (a folder or a zip) and load the first form of its model that runs here.

    Raises InputError for a damaged bundle, EnvironmentLacks without what it needs, GateFailed for one that failed its
    accuracy gate, unless `allow_failed`.
    """
    from runtime.answers import answering
    from runtime.bundles.bundle import check_passed, open_files
    from runtime.session import open_session

    files = open_files(bundle)
    if not allow_failed:
        check_passed(files)
    return Model(open_session(answering(files), provider, threads=threads))


__all__: Sequence[str] = ["Model", "open"]
