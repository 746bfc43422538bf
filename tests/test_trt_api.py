"""The adapter against the real API of TensorRT 10.x, 11.x and RTX: every attribute it names exists.

The bindings of classic TensorRT come without its libraries; small stand-ins that export the entry points and do
nothing make them importable in a process of their own, enough to ask for names.

How plans are run is shown against a stand-in of the runtime's objects that computes in the memory of the host, and
against stand-ins of torch's streams and graphs: running a real engine needs a GPU. They show what is called, in which
order, and with which addresses and streams; not that a GPU does what they do.
"""

from __future__ import annotations

import ast
import ctypes
import json
import platform
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_device_memory import HostDriver
from trt_svc.backends import tensorrt as backend_module
from trt_svc.backends import trt_api as adapter_module
from trt_svc.backends import trt_runner as runner_module
from trt_svc.backends.base import TensorRunner
from trt_svc.backends.device_memory import DeviceMemory
from trt_svc.backends.trt_api import PlanOptions, TrtApi, seal, unsealed
from trt_svc.backends.trt_runner import TrtRunner, device_number
from trt_svc.errors import EngineError, OutOfMemory, ShapeRangeError

WHEELS = Path(__file__).parents[1] / ".venv" / "bindings"
"""Filled by `make setup`."""
SOURCES = [Path(str(module.__file__)) for module in (adapter_module, runner_module, backend_module)]
OURS = {"config": backend_module}
"""Where a variable of that name holds something of ours."""
CLASS_OF = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "first": "ParserError",
    "config": "IBuilderConfig",
    "shapes": "IOptimizationProfile",
    "cache": "ITimingCache",
    "kept": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "refitter": "Refitter",
    "refit_parser": "OnnxParserRefitter",
    "flags": "BuilderFlag",
    "network_flags": "NetworkDefinitionCreationFlag",
    "mode": "TensorIOMode",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
}
"""What the adapter's variables hold."""
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getNvOnnxParserVersion",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")


def named_attributes() -> tuple[set[str], set[str]]:
    """Dotted names below the module that the adapter uses, and those among them that it asks for by hasattr."""
    used: set[str] = set()
    asked: set[str] = set()
    for source in SOURCES:
        ours = {name for name, module in OURS.items() if module.__file__ == str(source)}
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                if isinstance(node.value, ast.Name) and node.value.id in ours:
                    continue
                name = dotted(node)
                if name:
                    used.add(name)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
                subject, attribute = node.args
                owner = owner_of(subject)
                if owner is not None and isinstance(attribute, ast.Constant):
                    asked.add(f"{owner}.{attribute.value}".lstrip("."))
    return used, asked


def owner_of(node: ast.expr) -> str | None:
    """The dotted name, below the module, of an expression; None for what has nothing to do with TensorRT."""
    if isinstance(node, ast.Name):
        return "" if node.id == "trt" else CLASS_OF.get(node.id)
    if isinstance(node, ast.Attribute):
        if node.attr == "trt":
            return ""
        if isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr in CLASS_OF:
            return CLASS_OF[node.attr]
        return dotted(node)
    return None


def dotted(node: ast.Attribute) -> str | None:
    if node.attr == "trt":
        return None
    owner = owner_of(node.value)
    return None if owner is None else f"{owner}.{node.attr}".lstrip(".")


PROBE = """
import json, sys, importlib
sys.path.insert(0, sys.argv[1])
trt = importlib.import_module(sys.argv[2])
def has(name):
    found = trt
    for part in name.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True
print(json.dumps({"version": trt.__version__, "has": {name: has(name) for name in json.loads(sys.argv[3])}}))
"""


def ask(folder: Path, module: str, names: list[str]) -> dict[str, bool]:
    command = [sys.executable, "-c", PROBE, str(folder), module, json.dumps(names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])["has"]
    return found


