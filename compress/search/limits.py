"""What a user can spend, with its units."""

from __future__ import annotations

import re
from dataclasses import dataclass

from targets.errors import InputError

_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Limits:
    """None where nothing is asked. `latency_ms` of one input, `speedup` over the original in fp32, `file_bytes` of the
    file that ships, `memory_bytes` of a process that runs it (its largest resident memory)."""

    latency_ms: float | None = None
    speedup: float | None = None
    file_bytes: int | None = None
    memory_bytes: int | None = None

    def any(self) -> bool:
        """Whether anything but the drop is limited."""
        return any(one is not None for one in (self.latency_ms, self.speedup, self.file_bytes, self.memory_bytes))

    def most_ms(self, original_ms: float) -> float | None:
        """The latency that both limits on time allow, where the original takes `original_ms`."""
        found = [one for one in (self.latency_ms, original_ms / self.speedup if self.speedup else None) if one]
        return min(found) if found else None

    def missed(self, ms: float, original_ms: float, file_bytes: int, memory_bytes: int | None) -> list[str]:
        """A line for each limit that a model of these numbers does not keep."""
        lines, most = [], self.most_ms(original_ms)
        if most is not None and ms > most:
            lines.append(f"latency {ms:.3g} ms, allowed {most:.3g} ms")
        if self.file_bytes is not None and file_bytes > self.file_bytes:
            lines.append(f"file {file_bytes / 1e6:.3g} MB, allowed {self.file_bytes / 1e6:.3g} MB")
        if self.memory_bytes is not None and memory_bytes is not None and memory_bytes > self.memory_bytes:
            lines.append(f"memory {memory_bytes / 1e6:.3g} MB, allowed {self.memory_bytes / 1e6:.3g} MB")
        return lines


def milliseconds(option: str, text: str) -> float:
    """A time with its unit, such as 1.2ms. Raises InputError."""
    return _number(option, text, _MS, "1.2ms")


def size(option: str, text: str) -> int:
    """A size with its unit, such as 2MB. Raises InputError."""
    return int(_number(option, text, _BYTES, "2MB"))


def _number(option: str, text: str, units: dict[str, float] | dict[str, int], example: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)\s*", text)
    allowed = ", ".join(units)
    if found is None:
        raise InputError(
            f"{option} {text[:40]!r} is not a number with a unit; write it like {example} (units: {allowed})"
        )
    number, unit = found.groups()
    if unit not in units:
        what = f"has the unknown unit {unit!r}" if unit else "has no unit"
        raise InputError(f"{option} {text!r} {what}; write it like {example} (units: {allowed})")
    if float(number) == 0:
        raise InputError(f"{option} {text!r} is nothing at all; write it like {example}")
    return float(number) * units[unit]
