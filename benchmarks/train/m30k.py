"""Train zoo:m30k-de-en, a small translator of captions of photographs, on Multi30k (Elliott et al. 2016, arXiv
1605.00459) from nothing, in a given time.

    python -m benchmarks.train.m30k DATA --out FOLDER [--minutes 50] [--seed 0] [--device cuda]

DATA holds train, val and the two test sets, each with an end .de.gz and .en.gz. Written are a folder as OPUS-MT has
them for transformers (Marian's layout, one table for both languages), its tokenizer, and `train.json`. The folder is
whole at any time: every few minutes it gets the running mean of the weights so far.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, MarianConfig, MarianMTModel

VOCABULARY, END, UNKNOWN, PAD = 4000, 0, 1, 2
SPECIAL = ["</s>", "<unk>", "<pad>"]
LONGEST = 128
#: Tokens, padding included, of a batch on the longer side.
BATCH_TOKENS = 1600
PEAK, WARMUP, SMOOTHING, DECAY = 2e-3, 400, 0.1, 0.995
REVIEW_SECONDS = 300.0

Pairs = list[tuple[list[int], list[int]]]


def lines(data: Path, part: str, end: str) -> list[str]:
    """The texts of one side of a part."""
    return gzip.decompress((data / f"{part}.{end}.gz").read_bytes()).decode().strip("\n").split("\n")


def tokenizer_of(texts: list[str]) -> Tokenizer:
    """A unigram model (SentencePiece's) over both languages."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return tokenizer


def batches(pairs: Pairs, random_order: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: pairs of about one length together, in a random order of batches."""
    order = sorted(
        range(len(pairs)), key=lambda at: (max(map(len, pairs[at])) + random_order.random() * 2, random_order.random())
    )
    some: list[list[int]] = [[]]
    for at in order:
        longest = max(map(len, pairs[at]))
        if (len(some[-1]) + 1) * longest > BATCH_TOKENS:
            some.append([])
        some[-1].append(at)
    random_order.shuffle(some)
    for indices in some:
        yield padded([pairs[at][0] for at in indices]), padded([pairs[at][1] for at in indices])


def padded(rows: list[list[int]]) -> Tensor:
    """Token ids [B, N], padded at the end."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def loss_of(model: Any, source_BS: Tensor, target_BN: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy of the target's tokens."""
    fed_BN = torch.cat([torch.full_like(target_BN[:, :1], PAD), target_BN[:, :-1]], dim=1)
    scores_BNV = model(input_ids=source_BS, attention_mask=(source_BS != PAD).long(), decoder_input_ids=fed_BN).logits
    wanted_BN = target_BN.masked_fill(target_BN == PAD, -100)
    return F.cross_entropy(scores_BNV.flatten(0, 1), wanted_BN.flatten(), label_smoothing=smoothing)


@torch.no_grad()
def valid_loss(model: Any, pairs: Pairs) -> float:
    """Mean loss in nats over batches of the validation set."""
    model.eval()
    found = [float(loss_of(model, *batch, 0.0)) for batch in batches(pairs, random.Random(0))]
    model.train()
    return sum(found) / len(found)


def config_of() -> MarianConfig:
    return MarianConfig(
        vocab_size=VOCABULARY,
        d_model=128,
        encoder_layers=3,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        max_position_embeddings=LONGEST,
        activation_function="relu",
        dropout=0.1,
        attention_dropout=0.0,
        scale_embedding=True,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
        forced_eos_token_id=END,
        init_std=0.02,
    )


def write(folder: Path, model: Any, averaged: dict[str, Tensor], record: dict[str, Any]) -> None:
    """The folder with the averaged weights in fp16, as it ships."""
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(averaged, strict=False)
    shipped = MarianMTModel(model.config)
    shipped.load_state_dict(model.state_dict())
    shipped.half().save_pretrained(folder)
    model.load_state_dict(own)
    GenerationConfig(
        decoder_start_token_id=PAD,
        eos_token_id=END,
        pad_token_id=PAD,
        bad_words_ids=[[PAD]],
        max_length=LONGEST,
        num_beams=4,
        early_stopping=True,
    ).save_pretrained(folder)
    (folder / "train.json").write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=50.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_default_device(args.device)
    torch.manual_seed(args.seed)
    random_order = random.Random(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    sides = [lines(args.data, "train", end) for end in ("de", "en")]
    tokenizer = tokenizer_of([*sides[0], *sides[1]])
    tokenizer.save(str(args.out / "tokenizer.json"))
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LONGEST}
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (args.out / "tokenizer_config.json").write_text(json.dumps({**options, **names}, indent=1) + "\n")

    def encoded(part: str) -> Pairs:
        both = ([one.ids for one in tokenizer.encode_batch(lines(args.data, part, end))] for end in ("de", "en"))
        return [pair for pair in zip(*both, strict=True) if max(map(len, pair)) <= LONGEST]

    train, valid = encoded("train"), encoded("val")
    model: Any = MarianMTModel(config_of()).train()
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    count = sum(one.numel() for one in parameters)
    print(f"{count:,} parameters, {len(train):,} pairs", flush=True)
    averaged = {name: one.detach().clone() for name, one in model.named_parameters()}
    begun = reviewed = time.monotonic()
    step = epoch = 0
    total, history = 0.0, []
    while time.monotonic() - begun < 60 * args.minutes:
        epoch += 1
        for source_BS, target_BN in batches(train, random_order):
            step += 1
            share = min(1.0, (time.monotonic() - begun) / (60 * args.minutes))
            rate = PEAK * min(step / WARMUP, 0.5 * (1 + math.cos(math.pi * share)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(model, source_BS, target_BN, SMOOTHING)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            keep = min(DECAY, step / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(averaged.values()), list(model.parameters()), 1 - keep)
            total += loss.item()
            if share >= 1.0:
                break
            if time.monotonic() - reviewed > REVIEW_SECONDS:
                reviewed = time.monotonic()
                history.append({"step": step, "epoch": epoch, "seconds": reviewed - begun})
                write(args.out, model, averaged, {"history": history})
            if step % 100 == 0:
                print(f"{time.monotonic() - begun:6.0f} s, step {step}, epoch {epoch}: {total / 100:.3f}", flush=True)
                total = 0.0
    model.load_state_dict(averaged, strict=False)
    record = {
        "parameters": count,
        "steps": step,
        "epochs": epoch,
        "seconds": time.monotonic() - begun,
        "valid_nats_per_token": valid_loss(model, valid),
        "seed": args.seed,
        "torch": torch.__version__,
    }
    write(args.out, model, averaged, record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
