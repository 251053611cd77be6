"""A store of bundles: whatever happens to a deployment, `current` is a whole bundle that passed its self-test."""

import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from support.runtime_toys import LABELS, REPO, pack

from runtime.bundles.bundle import open_files
from runtime.field.store import Store, deploy, locked, rollback
from runtime.session import open_bundle
from targets.errors import GateFailed, InputError

PIXELS = {"pixel_values": np.zeros((1, 3, 8, 8), np.float32)}


def passes(bundle):
    """A self-test that takes no time."""


@pytest.fixture
def three(maker):
    return [maker.write(f"bundle{at}", labels=[f"{label}{at}" for label in LABELS]) for at in range(3)]


def put(store, *bundles, keep=2):
    for bundle in bundles:
        with locked(store) as held:
            deploy(held, open_files(bundle), passes, keep)


def first_label(store):
    return open_bundle(store / "current", threads=1).manifest.labels[0]


def test_the_last_bundle_deployed_is_current_and_rollback_goes_back_one_by_one(tmp_path, three):
    store = tmp_path / "store"
    put(store, *three)
    assert first_label(store) == "ant2"
    for wanted in ("ant1", "ant0"):
        with locked(store) as held:
            rollback(held, passes)
        assert first_label(store) == wanted
    with locked(store) as held, pytest.raises(InputError, match="has no bundle before the current one"):
        rollback(held, passes)
    put(store, three[2])
    with locked(store) as held:
        rollback(held, passes)
    assert first_label(store) == "ant0"  # what was current before, not what was once deployed before


def test_a_bundle_deployed_twice_stands_once_in_the_history(tmp_path, three):
    store = tmp_path / "store"
    put(store, three[0], three[1], three[0])
    assert len(Store(store).history()) == 2 and first_label(store) == "ant0"
    with locked(store) as held:
        rollback(held, passes)
    assert first_label(store) == "ant1"


def test_older_bundles_than_are_kept_are_removed(tmp_path, three):
    store = tmp_path / "store"
    put(store, *three, keep=1)
    assert sorted(path.name for path in (store / "bundles").iterdir()) == sorted(Store(store).history())
    assert len(Store(store).history()) == 2


def test_a_session_goes_on_with_its_bundle_when_another_becomes_current(tmp_path, three):
    store = tmp_path / "store"
    put(store, three[0])
    session = open_bundle(store / "current", threads=1)
    put(store, three[1])
    assert session.manifest.labels[0] == "ant0" and session.bundle.root.parent == store / "bundles"
    assert np.isfinite(session.run(PIXELS)["logits"]).all()


def test_the_command_tests_before_it_switches_and_tells_what_is_current(run_module, maker, tmp_path):
    store = tmp_path / "store"
    good = maker.write("good")
    done = run_module("runtime.deploy", store, pack(good, tmp_path / "good.zip"), "--json")
    assert done.returncode == 0, done.stderr
    now = json.loads(done.stdout)["current"]
    bad = maker.write("bad")
    with np.load(bad / "golden.npz") as golden:
        np.savez(bad / "golden.npz", **{**golden, "output_logits": golden["output_logits"] + 1})
    maker.seal(bad)
    failed = run_module("runtime.deploy", store, bad)
    assert failed.returncode == 1 and "differs from the golden output" in failed.stderr
    assert Store(store).current() == now and [path.name for path in (store / "bundles").iterdir()] == [now]
    other = run_module("runtime.deploy", store, maker.write("other", model="another"))
    assert other.returncode == 0 and other.stdout.startswith("current: ") and now in other.stdout
    assert run_module("runtime.deploy", store, "--rollback").returncode == 0 and Store(store).current() == now
    ran = run_module("runtime.selftest", store / "current")
    assert ran.returncode == 0, ran.stderr


