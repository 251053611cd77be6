"""python -m runtime.run: label images with a bundle, once or as they appear in a folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli import add_session_options, open_for_cli, positive
from targets.errors import GateFailed, InputError, run_cli

if TYPE_CHECKING:
    from runtime.session import Session
    from runtime.watch import Result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.run", description="Label images with a bundle.", allow_abbrev=False
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle: a folder or a zip")
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="images, folders of images, or - for paths on stdin")
    parser.add_argument("--top", metavar="K", type=positive, default=1, help="classes to show per image (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--watch", metavar="DIR", type=Path, help="process files as they appear in this folder")
    parser.add_argument("--out", metavar="FILE", type=Path, help="JSON Lines file for --watch; resumes if it exists")
    parser.add_argument("--once", action="store_true", help="with --watch: stop when the folder is drained")
    parser.add_argument("--allow-failed", action="store_true", help="run a bundle that failed its gate")
    add_session_options(parser)
    return parser


def expand(inputs: Iterable[str]) -> list[Path]:
    """Files named, and the images below the folders named, sorted. Raises InputError if one does not exist."""
    from runtime.image import SUFFIXES
    from runtime.watch import listing

    paths: list[Path] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            found = sorted(path / one.name for one in listing(path, SUFFIXES))
            if not found:
                raise InputError(f"no images in folder {path}; it needs files ending in {', '.join(SUFFIXES)}")
            paths += found
        elif path.is_file():
            paths.append(path)
        else:
            raise InputError(f"no file or folder {path}")
    return paths


def label(session: Session, paths: Sequence[Path], top: int) -> list[Result | InputError]:
    """The result of each image, or why that one could not be read. The others are run as one batch."""
    from runtime.classify import classify, prepare_one

    answers: dict[int, Result | InputError] = {}
    pixels = {}
    for at, path in enumerate(paths):
        try:
            pixels[at] = prepare_one(session, path)
        except InputError as error:
            answers[at] = error
    if pixels:
        for at, guesses in zip(pixels, classify(session, list(pixels.values()), top), strict=True):
            answers[at] = {"top": [vars(guess) for guess in guesses]}
    return [answers[at] for at in range(len(paths))]


def _label_all(session: Session, paths: Iterable[Path], size: int, args: argparse.Namespace) -> None:
    """Print a line per image as it is done, or one JSON object at the end."""
    results = []
    stream = iter(paths)
    while some := list(islice(stream, size)):
        for path, result in zip(some, label(session, some, args.top), strict=True):
            if isinstance(result, InputError):
                raise result
            results.append({"input": str(path), **result})
            if not args.json:
                print(_line(results.pop()), flush=True)
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


def _line(result: Result) -> str:
    top = result["top"]
    assert isinstance(top, list)
    return f"{result['input']}: " + ", ".join(f"{guess['label']} {guess['probability']:.4f}" for guess in top)


def _watch(session: Session, args: argparse.Namespace) -> int:
    from runtime.image import SUFFIXES
    from runtime.watch import open_log, watch

    with open_log(args.out) as log:
        print(f"watching {args.watch}, {len(log.done)} inputs done before", file=sys.stderr)
        failed = watch(
            args.watch, SUFFIXES, log, lambda some: label(session, some, args.top), session.max_batch, args.once
        )
    if failed:
        raise InputError(f"{failed} inputs could not be read; see the lines with an error in {args.out}")
    return 0


def _from_stdin() -> Iterator[Path]:
    for line in sys.stdin:
        if line.strip():
            yield Path(line.rstrip("\n"))


def main() -> int:
    """Run the command line; the exit code."""
    args = _parser().parse_intermixed_args()  # options may stand between the inputs
    if bool(args.watch) != bool(args.out):
        raise InputError("--watch and --out belong together: --watch DIR --out results.jsonl")
    if args.once and not args.watch:
        raise InputError("--once belongs to --watch")
    if bool(args.inputs) == bool(args.watch):
        raise InputError("give images to label, or --watch DIR to wait for them")
    if args.watch and args.json:
        raise InputError("--json does not go with --watch, whose results are JSON Lines in --out")
    if "-" in args.inputs and len(args.inputs) > 1:
        raise InputError("- reads all paths from stdin, so it stands alone")
    from runtime.bundle import open_files
    from runtime.classify import check_task

    bundle = open_files(args.bundle, args.public_key)
    check_task(bundle)
    if bundle.manifest.verdict == "fail" and not args.allow_failed:
        raise GateFailed(f"{bundle.source} failed its accuracy gate; --allow-failed runs it all the same")
    paths = [] if args.watch or args.inputs == ["-"] else expand(args.inputs)
    session = open_for_cli(bundle, args)
    if args.watch:
        return _watch(session, args)
    if paths:
        _label_all(session, paths, session.max_batch, args)
    else:
        _label_all(session, _from_stdin(), 1, args)
    return 0


if __name__ == "__main__":
    run_cli(main)
