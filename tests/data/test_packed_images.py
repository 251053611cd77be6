"""A pack of JPEG files gives each file back byte for byte, and is refused in one line when it is damaged."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from compress.data import load
from compress.data.packed import PackedJpegs, pack
from targets.errors import InputError


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(st.text(min_size=1), st.binary(), min_size=1, max_size=6), same=st.binary(max_size=5))
def test_every_file_comes_back_byte_for_byte(tmp_path: Path, files: dict[str, bytes], same: bytes) -> None:
    files = {name: same + content + same for name, content in files.items()}
    path = tmp_path / "any.jpegs"
    path.write_bytes(pack(files.items()))
    packed = PackedJpegs(path)
    assert packed.listing() == (sorted(files), [])
    assert {name: packed.read(name) for name in files} == files


def test_a_pack_is_the_data_set_that_a_zip_of_its_files_is(tmp_path: Path) -> None:
    names = [f"{part}/{kind}/{n}.jpg" for part in ("train", "test") for kind in "ba" for n in range(3)]
    files = {name: photo(seed) for seed, name in enumerate(names)}
    (tmp_path / "d.jpegs").write_bytes(pack(files.items()))
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    for part in ("all", "evaluation", "healing"):
        packed, zipped = (load(str(tmp_path / name), part=part) for name in ("d.jpegs", "d.zip"))  # type: ignore[arg-type]
        assert packed.names == zipped.names
        assert packed.labels.tolist() == zipped.labels.tolist()
        assert all(np.array_equal(mine, its) for mine, its in zip(packed.raw(), zipped.raw(), strict=True))


def test_what_all_files_begin_with_is_stored_once() -> None:
    one, many = (pack((f"a/{n}.jpg", photo(n)) for n in range(count)) for count in (1, 50))
    assert len(many) < len(photo(0)) + 50 * 150 < 50 * len(photo(0))
    assert len(one) < len(photo(0)) + 150


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 0.999), added=st.binary(max_size=3), flipped=st.integers(0, 100))
def test_a_damaged_pack_is_refused_in_one_line(tmp_path: Path, cut: float, added: bytes, flipped: int) -> None:
    whole = pack((f"a/{n}.jpg", photo(n)) for n in range(3))
    flipped %= 12 + int.from_bytes(whole[8:12], "little")  # the images themselves have no checksum, as in a folder
    begin = bytes([*whole[:flipped], whole[flipped] ^ 255, *whole[flipped + 1 :]])
    for content in (whole[: int(cut * len(whole))] + added, begin, whole + b"x"):
        if content is not begin and len(content) == len(whole):
            continue  # as long as before: the images themselves have no checksum
        path = tmp_path / "harmed.jpegs"
        path.write_bytes(content)
        with pytest.raises(InputError, match="pack of JPEG files") as refused:
            PackedJpegs(path)
        assert "\n" not in str(refused.value)
