"""Whether a machine has the memory for a model, told before its weights are read."""

from __future__ import annotations

from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from targets.errors import EnvironmentLacks
from targets.machine import memory_bytes

#: What a run holds of each parameter where it needs most, at the least. A decoder whose table is most of it took twice
#: as much (half-billion.json of benchmarks/results): what is refused here does not fit for certain.
BYTES = 20
#: What the libraries take, whatever the model.
_BESIDE = 1 << 29


def check_memory(folder: Path, available: int | None = None) -> None:
    """Raises EnvironmentLacks where a run of the model in this folder would not fit into the memory that is `available`
    in bytes (what this machine can give, if not said). Weights that are not in safetensors are not counted."""
    free = memory_bytes(field="MemAvailable") if available is None else available
    count = _parameters(folder)
    needed = BYTES * count + _BESIDE
    if free is None or not count or needed <= free:
        return
    raise EnvironmentLacks(
        f"{folder} has {count / 1e9:.2f} billion parameters: a run takes {needed / 1e9:.0f} GB of memory or more, and "
        f"{free / 1e9:.0f} GB are free here; take a smaller model or a larger machine"
    )


def _parameters(folder: Path) -> int:
    """Numbers in the weights, by the headers of their files. Damaged files count nothing; reading them says so."""
    whole, total = folder / "model.safetensors", 0
    for file in [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors")):
        try:
            with safe_open(file, framework="pt") as stream:
                total += sum(prod(stream.get_slice(name).get_shape()) for name in stream.keys())  # noqa: SIM118
        except (SafetensorError, OSError, RuntimeError):
            continue
    return total
