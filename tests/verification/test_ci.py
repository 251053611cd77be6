"""What users copy into their CI: the recipes parse and name real options, and the helper gates a project of its own."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.verification.predictions import Predictions

ROOT = Path(__file__).parents[2]
PAGE = "\n".join((ROOT / "docs" / room / "ci.md").read_text(encoding="utf-8") for room in ("guide", "reference"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_every_command_in_the_recipes_is_one_that_the_program_takes() -> None:
    known = subprocess.run(
        [sys.executable, "-m", "compress.verify", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    commands = [block for block in blocks("yaml") + blocks("sh") if "edgepress verify" in block]
    assert len(commands) == 4
    for command in commands:
        text = command[command.index("edgepress verify") :].split("\n\n")[0]
        for option in set(re.findall(r"(?<!\w)--[a-z][a-z-]+", text)) - {"--short"}:
            assert option in known, option


def test_the_recipes_are_yaml_that_keeps_the_report_of_a_failed_gate() -> None:
    yaml = pytest.importorskip("yaml", reason="needs pyyaml to read the recipes")
    github, gitlab = (yaml.safe_load(block) for block in blocks("yaml"))
    steps = github["jobs"]["gate"]["steps"]
    uploads = [step for step in steps if "upload" in step.get("uses", "")]
    assert len(uploads) == 2 and all(step["if"] == "always()" for step in uploads)
    assert not any(step.get("continue-on-error") for step in steps)
    assert gitlab["model-gate"]["artifacts"]["when"] == "always" and "allow_failure" not in gitlab["model-gate"]


def test_a_project_with_the_helper_in_its_own_tests_is_gated(tmp_path: Path) -> None:
    labels = np.arange(1000) % 4
    good = np.eye(4, dtype=np.float32)[labels]
    bad = good.copy()
    bad[:100] = np.roll(good[:100], 1, axis=1)
    for name, logits in (("original", good), ("good", good * 2), ("bad", bad)):
        Predictions(logits, labels).save(tmp_path / f"{name}.npz")
    (tmp_path / "test_models.py").write_text(
        "from compress.judging.testing import assert_no_drift\n\n\n"
        "def test_good():\n    assert_no_drift('original.npz', 'good.npz', max_drop=1.0)\n\n\n"
        "def test_bad():\n    assert_no_drift('original.npz', 'bad.npz', max_drop=1.0)\n\n\n"
        "def test_missing():\n    assert_no_drift('original.npz', 'absent.npz', max_drop=1.0)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_models.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": ""}
    )
    assert done.returncode == 1
    assert "2 failed, 1 passed" in done.stdout
    assert "bad.npz drifted from original.npz (fail)" in done.stdout
    assert "InputError" in done.stdout and "absent.npz" in done.stdout
