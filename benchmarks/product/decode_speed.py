"""Decoding speed and memory against the context: recurrent forms beside the KV-cache form of the same model.

Usage, from the root of the repository, on a quiet machine:
    python -m benchmarks decode-speed zoo:stories260k benchmarks/results/decode-stories260k.json
    python -m benchmarks decode-speed llama-15m OUT.json
    python -m benchmarks decode-speed zoo:smollm2 OUT.json --contexts 128 1024 4096

Exports the original with caches and with every layer rewritten (`--forms`), untrained: weights do not change the speed,
and those of `llama-15m` are random. Each measurement is a process of its own; they take turns over `--rounds` rounds,
and medians are quoted. A context is a state of that length, of random numbers; nothing is prefilled. ONNX Runtime takes
states and gives them without copying them on the way (binding inputs and outputs is no faster), and the cache's graph
reads keys and values where they are, without a copy per query head. The JSON has `decode`, a list of {name, context,
tokens_per_second, state_bytes, peak_bytes}. `peak_bytes`: the process's largest resident memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.lab import record
from runtime.measuring.compare import decode_alternating
from runtime.measuring.power import cpu_name

CONTEXTS = (128, 1024, 4096, 16384)
FORMS: dict[str, list[dict[str, Any]]] = {
    "kv-cache": [],
    "t2r": [{"use": "linear-attention", "feature": "t2r", "size": 32}],
    "hybrid": [{"use": "hybrid", "window": 64}],
}
#: Llama models of random weights, by the keys of their configuration.
SHAPES = {
    "llama-15m": {
        "vocab_size": 32000,
        "hidden_size": 288,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "tie_word_embeddings": True,
    },
}


def checkpoint(source: str, folder: Path) -> Path:
    """The folder of a zoo model, or of one of random weights, written into `folder`."""
    from compress.zoo import locate

    if source not in SHAPES:
        return locate(source)
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPES[source])).save_pretrained(folder)
    return folder


def export(source: str, form: str, path: Path) -> None:
    """Write one form of the model."""
    import torch

    from compress.model.forms.streaming import Streaming
    from compress.rewrites import Calibration, parse_options, run_rewrite
    from compress.tasks import read_checkpoint
    from export.onnx_model import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        model = original = read_checkpoint(checkpoint(source, Path(folder)), {})
    ids_BN = torch.randint(3, 256, (2, 96), generator=torch.Generator().manual_seed(0))
    calibration = Calibration(original, lambda: iter([{"input_ids": ids_BN}]), lambda note: None)
    for table in FORMS[form]:
        model = run_rewrite(*parse_options(table), model, calibration)
    streaming = Streaming(model)
    example = streaming.example(2, 4, 3, torch.Generator().manual_seed(0))
    export_onnx(streaming, example, streaming.outputs, streaming.dynamic, path)


def measure(args: argparse.Namespace) -> None:
    """Export, measure in turns, write the JSON."""
    with tempfile.TemporaryDirectory() as folder:
        files = {form: Path(folder, form, "model.onnx") for form in args.forms}
        for form, path in files.items():
            # In a process of its own, whose memory and threads are gone when the clock starts.
            command = [sys.executable, "-m", "benchmarks", "decode-speed", "--export", form, str(path), args.model]
            subprocess.run(command, check=True)
        decode = decode_alternating(files, args.contexts, args.rounds, args.seconds, args.threads)
        sizes = {form: path.stat().st_size for form, path in files.items()}
    speed = {(row["name"], row["context"]): row["tokens_per_second"] for row in decode}
    first, *others = args.forms
    result = {
        "command": record.command("decode-speed"),
        **record.surroundings(),
        "device": cpu_name(),
        "onnxruntime": onnxruntime.__version__,
        "model": args.model,
        "rounds": args.rounds,
        "file_bytes": sizes,
        "decode": decode,
        "speedup": {
            form: {str(context): round(speed[form, context] / speed[first, context], 3) for context in args.contexts}
            for form in others
        },
    }
    record.save(args.result, result)
    for row in decode:
        print(row)
    print(result["speedup"])


def main() -> None:
    """Measure, or be the process that exports."""
    if sys.argv[1:2] == ["--export"]:
        form, path, source = sys.argv[2:]
        export(source, form, Path(path))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("result", type=Path)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="the first is compared to")
    parser.add_argument("--contexts", nargs="+", type=int, default=list(CONTEXTS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of every file (default: each file's fastest number)")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
