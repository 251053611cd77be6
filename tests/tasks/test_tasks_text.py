"""What tasks on texts answer, against plain loops; what healing minimizes on them; what a checkpoint says of texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_texts
from torch.nn import functional as F

from compress import tasks
from compress.data import load_texts
from compress.data.prepared_texts import PreparedTexts, by_length, prepare_texts
from compress.heal import HealOptions
from compress.heal.objective import CLASSIFICATION, EMBEDDING, LANGUAGE_MODEL, Objective
from compress.model import load
from compress.tasks import read_checkpoint
from compress.tasks.causal_lm import CausalLm
from compress.tasks.task import DataChoice
from compress.verification.predictions import EmbeddedPairs, NextTokens
from targets.errors import InputError

ROOT = Path(__file__).parents[2]
STORIES = ROOT / "compress" / "zoo" / "stories260k"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_torch(model: Any) -> Any:
    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            out = model({name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: out.numpy() for name in ("logits", "sentence_embedding")}

    return run


def test_losses_of_a_language_model_are_those_of_one_text_after_the_other() -> None:
    task = tasks.get("causal-lm")
    model = read_checkpoint(STORIES, task.preprocessing(STORIES, print))
    data = task.open(DataChoice("zoo:stories", 6, False, 0), "evaluation", (), model.structure.preprocessing, STORIES)
    found = task.answers(run_torch(model), data, lambda done, **numbers: None)
    assert isinstance(found, NextTokens)
    vocabulary = model.structure.preprocessing["vocab_size"]
    for index, ids in enumerate(data.ids):  # type: ignore[attr-defined]
        with torch.no_grad():
            logits_NV = model({"input_ids": torch.tensor([ids])})[0].double()
        wanted = F.cross_entropy(logits_NV[:-1], torch.tensor(ids[1:]), reduction="sum")
        assert found.nll[index] == pytest.approx(float(wanted), rel=1e-5)
        assert found.tokens[index] == len(ids) - 1
        assert found.best[index, : len(ids) - 1].tolist() == logits_NV[:-1].argmax(-1).tolist()
        assert (found.best[index, len(ids) - 1 :] == -1).all()
        first = logits_NV[0].log_softmax(-1).numpy()
        np.testing.assert_allclose(found.log_probs[index, 0].astype(float), first, atol=0.02)
    assert found.log_probs.shape[2] == vocabulary
    texts = [row.texts[0] for row in data.dataset.rows]  # type: ignore[attr-defined]
    assert found.bytes.tolist() == [len(text.encode()) for text in texts]


def test_every_text_of_a_pair_is_embedded_once_and_stands_where_it_belongs(tmp_path: Path) -> None:
    folder = tiny_texts.model_folder(tmp_path / "model", "embedding")
    (tmp_path / "pairs.tsv").write_text("w1 w2\tw3\t1\nw3\tw1 w2\t2\nw4 w5 w6\tw3\t3\n")
    model, task = load(folder), tasks.of_folder(folder)
    data = prepare_texts(load_texts(str(tmp_path / "pairs.tsv")), model.structure.preprocessing, folder)
    ids, places = data.different()
    assert len(ids) == 3 and places.tolist() == [[0, 1], [1, 0], [2, 1]]
    found = task.answers(run_torch(model), data, lambda done, **numbers: None)
    assert isinstance(found, EmbeddedPairs)
    for row, texts in enumerate(data.texts):
        for column, one in enumerate(texts):
            with torch.no_grad():
                alone = model({"input_ids": torch.tensor([one])})[0]
            np.testing.assert_allclose(found.vectors[row, column], alone.numpy(), atol=1e-5)
    assert found.gold.tolist() == [1, 2, 3]


def test_texts_without_tokens_are_named_and_skipped_only_when_asked(tmp_path: Path) -> None:
    folder = tiny_texts.model_folder(tmp_path / "model", "text-classification")
    (tmp_path / "a.tsv").write_text("text\tlabel\nw1\tbad\n\u200b\tgood\n\u200b\tbad\nw2\tgood\nw3\tgood\n")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": False}
    tokenizer["normalizer"] |= {"strip_accents": False, "lowercase": False}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    data, preprocessing = load_texts(str(tmp_path / "a.tsv")), load(folder).structure.preprocessing
    with pytest.raises(InputError, match=r"2 of 5 texts cannot be used: a.tsv:3, a.tsv:4 \(first: the text has no tok"):
        prepare_texts(data, preprocessing, folder)
    kept = prepare_texts(data, preprocessing, folder, skip_corrupt=True)
    assert kept.dataset.names == ["a.tsv:2", "a.tsv:5", "a.tsv:6"]
    assert (len(kept.texts), kept.bytes.tolist()) == (3, [2, 2, 2])
    with pytest.raises(InputError, match=r"2 of 2 texts cannot be used"):
        prepare_texts(data.subset([1, 2]), preprocessing, folder, skip_corrupt=True)


@pytest.mark.parametrize(
    ("label", "note"),
    [
        (
            "poor",
            "no class of the data is a name of the model's, so they are taken in order: nice as bad, poor as good",
        ),
        ("0", "labels are taken for the model's class numbers: 0 as bad, 1 as good"),
        ("Bad", "classes are matched by name, upper and lower case and signs aside: Bad as bad, GOOD as good"),
    ],
)
def test_labels_that_are_no_exact_names_are_told(tmp_path: Path, label: str, note: str) -> None:
    folder = tiny_texts.model_folder(tmp_path / "model", "text-classification")
    other = {"poor": "nice", "0": "1", "Bad": "GOOD"}[label]
    (tmp_path / "a.tsv").write_text(f"text\tlabel\nw1\t{label}\nw2\t{other}\nw3\t{label}\nw4\t{other}\n")
    task, choice = tasks.of_folder(folder), DataChoice(str(tmp_path / "a.tsv"), None, False, 0)
    structure = load(folder).structure
    assert task.open(choice, "evaluation", structure.labels, structure.preprocessing, folder).notes == (note,)


def test_batches_by_length_hold_every_text_once() -> None:
    ids = [[0] * length for length in (5, 1, 3, 3, 9, 2, 2)]
    batches = list(by_length(ids, 3))
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert [len(ids[index]) for batch in batches for index in batch] == sorted(map(len, ids))


@pytest.mark.parametrize("objective", [CLASSIFICATION, EMBEDDING, LANGUAGE_MODEL])
def test_an_answer_equal_to_the_original_s_costs_nothing_and_others_cost(objective: Objective) -> None:
    shape = (4, 3, 7) if objective is LANGUAGE_MODEL else (4, 7)
    target, other = random(*shape), random(*shape, seed=1)
    inputs = {"input_ids": torch.zeros(4, 3, dtype=torch.int64), "attention_mask": torch.ones(4, 3).long()}
    options = HealOptions(temperature=1.0)
    assert float(objective.drift(target, target, inputs)) == pytest.approx(0, abs=1e-6)
    assert float(objective.loss(options, target, target, inputs, None)) == pytest.approx(0, abs=1e-6)
    assert float(objective.drift(other, target, inputs)) > 0.01
    assert float(objective.loss(options, other, target, inputs, None)) > 0.01


def test_the_loss_of_embeddings_is_the_cosine_and_all_pairwise_similarities() -> None:
    mine, theirs = random(5, 4), random(5, 4, seed=1)
    cosine = np.mean([1 - float(F.cosine_similarity(a, b, dim=0)) for a, b in zip(mine, theirs, strict=True)])
    squares = [
        float(F.cosine_similarity(mine[i], mine[j], dim=0) - F.cosine_similarity(theirs[i], theirs[j], dim=0)) ** 2
        for i in range(5)
        for j in range(5)
    ]
    found = EMBEDDING.loss(HealOptions(kl=0.5), mine, theirs, {}, None)
    assert float(found) == pytest.approx(0.5 * (cosine + 10 * np.mean(squares)), rel=1e-5)
    with pytest.raises(InputError, match="labels"):
        EMBEDDING.loss(HealOptions(task=1.0), mine, theirs, {}, None)


def test_padding_costs_a_language_model_nothing() -> None:
    target, answer = random(2, 5, 6), random(2, 5, 6, seed=1)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    inputs = {"input_ids": torch.randint(6, (2, 5)), "attention_mask": mask}
    options = HealOptions(task=0.3)
    before = LANGUAGE_MODEL.loss(options, answer, target, inputs, None)
    answer[0, 3:] += 100 * random(2, 6, seed=2)
    assert float(LANGUAGE_MODEL.loss(options, answer, target, inputs, None)) == pytest.approx(float(before))
    agreement = tasks.get("causal-lm").agreement(target, target, inputs)
    assert agreement.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("config", "files", "wanted"),
    [
        ({"max_position_embeddings": 512, "pad_token_id": 0}, {}, {"max_length": 512, "pad_id": 0, "stop": []}),
        (
            {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1, "eos_token_id": 2},
            {},
            {"max_length": 512, "pad_id": 1, "stop": [2]},
        ),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": None}, {}, {"max_length": 512}),
        (
            {"max_position_embeddings": 512},
            {"sentence_bert_config.json": {"max_seq_length": 256}, "tokenizer_config.json": {"model_max_length": 1e30}},
            {"max_length": 256},
        ),
        ({"n_positions": 1024, "eos_token_id": 50256}, {}, {"max_length": 1024, "pad_id": 50256, "stop": [50256]}),
        ({"max_position_embeddings": 64, "eos_token_id": [1, 2]}, {}, {"pad_id": 0, "stop": [1, 2]}),
        (
            {"max_position_embeddings": 64, "eos_token_id": 7},
            {"generation_config.json": {"eos_token_id": [7, 5]}},
            {"pad_id": 7, "stop": [7, 5]},
        ),
        ({"n_positions": 64, "eos_token_id": 999_999}, {}, {"pad_id": 0, "stop": []}),
    ],
)
def test_a_checkpoint_says_how_long_its_texts_are_and_how_they_are_padded(
    tmp_path: Path, config: dict[str, Any], files: dict[str, Any], wanted: dict[str, Any]
) -> None:
    for name, content in {"config.json": {"vocab_size": 60000, **config}, **files}.items():
        (tmp_path / name).write_text(json.dumps(content))
    section = tasks.get("embedding").preprocessing(tmp_path, print)
    assert {name: section[name] for name in wanted} == wanted
    for name in files:
        (tmp_path / name).unlink()
    for less, lacking in (({"vocab_size": 5}, "how long a text may be"), ({"n_positions": 5}, "vocab_size; add")):
        (tmp_path / "config.json").write_text(json.dumps(less))
        with pytest.raises(InputError, match=f"does not say {lacking}"):
            tasks.get("embedding").preprocessing(tmp_path, print)


@pytest.mark.parametrize(
    ("sentences", "pooling", "wanted"),
    [
        ({"prompts": {"query": "find: "}}, {}, {"prompts": {"query": "find: "}}),
        (
            {"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "query"},
            {"include_prompt": True},
            {"prompt": "q: ", "prompts": {"query": "q: ", "document": ""}},
        ),
        ({"prompts": {"query": "", "document": ""}, "default_prompt_name": None}, {}, {}),
        ({"prompts": {"query": "q: "}}, {"include_prompt": False}, {}),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, {"include_prompt": False}, "leaves out"),
        ({"prompts": {"query": 3}}, {}, "the prompt 'query' must be a text, not 3"),
    ],
)
def test_prompts_are_those_of_sentence_transformers(
    tmp_path: Path, sentences: dict[str, Any], pooling: dict[str, Any], wanted: dict[str, Any] | str
) -> None:
    (tmp_path / "1_Pooling").mkdir()
    files = {"config_sentence_transformers.json": sentences, "1_Pooling/config.json": pooling}
    for name, content in {"config.json": {"vocab_size": 9, "max_position_embeddings": 8}, **files}.items():
        (tmp_path / name).write_text(json.dumps(content))
    if isinstance(wanted, str):
        with pytest.raises(InputError, match=wanted):
            tasks.get("embedding").preprocessing(tmp_path, print)
        return
    section = tasks.get("embedding").preprocessing(tmp_path, print)
    assert {name: section[name] for name in ("prompt", "prompts") if name in section} == wanted


@pytest.mark.parametrize("lowers", [True, False])
def test_texts_that_are_lowered_before_a_tokenizer_that_does_not_are_refused(tmp_path: Path, lowers: bool) -> None:
    folder, task = tiny_texts.model_folder(tmp_path / "model", "embedding"), tasks.get("embedding")
    (folder / "config.json").write_text('{"vocab_size": 64, "max_position_embeddings": 12}')
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["ABCDEFGHIJKLMNOPQRSTUVWXYZ"] = tokenizer["model"]["vocab"].pop("w59")
    tokenizer["normalizer"] = {"type": "Lowercase"} if lowers else None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert task.preprocessing(folder, print)["max_length"] == 12
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    if lowers:
        assert task.preprocessing(folder, print)["max_length"] == 12
        return
    with pytest.raises(InputError, match=r"sentence_bert_config.json lowers texts before its tokenizer"):
        task.preprocessing(folder, print)


def test_a_text_that_is_cut_counts_the_bytes_that_stay(tmp_path: Path) -> None:
    folder = tiny_texts.model_folder(tmp_path / "model", "embedding")
    words = " ".join(f"w{number}" for number in range(30))
    (tmp_path / "a.txt").write_text(f"{words}\nw1 w2\n")
    data = prepare_texts(load_texts(str(tmp_path / "a.txt")), load(folder).structure.preprocessing, folder)
    assert data.notes == ("1 of 2 texts are longer than 12 tokens and were cut",)
    assert data.bytes.tolist() == [len("w0 w1 w2 w3 w4 w5 w6 w7 w8 w9"), 5]


@pytest.mark.parametrize("longest", [1, 4, 20])
def test_a_decoders_graph_is_checked_within_its_longest_text(longest: int) -> None:
    task = tasks.get("causal-lm")
    structure = read_checkpoint(STORIES, task.preprocessing(STORIES, print)).structure
    short = structure.replace(preprocessing={**structure.preprocessing, "max_length": longest})
    inputs = task.graph_inputs(short, seed=0)
    assert max(int(case["position_ids"].max()) for case in (inputs.example, *inputs.cases)) < longest


def test_a_tokenizer_that_is_damaged_or_not_there_is_told_of_the_users_folder(tmp_path: Path) -> None:
    folder, task = tiny_texts.model_folder(tmp_path / "model", "embedding"), tasks.get("embedding")
    (folder / "config.json").write_text('{"vocab_size": 64, "max_position_embeddings": 12}')
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=f"{folder}/tokenizer.json is not a tokenizer"):
        task.preprocessing(folder, print)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=f"{folder} has no tokenizer.json, nor vocab.txt"):
        task.copy_files(folder, tmp_path / "copy")


def test_files_travel_without_the_places_that_they_came_from(tmp_path: Path) -> None:
    folder, task = tiny_texts.model_folder(tmp_path / "model", "embedding"), tasks.get("embedding")
    config = {"vocab_size": 64, "_name_or_path": "/home/me/secret/model", "hidden_act": "gelu"}
    tokens = {"name_or_path": "owner/model", "tokenizer_file": "/home/me/.cache/tokenizer.json", "unk_token": "/"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    task.copy_files(folder, tmp_path / "copy")
    copies = [json.loads((tmp_path / "copy" / name).read_text()) for name in ("config.json", "tokenizer_config.json")]
    assert copies == [{"vocab_size": 64, "hidden_act": "gelu"}, {"name_or_path": "owner/model", "unk_token": "/"}]


def test_a_batch_of_a_language_model_has_no_more_scores_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.get("causal-lm")
    structure = read_checkpoint(STORIES, task.preprocessing(STORIES, print)).structure
    monkeypatch.setattr("compress.tasks.causal_lm.SCORES", 3 * 160 * 512)
    data = task.open(DataChoice("zoo:stories", 20, False, 0), "evaluation", (), structure.preprocessing, STORIES)
    feed = task.feed(data, 0, torch.device("cpu"))
    for batches in (data.batches(128), data.calibration(128, range(20)), feed.plain(256)):
        sizes = [len(batch["input_ids"]) for batch in batches]
        assert sum(sizes) == 20 and 1 <= max(sizes) <= 3


def test_texts_that_predict_nothing_are_left_out_and_counted() -> None:
    task = tasks.get("causal-lm")
    structure = read_checkpoint(STORIES, task.preprocessing(STORIES, print)).structure
    data = task.open(DataChoice("zoo:stories", 4, False, 0), "evaluation", (), structure.preprocessing, STORIES)
    assert isinstance(task, CausalLm) and isinstance(data, PreparedTexts) and data.notes == ()
    left = task.usable(replace(data, texts=[([5],), *data.texts[1:]]))
    assert len(left) == 3 and left.texts == data.texts[1:]
    assert left.notes == ("1 of 4 texts have a single token, behind which nothing is predicted, and are left out",)


def test_unknown_tasks_are_named() -> None:
    with pytest.raises(InputError, match="did you mean 'causal-lm'"):
        tasks.get("causal-ml")
    assert tasks.of_folder(STORIES).name == "causal-lm"
