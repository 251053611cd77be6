"""ONNX Runtime: a session whose provider is the one that was asked for, or an error that says why not."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runtime.bundles.manifest import LOGITS, Tensor
from runtime.recoding.likeliest import appended
from targets.errors import EnvironmentLacks, InputError
from targets.strict import nearest

if TYPE_CHECKING:
    import numpy as np

    from runtime.backends import Opening

CPU = "CPUExecutionProvider"

#: `[ONNXRuntimeError] : 1 : FAIL : ` and `/onnxruntime_src/a.h:46 void f(int) ` within its messages.
_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+:\d+ .*?\) ")
_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(bool)": "bool"}


@dataclass(frozen=True)
class OrtModel:
    """A loaded ONNX model."""

    session: Any
    provider: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises InputError if ONNX Runtime refuses the inputs."""
        try:
            values = self.session.run(None, dict(inputs))
        except errors() as error:
            raise InputError(f"ONNX Runtime refused the inputs: {_first_line(error)}") from error
        return {tensor.name: value for tensor, value in zip(self.outputs, values, strict=True)}


@dataclass(frozen=True)
class Provider:
    """An execution provider as a backend: its short name, ONNX Runtime's, and the form of file that it takes."""

    name: str
    on: str
    form: Literal["plain", "fused", "engine"]

    def offered(self, module: Any) -> bool:
        """Whether this build of ONNX Runtime has it; it may still fail to load."""
        return self.on in module.get_available_providers()

    def lacks(self) -> str | None:
        """ONNX Runtime, or a build of it with this provider."""
        try:
            self._module()
        except EnvironmentLacks as lack:
            return str(lack)
        return None

    def open(self, opening: Opening) -> OrtModel:
        """Load an ONNX file. Raises EnvironmentLacks if ONNX Runtime is missing, lacks the provider, fell back from it
        or cannot load the file."""
        picks = self.on == CPU and opening.bundle is not None and opening.bundle.manifest.writes
        return self.load(opening.path, opening.threads, opening.precision, picks)

    def load(self, path: Path, threads: int | None, precision: str, picks: bool = False) -> OrtModel:
        """The same of a bare file; `precision` is what the file computes in, which some providers need to know.
        `picks`: it gives the likeliest tokens as well (`runtime.recoding.likeliest`), behind its output `logits`."""
        ort = self._module()
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only: a fallback is found below, and told once
        if saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        recoded = _recoded(path) if self.on == CPU and saturates() else None
        if picks:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
            recoded = (recoded or path.read_bytes()) + appended(LOGITS)
        try:
            session = self.session(ort, recoded or str(path), options, precision)
        except errors() as error:
            reason = self.lacking(ort) or _first_line(error)
            raise EnvironmentLacks(f"ONNX Runtime {ort.__version__} cannot load {path}: {reason}") from error
        used = session.get_providers()[0]
        if used != self.on:
            reason = self.lacking(ort) or "does it find a GPU? See nvidia-smi"
            raise EnvironmentLacks(f"ONNX Runtime {ort.__version__} fell back from {self.on} to {used}: {reason}")
        return OrtModel(session, used, _tensors(session.get_inputs()), _tensors(session.get_outputs()))

    def options(self, precision: str) -> dict[str, str]:
        """ONNX Runtime's options of the provider."""
        return {}

    def session(self, module: Any, file: str | bytes, options: Any, precision: str) -> Any:
        """An InferenceSession of a file, given by its path or as its bytes. Raises whatever ONNX Runtime raises. With
        its fallback ONNX Runtime would print on standard output why it took another provider."""
        chosen = [(self.on, self.options(precision))]
        return module.InferenceSession(file, options, providers=chosen, enable_fallback=0)

    def lacking(self, module: Any) -> str | None:
        """The shared library that the provider needs and that does not load, with what brings it; None if that is not
        why."""
        return None

    def _module(self) -> Any:
        ort = _module()
        if not self.offered(ort):
            have = ", ".join(ort.get_available_providers())
            raise EnvironmentLacks(f"ONNX Runtime {ort.__version__} here has no {self.on}, only {have}")
        return ort


@dataclass(frozen=True)
class CudaProvider(Provider):
    """A provider in a shared library of its own that needs CUDA; `install` is what brings its libraries."""

    library: str
    install: str

    def session(self, module: Any, file: str | bytes, options: Any, precision: str) -> Any:
        """Load CUDA and cuDNN from NVIDIA's Python packages where these are installed: the system's loader does not
        look there. What is lacking is reported once ONNX Runtime passes the provider over, so what this prints is
        dropped.
        """
        if hasattr(module, "preload_dlls"):  # ONNX Runtime 1.21
            with contextlib.redirect_stdout(io.StringIO()):
                module.preload_dlls()
        module.set_default_logger_severity(4)  # what does not load is reported once, by `lacking`
        return super().session(module, file, options, precision)

    def lacking(self, module: Any) -> str | None:
        """See `Provider`."""
        try:
            ctypes.CDLL(str(Path(module.__file__).parent / "capi" / self.library))
        except OSError as error:
            return f"{error}; {'install the NVIDIA driver' if 'libcuda.so' in str(error) else self.install}"
        return None


def provider_named(name: str, others: Sequence[str] = ()) -> str:
    """ONNX Runtime's name of a provider given as 'cpu', 'cuda', ... or in full; `others` are more names to offer.
    Raises InputError if it is unknown."""
    full = {*_module().get_all_providers()}
    short = {one.removesuffix("ExecutionProvider").lower(): one for one in full}
    if name in full:
        return name
    if name.lower() not in short:
        choices = sorted({*short, *others})
        raise InputError(f"unknown provider {name!r}; allowed: {', '.join(choices)}{nearest(name.lower(), choices)}")
    return short[name.lower()]


def load(path: Path, threads: int | None = None) -> OrtModel:
    """Load an ONNX file on the CPU; `threads` None leaves the count to ONNX Runtime. Raises EnvironmentLacks."""
    return Provider("cpu", CPU, "fused").load(path, threads, "fp32")


def saturates(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether int8 products are added in 16 bits, which saturate: x86 without VNNI. Asking for exact sums there halves
    the speed of a processor that has VNNI, where they are exact anyway."""
    if platform.machine() != "x86_64" or not cpuinfo.is_file():
        return False
    return "vnni" not in cpuinfo.read_text(encoding="utf-8", errors="replace")


def _module() -> Any:
    if importlib.util.find_spec("onnxruntime") is None:
        raise EnvironmentLacks("ONNX Runtime is not installed; pip install onnxruntime")
    import onnxruntime

    return onnxruntime


def errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its own classes have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception)]
    return (*own, RuntimeError, ValueError)


def _tensors(arguments: Any) -> tuple[Tensor, ...]:
    """A dimension without a name gets one: its place."""
    tensors = []
    for argument in arguments:
        kind = _TYPES.get(argument.type, argument.type.removeprefix("tensor(").removesuffix(")"))
        shape = tuple(
            size if size is not None else f"{argument.name}_{axis}" for axis, size in enumerate(argument.shape)
        )
        tensors.append(Tensor(argument.name, kind, shape))
    return tuple(tensors)


def _recoded(path: Path) -> bytes | None:
    """See `runtime.recoding.int8.recoded`, which needs numpy."""
    from runtime.recoding.int8 import recoded

    return recoded(path)


def _first_line(error: Exception) -> str:
    """What ONNX Runtime says, without its source lines and signatures."""
    lines = str(error).strip().splitlines()
    return _NOISE.sub(" ", lines[0]).strip() if lines else type(error).__name__
