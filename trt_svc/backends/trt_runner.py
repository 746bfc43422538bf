"""Runs plans: NumPy arrays through page-locked memory, torch tensors in place."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_svc.backends.cuda_graphs import MAX_GRAPHS, GraphCache, Recorder, Replay, StreamOrder, Tensors
from trt_svc.backends.device_memory import Buffer, DeviceMemory, Driver, TorchDriver, open_memory
from trt_svc.backends.on_torch import as_float32
from trt_svc.backends.trt_api import TrtApi, seal, unsealed
from trt_svc.errors import EngineError, ShapeRangeError, shown
from trt_svc.files import engine_directory
from trt_svc.types import Array

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]


def device_number(device: str) -> int:
    """The number of a GPU: "auto" and "cuda" are torch's current one where torch is in use, else the first."""
    kind, _, number = device.partition(":")
    if device == "auto" or (kind == "cuda" and not number):
        torch = sys.modules.get("torch")
        return int(torch.cuda.current_device()) if torch is not None and torch.cuda.is_available() else 0
    if kind != "cuda" or not number.isdecimal():
        raise EngineError(
            f"opening an engine on {shown(device)}",
            "TensorRT runs on GPUs only.",
            "Use cuda:N, or backend='onnxruntime' there.",
        )
    return int(number)


class KernelCache:
    """Kernels that TensorRT-RTX finished at run time, kept in a file for this plan, library and GPU."""

    def __init__(self, api: TrtApi, engine: Any, path: Path) -> None:
        self._path = path
        self._kept = unsealed(path)
        self.runtime_cache = api.runtime_cache(engine, self._kept)
        self._lock = threading.Lock()

    def keep(self) -> None:
        """Writes what is new; losing it costs time only."""
        with self._lock, contextlib.suppress(Exception):
            kernels = bytes(self.runtime_cache.serialize())
            if kernels != self._kept:
                seal(self._path, kernels)
                self._kept = kernels


def kernel_file(plan: bytes, api: TrtApi, gpu: str) -> Path:
    """Beside the engines; the plan is named by its content, for a cache made with another one is of no use."""
    words = re.sub(r"[^A-Za-z0-9.]+", "_", f"{gpu}-{api.version}")[:80]
    return engine_directory() / "runtime" / f"{hashlib.blake2b(plan, digest_size=12).hexdigest()}-{words}.cache"


class OpenEngine:
    """A plan on a device, with what its runners share. Its methods are called with the device current."""

    def __init__(self, api: TrtApi, plan: bytes, driver: Driver, weights: bytes | None = None) -> None:
        self.api = api
        self._engine = api.engine(plan)
        if weights is not None:
            api.refit(self._engine, weights)
        self.inputs, self.output = self._names()
        self.profiles = [
            {name: self._bounds(name, i) for name in self.inputs} for i in range(self._engine.num_optimization_profiles)
        ]
        self._kernels: KernelCache | None = None
        self._ran = False
        if api.has_runtime_cache:
            self._kernels = KernelCache(api, self._engine, kernel_file(plan, api, driver.device_name))
            weakref.finalize(self, _keep_kernels, self._kernels, driver)

    def _names(self) -> tuple[list[str], str]:
        trt, mode = self.api.trt, self.api.trt.TensorIOMode
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        for name in names:
            if self._engine.get_tensor_dtype(name) != trt.DataType.FLOAT:
                raise EngineError("opening an engine", f"{shown(name)} is not float32.", "Build it again (--force).")
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == mode.INPUT]
        (output,) = [name for name in names if self._engine.get_tensor_mode(name) == mode.OUTPUT]
        return inputs, output

    def _bounds(self, name: str, profile: int) -> tuple[Shape, Shape]:
        low, _, high = self._engine.get_tensor_profile_shape(name, profile)
        return tuple(low), tuple(high)

    def profile_for(self, shapes: Sequence[Shape]) -> int:
        """The first profile that covers the shapes."""
        given = dict(zip(self.inputs, shapes, strict=True))
        for index, profile in enumerate(self.profiles):
            if all(_within(given[name], *bounds) for name, bounds in profile.items()):
                return index
        raise ShapeRangeError(
            "running an engine", f"no profile covers {given}.", "Rebuild it with a larger --frames or --batch range."
        )

    def context(self, graphs: bool) -> BoundContext:
        """Another execution context."""
        cache = self._kernels.runtime_cache if self._kernels else None
        return BoundContext(self, self.api.context(self._engine, cache, graphs and self.api.has_own_graphs))

    @property
    def scratch_bytes(self) -> int:
        """What a context works in."""
        return int(self._engine.device_memory_size_v2)

    def context_within(self, pointer: int, size: int) -> BoundContext:
        """An execution context that works in the given memory."""
        return BoundContext(self, self.api.context_within(self._engine, pointer, size))

    def ran(self) -> None:
        """The first run finishes most kernels; the rest is kept when the engine goes."""
        if self._kernels is not None and not self._ran:
            self._ran = True
            self._kernels.keep()


