"""The GPU is reached through the driver alone, and its absence is reported in one line."""

import numpy as np
import pytest

from runtime.engines.cuda import Device
from targets.errors import EnvironmentLacks


def device():
    try:
        return Device()
    except EnvironmentLacks:
        return None


GPU = device()
needs_gpu = pytest.mark.skipif(GPU is None, reason="no NVIDIA GPU")


@pytest.mark.skipif(GPU is not None, reason="there is an NVIDIA GPU")
def test_a_machine_without_a_gpu_says_so():
    with pytest.raises(EnvironmentLacks, match=r"NVIDIA driver"):
        Device()


@needs_gpu
def test_arrays_go_to_the_gpu_and_come_back():
    GPU.activate()
    major, minor = GPU.capability().split(".")
    assert int(major) >= 5 and minor.isdigit()
    arrays = [np.arange(1_000_003, dtype=np.float32), np.arange(7, dtype=np.int64)]
    addresses = [GPU.allocate(array.nbytes) for array in arrays]
    for array, address in zip(arrays, addresses, strict=True):
        GPU.upload(address, array)
    GPU.wait()
    for array, address in zip(arrays, addresses, strict=True):
        back = np.empty_like(array)
        GPU.download(back, address)
        np.testing.assert_array_equal(back, array)
        GPU.release(address)
    assert GPU.stream != 0


@needs_gpu
def test_memory_that_the_gpu_does_not_have_is_refused():
    free = GPU.free_bytes()
    assert free > 1 << 20
    with pytest.raises(EnvironmentLacks, match="refused cuMemAlloc_v2: out of memory"):
        GPU.allocate(free * 2)
