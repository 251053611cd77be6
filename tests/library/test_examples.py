"""The examples run, and are short enough to be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from library.conftest import Run
from PIL import Image

#: The first of them makes a whole run.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def example(name: str, *arguments: object, cwd: Path) -> str:
    """What the example prints, run as its user runs it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_an_example_is_short_and_listed(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 40
    assert f"({path.name})" in (EXAMPLES / "README.md").read_text()


def test_a_live_model_is_compressed(run: Run, tmp_path: Path) -> None:
    run.model.save_pretrained(tmp_path / "model")
    run.processor.save_pretrained(tmp_path / "model")
    np.savez(tmp_path / "data.npz", images=run.data[0], labels=run.data[1])
    assert "verdict: pass" in example("compress_live_model.py", "model", "data.npz", "out", cwd=tmp_path)


def test_a_bundle_is_asked(run: Run, tmp_path: Path) -> None:
    Image.fromarray(run.data[0][0]).save(tmp_path / "image.png")
    assert "'label': 'LABEL_" in example("ask_a_bundle.py", run.result.bundle, "image.png", cwd=tmp_path)


def test_two_models_are_gated(run: Run, tmp_path: Path) -> None:
    from edgepress.given.data import source_of

    data = source_of(run.data, tmp_path)
    assert "verdict: pass" in example("gate_two_models.py", run.result.bundle, run.result.bundle, data, cwd=tmp_path)


def test_the_steps_end_in_a_file(tmp_path: Path) -> None:
    assert example("step_by_step.py", "model.onnx", cwd=tmp_path).endswith("model.onnx\n")
    assert (tmp_path / "model.onnx").stat().st_size > 1_000_000


def test_a_run_is_watched_and_cancelled(tmp_path: Path) -> None:
    assert example("watch_and_cancel.py", tmp_path / "out", cwd=tmp_path).startswith(
        "began source\nthe run was cancelled"
    )


def test_the_cells_of_the_notebook_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    space: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "notebook", "exec"), space)
    assert space["result"] and "PASS" in space["result"]._repr_html_()  # type: ignore[attr-defined]
    assert "image-classification" in repr(space["model"])
