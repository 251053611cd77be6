"""Audio classification: one label per recording, judged by top-1 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from compress.tasks.classes import ClassTask
from compress.tasks.sounds import SoundTask

if TYPE_CHECKING:
    from runtime.bundles.manifest import Tensor as Declared


class AudioClassification(ClassTask, SoundTask):
    """The labels of a folder of recordings."""

    name = "audio-classification"
    architectures = ("ForAudioClassification",)
    auto_class: ClassVar[str | None] = "AutoModelForAudioClassification"
    graph = "audio classifier (one input of 3 dimensions, logits of 2)"

    def takes(self, inputs: Sequence[Declared]) -> bool:
        """Texts may have inputs of three dimensions too, but not of that name."""
        return any(tensor.name == self.prepared.input and len(tensor.shape) == self.input_dims for tensor in inputs)


TASK = AudioClassification()
