"""ONNX Runtime on the CPU."""

from __future__ import annotations

from runtime.ort import CPU, Provider

BACKEND = Provider("cpu", CPU, "fused")
