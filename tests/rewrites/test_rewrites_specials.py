"""A rewrite carries what is special about an attention over exactly, or refuses it by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.rewriting import example, moved, rewritten
from support.tiny import block_spec, model_of

from compress.model import Transformer
from compress.model.biases.alibi import AlibiBiasSpec
from compress.model.biases.buckets import BucketBiasSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.transformer import Transformer as Model
from compress.rewrites import REWRITES
from targets.errors import InputError

PLAIN = block_spec(heads=3, head_dim=4)
#: What makes an attention special -> how it is refused.
SPECIALS = {
    "window": "sees a window of the tokens",
    "bias": "adds a bias for where tokens stand",
    "alibi": "adds a bias for where tokens stand",
    "cap": "caps its logits",
    "norm": "norms its queries and keys",
    "whole-norm": "norms its queries and keys over all heads",
}
#: Those that work on attention at any rank: nothing may be lost where nothing is cut.
EXACT: dict[str, dict[str, Any]] = {
    "merge-qk": {},
    "low-rank-heads": {"rank": 4},
    "drop-key-bias": {},
    "fold-value-bias": {},
    "fold-norm": {},
    "prune-heads": {"keep": 3},
    "pack-qkv": {},
    "trim-last-block": {},
    "align-layers": {},
}


def special(kind: str) -> SoftmaxAttentionSpec:
    mixer = PLAIN.mixer
    assert isinstance(mixer, SoftmaxAttentionSpec) and isinstance(mixer.scores, ProjectedScoresSpec)
    if kind == "window":
        return mixer.replace(window=2)
    if kind in ("bias", "alibi"):
        return mixer.replace(bias=BucketBiasSpec(buckets=8) if kind == "bias" else AlibiBiasSpec())
    if kind == "cap":
        return mixer.replace(cap=0.5)
    return mixer.replace(scores=mixer.scores.replace(norm=NormSpec(kind="rms"), whole=kind == "whole-norm"))


def model_with(kind: str) -> Transformer:
    model: Model = model_of(*[PLAIN.replace(mixer=special(kind))] * 2)
    return model


@pytest.mark.parametrize("kind", SPECIALS)
@pytest.mark.parametrize("use", EXACT)
def test_an_exact_rewrite_of_a_special_attention_is_exact_or_refused(use: str, kind: str) -> None:
    model = model_with(kind)
    try:
        result = rewritten(model, use, **EXACT[use])
    except InputError as refusal:
        assert str(refusal) == f"{use} is refused for a layer whose attention {SPECIALS[kind]}"
        return
    assert moved(model, result) < 1e-4


@pytest.mark.parametrize("kind", SPECIALS)
def test_no_rewrite_loses_what_is_special_without_a_word(kind: str) -> None:
    """Those that keep softmax attention keep what is special; the others put something of their own in its place."""
    model, kept = model_with(kind), []
    for use in sorted(REWRITES):
        try:
            result = rewritten(model, use, **example(use))
        except InputError:
            continue
        kept.append(use)
        for spec in result.structure.blocks:
            if not isinstance(spec.mixer, SoftmaxAttentionSpec):
                continue
            wanted, found = special(kind), spec.mixer
            assert (found.window, found.cap, found.bias) == (wanted.window, wanted.cap, wanted.bias), use
            if isinstance(found.scores, ProjectedScoresSpec) and isinstance(wanted.scores, ProjectedScoresSpec):
                assert (found.scores.norm, found.scores.whole) == (wanted.scores.norm, wanted.scores.whole), use
    assert {"drop-mlp", "fold-value-bias", "drop-value"} <= set(kept)


@torch.no_grad()
def test_a_special_attention_is_not_a_plain_one() -> None:
    for kind in SPECIALS:
        model = model_with(kind)
        plain = model_of(PLAIN, PLAIN)
        plain.load_state_dict({name: one for name, one in model.state_dict().items() if name in plain.state_dict()})
        assert moved(model, plain) > 1e-3, kind
