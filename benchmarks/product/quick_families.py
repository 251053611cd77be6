"""Recipe `quick` to its end for each group of families and each task, on tiny random models, and the bundle opened.

    python -m benchmarks quick-families benchmarks/results/quick-families.json

The models know nothing, so the gate's verdict says nothing either: what is shown is that reading, rewriting, healing,
exporting and quantizing end in a bundle whose self-test passes and which answers as a device opens it. Numbers of
trained models are those of `real-models`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from benchmarks.lab import record, runs
from targets.errors import run_cli

WORDS = [f"w{number}" for number in range(60)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {
    **{"vocab_size": len(VOCABULARY), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    **{"max_position_embeddings": 64, **SIZES},
}
DECODER = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
IMAGE = {**SIZES, "image_size": 32, "patch_size": 8}
TWO = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
SETTINGS = (
    *("gate.min_samples=1", "calibrate.samples=16", "calibrate.held_out=8"),
    *("heal.steps=4", "heal.eval_every=2", "heal.batch_size=8"),
)
ASKED = {"images": "PICTURE", "pairs": "w1 w2\tw3", "questions": "w1 w2\tw3 w4"}


def text_model(name: str, **options: Any) -> Callable[[Path], None]:
    """Writes a model of this class of transformers, with a tokenizer of a few words."""

    def made(folder: Path) -> None:
        _saved(folder, name, options)
        _tokenizer(folder)

    return made


def image_model(name: str, processor: str, **options: Any) -> Callable[[Path], None]:
    """The same with an image processor of this class; a model of two towers has a tokenizer too."""

    def made(folder: Path) -> None:
        _saved(folder, name, options)
        settings = {"image_processor_type": processor, "size": {"height": 32, "width": 32}, "do_center_crop": False}
        means = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (folder / "preprocessor_config.json").write_text(json.dumps({**settings, **means}))
        if "text_config" in options:
            _tokenizer(folder)

    return made


def timm_model(folder: Path) -> None:
    """A ViT as timm's hub has it: its own names of tensors, pretrained_cfg in config.json."""
    from safetensors.torch import save_file

    draw, width, hidden = torch.Generator().manual_seed(0), 64, 128

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * shape[-1] ** -0.5

    tensors = {"cls_token": some(1, 1, width), "pos_embed": some(1, 17, width)}
    tensors |= {"patch_embed.proj.weight": some(width, 3, 8, 8), "patch_embed.proj.bias": some(width)}
    for block in range(2):
        maps = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        maps |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
        for name, shape in maps.items():
            tensors[f"blocks.{block}.{name}.weight"] = some(*shape)
            tensors[f"blocks.{block}.{name}.bias"] = some(shape[0])
    norms = ["norm", *(f"blocks.{block}.norm{half}" for block in range(2) for half in (1, 2))]
    for name in norms:
        tensors |= {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
    tensors |= {"head.weight": some(3, width), "head.bias": some(3)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    size = {"img_size": 32, "patch_size": 8, "embed_dim": width, "depth": 2, "num_heads": 4, "mlp_ratio": 2}
    settings = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "num_classes": 3}
    settings |= {"interpolation": "bicubic", "fixed_input_size": True, "first_conv": "patch_embed.proj"}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "num_features": width, "model_args": size}
    names = {"label_names": ["a", "b", "c"]}
    (folder / "config.json").write_text(json.dumps({**config, **names, "pretrained_cfg": {**settings, **names}}))


