"""What the tasks on recordings share: prepared recordings, and what people are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compress.tasks.files import FileTask, PreparedFiles
from compress.tasks.task import AnyPart, DataChoice, Prepared

if TYPE_CHECKING:
    import numpy as np
    import torch

    from compress.data.sounds import SoundDataset
    from compress.heal.objective import Feed
    from compress.tasks.task import Arrays
    from runtime.sounds.reading import Recording


@dataclass(frozen=True)
class PreparedSounds(PreparedFiles):
    """Recordings as one model wants them."""

    input: ClassVar[str] = "input_values"

    @staticmethod
    def change(sample: Recording) -> Recording:
        """The recording from its middle on, with its first half behind."""
        import numpy as np

        return replace(sample, samples=np.roll(sample.samples, len(sample.samples) // 2))


class SoundTask(FileTask):
    """A task on recordings."""

    noun = "recordings"
    prepared = PreparedSounds
    input_dims = 3
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        from compress.data.sounds import spectrogram_from_hf

        return spectrogram_from_hf(folder, note)

    def load(self, choice: DataChoice, part: AnyPart) -> SoundDataset:
        from compress.data.sounds import load_sounds

        limit = choice.limit if part == "evaluation" else None
        return load_sounds(choice.source, part=part, limit=limit, seed=choice.seed, skip_corrupt=choice.skip_corrupt)

    def prepares(self, folder: Path) -> bool:
        from compress.data.sounds.extractor import has_settings

        return has_settings(folder)

    def feed(self, data: Prepared, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> Feed:
        from compress.heal.sounds import SoundFeed

        assert isinstance(data, PreparedSounds)
        return SoundFeed(data.dataset, data.preprocessing, seed, device, rank, world)

    def shown(self, data: Prepared, indices: Sequence[int]) -> dict[str, dict[int, str]]:
        """Spectrograms: time to the right, high tones above."""
        from compress.verification.report import picture

        assert isinstance(data, PreparedSounds)
        spectrograms = (inputs[data.input][0] for inputs in data.batches(1, indices))
        return {"pictures": {at: picture(_grey(one)) for at, one in zip(indices, spectrograms, strict=True)}}

    def slices(self, data: Prepared) -> Arrays:
        import numpy as np

        from compress.verification.slices import of_sounds

        assert isinstance(data, PreparedSounds)
        recordings = data.dataset.raw()
        seconds = np.array([len(one.samples) / one.rate for one in recordings])
        return of_sounds(seconds, np.array([float(np.square(one.samples).mean()) for one in recordings]))


def _grey(features: np.ndarray) -> np.ndarray:
    """uint8 [bins, frames] of [frames, bins], from the least number to the largest."""
    import numpy as np

    least, most = float(features.min()), float(features.max())
    return np.rint((features.T[::-1] - least) * (255 / max(most - least, 1e-12))).astype(np.uint8)
