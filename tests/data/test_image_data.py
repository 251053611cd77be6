from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compress.data import dataset as dataset_module
from compress.data import load
from compress.data.splits import balanced, halves
from targets.errors import InputError, one_line

PLAIN = {
    "kind": "image",
    "channels": 3,
    "size": [4, 6],
    "resize": {"mode": "none"},
    "rescale": 1 / 255,
    "mean": [0.0] * 3,
    "std": [1.0] * 3,
}


def pixels(seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 6, channels), np.uint8)


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path)


def folder_of(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """`root/<class>/<n>.png`, n from `first`; pixels differ wherever place or n do."""
    for place, (name, count) in enumerate(counts.items()):
        for number in range(first, first + count):
            save(root / name / f"{number}.png", hash((place, number)) % 2**32)
    return root


def zip_of(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


# Reading


def test_folder_gives_its_classes_labels_names_and_pixels(tmp_path: Path) -> None:
    save(tmp_path / "dog" / "b.png", 1)
    save(tmp_path / "cat" / "deep" / "a.PNG", 2)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data = load(str(tmp_path))
    assert data.class_names == ("cat", "dog")
    assert data.names == ("cat/deep/a.PNG", "dog/b.png")
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [0, 1]
    assert [np.array_equal(image, pixels(seed)) for image, seed in zip(data.raw(), (2, 1), strict=True)] == [True, True]


def test_numbered_class_folders_are_ordered_by_number(tmp_path: Path) -> None:
    assert load(str(folder_of(tmp_path, {"10": 1, "9": 1, "0": 1}))).class_names == ("0", "9", "10")


def test_zip_of_a_folder_gives_the_same_data_set(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pets", {"cat": 3, "dog": 2})
    data, zipped = load(str(folder)), load(str(zip_of(folder, tmp_path / "pets.zip")))
    assert zipped.class_names == data.class_names
    assert zipped.labels.tolist() == data.labels.tolist()
    assert all(np.array_equal(a, b) for a, b in zip(zipped.raw(), data.raw(), strict=True))


def test_every_kind_of_image_reads_the_same_from_a_zip_as_from_a_folder(tmp_path: Path) -> None:
    picture = Image.fromarray(pixels(0))
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: rotate by 90 degrees
    (tmp_path / "d" / "c").mkdir(parents=True)
    kinds = "1.png L.png LA.png P.png RGBA.png RGB.bmp CMYK.jpg L.jpg RGB.tiff RGBA.webp I;16.png"
    for name in kinds.split():
        mode = name.split(".")[0]
        image = Image.fromarray(pixels(0)[..., 0].astype(np.uint16) * 200) if mode == "I;16" else picture.convert(mode)
        image.save(tmp_path / "d" / "c" / name)
    picture.save(tmp_path / "d" / "c" / "turned.jpg", exif=turned)
    data, zipped = load(str(tmp_path / "d")), load(str(zip_of(tmp_path / "d", tmp_path / "d.zip")))
    assert len(data) == 12
    assert data.raw([data.names.index("c/turned.jpg")])[0].shape == (6, 4, 3)
    for name, one, other in zip(data.names, data.raw(), zipped.raw(), strict=True):
        assert np.array_equal(one, other), name


def test_npz_gives_grey_and_colour_images(tmp_path: Path) -> None:
    grey = np.stack([pixels(i, 1)[..., 0] for i in range(3)])
    data = load(npz(tmp_path / "a.npz", images=grey, labels=np.array([2, 0, 1], np.uint8)))
    assert data.class_names == ("0", "1", "2")
    assert np.array_equal(np.stack(data.raw())[..., 0], grey)
    colour = np.stack([pixels(i) for i in range(2)])
    data = load(npz(tmp_path / "b.npz", images=colour, labels=np.array([0, 1]), class_names=np.array(["cat", "dog"])))
    assert data.class_names == ("cat", "dog")
    assert np.array_equal(np.stack(data.raw()), colour)


def test_batches_follow_the_indices_and_hold_prepared_pixels(tmp_path: Path) -> None:
    data = load(str(folder_of(tmp_path, {"a": 3, "b": 4})))
    order = [6, 0, 3, 3, 1]
    batches = list(data.batches(PLAIN, batch_size=2, indices=order))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    assert np.concatenate([labels for _, labels in batches]).tolist() == [1, 0, 1, 1, 0]
    x_BCHW = np.concatenate([x for x, _ in batches])
    expected = np.stack(data.raw(order)).transpose(0, 3, 1, 2) / 255
    assert x_BCHW.dtype == np.float32
    np.testing.assert_allclose(x_BCHW, expected, atol=1e-7)


def test_images_of_different_sizes_share_a_batch_when_resized(tmp_path: Path) -> None:
    save(tmp_path / "a" / "0.png", 0)
    Image.fromarray(np.zeros((9, 5, 3), np.uint8)).save(tmp_path / "a" / "1.png")
    resized = {**PLAIN, "resize": {"mode": "exact", "size": [4, 6], "resample": "bilinear"}}
    (x_BCHW, _), *_ = load(str(tmp_path)).batches(resized, batch_size=2)
    assert x_BCHW.shape == (2, 3, 4, 6)


def test_images_beyond_the_memory_bound_are_decoded_again_and_come_out_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "HELD_BYTES", 3 * pixels(0).nbytes)
    data = load(str(folder_of(tmp_path, {"a": 10})))
    first = data.raw()
    shutil.rmtree(tmp_path / "a")
    assert np.array_equal(np.stack(data.raw(range(3))), np.stack(first[:3]))
    with pytest.raises(InputError, match="7 of 10 images cannot be read"):
        data.raw()


# Parts and limits


def test_test_and_train_folders_serve_evaluation_and_healing(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", {"cat": 4, "dog": 4}, first=10)
    folder_of(tmp_path / "val", {"cat": 2})
    folder_of(tmp_path / "test", {"dog": 3, "cat": 1})
    for spec in (tmp_path, zip_of(tmp_path, tmp_path.parent / f"{tmp_path.name}.zip")):
        evaluation, healing = load(str(spec), part="evaluation"), load(str(spec), part="healing")
        assert {name.split("/")[-3] for name in evaluation.names} == {"test"}
        assert {name.split("/")[-3] for name in healing.names} == {"train"}
        assert (len(evaluation), len(healing)) == (4, 8)
        assert evaluation.class_names == healing.class_names == ("cat", "dog")
        assert evaluation.labels.tolist() == [0, 1, 1, 1]


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    assert load(str(folder_of(tmp_path, {"train": 2, "plane": 2}))).class_names == ("plane", "train")


def test_npz_with_train_and_test_arrays_serves_both(tmp_path: Path) -> None:
    x = np.stack([pixels(i) for i in range(5)])
    spec = npz(tmp_path / "a.npz", x_train=x[:3], y_train=np.array([0, 1, 2]), x_test=x[3:], y_test=np.array([1, 0]))
    assert np.array_equal(np.stack(load(spec, part="evaluation").raw()), x[3:])
    assert np.array_equal(np.stack(load(spec, part="healing").raw()), x[:3])
    assert load(spec, part="evaluation").class_names == ("0", "1", "2")


@pytest.mark.parametrize("half", ["test", "calibration"])
def test_either_half_of_a_zoo_pair_keeps_evaluation_on_the_test_set(half: str) -> None:
    test, calibration = load("zoo:mnist-test"), load("zoo:mnist-calibration")
    assert load(f"zoo:mnist-{half}", part="evaluation").digest() == test.digest()
    assert load(f"zoo:mnist-{half}", part="healing").digest() == calibration.digest()


def test_data_without_parts_is_halved_and_copies_stay_on_one_side(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"a": 20, "b": 11})
    for number in range(10):
        shutil.copy(folder / "a" / f"{number}.png", folder / "a" / f"copy-{number}.png")
        shutil.copy(folder / "b" / "0.png", folder / "a" / f"mislabelled-{number}.png")
    zipped = zip_of(folder, tmp_path / "d.zip")
    every = load(str(folder))
    arrays = npz(tmp_path / "d.npz", images=np.stack(every.raw()), labels=every.labels)
    for spec in (str(folder), str(zipped), arrays):
        evaluation, healing = load(spec, part="evaluation"), load(spec, part="healing")
        assert len(evaluation) + len(healing) == len(every)
        assert set(evaluation.labels) == set(healing.labels) == {0, 1}
        assert 10 <= len(evaluation) <= 41
        assert not {i.tobytes() for i in evaluation.raw()} & {i.tobytes() for i in healing.raw()}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99), st.integers(0, 12)), max_size=40), st.integers(0, 5))
