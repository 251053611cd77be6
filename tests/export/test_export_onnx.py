"""torch -> ONNX: opsets, dynamic dimensions, names, equal bytes, weights stored once, numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.jobs import ROOT
from support.mini_models import DYNAMIC, HIDDEN, MiniDecoder, MiniViT, cell_inputs, decoder_inputs, images, randomized
from torch import Tensor, nn

from export import graph
from export.numerics import check_against, check_files, compare, resized
from export.onnx_model import export_onnx, read_info
from export.sharing import assert_shared_once
from targets.errors import GateFailed, InputError


def run(path: Path, inputs: dict[str, Tensor]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


def test_the_file_says_what_was_asked_for(vit_file: Path) -> None:
    info = read_info(vit_file)
    assert (info.opset, info.ir) == (20, 10)
    assert [(one.name, one.dtype, one.shape) for one in info.inputs] == [
        ("pixel_values", "float32", ("batch", 3, 16, 16))
    ]
    assert [(one.name, one.shape) for one in info.outputs] == [("logits", ("batch", 5))]
    assert info.bytes == vit_file.stat().st_size > info.initializer_bytes > 0


def test_an_opset_that_torch_silently_lowers_is_an_error(vit: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="asked for ONNX opset 27, torch's exporter gave 18"):
        export_onnx(vit, images(2), ["logits"], DYNAMIC, tmp_path / "x.onnx", opset=27)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_batch_size_gives_torchs_numbers(vit: nn.Module, vit_file: Path, batch: int) -> None:
    inputs = images(batch, seed=batch)
    with torch.no_grad():
        wanted = vit(inputs).numpy()
    np.testing.assert_allclose(run(vit_file, inputs)[0], wanted, atol=1e-5)


def test_two_exports_in_two_processes_give_equal_bytes(vit_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from support.mini_models import *\n"
        "from export.onnx_model import export_onnx\n"
        "export_onnx(randomized(MiniViT()), images(2), ['logits'], DYNAMIC, Path(sys.argv[1]))"
    )
    path = tmp_path / "again.onnx"
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert path.read_bytes() == vit_file.read_bytes()
    assert done.stdout == ""


def test_no_trace_of_the_machine_stays_in_the_file(vit_file: Path) -> None:
    data = vit_file.read_bytes()
    for trace in (b"/home", b"/work", b"site-packages", b"mini_models", b"stack_trace", b"pytorch"):
        assert trace not in data
    model = onnx.load(vit_file)
    assert model.producer_name == "edgepress" and not model.producer_version and not model.graph.value_info


def test_nodes_and_weights_are_named_after_the_module(vit_file: Path) -> None:
    model = onnx.load(vit_file)
    nodes = {node.name: node for node in model.graph.node}
    assert nodes["blocks.0.up/MatMul"].input[1] == "blocks.0.up.weight.T"
    assert nodes["blocks.1.norm1/LayerNormalization"].input[1] == "blocks.1.norm1.weight"
    assert len(nodes) == len(model.graph.node)


def test_weights_of_a_looped_model_are_stored_once(vit_file: Path, looped_file: Path) -> None:
    assert_shared_once(looped_file)
    weights = sum(one.nbytes for one in graph.weights(onnx.load(vit_file)).values())
    assert sum(one.nbytes for one in graph.weights(onnx.load(looped_file)).values()) <= weights * 1.01
    products = [node.name for node in onnx.load(looped_file).graph.node if node.name.startswith("blocks.0.up/MatMul")]
    assert products == ["blocks.0.up/MatMul", "blocks.0.up/MatMul_1", "blocks.0.up/MatMul_2"]


class TiedLanguageModel(nn.Module):
    """Embedding and output layer share one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(400, HIDDEN)
        self.mix = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return nn.functional.linear(torch.tanh(self.mix(self.embedding(inputs["ids"]))), self.embedding.weight)


def test_a_tied_embedding_is_stored_once(tmp_path: Path) -> None:
    module, path = randomized(TiedLanguageModel()), tmp_path / "lm.onnx"
    ids = {"ids": torch.arange(10).reshape(2, 5)}
    info = export_onnx(module, ids, ["logits"], {"ids": {0: "batch", 1: "length"}}, path)
    assert_shared_once(path)
    assert info.initializer_bytes < 1.2 * 400 * HIDDEN * 4
    check_against(module, path, [ids, {"ids": torch.arange(9).reshape(3, 3)}])


