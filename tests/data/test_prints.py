"""What is evaluated on is healed on in no other format, and what differs is never taken for the same."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compress.data import load, load_texts, prints
from compress.data.prints import NEAR, near, print_of, thumb_of
from compress.data.sources import Source
from targets.errors import InputError


def picture(seed: int, size: tuple[int, int] = (24, 32), channels: int = 3) -> np.ndarray:
    """Blobs, as photos have them: noise is not a picture that JPEG keeps."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (5, 6, channels), np.uint8)
    return np.asarray(Image.fromarray(small.squeeze()).resize(size[::-1], Image.Resampling.BICUBIC)).reshape(*size, -1)


def put(path: Path, image: np.ndarray, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze()).save(path, **how)
    return path


def parts_of(folder: Path) -> tuple[list[str], list[str]]:
    return tuple(list(load(str(folder), part=part).names) for part in ("evaluation", "healing"))  # type: ignore[return-value]


@pytest.mark.parametrize("suffixes", [("png", "bmp"), ("bmp", "png"), ("tiff", "webp"), ("ppm", "png"), ("png", "gif")])
def test_a_test_image_is_never_healed_on_in_another_format(tmp_path: Path, suffixes: tuple[str, str]) -> None:
    channels = 1 if "gif" in suffixes else 3  # a palette holds all grey values, not all colours
    for number in range(8):
        image = picture(number, channels=channels)
        put(tmp_path / f"test/c{number % 2}/{number}.{suffixes[0]}", image)
        put(tmp_path / f"train/c{number % 2}/copy{number}.{suffixes[1]}", image, lossless=True)
        put(tmp_path / f"train/c{number % 2}/own{number}.{suffixes[1]}", picture(100 + number, channels=channels))
    evaluation, healing = parts_of(tmp_path)
    assert len(evaluation) == 8
    assert sorted(Path(name).stem for name in healing) == [f"own{number}" for number in range(8)]
    notes = load(str(tmp_path), part="healing").notes
    assert notes == ("8 training images left out: the evaluation set has them too",)


def test_copies_in_other_formats_stay_on_one_side_of_a_cut(tmp_path: Path) -> None:
    for number in range(40):
        for suffix in ("png", "bmp"):
            put(tmp_path / f"c{number % 2}/{number}.{suffix}", picture(number))
    evaluation, healing = ({Path(name).stem for name in names} for names in parts_of(tmp_path))
    assert not evaluation & healing and len(evaluation) == len(healing) == 20
    prints_of_both = [load(str(tmp_path), part=part).fingerprints() for part in ("evaluation", "healing")]  # type: ignore[arg-type]
    assert not set(prints_of_both[0]) & set(prints_of_both[1])


def test_data_whose_training_images_are_all_test_images_says_why_none_are_left(tmp_path: Path) -> None:
    for number in range(6):
        put(tmp_path / f"test/c/{number}.png", picture(number))
        put(tmp_path / f"train/c/{number}.bmp", picture(number))
    with pytest.raises(InputError, match=r"0 images for healing \(6 training images left out: the evaluation set has"):
        load(str(tmp_path), part="healing")


