"""python -m runtime.run: ask a bundle about images, recordings or texts, or about files as they appear in a folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.answers import Streamer, Wanted, answerer_of, answering
from runtime.cli import add_session_options, milliseconds, open_bundle_for_cli, open_for_cli, positive
from runtime.field.options import add_field_options, asking
from runtime.texts.generate import DRAW, Sampling
from targets.cli import Parser
from targets.errors import EdgepressError, InputError, printable, run_cli

if TYPE_CHECKING:
    from runtime.answers import Answerer
    from runtime.bundles.bundle import Bundle
    from runtime.field.asking import Asking
    from runtime.session import Session
    from runtime.watch import Result


def _parser() -> argparse.ArgumentParser:
    does = "Ask a bundle about images, recordings or texts."
    parser = Parser(prog="python -m runtime.run", description=does, allow_abbrev=False)
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle: a folder or a zip")
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="*", help="images, folders of images, or texts; - reads lines of them"
    )
    parser.add_argument(
        "--top", metavar="K", type=positive, help="classes, or texts of a translator, to show (default 1)"
    )
    parser.add_argument("--prompt", metavar="NAME", help="what goes before every text, such as query (embeddings)")
    parser.add_argument("--tokens", metavar="N", type=positive, help="to write at most (default 128)")
    parser.add_argument(
        "--beams", metavar="N", type=positive, help="texts that a translator keeps at once; 1 is greedy"
    )
    parser.add_argument("--temperature", metavar="T", type=float, help="0 writes the likeliest (default)")
    parser.add_argument("--top-k", metavar="K", type=positive, help="draw from the K likeliest tokens")
    parser.add_argument("--top-p", metavar="P", type=float, help="draw from the likeliest tokens of probability P")
    parser.add_argument(
        "--seed", metavar="S", type=int, help="of the first draw (default 0); each further input has the next"
    )
    parser.add_argument("--ids", action="store_true", help="texts are given as token ids: '101 7592 102'")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--watch", metavar="DIR", type=Path, help="process files as they appear in this folder")
    parser.add_argument("--out", metavar="FILE", type=Path, help="JSON Lines file for --watch; resumes if it exists")
    parser.add_argument("--once", action="store_true", help="with --watch: stop when the folder is drained")
    parser.add_argument(
        "--source", metavar="S", help="answer frames: a folder, a video file, -, v4l2:/dev/video0 or rtsp://..."
    )
    parser.add_argument("--frames", metavar="N", type=positive, help="with --source: stop after N frames")
    parser.add_argument("--exit", action="store_true", help="stop at the first number of loops that is sure")
    parser.add_argument(
        "--batch-within",
        metavar="MS",
        type=milliseconds,
        help="with -: a line waits so long at most for others, and what waits is one batch",
    )
    add_field_options(parser)
    add_session_options(parser)
    return parser


def _answer_all(asked: Asking, groups: Iterable[list[str]], wanted: Wanted, args: argparse.Namespace) -> None:
    """Print a line per input as it is done, or one JSON object at the end. Each group of inputs is a batch."""
    session, answerer, results = asked.session, asked.answerer, []
    for place, some in enumerate(groups):
        if len(some) == 1 and not args.json and isinstance(answerer, Streamer) and answerer.flows(wanted):
            for piece in answerer.pieces(session, some[0], wanted.at(place)):
                print(printable(piece), end="", flush=True)
            print(flush=True)
            continue
        for one, result in zip(some, asked.answer(some, wanted.at(place)), strict=True):
            if isinstance(result, EdgepressError):
                raise result
            results.append({"input": one, **result})
            if not args.json:
                print(printable(answerer.line(results.pop())), flush=True)
    if args.json:
        whole = {
            "bundle": str(session.bundle.source),
            "model": session.model.path,
            "precision": session.model.precision,
            "provider": session.provider,
            "threads": session.threads,
            "notes": list(session.notes),
            "results": results,
        }
        print(json.dumps(whole, indent=2))


def _groups(inputs: Sequence[str], most: int, within: float | None, alone: bool) -> Iterable[list[str]]:
    """The inputs in batches, or the lines of standard input as they come; one by one where they must stand alone."""
    if inputs:
        size = 1 if alone else most
        return (list(inputs[start : start + size]) for start in range(0, len(inputs), size))
    if within is None:
        return ([line] for line in _from_stdin())
    from runtime.batching import together

    return together(_from_stdin(), most, within)


def _watch(asked: Asking, wanted: Wanted, args: argparse.Namespace) -> int:
    from runtime.watch import open_log, watch

    def answer(paths: Sequence[Path]) -> Sequence[Result | EdgepressError]:
        return asked.answer([str(path) for path in paths], wanted)

    with open_log(args.out) as log:
        print(f"watching {args.watch}, {len(log.done)} inputs done before", file=sys.stderr)
        failed = watch(args.watch, asked.answerer.suffixes, log, answer, asked.session.max_batch, args.once)
    asked.finish()
    if failed:
        raise InputError(f"{failed} inputs could not be read; see the lines with an error in {args.out}")
    return 0


def _from_stdin() -> Iterator[str]:
    """Lines of standard input, by a reader of our own: Python's is locked at exit where a thread still reads it."""
    for number, line in enumerate(open(sys.stdin.fileno(), "rb", closefd=False), 1):  # noqa: SIM115 - never closed
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(
                f"standard input, line {number}: not UTF-8 ({error.reason} at byte {error.start})"
            ) from error
        if text.strip():
            yield text


