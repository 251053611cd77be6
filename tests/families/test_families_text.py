"""What the text families read computes what transformers computes, padding on either side."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.text_checkpoints import FAMILIES, PAD, VOCABULARY, batch_of, saved_text
from torch import Tensor

from compress.model.heads.embedding import EmbeddingSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.tasks import read_checkpoint
from targets.errors import InputError

TOLERANCE = 1e-4
ENCODERS = ["bert", "roberta", "xlm-roberta", "distilbert", "albert"]
DECODERS = ["gpt2", "llama", "qwen2", "mistral"]
Side = Literal["left", "right"]
sides = st.sampled_from(["left", "right"])
heads = st.sampled_from([1, 2, 3, 5, 7])


def positions(mask_BN: Tensor) -> Tensor:
    """Places of the real tokens, counted from the first of them."""
    return (mask_BN.cumsum(1) - 1).clamp(min=0)


@pytest.mark.parametrize("family", ENCODERS)
@settings(max_examples=6, deadline=None)
@given(heads=heads, head_dim=st.integers(1, 5), side=sides, labels=st.integers(2, 5), seed=st.integers(0, 99))
@torch.no_grad()
def test_classifiers_compute_the_logits_of_transformers(
    family: str, heads: int, head_dim: int, side: Side, labels: int, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        original = saved_text(
            Path(name),
            family,
            "ForSequenceClassification",
            heads=heads,
            head_size=head_dim,
            num_labels=labels,
            seed=seed,
        )
        model = read_checkpoint(Path(name), {})
    batch = batch_of(side, seed=seed)
    assert model.structure.task == "text-classification"
    assert len(model.structure.labels) == labels
    torch.testing.assert_close(model(batch), original(**batch).logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_bare_models_give_the_mean_of_the_real_tokens(tmp_path: Path, family: str, side: Side) -> None:
    original = saved_text(tmp_path, family, "Model")
    batch = batch_of(side)
    tokens_BND = original(**batch).last_hidden_state
    share_BN1 = batch["attention_mask"][..., None].float()
    mean_BD = (tokens_BND * share_BN1).sum(1) / share_BN1.sum(1)
    model = read_checkpoint(tmp_path, {})
    assert model.structure.task == "embedding"
    torch.testing.assert_close(model(batch), mean_BD, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ["bert", "albert"])
@torch.no_grad()
def test_token_types_are_read_where_they_are_given(tmp_path: Path, family: str) -> None:
    original = saved_text(tmp_path, family, "ForSequenceClassification")
    batch = batch_of("right") | {"token_type_ids": (torch.arange(9) > 3).long().expand(3, -1)}
    model = read_checkpoint(tmp_path, {})
    torch.testing.assert_close(model(batch), original(**batch).logits, atol=TOLERANCE, rtol=0)
    without = {name: tensor for name, tensor in batch.items() if name != "token_type_ids"}
    assert (model(without) - model(batch)).abs().max() > 1e-3


@pytest.mark.parametrize("family", DECODERS)
@settings(max_examples=8, deadline=None)
@given(
    groups=st.sampled_from([1, 3, 5]),
    per_group=st.integers(1, 3),
    half=st.integers(1, 3),
    side=sides,
    tied=st.booleans(),
    bias=st.booleans(),
    offset=st.integers(0, 6),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_decoders_compute_the_logits_of_transformers_at_any_place(
    family: str, groups: int, per_group: int, half: int, side: Side, tied: bool, bias: bool, offset: int, seed: int
) -> None:
    changes: dict[str, Any] = {"tie_word_embeddings": tied}
    if family != "gpt2":
        changes |= {"num_key_value_heads": groups, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    if family == "llama":
        changes |= {"attention_bias": bias, "mlp_bias": bias}
    kind = "LMHeadModel" if family == "gpt2" else "ForCausalLM"
    with tempfile.TemporaryDirectory() as name:
        original = saved_text(
            Path(name), family, kind, heads=groups * per_group, head_size=2 * half, seed=seed, **changes
        )
        model = read_checkpoint(Path(name), {})
    batch = batch_of(side, seed=seed)
    batch["position_ids"] = positions(batch["attention_mask"]) + offset
    real_BN = batch["attention_mask"].bool()
    theirs = original(**batch).logits
    assert model.structure.task == "causal-lm"
    torch.testing.assert_close(model(batch)[real_BN], theirs[real_BN], atol=TOLERANCE, rtol=0)
    names = {name for name, _ in model.named_parameters()}
    assert ("head.output.weight" in names) != tied


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_decoders_that_classify_read_the_last_real_token(tmp_path: Path, family: str) -> None:
    original = saved_text(tmp_path, family, "ForSequenceClassification", num_labels=4)
    batch = batch_of("right")
    model = read_checkpoint(tmp_path, {})
    torch.testing.assert_close(model(batch), original(**batch).logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_without_a_mask_and_positions_every_token_is_real(tmp_path: Path, family: str) -> None:
    original = saved_text(tmp_path, family, "LMHeadModel" if family == "gpt2" else "ForCausalLM")
    ids = {"input_ids": batch_of("left")["input_ids"]}
    torch.testing.assert_close(read_checkpoint(tmp_path, {})(ids), original(**ids).logits, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_gpt2_scales_by_the_layer_where_its_config_says_so(tmp_path: Path) -> None:
    original = saved_text(tmp_path, "gpt2", "LMHeadModel", scale_attn_by_inverse_layer_idx=True, n_inner=7)
    batch = batch_of("right")
    theirs, real_BN = original(**batch).logits, batch["attention_mask"].bool()
    torch.testing.assert_close(read_checkpoint(tmp_path, {})(batch)[real_BN], theirs[real_BN], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_heads_need_not_fill_the_width_where_their_size_is_given(tmp_path: Path) -> None:
    original = saved_text(tmp_path, "llama", "ForCausalLM", heads=2, hidden_size=14, head_dim=6)
    ids = {"input_ids": batch_of("left")["input_ids"]}
    torch.testing.assert_close(read_checkpoint(tmp_path, {})(ids), original(**ids).logits, atol=TOLERANCE, rtol=0)


@settings(max_examples=8, deadline=None)
@given(groups=st.integers(1, 3), per_group=st.integers(1, 3), inner=st.integers(1, 2))
@torch.no_grad()
def test_albert_is_a_schedule_that_loops_its_blocks(groups: int, per_group: int, inner: int) -> None:
    runs = groups * per_group
    with tempfile.TemporaryDirectory() as name:
        original = saved_text(
            Path(name), "albert", "Model", num_hidden_layers=runs, num_hidden_groups=groups, inner_group_num=inner
        )
        model = read_checkpoint(Path(name), {})
    batch = batch_of("right")
    mask_BN1 = batch["attention_mask"][..., None].float()
    mean_BD = (original(**batch).last_hidden_state * mask_BN1).sum(1) / mask_BN1.sum(1)
    torch.testing.assert_close(model(batch), mean_BD, atol=TOLERANCE, rtol=0)
    assert len(model.structure.blocks) == groups * inner
    assert [block.loops for block in model.structure.blocks] == [per_group] * groups * inner
    assert [step.origin for step in model.structure.schedule] == list(range(runs * inner))


def sentence_files(folder: Path, *modules: str, pooling: dict[str, Any] | None = None) -> None:
    listed = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "", "type": f"a.models.{kind}"}
        for index, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize(
    ("modules", "pooling", "expected"),
    [
        (("Transformer", "Pooling"), {"pooling_mode_cls_token": True}, EmbeddingSpec(pool="cls", normalize=False)),
        (
            ("Transformer", "Pooling", "Normalize"),
            {"word_embedding_dimension": 12, "pooling_mode_mean_tokens": True, "include_prompt": True},
            EmbeddingSpec(pool="mean", normalize=True),
        ),
        (("Transformer", "Pooling"), {"pooling_mode": "lasttoken"}, EmbeddingSpec(pool="last", normalize=False)),
    ],
)
def test_pooling_and_normalization_come_from_the_files_of_sentence_transformers(
    tmp_path: Path, modules: tuple[str, ...], pooling: dict[str, Any], expected: EmbeddingSpec
) -> None:
    saved_text(tmp_path, "bert", "Model")
    sentence_files(tmp_path, *modules, pooling=pooling)
    assert read_checkpoint(tmp_path, {}).structure.head == expected


@pytest.mark.parametrize(
    ("modules", "pooling", "fault"),
    [
        (("Transformer", "Pooling", "LayerNorm"), {"pooling_mode": "mean"}, "a 'LayerNorm' module is not supported"),
        (("Transformer", "Pooling", "Normalize", "Dense"), {"pooling_mode": "mean"}, "a Dense module behind Normalize"),
        (("Transformer", "Pooling"), {"pooling_mode": "attention"}, "pooling attention is not supported"),
        (("Transformer", "Pooling"), {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "pooling"),
        (("Transformer", "Pooling"), {}, "pooling unknown"),
        (("Transformer", "Pooling"), None, "cannot be read"),
        ((), None, "a module must be an object with type and path, not 3"),
    ],
)
def test_sentence_encoders_that_do_more_are_refused(
    tmp_path: Path, modules: tuple[str, ...], pooling: dict[str, Any] | None, fault: str
) -> None:
    saved_text(tmp_path, "bert", "Model")
    sentence_files(tmp_path, *modules, pooling=pooling)
    if not modules:
        (tmp_path / "modules.json").write_text("[3]")
    with pytest.raises(InputError, match=fault):
        read_checkpoint(tmp_path, {})


@pytest.mark.parametrize(("act", "bias"), [("activation.Tanh", True), ("linear.Identity", False)])
@torch.no_grad()
def test_dense_maps_behind_the_pooling_are_applied_in_order(tmp_path: Path, act: str, bias: bool) -> None:
    original = saved_text(tmp_path, "bert", "Model")
    sentence_files(tmp_path, "Transformer", "Pooling", "Dense", "Dense", "Normalize", pooling={"pooling_mode": "max"})
    batch, maps = batch_of("right"), []
    for index, (inner, outer) in ((2, (12, 7)), (3, (7, 5))):
        folder = tmp_path / f"{index}_Dense"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"activation_function": f"torch.nn.modules.{act}"}))
        maps.append(
            {"linear.weight": torch.randn(outer, inner), **({"linear.bias": torch.randn(outer)} if bias else {})}
        )
        torch.save(maps[-1], folder / "pytorch_model.bin")
    tokens_BND = original(**batch).last_hidden_state
    wanted = tokens_BND.masked_fill(batch["attention_mask"][..., None] == 0, -torch.inf).amax(1)
    for one in maps:
        wanted = wanted @ one["linear.weight"].T + one.get("linear.bias", torch.zeros(()))
        wanted = wanted.tanh() if act.endswith("Tanh") else wanted
    model = read_checkpoint(tmp_path, {})
    wanted = torch.nn.functional.normalize(wanted, dim=-1)
    torch.testing.assert_close(model(batch), wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("family", "kind", "changes", "fault"),
    [
        ("bert", "ForNextSentencePrediction", {}, "ForNextSentencePrediction.*for no task here"),
        (
            "bert",
            "ForSequenceClassification",
            {"problem_type": "regression", "num_labels": 2},
            "a head for regression is not supported",
        ),
        ("bert", "Model", {"is_decoder": True}, "is_decoder = True is not supported"),
        (
            "llama",
            "ForCausalLM",
            {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type 'proportional' is not supported",
        ),
        ("gpt2", "LMHeadModel", {"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_what_the_canonical_model_cannot_compute_is_refused(
    tmp_path: Path, family: str, kind: str, changes: dict[str, Any], fault: str
) -> None:
    saved_text(tmp_path, family, kind, **changes)
    with pytest.raises(InputError, match=fault):
        read_checkpoint(tmp_path, {})


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_a_tied_head_beside_one_in_the_weights_is_refused_unless_they_are_equal(tmp_path: Path, family: str) -> None:
    from safetensors.torch import load_file, save_file

    saved_text(tmp_path, family, "LMHeadModel" if family == "gpt2" else "ForCausalLM", tie_word_embeddings=True)
    tensors = load_file(tmp_path / "model.safetensors")
    table = next(name for name in tensors if name.endswith(("wte.weight", "embed_tokens.weight")))
    for head, fits in ((tensors[table].clone(), True), (2 * tensors[table], False)):
        save_file({**tensors, "lm_head.weight": head}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        if fits:
            assert read_checkpoint(tmp_path, {}).num_parameters() == sum(one.numel() for one in tensors.values())
            continue
        with pytest.raises(InputError, match=f"ties the head to {table}, but .* another lm_head.weight; set tie_word"):
            read_checkpoint(tmp_path, {})


def test_gains_and_offsets_may_have_the_first_names_of_bert(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    original = saved_text(tmp_path, "bert", "ForSequenceClassification")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    batch = batch_of("right")
    with torch.no_grad():
        given_ = read_checkpoint(tmp_path, {})(batch)
        torch.testing.assert_close(given_, original(**batch).logits, atol=TOLERANCE, rtol=0)


def test_a_sliding_window_that_is_not_given_is_that_of_transformers(tmp_path: Path) -> None:
    saved_text(tmp_path, "mistral", "ForCausalLM", max_position_embeddings=8192)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["sliding_window"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    mixer = read_checkpoint(tmp_path, {}).structure.blocks[0].mixer
    assert isinstance(mixer, SoftmaxAttentionSpec) and mixer.window == 4096


def test_a_sliding_window_that_holds_every_text_is_none(tmp_path: Path) -> None:
    saved_text(tmp_path, "mistral", "ForCausalLM", sliding_window=24, max_position_embeddings=24)
    mixer = read_checkpoint(tmp_path, {}).structure.blocks[0].mixer
    assert isinstance(mixer, SoftmaxAttentionSpec) and mixer.window is None


def test_every_family_has_a_case() -> None:
    assert sorted(FAMILIES) == sorted(ENCODERS + DECODERS)
    assert PAD < VOCABULARY


@pytest.mark.parametrize("pad", [-1, "one"])
def test_a_padding_index_that_is_none_is_refused(tmp_path: Path, pad: object) -> None:
    saved_text(tmp_path, "roberta", "Model")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": pad}))
    with pytest.raises(InputError, match=r"config.json: pad_token_id must be a whole number from 0 to"):
        read_checkpoint(tmp_path, {})
