"""Drift by block: held to a plain float64 computation, and pointing at the block that was hurt."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracle import attention_row, logit, under, weights_of
from support.tiny import block_spec, images, model_of

from compress import zoo
from compress.data import load, preprocessing_from_hf
from compress.judging.blocks import comparable, compare_blocks
from compress.model import Step, Transformer
from compress.model.sequence import Tokens
from compress.tasks import read_checkpoint
from compress.verification.localize import first_beyond


def seen_by(model: Transformer, inputs: dict[str, torch.Tensor]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The output of every step and the normed input of every mixer, by hooks, in float64."""
    outs: dict[int, np.ndarray] = {}
    ins: dict[int, np.ndarray] = {}

    def observe(step: int, site: str, tokens: Tokens) -> None:
        if site in ("out", "mixer.in"):
            (outs if site == "out" else ins)[step] = tokens.x_BND.detach().double().numpy()

    model(inputs, observe)
    return [outs[k] for k in range(len(outs))], [ins[k] for k in range(len(ins))]


def attention_of(model: Transformer, step: int, x_BND: np.ndarray) -> list[list[dict[int, float]]]:
    """Attention rows [B*H*N] from the oracle's logits."""
    block = model.structure.schedule[step].block
    spec = model.structure.blocks[block].mixer.scores  # type: ignore[union-attr]
    w = under(weights_of(model.block(block)), "mixer.scores")
    count = x_BND.shape[1]
    return [
        attention_row({j: logit(spec, w, x_ND, h, i, j, 0) for j in range(count)})
        for x_ND in x_BND
        for h in range(spec.num_heads)
        for i in range(count)
    ]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_every_number_is_the_plain_computations(blocks: int, heads: int, batch: int, seed: int) -> None:
    specs = [block_spec(heads=heads) for _ in range(blocks)]
    original, model = model_of(*specs, seed=seed), model_of(*specs, seed=seed)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed + 1)))
    inputs = images(original, batch, seed)
    rows = compare_blocks(original, model, [{"pixel_values": part} for part in inputs["pixel_values"].split(2)])
    assert rows[0].name == "embedding" and rows[0].relative_error == 0
    with torch.no_grad():
        wanted, wanted_in = seen_by(original, inputs)
        given_, given_in = seen_by(model, inputs)
    for k, row in enumerate(rows[1:]):
        a, b = wanted[k], given_[k]
        assert row.relative_error == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-4)
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert row.cosine == pytest.approx(cosine.mean(), abs=1e-5)
        pairs = zip(attention_of(original, k, wanted_in[k]), attention_of(model, k, given_in[k]), strict=True)
        kl = np.mean([sum(p[j] * np.log(p[j] / q[j]) for j in p) for p, q in pairs])
        assert row.attention_kl == pytest.approx(kl, rel=1e-3, abs=1e-6)
    assert rows[1].own_error == pytest.approx(rows[1].relative_error)
    told = [value for row in rows for _, value in row if isinstance(value, float)]
    assert told == [float(f"{value:.6g}") for value in told]  # what threads change is not told


def test_a_hurt_block_is_the_only_one_with_an_error_of_its_own() -> None:
    specs = [block_spec() for _ in range(5)]
    original, model = model_of(*specs), model_of(*specs)
    with torch.no_grad():
        model.block(2).ffn.down.weight.mul_(1.5)  # type: ignore[union-attr]
    rows = compare_blocks(original, model, [images(original)])
    assert [row.own_error == 0 for row in rows[1:]] == [True, True, False, True, True]
    assert [row.relative_error == 0 for row in rows[1:]] == [True, True, False, False, False]
    assert first_beyond(len(rows), lambda k: rows[k].relative_error > 1e-6) == 3


def test_a_block_before_a_gap_is_held_to_what_it_has_to_stand_for() -> None:
    specs = [block_spec() for _ in range(4)]
    original = model_of(*specs)
    shorter = model_of(*specs)
    steps = tuple(Step(block=k, origin=origin) for k, origin in enumerate((0, 1, 3)))
    structure = shorter.structure.model_copy(update={"blocks": tuple(specs[:3]), "schedule": steps})
    model = Transformer(structure).eval()
    weights = {name: value for name, value in shorter.state_dict().items() if not name.startswith("blocks.2.")}
    model.load_state_dict({name.replace("blocks.3.", "blocks.2."): value for name, value in weights.items()})
    rows = compare_blocks(original, model, [images(original)])
    assert [row.name for row in rows] == ["embedding", "block 0", "block 1", "block 2 (layer 3)"]
    assert rows[1].relative_error == 0 and rows[2].own_error and rows[3].own_error == 0
    assert rows[2].attention_kl == 0, "its attention is still that of layer 1"


def test_heads_that_cannot_be_matched_have_no_attention_to_compare() -> None:
    original, model = model_of(block_spec(heads=2)), model_of(block_spec(heads=4, kv_heads=2))
    assert compare_blocks(original, model, [images(original)])[1].attention_kl is None


def test_what_cannot_be_compared_is_refused_and_says_why() -> None:
    original = model_of(block_spec(), block_spec())
    wider = model_of(block_spec(), block_spec(), hidden_size=8)
    assert "hidden sizes" in str(comparable(original.structure, wider.structure))
    with pytest.raises(ValueError, match="hidden sizes"):
        compare_blocks(original, wider, [images(original)])
    steps = (Step(block=0, origin=0), Step(block=1, origin=2))
    dropped = original.structure.model_copy(update={"schedule": steps})
    assert "rewritten" in str(comparable(dropped, original.structure))
    assert "layers [0, 2] of 2" in str(comparable(original.structure, dropped))
    with pytest.raises(ValueError, match="no input"):
        compare_blocks(original, original, [])


def test_on_a_trained_model_the_zeroed_block_is_found() -> None:
    folder = zoo.locate("zoo:vit-mnist")
    original = read_checkpoint(folder, preprocessing_from_hf(folder))
    model = original.copy()
    with torch.no_grad():
        for parameter in model.block(3).parameters():
            parameter.zero_()
    data = load("zoo:mnist-test", part="evaluation", limit=32)
    batches = [
        {"pixel_values": torch.from_numpy(pixels)}
        for pixels, _ in data.batches(original.structure.preprocessing, batch_size=16)
    ]
    rows = compare_blocks(original, model, batches)
    worst = max(rows[1:], key=lambda row: row.own_error or 0)
    assert worst.name == "block 3"
    assert first_beyond(len(rows), lambda k: rows[k].relative_error > 0.1) == 4


@given(st.integers(1, 40), st.data())
def test_bisection_finds_the_first_and_asks_about_few(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count))
    asked: list[int] = []

    def beyond(index: int) -> bool:
        asked.append(index)
        return index >= first

    assert first_beyond(count, beyond) == (first if first < count else None)
    assert len(set(asked)) <= 1 + np.ceil(np.log2(count + 1))


def test_nothing_to_bisect_is_within() -> None:
    assert first_beyond(0, lambda index: True) is None
