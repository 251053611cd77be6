"""python -m runtime.selftest: replay a bundle's golden inputs and compare the outputs."""

from __future__ import annotations

import argparse
import json

from runtime.cli import add_session_options, open_for_cli
from targets.errors import GateFailed, run_cli


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m runtime.selftest", description="Replay a bundle's golden inputs and compare the outputs."
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle: a folder or a zip")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_session_options(parser)
    args = parser.parse_args()
    from runtime.bundle import open_files
    from runtime.golden import check_golden, load_golden

    bundle = open_files(args.bundle, args.public_key)
    session = open_for_cli(bundle, args)
    golden = load_golden(bundle, session.model.loops)
    results = check_golden(session.run, golden, session.max_batch)
    bad = [result.name for result in results if not result]
    if args.json:
        outputs = [{**vars(result), "passed": bool(result)} for result in results]
        whole = {"model": session.model.path, "provider": session.provider, "passed": not bad, "outputs": outputs}
        print(json.dumps(whole, indent=2))
    else:
        for result in results:
            verdict = "ok" if result else "FAILED"
            print(f"{verdict}  {result.name}: max error {result.max_error:.3g}, allowed {result.atol:.3g}")
    if bad:
        raise GateFailed(f"{bundle.source}: {', '.join(bad)} differs from the golden output on {session.provider}")
    return 0


if __name__ == "__main__":
    run_cli(main)
