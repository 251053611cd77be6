"""What the store keeps, and what it refuses to hand out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.toys import Number, Text, snapshot

from compress.pipeline import Artifact, Cache, GraphError
from compress.pipeline.cache import Corrupt
from compress.pipeline.key import Key
from runtime.files import cache_root
from targets.errors import InputError

KEY = Key.of("toy", {"options": {"rate": 0.1, "layers": [1, 2]}, "seed": 0})


def nobody_waits() -> None:
    raise AssertionError("the lock was held")


def put(cache: Cache, files: dict[str, bytes], key: Key = KEY) -> Artifact:
    with cache.lock(key, nobody_waits):
        folder, _ = cache.begin(key)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return cache.put(key, Text)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    files=st.dictionaries(
        st.text("abcä ", min_size=1).map(lambda name: f"{name}.bin") | st.just("deep/er/x"),
        st.binary(max_size=2000),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_put_is_got(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = Cache(tmp_path_factory.mktemp("cache"))
    made = put(cache, files)
    got = cache.get(KEY, Text)
    assert got == made
    assert snapshot(made.path) == files
    assert Text.of(made.path) == made


def test_the_entry_says_what_it_was_made_from(cache: Cache) -> None:
    entry = put(cache, {"a": b"1"}).path.parent
    record = json.loads((entry / "artifact.json").read_text())
    assert entry == cache.root / "toy" / KEY.digest[:2] / KEY.digest
    assert record["type"] == "Text"
    assert record["ingredients"] == KEY.ingredients
    assert record["files"]["a"]["bytes"] == 1


def test_the_digest_covers_type_names_and_contents(tmp_path: Path) -> None:
    digests = set()
    for number, (name, data) in enumerate([("a", b"1"), ("b", b"1"), ("a", b"2")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(data)
        digests |= {Text.of(folder).digest, Number.of(folder).digest}
    assert len(digests) == 6


def test_nothing_but_the_entry_is_left_behind(cache: Cache) -> None:
    made = put(cache, {"a": b"1"})
    assert set(snapshot(cache.root)) == {
        str(made.path.relative_to(cache.root) / "a"),
        str((made.path.parent / "artifact.json").relative_to(cache.root)),
    }
    assert [list((cache.root / side).iterdir()) for side in (".tmp", ".work", ".locks")] == [[], [], []]


def test_any_flipped_bit_in_any_file_is_seen(cache: Cache) -> None:
    rng = random.Random(0)
    made = put(cache, {"a": bytes(1000), "b": b"x", "c/d": rng.randbytes(5000)})
    paths = [path for path in made.path.parent.rglob("*") if path.is_file()]
    assert len(paths) == 4
    for path in paths:
        good = path.read_bytes()
        for _ in range(60):
            bad = bytearray(good)
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
            path.write_bytes(bad)
            assert isinstance(cache.get(KEY, Text), Corrupt), path
        path.write_bytes(good)
    assert cache.get(KEY, Text) == made


@pytest.mark.parametrize("damage", ["missing", "longer", "empty", "extra", "link", "no record", "no files"])
def test_any_other_damage_is_seen(damage: str, cache: Cache, tmp_path: Path) -> None:
    made = put(cache, {"a": b"1", "b": b"2"})
    file = made.path / "a"
    match damage:
        case "missing":
            file.unlink()
        case "longer":
            file.write_bytes(b"12")
        case "empty":
            file.write_bytes(b"")
        case "extra":
            (made.path / "c").write_bytes(b"")
        case "link":
            file.rename(tmp_path / "a")
            file.symlink_to(tmp_path / "a")
        case "no record":
            (made.path.parent / "artifact.json").unlink()
        case "no files":
            made.path.rename(tmp_path / "files")
    found = cache.get(KEY, Text)
    assert isinstance(found, Corrupt)
    assert found.path == made.path.parent


def test_an_entry_moved_to_another_key_is_seen(cache: Cache) -> None:
    made, other = put(cache, {"a": b"1"}), Key.of("toy", {"seed": 1})
    place = cache.root / "toy" / other.digest[:2] / other.digest
    place.parent.mkdir(parents=True)
    made.path.parent.rename(place)
    assert isinstance(cache.get(other, Text), Corrupt)


def test_an_entry_of_another_type_is_not_handed_out(cache: Cache) -> None:
    put(cache, {"a": b"1"})
    assert cache.get(KEY, Number) == Corrupt(
        cache.root / "toy" / KEY.digest[:2] / KEY.digest, "it holds a Text, not a Number"
    )


def test_an_evicted_entry_is_gone_and_can_be_put_again(cache: Cache) -> None:
    made = put(cache, {"a": b"1"})
    with cache.lock(KEY, nobody_waits):
        cache.evict(KEY)
    assert cache.get(KEY, Text) is None
    assert put(cache, {"a": b"1"}) == made


def test_a_stage_that_wrote_nothing_is_refused(cache: Cache) -> None:
    with pytest.raises(GraphError, match="'toy' wrote no files"):
        put(cache, {})
    assert cache.get(KEY, Text) is None


def test_a_link_is_refused_as_an_artifact(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("changes later")
    with cache.lock(KEY, nobody_waits):
        folder, _ = cache.begin(KEY)
        (folder / "link").symlink_to(tmp_path / "outside")
        with pytest.raises(GraphError, match="link is not a plain file"):
            cache.put(KEY, Text)
    assert cache.get(KEY, Text) is None


def test_the_sweep_takes_what_the_dead_left_and_spares_the_living(cache: Cache) -> None:
    alive, dead, finished = (Key.of("toy", {"seed": seed}) for seed in (1, 2, 3))
    put(cache, {"a": b"1"}, finished)
    for key in (alive, dead):
        with cache.lock(key, nobody_waits):
            for folder in cache.begin(key):
                (folder / "half").write_bytes(b"1")
    (cache.root / ".work" / f"toy-{finished.digest}").mkdir()  # as after a kill between rename and clean-up
    (cache.root / ".locks" / f"toy-{dead.digest}").touch()
    with cache.lock(alive, nobody_waits):
        cache.sweep()
        assert (cache.root / ".tmp" / f"toy-{alive.digest}" / "files" / "half").exists()
    assert not (cache.root / ".tmp" / f"toy-{dead.digest}").exists()
    assert (cache.root / ".work" / f"toy-{dead.digest}" / "half").exists()
    assert not (cache.root / ".work" / f"toy-{finished.digest}").exists()
    assert not list((cache.root / ".locks").iterdir())


def test_the_default_place_is_the_users_cache_unless_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEPRESS_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache().root == tmp_path / ".cache" / "edgepress"
    monkeypatch.setenv("EDGEPRESS_CACHE", "~/elsewhere")
    assert cache_root() == tmp_path / "elsewhere"


def test_a_home_folder_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", "~no-such-user/cache")
    with pytest.raises(InputError, match="no such home folder; give the whole path"):
        cache_root()
