"""A folder of an encoder-decoder as Optimum writes it, opened as a side: its encoder and its decoder, in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from compress.judging.side import BATCH, Arrays, Side, onnx_size
from runtime.bundles.manifest import Tensor
from runtime.states import OF_DECODER
from runtime.texts.text import INPUTS, TARGET
from targets.errors import InputError

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"
_HIDDEN, _MEMORY, _LOGITS = "last_hidden_state", "encoder_hidden_states", "logits"


def is_pair(folder: Path) -> bool:
    """Whether both files lie there."""
    return (folder / ENCODER).is_file() and (folder / DECODER).is_file()


def pair_side(name: str, folder: Path) -> tuple[Side, tuple[Tensor, ...]]:
    """Both graphs as one, which answers whole targets, and what it gives. The files for single steps are not asked.

    Raises InputError where the two do not fit together.
    """
    from runtime import ort

    encoder, decoder = ort.load(folder / ENCODER), ort.load(folder / DECODER)
    given = {one.name for one in encoder.outputs}
    taken = {one.name for one in decoder.inputs} - {*OF_DECODER.values(), _MEMORY}
    logits = tuple(one for one in decoder.outputs if one.name == _LOGITS)
    if _HIDDEN not in given or taken or not logits:
        lacks = f"takes {', '.join(sorted(taken))}" if taken else f"gives no {_LOGITS if not logits else _HIDDEN}"
        where = DECODER if taken or not logits else ENCODER
        raise InputError(f"{name}: {where} {lacks}, so it is not a pair as Optimum exports it; export it again")

    def call(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        hidden = encoder.run({one.name: inputs[one.name] for one in encoder.inputs})[_HIDDEN]
        whole = {_MEMORY: hidden, **{name: inputs[given] for given, name in OF_DECODER.items()}}
        return {_LOGITS: decoder.run({one.name: whole[one.name] for one in decoder.inputs})[_LOGITS]}

    declared = {one.name: one for one in encoder.inputs}
    target = replace(next(one for one in decoder.inputs if one.name == OF_DECODER[TARGET]), name=TARGET)
    side = Side(
        name=name,
        kind="ONNX files",
        most=BATCH,
        bytes=onnx_size(folder / ENCODER) + onnx_size(folder / DECODER),
        runs_on=f"ONNX Runtime, {decoder.provider}",
        call=call,
        inputs=(*(declared[one] for one in INPUTS if one in declared), target),
    )
    side = replace(side, wired=lambda task: task.wires(name, side.inputs, logits))
    return side, logits
