"""WAV files of every form, and small models that classify them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
LABELS = ("hum", "hiss", "click")


def wav(samples: np.ndarray, rate: int = 16_000, *, bits: int = 16, coding: int = PCM, wrapped: bool = False) -> bytes:
    """The file of samples [T] or [T, C] from -1 to 1. `wrapped`: with an extensible header, as 24 bits have it."""
    samples = samples[:, None] if samples.ndim == 1 else samples
    channels, width = samples.shape[1], bits // 8
    body = numbers(samples, bits, coding).tobytes()
    if bits == 24:
        body = np.frombuffer(body, np.uint8).reshape(-1, 4)[:, :3].tobytes()
    form = (EXTENSIBLE if wrapped else coding, channels, rate, rate * channels * width, channels * width, bits)
    header = struct.pack("<HHIIHH", *form)
    if wrapped:
        header += struct.pack("<HHIH", 22, bits, 0, coding) + bytes.fromhex("000000001000800000aa00389b71")
    chunks = b"fmt " + struct.pack("<I", len(header)) + header + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def numbers(samples: np.ndarray, bits: int, coding: int = PCM) -> np.ndarray:
    """As they are stored; 24 bits in 4 bytes."""
    if coding == FLOAT:
        return samples.astype(f"<f{bits // 8}")
    whole = np.clip(np.rint(samples * 2.0 ** (bits - 1)), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    return (whole + 128).astype(np.uint8) if bits == 8 else whole.astype({16: "<i2", 24: "<i4", 32: "<i4"}[bits])


def sound(place: int, seconds: float = 0.4, rate: int = 16_000) -> np.ndarray:
    """A hum, a hiss or clicks, by the place."""
    draw, time_T = np.random.default_rng(place), np.arange(int(seconds * rate)) / rate
    if place % 3 == 0:
        return 0.3 * np.sin(2 * np.pi * draw.uniform(80, 200) * time_T)
    if place % 3 == 1:
        return 0.1 * draw.standard_normal(len(time_T))
    return 0.8 * (np.arange(len(time_T)) % int(rate / draw.uniform(8, 20)) < 5)


def filed(data: Path, count: int) -> Path:
    """Recordings in folders of their classes."""
    for place in range(count):
        path = data / LABELS[place % 3] / f"{place}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav(sound(place)))
    return data


def ast(place: Path, **changes: Any) -> Any:
    """A small model with weights at which every part matters, and its folder."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    steps = {"patch_size": 8, "frequency_stride": 6, "time_stride": 5, "max_length": 36, "num_mel_bins": 20}
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: at for at, name in enumerate(LABELS)}}
    model = transformers.ASTForAudioClassification(transformers.ASTConfig(**{**sizes, **steps, **names, **changes}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, one in model.named_parameters():
            noise = torch.randn(one.shape, generator=generator)
            if "layernorm" in name and name.endswith("weight"):
                one.copy_(1 + 0.3 * noise.clamp(-2, 2))
            else:
                one.copy_(0.2 * noise if one.ndim == 1 else noise / max(1, one[0].numel()) ** 0.5)
    model.save_pretrained(place)
    settings = {"num_mel_bins": model.config.num_mel_bins, "max_length": model.config.max_length}
    extractor = {"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 16_000, **settings}
    (place / "preprocessor_config.json").write_text(json.dumps(extractor))
    return model.eval()
