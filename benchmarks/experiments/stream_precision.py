"""How much the answers of a streamed model depend on how it is fed, by precision: its chunks, and rows beside it.

Usage, from the root of the repository (a minute on one core):
    python -m benchmarks stream-precision benchmarks/results/stream-precision.json

stories260k as an untrained hybrid (window 64), as files for a CPU. `chunks`: the largest |y - y'| / |y| of
`runtime.streams.chunking` at 1 to 512 tokens. `batch`: that of a row beside another one, against the row alone. `whole`
and `steps`: perplexity of stories fed whole, as the gate does, and token by token, as a device does.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from benchmarks.lab import record
from benchmarks.product import decode_speed
from compress.data import load_texts
from compress.judging.streaming import stream_of
from compress.zoo import locate
from export.cpu_graph import optimize_for_cpu
from export.precision.int4 import to_int4
from export.precision.int8_dynamic import to_int8_dynamic
from runtime.measuring.power import cpu_name
from runtime.streams.chunking import check_chunking
from runtime.streams.stream import Stream
from targets.spec import Precision

MODEL, LONGEST = "zoo:stories260k", 512
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int4")


def files(folder: Path) -> dict[Precision, Path]:
    """The hybrid in each precision, made as the pipeline makes them."""
    plain = folder / "plain.onnx"
    decode_speed.export(MODEL, "hybrid", plain)
    made: dict[Precision, Path] = {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}
    optimize_for_cpu(plain, made["fp32"])
    to_int8_dynamic(made["fp32"], made["int8"])
    to_int4(plain, made["int4"])
    return made


def log_loss(stream: Stream, ids: list[int], whole: bool) -> float:
    """The sum of -log p of all tokens but the first, fed whole or token by token."""
    stream.reset()
    logits_NV = stream.outputs(ids)[0] if whole else np.concatenate([stream.step(token) for token in ids])
    scores_NV = logits_NV[:-1].astype(np.float64)
    largest_N1 = scores_NV.max(axis=1, keepdims=True)
    log_sum_N = np.log(np.exp(scores_NV - largest_N1).sum(axis=1)) + largest_N1[:, 0]
    return float((log_sum_N - scores_NV[np.arange(len(ids) - 1), ids[1:]]).sum())


def measured(path: Path, precision: Precision, texts: list[list[int]]) -> dict[str, Any]:
    """Everything about one file."""
    stream = stream_of(path)
    tokens_N = np.array([token for ids in texts for token in ids], np.int64)
    pair_BN = np.array([ids[:64] for ids in texts if len(ids) >= 64][:2])
    alone_NV = stream.fork().outputs(pair_BN[0])[0]
    beside_NV = stream_of(path, batch=2).outputs(pair_BN)[0]
    count = sum(len(ids) - 1 for ids in texts)
    return {
        "bytes": path.stat().st_size,
        "chunks": max(one.error for one in check_chunking(stream, tokens_N, precision, LONGEST)),
        "batch": float(np.linalg.norm(beside_NV - alone_NV) / np.linalg.norm(alone_NV)),
        **{
            name: round(math.exp(sum(log_loss(stream, ids, whole) for ids in texts) / count), 4)
            for name, whole in (("whole", True), ("steps", False))
        },
    }


def main() -> None:
    """Make the files, measure each, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--texts", type=int, default=40)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(locate(MODEL) / "tokenizer.json"))
    stories = load_texts("zoo:stories", part="evaluation", limit=args.texts).rows
    texts = [tokenizer.encode(row.texts[0]).ids[:LONGEST] for row in stories]
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: measured(path, name, texts) for name, path in files(Path(folder)).items()}
    result = {
        "command": record.command("stream-precision"),
        **record.surroundings(),
        "device": cpu_name(),
        "onnxruntime": onnxruntime.__version__,
        "model": MODEL,
        "rewrite": decode_speed.FORMS["hybrid"],
        "texts": len(texts),
        "tokens": sum(map(len, texts)),
        "rows": rows,
    }
    record.save(args.result, result)
    for name, row in rows.items():
        print(name, row)


if __name__ == "__main__":
    main()
