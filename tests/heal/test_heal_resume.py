"""Healing gives the same bytes for the same seed, also when it is killed and goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.model import save

from .heal_killed import OPTIONS, pair
from .parts import healed

SCRIPT = Path(__file__).with_name("heal_killed.py")
ROOT = Path(__file__).parents[2]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def heal_and_save(folder: Path, **changes: Any) -> dict[str, bytes]:
    result = healed(*pair(), folder / "work", **(OPTIONS | changes))
    assert result.drift_after < 0.9 * result.drift_before
    save(result.model, folder / "model")
    return bytes_of(folder / "model")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = heal_and_save(tmp_path / "first")
    assert heal_and_save(tmp_path / "second") == first
    other = heal_and_save(tmp_path / "other", seed=1)
    assert other["structure.json"] == first["structure.json"]
    assert other["model.safetensors"] != first["model.safetensors"]


@pytest.mark.parametrize("interval", [0.0, 1e9])
def test_killed_at_every_step_healing_ends_with_the_same_bytes(tmp_path: Path, interval: float) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "killed"), str(interval)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Two steps of attention transfer, four of transfer, seven of distillation; the next child has nothing to die at.
    assert done.stdout.split() == [str(step) for step in range(1, 14)]
    saved = {file.name for file in (tmp_path / "killed" / "work").glob("*")}
    assert saved == ({"attention.pt", "transfer.pt", "distill.pt"} if interval == 0 else set())
    assert bytes_of(tmp_path / "killed" / "model") == heal_and_save(tmp_path / "whole")
