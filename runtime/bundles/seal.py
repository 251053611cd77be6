"""What guards the manifest, which in turn holds the digest of every other file: `manifest.json.sha256` shows damage,
`manifest.json.sig` (optional, Ed25519) also a forger."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from runtime.bundles.manifest import NAME
from runtime.files import check_no_pipe
from targets.errors import EnvironmentLacks, InputError

SEAL = f"{NAME}.sha256"
SIGNATURE = f"{NAME}.sig"


def seal_of(manifest: bytes) -> bytes:
    """The content of the seal: a line that `sha256sum -c` understands."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {NAME}\n".encode()


def check_seal(manifest: bytes, root: Path, shown: Path) -> None:
    """Hold a manifest against its seal in `root`; `shown` is the bundle's name in errors. Raises InputError."""
    if _read(root / SEAL, shown / SEAL) != seal_of(manifest):
        raise InputError(f"{shown / NAME}: its SHA-256 differs from {SEAL}; copy the bundle again")


def check_signature(manifest: bytes, root: Path, shown: Path, public_key: Path) -> None:
    """Hold a manifest against its signature in `root`. Raises InputError if there is none or it is not by that key's
    owner, EnvironmentLacks without the package cryptography."""
    from importlib.util import find_spec

    if find_spec("cryptography") is None:
        raise EnvironmentLacks("checking a signature needs the package cryptography; pip install cryptography")
    from cryptography.exceptions import InvalidSignature

    key = load_public_key(public_key)
    if not (root / SIGNATURE).is_file():
        raise InputError(f"{shown} is not signed, and --public-key asks for it; get the signed bundle")
    signature = _read(root / SIGNATURE, shown / SIGNATURE)
    try:
        key.verify(signature, manifest)
    except InvalidSignature as error:
        raise InputError(f"{shown}: its signature is not by the owner of {public_key}; do not trust it") from error


def load_public_key(path: Path) -> Any:
    """An Ed25519 public key from a PEM file. Raises InputError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path, path, "give the key's file"))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: not a public key in PEM form; python -m export.sign --new-key makes one") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path}: a {type(key).__name__}, allowed: an Ed25519 public key")
    return key


def _read(path: Path, name: Path, advice: str = "copy the bundle again") -> bytes:
    check_no_pipe(path)
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{name}: missing; {advice}") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
