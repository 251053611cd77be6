"""Run a TensorRT engine: the backend of a session on a device with an NVIDIA GPU."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.bundles.bundle import Bundle
from runtime.bundles.manifest import ModelFile, Tensor
from runtime.engines import engine_file, trt
from runtime.engines.cuda import Device
from runtime.engines.engine import sizes_of
from targets.errors import EnvironmentLacks, InputError

if TYPE_CHECKING:
    import numpy as np
    import tensorrt as api  # the API of 10.13; tests hold the code to its type stubs where they are installed


class EngineModel:
    """A deserialized engine with its buffers on the GPU, for which several threads wait in turn."""

    @trt.without_collection()
    def __init__(self, tensorrt: trt.TensorRT, device: Device, path: Path) -> None:
        """Raises EnvironmentLacks if this TensorRT or this GPU cannot run the engine."""
        self._tensorrt = tensorrt
        log = tensorrt.logger()
        self._runtime: api.Runtime = tensorrt.module.Runtime(log)
        self._engine: api.ICudaEngine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            reason = log.lines[0] if log.lines else "no reason given"
            raise EnvironmentLacks(f"{tensorrt.label} cannot load {path.name}: {reason}")
        self._context: api.IExecutionContext = self._engine.create_execution_context()
        if self._context is None:
            raise EnvironmentLacks(f"{tensorrt.label} has no memory to run {path.name}; close other programs")
        self._device = device
        self._turn = threading.Lock()
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> (address, bytes)
        self.provider = tensorrt.label
        mode = tensorrt.module.TensorIOMode
        tensors = {mode.INPUT: [], mode.OUTPUT: []}  # type: ignore[var-annotated]
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            sizes = enumerate(sizes_of(self._engine.get_tensor_shape(name)))
            shape = tuple(size if size >= 0 else f"{name}_{axis}" for axis, size in sizes)
            kind: Any = tensorrt.dtype(self._engine.get_tensor_dtype(name))
            tensors[self._engine.get_tensor_mode(name)].append(Tensor(name, kind, shape))
        self.inputs: tuple[Tensor, ...] = tuple(tensors[mode.INPUT])
        self.outputs: tuple[Tensor, ...] = tuple(tensors[mode.OUTPUT])

    def layers(self) -> list[str]:
        """A line per number format: how many layers of the engine give it, from the engine's own inspector."""
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(self._tensorrt.module.LayerInformationFormat.JSON)
        return [f"layers of the engine in {kind}: {count}" for kind, count in sorted(layer_formats(text).items())]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name. Raises InputError if a shape is outside the engine's profile."""
        with self._turn:
            return self._run(inputs)

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import numpy as np

        self._device.activate()
        for tensor in self.inputs:
            array = np.ascontiguousarray(inputs[tensor.name])
            if not self._context.set_input_shape(tensor.name, array.shape):
                low, _, high = map(sizes_of, self._engine.get_tensor_profile_shape(tensor.name, 0))
                raise InputError(
                    f"input {tensor.name!r} has shape {list(array.shape)}; the engine was built for {low} to {high}"
                )
            self._device.upload(self._address(tensor.name, array.nbytes), array)
        results = {}
        for tensor in self.outputs:
            shape = sizes_of(self._context.get_tensor_shape(tensor.name))
            results[tensor.name] = np.empty(shape, tensor.dtype)
            self._address(tensor.name, results[tensor.name].nbytes)
        if not self._context.execute_async_v3(self._device.stream):
            raise EnvironmentLacks(f"{self.provider} could not run the engine; see the kernel's log for the GPU")
        self._device.wait()
        for name, array in results.items():
            self._device.download(array, self._buffers[name][0])
        return results

    def _address(self, name: str, size: int) -> int:
        """A buffer of at least `size` bytes for a tensor, told to the context; buffers only ever grow."""
        address, have = self._buffers.get(name, (0, 0))
        if have < size or not address:
            if address:
                self._device.release(address)
            address = self._device.allocate(size)
            self._buffers[name] = (address, size)
        self._context.set_tensor_address(name, address)
        return address


def layer_formats(information: str) -> dict[str, int]:
    """How many layers give each number format ('Half', 'Int8', 'Float', ...), from the inspector's JSON.

    Layers are texts (without formats, then counted as 'unknown') where the engine was built without detailed profiling.
    """
    layers = json.loads(information).get("Layers", [])
    formats: Counter[str] = Counter()
    for layer in layers:
        outputs = layer.get("Outputs", []) if isinstance(layer, dict) else []
        texts = {str(one.get("Format/Datatype", one.get("Datatype", "unknown"))) for one in outputs} or {"unknown"}
        formats.update({text.removesuffix(" format").split()[-1] for text in texts})
    return dict(formats)


def open_engine(bundle: Bundle, model: ModelFile) -> EngineModel:
    """The engine of this bundle for this device.

    Raises EnvironmentLacks if TensorRT, a GPU or the engine is missing, or the engine never passed its golden check.
    """
    tensorrt = trt.load()
    device = Device()
    identity = engine_file.identify(bundle, model, tensorrt, device.capability())
    engine = engine_file.find_engine(bundle.root, identity)
    build = f"run python -m runtime.build {bundle.source}"
    if engine is None:
        where = f"{tensorrt.label} on compute capability {device.capability()}"
        raise EnvironmentLacks(f"no engine of {model.path} for {where}; {build}")
    if not engine.passed(device.name):
        raise EnvironmentLacks(f"the engine of {model.path} was never checked on this device; {build}")
    return EngineModel(tensorrt, device, engine.path)
