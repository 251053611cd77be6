"""The single steps of `edgepress.compress`, for those who put them together themselves. Nothing is cached."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from compress.model import Transformer
    from compress.tasks.task import Prepared, Task

#: What ONNX Runtime and TensorRT read on every listed device.
_OPSET = 20


@dataclass(frozen=True)
class Draft:
    """A model between two steps. `module` is a PyTorch module that may be looked into and called, `original` is what it
    was read as, `files` is the folder with its tokenizer or processor."""

    module: Transformer
    original: Transformer
    files: Path

    @property
    def task(self) -> Task:
        """What the model is for."""
        from compress import tasks

        return tasks.get(self.original.structure.task)

    def __repr__(self) -> str:
        before, after = self.original.num_parameters(), self.module.num_parameters()
        return f"<edgepress.Draft {self.task.name}: {after:,} of {before:,} parameters>"


def read(model: Any, processor: Any = None) -> Draft:
    """The model in the form that every rewrite works on, in fp32. `model` and `processor` as for `edgepress.compress`.

    Raises InputError for a model that is not read.
    """
    from compress import tasks, zoo
    from edgepress.given import models
    from edgepress.given.kept import kept
    from runtime.files import cache_root

    root = cache_root()
    folder = zoo.locate(models.source_of(model, processor, root) or "")
    task = tasks.of_folder(folder)
    found = tasks.read_checkpoint(folder, task.preprocessing(folder, _unheard))
    return Draft(found, found, kept(root, "files", lambda place: task.copy_files(folder, place)))


def rewrite(draft: Draft, name: str, data: Any, **options: Any) -> Draft:
    """The model after one rewrite of `edgepress rewrites`, such as `rewrite(draft, "low-rank-heads", data, rank=32)`.

    `data`: as for `edgepress.compress`; closed forms are fitted on the part to heal on. Raises InputError for an
    unknown rewrite or option, and for a model that the rewrite refuses.
    """
    from compress.rewrites import Calibration, parse_options, run_rewrite
    from compress.stages.samples import calibration_batches

    method, wanted = parse_options({"use": name, **options})
    samples, chosen = _samples(draft, data)
    calibration = Calibration(draft.original, calibration_batches(samples, chosen["fit"]), _unheard)
    return replace(draft, module=run_rewrite(method, wanted, draft.module, calibration))


def heal(draft: Draft, data: Any, seed: int = 0, **options: Any) -> Draft:
    """The model after distillation from its original: `heal(draft, data, steps=200, lr=1e-4)`. The options are those of
    a recipe's `[heal]`.

    Raises InputError for an unknown option, or if the loss diverges.
    """
    from compress.pipeline import StageContext
    from compress.recipe import parse
    from compress.stages.heal import distil

    wanted = parse({"heal": options}, "heal").heal
    samples, chosen = _samples(draft, data)
    with tempfile.TemporaryDirectory(prefix="edgepress-") as work:
        context = StageContext(Path(work), Path(work), wanted, seed)
        healed = distil(context, wanted, draft.module, draft.original, draft.task, samples, chosen["held_out"])
    return replace(draft, module=healed.model)


def export(draft: Draft, path: str | Path, data: Any, opset: int = _OPSET) -> Path:
    """Write the model as an fp32 ONNX file in the form that runs fastest, held against PyTorch; the file's path.

    `data` as for `rewrite`: exact forms are asserted on it. Raises InputError for a place that cannot be written.
    """
    from compress.pipeline import StageContext
    from compress.rewrites import Calibration
    from compress.stages.export import PlainOptions, export_file, in_export_form
    from compress.stages.samples import calibration_batches

    samples, chosen = _samples(draft, data)
    calibration = Calibration(draft.original, calibration_batches(samples, chosen["fit"]), _unheard)
    shipped, _ = in_export_form(draft.module, calibration)
    file = Path(path)
    export_file(StageContext(file.parent, file.parent, PlainOptions(opset=opset)), draft.task, shipped, file)
    return file


def _samples(draft: Draft, data: Any) -> tuple[Prepared, dict[str, np.ndarray]]:
    """The samples to heal on, and which of them are to fit on and which are held out."""
    from compress.stages.calibrate import chosen
    from compress.tables import CalibrateTable
    from compress.tasks.task import DataChoice
    from edgepress.given.data import source_of
    from runtime.files import cache_root
    from targets.errors import InputError

    source = source_of(data, cache_root())
    if source is None:
        raise InputError("data is None; give the samples that rewrites are fitted on and healing learns from")
    structure = draft.original.structure
    choice = DataChoice(source, limit=None, skip_corrupt=False, seed=0)
    samples = draft.task.open(choice, "healing", structure.labels, structure.preprocessing, draft.files)
    return samples, chosen(samples, CalibrateTable(), seed=0)


def _unheard(message: str) -> None:
    """Remarks of a step; `edgepress.compress` shows them."""
