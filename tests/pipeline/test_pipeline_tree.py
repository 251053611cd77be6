"""Content digests of a user's files."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.pipeline.digest import digest_tree
from runtime.files import sha256_of
from targets.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "one.bin").write_bytes(b"one")
    (folder / "sub" / "two.bin").write_bytes(b"two")
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were really read."""
    names: list[str] = []

    def noted(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr("compress.pipeline.digest.tree.sha256_of", noted)
    return names


def settle() -> None:
    """Until files are old enough for their times to be trusted."""
    time.sleep(1.1)


def test_a_file_has_the_digest_of_its_content(folder: Path) -> None:
    assert digest_tree(folder / "one.bin") == hashlib.sha256(b"one").hexdigest()


def test_the_place_and_the_times_of_a_folder_do_not_matter(folder: Path, tmp_path: Path) -> None:
    before = digest_tree(folder)
    os.utime(folder / "one.bin", (1, 1))
    assert digest_tree(folder.rename(tmp_path / "moved")) == before


names = st.sampled_from(["a", "b", "a/b", "c/d", "c/e"])
trees = st.dictionaries(names, st.binary(max_size=3), min_size=1).filter(lambda t: not ({"a", "a/b"} <= t.keys()))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=trees, second=trees)
def test_digests_are_equal_just_when_names_and_contents_are(
    first: dict[str, bytes], second: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    digests = []
    for content in (first, second):
        root = tmp_path_factory.mktemp("tree")
        for name, data in content.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(data)
        digests.append(digest_tree(root))
    assert (digests[0] == digests[1]) == (first == second)


def test_the_memo_spares_reading_and_changes_no_digest(folder: Path, tmp_path: Path, hashed: list[str]) -> None:
    memo = tmp_path / "memo.json"
    settle()
    first = digest_tree(folder, memo)
    assert sorted(hashed) == ["one.bin", "two.bin"]
    hashed.clear()
    assert digest_tree(folder, memo) == first == digest_tree(folder)
    assert sorted(hashed) == ["one.bin", "two.bin"]  # by the call without memo alone


def test_only_changed_files_are_read_again(folder: Path, tmp_path: Path, hashed: list[str]) -> None:
    memo = tmp_path / "memo.json"
    settle()
    before = digest_tree(folder, memo)
    (folder / "sub" / "two.bin").write_bytes(b"2wo")
    hashed.clear()
    after = digest_tree(folder, memo)
    assert hashed == ["two.bin"]
    assert after != before
    assert after == digest_tree(folder)


def test_a_change_that_keeps_size_and_times_is_seen(folder: Path, tmp_path: Path) -> None:
    memo, file = tmp_path / "memo.json", folder / "one.bin"
    settle()
    before, times = digest_tree(folder, memo), file.stat()
    file.write_bytes(b"eno")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digest_tree(folder, memo) == digest_tree(folder) != before


def test_a_file_too_fresh_for_its_times_to_be_trusted_is_read_again(
    folder: Path, tmp_path: Path, hashed: list[str]
) -> None:
    (folder / "one.bin").write_bytes(b"eno")
    digest_tree(folder, tmp_path / "memo.json")
    hashed.clear()
    digest_tree(folder, tmp_path / "memo.json")
    assert "one.bin" in hashed


def test_one_memo_serves_several_folders(folder: Path, tmp_path: Path, hashed: list[str]) -> None:
    memo = tmp_path / "memo.json"
    settle()
    digest_tree(folder, memo)
    digest_tree(folder / "one.bin", memo)
    hashed.clear()
    digest_tree(folder, memo)
    digest_tree(folder / "one.bin", memo)
    assert hashed == []


def test_a_damaged_memo_is_ignored(folder: Path, tmp_path: Path) -> None:
    memo = tmp_path / "memo.json"
    settle()
    digest = digest_tree(folder, memo)
    good = memo.read_bytes()
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 1
        memo.write_bytes(bad)
        assert digest_tree(folder, memo) == digest


def test_a_memo_that_cannot_be_written_costs_nothing_but_time(folder: Path) -> None:
    assert digest_tree(folder, folder / "one.bin" / "memo.json") == digest_tree(folder)


def test_links_are_followed(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "one.bin").symlink_to(folder / "one.bin")
    (linked / "sub").symlink_to(folder / "sub")
    assert digest_tree(linked) == digest_tree(folder)


def test_what_cannot_be_digested_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        digest_tree(tmp_path / "absent")
    (folder / "broken").symlink_to("nowhere")
    with pytest.raises(InputError, match="broken"):
        digest_tree(folder)
    (folder / "broken").unlink()
    (folder / "sub" / "round").symlink_to(folder)
    with pytest.raises(InputError, match="round"):
        digest_tree(folder)
    (folder / "sub" / "round").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match="pipe"):
        digest_tree(folder)
