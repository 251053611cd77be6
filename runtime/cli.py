"""What the commands of the device side share."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.bundles.bundle import Bundle
    from runtime.session import Session

_MOST_THREADS = 1024


def positive(text: str) -> int:
    """An argument that is a whole number of 1 or more."""
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return value


def thread_count(text: str) -> int:
    """An argument that is a number of threads: more than any machine has would take its memory instead."""
    value = positive(text)
    if value > _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {_MOST_THREADS} threads")
    return value


def seconds(text: str) -> float:
    """An argument that is a time in seconds, above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time above 0")
    return value


def milliseconds(text: str) -> float:
    """An argument that is a time in milliseconds, such as 5 or 5ms; in seconds."""
    return seconds(text.removesuffix("ms")) / 1e3


def add_bundle_options(parser: argparse.ArgumentParser) -> None:
    """--public-key and --allow-failed, which every command that opens a bundle has."""
    parser.add_argument("--allow-failed", action="store_true", help="take a bundle that failed its accuracy gate")
    parser.add_argument(
        "--public-key", metavar="FILE", type=Path, help="refuse a bundle that this key's owner did not sign"
    )


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """The above, --threads, --provider, --loops and --strict-provider, which every command that opens a session has."""
    add_bundle_options(parser)
    parser.add_argument(
        "--threads",
        metavar="N",
        type=thread_count,
        help="CPU threads (default: what bench measured here, or the target's)",
    )
    parser.add_argument("--provider", metavar="P", help="tensorrt, cpu, cuda, ... (default: the bundle's order)")
    parser.add_argument("--loops", metavar="N", type=positive, help="of a looped model (default: all of them)")
    parser.add_argument("--strict-provider", action="store_true", help="exit 3 rather than fall back to another")


def open_bundle_for_cli(path: Path | str, args: argparse.Namespace) -> Bundle:
    """Verify a bundle. Raises GateFailed for one that failed its accuracy gate, unless the options allow that, and what
    `open_files` raises."""
    from runtime.bundles.bundle import check_passed, open_files

    bundle = open_files(path, args.public_key)
    if not args.allow_failed:
        check_passed(bundle)
    return bundle


def session_options(args: argparse.Namespace) -> list[str]:
    """The options above except --threads, as they were given."""
    named = {name: getattr(args, name) for name in ("public_key", "provider", "loops")}
    given = [(f"--{name.replace('_', '-')}", str(value)) for name, value in named.items() if value]
    flags = [f"--{name.replace('_', '-')}" for name in ("strict_provider", "allow_failed") if getattr(args, name)]
    return [*(text for pair in given for text in pair), *flags]


def open_for_cli(bundle: Bundle, args: argparse.Namespace, batch: int = 1) -> Session:
    """Open a session as the options ask, for batches of that size, and tell on stderr what runs where, and why not what
    was preferred."""
    from runtime.session import open_session

    session = open_session(bundle, args.provider, args.strict_provider, args.threads, args.loops, batch)
    for note in session.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"running {session.describe()}", file=sys.stderr)
    return session
