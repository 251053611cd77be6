"""Tying layers, aligning them first, and what loops have of their own: against plain numpy and against the layers.

T tokens, I inputs, O outputs, D hidden size, R rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.healing import damaged, feed, healed, vit_mnist
from support.rewriting import Oracle, calibration_of, moved, rewritten, seen
from support.tiny import HIDDEN, block_spec, images, logits, model_of

from compress.heal.objective import kl_divergence
from compress.model import Transformer, load, save
from compress.model.block import BlockSpec
from compress.model.ffns.affine import Affine
from compress.model.ffns.mlp import MlpSpec
from compress.model.forms.loops import at_loops
from compress.model.norms import NormSpec
from compress.rewrites.calibration import truncated
from compress.rewrites.loop_fit import LayerMap, projections, shared_weight
from compress.rewrites.tie_layers import TieLayers, _groups
from targets.errors import InputError

#: What rounding the weights to fp32 may do to a logit that is computed in float64.
ROUNDING = 2e-6
FULL = 10 * HIDDEN


@st.composite
def alike(draw: st.DrawFn, residual: bool = True) -> BlockSpec:
    """A block of which several can be tied."""
    heads = draw(st.integers(1, 3))
    return block_spec(
        heads=heads,
        kv_heads=heads,
        head_dim=2 * draw(st.integers(1, 2)),
        value_dim=draw(st.integers(1, 4)),
        query_bias=draw(st.booleans()),
        key_bias=draw(st.booleans()),
        value_bias=draw(st.booleans()),
        causal=draw(st.booleans()),
        rope=draw(st.booleans()),
        ffn=MlpSpec(intermediate_size=draw(st.integers(3, 16)), bias=draw(st.booleans())),
        norm=NormSpec(kind=draw(st.sampled_from(["layer", "rms"])), affine=not residual or draw(st.booleans())),
        residual=draw(st.sampled_from(["pre", "post", "parallel"])) if residual else "pre",
    )


@settings(max_examples=20, deadline=None)
@given(spec=alike(), seed=st.integers(0, 99))
def test_aligned_layers_compute_what_they_did(spec: BlockSpec, seed: int) -> None:
    model = model_of(spec, spec, spec, seed=seed)
    assert moved(model, rewritten(model, "align-layers")) <= ROUNDING


@pytest.mark.parametrize("rope", [False, True])
@torch.no_grad()
def test_aligning_undoes_another_order_and_another_basis(rope: bool) -> None:
    spec = block_spec(heads=3, kv_heads=3, head_dim=4, value_dim=3, rope=rope)
    model = model_of(spec, spec)
    one, other = model.block(0), model.block(1)
    other.load_state_dict(one.state_dict())
    heads, units = [2, 0, 1], torch.randperm(14, generator=torch.Generator().manual_seed(1))
    mixer, ffn = other.mixer, other.ffn
    turn_HKK, value_HVV = (
        torch.linalg.qr(torch.randn(3, size, size, generator=torch.Generator().manual_seed(2)))[0] for size in (4, 3)
    )
    for map_, turns in ((mixer.scores.query, turn_HKK), (mixer.scores.key, turn_HKK), (mixer.values.value, value_HVV)):
        turned_HKK = torch.eye(4).expand(3, 4, 4) if rope and turns is turn_HKK else turns
        for tensor in (map_.weight, map_.bias[0]):
            tensor.copy_((turned_HKK @ tensor.reshape(3, len(turned_HKK[0]), -1)[heads]).reshape(tensor.shape))
    output_DHV = mixer.values.output.weight.reshape(HIDDEN, 3, 3)[:, heads]
    mixer.values.output.weight.copy_(torch.einsum("hwv,dhv->dhw", value_HVV, output_DHV).flatten(1))
    ffn.up.weight.copy_(ffn.up.weight[units])
    ffn.up.bias[0].copy_(ffn.up.bias[0][units])
    ffn.down.weight.copy_(ffn.down.weight[:, units])
    result = rewritten(model, "align-layers", reference=0)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(result.block(1).state_dict()[name], tensor, atol=1e-5, rtol=0)


@settings(max_examples=15, deadline=None)
@given(
    spec=alike(),
    grouping=st.sampled_from(["middle", "cycle", "sequence", [0, 1, 0, 2, 1]]),
    init=st.sampled_from(["first", "stepwise", "mean", "data-aware"]),
    blocks=st.integers(1, 2),
    signals=st.integers(0, 2),
    timestep=st.booleans(),
    seed=st.integers(0, 99),
)
def test_full_rank_deltas_reproduce_the_layers(
    spec: BlockSpec, grouping: Any, init: str, blocks: int, signals: int, timestep: bool, seed: int
) -> None:
    model = model_of(*[spec] * 5, seed=seed)
    timestep = timestep and spec.residual == "pre"
    options = {"grouping": grouping, "init": init, "blocks": blocks, "signal_rank": signals, "timestep": timestep}
    tied = rewritten(model, "tie-layers", calibration_of(model, batches=8), delta_rank=FULL, **options)
    assert len(tied.structure.blocks) < 5
    assert moved(model, tied) <= 1e-4


def test_a_tied_weight_is_one_parameter_that_every_loop_reads() -> None:
    model = model_of(*[block_spec()] * 6)
    tied = rewritten(model, "tie-layers")
    assert [spec.loops for spec in tied.structure.blocks] == [1, 4, 1]
    assert [(step.block, step.loop, step.origin) for step in tied.structure.schedule] == [
        (0, 0, 0), (1, 0, 1), (1, 1, 2), (1, 2, 3), (1, 3, 4), (2, 0, 5),
    ]  # fmt: skip
    matrices = [name for name, tensor in tied.state_dict().items() if name.startswith("blocks.1.") and tensor.ndim == 2]
    assert len(matrices) == len(list(projections(tied.block(1)))) == 6
    with torch.no_grad():
        tied.block(1).ffn.up.weight.zero_()  # type: ignore[union-attr, operator]
        seen_by = [moved_at(tied, model, step) for step in range(6)]
    assert [change > 0 for change in seen_by] == [False, True, True, True, True, True]


def moved_at(model: Transformer, other: Transformer, step: int) -> float:
    calibration = calibration_of(model, batches=1)
    return float((seen(model, calibration, step, "out") - seen(other, calibration, step, "out")).abs().max())


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({}, [[0], [1, 2, 3, 4], [5]]),
        ({"blocks": 2}, [[0], [1, 3], [2, 4], [5]]),
        ({"untied": 2}, [[0], [1], [2, 3], [4], [5]]),
        ({"untied": 0, "blocks": 3}, [[0, 3], [1, 4], [2, 5]]),
        ({"grouping": "cycle", "blocks": 2}, [[0, 2, 4], [1, 3, 5]]),
        ({"grouping": "sequence", "blocks": 2}, [[0, 1, 2], [3, 4, 5]]),
        ({"grouping": "sequence", "blocks": 4}, [[0, 1], [2], [3, 4], [5]]),
        ({"grouping": [7, 1, 1, 7, 0, 1]}, [[0, 3], [1, 2, 5], [4]]),
    ],
)
def test_groupings_are_what_they_are_called(options: dict[str, Any], groups: list[list[int]]) -> None:
    assert _groups(TieLayers(**options), 6) == groups


@pytest.mark.parametrize(("init", "layers"), [("first", [1]), ("stepwise", [2]), ("mean", [1, 2, 3, 4])])
def test_a_shared_weight_starts_from_the_layers_that_init_names(init: str, layers: list[int]) -> None:
    model = model_of(*[block_spec()] * 6)
    tied = rewritten(model, "tie-layers", init=init)
    wanted = torch.stack([model.state_dict()[f"blocks.{layer}.ffn.up.weight"] for layer in layers]).mean(0)
    torch.testing.assert_close(tied.state_dict()["blocks.1.ffn.up.weight"], wanted)
    for loop in range(4):  # what is a layer's own stays so; biases make up for the mean of what the weight lost
        key = f"blocks.1.mixer_norm.weight.{loop}"
        assert torch.equal(tied.state_dict()[key], model.state_dict()[f"blocks.{loop + 1}.mixer_norm.weight.0"])


@settings(max_examples=20, deadline=None)
@given(inputs=st.integers(1, 5), outputs=st.integers(1, 4), layers=st.integers(2, 4), seed=st.integers(0, 99))
def test_the_data_aware_weight_is_that_of_least_squares(inputs: int, outputs: int, layers: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    u_LTI = rng.normal(size=(layers, 30, inputs)) * rng.uniform(0.5, 2, size=(layers, 1, inputs))
    weights_LIO = rng.normal(size=(layers, inputs, outputs))
    maps = []
    for u_TI, weight_IO in zip(u_LTI, weights_LIO, strict=True):
        tensors = [torch.from_numpy(array) for array in (weight_IO, u_TI.mean(0), u_TI.T @ u_TI / 30)]
        maps.append(LayerMap(tensors[0], None, tensors[1], tensors[2]))
    wanted = np.linalg.lstsq(u_LTI.reshape(-1, inputs), (u_LTI @ weights_LIO).reshape(-1, outputs), rcond=None)[0]
    np.testing.assert_allclose(shared_weight(maps).numpy(), wanted, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(inputs=st.integers(1, 6), outputs=st.integers(1, 6), rank=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_delta_is_the_best_of_its_rank_for_the_inputs(inputs: int, outputs: int, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    u_TI = rng.normal(size=(40, inputs)) * np.geomspace(0.2, 3, inputs)
    weight_IO = rng.normal(size=(inputs, outputs))
    down_IR, up_RO = truncated(torch.from_numpy(u_TI.T @ u_TI), torch.from_numpy(weight_IO), rank)
    assert down_IR.shape[1] == up_RO.shape[0] <= rank
    kept = np.linalg.svd(u_TI @ weight_IO)[1][rank:]
    error = u_TI @ (weight_IO - (down_IR @ up_RO).numpy())
    spread = float(((u_TI @ weight_IO) ** 2).sum())
    assert float((error**2).sum()) == pytest.approx(float((kept**2).sum()), abs=1e-4 * spread)


@settings(max_examples=15, deadline=None)
@given(rank=st.integers(1, 4), seed=st.integers(0, 99))
@torch.no_grad()
def test_level_signals_that_share_the_input_are_deltas(rank: int, seed: int) -> None:
    spec = block_spec(loops=2)
    signals = model_of(spec.replace(per_loop={"signal_rank": rank}), seed=seed)
    plain = model_of(*[block_spec()] * 2)
    state = {}
    for name in plain.state_dict():
        if not name.startswith("blocks."):
            state[name] = signals.state_dict()[name]
            continue
        _, loop, rest = name.split(".", 2)
        own = f"{rest.removesuffix('.0')}.{loop}" if rest.endswith(".0") else rest
        state[name] = signals.state_dict()[f"blocks.0.{own}"]
    for loop in range(2):
        block, prefix = signals.block(0), f"blocks.{loop}"
        for name in ("mixer.scores.query", "mixer.scores.key", "mixer.values.value"):
            map_ = block.get_submodule(name)
            state[f"{prefix}.{name}.weight"] = map_.weight + map_.delta_up[loop] @ map_.delta_down[loop]
        signal = block.ffn_signal
        m_DD = (signal.up[loop] @ signal.down[loop]).T
        up = block.ffn.up.weight
        state[f"{prefix}.ffn.up.weight"] = up + up @ m_DD.T
    plain.load_state_dict(state)
    assert moved(plain, signals) <= ROUNDING


def test_a_signal_that_can_is_fitted_exactly() -> None:
    model = model_of(*[block_spec(ffn=MlpSpec(intermediate_size=20))] * 2)
    with torch.no_grad():  # the layers differ in what reads the input only
        for part in ("mixer.values.output.weight", "ffn.down.weight"):
            model.get_parameter(f"blocks.1.{part}").copy_(model.get_parameter(f"blocks.0.{part}"))
        m_DD = torch.randn(HIDDEN, 2) @ torch.randn(2, HIDDEN) / HIDDEN
        up = model.get_parameter("blocks.0.ffn.up.weight")
        model.get_parameter("blocks.1.ffn.up.weight").copy_(up + up @ m_DD)
    options = {"grouping": [0, 0], "init": "first"}
    assert moved(model, rewritten(model, "tie-layers", signal_rank=HIDDEN, **options)) <= 1e-4
    assert moved(model, rewritten(model, "tie-layers", **options)) > 0.05


@settings(max_examples=8, deadline=None)
@given(spec=alike(residual=False), layers=st.integers(2, 4), seed=st.integers(0, 99))
@torch.no_grad()
def test_the_timestep_table_reproduces_given_gains(spec: BlockSpec, layers: int, seed: int) -> None:
    model = model_of(*[spec] * layers, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    gains = [0.5 + torch.rand(4, HIDDEN, generator=generator) for _ in range(layers)]
    for layer in range(1, layers):
        block = model.block(layer)
        block.load_state_dict(model.block(0).state_dict())
        for readers, gain in ((block.mixer.readers(), gains[layer][0]), (block.ffn.readers(), gains[layer][2])):
            for reader in readers:
                reader.weight.mul_(gain)
        for writer, gain in ((block.mixer.values.output, gains[layer][1]), (block.ffn.down, gains[layer][3])):
            writer.weight.mul_(gain[:, None])
            for bias in writer.bias:
                bias.mul_(gain)
    calibration = calibration_of(model, batches=12)
    grouping = [0] * layers
    tied = rewritten(model, "tie-layers", calibration, grouping=grouping, init="first", timestep=True)
    assert moved(model, tied) <= 1e-3
    plain = rewritten(model, "tie-layers", calibration, grouping=grouping, init="first")
    assert moved(model, plain) > 10 * moved(model, tied)


@settings(max_examples=20, deadline=None)
@given(
    specs=st.lists(alike(), min_size=1, max_size=2),
    loops=st.integers(2, 3),
    deltas=st.integers(0, 3),
    signals=st.integers(1, 3),
    timestep=st.booleans(),
)
def test_relaxed_loops_start_as_they_were(
    specs: list[BlockSpec], loops: int, deltas: int, signals: int, timestep: bool
) -> None:
    timestep = timestep and all(spec.residual == "pre" for spec in specs)
    model = model_of(*(spec.replace(loops=loops) for spec in specs))
    options = {"delta_rank": deltas, "ffn_delta_rank": 2, "signal_rank": signals, "timestep": timestep}
    result = rewritten(model, "relax-loops", **options)
    assert moved(model, result) == 0
    assert all(spec.per_loop.model_dump() == options for spec in result.structure.blocks)
    assert result.num_parameters() > model.num_parameters()


@pytest.mark.parametrize("loops", [1, 3])
def test_a_relaxed_model_is_saved_and_loaded(tmp_path: Any, loops: int) -> None:
    spec = block_spec(loops=loops, per_loop={"delta_rank": 2, "signal_rank": 1, "timestep": True})
    model = model_of(spec)
    save(model, tmp_path)
    assert torch.equal(logits(load(tmp_path), images(model)), logits(model, images(model)))


def test_value_biases_fold_through_the_deltas_of_each_loop() -> None:
    model = model_of(block_spec(loops=2, per_loop={"delta_rank": 2}))
    result = rewritten(model, "fold-value-bias")
    assert moved(model, result) <= ROUNDING
    assert not [name for name in result.state_dict() if "value.bias" in name]


def test_maps_with_deltas_are_not_packed() -> None:
    plain, own = block_spec(loops=2), block_spec(loops=2, per_loop={"delta_rank": 2})
    result = rewritten(model_of(plain, own), "pack-qkv")
    assert [spec.mixer.kind for spec in result.structure.blocks] == ["packed-attention", "softmax-attention"]  # type: ignore[union-attr]
    packed = rewritten(model_of(*[block_spec()] * 3), "pack-qkv")
    tied = rewritten(packed, "tie-layers", grouping=[0, 0, 0], delta_rank=FULL)
    assert moved(packed, tied) <= 1e-4


@settings(max_examples=10, deadline=None)
@given(first=st.integers(0, 3), length=st.integers(1, 3), seed=st.integers(0, 99))
def test_an_affine_patch_is_the_fitted_map_over_the_run(first: int, length: int, seed: int) -> None:
    length = min(length, 4 - first)
    model = model_of(*[block_spec()] * 4, seed=seed)
    calibration = calibration_of(model)
    result = rewritten(model, "affine-patch", calibration, layers=list(range(first, first + length)))
    assert [step.origin for step in result.structure.schedule] == [*range(first + 1), *range(first + length, 4)]
    site = (first - 1, "out") if first else None
    x_BND = seen(model, calibration, *site) if site else embedded(model, calibration)
    y_BND = seen(model, calibration, first + length - 1, "out")
    oracle = Oracle(x_BND, y_BND - x_BND, y_BND)
    ffn = result.block(first).ffn
    assert isinstance(ffn, Affine)
    mine_BND = x_BND @ ffn.map.weight.detach().double().T + ffn.map.bias[0].detach().double()
    np.testing.assert_allclose(mine_BND, oracle.fitted_BNO, atol=1e-4)


def embedded(model: Transformer, calibration: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model.embed(inputs)[0].double() for inputs in calibration.batches()])


def test_auto_patches_the_run_that_an_affine_map_explains_best() -> None:
    spec = block_spec()
    model = model_of(*[spec] * 4)
    with torch.no_grad():
        for layer in (1, 2):
            model.get_parameter(f"blocks.{layer}.mixer.values.output.weight").mul_(1e-3)
            model.get_parameter(f"blocks.{layer}.ffn.down.weight").mul_(1e-3)
    assert [step.origin for step in rewritten(model, "affine-patch", layers="auto:2").structure.schedule] == [0, 1, 3]


@torch.no_grad()
def drift(model: Transformer) -> float:
    inputs = feed(128, skip=5).plain(128)[0]
    return float(kl_divergence(model(inputs), vit_mnist()(inputs), 1.0))


def test_a_trained_model_keeps_more_with_each_part_of_a_loop() -> None:
    ready = damaged(damaged(vit_mnist(), "fold-norm"), "align-layers")
    drifts = {
        name: drift(damaged(ready, "tie-layers", **options))
        for name, options in {
            "tied": {},
            "rank 8": {"delta_rank": 8},
            "rank 24": {"delta_rank": 24},
            "full": {"delta_rank": FULL},
        }.items()
    }
    assert drifts["full"] < 1e-6
    assert drifts["rank 24"] < drifts["rank 8"] < drifts["tied"]


def test_healing_brings_a_looped_model_back(tmp_path: Any) -> None:
    tied = damaged(damaged(vit_mnist(), "fold-norm"), "tie-layers", grouping="cycle")
    options = {"steps": 30, "transfer_steps": 10, "batch_size": 16, "lr": 3e-4, "eval_every": 15}
    result = healed(tied, vit_mnist(), tmp_path, images=256, **options)
    assert result.drift_before > 1
    assert result.drift_after < 0.2
    assert result.model.structure == tied.structure


def test_healing_for_several_numbers_of_loops_brings_all_of_them_back(tmp_path: Any) -> None:
    tied = damaged(damaged(vit_mnist(), "fold-norm"), "tie-layers", grouping="middle", delta_rank=16)
    options = {"steps": 20, "batch_size": 16, "lr": 5e-4, "eval_every": 20, "loops": [2, 6]}
    result = healed(tied, vit_mnist(), tmp_path, images=256, **options)
    assert result.model.structure == tied.structure
    for loops in (2, 4, 6):
        before, after = (drift(model if loops == 4 else at_loops(model, loops)) for model in (tied, result.model))
        assert after < before / 2


def test_loops_cannot_be_trained_where_there_are_none(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="no block of this model is looped"):
        healed(vit_mnist(), vit_mnist(), tmp_path, steps=1, loops=[2])
