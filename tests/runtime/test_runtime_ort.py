"""The session option for processors whose int8 sums saturate."""

from __future__ import annotations

import platform
from pathlib import Path

from runtime.ort import _saturates


def test_exact_int8_sums_are_asked_for_on_x86_without_vnni_only(tmp_path: Path) -> None:
    old, new = tmp_path / "haswell", tmp_path / "sapphire"
    old.write_text("flags : fpu sse4_2 avx2\n")
    new.write_text("flags : fpu avx2 avx512_vnni amx_int8\n")
    assert _saturates(old) == (platform.machine() == "x86_64")
    assert not _saturates(new)
    assert not _saturates(tmp_path / "no-such-file")
