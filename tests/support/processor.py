"""What a test may not expect of every processor."""

from __future__ import annotations

import pytest

from runtime import ort
from targets.errors import EnvironmentLacks

#: Holds where int8 is added exactly; elsewhere a fault of ONNX Runtime (docs: int8 on x86 without VNNI).
loops_in_int8 = pytest.mark.xfail(
    ort.saturates(),
    reason="without VNNI, ONNX Runtime cannot load int8 weights that several loops share",
    raises=EnvironmentLacks,
)
