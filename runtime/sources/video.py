"""Cameras (`v4l2:/dev/video0`), network streams (`rtsp://...`) and video files, through OpenCV.

A camera does not wait: a thread reads it all the while and keeps the newest frame alone, so that an answer is never
about what was long ago. Of a file every frame is given.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.images.frame import Frame
from targets.errors import EdgepressError, EnvironmentLacks, InputError

#: Seconds without a frame after which a camera counts as gone.
PATIENCE = 10.0
_CAMERA, _NETWORK = "v4l2:", ("rtsp://", "rtsps://", "http://", "https://", "rtmp://", "udp://")
_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")


@dataclass(frozen=True)
class _Video:
    """`where`: what OpenCV opens. `live`: a camera, whose frames are not waited with."""

    name: str
    where: str
    live: bool

    def frames(self) -> Iterator[Frame | EdgepressError]:
        capture = self._open()
        try:
            yield from _newest(capture, self.name) if self.live else _every(capture, self.name)
        finally:
            if not self.live:  # a camera's is released by the thread that reads it
                capture.release()

    def _open(self) -> Any:
        cv2 = _opencv(self.name)
        camera = self.name.startswith(_CAMERA)
        capture = cv2.VideoCapture(self.where, cv2.CAP_V4L2) if camera else cv2.VideoCapture(self.where)
        if not capture.isOpened():
            what = "see v4l2-ctl --list-devices" if camera else "check its address or its codec"
            raise InputError(f"OpenCV {cv2.__version__} cannot open {self.name}; {what}")
        return capture


def _every(capture: Any, name: str) -> Iterator[Frame]:
    number = 0
    while True:
        read, pixels = capture.read()
        if not read:
            if number == 0:
                raise InputError(f"{name} has no frame that OpenCV can read; check its codec")
            return
        yield Frame(f"{name} frame {number}", pixels, "bgr")
        number += 1


def _newest(capture: Any, name: str, patience: float = PATIENCE) -> Iterator[Frame]:
    """The newest frame whenever one is asked for; each at most once. Raises EnvironmentLacks once none comes."""
    newest: queue.Queue[Frame | None] = queue.Queue(1)
    over = threading.Event()

    def keep(frame: Frame | None) -> None:
        with contextlib.suppress(queue.Empty):
            newest.get_nowait()
        newest.put(frame)

    def read_on() -> None:
        number = 0
        while not over.is_set():
            read, pixels = capture.read()
            if not read:
                break
            keep(Frame(f"{name} frame {number}", pixels, "bgr"))
            number += 1
        capture.release()
        keep(None)

    threading.Thread(target=read_on, daemon=True).start()
    try:
        while True:
            try:
                frame = newest.get(timeout=patience)
            except queue.Empty as error:
                raise EnvironmentLacks(f"{name} gave no frame for {patience:g} s; check the camera") from error
            if frame is None:
                raise EnvironmentLacks(f"{name} gives no more frames; check the camera, and start again")
            yield frame
    finally:
        over.set()


def _opencv(name: str) -> Any:
    if importlib.util.find_spec("cv2") is None:
        raise EnvironmentLacks(
            f"{name}: reading it needs OpenCV: pip install opencv-python-headless; or pipe pictures in: see --source -"
        )
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # what does not open ends in one line
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    return cv2


def open_source(given: str) -> _Video | None:
    """A camera or an address by its beginning, a video file by its ending."""
    if given.startswith(_CAMERA):
        return _Video(given, given.removeprefix(_CAMERA), True)
    if given.startswith(_NETWORK):
        return _Video(given, given, True)
    if given.lower().endswith(_SUFFIXES) and Path(given).is_file():
        return _Video(given, given, False)
    return None
