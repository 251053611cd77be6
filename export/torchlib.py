"""torch's table of what each of its operators is in ONNX. torch makes it anew at every export, which is a fifth of the
work for a small model; here it is made once for each opset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_tables: dict[int, Any] = {}


@contextmanager
def made_once() -> Iterator[None]:
    """Exports in this block share one table, which the exporter only reads as long as nobody brings operators."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    make = ONNXRegistry.from_torchlib

    def table(opset_version: int) -> Any:
        if opset_version not in _tables:
            _tables[opset_version] = make(opset_version=opset_version)
        return _tables[opset_version]

    ONNXRegistry.from_torchlib = staticmethod(table)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = make  # type: ignore[method-assign]
