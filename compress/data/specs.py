"""Data specs: `zoo:NAME`, a folder, a zip or an npz, and the parts of each that may be used for what."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from compress.data.annotated.coco import CocoFiles, coco_files
from compress.data.annotated.masks import MaskFiles, mask_files
from compress.data.arrays import ImageArrays
from compress.data.dataset import Decoder, ImageDataset, LabelledDataset
from compress.data.packed import SUFFIX as PACKED
from compress.data.prints import Prints, near, near_earlier, prints_of
from compress.data.sources import ImageFiles, Part, Source
from compress.data.splits import balanced, halves
from runtime.files import check_no_pipe, user_path
from targets.errors import InputError

D = TypeVar("D", bound=LabelledDataset)  # type: ignore[type-arg]
#: Share of images to evaluate on that may be nearly the same as others without a word.
_FEW_ALIKE = 0.01
_ZOO = Path(__file__).parent.parent / "zoo"
_ZOO_FILES = {
    "cifar10-test": "cifar10/test.jpegs",
    "cifar10-train": "cifar10/train-5000.jpegs",
    "mnist-test": "mnist/test.npz",
    "mnist-calibration": "mnist/calibration.npz",
}
_ZOO_PARTS: dict[str, dict[Part, str]] = {
    "cifar10": {"evaluation": "cifar10-test", "healing": "cifar10-train"},
    "mnist": {"evaluation": "mnist-test", "healing": "mnist-calibration"},
}


def load(
    spec: str,
    *,
    part: Part | Literal["all"] = "all",
    limit: int | None = None,
    at_least: int = 1,
    seed: int = 0,
    skip_corrupt: bool = False,
    boxes: bool = False,
    masks: bool = False,
) -> ImageDataset:
    """The images that `spec` names. Lists them; nothing is decoded before it is asked for.

    `spec`: `zoo:cifar10-test`, `zoo:cifar10-train`, `zoo:mnist-test`, `zoo:mnist-calibration`; a folder or zip of
    `<class>/*.jpg`, also below `train/` and `test/` or `val/`; an npz of `images` and `labels` or of `x_test` ...
    `part`: "evaluation" and "healing" (also for calibration) never share an image. They are the test (else val) and
    train sets where the data has both, the two halves of a zoo pair, otherwise two seeded halves of each class.
    `limit`: the most images, evenly over the classes, seeded. `at_least`: fewer are an error.
    `skip_corrupt`: decode everything now and leave out what cannot be read; otherwise the first use of a damaged
    image is an error that counts them all.
    `boxes`: a COCO json, or a folder with one, is wanted if there is one; `masks`: so is a folder of images and masks.
    Raises InputError for a spec or data that cannot be used.
    """
    source = _open(spec, part, boxes, masks)
    chosen, notes = indices_of(source, "all" if spec.startswith("zoo:") else part, seed)
    whole = ImageDataset(Decoder(source), chosen, source.class_names, notes=(*source.notes, *notes))
    dataset = limited(whole, limit, seed, skip_corrupt)
    check_enough(len(dataset), at_least, source, spec, part, notes)
    return dataset


def check_enough(
    count: int, least: int, source: Source, spec: str, part: Part | Literal["all"], notes: tuple[str, ...]
) -> None:
    """Raises InputError for fewer than `least` samples of a part; `notes` may say why."""
    if count >= least:
        return
    use = "" if part == "all" else f" for {part}"
    use += f" ({notes[0]})" if notes else ""
    more = "give more" if source.parts is None else "give more, in train/ and test/"
    raise InputError(f"{spec} has {count} {source.noun}{use} but at least {least} are needed; {more}")


def limited(dataset: D, limit: int | None, seed: int, skip_corrupt: bool) -> D:
    """At most `limit` of the samples, evenly over the classes; `skip_corrupt`: none that cannot be read."""
    if skip_corrupt:
        unreadable = dataset.unreadable()
        dataset = dataset.subset(index for index in range(len(dataset)) if index not in unreadable)
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.subset(balanced(dataset.labels, dataset.names, limit, seed))


def _open(spec: str, part: Part | Literal["all"], boxes: bool, masks: bool) -> Source:
    if spec.startswith("zoo:"):
        return _open_zoo(spec.removeprefix("zoo:"), part)
    path = user_path(spec)
    if not path.exists():
        raise InputError(f"no data at {spec}; give zoo:NAME, a folder of class folders, a .zip of one, or a .npz")
    check_no_pipe(path)
    if boxes and (files := coco_files(path)):
        return CocoFiles(files)
    if masks and (pairs := mask_files(path)):
        return MaskFiles(path, pairs)
    if path.is_dir() or path.suffix.lower() in (".zip", PACKED):
        return ImageFiles(path)
    if path.suffix.lower() == ".npz":
        return ImageArrays(path)
    raise InputError(f"{spec} is not a data set; give zoo:NAME, a folder of class folders, a .zip of one, or a .npz")


def _open_zoo(name: str, part: Part | Literal["all"]) -> Source:
    """Both halves of a zoo pair name the pair, so its evaluation set stays what it is whichever half is named."""
    if name not in _ZOO_FILES:
        from compress.spec import unknown

        raise InputError(unknown("zoo data set", name, _ZOO_FILES))
    if part != "all":
        name = _ZOO_PARTS[name.split("-")[0]][part]
    path = _ZOO / _ZOO_FILES[name]
    return ImageArrays(path) if path.suffix == ".npz" else ImageFiles(path)


def indices_of(source: Source, part: Part | Literal["all"], seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which samples of the source are in the part, and what the user should know of the choice."""
    every = np.arange(len(source.labels))
    if part == "all":
        return every, ()
    prints = prints_of(source, every)
    if source.parts is None:
        evaluation, healing = halves(source.labels, prints.content.tolist(), prints.pixels.tolist(), seed)
        notes: tuple[str, ...] = ()
    else:
        evaluation, healing = source.parts["evaluation"], source.parts["healing"]
        copies = np.isin(prints.pixels[healing], prints.pixels[evaluation])
        told = f"{copies.sum()} training {source.noun} left out: the evaluation set has them too"
        notes = (told,) if copies.any() else ()
        healing = healing[~copies]
    if part == "evaluation":
        return evaluation, _scene_notes(source, prints, evaluation)
    return healing, (*notes, *_near_notes(source, prints, evaluation, healing))


