"""python -m runtime.selftest: replay a bundle's golden inputs and compare the outputs; feed recurrent models the same
tokens in several ways."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.cli import add_session_options, open_bundle_for_cli, open_for_cli
from targets.cli import Parser
from targets.errors import GateFailed, run_cli

if TYPE_CHECKING:
    from runtime.bundles.bundle import Bundle
    from runtime.bundles.golden import Golden, GoldenResult
    from runtime.session import Session
    from runtime.streams.chunking import Chunked


def main() -> int:
    """Run the command line; the exit code."""
    parser = Parser(
        prog="python -m runtime.selftest", description="Replay a bundle's golden inputs and compare the outputs."
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle: a folder or a zip")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_session_options(parser)
    args = parser.parse_args()
    bundle = open_bundle_for_cli(args.bundle, args)
    checked = _checked(bundle, args)
    if args.json:
        graphs = [one.report() for one in checked]
        every = {"passed": all(checked), "graphs": dict(zip(bundle.graphs, graphs, strict=True))}
        print(json.dumps(graphs[0] if len(graphs) == 1 else every, indent=2))
    for one in checked:
        one.tell(silent=args.json)
    return 0


def check_all(bundle: Bundle, args: argparse.Namespace) -> None:
    """The self-test of every graph of a bundle, without a word. `args`: the options of a session. Raises GateFailed."""
    for one in _checked(bundle, args):
        one.tell(silent=True)


def _checked(bundle: Bundle, args: argparse.Namespace) -> list[_Checked]:
    return [_check(one, args) for one in bundle.graphs.values()]


@dataclass(frozen=True)
class _Checked:
    """One graph held against its golden outputs and, if it has state, fed in chunks. True if both agree."""

    session: Session
    results: list[GoldenResult]
    chunked: list[Chunked]

    def __bool__(self) -> bool:
        return all(self.results) and all(self.chunked)

    def report(self) -> dict[str, Any]:
        """Plain data for --json."""
        outputs = [{**vars(result), "passed": bool(result)} for result in self.results]
        streaming = [{**vars(one), "passed": bool(one)} for one in self.chunked]
        return {
            "model": self.session.model.path,
            "provider": self.session.provider,
            "passed": bool(self),
            "outputs": outputs,
            **({"streaming": streaming} if streaming else {}),
        }

    def tell(self, silent: bool) -> None:
        """A line per output and per length, unless `silent`. Raises GateFailed for what differs."""
        lines = [
            (bool(one), f"{one.name}: max error {one.max_error:.3g}, allowed {one.atol:.3g}") for one in self.results
        ]
        lines += [
            (bool(one), f"{one.length} tokens in chunks: relative error {one.error:.3g}, allowed {one.allowed:g}")
            for one in self.chunked
        ]
        for passed, line in [] if silent else lines:
            print(f"{'ok' if passed else 'FAILED'}  {line}")
        source, on = self.session.bundle.source, self.session.provider
        bad = [one.name for one in self.results if not one]
        if bad:
            raise GateFailed(f"{source}: {', '.join(bad)} differs from the golden output on {on}")
        apart = [str(one.length) for one in self.chunked if not one]
        if apart:
            raise GateFailed(f"{source}: {', '.join(apart)} tokens in chunks give other answers than whole on {on}")


def _check(graph: Bundle, args: argparse.Namespace) -> _Checked:
    from runtime.bundles.golden import check_golden, load_golden

    session = open_for_cli(graph, args)
    golden = load_golden(graph, session.model.loops)
    return _Checked(session, check_golden(session.run, golden, session.max_batch), _chunked(session, golden))


def _chunked(session: Session, golden: Golden) -> list[Chunked]:
    """What a recurrent model answers to its first golden sample, over and over, in chunks; nothing for others."""
    if not session.manifest.state:
        return []
    from runtime.states import of_source
    from runtime.streams.chunking import check_chunking
    from runtime.streams.stream import Stream

    fixed = {name: array[:1] for name, array in golden.inputs.items() if of_source(name)}
    stream = Stream(session, fixed=fixed)
    limit = (session.manifest.preprocessing or {}).get("max_length")
    longest = limit if isinstance(limit, int) else None
    return check_chunking(stream, golden.inputs[stream.input_name][0], session.model.precision, longest)


if __name__ == "__main__":
    run_cli(main)
