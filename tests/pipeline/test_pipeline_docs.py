"""The example in the documentation runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "develop" / "pipeline.md"


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / "example.py").write_text(found[1])
    said = []
    for _ in range(2):
        command = ["env", f"PYTHONPATH={DOCS.parents[1]}", sys.executable, "example.py"]
        said.append(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout)
    assert all(text.endswith("\nHELLO WORLD\n") for text in said)
    assert "StageFinished(stage='shout'" in said[0]
    assert "StageCached(stage='shout'" in said[1]