def _scene_notes(source: Source, prints: Prints, evaluation: np.ndarray) -> tuple[str, ...]:
    """How many of the different images to evaluate on are nearly the same as others: the risk that the interval does
    not know of. They stay, and count."""
    different = evaluation[np.sort(np.unique(prints.pixels[evaluation], return_index=True)[1])]
    found = near_earlier(prints.thumbs[different])
    if found is None:
        return (f"too many {source.noun} to evaluate on to look for ones that are nearly the same",)
    alike = np.flatnonzero(found >= 0)
    if len(alike) <= _FEW_ALIKE * len(different):
        return ()
    pair = f"{source.names[different[alike[0]]]} as {source.names[different[found[alike[0]]]]}"
    return (
        f"{len(alike)} of {len(different)} different {source.noun} to evaluate on are nearly the same as others "
        f"({pair}): if these are frames of one scene, they prove less than as many scenes would, and the true interval "
        "is wider",
    )


def _near_notes(source: Source, prints: Prints, evaluation: np.ndarray, healing: np.ndarray) -> tuple[str, ...]:
    """Which images to heal on are nearly the same as ones to evaluate on. They stay: alike is not yet a copy."""
    found = near(prints.thumbs[evaluation], prints.thumbs[healing])
    if found is None:
        return (f"too many {source.noun} to look for ones to heal on that resemble ones to evaluate on",)
    alike = np.flatnonzero(found >= 0)
    if not len(alike):
        return ()
    pair = f"{source.names[healing[alike[0]]]} as {source.names[evaluation[found[alike[0]]]]}"
    return (
        f"{len(alike)} of {len(healing)} {source.noun} to heal on are nearly the same as ones to evaluate on ({pair}): "
        "accuracy may look better than it is; if they are copies or frames of one scene, remove them",
    )
