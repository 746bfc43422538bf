"""What a caller asked for, as a fingerprint that is cheap to take: it leads to a stored engine without torch.

The engine's own key needs the graph, and the graph needs the network. A request is made of what the graph is made
from: the bytes of the checkpoint and of its config, every setting, the versions of all packages that take part, this
package's own code, and the machine. Whatever changes an engine changes its request; a request that is not known
only costs time.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from trt_svc.build_config import BuildConfig
from trt_svc.engine_key import BUILD_REVISION, canonical
from trt_svc.files import config_folder
from trt_svc.optional import is_installed, require

PACKAGES: tuple[str, ...] = (
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
    "torch-tensorrt",
)
_DRIVER = Path("/proc/driver/nvidia")
_CPU_INFO = Path("/proc/cpuinfo")
_WSL_GPU = Path("/dev/dxg")
_CHUNK_BYTES = 1 << 20


def request_of(
    weights: Path,
    config: Path | Mapping[str, Any] | None,
    family: str | None,
    source: str | None,
    settings: BuildConfig,
) -> dict[str, Any] | None:
    """The fingerprint, or None where the machine cannot be described without loading CUDA."""
    surroundings = _surroundings(settings)
    if surroundings is None:
        return None
    return {
        "weights_file": file_sha256(weights),
        "config": file_sha256(config) if isinstance(config, Path) else sha256(canonical(config or {})),
        "family": family,
        "source": source,
        **surroundings,
    }


def request_in_memory(network_sha256: str, settings: BuildConfig) -> dict[str, Any] | None:
    """The fingerprint for a network that no file was read for: its layers and weights, hashed."""
    surroundings = _surroundings(settings)
    return None if surroundings is None else {"network": network_sha256, **surroundings}


def _surroundings(settings: BuildConfig) -> dict[str, Any] | None:
    """Everything but the network itself."""
    machine = machine_marks()
    if machine is None:
        return None
    return {
        "settings": settings.as_dict(),
        "packages": versions(),
        "code": own_code(),
        "build_revision": BUILD_REVISION,
        "machine": machine,
    }


def request_sha256(request: Mapping[str, Any]) -> str:
    """Hash of a request."""
    return sha256(canonical(dict(request)))


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Versions of packages, by default of those that take part in a build, as far as they are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def own_code() -> str:
    """Fingerprint of this package's files, kernels and presets too: who edits them never gets yesterday's engine."""
    root = Path(__file__).parent
    kernels = (root / "native" / "source").iterdir()
    files = sorted([*root.rglob("*.py"), *kernels, *config_folder().rglob("*.json")])
    return sha256(canonical([[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]))


def machine_marks() -> dict[str, Any] | None:
    """Processor, driver and GPUs; None where a GPU may be there that cannot be named without loading CUDA."""
    marks: dict[str, Any] = {
        "os": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "cpu": processor(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    if _DRIVER.is_dir():
        files = [_DRIVER / "version", *sorted(_DRIVER.glob("gpus/*/information"))]
        return {**marks, "gpu": [_text(path) for path in files]}
    without_gpu = platform.system() == "Darwin" or (platform.system() == "Linux" and not _WSL_GPU.exists())
    if without_gpu:
        return {**marks, "gpu": []}
    return {**marks, "gpu": _gpus_by_nvml()} if is_installed("pynvml") else None


def machine_sha256() -> str:
    """Hash of what `machine_marks` says: speed measured elsewhere means nothing here."""
    return sha256(canonical({"marks": machine_marks()}))


def processor() -> list[str]:
    """Model and capabilities: compiled code for a CPU depends on both."""
    if not _CPU_INFO.exists():
        return [platform.processor()]
    first = _text(_CPU_INFO).partition("\n\n")[0]
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return [line for line in first.splitlines() if line.partition("\t")[0].partition(":")[0].strip() in names]


def processor_mark() -> str:
    """The same in few letters: the model's name, or the architecture, and a hash of all."""
    lines = processor()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name} ({sha256(canonical(lines))[:12]})"


def _gpus_by_nvml() -> list[str]:
    nvml = require("pynvml", "GPU details")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return [str(nvml.nvmlSystemGetDriverVersion()), *(str(nvml.nvmlDeviceGetName(h)) for h in handles)]
    finally:
        nvml.nvmlShutdown()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return "unreadable"
