"""What translators write and how fast: BLEU, chrF and tokens a second of bundles, greedily and with four beams.

Usage, from the root of the repository, on a quiet machine:
    python -m benchmarks translation original=OUT1/bundle smaller=OUT2/bundle --json benchmarks/results/translation.json

Each bundle translates `--sources` sentences of the test set as a device does, in batches of sentences of about one
length, with `--threads` threads; the bundles take turns. `same`: of how many of the first 200 sentences the text is the
one that transformers' `generate` writes with the original's weights. Bytes are those of the files that a device reads:
encoder, decoder and the weights that they share.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.lab import record
from compress.data.text_specs import load_texts
from compress.zoo import locate
from runtime.answers import Answerer, Wanted, answerer_of
from runtime.bundles.bundle import open_files
from runtime.bundles.manifest import DECODER, ENCODER
from runtime.measuring.power import cpu_name
from runtime.session import Session, open_session
from targets.errors import EdgepressError, run_cli

BEAMS = (1, 4)
COMPARED = 200


def opened(path: Path, threads: int) -> tuple[Answerer, Session]:
    """The bundle's decoder, and what writes with it."""
    bundle = open_files(path).one(DECODER)
    return answerer_of(bundle), open_session(bundle, threads=threads)


def translated(answerer: Answerer, session: Session, sources: Sequence[str], beams: int) -> tuple[list[str], float]:
    """The text of each source and the seconds that all took."""
    began = time.perf_counter()
    texts = []
    for result in answerer.answer(session, sources, Wanted(beams=beams)):
        if isinstance(result, EdgepressError):
            raise result
        texts.append(str(result["text"]))
    return texts, time.perf_counter() - began


def of_transformers(folder: Path, sources: Sequence[str], beams: int) -> list[str]:
    """What `generate` writes for each source, one at a time."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForSeq2SeqLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    texts = []
    for source in sources:
        with torch.no_grad():
            (ids,) = model.generate(**{"input_ids": tokenizer(source, return_tensors="pt").input_ids}, num_beams=beams)
        texts.append(str(tokenizer.decode(ids, skip_special_tokens=True)))
    return texts


def file_bytes(path: Path) -> int:
    """What a device reads of a bundle's models."""
    models = open_files(path).manifest.models
    files = {path / one.path for one in models if one.graph in (ENCODER, DECODER)}
    return sum(file.stat().st_size for file in files | set(path.glob("*.onnx.data")))


def measure(args: argparse.Namespace) -> int:
    """Translate in turns, write the JSON."""
    from sacrebleu import corpus_bleu, corpus_chrf
    from tokenizers import Tokenizer

    pairs = [row.texts for row in load_texts(args.data, part="evaluation", limit=args.sources).rows]
    sources, wanted = [one[0] for one in pairs], [one[1] for one in pairs]
    folder = locate(args.model)
    count = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bundles = {name: Path(path) for name, _, path in (one.partition("=") for one in args.bundles)}
    sessions = {name: opened(path, args.threads) for name, path in bundles.items()}
    rows: list[dict[str, Any]] = []
    for beams in BEAMS:
        same = of_transformers(folder, sources[:COMPARED], beams)
        for name, (answerer, session) in sessions.items():
            translated(answerer, session, sources[:20], beams)
            texts, seconds = translated(answerer, session, sources, beams)
            tokens = sum(len(one.ids) for one in count.encode_batch(texts))
            rows.append(
                {
                    "name": name,
                    "beams": beams,
                    "bleu": corpus_bleu(texts, [wanted]).score,
                    "chrf": corpus_chrf(texts, [wanted]).score,
                    "tokens_per_second": tokens / seconds,
                    "same": sum(a == b for a, b in zip(texts, same, strict=False)),
                    "compared": len(same),
                    "bytes": file_bytes(bundles[name]),
                }
            )
            print(rows[-1], flush=True)
    result = {
        "command": record.command("translation"),
        "device": cpu_name(),
        "model": args.model,
        "data": args.data,
        "sources": len(sources),
        "threads": args.threads,
        "rows": rows,
    }
    record.save(args.json, result)
    return 0


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks translation", description=__doc__)
    parser.add_argument("bundles", metavar="NAME=BUNDLE", nargs="+")
    parser.add_argument("--model", default="zoo:m30k-de-en", help="the original (default: %(default)s)")
    parser.add_argument("--data", default="zoo:m30k", help="(default: %(default)s)")
    parser.add_argument("--sources", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True)
    return measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(run_cli(main))
