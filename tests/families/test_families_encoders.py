"""Each layout of text encoders computes what transformers computes, padded on either side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.text_checkpoints import batch_of, saved_class
from torch import Tensor

from compress.model.biases.buckets import BucketBiasSpec
from compress.model.biases.disentangled import DisentangledBiasSpec
from compress.tasks import read_checkpoint
from targets.errors import InputError

TOLERANCE = 1e-4
LENGTH = 15
_SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 24,
}
_MODERN = _SIZES | {"local_attention": 4, "cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 3}
_DEBERTA = _SIZES | {
    "type_vocab_size": 0,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 4,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "pooler_hidden_size": 12,
}
_MOBILE = _SIZES | {"hidden_size": 16, "embedding_size": 5, "intra_bottleneck_size": 6, "num_feedforward_networks": 3}
_T5 = {"d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_heads": 3}
#: Name -> stem of the classes, the config, and whether it classifies.
LAYOUTS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "camembert": ("Camembert", _SIZES, True),
    "electra": ("Electra", _SIZES | {"embedding_size": 7}, True),
    "electra, as wide as its blocks": ("Electra", _SIZES | {"embedding_size": 12}, True),
    "mpnet": ("MPNet", _SIZES, True),
    "ernie": ("Ernie", _SIZES | {"use_task_id": True}, True),
    "data2vec-text": ("Data2VecText", _SIZES, True),
    "mobilebert": ("MobileBert", _MOBILE, True),
    "mobilebert, no pooler, one feed-forward": (
        "MobileBert",
        _MOBILE | {"classifier_activation": False, "num_feedforward_networks": 1},
        True,
    ),
    "nomic_bert": ("NomicBert", _SIZES, True),
    "modernbert": ("ModernBert", _MODERN, True),
    "modernbert, biases, the mean": (
        "ModernBert",
        _MODERN
        | {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}
        | {"classifier_pooling": "mean"},
        True,
    ),
    "deberta-v3": ("DebertaV2", _DEBERTA, True),
    "deberta-v2, maps of its own, every distance": (
        "DebertaV2",
        _DEBERTA
        | {"share_att_key": False, "position_buckets": -1, "position_biased_input": True, "type_vocab_size": 2}
        | {"norm_rel_ebd": "none", "pos_att_type": "p2c|c2p", "max_relative_positions": 9},
        True,
    ),
    "deberta-v2, half of the bias": ("DebertaV2", _DEBERTA | {"pos_att_type": ["c2p"]}, True),
    "deberta-v2, no bias": ("DebertaV2", _SIZES | {"pooler_hidden_size": 12, "relative_attention": False}, True),
    "t5": ("T5Encoder", _T5, False),
    "t5, gated": ("T5Encoder", _T5 | {"feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 8}, False),
}


def saved_layout(folder: Path, layout: str, kind: str, **changes: Any) -> Any:
    stem, options, _ = LAYOUTS[layout]
    return saved_class(folder, f"{stem}{kind}", f"{stem.removesuffix('Encoder')}Config", **options | changes)


def mean(tokens_BND: Tensor, mask_BN: Tensor) -> Tensor:
    share_BN1 = mask_BN[..., None].float()
    return (tokens_BND * share_BN1).sum(1) / share_BN1.sum(1)


@pytest.mark.parametrize("layout", [name for name, (_, _, classifies) in LAYOUTS.items() if classifies])
@torch.no_grad()
def test_classifiers_compute_the_logits_of_transformers(tmp_path: Path, layout: str) -> None:
    original = saved_layout(tmp_path, layout, "ForSequenceClassification", num_labels=4)
    notes: list[str] = []
    model = read_checkpoint(tmp_path, {}, notes.append)
    assert notes == []
    sides: list[Literal["left", "right"]] = ["left", "right"] if "the mean" in layout else ["right"]
    for side in sides:  # on the left the first token, which most read, is padding
        batch = batch_of(side, LENGTH)
        torch.testing.assert_close(model(batch), original(**batch).logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_bare_encoders_give_the_mean_of_the_real_tokens(tmp_path: Path, layout: str) -> None:
    original = saved_layout(tmp_path, layout, "Model")
    model = read_checkpoint(tmp_path, {})
    sides: list[Literal["left", "right"]] = ["right", "left"]
    for side in sides:
        batch = batch_of(side, LENGTH)
        wanted = mean(original(**batch).last_hidden_state, batch["attention_mask"])
        torch.testing.assert_close(model(batch), wanted, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_modernbert_of_transformers_4_is_the_same(tmp_path: Path) -> None:
    original = saved_layout(tmp_path, "modernbert", "Model")
    config = json.loads((tmp_path / "config.json").read_text())
    old = {name: value for name, value in config.items() if name not in ("rope_parameters", "layer_types")}
    old |= {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "global_attn_every_n_layers": 3}
    old |= {"position_embedding_type": "absolute", "layer_norm_eps": 1e-5, "repad_logits_with_grad": False}
    (tmp_path / "config.json").write_text(json.dumps(old))
    batch = batch_of("right", LENGTH)
    wanted = mean(original(**batch).last_hidden_state, batch["attention_mask"])
    torch.testing.assert_close(read_checkpoint(tmp_path, {})(batch), wanted, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_nomic_bert_is_read_by_the_names_of_its_own_code_and_of_transformers(tmp_path: Path) -> None:
    original = saved_layout(tmp_path, "nomic_bert", "Model")
    batch = batch_of("right", LENGTH)
    wanted = mean(original(**batch).last_hidden_state, batch["attention_mask"])
    config, tensors = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    assert any("Wqkv" in name for name in tensors)
    old = {"n_embd": 12, "n_layer": 3, "n_head": 3, "n_inner": 20, "layer_norm_epsilon": 1e-12, "prenorm": False}
    old |= {"rotary_emb_base": 1000, "activation_function": "swiglu", "rotary_emb_fraction": 1.0, "vocab_size": 23}
    (tmp_path / "config.json").write_text(
        json.dumps(old | {"model_type": "nomic_bert", "architectures": ["NomicBertModel"]})
    )
    torch.testing.assert_close(read_checkpoint(tmp_path, {})(batch), wanted, atol=TOLERANCE, rtol=0)
    (tmp_path / "config.json").write_text(json.dumps(config))
    own = {name: one.contiguous() for name, one in original.state_dict().items()}
    save_file(own, tmp_path / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(read_checkpoint(tmp_path, {})(batch), wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("layout", "changes", "fault"),
    [
        ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets = 16 is not supported"),
        ("deberta-v3", {"conv_kernel_size": 3}, "conv_kernel_size = 3 is not supported"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling must be cls or mean"),
        ("electra", {"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ("nomic_bert", {"prenorm": True}, "prenorm = True is not supported"),
    ],
)
def test_what_a_layout_does_not_have_is_refused(
    tmp_path: Path, layout: str, changes: dict[str, Any], fault: str
) -> None:
    saved_layout(tmp_path, layout, "Model")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=fault):
        read_checkpoint(tmp_path, {})


@settings(max_examples=30, deadline=None)
@given(buckets=st.integers(2, 40), longest=st.integers(20, 300), both_ways=st.booleans())
def test_buckets_of_distances_are_those_of_t5(buckets: int, longest: int, both_ways: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    count = buckets * (4 if both_ways else 2)
    spec = BucketBiasSpec(buckets=count, max_distance=longest + count, both_ways=both_ways)
    distance = torch.arange(3 * longest)
    theirs = T5Attention._relative_position_bucket(-distance, both_ways, count, longest + count)
    mine = torch.tensor(spec.bucket_of())[distance.clamp(max=longest + count)]
    assert torch.equal(mine, theirs)


@settings(max_examples=30, deadline=None)
@given(half=st.integers(2, 64), more=st.integers(3, 400))
def test_buckets_of_places_are_those_of_deberta(half: int, more: int) -> None:
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    span, longest = 2 * half, half + more
    spec = DisentangledBiasSpec(head_dim=1, span=span, max_distance=longest)
    distance = torch.arange(3 * longest)
    theirs = make_log_bucket_position(distance, span, longest).long().clamp(max=span - 1)
    table = torch.tensor(spec.bucket_of())
    assert torch.equal(table[distance.clamp(max=len(table) - 1)].clamp(max=span - 1), theirs)
