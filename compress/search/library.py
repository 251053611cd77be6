"""All replacements that were tried, with what each does to quality, time and bytes, in the frames that a whole-model
choice makes: there, later layers see fewer tokens, or the stream is narrower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.search.choices import Choice
from compress.search.shapes import Probe, of_half, of_whole, without_layers
from compress.search.solve import Chosen, Item

if TYPE_CHECKING:
    from compress.model import Structure
    from compress.search.trial import Trial

HALVES = ("mixer", "ffn")


@dataclass(frozen=True)
class Option:
    """A replacement as it was tried. `choice` None leaves the halves of `slots` as they are."""

    slots: tuple[str, ...]
    choice: Choice | None
    drift: float
    structure: Structure

    @property
    def layer(self) -> int:
        return int(self.slots[0].partition(".")[0])


@dataclass(frozen=True)
class Frame:
    """What is done to the whole model (None for nothing), the drift of it alone, and the structure that it leaves."""

    choice: Choice | None
    drift: float
    structure: Structure

    def shrink(self, layer: int) -> int:
        """By how much the sides of the image's grid have been divided before a layer."""
        from compress.model.reducers.grid_mean import GridMeanSpec

        factor = 1
        for spec in self.structure.blocks[:layer]:
            if isinstance(spec.reducer, GridMeanSpec):
                factor *= spec.reducer.size
        return factor

    @property
    def tokens_left(self) -> int | None:
        """All that leaves the last layer, where the head reads no more; None where it reads every token."""
        from compress.model.heads.classifier import ClassifierSpec

        head = self.structure.head
        return head.tokens if isinstance(head, ClassifierSpec) else None


@dataclass(frozen=True)
class Library:
    """`clean`: the original's structure after the exact rewrites. `trials`: of single choices. `pairs`: drift that two
    choices have together beyond the sum of theirs. `unpriced`: ids of probes that cannot be exported; what needs one
    of them is not an option."""

    clean: Structure
    trials: Sequence[Trial]
    pairs: Mapping[tuple[str, str], float]
    unpriced: frozenset[str] = frozenset()

    @cached_property
    def frames(self) -> list[Frame]:
        """The model as it is, and with each whole-model choice that it takes."""
        from compress.model import Structure

        found = [Frame(None, 0.0, self.clean)]
        for trial in self.trials:
            choice = Choice.model_validate(trial.choices[0])
            if choice.layer is None and not trial.refused:
                found.append(Frame(choice, trial.drift, Structure.model_validate(trial.structure)))
        return found

    @cached_property
    def options(self) -> list[Option]:
        """For each half of each layer: it stays, or one of the choices that the layer takes."""
        from compress.model import Structure

        layers = len(self.clean.blocks)
        found = [Option((f"{layer}.{half}",), None, 0.0, self.clean) for layer in range(layers) for half in HALVES]
        for trial in self.trials:
            choice = Choice.model_validate(trial.choices[0])
            if choice.layer is not None and not trial.refused:
                found.append(Option(choice.slots, choice, trial.drift, Structure.model_validate(trial.structure)))
        return [option for option in found if not self._needs_unpriced(option)]

    def _needs_unpriced(self, option: Option) -> bool:
        pairs = [pair for frame in self.frames for pair in self.probes_of(option, frame)] if self.unpriced else []
        return any(half.id in self.unpriced for half, _ in pairs)

    def probes_of(self, option: Option, frame: Frame) -> list[tuple[Probe, Probe]]:
        """What is timed for an option: each half that it leaves, and the model without layers to subtract."""
        if option.choice is not None and _goes(option.choice):
            return []
        layer, frame_structure = option.layer, frame.structure
        shaped = frame_structure.replace(blocks=option.structure.blocks, schedule=option.structure.schedule)
        last = layer == len(shaped.blocks) - 1
        left, shrink = (frame.tokens_left if last else None), frame.shrink(layer)
        halves = [of_half(shaped, layer, slot.partition(".")[2], left, shrink) for slot in option.slots]
        return [(half, half.base) for half in halves if half is not None]

    def probes(self) -> Iterator[Probe]:
        """All that has to be timed, each once."""
        found: dict[str, Probe] = {}
        for frame in self.frames:
            for probe in (without_layers(frame.structure), *self._halves(frame)):
                found.setdefault(probe.id, probe)
        yield from found.values()

    def _halves(self, frame: Frame) -> Iterator[Probe]:
        for option in self.options:
            for pair in self.probes_of(option, frame):
                yield from pair

    def items(self, frame: Frame, costs: Mapping[str, Mapping[str, float]]) -> list[Item]:
        """The options as items of the integer program, in their order. `costs`: each probe's, by its id and the name of
        the budget."""
        return [
            Item(frozenset(option.slots), option.drift, self._cost(option, frame, costs)) for option in self.options
        ]

    def _cost(self, option: Option, frame: Frame, costs: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        total = dict.fromkeys(next(iter(costs.values())), 0.0)
        for half, base in self.probes_of(option, frame):
            for name in total:
                more = (costs[half.id][name] - costs[base.id][name]) / half.copies
                total[name] += max(0.0, more)
        return total

    def pair_drifts(self) -> dict[tuple[int, int], float]:
        """`pairs` by the indices of the options."""
        index = {option.choice.label: place for place, option in enumerate(self.options) if option.choice is not None}
        return {
            (index[first], index[second]): more
            for (first, second), more in self.pairs.items()
            if first in index and second in index
        }

    @cached_property
    def originals(self) -> Chosen:
        """The solution that leaves every half as it is."""
        return tuple(index for index, option in enumerate(self.options) if option.choice is None)

    def random(self, count: int, seed: int) -> Iterator[tuple[int, Chosen]]:
        """Numbers of frames, and solutions, drawn so that each option of a layer is as likely; the originals first."""
        generator = np.random.default_rng(seed)
        yield 0, self.originals
        for _ in range(count - 1):
            free = {slot for option in self.options for slot in option.slots}
            solution = []
            for index in generator.permutation(len(self.options)).tolist():
                slots = set(self.options[index].slots)
                if slots <= free:
                    solution.append(index)
                    free -= slots
            yield int(generator.integers(len(self.frames))), tuple(sorted(solution))

    def chosen(self, frame: Frame, solution: Chosen) -> tuple[Choice, ...]:
        """The choices of a solution, the frame's last."""
        layered = [self.options[index].choice for index in solution]
        return tuple(choice for choice in (*layered, frame.choice) if choice is not None)

    def composed(self, frame: Frame, solution: Chosen, label: str) -> Probe:
        """The whole model of a solution, to be timed."""
        from compress.model.structure import Step

        blocks = []
        for layer, spec in enumerate(frame.structure.blocks):
            changes: dict[str, Any] = {}
            for index in solution:
                option = self.options[index]
                if option.layer != layer:
                    continue
                if option.choice is not None and _goes(option.choice):
                    break
                for slot in option.slots:
                    half, theirs = slot.partition(".")[2], option.structure.blocks[layer]
                    changes |= {half: getattr(theirs, half), f"{half}_norm": getattr(theirs, f"{half}_norm")}
            else:
                blocks.append(spec.replace(**changes))
        schedule = tuple(Step(block=index, origin=index) for index in range(len(blocks)))
        return of_whole(frame.structure.replace(blocks=tuple(blocks), schedule=schedule), label)


def _goes(choice: Choice) -> bool:
    """Whether the layer goes, so that nothing of it is left to time."""
    return choice.method.search is not None and choice.method.search.renumbers
