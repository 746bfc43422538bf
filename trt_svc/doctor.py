"""What this machine has and what would help: versions, GPU, and every backend with the reason it cannot run."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata

import trt_svc
from trt_svc.backends.base import backends
from trt_svc.features.f0.base import f0_estimators
from trt_svc.optional import install_line, is_installed, require

PACKAGES = (
    "torch",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "torch-tensorrt",
    "triton",
    "pycuda",
    "cuda-core",
    "soundfile",
    "soxr",
    "safetensors",
    "swift-f0",
    "pyworld",
)


@dataclass(frozen=True)
class Finding:
    """One backend or pitch method."""

    name: str
    usable: bool
    found: str
    advice: str


@dataclass(frozen=True)
class Report:
    trt_svc: str
    python: str
    system: str
    cpu_threads: int
    packages: dict[str, str]
    gpus: list[str]
    gpu_note: str
    backends: list[Finding]
    f0: list[Finding]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def examine_machine() -> Report:
    """Looks at everything and never fails."""
    gpus, note = _gpus()
    found = []
    for name, backend in backends:
        probe = backend().probe()
        found.append(Finding(name, probe.usable, probe.found, probe.advice))
    return Report(
        trt_svc=trt_svc.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu_threads=os.cpu_count() or 1,
        packages=_versions(),
        gpus=gpus,
        gpu_note=note,
        backends=found,
        f0=_pitch_methods(),
    )


def _versions() -> dict[str, str]:
    out = {}
    for package in PACKAGES:
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            out[package] = "not installed"
    return out


def _gpus() -> tuple[list[str], str]:
    """Names with compute capability and memory, by NVML where it is there, else by torch."""
    if is_installed("pynvml"):
        try:
            return _gpus_by_nvml(), ""
        except Exception as err:  # a missing driver has many faces
            return [], f"no NVIDIA driver answers ({err})"
    import torch

    if not torch.cuda.is_available():
        why = "this torch has no CUDA" if torch.version.cuda is None else "torch finds no CUDA GPU"
        return [], f"{why}; for details of the driver: {install_line('pynvml')}"
    names = []
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        names.append(f"{card.name}, sm_{card.major}{card.minor}, {card.total_memory / 2**30:.1f} GiB")
    return names, ""


def _gpus_by_nvml() -> list[str]:
    nvml = require("pynvml", "GPU details")
    nvml.nvmlInit()
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
        names = []
        for i in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(i)
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            name, gib = nvml.nvmlDeviceGetName(handle), 2**30
            free = f"{memory.free / gib:.1f} of {memory.total / gib:.1f} GiB free"
            names.append(f"{name}, sm_{major}{minor}, {free}, driver {driver}")
        return names
    finally:
        nvml.nvmlShutdown()


def _pitch_methods() -> list[Finding]:
    found = []
    for name, method in f0_estimators:
        here = is_installed(method.module)
        found.append(
            Finding(
                name,
                here,
                f"{method.module} is {'here' if here else 'not installed'}",
                "" if here else install_line(method.module),
            )
        )
    return found
