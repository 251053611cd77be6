"""predict: every model file answers the evaluation samples through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline import StageContext
from compress.stages.artifacts import OnnxModel, ShippedModels, SourceModel
from compress.stages.samples import BATCH, evaluation

if TYPE_CHECKING:
    from compress.data import ImageDataset
    from compress.model import Structure
    from compress.verification.predictions import Predictions


def answer_original(context: StageContext, original: SourceModel, model: OnnxModel) -> None:
    """The original's answers. Options: `data`."""
    _answer_all(context, original, {model.file.name: model.file})


def answer_shipped(context: StageContext, original: SourceModel, models: ShippedModels) -> None:
    """The answers of each file that ships. Options: `data`."""
    _answer_all(context, original, {entry["path"]: models.path / entry["path"] for entry in models.entries()})


def answer_dynamic(context: StageContext, original: SourceModel, models: ShippedModels) -> None:
    """The answers of the first file alone (the original's dynamic int8). Options: `data`."""
    first = models.entries()[0]["path"]
    _answer_all(context, original, {first: models.path / first})


def _answer_all(context: StageContext, original: SourceModel, files: dict[str, Path]) -> None:
    structure = original.structure()
    dataset = evaluation(context.options["data"], structure)
    for index, (name, path) in enumerate(files.items()):
        predictions = _answers(context, path, dataset, structure, done=index, total=len(files))
        predictions.save(context.folder / f"{name}.npz")


def _answers(
    context: StageContext, path: Path, dataset: ImageDataset, structure: Structure, done: int, total: int
) -> Predictions:
    import numpy as np

    from compress.verification.predictions import Predictions
    from runtime import ort

    model = ort.load(path)
    samples = len(dataset)
    logits = np.empty((samples, len(structure.labels)), np.float32)
    correct = seen = 0
    for pixels, labels in dataset.batches(structure.preprocessing, batch_size=BATCH):
        answers = model.run({"pixel_values": pixels})["logits"]
        logits[seen : seen + len(answers)] = answers
        seen += len(answers)
        correct += int((answers.argmax(axis=1) == labels).sum())
        context.progress(done * samples + seen, total * samples, path.name, top1=correct / seen)
    context.log(f"{path.name}: {correct} of {samples} right ({100 * correct / samples:.2f} %)")
    return Predictions(logits, dataset.labels, list(structure.labels))
