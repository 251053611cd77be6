"""The trained models of the zoo are read right: their logits are those of the code that they come from."""

from __future__ import annotations

import json

import numpy as np
import torch
from safetensors.numpy import load_file
from scipy.special import softmax
from transformers import ViTForImageClassification

from compress.data import load, preprocessing_from_hf
from compress.tasks import read_checkpoint
from compress.zoo import FOLDER


def first_images(model: str, data: str, count: int) -> np.ndarray:
    dataset = load(data).subset(range(count))
    return next(dataset.batches(preprocessing_from_hf(FOLDER / model), batch_size=count))[0]


@torch.no_grad()
def test_vit_cifar10_computes_the_logits_of_transformers() -> None:
    folder = FOLDER / "vit-cifar10"
    x_BCYX = torch.from_numpy(first_images("vit-cifar10", "zoo:cifar10-test", 8))
    original = ViTForImageClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model = read_checkpoint(folder, preprocessing_from_hf(folder))
    logits, theirs = model({"pixel_values": x_BCYX}), original(x_BCYX).logits
    assert float((logits - theirs).abs().max()) <= 1e-4
    assert model.structure.labels == tuple(original.config.id2label[label] for label in range(10))


def card_logits(x_BCYX: np.ndarray) -> np.ndarray:
    """The forward pass that the card of vit-mnist describes, in float64, one image and one head at a time.

    N tokens, D width, K head size.
    """
    folder = FOLDER / "vit-mnist"
    config = json.loads((folder / "config.json").read_text())
    weights = {name: array.astype(np.float64) for name, array in load_file(folder / "model.safetensors").items()}
    patch, size = config["patch_size"], config["dim_head"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    logits = []
    for image_CYX in x_BCYX.astype(np.float64):
        rows, columns = (range(0, side, patch) for side in image_CYX.shape[1:])
        patches = [image_CYX[:, y : y + patch, x : x + patch].transpose(1, 2, 0).ravel() for y in rows for x in columns]
        x_ND = np.vstack([weights["cls_token"][0], linear(np.array(patches), "to_patch_embedding.1")])
        x_ND = x_ND + weights["pos_embedding"][0]
        for layer in range(config["depth"]):
            attend, feed = f"transformer.layers.{layer}.0", f"transformer.layers.{layer}.1"
            q, k, v = np.split(linear(norm(x_ND, f"{attend}.norm"), f"{attend}.fn.to_qkv"), 3, axis=-1)
            heads = [slice(head * size, (head + 1) * size) for head in range(config["heads"])]
            mixed = [softmax(config["attention_scale"] * q[:, h] @ k[:, h].T, axis=-1) @ v[:, h] for h in heads]
            x_ND = x_ND + linear(np.hstack(mixed), f"{attend}.fn.to_out.0")
            hidden = np.maximum(linear(norm(x_ND, f"{feed}.norm"), f"{feed}.fn.net.0"), 0)
            x_ND = x_ND + linear(hidden, f"{feed}.fn.net.3")
        logits.append(linear(norm(x_ND[0], "mlp_head.0"), "mlp_head.1"))
    return np.array(logits)


@torch.no_grad()
def test_vit_mnist_computes_the_logits_of_its_card() -> None:
    folder = FOLDER / "vit-mnist"
    x_BCYX = first_images("vit-mnist", "zoo:mnist-test", 8)
    logits = read_checkpoint(folder, preprocessing_from_hf(folder))({"pixel_values": torch.from_numpy(x_BCYX)})
    np.testing.assert_allclose(logits.numpy(), card_logits(x_BCYX), atol=1e-4, rtol=0)
