"""Make `compress/zoo/stories260k` from the raw checkpoint of llama2.c: same sources, same bytes.

    python -m benchmarks stories260k --model stories260K.bin --tokenizer tok512.bin --out compress/zoo/stories260k

The checkpoint has a header of seven int32 (width, hidden units, layers, heads, key/value heads, vocabulary, length) and
float32 weights; the tokenizer the longest piece's length and, for each piece, score (float32), length (int32), bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from runtime.files import sha256_of, write_atomic

Array = np.ndarray
#: Beginning of a text, which also ends the one before; end of a text, which the training data does not have.
BOS, EOS = 1, 2
PIECES = {BOS: "<s>", EOS: "</s>"}


def read_model(path: Path) -> tuple[dict[str, int], dict[str, Array]]:
    """The config and the tensors by the names of transformers' LlamaForCausalLM."""
    data = path.read_bytes()
    width, hidden, layers, heads, groups, vocabulary, length = map(int, np.frombuffer(data, "<i4", 7))
    assert vocabulary > 0, "an untied head is not expected"
    size = width // heads
    flat, place = np.frombuffer(data, "<f4", offset=28), 0

    def take(*shape: int) -> Array:
        nonlocal place
        count = int(np.prod(shape))
        place += count
        return flat[place - count : place].reshape(shape)

    table = take(vocabulary, width)
    attention_norm = take(layers, width)
    query, key = take(layers, width, width), take(layers, groups * size, width)
    value, output = take(layers, groups * size, width), take(layers, width, width)
    ffn_norm = take(layers, width)
    gate, down, up = take(layers, hidden, width), take(layers, width, hidden), take(layers, hidden, width)
    final_norm = take(width)
    take(2, length, size // 2)  # cosines and sines of the positions
    assert place == len(flat), f"{len(flat) - place} numbers are left over"
    tensors = {"model.embed_tokens.weight": table, "model.norm.weight": final_norm}
    for layer in range(layers):
        parts = {
            "input_layernorm": attention_norm[layer],
            "post_attention_layernorm": ffn_norm[layer],
            "self_attn.q_proj": half_split(query[layer], heads),
            "self_attn.k_proj": half_split(key[layer], groups),
            "self_attn.v_proj": value[layer],
            "self_attn.o_proj": output[layer],
            "mlp.gate_proj": gate[layer],
            "mlp.up_proj": up[layer],
            "mlp.down_proj": down[layer],
        }
        tensors |= {f"model.layers.{layer}.{name}.weight": tensor for name, tensor in parts.items()}
    config = {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocabulary,
        "max_position_embeddings": length,
    }
    return config, {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def half_split(weight_OI: Array, heads: int) -> Array:
    """llama2.c turns the pairs (0, 1), (2, 3) ... of a head, transformers (0, K/2), (1, K/2 + 1) ...: reorder."""
    pairs = weight_OI.reshape(heads, -1, 2, weight_OI.shape[1])
    return pairs.transpose(0, 2, 1, 3).reshape(weight_OI.shape)


def read_pieces(path: Path) -> list[tuple[str, float]]:
    """The vocabulary in order: text and score, spaces as U+2581."""
    data, place, pieces = path.read_bytes(), 4, []
    while place < len(data):
        score, length = np.frombuffer(data, "<f4", 1, place)[0], int(np.frombuffer(data, "<i4", 1, place + 4)[0])
        pieces.append((data[place + 8 : place + 8 + length].decode().replace(" ", "▁"), float(score)))
        place += 8 + length
    return [(PIECES.get(index, text), score) for index, (text, score) in enumerate(pieces)]


def tokenizer(pieces: list[tuple[str, float]]) -> dict[str, object]:
    """A tokenizer.json: byte-pair encoding that merges the pair with the best score first, bytes for unknown pieces."""
    vocabulary = {text: index for index, (text, _) in enumerate(pieces)}
    scores = dict(pieces)
    made = [
        (-scores[text], vocabulary[text[:cut]], vocabulary[text[cut:]], text[:cut], text[cut:])
        for text, _ in pieces
        for cut in range(1, len(text))
        if not text.startswith("<") and text[:cut] in vocabulary and text[cut:] in vocabulary
    ]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    single = [bos, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": pieces[index][0], **special} for index in (0, BOS, EOS)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [[left, right] for *_, left, right in sorted(made)],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--model", "--tokenizer", "--out"):
        parser.add_argument(option, type=Path, required=True)
    args = parser.parse_args()
    sizes, tensors = read_model(args.model)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **sizes,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": [BOS, EOS],
        "torch_dtype": "float32",
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": sizes["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    files = {
        "config.json": json.dumps(config, indent=1),
        "tokenizer.json": json.dumps(tokenizer(read_pieces(args.tokenizer)), ensure_ascii=False, separators=(",", ":")),
        "tokenizer_config.json": json.dumps(settings, indent=1),
    }
    for name, text in files.items():
        write_atomic(args.out / name, (text + "\n").encode())
    write_atomic(args.out / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    for path in sorted(args.out.iterdir()):
        print(f"| {path.name} | {path.stat().st_size} | {sha256_of(path)} |")


if __name__ == "__main__":
    main()
