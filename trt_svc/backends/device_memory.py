"""Memory of a GPU through whichever package is here: torch, cuda-core or PyCUDA.

A driver does the raw work for one device. `DeviceMemory` puts bounded pools on top, so that a run allocates nothing
once its shapes have been seen. Every driver works in the device's primary context, the one that TensorRT and torch
use too, and makes it current only while it is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import re
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from trt_svc.errors import BackendUnavailable, EngineError, OutOfMemory, TrtSvcError, shown
from trt_svc.optional import install_line, is_installed, require

MAX_IDLE = 8
"""Blocks of a kind that wait for their next use; a run of a vocoder needs at most five."""
SMALLEST = 4096
PURPOSE = "memory of the GPU"
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which PyCUDA has no name


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory on the device."""

    pointer: int
    capacity: int
    owner: Any


@dataclass(frozen=True, eq=False)
class Staging:
    """Page-locked memory of the host, as an array of bytes."""

    host: npt.NDArray[np.uint8]
    owner: Any

    @property
    def capacity(self) -> int:
        return self.host.size


class Driver(ABC):
    """What a package does for one device; its stream is its own and does not wait for the default stream."""

    name: ClassVar[str]
    stream: int
    device_name: str

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Makes the device's primary context current in this thread, and puts back what was before."""

    @abstractmethod
    def allocate(self, size: int) -> Buffer: ...

    @abstractmethod
    def allocate_staging(self, size: int) -> Staging: ...

    @abstractmethod
    def free(self, memory: Buffer | Staging) -> None:
        """Gives memory back that the stream may still be using."""

    @abstractmethod
    def to_device(self, buffer: Buffer, staging: Staging, size: int) -> None:
        """Copies in the order of the stream."""

    @abstractmethod
    def to_host(self, staging: Staging, buffer: Buffer, size: int) -> None:
        """Copies in the order of the stream."""

    @abstractmethod
    def wait(self) -> None:
        """Until the stream has done everything."""


Memory = TypeVar("Memory", bound=Buffer | Staging)


class Pool(Generic[Memory]):
    """Keeps the memory last used, up to a number of blocks."""

    def __init__(
        self, allocate: Callable[[int], Memory], free: Callable[[Memory], None], max_idle: int = MAX_IDLE
    ) -> None:
        self._allocate = allocate
        self._free = free
        self._max_idle = max_idle
        self._idle: list[Memory] = []

    def take(self, size: int) -> Memory:
        """At least `size` bytes: the smallest idle block that fits, or a new one."""
        fitting = [memory for memory in self._idle if memory.capacity >= size]
        if not fitting:
            return self._new(_rounded(size))
        best = min(fitting, key=lambda memory: memory.capacity)
        self._idle.remove(best)
        return best

    def _new(self, size: int) -> Memory:
        try:
            return self._allocate(size)
        except OutOfMemory:
            if not self._idle:
                raise
        self.clear()
        return self._allocate(size)

    def give(self, memory: Memory) -> None:
        self._idle.append(memory)
        while len(self._idle) > self._max_idle:
            self._free(self._idle.pop(0))

    def clear(self) -> None:
        while self._idle:
            self._free(self._idle.pop())


def _rounded(size: int) -> int:
    """The next power of two, so that neighbouring lengths share a block."""
    return max(SMALLEST, 1 << (max(size, 1) - 1).bit_length())


