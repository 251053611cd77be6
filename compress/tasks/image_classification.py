"""Image classification: one label per image, judged by top-1 accuracy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.tasks.task import DataChoice, GraphInputs, Part, Prepared, Task, Tell

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from compress.data import ImageDataset
    from compress.heal.objective import Feed, Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.classes import Predictions
    from compress.verification.samples import Samples

#: Images that go through a model at once, where nobody waits for a single answer.
BATCH = 128
#: Batch sizes at which the graph must agree with torch: a dimension that froze in the export shows at one of them.
CHECKED_BATCHES = (1, 2, 7)


@dataclass(frozen=True)
class PreparedImages:
    """Images as one model wants them."""

    dataset: ImageDataset
    preprocessing: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def location(self) -> Path:
        return self.dataset.location

    def __len__(self) -> int:
        return len(self.dataset)

    def check(self) -> None:
        self.dataset.raw(self.dataset.unreadable())

    def fingerprints(self) -> list[tuple[int, ...]]:
        return self.dataset.fingerprints()

    def batches(self, size: int, indices: Collection[int] | None = None) -> Iterator[dict[str, np.ndarray]]:
        for pixels, _ in self.dataset.batches(self.preprocessing, batch_size=size, indices=indices):
            yield {"pixel_values": pixels}

    def calibration(self, size: int, indices: Collection[int]) -> Iterator[dict[str, np.ndarray]]:
        return self.batches(size, indices)

    def subset(self, indices: Collection[int]) -> PreparedImages:
        return PreparedImages(self.dataset.subset(indices), self.preprocessing, self.notes)


class ImageClassification(Task):
    """The labels of a folder of images."""

    name = "image-classification"
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

    def open(self, choice: DataChoice, part: Part, structure: Structure, files: Path) -> PreparedImages:
        from compress.data import load

        limit = choice.limit if part == "evaluation" else None
        dataset = load(choice.source, part=part, limit=limit, seed=choice.seed, skip_corrupt=choice.skip_corrupt)
        matched = dataset.for_labels(structure.labels)
        return PreparedImages(matched, structure.preprocessing, matched.notes)

    def graph_inputs(self, structure: Structure, seed: int) -> GraphInputs:
        import torch

        from compress.model.embeds.patch import PatchEmbedSpec

        embed = structure.embed
        assert isinstance(embed, PatchEmbedSpec)
        generator = torch.Generator().manual_seed(seed)

        def images(batch: int) -> dict[str, Tensor]:
            return {"pixel_values": torch.randn(batch, embed.channels, *embed.image_size, generator=generator)}

        return GraphInputs(images(2), {"pixel_values": {0: "batch"}}, [images(batch) for batch in CHECKED_BATCHES])

    def answers(self, run: Run, data: Prepared, structure: Structure, tell: Tell) -> Predictions:
        import numpy as np

        from compress.verification.kinds.classes import Predictions

        assert isinstance(data, PreparedImages)
        labels = data.dataset.labels
        logits = np.empty((len(labels), len(structure.labels)), np.float32)
        correct = seen = 0
        for inputs in data.batches(BATCH):
            answers = run(inputs)["logits"]
            rows = slice(seen, seen + len(answers))
            logits[rows] = answers
            correct += int((answers.argmax(axis=1) == labels[rows]).sum())
            seen += len(answers)
            tell(seen, top1=correct / seen)
        return Predictions(logits, labels, list(structure.labels))

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

    def slices(self, data: Prepared) -> dict[str, np.ndarray]:
        from compress.verification.slices import of_images

        assert isinstance(data, PreparedImages)
        return of_images(data.dataset)


TASK = ImageClassification()
