"""A shell script that builds an engine with TensorRT's own tool, loads it, and holds it against the golden samples.

golden.npz is a zip of arrays that are not compressed, and each ends with its numbers, so nothing is stored twice.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from export.integrate import Made
from runtime.bundles.manifest import TENSORRT
from runtime.engines.engine_file import spans_of

if TYPE_CHECKING:
    import numpy as np

    from export.integrate import Golden
    from runtime.bundles.manifest import Manifest, ModelFile

TITLE = "TensorRT's trtexec"
FILE = "trtexec.sh"
#: Where the script puts the engine of a model of one graph, seen from its folder.
ENGINE = "local/model.engine"
#: How od reads numbers of a type.
_NUMBERS = {"float32": "f4", "int64": "d8", "int32": "d4", "int8": "d1", "uint8": "u1", "bool": "u1"}
_OUTPUT = "output_"
_NOTE = (
    "`bash trtexec.sh` builds the engine on this device, loads it, feeds the golden inputs and compares. It exits with "
    "0 if every output is within its tolerance. We have not run it with TensorRT: no such device was at hand."
)


def made(manifest: Manifest, golden: Golden) -> Made:
    """For targets with TensorRT."""
    graphs = [manifest.of(name) for name in manifest.named]
    if any(for_tensorrt(graph) is None for graph in graphs):
        return Made("It builds TensorRT engines, and this target has none.")
    why_not = next(filter(None, (_why_not(graph, golden[graph.graph]) for graph in graphs)), None)
    if why_not is not None:
        return Made(why_not)
    template = (Path(__file__).parent / "trtexec.sh").read_text(encoding="utf-8")
    calls = "\n".join(line for graph in graphs for line in _calls(graph, golden[graph.graph]))
    return Made(_NOTE, {FILE: template.replace("# GRAPHS", calls)})


def for_tensorrt(manifest: Manifest) -> ModelFile | None:
    """The file of a graph that TensorRT should build first."""
    whole = [model for model in manifest.models if model.loops == manifest.loops]
    return next((model for model in whole if model.runtime == TENSORRT), None)


def _why_not(manifest: Manifest, golden: Mapping[str, np.ndarray]) -> str | None:
    """Why the script cannot feed a graph its golden samples."""
    spans = spans_of(manifest.target.profile, recurrent=bool(manifest.state))
    sizes = {size for tensor in manifest.all_inputs for size in tensor.shape if isinstance(size, str)}
    if sizes - spans.keys():
        return f"The target gives no range for the size {min(sizes - spans.keys())}, and an engine needs one."
    if not all(array.size for array in golden.values()):
        return "Its golden samples start with an empty cache, and trtexec loads no empty file."
    if any(array.dtype.name not in _NUMBERS for name, array in golden.items() if name.startswith(_OUTPUT)):
        return "Its outputs are of a type that a shell's tools do not read."
    lengths = {len(array) for array in golden.values() if array.ndim}
    if max(lengths) > _most(manifest) and len(lengths) > 1:
        return "Its golden samples do not fit into one batch of the engine."
    return None


def _most(manifest: Manifest) -> int:
    """Samples that an engine takes at once."""
    spans = spans_of(manifest.target.profile, recurrent=bool(manifest.state))
    first = manifest.all_inputs[0].shape[0]
    return first if isinstance(first, int) else spans[first][2]


def _calls(manifest: Manifest, golden: Mapping[str, np.ndarray]) -> Iterator[str]:
    """What the script does for one graph."""
    model, graph = for_tensorrt(manifest), manifest.graph
    assert model is not None
    spans = spans_of(manifest.target.profile, recurrent=bool(manifest.state))
    dynamic = [one for one in manifest.all_inputs if any(isinstance(size, str) for size in one.shape)]
    fed = {name: (min(len(array), _most(manifest)), *array.shape[1:]) for name, array in golden.items() if array.ndim}
    ranges = {
        f"{which}Shapes": {
            one.name: tuple(spans[size][at] if isinstance(size, str) else size for size in one.shape) for one in dynamic
        }
        for at, which in enumerate(("min", "opt", "max"))
    }
    given = {one.name: f"local/input_{one.name}.bin" for one in manifest.all_inputs}
    yield f"golden=../{manifest.golden}"
    for name in given:
        yield _raw(f"input_{name}", golden[f"input_{name}"], fed[f"input_{name}"])
    yield _trtexec(
        f"--onnx=../{model.path}",
        "--stronglyTyped",
        "--skipInference",
        f"--saveEngine=local/{graph}.engine",
        *(f"--{option}={_shapes(shapes)}" for option, shapes in ranges.items() if shapes),
    )
    yield _trtexec(
        f"--loadEngine=local/{graph}.engine",
        *([f"--shapes={_shapes({one.name: fed[f'input_{one.name}'] for one in dynamic})}"] if dynamic else []),
        f"--loadInputs={','.join(f'{name}:{path}' for name, path in given.items())}",
        f"--exportOutput=local/{graph}.json",
        *("--iterations=1", "--warmUp=0", "--duration=0"),
    )
    for key, array in golden.items():
        if key.startswith(_OUTPUT):
            name, kind = key.removeprefix(_OUTPUT), array.dtype
            yield _raw(key, array, fed[key])
            atol = float(golden[f"atol_{name}"])
            yield f"compare {graph} {shlex.quote(name)} {_NUMBERS[kind.name]} {kind.itemsize} {atol!r}"


def _raw(key: str, array: np.ndarray, fed: tuple[int, ...]) -> str:
    bytes_fed = math.prod(fed) * array.dtype.itemsize
    return f"raw {shlex.quote(key)} {array.nbytes}" + (f" {bytes_fed}" if bytes_fed < array.nbytes else "")


def _trtexec(*options: str) -> str:
    return " \\\n    ".join(('"$trtexec"', *map(shlex.quote, options)))


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