def _saved(folder: Path, name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    model = model_class(model_class.config_class(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape) * parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    numbers = {word: place for place, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(VOCABULARY[:5])
    tokenizer.save(str(folder / "tokenizer.json"))


def write_data(folder: Path) -> dict[str, Path]:
    """Data of every kind, by kind."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)

    def some() -> str:
        return " ".join(draw.choice(WORDS, draw.integers(2, 9)))

    def table(name: str, title: str, rows: list[str]) -> Path:
        path = folder / name
        path.write_text("\n".join([title, *rows]) + "\n", encoding="utf-8")
        return path

    texts = [some() for _ in range(120)]
    classes = [f"{text}\t{('bad', 'good')[place % 2]}" for place, text in enumerate(texts)]
    scored = [f"{texts[place % 12]}\t{some()}\t{draw.random():.3f}" for place in range(120)]
    entailed = [f"{text}\t{some()}\t{('bad', 'good')[place % 2]}" for place, text in enumerate(texts)]
    marked = [f"{text},{place % 2},{place % 3 % 2},1" for place, text in enumerate(texts)]
    tagged = ["\n".join(f"{word} {'B-ODD' if int(word[1:]) % 2 else 'O'}" for word in text.split()) for text in texts]
    asked = [
        {"question": some(), "context": text, "answers": {"text": [text.split()[0]], "answer_start": [0]}}
        for text in texts
    ]
    for place in range(90):
        image = folder / "images" / "abc"[place % 3] / f"{place}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(image)
    return {
        "texts": table("texts.txt", texts[0], texts[1:]),
        "classes": table("classes.tsv", "text\tlabel", classes),
        "pairs": table("pairs.tsv", "sentence1\tsentence2\tscore", scored),
        "entailed": table("entailed.tsv", "premise\thypothesis\tlabel", entailed),
        "marks": table("marks.csv", "text,toxic,insult,threat", marked),
        "tags": table("tags.conll", "-DOCSTART- O\n", ["\n\n".join(tagged)]),
        "questions": table("questions.jsonl", json.dumps(asked[0]), [json.dumps(one) for one in asked[1:]]),
        "images": folder / "images",
    }


ODD = {"id2label": {0: "O", 1: "B-ODD", 2: "I-ODD"}, "label2id": {"O": 0, "B-ODD": 1, "I-ODD": 2}}
MARKS = {"id2label": {0: "toxic", 1: "insult", 2: "threat"}, "label2id": {"toxic": 0, "insult": 1, "threat": 2}}
ABC = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
TOWER = {"vision_config": IMAGE, "text_config": {**TEXT, "max_position_embeddings": 16, "projection_size": 32}}
#: Case -> (kind of data, what writes the model).
CASES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "qwen3": ("texts", text_model("Qwen3ForCausalLM", **DECODER)),
    "llama-3": (
        "texts",
        text_model(
            "LlamaForCausalLM",
            **DECODER,
            rope_parameters={**LLAMA3, "rope_theta": 500000.0, "original_max_position_embeddings": 32},
        ),
    ),
    "gemma-3": ("texts", text_model("Gemma3ForCausalLM", **DECODER, sliding_window=8, query_pre_attn_scalar=8)),
    "gpt-2": (
        "texts",
        text_model("GPT2LMHeadModel", vocab_size=65, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=3),
    ),
    "lfm2": ("texts", text_model("Lfm2ForCausalLM", **DECODER, layer_types=["conv", "full_attention"])),
    "modernbert-classes": (
        "classes",
        text_model(
            "ModernBertForSequenceClassification",
            **{**TEXT, **TWO, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 8},
        ),
    ),
    "mpnet-embedding": ("pairs", text_model("MPNetModel", **TEXT)),
    "nomic-embedding": ("pairs", text_model("NomicBertModel", **TEXT)),
    "deberta-entailment": (
        "entailed",
        text_model(
            "DebertaV2ForSequenceClassification",
            **{**TEXT, **TWO, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
            **{"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False},
        ),
    ),
    "electra-questions": ("questions", text_model("ElectraForQuestionAnswering", **TEXT, embedding_size=16)),
    "electra-replaced": ("texts", text_model("ElectraForPreTraining", **TEXT, embedding_size=16)),
    "bert-reranker": ("pairs", text_model("BertForSequenceClassification", **TEXT, num_labels=1)),
    "bert-masks": ("texts", text_model("BertForMaskedLM", **TEXT)),
    "bert-tags": ("tags", text_model("BertForTokenClassification", **{**TEXT, **ODD})),
    "roberta-labels": (
        "marks",
        text_model("RobertaForSequenceClassification", **{**TEXT, **MARKS}, problem_type="multi_label_classification"),
    ),
    "siglip": ("images", image_model("SiglipModel", "SiglipImageProcessor", **TOWER)),
    "clip": ("images", image_model("CLIPModel", "CLIPImageProcessor", **TOWER, projection_dim=16)),
    "dinov3": ("images", image_model("DINOv3ViTModel", "DINOv3ViTImageProcessorFast", **IMAGE, num_register_tokens=2)),
    "dinov2": ("images", image_model("Dinov2ForImageClassification", "BitImageProcessor", **{**IMAGE, **ABC})),
    "timm": ("images", timm_model),
}


def measured(name: str, folder: Path) -> dict[str, Any]:
    """What the run of a case and its device say."""
    kind, made = CASES[name]
    making = runs.forked(folder / "making", lambda: made(folder / "model"))
    if making["exit"]:
        return {"case": name, **making}
    data = write_data(folder / "data")
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    given = ["--model", str(folder / "model"), "--data", str(data[kind]), "--recipe", "quick", "--max-drop", "100"]
    row = {"case": name, **runs.whole(folder, folder / "cache", *given, *settings)}
    row.pop("metrics", None)  # of a model that knows nothing
    asked = ASKED.get(kind, "w1 w2 w3")
    picture = next(data["images"].rglob("*.png"))
    if (folder / "out" / "bundle").is_dir():
        row["device"] = runs.opened(folder, str(picture) if asked == "PICTURE" else asked)
    return row


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=[])
    args = parser.parse_args()
    runs.load_libraries()
    rows = runs.Rows(args.json, "families", "case", record.command("quick-families"))
    for name in args.only or CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows.add(measured(name, Path(folder)))
    return 0 if all(_to_the_end(row) for row in rows.rows.values()) else 1


def _to_the_end(row: dict[str, Any]) -> bool:
    """Whether there is a bundle that a device opens."""
    return row["exit"] in (0, 1) and all(one["exit"] == 0 for one in row.get("device", {"": {"exit": 1}}).values())


if __name__ == "__main__":
    run_cli(main)