def test_halves_cover_everything_once_and_never_part_equal_images(items: list[tuple[int, int, int]], seed: int) -> None:
    labels, contents, groups = (list(column) for column in zip(*items, strict=True)) if items else ([], [], [])
    evaluation, healing = halves(np.array(labels, np.int64), contents, groups, seed)
    assert sorted([*evaluation, *healing]) == list(range(len(items)))
    assert not {groups[i] for i in evaluation} & {groups[i] for i in healing}
    for label in set(labels) if len({(label, group) for label, _, group in items}) == len(set(groups)) else ():
        sizes = [len({groups[i] for i in side if labels[i] == label}) for side in (evaluation, healing)]
        assert sizes[0] - sizes[1] in (0, 1)  # as many different images on either side, whatever is copied


@pytest.mark.parametrize("groups", [[0, 1, 2], [0, 1, 2, 3, 3]])
def test_samples_and_their_groups_are_as_many(groups: list[int]) -> None:
    with pytest.raises(ValueError, match="zip"):
        halves(np.zeros(4, np.int64), [5, 6, 7, 8], groups, 0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 60), st.integers(0, 5))
def test_a_limit_takes_evenly_from_the_classes(labels: list[int], limit: int, seed: int) -> None:
    names = [f"image {i}" for i in range(len(labels))]
    chosen = balanced(np.array(labels), names, limit, seed)
    assert len(chosen) == len(set(chosen)) == min(limit, len(labels))
    taken = {label: [labels[i] for i in chosen].count(label) for label in set(labels)}
    cut = [label for label in taken if taken[label] < labels.count(label)]
    assert all(max(taken.values()) - taken[label] <= 1 for label in cut)


