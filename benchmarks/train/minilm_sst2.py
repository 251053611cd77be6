"""Fine-tune MiniLM on SST-2: an ensemble of teachers, then one student that differs from MiniLM by low-rank products.

Usage, from the root of the repository:
    python -m benchmarks minilm-sst2 MODEL OUT [--polarity sentence_polarity.zip] [--seconds 110]
    python -m benchmarks minilm-sst2 MODEL OUT --teachers 1 --epochs 1 --limit 64      # smoke, on a CPU

MODEL: the folder of all-MiniLM-L6-v2 (config.json, tokenizer.json, model.safetensors; fp16 weights do). `--polarity`:
more labelled sentences (Pang and Lee 2005, CC BY 4.0); those that resemble a sentence of the evaluation set are left
out. OUT gets difference.safetensors (fp16, under 2 MB), config.json of the classifier and difference.json. Settings are
chosen by nothing that looks at the evaluation set: it is measured once, at the end, on what was saved.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from compress.data import load_texts
from compress.heal.objective import kl_divergence
from compress.zoo.difference import DELTA, DOWN, UP, apply_difference, save_difference
from runtime.files import sha256_of, write_atomic
from runtime.texts.text import TextPreprocessing, Tokenizer, pad

CLASSES = ("negative", "positive")
SPEC = TextPreprocessing("text", vocab_size=30522, max_length=128)
RANK = 16
#: A sentence that shares so much of its words with one of the evaluation set is taken for the same sentence.
RESEMBLES = 0.6


@dataclass(frozen=True)
class Texts:
    """Token ids, and a label for each (-1: none)."""

    ids: list[list[int]]
    labels: np.ndarray

    def batch(self, indices: np.ndarray, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs and labels, padded to a multiple of 16."""
        inputs = pad([self.ids[index] for index in indices], SPEC, 16)
        labels = torch.from_numpy(self.labels[indices]).to(device)
        return {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}, labels


