"""Full disks and places that cannot be written."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.toys import TOY_RUN, chain, snapshot, stage, write_text

from compress.pipeline import Cache, Graph, Runner, StageContext
from compress.pipeline.events import Event, RunStarted, StageFailed
from compress.pipeline.log import JsonLog
from targets.errors import EnvironmentLacks, GateFailed, InputError


def in_namespace(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount: nobody else sees its mounts."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-ec", script, "sh", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def mounts(tmp_path: Path) -> None:
    """Skips where mounting is forbidden, as in some containers; the tests below that need no mount run anywhere."""
    try:
        allowed = in_namespace('mount -t tmpfs tmpfs "$1"', tmp_path).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("mount namespaces are not allowed here")


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 5, 6, 8, 12, 16])
def test_a_full_disk_ends_with_one_line_and_code_3_and_the_run_resumes_with_room(blocks: int, tmp_path: Path) -> None:
    """Over several sizes, the disk fills in locks, in the stage, in its checkpoint, and in the record."""
    script = """
        blocks=$1 disk=$2 errors=$3 copy=$4; shift 4
        mount -t tmpfs -o size=$((4096 * blocks)) tmpfs "$disk"
        code=0
        "$@" "$disk/cache" 3 0 2> "$errors" || code=$?
        echo "code $code"
        mount -o remount,size=10m "$disk"
        "$@" "$disk/cache" 3 0
        cp -r "$disk/cache" "$copy"
    """
    (tmp_path / "disk").mkdir()
    errors, copy = tmp_path / "errors.txt", tmp_path / "copy"
    done = in_namespace(script, blocks, tmp_path / "disk", errors, copy, *TOY_RUN)
    assert done.returncode == 0, done.stderr
    assert "code 3" in done.stdout
    [line] = errors.read_text().splitlines()
    assert line.startswith("error: no space left on the disk that holds ")
    assert str(tmp_path / "disk" / "cache") in line
    whole = subprocess.run([*TOY_RUN, str(tmp_path / "whole"), "3", "0"], check=False)
    assert whole.returncode == 0
    assert snapshot(copy) == snapshot(tmp_path / "whole")


@pytest.mark.usefixtures("mounts")
def test_a_read_only_cache_serves_a_finished_run_and_refuses_a_new_one(tmp_path: Path) -> None:
    script = """
        cache=$1; shift
        "$@" "$cache" 3 0
        mount --bind "$cache" "$cache"
        mount -o remount,ro,bind "$cache"
        "$@" "$cache" 3 0
        code=0
        "$@" "$cache" 4 0 > /dev/null || code=$?
        echo "code $code"
    """
    (tmp_path / "cache").mkdir()
    done = in_namespace(script, tmp_path / "cache", *TOY_RUN)
    assert "0 run, 5 cached" in done.stdout
    assert "code 2" in done.stdout
    assert done.stderr.startswith(f"error: cannot write {tmp_path / 'cache'}: Read-only file system")
    assert done.stderr.count("\n") == 1


def to_full_device(context: StageContext) -> None:
    with Path("/dev/full").open("wb") as stream:
        stream.write(b"x")


def lost_error_number(context: StageContext) -> None:
    """As libraries in other languages do: their own type, the system's words."""
    raise RuntimeError("I/O error: No space left on device (os error 28)")


def hidden_behind_another(context: StageContext) -> None:
    try:
        raise OSError(errno.EDQUOT, "quota", "/data/x.bin")
    except OSError as error:
        raise ValueError("cannot save") from error


@pytest.mark.parametrize("run", [to_full_device, lost_error_number, hidden_behind_another])
def test_a_full_disk_inside_a_stage_is_told_as_one(
    run: Callable[[StageContext], None], cache: Cache, events: list[Event]
) -> None:
    with pytest.raises(EnvironmentLacks, match="no space left on the disk that holds") as caught:
        Runner(Graph([stage("a", run)]), cache, [events.append]).run()
    assert caught.value.__cause__ is not None
    assert any(isinstance(event, StageFailed) for event in events)


def test_a_failed_gate_stays_a_failed_gate_whatever_it_says(cache: Cache) -> None:
    def gate(context: StageContext) -> None:
        raise GateFailed("No space left on device")

    with pytest.raises(GateFailed):
        Runner(Graph([stage("a", gate)]), cache).run()


def test_a_cache_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file"):
        Runner(chain(), Cache(tmp_path / "file" / "cache")).run()


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*log"):
        JsonLog(tmp_path / "file" / "log.jsonl")
    with pytest.raises(EnvironmentLacks, match="/dev/full"):
        JsonLog(Path("/dev/full"))(RunStarted({}))


def test_what_a_stage_raises_on_a_healthy_disk_is_left_alone(cache: Cache) -> None:
    def fail(context: StageContext) -> None:
        write_text(context, "x")
        raise OSError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        Runner(Graph([stage("a", fail)]), cache).run()
