"""Damaged and odd bundles, saved states and memories: what is not as it was made is never run as if it were."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.mutation import draws, kept, mutated, odd
from support.runtime_toys import BundleMaker, oracle

from compress.data import seen
from compress.pipeline.digest.tree import digest_tree
from runtime.bundles.manifest import NAME
from runtime.session import Session, open_bundle
from runtime.watch import open_log

PIXELS = np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder: Path = BundleMaker(tmp_path).write()
    return folder


def answered(path: Path) -> Any:
    session: Session = open_bundle(path, provider="cpu", threads=1)
    return session.run({"pixel_values": PIXELS})["logits"]


def test_bundles_with_any_byte_changed_are_refused_or_answer_as_they_did(bundle: Path) -> None:
    files = [path for path in sorted(bundle.rglob("*")) if path.is_file()]
    for count, draw in enumerate(draws("bundle")):
        path = draw.choice(files)
        good = path.read_bytes()
        path.write_bytes(mutated(good, draw, [good]))
        found = kept(lambda: answered(bundle), f"bundle {count}, {path.name}")
        if found is not None:
            np.testing.assert_allclose(found, oracle(PIXELS), rtol=1e-4, atol=1e-4)
        path.write_bytes(good)


def test_sealed_manifests_of_odd_values(bundle: Path, tmp_path: Path) -> None:
    maker = BundleMaker(tmp_path)
    good = json.loads((bundle / NAME).read_text())
    for count, draw in enumerate(draws("manifest")):
        changed = odd(good, draw)
        try:
            text = json.dumps(changed)
            if isinstance(changed, dict):
                maker._put(bundle, json.loads(text))
        except (TypeError, AttributeError, UnicodeEncodeError):
            continue
        kept(lambda: answered(bundle), f"manifest {count}")


def test_packed_bundles(bundle: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", bundle))
    good = packed.read_bytes()
    for count, draw in enumerate(draws("packed bundle")):
        packed.write_bytes(mutated(good, draw, [good]))
        found = kept(lambda: answered(packed), f"packed bundle {count}")
        if found is not None:
            np.testing.assert_allclose(found, oracle(PIXELS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packed_bundles_of_other_methods(bundle: Path, tmp_path: Path, method: int) -> None:
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w", method) as archive:
        for path in bundle.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(bundle))
    good = packed.read_bytes()
    for count, draw in enumerate(draws(f"packed {method}")):
        packed.write_bytes(mutated(good, draw, [good]) if count else good)
        kept(lambda: answered(packed), f"packed {method} {count}")


def test_notes_that_a_device_keeps(bundle: Path) -> None:
    (bundle / "local").mkdir()
    for count, draw in enumerate(draws("threads")):
        (bundle / "local" / "threads.json").write_text(json.dumps(odd({"model.onnx": {"1": {"threads": 2}}}, draw)))
        assert kept(lambda: answered(bundle), f"threads {count}") is not None
    (bundle / "local" / "threads.json").write_text("[" * 100_000)
    assert kept(lambda: answered(bundle), "threads, nested") is not None


def test_result_logs(tmp_path: Path) -> None:
    good = b'{"input": "a.png", "bytes": 1, "mtime_ns": 2, "top": []}\n' * 3
    for count, draw in enumerate(draws("log")):
        path = tmp_path / f"{count}.jsonl"
        path.write_bytes(mutated(good, draw, [good]))

        def use(path: Path = path) -> None:
            with open_log(path):
                pass

        kept(use, f"log {count}")


def test_records_of_samples_and_memories_of_digests(tmp_path: Path) -> None:
    good = seen.to_bytes([(1,), (2, 3)])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("content")
    memo = tmp_path / "digests.json"
    wanted = digest_tree(tmp_path / "data", memo)
    memory = memo.read_bytes()
    for count, draw in enumerate(draws("records")):
        (tmp_path / seen.NAME).write_bytes(mutated(good, draw, [good]))
        kept(lambda: seen.read(tmp_path / seen.NAME), f"record {count}")
        memo.write_bytes(mutated(memory, draw, [memory]))
        assert kept(lambda: digest_tree(tmp_path / "data", memo), f"memory {count}") == wanted
