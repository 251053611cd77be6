"""One exported graph of an encoder-decoder becomes the files that a device runs: `encoder`, once a source, `decoder`,
every step, and the `model` as a whole from its first token on. All passes (fusing, quantizing) work on the one graph
before it is cut, so that the three are the same numbers; their weights are stored once, in a file beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from export import graph
from export.apart import store_apart
from runtime import states
from runtime.bundles.manifest import DECODER, ENCODER, GRAPH
from runtime.states import OF_DECODER
from runtime.texts.text import INPUTS, TARGET
from targets.errors import InputError


def _load(path: Path) -> Any:
    """The graph; sizes of the batch and of the source are read off the mask of the source, which all parts have: the
    exporter reads them off whichever input has them."""
    model, (ids, mask) = graph.load(path), INPUTS
    inputs = {one.name for one in model.graph.input}
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    for node in model.graph.node:
        read = casts.get(node.input[0], node.input[0]) if node.op_type == "Shape" else ""
        if read not in inputs:
            continue
        of_batch = (graph.attribute(node, "start", 0), graph.attribute(node, "end", None)) == (0, 1)
        if of_batch or read == ids:
            node.input[0] = mask
    return model


def cut(path: Path) -> dict[str, Path]:
    """Cut a graph in place: `path` becomes the whole from the first token on, beside it stand the files of the encoder
    and of the decoder, and the weights of the three in one file more. Returns the files by graph.

    Raises InputError if a decoder's step needs more of the source than what is kept of it.
    """
    parts = {GRAPH: _from_the_start(path), ENCODER: _encoder(path), DECODER: _decoder(path)}
    files = {name: path.with_name(path.name.replace(GRAPH, name, 1)) for name in parts}
    for name, model in parts.items():
        graph.save(model, files[name])
    store_apart(list(files.values()), path.with_name(f"{path.name}.data"))
    return files


def _encoder(path: Path) -> Any:
    model = _load(path)
    _keep_outputs(model, [one.name for one in model.graph.output if states.is_memory(one.name)])
    return _with_inputs(model, path, set(INPUTS))


def _decoder(path: Path) -> Any:
    """Its tokens are `input_ids`."""
    model = _load(path)
    memory = [one for one in model.graph.output if states.is_memory(one.name)]
    names = {one.name for one in memory}
    graph.set_nodes(model, _behind(model, names))
    model.graph.input.extend(graph.copied(one) for one in memory)
    _keep_outputs(model, [one.name for one in model.graph.output if one.name not in names])
    if states.ALLOWED in names:
        _choose_words(model)
    pasts = {one.name for one in model.graph.input if states.is_past(one.name)}
    model = _with_inputs(model, path, {*OF_DECODER, *pasts, *names})
    return _renamed(model, OF_DECODER)


def _behind(model: Any, names: set[str]) -> list[Any]:
    """The nodes with those left out that make the memory. In half precision the memory leaves through a cast, and the
    decoder reads what is in front of it: that is made of the memory again."""
    from onnx import TensorProto, helper

    ends = [node for node in model.graph.node if node.op_type == "Cast" and node.output[0] in names]
    inner = {node.input[0]: node.output[0] for node in ends}
    back = [
        helper.make_node("Cast", [memory], [value], name=f"{value}/Cast", to=TensorProto.FLOAT16)
        for value, memory in inner.items()
    ]
    made = names | inner.keys()
    return [*back, *(node for node in model.graph.node if made.isdisjoint(node.output))]


def _from_the_start(path: Path) -> Any:
    """The whole with its states made inside: zeros, none of a cache."""
    import numpy as np
    from onnx import helper, numpy_helper

    model = _load(path)
    listed = [one for one in model.graph.output if one.name == states.ALLOWED]
    _keep_outputs(model, [one.name for one in model.graph.output if not _is_state(one.name)])
    made = [helper.make_node("Shape", [INPUTS[1]], ["start.batch"], start=0, end=1, name="start.batch/Shape")]
    for one in [one for one in model.graph.input if states.is_past(one.name)]:
        sizes = [dim.dim_value for dim in one.type.tensor_type.shape.dim][1:]  # a dimension that grows begins at 0
        rest, shape = f"{one.name}.sizes", f"{one.name}.shape"
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), rest))
        made.append(helper.make_node("Concat", ["start.batch", rest], [shape], axis=0, name=f"{shape}/Concat"))
        zero = numpy_helper.from_array(np.zeros(1, np.float32))
        made.append(helper.make_node("ConstantOfShape", [shape], [one.name], value=zero, name=f"{one.name}/Fresh"))
    if listed:
        made.append(_all_words(model, listed[0].type.tensor_type.shape.dim[1].dim_value))
    graph.set_nodes(model, [*made, *model.graph.node])
    return _with_inputs(model, path, {*INPUTS, TARGET})


def _choose_words(model: Any) -> None:
    """The words that scores are given for, an output: those that some source of the batch may become."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    allowed, words = states.ALLOWED, states.WORDS
    axis, any_, found = f"{words}.axis", f"{words}.any", f"{words}.found"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), axis))
    made = [
        helper.make_node("ReduceMax", [allowed, axis], [any_], keepdims=0, name=f"{any_}/ReduceMax"),
        helper.make_node("NonZero", [any_], [found], name=f"{found}/NonZero"),
        helper.make_node("Squeeze", [found, axis], [words], name=f"{words}/Squeeze"),
    ]
    graph.set_nodes(model, [*made, *model.graph.node])
    model.graph.output.append(helper.make_tensor_value_info(words, TensorProto.INT64, [words]))


def _all_words(model: Any, count: int) -> Any:
    """A node that gives all words of the vocabulary."""
    import numpy as np
    from onnx import helper, numpy_helper

    names = [f"{states.WORDS}.{name}" for name in ("first", "end", "step")]
    ends = (np.array(one, np.int64) for one in (0, count, 1))
    model.graph.initializer.extend(map(numpy_helper.from_array, ends, names))
    return helper.make_node("Range", names, [states.WORDS], name=f"{states.WORDS}/Range")


def _is_state(name: str) -> bool:
    return states.is_memory(name) or name.startswith(("present.", "present_"))


def _keep_outputs(model: Any, names: Iterable[str]) -> None:
    wanted = set(names)
    kept = [graph.copied(one) for one in model.graph.output if one.name in wanted]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    graph.drop_unused(model)


def _with_inputs(model: Any, path: Path, allowed: set[str]) -> Any:
    """The model with those of its inputs that it reads. Raises InputError if it reads another one."""
    read = {name for node in model.graph.node for name in graph.names_read(node)}
    read -= {name for node in model.graph.node for name in node.output}
    kept = [graph.copied(one) for one in model.graph.input if one.name in read]
    strange = [one.name for one in kept if one.name not in allowed]
    if strange:
        raise InputError(f"{path.name} cannot be cut: a part of it reads {strange[0]}, which it would not be given")
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def _renamed(model: Any, names: dict[str, str]) -> Any:
    """The model with some of its inputs called otherwise."""
    for one in model.graph.input:
        one.name = names.get(one.name, one.name)
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = names.get(name, name)
    return model
