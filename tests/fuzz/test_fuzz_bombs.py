"""A small file that unpacks to a large one is refused in one line, by every reader of packed files, before it takes
memory."""

from __future__ import annotations

import base64
import gzip
import io
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress.data import load, load_texts
from compress.families.weights import read_weights
from compress.verification import baseline
from compress.verification.drift import compare
from compress.verification.files import load as load_answers
from compress.verification.gate import default_gate
from compress.verification.predictions import Predictions
from runtime.bundles.bundle import Bundle
from runtime.bundles.golden import load_golden
from runtime.bundles.manifest import GOLDEN
from runtime.faults import inflated, read_arrays
from targets.errors import EdgepressError, InputError

#: What a refusal may take, in bytes, beside the file itself.
LITTLE = 16 << 20
HUGE = 1 << 40


def refused(call: Callable[[], object]) -> str:
    """The one line of a refusal that took no more than that."""
    tracemalloc.start()
    try:
        with pytest.raises(EdgepressError) as caught:
            call()
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < LITTLE, f"took {taken >> 20} MB to say: {caught.value}"
    return str(caught.value)


def member(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def packed(path: Path, says: int | None = None, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    """A zip; `says`: what each of its members declares to unpack to."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
        for info in archive.infolist() if says is not None else ():
            info.file_size = says
    return path


@pytest.mark.parametrize(("says", "method"), [(HUGE, zipfile.ZIP_DEFLATED), (None, zipfile.ZIP_BZIP2)])
def test_arrays_that_unpack_to_more_than_is_allowed_are_refused_whoever_reads_them(
    tmp_path: Path, says: int | None, method: int
) -> None:
    four = {"images__npy": member(np.zeros((4, 8, 8), np.uint8)), "labels__npy": member(np.arange(4))}
    bomb = packed(tmp_path / "bomb.npz", says, method, **four)
    told = refused(lambda: load(str(bomb)))
    assert "is not a readable npz of plain arrays (it unpacks to" in told
    assert "cannot read predictions" in refused(lambda: load_answers(bomb))
    manifest = type("Manifest", (), {"golden": GOLDEN, "files": {GOLDEN: None}, "loops": None})()
    bomb.rename(tmp_path / GOLDEN)
    assert "not a readable npz" in refused(lambda: load_golden(Bundle(tmp_path, tmp_path, manifest)))


def test_arrays_of_a_header_that_lies_are_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 45,)})
    path = packed(tmp_path / "a.npz", images__npy=header.getvalue(), labels__npy=member(np.arange(4)))
    with pytest.raises(InputError, match="is not a readable npz"):
        load(str(path))


def test_a_member_of_a_zip_that_says_too_little_is_not_unpacked_whole(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "BMP")
    inside = stream.getvalue() + bytes(128 << 20)
    path = packed(tmp_path / "a.zip", 64, **{"cat/a__bmp": inside, "dog/a__bmp": inside})
    assert path.stat().st_size < 1 << 20
    del inside
    assert "damaged or encrypted in the zip" in refused(lambda: load(str(path)).raw())


def test_a_member_that_is_not_an_array_is_told(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.npz", images__npy=b"no array", labels__npy=member(np.arange(4)))
    assert "images in it is not an array" in refused(lambda: load(str(path)))


def test_what_zlib_packed_is_unpacked_to_what_it_may_be_and_no_further() -> None:
    data = zlib.compress(bytes(1000))
    assert inflated(data, 1001) == bytes(1000)
    for wrong in (data[:-3], zlib.compress(bytes(2000))):
        with pytest.raises(zlib.error, match="more than 1001 bytes"):
            inflated(wrong, 1001)


def test_answers_of_a_baseline_unpack_to_as_many_bytes_as_the_samples_have(tmp_path: Path) -> None:
    labels = np.arange(60) % 3
    samples = Predictions(np.eye(3, dtype=np.float32)[labels], labels)
    gate = default_gate("top1", 50.0)
    path = tmp_path / "results.json"
    baseline.update(path, samples, compare(samples, samples, gate))
    accepted = baseline.load(path)
    assert baseline.check(accepted, samples, gate).status == "pass"
    bomb = base64.b64encode(zlib.compress(bytes(256 << 20))).decode()
    tracemalloc.start()
    found = baseline.check(accepted.model_copy(update={"answers": bomb}), samples, gate)
    assert tracemalloc.get_traced_memory()[1] < LITTLE
    tracemalloc.stop()
    assert found.status == "error" and "the baseline's answers are damaged" in found.message


def test_a_text_that_unpacks_to_more_than_is_read_is_refused_while_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.data.text_files.MOST_BYTES", 1 << 20)
    for name in ("a.tsv.gz", "a.jsonl.gz", "a.txt.gz", "a.conll.gz"):
        (tmp_path / name).write_bytes(gzip.compress(bytes(1 << 20)) * 64)
        told = refused(lambda path=tmp_path / name: load_texts(str(path)))
        assert told == f"{tmp_path / name}: holds more than 1 MB of text; give a part of it"


def test_pickled_weights_that_unpack_to_more_than_the_file_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(4 << 20)}, whole)
    assert read_weights(tmp_path, {}, print)["a"].shape == (4 << 20,)
    with zipfile.ZipFile(whole) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    packed(whole, **members)
    assert whole.stat().st_size < 1 << 20
    assert "is damaged or truncated (it unpacks to 16 MB)" in refused(lambda: read_weights(tmp_path, {}, print))


def test_arrays_are_read_where_there_is_memory_and_in_any_stream() -> None:
    stream = io.BytesIO()
    np.savez(stream, a=np.arange(3), b=np.eye(2))
    found = read_arrays(stream, len(stream.getvalue()))
    assert set(found) == {"a", "b"} and found["b"].tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="allowed: 0 MB"):
        read_arrays(stream, 100)
    with pytest.raises(InputError, match="no data at"):
        load("nowhere")