def with_stand_ins(major: int, folder: Path) -> Path:
    """The unpacked bindings of a major version with libraries that only export names."""
    (wheel,) = WHEELS.glob(f"tensorrt_cu*_bindings-{major}.*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    source = folder / "stand_in.c"
    source.write_text("".join(f"void* {name}() {{ return 0; }}\n" for name in ENTRY_POINTS))
    package = folder / "tensorrt_bindings"
    for library in LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(command, check=True, timeout=60)
    loader = f"import ctypes\nfor n in {LIBRARIES!r}:\n    ctypes.CDLL({str(folder)!r} + f'/lib{{n}}.so.{major}', ctypes.RTLD_GLOBAL)\n"
    init = package / "__init__.py"
    init.write_text(loader + init.read_text("utf-8"), "utf-8")
    return folder


def flavours(tmp_path: Path, names: list[str]) -> dict[str, dict[str, bool]]:
    found = {"rtx": ask(tmp_path, "tensorrt_rtx", names)}
    for major in (10, 11):
        folder = tmp_path / str(major)
        folder.mkdir()
        found[str(major)] = ask(with_stand_ins(major, folder), "tensorrt_bindings", names)
    return found


def test_the_source_is_read_right() -> None:
    used, asked = named_attributes()
    for name in (
        "Builder",
        "IBuilderConfig.add_optimization_profile",
        "IOptimizationProfile.set_shape",
        "MemoryPoolType.WORKSPACE",
        "ProfilingVerbosity.DETAILED",
        "Runtime.deserialize_cuda_engine",
        "IExecutionContext.execute_async_v3",
        "ICudaEngine.get_tensor_profile_shape",
        "OnnxParserRefitter.refit_from_bytes",
        "BuilderFlag.STRIP_PLAN",
        "IExecutionContext.set_optimization_profile_async",
        "IExecutionContext.set_device_memory",
        "ICudaEngine.create_execution_context",
        "ICudaEngine.device_memory_size_v2",
        "IRuntimeConfig.set_runtime_cache",
        "IRuntimeCache.deserialize",
        "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
        "ExecutionContextAllocationStrategy.USER_MANAGED",
        "DataType.FLOAT",
    ):
        assert name in used, name
    assert {"IBuilderConfig.set_compute_capability", "Runtime.get_engine_validity", "BuilderFlag.TF32"} <= asked


@pytest.mark.skipif(platform.system() != "Linux" or platform.machine() != "x86_64", reason="the wheels are for Linux")
def test_every_name_the_adapter_uses_exists(tmp_path: Path) -> None:
    assert WHEELS.is_dir(), "run `make setup`, which brings the bindings"
    used, asked = named_attributes()
    names = sorted(used | asked)
    found = flavours(tmp_path, names)
    optional = set(asked) | GUARDED
    for name in names:
        here = {flavour for flavour, has in found.items() if has[name]}
        assert here, f"{name} exists nowhere"
        if name not in optional:
            assert here == {"10", "11", "rtx"}, f"{name} exists in {here} only: ask for it with hasattr"
    assert found["rtx"]["IBuilderConfig.set_compute_capability"]
    assert not found["10"]["IBuilderConfig.set_compute_capability"]


GUARDED = {
    # Used only where the hasattr of the same feature said yes.
    "ComputeCapability",
    "IBuilderConfig.num_compute_capabilities",
    "EngineValidity",
    "EngineValidity.INVALID",
    "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
    "IRuntimeConfig.set_runtime_cache",
    "IRuntimeCache.deserialize",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeCache.serialize",
}


def test_no_version_is_compared() -> None:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.Compare):
                assert "version" not in ast.unparse(node), ast.unparse(node)


