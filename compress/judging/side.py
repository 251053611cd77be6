"""One side of a comparison: what is known of any opened model, and how it is run.

B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress import zoo
from compress.tasks.task import Wires
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.model import Transformer
    from compress.tasks.task import Run, Task
    from runtime.bundles.golden import GoldenResult
    from runtime.bundles.manifest import Manifest, Tensor
    from runtime.session import Session

Arrays = dict[str, NDArray[Any]]
#: Samples that go through a side at once, at most.
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Side:
    """An opened model.

    `call` maps the graph's own inputs to its outputs, and `wired` says how the task's become these; None for a model
    that takes the task's as they are. `task`, `labels`, `preprocessing` and `files` (the folder of the tokenizer) are
    None where a file or folder does not bring them. `most` samples at once (1: neighbours change answers).
    `canonical` reads it into the form whose blocks can be compared; None where there is only a graph. `graphs`: its
    ONNX files, all of which take what `fed` gives, and the precision of each, where it is known. `inputs`: what a
    file of which nothing else is known declares. `seen`: fingerprints of the samples that it was healed on; `golden`
    holds it to its golden samples; None where it brings none. `notes`: what the user should know of how it was read.
    """

    name: str
    kind: str
    bytes: int
    runs_on: str
    call: Run
    wired: Callable[[Task], Wires] | None = None
    task: Task | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Mapping[str, Any] | None = None
    files: Path | None = None
    most: int = BATCH
    parameters: int | None = None
    canonical: Callable[[], Transformer] | None = None
    graphs: Mapping[Path, str | None] = field(default_factory=dict)
    inputs: tuple[Tensor, ...] = ()
    seen: NDArray[np.uint64] | None = None
    golden: Callable[[], list[GoldenResult]] | None = None
    notes: tuple[str, ...] = ()

    def completed(self, other: Side | None) -> Side:
        """This side; what it does not bring is the other's."""
        if other is None:
            return self
        names = ("task", "labels", "preprocessing", "files")
        return replace(self, **{name: getattr(self, name) or getattr(other, name) for name in names})

    def runner(self) -> Run:
        """The task's inputs to its outputs, for any number of samples. Raises InputError for a graph of another task.

        What takes one size of batch only is filled up by repeating the last sample.
        """
        wires, shared = self._wires(), self._shared

        def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
            count, size = _count(inputs), self.most if self.most == 1 else wires.batch or self.most
            parts = [
                wires.read(self.call(wires.feed(_padded(_rows(inputs, start, size, shared), wires.batch, shared))))
                for start in range(0, count, size)
            ]
            names = parts[0]
            return {name: np.concatenate([part[name] for part in parts])[:count] for name in names}

        return run

    @property
    def batch(self) -> int | None:
        """The one size of batch that it takes; None for any."""
        return self._wires().batch

    def fed(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """What its ONNX files take, of the task's inputs of one batch."""
        wires = self._wires()
        return wires.feed(_padded(inputs, wires.batch, self._shared))

    @property
    def _shared(self) -> tuple[str, ...]:
        return self.task.shared if self.task is not None else ()

    def _wires(self) -> Wires:
        if self.wired is None or self.task is None:
            return Wires(dict, dict, None)
        return self.wired(self.task)


def _count(inputs: Mapping[str, NDArray[Any]]) -> int:
    return len(next(iter(inputs.values())))


def _rows(inputs: Mapping[str, NDArray[Any]], start: int, size: int, shared: Sequence[str]) -> Arrays:
    return {name: array if name in shared else array[start : start + size] for name, array in inputs.items()}


def _padded(inputs: Mapping[str, NDArray[Any]], batch: int | None, shared: Sequence[str]) -> Arrays:
    """The batch, filled up to the size of a graph that takes no other by repeating its last sample."""
    missing = (batch or 0) - _count(inputs)
    if missing <= 0:
        return dict(inputs)
    return {
        name: array if name in shared else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
        for name, array in inputs.items()
    }


def located(spec: str) -> Path:
    """Where a zoo model, a folder or a file is. Raises InputError if it is nowhere."""
    path = zoo.locate(spec)
    if not path.exists():
        from compress.families.folders import instead_of_file

        forms = "a bundle, a model folder, an .onnx file or an .npz of predictions"
        raise InputError(f"no model at {spec}{instead_of_file(path) or f'; give {forms}'}")
    return path


def is_predictions(spec: str) -> bool:
    """Does `spec` name a file of predictions, which needs no data and no model?"""
    return spec.endswith((".npz", ".jsonl"))


def is_bundle(path: Path) -> bool:
    """Is it a bundle: a folder with a manifest, or a zip?"""
    return path.is_file() or (path / "manifest.json").is_file()


def golden_check(session: Session) -> Callable[[], list[GoldenResult]] | None:
    """Holds a bundle to its golden samples; None for one that brings none."""
    from runtime.bundles.golden import check_golden, load_golden
    from runtime.bundles.manifest import GOLDEN

    if GOLDEN not in session.manifest.files:
        return None
    return lambda: check_golden(session.run, load_golden(session.bundle), session.max_batch)


def forms(session: Session) -> dict[Path, str | None]:
    """The ONNX files of a bundle, whichever of them runs here, and their precisions."""
    root = session.bundle.root
    return {root / form.path: form.precision for form in session.manifest.models if form.path.endswith(".onnx")}


def seen_samples(root: Path) -> NDArray[np.uint64] | None:
    """Fingerprints of the samples that a bundle was made from; None where it does not say."""
    from compress.data import seen

    record = root / seen.NAME
    return seen.read(record) if record.is_file() else None


def check_listed(name: str, path: Path, manifest: Manifest) -> None:
    """Raises InputError for an ONNX file that is not the one which the manifest beside it lists."""
    from runtime.files import sha256_of

    listed = manifest.files.get(path.name)
    if listed is not None and sha256_of(path) != listed.sha256:
        raise InputError(
            f"{name} is not the file that the manifest.json beside it lists (its SHA-256 differs); "
            "make the bundle again, or judge the file in a folder of its own"
        )


def onnx_size(path: Path) -> int:
    """Bytes of an ONNX file and of the weights kept beside it."""
    return size_of(path) + sum(size_of(data) for data in path.parent.glob(f"{path.name}?data"))


def weights_size(folder: Path) -> int:
    """Bytes of a model folder's weights."""
    return sum(size_of(path) for path in folder.glob("*.safetensors")) or sum(size_of(p) for p in folder.glob("*.bin"))


def size_of(path: Path) -> int:
    """Bytes of a file."""
    return path.stat().st_size
