"""Rewrites that change which tokens there are: pool-tokens, and a toy whose choice depends on the tokens themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from support.rewriting import Oracle, SomeImages, calibration_of, rewritten
from support.text_models import decoder, encoder, plain_calibration
from support.tiny import block_spec, images, model_of
from torch import Tensor

from compress.heal import HealOptions, heal
from compress.judging.blocks import compare_blocks
from compress.model import Transformer
from compress.model.biases.grid import GridBiasSpec
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.ffns.affine import Affine
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.reducer import ReducerSpec
from compress.model.reducers.grid_mean import GridMean, GridMeanSpec
from compress.model.rope import GridRopeSpec
from compress.model.sequence import Context, Tokens
from compress.rewrites import Calibration, Options
from compress.rewrites.rewrite import Rewrite, run_rewrite
from compress.rewrites.surgery import with_blocks
from targets.errors import InputError

PLAIN = block_spec()
BIASED = PLAIN.replace(mixer=PLAIN.mixer.replace(bias=GridBiasSpec(rows=4, columns=4)))  # type: ignore[union-attr]
#: 4 x 4 patches and a class token.
EMBED = PatchEmbedSpec(channels=2, image_size=(8, 8), patch_size=(2, 2))


@dataclass(frozen=True, eq=False)
class Chosen:
    """The toy: the tokens at these places of each sequence (B,R)."""

    index_BR: Tensor
    kept: int = 1
    rest: bool = True

    def __call__(self, x_BND: Tensor, real_BN: Tensor | None = None) -> Tensor:
        return x_BND.gather(1, self.index_BR[..., None].expand(-1, -1, x_BND.shape[2]))


class LoudestSpec(ReducerSpec):
    """The class token and the `count` longest tokens, in their order."""

    kind: Literal["toy-loudest"] = "toy-loudest"
    count: int

    def reduction(self, x_BND: Tensor, context: Context) -> Chosen:
        longest_BR = x_BND[:, 1:].norm(dim=-1).topk(self.count).indices.sort(dim=1).values + 1
        return Chosen(torch.cat([torch.zeros_like(longest_BR[:, :1]), longest_BR], dim=1))


class DropQuiet(Options):
    """Options of the toy."""

    after: int = 0
    count: int = 5


def drop_quiet(model: Transformer, options: DropQuiet, calibration: Calibration) -> Transformer:
    """Let only the longest tokens go on behind a layer."""
    reducer = LoudestSpec(count=options.count)
    return with_blocks(model, lambda spec: spec.replace(reducer=reducer), [options.after])


TOY = Rewrite("toy-drop-quiet", DropQuiet, drop_quiet, exact=False, on_export=False)


def vit(layers: int = 3, **block: Any) -> Transformer:
    return model_of(*[block_spec(**block)] * layers, embed=EMBED)


def fewer(use: str, model: Transformer, calibration: Calibration) -> Transformer:
    """The model with fewer tokens behind its first layer."""
    if use == "toy":
        return run_rewrite(TOY, DropQuiet(), model, calibration)
    return rewritten(model, use, calibration, after=0)


def by_hand(use: str, x_BND: Tensor) -> np.ndarray:
    """The tokens that should be left."""
    if use == "pool-tokens":
        return GridMean(1, 4, 4, 2)(x_BND).numpy()
    rows = []
    for x_ND in x_BND.numpy():
        order = sorted(range(1, 17), key=lambda place: -float(np.linalg.norm(x_ND[place])))
        rows.append(x_ND[[0, *sorted(order[:5])]])
    return np.array(rows)


@pytest.mark.parametrize("use", ["pool-tokens", "toy"])
def test_fewer_tokens_go_on_and_fits_are_to_the_originals_for_the_same_tokens(use: str) -> None:
    model = vit()
    calibration = calibration_of(model, batches=2, size=6)
    shorter = fewer(use, model, calibration)
    assert shorter.num_parameters() == model.num_parameters()
    result = rewritten(shorter, "affine-mlp", calibration, layers=[1])
    x, y, stream = [], [], []
    with torch.no_grad():
        for inputs in calibration.batches():
            mine: dict[Any, Tokens] = {}
            theirs: dict[Any, Tokens] = {}
            shorter(inputs, lambda step, site, tokens, seen=mine: seen.update({(step, site): tokens}))
            model(inputs, lambda step, site, tokens, seen=theirs: seen.update({(step, site): tokens}))
            np.testing.assert_allclose(mine[0, "out"].x_BND, by_hand(use, theirs[0, "out"].x_BND), atol=1e-6)
            whole_BND, kept = theirs[1, "out"].x_BND, mine[0, "out"].context.sources[0]
            goal_BRD = kept(whole_BND)
            x.append(mine[1, "ffn.in"].x_BND.double().numpy())
            y.append((goal_BRD - (mine[1, "out"].x_BND - mine[1, "ffn.out"].x_BND)).double().numpy())
            stream.append(goal_BRD.double().numpy())
    fit = Oracle(*(np.concatenate(part) for part in (x, y, stream)))
    ffn = result.block(1).ffn
    assert isinstance(ffn, Affine)
    np.testing.assert_allclose(ffn.map.weight.detach().numpy().T, fit.weight_IO, atol=2e-4)


@pytest.mark.parametrize("use", ["pool-tokens", "toy"])
def test_blocks_are_compared_on_the_tokens_that_are_left(use: str) -> None:
    model = vit()
    calibration = calibration_of(model, batches=2)
    rows = compare_blocks(model, fewer(use, model, calibration), calibration.batches())
    assert [row.relative_error < 1e-6 for row in rows] == [True, True, False, False]
    assert rows[1].own_error is not None and rows[1].own_error < 1e-6


@pytest.mark.parametrize("use", ["pool-tokens", "toy"])
def test_every_phase_of_healing_holds_fewer_tokens_to_the_originals(use: str, tmp_path: Path) -> None:
    model = vit()
    calibration = calibration_of(model, batches=1)
    shorter = rewritten(fewer(use, model, calibration), "linear-attention", calibration, feature="t2r", layers=[1])
    options = HealOptions(
        steps=12, lr=3e-3, hidden=1.0, eval_every=4, attention_steps=3, attention_rows=0.1, transfer_steps=3
    )
    phases: list[str] = []
    found = heal(
        shorter,
        model,
        SomeImages(model),
        SomeImages(model),
        options,
        Accelerator(cpu=True),
        tmp_path,
        lambda done, total, note="", **numbers: phases.append(note),
    )
    assert {"attention", "transfer", "distil"} <= set(phases)
    assert found.drift_after < found.drift_before


@torch.no_grad()
def test_rotary_places_of_a_grid_are_averaged_as_the_patches_are() -> None:
    rope = GridRopeSpec(row_places=(0.0, 1.0, 2.0, 3.0), column_places=(0.5, 1.5, 2.5, 3.5), frequencies=(1.0,))
    scores = PLAIN.mixer.scores.replace(rope=rope, head_dim=4)  # type: ignore[union-attr]
    values = PLAIN.mixer.values.replace(head_dim=4)  # type: ignore[union-attr]
    turning = PLAIN.replace(mixer=SoftmaxAttentionSpec(scores=scores, values=values))
    result = rewritten(model_of(turning, turning, embed=EMBED), "pool-tokens", after=0)
    first, second = (spec.mixer.scores.rope for spec in result.structure.blocks)  # type: ignore[union-attr]
    assert first == rope
    assert second == rope.replace(row_places=(0.5, 2.5), column_places=(1.0, 3.0))
    assert torch.isfinite(result(images(result))).all()


def test_a_second_pooling_works_on_the_grid_that_the_first_left() -> None:
    notes: list[str] = []
    model = vit(layers=4)
    calibration = calibration_of(model, notes=notes)
    result = rewritten(rewritten(model, "pool-tokens", calibration, after=0), "pool-tokens", calibration, after=2)
    assert notes == [
        "pool-tokens: 16 patches become 4 behind layer 0",
        "pool-tokens: 4 patches become 1 behind layer 2",
    ]
    assert result.structure.blocks[2].reducer == GridMeanSpec(kept=1, rows=2, columns=2, size=2)
    assert torch.isfinite(result(images(result))).all()


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        (vit(), {"after": 2}, "after must be a layer with another one behind it, 0 to 1"),
        (vit(loops=2), {"after": 0}, "looped 2 times; apply it before tying"),
        (vit(), {"after": 0, "size": 3}, "4 x 4 patches does not divide into cells of 3 x 3; sizes that do: 2, 4"),
        (
            model_of(PLAIN, PLAIN, embed=EMBED.replace(image_size=(14, 6))),
            {"after": 0},
            "a grid of 7 x 3 patches does not divide into cells of 2 x 2; no size does",
        ),
        (
            model_of(PLAIN, block_spec(rope=True, head_dim=4), embed=EMBED),
            {"after": 0},
            "turns tokens by their number, not by where they lie",
        ),
        (
            model_of(
                PLAIN, PLAIN.replace(mixer=PLAIN.mixer.replace(bias=GridBiasSpec(rows=4, columns=4))), embed=EMBED
            ),  # type: ignore[union-attr]
            {"after": 0},
            "adds a bias for where patches lie",
        ),
        (decoder(), {"after": 0}, "the head of this model answers for every token"),
        (encoder(), {"after": 0}, "it pools the patches of images, and this model has none"),
        (
            model_of(PLAIN.replace(keep_tokens=1), PLAIN, PLAIN, embed=EMBED),
            {"after": 1},
            "not all patches leave; pool before trimming",
        ),
        (model_of(PLAIN.replace(keep_tokens=1), PLAIN, embed=EMBED), {"after": 0}, "than come in already"),
        (rewritten(vit(), "linformer", layers=[1], pools=4), {"after": 0}, "takes a fixed number of tokens"),
        (rewritten(vit(), "pool-tokens", after=1), {"after": 0}, "takes a fixed number of tokens"),
    ],
)
def test_pooling_is_refused_with_the_reason(model: Transformer, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError) as caught:
        rewritten(model, "pool-tokens", plain_calibration(model), **options)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("use", "options", "reason"),
    [
        ("drop-blocks", {"layers": [0]}, "behind which tokens are pooled; drop blocks before pooling"),
        ("affine-patch", {"layers": [0, 1]}, "apply it before trimming"),
        ("linformer", {"pools": 2}, "its layers see different numbers"),
        ("tie-layers", {"grouping": [0, 0, 1]}, "layers 0 and 1 are built differently"),
    ],
)
def test_what_would_lose_the_pooling_is_refused(use: str, options: dict[str, Any], reason: str) -> None:
    pooled = rewritten(vit(), "pool-tokens", after=0)
    with pytest.raises(InputError, match=reason):
        rewritten(pooled, use, **options)
