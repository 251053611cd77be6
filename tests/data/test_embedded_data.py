"""The embedded data is what its cards say, and its maker makes the same bytes from the same sources."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from compress.data import load, preprocessing_from_hf
from compress.data.packed import PackedJpegs
from runtime.files import sha256_of

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "compress" / "zoo"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.mark.parametrize("folder", ["cifar10", "mnist", "vit-mnist", "stories260k", "minilm-sst2", "m30k-de-en"])
def test_cards_give_the_size_and_digest_of_every_file(folder: str) -> None:
    rows = re.findall(r"^\| (\S+) \|.* (\d+) \| ([0-9a-f]{64}) \|$", (ZOO / folder / "README.md").read_text(), re.M)
    on_disk = {f.name for f in (ZOO / folder).iterdir() if f.suffix in (".jpegs", ".npz", ".safetensors")}
    assert {name for name, _, _ in rows} >= on_disk
    for name, size, digest in rows:
        assert (ZOO / folder / name).stat().st_size == int(size)
        assert sha256_of(ZOO / folder / name) == digest


@pytest.mark.parametrize(("file", "per_class"), [("test.jpegs", 1000), ("train-5000.jpegs", 500)])
def test_cifar10_packs_hold_whole_jpegs_of_every_class_sorted(file: str, per_class: int) -> None:
    archive = PackedJpegs(ZOO / "cifar10" / file)
    names, _ = archive.listing()
    assert collections.Counter(name.split("/")[0] for name in names) == dict.fromkeys(CLASSES, per_class)
    assert names == sorted(names)
    for name in names[::97]:
        with Image.open(io.BytesIO(archive.read(name))) as picture:
            picture.load()
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (32, 32), "RGB")


def test_training_choice_is_the_one_the_card_describes() -> None:
    names, _ = PackedJpegs(ZOO / "cifar10" / "train-5000.jpegs").listing()
    chosen = [name for name in names if name.startswith("cat/")]
    every = [f"cat/{number:04d}.jpg" for number in range(5000)]
    assert chosen == sorted(sorted(every, key=lambda n: hashlib.sha256(f"0:{n}".encode()).hexdigest())[:500])


@pytest.mark.parametrize("pair", [("cifar10-test", "cifar10-train"), ("mnist-test", "mnist-calibration")])
def test_no_test_image_is_among_the_training_images(pair: tuple[str, str]) -> None:
    test, train = ({image.tobytes() for image in load(f"zoo:{name}").raw()} for name in pair)
    assert len(test) == 10_000
    assert len(train) == 5_000
    assert not test & train


def test_mnist_files_have_the_known_label_counts() -> None:
    known = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # of the published test set
    assert np.bincount(load("zoo:mnist-test").labels).tolist() == known
    assert np.bincount(load("zoo:mnist-calibration").labels).tolist() == [500] * 10


def vit_mnist_logits(w: dict[str, torch.Tensor], x_BCHW: torch.Tensor) -> torch.Tensor:
    """The forward pass of the card, written from it alone. B batch, N tokens, D width, H heads, K per head."""
    config = json.loads((ZOO / "vit-mnist" / "config.json").read_text())
    batch, patch, grid = len(x_BCHW), config["patch_size"], config["image_size"] // config["patch_size"]
    heads, eps = config["heads"], config["layer_norm_eps"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    patches = x_BCHW.reshape(batch, 1, grid, patch, grid, patch).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    x_BND = torch.cat([w["cls_token"].expand(batch, 1, -1), linear(patches, "to_patch_embedding.1")], 1)
    x_BND = x_BND + w["pos_embedding"]
    for layer in range(config["depth"]):
        attend, feed = f"transformer.layers.{layer}.0", f"transformer.layers.{layer}.1"
        qkv = linear(norm(x_BND, f"{attend}.norm"), f"{attend}.fn.to_qkv")
        q_BHNK, k_BHNK, v_BHNK = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        y_BHNK = F.scaled_dot_product_attention(q_BHNK, k_BHNK, v_BHNK, scale=config["attention_scale"])
        x_BND = x_BND + linear(y_BHNK.transpose(1, 2).flatten(2), f"{attend}.fn.to_out.0")
        hidden = linear(norm(x_BND, f"{feed}.norm"), f"{feed}.fn.net.0").relu()
        x_BND = x_BND + linear(hidden, f"{feed}.fn.net.3")
    return linear(norm(x_BND[:, 0], "mlp_head.0"), "mlp_head.1")


@torch.inference_mode()
def test_vit_mnist_reaches_the_accuracy_and_loss_of_its_authors_log() -> None:
    weights = load_file(ZOO / "vit-mnist" / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == 499_722
    preprocessing = preprocessing_from_hf(ZOO / "vit-mnist")
    correct, loss = 0, 0.0
    for pixels, labels in load("zoo:mnist-test").batches(preprocessing, batch_size=500):
        logits, target = vit_mnist_logits(weights, torch.from_numpy(pixels)), torch.from_numpy(labels)
        correct += int((logits.argmax(-1) == target).sum())
        loss += float(F.cross_entropy(logits, target, reduction="sum"))
    assert correct == 9721
    assert round(loss / 10_000, 4) == 0.0871


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def make(tmp_path: Path, out: str) -> Path:
    """Run the maker on small raw sources; 501 training images of one class, so that the choice leaves one out."""
    with zipfile.ZipFile(tmp_path / "cifar.zip", "w") as archive:
        for number in range(501):
            archive.writestr(f"cifar10/train/cat/{number:04d}.jpg", jpeg(number))
        archive.writestr("cifar10/test/dog/0001.jpg", jpeg(1001))
        archive.writestr("cifar10/test/cat/0000.jpg", jpeg(1000))
    draw = np.random.default_rng(0)
    arrays = {
        "x_train": draw.integers(0, 256, (1100, 4, 4), np.uint8),
        "y_train": (np.arange(1100) % 2).astype(np.uint8),
        "x_test": draw.integers(0, 256, (3, 4, 4), np.uint8),
        "y_test": np.array([0, 1, 1], np.uint8),
    }
    np.savez(tmp_path / "mnist.npz", **arrays)
    torch.save({"b.weight": torch.arange(6.0).reshape(2, 3), "a": torch.ones(1)}, tmp_path / "vit.pt")
    sources = ["--cifar10", "cifar.zip", "--mnist", "mnist.npz", "--vit-mnist", "vit.pt", "--out", out]
    maker = ROOT / "benchmarks" / "make" / "embedded_data.py"
    subprocess.run([sys.executable, maker, *sources], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / out


def test_maker_copies_its_sources_and_is_deterministic(tmp_path: Path) -> None:
    first, second = make(tmp_path, "first"), make(tmp_path, "second")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 5
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)

    test = PackedJpegs(first / "cifar10" / "test.jpegs")
    assert test.listing() == (["cat/0000.jpg", "dog/0001.jpg"], [])
    assert test.read("dog/0001.jpg") == jpeg(1001)
    train = PackedJpegs(first / "cifar10" / "train-5000.jpegs")
    names, _ = train.listing()
    assert len(names) == 500
    assert all(train.read(name) == jpeg(int(name[4:8])) for name in names)

    raw = np.load(tmp_path / "mnist.npz")
    calibration = np.load(first / "mnist" / "calibration.npz")
    assert np.bincount(calibration["labels"]).tolist() == [500, 500]
    where = {image.tobytes(): label for image, label in zip(raw["x_train"], raw["y_train"], strict=True)}
    assert all(where[x.tobytes()] == y for x, y in zip(calibration["images"], calibration["labels"], strict=True))
    assert np.array_equal(np.load(first / "mnist" / "test.npz")["images"], raw["x_test"])

    with safe_open(first / "vit-mnist" / "model.safetensors", "pt") as tensors:
        assert sorted(tensors.keys()) == ["a", "b.weight"]
        assert torch.equal(tensors.get_tensor("b.weight"), torch.arange(6.0).reshape(2, 3))
