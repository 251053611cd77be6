"""python -m export.sign: sign a bundle with an Ed25519 key, so that a device can tell who made it.

The signature is over manifest.json, which holds the digest of every file. Devices check it with --public-key.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runtime.bundles.bundle import open_files
from runtime.bundles.seal import SIGNATURE
from runtime.files import check_no_pipe, explain, write_atomic
from targets.cli import Parser
from targets.errors import EnvironmentLacks, InputError, run_cli


def new_key(path: Path) -> Path:
    """Write a new private key to `path`, readable by its owner alone, and the public one beside it; returns that path.

    Raises InputError if either exists: an overwritten key is lost.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = path.with_name(f"{path.stem}.public{path.suffix or '.pem'}")
    for one in (path, public):
        if one.exists():
            raise InputError(f"{one} exists; a key is never overwritten, give another name")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise explain(error, path) from error
    with os.fdopen(handle, "wb") as stream:
        stream.write(private)
    write_atomic(
        public,
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )
    return public


def sign(bundle: Path, private_key: Path) -> Path:
    """Sign a bundle's folder; returns the signature's path. Equal content and key give equal bytes.

    Raises InputError if the bundle is not whole or is a zip, or the file holds no Ed25519 private key.
    """
    key = _load_private_key(private_key)
    opened = open_files(bundle)
    if opened.packed:
        raise InputError(f"{bundle} is a zip; sign the folder, then pack it")
    write_atomic(bundle / SIGNATURE, key.sign(opened.stored))
    return bundle / SIGNATURE


def _load_private_key(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    check_no_pipe(path)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: not an unencrypted private key in PEM form") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: a {type(key).__name__}, allowed: an Ed25519 private key")
    return key


def main() -> int:
    """Run the command line; the exit code."""
    parser = Parser(prog="python -m export.sign", description="Sign a bundle with an Ed25519 key.")
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", type=Path, help="a bundle's folder")
    parser.add_argument("--key", metavar="FILE", type=Path, help="private key (PEM) to sign with")
    parser.add_argument("--new-key", metavar="FILE", type=Path, help="make a key: FILE, and FILE.public beside it")
    args = parser.parse_args()
    if bool(args.bundle) != bool(args.key) or bool(args.bundle) == bool(args.new_key):
        raise InputError("give BUNDLE and --key FILE to sign, or --new-key FILE to make a key")
    if find_spec("cryptography") is None:
        raise EnvironmentLacks("signing needs the package cryptography; pip install cryptography")
    print(new_key(args.new_key) if args.new_key else sign(args.bundle, args.key))
    return 0


if __name__ == "__main__":
    run_cli(main)