def test_float32_is_not_rounded_to_tf32() -> None:
    api = TrtApi.load("tensorrt_rtx")
    config = api.trt.Builder(adapter_module._log_of(api.trt)).create_builder_config()
    assert config.get_flag(api.trt.BuilderFlag.TF32), "what the library does by itself"
    api._set_flags(config, PlanOptions(version_compatible=True))
    assert not config.get_flag(api.trt.BuilderFlag.TF32)
    assert config.get_flag(api.trt.BuilderFlag.VERSION_COMPATIBLE)


def test_a_library_without_tf32_has_nothing_to_clear() -> None:
    trt: Any = ModuleType("tensorrt_of_tomorrow")
    trt.__version__, trt.BuilderFlag = "12.0", SimpleNamespace()
    trt.IBuilderConfig = object
    TrtApi(trt)._set_flags(SimpleNamespace(), PlanOptions())


# How plans are run.

UP = 4
"""Samples per frame of the stand-in's network, which repeats the sum of mel's channels and adds the source."""


class World:
    """What the stand-ins of TensorRT, of torch's streams and of its graphs share."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.contexts: list[FakeContext] = []
        self.graphs: list[FakeGraph] = []
        self.streams: list[FakeStream] = []
        self.recording: FakeGraph | None = None
        self.current = self.stream(77)
        self.refuse = ""

    def stream(self, handle: int) -> FakeStream:
        self.streams.append(FakeStream(self, handle))
        return self.streams[-1]

    def said(self, *words: str) -> list[tuple[Any, ...]]:
        return [line for line in self.log if line[0] in words]


class FakeStream:
    def __init__(self, world: World, handle: int) -> None:
        self.world = world
        self.cuda_stream = handle
        self.device = torch.device("cpu")

    def wait_stream(self, other: FakeStream) -> None:
        self.world.log.append(("wait_stream", self.cuda_stream, other.cuda_stream))


class FakeGraph:
    def __init__(self, world: World) -> None:
        self.world = world
        self.steps: list[Callable[[], None]] = []
        self.gone = False
        world.graphs.append(self)

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        assert self.world.recording is None
        self.world.recording = self

    def capture_end(self) -> None:
        self.world.recording = None
        if self.world.refuse == "capture_end":
            raise RuntimeError("operation failed due to a previous error during capture")

    def replay(self) -> None:
        assert not self.gone
        self.world.log.append(("replay", self.world.current.cuda_stream))
        for step in self.steps:
            step()

    def reset(self) -> None:
        self.gone = True


def array_at(pointer: int, shape: tuple[int, ...]) -> Any:
    size = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(pointer)).reshape(shape)


class FakeContext:
    def __init__(self, world: World, engine: FakeEngine, how: Any = None) -> None:
        self.world, self.engine, self.how = world, engine, how
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None
        self.busy = threading.Lock()
        world.contexts.append(self)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.world.log.append(("profile", index, stream))
        self.shapes = {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        (batch, _, frames), source = self.shapes["mel"], self.shapes["source"]
        return (batch, UP * frames) if source[2] == UP * frames else (batch, -1)

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.addresses[name] = pointer
        return True

    def set_device_memory(self, pointer: int, size: int) -> None:
        self.memory = (pointer, size)

    def execute_async_v3(self, stream: int) -> bool:
        assert self.busy.acquire(blocking=False), "two runs of one context at once"
        try:
            if self.world.refuse == "execute":
                return False
            shapes, addresses = dict(self.shapes), dict(self.addresses)
            if self.world.recording is not None:
                self.world.recording.steps.append(lambda: self.compute(shapes, addresses))
            else:
                self.world.log.append(("execute", stream, addresses))
                self.compute(shapes, addresses)
            return True
        finally:
            self.busy.release()

    @staticmethod
    def compute(shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        mel, source = (array_at(addresses[name], shapes[name]) for name in ("mel", "source"))
        wave = np.repeat(mel.sum(1), UP, axis=1) + source[:, 0]
        array_at(addresses["wave"], wave.shape)[:] = wave


class FakeEngine:
    num_io_tensors = 3
    num_optimization_profiles = 2
    device_memory_size_v2 = 1000
    names = ("mel", "source", "wave")
    frames = ((1, 32), (33, 64))

    def __init__(self, world: World, trt: Any) -> None:
        self.world, self.trt = world, trt

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "out" if name == "wave" else "in"

    def get_tensor_dtype(self, name: str) -> str:
        return "half" if self.world.refuse == "dtype" else "float"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        low, high = self.frames[profile]
        channels, each = (2, 1) if name == "mel" else (1, UP)
        return [(1, channels, low * each), (1, channels, low * each), (3, channels, high * each)]

    def create_execution_context(self, how: Any = None) -> FakeContext | None:
        return None if self.world.refuse == "context" else FakeContext(self.world, self, how)

    def create_runtime_config(self) -> Any:
        world = self.world
        cache = SimpleNamespace(
            serialize=lambda: b"kernels" * len(world.said("execute")),
            deserialize=lambda known: world.log.append(("deserialize", known)) or True,  # type: ignore[func-returns-value]
        )
        config = SimpleNamespace(cuda_graph_strategy="disabled", cache=None, create_runtime_cache=lambda: cache)
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        return config


def fake_trt(world: World, rtx: bool, sharing: bool = True) -> TrtApi:
    """The classes that the adapter asks for attributes, and a runtime that opens anything."""
    trt: Any = ModuleType("a_stand_in_of_rtx" if rtx else "a_stand_in_of_tensorrt")

    class Logger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2)

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine:
            return FakeEngine(world, trt)

    trt.__version__ = "1"
    trt.ILogger, trt.Runtime = Logger, Runtime
    trt.IBuilderConfig = trt.IRuntimeConfig = type("Config", (), {"cuda_graph_strategy": None} if rtx else {})
    trt.IExecutionContext = FakeContext if sharing else object
    trt.ICudaEngine = FakeEngine
    trt.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    trt.DataType = SimpleNamespace(FLOAT="float")
    trt.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    if rtx:
        trt.IRuntimeCache = object
        trt.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")
    return TrtApi(trt)


class HostRunner(TrtRunner):
    """Tensors of the host in place of the device's."""

    @property
    def _torch_device(self) -> torch.device:
        return torch.device("cpu")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = World()

    class FakeEvent:
        def record(self) -> None:
            made.log.append(("record", made.current.cuda_stream))

        def wait(self) -> None:
            made.log.append(("wait", made.current.cuda_stream))

        def synchronize(self) -> None:
            made.log.append(("synchronize",))

    class Using:
        def __init__(self, stream: FakeStream) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            self.before, made.current = made.current, self.stream

        def __exit__(self, *error: object) -> None:
            made.current = self.before

    replacements = {
        "device": lambda device: nullcontext(),
        "Event": FakeEvent,
        "Stream": lambda device=None: made.stream(500 + len(made.streams)),
        "current_stream": lambda: made.current,
        "stream": Using,
        "CUDAGraph": lambda: FakeGraph(made),
        "graph_pool_handle": lambda: (0, 1),
        "is_current_stream_capturing": lambda: made.refuse == "capturing",
        "current_device": lambda: 0,
    }
    for name, replacement in replacements.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path))
    monkeypatch.setattr(adapter_module, "_LOGS", {})
    return made