def test_texts_of_which_all_are_evaluated_on_say_why_none_are_left(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.tsv").write_text("text\tlabel\nGood.\t1\nBad.\t0\n")
    with pytest.raises(InputError, match=r"no texts for healing \(2 training texts left out: the evaluation set has"):
        load_texts(str(tmp_path), part="healing")


def test_nearly_equal_images_are_named_and_stay(tmp_path: Path) -> None:
    for number in range(6):
        put(tmp_path / f"test/c/{number}.png", picture(number))
    for number in range(20):
        put(tmp_path / f"train/c/{number}.jpg", picture(number if number < 3 else 50 + number), quality=80)
    healing = load(str(tmp_path), part="healing")
    assert len(healing) == 20
    (note,) = healing.notes
    assert note.startswith("3 of 20 images to heal on are nearly the same") and "train/c/0.jpg as test/c/0.png" in note
    assert load(str(tmp_path), part="evaluation").notes == ()


def test_frames_of_one_scene_among_the_images_to_evaluate_on_are_counted_and_named(tmp_path: Path) -> None:
    """Twelve scenes: of four there are three frames each, of one a copy, which is not another image at all."""
    for number in range(12):
        put(tmp_path / f"test/c{number % 2}/{number:02}.png", picture(number))
        put(tmp_path / f"train/c{number % 2}/{number:02}.png", picture(100 + number))
    for number in range(4):
        for frame in range(2):
            brighter = np.clip(picture(number).astype(int) + 1 + frame, 0, 255).astype(np.uint8)
            put(tmp_path / f"test/c{number % 2}/{number:02}-{frame}.png", brighter)
    put(tmp_path / "test/c1/11-copy.png", picture(11))
    evaluation = load(str(tmp_path), part="evaluation")
    assert len(evaluation) == 21
    (note,) = evaluation.notes
    assert note.startswith("8 of 20 different images to evaluate on are nearly the same as others (test/c0/00-1.png as")
    assert "the true interval is wider" in note and len(note) < 300
    assert load(str(tmp_path), part="healing").notes == ()


@pytest.mark.parametrize("suffix", ["bmp", "pgm", "tif", "png", "npz"])
def test_images_that_differ_in_one_pixel_anywhere_are_different(tmp_path: Path, suffix: str) -> None:
    base = np.zeros((90, 90), np.uint8)
    images = [base.copy() for _ in range(20)]
    for place, image in enumerate(images):
        image.flat[place * (base.size // 20)] = 255
    if suffix == "npz":
        np.savez(tmp_path / "a.npz", images=np.stack(images), labels=np.zeros(20, np.int64))
    else:
        for place, image in enumerate(images):
            put(tmp_path / "a/c" / f"{place}.{suffix}", image)
    data = load(str(tmp_path / ("a.npz" if suffix == "npz" else "a")))
    assert len(set(data.fingerprints())) == 20
    assert [len(names) for names in parts_of(data.location)] == [10, 10]


def test_grey_in_colour_is_the_same_picture() -> None:
    grey = picture(0, channels=1)
    assert print_of(grey) == print_of(np.repeat(grey, 3, axis=-1)) != print_of(picture(0))
    assert print_of(grey) != print_of(grey.reshape(-1, 8, 1))  # the same bytes in another shape


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_thumbnails_are_means_of_areas(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 1), np.uint8)
    thumb = thumb_of(image).reshape(16, 16)
    rows, columns = (np.arange(17) * size // 16 for size in (height, width))
    for row in range(16):
        for column in range(16):
            down, right = (slice(at[n], max(at[n + 1], at[n] + 1)) for at, n in ((rows, row), (columns, column)))
            area = image[down, right]
            assert abs(int(thumb[row, column]) - area.mean()) <= 0.51


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 999))
def test_near_finds_what_comparing_each_pair_finds(count: int, others: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    wanted = draw.integers(0, 256, (count, 256)).astype(np.uint8)
    noise = draw.normal(0, draw.uniform(0, 16, (others, 1)), (others, 256))
    asked = (wanted[draw.integers(0, count, others)] + noise).clip(0, 255).astype(np.uint8)

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        contrast = sum(np.linalg.norm(x - x.mean()) for x in (one.astype(float), other.astype(float)))
        return float(np.linalg.norm(one.astype(float) - other) / contrast)

    found = near(wanted, asked)
    assert found is not None
    for place, row in zip(found, asked, strict=True):
        assert (place >= 0) == any(apart(one, row) < NEAR for one in wanted)
        assert place < 0 or apart(wanted[place], row) < NEAR


def test_pictures_are_decoded_once_as_long_as_they_do_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    for number in range(6):
        path = put(folder / f"c{number % 2}/{number}.png", picture(number))
        os.utime(path, (1_000_000, 1_000_000))
    monkeypatch.setattr("compress.data.stores._SETTLE", -(10**18))  # ctime cannot be set back
    before = load(str(folder)).fingerprints()
    read, look = [], prints._look

    def counted(source: Source, index: int) -> tuple[int, int, int, np.ndarray]:
        read.append(index)
        return look(source, index)

    monkeypatch.setattr(prints, "_look", counted)
    prints._memory.clear()  # as in a new process
    assert load(str(folder)).fingerprints() == before and read == []
    put(folder / "c0/2.png", picture(77))
    prints._memory.clear()
    after = load(str(folder)).fingerprints()
    assert len(read) == 1 and sum(one != other for one, other in zip(before, after, strict=True)) == 1
    damaged = next(Path(os.environ["EDGEPRESS_CACHE"], "pictures").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-3] + b"???")
    prints._memory.clear()
    assert load(str(folder)).fingerprints() == after and len(read) == 7


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        put(tmp_path / f"data/c/{number}.png", picture(number))
    monkeypatch.setenv("EDGEPRESS_CACHE", "/proc/nowhere")
    assert len(set(load(str(tmp_path / "data")).fingerprints())) == 4


def test_texts_to_evaluate_on_are_healed_on_in_no_other_spelling(tmp_path: Path) -> None:
    from compress.data import load_texts

    (tmp_path / "test.csv").write_text("text,label\nA fine  Movie,1\nno,0\n")
    (tmp_path / "train.jsonl").write_text('{"text": "a Fine movie", "label": 1}\n{"text": "other", "label": 0}\n')
    healing = load_texts(str(tmp_path), part="healing")
    assert [row.texts for row in healing.rows] == [("other",)]
    assert healing.notes == ("1 training texts left out: the evaluation set has them too",)


def test_jpeg_at_usual_qualities_is_near_and_other_pictures_are_not() -> None:
    for seed in range(20):
        image = picture(seed, (40, 60))
        for quality in (60, 80, 95):
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "JPEG", quality=quality)
            again = np.asarray(Image.open(stream))
            assert near(thumb_of(image)[None], thumb_of(again)[None]) == 0
        assert near(thumb_of(image)[None], thumb_of(picture(seed + 100, (40, 60)))[None]) == -1
