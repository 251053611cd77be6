"""OpenVINO's own runtime on the CPU: files of standard operators, Q/DQ int8 among them."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runtime.backends import Form, Loaded, Opening
from runtime.bundles.manifest import Tensor
from targets.errors import EnvironmentLacks, InputError

if TYPE_CHECKING:
    import numpy as np

_TYPES = {"f32": "float32", "f64": "float64", "f16": "float16", "i64": "int64", "i32": "int32", "boolean": "bool"}


@dataclass(frozen=True)
class OpenVinoModel:
    """A compiled model with one request, for which several threads wait in turn."""

    request: Any
    provider: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    turn: threading.Lock = field(default_factory=threading.Lock)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises InputError if OpenVINO refuses the inputs."""
        with self.turn:
            try:
                self.request.infer(dict(inputs), share_inputs=True)
            except RuntimeError as error:
                raise InputError(f"OpenVINO refused the inputs: {_cause(error)}") from error
            return {tensor.name: self.request.get_tensor(tensor.name).data.copy() for tensor in self.outputs}


class OpenVino:
    """The package openvino. Answers in float32 where the file computes so: no quiet bfloat16."""

    name = "openvino"
    on = "OpenVINO"
    form: Form = "plain"

    def lacks(self) -> str | None:
        """The package."""
        missing = importlib.util.find_spec("openvino") is None
        return "OpenVINO is not installed; pip install openvino" if missing else None

    def open(self, opening: Opening) -> Loaded:
        """Compile the file for the CPU. Raises EnvironmentLacks if OpenVINO is missing or cannot read it."""
        lack = self.lacks()
        if lack is not None:
            raise EnvironmentLacks(lack)
        import openvino

        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if opening.threads is not None:
            options["INFERENCE_NUM_THREADS"] = opening.threads
        version = openvino.get_version().split("-")[0]
        try:
            model = openvino.Core().compile_model(str(opening.path), "CPU", options)
        except RuntimeError as error:
            raise EnvironmentLacks(f"OpenVINO {version} cannot load {opening.path}: {_cause(error)}") from error
        return OpenVinoModel(
            model.create_infer_request(), f"OpenVINO {version} on CPU", _tensors(model.inputs), _tensors(model.outputs)
        )


def _tensors(ports: Any) -> tuple[Tensor, ...]:
    """A dynamic dimension gets a name: its place."""
    tensors = []
    for port in ports:
        kind: Any = port.get_element_type().get_type_name()
        shape = tuple(
            size.get_length() if size.is_static else f"{port.get_any_name()}_{axis}"
            for axis, size in enumerate(port.get_partial_shape())
        )
        tensors.append(Tensor(port.get_any_name(), _TYPES.get(kind, kind), shape))
    return tuple(tensors)


def _cause(error: RuntimeError) -> str:
    """The line of OpenVINO's message that says what is wrong, without its source lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '")) and " at " not in line[:40]]
    return (told or lines or [type(error).__name__])[0][:160]


BACKEND = OpenVino()
