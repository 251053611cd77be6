"""Image classification: one label per image, judged by top-1 accuracy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.json_files import read_object
from compress.tasks.task import AnyPart, DataChoice, GraphInputs, Part, Prepared, Task, Tell, Wires
from targets.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from compress.data import ImageDataset
    from compress.heal.objective import Feed, Objective
    from compress.model import Structure
    from compress.tasks.task import Arrays, Run
    from compress.verification.kinds.classes import Predictions
    from compress.verification.samples import Samples
    from runtime.bundles.manifest import Tensor as Declared

#: Images that go through a model at once, where nobody waits for a single answer.
BATCH = 128
#: Batch sizes at which the graph must agree with torch: a dimension that froze in the export shows at one of them.
CHECKED_BATCHES = (1, 2, 7)


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

    def subset(self, indices: Collection[int]) -> PreparedImages:
        return replace(self, dataset=self.dataset.subset(indices))


class ImageClassification(Task):
    """The labels of a folder of images."""

    name = "image-classification"
    noun = "images"
    beside = "preprocessor_config.json"
    architectures = ("ForImageClassification", "ForImageClassificationWithTeacher")
    head = "classes"
    auto_class = "AutoModelForImageClassification"
    fallback = True
    can_exit_early = True
    outputs = ("logits",)
    metric = "top1"
    passengers = ("config.json", "preprocessor_config.json", "processor_config.json")
    libraries = ("numpy", "pillow")

    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        from compress.data import preprocessing_from_hf

        return preprocessing_from_hf(folder, note)

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "softmax"}

    def digest(self, choice: DataChoice, part: Part, memo: Path) -> str:
        from compress.data import load

        return load(choice.source, part=part, seed=choice.seed).digest(memo)

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedImages:
        from compress.data import load

        limit = choice.limit if part == "evaluation" else None
        dataset = load(choice.source, part=part, limit=limit, seed=choice.seed, skip_corrupt=choice.skip_corrupt)
        if labels is None:
            return PreparedImages(dataset, preprocessing, notes=dataset.notes)
        matched = dataset.for_labels(labels)
        return PreparedImages(matched, preprocessing, tuple(labels), matched.notes)

    def fresh(self, data: Prepared, indices: Collection[int]) -> Prepared:
        """Mirrored images, which no data set holds."""
        assert isinstance(data, PreparedImages)
        return replace(data.subset(indices), mirrored=True)

    def labels_beside(self, folder: Path, outputs: Sequence[Declared]) -> tuple[str, ...] | None:
        from compress.families.family import labels_in

        path = folder / "config.json"
        config = read_object(path) if path.is_file() else {}
        names = config.get("id2label")
        return labels_in(config, folder, len(names) if isinstance(names, Mapping) else 2) if names else None

    def prepares(self, folder: Path) -> bool:
        from compress.data.processor import has_settings

        return has_settings(folder)

    def takes(self, inputs: Sequence[Declared]) -> bool:
        return any(len(tensor.shape) == 4 for tensor in inputs)

    def wires(self, name: str, inputs: Sequence[Declared], outputs: Sequence[Declared]) -> Wires:
        images = [tensor for tensor in inputs if len(tensor.shape) == 4]
        scores = [tensor for tensor in outputs if len(tensor.shape) == 2]
        if len(inputs) != 1 or len(images) != 1 or not scores:
            shapes = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in (*inputs, *outputs))
            raise InputError(f"{name} is no image classifier (one input of 4 dimensions, logits of 2): it has {shapes}")
        image, batch = images[0], images[0].shape[0]
        output = next((tensor.name for tensor in scores if tensor.name == "logits"), scores[0].name)
        return Wires(
            lambda inputs: {image.name: inputs["pixel_values"].astype(image.dtype, copy=False)},
            lambda outputs: {"logits": outputs[output]},
            batch if isinstance(batch, int) else None,
        )

    def graph_inputs(self, structure: Structure, seed: int) -> GraphInputs:
        import torch

        from compress.model.embeds.patch import PatchEmbedSpec

        embed = structure.embed
        assert isinstance(embed, PatchEmbedSpec)
        generator = torch.Generator().manual_seed(seed)

        def images(batch: int) -> dict[str, Tensor]:
            return {"pixel_values": torch.randn(batch, embed.channels, *embed.image_size, generator=generator)}

        return GraphInputs(images(2), {"pixel_values": {0: "batch"}}, [images(batch) for batch in CHECKED_BATCHES])

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> Predictions:
        import numpy as np

        from compress.verification.kinds.classes import Predictions

        assert isinstance(data, PreparedImages)
        labels, parts = data.dataset.labels, []
        correct = seen = 0
        for inputs in ahead(data.batches(batch or BATCH)):
            logits = np.asarray(run(inputs)["logits"], np.float32)
            if logits.ndim != 2 or len(logits) != len(inputs["pixel_values"]):
                shape = list(logits.shape)
                raise InputError(f"the model gives outputs of shape {shape}; logits [batch, classes] are needed")
            parts.append(logits)
            correct += int((logits.argmax(axis=1) == labels[seen : seen + len(logits)]).sum())
            seen += len(logits)
            tell(seen, top1=correct / seen)
        return Predictions(np.concatenate(parts), labels, None if data.labels is None else list(data.labels))

    def headline(self, answers: Samples) -> str:
        from compress.verification.kinds.classes import Predictions, correct

        assert isinstance(answers, Predictions)
        right = int(correct(answers).sum())
        return f"{right} of {len(answers)} right ({100 * right / len(answers):.2f} %)"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import CLASSIFICATION

        return CLASSIFICATION

    def feed(self, data: Prepared, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> Feed:
        from compress.heal.images import ImageFeed

        assert isinstance(data, PreparedImages)
        return ImageFeed(data.dataset, data.preprocessing, seed, device, rank, world)

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return (wanted_BK.argmax(-1) == given_BK.argmax(-1)).float()

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"agrees with the original on {100 * agreement:.1f} % of {count} held-out"

    def shown(self, data: Prepared, indices: Sequence[int]) -> dict[str, dict[int, str]]:
        from compress.verification.report import picture

        assert isinstance(data, PreparedImages)
        return {"pictures": dict(zip(indices, map(picture, data.dataset.raw(indices)), strict=True))}

    def slices(self, data: Prepared) -> Arrays:
        from compress.verification.slices import of_images

        assert isinstance(data, PreparedImages)
        return of_images(data.dataset)


def ahead(batches: Iterator[Arrays]) -> Iterator[Arrays]:
    """The batches, each prepared in a thread of its own while the model works on the one before it."""
    with ThreadPoolExecutor(1, thread_name_prefix="prepare") as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


TASK = ImageClassification()
