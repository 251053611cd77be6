"""The little of the CUDA driver API that running an engine needs, through ctypes: memory, copies, a stream."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from targets.errors import EnvironmentLacks

if TYPE_CHECKING:
    import numpy as np

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


class Device:
    """The first GPU, through its primary context, which is the one that TensorRT uses."""

    def __init__(self) -> None:
        """Raises EnvironmentLacks if there is no driver or no GPU."""
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise EnvironmentLacks("no NVIDIA driver on this machine (libcuda.so.1 does not load)") from error
        self._call("cuInit", 0)
        self._handle = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._handle), 0)
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._handle)
        self.activate()
        self._stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), 0)

    @property
    def stream(self) -> int:
        """Handle of the stream that work is queued on."""
        return self._stream.value or 0

    def activate(self) -> None:
        """Make the GPU's context current in the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def capability(self) -> str:
        """Compute capability such as '8.7'."""
        return f"{self._attribute(_CAPABILITY_MAJOR)}.{self._attribute(_CAPABILITY_MINOR)}"

    @property
    def name(self) -> str:
        """What the driver calls the GPU."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, len(text), self._handle)
        return text.value.decode(errors="replace")

    def free_bytes(self) -> int:
        """Memory that the GPU has free."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the GPU. Raises EnvironmentLacks if it has no room."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        return address.value

    def release(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a C-contiguous array to the GPU."""
        self._call(
            "cuMemcpyHtoD_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
        )

    def download(self, array: np.ndarray, address: int) -> None:
        """Fill a C-contiguous array from the GPU."""
        self._call(
            "cuMemcpyDtoH_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
        )

    def wait(self) -> None:
        """Until all work queued on the stream is done. Raises EnvironmentLacks if it failed."""
        self._call("cuStreamSynchronize", self._stream)

    def _attribute(self, which: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, self._handle)
        return value.value

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            meaning = text.value.decode() if text.value else f"error {code}"
            raise EnvironmentLacks(f"the NVIDIA driver refused {name}: {meaning}")
