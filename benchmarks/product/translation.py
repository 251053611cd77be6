"""What translators write and how fast: BLEU, chrF and tokens a second of bundles, greedily and with four beams.

Usage, from the root of the repository, on a quiet machine:
    python -m benchmarks translation t2r=HEALED two=OUT/bundle --json benchmarks/results/translation.json

Beside the original in fp32 and in int8 (or bundles given by these names), each bundle, or bundle in int8 of a folder
that `m30k-forms` healed, translates `--sources` sentences of the test set, and those of `--more`, as a device does: in
batches of sentences of about one length, with `--threads` threads. With the package ctranslate2 its int8 form of the
original does so too. `same`: of how many of the first 200 sentences the text is the one that transformers' `generate`
writes with the original's weights. `drop`: points of BLEU below the original in fp32, with the 95 % interval of a
bootstrap over pairs of texts. Bytes are those of the files that a device reads: encoder, decoder and the weights that
they share. `state`: bytes that a sentence keeps at that number of tokens of the target, beside the memory of a source
of 20 tokens. `--runtime NAME=FOLDER` has the runtime of another checkout of edgepress run the original's bundles as
well, in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import targets
from benchmarks.lab import record
from compress.data.text_specs import load_texts
from compress.pipeline import Cache, Runner
from compress.pipeline.view import view
from compress.recipe import load
from compress.stages import healed
from compress.stages.artifacts import BundleArtifact
from compress.stages.graph import Job, build_graph
from compress.verification.estimate import Sampling, estimate_drop
from compress.verification.kinds.texts import BLEU, TextOutputs, bleu_counts
from compress.zoo import locate
from runtime.answers import Answerer, Wanted, answerer_of
from runtime.bundles.bundle import open_files
from runtime.bundles.manifest import DECODER, ENCODER, GROWING
from runtime.measuring.power import cpu_name
from runtime.session import Session, open_session
from runtime.states import BATCH, is_memory, sized
from targets.errors import EdgepressError, run_cli

BEAMS = (1, 4)
COMPARED = 200
LENGTHS, SOURCE_TOKENS = (32, 128, 512, 1024), 20
LONGEST = 120  # tokens that CTranslate2 may write; the original has 128 places
#: Runs a bundle as long as sources come.
_ANOTHER = """
import json, sys, time
from runtime.answers import Wanted, answerer_of
from runtime.bundles.bundle import open_files
from runtime.session import open_session
bundle = open_files(sys.argv[1]).one("decoder")
answerer, session = answerer_of(bundle), open_session(bundle, threads=int(sys.argv[2]))
for line in sys.stdin:
    sources, beams = json.loads(line)
    began = time.perf_counter()
    texts = [one["text"] for one in answerer.answer(session, sources, Wanted(beams=beams))]
    print(json.dumps([texts, time.perf_counter() - began]), flush=True)
"""
#: The texts of sources, and the seconds that all took.
Translate = Callable[[Sequence[str], int], tuple[list[str], float]]


def bundle_of(args: argparse.Namespace, path: str, precision: str) -> Path:
    """A bundle as it is; for a healed folder, or the original, its bundle for a CPU."""
    folder = Path(path)
    if (folder / "manifest.json").is_file():
        return folder
    settings = [f"model.source={json.dumps(args.model)}", f"data.source={json.dumps(args.data)}"]
    few = ["data.limit=64", "gate.min_samples=1", "gate.max_drop=50"]  # what it writes is judged here
    recipe = load("identity", [*settings, f"precision.mode={precision}", *few])
    cache = Cache()
    job = Job(recipe, folder.name, targets.load("cpu"), 0, cache.root / "digests.json")
    graph = build_graph(job, [healed.stage(job, folder)] if path != args.model else None)
    made = Runner(graph, cache, [view(sys.stdout)]).run(until="bundle")["bundle"]
    assert isinstance(made, BundleArtifact)
    return made.path


def opened(path: Path, threads: int) -> tuple[Answerer, Session]:
    """The bundle's decoder, and what writes with it."""
    bundle = open_files(path).one(DECODER)
    return answerer_of(bundle), open_session(bundle, threads=threads)


