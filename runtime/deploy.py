"""python -m runtime.deploy: bring a bundle into a store on this device, test it there, make it the current one, or go
back to the one before."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli import add_session_options, open_bundle_for_cli
from targets.cli import Parser
from targets.errors import InputError, run_cli

if TYPE_CHECKING:
    from runtime.bundles.bundle import Bundle
    from runtime.field.store import Store


def main() -> int:
    """Run the command line; the exit code."""
    parser = Parser(
        prog="python -m runtime.deploy",
        description="Make a bundle the current one of a store, or go back. STORE/current is what commands then open.",
    )
    parser.add_argument("store", metavar="STORE", type=Path, help="a folder for bundles; it is made")
    parser.add_argument(
        "bundle", metavar="BUNDLE", nargs="?", help="a folder or a zip; without it: say what is current"
    )
    parser.add_argument("--rollback", action="store_true", help="make the bundle before the current one current again")
    parser.add_argument("--keep", metavar="N", type=int, default=2, help="older bundles to keep (default 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_session_options(parser)
    args = parser.parse_args()
    if args.rollback and args.bundle:
        raise InputError("--rollback goes back to what was there; leave out BUNDLE")
    if args.keep < 1:
        raise InputError(f"--keep is {args.keep}; allowed: 1 or more, or there is no way back")
    from runtime.field.store import Store, deploy, locked, rollback

    def check(bundle: Bundle) -> None:
        from runtime.selftest import check_all

        check_all(bundle, args)

    if not args.bundle and not args.rollback:
        if not (args.store / "bundles").is_dir():
            raise InputError(f"no store at {args.store}; deploy a bundle to make one")
        return _tell(Store(args.store), args.json)
    bundle = open_bundle_for_cli(args.bundle, args) if args.bundle else None
    with locked(args.store) as store:
        if bundle is None:
            rollback(store, check, args.public_key)
        else:
            deploy(store, bundle, check, args.keep, args.public_key)
        return _tell(store, args.json)


def _tell(store: Store, as_json: bool) -> int:
    """Print what is current and what came before."""
    history, now = store.history(), store.current()
    if as_json:
        print(json.dumps({"store": str(store.root), "current": now, "history": history}))
    else:
        print(
            f"current: {now or 'none'}" + (f", before it: {', '.join(reversed(history[:-1]))}" if history[1:] else "")
        )
    if now and _wants_engine(store, now):
        print(f"note: its engine is built by: python -m runtime.build {store.root / 'current'}", file=sys.stderr)
    return 0


def _wants_engine(store: Store, name: str) -> bool:
    from runtime.bundles.manifest import TENSORRT, load_manifest

    models = load_manifest(store.path(name)).models
    built = (store.path(name) / "engines" / "local").is_dir()
    return not built and any(model.runtime == TENSORRT for model in models)


if __name__ == "__main__":
    run_cli(main)
