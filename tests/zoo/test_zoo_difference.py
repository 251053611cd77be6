"""A model shipped as a difference is the base plus what was saved, and nothing else fits it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.zoo.difference import apply_difference, save_difference
from runtime.files import sha256_of
from targets.errors import InputError


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6), rank=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_difference_is_added_in_fp32(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, rank: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("difference") / "difference.safetensors"
    draw = torch.Generator().manual_seed(seed)
    base = {"a.weight": torch.randn(rows, columns, generator=draw), "a.bias": torch.randn(rows, generator=draw)}
    down, up = torch.randn(rank, columns, generator=draw).half(), torch.randn(rows, rank, generator=draw).half()
    added, head = torch.randn(rows, generator=draw).half(), torch.randn(2, rows, generator=draw).half()
    save_difference({"a.weight.down": down, "a.weight.up": up, "a.bias.delta": added, "head": head}, path)
    found = apply_difference({**base, "position_ids": torch.arange(3).double()}, path)
    assert torch.equal(found["a.weight"], base["a.weight"] + up.float() @ down.float())
    assert torch.equal(found["a.bias"], base["a.bias"] + added.float())
    assert torch.equal(found["head"], head.float())


def test_the_same_parts_give_the_same_bytes_and_strangers_are_refused(tmp_path: Path) -> None:
    parts = {"b.delta": torch.ones(3), "a.delta": torch.zeros(2)}
    save_difference(parts, tmp_path / "one.safetensors")
    save_difference(dict(reversed(parts.items())), tmp_path / "two.safetensors")
    assert sha256_of(tmp_path / "one.safetensors") == sha256_of(tmp_path / "two.safetensors")
    with pytest.raises(InputError, match=r"b\.delta fits no tensor"):
        apply_difference({"a": torch.zeros(2)}, tmp_path / "one.safetensors")
    with pytest.raises(InputError, match=r"a\.delta fits no tensor"):
        apply_difference({"a": torch.zeros(4), "b": torch.ones(3)}, tmp_path / "one.safetensors")
    (tmp_path / "one.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="damaged"):
        apply_difference({"a": torch.zeros(2)}, tmp_path / "one.safetensors")
