"""The watch mode loses no input and repeats none, whatever happens to the process and to the files."""

import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from support.runtime_toys import REPO

from runtime.watch import Input, listing, look, open_log, watch
from targets.errors import InputError


def save_png(path, seed):
    image = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    partial = path.with_name(f".{path.name}")
    Image.fromarray(image).save(partial, "png")
    partial.rename(path)


def command(bundle, folder, out, *more):
    return [sys.executable, "-m", "runtime.run", str(bundle), "--watch", str(folder), "--out", str(out), *more]


def lines(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_once_drains_the_folder_and_a_second_run_does_nothing(run_module, bundle, folder, tmp_path):
    out = tmp_path / "results.jsonl"
    for at in range(20):
        save_png(folder / f"{at}.png", at)
    (folder / "sub").mkdir()
    save_png(folder / "sub/x.png", 99)
    os.mkfifo(folder / "pipe.png")  # never read: it would be waited on for ever
    done = run_module("runtime.run", bundle, "--watch", folder, "--out", out, "--once", "--top", "2")
    assert done.returncode == 0, done.stderr
    results = lines(out)
    assert sorted(line["input"] for line in results) == sorted([*(f"{at}.png" for at in range(20)), "sub/x.png"])
    single = run_module("runtime.run", bundle, folder / "7.png", "--json", "--top", "2")
    mine = next(line for line in results if line["input"] == "7.png")
    wanted = json.loads(single.stdout)["results"][0]["top"]
    assert [guess["label"] for guess in mine["top"]] == [guess["label"] for guess in wanted]
    assert mine["top"][0]["probability"] == pytest.approx(wanted[0]["probability"], abs=1e-5)
    before = out.read_bytes()
    again = run_module("runtime.run", bundle, "--watch", folder, "--out", out, "--once")
    assert again.returncode == 0 and "21 inputs done before" in again.stderr and out.read_bytes() == before


def test_kill_nine_at_random_moments_loses_no_line_and_doubles_none(bundle, folder, tmp_path):
    """Files appear all the while; the process is killed over and over, at moments that cover start-up and work."""
    out = tmp_path / "results.jsonl"
    luck = random.Random(5)
    made = 0
    for attempt in range(10):
        with subprocess.Popen(command(bundle, folder, out), cwd=REPO, stderr=subprocess.DEVNULL) as process:
            end = time.monotonic() + luck.uniform(0.3, 1.3)
            while time.monotonic() < end:
                save_png(folder / f"{made:04}.png", made)
                made += 1
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        if attempt % 3 == 1:  # what a power cut leaves of a line
            with out.open("ab") as stream:
                stream.write(b'{"input": "torn')
    done = subprocess.run(command(bundle, folder, out, "--once"), cwd=REPO, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    names = [line["input"] for line in lines(out)]
    assert sorted(names) == [f"{at:04}.png" for at in range(made)]
    assert made > 60


def test_a_file_that_is_written_slowly_is_taken_once_it_is_whole(bundle, folder, tmp_path):
    out = tmp_path / "results.jsonl"
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(whole)
    data = whole.read_bytes()
    with subprocess.Popen(command(bundle, folder, out), cwd=REPO, stderr=subprocess.DEVNULL) as process:
        with (folder / "slow.png").open("wb") as stream:
            for start in range(0, len(data), len(data) // 4 + 1):
                stream.write(data[start : start + len(data) // 4 + 1])
                stream.flush()
                time.sleep(0.5)  # longer than the poll: it looks stable in between
        deadline = time.monotonic() + 20
        while (not out.exists() or not out.read_bytes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    (line,) = lines(out)
    assert line["input"] == "slow.png" and "top" in line and line["bytes"] == len(data)


def test_a_file_that_never_becomes_readable_is_logged_as_an_error_and_the_rest_is_done(
    run_module, bundle, folder, tmp_path
):
    out = tmp_path / "results.jsonl"
    save_png(folder / "good.png", 1)
    (folder / "bad.png").write_bytes((folder / "good.png").read_bytes()[:50])
    done = run_module("runtime.run", bundle, "--watch", folder, "--out", out, "--once")
    assert done.returncode == 2 and "1 inputs could not be read" in done.stderr
    results = {line["input"]: line for line in lines(out)}
    assert "top" in results["good.png"] and "damaged PNG" in results["bad.png"]["error"]
    save_png(folder / "bad.png", 2)  # mended: another size and time, so another input
    again = run_module("runtime.run", bundle, "--watch", folder, "--out", out, "--once")
    assert again.returncode == 0
    assert [("top" in line) for line in lines(out) if line["input"] == "bad.png"] == [False, True]


def test_a_torn_last_line_is_cut_and_its_input_done_again(tmp_path):
    out = tmp_path / "results.jsonl"
    one, two = Input("a.png", 1, 10), Input("b.png", 2, 20)
    with open_log(out) as log:
        log.append([(one, {"top": []}), (two, {"top": []})])
    whole = out.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        out.write_bytes(whole[:cut])
        with open_log(out) as log:
            assert log.done == {one}
        assert out.read_bytes() == whole[:first]
    out.write_bytes(whole)
    with open_log(out) as log:
        assert log.done == {one, two}
    assert out.read_bytes() == whole


def test_what_the_disk_does_not_take_is_one_error_and_done_again(tmp_path):
    out, one, two = tmp_path / "results.jsonl", Input("a", 1, 1), Input("b", 2, 2)
    whole = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(InputError, match=r"cannot write .*results\.jsonl: File too large"), open_log(out) as log:
        log.append([(one, {"top": []})])
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, whole[1]))  # as a disk that is full
        try:
            log.append([(two, {"error": "x" * 9000})])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, whole)
    with open_log(out) as log:
        assert log.done == {one}


def test_two_processes_cannot_write_one_log(tmp_path):
    out = tmp_path / "results.jsonl"
    with open_log(out):
        code = (
            "from pathlib import Path; from runtime.watch import open_log; from targets.errors import run_cli\n"
            f"run_cli(lambda: open_log(Path({str(out)!r})).__enter__() and 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "another process writes results" in done.stderr


def test_a_file_that_is_no_result_log_is_left_alone(tmp_path):
    out = tmp_path / "notes.txt"
    out.write_text("my notes\nmore\n")
    with pytest.raises(InputError, match=r"notes.txt:1: not a result line"), open_log(out):
        pass
    assert out.read_text() == "my notes\nmore\n"


def test_a_missing_folder_is_named(run_module, bundle, tmp_path):
    done = run_module("runtime.run", bundle, "--watch", tmp_path / "none", "--out", tmp_path / "r.jsonl", "--once")
    assert done.returncode == 2 and "no folder" in done.stderr


def test_names_that_are_not_utf8_are_kept(folder, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    (folder / name).write_bytes(b"x")
    seen = look(folder, name)
    with open_log(tmp_path / "r.jsonl") as log:
        log.append([(seen, {"error": "x"})])
    with open_log(tmp_path / "r.jsonl") as log:
        assert log.done == {seen}


def test_bad_exif_and_files_that_nothing_reads_end_nothing(run_module, bundle, folder, tmp_path):
    """One file after the other that a decoder dies of; the good one behind them is answered, and all are done once."""
    tags = [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x0100, 2, 4, b"abc\0")]
    body = (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + b"".join(struct.pack("<HHI", *t[:3]) + t[3] for t in tags)
        + bytes(4)
    )
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8))
    picture.save(folder / "0exif.jpg", exif=b"Exif\0\0" + body)
    (folder / "1script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    (folder / "2empty.jfif").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "3float.tif")
    (folder / "4wide.pgm").write_bytes(b"P5\n100000000 1\n255\n")
    save_png(folder / "9good.png", 1)
    out = tmp_path / "results.jsonl"
    done = run_module("runtime.run", bundle, "--watch", folder, "--out", out, "--once")
    assert done.returncode == 2 and "4 inputs could not be read" in done.stderr
    found = {line["input"]: line for line in lines(out)}
    assert sorted(name for name, line in found.items() if "top" in line) == ["0exif.jpg", "9good.png"]
    assert all("\n" not in line["error"] for line in found.values() if "error" in line)
    again = run_module("runtime.run", bundle, "--watch", folder, "--out", out, "--once")
    assert again.returncode == 0 and len(lines(out)) == 6


def test_without_pillow_a_jpeg_is_an_error_line_and_a_png_is_answered(bundle, folder, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "0.jpg")
    save_png(folder / "1.png", 1)
    arguments = ["runtime.run", str(bundle), "--watch", str(folder), "--out", str(tmp_path / "r.jsonl"), "--once"]
    code = (
        "import sys, importlib.util as u; find = u.find_spec; sys.modules['PIL'] = None\n"
        "u.find_spec = lambda name, *a: None if name == 'PIL' else find(name, *a)\n"
        f"sys.argv = {arguments!r}\n"
        "from runtime.run import main; from targets.errors import run_cli; run_cli(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    found = {line["input"]: line for line in lines(tmp_path / "r.jsonl")}
    assert "pip install pillow" in found["0.jpg"]["error"] and "top" in found["1.png"]


def test_what_is_passed_over_is_named_once(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "@eaDir").mkdir()
    save_png(folder / "@eaDir" / "thumb.png", 1)
    save_png(folder / "a.png", 2)
    (folder / "b.png").symlink_to("nowhere")
    os.mkfifo(folder / "c.png")
    notes = []
    assert [one.name for one in listing(folder, (".png",), notes.append)] == ["a.png"]
    assert sorted(notes) == [
        f"{folder}/b.png is passed over: it is not a file, or a link to what is not there",
        f"{folder}/c.png is passed over: it is not a file, or a link to what is not there",
        f"{folder}/link is passed over: it is a link to a folder; watch that folder itself",
    ]
    with open_log(tmp_path / "r.jsonl") as log:  # several looks, one line
        watch(folder, (".png",), log, lambda paths: [{"top": []} for _ in paths], 1, True)
    assert log.done


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_named(folder):
    (folder / "closed").mkdir()
    save_png(folder / "open.png", 1)
    (folder / "closed").chmod(0)
    for place in (folder, *folder.parents[:4]):
        place.chmod(0o755)
    code = (
        "from pathlib import Path; from runtime.watch import listing, tell\n"
        f"print([one.name for one in listing(Path({str(folder)!r}), ('.png',), tell)])"
    )
    as_nobody = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*as_nobody, sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False
    )
    (folder / "closed").chmod(0o755)
    assert done.stdout == "['open.png']\n", done.stderr
    assert "closed is passed over: it cannot be listed (Permission denied)" in done.stderr


def test_names_with_control_characters_are_printed_as_escapes(run_module, bundle, folder):
    save_png(folder / "a\x1b[2Jb.png", 1)
    done = run_module("runtime.run", bundle, folder)
    assert done.returncode == 0 and "\x1b" not in done.stdout and "a\\x1b[2Jb.png" in done.stdout