def translated(path: Path, threads: int) -> Translate:
    """What a bundle writes."""
    answerer, session = opened(path, threads)

    def translate(sources: Sequence[str], beams: int) -> tuple[list[str], float]:
        began = time.perf_counter()
        texts = []
        for result in answerer.answer(session, sources, Wanted(beams=beams)):
            if isinstance(result, EdgepressError):
                raise result
            texts.append(str(result["text"]))
        return texts, time.perf_counter() - began

    return translate


def by_another(checkout: str, path: Path, threads: int) -> Translate:
    """What the runtime of another checkout writes, in a process that stays."""
    command = [sys.executable, "-c", _ANOTHER, str(path.resolve()), str(threads)]
    place = {"cwd": checkout, "env": {**os.environ, "PYTHONPATH": checkout}}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **place)

    def translate(sources: Sequence[str], beams: int) -> tuple[list[str], float]:
        assert process.stdin is not None and process.stdout is not None
        print(json.dumps([list(sources), beams]), file=process.stdin, flush=True)
        texts, taken = json.loads(process.stdout.readline())
        return texts, taken

    return translate


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


def state_bytes(path: Path) -> dict[str, int]:
    """Bytes that one sentence keeps from step to step at some lengths of its target, and those of its memory."""
    manifest = open_files(path).one(DECODER).manifest

    def total(shapes: Sequence[tuple[Any, str]], sizes: dict[str, int]) -> int:
        return sum(int(np.prod(sized(shape, sizes))) * np.dtype(dtype).itemsize for shape, dtype in shapes)

    states = [(one.shape, one.dtype) for one in manifest.state]
    memory = [(one.shape, one.dtype) for one in manifest.inputs if is_memory(one.name)]
    names = {size: SOURCE_TOKENS for shape, _ in memory for size in shape if isinstance(size, str)}
    kept = {str(length): total(states, {BATCH: 1, GROWING: length}) for length in LENGTHS}
    return {**kept, "memory": total(memory, {**names, BATCH: 1})}


