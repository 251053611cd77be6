"""Answer the frames of a source as they come."""

from __future__ import annotations

import json
import sys
from itertools import islice
from typing import TYPE_CHECKING

from targets.errors import EdgepressError, InputError, one_line, printable

if TYPE_CHECKING:
    from runtime.answers import Wanted
    from runtime.field.asking import Asking
    from runtime.sources import Source


def follow(asked: Asking, source: Source, wanted: Wanted, most: int | None, as_json: bool) -> None:
    """Print a line per frame, of `most` frames at most: a text, or a JSON object. A frame that cannot be used is a line
    with `error` (on standard error, if the others are texts), and the next one is answered.

    Raises InputError at the end if there was such a frame, and what the source and the session raise.
    """
    failed = 0
    for frame in islice(source.frames(), most):
        name = {} if isinstance(frame, EdgepressError) else {"input": frame.name}
        result = frame if isinstance(frame, EdgepressError) else asked.answer([frame], wanted)[0]
        if isinstance(result, EdgepressError):
            failed += 1
            line = (
                json.dumps({**name, "error": one_line(str(result))}) if as_json else f"error: {one_line(str(result))}"
            )
            print(line, file=sys.stdout if as_json else sys.stderr, flush=True)
        else:
            whole = {**name, **result}
            print(json.dumps(whole) if as_json else printable(asked.answerer.line(whole)), flush=True)
    asked.finish()
    if failed:
        raise InputError(f"{failed} frames of {source.name} could not be used; see the lines with an error")
