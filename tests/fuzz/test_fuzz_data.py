"""Damaged and odd data: images, archives, tables, labels."""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.mutation import draws, kept, mutated, odd

from compress.data import load, load_texts
from compress.data.classes import match_classes
from runtime.images.image import prepare
from runtime.images.reading import decode_image, read_image

SECTION = {
    "kind": "image",
    "channels": 3,
    "size": [8, 8],
    "resize": {"mode": "shortest_edge", "size": 8, "resample": "bilinear"},
    "center_crop": [8, 8],
    "rescale": 1 / 255,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
}
FORMS = ["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(form: str, mode: str = "RGB", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    stream = io.BytesIO()
    more = {} if form in ("BMP", "GIF", "PPM") else {"exif": exif}
    Image.fromarray(pixels).convert(mode).save(stream, form, **more)
    return stream.getvalue()


PICTURES = [picture(form, mode) for form in FORMS for mode in ("RGB", "L")]


@pytest.mark.parametrize("form", FORMS)
def test_damaged_images_of_every_format(form: str) -> None:
    for count, draw in enumerate(draws(f"image {form}")):
        data = mutated(picture(form, draw.choice(["RGB", "L", "RGB", "1" if form != "WEBP" else "L"])), draw, PICTURES)
        image = kept(lambda data=data: decode_image(data, "x"), f"{form} {count}")
        if image is not None:
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (1, 3)
            kept(lambda image=image: prepare([image], SECTION), f"{form} {count}, prepared")


def test_damaged_arrays_of_an_image(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.zeros((4, 5, 3), np.uint8))
    good = (tmp_path / "good.npy").read_bytes()
    for count, draw in enumerate(draws("npy")):
        (tmp_path / "x.npy").write_bytes(mutated(good, draw, [good]))
        kept(lambda: read_image(tmp_path / "x.npy"), f"npy {count}")


def archive(kind: str, draw: random.Random) -> bytes:
    stream = io.BytesIO()
    if kind == "npz":
        arrays = {
            "images": np.zeros((6, 4, 4), np.uint8),
            "labels": np.arange(6) % 2,
            "class_names": np.array(["a", "b"]),
        }
        np.savez(stream, **arrays) if draw.randrange(2) else np.savez_compressed(stream, **arrays)
        return stream.getvalue()
    method = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(stream, "w", method) as file:
        for number in range(4):
            name = draw.choice(["é", "..", "/", "\\", "a" * 300, "cat"]) if draw.randrange(3) == 0 else "cat"
            file.writestr(f"{name}{number % 2}/{number}.png", picture("PNG", seed=number))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["zip", "npz"])
def test_damaged_archives_of_images(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    for count, draw in enumerate(draws(kind)):
        data = archive(kind, draw)
        path.write_bytes(mutated(data, draw, [data]) if draw.randrange(5) else data)

        part: Any = draw.choice(["all", "evaluation", "healing"])

        def use(part: Any = part) -> None:
            data = load(str(path), part=part)
            data.fingerprints()
            data.raw()
            data.for_labels(["a", "b"])

        kept(use, f"{kind} {count}")


def test_an_archive_that_lies_of_its_sizes_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.images.reading.MAX_BYTES", 8 << 20)
    header = b"\x93NUMPY\x01\x00" + b"\x76\x00"
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (4000000, 1000, 1000), }"
    body = header + text.ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("images.npy", body)
        file.writestr("labels.npy", body)
    assert kept(lambda: load(str(tmp_path / "a.npz")), "a lying npz") is None
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("cat/0.png", b"\x89PNG\r\n\x1a\n" + bytes((8 << 20) + 1))
    assert kept(lambda: load(str(tmp_path / "a.zip")).raw(), "a zip bomb") is None


TABLES = {
    "a.csv": b'text,label\nit was good,1\n"so, so",0\n"he said ""no""",0\n',
    "b.csv": b"text;label\ngood;1\nbad;0\n",
    "c.tsv": b"sentence1\tsentence2\tscore\na b\tc d\t0.5\ne\tf\t1.0\n",
    "d.jsonl": b'{"text": "a \\u00e9", "label": 1}\n{"text": "b", "label": "0"}\n',
    "e.txt": b"one\n\ntwo\nlines\n\nthree\n",
    "f.csv.gz": gzip.compress(b"text,label\ngood,1\nbad,0\n"),
}


@pytest.mark.parametrize("name", list(TABLES))
def test_damaged_tables(tmp_path: Path, name: str) -> None:
    for count, draw in enumerate(draws(name)):
        (tmp_path / name).write_bytes(mutated(TABLES[name], draw, list(TABLES.values())))

        part: Any = draw.choice(["all", "evaluation", "healing"])

        def use(part: Any = part) -> None:
            data = load_texts(str(tmp_path / name), part=part)
            data.fingerprints()
            data.singles()
            data.check_labels()
            data.for_labels(["0", "1"])

        kept(use, f"{name} {count}")


def test_objects_of_odd_values(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for count, draw in enumerate(draws("objects")):
        rows = [odd({"text": "a", "label": 1, "idx": [1, {"deep": 2}]}, draw) for _ in range(3)]
        path.write_text("\n".join(map(json.dumps, rows)))
        kept(lambda: load_texts(str(path)).for_labels(["0", "1"]).labels, f"objects {count}")


@settings(max_examples=50, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8"), max_size=60), suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".txt"])
)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str, suffix: str) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    path.write_text(text, encoding="utf-8", newline="")
    kept(lambda: load_texts(str(path)).for_labels(["0", "1"]), repr(text))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(max_size=6), max_size=5, unique=True), st.lists(st.text(max_size=6), max_size=5))
def test_any_names_are_matched_one_to_one_or_refused(mine: list[str], labels: list[str]) -> None:
    found = kept(lambda: match_classes(Path("x"), mine, labels), f"{mine} {labels}")
    if found is not None:
        assert len(set(found.numbers)) == len(mine) == len(labels)
        exact = [(name, place) for name, place in zip(mine, found.numbers, strict=True) if labels.count(name) == 1]
        assert all(labels[place] == name for name, place in exact)


@pytest.mark.parametrize("digits", [4299, 4301, 100_000])
def test_numbers_of_thousands_of_digits(tmp_path: Path, digits: int) -> None:
    number = "9" * digits
    for name, text in {"a.jsonl": f'{{"text": "a", "label": {number}}}', "a.csv": f"text,label\na,{number}\n"}.items():
        (tmp_path / name).write_text(text)
        kept(lambda path=tmp_path / name: load_texts(str(path)).for_labels(["0", "1"]), f"{name} {digits}")


def test_a_bomb_of_a_packed_table_takes_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.data.text_files.MOST_BYTES", 8 << 20)
    with gzip.open(tmp_path / "a.csv.gz", "wb", compresslevel=1) as stream:
        for _ in range(40):
            stream.write(bytes(1 << 20))
    assert kept(lambda: load_texts(str(tmp_path / "a.csv.gz")), "a gz bomb") is None
