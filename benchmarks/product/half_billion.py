"""What a decoder of half a billion parameters costs on this machine: memory and time of reading it, and of whole runs.

    python -m benchmarks half-billion benchmarks/results/half-billion.json

The model has the shape of Qwen2.5-0.5B (24 layers of width 896, a tied table of 151,936 tokens), random weights in
bf16, and lies in four shards. Runs are of `identity`, on a few short texts, and end in a bundle.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.lab import record, runs
from targets.errors import run_cli
from targets.machine import memory_bytes, usable_cpus

SHAPE = {
    **{"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2},
    **{"vocab_size": 151936, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6},
    **{"tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 2, "eos_token_id": 3},
}
WORDS = [f"w{number}" for number in range(151936 - 4)]
SHARDS = 4


def write_model(folder: Path, layers: int) -> None:
    """A folder as the hub has it: config.json, shards with their index, tokenizer.json."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True)
    kind = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps({**kind, **SHAPE, "num_hidden_layers": layers}))
    parts, places = list(_tensors(layers)), {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        draw, tensors = torch.Generator().manual_seed(shard), {}
        for name, shape in parts[shard::SHARDS]:
            gains = torch.ones(shape) if name.endswith("norm.weight") else torch.randn(shape, generator=draw) * 0.02
            tensors[name] = gains.to(torch.bfloat16)
            places[name] = file
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    numbers = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def _tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes."""
    width, hidden, keys = 896, 4864, 128
    yield "model.embed_tokens.weight", (151936, width)
    yield "model.norm.weight", (width,)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q_proj", width), ("k_proj", keys), ("v_proj", keys)):
            yield f"{prefix}.self_attn.{name}.weight", (rows, width)
            yield f"{prefix}.self_attn.{name}.bias", (rows,)
        yield f"{prefix}.self_attn.o_proj.weight", (width, width)
        for name in ("gate_proj", "up_proj"):
            yield f"{prefix}.mlp.{name}.weight", (hidden, width)
        yield f"{prefix}.mlp.down_proj.weight", (width, hidden)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{name}.weight", (width,)


def _read(folder: Path) -> None:
    from compress.tasks import read_checkpoint

    model = read_checkpoint(folder, {})
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kept = ", ".join(f"{name} {int(status[name].split()[0]) >> 10} MB" for name in ("RssAnon", "RssFile"))
    print(f"{model.num_parameters():,} parameters; {kept}")


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("--layers", type=int, default=24, help="fewer for a look")
    parser.add_argument("--precisions", nargs="+", default=["int8"])
    parser.add_argument("--read-alone", action="store_true")
    parser.add_argument("--folder", type=Path, help="for the model and the runs; a temporary one if not given")
    args = parser.parse_args()
    runs.load_libraries()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        model, texts = folder / "model", folder / "texts.txt"
        draw = np.random.default_rng(0)
        texts.write_text("\n".join(" ".join(draw.choice(WORDS[:60], 12)) for _ in range(32)) + "\n")
        rows = {
            "libraries": runs.forked(folder / "nothing", lambda: None),
            "write": runs.forked(folder / "write", lambda: write_model(model, args.layers)),
        }
        rows["read"] = runs.forked(folder / "read", lambda: _read(model))
        print(json.dumps(rows["read"]), flush=True)
        size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        short = ["gate.min_samples=1", "calibrate.samples=8", "calibrate.held_out=4", "data.limit=8"]
        for precision in [] if args.read_alone else args.precisions:
            settings = [word for one in (*short, f"precision.mode={precision}") for word in ("--set", one)]
            given = ["--model", str(model), "--data", str(texts), "--recipe", "identity", "--max-drop", "100"]
            own = folder / precision
            row = runs.whole(own, folder / "cache", *given, "--no-check", *settings)
            if (own / "out" / "bundle").is_dir():
                row["device"] = runs.opened(own, "w1 w2 w3")
            rows[precision] = row
            print(json.dumps({**row, "metrics": None}), (own / "log.txt").read_text()[-3000:], flush=True)
    document = {
        "command": record.command("half-billion"),
        "layers": args.layers,
        "weights_mb": size >> 20,
        "machine": {"memory_mb": (memory_bytes() or 0) >> 20, "processors": usable_cpus()},
        "rows": rows,
    }
    record.save(args.json, document)
    return 0 if all(row["exit"] in (0, 1) for row in rows.values()) else 1


if __name__ == "__main__":
    run_cli(main)