def test_limit_and_split_depend_on_the_seed_alone() -> None:
    once = load("zoo:mnist-test", limit=50, seed=1)
    assert once.names == load("zoo:mnist-test", limit=50, seed=1).names
    assert once.names != load("zoo:mnist-test", limit=50, seed=2).names
    assert np.bincount(once.labels).tolist() == [5] * 10


# Classes


def test_classes_match_the_models_by_name_whatever_their_order(tmp_path: Path) -> None:
    data = load(str(folder_of(tmp_path, {"Hot_Dog": 1, "ant": 2, "bee": 3})))
    matched = data.for_labels(["bee", "hot-dog", "Ant"])
    assert matched.class_names == ("bee", "hot-dog", "Ant")
    assert [matched.class_names[label].lower() for label in matched.labels] == ["hot-dog"] + ["ant"] * 2 + ["bee"] * 3
    assert matched.subset([5, 0]).labels.tolist() == [0, 1]


def test_classes_match_by_order_when_no_name_is_the_models(tmp_path: Path) -> None:
    data = load(str(folder_of(tmp_path, {"n02": 1, "n01": 1}))).for_labels(["LABEL_0", "LABEL_1"])
    assert data.labels.tolist() == [0, 1]
    assert data.names == ("n01/0.png", "n02/0.png")


def test_names_that_match_only_in_part_are_refused(tmp_path: Path) -> None:
    data = load(str(folder_of(tmp_path, {"cat": 1, "dog": 1, "plane": 1})))
    with pytest.raises(InputError, match=r"no class named plane; .* as the model does: airplane, cat, dog"):
        data.for_labels(["airplane", "cat", "dog"])


