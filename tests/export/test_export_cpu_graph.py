"""The fused file for CPUs: every way to write attention is found, nothing else is touched, numbers stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.mini_models import DYNAMIC, HEADS, HIDDEN, Block, MiniViT, images, randomized
from torch import Tensor, nn
from torch.nn import functional as F

from export import graph
from export.cpu_graph import CpuGraph, optimize_for_cpu
from export.onnx_model import export_onnx
from export.sharing import assert_shared_once
from runtime import ort

SIZE = HIDDEN // HEADS


class Variant(Block):
    """The same attention, written another way."""

    def __init__(self, way: str) -> None:
        super().__init__(packed=way not in ("separate", "sdpa", "shared-keys", "wide-values", "scaled-keys"))
        self.way = way
        if way == "shared-keys":
            self.k = nn.Linear(HIDDEN, SIZE)
        if way == "wide-values":
            self.v, self.out = nn.Linear(HIDDEN, 2 * HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN)

    def attention(self, x_BND: Tensor) -> Tensor:
        if self.way in ("separate", "packed"):
            return super().attention(x_BND)
        batch, tokens, _ = x_BND.shape

        def heads(y: Tensor, count: int = HEADS) -> Tensor:
            return y.view(batch, tokens, count, -1).transpose(1, 2)

        if self.way == "split":
            q, k, v = (heads(part) for part in self.qkv(x_BND).split(HIDDEN, dim=-1))
        elif self.way in ("interleaved", "mask", "rotated-output"):  # each head's q, k, v lie side by side
            q, k, v = heads(self.qkv(x_BND)).split(SIZE, dim=-1)
        elif self.way == "shared-keys":
            q, k, v = heads(self.q(x_BND)), heads(self.k(x_BND), 1).expand(-1, HEADS, -1, -1), heads(self.v(x_BND))
        else:
            q, k, v = heads(self.q(x_BND)), heads(self.k(x_BND)), heads(self.v(x_BND))
        if self.way == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.way == "scaled-keys":
            y = torch.softmax((q / 2) @ (k * 0.3).transpose(-1, -2) * 1.5, dim=-1) @ v
        elif self.way == "mask":
            y = torch.softmax(q @ k.transpose(-1, -2) + torch.ones(tokens, tokens).tril().log(), dim=-1) @ v
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) * SIZE**-0.5, dim=-1) @ v
        if self.way == "rotated-output":  # heads joined in an order that no plain attention has
            return self.out(y.permute(0, 2, 3, 1).reshape(batch, tokens, -1))
        return self.out(y.transpose(1, 2).reshape(batch, tokens, -1))


def exported(way: str, path: Path) -> nn.Module:
    model = MiniViT(layers=0)
    model.blocks = nn.ModuleList([Variant(way), Variant(way)])
    module = randomized(model)
    export_onnx(module, images(2), ["logits"], DYNAMIC, path)
    return module


@pytest.mark.parametrize("way", ["packed", "separate", "split", "interleaved", "sdpa", "scaled-keys"])
def test_attention_is_fused_however_it_is_written(way: str, tmp_path: Path) -> None:
    exported(way, tmp_path / "plain.onnx")
    result = optimize_for_cpu(tmp_path / "plain.onnx", tmp_path / "cpu.onnx")
    assert result.fused == result.softmaxes == 2 and result.nodes < result.source_nodes
    assert result.numerics and result.numerics.errors[0].max_rel < 1e-6
    assert [size[0] for size in result.numerics.sizes] == [1, 2, 7]
    operators = [node.op_type for node in onnx.load(tmp_path / "cpu.onnx").graph.node]
    assert operators.count("Attention") == 2 and "Softmax" not in operators


@pytest.mark.parametrize("way", ["mask", "shared-keys", "wide-values", "rotated-output"])
def test_other_attention_is_left_as_it_is(way: str, tmp_path: Path) -> None:
    exported(way, tmp_path / "plain.onnx")
    result = optimize_for_cpu(tmp_path / "plain.onnx", tmp_path / "cpu.onnx")
    assert result.fused == 0 and result.softmaxes == 2
    assert result.numerics.errors[0].max_abs == 0
    assert (tmp_path / "cpu.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


class Masked(nn.Module):
    """Attention with a mask of tokens, used in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.qkv, self.out = way, nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        x_BND, mask_BN = inputs["x"], inputs["mask"].bool()
        batch, tokens, _ = x_BND.shape
        parts = self.qkv(x_BND).split(HIDDEN, dim=-1)
        q, k, v = (part.view(batch, tokens, HEADS, SIZE).transpose(1, 2) for part in parts)
        hidden = ~mask_BN[:, None, None, :]
        if self.way == "queries":
            hidden = ~mask_BN[:, None, :, None]
        elif self.way == "zeros-are-keys":
            hidden = mask_BN[:, None, None, :]
        elif self.way == "causal":
            hidden = hidden | torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        y = (q @ k.transpose(-1, -2) * SIZE**-0.5).masked_fill(hidden, torch.finfo(torch.float32).min).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, tokens, -1))