def _keep_kernels(kernels: KernelCache, driver: Driver) -> None:
    with contextlib.suppress(Exception), driver.current():
        kernels.keep()


def _within(shape: Shape, low: Shape, high: Shape) -> bool:
    return len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))


class BoundContext:
    """An execution context and the profile it is in."""

    def __init__(self, opened: OpenEngine, context: Any) -> None:
        self._opened = opened
        self._context = context
        self._profile = 0

    def prepare(self, shapes: Sequence[Shape], stream: int) -> Shape:
        """Sets the shapes of the inputs; gives that of the output."""
        self._choose(self._opened.profile_for(shapes), stream)
        for name, shape in zip(self._opened.inputs, shapes, strict=True):
            if not self._context.set_input_shape(name, shape):
                raise ShapeRangeError(
                    f"input {name}", f"the engine refuses shape {shape}.", "Rebuild it with a larger range."
                )
        made = tuple(int(size) for size in self._context.get_tensor_shape(self._opened.output))
        if min(made, default=0) < 0:
            raise ShapeRangeError(
                "running an engine",
                f"the shapes {list(shapes)} do not belong together.",
                "Give all inputs the same frames.",
            )
        return made

    def _choose(self, profile: int, stream: int) -> None:
        # Each change makes the runtime forget the shapes and may copy on the device.
        if profile == self._profile:
            return
        self._profile = -1
        if not self._context.set_optimization_profile_async(profile, stream):
            raise self._opened.api.run_failed()
        self._profile = profile

    def bind(self, inputs: Sequence[int], output: int) -> None:
        """Sets the addresses."""
        for name, pointer in zip([*self._opened.inputs, self._opened.output], [*inputs, output], strict=True):
            if not self._context.set_tensor_address(name, pointer):
                raise self._opened.api.run_failed()

    def enqueue(self, stream: int) -> None:
        """Starts the run on a stream."""
        if not self._context.execute_async_v3(stream):
            raise self._opened.api.run_failed()