def test_other_numbers_of_classes_are_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 classes but the model has 10"):
        load(str(folder_of(tmp_path, {"cat": 1, "dog": 1}))).for_labels([str(i) for i in range(10)])
    images, digits = np.zeros((2, 4, 4), np.uint8), [str(digit) for digit in range(10)]
    with pytest.raises(InputError, match=r"labels reach 12 but the model has 10 classes"):
        load(npz(tmp_path / "a.npz", images=images, labels=np.array([0, 12]))).for_labels(digits)
    fewer = load(npz(tmp_path / "b.npz", images=images, labels=np.array([0, 7]))).for_labels(digits)
    assert len(fewer.class_names) == 10


# Digest


def test_digest_follows_content_choice_and_classes_and_a_memo_changes_nothing(tmp_path: Path) -> None:
    folder, memo = folder_of(tmp_path / "d", {"a": 3, "b": 3}), tmp_path / "memo"
    digest = load(str(folder)).digest()
    shutil.copytree(folder, tmp_path / "copy")
    same = [load(str(folder)).digest(memo), load(str(folder)).digest(memo), load(str(tmp_path / "copy")).digest()]
    assert same == [digest] * 3
    others = {load(str(folder), limit=4).digest(), load(str(folder)).for_labels(["b", "a"]).digest(memo)}
    save(folder / "a" / "0.png", 12345)
    others |= {load(str(folder)).digest(memo), digest}
    assert len(others) == 4


# Bad input


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    folder = folder_of(tmp_path / "d", {"a": 4, "b": 4})
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(whole, "JPEG")
    (folder / "a" / "cut.jpg").write_bytes(whole.getvalue()[:2000])
    (folder / "b" / "empty.png").write_bytes(b"")
    (folder / "b" / "text.jpg").write_text("no image")
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_images_are_named_and_all_counted(damaged: Path, packed: bool) -> None:
    data = load(str(zip_of(damaged, damaged.parent / "d.zip") if packed else damaged))
    with pytest.raises(InputError, match=r"3 of 11 images .*a/cut\.jpg, .*b/empty\.png, .*b/text\.jpg .*skip_corrupt"):
        list(data.batches(PLAIN, batch_size=5))


def test_damaged_images_are_skipped_when_asked(damaged: Path) -> None:
    data = load(str(damaged), skip_corrupt=True)
    assert [name[-4:] for name in data.names] == [".png"] * 8
    assert data.labels.tolist() == [0] * 4 + [1] * 4
    assert len(data.raw()) == 8


def test_images_that_cannot_be_read_leave_room_for_the_cause(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"a-class-of-some-length": 60})
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"60 of 60 images cannot be read: .* and 57 more") as caught:
        load(str(folder)).raw()
    assert "not a readable image" in one_line(str(caught.value).replace(str(folder), "a/folder/of/images"))


