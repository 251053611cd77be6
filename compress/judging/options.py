"""What a comparison is asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

from targets.errors import InputError

DEFAULT_MAX_DROP = 1.0


class Options(NamedTuple):
    """What is to be compared, how it is judged and where the results go: the command line of `compress.verify`."""

    reference: str
    candidate: str
    data: str | None = None
    part: Literal["evaluation", "all"] = "evaluation"
    gate: Path | None = None
    max_drop: float | None = None
    junit: Path | None = None
    sarif: Path | None = None
    summary: Path | None = None
    html: Path | None = None
    as_json: bool = False
    baseline: Path | None = None
    update_baseline: bool = False
    label: str = ""
    steps: tuple[str, ...] = ()
    stop_early: bool = False
    slices: Path | None = None


def check_usage(options: Options) -> None:
    """Raises InputError for options that do not go together."""
    if options.gate is not None and options.max_drop is not None:
        raise InputError("give --gate or --max-drop, not both")
    if options.max_drop is not None and not 0 <= options.max_drop < math.inf:
        raise InputError(f"--max-drop is {options.max_drop}; allowed: a finite number of 0 or more")
    if options.update_baseline and options.baseline is None:
        raise InputError("--update-baseline needs --baseline FILE, the file to write")
    if options.stop_early and options.baseline is not None:
        raise InputError("--stop-early leaves samples out, which --baseline needs; give one of them")
    if options.label and not options.update_baseline:
        raise InputError("--label names a run in the history of a baseline; give it with --update-baseline")
