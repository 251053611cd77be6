"""ONNX Runtime's execution providers on an NVIDIA GPU: which come in what order, and what each wants to be told."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
from pathlib import Path
from typing import Any

from runtime.files import cache_root
from targets.errors import EnvironmentLacks

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
RTX = "NvTensorRTRTXExecutionProvider"
#: Order of preference; what a build of ONNX Runtime does not offer is left out.
ON_GPU = (TENSORRT, RTX, CUDA)
#: What ONNX Runtime loads for a provider, and what brings the libraries which that needs.
_LIBRARIES = {CUDA: "libonnxruntime_providers_cuda.so", TENSORRT: "libonnxruntime_providers_tensorrt.so"}
_INSTALL = {CUDA: "pip install 'onnxruntime-gpu[cuda,cudnn]'", TENSORRT: "install TensorRT 10 and CUDA"}
_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"  # a wheel that brings RTX to any ONNX Runtime


def offered(ort: Any) -> list[str]:
    """Providers that ONNX Runtime has here, plugins among them. Each may still fail to load."""
    built_in = list(ort.get_available_providers())
    plugged = RTX not in built_in and importlib.util.find_spec(_PLUGIN) is not None
    return [*built_in, RTX] if plugged else built_in


def open_session(ort: Any, path: Path, options: Any, provider: str, precision: str) -> Any:
    """An InferenceSession on a provider. Raises EnvironmentLacks if a plugin finds no device of its own, and whatever
    ONNX Runtime raises."""
    if provider == RTX and RTX not in ort.get_available_providers():
        options.add_provider_for_devices(_plugin_devices(ort), {})
        return ort.InferenceSession(str(path), options)
    if provider in _LIBRARIES:
        _find_cuda_libraries(ort)
        ort.set_default_logger_severity(4)  # what does not load is told once, by `lacking`
    chosen = [(provider, provider_options(provider, precision))]
    # With its fallback ONNX Runtime prints on standard output why it took another provider.
    return ort.InferenceSession(str(path), options, providers=chosen, enable_fallback=0)


def lacking(ort: Any, provider: str) -> str | None:
    """The shared library that a provider needs and that does not load, with what brings it; None if that is not it."""
    name = _LIBRARIES.get(provider)
    if name is None:
        return None
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / name))
    except OSError as error:
        return f"{error}; {'install the NVIDIA driver' if 'libcuda.so' in str(error) else _INSTALL[provider]}"
    return None


def _find_cuda_libraries(ort: Any) -> None:
    """Load CUDA and cuDNN from NVIDIA's Python packages where these are installed: the system's loader does not look
    there. What is lacking is told once ONNX Runtime passes the provider over, so what this prints is dropped."""
    if hasattr(ort, "preload_dlls"):  # ONNX Runtime 1.21
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def provider_options(provider: str, precision: str) -> dict[str, str]:
    """TensorRT inside ONNX Runtime is weakly typed: without the flags it would compute in float32; and it builds an
    engine whenever a session opens unless it is given a cache."""
    if provider != TENSORRT:
        return {}
    cache = cache_root() / "onnxruntime-tensorrt"
    flags = {"fp16": ("trt_fp16_enable",), "int8": ("trt_fp16_enable", "trt_int8_enable")}.get(precision, ())
    return {
        **dict.fromkeys(flags, "1"),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }


def _plugin_devices(ort: Any) -> list[Any]:
    plugin = importlib.import_module(_PLUGIN)
    if not any(device.ep_name == RTX for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(RTX, plugin.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == RTX]
    if not devices:
        raise EnvironmentLacks(f"{RTX} finds no RTX GPU on this machine")
    return devices
