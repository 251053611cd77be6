"""Looped blocks as one Scan node: the same answers, each weight once, in every precision; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tiny import block_spec, images, model_of

from compress.model import Step, Transformer
from compress.model.per_loop import PerLoopSpec
from export.cpu_graph import optimize_for_cpu
from export.onnx_model import export_onnx
from export.precision.fp16 import to_fp16
from export.precision.int8_dynamic import to_int8_dynamic
from export.precision.int8_static import to_int8_static
from export.scan import roll_loops
from export.sharing import assert_shared_once
from runtime import ort
from targets.errors import InputError

DELTAS = {"delta_rank": 2}


def exported(model: Transformer, path: Path) -> Path:
    export_onnx(model, images(model), ["logits"], {"pixel_values": {0: "batch"}}, path)
    return path


def answer(path: Path, model: Transformer, batch: int = 3) -> np.ndarray:
    inputs = {name: tensor.numpy() for name, tensor in images(model, batch, seed=3).items()}
    return ort.load(path, threads=1).run(inputs)["logits"]


def looped(loops: int = 4, **block: object) -> Transformer:
    """A block that is looped between two of their own."""
    spec = block_spec(heads=4, kv_heads=4, head_dim=8, **block)  # type: ignore[arg-type]
    return model_of(spec, spec.replace(loops=loops, per_loop=PerLoopSpec(**DELTAS)), spec, hidden_size=32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(looped(), tmp_path_factory.mktemp("looped") / "plain.onnx")


@pytest.mark.parametrize(
    "form",
    ["fp32", "fused", "fp16", "int8-static", "int8-dynamic"],
)
def test_a_loop_becomes_one_node_in_every_precision(form: str, plain: Path, tmp_path: Path) -> None:
    model = looped()
    path, rolled = tmp_path / f"{form}.onnx", tmp_path / f"{form}.rolled.onnx"
    if form == "fp32":
        path = plain
    elif form == "fused":
        optimize_for_cpu(plain, path)
    elif form == "fp16":
        to_fp16(plain, path)
    elif form == "int8-static":
        to_int8_static(plain, path, iter([{name: tensor.numpy() for name, tensor in images(model, 8).items()}]))
    else:
        to_int8_dynamic(plain, path)
    assert_shared_once(path)
    result = roll_loops(path, rolled)
    assert result.loops == 4
    assert result.bytes == rolled.stat().st_size < path.stat().st_size
    assert result.nodes < 0.7 * result.nodes_before
    assert ("int8 numbers" in result.unfit_for_tensorrt) == form.startswith("int8")
    assert [node.op_type for node in onnx.load(rolled).graph.node].count("Scan") == 1
    assert_shared_once(rolled)
    # Runtimes fuse Q/DQ and casts otherwise in a body, so a rounding step may fall on the other side.
    room = {"fp32": 1e-5, "fused": 1e-5, "int8-dynamic": 1e-5}.get(form, 0.05)
    wanted = answer(path, model)
    np.testing.assert_allclose(answer(rolled, model), wanted, atol=room * float(np.abs(wanted).max()))


@pytest.mark.parametrize(
    ("loops", "blocks", "own"),
    [(3, 1, {"delta_rank": 2, "timestep": True}), (2, 2, {"signal_rank": 1}), (4, 1, {})],
)
def test_a_rolled_model_gives_the_answers_of_the_unrolled_one(
    tmp_path: Path, loops: int, blocks: int, own: dict[str, Any]
) -> None:
    spec = block_spec(heads=2, kv_heads=2, head_dim=16, loops=loops, per_loop=PerLoopSpec(**own))
    order = [(block, loop) for loop in range(loops) for block in range(blocks)]
    steps = tuple(Step(block=block, loop=loop, origin=place) for place, (block, loop) in enumerate(order))
    model = model_of(*[spec] * blocks, hidden_size=32, schedule=steps)
    plain = exported(model, tmp_path / "plain.onnx")
    assert roll_loops(plain, tmp_path / "rolled.onnx").loops == loops
    for batch in (1, 3):
        mine, wanted = (answer(tmp_path / f"{name}.onnx", model, batch) for name in ("rolled", "plain"))
        np.testing.assert_allclose(mine, wanted, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"delta_rank": 2, "timestep": True}, ""),
        ({"delta_rank": 3}, "odd size; choose even ranks"),
        ({"delta_rank": 2, "ffn_delta_rank": 3}, "odd size; choose even ranks"),
        ({"signal_rank": 1}, "odd size; choose even ranks"),
    ],
)
def test_tensorrt_is_given_no_loop_with_matrices_of_an_odd_size(
    tmp_path: Path, own: dict[str, Any], reason: str
) -> None:
    spec = block_spec(heads=4, kv_heads=4, head_dim=8, loops=3, per_loop=PerLoopSpec(**own))
    path = exported(model_of(spec, hidden_size=32), tmp_path / "plain.onnx")
    unfit = roll_loops(path, tmp_path / "rolled.onnx").unfit_for_tensorrt
    assert unfit.endswith(reason) if reason else not unfit


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.integers(0, 3),
    loops=st.integers(2, 6),
    layers=st.integers(1, 2),
    after=st.integers(0, 2),
    width=st.integers(16, 20),
    seed=st.integers(0, 99),
)
def test_any_chain_of_equal_layers_is_rolled(
    tmp_path: Path, before: int, loops: int, layers: int, after: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shared = {f"w{layer}": rng.normal(size=(width, width)) / width for layer in range(layers)}
    weights, nodes, x = dict(shared), [], "x"

    def layer(matrix: str, name: str) -> None:
        nonlocal x
        weights[f"b{name}"] = rng.normal(size=width)
        nodes.append(onnx.helper.make_node("MatMul", [x, matrix], [f"product{name}"]))
        nodes.append(onnx.helper.make_node("Add", [f"product{name}", f"b{name}"], [f"sum{name}"]))
        nodes.append(onnx.helper.make_node("Tanh", [f"sum{name}"], [f"tanh{name}"]))
        nodes.append(onnx.helper.make_node("Add", [x, f"tanh{name}"], [f"x{name}"]))
        x = f"x{name}"

    for place in range(before + loops * layers + after):
        inside = before <= place < before + loops * layers
        matrix = f"w{(place - before) % layers}" if inside else f"own{place}"
        weights.setdefault(matrix, rng.normal(size=(width, width)) / width)
        layer(matrix, str(place))
    value = [onnx.helper.make_tensor_value_info(name, 1, ["batch", width]) for name in ("x", x)]
    initializers = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "chain", value[:1], value[1:], initializers),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(proto, tmp_path / "chain.onnx")
    result = roll_loops(tmp_path / "chain.onnx", tmp_path / "rolled.onnx")
    assert result.loops == loops
    assert result.nodes == 1 + 4 * (before + after)
    inputs = {"x": rng.normal(size=(2, width)).astype(np.float32)}
    mine, wanted = (ort.load(tmp_path / f"{name}.onnx", threads=1).run(inputs)[x] for name in ("rolled", "chain"))
    np.testing.assert_allclose(mine, wanted, atol=1e-5)


def test_rolling_twice_gives_the_same_bytes(plain: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        roll_loops(plain, tmp_path / f"{name}.onnx")
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


def test_layers_that_share_no_weights_are_no_loop(tmp_path: Path) -> None:
    plain = exported(model_of(*[block_spec(heads=4, kv_heads=4, head_dim=8)] * 4, hidden_size=32), tmp_path / "p.onnx")
    with pytest.raises(InputError, match=r"p\.onnx holds no loop: no run of equal nodes that shares its weights"):
        roll_loops(plain, tmp_path / "rolled.onnx")
    assert not (tmp_path / "rolled.onnx").exists()


def test_a_loop_whose_middle_is_read_elsewhere_stays_unrolled(tmp_path: Path) -> None:
    class Watched(torch.nn.Module):
        """Gives what leaves the second step as well."""

        def __init__(self) -> None:
            super().__init__()
            self.model = looped(loops=2)

        def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            seen = {}
            logits = self.model(inputs, lambda step, site, tokens: seen.update({(step, site): tokens.x_BND}))
            return logits, seen[1, "out"][:, 0]

    module = Watched().eval()
    path = tmp_path / "watched.onnx"
    export_onnx(module, images(module.model), ["logits", "middle"], {"pixel_values": {0: "batch"}}, path)
    with pytest.raises(InputError, match="holds no loop"):
        roll_loops(path, tmp_path / "rolled.onnx")
