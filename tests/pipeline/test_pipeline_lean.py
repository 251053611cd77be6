"""The graph costs little and brings in nothing heavy."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from support.toys import Text, stage

from compress.pipeline import Cache, Graph, Runner, StageContext
from compress.pipeline.digest import digest_tree


def test_importing_the_graph_brings_in_nothing_heavy() -> None:
    script = (
        "import sys, compress.pipeline;"
        "print(sorted({'torch', 'numpy', 'rich', 'pydantic', 'onnx', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def megabytes(context: StageContext, **inputs: Text) -> None:
    for number in range(4):
        (context.folder / f"{number}.bin").write_bytes(bytes([number]) * 1_000_000)


def test_a_finished_run_of_fifteen_stages_costs_little(cache: Cache) -> None:
    stages = [stage("s0", megabytes, libraries=("rich", "hypothesis"))]
    for number in range(1, 15):
        stages.append(stage(f"s{number}", megabytes, {"x": f"s{number - 1}"}, options={"number": number}))
    Runner(Graph(stages), cache).run()
    began = time.process_time()
    Runner(Graph(stages), cache).run()
    assert time.process_time() - began < 1.0  # with 60 MB of hashing


def test_a_second_look_at_many_files_costs_little(tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / "data" / str(number % 10)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / str(number % 10) / f"{number}.png").write_bytes(b"%d" % number)
    time.sleep(1.1)
    first = digest_tree(tmp_path / "data", tmp_path / "memo.json")
    began = time.process_time()
    assert digest_tree(tmp_path / "data", tmp_path / "memo.json") == first
    assert time.process_time() - began < 0.2
