"""Frames: from memory, from folders, pipes and video files, each answered as the same picture in a file is."""

import io
import itertools
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from support.runtime_toys import REPO, oracle

from runtime.answers import Wanted
from runtime.frames import answer_frames
from runtime.images.image import prepare
from runtime.session import open_bundle
from runtime.sources import open_source
from runtime.sources.stdin import _Pipe
from runtime.sources.video import _newest
from targets.errors import EdgepressError, EnvironmentLacks, InputError


def noise(seed, height=20, width=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ppm(image):
    return b"P6\n# a comment\n%d %d\n255\n" % image.shape[1::-1] + image.tobytes()


def logits_of(session, image):
    return oracle(prepare([image], session.manifest.preprocessing))[0]


def test_frames_of_either_order_are_answered_as_the_oracle_answers_them(bundle):
    session = open_bundle(bundle)
    frames = [noise(at) for at in range(11)]  # more than one batch of 8
    rgb = answer_frames(session, frames, colours="rgb", wanted=Wanted(top=5))
    bgr = answer_frames(session, [frame[..., ::-1] for frame in frames], colours="bgr", wanted=Wanted(top=5))
    assert rgb == bgr and len(rgb) == 11
    for frame, result in zip(frames, rgb, strict=True):
        order = np.argsort(-logits_of(session, frame))
        assert [guess["index"] for guess in result["top"]] == list(order)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "frame 0: image of type float32; allowed: uint8"),
        (np.zeros((4, 4, 2), np.uint8), "frame 0: image with 2 channels"),
        (np.zeros((0, 4, 3), np.uint8), "frame 0: image of shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), "frame 0: image of shape"),
    ],
)
def test_a_frame_that_is_no_picture_is_named(bundle, frame, message):
    with pytest.raises(InputError, match=message):
        answer_frames(open_bundle(bundle), [frame], colours="bgr")


def test_an_order_of_colours_that_is_none_is_refused(bundle):
    with pytest.raises(InputError, match="colours is 'BGR'; allowed: 'rgb' or 'bgr'"):
        answer_frames(open_bundle(bundle), [noise(0)], colours="BGR")


def test_a_folder_as_a_source_gives_what_the_files_give_and_goes_on_behind_a_bad_one(run_module, bundle, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for at in range(3):
        Image.fromarray(noise(at)).save(folder / f"{at}.png")
    (folder / "1.png").write_bytes(b"no picture")
    done = run_module("runtime.run", bundle, "--source", folder, "--json")
    assert done.returncode == 2 and "1 frames of" in done.stderr
    first, bad, last = map(json.loads, done.stdout.splitlines())
    assert "1.png" in bad["error"] and "top" in last
    single = run_module("runtime.run", bundle, folder / "0.png", "--json")
    assert json.loads(single.stdout)["results"][0] == first


def test_pictures_piped_in_are_answered_one_by_one_as_they_come(bundle):
    command = [sys.executable, "-m", "runtime.run", str(bundle), "--source", "-", "--frames", "2"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=REPO, env=dict(os.environ), **pipes) as process:
        for at in range(2):  # the answer to the first is there before the second is given
            process.stdin.write(ppm(noise(at)))
            process.stdin.flush()
            assert process.stdout.readline().startswith(b"picture %d: " % at)
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\r\n", r"picture 0 of standard input begins with b'\\x89P'"),
        (b"P6\n2 2\n255\n" + b"x" * 11, "picture 0 of standard input ends early: 11 bytes of 2 x 2"),
        (b"P6\n2 2\n65535\n", "samples up to 65535"),
        (b"P6\n2 -2\n255\n", "has b'-' in its header"),
        (b"P6\n2", "no whole header"),
        (b"P6\n0 2\n255\n", "no pixels"),
        (b"P6\n99999 99999\n255\n", "more than the 100000000 allowed"),
        (b"P6\n#" + b"x" * 5000, "no whole header"),
        (ppm(noise(0)) + b"P3", "picture 1 of standard input begins with b'P3'"),
    ],
)
def test_a_pipe_that_holds_something_else_is_told_in_one_line(data, message):
    with pytest.raises(InputError, match=message):
        list(_Pipe(io.BytesIO(data)).frames())


