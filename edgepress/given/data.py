"""Data as a caller gives them, written as the files that the command takes.

Taken besides names and paths: a data set of `datasets` or one for each split, a torch `Dataset` or a list of records,
and arrays. A record is a text, a pair (text, label) or (image, label), or a dict whose keys are the columns of a file
(see the reference of data). Images are PIL's or uint8 arrays [H, W] or [H, W, C], as they were taken: the model's own
processor prepares them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from targets.errors import InputError

#: Keys of the arrays that an .npz may hold.
_ARRAYS = ({"images", "labels"}, {"x_test", "y_test"})
_LABELS = ("label", "labels", "fine_label", "target")
_FORMS = "a path, zoo:NAME, a data set of datasets or torch, arrays, or a list of records"


class Shot(NamedTuple):
    """A labelled image: uint8 [H, W, C] or [H, W]."""

    pixels: np.ndarray
    label: Any


def source_of(data: Any, root: Path) -> str | None:
    """What `--data` would be. Objects go into a folder of the cache at `root`.

    Raises InputError for what is not data, or holds what no file of data can.
    """
    if data is None or isinstance(data, str | Path):
        return None if data is None else str(data)
    from edgepress.given.kept import kept

    folder = kept(root, "data", lambda place: _write(_parts_of(data), place))
    files = sorted(folder.iterdir())
    return str(files[0] if len(files) == 1 and files[0].suffix in (".npz", ".jsonl") else folder)


def _parts_of(data: Any) -> dict[str, Any]:
    """The data by split; one split named "" where nothing says which."""
    from compress.data.splits import EVALUATED, TRAIN, part_named

    if isinstance(data, Mapping) and any(keys <= set(data) for keys in _ARRAYS):
        return {"": data}
    if not isinstance(data, Mapping):
        return {"": data}
    splits = {part_named(str(name)): part for name, part in data.items()}
    evaluation = [splits[name] for name in EVALUATED if name in splits]
    if TRAIN not in splits and not evaluation:
        raise InputError(f"data has the keys {', '.join(map(str, data))}; name the splits train and test")
    labelled = (part for part in evaluation if not _is_secret(part))
    chosen = next(labelled, evaluation[0] if evaluation else None)
    found = {"test": chosen, "train": splits.get(TRAIN)}
    return {name: part for name, part in found.items() if part is not None}


def _is_secret(part: Any) -> bool:
    """Whether the labels are kept from everyone, which is written as -1."""
    first = next(iter(_records(part)), None)
    return isinstance(first, Mapping) and any(first.get(key) == -1 for key in _LABELS)


def _write(parts: Mapping[str, Any], folder: Path) -> None:
    if "" in parts and isinstance(parts[""], Mapping):
        _save(folder / "data.npz", {str(name): np.asarray(array) for name, array in parts[""].items()})
        return
    rows = {name: list(_records(part)) for name, part in parts.items()}
    if empty := [name for name, some in rows.items() if not some]:
        raise InputError(f"data{f': {empty[0]}' if empty[0] else ''} holds nothing; give {_FORMS}")
    names = next((found for part in parts.values() if (found := _class_names(part))), None)
    images = {name: [_shot(record) for record in some] for name, some in rows.items()}
    if all(shot is not None for some in images.values() for shot in some):
        _write_images({name: [shot for shot in some if shot] for name, some in images.items()}, names, folder)
        return
    for name, some in rows.items():
        lines = [json.dumps(_text(record), ensure_ascii=False) for record in some]
        (folder / f"{name or 'data'}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _records(part: Any) -> Iterator[Any]:
    """The samples of a split, one by one. Raises InputError for what has none."""
    if isinstance(part, tuple) and len(part) == 2 and all(hasattr(one, "__len__") for one in part):
        inputs, labels = part
        if len(inputs) != len(labels):
            raise InputError(f"data has {len(inputs)} samples and {len(labels)} labels; they must be as many")
        yield from zip(inputs, labels, strict=True)
        return
    if not (hasattr(part, "__len__") and hasattr(part, "__getitem__")) or isinstance(part, Mapping):
        raise InputError(f"data is a {type(part).__name__}; give {_FORMS}")
    yield from (part[index] for index in range(len(part)))


def _class_names(part: Any) -> list[str] | None:
    """The names of the classes that a data set knows itself."""
    features = getattr(part, "features", None)
    columns = [features.get(key) for key in _LABELS] if isinstance(features, Mapping) else []
    names = next((found for column in columns if (found := getattr(column, "names", None))), None)
    names = names or getattr(part, "classes", None)
    return None if names is None else [str(name) for name in names]


def _shot(record: Any) -> Shot | None:
    """The record as a labelled image; None where it holds no image. Raises InputError for one without a label."""
    if isinstance(record, tuple | list) and len(record) == 2:
        pixels, label = _pixels(record[0]), record[1]
    elif isinstance(record, Mapping):
        pixels = next((found for value in record.values() if (found := _pixels(value)) is not None), None)
        label = next((record[key] for key in _LABELS if key in record), None)
    else:
        return None
    if pixels is not None and label is None:
        raise InputError(f"an image has no label; give (image, label), or a key called {' or '.join(_LABELS)}")
    return None if pixels is None else Shot(pixels, label)


def _pixels(value: Any) -> np.ndarray | None:
    """uint8 [H, W, C] or [H, W]; None for what is not an image. Raises InputError for an image that was prepared."""
    is_picture = type(value).__module__.split(".")[0] == "PIL"
    if not is_picture and not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return None
    if is_picture and value.mode not in ("L", "RGB"):
        value = value.convert("RGB")
    pixels = np.asarray(value)
    if pixels.ndim not in (2, 3):
        return None
    if pixels.dtype != np.uint8 or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise InputError(
            f"an image is {pixels.dtype} {list(pixels.shape)}; give it as uint8 [height, width, channels], without the "
            "transform that prepares it"
        )
    return pixels


def _write_images(parts: Mapping[str, list[Shot]], names: list[str] | None, folder: Path) -> None:
    """One .npz where all images are of one size, else a folder of PNG files for each class."""
    every = [shot for some in parts.values() for shot in some]
    numbered = all(isinstance(shot.label, int | np.integer) for shot in every)
    if numbered and len({shot.pixels.shape for shot in every}) == 1:
        keys = {"": ("images", "labels"), "test": ("x_test", "y_test"), "train": ("x_train", "y_train")}
        arrays = {keys[name][0]: np.stack([shot.pixels for shot in some]) for name, some in parts.items()}
        arrays |= {keys[name][1]: np.array([int(shot.label) for shot in some]) for name, some in parts.items()}
        _save(folder / "data.npz", {**arrays, **({"class_names": np.array(names)} if names else {})})
        return
    from PIL import Image

    for name, some in parts.items():
        for index, shot in enumerate(some):
            title = names[int(shot.label)] if names and numbered else str(shot.label)
            place = folder / name / title.replace("/", "-") / f"{index:06d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shot.pixels.squeeze(-1) if shot.pixels.shape[2:] == (1,) else shot.pixels).save(place)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def _text(record: Any) -> dict[str, Any]:
    """A record of texts as an object of a .jsonl. Raises InputError for another kind of record."""
    if isinstance(record, str):
        return {"text": record}
    if isinstance(record, tuple | list) and len(record) == 2 and isinstance(record[0], str):
        return {"text": record[0], "label": _plain(record[1])}
    if isinstance(record, Mapping):
        return {str(key): _plain(value) for key, value in record.items() if not (key in _LABELS and value == -1)}
    raise InputError(f"a record is a {type(record).__name__}; give a text, (text, label), (image, label) or a dict")


def _plain(value: Any) -> Any:
    """A value as JSON has it: numbers of NumPy and torch as Python's own."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value