def of_ctranslate2(folder: Path, out: Path, threads: int) -> tuple[Translate, int]:
    """CTranslate2's int8 form of the original, and its bytes. Its own loader of Marian's models has them begin with
    zeros; this one begins with the row of its padding."""
    import ctranslate2
    from ctranslate2.converters import transformers as known
    from tokenizers import Tokenizer

    class Loader(known.MarianMTLoader):
        def _remove_pad_weights(self, spec: Any) -> None:
            """The padding stays."""

        def set_decoder(self, spec: Any, decoder: Any) -> None:
            known.BartLoader.set_decoder(self, spec, decoder)

        def get_vocabulary(self, model: Any, tokenizer: Any) -> Any:
            return known.BartLoader.get_vocabulary(self, model, tokenizer)

        def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
            super().set_config(config, model, tokenizer)
            config.decoder_start_token = tokenizer.pad_token

    known._MODEL_LOADERS["MarianConfig"] = Loader()
    known.TransformersConverter(str(folder)).convert(str(out / "model"), quantization="int8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    translator = ctranslate2.Translator(str(out / "model"), intra_threads=threads, inter_threads=1)
    options = {"max_batch_size": 64, "max_decoding_length": LONGEST, "suppress_sequences": [["<pad>"]]}

    def translate(sources: Sequence[str], beams: int) -> tuple[list[str], float]:
        began = time.perf_counter()
        tokens = [one.tokens for one in tokenizer.encode_batch(list(sources))]
        found = translator.translate_batch(tokens, beam_size=beams, **options)
        ids = [[tokenizer.token_to_id(token) for token in one.hypotheses[0]] for one in found]
        return tokenizer.decode_batch(ids), time.perf_counter() - began

    return translate, (out / "model" / "model.bin").stat().st_size


def measure(args: argparse.Namespace) -> int:
    """Translate in turns, write the JSON."""
    from sacrebleu import corpus_bleu, corpus_chrf
    from tokenizers import Tokenizer

    parts = [load_texts(args.data, part="evaluation", limit=args.sources)]
    parts += [load_texts(args.more, part="evaluation")] if args.more else []
    pairs = [row.texts for part in parts for row in part.rows]
    sources, wanted = [one[0] for one in pairs], [one[1] for one in pairs]
    folder = locate(args.model)
    count = Tokenizer.from_file(str(folder / "tokenizer.json"))
    given = {name: path for name, _, path in (one.partition("=") for one in args.bundles)}
    bundles = {
        name: bundle_of(args, given.pop(name, args.model), precision)
        for name, precision in (("original fp32", "fp32"), ("original int8", "int8"))
    }
    bundles |= {name: bundle_of(args, path, "int8") for name, path in given.items()}
    systems = {name: translated(path, args.threads) for name, path in bundles.items()}
    for name, _, checkout in (one.partition("=") for one in args.runtime):
        own = {f"{kind}, {name}": bundles[kind] for kind in ("original fp32", "original int8")}
        systems |= {kind: by_another(checkout, path, args.threads) for kind, path in own.items()}
        bundles |= own
    sizes = {name: file_bytes(path) for name, path in bundles.items()}
    states = {name: state_bytes(path) for name, path in bundles.items()}
    gold = np.arange(len(wanted))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        if importlib.util.find_spec("ctranslate2"):
            systems["ctranslate2 int8"], sizes["ctranslate2 int8"] = of_ctranslate2(folder, Path(work), args.threads)
        for beams in BEAMS:
            same = of_transformers(folder, sources[:COMPARED], beams)
            first: TextOutputs | None = None
            texts: dict[str, list[str]] = {}
            seconds: dict[str, list[float]] = {name: [] for name in systems}
            for translate in systems.values():
                translate(sources[:20], beams)
            for _ in range(args.rounds):
                for name, translate in systems.items():
                    texts[name], taken = translate(sources, beams)
                    seconds[name].append(taken)
            for name, wrote in texts.items():
                tokens = sum(len(one.ids) for one in count.encode_batch(wrote))
                counted = TextOutputs(np.array(list(map(bleu_counts, wrote, wanted)), np.int64), gold)
                first = first or counted
                drop = estimate_drop(BLEU, BLEU.rows(first), BLEU.rows(counted), Sampling())
                rows.append(
                    {
                        "name": name,
                        "beams": beams,
                        "bleu": corpus_bleu(wrote, [wanted]).score,
                        "chrf": corpus_chrf(wrote, [wanted]).score,
                        "drop": drop.value,
                        "interval": drop.interval and [drop.interval.low, drop.interval.high],
                        "tokens_per_second": tokens / float(np.median(seconds[name])),
                        "same": sum(a == b for a, b in zip(wrote, same, strict=False)),
                        "compared": len(same),
                        "bytes": sizes[name],
                        "state": states.get(name),
                    }
                )
                print(rows[-1], flush=True)
    result = {
        "command": record.command("translation"),
        **record.surroundings(),
        "device": cpu_name(),
        "model": args.model,
        "data": [args.data, *([args.more] if args.more else [])],
        "sources": len(sources),
        "threads": args.threads,
        "rows": rows,
    }
    record.save(args.json, result)
    return 0


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks translation", description=__doc__)
    parser.add_argument("bundles", metavar="NAME=FOLDER", nargs="*")
    parser.add_argument("--model", default="zoo:m30k-de-en", help="the original (default: %(default)s)")
    parser.add_argument("--data", default="zoo:m30k", help="(default: %(default)s)")
    parser.add_argument("--more", help="pairs to translate as well, as for --data")
    parser.add_argument("--runtime", metavar="NAME=FOLDER", action="append", default=[], help="see above")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median time counts (default: %(default)s)")
    parser.add_argument("--sources", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, required=True)
    return measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(run_cli(main))
