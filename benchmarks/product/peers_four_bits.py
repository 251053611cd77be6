"""A decoder's 4-bit file beside those of llama.cpp and onnxruntime-genai, from the same weights, on the same texts.

    python -m benchmarks peers-four-bits zoo:smollm2 OUT.json --data valid.txt --texts 40 --weights 134515008 \
        --files fp32=original.onnx int4=model.onnx genai=genai/model.onnx --gguf q4_k_m=Q4_K_M.gguf

`--files`: ONNX files with caches; ratios are to the first. That of onnxruntime-genai's builder needs its dimension
`kv_cache_dim` set to the size of a head. `--gguf`: files of llama.cpp, which need `pip install --no-deps llama-cpp-cffi
cffi`; where the C++ library of the system is older than that wheel wants, preload one with `__cxa_call_terminate`.

Perplexity is that of the first evaluation texts, each alone and whole, with the 95 % interval of the ratio over texts
drawn anew. Tokens are decoded behind 128 others, each file in a process of its own, in turns, with whichever number of
threads is faster; a ratio is of one round.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.lab import record
from runtime.measuring.compare import decode_alternating
from runtime.measuring.power import cpu_name

CONTEXT = 128
THREADS = (1, 2)
DRAWS = 2000
#: The logits [N, V] of the tokens of one text.
Ask = Callable[[Sequence[int]], np.ndarray]


def llama_cpp() -> Any:
    """The wheel's extension alone: the package around it wants more."""
    (root,) = importlib.util.find_spec("llama").submodule_search_locations  # type: ignore[union-attr, misc]
    file = next(Path(root).glob("_llama_cpp_cpu*.so"))
    spec = importlib.util.spec_from_file_location("_llama_cpp_cpu", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Gguf:
    """A model file in llama.cpp."""

    def __init__(self, path: Path, threads: int, longest: int) -> None:
        self.module = llama_cpp()
        lib = self.module.lib
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        options = lib.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = longest
        options.n_threads = options.n_threads_batch = threads
        self.context = lib.llama_init_from_model(self.model, options)
        self.words = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))

    def ask(self, ids: Sequence[int]) -> np.ndarray:
        """Logits of every token of a text."""
        lib, ffi = self.module.lib, self.module.ffi
        lib.llama_kv_self_clear(self.context)
        batch = lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
        assert lib.llama_decode(self.context, batch) == 0
        logits = ffi.buffer(lib.llama_get_logits(self.context), 4 * len(ids) * self.words)
        found = np.frombuffer(logits, np.float32).reshape(len(ids), self.words).copy()
        lib.llama_batch_free(batch)
        return found

    def decode(self, seconds: float) -> float:
        """Median milliseconds of a token behind `CONTEXT` tokens."""
        lib, ffi = self.module.lib, self.module.ffi
        token = ffi.new("llama_token[1]", [300])
        took = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            lib.llama_kv_self_clear(self.context)
            prompt = ffi.new("llama_token[]", [300 + place for place in range(CONTEXT)])
            lib.llama_decode(self.context, lib.llama_batch_get_one(prompt, CONTEXT))
            lib.llama_get_logits_ith(self.context, -1)
            for _ in range(16):
                start = time.perf_counter()
                lib.llama_decode(self.context, lib.llama_batch_get_one(token, 1))
                lib.llama_get_logits_ith(self.context, -1)
                took.append(1e3 * (time.perf_counter() - start))
        return median(took)


def onnx_ask(path: Path) -> Ask:
    """An ONNX file with caches."""
    from compress.stages.samples import runner_of

    run = runner_of(path)

    def ask(ids: Sequence[int]) -> np.ndarray:
        row = np.array([ids], np.int64)
        return run({"input_ids": row, "attention_mask": np.ones_like(row)})["logits"][0]

    return ask


