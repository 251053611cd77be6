"""Train the DeiT-Tiny-shaped CIFAR-10 test model (patch 4, 32x32, 192 x 12 x 3 heads) and save a Hugging Face folder.

Usage:
    python train_vit_cifar10.py cifar10.zip OUT --seconds 750   # one GPU
    python train_vit_cifar10.py cifar10.zip OUT --device cpu --limit 20 --seconds 40 --teacher-seconds 10 --batch 16
        # smoke test: too short to learn, so it ends with status 3

The zip holds cifar10/{train,test}/<class>/NNNN.jpg. Needs torch, transformers, numpy and Pillow.

Recipe
    1. Hold out 100 training images of each class: they alone decide about early aborts and between runs; the test
       images are scored once, after training.
    2. Train a ResNet-9 for `--teacher-seconds` (SGD, bf16).
    3. Train the ViT to match the ResNet's softened output on the same augmented, mixed view, plus cross entropy with
       the smoothed, mixed label (AdamW, warm-up, then cosine to zero over what is left of `--seconds`).
       Attention logits run away at usual rates when everything starts at std 0.02, so the embeddings start at rms ~1
       and the query and key projections learn at a quarter of the rate. Even so, of the rates tried at batch 512 only
       5e-4 kept the gradient norm near 1; at 8e-4 it reached thousands (before clipping), though the run ended as well.
       A run that is under 55 % after 12 % of its time starts again at 0.4 of the rate; if that fails as well the exit
       status is 3.
    4. Save the moving average of the weights (always, whichever scores better), rounded to fp16.
The schedule follows the clock, so a seed does not reproduce a run bit by bit.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

CLASSES = 10
HELD_OUT_PER_CLASS = 100
TEMPERATURE = 2.0
DISTILLATION = 0.7
SMOOTHING = 0.1
EMA_DECAY = 0.999
HEALTHY = 0.55
START = time.time()


def log(*words: object) -> None:
    """Print a line with the seconds since the start."""
    print(f"[{time.time() - START:6.1f}]", *words, flush=True)


# ---------------------------------------------------------------- data


@dataclass
class Split:
    """Images (N x 3 x 32 x 32, uint8) and their labels, on the training device."""

    images: Tensor
    labels: Tensor


@dataclass
class Data:
    """The three disjoint sets; class i is names[i], sorted by name."""

    train: Split
    held_out: Split
    test: Split
    names: list[str]


def decode(raw: bytes) -> np.ndarray:
    """Decode one JPEG into height x width x 3 bytes."""
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


def load_data(path: Path, device: str, limit: int | None) -> Data:
    """Read the zip; `limit` keeps this number of training and of test images of each class."""
    with zipfile.ZipFile(path) as archive:
        files = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
        if limit:
            files = [n for n in files if int(Path(n).stem) < limit]
        raw = [archive.read(n) for n in files]
    with ThreadPoolExecutor(8) as pool:
        pixels = np.stack(list(pool.map(decode, raw)))
    folders = [n.split("/")[-2] for n in files]
    names = sorted(set(folders))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
    label_array = np.array([names.index(f) for f in folders])
    labels = torch.from_numpy(label_array).to(device)
    is_test = np.array(["/test/" in n for n in files])
    is_held_out = np.zeros(len(files), bool)
    for c in range(len(names)):
        members = np.flatnonzero((label_array == c) & ~is_test)
        is_held_out[members[-min(HELD_OUT_PER_CLASS, len(members) // 5) :]] = True

    def part(mask: np.ndarray) -> Split:
        chosen = torch.from_numpy(np.flatnonzero(mask)).to(device)
        return Split(images[chosen], labels[chosen])

    return Data(part(~is_test & ~is_held_out), part(is_held_out), part(is_test), names)


def normalize(images: Tensor) -> Tensor:
    """Bytes to floats in [-1, 1], as the image processor of the saved model does."""
    return (images.float() / 255 - 0.5) / 0.5


def batches(count: int, size: int, device: str) -> Iterator[Tensor]:
    """Endless shuffled index batches; an epoch's short rest is dropped."""
    while True:
        yield from torch.randperm(count, device=device)[: count // size * size].view(-1, size)


# ---------------------------------------------------------------- augmentation: on the device, one draw per image


def uniform(count: int, low: float, high: float, device: torch.device) -> Tensor:
    """`count` uniform draws."""
    return torch.empty(count, device=device).uniform_(low, high)


def affine(x: Tensor) -> Tensor:
    """Flip and shift by up to 4 whole pixels; half of the images are rotated, scaled and sheared a little as well."""
    n, dev = len(x), x.device
    warp = (torch.rand(n, device=dev) < 0.5).float()
    angle, shear = uniform(n, -0.25, 0.25, dev) * warp, uniform(n, -0.2, 0.2, dev) * warp
    width, height = 1 + uniform(n, -0.2, 0.2, dev) * warp, 1 + uniform(n, -0.2, 0.2, dev) * warp
    flip = (torch.rand(n, device=dev) < 0.5).float() * 2 - 1
    shift = uniform(2 * n, -4.5, 4.5, dev).round().view(2, n) / 16
    cos, sin = angle.cos(), angle.sin()
    top = torch.stack([cos * width * flip, (shear - sin) * height, shift[0]], 1)
    bottom = torch.stack([sin * width * flip, cos * height, shift[1]], 1)
    grid = F.affine_grid(torch.stack([top, bottom], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def recolour(x: Tensor) -> Tensor:
    """Jitter brightness, contrast and saturation, each for half of the images."""

    def factor(strength: float) -> Tensor:
        on = torch.rand(len(x), device=x.device) < 0.5
        return (1 + uniform(len(x), -strength, strength, x.device) * on).view(-1, 1, 1, 1)

    x = x * factor(0.4)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * factor(0.4)
    grey = x.mean(1, keepdim=True)
    return (grey + (x - grey) * factor(0.6)).clamp(0, 1)


def boxes(n: int, height: Tensor, width: Tensor, device: torch.device) -> Tensor:
    """n x 1 x 32 x 32 masks, 1 inside a box of the given sides (pixels) around a random centre."""
    pixel = torch.arange(32, device=device) + 0.5
    cy, cx = uniform(n, 0, 32, device), uniform(n, 0, 32, device)
    rows = (pixel - cy[:, None]).abs() < height[:, None] / 2
    columns = (pixel - cx[:, None]).abs() < width[:, None] / 2
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def erase(x: Tensor) -> Tensor:
    """Set a box to zero in a quarter of the (normalized) images."""
    n, dev = len(x), x.device
    on = (torch.rand(n, device=dev) < 0.25).float().view(-1, 1, 1, 1)
    return x * (1 - on * boxes(n, uniform(n, 6, 16, dev), uniform(n, 6, 16, dev), dev))


def augment(images: Tensor) -> Tensor:
    """Bytes to augmented, normalized floats."""
    return erase((recolour(affine(images.float() / 255)) - 0.5) / 0.5)


def mix(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Blend each image with its mirror in the (shuffled) batch: 30 % mixup, 40 % cutmix, 30 % untouched."""
    n, dev = len(x), x.device
    kind, share = torch.rand(n, device=dev).view(-1, 1, 1, 1), torch.rand(n, device=dev)
    side = 32 * (1 - share).sqrt()
    keep = torch.where(kind < 0.7, 1 - boxes(n, side, side, dev), 1.0)
    keep = torch.where(kind < 0.3, share.view(-1, 1, 1, 1), keep)
    part = keep.mean((1, 2, 3))[:, None]
    return keep * x + (1 - keep) * x.flip(0), part * target + (1 - part) * target.flip(0)


# ---------------------------------------------------------------- models


class ConvBlock(nn.Sequential):
    """3x3 convolution, optional 2x2 max pooling, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, pool: bool = False) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
        super().__init__(*layers, *([nn.MaxPool2d(2)] if pool else []), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """x + two blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvBlock(width, width), ConvBlock(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Head(nn.Linear):
    """A linear layer with its output divided by 8, which tames its rate under the convolutions' one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 8


def resnet9(width: int = 64) -> nn.Sequential:
    """The small residual network that serves as the teacher."""
    w = width
    down = [ConvBlock(3, w), ConvBlock(w, 2 * w, True), Residual(2 * w), ConvBlock(2 * w, 4 * w, True)]
    up = [ConvBlock(4 * w, 8 * w, True), Residual(8 * w), nn.AdaptiveMaxPool2d(1), nn.Flatten()]
    return nn.Sequential(*down, *up, Head(8 * w, CLASSES, bias=False))


def vit(names: list[str]) -> ViTForImageClassification:
    """The student; its embeddings make the residual stream start at rms ~1 (pixels have rms ~0.5)."""
    ids = dict(enumerate(names))
    config = ViTConfig(  # type: ignore[call-arg]
        image_size=32,
        patch_size=4,
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        qkv_bias=True,
        num_labels=CLASSES,
        id2label=ids,
        label2id={v: k for k, v in ids.items()},
    )
    model = ViTForImageClassification(config)
    embeddings = model.vit.embeddings
    with torch.no_grad():
        kernel = embeddings.patch_embeddings.projection.weight
        kernel.normal_(0, 2 / kernel[0].numel() ** 0.5)
        embeddings.position_embeddings.normal_(0, 0.2)
        embeddings.cls_token.normal_(0, 0.2)
    return model


def logits_of(model: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """A Hugging Face classifier as a function from images to logits."""
    return lambda x: model(pixel_values=x).logits


@torch.no_grad()
def accuracy(forward: Callable[[Tensor], Tensor], split: Split, half: bool = True) -> float:
    """Top-1, with bf16 autocast or in fp32."""
    hits = 0
    for i in range(0, len(split.labels), 1000):
        x = normalize(split.images[i : i + 1000])
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            hits += int((forward(x).argmax(-1) == split.labels[i : i + 1000]).sum())
    return hits / len(split.labels)


# ---------------------------------------------------------------- teacher


def train_teacher(data: Data, batch: int, seconds: float, device: str) -> nn.Sequential:
    """Train the ResNet-9 for `seconds` (rate up, then linearly down to zero) and freeze it."""
    net: nn.Sequential = resnet9().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, nesterov=True, weight_decay=5e-4)
    begin, step, every = time.time(), 0, 20 if device == "cuda" else 1
    fraction = 0.0
    for index in batches(len(data.train.labels), batch, device):
        if step % every == 0:
            synchronize(device)
            fraction = (time.time() - begin) / seconds
        if fraction >= 1:
            break
        rate = 0.3 * batch / 512 * min(fraction / 0.15, (1 - fraction) / 0.85)
        optimizer.param_groups[0]["lr"] = rate
        x = augment(data.train.images[index]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            logits = net(x)
        loss = F.cross_entropy(logits.float(), data.train.labels[index], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
    net.eval().requires_grad_(False)
    epochs = step * batch / len(data.train.labels)
    log(f"teacher: {step} steps, {epochs:.1f} epochs, held out {accuracy(net, data.held_out):.4f}")
    return net


def synchronize(device: str) -> None:
    """Wait for the device, so that the clock is honest."""
    if device == "cuda":
        torch.cuda.synchronize()


# ---------------------------------------------------------------- student


def parameter_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Four groups: with and without weight decay, at the full rate and (query, key) at a quarter of it."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        slow = any(word in name for word in ("q_proj", "k_proj", ".query.", ".key."))
        decays = parameter.ndim > 1 and "embeddings" not in name
        groups.setdefault((decay if decays else 0.0, 0.25 if slow else 1.0), []).append(parameter)
    return [{"params": p, "weight_decay": d, "scale": s} for (d, s), p in groups.items()]


class Student:
    """The ViT with its optimizer, its moving average and one training step, captured into a CUDA graph on a GPU."""

    def __init__(self, data: Data, teacher: nn.Module, batch: int, decay: float, device: str) -> None:
        self.data, self.teacher, self.device, self.batch = data, teacher, device, batch
        self.model = vit(data.names)
        self.model.to(device)  # type: ignore[arg-type]
        self.parameters = list(self.model.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        cuda = device == "cuda"
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, decay),
            lr=torch.tensor(1e-6, device=device),
            betas=(0.9, 0.98),
            fused=cuda,
            capturable=cuda,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(1e-6, device=device)
        self.table = torch.eye(CLASSES, device=device) * (1 - SMOOTHING) + SMOOTHING / CLASSES
        self.index = torch.arange(batch, device=device)
        self.forward = logits_of(torch.compile(self.model) if cuda else self.model)
        self.loss, self.norm = torch.zeros(()), torch.zeros(())
        self.graph: torch.cuda.CUDAGraph | None = None

    def loss_of(
        self, x: Tensor, target: Tensor, soft: Tensor, forward: Callable[[Tensor], Tensor], half: bool
    ) -> Tensor:
        """Distillation plus cross entropy."""
        with torch.autocast(self.device, torch.bfloat16, enabled=half, cache_enabled=False):
            logits = forward(x)
        logits = logits.float()
        hard = -(target * logits.log_softmax(-1)).sum(-1).mean()
        match = F.kl_div((logits / TEMPERATURE).log_softmax(-1), soft, reduction="batchmean") * TEMPERATURE**2
        return DISTILLATION * match + (1 - DISTILLATION) * hard

    @torch.no_grad()
    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented, mixed images, their mixed labels and the teacher's softened opinion of them."""
        x = augment(self.data.train.images[self.index])
        x, target = mix(x, self.table[self.data.train.labels[self.index]])
        with torch.autocast(self.device, torch.bfloat16, cache_enabled=False):
            opinion = self.teacher(x.contiguous(memory_format=torch.channels_last))
        return x, target, (opinion.float() / TEMPERATURE).softmax(-1)

    def raw_step(self) -> None:
        """One step on the images named by `index`."""
        loss = self.loss_of(*self.draw(), self.forward, half=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - EMA_DECAY)
        self.loss = loss.detach()

    def prepare(self, graphed: bool) -> None:
        """Run a few steps (compiles), then capture the step; without a graph it runs as it is, slower."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(5):
                self.raw_step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        log(f"compiled, loss {float(self.loss):.3f}")
        if graphed:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.raw_step()
            self.graph = graph
            log("step captured")

    def step(self, index: Tensor, rate: float) -> None:
        """Set the rate and the images, then run or replay the step."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate * group["scale"])
        self.index.copy_(index)
        if self.graph is not None:
            self.graph.replay()
        else:
            self.raw_step()

    def check_gradients(self) -> float:
        """Lowest cosine between the gradients of this path (compiled, bf16) and plain fp32: shows a faulty kernel."""
        sample = self.draw()

        def gradients(forward: Callable[[Tensor], Tensor], half: bool) -> list[Tensor]:
            return list(torch.autograd.grad(self.loss_of(*sample, forward, half), self.parameters))

        fast = gradients(self.forward, True)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            exact = gradients(logits_of(self.model), False)
        pairs = [(a.flatten(), b.flatten()) for a, b in zip(fast, exact, strict=True) if b.norm() > 1e-4]
        cosines = sorted(float(F.cosine_similarity(a, b, 0)) for a, b in pairs)
        log(f"gradient cosines against fp32: lowest {cosines[0]:.4f}, median {cosines[len(cosines) // 2]:.4f}")
        return cosines[0]

    def held_out_accuracy(self) -> float:
        """Held-out top-1 of the live weights."""
        return accuracy(logits_of(self.model), self.data.held_out)

    @torch.no_grad()
    def take_average(self) -> None:
        """Put the moving average into the model."""
        for parameter, value in zip(self.parameters, self.average, strict=True):
            parameter.copy_(value)


def rate_at(peak: float, step: int, warm_up: int, fraction: float) -> float:
    """Linear warm-up in steps, times a cosine to zero over the time."""
    return peak * min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))) + 1e-7


@dataclass
class Outcome:
    """What one run of the student gave."""

    steps: int
    epochs: float
    curve: list[list[float]]
    healthy: bool


def train_student(student: Student, peak: float, warm_up: int, deadline: float, graphed: bool) -> Outcome:
    """Train until `deadline`; unhealthy if the held-out accuracy is under HEALTHY after 12 % of the time."""
    if student.device == "cuda":
        student.prepare(graphed)
        student.check_gradients()
    begin, step, noted, checked, fraction = time.time(), 0, time.time(), False, 0.0
    curve: list[list[float]] = []
    every = 25 if student.device == "cuda" else 1
    per_epoch = len(student.data.train.labels) / student.batch
    for index in batches(len(student.data.train.labels), student.batch, student.device):
        if step % every == 0:
            synchronize(student.device)
            now = time.time()
            fraction = (now - begin) / (deadline - begin)
            due = fraction > 0.12 and not checked
            if now - noted > 20 or due:
                noted, score, loss = now, student.held_out_accuracy(), float(student.loss)
                curve.append([round(now - begin, 1), round(step / per_epoch, 1), round(loss, 4), score])
                state = f"loss {loss:.3f} norm {float(student.norm):.2f} held out {score:.4f}"
                log(f"{fraction:5.1%} step {step} epoch {step / per_epoch:.1f} {state}")
                checked = checked or due
                if (due and score < HEALTHY) or not math.isfinite(loss):
                    return Outcome(step, step / per_epoch, curve, False)
        if fraction >= 1:
            break
        student.step(index, rate_at(peak, step, warm_up, fraction))
        step += 1
    return Outcome(step, step / per_epoch, curve, True)


# ---------------------------------------------------------------- saving


def round_to_half(model: nn.Module) -> None:
    """Round every weight to fp16 but keep it in fp32, so that the score is that of the saved file."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())


def save(model: ViTForImageClassification, out: Path, report: dict[str, Any]) -> None:
    """Write the Hugging Face folder and train.json."""
    model.half().save_pretrained(out)  # type: ignore[no-untyped-call]
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    (out / "train.json").write_text(json.dumps(report, indent=2) + "\n")


def versions(device: str) -> dict[str, str]:
    """What ran: hardware and libraries."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else "none"
    return {
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="zip with cifar10/{train,test}/<class>/NNNN.jpg")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--seconds", type=float, default=760, help="wall clock in all, from start to the end of training"
    )
    parser.add_argument("--teacher-seconds", type=float, default=60)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=5e-4, help="peak rate of the ViT")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--warm-up", type=int, default=1500, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="images of each class and split, for smoke tests")
    parser.add_argument("--no-graph", action="store_true", help="do not capture the step into a CUDA graph")
    return parser.parse_args()


def main() -> None:
    """Teacher, student (a second try at a lower rate if the first fails), scores, files."""
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # its bf16 backward pass has open fault reports on Hopper
    deadline = START + args.seconds
    data = load_data(args.data, args.device, args.limit)
    sizes = [len(split.labels) for split in (data.train, data.held_out, data.test)]
    log("train, held out, test:", *sizes, data.names)
    teacher = train_teacher(data, args.batch, args.teacher_seconds, args.device)
    outcome, rate = None, args.lr
    for rate in (args.lr, 0.4 * args.lr):
        student = Student(data, teacher, args.batch, args.weight_decay, args.device)
        outcome = train_student(student, rate, args.warm_up, deadline, not args.no_graph)
        if outcome.healthy:
            break
        log(f"diverged at rate {rate}")
    assert outcome is not None
    model = student.model.eval()  # type: ignore[no-untyped-call]
    live = student.held_out_accuracy()
    student.take_average()
    round_to_half(model)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    forward = logits_of(model)
    test, held_out = accuracy(forward, data.test, half=False), accuracy(forward, data.held_out, half=False)
    teacher_top1 = accuracy(teacher, data.test)
    command = ["python", "train_vit_cifar10.py", args.data.name, args.out.name, *sys.argv[3:]]
    report = {
        "test_top1": test,
        "held_out_top1": held_out,
        "held_out_top1_live": live,
        "weights": "moving average, rounded to fp16, scored in fp32",
        "teacher_test_top1": teacher_top1,
        "train_images": len(data.train.labels),
        "epochs": round(outcome.epochs, 1),
        "steps": outcome.steps,
        "healthy": outcome.healthy,
        "seconds": round(time.time() - START, 1),
        "peak_lr": rate,
        "batch": args.batch,
        "weight_decay": args.weight_decay,
        "seed": args.seed,
        **versions(args.device),
        "command": " ".join(command),
        "curve_columns": ["seconds", "epoch", "loss", "held_out_top1_live"],
        "curve": outcome.curve,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    save(model, args.out, report)
    log("done:", {k: v for k, v in report.items() if k != "curve"})
    sys.exit(0 if outcome.healthy else 3)


if __name__ == "__main__":
    main()