class DeviceMemory:
    """Buffers on one device, in the order of one stream. Not for several threads at once."""

    def __init__(self, driver: Driver, max_idle: int = MAX_IDLE) -> None:
        self.driver = driver
        self._buffers: Pool[Buffer] = Pool(driver.allocate, driver.free, max_idle)
        self._staging: Pool[Staging] = Pool(driver.allocate_staging, driver.free, max_idle)
        self._in_flight: list[Staging] = []
        self._finalizer = weakref.finalize(self, _give_back, driver, self._buffers, self._staging, self._in_flight)

    @property
    def stream(self) -> int:
        return self.driver.stream

    def current(self) -> AbstractContextManager[None]:
        """Every other call is made inside this."""
        return self.driver.current()

    def upload(self, array: npt.NDArray[Any]) -> Buffer:
        """The array on the device; the copy runs on the stream."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if len(self._in_flight) >= MAX_IDLE:
            self.wait()
        staging = self._staging.take(data.size)
        self._in_flight.append(staging)
        staging.host[: data.size] = data
        buffer = self._buffers.take(data.size)
        try:
            self.driver.to_device(buffer, staging, data.size)
        except BaseException:
            self.release(buffer)
            raise
        return buffer

    def empty(self, size: int) -> Buffer:
        """At least `size` bytes on the device."""
        return self._buffers.take(size)

    def download(self, buffer: Buffer, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A fresh array of what is in a buffer; waits for the stream."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        staging = self._staging.take(size)
        self._in_flight.append(staging)
        self.driver.to_host(staging, buffer, size)
        self.driver.wait()
        made = staging.host[:size].view(kind).reshape(shape).copy()
        self._recycle()
        return made

    def release(self, *buffers: Buffer) -> None:
        """Back to the pool; who gets them next comes later on the same stream."""
        for buffer in buffers:
            self._buffers.give(buffer)

    def wait(self) -> None:
        """Until the stream has done everything."""
        self.driver.wait()
        self._recycle()

    def _recycle(self) -> None:
        while self._in_flight:
            self._staging.give(self._in_flight.pop())

    def close(self) -> None:
        """Gives all idle memory back."""
        self._finalizer()


def _give_back(driver: Driver, buffers: Pool[Buffer], staging: Pool[Staging], in_flight: list[Staging]) -> None:
    # Also called by the garbage collector and at exit, where a dead context is nobody's concern any more.
    with contextlib.suppress(Exception), driver.current():
        driver.wait()
        while in_flight:
            staging.give(in_flight.pop())
        buffers.clear()
        staging.clear()


# Errors.


def driver_error(asked: str, err: Exception) -> TrtSvcError:
    """The typed error for what a driver raised."""
    said = shown(f"{type(err).__name__}: {err}")
    # PyCUDA's MemoryError is not Python's.
    if re.search(r"MemoryError|out.of.memory|failed to allocate", f"{type(err).__name__} {err}", re.I):
        return OutOfMemory(
            asked, f"the GPU has too little memory ({said}).", "Use a smaller batch or shorter input, or free memory."
        )
    return EngineError(asked, f"the driver reports a failure ({said}).", "See `trt-svc doctor`.")


@contextmanager
def driver_errors(asked: str) -> Iterator[None]:
    try:
        yield
    except TrtSvcError:
        raise
    except Exception as err:  # each package has its own kinds
        raise driver_error(asked, err) from err


# torch.


class TorchDriver(Driver):
    """torch's caching allocators."""

    name = "torch"

    def __init__(self, number: int) -> None:
        import torch

        self._torch = torch
        self.device = torch.device("cuda", number)
        with driver_errors(f"opening GPU {number}"):
            self.torch_stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            self.stream = int(self.torch_stream.cuda_stream)
            self.device_name = torch.cuda.get_device_name(self.device)

    @contextmanager
    def current(self) -> Iterator[None]:
        with self._torch.cuda.device(self.device):
            if not self._torch.cuda.is_current_stream_capturing():
                # Choosing the device alone leaves a new thread without a context, which TensorRT-RTX asks for.
                self.torch_stream.query()
            yield

    def allocate(self, size: int) -> Buffer:
        torch = self._torch
        with driver_errors(f"allocating {size} bytes on the GPU"), torch.cuda.stream(self.torch_stream):
            tensor = torch.empty(size, dtype=torch.uint8, device=self.device)
        return Buffer(tensor.data_ptr(), size, tensor)

    def allocate_staging(self, size: int) -> Staging:
        with driver_errors(f"allocating {size} page-locked bytes"):
            tensor = self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True)
        return Staging(tensor.numpy(), tensor)

    def free(self, memory: Buffer | Staging) -> None:
        """Nothing to do: the allocators know the stream."""

    def to_device(self, buffer: Buffer, staging: Staging, size: int) -> None:
        with driver_errors("copying to the GPU"), self._torch.cuda.stream(self.torch_stream):
            buffer.owner[:size].copy_(staging.owner[:size], non_blocking=True)

    def to_host(self, staging: Staging, buffer: Buffer, size: int) -> None:
        with driver_errors("copying from the GPU"), self._torch.cuda.stream(self.torch_stream):
            staging.owner[:size].copy_(buffer.owner[:size], non_blocking=True)

    def wait(self) -> None:
        with driver_errors("waiting for the GPU"):
            self.torch_stream.synchronize()


