"""What the tasks on files share, be they images or recordings: prepared samples, graphs of one size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from compress.tasks.task import AnyPart, DataChoice, GraphInputs, Part, Prepared, Task, Wires
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from compress.data.dataset import LabelledDataset
    from compress.model import Structure
    from compress.tasks.task import Arrays, Run, Tell
    from runtime.bundles.manifest import Tensor as Declared

#: Samples that go through a model at once, where nobody waits for a single answer.
BATCH = 128
#: Batch sizes at which the graph must agree with torch: a dimension that froze in the export shows at one of them.
CHECKED_BATCHES = (1, 2, 7)


@dataclass(frozen=True)
class PreparedFiles(ABC):
    """Samples as one model wants them. `labels`: its classes, None where it names none. `changed`: each so that no data
    set has it."""

    input: ClassVar[str]
    """The name of the model's input."""

    dataset: LabelledDataset[Any]
    preprocessing: Mapping[str, Any]
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    changed: bool = False

    @staticmethod
    @abstractmethod
    def change(sample: Any) -> Any:
        """A sample that is like this one, and that no data set has."""

    @property
    def location(self) -> Path:
        return self.dataset.location

    @property
    def names(self) -> Sequence[str]:
        return self.dataset.names

    def __len__(self) -> int:
        return len(self.dataset)

    def check(self) -> None:
        self.dataset.raw(self.dataset.unreadable())

    def fingerprints(self) -> list[tuple[int, ...]]:
        return self.dataset.fingerprints()

    def batches(self, size: int, indices: Collection[int] | None = None) -> Iterator[Arrays]:
        if not self.changed:
            for values, _ in self.dataset.batches(self.preprocessing, batch_size=size, indices=indices):
                yield {self.input: values}
            return
        chosen = list(range(len(self)) if indices is None else indices)
        for start in range(0, len(chosen), size):
            samples = [self.change(one) for one in self.dataset.raw(chosen[start : start + size])]
            yield {self.input: self.dataset.prepared(samples, self.preprocessing)}

    def calibration(self, size: int, indices: Collection[int]) -> Iterator[Arrays]:
        return self.batches(size, indices)

    def subset(self, indices: Collection[int]) -> Self:
        return replace(self, dataset=self.dataset.subset(indices))


class FileTask(Task):
    """A task on files of one kind. `prepared`: how its samples are held; `input_dims`: dimensions of its one input;
    `graph`: what its graph is, as a refusal of another calls it; `dims`: dimensions of its outputs; `usual`: the one
    that is taken where a single one is needed and several have these."""

    prepared: ClassVar[type[PreparedFiles]]
    input_dims: ClassVar[int]
    graph: ClassVar[str]
    dims: ClassVar[int] = 2
    usual: ClassVar[str] = "logits"

    beside = "preprocessor_config.json"
    passengers: ClassVar[tuple[str, ...]] = ("config.json", "preprocessor_config.json", "processor_config.json")

    @abstractmethod
    def load(self, choice: DataChoice, part: AnyPart) -> LabelledDataset[Any]:
        """The samples of a part as the recipe chooses them; its limit is on those to evaluate on. Raises InputError."""

    def digest(self, choice: DataChoice, part: Part, memo: Path) -> str:
        return self.load(replace(choice, limit=None, skip_corrupt=False), part).digest(memo)

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedFiles:
        """Samples of any classes."""
        dataset = self.load(choice, part)
        return self.prepared(dataset, preprocessing, notes=dataset.notes)

    def fresh(self, data: Prepared, indices: Collection[int]) -> Prepared:
        assert isinstance(data, PreparedFiles)
        return replace(data.subset(indices), changed=True)

    def takes(self, inputs: Sequence[Declared]) -> bool:
        """A bare graph is taken for a classifier."""
        return False

    def wires(self, name: str, inputs: Sequence[Declared], outputs: Sequence[Declared]) -> Wires:
        given = [tensor for tensor in inputs if len(tensor.shape) == self.input_dims]
        named = self._named([tensor.name for tensor in outputs if len(tensor.shape) == self.dims])
        if len(inputs) != 1 or not given or not named:
            shapes = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in (*inputs, *outputs))
            raise InputError(f"{name} is no {self.graph}: it has {shapes}")
        first, batch = given[0], given[0].shape[0]
        return Wires(
            lambda inputs: {first.name: inputs[self.prepared.input].astype(first.dtype, copy=False)},
            lambda outputs: {mine: outputs[theirs] for mine, theirs in named.items()},
            batch if isinstance(batch, int) else None,
        )

    def _named(self, found: Sequence[str]) -> dict[str, str]:
        """Which of these outputs of a graph each of the task's is: several by their names, a single one by any."""
        if len(self.outputs) > 1:
            return {name: name for name in self.outputs} if set(found).issuperset(self.outputs) else {}
        return {self.outputs[0]: self.usual if self.usual in found else found[0]} if found else {}

    def graph_inputs(self, structure: Structure, seed: int) -> GraphInputs:
        import torch

        from compress.model.embeds.patch import PatchEmbedSpec

        embed = structure.embed
        assert isinstance(embed, PatchEmbedSpec)
        generator = torch.Generator().manual_seed(seed)
        example, *cases = (embed.random(batch, generator) for batch in (2, *CHECKED_BATCHES))
        return GraphInputs(example, {embed.input: {0: "batch"}}, cases)


def each_batch(run: Run, data: PreparedFiles, size: int) -> Iterator[tuple[Arrays, int]]:
    """What a model gives for all samples, and for how many each time."""
    for inputs in _ahead(data.batches(size)):
        yield run(inputs), len(inputs[data.input])


def rows_of_files(
    run: Run, data: PreparedFiles, size: int, tell: Tell, rows: Callable[[Arrays, int], np.ndarray]
) -> np.ndarray:
    """What `rows` makes of the outputs for some samples and their number, for all samples."""
    import numpy as np

    parts: list[np.ndarray] = []
    for outputs, count in each_batch(run, data, size):
        parts.append(rows(outputs, count))
        tell(sum(map(len, parts)))
    return np.concatenate(parts)


def _ahead(batches: Iterator[Arrays]) -> Iterator[Arrays]:
    """The batches, each prepared in a thread of its own while the model works on the one before it."""
    with ThreadPoolExecutor(1, thread_name_prefix="prepare") as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch
