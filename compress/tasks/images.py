"""What the tasks on images share: prepared images, and what people are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compress.tasks.files import BATCH, FileTask, PreparedFiles
from compress.tasks.task import AnyPart, DataChoice, Prepared

if TYPE_CHECKING:
    import numpy as np
    import torch

    from compress.data import ImageDataset
    from compress.heal.objective import Feed
    from compress.tasks.task import Arrays

#: Pixels that go through a model at once where images are large and attention looks at all pairs of patches.
_PIXELS = 1 << 21
#: Images whose brightness is measured at once.
LOOKED_AT = 256


@dataclass(frozen=True)
class PreparedImages(PreparedFiles):
    """Images as one model wants them."""

    input: ClassVar[str] = "pixel_values"

    dataset: ImageDataset

    @staticmethod
    def change(sample: np.ndarray) -> np.ndarray:
        """The image [H, W, C] mirrored, right to left."""
        return sample[:, ::-1]


class ImageTask(FileTask):
    """A task on images."""

    noun = "images"
    prepared = PreparedImages
    input_dims = 4
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        from compress.data import preprocessing_from_hf

        return preprocessing_from_hf(folder, note)

    def load(self, choice: DataChoice, part: AnyPart) -> ImageDataset:
        return images_of(choice, part)

    def prepares(self, folder: Path) -> bool:
        from compress.data.processor import has_settings

        return has_settings(folder)

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


def at_once(preprocessing: Mapping[str, Any]) -> int:
    """How many large images go through a model at once."""
    height, width = preprocessing["size"]
    return max(1, min(BATCH, _PIXELS // (height * width)))


def images_of(choice: DataChoice, part: AnyPart, boxes: bool = False, masks: bool = False) -> ImageDataset:
    """The images of a part as the recipe chooses them; its limit is on those to evaluate on. `boxes`: those of a COCO
    file if there is one; `masks`: those with masks if there are such. Raises InputError."""
    from compress.data import load

    limit, skip = choice.limit if part == "evaluation" else None, choice.skip_corrupt
    return load(choice.source, part=part, limit=limit, seed=choice.seed, skip_corrupt=skip, boxes=boxes, masks=masks)
