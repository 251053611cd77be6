"""Export a decoder with its caches and hold the text that the file writes against the original library's.

Usage, from the root of the repository:
    python -m benchmarks decoder-export zoo:smollm2 RESULT.json [--file model.onnx] [--tokens 200]

Greedy decoding from each prompt: transformers' `generate` in fp32 on one side, the fp32 ONNX file in ONNX Runtime, fed
the prompt and then token by token, on the other. The teacher of smollm2 is a dequantized Q4_1 file. Nothing is timed.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lab import record
from compress import zoo
from compress.model.forms.streaming import Streaming
from compress.tasks import read_checkpoint
from export.numerics import check_against
from export.onnx_model import export_onnx
from export.sharing import assert_shared_once
from runtime import ort

PROMPTS = ("Once upon a time", "The history of the city began", "In the morning she said that")


def main() -> None:
    """Export, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="zoo name or Hugging Face folder")
    parser.add_argument("result", type=Path)
    parser.add_argument("--file", type=Path, help="where the ONNX file stays; without it, nowhere")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = zoo.locate(args.model)
    streaming = Streaming(read_checkpoint(folder, {}))
    with tempfile.TemporaryDirectory() as temporary:
        file = args.file or Path(temporary) / "model.onnx"
        generator = torch.Generator().manual_seed(0)
        info = export_onnx(streaming, streaming.example(2, 4, 3, generator), streaming.outputs, streaming.dynamic, file)
        assert_shared_once(file)
        cases = [streaming.example(*sizes, generator) for sizes in ((1, 5, 0), (2, 1, 7), (1, 3, 40))]
        numerics = check_against(streaming, file, cases)
        states = [(state.past, state.present, state.fresh(1).numpy()) for state in streaming.flat]
        del streaming
        texts = [compared(folder, file, states, prompt, args) for prompt in PROMPTS]
    result = {
        "command": record.command("decoder-export"),
        **record.surroundings(),
        "versions": {name: version(name) for name in ("onnx", "onnxruntime", "transformers")},
        "model": args.model,
        "bytes": info.bytes,
        "opset": info.opset,
        "states": len(states),
        "largest_error": max(error.max_abs for error in numerics.errors),
        "tokens": args.tokens,
        "texts": texts,
        "equal": all(text["equal_tokens"] == args.tokens for text in texts),
    }
    record.save(args.result, result)
    print("equal" if result["equal"] else "different", args.result)


def compared(folder: Path, file: Path, states: list[Any], prompt: str, args: argparse.Namespace) -> dict[str, Any]:
    """How many tokens of the two texts agree before the first that does not, and the text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = tokenizer(prompt)["input_ids"]
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    length = {"max_new_tokens": args.tokens, "min_new_tokens": args.tokens, "eos_token_id": None, "pad_token_id": 0}
    theirs = original.generate(torch.tensor([start]), do_sample=False, **length)[0].tolist()[len(start) :]
    del original
    mine = greedy(file, states, start, args)
    same = next((index for index, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1]), len(theirs))
    return {"prompt": prompt, "equal_tokens": same, "text": tokenizer.decode(start + mine)}


def greedy(file: Path, states: list[Any], start: list[int], args: argparse.Namespace) -> list[int]:
    """The likeliest token, again and again."""
    model = ort.load(file, threads=args.threads)
    past = {name: fresh for name, _, fresh in states}
    chunk, done, ids = start, 0, []
    for _ in range(args.tokens):
        total = done + len(chunk)
        inputs = {
            "input_ids": np.array([chunk]),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(done, total)[None],
        }
        given = model.run({**inputs, **past})
        past = {name: given[present] for name, present, _ in states}
        done, chunk = total, [int(given["logits"][0, -1].argmax())]
        ids += chunk
    return ids


if __name__ == "__main__":
    main()
