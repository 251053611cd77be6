"""Evaluation on what a model was healed on is noticed, whatever file the sample comes from."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.data import load, seen
from targets.errors import InputError


@given(st.lists(st.lists(st.binary(max_size=3), min_size=1, max_size=2), max_size=20), st.sets(st.binary(max_size=3)))
def test_overlap_is_that_of_the_contents(samples: list[list[bytes]], known: set[bytes]) -> None:
    prints = [tuple(map(seen.fingerprint, sample)) for sample in samples]
    record = np.array([seen.fingerprint(content) for content in known], np.uint64)
    expected = [place for place, sample in enumerate(samples) if known & set(sample)]
    assert seen.overlap(prints, record).tolist() == expected


def test_a_record_survives_its_file_whatever_the_order(tmp_path: Path) -> None:
    prints = [(5,), (2**64 - 1, 3), (5,)]
    (tmp_path / seen.NAME).write_bytes(seen.to_bytes(prints))
    assert seen.read(tmp_path / seen.NAME).tolist() == [3, 5, 2**64 - 1]
    assert seen.to_bytes(prints) == seen.to_bytes(prints[::-1])


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x05\x06" + bytes(18)])
def test_a_damaged_record_is_an_input_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / seen.NAME).write_bytes(content)
    with pytest.raises(InputError, match=r"healing-samples\.npy"):
        seen.read(tmp_path / seen.NAME)


def test_pixels_count_not_the_file_that_holds_them(tmp_path: Path) -> None:
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(4) % 2)
    for index, image in enumerate(images):
        folder = tmp_path / "b" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    one, other = (load(str(tmp_path / name)).fingerprints() for name in ("a.npz", "b"))
    assert sorted(one) == sorted(other) and len(set(one)) == 4


def test_copies_of_test_images_are_never_healed_on(tmp_path: Path) -> None:
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 255, (6, 5, 6, 3), dtype=np.uint8)
    for part, chosen in (("train", (0, 1, 2, 3)), ("test", (3, 4, 5))):
        folder = tmp_path / part / "class"
        folder.mkdir(parents=True)
        for index in chosen:
            Image.fromarray(images[index]).save(folder / f"{part}{index}.png")
    assert len(load(str(tmp_path), part="evaluation")) == 3
    assert [Path(name).stem for name in load(str(tmp_path), part="healing").names] == ["train0", "train1", "train2"]


def test_the_embedded_halves_share_nothing() -> None:
    evaluation, healing = (load("zoo:mnist-test", part=part) for part in ("evaluation", "healing"))
    assert not set(evaluation.fingerprints()) & set(healing.fingerprints())
