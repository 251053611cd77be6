"""TensorRT for RTX inside ONNX Runtime: built in, or from a plug-in's wheel that brings it to any ONNX Runtime."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from runtime.ort import Provider
from targets.errors import EnvironmentLacks

_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


class Rtx(Provider):
    """The provider, or the plug-in where this ONNX Runtime has it not built in."""

    def offered(self, module: Any) -> bool:
        """Whether it may load."""
        return super().offered(module) or importlib.util.find_spec(_PLUGIN) is not None

    def session(self, module: Any, file: str | bytes, options: Any, precision: str) -> Any:
        """Raises EnvironmentLacks if the plug-in finds no device of its own, and whatever ONNX Runtime raises."""
        if super().offered(module):
            return super().session(module, file, options, precision)
        options.add_provider_for_devices(self._devices(module), {})
        return module.InferenceSession(file, options)

    def _devices(self, module: Any) -> list[Any]:
        plugin = importlib.import_module(_PLUGIN)
        if not any(device.ep_name == self.on for device in module.get_ep_devices()):
            module.register_execution_provider_library(self.on, plugin.get_library_path())
        devices = [device for device in module.get_ep_devices() if device.ep_name == self.on]
        if not devices:
            raise EnvironmentLacks(f"{self.on} finds no RTX GPU on this machine")
        return devices


BACKEND = Rtx("rtx", "NvTensorRTRTXExecutionProvider", "plain")
