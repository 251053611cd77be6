"""`artifact.json`: what a cache entry holds and what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from compress.pipeline.artifact import FileSeal
from compress.pipeline.digest import digest_of


@dataclass(frozen=True)
class Record:
    """Type and digest of an artifact, the seal of each of its files, and the ingredients of its key."""

    type: str
    digest: str
    files: Mapping[str, FileSeal]
    ingredients: Mapping[str, Any]

    def encode(self) -> bytes:
        """JSON text with a digest of its own content, so that no byte of it can change unseen."""
        body = {
            "type": self.type,
            "digest": self.digest,
            "files": {name: asdict(seal) for name, seal in self.files.items()},
            "ingredients": self.ingredients,
        }
        sealed = {**body, "seal": digest_of(body)}
        return json.dumps(sealed, indent=1, sort_keys=True, default=dict).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """The record in `data`. Raises ValueError if it is not, byte for byte, what `encode` wrote."""
        try:
            body = json.loads(data)
            files = {name: FileSeal(seal["sha256"], seal["bytes"]) for name, seal in body["files"].items()}
            record = cls(body["type"], body["digest"], files, body["ingredients"])
            intact = record.encode() == data
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError("artifact.json is not readable") from error
        if not intact:
            raise ValueError("artifact.json was changed")
        return record
