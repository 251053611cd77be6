"""What gives vectors without being BERT: CLIP's text tower, sparse encoders, static tables, and the rarer pools; and
decoders that give a number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.text_checkpoints import PAD, VOCABULARY, batch_of, saved_class
from support.tiny_texts import model_folder
from torch import Tensor

from compress import tasks, zoo
from compress.model.pooling import pooled
from compress.model.sequence import Context
from compress.tasks import read_checkpoint
from compress.tasks.task import DataChoice
from runtime.texts.text import Tokenizer, parse_preprocessing
from targets.errors import InputError

SECTION = {"kind": "text", "vocab_size": VOCABULARY, "max_length": 15, "pad_id": PAD}
SIZES: dict[str, Any] = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 24,
}


def sentence_modules(folder: Path, *kinds: str) -> None:
    """A modules.json of these kinds, the first of them the folder itself."""
    listed = [
        {"idx": place, "name": str(place), "path": f"{place}_{kind}" if place else "", "type": f"sentences.{kind}"}
        for place, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))


@pytest.mark.parametrize("end", [2, 5])
@pytest.mark.parametrize("name", ["CLIPTextModelWithProjection", "CLIPTextModel"])
def test_the_text_tower_of_clip_gives_the_vector_at_the_end_of_the_text(tmp_path: Path, name: str, end: int) -> None:
    options = SIZES | {"projection_dim": 7, "eos_token_id": end}
    theirs = saved_class(tmp_path, name, "CLIPTextConfig", **options)
    ours = read_checkpoint(tmp_path, SECTION)
    ids_BN = torch.randint(6, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(0))
    ids_BN[0, 8] = ids_BN[1, 10] = ids_BN[2, 4] = VOCABULARY - 1 if end == 2 else end
    inputs = {"input_ids": ids_BN, "attention_mask": torch.ones_like(ids_BN)}
    inputs["attention_mask"][2, 5:] = 0
    with torch.no_grad():
        answer = theirs(**inputs)
        given = ours(inputs)
    wanted = answer["text_embeds" if name.endswith("Projection") else "pooler_output"]
    assert float((wanted - given).abs().max()) < 1e-5
    assert tasks.of_folder(tmp_path).outputs == ("sentence_embedding",)


@pytest.mark.parametrize(("stem", "changes"), [("Bert", {}), ("DistilBert", {}), ("ModernBert", {})])
def test_sparse_encoders_give_the_largest_scores_of_the_vocabulary(
    tmp_path: Path, stem: str, changes: dict[str, Any]
) -> None:
    sizes = SIZES if stem != "DistilBert" else {"dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 20}
    theirs = saved_class(tmp_path, f"{stem}ForMaskedLM", f"{stem}Config", **sizes, **changes)
    sentence_modules(tmp_path, "MLMTransformer", "SpladePooling")
    (tmp_path / "1_SpladePooling").mkdir()
    (tmp_path / "1_SpladePooling" / "config.json").write_text(json.dumps({"pooling_strategy": "max"}))
    ours, inputs = read_checkpoint(tmp_path, SECTION), batch_of("right", 11)
    with torch.no_grad():
        scores_BNV, given_BV = theirs(**inputs).logits, ours(inputs)
    wanted_BV = (scores_BNV.relu().log1p() * inputs["attention_mask"][..., None]).amax(dim=1)
    assert float((wanted_BV - given_BV).abs().max()) < 1e-5 and given_BV.shape[1] == VOCABULARY
    (tmp_path / "1_SpladePooling" / "config.json").write_text(json.dumps({"pooling_strategy": "sum"}))
    with pytest.raises(InputError, match="pooling_strategy = 'sum' is not supported"):
        read_checkpoint(tmp_path, SECTION)


def test_rarer_pools_are_those_of_a_plain_loop() -> None:
    x_BND = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    counts = [5, 3, 1]
    context = Context(torch.arange(5)[None] < torch.tensor(counts)[:, None])
    for row, count in enumerate(counts):
        own = [x_BND[row, place] for place in range(count)]
        summed: Tensor = torch.stack(own).sum(dim=0)
        weighted = torch.stack([(place + 1) * one for place, one in enumerate(own)]).sum(dim=0)
        wanted = {"mean-sqrt": summed / count**0.5, "weighted-mean": weighted / (count * (count + 1) / 2)}
        for pool, vector in wanted.items():
            assert torch.allclose(pooled(x_BND, pool, context)[row], vector, atol=1e-6)  # type: ignore[arg-type]


def static_folder(folder: Path, inner: str, name: str, tensors: dict[str, Tensor] | None = None) -> Tensor:
    """A folder as sentence-transformers and model2vec save it; returns the table."""
    table_VD = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    model_folder(folder / inner, "embedding")
    for file in ("structure.json", "model.safetensors"):
        (folder / inner / file).unlink()
    save_file(tensors or {name: table_VD}, folder / inner / "model.safetensors")
    listed = [{"path": inner, "type": "sentence_transformers.models.StaticEmbedding"}]
    listed += [{"path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}]
    (folder / "modules.json").write_text(json.dumps(listed))
    return table_VD


@pytest.mark.parametrize(("inner", "name"), [("0_StaticEmbedding", "embedding.weight"), (".", "embeddings")])
def test_static_embeddings_are_the_mean_of_the_rows_of_the_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str, name: str
) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    table_VD = static_folder(tmp_path / "model", inner, name)
    folder = zoo.locate(str(tmp_path / "model"))
    assert folder == zoo.locate(str(tmp_path / "model")) and not (tmp_path / "model" / "config.json").is_file()
    task = tasks.of_folder(folder)
    section = task.preprocessing(folder, print)
    model = read_checkpoint(folder, section)
    assert model.structure.blocks == ()
    ids = Tokenizer(folder / "tokenizer.json", parse_preprocessing(section)).encode(["w1 w2 w2", "w5"]).ids
    assert ids == [[5, 6, 6], [9]]
    (tmp_path / "texts.txt").write_text("w1 w2 w2\nw5\nw6\n")
    data = task.open(DataChoice(str(tmp_path / "texts.txt"), None, False, 0), "healing", (), section, folder)
    with torch.no_grad():
        for inputs in data.batches(8):
            given_BD = model({key: torch.from_numpy(array) for key, array in inputs.items()})
            for ids_N, mask_N, vector_D in zip(inputs["input_ids"], inputs["attention_mask"], given_BD, strict=True):
                mean_D = torch.stack([table_VD[one] for one in ids_N[mask_N > 0]]).mean(dim=0)
                assert torch.allclose(vector_D, mean_D / mean_D.norm(), atol=1e-6)


def test_static_embeddings_with_more_than_a_table_are_refused(tmp_path: Path) -> None:
    more = {"embeddings": torch.zeros(64, 6), "mapping": torch.zeros(64)}
    static_folder(tmp_path / "model", ".", "embeddings", more)
    with pytest.raises(InputError, match=r"holds embeddings, mapping; only a table embedding\.weight is read"):
        zoo.locate(str(tmp_path / "model"))


def test_a_decoder_with_one_output_gives_a_number_of_the_last_token(tmp_path: Path) -> None:
    sizes = SIZES | {"num_key_value_heads": 3}
    theirs = saved_class(tmp_path, "LlamaForSequenceClassification", "LlamaConfig", num_labels=1, **sizes)
    assert tasks.of_folder(tmp_path).head == "score"
    ours, inputs = read_checkpoint(tmp_path, SECTION), batch_of("right", 11)
    with torch.no_grad():
        wanted, given = theirs(**inputs).logits, ours(inputs)
    assert wanted.shape == given.shape == (len(inputs["input_ids"]), 1)
    assert float((wanted - given).abs().max()) < 1e-5