# cuda-core.


def _cuda_core() -> Any:
    """The module that has the classes: `cuda.core`, in its earlier versions `cuda.core.experimental`."""
    module = require("cuda.core", PURPOSE)
    return module if hasattr(module, "Device") else require("cuda.core.experimental", PURPOSE)


class CudaCoreDriver(Driver):
    """cuda.core's stream and memory resources."""

    name = "cuda-core"

    def __init__(self, number: int) -> None:
        self._core = _cuda_core()
        self._driver = require("cuda.bindings.driver", PURPOSE)
        self._number = number
        with driver_errors(f"opening GPU {number}"):
            self._done(self._driver.cuInit(0))
            device = self._done(self._driver.cuDeviceGet(number))
            # Retained for the process: engines live in it too.
            self._context = self._done(self._driver.cuDevicePrimaryCtxRetain(device))
            with self.current():
                self.device_name = str(self._core.Device(number).name)
                self._stream = self._core.Device(number).create_stream()
                self._page_locked = self._core.LegacyPinnedMemoryResource()
        self.stream = int(self._stream.handle)

    def _done(self, result: tuple[Any, ...]) -> Any:
        """What a driver call returned, or its error raised."""
        error, *values = result
        if int(error):
            raise RuntimeError(self._driver.cuGetErrorName(error)[1].decode())
        return values[0] if values else None

    @contextmanager
    def current(self) -> Iterator[None]:
        self._done(self._driver.cuCtxPushCurrent(self._context))
        try:
            self._core.Device(self._number).set_current()  # this thread's Device asks for it
            yield
        finally:
            self._done(self._driver.cuCtxPopCurrent())

    def allocate(self, size: int) -> Buffer:
        with driver_errors(f"allocating {size} bytes on the GPU"):
            made = self._core.Device(self._number).allocate(size, stream=self._stream)
        return Buffer(int(made.handle), size, made)

    def allocate_staging(self, size: int) -> Staging:
        with driver_errors(f"allocating {size} page-locked bytes"):
            made = self._page_locked.allocate(size)
        return Staging(np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(made.handle))), made)

    def free(self, memory: Buffer | Staging) -> None:
        with driver_errors("freeing memory of the GPU"):
            memory.owner.close(self._stream)

    def to_device(self, buffer: Buffer, staging: Staging, size: int) -> None:
        with driver_errors("copying to the GPU"):
            self._copy(buffer.pointer, int(staging.owner.handle), size)

    def to_host(self, staging: Staging, buffer: Buffer, size: int) -> None:
        with driver_errors("copying from the GPU"):
            self._copy(int(staging.owner.handle), buffer.pointer, size)

    def _copy(self, to: int, source: int, size: int) -> None:
        # A Buffer can only be copied whole.
        self._done(self._driver.cuMemcpyAsync(to, source, size, self._stream.handle))

    def wait(self) -> None:
        with driver_errors("waiting for the GPU"):
            self._stream.sync()


# PyCUDA.

_PYCUDA_CONTEXTS: dict[int, Any] = {}
"""Primary contexts, retained for the process: detaching one would leave it on the thread's stack."""