def losses(ask: Ask, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Per text, the sum of the losses of its tokens behind the first, and their number [S, 2]."""
    rows = []
    for ids in texts:
        logits = ask(ids)[:-1].astype(np.float64)
        top = logits.max(axis=-1)
        total = np.log(np.exp(logits - top[:, None]).sum(axis=-1)) + top
        rows.append((float((total - logits[np.arange(len(ids) - 1), ids[1:]]).sum()), len(ids) - 1))
    return np.array(rows)


def perplexity(rows: np.ndarray) -> float:
    """Of all texts together."""
    return float(np.exp(rows[..., 0].sum(-1) / rows[..., 1].sum(-1)))


def risen(rows: np.ndarray, first: np.ndarray) -> dict[str, Any]:
    """Perplexity, and how many percent of the first file's it is more, with the interval of that."""
    draws = np.random.default_rng(0).integers(0, len(rows), (DRAWS, len(rows)))
    apart = (rows[draws, 0].sum(-1) - first[draws, 0].sum(-1)) / rows[draws, 1].sum(-1)
    low, high = np.percentile(100 * np.expm1(apart), (2.5, 97.5))
    percent = 100 * (perplexity(rows) / perplexity(first) - 1)
    return {"perplexity": perplexity(rows), "percent_more": percent, "interval": [float(low), float(high)]}


def texts_of(model: str, data: str, limit: int, count: int) -> list[list[int]]:
    """Token ids of the evaluation texts."""
    import targets
    from compress.pipeline import Cache, Runner
    from compress.recipe import load
    from compress.stages.artifacts import SourceModel
    from compress.stages.graph import Job, build_graph
    from compress.stages.samples import evaluation

    table = load("identity", [f'model.source="{model}"', f"data.source={json.dumps(data)}", f"data.limit={limit}"])
    cache = Cache()
    job = Job(table, "identity", targets.load("cpu"), 0, cache.root / "digests.json")
    source = Runner(build_graph(job), cache, []).run(until="source")["source"]
    assert isinstance(source, SourceModel)
    prepared = evaluation(job.data, source)
    return [ids for ids in prepared.ids if len(ids) > 1][:count]  # type: ignore[attr-defined]


def speeds(files: Mapping[str, Path], ggufs: Mapping[str, Path], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Per round, milliseconds a token of each file by its number of threads."""
    table: list[dict[str, Any]] = []
    for _ in range(rounds):
        row: dict[str, Any] = {}
        for threads in THREADS:
            for one in decode_alternating(files, [CONTEXT], 1, seconds, threads):
                row.setdefault(one["name"], {})[str(threads)] = 1e3 / one["tokens_per_second"]
            for name, path in ggufs.items():
                command = [sys.executable, "-m", "benchmarks", "peers-four-bits", "--decode", str(path)]
                done = subprocess.run(
                    [*command, str(threads), str(seconds)], capture_output=True, text=True, check=True, env=os.environ
                )
                row.setdefault(name, {})[str(threads)] = float(done.stdout.split()[-1])
        table.append(row)
    return table


def summary(table: Sequence[Mapping[str, Mapping[str, float]]], name: str, first: str) -> dict[str, float]:
    """A file's fastest number of threads, its median time, and how many times as fast as the first it is."""

    def at_best(which: str) -> tuple[str, list[float]]:
        best = min(table[0][which], key=lambda threads: median(row[which][threads] for row in table))
        return best, [row[which][best] for row in table]

    (threads, own), (_, others) = at_best(name), at_best(first)
    ratios = [other / one for one, other in zip(own, others, strict=True)]
    return {"threads": int(threads), "ms_per_token": median(own), "times_as_fast": median(ratios)}


def named(values: Sequence[str]) -> dict[str, Path]:
    return {name: Path(path) for name, _, path in (value.partition("=") for value in values)}


def main() -> None:
    """Measure, or be the process that decodes with llama.cpp."""
    if sys.argv[1:2] == ["--decode"]:
        path, threads, seconds = sys.argv[2:]
        print(Gguf(Path(path), int(threads), 512).decode(float(seconds)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("result", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=120)
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--files", nargs="+", required=True)
    parser.add_argument("--gguf", nargs="*", default=[])
    parser.add_argument("--weights", type=int, required=True, help="how many the model has, for bits a weight")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    files, ggufs = named(args.files), named(args.gguf)
    first = next(iter(files))
    table = speeds(files, ggufs, args.rounds, args.seconds)
    texts = texts_of(args.model, args.data, args.limit, args.texts)
    longest = max(map(len, texts))
    found = {name: losses(onnx_ask(path), texts) for name, path in files.items()}
    found |= {name: losses(Gguf(path, max(THREADS), longest).ask, texts) for name, path in ggufs.items()}
    rows = []
    for name, file in (files | ggufs).items():
        size = sum(one.stat().st_size for one in (file, file.with_name(f"{file.name}.data")) if one.is_file())
        bits = {"bytes": size, "bits_per_weight": 8 * size / args.weights}
        rows.append({"name": name, **bits, **risen(found[name], found[first]), **summary(table, name, first)})
    result = {"command": record.command("peers-four-bits"), "cpu": cpu_name(), "model": args.model}
    tokens = sum(map(len, texts))
    record.save(args.result, {**result, "texts": len(texts), "tokens": tokens, "rows": rows, "rounds": table})
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
