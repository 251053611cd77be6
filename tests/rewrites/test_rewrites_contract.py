"""What every rewrite of the registry owes, on every kind of model: a new one is tested by being there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from support.rewriting import calibration_of, example
from support.text_models import decoder, encoder, plain_calibration
from support.tiny import block_spec, model_of, towers_model
from support.translators import translator, translator_calibration

from compress.model import Transformer
from compress.model.ffns.affine import AffineSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.heads.attention_pool import AttentionPoolSpec
from compress.model.heads.embedding import ImageEmbeddingSpec
from compress.model.norms import NormSpec
from compress.model.scores.merged import MergedScoresSpec
from compress.model.values.gated_mean import GatedMeanSpec
from compress.rewrites import REWRITES, Calibration, export_forms, parse_options, run_rewrite
from targets.errors import InputError

PLAIN = block_spec()
POOL = AttentionPoolSpec(num_heads=2, mlp=MlpSpec(intermediate_size=14), norm=NormSpec())


def feature(causal: bool) -> Any:
    plain: Any = block_spec(causal=causal)
    mixer = {"kind": "linear-attention", "scores": plain.mixer.scores, "values": plain.mixer.values}
    return plain.replace(mixer={**mixer, "feature": {"kind": "t2r", "size": 3}, "causal": causal})


#: Kinds of models, each of two layers.
MODELS: dict[str, Callable[[], Transformer]] = {
    "plain": lambda: model_of(PLAIN, PLAIN),
    "mean": lambda: model_of(PLAIN, PLAIN, pools=("mean",)),
    "post-norm": lambda: model_of(*[block_spec(residual="post")] * 2),
    "rms": lambda: model_of(*[block_spec(norm=NormSpec(kind="rms"))] * 2),
    "rotary": lambda: model_of(*[block_spec(rope=True, head_dim=4)] * 2),
    "grouped": lambda: model_of(*[block_spec(heads=4, kv_heads=2)] * 2),
    "causal": lambda: model_of(*[block_spec(causal=True)] * 2),
    "looped": lambda: model_of(*[block_spec(loops=2)] * 2),
    "merged": lambda: model_of(*[block_spec(scores=MergedScoresSpec(num_heads=2))] * 2),
    "gated-mean": lambda: model_of(*[block_spec(values=GatedMeanSpec(projection=True))] * 2),
    "affine": lambda: model_of(*[block_spec(ffn=AffineSpec())] * 2),
    "linear": lambda: model_of(*[feature(causal=False)] * 2),
    "no mixer": lambda: model_of(*[PLAIN.replace(mixer=None, mixer_norm=None)] * 2),
    "no feed-forward": lambda: model_of(*[PLAIN.replace(ffn=None, ffn_norm=None)] * 2),
    "image embedding": lambda: model_of(PLAIN, PLAIN, head=ImageEmbeddingSpec()),
    "attention pool": lambda: model_of(PLAIN, PLAIN, head=ImageEmbeddingSpec(attention=POOL)),
    "two towers": lambda: towers_model(PLAIN, PLAIN),
    "encoder": encoder,
    "decoder": decoder,
    "translator": translator,
}
#: What is not calibrated on images.
CALIBRATIONS: dict[str, Callable[[Transformer], Calibration]] = {
    "encoder": plain_calibration,
    "decoder": plain_calibration,
    "translator": translator_calibration,
}


def outcome(use: str, kind: str) -> Transformer | str:
    """The rewritten model, or the line of the refusal. `run_rewrite` asserts exactness and finite weights."""
    model = MODELS[kind]()
    calibration = CALIBRATIONS.get(kind, partial(calibration_of, batches=2, size=4))(model)
    stack = None if model.encoder is None else "decoder"
    inputs = next(calibration.batches())
    try:
        result = run_rewrite(*parse_options({"use": use, **example(use)}), model, calibration, stack)
    except InputError as refusal:
        return str(refusal)
    with torch.no_grad():
        wanted, given = model(inputs), result(inputs)
    assert given.shape[0] == wanted.shape[0] and bool(torch.isfinite(given).all())
    return result


@pytest.mark.parametrize("use", sorted(REWRITES))
def test_a_rewrite_works_or_is_refused_in_one_line_that_names_it_on_every_kind_of_model(use: str) -> None:
    outcomes = {kind: outcome(use, kind) for kind in MODELS}
    for kind, found in outcomes.items():
        if isinstance(found, str):
            assert use in found and "\n" not in found and len(found) < 300, (kind, found)
            assert "should be exact" not in found, (kind, found)
    worked = [kind for kind, found in outcomes.items() if not isinstance(found, str)]
    assert worked, f"no kind of model shows what {use} does; refusals: {outcomes}"


@pytest.mark.parametrize("use", sorted(REWRITES))
def test_the_options_of_a_rewrite_survive_a_recipe_and_strangers_are_refused(use: str) -> None:
    method, options = parse_options({"use": use, **example(use)})
    written = options.model_dump(mode="json")
    assert parse_options({"use": use, **written}) == (method, options)
    assert method.options.model_validate_json(options.model_dump_json()) == options
    with pytest.raises(InputError, match=f"rewrite '{use}': unknown key 'no_such_option'"):
        parse_options({"use": use, **written, "no_such_option": 1})


@pytest.mark.parametrize("use", sorted(REWRITES))
def test_a_rewrite_says_in_one_line_what_it_does(use: str) -> None:
    assert 20 < len(REWRITES[use].summary) < 160 and REWRITES[use].summary.endswith(".")


def test_what_export_applies_by_itself_is_exact_and_needs_no_options() -> None:
    assert [method.name for method in export_forms()] == ["trim-last-block", "pack-qkv"]
    assert all(method.exact and not method.options.model_fields for method in export_forms())