class PycudaDriver(Driver):
    """PyCUDA on the primary context, without pycuda.autoinit, which would make a context of its own."""

    name = "pycuda"

    def __init__(self, number: int) -> None:
        self._cuda = require("pycuda.driver", PURPOSE)
        with driver_errors(f"opening GPU {number}"):
            self._cuda.init()
            device = self._cuda.Device(number)
            if number not in _PYCUDA_CONTEXTS:
                _PYCUDA_CONTEXTS[number] = device.retain_primary_context()
            self._context = _PYCUDA_CONTEXTS[number]
            self.device_name = str(device.name())
            with self.current():
                self._stream = self._cuda.Stream(_NON_BLOCKING)
        self.stream = int(self._stream.handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def allocate(self, size: int) -> Buffer:
        with driver_errors(f"allocating {size} bytes on the GPU"):
            made = self._cuda.mem_alloc(size)
        return Buffer(int(made), size, made)

    def allocate_staging(self, size: int) -> Staging:
        with driver_errors(f"allocating {size} page-locked bytes"):
            made = self._cuda.pagelocked_empty(size, np.uint8)
        return Staging(made, made.base)

    def free(self, memory: Buffer | Staging) -> None:
        with driver_errors("freeing memory of the GPU"):
            self._stream.synchronize()  # unlike the others PyCUDA frees at once
            memory.owner.free()

    def to_device(self, buffer: Buffer, staging: Staging, size: int) -> None:
        with driver_errors("copying to the GPU"):
            self._cuda.memcpy_htod_async(buffer.pointer, staging.host[:size], self._stream)

    def to_host(self, staging: Staging, buffer: Buffer, size: int) -> None:
        with driver_errors("copying from the GPU"):
            self._cuda.memcpy_dtoh_async(staging.host[:size], buffer.pointer, self._stream)

    def wait(self) -> None:
        with driver_errors("waiting for the GPU"):
            self._stream.synchronize()


# Which one.

DRIVERS: dict[str, Callable[[int], Driver]] = {
    "torch": TorchDriver,
    "cuda-core": CudaCoreDriver,
    "pycuda": PycudaDriver,
}


def available_drivers() -> list[str]:
    """Names of the drivers that can be tried here, best first; imports nothing."""
    here = {
        "cuda-core": is_installed("cuda.core") and is_installed("cuda.bindings"),
        "pycuda": is_installed("pycuda"),
    }
    found = [name for name, is_here in here.items() if is_here]
    if not torch_has_cuda():
        return found
    # Sharing torch's allocator is best, but not worth the seconds that importing it takes.
    return ["torch", *found] if "torch" in sys.modules else [*found, "torch"]


def torch_has_cuda() -> bool:
    """Does torch, imported or not, come with CUDA?"""
    torch = sys.modules.get("torch")
    if torch is not None:
        return bool(torch.cuda.is_available())
    try:
        spec = importlib.util.find_spec("torch")
        folders = spec.submodule_search_locations if spec else None
        text = "".join((Path(folder) / "version.py").read_text("utf-8") for folder in folders or [])
    except (ImportError, ValueError, OSError):
        return False
    return re.search(r"^cuda\b[^=]*=\s*['\"]\d", text, re.M) is not None


def open_memory(number: int, name: str | None = None) -> DeviceMemory:
    """Memory of a device by the named driver, or by the first that works."""
    failures: list[str] = []
    for candidate in [name] if name else available_drivers():
        try:
            return DeviceMemory(DRIVERS[candidate](number))
        except OutOfMemory:
            raise
        except (TrtSvcError, ImportError) as err:
            failures.append(f"{candidate}: {err.found if isinstance(err, TrtSvcError) else err}")
    raise BackendUnavailable(
        f"using GPU {number}",
        f"no package reaches it ({shown('; '.join(failures)) or 'none is installed'}).",
        f"Install a CUDA build of torch, or run: {install_line('cuda.core')}. "
        "Without an NVIDIA GPU use backend='onnxruntime' or 'openvino'.",
    )