def test_a_weight_stored_twice_is_found(vit_file: Path, tmp_path: Path) -> None:
    model = onnx.load(vit_file)
    weight = next(one for one in model.graph.initializer if one.name == "blocks.0.up.weight.T")
    array = onnx.numpy_helper.to_array(weight)
    for copy in (array, array.T.copy()):
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        changed.graph.initializer.append(onnx.numpy_helper.from_array(copy, "copy"))
        path = tmp_path / "twice.onnx"
        path.write_bytes(changed.SerializeToString())
        with pytest.raises(GateFailed, match=r"stores one weight twice, as 'blocks.0.up.weight.T' and 'copy'"):
            assert_shared_once(path)


def test_state_and_chunk_are_dynamic(cell_file: Path) -> None:
    shapes = {one.name: one.shape for one in (*read_info(cell_file).inputs, *read_info(cell_file).outputs)}
    assert shapes["x"] == shapes["y"] == ("batch", "chunk", HIDDEN)
    assert shapes["past_s"] == shapes["present_s"] == ("batch", HIDDEN, HIDDEN)


def test_chunks_of_a_recurrent_file_give_what_the_whole_gives(cell_file: Path) -> None:
    whole = cell_inputs(2, 7)
    wanted = run(cell_file, whole)
    state = {name: whole[name] for name in ("past_s", "past_z")}
    for part in whole["x"].split([3, 1, 3], dim=1):
        _, s, z = run(cell_file, {"x": part, **state})
        state = {"past_s": torch.tensor(s), "past_z": torch.tensor(z)}
    np.testing.assert_allclose(state["past_s"], wanted[1], atol=1e-5)
    np.testing.assert_allclose(state["past_z"], wanted[2], atol=1e-5)


def test_a_decoder_with_a_cache_gives_torchs_numbers_at_every_length(decoder_file: Path) -> None:
    cases = [decoder_inputs(*sizes) for sizes in ((1, 1, 4), (2, 5, 3), (3, 7, 2))]
    assert check_against(randomized(MiniDecoder()), decoder_file, cases)
    shapes = {one.name: one.shape for one in read_info(decoder_file).inputs}
    assert shapes["past_k"] == ("batch", 3, "past", 16)


class Unused(nn.Module):
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["a"] * 2


class Frozen(nn.Module):
    """Works for a batch of two alone."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["a"] + torch.arange(6.0).reshape(2, 3)


class Branching(nn.Module):
    """Decides by a value, which no graph can hold."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["a"] if inputs["a"].sum() > 0 else -inputs["a"]


