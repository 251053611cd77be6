"""The number of threads that a bench found fastest is taken by later sessions on the same machine, and by no other."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.bundles.bundle import open_files
from runtime.measuring import fastest
from runtime.measuring.fastest import FILE, remember, remembered
from runtime.session import open_bundle, open_session
from targets.machine import usable_cpus

FEW = {"target": {"name": "cpu-x86", "threads": usable_cpus()}}
two_cpus = pytest.mark.skipif(usable_cpus() < 2, reason="one CPU leaves no choice of threads")


def model_of(bundle):
    return bundle.manifest.models[0]


@pytest.fixture
def many_cpus(monkeypatch):
    monkeypatch.setattr(fastest, "usable_cpus", lambda: 64)


def test_nothing_is_remembered_at_first(bundle):
    opened = open_files(bundle)
    assert remembered(opened, model_of(opened), 1) is None


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.dictionaries(st.integers(1, 9), st.integers(1, 64), min_size=1, max_size=3))
def test_what_is_remembered_last_is_what_is_known_for_each_batch(bundle, many_cpus, counts):
    (bundle / FILE).unlink(missing_ok=True)
    opened = open_files(bundle)
    for batch, threads in counts.items():
        remember(opened, model_of(opened), batch, 65 - threads)
        remember(opened, model_of(opened), batch, threads)
    assert {batch: remembered(opened, model_of(opened), batch) for batch in range(1, 11)} == {
        batch: counts.get(batch) for batch in range(1, 11)
    }


def test_a_changed_model_has_no_number(bundle, maker, many_cpus):
    opened = open_files(bundle)
    remember(opened, model_of(opened), 1, 3)
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes() + b"\n")
    maker.seal(bundle)
    assert remembered(open_files(bundle), model_of(opened), 1) is None


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        '{"machine": 1, "fastest": {}}',
        '{"machine": "another, 64 CPUs", "fastest": {"SHA": {"1": 2}}}',
        '{"machine": "MINE", "fastest": {"SHA": {"1": 0}}}',
        '{"machine": "MINE", "fastest": {"SHA": {"1": 65}}}',
        '{"machine": "MINE", "fastest": {"SHA": {"1": "two"}}}',
    ],
)
def test_what_is_damaged_or_of_another_machine_counts_as_nothing_and_is_replaced(bundle, many_cpus, text):
    opened = open_files(bundle)
    remember(opened, model_of(opened), 1, 2)
    mine = json.loads((bundle / FILE).read_text())["machine"]
    sha = opened.manifest.files["model.onnx"].sha256
    (bundle / FILE).write_text(text.replace("MINE", mine).replace("SHA", sha))
    assert remembered(opened, model_of(opened), 1) is None
    remember(opened, model_of(opened), 1, 2)
    assert remembered(opened, model_of(opened), 1) == 2


@two_cpus
def test_a_session_takes_it_for_that_batch_unless_told_otherwise(maker):
    path = maker.write(**FEW)
    opened = open_files(path)
    remember(opened, model_of(opened), 1, 1)
    assert open_bundle(path).threads == 1
    assert open_bundle(path, threads=2).threads == 2
    assert open_session(opened, batch=8).threads == usable_cpus()


@two_cpus
def test_a_bench_tries_the_targets_threads_and_one_input_is_run_with_the_fastest(run_module, maker, tmp_path):
    path = maker.write(**FEW)
    benched = run_module("runtime.bench", path, "--seconds", "0.1", "--json")
    assert benched.returncode == 0, benched.stderr
    report = json.loads(benched.stdout)
    tried = {int(count): ms for count, ms in report["ms_by_threads"].items()}
    assert {1, usable_cpus()} <= tried.keys() and report["threads"] == min(tried, key=tried.get)
    assert f"fastest with --threads {report['threads']}; runtime.run takes it here from now on" in benched.stderr
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for picture in pictures:
        Image.new("RGB", (8, 8)).save(picture)
    asked = run_module("runtime.run", path, pictures[0], "--json")
    assert json.loads(asked.stdout)["threads"] == report["threads"]
    opened = open_files(path)
    for count in (1, 2):
        remember(opened, model_of(opened), 1, count)
        assert json.loads(run_module("runtime.run", path, pictures[0], "--json").stdout)["threads"] == count
    remember(opened, model_of(opened), 1, 1)
    assert json.loads(run_module("runtime.run", path, *pictures, "--json").stdout)["threads"] == usable_cpus()


@two_cpus
def test_a_bench_whose_number_cannot_be_kept_says_so_and_goes_on(run_module, maker):
    path = maker.write(**FEW)
    (path / "local").write_text("a file where the folder would be")
    done = run_module("runtime.bench", path, "--seconds", "0.05", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["ms_by_threads"]
    assert "; not remembered: cannot write " in done.stderr and "Traceback" not in done.stderr


@two_cpus
@pytest.mark.parametrize(
    ("batch", "told"), [(2, None), (8, "runtime.run takes it here from now on for several inputs")]
)
def test_a_bench_keeps_numbers_of_the_batches_that_are_run(run_module, maker, batch, told):
    path = maker.write(**FEW)
    done = run_module("runtime.bench", path, "--seconds", "0.05", "--batch", batch)
    assert done.returncode == 0 and "fastest with --threads " in done.stderr
    assert (path / FILE).exists() == bool(told) == ("runtime.run" in done.stderr)
    assert (told or "") in done.stderr


def test_threads_that_are_given_are_not_questioned(run_module, maker):
    path = maker.write(**FEW)
    done = run_module("runtime.bench", path, "--seconds", "0.05", "--threads", "1", "--json")
    assert done.returncode == 0 and "ms_by_threads" not in json.loads(done.stdout)
    assert not (path / FILE).exists()