def runner_for(world: World, rtx: bool = False, max_graphs: int = 8, sharing: bool = True) -> TrtRunner:
    return HostRunner.open(
        fake_trt(world, rtx, sharing),
        b"plan",
        "cuda:3",
        max_graphs=max_graphs,
        new_memory=lambda: DeviceMemory(HostDriver()),
    )


def arrays(frames: int, batch: int = 1, seed: int = 0) -> dict[str, Any]:
    chance = np.random.default_rng(seed)
    shapes = {"source": (batch, 1, UP * frames), "mel": (batch, 2, frames)}
    return {name: chance.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def expected(given: dict[str, Any]) -> Any:
    return np.repeat(given["mel"].sum(1), UP, axis=1) + given["source"][:, 0]


def as_tensors(given: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in given.items()}


def test_arrays_run(world: World) -> None:
    runner = runner_for(world)
    assert isinstance(runner, TensorRunner)
    assert runner.device == "cuda:3"
    for i, (frames, batch) in enumerate([(5, 1), (5, 1), (32, 3), (40, 2), (1, 1), (64, 3)]):
        given = arrays(frames, batch, i)
        np.testing.assert_array_equal(runner.run(given), expected(given))
    assert {line[1] for line in world.said("execute")} == {7}, "on the stream that the memory belongs to"
    assert world.graphs == []


def test_the_profile_is_chosen_only_when_it_changes(world: World) -> None:
    runner = runner_for(world)
    for frames in (5, 6, 40, 41, 40, 7, 8):
        runner.run(arrays(frames))
    assert world.said("profile") == [("profile", 1, 7), ("profile", 0, 7)]


@pytest.mark.parametrize(("frames", "batch"), [(65, 1), (5, 4), (0, 1)])
def test_shapes_outside_every_profile_are_refused(frames: int, batch: int, world: World) -> None:
    runner = runner_for(world)
    with pytest.raises(ShapeRangeError, match="no profile covers"):
        runner.run(arrays(frames, batch))
    for _ in range(3):
        with pytest.raises(ShapeRangeError, match="no profile covers"):
            runner.run_tensors(as_tensors(arrays(frames, batch)))
    runner.run(arrays(5))


def test_inputs_of_different_lengths_are_refused(world: World) -> None:
    given = arrays(5) | {"source": arrays(6)["source"]}
    with pytest.raises(ShapeRangeError, match="do not belong together"):
        runner_for(world).run(given)


def test_failures_of_the_runtime_are_typed(world: World) -> None:
    runner = runner_for(world)
    world.refuse = "execute"
    with pytest.raises(EngineError, match="running an engine"):
        runner.run(arrays(5))
    adapter_module._log_of(runner._opened.api.trt).errors.append("Requested amount of GPU memory: out of memory")
    with pytest.raises(OutOfMemory):
        runner.run_tensors(as_tensors(arrays(5)))
    world.refuse = ""
    np.testing.assert_array_equal(runner.run(arrays(5)), expected(arrays(5)))
    for what in ("context", "dtype"):
        world.refuse = what
        with pytest.raises((EngineError, OutOfMemory)):
            runner_for(world)


def test_memory_of_a_failed_run_is_used_again(world: World) -> None:
    runner = runner_for(world)
    runner.run(arrays(5))
    driver: Any = runner._memory.driver
    made, world.refuse = driver.made, "execute"
    for _ in range(20):
        with pytest.raises(EngineError):
            runner.run(arrays(5))
    assert driver.made <= made + 16, "staging waits in flight at most"


@pytest.mark.parametrize("device", ["cpu", "cuda:x", "cuda:-1", "mps", ""])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(EngineError, match="GPUs only"):
        device_number(device)


def test_siblings_run_at_the_same_time(world: World) -> None:
    first = runner_for(world)
    runners = [first, first.sibling(), first.sibling().sibling()]
    assert len({id(runner._bound._context) for runner in runners}) == 3
    assert len({id(runner._memory) for runner in runners}) == 3
    assert len({id(runner._opened) for runner in runners}) == 1
    given = [arrays(1 + i % 60, 1 + i % 3, i) for i in range(120)]
    with ThreadPoolExecutor(8) as pool:
        waves = list(pool.map(lambda i: runners[i % 3].run(given[i]), range(len(given))))
    for wave, one in zip(waves, given, strict=True):
        np.testing.assert_array_equal(wave, expected(one))


# Tensors.


def test_tensors_run_in_place_on_the_callers_stream(world: World) -> None:
    runner = runner_for(world)
    given = as_tensors(arrays(5, 2))
    wave = runner.run_tensors(given)
    np.testing.assert_allclose(wave.numpy(), expected(arrays(5, 2)))
    ((_, stream, addresses),) = world.said("execute")
    assert stream == 77
    assert addresses == {**{name: value.data_ptr() for name, value in given.items()}, "wave": wave.data_ptr()}
    assert not world.said("synchronize"), "nobody waits"


@pytest.mark.parametrize("form", ["half", "strided", "gradient"])
def test_other_tensors_are_converted_first(form: str, world: World) -> None:
    runner = runner_for(world)
    given = as_tensors(arrays(5, 2))
    forms: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "half": lambda t: t.half(),
        "strided": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
        "gradient": lambda t: t.clone().requires_grad_(),
    }
    changed = {name: forms[form](value) for name, value in given.items()}
    wave = runner.run_tensors(changed)
    assert not wave.requires_grad
    plain = {name: value.detach().float().numpy() for name, value in changed.items()}
    np.testing.assert_allclose(wave.numpy(), expected(plain), rtol=1e-6)


