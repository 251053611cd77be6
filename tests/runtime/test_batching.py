"""Many threads and one model: right answers, bounded waiting, and one's fault is not another's."""

import itertools
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.runtime_toys import REPO, oracle

from runtime.batching import Batcher, together
from runtime.session import open_bundle
from targets.errors import EdgepressError, EnvironmentLacks, InputError


@pytest.fixture
def session(bundle):
    return open_bundle(bundle, threads=1)


def pixels(count):
    return np.random.default_rng(0).standard_normal((count, 1, 3, 8, 8)).astype(np.float32)


class Counting:
    """A backend that notes the size of each batch, and may be slow."""

    def __init__(self, backend, seconds=0.0):
        self.backend, self.seconds, self.sizes = backend, seconds, []

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def run(self, inputs):
        self.sizes.append(len(inputs["pixel_values"]))
        time.sleep(self.seconds)
        return self.backend.run(inputs)


def test_a_session_gives_every_thread_the_answer_to_its_own_input(session):
    given = pixels(64)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda one: session.run({"pixel_values": one})["logits"], given))
    np.testing.assert_allclose(np.concatenate(got), oracle(np.concatenate(given)), atol=1e-4)


def test_what_waits_together_runs_together_and_each_gets_its_own_answer(session):
    backend = Counting(session.backend, 0.02)
    batcher, given = Batcher(replace(session, backend=backend), within=0.05), pixels(48)
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda one: batcher.run({"pixel_values": one})["logits"], given))
    np.testing.assert_allclose(np.concatenate(got), oracle(np.concatenate(given)), atol=1e-4)
    assert sum(backend.sizes) == 48 and 1 < max(backend.sizes) <= session.max_batch and len(backend.sizes) < 30
    batcher.close()
    with pytest.raises(InputError, match="is closed"):
        batcher.run({"pixel_values": given[0]})


def test_a_bad_input_among_good_ones_fails_alone(session):
    given = list(pixels(8))
    given[3] = given[3].astype(np.float64)
    given[5] = np.full_like(given[5], np.inf)
    batcher = Batcher(session, within=0.05)

    def ask(one):
        try:
            return batcher.run({"pixel_values": one})["logits"]
        except EdgepressError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(ask, given))
    assert [isinstance(one, Exception) for one in got] == [at in (3, 5) for at in range(8)]
    np.testing.assert_allclose(got[0], oracle(given[0]), atol=1e-4)


def test_more_than_may_wait_are_turned_away_and_a_backend_that_hangs_is_told(session):
    go = threading.Event()

    class Hanging(Counting):
        def run(self, inputs):
            go.wait(20)
            return self.backend.run(inputs)

    batcher = Batcher(replace(session, backend=Hanging(session.backend)), within=0.0, most=2, patience=0.5)
    given, told = pixels(8), []

    def ask(one):
        try:
            batcher.run({"pixel_values": one})
        except EnvironmentLacks as error:
            told.append(str(error))

    threads = [threading.Thread(target=ask, args=(one,)) for one in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    go.set()
    assert len(told) == 8 and any("2 inputs wait already" in one for one in told)
    assert any("gave no answer for 0.5 s" in one for one in told)


def test_other_batches_are_refused(session):
    with pytest.raises(InputError, match="takes batches of 1"):
        Batcher(session).run({"pixel_values": np.zeros((2, 3, 8, 8), np.float32)})


def test_what_comes_together_is_a_group_and_what_comes_late_is_another():
    def items():
        yield from range(7)
        time.sleep(0.5)
        yield 7

    assert list(together(items(), 4, 0.1)) == [[0, 1, 2, 3], [4, 5, 6], [7]]
    assert list(together([], 4, 0.1)) == []


def test_no_more_than_two_groups_are_read_ahead():
    seen = []
    groups = together((seen.append(at) or at for at in itertools.count()), 4, 0.05)
    assert next(groups) == [0, 1, 2, 3]
    time.sleep(0.2)
    assert len(seen) <= 4 + 8 + 1  # the group, two more that wait, and one in the hand of the reader


def test_a_fault_of_what_is_read_comes_behind_what_was_read_before():
    def items():
        yield 1
        raise InputError("line 2 is not UTF-8")

    groups = together(items(), 4, 0.05)
    assert next(groups) == [1]
    with pytest.raises(InputError, match="line 2"):
        next(groups)


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{at:02}.png" for at in range(20)]
    for at, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(at).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return paths


def start(bundle, *options):
    command = [sys.executable, "-m", "runtime.run", bundle, "-", *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(list(map(str, command)), **pipes, text=True, cwd=REPO)


def test_lines_are_answered_alike_in_batches_and_one_by_one(bundle, pictures):
    lines = "".join(f"{path}\n" for path in pictures)
    plain, _ = start(bundle, "--json").communicate(lines)
    batched, _ = start(bundle, "--json", "--batch-within", "50ms").communicate(lines)
    one, other = (json.loads(text)["results"] for text in (plain, batched))
    assert [result["input"] for result in one] == [result["input"] for result in other] == list(map(str, pictures))
    for first, second in zip(one, other, strict=True):
        assert first["top"][0]["label"] == second["top"][0]["label"]
        assert first["top"][0]["probability"] == pytest.approx(second["top"][0]["probability"], abs=1e-5)


def test_a_line_is_answered_while_the_next_is_not_there_yet_and_a_bad_one_ends_in_one_line(bundle, pictures):
    process = start(bundle, "--batch-within", "5")
    process.stdin.write(f"{pictures[0]}\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith(f"{pictures[0]}: ")
    process.stdin.write("nowhere.png\n")
    process.stdin.flush()
    assert process.wait(60) == 2  # with its input still open
    assert process.stderr.read().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a.png", "--batch-within", "5ms"], "--batch-within is for inputs that come as lines"),
        (["-", "--batch-within", "soon"], "'soon' is not a time above 0"),
        (["-", "--hung-after", "0"], "'0' is not a time above 0"),
    ],
)
def test_wrong_usage_is_one_line(run_module, bundle, options, message):
    done = run_module("runtime.run", bundle, *options, input="")
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
