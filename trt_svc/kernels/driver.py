"""The few calls of the CUDA driver that load and start machine code, by ctypes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from trt_svc.errors import BackendUnavailable


@lru_cache(maxsize=1)
def library() -> Any:
    """libcuda, which comes with NVIDIA's driver."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError as err:
        found = f"{name} cannot be loaded ({err})."
        raise BackendUnavailable("the CUDA driver", found, "Install NVIDIA's driver, or use plain torch.") from err


def enter(device: int) -> None:
    """Makes the device's context, the one that torch uses, current in this thread if none is."""
    current = ctypes.c_void_p()
    check(library().cuCtxGetCurrent(ctypes.byref(current)), "asking for the context")
    if not current:
        check(library().cuCtxSetCurrent(_context(device)), "entering the context")


@lru_cache(maxsize=16)
def _context(index: int) -> ctypes.c_void_p:
    device, context = ctypes.c_int(), ctypes.c_void_p()
    check(library().cuDeviceGet(ctypes.byref(device), ctypes.c_int(index)), "finding the GPU")
    check(library().cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "finding the context")
    return context


def loaded(image: bytes, function: str) -> ctypes.c_void_p:
    """A function of a cubin, or of PTX text, in the current context. It stays loaded as long as the process lives."""
    module, found = ctypes.c_void_p(), ctypes.c_void_p()
    check(library().cuModuleLoadData(ctypes.byref(module), ctypes.c_char_p(image)), "loading a kernel")
    name = ctypes.c_char_p(function.encode())
    check(library().cuModuleGetFunction(ctypes.byref(found), module, name), f"finding the kernel {function}")
    return found


def launch(
    function: ctypes.c_void_p, blocks: int, threads: int, shared_bytes: int, stream: int, arguments: Sequence[Any]
) -> None:
    """Starts a function; `arguments` are ctypes values."""
    addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(value) for value in arguments))
    sizes = [ctypes.c_uint(n) for n in (blocks, 1, 1, threads, 1, 1, shared_bytes)]
    status = library().cuLaunchKernel(function, *sizes, ctypes.c_void_p(stream), addresses, None)
    check(status, "starting a kernel")


def check(status: int, what: str) -> None:
    """Raises for what is not CUDA_SUCCESS."""
    if status == 0:
        return
    text = ctypes.c_char_p()
    library().cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
    reason = (text.value or b"unknown error").decode()
    raise BackendUnavailable(what, f"the CUDA driver says {status}: {reason}.", "Use plain torch.")