def test_the_default_stream_is_left_for_a_run(world: World) -> None:
    runner = runner_for(world)
    world.current = world.stream(0)
    runner.run_tensors(as_tensors(arrays(40)))
    lines = [line[:3] if line[0] != "execute" else line[:2] for line in world.log]
    side = world.streams[-1].cuda_stream
    assert side
    assert lines == [
        ("wait_stream", side, 0),
        ("profile", 1, side),
        ("execute", side),
        ("wait_stream", 0, side),
        ("record", 0),
    ]


def test_runs_on_several_streams_come_one_after_another(world: World) -> None:
    runner = runner_for(world, max_graphs=0)
    for handle in (77, 78, 77):
        world.current = world.stream(handle)
        runner.run_tensors(as_tensors(arrays(handle - 60)))
    order = [line[:2] for line in world.log]
    assert order == [
        ("execute", 77),
        ("record", 77),
        ("wait", 78),
        ("execute", 78),
        ("record", 78),
        ("wait", 77),
        ("execute", 77),
        ("record", 77),
    ]
    runner.run(arrays(5))
    assert ("synchronize",) in world.log, "memory of another package: the host waits for the tensors' stream"


def test_inside_the_callers_own_recording_nothing_else_is_touched(world: World) -> None:
    runner = runner_for(world)
    world.refuse = "capturing"
    for _ in range(4):
        runner.run_tensors(as_tensors(arrays(5)))
    assert {line[0] for line in world.log} == {"execute"}
    assert world.graphs == []