def test_grey_and_colour_pictures_come_out_of_a_pipe_as_they_went_in():
    colour, grey = noise(1), noise(2)[..., :1]
    data = ppm(colour) + b"P5 30\t20 255\n" + grey.tobytes()
    given = [frame.pixels for frame in _Pipe(io.BytesIO(data)).frames()]
    np.testing.assert_array_equal(given[0], colour)
    np.testing.assert_array_equal(given[1], grey)


def test_every_frame_of_a_video_file_is_answered(run_module, bundle, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="the package opencv-python-headless is not installed")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 10, (30, 20))  # without loss
    frames = [noise(at) for at in range(4)]
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    got = [frame.pixels[..., ::-1] for frame in open_source(str(path)).frames()]
    assert len(got) == 4 and all(np.abs(a.astype(int) - b).max() <= 2 for a, b in zip(got, frames, strict=True))
    done = run_module("runtime.run", bundle, "--source", path, "--json", "--frames", "3")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    session = open_bundle(bundle)
    assert [one["top"][0]["index"] for one in answers] == [int(logits_of(session, image).argmax()) for image in got[:3]]
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    bad = run_module("runtime.run", bundle, "--source", tmp_path / "bad.mp4")
    assert bad.returncode == 2 and len(bad.stderr.strip().splitlines()) == 2 and "cannot open" in bad.stderr


class Camera:
    """Gives a frame every 10 ms, `count` of them, then nothing for ever or an end."""

    def __init__(self, count, hangs):
        self.count, self.hangs, self.at, self.released = count, hangs, 0, False
        self.unplugged = threading.Event()

    def read(self):
        self.unplugged.wait(0.01 if self.at < self.count or not self.hangs else 60)
        self.at += 1
        return self.at <= self.count, np.full((2, 2, 3), self.at, np.uint8)

    def release(self):
        self.released = True


def test_a_slow_reader_of_a_camera_gets_the_newest_frame_and_not_a_queue_of_old_ones():
    frames = _newest(Camera(1000, True), "camera")
    seen = []
    for frame in frames:
        seen.append(int(frame.pixels[0, 0, 0]) if frame.pixels[0, 0, 0] else 256)
        time.sleep(0.15)
        if len(seen) == 4:
            break
    frames.close()
    assert all(later - earlier >= 3 for earlier, later in itertools.pairwise(seen))


@pytest.mark.parametrize(("hangs", "message"), [(True, "gave no frame for 0.2 s"), (False, "gives no more frames")])
def test_a_camera_that_hangs_or_ends_is_told(hangs, message):
    camera = Camera(3, hangs)
    with pytest.raises(EnvironmentLacks, match=message):
        list(_newest(camera, "camera", patience=0.2))
    camera.unplugged.set()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("v4l2:/dev/video99", (InputError, EnvironmentLacks), "v4l2:/dev/video99"),
        ("no-such-folder", InputError, "no source 'no-such-folder'; allowed: a folder"),
        ("", InputError, "no source ''"),
        ("clip.mp4", InputError, "no source 'clip.mp4'"),
    ],
)
def test_a_source_that_is_not_there_is_named(given, error, message):
    with pytest.raises(error, match=message):
        list(open_source(given).frames())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "-", "a.png"], "--source brings its own inputs"),
        (["--frames", "3", "a.png"], "--frames belongs to --source"),
        (["--source", "nowhere"], "no source 'nowhere'"),
    ],
)
def test_wrong_usage_is_one_line(run_module, bundle, arguments, message):
    done = run_module("runtime.run", bundle, *arguments)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_bundle_for_texts_takes_no_frames(maker):
    bundle = maker.write(task="embedding", preprocessing=None)
    with pytest.raises(EdgepressError):
        answer_frames(open_bundle(bundle), [noise(0)], colours="rgb")
