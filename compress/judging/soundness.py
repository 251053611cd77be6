"""Damage that accuracy may not show: scales that do not fit what they quantize, blocks that are nothing but zeros.

B batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data.classes import listed
from compress.judging.questions import Questions, spread
from compress.judging.side import Side
from compress.verification.outcome import Status
from compress.verification.report_data import ExtraCheck

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Samples that quantizers are held against.
SAMPLES = 64
#: What the weights of a block are called, in edgepress's own files and in those of others.
_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers?|h)\.(\d+)\.")


def check_sound(questions: Questions) -> list[ExtraCheck]:
    """The checks of the candidate; none where it is a file of answers."""
    side = questions.candidate
    if side is None:
        return []
    return [check for check in (_check_blocks(side), _check_ranges(questions, side)) if check is not None]


def _check_blocks(side: Side) -> ExtraCheck | None:
    """That no block's weights are all zero."""
    dead = [text for text, weights in _weights(side) for text in dead_blocks(text, weights)]
    if not dead:
        return None
    message = f"nothing but zeros in the weights of {listed(dead)}: what does nothing should not be there"
    return ExtraCheck(name="weights", status=Status.ERROR, message=message)


def dead_blocks(where: str, weights: Iterable[tuple[str, NDArray[Any]]]) -> list[str]:
    """The blocks of which every matrix is zero. `weights`: by name."""
    alive: dict[int, bool] = {}
    for name, values in weights:
        found = _BLOCK.search(name)
        if found is not None and values.ndim > 1:
            number = int(found[1])
            alive[number] = alive.get(number, False) or bool(values.any())
    return [f"block {number}{where}" for number, lives in sorted(alive.items()) if not lives]


def _weights(side: Side) -> Iterable[tuple[str, Iterable[tuple[str, NDArray[Any]]]]]:
    """Where they are, and the weights by name."""
    if side.canonical is not None:
        state = side.canonical().state_dict()
        yield "", ((name, tensor.numpy()) for name, tensor in state.items())
    for path in side.graphs:
        yield f" of {path.name}", _initializers(path)


def _initializers(path: Path) -> Iterable[tuple[str, NDArray[Any]]]:
    from export import graph

    return graph.weights(graph.load(path)).items()


def _check_ranges(questions: Questions, side: Side) -> ExtraCheck | None:
    """That every static quantizer's scale fits the values that it meets; None where there is no such quantizer."""
    from export.precision.ranges import range_use

    count, faults = 0, []
    for path in side.graphs:
        found = range_use(path, _batches(questions, side))
        count += len(found)
        faults += [f"{use.fault} ({path.name})" for use in found if use.fault is not None]
    name = "quantization ranges"
    if faults:
        message = f"the scales of {len(faults)} of {count} quantizers do not fit their values: {listed(faults)}"
        return ExtraCheck(name=name, status=Status.ERROR, message=message)
    if not count:
        return None
    return ExtraCheck(name=name, status=Status.PASS, message=f"the scales of {count} quantizers fit their values")


def _batches(questions: Questions, side: Side) -> Iterable[Mapping[str, NDArray[Any]]]:
    return map(side.fed, questions.inputs(side, spread(len(questions), SAMPLES)))