def test_member_damaged_inside_a_zip_is_named(tmp_path: Path) -> None:
    path = zip_of(folder_of(tmp_path / "d", {"a": 2}), tmp_path / "d.zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"1 of 2 images cannot be read: d/a/0\.png"):
        load(str(path)).raw()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_an_image_of_too_many_pixels_is_refused_in_a_folder_and_in_a_zip(
    suffix: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.images.png.MAX_PIXELS", 29)
    (tmp_path / "d" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "d" / "a" / f"0.{suffix}")
    data = load(str(zip_of(tmp_path / "d", tmp_path / "d.zip") if packed else tmp_path / "d"))
    with pytest.raises(InputError, match=rf"a/0\.{suffix} .*more than the 29 .*scale it down"):
        data.raw()


def refused(tmp_path: Path, case: str) -> str:
    """Make the case's bad data and give its spec."""
    place = tmp_path / case.replace(" ", "-")
    images, labels = np.zeros((4, 5, 6), np.uint8), np.array([0, 1, 0, 1])
    match case:
        case "missing":
            return str(place)
        case "zoo name":
            return "zoo:cifar-test"
        case "empty folder":
            place.mkdir()
            return str(place)
        case "no classes":
            save(place / "1.png", 0)
            return str(place)
        case "empty class":
            (folder_of(place, {"cat": 1}) / "dog").mkdir()
            return str(place)
        case "link loop":
            (folder_of(place, {"cat": 1}) / "cat" / "again").symlink_to(place)
            return str(place)
        case "not a zip":
            place.with_suffix(".zip").write_text("nothing")
            return str(place.with_suffix(".zip"))
        case "other file":
            place.with_suffix(".csv").write_text("a,b")
            return str(place.with_suffix(".csv"))
        case "not an npz":
            place.with_suffix(".npz").write_text("nothing")
            return str(place.with_suffix(".npz"))
        case "single array":
            with place.with_suffix(".npz").open("wb") as stream:
                np.save(stream, images)
            return str(place.with_suffix(".npz"))
        case "pickle":
            return npz(place.with_suffix(".npz"), images=images, labels=np.array([{}] * 4, object))
        case "no labels key":
            return npz(place.with_suffix(".npz"), images=images)
        case "no y_train":
            return npz(place.with_suffix(".npz"), x_test=images, y_test=labels, x_train=images)
        case "float images":
            return npz(place.with_suffix(".npz"), images=images / 255, labels=labels)
        case "channels first":
            return npz(place.with_suffix(".npz"), images=np.zeros((4, 3, 8, 8), np.uint8), labels=labels)
        case "float labels":
            return npz(place.with_suffix(".npz"), images=images, labels=labels / 1)
        case "column labels":
            return npz(place.with_suffix(".npz"), images=images, labels=labels[:, None])
        case "short labels":
            return npz(place.with_suffix(".npz"), images=images, labels=labels[:3])
        case "negative label":
            return npz(place.with_suffix(".npz"), images=images, labels=labels - 1)
        case "too few names":
            return npz(place.with_suffix(".npz"), images=images, labels=labels, class_names=np.array(["one"]))
        case "no images":
            return npz(place.with_suffix(".npz"), images=images[:0], labels=labels[:0])
    raise AssertionError(case)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "no data at .*missing; give zoo:NAME"),
        ("zoo name", "unknown zoo data set 'cifar-test'; did you mean 'cifar10-test'"),
        ("empty folder", "holds no images"),
        ("no classes", "images but no classes; put each class"),
        ("empty class", "class folders without images: dog"),
        ("link loop", "leads back to a folder that holds it"),
        ("not a zip", "is not a readable zip"),
        ("other file", "is not a data set"),
        ("not an npz", "is not a readable npz of plain arrays"),
        ("single array", "is not a readable npz of plain arrays .File is not a zip file"),
        ("pickle", "is not a readable npz of plain arrays.*pickle"),
        ("no labels key", "has the keys images; it needs images and labels"),
        ("no y_train", "has images but no y_train"),
        ("float images", "images is float64; it must be uint8"),
        ("channels first", r"shape \[4, 3, 8, 8\]; it must be \[N, height, width\]"),
        ("float labels", r"labels is float64 \[4\]; it must be integers"),
        ("column labels", r"labels is int64 \[4, 1\]"),
        ("short labels", "4 images but 3 labels"),
        ("negative label", "labels holds -1 at 0; labels count from 0"),
        ("too few names", "labels reach 1 but class_names holds 1 names"),
        ("no images", "holds no images"),
    ],
)
def test_unusable_data_is_refused_in_one_line_that_says_why(tmp_path: Path, case: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(refused(tmp_path, case))
    assert "\n" not in str(caught.value)


def test_fewer_images_than_needed_are_an_error_that_names_both_numbers(tmp_path: Path) -> None:
    spec = str(folder_of(tmp_path, {"a": 3, "b": 3}))
    assert len(load(spec, at_least=6)) == 6
    with pytest.raises(InputError, match="has 4 images for evaluation but at least 5 are needed"):
        load(spec, part="evaluation", at_least=5)


def test_indices_outside_the_data_set_are_an_error() -> None:
    data = load("zoo:mnist-test", limit=10)
    for bad in ([10], [-1]):
        with pytest.raises(IndexError):
            data.raw(bad)


def test_linked_class_folders_are_followed(tmp_path: Path) -> None:
    folder_of(tmp_path / "elsewhere", {"x": 2})
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "cat").symlink_to(tmp_path / "elsewhere" / "x")
    assert load(str(tmp_path / "d")).names == ("cat/0.png", "cat/1.png")


