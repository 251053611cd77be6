"""trial: choices alone in the original, healed for a short while, and how far the answers then drift.

Block-local healing before the choices are ranked keeps ranks from flipping once the model is healed as a whole, which
Puzzle names as its cure (Bercovich et al. 2024, arXiv 2411.19146).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from compress.pipeline import Artifact, Stage, StageContext
from compress.search.choices import CLEAN, Choice, recipe_tables
from compress.spec import Spec
from compress.stages.artifacts import CalibrationSet, SourceModel
from compress.stages.notes import sample_drifts
from compress.stages.samples import calibration_batches, healing, tensor_batches
from compress.tasks.task import DataChoice
from runtime.files import write_atomic
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.model import Structure, Transformer
    from compress.stages.job import Job

#: Digits of a drift that are kept: a trial is the same on every machine that computes alike to that many.
_DIGITS = 7


#: Held-out samples that say whether a short healing helped.
_JUDGED = 64


class Options(Spec):
    """`sets` of choices, each set tried together. `samples` of those to fit on, `steps` of block-local healing of
    `batch_size` samples."""

    data: DataChoice
    sets: tuple[tuple[Choice, ...], ...]
    samples: int
    steps: int
    batch_size: int


@dataclass(frozen=True)
class Trial:
    """What a set of choices did: why it was `refused`, or its `structure` and the mean `drift` over the held-out
    samples, of which `drifts` has one each; `unhealed` is the mean before block-local healing."""

    choices: tuple[dict[str, Any], ...]
    refused: str = ""
    structure: dict[str, Any] | None = None
    drift: float = 0.0
    unhealed: float = 0.0
    drifts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trials(Artifact):
    """The trials of a stage."""

    def load(self) -> list[Trial]:
        """In the order of the choices."""
        rows = json.loads((self.path / "trials.json").read_text(encoding="utf-8"))
        return [Trial(**{**row, "drifts": tuple(row["drifts"]), "choices": tuple(row["choices"])}) for row in rows]

    def clean(self) -> Structure:
        """The original's structure after the exact rewrites that come first."""
        from compress.model import Structure

        return Structure.model_validate_json((self.path / "clean.json").read_bytes())


def stage(job: Job, number: int, sets: tuple[tuple[Choice, ...], ...], samples: int, steps: int) -> Stage:
    """`number` tells the stages of a search apart and is not part of the key."""
    return Stage(
        name=f"trial-{number}",
        does=f"tries {len(sets)} replacements",
        why="what a replacement costs in quality is measured, alone and after a short healing of its block",
        inputs={"original": "source", "calibration": "calibrate"},
        produces=Trials,
        run=try_choices,
        options=Options(data=job.data, sets=sets, samples=samples, steps=steps, batch_size=job.recipe.heal.batch_size),
        sources=job.healing,
        libraries=("torch", "accelerate", *job.task.libraries),
    )


def try_choices(context: StageContext[Options], original: SourceModel, calibration: CalibrationSet) -> None:
    """What was tried before a kill is not tried again."""
    import torch

    options = context.options
    torch.manual_seed(context.seed)
    bench = _Bench(context, original, calibration)
    rows = []
    for index, choices in enumerate(options.sets):
        context.progress(index, len(options.sets), " and ".join(choice.label for choice in choices))
        kept = context.work / f"{index}.json"
        if not kept.is_file():
            write_atomic(kept, json.dumps(asdict(bench.tried(choices))).encode())
        rows.append(json.loads(kept.read_text(encoding="utf-8")))
    write_atomic(context.folder / "clean.json", bench.clean.structure.model_dump_json().encode())
    write_atomic(context.folder / "trials.json", (json.dumps(rows, indent=1) + "\n").encode())
    context.progress(len(rows), len(rows))


class _Bench:
    """The original, and the samples that choices are fitted, healed and judged on."""

    def __init__(self, context: StageContext[Options], original: SourceModel, calibration: CalibrationSet) -> None:
        import numpy as np
        import torch

        self.context, self.task, self.teacher = context, original.task, original.load()
        self.data = healing(context.options.data, original)
        self.fit = calibration.indices("fit")[: context.options.samples]
        self.held_out = calibration.indices("held_out")
        self.rest = np.setdiff1d(np.arange(len(self.data)), self.held_out)
        self.held_batches = list(tensor_batches(self.data, self.held_out)())
        with torch.no_grad():
            self.wanted = [self.teacher(inputs) for inputs in self.held_batches]

    @cached_property
    def clean(self) -> Transformer:
        """The original after the exact rewrites that it takes."""
        model = self.teacher
        for table in CLEAN:
            model = self._rewritten(model, table)
        return model

    def tried(self, choices: tuple[Choice, ...]) -> Trial:
        """These choices together, in the original."""
        named = tuple(choice.model_dump(mode="json") for choice in choices)
        model = self.clean
        for table in recipe_tables(choices, len(model.structure.blocks))[len(CLEAN) :]:
            try:
                model = self._rewritten(model, table)
            except InputError as refusal:
                return Trial(named, refused=str(refusal))
        unhealed = self._drifts(model)
        model = self._healed(model)
        drifts = self._drifts(model)
        return Trial(
            choices=named,
            structure=model.structure.model_dump(mode="json"),
            drift=round(sum(drifts) / len(drifts), _DIGITS),
            unhealed=round(sum(unhealed) / len(unhealed), _DIGITS),
            drifts=drifts,
        )

    def _rewritten(self, model: Transformer, table: dict[str, Any]) -> Transformer:
        """Raises InputError for a refusal, unless the table says that it is optional."""
        from compress.rewrites import Calibration, parse_options, run_rewrite

        calibration = Calibration(self.teacher, calibration_batches(self.data, self.fit), lambda text: None)
        try:
            return run_rewrite(*parse_options(table), model, calibration)
        except InputError:
            if table.get("optional", False):
                return model
            raise

    def _healed(self, model: Transformer) -> Transformer:
        """After a short healing of each changed block alone; as it is where its stream has another width."""
        import tempfile
        from pathlib import Path

        from accelerate import Accelerator

        from compress.heal import HealOptions, heal

        options = self.context.options
        if not options.steps or model.structure.hidden_size != self.teacher.structure.hidden_size:
            return model
        accelerator = Accelerator()
        short = HealOptions(transfer_steps=options.steps, batch_size=options.batch_size)
        train = self.task.feed(self.data.subset(self.rest), self.context.seed, accelerator.device)
        # What is judged on these is only whether healing did harm.
        held = self.task.feed(self.data.subset(self.held_out[:_JUDGED]), self.context.seed, accelerator.device)
        with tempfile.TemporaryDirectory() as work:
            return heal(
                model,
                self.teacher,
                train,
                held,
                short,
                accelerator,
                Path(work),
                lambda done, total, note="", **numbers: None,
                self.task.objective,
                lambda text: None,
            ).model

    def _drifts(self, model: Transformer) -> tuple[float, ...]:
        """Of each held-out sample."""
        wanted = iter(self.wanted)
        return sample_drifts(self.task, lambda inputs: next(wanted), model, lambda: iter(self.held_batches))
