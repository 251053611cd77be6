"""A causal model over windows of a sensor, trained, made recurrent, shipped as a bundle and streamed: half a minute.

Usage, from the root of the repository:
    python -m benchmarks sensor-stream OUT            # OUT/bundle and OUT/sensor-stream.json

The data are synthetic, made here: three axes of acceleration at 32 Hz, windows of half a second, a person who rests,
walks, runs, now and then falls, and after a fall stays down until the next walk. `down` looks like `rest`: it can only
be known by what came before, half a minute ago. A small transformer with softmax attention learns it; its layers are
made gated delta rules (Hedgehog features), healed by attention transfer and KL to the original; the bundle holds the
graph with its state, and `runtime.streams.stream` feeds it window by window, sleeps (the state as bytes) and goes on.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.lab import record
from benchmarks.lab import texts as text_lab
from compress.heal.attention_transfer import AttentionTransfer
from compress.model import Step, Structure, Transformer
from compress.model.block import BlockSpec
from compress.model.embeds.window import WindowEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.forms.streaming import Streaming
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.rope import RopeSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.values.projected import ProjectedValuesSpec
from compress.rewrites import Calibration, parse_options, run_rewrite
from export.bundle import BundleContent, Form, write_bundle
from export.onnx_model import export_onnx
from runtime.bundles.manifest import BundleTarget, ModelFile
from runtime.measuring.power import cpu_name
from runtime.session import open_bundle
from runtime.streams.stream import Stream

LABELS = ("rest", "walk", "run", "fall", "down")
RATE, WINDOW, AXES = 32, 16, 3
#: What may follow each label, and for how many windows it lasts, at least and at most.
NEXT = {
    "rest": ("walk",),
    "walk": ("rest", "run", "fall"),
    "run": ("walk", "fall"),
    "fall": ("down",),
    "down": ("walk",),
}
LASTS = {"rest": (4, 60), "walk": (4, 30), "run": (4, 20), "fall": (1, 1), "down": (4, 60)}
STEPS_PER_SECOND = {"walk": 1.8, "run": 2.9}
STRENGTH = {"walk": 0.35, "run": 1.1}


def day(windows: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Readings (N, WINDOW * AXES) in g and labels (N,)."""
    names: list[str] = []
    label = "rest"
    while len(names) < windows:
        low, high = LASTS[label]
        names += [label] * int(random.integers(low, high + 1))
        label = str(random.choice(NEXT[label]))
    seconds = np.arange(WINDOW) / RATE
    readings = np.empty((windows, WINDOW, AXES), np.float32)
    down = random.standard_normal(AXES)
    down /= np.linalg.norm(down)  # gravity, as the sensor is worn that day
    for place, name in enumerate(names[:windows]):
        signal = np.tile(down, (WINDOW, 1))
        if name in STRENGTH:
            phase = 2 * np.pi * (STEPS_PER_SECOND[name] * (seconds + place * WINDOW / RATE) + random.normal(0, 0.05))
            signal = signal + STRENGTH[name] * np.sin(phase)[:, None] * down + 0.1 * np.cos(2 * phase)[:, None]
        if name == "fall":
            blow = random.standard_normal(AXES)
            signal = signal * 0.2 + 4 * np.exp(-(((seconds - 0.3) / 0.03) ** 2))[:, None] * blow / np.linalg.norm(blow)
        readings[place] = signal + random.normal(0, 0.05, signal.shape)
    return readings.reshape(windows, -1), np.array([LABELS.index(name) for name in names[:windows]])


