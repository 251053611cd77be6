"""One side of a comparison: what is told of any opened model, whatever it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress import zoo
from targets.errors import InputError

if TYPE_CHECKING:
    from compress.model import Transformer
    from runtime.bundles.golden import GoldenResult
    from runtime.bundles.manifest import Manifest
    from runtime.session import Session


@dataclass(frozen=True, kw_only=True)
class Side:
    """An opened model.

    `canonical` reads it into the form whose blocks can be compared; None where there is only a graph. `graphs`: its
    ONNX files, all of which take what `fed` makes of the canonical model's inputs. `seen`: fingerprints of the samples
    that it was healed on; `golden` holds it to its golden samples; None where it brings none. `notes`: what the user
    should know of how it was read.
    """

    name: str
    kind: str
    bytes: int
    runs_on: str
    parameters: int | None = None
    canonical: Callable[[], Transformer] | None = None
    graphs: tuple[Path, ...] = ()
    fed: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]] = dict
    seen: NDArray[np.uint64] | None = None
    golden: Callable[[], list[GoldenResult]] | None = None
    notes: tuple[str, ...] = ()


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


def forms(session: Session) -> tuple[Path, ...]:
    """The ONNX files of a bundle, whichever of them runs here."""
    files = dict.fromkeys(form.path for form in session.manifest.models)
    return tuple(session.bundle.root / path for path in files if path.endswith(".onnx"))


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
