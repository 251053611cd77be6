"""Files of recorded answers, read back as samples of their kind."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from compress.verification.kinds import kinds
from compress.verification.kinds.texts import read_outputs
from compress.verification.samples import Samples
from runtime.faults import read_arrays, told
from runtime.files import check_no_pipe
from targets.errors import InputError

#: Of all arrays of a file together, unpacked.
MOST_BYTES = 8 << 30


def load(path: Path) -> Samples:
    """Read an npz file written by `save`, or any with the arrays of one of the kinds, or the .jsonl of text outputs.

    Raises InputError, or EnvironmentLacks where the text outputs need a package.
    """
    check_no_pipe(path)
    if path.suffix == ".jsonl":
        return read_outputs(path)
    with told(f"cannot read predictions from {path}", "give an npz file with logits and labels"):
        arrays: dict[str, Any] = dict(read_arrays(path, MOST_BYTES))
    arrays.pop("kind", None)
    if "names" in arrays:
        if arrays["names"].ndim != 1:
            raise InputError(f"{path}: names has the shape {arrays['names'].shape}; give one name per class")
        arrays["names"] = [str(name) for name in arrays["names"]]
    for kind in kinds():
        wanted = {field.name for field in fields(kind)}
        if wanted - {"names"} <= set(arrays) <= wanted:
            try:
                return kind(**arrays)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
    each = dict.fromkeys("+".join(one.name for one in fields(kind) if one.name != "names") for kind in kinds())
    needs = " or ".join(each)
    raise InputError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; it needs {needs}")
