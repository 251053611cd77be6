"""What a task has to answer, so that the stages work for it.

B batch, N tokens, K what the model gives per sample.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from compress.json_files import read_json
from compress.tasks.feeding import fitted
from runtime.bundles.manifest import GRAPH

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from compress.families.purpose import Head
    from compress.heal.objective import Feed, Objective
    from compress.model import Structure, Transformer
    from compress.verification.samples import Samples
    from runtime.bundles.manifest import Tensor as Declared

    Arrays = dict[str, np.ndarray]
    #: A model file: its inputs by name to its outputs by name.
    Run = Callable[[Mapping[str, np.ndarray]], Arrays]

Part = Literal["evaluation", "healing"]
#: What can be opened of the data: a part, or all of it.
AnyPart = Literal["evaluation", "healing", "all"]


#: What libraries write into their files of the places that these came from.
_PLACES = ("_name_or_path", "name_or_path", "special_tokens_map_file", "tokenizer_file")


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

    @property
    def names(self) -> Sequence[str]:
        """What each sample is called in the data."""
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


class Wires(NamedTuple):
    """How a graph is used for a task: `feed` makes its inputs of the task's, `read` the task's outputs of its own;
    `batch` is the one size that it takes, None for any."""

    feed: Callable[[Mapping[str, np.ndarray]], Arrays]
    read: Callable[[Arrays], Arrays]
    batch: int | None


class Task(ABC):
    """One kind of question. Stateless. All that the workstation knows of it stands in its file."""

    name: ClassVar[str]
    noun: ClassVar[str]
    """What a sample is, in the plural."""
    beside: ClassVar[str]
    """The files that say how its inputs are prepared, for messages about an ONNX file without them."""
    architectures: ClassVar[tuple[str, ...]]
    """What the names of a checkpoint's classes end in (config.json, `architectures`)."""
    sentence_architectures: ClassVar[tuple[str, ...]] = ()
    """The same for the body of a folder that has sentence-transformers' modules.json."""
    problem_type: ClassVar[str] = "single_label_classification"
    """What config.json calls a head with `labels` that is for this."""
    head: ClassVar[Head]
    """What a checkpoint needs on top of its body (see `compress.families`)."""
    auto_class: ClassVar[str | None] = None
    """The class of transformers whose `logits` are the task's output; None where that library has none."""
    fallback: ClassVar[bool] = False
    """Whether a model folder that does not say what it is for is for this."""
    can_exit_early: ClassVar[bool] = False
    """Whether an answer says how sure it is, so that a looped model may stop at an earlier loop."""
    keeps_state: ClassVar[bool] = False
    """Whether the graph that ships takes a state and gives the next."""
    shared: ClassVar[tuple[str, ...]] = ()
    """Inputs that go whole with every batch: they have no axis of samples. The first input is never one of them."""
    outputs: ClassVar[tuple[str, ...]]
    """Names of the graph's outputs."""
    metric: ClassVar[str]
    """The metric that the gate bounds (see `compress.verification.metrics`)."""
    recipes: ClassVar[str] = ""
    """Folder of the built-in recipes' forms for this task, below `compress/recipes`; "" if the common ones serve."""
    passengers: ClassVar[tuple[str, ...]]
    """Files of the model's folder that travel into the bundle, so that other tools open it."""
    golden: ClassVar[int] = 8
    """Golden samples: real inputs whose answers the device has to reproduce."""
    libraries: ClassVar[tuple[str, ...]]

    @property
    def bound(self) -> Literal["max_drop", "max_relative_drop"]:
        """What `gate.max_drop` means: points of the metric, or percent of the original's."""
        from compress.verification.metrics import METRICS

        return METRICS[self.metric].bound

    @property
    def limit(self) -> str:
        """What a gate's number counts: "points lost"."""
        return "points lost" if self.bound == "max_drop" else "% worse"

    def claims(self, config: Mapping[str, object]) -> bool | None:
        """Whether a checkpoint with one of the `architectures` is for this, by the rest of its config.json; None where
        the class alone tells. A task that claims it goes before those that the class alone tells."""
        return None

    @abstractmethod
    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        """The manifest's `preprocessing` section for a checkpoint's folder. Raises InputError."""

    def copy_files(self, folder: Path, destination: Path) -> None:
        """Copy the files that travel, those that there are, without where they lay. Raises InputError."""
        for name in self.passengers:
            if (folder / name).is_file():
                (destination / name).parent.mkdir(parents=True, exist_ok=True)
                _copy(folder / name, destination / name)

    @abstractmethod
    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        """The manifest's `postprocessing` section."""

    @abstractmethod
    def digest(self, choice: DataChoice, part: Part, memo: Path) -> str:
        """Digest of the content of a part of the data. Raises InputError for data that cannot be opened."""

    @abstractmethod
    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> Prepared:
        """The samples of a part, as one model wants them: one with these `labels` (None: it does not name them) and
        this `preprocessing`. `files`: the folder of the source's own files (tokenizer). Raises InputError."""

    def prepares(self, folder: Path) -> bool:
        """Whether a folder with an ONNX file says how its inputs are prepared."""
        return True

    def lacks(self, preprocessing: Mapping[str, Any] | None, files: Path | None) -> str | None:
        """Why samples cannot be prepared for a model that brings no more than this, or None."""
        return None if preprocessing else f"does not say how {self.noun} are prepared"

    @abstractmethod
    def fresh(self, data: Prepared, indices: Collection[int]) -> Prepared:
        """Inputs that resemble these samples and that no data set has."""

    def labels_beside(self, folder: Path, outputs: Sequence[Declared]) -> tuple[str, ...] | None:
        """The class names of a graph with these outputs, by the config.json in its folder; None where it names none.
        Raises InputError."""
        return None

    def classes(self, structure: Structure, data: Prepared) -> tuple[str, ...]:
        """Names of the classes that the answers are about, for the bundle: the model's own."""
        return structure.labels

    @abstractmethod
    def takes(self, inputs: Sequence[Declared]) -> bool:
        """Whether a graph with these inputs, of which nothing else is known, may be for this task."""

    @abstractmethod
    def wires(self, name: str, inputs: Sequence[Declared], outputs: Sequence[Declared]) -> Wires:
        """How a graph is used for the task. `name`: the file, for messages. Raises InputError if it is for another."""

    def module(self, model: Transformer) -> nn.Module:
        """What is exported: a map from a dict of the graph's inputs to its outputs."""
        return model

    def answer(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """What is healed and judged of a graph's outputs, as `Head.answer` takes it."""
        return outputs[self.outputs[0]]

    def graph_outputs(self, structure: Structure) -> tuple[str, ...]:
        """Names of all that the graph gives, states included."""
        return self.outputs

    def graphs(self, path: Path) -> dict[str, Path]:
        """The graphs that a device runs, by their names, made of the exported one and put beside it. The exported one
        keeps its place and is the graph `model`: it answers what a sample asks, and so is what is judged and timed."""
        return {GRAPH: path}

    def shortened(self, inputs: Arrays) -> Arrays:
        """Golden inputs, cut where the answers would be too large to ship."""
        return inputs

    def golden_inputs(self, graphs: Mapping[str, Path], inputs: Arrays) -> dict[str, Arrays]:
        """What each of `graphs` is given for the samples of which `inputs` are the model's."""
        from export.onnx_model import read_info

        return {name: fitted(path.name, inputs, read_info(path).inputs) for name, path in graphs.items()}

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
    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> Samples:
        """What a model file answers to every sample, `batch` of them at once at most (by default what suits the task).
        Raises InputError if the outputs do not fit the task."""

    @abstractmethod
    def headline(self, answers: Samples) -> str:
        """One line for the log: how good the answers are."""

    @property
    @abstractmethod
    def objective(self) -> Objective:
        """What healing minimizes."""

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


def _copy(file: Path, destination: Path) -> None:
    """Copy a file; one in JSON without the paths of the machine that wrote it."""
    shutil.copyfile(file, destination)
    content = read_json(file) if file.suffix == ".json" else None
    if not isinstance(content, dict):
        return
    private = [name for name in _PLACES if isinstance(content.get(name), str) and Path(content[name]).is_absolute()]
    if private:
        rest = {name: value for name, value in content.items() if name not in private}
        destination.write_text(json.dumps(rest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
