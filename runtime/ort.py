"""ONNX Runtime: a session whose provider is the one that was asked for, or an error that says why not."""

from __future__ import annotations

import importlib.util
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.bundles.manifest import Tensor
from runtime.providers import CPU, RTX, lacking, offered, open_session
from targets.errors import EnvironmentLacks, InputError
from targets.strict import nearest

if TYPE_CHECKING:
    import numpy as np

#: `[ONNXRuntimeError] : 1 : FAIL : ` and `/onnxruntime_src/a.h:46 void f(int) ` within its messages.
_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+:\d+ .*?\) ")
_SHORT = {"rtx": RTX}
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


def provider_named(name: str) -> str:
    """ONNX Runtime's name of a provider given as 'cpu', 'cuda', ... or in full. Raises InputError if it is unknown."""
    known = {full.removesuffix("ExecutionProvider").lower(): full for full in _module().get_all_providers()} | _SHORT
    if name in known.values():
        return name
    if name.lower() not in known:
        choices = ["tensorrt", *sorted(set(known) - {"tensorrt"})]
        raise InputError(f"unknown provider {name!r}; allowed: {', '.join(choices)}{nearest(name.lower(), choices)}")
    return known[name.lower()]


def offered_providers() -> list[str]:
    """Providers that this build of ONNX Runtime has (each may still fail to load); none without ONNX Runtime."""
    return offered(_module()) if importlib.util.find_spec("onnxruntime") else []


def load(path: Path, provider: str = CPU, threads: int | None = None, precision: str = "fp32") -> OrtModel:
    """Load an ONNX file on a provider; `threads` None leaves the count to ONNX Runtime. `precision` is what the file
    computes in, which ONNX Runtime's TensorRT wants to be told.

    Raises EnvironmentLacks if ONNX Runtime is missing, lacks the provider, fell back from it or cannot load the file.
    """
    ort = _module()
    if provider not in offered(ort):
        have = ", ".join(offered(ort))
        raise EnvironmentLacks(f"ONNX Runtime {ort.__version__} here has no {provider}, only {have}")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: a fallback is found below, and told once
    if _saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = open_session(ort, path, options, provider, precision)
    except errors() as error:
        reason = lacking(ort, provider) or _first_line(error)
        raise EnvironmentLacks(f"ONNX Runtime {ort.__version__} cannot load {path}: {reason}") from error
    used = session.get_providers()[0]
    if used != provider:
        reason = lacking(ort, provider) or "does it find a GPU? See nvidia-smi"
        raise EnvironmentLacks(f"ONNX Runtime {ort.__version__} fell back from {provider} to {used}: {reason}")
    return OrtModel(session, used, _tensors(session.get_inputs()), _tensors(session.get_outputs()))


def _saturates(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
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


def _first_line(error: Exception) -> str:
    """What ONNX Runtime says, without its source lines and signatures."""
    lines = str(error).strip().splitlines()
    return _NOISE.sub(" ", lines[0]).strip() if lines else type(error).__name__
