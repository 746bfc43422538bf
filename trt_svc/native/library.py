"""The compiled kernels as Python objects."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from ctypes import POINTER, c_double, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from trt_svc.errors import BackendUnavailable, EngineError, InputError, OutOfMemory, TrtSvcError
from trt_svc.native.checking import check
from trt_svc.native.compiling import SOURCE, library_path, source_hash
from trt_svc.native.plan import JOINTS, KINDS, NO_VIEW, POSTS, Plan, Step
from trt_svc.types import Array

ABI = 1
NO_MEMORY = 1
TROUBLES = {
    2: "the lengths of the inputs do not fit together",
    3: "the plan is not one of this version",
}


class _TensorPlan(ctypes.Structure):
    _fields_ = [("slot", c_int32), ("channels", c_int32), ("stride", c_int32)]


class _StepPlan(ctypes.Structure):
    _fields_ = [
        *((name, c_int32) for name in ("kind", "source", "to")),
        ("add", c_int32 * 2),
        ("from_channel", c_int32),
        ("add_channel", c_int32 * 2),
        ("to_channel", c_int32),
        *((name, c_int32) for name in ("in_channels", "out_channels", "kernel", "dilation", "stride", "pad", "crop")),
        *((name, c_int32) for name in ("post", "joint", "outputs", "taps")),
        *((name, c_float) for name in ("slope", "scale")),
        *((name, c_void_p) for name in ("weight", "bias", "extra")),
    ]


def library() -> Any:
    """The shared library for this CPU; BackendUnavailable where there is none."""
    found = _loaded()
    if isinstance(found, BackendUnavailable):
        raise BackendUnavailable(found.asked, found.found, found.advice)
    return found


@cache
def _loaded() -> Any:
    """The library, or why there is none: compilers are not asked again and again."""
    try:
        return _library_at(library_path())
    except BackendUnavailable as err:
        return err


def _library_at(path: Path) -> Any:
    try:
        found = ctypes.CDLL(str(path))
    except OSError as err:
        raise BackendUnavailable(
            "the native kernels", f"{path.name} cannot be loaded ({err}).", "Delete it: it will be compiled again."
        ) from err
    found.trt_svc_network.restype = found.trt_svc_context.restype = c_void_p
    found.trt_svc_network.argtypes = [
        POINTER(_TensorPlan), c_int32, POINTER(_StepPlan), c_int32, c_int32,
        POINTER(c_int32), c_int32, c_int32, c_int32,
    ]  # fmt: skip
    found.trt_svc_context.argtypes = [c_void_p, c_int32]
    found.trt_svc_network_free.argtypes = found.trt_svc_context_free.argtypes = [c_void_p]
    found.trt_svc_network_free.restype = found.trt_svc_context_free.restype = None
    found.trt_svc_length.argtypes = [c_void_p, POINTER(c_int64)]
    found.trt_svc_length.restype = c_int64
    found.trt_svc_run.argtypes = [c_void_p, POINTER(c_void_p), POINTER(c_int64), c_int32, c_void_p]
    found.trt_svc_step_seconds.argtypes = [c_void_p, POINTER(c_double)]
    found.trt_svc_step_seconds.restype = None
    if found.trt_svc_abi() != ABI:
        raise BackendUnavailable(
            "the native kernels", f"{path.name} is of another version.", "Delete it: it will be compiled again."
        )
    return found


def isa() -> str:
    """The kind of vectors that the library works with."""
    return str(Path(library()._name).stem.rpartition("-")[2])


def kernels_sha256() -> str:
    """Hash of what the kernels are compiled from: a plan is tuned for one version of them."""
    return source_hash(SOURCE)


class Network:
    """A plan with its weights packed for this CPU."""

    def __init__(self, plan: Plan, threads: int) -> None:
        check(plan)
        self.plan = plan
        self._library = library()
        tensors = (_TensorPlan * len(plan.tensors))(*(_TensorPlan(t.slot, t.channels, t.stride) for t in plan.tensors))
        kept: list[Array] = []
        steps = (_StepPlan * len(plan.steps))(*(_as_struct(step, plan.weights, kept) for step in plan.steps))
        inputs = (c_int32 * len(plan.inputs))(*(number for _, number in plan.inputs))
        self.handle = self._library.trt_svc_network(
            tensors, len(tensors), steps, len(steps), plan.slots, inputs, len(inputs), plan.output, threads
        )
        if not self.handle:
            raise _no_memory("opening a native engine")
        _freed_with(self, self._library.trt_svc_network_free, self.handle)


class Context:
    """Threads and memory for one run at a time."""

    def __init__(self, network: Network, threads: int) -> None:
        self._network = network
        self._library = network._library
        self._handle = self._library.trt_svc_context(network.handle, threads)
        if not self._handle:
            raise _no_memory("running a native engine")
        _freed_with(self, self._library.trt_svc_context_free, self._handle)

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """The output for inputs (batch, channels, length)."""
        plan = self._network.plan
        missing = [name for name, _ in plan.inputs if name not in inputs]
        if missing:
            raise InputError(f"input {missing[0]!r}", "it is missing.", "Give all inputs of the network.")
        given = [np.ascontiguousarray(inputs[name], dtype=np.float32) for name, _ in plan.inputs]
        for (name, number), array in zip(plan.inputs, given, strict=True):
            wanted = (given[0].shape[0], plan.tensors[number].channels)
            if array.ndim != 3 or array.shape[:2] != wanted:
                raise InputError(f"input {name!r}", f"its shape is {array.shape}.", f"Give it {wanted} by its length.")
        batch = given[0].shape[0]
        lengths = (c_int64 * len(given))(*(array.shape[2] for array in given))
        length = int(self._library.trt_svc_length(self._handle, lengths))
        if length < 0:
            raise _trouble(-length)
        channels = plan.tensors[plan.output].channels
        made = np.empty((batch, length) if plan.squeezed else (batch, channels, length), np.float32)
        pointers = (c_void_p * len(given))(*(array.ctypes.data for array in given))
        trouble = self._library.trt_svc_run(self._handle, pointers, lengths, batch, made.ctypes.data)
        if trouble:
            raise _trouble(trouble)
        return made

    def step_seconds(self) -> list[float]:
        """The shortest time of every step since this was last asked."""
        seconds = (c_double * len(self._network.plan.steps))()
        self._library.trt_svc_step_seconds(self._handle, seconds)
        return list(seconds)


class Contexts:
    """Contexts of a network, one for each call that runs at a time."""

    def __init__(self, network: Network, threads: int, most_idle: int) -> None:
        self._network, self._threads, self._most_idle = network, threads, most_idle
        self._idle: list[Context] = []
        self._lock = threading.Lock()
        self._process = os.getpid()

    def run(self, inputs: Mapping[str, Array]) -> Array:
        if self._process != os.getpid():  # a fork, in which the contexts have no threads and the lock may be taken
            self._idle, self._lock, self._process = [], threading.Lock(), os.getpid()
        with self._lock:
            context = self._idle.pop() if self._idle else None
        context = context or Context(self._network, self._threads)
        made = context.run(inputs)
        with self._lock:
            if len(self._idle) < self._most_idle:
                self._idle.append(context)
        return made


def _freed_with(owner: object, free: Callable[[int], None], handle: int) -> None:
    """Frees what an object holds when it goes; not at the end of the process, nor in a fork, which has no threads."""
    process = os.getpid()

    def freed() -> None:
        if os.getpid() == process:
            free(handle)

    weakref.finalize(owner, freed).atexit = False


def _no_memory(asked: str) -> OutOfMemory:
    return OutOfMemory(asked, "there is not enough memory.", "Close other programs, or use a smaller network.")


def _trouble(number: int) -> TrtSvcError:
    if number == NO_MEMORY:  # a session tries again with less at once
        return _no_memory("running a native engine")
    return EngineError("running a native engine", f"{TROUBLES[number]}.", "Check the shapes of the inputs.")


def _pointer(name: str, weights: Mapping[str, Array], kept: list[Array]) -> int | None:
    if not name:
        return None
    kept.append(np.ascontiguousarray(weights[name], dtype=np.float32))
    return int(kept[-1].ctypes.data)


def _as_struct(step: Step, weights: Mapping[str, Array], kept: list[Array]) -> _StepPlan:
    adds: Sequence[Any] = (*step.adds, NO_VIEW, NO_VIEW)[:2]
    form = (step.form.outputs, step.form.taps) if step.form else (0, 0)
    return _StepPlan(
        KINDS.index(step.kind), step.source.tensor, step.to.tensor,
        (c_int32 * 2)(*(view.tensor for view in adds)), step.source.channel,
        (c_int32 * 2)(*(view.channel for view in adds)), step.to.channel,
        step.in_channels, step.out_channels, step.kernel, step.dilation, step.stride, step.pad, step.crop,
        POSTS.index(step.post), JOINTS.index(step.joint), *form, step.slope, step.scale,
        *(_pointer(name, weights, kept) for name in (step.weight, step.bias, step.extra)),
    )  # fmt: skip
