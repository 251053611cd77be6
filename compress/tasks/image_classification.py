"""Image classification: one label per image, judged by top-1 accuracy."""

from __future__ import annotations

from typing import ClassVar

from compress.tasks.classes import ClassTask
from compress.tasks.images import ImageTask


class ImageClassification(ClassTask, ImageTask):
    """The labels of a folder of images."""

    name = "image-classification"
    architectures = ("ForImageClassification", "ForImageClassificationWithTeacher")
    auto_class: ClassVar[str | None] = "AutoModelForImageClassification"
    fallback = True
    graph = "image classifier (one input of 4 dimensions, logits of 2)"


TASK = ImageClassification()
