"""Device memory, recorded launches and the runners' behaviour in threads, as far as they can be seen without a GPU.

What touches CUDA is exercised against stand-ins: memory of the host in place of the device's, and module objects in
place of cuda-core and PyCUDA. They show that the calls are made in the right order and given back, not that a driver
accepts them.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.nets import healthy_small, inputs_of_any_length
from trt_svc import hardware
from trt_svc.backends import device_memory
from trt_svc.backends.base import TensorRunner, backends
from trt_svc.backends.cuda_graphs import REMEMBERED, GraphCache
from trt_svc.backends.device_memory import (
    MAX_IDLE,
    Buffer,
    CudaCoreDriver,
    DeviceMemory,
    Driver,
    PycudaDriver,
    Staging,
    available_drivers,
    driver_error,
    open_memory,
    torch_has_cuda,
)
from trt_svc.backends.openvino import MAX_IDLE as MAX_REQUESTS
from trt_svc.backends.openvino import OpenVinoRunner
from trt_svc.backends.torch_eager import TorchRunner
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.errors import BackendUnavailable, EngineError, OutOfMemory
from trt_svc.graph.vocoder import graph_from_vocoder
from trt_svc.progress import Quiet


class HostDriver(Driver):
    """Memory of the host in place of the device's, with everything counted."""

    name = "host"

    def __init__(self, number: int = 0, room: int | None = None) -> None:
        self.stream = 7
        self.device_name = "a host"
        self.room = room
        self.live = 0
        self.made = 0
        self.waits = 0
        self.depth = 0
        self.sizes: dict[int, int] = {}

    @contextmanager
    def current(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def _array(self, size: int) -> Any:
        assert self.depth, "allocated without the device's context"
        if self.room is not None and self.live + size > self.room:
            raise OutOfMemory("allocating", "there is no room.", "Wait.")
        self.live += size
        self.made += 1
        return np.full(size, 0xAB, np.uint8)

    def allocate(self, size: int) -> Buffer:
        array = self._array(size)
        return Buffer(array.ctypes.data, size, array)

    def allocate_staging(self, size: int) -> Staging:
        return Staging(self._array(size), None)

    def free(self, memory: Buffer | Staging) -> None:
        assert self.depth, "freed without the device's context"
        self.live -= memory.capacity

    def to_device(self, buffer: Buffer, staging: Staging, size: int) -> None:
        ctypes.memmove(buffer.pointer, staging.host.ctypes.data, size)

    def to_host(self, staging: Staging, buffer: Buffer, size: int) -> None:
        ctypes.memmove(staging.host.ctypes.data, buffer.pointer, size)

    def wait(self) -> None:
        self.waits += 1


# Pools.


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8"])
def test_an_array_comes_back_as_it_was(dtype: str) -> None:
    memory = DeviceMemory(HostDriver())
    array = (np.arange(6000) % 251).astype(dtype).reshape(2, 30, 100)
    with memory.current():
        for given in (array, array[:, ::3, ::-1], array.transpose(2, 0, 1), array[:, :, :1]):
            back = memory.download(memory.upload(given), given.shape, dtype)
            np.testing.assert_array_equal(back, given)


def test_what_is_downloaded_is_the_callers() -> None:
    memory = DeviceMemory(HostDriver())
    with memory.current():
        first = memory.download(memory.upload(np.ones(100, np.float32)), (100,), np.float32)
        memory.download(memory.upload(np.zeros(100, np.float32)), (100,), np.float32)
    assert (first == 1).all()


def test_a_repeated_run_allocates_nothing() -> None:
    driver = HostDriver()
    memory = DeviceMemory(driver)

    def run(frames: int) -> None:
        with memory.current():
            buffers = [
                memory.upload(np.zeros((1, 80, frames), np.float32)),
                memory.upload(np.zeros(frames, np.float32)),
            ]
            buffers.append(memory.empty(4 * 256 * frames))
            memory.download(buffers[-1], (1, 256 * frames), np.float32)
            memory.release(*buffers)

    run(60)
    made = driver.made
    for frames in (60, 60, 50, 64):
        run(frames)
    assert driver.made == made


def test_idle_memory_is_bounded() -> None:
    driver = HostDriver()
    memory = DeviceMemory(driver, max_idle=2)
    with memory.current():
        memory.release(*[memory.empty(4096) for _ in range(6)])
    assert driver.live == 2 * 4096


def test_staging_is_not_written_while_a_copy_may_read_it() -> None:
    driver = HostDriver()
    memory = DeviceMemory(driver)
    copies: list[Staging] = []
    driver.to_device = lambda buffer, staging, size: copies.append(staging)  # type: ignore[method-assign]
    with memory.current():
        for _ in range(MAX_IDLE):
            memory.upload(np.zeros(8))
        assert len({id(staging) for staging in copies}) == MAX_IDLE
        assert driver.waits == 0
        memory.upload(np.zeros(8))
        assert driver.waits == 1, "too many copies under way: it waits for them"


def test_idle_memory_makes_room_before_a_run_fails() -> None:
    driver = HostDriver(room=3 * 8192)
    memory = DeviceMemory(driver)
    with memory.current():
        memory.release(memory.empty(8192), memory.empty(8192))
        memory.empty(16384)
        with pytest.raises(OutOfMemory):
            memory.empty(16384)


@pytest.mark.parametrize("how", ["close", "garbage"])
def test_all_memory_is_given_back(how: str) -> None:
    driver = HostDriver()
    memory = DeviceMemory(driver)
    with memory.current():
        memory.release(memory.upload(np.zeros(5000)))
    assert driver.live
    if how == "close":
        memory.close()
        memory.close()
    else:
        del memory
        gc.collect()
    assert driver.live == 0


@pytest.mark.parametrize(
    "err",
    [
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: unable to allocate enough memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("Failed to allocate memory from pool"),
        type("MemoryError", (Exception,), {})("cuMemAlloc failed"),
    ],
)
def test_too_little_memory_has_its_own_error(err: Exception) -> None:
    assert isinstance(driver_error("copying", err), OutOfMemory)


def test_other_failures_of_a_driver_are_typed() -> None:
    found = driver_error("copying", RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS\n" + "x" * 500))
    assert isinstance(found, EngineError)
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in str(found)
    assert "\n" not in str(found)


# Which driver.


def packages(monkeypatch: pytest.MonkeyPatch, *here: str, cuda: bool, imported: bool) -> None:
    monkeypatch.setattr(device_memory, "is_installed", lambda module: module in here)
    monkeypatch.setattr(device_memory, "torch_has_cuda", lambda: cuda)
    if not imported:
        monkeypatch.delitem(sys.modules, "torch")


BOTH = ("cuda.core", "cuda.bindings", "pycuda")


@pytest.mark.parametrize(
    ("here", "cuda", "imported", "expected"),
    [
        (BOTH, True, True, ["torch", "cuda-core", "pycuda"]),
        (BOTH, True, False, ["cuda-core", "pycuda", "torch"]),
        (BOTH, False, True, ["cuda-core", "pycuda"]),
        (("cuda.core", "pycuda"), False, False, ["pycuda"]),
        ((), True, False, ["torch"]),
        ((), False, False, []),
    ],
)
def test_the_order_of_the_drivers(
    here: tuple[str, ...], cuda: bool, imported: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages(monkeypatch, *here, cuda=cuda, imported=imported)
    assert available_drivers() == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cuda: Optional[str] = '12.8'", True),
        ("cuda = '11.8'", True),
        ("cuda: Optional[str] = None", False),
        ("debug = False", False),
    ],
)
def test_torchs_cuda_is_read_without_importing_it(
    line: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2'\n{line}\n")
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.syspath_prepend(tmp_path)
    assert torch_has_cuda() is expected
    assert "torch" not in sys.modules


def test_a_driver_that_fails_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(number: int) -> Driver:
        raise EngineError("opening", "the driver is too old.", "Update it.")

    monkeypatch.setattr(device_memory, "DRIVERS", {"broken": broken, "host": HostDriver})
    monkeypatch.setattr(device_memory, "available_drivers", lambda: ["broken", "host"])
    assert open_memory(0).driver.name == "host"
    with pytest.raises(BackendUnavailable, match="broken: the driver is too old"):
        open_memory(0, "broken")
    monkeypatch.setattr(device_memory, "available_drivers", list)
    with pytest.raises(BackendUnavailable, match="none is installed"):
        open_memory(0)


# cuda-core and PyCUDA: their calls as read in the packages' own sources.


class Contexts:
    """The stack of current contexts of a thread, as the CUDA driver keeps it."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.live = 0

    def push(self, context: Any) -> None:
        self.stack.append(context)

    def pop(self) -> Any:
        return self.stack.pop()


def stand_in_for_cuda_core(monkeypatch: pytest.MonkeyPatch, contexts: Contexts, folder: str) -> None:
    class Made:
        def __init__(self, size: int) -> None:
            assert contexts.stack
            self.array = np.zeros(size, np.uint8)
            self.handle = self.array.ctypes.data
            contexts.live += 1

        def close(self, stream: Any = None) -> None:
            contexts.live -= 1

    class Device:
        def __init__(self, number: int) -> None:
            self.name = f"GPU {number}"

        def set_current(self) -> None:
            assert contexts.stack

        def create_stream(self) -> Any:
            return SimpleNamespace(handle=11, sync=lambda: None)

        def allocate(self, size: int, *, stream: Any) -> Made:
            return Made(size)

    def copy(to: int, source: int, size: int, stream: Any) -> tuple[int]:
        ctypes.memmove(to, source, size)
        return (0,)

    core = ModuleType("cuda.core")
    classes = core if folder == "cuda.core" else ModuleType(folder)
    vars(classes).update(Device=Device, LegacyPinnedMemoryResource=lambda: SimpleNamespace(allocate=Made))
    driver = ModuleType("cuda.bindings.driver")
    vars(driver).update(
        cuInit=lambda flags: (0,),
        cuDeviceGet=lambda number: (0, number),
        cuDevicePrimaryCtxRetain=lambda device: (0, f"primary {device}"),
        cuCtxPushCurrent=lambda context: (contexts.push(context) or 0,),  # type: ignore[func-returns-value]
        cuCtxPopCurrent=lambda: (0, contexts.pop()),
        cuMemcpyAsync=copy,
        cuGetErrorName=lambda error: (0, b"CUDA_ERROR"),
    )
    for module in (ModuleType("cuda"), ModuleType("cuda.bindings"), core, classes, driver):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def stand_in_for_pycuda(monkeypatch: pytest.MonkeyPatch, contexts: Contexts) -> None:
    class Allocation:
        def __init__(self, size: int) -> None:
            assert contexts.stack
            self.array = np.zeros(size, np.uint8)
            contexts.live += 1

        def __int__(self) -> int:
            return self.array.ctypes.data

        def free(self) -> None:
            assert contexts.stack
            contexts.live -= 1

    class Pinned(np.ndarray):  # type: ignore[type-arg]
        base: Any = None

    def pagelocked_empty(size: int, dtype: Any) -> Any:
        made = np.zeros(size, dtype).view(Pinned)
        made.base = Allocation(1)
        return made

    module = ModuleType("pycuda.driver")
    vars(module).update(
        init=lambda: None,
        Device=lambda number: SimpleNamespace(
            name=lambda: f"GPU {number}",
            retain_primary_context=lambda: SimpleNamespace(push=lambda: contexts.push("primary")),
        ),
        Context=SimpleNamespace(pop=contexts.pop),
        Stream=lambda flags: SimpleNamespace(handle=11, synchronize=lambda: None),
        mem_alloc=Allocation,
        pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=lambda to, source, stream: ctypes.memmove(to, source.ctypes.data, source.nbytes),
        memcpy_dtoh_async=lambda to, source, stream: ctypes.memmove(to.ctypes.data, source, to.nbytes),
    )
    for made in (ModuleType("pycuda"), module):
        monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(device_memory, "_PYCUDA_CONTEXTS", {})


@pytest.mark.parametrize("package", ["cuda.core", "cuda.core.experimental", "pycuda"])
def test_other_packages_hold_the_memory_too(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = Contexts()
    if package == "pycuda":
        stand_in_for_pycuda(monkeypatch, contexts)
    else:
        stand_in_for_cuda_core(monkeypatch, contexts, package)
    memory = DeviceMemory(PycudaDriver(1) if package == "pycuda" else CudaCoreDriver(1))
    assert (memory.stream, memory.driver.device_name, contexts.stack) == (11, "GPU 1", [])
    array = np.arange(12, dtype=np.float32).reshape(3, 4)

    def run() -> None:
        with memory.current():
            buffer = memory.upload(array)
            np.testing.assert_array_equal(memory.download(buffer, (3, 4), np.float32), array)
            memory.release(buffer)
        assert contexts.stack == []

    run()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()
    memory.close()
    assert (contexts.live, contexts.stack) == (0, [])


def test_errors_of_cuda_core_calls_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_cuda_core(monkeypatch, Contexts(), "cuda.core")
    driver = CudaCoreDriver(0)
    monkeypatch.setattr(sys.modules["cuda.bindings.driver"], "cuMemcpyAsync", lambda *_: (700,))
    with driver.current(), pytest.raises(EngineError, match="CUDA_ERROR"):
        driver.to_device(driver.allocate(8), driver.allocate_staging(8), 8)


# Without torch.


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_a_process_can_look_at_tensorrt_without_torch(backend: str, tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("def nvmlInit():\n    raise OSError('no driver')\n")
    code = (
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "from trt_svc.backends.base import backends\n"
        f"probe = backends.get({backend.replace('_', '-')!r})().probe()\n"
        "from trt_svc.backends.device_memory import open_memory\n"
        "from trt_svc.backends.trt_runner import TrtRunner, device_number\n"
        "assert device_number('auto') == 0\n"
        "from trt_svc.hardware import all_gpus\n"
        "assert all_gpus()[0] == []\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "print(probe.runs)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


GPUS = [hardware.Gpu("RTX", "sm89", 8, 4, "580"), hardware.Gpu("T4", "sm75", 8, 4, "580")]


@pytest.mark.parametrize(
    ("found", "hidden", "trusted"),
    [
        ([], False, True),
        (GPUS[:1], False, True),
        ([GPUS[0]] * 2, False, True),
        (GPUS, False, False),
        (GPUS[:1], True, False),
    ],
)
def test_nvml_is_asked_alone_where_its_order_does_not_matter(
    found: list[hardware.Gpu], hidden: bool, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_by_nvml", lambda: found)
    monkeypatch.setattr(hardware, "is_installed", lambda module: True)
    if hidden:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    else:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (hardware._alone_by_nvml()[0] is not None) is trusted
    monkeypatch.delitem(sys.modules, "torch")
    if trusted:
        assert hardware.all_gpus()[0] == found
        assert "torch" not in sys.modules


# Which shapes are recorded.


class Recording:
    def __init__(self, log: list[str], name: str) -> None:
        self.log = log
        self.name = name
        log.append(f"record {name}")

    def __call__(self, inputs: str, /) -> str:
        self.log.append(f"replay {inputs}")
        return f"replayed {inputs}"

    def close(self) -> None:
        self.log.append(f"close {self.name}")


class Cache(GraphCache[str, str]):
    """With one way to record."""

    def __init__(self, record: Callable[[str], Recording], limit: int = 8) -> None:
        super().__init__(limit)
        self.record = record

    def get(self, key: Hashable, name: str) -> str:
        return self.run(key, name, plainly, self.record)


def cache_with_log(limit: int) -> tuple[Cache, list[str]]:
    log: list[str] = []
    return Cache(lambda name: Recording(log, name), limit), log


def plainly(name: str) -> str:
    return f"plain {name}"


def test_a_shape_is_recorded_when_it_comes_again() -> None:
    cache, log = cache_with_log(8)
    assert cache.get("a", "a") == "plain a"
    assert log == []
    assert cache.get("a", "a") == "replayed a"
    assert cache.get("a", "a") == "replayed a"
    assert log == ["record a", "replay a", "replay a"]


def test_no_graphs_are_made_when_they_are_switched_off() -> None:
    cache, log = cache_with_log(0)
    assert [cache.get("a", "a") for _ in range(5)] == ["plain a"] * 5
    assert log == []


def test_the_shape_used_longest_ago_goes() -> None:
    cache, log = cache_with_log(2)
    for name in "aabb" + "a" + "cc":
        cache.get(name, name)
    assert [line for line in log if not line.startswith("replay")] == ["record a", "record b", "close b", "record c"]
    assert len(cache) == 2


def test_more_shapes_than_recordings_do_not_mean_recording_all_the_time() -> None:
    cache, log = cache_with_log(2)
    for _ in range(100):
        for name in "abc":
            cache.get(name, name)
    assert sum(line.startswith("record") for line in log) < 20


def test_many_shapes_are_not_remembered_for_ever() -> None:
    cache, log = cache_with_log(2)
    for name in range(10 * REMEMBERED):
        cache.get(name, str(name))
    assert len(cache._shapes) <= REMEMBERED
    assert log == []


def test_a_shape_that_cannot_be_recorded_runs_plainly() -> None:
    tried: list[str] = []

    def record(name: str) -> Recording:
        tried.append(name)
        raise RuntimeError("operation not permitted when stream is capturing")

    cache = Cache(record)
    assert [cache.get("a", "a") for _ in range(6)] == ["plain a"] * 6
    assert tried == ["a"]


def test_a_replay_that_fails_is_not_tried_again() -> None:
    class Broken(Recording):
        def __call__(self, inputs: str, /) -> str:
            raise RuntimeError("an illegal memory access was encountered")

    log: list[str] = []
    cache = Cache(lambda name: Broken(log, name))
    assert [cache.get("a", "a") for _ in range(4)] == ["plain a"] * 4
    assert log == ["record a", "close a"]


def test_graphs_are_used_by_one_thread_at_a_time() -> None:
    busy, at_once = threading.Lock(), []

    class Careful(Recording):
        def __call__(self, inputs: str, /) -> str:
            if busy.acquire(blocking=False):
                time.sleep(1e-4)
                busy.release()
            else:
                at_once.append(inputs)
            return super().__call__(inputs)

    cache = Cache(lambda name: Careful([], name), 2)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda i: cache.get(i % 3, str(i)), range(300)))
    assert not at_once
    assert {wave.split()[-1] for wave in made} == {str(i) for i in range(300)}
    assert sum(wave.startswith("replayed") for wave in made) > 50
    cache.close()
    assert len(cache) == 0


# The torch runner.


class Watched(torch.nn.Module):
    """A network that notes where its inputs lie."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.scale = torch.nn.Parameter(torch.ones(1))

    def core_inputs(self) -> tuple[Any, ...]:
        return (SimpleNamespace(name="mel"), SimpleNamespace(name="source"))

    def forward(self, mel: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        self.seen = [mel, source]
        return (mel * self.scale + source).sum(1)


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"source": torch.randn(2, 3, 10), "mel": torch.randn(2, 3, 10)}


def watched() -> tuple[TorchRunner, Watched]:
    net = Watched()
    return TorchRunner(net, "cpu"), net  # type: ignore[arg-type]


def test_tensors_are_read_where_they_are() -> None:
    runner, net = watched()
    given = tensors()
    made = runner.run_tensors(given)
    assert [t.data_ptr() for t in net.seen] == [given["mel"].data_ptr(), given["source"].data_ptr()]
    torch.testing.assert_close(made, (given["mel"] + given["source"]).sum(1))
    made += 1  # the caller's, also outside inference mode
    assert isinstance(runner, TensorRunner)
    assert runner.device == "cpu"


@pytest.mark.parametrize("form", ["half", "double", "strided", "broadcast"])
def test_other_tensors_are_converted(form: str) -> None:
    runner, net = watched()
    given = tensors()
    plain = given["mel"].half().float() if form == "half" else given["mel"]
    forms = {
        "half": lambda t: t.half(),
        "double": lambda t: t.double(),
        "strided": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
        "broadcast": lambda t: t[:, :, :1].expand(2, 3, 10),
    }
    if form == "broadcast":
        plain = plain[:, :, :1].repeat(1, 1, 10)
    made = runner.run_tensors({"mel": forms[form](given["mel"]), "source": given["source"]})
    assert net.seen[0].dtype == torch.float32
    assert net.seen[0].is_contiguous()
    torch.testing.assert_close(made, (plain + given["source"]).sum(1))


def test_gradients_stay_outside() -> None:
    runner, _ = watched()
    given = {name: value.requires_grad_() for name, value in tensors().items()}
    made = runner.run_tensors(given)
    assert not made.requires_grad
    assert not made.is_inference()
    with torch.inference_mode():
        frozen = {name: value.clone() for name, value in tensors().items()}
    torch.testing.assert_close(runner.run_tensors(frozen), made)


def test_graphs_give_their_memory_up_before_a_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, net = watched()
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    real, log = net.forward, list[str]()
    runner._graphs._replays["another"] = Recording(log, "another")  # type: ignore[assignment]

    def forward(mel: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        if len(runner._graphs) or log == []:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(mel, source)

    monkeypatch.setattr(net, "forward", forward)
    assert runner.run_tensors(tensors()).shape == (2, 10)
    assert log == ["record another", "close another"]
    log.clear()
    with pytest.raises(torch.OutOfMemoryError):
        runner.run_tensors(tensors())


def test_arrays_and_tensors_give_the_same() -> None:
    net = healthy_small("nsf_hifigan")
    runner = TorchRunner(net, "cpu")
    given = inputs_of_any_length(net, 2, 9)
    by_array = runner.run({name: value.numpy() for name, value in given.items()})
    np.testing.assert_array_equal(by_array, runner.run_tensors(given).numpy())
    assert runner.sibling() is runner


def test_arrays_that_may_not_be_written_are_taken() -> None:
    runner, _ = watched()
    given = {name: np.broadcast_to(value[:, :, :1].numpy(), (2, 3, 10)) for name, value in tensors().items()}
    assert runner.run(given).shape == (2, 10)


def test_tf32_is_off_in_every_run_and_back_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, net = watched()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    both_inside = threading.Barrier(2, timeout=30)
    settings: list[bool] = []
    real = net.forward

    def forward(mel: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        both_inside.wait()
        settings.append(torch.backends.cudnn.allow_tf32)
        if threading.current_thread().name.endswith("_0"):
            both_inside.wait()  # this one stays until the other is gone
        settings.append(torch.backends.cudnn.allow_tf32)
        return real(mel, source)

    monkeypatch.setattr(net, "forward", forward)
    with ThreadPoolExecutor(2, thread_name_prefix="run") as pool:
        runs = [pool.submit(runner.run_tensors, tensors()) for _ in range(2)]
        done = next(run for run in _as_done(runs))
        assert torch.backends.cudnn.allow_tf32 is False, "the other run is still inside"
        both_inside.wait()
        for run in runs:
            run.result()
    assert done in runs
    assert settings == [False] * 4
    assert torch.backends.cudnn.allow_tf32 is True


def _as_done(runs: list[Any]) -> Iterator[Any]:
    from concurrent.futures import as_completed

    return as_completed(runs, timeout=30)


# OpenVINO's requests.


def openvino_runner() -> tuple[OpenVinoRunner, Any]:
    pytest.importorskip("openvino")
    net = healthy_small("hifigan2")
    backend = backends.get("openvino")()
    settings = BuildConfig(
        "openvino", "cpu", Precision("fp32"), (ShapeRange(1, 16, 32),), ShapeRange(1, 1, 2)
    ).for_family(net.family)
    built = backend.build(graph_from_vocoder(net, settings.precision, ()), settings, Quiet())
    runner = backend.open(built.files, "cpu")
    assert isinstance(runner, OpenVinoRunner)
    return runner, net


def test_openvino_runs_in_threads_with_few_requests() -> None:
    runner, net = openvino_runner()
    made = 0
    create = runner._compiled.create_infer_request

    class Counting:
        outputs = runner._compiled.outputs

        def create_infer_request(self) -> Any:
            nonlocal made
            made += 1
            return create()

    runner._compiled = Counting()
    inputs = [{k: v.numpy() for k, v in inputs_of_any_length(net, 1, frames).items()} for frames in range(3, 15)]
    one_by_one = [runner.run(given) for given in inputs]
    assert made == 1, "an idle request is used again"
    copies = [wave.copy() for wave in one_by_one]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(runner.run, inputs * 3))
    for wave, expected in zip(together, one_by_one * 3, strict=True):
        np.testing.assert_array_equal(wave, expected)
    for wave, copy in zip(one_by_one, copies, strict=True):
        np.testing.assert_array_equal(wave, copy)
    assert len(runner._idle) <= MAX_REQUESTS
    assert runner.sibling() is runner


def test_a_request_that_failed_is_not_used_again() -> None:
    runner, net = openvino_runner()
    given = {k: v.numpy() for k, v in inputs_of_any_length(net, 1, 5).items()}
    runner.run(given)
    with pytest.raises(RuntimeError):
        runner.run({name: value[:, :1] for name, value in given.items()})
    assert runner._idle == []
    runner.run(given)
