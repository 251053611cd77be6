"""slice-width: exact at full width and where the stream lives in fewer directions; refused where axes are fixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from support.rewriting import SomeImages, calibration_of, moved, rewritten
from support.text_models import VOCABULARY, decoder, encoder, padded_calibration, plain_calibration
from support.tiny import HIDDEN, block_spec, images, logits, model_of

from compress.heal import Healed, HealOptions, heal
from compress.model import Transformer
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.affine import AffineSpec, ConstantSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.norms import NormSpec
from compress.model.scores.merged import MergedScoresSpec
from compress.model.values.gated_mean import GatedMeanSpec
from compress.rewrites.slice_width import _written
from targets.errors import InputError

PLAIN = block_spec()
RMS = NormSpec(kind="rms")
GATED = GatedMlpSpec(intermediate_size=10)


def rms(**block: Any) -> Transformer:
    return model_of(block_spec(norm=RMS, **block), block_spec(norm=RMS, ffn=GATED, **block), final_norm=RMS)


def causal_lm() -> Transformer:
    """A decoder with a head of its own, rotary positions and a factorised table."""
    blocks = [block_spec(causal=True, rope=True, head_dim=4, norm=RMS, ffn=GATED)] * 2
    return model_of(
        *blocks,
        embed=TokenEmbedSpec(vocab_size=VOCABULARY, rank=5, max_positions=12),
        head=LanguageModelSpec(vocab_size=VOCABULARY, tied=False),
        final_norm=RMS,
        task="causal-lm",
    )


@pytest.mark.parametrize(
    "model",
    [
        model_of(PLAIN, PLAIN),
        model_of(block_spec(residual="parallel"), block_spec(ffn=AffineSpec()), pools=("cls", "patch-mean")),
        model_of(PLAIN.replace(ffn=ConstantSpec()), block_spec(kv_heads=1), pools=("mean",)),
        rms(),
        model_of(PLAIN.replace(mixer=None, mixer_norm=None), PLAIN.replace(ffn=None, ffn_norm=None)),
    ],
)
def test_at_full_width_nothing_moves(model: Transformer) -> None:
    result = rewritten(model, "slice-width", width=HIDDEN)
    assert moved(model, result) <= 1e-5
    kinds = [[spec.mixer_norm and spec.mixer_norm.kind for spec in one.structure.blocks] for one in (model, result)]
    assert kinds[0] == kinds[1]


@torch.no_grad()
def test_texts_keep_their_answers_too() -> None:
    model = causal_lm()
    result = rewritten(model, "slice-width", plain_calibration(model), width=HIDDEN)
    for inputs in padded_calibration(model, "left").batches():
        real_BN = inputs["attention_mask"].bool()
        torch.testing.assert_close(result(inputs)[real_BN], model(inputs)[real_BN], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("norm", [NormSpec(), RMS])
def test_a_stream_that_lives_in_few_directions_is_cut_to_them_without_loss(norm: NormSpec) -> None:
    model = model_of(block_spec(norm=norm), block_spec(norm=norm), final_norm=norm)
    few, _ = torch.linalg.qr(torch.randn(HIDDEN, 5, generator=torch.Generator().manual_seed(3)))
    for tensor, axis in _written(model):
        tensor.copy_(torch.tensordot(tensor, few @ few.T, ([axis], [0])).movedim(-1, axis))
    notes: list[str] = []
    result = rewritten(model, "slice-width", calibration_of(model, notes=notes), width=6)
    taken = 5 if norm.kind == "layer" else 6  # a layer norm's stream has no mean: one number less is free
    assert notes == [f"slice-width: {taken} of 12 directions carry 100.00% of what the layers read"]
    assert moved(model, result) <= 1e-5
    assert result.num_parameters() < 0.6 * model.num_parameters()


@torch.no_grad()
def test_the_directions_are_the_principal_ones_of_what_all_norms_give() -> None:
    model = model_of(PLAIN, PLAIN)
    notes: list[str] = []
    calibration = calibration_of(model, batches=2, notes=notes)
    result = rewritten(model, "slice-width", calibration, width=4)
    seen: dict[Any, list[np.ndarray]] = {}
    for inputs in calibration.batches():
        stream = [model.embed(inputs)[0].double()]
        model(
            inputs,
            lambda step, site, tokens, stream=stream: stream.append(tokens.x_BND.double()) if site == "out" else None,
        )
        halves: list[torch.Tensor] = []
        model(
            inputs,
            lambda step, site, tokens, halves=halves: (
                halves.append(tokens.x_BND.double()) if site == "ffn.out" else None
            ),
        )
        after = [out - half for out, half in zip(stream[1:], halves, strict=True)]
        for place, x_BND in enumerate([stream[0], after[0], stream[1], after[1], stream[2][:, :1]]):
            x = x_BND.numpy().reshape(-1, HIDDEN)
            centred = x - x.mean(1, keepdims=True)
            seen.setdefault(place, []).append(centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6))
    moment = sum(np.concatenate(x).T @ np.concatenate(x) / len(np.concatenate(x)) for x in seen.values())
    values, vectors = np.linalg.eigh(np.asarray(moment))
    share = values[::-1][:3].sum() / values.sum()
    assert notes == [f"slice-width: 3 of 12 directions carry {share:.2%} of what the layers read"]
    basis = vectors[:, ::-1][:, :3]
    embedded, wide = result.embed(inputs)[0].numpy(), stream[0].numpy()
    projected = (wide - wide.mean(-1, keepdims=True)) @ basis
    np.testing.assert_allclose(embedded.mean(-1), 0, atol=1e-5)
    distances = [one @ one.transpose(0, 2, 1) for one in (embedded, projected)]  # whatever the axes are
    np.testing.assert_allclose(*distances, atol=1e-4)


def test_only_the_full_width_is_exact() -> None:
    model = model_of(PLAIN, PLAIN)
    changes = [moved(model, rewritten(model, "slice-width", width=width)) for width in (12, 8, 4)]
    assert changes[0] < 1e-5 < 1e-2 < min(changes[1:])
    assert torch.isfinite(logits(rewritten(model, "slice-width", width=0.5), images(model))).all()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (model_of(block_spec(residual="post")), "norms feed the residual stream"),
        (model_of(PLAIN.replace(mixer_out_norm=NormSpec())), "norms feed the residual stream"),
        (model_of(PLAIN, block_spec(norm=RMS)), "it needs norms of one kind"),
        (model_of(PLAIN, final_norm=None), "it needs norms of one kind"),
        (model_of(block_spec(loops=2)), "looped 2 times; apply it before tying"),
        (model_of(block_spec(values=GatedMeanSpec(projection=True))), "works on projected values"),
        (model_of(block_spec(scores=MergedScoresSpec(num_heads=2))), "uses its normed tokens raw"),
        (
            model_of(PLAIN, embed=PatchEmbedSpec(channels=2, image_size=(6, 6), patch_size=(3, 3), norm=NormSpec())),
            "a norm stands right behind the embedding",
        ),
        (model_of(PLAIN, head=ClassifierSpec(num_labels=3, hidden="tanh")), "no linear map of its own"),
        (decoder(), "no linear map of its own"),
        (encoder(), "norms feed the residual stream"),
    ],
)
def test_a_stream_with_fixed_axes_is_refused(model: Transformer, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        rewritten(model, "slice-width", plain_calibration(model), width=6)
    assert reason in str(caught.value)


def test_no_more_directions_than_there_are() -> None:
    with pytest.raises(InputError, match="width 13 is not among 2 to the hidden size 12"):
        rewritten(model_of(PLAIN), "slice-width", width=13)


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("affine-mlp", {}),
        ("affine-patch", {"layers": [0]}),
        ("drop-value", {}),
        ("linear-attention", {"feature": "elu"}),
        ("sumformer", {"summary_size": 2}),
    ],
)
def test_what_is_fitted_to_the_originals_stream_comes_before(use: str, options: dict[str, Any]) -> None:
    model = model_of(PLAIN, PLAIN)
    calibration = calibration_of(model)
    narrow = rewritten(model, "slice-width", calibration, width=8)
    with pytest.raises(InputError, match="hidden size is 8 and the original's 12; apply slice-width last"):
        rewritten(narrow, use, calibration, **options)


def test_healing_holds_the_answers_and_says_why_it_cannot_hold_hidden_states(tmp_path: Path) -> None:
    model = model_of(PLAIN, PLAIN)
    narrow = rewritten(model, "slice-width", width=8)

    def run(folder: str, **options: Any) -> Healed:
        feed, accelerator = SomeImages(model), Accelerator(cpu=True)
        chosen = HealOptions(steps=6, lr=1e-3, eval_every=3, **options)
        work = tmp_path / folder
        work.mkdir()
        return heal(narrow, model, feed, feed, chosen, accelerator, work, lambda *done, **numbers: None)

    with pytest.raises(InputError, match=r"the original's 12; .* heal with heal\.hidden = 0"):
        run("hidden", hidden=1.0)
    found = run("answers", hidden=0.0)
    assert found.drift_after < found.drift_before and found.model.structure.hidden_size == 8
