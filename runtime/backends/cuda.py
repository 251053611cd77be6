"""ONNX Runtime on an NVIDIA GPU by CUDA."""

from __future__ import annotations

from runtime.ort import CudaProvider

BACKEND = CudaProvider(
    "cuda",
    "CUDAExecutionProvider",
    "plain",
    library="libonnxruntime_providers_cuda.so",
    install="pip install 'onnxruntime-gpu[cuda,cudnn]'",
)