def test_a_deployment_killed_at_any_touch_of_the_disk_leaves_one_working_bundle(three, tmp_path):
    command = [
        sys.executable,
        str(REPO / "tests/support/deploy_kills.py"),
        three[0],
        three[1],
        tmp_path / "kills",
        "12",
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=REPO, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["touches"] > 40 and len(result["found"]) == 12
    assert set(result["found"]) == {"old", "new"}
    turn = result["found"].index("new")
    assert set(result["found"][turn:]) == {"new"}  # there is one moment at which it switches


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(bytes(data))


def damages(maker):
    """40 ways to spoil a bundle: of a good one's folder."""
    files = ("model.onnx", "golden.npz", "config.json", "extra/notes.txt", "manifest.json", "manifest.json.sha256")
    yield from (
        (f"{name} flipped at {at}", lambda b, n=name, a=at: flip(b / n, a)) for name in files for at in (0.1, 0.5, 0.9)
    )
    yield from ((f"{name} missing", lambda b, n=name: (b / n).unlink()) for name in files)
    yield from ((f"{name} cut", lambda b, n=name: (b / n).write_bytes((b / n).read_bytes()[:-1])) for name in files[:5])
    yield from ((f"{name} longer", lambda b, n=name: (b / n).open("ab").write(b"x")) for name in files[:5])

    def linked(bundle):
        (bundle / "config.json").rename(bundle.parent / "elsewhere")
        (bundle / "config.json").symlink_to(bundle.parent / "elsewhere")

    yield "a link", linked
    yield "failed its gate", lambda b: maker.edit(b, verdict="fail")
    yield "a later schema", lambda b: maker.edit(b, schema=9)
    yield "leaves its folder", lambda b: maker.edit(b, files={"../x": {"sha256": "0" * 64, "bytes": 1}})
    yield "no model", lambda b: ((b / "model.onnx").unlink(), maker.seal(b))
    yield "an empty folder", lambda b: (shutil.rmtree(b), b.mkdir())


def test_forty_bad_bundles_are_refused_and_the_current_one_is_untouched(maker, tmp_path):
    from runtime.bundles.bundle import check_passed

    store = tmp_path / "store"
    put(store, maker.write("good"))
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    whole = maker.write("whole", model="another")
    count = 0
    for name, spoil in damages(maker):
        bad = tmp_path / "bad"
        shutil.copytree(whole, bad)
        spoil(bad)
        with pytest.raises((InputError, GateFailed)) as told, locked(store) as held:
            bundle = open_files(bad)
            check_passed(bundle)
            deploy(held, bundle, passes, 2)
        assert len(str(told.value)) < 300 + len(str(tmp_path)), name
        assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before, name
        shutil.rmtree(bad)
        count += 1
    assert count == 40


def test_a_bundle_that_changes_while_it_is_copied_is_refused(maker, tmp_path):
    store, source = tmp_path / "store", maker.write("source")
    bundle = open_files(source)
    flip(source / "model.onnx")  # after it was verified
    with locked(store) as held, pytest.raises(InputError, match="its SHA-256 differs"):
        deploy(held, bundle, passes, 2)
    assert Store(store).current() is None and not list((store / "bundles").iterdir())


def test_a_damaged_copy_in_the_store_is_replaced_by_deploying_again(three, tmp_path):
    store = tmp_path / "store"
    put(store, three[0])
    flip(store / "current" / "model.onnx")
    put(store, three[0])
    assert first_label(store) == "ant0" and len(list((store / "bundles").iterdir())) == 1


def test_a_folder_that_is_no_store_is_left_alone(three, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="holds other files and no bundles"):
        put(folder, three[0])
    assert [path.name for path in folder.iterdir()] == ["a.jpg"]
    (tmp_path / "store" / "bundles").mkdir(parents=True)
    (tmp_path / "store" / "current").symlink_to(folder)
    with pytest.raises(InputError, match=r"leads to .*photos, which is not a bundle of this store"):
        put(tmp_path / "store", three[0])


def test_two_deployments_at_once_are_one(three, tmp_path):
    store, inside, go = tmp_path / "store", threading.Event(), threading.Event()

    def slowly(bundle):
        inside.set()
        go.wait(20)

    def first():
        with locked(store) as held:
            deploy(held, open_files(three[0]), slowly, 2)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(20)
    with pytest.raises(InputError, match="another process deploys to"):
        put(store, three[1])
    go.set()
    thread.join()
    assert first_label(store) == "ant0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{store}"], "no store at"),
        (["{store}", "--rollback"], "has no bundle before the current one"),
        (["{store}", "x", "--rollback"], "leave out BUNDLE"),
        (["{store}", "nowhere"], "no bundle at nowhere"),
        (["{store}", "x", "--keep", "0"], "--keep is 0"),
    ],
)
def test_wrong_usage_is_one_line(run_module, tmp_path, arguments, message):
    done = run_module("runtime.deploy", *(one.format(store=tmp_path / "store") for one in arguments))
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
