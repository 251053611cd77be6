"""A TensorRT engine, built on this device or brought by the bundle."""

from __future__ import annotations

from runtime.backends import Form, Loaded, Opening
from targets.errors import EnvironmentLacks, InputError


class TensorRTEngine:
    """TensorRT itself, or TensorRT for RTX."""

    name = "tensorrt"
    on = "TensorRT"
    form: Form = "engine"

    def lacks(self) -> str | None:
        """TensorRT's Python module, or an NVIDIA driver."""
        from runtime.engines import trt
        from runtime.engines.cuda import Device

        try:
            trt.load()
            Device()
        except EnvironmentLacks as lack:
            return str(lack)
        return None

    def open(self, opening: Opening) -> Loaded:
        """The engine of that file for this device. Raises EnvironmentLacks if it is missing or was never checked."""
        if opening.bundle is None or opening.model is None:
            raise InputError(f"{opening.path} is a bare file; a TensorRT engine belongs to a bundle")
        from runtime.engines.engine_session import open_engine

        return open_engine(opening.bundle, opening.model)


BACKEND = TensorRTEngine()