def masked(way: str, path: Path) -> CpuGraph:
    example = {"x": torch.randn(2, 3, HIDDEN), "mask": torch.ones(2, 3, dtype=torch.long)}
    dynamic = {name: {0: "batch", 1: "length"} for name in example}
    export_onnx(randomized(Masked(way)), example, ["y"], dynamic, path / "plain.onnx")
    return optimize_for_cpu(path / "plain.onnx", path / "cpu.onnx")


def test_a_mask_of_keys_goes_into_the_fused_attention(tmp_path: Path) -> None:
    result = masked("keys", tmp_path)
    assert result.fused == result.softmaxes == 1
    assert result.numerics and result.numerics.errors[0].max_rel < 1e-6
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2, 5, HIDDEN)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])
    plain, fused = (ort.load(tmp_path / name).run({"x": x, "mask": mask})["y"] for name in ("plain.onnx", "cpu.onnx"))
    np.testing.assert_allclose(fused, plain, atol=1e-6 * np.abs(plain).max())
    alone = ort.load(tmp_path / "cpu.onnx").run({"x": x[:1, :3], "mask": mask[:1, :3]})["y"]
    np.testing.assert_allclose(fused[:1, :3], alone, atol=1e-6 * np.abs(plain).max())


@pytest.mark.parametrize("way", ["queries", "zeros-are-keys", "causal"])
def test_a_mask_of_another_kind_stays_as_it_is(way: str, tmp_path: Path) -> None:
    assert masked(way, tmp_path).fused == 0


def test_a_loop_has_one_packed_weight(looped_file: Path, vit_file: Path, tmp_path: Path) -> None:
    looped = optimize_for_cpu(looped_file, tmp_path / "looped.onnx")
    assert looped.fused == 6
    assert_shared_once(tmp_path / "looped.onnx")
    assert looped.bytes < 1.1 * optimize_for_cpu(vit_file, tmp_path / "vit.onnx").bytes


def test_the_fused_file_has_no_weight_that_it_does_not_use(vit_file: Path, tmp_path: Path) -> None:
    optimize_for_cpu(vit_file, tmp_path / "cpu.onnx")
    model = onnx.load(tmp_path / "cpu.onnx")
    read = {name for node in model.graph.node for name in node.input}
    assert set(graph.weights(model)) <= read
    assert {entry.domain for entry in model.opset_import} == {"", "com.microsoft"}
    assert graph.weights(model)["blocks.0.qkv.weight"].shape == (HIDDEN, 3 * HIDDEN)


def test_a_file_without_attention_is_copied(cell_file: Path, tmp_path: Path) -> None:
    result = optimize_for_cpu(cell_file, tmp_path / "cpu.onnx")
    assert (result.fused, result.softmaxes) == (0, 0)
    assert (tmp_path / "cpu.onnx").read_bytes() == cell_file.read_bytes()
