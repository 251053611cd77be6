"""The options of `runtime.run` that let others look on: a shadow, drift and metrics."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli import seconds
from targets.errors import InputError

if TYPE_CHECKING:
    from runtime.answers import Answerer
    from runtime.field.asking import Asking, Observer
    from runtime.field.looking import Looking
    from runtime.field.shadow import Shadow
    from runtime.session import Session

_OF_SHADOW = ("share", "differ", "record")


def add_field_options(parser: argparse.ArgumentParser) -> None:
    """--shadow and what belongs to it, --drift, --hung-after, --metrics."""
    parser.add_argument("--shadow", metavar="OTHER", help="a bundle that gets a share of the inputs too, to compare")
    parser.add_argument("--shadow-share", metavar="P", type=_share, help="of the inputs (default 0.05)")
    parser.add_argument("--shadow-differ", metavar="P", type=_share, help="of its answers may differ (default 0.05)")
    parser.add_argument("--shadow-record", metavar="FILE", type=Path, help="where they go (default shadow.jsonl)")
    parser.add_argument(
        "--drift",
        metavar="FILE",
        type=Path,
        help="tell when inputs look unlike those in this summary; it is learned from the first 500 if it is not there "
        "(default with --watch or --metrics: the summary in the bundle)",
    )
    parser.add_argument(
        "--hung-after", metavar="S", type=seconds, help="exit with 3 if a call of the model takes longer than S seconds"
    )
    parser.add_argument("--metrics", metavar="FILE|:PORT", help="counts and latencies in the format of Prometheus")


def asking(args: argparse.Namespace, session: Session, answerer: Answerer) -> Asking:
    """The session with those who look on. Raises InputError for options that do not go together, and what opening the
    other bundle raises."""
    from runtime.field.asking import Asking

    idle = [name for name in _OF_SHADOW if getattr(args, f"shadow_{name}") is not None]
    if idle and not args.shadow:
        raise InputError(f"--shadow-{idle[0]} belongs to --shadow OTHER")
    if args.hung_after is not None:
        from runtime.field.hung import Guarded

        session = replace(session, backend=Guarded(session.backend, args.hung_after))
    observers: list[Observer] = []
    others: list[Callable[[], dict[str, float]]] = []
    if args.shadow:
        shadow = _shadow(args, session, answerer)
        observers.append(shadow)
        others.append(shadow.numbers)
    looking = _looking(args, session)
    if looking is not None:
        session = replace(session, backend=looking)
        others.append(looking.numbers)
    if args.metrics:
        from runtime.field.metrics import Metrics

        observers.append(Metrics(args.metrics, others))
    return Asking(session, answerer, observers)


def _looking(args: argparse.Namespace, session: Session) -> Looking | None:
    """With the summary that --drift names, or that the bundle brings for commands that watch or count. The latter is of
    all loops: of fewer, inputs alone are looked at."""
    from runtime.field.drift import FILE
    from runtime.field.looking import Looking

    manifest = session.manifest
    if args.drift and manifest.state:
        raise InputError(f"--drift looks at whole inputs; {session.bundle.source} takes them bit by bit")
    if args.drift:
        return Looking.at(session.backend, manifest.outputs, args.drift)
    if FILE not in manifest.files or not (args.watch or args.metrics):
        return None
    outputs = () if args.loops or args.exit else manifest.outputs
    return Looking.at(session.backend, outputs, session.bundle.root / FILE)


def _shadow(args: argparse.Namespace, session: Session, answerer: Answerer) -> Shadow:
    from runtime.answers import Streamer, answerer_of, answering
    from runtime.cli import open_bundle_for_cli, open_for_cli
    from runtime.field.record import Record
    from runtime.field.sequential import Share
    from runtime.field.shadow import Shadow

    other = answering(open_bundle_for_cli(args.shadow, args))
    tasks = session.manifest.task, other.manifest.task
    if tasks[0] != tasks[1]:
        raise InputError(f"{other.source} is a bundle for {tasks[1]}, {session.bundle.source} for {tasks[0]}")
    if isinstance(answerer, Streamer):
        raise InputError(f"--shadow compares whole answers; {session.bundle.source} writes them bit by bit")
    record = Record(args.shadow_record or Path("shadow.jsonl"))
    if args.shadow_differ == 1:
        raise InputError("--shadow-differ 1 allows every answer to differ; leave out --shadow")
    share, differ = args.shadow_share or 0.05, args.shadow_differ or 0.05
    return Shadow(
        open_for_cli(other, args), answerer_of(other, args.ids), record, Share(differ), max(1, round(1 / share))
    )


def _share(text: str) -> float:
    """An argument that is a share."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: a number above 0, at most 1")
    return value
