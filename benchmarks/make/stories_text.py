"""Sample the texts of `zoo:stories` from the stories260k model: what the original itself would say.

    python -m benchmarks stories-text [--seed 0]

Each text is drawn token by token at temperature 1 and ends where the model begins another one. Other versions of torch
may draw other texts.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import torch

ZOO = Path(__file__).parents[2] / "compress" / "zoo"
MODEL, OUT = ZOO / "stories260k", ZOO / "text" / "stories"
#: Texts of each part, tokens of each text at most, texts that are sampled together.
COUNTS, LONGEST, TOGETHER = {"test": 200, "train": 600}, 256, 100
#: Begins a text, and so ends the one before.
BOS = 1


def sample(seed: int, count: int) -> list[str]:
    """Texts without the unfinished last words of those that were cut; single line breaks only."""
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(str(MODEL)).eval()
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    texts: list[str] = []
    while len(texts) < count:
        start = torch.full((TOGETHER, 1), BOS)
        ids = model.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=LONGEST - 1,
            eos_token_id=[BOS, 2],
            pad_token_id=0,
        )
        for row in ids.tolist():
            end = next((at for at, token in enumerate(row[1:], start=1) if token in (0, BOS, 2)), None)
            text = tokenizer.decode(row[1:end], skip_special_tokens=True)
            whole = text if end else text[: text.rfind(".") + 1]
            lines = [line.strip() for line in whole.splitlines() if line.strip()]
            if len(" ".join(lines)) > 100:
                texts.append("\n".join(lines))
    return texts[:count]


def main() -> None:
    """Write both parts."""
    parser = argparse.ArgumentParser(description="Sample the texts of zoo:stories.")
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    OUT.mkdir(parents=True, exist_ok=True)
    for index, (part, count) in enumerate(COUNTS.items()):
        data = gzip.compress(("\n\n".join(sample(2 * seed + index, count)) + "\n").encode(), 9, mtime=0)
        (OUT / f"{part}.txt.gz").write_bytes(data)
        print(f"{part}: {count} texts, {len(data):,} bytes")


if __name__ == "__main__":
    main()