# Graphs.


def test_a_shape_that_comes_again_is_recorded(world: World) -> None:
    runner = runner_for(world)
    waves = []
    for i in range(6):
        given = arrays(5, 2, i)
        waves.append((runner.run_tensors(as_tensors(given)), expected(given)))
    for wave, right in waves:
        np.testing.assert_allclose(wave.numpy(), right)
    assert len(world.graphs) == 1
    assert len(world.said("execute")) == 1 + 2, "plainly once, and to warm up before recording"
    assert {line[1] for line in world.said("execute")[1:]} != {77}, "recorded on a stream of its own"
    assert [line[1] for line in world.said("replay")][1:] == [77] * 5


def test_every_recording_has_a_context_of_its_own_in_shared_memory(world: World) -> None:
    runner = runner_for(world)
    for frames in (5, 40, 5, 40, 5, 40):
        given = arrays(frames, 1, frames)
        np.testing.assert_allclose(runner.run_tensors(as_tensors(given)).numpy(), expected(given))
    main, *others = world.contexts
    assert (main.how, main.memory) == (None, None)
    assert [context.how for context in others] == ["user managed"] * 2
    assert len({context.memory for context in others}) == 1
    assert others[0].memory is not None
    assert others[0].memory[1] == FakeEngine.device_memory_size_v2


