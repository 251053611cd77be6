"""torch -> ONNX: one file with the weights inside, the opset that was asked for, and the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import graph
from export.quiet import quiet
from export.sharing import share_weights
from export.torchlib import made_once
from runtime.bundles.manifest import Tensor as Declared
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What TensorRT 10.3 (JetPack 6) still reads; Gelu is one node from here on.
DEFAULT_OPSET = 20
#: Highest IR version that ONNX Runtime 1.31 loads, and the one that parsers of TensorRT 10.3's time know.
MAX_IR, JETSON_IR = 13, 10


@dataclass(frozen=True)
class OnnxInfo:
    """An exported file: what it says of itself, its bytes, and the bytes of its weights."""

    opset: int
    ir: int
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]
    bytes: int
    initializer_bytes: int


def export_onnx(
    module: nn.Module,
    example: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
    path: Path,
    opset: int = DEFAULT_OPSET,
) -> OnnxInfo:
    """Export `module`, which maps a dict of named tensors to a tensor or to a tuple of them, in the order of `outputs`.

    `dynamic` names the dynamic dimensions of each input, e.g. {"pixel_values": {0: "batch"}}; `example` must have size
    2 or more there, since torch takes a size of 1 for a constant.
    Raises InputError if the example or the opset does not fit or the exporter changed either silently.
    """
    _check_example(example, dynamic)
    model = _exported(module, example, outputs, dynamic, opset)
    _check_versions(model, opset)
    parameters = {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    share_weights(model, parameters, "module.")
    graph.merge_scales(model)
    graph.tidy(model)
    _check_signature(model, example, outputs, dynamic)
    graph.save(model, path)
    return read_info(path)


def read_info(path: Path) -> OnnxInfo:
    """What an ONNX file declares. Raises InputError if it is not one."""
    model = graph.load(path)
    return OnnxInfo(
        opset=graph.opset(model),
        ir=int(model.ir_version),
        inputs=_declared(model.graph.input),
        outputs=_declared(model.graph.output),
        bytes=path.stat().st_size,
        initializer_bytes=sum(len(one.raw_data) or one.ByteSize() for one in model.graph.initializer),
    )


def _check_example(example: Mapping[str, Tensor], dynamic: Mapping[str, Mapping[int, str]]) -> None:
    for name, dims in dynamic.items():
        if name not in example:
            raise InputError(f"dynamic names input {name!r}, the example has {', '.join(example)}")
        shape = tuple(example[name].shape)
        for axis, label in dims.items():
            if not 0 <= axis < len(shape):
                raise InputError(f"dynamic axis {axis} of {name!r} is outside its shape {list(shape)}")
            if shape[axis] < 2:
                raise InputError(f"example {name!r} has {label} = {shape[axis]}; give 2 or more, 1 is taken as fixed")


def _exported(
    module: nn.Module,
    example: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
    opset: int,
) -> Any:
    import torch

    names = list(example)

    class ByPosition(torch.nn.Module):
        """The exporter names inputs best when each is an argument of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Tensor) -> Any:
            return self.module(dict(zip(names, tensors, strict=True)))

    training = module.training
    module.eval()
    labels = sorted({label for dims in dynamic.values() for label in dims.values()})
    sizes = {label: torch.export.Dim(label) for label in labels}
    shapes = tuple({axis: sizes[label] for axis, label in dynamic.get(name, {}).items()} for name in names)
    try:
        with torch.no_grad(), quiet(), made_once():
            program = torch.onnx.export(
                ByPosition(),
                tuple(example.values()),
                input_names=names,
                output_names=list(outputs),
                dynamic_shapes=(shapes,),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(f"torch cannot export this model to ONNX: {_cause(error)}") from error
    finally:
        module.train(training)
    if program is None:
        raise InputError("torch gave no ONNX program for this model")
    return program.model_proto


def _check_versions(model: Any, opset: int) -> None:
    """torch 2.13 turns an opset that it does not know into 18 without a word."""
    given = graph.opset(model)
    if given != opset:
        raise InputError(f"asked for ONNX opset {opset}, torch's exporter gave {given}; ask for 18 to 25")
    allowed = JETSON_IR if opset <= 22 else MAX_IR
    if model.ir_version > allowed:
        raise InputError(f"opset {opset} came with ONNX IR {model.ir_version}; its runtimes read {allowed} at most")


def _check_signature(
    model: Any, example: Mapping[str, Tensor], outputs: Sequence[str], dynamic: Mapping[str, Mapping[int, str]]
) -> None:
    """An input that the model does not use, or a dynamic dimension that froze, must not pass unseen."""
    wanted = {
        name: tuple(dynamic.get(name, {}).get(axis, size) for axis, size in enumerate(tensor.shape))
        for name, tensor in example.items()
    }
    found = {tensor.name: tensor.shape for tensor in _declared(model.graph.input)}
    if found != wanted:
        raise InputError(f"exported inputs {found}, asked for {wanted}; a dimension froze or an input is unused")
    names = [value.name for value in model.graph.output]
    if names != list(outputs):
        raise InputError(f"the exported outputs are {', '.join(names)}; asked for {', '.join(outputs)}")


def _declared(values: Any) -> tuple[Declared, ...]:
    import onnx

    tensors = []
    for value in values:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}_{axis}"
            for axis, dim in enumerate(kind.shape.dim)
        )
        tensors.append(Declared(value.name, dtype, shape))  # type: ignore[arg-type]
    return tuple(tensors)


def _cause(error: BaseException) -> str:
    """The last line of the first cause: what went wrong, without the exporter's page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
