"""Healing gives the same bytes for the same seed, also when it is killed and goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.healing import healed

from compress.heal import checkpoint
from compress.model import save

from .heal_killed import OPTIONS, pair

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
    assert saved == ({"attention.pt", "transfer.pt", "distill-0.pt"} if interval == 0 else set())
    assert bytes_of(tmp_path / "killed" / "model") == heal_and_save(tmp_path / "whole")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Checkpoints of every phase, and the model that healing ends with."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "INTERVAL", 0.0)
        return folder / "work", heal_and_save(folder)


@pytest.mark.parametrize("phase", ["attention", "transfer", "distill-0"])
@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "without its digest"])
def test_a_damaged_checkpoint_is_reported_and_its_phase_starts_again(
    tmp_path: Path, stopped: tuple[Path, dict[str, bytes]], phase: str, harm: str
) -> None:
    work, whole = stopped
    shutil.copytree(work, tmp_path / "work")
    file = tmp_path / "work" / f"{phase}.pt"
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(
        {
            "cut": content[:middle],
            "empty": b"",
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "without its digest": content[32:],
        }[harm]
    )
    said: list[str] = []
    assert heal_and_save(tmp_path, log=said.append) == whole
    assert said == [f"the checkpoint {phase}.pt is damaged; this phase of healing starts again"]
