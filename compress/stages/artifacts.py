"""What the stages hand on, by type. Each is a folder; these classes know how to read it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.pipeline import Artifact
from runtime.bundles.manifest import GRAPH, ModelFile

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np

    from compress.model import Structure, Transformer
    from compress.tasks.task import Task
    from compress.verification.drift import Drift
    from compress.verification.report_data import ExtraCheck
    from compress.verification.samples import Samples

NOTES = "notes.json"
LOOPS = "loops.json"
FORMS = "exact forms"
VARIANTS, EXITS, CHECKS = "variants", "exits", "checks"

#: Says how the original was held against the original library.
HELD = "held.txt"


@dataclass(frozen=True)
class Noted(Artifact):
    """What the stage that made it found out travels with it."""

    def notes(self) -> dict[str, Any]:
        """Numbers and remarks of the stage, {} if it had none."""
        path = self.path / NOTES
        return dict(json.loads(path.read_text())) if path.is_file() else {}


@dataclass(frozen=True)
class ModelArtifact(Noted):
    """A model in the canonical form."""

    def load(self) -> Transformer:
        from compress.model import load

        return load(self.path)

    def structure(self) -> Structure:
        from compress.model import Structure

        return Structure.model_validate_json((self.path / "structure.json").read_bytes())

    def num_parameters(self) -> int:
        """Trained numbers, tied ones counted once; no weight is read for it."""
        import torch

        from compress.model import Transformer

        with torch.device("meta"):
            return Transformer(self.structure()).num_parameters()


@dataclass(frozen=True)
class SourceModel(ModelArtifact):
    """The original as it was read, with the source's own config files beside it."""

    @property
    def task(self) -> Task:
        """What the model is asked to do."""
        from compress import tasks

        return tasks.get(self.structure().task)

    @property
    def longest(self) -> int | None:
        """How many tokens the model takes at most; None for a model that has no such limit."""
        limit = self.structure().preprocessing.get("max_length")
        return None if limit is None else int(limit)

    @property
    def held(self) -> tuple[str, ...]:
        """How close the model is to the original library's, or why that was not looked at; nothing for a model of the
        zoo, and where it was not asked for."""
        file = self.path / HELD
        return (file.read_text(encoding="utf-8"),) if file.is_file() else ()

    @property
    def files(self) -> Path:
        """The folder of the source's own files (config.json, processor, tokenizer)."""
        return self.path / "source"

    @property
    def passengers(self) -> dict[str, Path]:
        """Files that travel into the bundle, by their path there."""
        paths = sorted(path for path in self.files.rglob("*") if path.is_file())
        return {path.relative_to(self.files).as_posix(): path for path in paths}


@dataclass(frozen=True)
class MatchedData(Artifact):
    """How many samples there are for what, once they were found to fit the model."""


@dataclass(frozen=True)
class CalibrationSet(Artifact):
    """Which healing samples are for what: `fit` for closed forms and quantizers, `held_out` to watch drift."""

    def indices(self, use: str) -> np.ndarray:
        import numpy as np

        return np.array(json.loads((self.path / "calibration.json").read_text())[use], np.int64)

    @property
    def seen(self) -> Path:
        """Fingerprints of all healing samples."""
        from compress.data import seen

        return self.path / seen.NAME


@dataclass(frozen=True)
class OnnxModel(Noted):
    """An exported fp32 graph, and perhaps the same model at other loops. The notes say how far each file is off."""

    @property
    def graphs(self) -> dict[str, Path]:
        """The file of each graph of the model by its name: `model`, and those that its task made of it."""
        return {path.stem: path for path in sorted(self.path.glob("*.onnx")) if "." not in path.stem}

    @property
    def file(self) -> Path:
        """The file of a model of one graph."""
        return self.graphs[GRAPH]

    def at_loops(self) -> dict[int, Path]:
        """The file of each other number of loops, fewest first."""
        files = {int(path.stem.rpartition("-")[2]): path for path in self.path.glob("model.loops-*.onnx")}
        return dict(sorted(files.items()))

    @property
    def loops(self) -> int | None:
        """How many loops the whole model has; None where there is no other number to tell it from."""
        path = self.path / LOOPS
        return int(json.loads(path.read_text())) if path.is_file() else None


@dataclass(frozen=True)
class ShippedFile(ModelFile):
    """A model file that ships. `bytes`: with weights that are stored apart; 0 until it is written."""

    bytes: int = 0

    @property
    def entry(self) -> ModelFile:
        """What the manifest says of it."""
        return ModelFile(**{one.name: getattr(self, one.name) for one in fields(ModelFile)})


