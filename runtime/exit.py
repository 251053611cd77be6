"""Early exit: an input leaves after few loops if the answer is sure, and goes on to more loops if not.

B batch, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from runtime.backends import Loaded
from runtime.images.classify import softmax
from runtime.session import Session, open_session
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.bundles.bundle import Bundle
    from runtime.bundles.manifest import Tensor


def is_sure(logits_BK: np.ndarray, probability: float) -> np.ndarray:
    """Where the likeliest class is at least so probable, (B,)."""
    sure: np.ndarray = softmax(logits_BK).max(axis=-1) >= probability
    return sure


@dataclass(frozen=True)
class Exiting:
    """A backend of one model at more and more loops, `stages` by their number, that gives each input of a batch the
    answer of the first stage that is sure of it. Each stage computes from the start, so that it pays only where most
    inputs leave early. `left` counts where they did."""

    stages: Sequence[tuple[int, Loaded]]
    output: str
    probability: float
    left: Counter[int] = field(default_factory=Counter)

    @property
    def provider(self) -> str:
        """What computes."""
        return self.stages[-1][1].provider

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Inputs as the whole model declares them."""
        return self.stages[-1][1].inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Outputs as the whole model declares them."""
        return self.stages[-1][1].outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name."""
        import numpy as np

        rest = np.arange(len(next(iter(inputs.values()))))
        results: dict[str, np.ndarray] = {}
        for place, (loops, backend) in enumerate(self.stages):
            given = backend.run({name: array[rest] for name, array in inputs.items()})
            last = place == len(self.stages) - 1
            leaves = np.ones(len(rest), bool) if last else is_sure(given[self.output], self.probability)
            self.left[loops] += int(leaves.sum())
            results = results or {name: np.empty_like(array) for name, array in given.items()}
            for name, array in given.items():
                results[name][rest[leaves]] = array[leaves]
            rest = rest[~leaves]
            if not len(rest):
                break
        return results

    def __str__(self) -> str:
        """'71 inputs left after 4 loops, 29 after 12'."""
        counts = [(self.left[loops], loops) for loops, _ in self.stages if self.left[loops]]
        return ", ".join(
            f"{count} {'' if place else 'inputs left '}after {loops}{'' if place else ' loops'}"
            for place, (count, loops) in enumerate(counts)
        )


def open_exiting(bundle: Bundle, threads: int | None = None) -> Session:
    """A session whose backend is `Exiting`, on the CPU. Raises InputError for a bundle without an early exit."""
    manifest = bundle.manifest
    if manifest.exit is None:
        raise InputError(f"{bundle.source} has no early exit; --loops chooses from the loops that it offers")
    numbers = sorted({model.loops for model in manifest.models if model.loops})
    sessions = [
        open_session(bundle, "cpu", True, threads, loops) for loops in numbers if loops <= (manifest.loops or 0)
    ]
    stages = [(session.model.loops or 0, session.backend) for session in sessions]
    backend = Exiting(stages, manifest.outputs[0].name, manifest.exit.probability)
    return replace(sessions[-1], backend=backend)
