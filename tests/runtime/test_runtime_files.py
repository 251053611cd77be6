"""Writing files: whole or absent, and what is not a regular file is written to, never replaced."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runtime.files import cache_root, check_writable, explain, possible, sha256_of, user_path, write_atomic
from targets.errors import InputError


def test_what_a_stream_cannot_do_is_told_in_its_words() -> None:
    told = str(explain(io.UnsupportedOperation("File or stream is not seekable."), Path("results.jsonl")))
    assert told == "cannot write results.jsonl: File or stream is not seekable; give a place that can be written"


def test_a_file_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "report.html"
    write_atomic(place, b"first")
    write_atomic(place, b"second")
    assert place.read_bytes() == b"second" and [one.name for one in place.parent.iterdir()] == ["report.html"]
    assert stat.S_IMODE(place.stat().st_mode) == 0o644


def test_a_link_stays_a_link_and_its_file_gets_the_content(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"a much longer content than the new one")
    link.symlink_to(real)
    write_atomic(link, b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"


def test_a_device_stays_a_device() -> None:
    write_atomic(Path("/dev/null"), b"report")
    assert stat.S_ISCHR(Path("/dev/null").lstat().st_mode)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomic(pipe, b"report")
    reader.join(10)
    assert read == [b"report"] and stat.S_ISFIFO(pipe.lstat().st_mode)


def test_standard_output_by_its_name_comes_in_order_whether_it_is_a_pipe_or_a_file(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from runtime.files import write_atomic\n"
        "print('before'); write_atomic(Path('/dev/stdout'), b'report\\n'); print('after')"
    )
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    with (tmp_path / "log").open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, timeout=60, check=True)
    assert piped.stdout == (tmp_path / "log").read_bytes() == b"before\nreport\nafter\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file" / "report", tmp_path):
        with pytest.raises(InputError, match="cannot write"):
            write_atomic(bad, b"")
    check_writable(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize("name", ["x" * 300, "é" * 200, "a\0b", "half \ud800"])
def test_a_path_that_no_file_can_have_is_one_short_line(tmp_path: Path, name: str) -> None:
    for check in (lambda: possible(tmp_path / name), lambda: user_path(str(tmp_path / name))):
        with pytest.raises(InputError, match=r"too long for a file|no file can be called so") as caught:
            check()
        assert len(str(caught.value)) < 200
    assert possible(tmp_path / "not there") == tmp_path / "not there"


def test_a_cache_that_cannot_be_written_names_what_moves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPRESS_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    with pytest.raises(InputError, match=r"cannot write the cache .* set EDGEPRESS_CACHE .* --no-cache"):
        write_atomic(cache_root() / "digests.json", b"")
    with pytest.raises(InputError, match=r"cannot write /proc/elsewhere: .* give a place"):
        write_atomic(Path("/proc/elsewhere"), b"")
