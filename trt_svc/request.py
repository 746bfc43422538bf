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
from trt_svc.optional import is_installed, require

PACKAGES = (
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
_CHUNK_BYTES = 1 << 20


def request_of(
    weights: Path,
    config: Path | Mapping[str, Any] | None,
    family: str | None,
    source: str | None,
    settings: BuildConfig,
) -> dict[str, Any] | None:
    """The fingerprint, or None where the machine cannot be described without loading CUDA."""
    machine = machine_marks()
    if machine is None:
        return None
    return {
        "weights_file": file_sha256(weights),
        "config": file_sha256(config) if isinstance(config, Path) else sha256(canonical(config)),
        "family": family,
        "source": source,
        "settings": settings.as_dict(),
        "packages": versions(),
        "code": own_code(),
        "build_revision": BUILD_REVISION,
        "machine": machine,
    }


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def versions() -> dict[str, str]:
    """Versions of the packages that take part in a build, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def own_code() -> str:
    """Fingerprint of this package's files, so that somebody who edits it never gets yesterday's engine."""
    root = Path(__file__).parent
    files = sorted(path for path in root.rglob("*.py"))
    return sha256(canonical([[str(p.relative_to(root)), p.stat().st_size, p.stat().st_mtime_ns] for p in files]))


def machine_marks() -> dict[str, Any] | None:
    """Processor, driver and GPUs."""
    marks: dict[str, Any] = {"os": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()}
    if _DRIVER.is_dir():
        files = [_DRIVER / "version", *sorted(_DRIVER.glob("gpus/*/information"))]
        return {**marks, "gpu": [_text(path) for path in files]}
    if platform.system() == "Linux":
        return {**marks, "gpu": []}
    return {**marks, "gpu": _gpus_by_nvml()} if is_installed("pynvml") else None


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
