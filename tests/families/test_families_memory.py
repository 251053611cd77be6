"""A model that does not fit into this machine is refused before its weights are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.checkpoints import saved
from support.jobs import command, one_line_error
from support.text_checkpoints import saved_text

from compress.families.memory import BYTES, check_memory
from targets.errors import EnvironmentLacks


def test_parameters_are_counted_over_shards_and_held_against_free_memory(tmp_path: Path) -> None:
    count = sum(one.numel() for one in saved_text(tmp_path, "bert", "Model").parameters())
    whole = BYTES * count + (1 << 29)
    check_memory(tmp_path, whole)
    with pytest.raises(EnvironmentLacks, match=r"a run takes .* GB of memory or more, and .* GB are"):
        check_memory(tmp_path, whole - 1)
    sharded = sum(one.numel() for one in saved(tmp_path / "parts", "vit", shard_size="2KB").parameters())
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    check_memory(tmp_path / "parts", BYTES * sharded + (1 << 29))
    with pytest.raises(EnvironmentLacks):
        check_memory(tmp_path / "parts", BYTES * sharded + (1 << 29) - 1)


def test_weights_that_cannot_be_counted_are_left_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    check_memory(tmp_path, 1)
    check_memory(tmp_path / "missing", 1)


def test_a_run_ends_with_the_exit_code_of_a_machine_that_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.families import memory

    saved_text(tmp_path / "model", "bert", "Model")
    monkeypatch.setattr(memory, "memory_bytes", lambda field: 1 << 20)
    done = command(tmp_path / "cache", "--target", "cpu", "--model", str(tmp_path / "model"), "--data", "zoo:sts")
    assert "GB are free here; take a smaller model or a larger machine" in one_line_error(done, 3)
