"""Many threads and one model: right answers, bounded waiting, and one's fault is not another's."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from support.runtime_toys import oracle

from runtime.batching import Batcher
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