class LowRank(nn.Module):
    """A linear map plus a product of two thin ones, the second of which begins at zero (Hu et al. 2021)."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain = plain.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(RANK, plain.in_features) / plain.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(plain.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x) + F.linear(F.linear(x, self.down), self.up)


def words(text: str) -> frozenset[str]:
    """Its words, without case and punctuation."""
    return frozenset(re.findall(r"[a-z0-9]+", text.lower()))


def unlike(candidates: list[tuple[str, int]], known: list[str]) -> list[tuple[str, int]]:
    """The candidates that resemble none of the known sentences."""
    sets = [words(text) for text in known]
    holders: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(sets):
        for word in one:
            holders[word].append(index)
    kept = []
    for text, label in candidates:
        mine = words(text)
        shared = Counter(index for word in mine for index in holders[word])
        likeness = (count / max(1, min(len(mine), len(sets[index]))) for index, count in shared.items())
        if mine and max(likeness, default=0.0) < RESEMBLES:
            kept.append((text, label))
    return kept


def polarity(path: Path) -> list[tuple[str, int]]:
    """The sentences of sentence_polarity.zip."""
    with zipfile.ZipFile(path) as archive:
        return [
            (line.strip(), label)
            for name, label in (("neg", 0), ("pos", 1))
            for line in archive.read(f"sentence_polarity/rt-polarity.{name}").decode("latin-1").splitlines()
            if line.strip()
        ]


def model_of(folder: Path) -> Any:
    """MiniLM with a classifier on its first token."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(
        str(folder), num_labels=len(CLASSES), id2label=dict(enumerate(CLASSES)), attn_implementation="sdpa"
    )
    model = BertForSequenceClassification(config)
    tensors = {f"bert.{name}": tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    missing, _ = model.load_state_dict(tensors, strict=False)
    assert set(missing) == {"classifier.weight", "classifier.bias"}, missing
    return model


def answers(model: Any, texts: Texts, device: torch.device) -> Tensor:
    """Logits of all texts, in evaluation mode."""
    model.eval()
    order = np.argsort([len(ids) for ids in texts.ids], kind="stable")
    logits = torch.empty(len(order), len(CLASSES))
    with torch.inference_mode():
        for start in range(0, len(order), 256):
            part = order[start : start + 256]
            logits[part] = model(**texts.batch(part, device)[0]).logits.float().cpu()
    return logits


def train(
    model: Any,
    texts: Texts,
    targets: Tensor | None,
    device: torch.device,
    *,
    epochs: float,
    lr: float,
    seed: int,
    batch: int,
    until: float,
) -> int:
    """AdamW, warm-up and a linear fall of the rate; towards the labels and, where given, the targets (logits)."""
    torch.manual_seed(seed)
    model.to(device).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    order = np.random.default_rng(seed)
    total = max(1, int(epochs * len(texts.ids) / batch))
    places = np.concatenate([order.permutation(len(texts.ids)) for _ in range(int(epochs) + 2)])
    began = time.monotonic()
    for step in range(total):
        done = max(step / total, (time.monotonic() - began) / max(1e-9, until - began))
        if done >= 1:
            return step
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / (0.1 * total)) * (1 - done)
        indices = places[step * batch : (step + 1) * batch]
        inputs, labels = texts.batch(indices, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(**inputs).logits.float()
            known = labels >= 0
            loss = F.cross_entropy(logits[known], labels[known]) if known.any() else logits.sum() * 0
            if targets is not None:
                wanted = targets[indices].to(device)
                loss = 0.2 * loss + kl_divergence(logits, wanted, temperature=1.0)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total


def thin(model: Any) -> Any:
    """The student: low-rank changes of all maps of the encoder, whole new norms, biases, pooler and classifier."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("encoder" in name or "pooler" in name or "classifier" in name)
    for module in list(model.bert.encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                child.weight.requires_grad_(False)
                low = LowRank(child)
                low.plain.bias.requires_grad_(True)
                setattr(module, name, low)
    return model


def difference(student: Any, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """What has to be added to the base, by the names of a BertForSequenceClassification."""
    parts: dict[str, Tensor] = {}
    for name, tensor in student.state_dict().items():
        plain = name.replace(".plain.", ".")
        if name.endswith((".down", ".up")):
            owner, _, kind = name.rpartition(".")
            parts[f"{owner}.weight{DOWN if kind == 'down' else UP}"] = tensor
        elif "pooler" in name or "classifier" in name:
            parts[plain] = tensor
        elif "encoder" in name and tensor.dim() == 1:
            parts[f"{plain}{DELTA}"] = tensor.cpu() - base[plain]
    return parts


def main() -> None:
    """Train, save, measure what was saved."""
    parser = argparse.ArgumentParser(description="Fine-tune MiniLM on SST-2.")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--polarity", type=Path, help="sentence_polarity.zip, for more sentences")
    parser.add_argument("--seconds", type=float, default=110.0, help="of training, all together")
    parser.add_argument("--teachers", type=int, default=4)
    parser.add_argument("--epochs", type=float, default=4.0, help="of each teacher; the student has four times as many")
    parser.add_argument("--lr", type=float, default=1e-4, help="of a teacher; the student has ten times as much")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--limit", type=int, help="sentences to train and measure on")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    tokenizer = Tokenizer(args.model / "tokenizer.json", SPEC)

    def texts_of(rows: list[tuple[str, int]]) -> Texts:
        return Texts(tokenizer.encode([text for text, _ in rows]).ids, np.array([label for _, label in rows], np.int64))

    sets = [load_texts("zoo:sst2", part=part, limit=args.limit, seed=args.seed) for part in ("healing", "evaluation")]
    train_rows, test_rows = (
        [(row.texts[0], label) for row, label in zip(one.rows, one.labels.tolist(), strict=True)] for one in sets
    )
    more = unlike(polarity(args.polarity), [text for text, _ in (*test_rows, *train_rows)]) if args.polarity else []
    training, test = texts_of([*train_rows, *more[: args.limit]]), texts_of(test_rows)
    print(f"{len(train_rows)} sentences to train on, {len(training.ids) - len(train_rows)} more, {device}", flush=True)

    began = time.monotonic()
    settings = {"batch": args.batch}
    total, scores, steps = torch.zeros(len(training.ids), len(CLASSES)), [], []
    for index in range(args.teachers):
        teacher = model_of(args.model)
        until = began + args.seconds * 0.6 * (index + 1) / args.teachers
        seed = args.seed + index
        ran = train(teacher, training, None, device, epochs=args.epochs, lr=args.lr, seed=seed, until=until, **settings)
        total += answers(teacher, training, device).log_softmax(-1)
        scores.append(accuracy(answers(teacher, test, device), test))
        steps.append(ran)
        print(f"teacher {index}: {ran} steps, {time.monotonic() - began:.0f} s", flush=True)
    student = thin(model_of(args.model))
    base = {f"bert.{name}": tensor for name, tensor in load_file(args.model / "model.safetensors").items()}
    ran = train(
        student,
        training,
        total / args.teachers,
        device,
        epochs=4 * args.epochs,
        lr=10 * args.lr,
        seed=args.seed,
        until=began + args.seconds,
        **settings,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "difference.safetensors"
    save_difference(difference(student, base), file)
    saved = model_of(args.model)
    saved.load_state_dict(apply_difference(base, file), strict=False)
    config = {**saved.config.to_dict(), "architectures": [type(saved).__name__]}
    write_atomic(args.out / "config.json", (json.dumps(config, indent=1, default=str) + "\n").encode())
    report = {
        "accuracy": accuracy(answers(saved.to(device), test, device), test),
        "teachers": scores,
        "samples": len(test.ids),
        "trained_on": len(training.ids),
        "steps": [*steps, ran],
        "seconds": round(time.monotonic() - began, 1),
        "rank": RANK,
        "labels": list(CLASSES),
        "bytes": file.stat().st_size,
        "sha256": sha256_of(file),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "settings": {name: str(value) for name, value in vars(args).items() if name not in ("model", "out")},
    }
    write_atomic(args.out / "difference.json", (json.dumps(report, indent=1) + "\n").encode())
    print(json.dumps(report, indent=1))


def accuracy(logits: Tensor, texts: Texts) -> float:
    """Percent right."""
    return round(100 * float((logits.argmax(-1).numpy() == texts.labels).mean()), 2)


if __name__ == "__main__":
    main()