# Parts, and what is passed over


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "valid"),
        ("Train", "Test"),
        ("training_set", "test_set"),
        ("TRAINING", "dev"),
        ("train data", "Validation"),
        ("train2017", "val2017"),
        ("images_train", "images-val"),
        ("train_v2", "dev2"),
    ],
)
def test_parts_are_known_in_the_usual_spellings(tmp_path: Path, train: str, test: str) -> None:
    folder_of(tmp_path / train, {"cat": 3, "dog": 3})
    folder_of(tmp_path / test, {"cat": 2, "dog": 2}, first=10)
    assert load(str(tmp_path)).class_names == ("cat", "dog")
    assert {name.split("/")[0] for name in load(str(tmp_path), part="evaluation").names} == {test}
    assert {name.split("/")[0] for name in load(str(tmp_path), part="healing").names} == {train}


def test_sets_to_evaluate_on_alone_are_one_and_none_is_healed_on(tmp_path: Path) -> None:
    folder_of(tmp_path / "val", {"cat": 3, "dog": 3})
    folder_of(tmp_path / "test", {"cat": 3, "dog": 3}, first=10)
    assert len(load(str(tmp_path), part="evaluation")) == 12
    with pytest.raises(InputError, match=r"0 images for healing .* in train/ and test/"):
        load(str(tmp_path), part="healing")


@pytest.mark.parametrize("parts", [("fold1", "fold2"), ("train", "holdout"), ("a", "b", "c")])
def test_parts_of_unknown_names_are_not_taken_for_classes(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for number, part in enumerate(parts):
        folder_of(tmp_path / part, {"cat": 2, "dog": 2}, first=10 * number)
    for labels in (["cat", "dog"], ["LABEL_0", "LABEL_1"], ["x", "y", "z"]):
        with pytest.raises(
            InputError, match="all hold the folders cat, dog: if these are the classes, name what is around"
        ):
            load(str(tmp_path)).for_labels(labels)
    assert load(str(tmp_path)).for_labels(parts).notes == ()  # a model may have such classes


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", {"cat": 2, "dog": 2})
    folder_of(tmp_path / "test", {"cat": 2, "dog": 2}, first=10)
    folder_of(tmp_path / "val", {"cat": 1, "dog": 1}, first=20)
    for number in range(3):
        (tmp_path / "train" / "cat" / f"{number}.heic").write_text("none that is read here")
    (tmp_path / "test" / "labels.csv").write_text("a,b")
    (tmp_path / "test" / "Thumbs.db").write_text("a system's")
    notes = load(str(tmp_path)).for_labels(["cat", "dog"]).notes
    assert notes == ("files passed over: 3 .heic, 1 .csv", "images passed over: 2, such as val/cat/20.png")


@pytest.mark.parametrize("place", ["@eaDir/1.jpg", "__MACOSX", ".thumbnails", "#recycle", "@Recycle", "lost+found"])
def test_what_systems_put_beside_images_is_no_sample(tmp_path: Path, place: str) -> None:
    folder_of(tmp_path, {"cat": 2, "dog": 2})
    save(tmp_path / "cat" / place / "thumb.jpg", 5)
    data = load(str(tmp_path))
    assert len(data) == 4 and data.notes == ()


def test_files_without_any_image_are_named_by_kind(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.heic").write_text("")
    with pytest.raises(InputError, match=r"holds no images, but 1 \.heic.*name another place"):
        load(str(tmp_path))


def test_a_folder_around_an_npz_is_refused_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"but 1 \.npz.*give the \.npz or \.zip itself"):
        load(str(tmp_path))
