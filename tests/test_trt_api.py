"""The adapter against the real API of TensorRT 10.x, 11.x and RTX: every attribute it names exists.

The bindings of classic TensorRT come without its libraries; small stand-ins that export the entry points and do
nothing make them importable in a process of their own, enough to ask for names.
"""

from __future__ import annotations

import ast
import json
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from trt_svc.backends import tensorrt as runner_module
from trt_svc.backends import trt_api as adapter_module

WHEELS = Path(__file__).parents[1] / ".venv" / "bindings"
"""Filled by `make setup`."""
SOURCES = [Path(str(module.__file__)) for module in (adapter_module, runner_module)]
OURS = {"config": runner_module}
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
    ):
        assert name in used, name
    assert {"IBuilderConfig.set_compute_capability", "Runtime.get_engine_validity"} <= asked


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
}


def test_no_version_is_compared() -> None:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.Compare):
                assert "version" not in ast.unparse(node), ast.unparse(node)
