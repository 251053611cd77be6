"""Fixtures of the device side's tests."""

import os
import signal
import subprocess
import sys

import pytest
from support.runtime_toys import REPO, BundleMaker


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    """Each test has an unpacking cache of its own."""
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def interruptible():
    """Children of a job that runs in the background would inherit that it ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def maker(tmp_path):
    return BundleMaker(tmp_path)


@pytest.fixture
def bundle(maker):
    return maker.write()


@pytest.fixture
def run_module():
    """Run `python -m MODULE ARGS` as a user would."""

    def run(module, *args, **options):
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, args)],
            capture_output=True,
            text=True,
            cwd=REPO,
            check=False,
            env=dict(os.environ),
            **options,
        )

    return run
