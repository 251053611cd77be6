"""What a target is: the device, its software table and the shapes and precisions that suit it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "fp16", "int8", "int4"]
Span = tuple[int, int, int]  # (min, opt, max)


@dataclass(frozen=True)
class Hardware:
    """The device itself. `memory_gb` is nominal: of the CPU ("system"), of the GPU ("gpu") or shared ("unified").

    `device_models` are texts looked for in /proc/device-tree/model. `verified` is false where the fact is from memory.
    """

    arch: Literal["x86_64", "aarch64"]
    memory_gb: int
    memory_kind: Literal["system", "unified", "gpu"]
    source: str
    verified: bool
    compute_capability: str | None = None
    device_models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.memory_gb < 1:
            raise ValueError(f"memory_gb is {self.memory_gb}, allowed: 1 or more")
        if self.compute_capability is not None and not re.fullmatch(r"\d+\.\d", self.compute_capability):
            raise ValueError(f"compute_capability is {self.compute_capability!r}, allowed: like '8.7'")


@dataclass(frozen=True)
class Software:
    """One row of the compatibility table: versions that go together and the highest ONNX opset that they read."""

    max_opset: int
    source: str
    verified: bool
    jetpack: str | None = None
    l4t: tuple[str, ...] = ()
    cuda: str | None = None
    tensorrt: str | None = None
    tensorrt_rtx: str | None = None
    onnxruntime: str | None = None

    def __post_init__(self) -> None:
        if not (self.tensorrt or self.tensorrt_rtx or self.onnxruntime):
            raise ValueError("names no runtime, allowed: at least one of tensorrt, tensorrt_rtx, onnxruntime")

    def describe(self) -> str:
        """'JetPack 6.2, TensorRT 10.3, CUDA 12.6'."""
        parts = {
            "JetPack": self.jetpack,
            "TensorRT": self.tensorrt,
            "TensorRT for RTX": self.tensorrt_rtx,
            "ONNX Runtime": self.onnxruntime,
            "CUDA": self.cuda,
        }
        return ", ".join(f"{name} {version}" for name, version in parts.items() if version)


@dataclass(frozen=True)
class Profile:
    """Shapes that an engine is built for, each (min, opt, max): batch, sequence length, chunk of a model that is fed in
    chunks, past that a cache of keys and values holds by then (0 at the start)."""

    batch: Span
    length: Span
    chunk: Span
    past: Span

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("length", 1), ("chunk", 1), ("past", 0)):
            low, best, high = getattr(self, name)
            if not least <= low <= best <= high:
                raise ValueError(f"{name} is [{low}, {best}, {high}], allowed: {least} <= min <= opt <= max")

    def spans(self, longest: int | None = None) -> dict[str, list[int]]:
        """Every dynamic dimension of our graphs by its name; `total` is past and chunk together. `longest`: how many
        tokens the model takes at most, None for no limit."""
        total = [past + chunk for past, chunk in zip(self.past, self.chunk, strict=True)]
        tokens = {name: list(getattr(self, name)) for name in ("length", "chunk", "past")} | {"total": total}
        if longest is not None:
            tokens = {name: [min(size, longest) for size in span] for name, span in tokens.items()}
        return {"batch": list(self.batch), **tokens}


@dataclass(frozen=True)
class PowerMode:
    """One mode of nvpmodel: `nvpmodel -m id`."""

    id: int
    name: str


@dataclass(frozen=True)
class Power:
    """The power modes of a Jetson."""

    modes: tuple[PowerMode, ...]
    source: str
    verified: bool


@dataclass(frozen=True)
class Engine:
    """Engines that are built on the workstation, by TensorRT for RTX, which needs no GPU to build, and travel in the
    bundle: one for each precision, each for all compute capabilities. Without this table the device builds its own."""

    capabilities: tuple[str, ...]
    precisions: tuple[Precision, ...]

    def __post_init__(self) -> None:
        for name in ("capabilities", "precisions"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty, allowed: at least one")
        for capability in self.capabilities:
            if not re.fullmatch(r"\d+\.\d", capability):
                raise ValueError(f"capabilities has {capability!r}, allowed: like '8.6'")


@dataclass(frozen=True)
class Target:
    """A device profile: one TOML file. `backends` (files of runtime/backends) are in order of preference, `software`
    oldest first."""

    name: str
    title: str
    hardware: Hardware
    backends: tuple[str, ...]
    precisions: tuple[Precision, ...]
    default_precision: Precision
    threads: int
    profile: Profile
    software: tuple[Software, ...]
    aliases: tuple[str, ...] = ()
    power: Power | None = None
    engine: Engine | None = None

    def __post_init__(self) -> None:
        for name in ("backends", "precisions", "software"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty, allowed: at least one")
        if self.default_precision not in self.precisions:
            raise ValueError(f"default_precision is {self.default_precision!r}, allowed: {', '.join(self.precisions)}")
        for name in self.backends:
            if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or self.backends.count(name) > 1:
                raise ValueError(f"backends has {name!r}, allowed: names of backends like 'cpu', each once")
        if "cpu" not in self.backends:
            raise ValueError("backends lacks 'cpu', allowed: any list with it, for every bundle falls back to it")
        if "tensorrt" in self.backends and self.hardware.compute_capability is None:
            raise ValueError("backends has tensorrt, so hardware.compute_capability is needed")
        if self.engine is not None:
            if self.hardware.compute_capability not in self.engine.capabilities:
                raise ValueError(f"engine.capabilities lacks the device's own, {self.hardware.compute_capability}")
            odd = [one for one in self.engine.precisions if one not in self.precisions]
            if odd:
                raise ValueError(f"engine.precisions has {odd[0]}, allowed: {', '.join(self.precisions)}")
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}, allowed: 1 or more")

    @property
    def max_opset(self) -> int:
        """The highest ONNX opset that every row of the software table reads: export at or below it."""
        return min(row.max_opset for row in self.software)

    def manifest_section(self, precision: Precision | None = None, longest: int | None = None) -> dict[str, object]:
        """The `target` section of a bundle's manifest: what the device side needs to build and run. `longest`: how many
        tokens the model takes at most, None for no limit."""
        return {
            "name": self.name,
            "precision": precision or self.default_precision,
            "compute_capability": self.hardware.compute_capability,
            "threads": self.threads,
            "memory_gb": self.hardware.memory_gb,
            "backends": list(self.backends),
            "profile": self.profile.spans(longest),
        }
