"""Find TensorRT: the full one (`tensorrt`, 10 or 11) or the one for RTX cards, whose Python API is the same."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from targets.errors import EnvironmentLacks

Flavour = Literal["tensorrt", "tensorrt_rtx"]
#: Installs TensorRT for RTX from wheels alone, on a machine with a GPU or without.
INSTALL_RTX = "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0 tensorrt-rtx-cu13-bindings==1.7.1.116"
_ADVICE = "it comes with JetPack on a Jetson; elsewhere pip install tensorrt (RTX cards: pip install tensorrt-rtx)"
_MODULES: dict[str, Flavour] = {
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
    "tensorrt_rtx_bindings": "tensorrt_rtx",
}
_RTX_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"  # a wheel that holds the libraries which the bare bindings want
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+)")


@dataclass(frozen=True)
class TensorRT:
    """An importable TensorRT. `module` has the API of `tensorrt` 10."""

    module: Any
    flavour: Flavour
    version: str

    @property
    def label(self) -> str:
        """'TensorRT 10.3.0'."""
        return f"{'TensorRT' if self.flavour == 'tensorrt' else 'TensorRT for RTX'} {self.version}"

    @property
    def needs_device_to_build(self) -> bool:
        """TensorRT times kernels on the GPU; the one for RTX compiles for a compute capability that it is given."""
        return self.flavour == "tensorrt"

    def dtype(self, data_type: Any) -> str:
        """numpy's name of a trt.DataType."""
        name = str(data_type).rpartition(".")[2]
        return _DTYPES.get(name, name.lower())

    def logger(self) -> Any:
        """A trt.ILogger that prints nothing. It keeps errors in `lines`, and in `weights_bytes` what a build says of
        the memory that the engine's weights take (None until then)."""
        base = self.module.ILogger

        class Log(base):  # type: ignore[misc,valid-type]  # the base class is known at run time only
            def __init__(self) -> None:
                base.__init__(self)
                self.lines: list[str] = []
                self.weights_bytes: int | None = None

            def log(self, severity: Any, message: str) -> None:
                if severity <= base.ERROR:
                    self.lines.append(message.strip())
                elif found := _WEIGHTS.search(message):
                    self.weights_bytes = int(found[1])

        return Log()


@contextmanager
def without_collection() -> Iterator[None]:
    """No garbage collection within: TensorRT calls back (to log, to tell progress) under a lock, and what is freed in
    a callback, such as a builder that an exception still held, waits for that lock for ever. It is freed before."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load(flavour: Flavour | None = None) -> TensorRT:
    """Import TensorRT, of one flavour or the first that is there. Raises EnvironmentLacks with what to install."""
    problem = ""
    for name in _MODULES:
        if flavour not in (None, _MODULES[name]):
            continue
        if importlib.util.find_spec(name) is None:
            continue
        if name == "tensorrt_rtx_bindings":
            _preload_rtx_libraries()
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            problem = problem or f"{name} is installed but does not import: {' '.join(str(error).split())}"
            continue
        if hasattr(module, "Builder"):  # type stubs alone import as an empty package
            return TensorRT(module, _MODULES[name], module.__version__)
    advice = INSTALL_RTX if flavour == "tensorrt_rtx" else _ADVICE
    missing = "TensorRT for RTX is not installed" if flavour == "tensorrt_rtx" else "TensorRT is not installed"
    raise EnvironmentLacks(f"{problem or missing}; {advice}")


def _preload_rtx_libraries() -> None:
    """Load the libraries that the bindings look for by short names, which the wheel's files do not have."""
    spec = importlib.util.find_spec(_RTX_LIBRARIES)
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent
    for pattern in ("libcudart.so.*", "libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*"):
        for path in sorted(folder.glob(pattern))[:1]:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
