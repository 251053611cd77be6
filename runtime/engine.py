"""Build a TensorRT engine from an ONNX file. The network is strongly typed: precision is what the file says, no flags.

The same code drives TensorRT 10 and 11 and TensorRT for RTX.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.progress import BuildProgress
from runtime.trt import TensorRT
from targets.errors import EnvironmentLacks, InputError

Span = tuple[int, int, int]
_COMPUTE = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "ATTENTION_INPUT")


@dataclass(frozen=True)
class EngineBuild:
    """A built engine.

    `profile` maps inputs to (min, opt, max) shapes, `compute_types` counts the result types of the layers that compute
    (convolutions and matrix products), `quantize_layers` the halves of Q/DQ pairs.
    """

    data: bytes
    timing_cache: bytes
    profile: dict[str, list[list[int]]]
    compute_types: dict[str, int]
    quantize_layers: int


def build_engine(
    trt: TensorRT,
    onnx: Path,
    spans: Mapping[str, Span],
    *,
    precision: str,
    capability: str | None,
    workspace_bytes: int,
    timing_cache: bytes = b"",
    tell: Callable[[float, str], None] = lambda fraction, phase: None,
) -> EngineBuild:
    """Build an engine for one GPU.

    `spans` gives (min, opt, max) of each dynamic dimension by its name in the ONNX file; `capability` such as '8.6' is
    what TensorRT for RTX builds for (TensorRT itself builds for the GPU that is there). Raises InputError if the file
    does not parse or lacks the precision, EnvironmentLacks if the build fails for want of a device or memory.
    """
    log = trt.logger()
    builder = _builder(trt, log)
    network = builder.create_network(_flags(trt))
    parser = trt.module.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        problems = [parser.get_error(index).desc() for index in range(parser.num_errors)] or ["no reason given"]
        raise InputError(f"{onnx}: {trt.label} cannot parse it: {' '.join(problems[0].split())}")
    types, quantize = _layer_types(trt, network)
    _check_precision(onnx, precision, types, quantize)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.module.MemoryPoolType.WORKSPACE, workspace_bytes)
    profile = _add_profile(builder, config, network, onnx, spans)
    if trt.flavour == "tensorrt_rtx":
        _set_capability(trt, config, capability)
    else:
        config.set_timing_cache(config.create_timing_cache(timing_cache), False)
    progress = BuildProgress(tell)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    data = builder.build_serialized_network(network, config)
    if progress.cancelled:
        raise KeyboardInterrupt
    if data is None:
        raise EnvironmentLacks(
            f"{trt.label} could not build {onnx}: {log.lines[0] if log.lines else 'no reason given'}"
        )
    cache = bytes(config.get_timing_cache().serialize()) if trt.flavour == "tensorrt" else b""
    return EngineBuild(bytes(data), cache, profile, types, quantize)


def _builder(trt: TensorRT, log: Any) -> Any:
    try:
        return trt.module.Builder(log)
    except (TypeError, RuntimeError) as error:  # the bindings turn a null builder into a TypeError
        reason = log.lines[0] if log.lines else str(error)
        raise EnvironmentLacks(f"{trt.label} cannot start here: {reason}") from error


def _flags(trt: TensorRT) -> int:
    """Strongly typed; TensorRT versions that know nothing else may drop the flag."""
    flag = getattr(trt.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _layer_types(trt: TensorRT, network: Any) -> tuple[dict[str, int], int]:
    """How many computing layers give each type, and how many layers quantise or dequantise."""
    types: Counter[str] = Counter()
    quantize = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = str(layer.type).rpartition(".")[2]
        if kind in _COMPUTE and layer.num_outputs:
            types[trt.dtype(layer.get_output(0).dtype)] += 1
        quantize += kind in ("QUANTIZE", "DEQUANTIZE")
    return dict(types), quantize


def _check_precision(onnx: Path, precision: str, types: Mapping[str, int], quantize: int) -> None:
    """A strongly typed build gives what the file says, so a file without the precision asked for is refused."""
    if precision == "int8" and not quantize:
        raise InputError(f"{onnx}: asked for int8, but the file has no quantize layers; make the bundle again")
    if precision == "fp16" and not types.get("float16") and not types.get("bfloat16"):
        raise InputError(f"{onnx}: asked for fp16, but every layer of the file computes in fp32; make the bundle again")


def _add_profile(
    builder: Any, config: Any, network: Any, onnx: Path, spans: Mapping[str, Span]
) -> dict[str, list[list[int]]]:
    profile = builder.create_optimization_profile()
    shapes: dict[str, list[list[int]]] = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = list(tensor.shape)
        ranges: list[Span] = []
        for axis, size in enumerate(sizes):
            name = tensor.get_dimension_name(axis)
            if size >= 0:
                ranges.append((size, size, size))
            elif name in spans:
                ranges.append(spans[name])
            else:
                known = ", ".join(spans) or "none"
                raise InputError(
                    f"{onnx}: dynamic dimension {name!r} of input {tensor.name!r} has no range; the profile has {known}"
                )
        shapes[tensor.name] = [[span[which] for span in ranges] for which in range(3)]
        profile.set_shape(tensor.name, *map(tuple, shapes[tensor.name]))
    config.add_optimization_profile(profile)
    return shapes


def _set_capability(trt: TensorRT, config: Any, capability: str | None) -> None:
    if capability is None:
        return
    offered = trt.module.ComputeCapability.__members__
    name = "SM" + capability.replace(".", "")
    if name not in offered:
        have = ", ".join(one for one in offered if one.startswith("SM"))
        raise EnvironmentLacks(f"{trt.label} does not build for compute capability {capability}; it offers {have}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(offered[name], 0)


def _monitor(trt: TensorRT, progress: BuildProgress) -> Any:
    base = trt.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc,valid-type]  # the base class is known at run time only
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                return progress.step(phase_name, step)
            except KeyboardInterrupt:  # must not pass through the C++ caller
                progress.cancelled = True
                return False

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