@pytest.mark.parametrize(
    ("module", "example", "dynamic", "message"),
    [
        (Unused(), {"a": torch.ones(1, 3)}, {"a": {0: "batch"}}, "give 2 or more"),
        (Unused(), {"a": torch.ones(2, 3)}, {"b": {0: "batch"}}, "names input 'b'"),
        (Unused(), {"a": torch.ones(2, 3)}, {"a": {5: "batch"}}, "outside its shape"),
        (Frozen(), {"a": torch.ones(2, 3)}, {"a": {0: "batch"}}, "a dimension froze"),
        (Branching(), {"a": torch.ones(2, 3)}, {"a": {0: "batch"}}, "cannot export this model to ONNX: "),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_line(
    module: nn.Module, example: dict[str, Tensor], dynamic: dict[str, dict[int, str]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        export_onnx(module, example, ["y"], dynamic, tmp_path / "x.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.onnx").exists()


def test_numbers_that_agree_are_reported(vit: nn.Module, vit_file: Path) -> None:
    cases = [resized(images(2), DYNAMIC, {"batch": batch}) for batch in (1, 2, 7)]
    found = check_against(vit, vit_file, cases)
    assert found and [size[0] for size in found.sizes] == [1, 2, 7]
    assert [error.name for error in found.errors] == ["logits"]
    assert 0 <= found.errors[0].max_rel < 1e-5


def test_numbers_of_another_model_fail(vit_file: Path) -> None:
    with pytest.raises(
        GateFailed, match=r"vit.onnx: 'logits' differs from torch in float64 by up to .* allowed\); do not ship"
    ):
        check_against(randomized(MiniViT(), seed=1), vit_file, [images(2)])


class Deep(nn.Module):
    """Layers that stretch what they are given: rounding errors grow from layer to layer."""

    def __init__(self, layers: int, gain: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(48, 48, bias=False) for _ in range(layers))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(gain * 48**-0.5 * torch.randn(48, 48, generator=generator))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        y = inputs["x"]
        for layer in self.layers:
            y = torch.tanh(layer(y))
        return y


def test_a_deep_net_may_err_a_few_times_as_much_as_torchs_own_fp32_and_no_more(tmp_path: Path) -> None:
    deep, path = Deep(40, 2.0), tmp_path / "deep.onnx"
    cases = [{"x": torch.randn(batch, 48, generator=torch.Generator().manual_seed(batch))} for batch in (1, 2, 7)]
    export_onnx(deep, cases[1], ["y"], {"x": {0: "batch"}}, path)
    with torch.no_grad():
        own = max(float((deep.double()({"x": case["x"].double()}) - deep.float()(case)).abs().max()) for case in cases)
    assert 1e-5 < own < 2e-4
    found = check_against(deep, path, cases, tolerance=own / 10)
    assert found.reference == "torch in float64" and found.errors[0].allowed == pytest.approx(10 * own, rel=0.1)
    assert next(deep.parameters()).dtype == torch.float32
    with torch.no_grad():
        deep.layers[20].weight[3, 4] += 1e-3
    with pytest.raises(GateFailed, match="'y' differs from torch in float64 by"):
        check_against(deep, path, cases)


def test_where_fp32_itself_is_noise_nothing_passes(tmp_path: Path) -> None:
    deep, path = Deep(60, 3.0), tmp_path / "deep.onnx"
    case = {"x": torch.randn(2, 48, generator=torch.Generator().manual_seed(0))}
    export_onnx(deep, case, ["y"], {"x": {0: "batch"}}, path)
    with pytest.raises(GateFailed, match=r"0\.001 allowed"):
        check_against(deep, path, [case])


def test_no_case_is_no_pass(vit: nn.Module, vit_file: Path) -> None:
    with pytest.raises(GateFailed, match="no case"):
        check_against(vit, vit_file, [])


def test_a_frozen_dimension_fails_the_comparison(vit: nn.Module, tmp_path: Path, vit_file: Path) -> None:
    model = onnx.load(vit_file)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    path = tmp_path / "frozen.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GateFailed, match=r"frozen.onnx does not run on an input of \[7, 3, 16, 16\]"):
        check_against(vit, path, [images(2), images(7)])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_fails(bad: float) -> None:
    good = {"y": np.ones(3)}
    with pytest.raises(GateFailed, match="not finite"):
        compare([((1,), good, {"y": np.array([1, bad, 1])})], ["y"], "file", 1e9)


def test_small_outputs_are_held_to_their_own_size() -> None:
    tiny = {"y": np.full(3, 0.02)}
    wrong = {"y": np.full(3, 0.0201)}
    assert not compare([((1,), tiny, wrong)], ["y"], "file", 1e-4)


def test_a_file_equals_itself(vit_file: Path) -> None:
    found = check_files(vit_file, vit_file, [{"pixel_values": images(3)["pixel_values"].numpy()}])
    assert found.errors[0].max_abs == 0


@pytest.mark.parametrize("data", [b"", b"no onnx", b"\x08\x0a"])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not an ONNX file"):
        read_info(path)


def test_importing_export_stays_lean() -> None:
    code = (
        "import export.onnx_model, export.numerics, export.bundle, export.cpu_graph, export.sizes, sys\n"
        "import export.precision.int8_static, export.precision.int8_dynamic, export.precision.fp16\n"
        "print(sorted(set(sys.modules) & {'torch', 'onnx', 'onnxruntime', 'scipy', 'pydantic', 'compress'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
