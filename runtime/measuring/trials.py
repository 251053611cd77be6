"""Which backend, and with how many CPU threads, is the fastest for a bundle on this machine: each in a process of its
own, and none that does not give the golden outputs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.measuring.compare import fastest, try_threads
from targets.errors import EnvironmentLacks, InputError

if TYPE_CHECKING:
    from runtime.backends import Backend
    from runtime.bundles.bundle import Bundle


@dataclass(frozen=True)
class Trial:
    """Median ms of one backend (None for the one that opens by itself) by number of threads."""

    backend: str | None
    ms: Mapping[int, float]

    @property
    def threads(self) -> int:
        """The number of the least time."""
        return fastest(self.ms)

    @property
    def best(self) -> float:
        """The least time, in ms."""
        return self.ms[self.threads]


def candidates(bundle: Bundle) -> list[Backend]:
    """Backends that may run here and have a file of their form, the bundle's own in its order first."""
    from runtime import backends
    from runtime.bundles.manifest import TENSORRT

    models = bundle.manifest.models
    forms = {"fused"} | {"plain" for model in models if model.is_plain}
    forms |= {"engine" for model in models if model.runtime == TENSORRT}
    own = backends.order(bundle)
    others = [one for one in map(backends.get, backends.names()) if one not in own and one.form == "plain"]
    return [one for one in (*own, *others) if one.form in forms and one.lacks() is None]


def compare_backends(bundle: Bundle, options: Sequence[str], most: int) -> list[Trial]:
    """A trial of each candidate, the fastest first. What turns out not to run is reported on standard error and left
    out. `options` go to runtime.bench."""
    trials = []
    for backend in candidates(bundle):
        chosen = [*options, "--provider", backend.name, "--strict-provider"]
        try:
            trials.append(Trial(backend.name, try_threads(bundle.source, chosen, most)))
        except (EnvironmentLacks, InputError) as problem:
            print(f"note: {backend.name} is left out: {problem}", file=sys.stderr)
    return sorted(trials, key=lambda trial: trial.best)


def agrees(bundle: Bundle, backend: str, loops: int | None) -> bool:
    """Whether a backend gives the golden outputs of the bundle here, within their tolerances."""
    from runtime.bundles.golden import check_golden, load_golden
    from runtime.session import open_session

    session = open_session(bundle, backend, True, loops=loops)
    return all(check_golden(session.run, load_golden(bundle, session.model.loops), session.max_batch))
