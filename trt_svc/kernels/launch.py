"""Starts a kernel: by triton where it is installed and works, else the shipped machine code by the CUDA driver."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from trt_svc.errors import BackendUnavailable, InputError
from trt_svc.kernels import archive, driver
from trt_svc.kernels.archive import Code
from trt_svc.kernels.variants import LANES, MOST_LANES, WARPS, Variant
from trt_svc.optional import is_installed

log = logging.getLogger(__name__)

Way = Literal["triton", "shipped"]
Argument = Tensor | int | float
Starter = Callable[[int, Sequence[Argument]], None]

_STARTERS: dict[tuple[Variant, torch.device, Way | None], Starter] = {}
_FINDING = threading.Lock()
_ONLY: ContextVar[Way | None] = ContextVar("only", default=None)


@contextlib.contextmanager
def only(way: Way) -> Iterator[None]:
    """Kernels are started this way in here, and no other: for comparisons."""
    token = _ONLY.set(way)
    try:
        yield
    finally:
        _ONLY.reset(token)


def start(variant: Variant, lanes: int, *arguments: Argument) -> None:
    """Runs a program over so many lanes, on the stream that torch uses now.

    The first start of a variant compiles or loads it, which must not happen while a CUDA graph is recorded.
    """
    if lanes > MOST_LANES:
        raise InputError("a fused kernel", f"the tensor is too large ({lanes} lanes).", "Give a smaller batch.")
    if lanes == 0:
        return
    device = next(a.device for a in arguments if isinstance(a, Tensor))
    way = _ONLY.get()
    key = (variant, device, way)
    blocks = -(-lanes // LANES)
    starter = _STARTERS.get(key)
    if starter is None:
        with _FINDING:
            starter = _STARTERS.get(key)
            if starter is None:
                starter, done = _found(variant, device, way, blocks, arguments)
                _STARTERS[key] = starter
                if done:
                    return
    starter(blocks, arguments)


def available(device: torch.device | str) -> bool:
    """Does anything start kernels there?"""
    device = torch.device(device)
    if device.type == "cpu":
        return is_interpreted()
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    index = torch.cuda.current_device() if device.index is None else device.index
    return _works(index)


def is_interpreted() -> bool:
    """Do Triton's programs run in its interpreter, on the CPU?"""
    return os.environ.get("TRITON_INTERPRET") == "1" and is_installed("triton")


@lru_cache(maxsize=16)
def _works(index: int) -> bool:
    """A first kernel, and whether its result is right."""
    from trt_svc.kernels import residual_tail

    x = torch.linspace(-2, 2, 64, device=f"cuda:{index}").reshape(1, 4, 16)
    try:
        total, active = residual_tail.add_leaky(x, x, 0.1)
        expected = residual_tail.reference_add_leaky(x, x, 0.1)
        return torch.allclose(total, expected[0]) and torch.allclose(active, expected[1])
    except Exception as err:
        log.info("no fused kernels on cuda:%d: %s", index, err)
        return False


def _found(
    variant: Variant, device: torch.device, way: Way | None, blocks: int, arguments: Sequence[Argument]
) -> tuple[Starter, bool]:
    """The first way that works, and whether it has just run; where none does, one that says why from now on."""
    reasons = []
    for name, make in (("triton", _by_triton), ("shipped", _shipped)):
        if way in (None, name):
            try:
                starter = make(variant, device)
                starter(blocks, arguments)
                return starter, True
            except torch.OutOfMemoryError:
                raise  # it may work the next time
            except Exception as err:  # compilers and drivers fail in many ways
                reasons.append(f"{name}: {err}")
                log.info("kernel %s on %s not by %s: %s", variant.name, device, name, err)

    def refuse(blocks: int, arguments: Sequence[Argument]) -> None:
        raise BackendUnavailable(f"kernel {variant.name} on {device}", "; ".join(reasons), "Use plain torch there.")

    return refuse, False


def _by_triton(variant: Variant, device: torch.device) -> Starter:
    if device.type == "cpu" and not is_interpreted():
        raise BackendUnavailable(f"kernel {variant.name}", "the CPU has none.", "Set TRITON_INTERPRET=1 in tests.")
    function = getattr(_program_of(variant.module), variant.program)
    constants: dict[str, Any] = dict(variant.constants)
    if device.type == "cuda":
        constants |= {"num_warps": WARPS, "enable_fp_fusion": variant.fuses}

    def run(blocks: int, arguments: Sequence[Argument]) -> None:
        if device.type == "cpu":
            function[(blocks,)](*arguments, **constants)
            return
        with torch.cuda.device(device):
            function[(blocks,)](*arguments, **constants)

    return run


def _shipped(variant: Variant, device: torch.device) -> Starter:
    if device.type != "cuda":
        raise BackendUnavailable(f"kernel {variant.name} on {device}", "it is machine code of GPUs.", "Use a GPU.")
    code = shipped_code(variant, torch.cuda.get_device_capability(device))
    if code is None:
        raise BackendUnavailable(f"kernel {variant.name} on {device}", "none is shipped for it.", "Install triton.")
    index = 0 if device.index is None else device.index
    with torch.cuda.device(device):
        driver.enter(index)
        function = driver.loaded(code.image, code.function)

    def run(blocks: int, arguments: Sequence[Argument]) -> None:
        with torch.cuda.device(device):
            driver.enter(index)
            stream = torch.cuda.current_stream().cuda_stream
            driver.launch(function, blocks, code.threads, code.shared_bytes, stream, packed(code, arguments))

    return run


def shipped_code(variant: Variant, capability: tuple[int, int]) -> Code | None:
    """The shipped machine code of a variant for a GPU, if there is one."""
    target = archive.target_for(capability)
    return None if target is None else archive.shipped().code(variant.name, target)


_C_TYPES: dict[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


def packed(code: Code, arguments: Sequence[Argument]) -> list[Any]:
    """Arguments as the machine code wants them, checked against the manifest."""
    values: list[Any] = []
    for (name, kind), given in zip(code.types, arguments, strict=True):
        if kind.startswith("*"):
            if not isinstance(given, Tensor):
                raise InputError(f"argument {name} of {code.function}", "it is no tensor.", f"It must be a {kind}.")
            values.append(ctypes.c_void_p(given.data_ptr()))
        elif isinstance(given, Tensor):
            raise InputError(f"argument {name} of {code.function}", "it is a tensor.", f"It must be a {kind}.")
        else:
            values.append(_C_TYPES[kind](given))
    return values


def _program_of(module: str) -> Any:
    return importlib.import_module(f"trt_svc.kernels.programs.{module}")