def test_recordings_are_bounded_and_closed(world: World) -> None:
    runner = runner_for(world, max_graphs=2)
    for frames in (5, 6, 7):
        for _ in range(3):
            runner.run_tensors(as_tensors(arrays(frames)))
    assert [graph.gone for graph in world.graphs] == [True, False, False]
    runner.close()
    assert all(graph.gone for graph in world.graphs)


@pytest.mark.parametrize("why", ["capture_end", "wrong", "off", "old"])
def test_a_run_never_fails_because_of_recording(why: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "wrong":
        monkeypatch.setattr(FakeGraph, "replay", lambda self: None)
    runner = runner_for(world, max_graphs=0 if why == "off" else 8, sharing=why != "old")
    world.refuse = why
    for i in range(5):
        given = arrays(5, 1, i)
        np.testing.assert_allclose(runner.run_tensors(as_tensors(given)).numpy(), expected(given))
    assert len(world.graphs) == (1 if why in ("capture_end", "wrong") else 0)
    assert world.current.cuda_stream == 77, "back on the caller's stream"


# TensorRT-RTX.


def test_rtx_records_by_itself_at_fixed_addresses(world: World) -> None:
    runner = runner_for(world, rtx=True)
    (context,) = world.contexts
    assert context.how.cuda_graph_strategy == "whole graph"
    for i in range(5):
        given = arrays(5, 2, i)
        np.testing.assert_allclose(runner.run_tensors(as_tensors(given)).numpy(), expected(given))
    first, *again = [line[2] for line in world.said("execute")]
    assert first != again[0]
    assert all(a == b for a, b in pairwise(again))
    assert world.graphs == []


def test_rtx_without_graphs_reads_tensors_in_place(world: World) -> None:
    runner = runner_for(world, rtx=True, max_graphs=0)
    assert world.contexts[0].how.cuda_graph_strategy == "disabled"
    for i in range(4):
        given = as_tensors(arrays(5, 2, i))
        runner.run_tensors(given)
        assert world.said("execute")[-1][2]["mel"] == given["mel"].data_ptr()


def kernel_files(folder: Path) -> Iterator[Path]:
    return folder.glob("runtime/*.cache")


def test_rtx_keeps_finished_kernels(world: World, tmp_path: Path) -> None:
    runner = runner_for(world, rtx=True)
    assert not world.said("deserialize")
    runner.run(arrays(5))
    (file,) = kernel_files(tmp_path)
    assert unsealed(file) == b"kernels"
    runner.run(arrays(6))
    sibling = runner.sibling()
    caches = {id(context.how.cache) for context in world.contexts}
    assert len(caches) == 1, "siblings share what was finished"
    del runner, sibling
    assert unsealed(file) == b"kernels" * 2, "the rest is kept when the engine goes"
    runner_for(world, rtx=True)
    assert world.said("deserialize") == [("deserialize", b"kernels" * 2)]


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty", "folder"])
def test_damaged_kernels_count_as_none(damage: str, world: World, tmp_path: Path) -> None:
    runner_for(world, rtx=True).run(arrays(5))
    (file,) = kernel_files(tmp_path)
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"cut": file.read_bytes()[:-3], "foreign": b"x" * 100, "empty": b""}[damage])
    again = runner_for(world, rtx=True)
    assert not world.said("deserialize")
    np.testing.assert_array_equal(again.run(arrays(5)), expected(arrays(5)))


def test_classic_tensorrt_writes_no_kernels(world: World, tmp_path: Path) -> None:
    runner_for(world).run(arrays(5))
    assert not list(kernel_files(tmp_path))


def test_a_seal_finds_every_change(tmp_path: Path) -> None:
    file = tmp_path / "some" / "cache"
    seal(file, b"timings")
    assert unsealed(file) == b"timings"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert unsealed(file) == b""
