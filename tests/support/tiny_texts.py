"""A small random text model with a tokenizer, and texts for it: a whole run takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from compress.model import Step, Structure, Transformer, save
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.head import HeadSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.heads.embedding import EmbeddingSpec
from compress.model.heads.masked_language_model import MaskedLanguageModelSpec
from compress.model.heads.replaced import ReplacedSpec
from compress.model.heads.span import SpanSpec
from compress.model.heads.token_classifier import TokenClassifierSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.values.projected import ProjectedValuesSpec

WORDS = [f"w{number}" for number in range(60)]
LABELS, TAGS = ("bad", "good"), ("O", "B-ODD", "I-ODD")
MARKS = ("toxic", "insult", "threat")
HIDDEN, MAX_LENGTH = 16, 12


def model_folder(folder: Path, task: str) -> Path:
    """A compressed model for this task, with its tokenizer."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *(["[MASK]"] if task == "masked-lm" else [])]
    write_tokenizer(vocabulary, folder)
    scores = ProjectedScoresSpec(num_heads=2, num_kv_heads=2, head_dim=8, scale=8**-0.5)
    block = BlockSpec(
        mixer=SoftmaxAttentionSpec(scores=scores, values=ProjectedValuesSpec(num_kv_heads=2, head_dim=8)),
        mixer_norm=NormSpec(),
        ffn=MlpSpec(intermediate_size=32),
        ffn_norm=NormSpec(),
        residual="post",
    )
    head: HeadSpec = EmbeddingSpec()
    labels: tuple[str, ...] = ()
    pairs: dict[str, int] = {}
    if task == "text-classification":
        head, labels = ClassifierSpec(num_labels=2, hidden="tanh"), LABELS
    elif task == "multi-label-classification":
        head, labels = ClassifierSpec(num_labels=3, hidden="tanh"), MARKS
    elif task == "text-regression":
        head, pairs = ClassifierSpec(num_labels=1, hidden="tanh"), {"separator": 3}
    elif task == "token-classification":
        head, labels = TokenClassifierSpec(num_labels=3), TAGS
    elif task == "question-answering":
        head, pairs = SpanSpec(), {"separator": 3}
    elif task == "replaced-token-detection":
        head = ReplacedSpec(hidden="gelu")
    elif task == "masked-lm":
        head = MaskedLanguageModelSpec(vocab_size=len(vocabulary), width=HIDDEN, activation="gelu", norm=NormSpec())
    structure = Structure(
        task=task,  # type: ignore[arg-type]
        hidden_size=HIDDEN,
        embed=TokenEmbedSpec(
            vocab_size=len(vocabulary), max_positions=MAX_LENGTH, token_types=2 if pairs else 0, norm=NormSpec()
        ),
        blocks=(block, block),
        schedule=(Step(block=0, origin=0), Step(block=1, origin=1)),
        final_norm=None,
        head=head,
        labels=labels,
        preprocessing={
            "kind": "text",
            "vocab_size": len(vocabulary),
            "max_length": MAX_LENGTH,
            **pairs,
            **({"mask_id": vocabulary.index("[MASK]")} if task == "masked-lm" else {}),
        },
    )
    torch.manual_seed(0)
    model = Transformer(structure)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                spread = 1.0 if name == "embed.table" else parameter.shape[-1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape) * spread)
    save(model.eval(), folder)
    return folder


def write_tokenizer(vocabulary: list[str], folder: Path) -> None:
    """A tokenizer of these words, with [CLS] before a text and [SEP] behind it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [(mark, vocabulary.index(mark)) for mark in ("[CLS]", "[SEP]")]
    )
    tokenizer.add_special_tokens([word for word in vocabulary if word in {"[PAD]", "[CLS]", "[SEP]", "[MASK]"}])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def sentence(draw: np.random.Generator) -> str:
    """Some words; now and then more than the model takes."""
    return " ".join(draw.choice(WORDS, draw.integers(2, 13)))


def labelled(path: Path, count: int) -> Path:
    """Texts with labels that follow from their first word."""
    draw = np.random.default_rng(0)
    texts = [sentence(draw) for _ in range(count)]
    rows = [f"{text}\t{LABELS[int(text.split()[0][1:]) % 2]}" for text in texts]
    path.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return path


def marked(path: Path, texts: list[str], labels: list[list[str]]) -> Path:
    """Texts with a column of 0 and 1 for each of the labels."""
    rows = [
        f"{text},{','.join(str(int(one in own)) for one in MARKS)}" for text, own in zip(texts, labels, strict=True)
    ]
    path.write_text("\n".join([f"comment_text,{','.join(MARKS)}", *rows]) + "\n")
    return path


def tagged(path: Path, sentences: list[tuple[list[str], list[str]]]) -> Path:
    """Words and their tags, as CoNLL."""
    blocks = ["\n".join(f"{word} {tag}" for word, tag in zip(*one, strict=True)) for one in sentences]
    path.write_text("-DOCSTART- O\n\n" + "\n\n".join(blocks) + "\n")
    return path


def pairs(path: Path, count: int) -> Path:
    """Pairs of texts, scored by the share of words that they have in common."""
    draw, rows = np.random.default_rng(1), ["sentence1\tsentence2\tscore"]
    for _ in range(count):
        first, other = sentence(draw).split(), sentence(draw).split()
        kept = int(draw.integers(0, len(first) + 1))
        second = [*first[:kept], *other[: len(first) - kept]]
        rows.append(f"{' '.join(first)}\t{' '.join(second)}\t{kept / len(first):.3f}")
    path.write_text("\n".join(rows) + "\n")
    return path