def days(count: int, windows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Readings (B,N,C) and labels (B,N) of several days."""
    random = np.random.default_rng(seed)
    made = [day(windows, random) for _ in range(count)]
    return torch.from_numpy(np.stack([x for x, _ in made])), torch.from_numpy(np.stack([y for _, y in made]))


def original() -> Transformer:
    """Two layers of softmax attention over windows, untrained."""
    block = BlockSpec(
        mixer=SoftmaxAttentionSpec(
            scores=ProjectedScoresSpec(num_heads=4, num_kv_heads=4, head_dim=8, scale=8**-0.5, rope=RopeSpec()),
            values=ProjectedValuesSpec(num_kv_heads=4, head_dim=8),
            causal=True,
        ),
        mixer_norm=NormSpec(),
        ffn=MlpSpec(intermediate_size=64),
        ffn_norm=NormSpec(),
    )
    structure = Structure(
        task="sequence-labelling",
        hidden_size=32,
        embed=WindowEmbedSpec(size=WINDOW * AXES),
        blocks=(block, block),
        schedule=(Step(block=0, origin=0), Step(block=1, origin=1)),
        final_norm=NormSpec(),
        head=LanguageModelSpec(vocab_size=len(LABELS), tied=False, bias=True),
        labels=LABELS,
        preprocessing={},
    )
    return Transformer(structure)


def heal(teacher: Transformer, windows_BNC: Tensor, steps: int) -> Transformer:
    """All layers recurrent: attention transfer, then KL to the original."""
    calibration = Calibration(teacher, lambda: iter([{"windows": windows_BNC[:16]}]), lambda note: print(note))
    table = {"use": "gated-delta-rule", "feature": "hedgehog"}
    student = run_rewrite(*parse_options(table), teacher, calibration).requires_grad_(False)
    transfer = AttentionTransfer.of(student, teacher)
    for parameter in transfer.parameters:
        parameter.requires_grad_(True)
    stream = text_lab.batches(windows_BNC, 16, seed=1)
    text_lab.train(transfer.parameters, lambda x_BNC: transfer.loss({"windows": x_BNC}, 0.0), stream, 1e-2, steps=steps)
    student.requires_grad_(True)

    def loss(x_BNC: Tensor) -> Tensor:
        with torch.no_grad():
            target_BNL = teacher({"windows": x_BNC})
        return text_lab.kl_per_token(student({"windows": x_BNC}), target_BNL)

    text_lab.train(list(student.parameters()), loss, stream, 2e-3, steps=2 * steps)
    return student.eval()


def ship(model: Transformer, folder: Path) -> Path:
    """The bundle: one graph with its state."""
    streaming = Streaming(model)
    generator = torch.Generator().manual_seed(0)
    path = folder / "model.onnx"
    export_onnx(streaming, streaming.example(2, 4, 3, generator), streaming.outputs, streaming.dynamic, path)
    content = BundleContent(
        task="sequence-labelling",
        target=BundleTarget("cpu", precision="fp32", threads=1, profile={"batch": (1, 1, 4), "chunk": (1, 1, 256)}),
        forms=[Form(ModelFile("model.onnx", "onnxruntime", "fp32"), path)],
        golden={"model": {name: one.numpy() for name, one in streaming.example(1, 8, 0, generator).items()}},
        edgepress=version("edgepress"),
        verdict="pass",
        labels=LABELS,
    )
    return write_bundle(folder / "bundle", content)


def streamed(bundle: Path, windows_BNC: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Answers (B,N), window by window, asleep once in the middle of each day; and what the device says of itself."""
    session, answers = open_bundle(bundle), []
    stream = Stream(session)
    for day_NC in windows_BNC:
        stream.reset()
        for place, window_C in enumerate(day_NC):
            if place == len(day_NC) // 2:
                asleep, stream = stream.save(), Stream(session)
                stream.load(asleep)
            answers.append(int(stream.step(window_C[None])[0].argmax()))
    said = {"state_bytes": stream.state_bytes, "model_bytes": (bundle / "model.onnx").stat().st_size}
    return np.array(answers).reshape(windows_BNC.shape[:2]), said


def recalls(answers_BN: np.ndarray, labels_BN: np.ndarray) -> dict[str, float]:
    """The share of each label's windows that are recognized, and of all, in percent."""
    right_BN = answers_BN == labels_BN
    each = {name: right_BN[labels_BN == index].mean() for index, name in enumerate(LABELS)}
    return {name: round(100 * float(share), 2) for name, share in {"all": right_BN.mean(), **each}.items()}


@torch.no_grad()
def answers_of(model: Transformer, windows_BNC: Tensor) -> np.ndarray:
    """Answers (B,N) to whole days."""
    return model({"windows": windows_BNC}).argmax(dim=-1).numpy()


def main() -> None:
    """Train, convert, ship, stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300, help="of training; healing takes as many")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    (train_BNC, train_BN), (test_BNC, test_BN) = days(256, 192, seed=1), days(20, 1000, seed=2)
    teacher = original()

    rare_L = train_BN.numel() / len(LABELS) / train_BN.flatten().bincount()

    def loss(day_B: Tensor) -> Tensor:
        logits_BNL = teacher({"windows": train_BNC[day_B]})
        return F.cross_entropy(logits_BNL.flatten(0, 1), train_BN[day_B].flatten(), weight=rare_L)

    drawn = text_lab.batches(torch.arange(len(train_BNC)), 16, seed=0)
    text_lab.train(list(teacher.parameters()), loss, drawn, 3e-3, steps=args.steps)
    teacher.eval().requires_grad_(False)
    student = heal(teacher, train_BNC, args.steps // 5)
    bundle = ship(student, args.out)
    labels_BN = test_BN.numpy()
    answers_BN, said = streamed(bundle, test_BNC.numpy())
    alone = answers_of(teacher, test_BNC.reshape(-1, 1, WINDOW * AXES)).reshape(labels_BN.shape)
    result = {
        "command": "python -m benchmarks sensor-stream OUT",
        **record.surroundings(),
        "device": cpu_name(),
        "windows": {"training": train_BN.numel(), "test": test_BN.numel(), "of a test day": test_BN.shape[1]},
        "recognised_percent": {
            "softmax attention, each window alone": recalls(alone, labels_BN),
            "softmax attention, whole days": recalls(answers_of(teacher, test_BNC), labels_BN),
            "gated delta rule, whole days in torch": recalls(answers_of(student, test_BNC), labels_BN),
            "gated delta rule, streamed from the bundle": recalls(answers_BN, labels_BN),
        },
        "streamed_answers_that_differ": int((answers_BN != answers_of(student, test_BNC)).sum()),
        **said,
    }
    record.save(args.out / "sensor-stream.json", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
