"""Changes to real files, as damage, haste and malice make them, and the promise that every reader keeps.

The promise: an answer, or one of the project's own errors in one line; never a traceback, never more memory than that.
`EDGEPRESS_FUZZ_SECONDS` says how long each reader is tried (default 0.4), `EDGEPRESS_FUZZ_SEED` with which changes.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from targets.errors import EdgepressError, one_line

SECONDS = float(os.environ.get("EDGEPRESS_FUZZ_SECONDS", "0.4"))
SEED = os.environ.get("EDGEPRESS_FUZZ_SEED", "0")
#: What one reading may take beside what the process has, in MB: an image of 512 MB of samples is the largest that is
#: decoded, and its decoding holds it twice.
MOST_MEMORY = 2048
#: Values that people do not write, and programs do.
ODD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        3,
        7,
        1 << 31,
        1 << 63,
        10**30,
        -(10**30),
        0.5,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *("", "x", "3", "../../etc/passwd", "/dev/null", "\u202e", "\x1b[2J", "é" * 300, "x" * 100_000, "\ud800", "nan"),
    *([], {}, [[]], [None], [1, 2, 3], {"": {}}, {"kind": "image"}, [0] * 1000),
]
_BYTES = [
    b"",
    b"\0",
    b"\xff" * 4,
    b"\0" * 64,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b'"',
    b"\n",
    b"[" * 500,
    b"\xed\xa0\x80",
]


def draws(name: str) -> Iterator[random.Random]:
    """A random source for each try, until the time is over; the first 20 tries are made whatever the time."""
    began = time.monotonic()
    tries = 0
    while tries < 20 or time.monotonic() - began < SECONDS:
        yield random.Random(f"{SEED} {name} {tries}")
        tries += 1


def mutated(data: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    """The bytes with one to four changes; `others`: files from which pieces may come."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at, size = draw.randrange(len(changed) + 1), draw.choice([1, 1, 2, 4, 16, 256])
        match draw.randrange(8):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << draw.randrange(8)
            case 1 if changed:
                changed[at % len(changed)] = draw.randrange(256)
            case 2:
                del changed[at : at + size]
            case 3:
                changed[at:at] = changed[at : at + size]
            case 4:
                del changed[at:]
            case 5:
                changed[at : at + draw.randrange(5)] = draw.choice(_BYTES)
            case 6:
                changed[at:at] = draw.randbytes(size)
            case 7:
                piece = draw.choice(others)
                begin = draw.randrange(len(piece) + 1)
                changed[at : at + size] = piece[begin : begin + size]
    return bytes(changed)


def odd(value: Any, draw: random.Random) -> Any:
    """A JSON value with one to three places changed: another value, none, one twice, a misspelt name, a deep nest."""
    value = _copy(value)
    for _ in range(draw.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return draw.choice(ODD)
        holder, key = draw.choice(places)
        match draw.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[f"{key}s"] = holder.pop(key)
            case 2 if isinstance(holder, list):
                holder.append(_copy(holder[key]))
            case 3:
                holder[key] = _nest(draw.choice([50, 500]))
                return value
            case _:
                holder[key] = _copy(draw.choice(ODD))
    return value


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _nest(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def write_odd(path: Path, value: Any, draw: random.Random) -> None:
    """A JSON file with odd values; now and then its bytes are changed too."""
    data = json.dumps(odd(value, draw)).encode()
    path.write_bytes(mutated(data, draw, [data]) if draw.randrange(4) == 0 else data)


def kept(call: Callable[[], Any], what: str) -> Any:
    """The answer, or None for an error of the project's own. Fails where the promise is broken, naming the try."""
    before = _memory()
    try:
        answer = call()
    except EdgepressError as error:
        answer = None
        assert "\n" not in one_line(str(error)), what
    except RecursionError as error:
        raise AssertionError(f"{what}: nested too deeply for its reader") from error
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    taken = (_memory() - before) >> 10
    assert taken < MOST_MEMORY, f"{what}: took {taken} MB"
    return answer


def _memory() -> int:
    """Highest resident memory so far, in kB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
