"""What a run leaves in --out: whole or as it was, whenever it is killed, and no hidden copies."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.jobs import ROOT

from compress.stages import outcome
from export import folders
from targets.errors import EnvironmentLacks

DELIVER = """
import sys
from pathlib import Path
from compress.stages.outcome import _replace
print("begins", flush=True)
while True:
    _replace({Path(sys.argv[1]): Path(sys.argv[2])})
"""


#: In a file system of its own, which the newer results do not fit into.
ON_A_FULL_DISK = """
import sys
from pathlib import Path
from compress.stages.outcome import _replace
from targets.errors import run_cli
def main():
    made, small = Path(sys.argv[1]), Path(sys.argv[2])
    places = {made / name: small / "out" / name for name in ("bundle", "report")}
    _replace(places)
    (made / "bundle" / "a").write_text("newer")
    (made / "report" / "a").write_bytes(bytes(1 << 20))
    try:
        _replace(places)
    finally:
        found = {path.relative_to(small).as_posix(): path.read_text() for path in small.rglob("*") if path.is_file()}
        print(found)
run_cli(main)
"""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    for name in ("manifest.json", "engines/a", "engines/b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_kill_at_any_moment_leaves_a_whole_folder_and_the_next_run_clears_the_rest(
    made: Path, tmp_path: Path
) -> None:
    place = tmp_path / "out" / "bundle"
    outcome._replace({made: place})
    for attempt in range(5):
        command = [sys.executable, "-c", DELIVER, str(made), str(place)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "begins\n"
        time.sleep(0.011 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert content(place) == content(made)
    outcome._replace({made: place})
    assert [path.name for path in place.parent.iterdir()] == ["bundle"]


def test_what_a_killed_run_left_is_cleared_and_a_running_one_is_left_alone(made: Path, tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for number in (int(dead.stdout), os.getppid()):
        shutil.copytree(made, tmp_path / "out" / f".bundle.{number}.new")
    outcome._replace({made: tmp_path / "out" / "bundle"})
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f".bundle.{os.getppid()}.new", "bundle"]


def test_on_a_disk_that_gets_full_all_that_was_delivered_before_stays_and_nothing_else(tmp_path: Path) -> None:
    small, made = tmp_path / "small", tmp_path / "made"
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mounted = f'mount -t tmpfs -o size=256k none {small} && exec "$@"'
    small.mkdir()
    if shutil.which("unshare") is None or subprocess.run([*mount, mounted, "sh", "true"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    for name in ("bundle", "report"):
        (made / name).mkdir(parents=True)
        (made / name / "a").write_text("older")
    command = [*mount, mounted, "sh", sys.executable, "-c", ON_A_FULL_DISK, str(made), str(small)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = f"error: no space left on the disk that holds {small}/out/report; free some and run again\n"
    assert (done.returncode, done.stderr) == (3, told)
    assert done.stdout == f"{ {'out/bundle/a': 'older', 'out/report/a': 'older'} }\n"


def test_a_full_disk_is_the_environments_and_leaves_what_was_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "out" / "bundle"
    outcome._replace({made: place})

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    (made / "manifest.json").write_text("newer")
    monkeypatch.setattr(folders, "copy_file", full)
    with pytest.raises(EnvironmentLacks, match=r"no space left on the disk that holds .*/out/bundle"):
        outcome._replace({made: place})
    assert content(place)["manifest.json"] == "manifest.json"
    assert [path.name for path in place.parent.iterdir()] == ["bundle"]
