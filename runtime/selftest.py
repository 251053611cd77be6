"""python -m runtime.selftest: replay a bundle's golden inputs and compare the outputs; feed recurrent models the same
tokens in several ways."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from runtime.cli import add_session_options, open_bundle_for_cli, open_for_cli
from targets.cli import Parser
from targets.errors import GateFailed, run_cli

if TYPE_CHECKING:
    from runtime.bundles.golden import Golden
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
    from runtime.bundles.golden import check_golden, load_golden

    bundle = open_bundle_for_cli(args.bundle, args)
    session = open_for_cli(bundle, args)
    golden = load_golden(bundle, session.model.loops)
    results = check_golden(session.run, golden, session.max_batch)
    chunked = _chunked(session, golden)
    bad = [result.name for result in results if not result]
    apart = [str(one.length) for one in chunked if not one]
    if args.json:
        outputs = [{**vars(result), "passed": bool(result)} for result in results]
        whole = {
            "model": session.model.path,
            "provider": session.provider,
            "passed": not bad and not apart,
            "outputs": outputs,
            **({"streaming": [{**vars(one), "passed": bool(one)} for one in chunked]} if chunked else {}),
        }
        print(json.dumps(whole, indent=2))
    else:
        for result in results:
            verdict = "ok" if result else "FAILED"
            print(f"{verdict}  {result.name}: max error {result.max_error:.3g}, allowed {result.atol:.3g}")
        for one in chunked:
            verdict = "ok" if one else "FAILED"
            print(f"{verdict}  {one.length} tokens in chunks: relative error {one.error:.3g}, allowed {one.allowed:g}")
    if bad:
        raise GateFailed(f"{bundle.source}: {', '.join(bad)} differs from the golden output on {session.provider}")
    if apart:
        raise GateFailed(
            f"{bundle.source}: {', '.join(apart)} tokens in chunks give other answers than whole on {session.provider}"
        )
    return 0


def _chunked(session: Session, golden: Golden) -> list[Chunked]:
    """What a recurrent model answers to its first golden sample, over and over, in chunks; nothing for others."""
    if not session.manifest.state:
        return []
    from runtime.streams.chunking import check_chunking
    from runtime.streams.stream import Stream

    stream = Stream(session)
    limit = (session.manifest.preprocessing or {}).get("max_length")
    longest = limit if isinstance(limit, int) else None
    return check_chunking(stream, golden.inputs[stream.input_name][0], session.model.precision, longest)


if __name__ == "__main__":
    run_cli(main)