class TrtRunner:
    """One execution context: one run at a time, from any thread. `sibling` gives another on the same engine.

    CUDA graphs: TensorRT-RTX records by itself. For classic TensorRT shapes that come again are recorded with torch,
    for tensors and, where torch holds the memory, for arrays; under cuda-core and PyCUDA arrays run without graphs.
    A caller who records `run_tensors` in a CUDA graph of their own must keep this runner for that graph alone.
    """

    def __init__(
        self,
        opened: OpenEngine,
        memory: DeviceMemory,
        number: int,
        new_memory: Callable[[], DeviceMemory],
        max_graphs: int = MAX_GRAPHS,
    ) -> None:
        self.device = f"cuda:{number}"
        self._opened = opened
        self._memory = memory
        self._number = number
        self._new_memory = new_memory
        self._max_graphs = max_graphs
        self._lock = threading.Lock()
        self._order = StreamOrder()
        self._recorder = Recorder(self._order)
        self._graphs: GraphCache[Tensors, torch.Tensor] = GraphCache(self._useful_graphs())
        self._scratch: torch.Tensor | None = None
        with memory.current():
            self._bound = opened.context(graphs=max_graphs > 0)
        self._in_place = InPlace(self._bound)

    @classmethod
    def open(
        cls,
        api: TrtApi,
        plan: bytes,
        device: str,
        weights: bytes | None = None,
        max_graphs: int = MAX_GRAPHS,
        new_memory: Callable[[], DeviceMemory] | None = None,
    ) -> TrtRunner:
        """The verified plan on a device."""
        number = device_number(device)
        memory = new_memory() if new_memory else open_memory(number)
        with memory.current():
            opened = OpenEngine(api, plan, memory.driver, weights)
        name = memory.driver.name
        return cls(opened, memory, number, new_memory or (lambda: open_memory(number, name)), max_graphs)

    def sibling(self) -> TrtRunner:
        """Another execution context on the same engine, with memory, stream and lock of its own."""
        return type(self)(self._opened, self._new_memory(), self._number, self._new_memory, self._max_graphs)

    def close(self) -> None:
        """Frees recordings and idle memory."""
        with self._lock, self._memory.current():
            self._graphs.close()
            self._order.wait_on_host()
            self._scratch = None
            self._memory.close()

    # Arrays.

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Audio (B, samples) for the graph's inputs; freshly allocated at each call."""
        arrays = [np.ascontiguousarray(inputs[name], np.float32) for name in self._opened.inputs]
        with self._lock, self._memory.current():
            driver = self._memory.driver
            wave = self._arrays_by_torch(arrays, driver) if isinstance(driver, TorchDriver) else self._arrays(arrays)
            self._opened.ran()
        return wave

    def _arrays(self, arrays: Sequence[Array]) -> Array:
        memory, held = self._memory, list[Buffer]()
        self._order.wait_on_host()
        try:
            shape = self._bound.prepare([array.shape for array in arrays], memory.stream)
            for array in arrays:
                held.append(memory.upload(array))
            output = memory.empty(4 * int(np.prod(shape)))
            held.append(output)
            self._bound.bind([buffer.pointer for buffer in held[:-1]], output.pointer)
            self._bound.enqueue(memory.stream)
            return memory.download(output, shape, np.float32)
        finally:
            memory.release(*held)

    def _arrays_by_torch(self, arrays: Sequence[Array], driver: TorchDriver) -> Array:
        import torch

        memory, held = self._memory, list[Buffer]()
        try:
            with torch.no_grad(), torch.cuda.stream(driver.torch_stream):
                for array in arrays:
                    held.append(memory.upload(array))
                tensors = [
                    buffer.owner[: array.nbytes].view(torch.float32).view(array.shape)
                    for buffer, array in zip(held, arrays, strict=True)
                ]
                wave = self._on_torch(tensors).contiguous()
                whole = Buffer(wave.data_ptr(), wave.nbytes, wave.view(-1).view(torch.uint8))
                return memory.download(whole, tuple(wave.shape), np.float32)
        finally:
            memory.release(*held)

    # Tensors.

    def run_tensors(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Audio (B, samples) for tensors, in the order of torch's current stream, without waiting for it.

        Contiguous float32 tensors on this device are read where they are; others are converted there.
        """
        import torch

        with self._lock, self._memory.current(), torch.cuda.device(self._torch_device), torch.no_grad():
            wave = self._on_torch([as_float32(inputs[name], self._torch_device) for name in self._opened.inputs])
            self._opened.ran()
        return wave

    @property
    def _torch_device(self) -> torch.device:
        import torch

        return torch.device("cuda", self._number)

    def _on_torch(self, tensors: Tensors) -> torch.Tensor:
        import torch

        if torch.cuda.is_current_stream_capturing():
            return self._in_place(tensors)
        with self._order.turn():
            key = tuple(tuple(tensor.shape) for tensor in tensors)
            return self._graphs.run(key, tensors, self._in_place, self._record)

    # CUDA graphs.

    def _useful_graphs(self) -> int:
        api = self._opened.api
        # Kernels that RTX has not finished yet must not be recorded from outside.
        own_recording = api.contexts_can_share and not api.has_runtime_cache
        return self._max_graphs if api.has_own_graphs or own_recording else 0

    def _record(self, tensors: Tensors) -> Replay[Tensors, torch.Tensor]:
        if self._opened.api.has_own_graphs:
            return FixedBuffers(self._in_place, tensors, self._order)
        return self._recorder.record(tensors, self._prepared)

    def _prepared(self, tensors: Tensors) -> Callable[[], torch.Tensor]:
        """A context of its own for a recording: changing a recorded context's shapes would break the recording."""
        import torch

        if self._scratch is None:
            size = max(self._opened.scratch_bytes, 1)
            self._scratch = torch.empty(size, dtype=torch.uint8, device=self._torch_device)
        scratch = self._scratch
        bound = self._opened.context_within(scratch.data_ptr(), scratch.nbytes)
        shapes = [tuple(tensor.shape) for tensor in tensors]
        wave = torch.empty(
            bound.prepare(shapes, torch.cuda.current_stream().cuda_stream),
            dtype=torch.float32,
            device=self._torch_device,
        )
        bound.bind([tensor.data_ptr() for tensor in tensors], wave.data_ptr())

        def launch(_held: torch.Tensor = scratch) -> torch.Tensor:
            bound.enqueue(torch.cuda.current_stream().cuda_stream)
            return wave

        return launch


class InPlace:
    """Runs a context on tensors where they are."""

    def __init__(self, bound: BoundContext) -> None:
        self._bound = bound
        self._spare: torch.cuda.Stream | None = None

    def __call__(self, tensors: Tensors, output: torch.Tensor | None = None) -> torch.Tensor:
        import torch

        current = torch.cuda.current_stream()
        work = self._beside(current)
        shape = self._bound.prepare([tuple(tensor.shape) for tensor in tensors], work.cuda_stream)
        wave = torch.empty(shape, dtype=torch.float32, device=tensors[0].device) if output is None else output
        self._bound.bind([tensor.data_ptr() for tensor in tensors], wave.data_ptr())
        self._bound.enqueue(work.cuda_stream)
        if work is not current:
            current.wait_stream(work)
        return wave

    def _beside(self, current: torch.cuda.Stream) -> torch.cuda.Stream:
        """The stream to run on: on the default one TensorRT would wait for the whole device."""
        import torch

        if current.cuda_stream != 0:
            return current
        if self._spare is None:
            self._spare = torch.cuda.Stream(current.device)  # type: ignore[no-untyped-call]
        self._spare.wait_stream(current)
        return self._spare


class FixedBuffers:
    """Inputs and output at fixed addresses, for a runtime that records by itself: it does so for each address anew."""

    def __init__(self, run: InPlace, inputs: Tensors, order: StreamOrder) -> None:
        import torch

        self._run = run
        self._order = order
        self._inputs = [torch.empty_like(tensor) for tensor in inputs]
        self._output: torch.Tensor | None = None

    def __call__(self, inputs: Tensors, /) -> torch.Tensor:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._output = self._run(self._inputs, self._output)
        return self._output.clone()

    def close(self) -> None:
        self._order.wait_on_host()