def main() -> int:
    """Run the command line; the exit code."""
    args = _parser().parse_intermixed_args()  # options may stand between the inputs
    if args.source is not None:
        return _follow(args)
    if args.frames:
        raise InputError("--frames belongs to --source")
    if bool(args.watch) != bool(args.out):
        raise InputError("--watch and --out belong together: --watch DIR --out results.jsonl")
    if args.once and not args.watch:
        raise InputError("--once belongs to --watch")
    if bool(args.inputs) == bool(args.watch):
        raise InputError("give images, recordings or texts, or --watch DIR to wait for files, or --source S for frames")
    if args.watch and args.json:
        raise InputError("--json does not go with --watch, whose results are JSON Lines in --out")
    _check_exit(args)
    if "-" in args.inputs and len(args.inputs) > 1:
        raise InputError("- reads all inputs from stdin, so it stands alone")
    if args.batch_within is not None and args.inputs != ["-"]:
        raise InputError("--batch-within is for inputs that come as lines: give - for them")
    bundle = answering(open_bundle_for_cli(args.bundle, args))
    answerer = answerer_of(bundle, args.ids)
    wanted = _wanted(args, answerer, bundle)
    if args.watch and not answerer.suffixes:
        raise InputError(f"--watch waits for files, {bundle.source} takes texts; give them, or - to read lines")
    inputs = [] if args.watch or args.inputs == ["-"] else answerer.expand(args.inputs)
    alone = isinstance(answerer, Streamer) and answerer.alone
    if alone and args.batch_within is not None:
        raise InputError(f"--batch-within is for whole answers; {bundle.source} writes them bit by bit")
    batch = bundle.manifest.max_batch if len(inputs) > 1 and not alone else 1
    session = _exiting(bundle, args) if args.exit else open_for_cli(bundle, args, batch)
    asked = asking(args, session, answerer)
    if args.watch:
        return _watch(asked, wanted, args)
    _answer_all(asked, _groups(inputs, session.max_batch, args.batch_within, alone), wanted, args)
    if args.exit:
        print(session.backend, file=sys.stderr)
    asked.finish()
    return 0


def _follow(args: argparse.Namespace) -> int:
    from runtime.field.follow import follow
    from runtime.frames import image_answerer
    from runtime.sources import open_source

    if args.inputs or args.watch or args.out or args.once:
        raise InputError("--source brings its own inputs; leave out INPUT, --watch, --out and --once")
    _check_exit(args)
    bundle = answering(open_bundle_for_cli(args.bundle, args))
    answerer = image_answerer(bundle)
    wanted = _wanted(args, answerer, bundle)
    source = open_source(args.source)
    session = _exiting(bundle, args) if args.exit else open_for_cli(bundle, args)
    follow(asking(args, session, answerer), source, wanted, args.frames, args.json)
    return 0


def _check_exit(args: argparse.Namespace) -> None:
    if args.exit and (args.loops or args.provider):
        raise InputError("--exit runs every number of loops on the CPU; leave out --loops and --provider")


def _wanted(args: argparse.Namespace, answerer: Answerer, bundle: Bundle) -> Wanted:
    """What the user asks for. Raises InputError for what would change nothing."""
    given = {
        name: value
        for name in ("top", "prompt", "tokens", "beams", *DRAW)
        if (value := getattr(args, name)) is not None
    }
    idle = [name for name in given if name not in answerer.options]
    if idle:
        raise InputError(f"{_flag(idle[0])} says nothing to {bundle.source}, a bundle for {bundle.manifest.task}")
    draw = {name: given.pop(name) for name in DRAW if name in given}
    idle = [name for name in draw if name != "temperature"]
    if idle and draw.get("temperature", 0.0) == 0:
        raise InputError(f"{_flag(idle[0])} draws tokens only with --temperature above 0")
    return Wanted(**given, sampling=Sampling(**draw))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _exiting(bundle: Bundle, args: argparse.Namespace) -> Session:
    from runtime.exit import open_exiting

    session = open_exiting(bundle, args.threads)
    print(f"running {session.describe()}, with an early exit", file=sys.stderr)
    return session


if __name__ == "__main__":
    run_cli(main)
