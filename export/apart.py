"""Weights of several ONNX files in one file beside them, each stored once (ONNX's external data)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export import graph
from export.sharing import SHARED_FROM_BYTES
from runtime.files import write_atomic

#: Where a weight may start, so that it can be mapped into memory and used there.
ALIGNMENT = 64


def store_apart(files: Sequence[Path], data: Path) -> int:
    """Move the weights of these files into `data`, in the same folder; equal ones are stored once. Returns the bytes
    that this saves. Small ones (under 1 KiB) stay where they are."""
    from onnx.external_data_helper import set_external_data

    places: dict[bytes, int] = {}
    stored, saved = bytearray(), 0
    for file in files:
        model = graph.load(file)
        for weight in model.graph.initializer:
            raw: bytes = weight.raw_data
            if len(raw) < SHARED_FROM_BYTES:
                continue
            key = hashlib.sha256(raw).digest()
            if key in places:
                saved += len(raw)
            else:
                stored += bytes(-len(stored) % ALIGNMENT)
                places[key] = len(stored)
                stored += raw
            set_external_data(weight, data.name, places[key], len(raw))
            weight.ClearField("raw_data")
        write_atomic(file, model.SerializeToString(deterministic=True))
    write_atomic(data, bytes(stored))
    return saved


def stored_bytes(file: Path) -> int:
    """Bytes of an ONNX file and of the weights that it reads from files beside it."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    model: Any = onnx.load(str(file), load_external_data=False)
    outside = {
        (fields["location"], fields["offset"]): int(fields["length"])
        for fields in (
            {entry.key: entry.value for entry in weight.external_data}
            for weight in model.graph.initializer
            if uses_external_data(weight)
        )
    }
    return file.stat().st_size + sum(outside.values())
