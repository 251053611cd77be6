"""What a task has to answer, so that the stages work for it.

B batch, N tokens, K what the model gives per sample.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from compress.heal.objective import Feed, Objective
    from compress.model import Structure, Transformer
    from compress.verification.samples import Samples
    from runtime.bundles.manifest import State
    from runtime.bundles.manifest import Task as TaskName

    Arrays = dict[str, np.ndarray]
    #: A model file: its inputs by name to its outputs by name.
    Run = Callable[[Mapping[str, np.ndarray]], Arrays]

Part = Literal["evaluation", "healing"]


class Tell(Protocol):
    """Told how many samples are done, with numbers worth watching."""

    def __call__(self, done: int, **numbers: float) -> None: ...


@dataclass(frozen=True)
class DataChoice:
    """What the recipe says of the data: the spec, how many to evaluate on, whether to skip what cannot be read."""

    source: str
    limit: int | None
    skip_corrupt: bool
    seed: int


class Prepared(Protocol):
    """Samples of a data set, ready for one model."""

    @property
    def location(self) -> Path:
        """Where they come from, for messages."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of them."""
        ...

    def __len__(self) -> int: ...

    def check(self) -> None:
        """Raises InputError that names and counts the samples that cannot be read."""
        ...

    def fingerprints(self) -> list[tuple[int, ...]]:
        """Of the content of each sample (see `compress.data.seen`)."""
        ...

    def batches(self, size: int, indices: Collection[int] | None = None) -> Iterator[Arrays]:
        """The model's inputs, `size` samples at once, in order; the last batch may be smaller."""
        ...

    def calibration(self, size: int, indices: Collection[int]) -> Iterator[Arrays]:
        """The same samples in any order, in batches that hold nothing but real tokens, no padding."""
        ...

    def subset(self, indices: Collection[int]) -> Self:
        """These samples, in this order."""
        ...


@dataclass(frozen=True)
class GraphInputs:
    """How a model is exported: an example, its dynamic dimensions, and the cases at which the graph must agree with
    torch (they differ in every dynamic dimension)."""

    example: dict[str, Tensor]
    dynamic: dict[str, dict[int, str]]
    cases: list[dict[str, Tensor]]

    @property
    def sizes(self) -> str:
        """The shapes of the cases' first input, for messages."""
        return ", ".join(" x ".join(map(str, next(iter(case.values())).shape[:2])) for case in self.cases)


class Task(ABC):
    """One kind of question. Stateless; `original` is the folder of the model as it was read (`SourceModel`)."""

    name: ClassVar[TaskName]
    outputs: ClassVar[tuple[str, ...]]
    """Names of the graph's outputs."""
    metric: ClassVar[str]
    """The metric that the gate bounds (see `compress.verification.metrics`)."""
    bound: ClassVar[Literal["max_drop", "max_relative_drop"]] = "max_drop"
    """What `gate.max_drop` means: points of the metric, or percent of the original's."""
    recipes: ClassVar[str] = ""
    """Folder of the built-in recipes' forms for this task, below `compress/recipes`; "" if the common ones serve."""
    passengers: ClassVar[tuple[str, ...]]
    """Files of the model's folder that travel into the bundle, so that other tools open it."""
    golden: ClassVar[int] = 8
    """Golden samples: real inputs whose answers the device has to reproduce."""
    libraries: ClassVar[tuple[str, ...]]

    @property
    def limit(self) -> str:
        """What a gate's number counts: "points lost"."""
        return "points lost" if self.bound == "max_drop" else "% worse"

    @abstractmethod
    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        """The manifest's `preprocessing` section for a checkpoint's folder. Raises InputError."""

    def copy_files(self, folder: Path, destination: Path) -> None:
        """Copy the files that travel, those that there are. Raises InputError."""
        for name in self.passengers:
            if (folder / name).is_file():
                (destination / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, destination / name)

    @abstractmethod
    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        """The manifest's `postprocessing` section."""

    @abstractmethod
    def digest(self, choice: DataChoice, part: Part, memo: Path) -> str:
        """Digest of the content of a part of the data. Raises InputError for data that cannot be opened."""

    @abstractmethod
    def open(self, choice: DataChoice, part: Part, structure: Structure, files: Path) -> Prepared:
        """The samples of a part. `files`: the folder of the source's own files (tokenizer). Raises InputError."""

    def module(self, model: Transformer) -> nn.Module:
        """What is exported: a map from a dict of the graph's inputs to its outputs."""
        return model

    def graph_outputs(self, structure: Structure) -> tuple[str, ...]:
        """Names of all that the graph gives, states included."""
        return self.outputs

    def shortened(self, inputs: Arrays) -> Arrays:
        """Golden inputs, cut where the answers would be too large to ship."""
        return inputs

    def states(self, structure: Structure) -> tuple[State, ...]:
        """What the device hands from call to call; the manifest lists it."""
        return ()

    @abstractmethod
    def graph_inputs(self, structure: Structure, seed: int) -> GraphInputs:
        """How to export the model."""

    def stream_tokens(self, data: Prepared) -> np.ndarray | None:
        """Tokens (N,) of the samples, to feed a recurrent model in several ways; None for models without state."""
        return None

    def timing_length(self, structure: Structure) -> int:
        """Size of the dynamic dimensions other than the batch when files are timed."""
        return 1

    @abstractmethod
    def answers(self, run: Run, data: Prepared, structure: Structure, tell: Tell) -> Samples:
        """What a model file answers to every sample. Raises InputError if the outputs do not fit the task."""

    @abstractmethod
    def headline(self, answers: Samples) -> str:
        """One line for the log: how good the answers are."""

    @property
    @abstractmethod
    def objective(self) -> Objective:
        """What healing minimises."""

    @abstractmethod
    def feed(self, data: Prepared, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> Feed:
        """The samples as healing draws them."""

    @abstractmethod
    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """How alike two answers are, (B,) from 0 to 1: 1 if nobody could tell them apart."""

    @abstractmethod
    def agreement_text(self, agreement: float, count: int) -> str:
        """The mean agreement on `count` held-out samples, in words."""

    @abstractmethod
    def shown(self, data: Prepared, indices: Sequence[int]) -> dict[str, dict[int, str]]:
        """These samples for people: `pictures` (PNG, base64) or `texts` of a report, by index."""

    @abstractmethod
    def slices(self, data: Prepared) -> dict[str, np.ndarray]:
        """Parts of the data that may fare worse than the rest: name -> mask [S]."""
