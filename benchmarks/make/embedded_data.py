"""Make the embedded data of `compress/zoo` from its raw sources: same sources, same bytes.

    python -m benchmarks embedded-data --cifar10 cifar10.zip --mnist mnist.npz \
        --vit-mnist vit_mnist_gpu.pt --out compress/zoo

Raw sources: a zip of `cifar10/{train,test}/<class>/NNNN.jpg`; an npz with uint8 `x_train y_train x_test
y_test`; the third-party checkpoint of the MNIST ViT. The cards beside the files say where each comes from.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from compress.data.packed import pack
from runtime.files import sha256_of, write_atomic

SEED = 0
PER_CLASS = 500
_DATE = (1980, 1, 1, 0, 0, 0)


def pack_arrays(arrays: dict[str, np.ndarray]) -> bytes:
    """A compressed npz of the arrays, sorted, with fixed dates and modes: its bytes depend on the arrays alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for key, array in sorted(arrays.items()):
            entry = zipfile.ZipInfo(f"{key}.npy", _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(entry, content.getvalue())
    return buffer.getvalue()


def choose(names: Iterable[str], count: int) -> list[str]:
    """The `count` names with the smallest SHA-256 of "SEED:name": the same on every library version."""
    return sorted(sorted(names, key=lambda name: hashlib.sha256(f"{SEED}:{name}".encode()).digest())[:count])


def make_cifar10(source: Path, out: Path) -> None:
    """`test.jpegs`: every test image; `train-5000.jpegs`: PER_CLASS chosen training images of each class."""
    with zipfile.ZipFile(source) as raw:
        by_class: dict[str, list[str]] = defaultdict(list)
        test = []
        for path in raw.namelist():
            _, split, name = path.split("/", 2)
            if split == "train":
                by_class[name.split("/")[0]].append(name)
            else:
                test.append(name)
        train = [name for names in by_class.values() for name in choose(names, PER_CLASS)]
        for file, split, chosen in (("test.jpegs", "test", test), ("train-5000.jpegs", "train", train)):
            entries = ((name, raw.read(f"cifar10/{split}/{name}")) for name in chosen)
            write_atomic(out / file, pack(entries))


def make_mnist(source: Path, out: Path) -> None:
    """`test.npz`: the test set; `calibration.npz`: PER_CLASS chosen training images of each class."""
    with np.load(source, allow_pickle=False) as raw:
        test = {"images": raw["x_test"], "labels": raw["y_test"]}
        x_train, y_train = raw["x_train"], raw["y_train"]
    chosen = sorted(
        int(name)
        for label in np.unique(y_train)
        for name in choose(map(str, np.flatnonzero(y_train == label)), PER_CLASS)
    )
    write_atomic(out / "test.npz", pack_arrays(test))
    write_atomic(out / "calibration.npz", pack_arrays({"images": x_train[chosen], "labels": y_train[chosen]}))


def make_vit_mnist(source: Path, out: Path) -> None:
    """`model.safetensors`: the checkpoint's tensors under their own names."""
    import torch
    from safetensors.torch import save

    tensors = torch.load(source, map_location="cpu", weights_only=True)
    write_atomic(out / "model.safetensors", save(dict(tensors), metadata={"format": "pt"}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded data of compress/zoo from its raw sources.")
    parser.add_argument("--cifar10", type=Path, help="zip of cifar10/{train,test}/<class>/NNNN.jpg")
    parser.add_argument("--mnist", type=Path, help="npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--vit-mnist", type=Path, help="PyTorch checkpoint of the MNIST ViT")
    parser.add_argument("--out", type=Path, default=Path("compress/zoo"), help="folder to write (default: %(default)s)")
    given = parser.parse_args()
    makers = (
        (given.cifar10, make_cifar10, "cifar10"),
        (given.mnist, make_mnist, "mnist"),
        (given.vit_mnist, make_vit_mnist, "vit-mnist"),
    )
    for source, make, folder in makers:
        if source is None:
            continue
        make(source, given.out / folder)
        for file in sorted((given.out / folder).iterdir()):
            if file.suffix in (".jpegs", ".npz", ".safetensors"):
                print(f"{sha256_of(file)}  {file}  {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
