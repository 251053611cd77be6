"""What the benchmarks of language models share: token streams, sampling, perplexity, recall, training for a given time.

B batch, N tokens, V vocabulary.
"""

from __future__ import annotations

import gzip
import itertools
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.model import Transformer
from compress.model.forms.streaming import Streaming

WARMUP = 0.05


def read_text(path: Path) -> str:
    """The text of a .txt or .gz file, or of all .txt members of a .zip."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".txt"))
            return "\n\n".join(archive.read(name).decode("utf-8", errors="replace") for name in names)
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes()).decode("utf-8")
    return path.read_text(encoding="utf-8")


def token_ids(tokenizer: Any, text: str) -> Tensor:
    """Ids of a text of any length (N,), without special tokens."""
    pieces = [text[start : start + 100_000] for start in range(0, len(text), 100_000)]
    encoded = tokenizer.encode_batch(pieces, add_special_tokens=False)
    return torch.tensor([token for piece in encoded for token in piece.ids])


def rows_of(ids_N: Tensor, length: int) -> Tensor:
    """The stream cut into rows (B,length); the rest is left out."""
    return ids_N[: len(ids_N) // length * length].reshape(-1, length)


@torch.no_grad()
def sampled(model: Transformer, prompts_BN: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Texts (B,length) that go on from the prompts as the model would, temperature 1."""
    streaming = Streaming(model)
    batch, device = len(prompts_BN), prompts_BN.device
    state = {one.past: one.fresh(batch).to(device) for one in streaming.flat}
    texts_BN, fed = prompts_BN, 0
    while texts_BN.shape[1] < length:
        chunk_BN, total = texts_BN[:, fed:], texts_BN.shape[1]
        ones_BM = torch.ones(batch, total if streaming.caches else chunk_BN.shape[1], dtype=torch.long, device=device)
        places_BN = torch.arange(fed, total, device=device).expand(batch, -1)
        inputs = {"input_ids": chunk_BN, "attention_mask": ones_BM, "position_ids": places_BN}
        logits_BNV, *present = streaming({**inputs, **state})
        state, fed = dict(zip(state, present, strict=True)), total
        probabilities_BV = logits_BNV[:, -1].float().softmax(dim=-1)
        texts_BN = torch.cat([texts_BN, torch.multinomial(probabilities_BV, 1, generator=generator)], dim=1)
    return texts_BN


@torch.no_grad()
def losses(model: Transformer, rows_BN: Tensor, batch: int) -> Tensor:
    """-log p of each token of each row but its first, (B,N-1), on the CPU."""
    parts = []
    for part_BN in rows_BN.split(batch):
        logits_BNV = model({"input_ids": part_BN})[:, :-1]
        parts.append(F.cross_entropy(logits_BNV.float().transpose(1, 2), part_BN[:, 1:], reduction="none").cpu())
    return torch.cat(parts)


def perplexity(loss_BN: Tensor) -> float:
    """exp of the mean loss."""
    return math.exp(float(loss_BN.double().mean()))


def by_position(loss_BN: Tensor, edges: Sequence[int]) -> dict[str, float]:
    """Perplexity of the tokens at the places between one edge and the next."""
    pairs = itertools.pairwise(edges)
    return {
        f"{low}-{high}": round(perplexity(loss_BN[:, low:high]), 3) for low, high in pairs if low < loss_BN.shape[1]
    }


def kl_per_token(logits_BNV: Tensor, target_BNV: Tensor) -> Tensor:
    """KL(target || model), mean over tokens, a row at a time in fp32."""
    rows = [
        F.kl_div(
            F.log_softmax(mine_NV.float(), dim=-1),
            F.log_softmax(theirs_NV.float(), dim=-1),
            reduction="sum",
            log_target=True,
        )
        for mine_NV, theirs_NV in zip(logits_BNV, target_BNV, strict=True)
    ]
    return torch.stack(rows).sum() / (logits_BNV.shape[0] * logits_BNV.shape[1])


def batches(rows_BN: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Random rows without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows_BN), generator=generator).to(rows_BN.device)
        yield from (part for part in rows_BN[order].split(size) if len(part) == size or len(rows_BN) < size)


def train(
    parameters: list[torch.nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    rows: Iterator[Tensor],
    lr: float,
    *,
    seconds: float = math.inf,
    steps: float = math.inf,
) -> list[list[float]]:
    """AdamW for some seconds or steps, with warm-up and cosine; returns (step, seconds, mean loss) now and then."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    start, step, curve, recent = time.monotonic(), 0, [], []
    while (done := max((time.monotonic() - start) / seconds, step / steps)) < 1:
        rate = min(1.0, (done + 1e-3) / WARMUP) if done < WARMUP else 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate
        value = loss(next(rows))
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(value.detach())
        step += 1
        if step % 50 == 0 or step == 1:
            mean = float(torch.stack(recent).mean())
            curve.append([step, round(time.monotonic() - start, 1), round(mean, 5)])
            print(curve[-1], flush=True)
            recent.clear()
            if not math.isfinite(mean):
                raise SystemExit("the loss is not finite")
    return curve
