"""Build a TensorRT engine from an ONNX file. The network is strongly typed: precision is what the file says, no flags.

The same code drives TensorRT 10 and 11 and TensorRT for RTX.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.engines.progress import BuildProgress
from runtime.engines.trt import TensorRT, without_collection
from targets.errors import EnvironmentLacks, GateFailed, InputError

if TYPE_CHECKING:
    import tensorrt  # the API of 10.13; tests hold the code to its type stubs where they are installed

Span = tuple[int, int, int]
_COMPUTE = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "ATTENTION_INPUT")
_MOVES = ("SHUFFLE", "CAST", "IDENTITY")
_MB = 1 << 20
#: Weights of an engine may take this much more than the file that it was built from: folded constants, padding.
_MORE, _PADDING = 1.25, _MB


@dataclass(frozen=True)
class LayerTypes:
    """What the layers that compute (convolutions and matrix products) are made of, read from the network before the
    build: `results` counts the types that they give, `quantized` those that read a dequantized weight, and
    `quantize_layers` the halves of Q/DQ pairs. `copied_bytes`: what the weights take with a copy for each layer that
    reads them, as builders store those of looped blocks."""

    results: dict[str, int]
    quantized: int
    quantize_layers: int
    copied_bytes: int = 0

    def require(self, onnx: Path, precision: str) -> None:
        """A strongly typed build gives what the file says, so a file without the precision is refused (InputError)."""
        if precision == "int8" and not self.quantized:
            raise InputError(
                f"{onnx}: asked for int8, but the file has no layer with quantized weights; make the bundle again"
            )
        if precision == "fp16" and not self.results.get("float16") and not self.results.get("bfloat16"):
            raise InputError(
                f"{onnx}: asked for fp16, but every layer of the file computes in fp32; make the bundle again"
            )


@dataclass(frozen=True)
class EngineBuild:
    """A built engine.

    `profile` maps inputs to (min, opt, max) shapes; `weights_bytes` is what the builder says that the engine's weights
    take, None if it does not say.
    """

    data: bytes
    timing_cache: bytes
    profile: dict[str, list[list[int]]]
    layers: LayerTypes
    weights_bytes: int | None

    def require_weights(self, onnx: Path, precision: str) -> None:
        """Hold the engine's weights against the file's bytes, or those of its weights with a copy per use: more means
        that the builder widened them.

        Raises GateFailed. Where the builder says nothing the engine's own size is judged, less exactly: it holds
        kernels too.
        """
        file_bytes = onnx.stat().st_size
        held, room = (self.weights_bytes, _PADDING) if self.weights_bytes is not None else (len(self.data), 16 * _MB)
        if held > _MORE * max(file_bytes, self.layers.copied_bytes) + room:
            raise GateFailed(
                f"the engine of {onnx.name} holds {held / 1e6:.1f} MB of weights, the file in {precision} only"
                f" {file_bytes / 1e6:.1f} MB; the builder did not keep the precision, so the engine is not used"
            )


@without_collection()
def build_engine(
    trt: TensorRT,
    onnx: Path,
    spans: Mapping[str, Span],
    *,
    precision: str,
    capabilities: Sequence[str],
    workspace_bytes: int,
    timing_cache: bytes = b"",
    tell: Callable[[float, str], None] = lambda fraction, phase: None,
) -> EngineBuild:
    """Build an engine.

    `spans` gives (min, opt, max) of each dynamic dimension by its name in the ONNX file; `capabilities` such as '8.6'
    are what TensorRT for RTX builds one engine for (TensorRT itself builds for the GPU that is there).

    Raises InputError if the file does not parse or lacks the precision, EnvironmentLacks if the build fails for want of
    a device or memory, GateFailed if the engine's weights are wider than the file's.
    """
    log = trt.logger()
    builder = _builder(trt, log)
    network = builder.create_network(_flags(trt))
    parser: tensorrt.OnnxParser = trt.module.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        problems = [parser.get_error(index).desc() for index in range(parser.num_errors)] or ["no reason given"]
        raise InputError(f"{onnx}: {trt.label} cannot parse it: {' '.join(problems[0].split())}")
    layers = _layer_types(trt, network)
    layers.require(onnx, precision)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.module.ProfilingVerbosity.DETAILED  # the inspector then tells number formats
    config.set_memory_pool_limit(trt.module.MemoryPoolType.WORKSPACE, workspace_bytes)
    profile = _add_profile(trt, builder, config, network, onnx, spans)
    if trt.flavour == "tensorrt_rtx":
        _set_capabilities(trt, config, capabilities)
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
    built = EngineBuild(bytes(data), cache, profile, layers, log.weights_bytes)
    built.require_weights(onnx, precision)
    return built


def _builder(trt: TensorRT, log: Any) -> tensorrt.Builder:
    try:
        builder: tensorrt.Builder = trt.module.Builder(log)
    except (TypeError, RuntimeError) as error:  # the bindings turn a null builder into a TypeError
        reason = log.lines[0] if log.lines else str(error)
        raise EnvironmentLacks(f"{trt.label} cannot start here: {reason}") from error
    return builder


def _flags(trt: TensorRT) -> int:
    """Strongly typed; TensorRT versions that know nothing else may drop the flag."""
    flag = getattr(trt.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _layer_types(trt: TensorRT, network: tensorrt.INetworkDefinition) -> LayerTypes:
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = [str(layer.type).rpartition(".")[2] for layer in layers]
    makers = {
        layer.get_output(at).name: (kind, layer)
        for kind, layer in zip(kinds, layers, strict=True)
        for at in range(layer.num_outputs)
    }

    compute = [layer for kind, layer in zip(kinds, layers, strict=True) if kind in _COMPUTE and layer.num_outputs]
    weights = [
        found
        for layer in compute
        if layer.num_inputs > 1 and (found := _stored(makers, layer.get_input(1))) is not None
    ]
    quantized = [layer for layer in weights if str(layer.type).endswith("DEQUANTIZE")]
    return LayerTypes(
        results=dict(Counter(trt.dtype(layer.get_output(0).dtype) for layer in compute)),
        quantized=len(quantized),
        quantize_layers=sum(kind in ("QUANTIZE", "DEQUANTIZE") for kind in kinds),
        copied_bytes=sum(
            math.prod(sizes_of(layer.get_output(0).shape))
            * (1 if layer in quantized else layer.get_output(0).dtype.itemsize)
            for layer in weights
        ),
    )


def _stored(
    makers: Mapping[str, tuple[str, tensorrt.ILayer]], tensor: tensorrt.ITensor | None
) -> tensorrt.ILayer | None:
    """The constant or DequantizeLinear that a weight comes out of, perhaps transposed or cast on the way."""
    if tensor is None or tensor.name not in makers:
        return None
    kind, layer = makers[tensor.name]
    if kind in ("CONSTANT", "DEQUANTIZE"):
        return layer
    return _stored(makers, layer.get_input(0)) if kind in _MOVES else None


def sizes_of(dims: tensorrt.Dims) -> list[int]:
    """The sizes of a shape; -1 is a dynamic one."""
    return [dims[axis] for axis in range(len(dims))]


def _add_profile(
    trt: TensorRT,
    builder: tensorrt.Builder,
    config: tensorrt.IBuilderConfig,
    network: tensorrt.INetworkDefinition,
    onnx: Path,
    spans: Mapping[str, Span],
) -> dict[str, list[list[int]]]:
    profile = builder.create_optimization_profile()
    shapes: dict[str, list[list[int]]] = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = sizes_of(tensor.shape)
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
        low, best, high = map(trt.module.Dims, shapes[tensor.name])
        profile.set_shape(tensor.name, low, best, high)
    config.add_optimization_profile(profile)
    return shapes


def _set_capabilities(trt: TensorRT, config: Any, capabilities: Sequence[str]) -> None:
    offered = trt.module.ComputeCapability.__members__
    names = ["SM" + capability.replace(".", "") for capability in capabilities]
    for capability, name in zip(capabilities, names, strict=True):
        if name not in offered:
            have = ", ".join(one for one in offered if one.startswith("SM"))
            raise EnvironmentLacks(f"{trt.label} does not build for compute capability {capability}; it offers {have}")
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(offered[name], index)


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
