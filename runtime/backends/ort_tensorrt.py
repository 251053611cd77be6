"""TensorRT inside ONNX Runtime, which builds the engine itself when the file is first opened."""

from __future__ import annotations

from runtime.files import cache_root
from runtime.ort import CudaProvider

_FLAGS = {"fp16": ("trt_fp16_enable",), "int8": ("trt_fp16_enable", "trt_int8_enable")}


class OrtTensorRT(CudaProvider):
    """Weakly typed: without the flags it would compute in float32; and it builds an engine whenever a session opens
    unless it has a cache."""

    def options(self, precision: str) -> dict[str, str]:
        """ONNX Runtime's options of the provider."""
        cache = str(cache_root() / "onnxruntime-tensorrt")
        return {
            **dict.fromkeys(_FLAGS.get(precision, ()), "1"),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": cache,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": cache,
        }


BACKEND = OrtTensorRT(
    "ort-tensorrt",
    "TensorrtExecutionProvider",
    "plain",
    library="libonnxruntime_providers_tensorrt.so",
    install="install TensorRT 10 and CUDA",
)
