"""A check of recurrent files: whatever chunks a sequence comes in, the answers are those to the whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.verification.outcome import Status
from compress.verification.report_data import ExtraCheck
from runtime import states
from runtime.files import sha256_of
from runtime.streams.chunking import ALLOWED, check_chunking
from runtime.streams.stream import Stepped, Stream
from targets.errors import GateFailed

if TYPE_CHECKING:
    import numpy as np

    from compress.judging.questions import Questions


def check_streams(questions: Questions) -> list[ExtraCheck]:
    """The check of each file of the candidate whose precision is known, for tasks whose models keep a state."""
    side = questions.candidate
    if side is None or not questions.task.keeps_state:
        return []
    tokens = questions.task.stream_tokens(questions.prepared(side))
    if tokens is None:
        return []
    longest = int((side.preprocessing or {}).get("max_length", len(tokens)))
    known = [(path, precision) for path, precision in side.graphs.items() if precision is not None]
    return [check_streaming(path, tokens, precision, longest) for path, precision in known]


def check_streaming(path: Path, tokens: np.ndarray, precision: str, longest: int) -> ExtraCheck:
    """Feed an ONNX file of a recurrent model the tokens (N, ...), `longest` at most, in several ways."""
    name = f"streaming of {path.name}"
    try:
        found = check_chunking(stream_of(path), tokens, precision, longest)
    except GateFailed as error:
        return ExtraCheck(name=name, status=Status.FAIL, message=str(error))
    lengths = ", ".join(str(one.length) for one in found)
    worst = max(found, key=lambda one: one.error)
    text = (
        f"sequences of {lengths} tokens in chunks differ from whole ones by at most {worst.error:.1e} of the answers' "
        f"size; allowed {worst.allowed:g}"
    )
    if precision == "int8" and worst.error > ALLOWED["fp32"]:
        text += (
            "; dynamic int8 rounds by the largest number of a chunk, so answers depend a little on how a text is cut"
        )
    return ExtraCheck(name=name, status=Status.PASS if all(found) else Status.FAIL, message=text)


def stream_of(path: Path, batch: int = 1, chunk: int = 512) -> Stream:
    """Sequences fed to an ONNX file, as from a bundle of it with this longest chunk, on the CPU."""
    from export.onnx_model import read_info
    from runtime import ort

    info, model = read_info(path), ort.load(path, threads=1)
    state = states.states_of(info.inputs)
    past, present = {one.past for one in state}, {one.present for one in state}
    stepped = Stepped(
        source=path.name,
        inputs=tuple(tensor for tensor in info.inputs if tensor.name not in past),
        outputs=tuple(tensor for tensor in info.outputs if tensor.name not in present),
        state=state,
        run=model.run,
        max_batch=8 * batch,
        longest_chunk=chunk,
        file=path.name,
        sha256=sha256_of(path),
    )
    return Stream(stepped, batch)