@dataclass(frozen=True)
class ShippedModels(Artifact):
    """The files that ship, in the order in which a device should try them."""

    def every(self) -> list[ShippedFile]:
        """Those that answer what a sample asks, of other numbers of loops last: the graph `model`."""
        return [file for file in self.files() if file.graph == GRAPH]

    def entries(self) -> list[ShippedFile]:
        """Those of all loops."""
        every = self.every()
        return [file for file in every if file.loops == every[0].loops]

    def variants(self) -> list[ShippedFile]:
        """Those of other numbers of loops, fewest first; they count only where the gate lets them pass."""
        every = self.every()
        return [file for file in every if file.loops != every[0].loops]

    def files(self, answering: Collection[ShippedFile] | None = None) -> list[ShippedFile]:
        """Every graph of these files, of all of them without; a model of one graph has no others."""
        files = self._files()
        loops = {file.loops for file in files if answering is None or file in answering}
        return [file for file in files if file.loops in loops]

    def _files(self) -> list[ShippedFile]:
        return [ShippedFile(**row) for row in json.loads((self.path / "models.json").read_text())]

    @property
    def weights(self) -> dict[str, Path]:
        """Files with weights that several models share, by their path in the bundle."""
        return {path.name: path for path in sorted(self.path.glob("*.data"))}


@dataclass(frozen=True)
class FileScore:
    """How alike a file answers to the original on `samples` samples: `agreement` from 0 to 1, and `drift` by what
    healing minimizes, as a mean and of each sample (`drifts`), so that two files can be compared in pairs."""

    path: str
    agreement: float
    drift: float
    samples: int
    bytes: int
    drifts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scores(Artifact):
    """Scores of the files that ship, on calibration samples."""

    def load(self) -> list[FileScore]:
        """In the order in which a device should try the files."""
        rows = json.loads((self.path / "scores.json").read_text())
        return [FileScore(**{**row, "drifts": tuple(row["drifts"])}) for row in rows]


@dataclass(frozen=True)
class Engines(Artifact):
    """TensorRT engines in `engines`, each with its record, built but not run."""

    def files(self) -> dict[str, Path]:
        """Path in the bundle -> file."""
        return {path.relative_to(self.path).as_posix(): path for path in sorted(self.path.glob("engines/*"))}

    def lines(self) -> list[str]:
        """A line per engine, for people."""
        from runtime.engines.engine_file import read_record

        records = [read_record(path) for name, path in self.files().items() if name.endswith(".json")]
        return [
            f"engine of {record.identity.model} ({record.identity.precision}) for compute capability "
            f"{' and '.join(record.identity.compute_capabilities)}, TensorRT for RTX {record.identity.version}: "
            f"{record.describe()}; built and not run"
            for record in records
        ]


@dataclass(frozen=True)
class Answers(Artifact):
    """Predictions on the evaluation samples, one file per model."""

    def has(self, name: str) -> bool:
        """Whether this model file was asked."""
        return (self.path / f"{name}.npz").is_file()

    def load(self, name: str = "model.onnx") -> Samples:
        from compress.verification.files import load

        return load(self.path / f"{name}.npz")


@dataclass(frozen=True)
class Comparison(Artifact):
    """Drift of every shipped file from the original."""

    def drifts(self) -> dict[str, Drift]:
        """By file of the whole model: all of them have to pass."""
        return self._read(self.path)

    def variants(self) -> dict[str, Drift]:
        """By file of another number of loops: one that fails is not offered."""
        return self._read(self.path / VARIANTS)

    def exits(self) -> dict[str, Drift]:
        """The early exit, by its name; nothing where none was asked for."""
        return self._read(self.path / EXITS)

    def checks(self) -> list[ExtraCheck]:
        """What must hold of each file beside its drift (see `compress.judging.compare`)."""
        from compress.verification.report_data import ExtraCheck

        files = sorted((self.path / CHECKS).glob("*.json"))
        return [ExtraCheck.model_validate_json(path.read_text()) for path in files]

    @staticmethod
    def _read(folder: Path) -> dict[str, Drift]:
        from compress.verification.drift import Drift

        return {path.stem: Drift.from_json(path.read_text()) for path in sorted(folder.glob("*.json"))}


@dataclass(frozen=True)
class Localization(Artifact):
    """Where drift comes from: by step and by block."""

    def load(self) -> dict[str, Any]:
        """`samples` (how many were measured), `stages` and `blocks` (rows of the report)."""
        return dict(json.loads((self.path / "localization.json").read_text()))


@dataclass(frozen=True)
class Timing(Artifact):
    """Latencies measured on this machine."""

    def load(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "timing.json").read_text()))


@dataclass(frozen=True)
class BundleArtifact(Artifact):
    """The bundle, complete."""


@dataclass(frozen=True)
class ReportArtifact(Artifact):
    """report.html, .md, .json and junit.xml, with timings."""
