"""What can compute a bundle's model: one file each in this folder, which `BACKEND` of that file describes.

A bundle lists backends by name, in its target's order of preference; a session takes the first that runs here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from runtime import ort
from runtime.bundles.manifest import ONNXRUNTIME, TENSORRT, Manifest, ModelFile, Tensor, main_file
from targets.errors import InputError
from targets.strict import nearest

if TYPE_CHECKING:
    import numpy as np

    from runtime.bundles.bundle import Bundle

#: Which file a backend takes: standard operators alone, fused for ONNX Runtime on a CPU, or an engine built from a
#: file of standard operators that the manifest means for TensorRT.
Form = Literal["plain", "fused", "engine"]
CPU, ENGINE = "cpu", "tensorrt"
#: The order of bundles that name none: an engine, ONNX Runtime on a GPU if the target has one, the CPU.
ON_GPU = ("ort-tensorrt", "rtx", "cuda")


class Loaded(Protocol):
    """A model that is ready to run."""

    @property
    def provider(self) -> str:
        """What computes: an execution provider's name, or a runtime with its version."""
        ...

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Inputs as the model file declares them."""
        ...

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Outputs as the model file declares them."""
        ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name."""
        ...


@dataclass(frozen=True)
class Opening:
    """A file to open. `threads` None leaves the count to the runtime; `bundle` and `model` say whose file it is, None
    for a bare file."""

    path: Path
    precision: str = "fp32"
    threads: int | None = None
    bundle: Bundle | None = None
    model: ModelFile | None = None


class Backend(Protocol):
    """One way to compute. `on` is its name in notes."""

    @property
    def name(self) -> str:
        """The name in targets and for --provider: that of its file, with '-' for '_'."""
        ...

    @property
    def on(self) -> str:
        """The name in notes."""
        ...

    @property
    def form(self) -> Form:
        """The form of file that it takes."""
        ...

    def lacks(self) -> str | None:
        """What this machine lacks for it, in one line; None if it may run (opening a file can still fail)."""
        ...

    def open(self, opening: Opening) -> Loaded:
        """Load a file. Raises EnvironmentLacks with the reason, or InputError for a file that cannot be for it."""
        ...


@cache
def names() -> tuple[str, ...]:
    """Names of all backends, sorted: the files of this folder."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


@cache
def get(name: str) -> Backend:
    """The backend of that name. Raises InputError for another name."""
    if name not in names():
        raise InputError(f"unknown backend {name!r}; allowed: {', '.join(names())}{nearest(name, names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    backend: Backend = module.BACKEND
    return backend


def asked(name: str) -> Backend:
    """What --provider names: a backend, or any execution provider that ONNX Runtime knows, by its short or full name.
    Raises InputError if it is unknown."""
    if name.lower() in names():
        return get(name.lower())
    own = next((one for one in map(get, names()) if one.on == name), None)
    if own is not None:
        return own
    provider = ort.provider_named(name, names())
    return ort.Provider(provider, provider, "plain")


def check_runtimes(manifest: Manifest, where: str) -> None:
    """Raises InputError if a file of the manifest was made for what is not a backend. `where`: the manifest's name."""
    allowed = (ONNXRUNTIME, *names())
    for index, model in enumerate(manifest.models):
        if model.runtime not in allowed:
            raise InputError(
                f"{where}: key 'models[{index}].runtime': given {model.runtime!r}, allowed: {', '.join(allowed)}"
                f"{nearest(model.runtime, allowed)}"
            )


def order(bundle: Bundle) -> list[Backend]:
    """The bundle's backends by preference. Bundles made before they were listed have those of their files."""
    manifest = bundle.manifest
    if manifest.target.backends:
        return [get(name) for name in manifest.target.backends if name in names()] or [get(CPU)]
    engines = [ENGINE] if any(model.runtime == TENSORRT for model in manifest.models) else []
    on_gpu = ON_GPU if manifest.target.compute_capability is not None else ()
    return [get(name) for name in (*engines, *on_gpu, CPU)]


def files_for(form: Form, models: Sequence[ModelFile]) -> list[ModelFile]:
    """The files of a graph that a backend may open, in their order; the main one where none has the form."""
    main = next((model for model in models if model.path == main_file(model.graph)), models[0])
    if form == "plain":
        return [next((model for model in (main, *models) if model.is_plain), main)]
    if form == "engine":
        return [model for model in models if model.runtime == TENSORRT] or [main]
    return [model for model in models if not model.is_plain] or [main]
