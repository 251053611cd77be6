"""What the tasks on images share: prepared images, graphs of one size, what people are shown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from compress.tasks.task import AnyPart, DataChoice, GraphInputs, Part, Prepared, Task, Wires
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from compress.data import ImageDataset
    from compress.heal.objective import Feed
    from compress.model import Structure
    from compress.tasks.task import Arrays, Run, Tell
    from runtime.bundles.manifest import Tensor as Declared

#: Images that go through a model at once, where nobody waits for a single answer.
BATCH = 128
#: Pixels that go through a model at once where images are large and attention looks at all pairs of patches.
_PIXELS = 1 << 21
#: Batch sizes at which the graph must agree with torch: a dimension that froze in the export shows at one of them.
CHECKED_BATCHES = (1, 2, 7)
#: Images whose brightness is measured at once.
LOOKED_AT = 256


@dataclass(frozen=True)
class PreparedImages:
    """Images as one model wants them. `labels`: its classes, None where it names none. `mirrored`: right to left."""

    dataset: ImageDataset
    preprocessing: Mapping[str, Any]
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    mirrored: bool = False

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
        if not self.mirrored:
            for pixels, _ in self.dataset.batches(self.preprocessing, batch_size=size, indices=indices):
                yield {"pixel_values": pixels}
            return
        from runtime.images.image import prepare

        chosen = list(range(len(self)) if indices is None else indices)
        for start in range(0, len(chosen), size):
            images = [image[:, ::-1] for image in self.dataset.raw(chosen[start : start + size])]
            yield {"pixel_values": prepare(images, self.preprocessing)}

    def calibration(self, size: int, indices: Collection[int]) -> Iterator[Arrays]:
        return self.batches(size, indices)

    def subset(self, indices: Collection[int]) -> Self:
        return replace(self, dataset=self.dataset.subset(indices))


class ImageTask(Task):
    """A task on images. `graph`: what its graph is, as a refusal of another calls it; `dims`: dimensions of its
    outputs; `usual`: the one that is taken where a single one is needed and several have these."""

    graph: ClassVar[str]
    dims: ClassVar[int] = 2
    usual: ClassVar[str] = "logits"

    noun = "images"
    beside = "preprocessor_config.json"
    passengers: ClassVar[tuple[str, ...]] = ("config.json", "preprocessor_config.json", "processor_config.json")
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        from compress.data import preprocessing_from_hf

        return preprocessing_from_hf(folder, note)

    def digest(self, choice: DataChoice, part: Part, memo: Path) -> str:
        return images_of(replace(choice, limit=None, skip_corrupt=False), part).digest(memo)

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedImages:
        """Images of any classes."""
        dataset = images_of(choice, part)
        return PreparedImages(dataset, preprocessing, notes=dataset.notes)

    def fresh(self, data: Prepared, indices: Collection[int]) -> Prepared:
        """Mirrored images, which no data set holds."""
        assert isinstance(data, PreparedImages)
        return replace(data.subset(indices), mirrored=True)

    def prepares(self, folder: Path) -> bool:
        from compress.data.processor import has_settings

        return has_settings(folder)

    def takes(self, inputs: Sequence[Declared]) -> bool:
        """A bare graph on images is taken for a classifier."""
        return False

    def wires(self, name: str, inputs: Sequence[Declared], outputs: Sequence[Declared]) -> Wires:
        images = [tensor for tensor in inputs if len(tensor.shape) == 4]
        named = self._named([tensor.name for tensor in outputs if len(tensor.shape) == self.dims])
        if len(inputs) != 1 or not images or not named:
            shapes = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in (*inputs, *outputs))
            raise InputError(f"{name} is no {self.graph}: it has {shapes}")
        image, batch = images[0], images[0].shape[0]
        return Wires(
            lambda inputs: {image.name: inputs["pixel_values"].astype(image.dtype, copy=False)},
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

        def images(batch: int) -> dict[str, Tensor]:
            return {"pixel_values": torch.randn(batch, embed.channels, *embed.image_size, generator=generator)}

        return GraphInputs(images(2), {"pixel_values": {0: "batch"}}, [images(batch) for batch in CHECKED_BATCHES])

    def feed(self, data: Prepared, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> Feed:
        from compress.heal.images import ImageFeed

        assert isinstance(data, PreparedImages)
        return ImageFeed(data.dataset, data.preprocessing, seed, device, rank, world)

    def shown(self, data: Prepared, indices: Sequence[int]) -> dict[str, dict[int, str]]:
        from compress.verification.report import picture

        assert isinstance(data, PreparedImages)
        return {"pictures": dict(zip(indices, map(picture, data.dataset.raw(indices)), strict=True))}

    def slices(self, data: Prepared) -> Arrays:
        import numpy as np

        from compress.verification.slices import of_looks

        assert isinstance(data, PreparedImages)
        starts = range(0, len(data), LOOKED_AT)
        looks = np.array([look for start in starts for look in _looks(data.dataset, start)])
        return of_looks(*looks.T)


def _looks(data: ImageDataset, start: int) -> list[tuple[float, float]]:
    """Mean and standard deviation of the values of each of some images."""
    import numpy as np

    images = data.raw(range(start, min(start + LOOKED_AT, len(data))))
    if len({image.shape for image in images}) > 1:
        return [(float(image.mean()), float(image.std())) for image in images]
    flat = np.stack(images).reshape(len(images), -1).astype(np.float32)
    return list(zip(flat.mean(axis=1).tolist(), flat.std(axis=1).tolist(), strict=True))


def each_batch(run: Run, data: PreparedImages, size: int) -> Iterator[tuple[Arrays, int]]:
    """What a model gives for all images, and for how many each time."""
    for inputs in _ahead(data.batches(size)):
        yield run(inputs), len(inputs["pixel_values"])


def rows_of_images(
    run: Run, data: PreparedImages, size: int, tell: Tell, rows: Callable[[Arrays, int], np.ndarray]
) -> np.ndarray:
    """What `rows` makes of the outputs for some images and their number, for all images."""
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


def at_once(preprocessing: Mapping[str, Any]) -> int:
    """How many large images go through a model at once."""
    height, width = preprocessing["size"]
    return max(1, min(BATCH, _PIXELS // (height * width)))


def images_of(choice: DataChoice, part: AnyPart, boxes: bool = False) -> ImageDataset:
    """The images of a part as the recipe chooses them; its limit is on those to evaluate on. `boxes`: those of a COCO
    file if there is one. Raises InputError."""
    from compress.data import load

    limit = choice.limit if part == "evaluation" else None
    return load(choice.source, part=part, limit=limit, seed=choice.seed, skip_corrupt=choice.skip_corrupt, boxes=boxes)
